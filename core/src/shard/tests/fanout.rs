use super::*;

fn leave(bed: &mut Bed, slot: u32) {
    bed.say(slot, r#"{"type":"room:leave","payload":{"room":"event:1"}}"#);
}

/// Five anonymous members of `event:1`.
fn five() -> Bed {
    let mut bed = bed();
    for slot in 0..5 {
        bed.open(slot, u64::from(slot) * 2);
        bed.join(slot, "event:1", u64::from(slot) * 2 + 1);
    }
    bed
}

#[test]
fn a_fan_out_meets_every_member_once() {
    let mut bed = five();
    assert_eq!(bed.publish("event:1", 1, "a"), ["deliver 0 a"]);
    assert_eq!(bed.walk(0, 2), [0, 1]);
    assert_eq!(bed.walk(0, 10), [2, 3, 4]);
    assert_eq!(bed.walk(0, 10), [0; 0]);
    assert_eq!(bed.delivered(0, 4), ["handed over 1 to 4"]);
    assert_eq!(bed.shard.stats().sent[Kind::TicketReleased.index()], 4);
}

#[test]
fn nobody_is_skipped_when_members_leave_during_a_fan_out() {
    let mut bed = five();
    bed.publish("event:1", 1, "a");
    assert_eq!(bed.walk(0, 2), [0, 1]);
    leave(&mut bed, 0);
    leave(&mut bed, 2);
    let mut rest = bed.walk(0, 10);
    rest.sort_unstable();
    assert_eq!(rest, [3, 4]);
}

#[test]
fn a_join_that_is_answered_during_a_fan_out_takes_its_turn() {
    let mut bed = five();
    bed.open(5, 10);
    bed.say(5, r#"{"type":"room:join","payload":{"room":"event:1"}}"#);
    bed.publish("event:1", 1, "a");
    bed.publish("event:1", 2, "b");
    assert_eq!(bed.joined(11, 2), [""; 0]);
    bed.publish("event:1", 3, "c");
    bed.walk(0, 10);
    assert_eq!(bed.delivered(0, 5), ["handed over 1 to 5", "deliver 0 b"]);
    bed.walk(0, 10);
    let done = bed.delivered(0, 5);
    assert_eq!(done[0], "handed over 2 to 5");
    assert!(done[1].contains("room:joined") && done[1].contains(&id(2)));
    assert_eq!(done[2..], ["deliver 0 c"]);
    assert_eq!(bed.walk(0, 10), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_join_whose_connection_goes_in_its_turn_is_forgotten() {
    let mut bed = five();
    bed.open(5, 10);
    bed.say(5, r#"{"type":"room:join","payload":{"room":"event:1"}}"#);
    bed.publish("event:1", 1, "a");
    bed.joined(11, 1);
    bed.step(Input::Closed { conn: conn(5) });
    bed.walk(0, 10);
    assert_eq!(bed.delivered(0, 5), ["handed over 1 to 5"]);
    assert_eq!(bed.reached, ["an answer to a join that was given up in its turn"]);
}

#[test]
fn adjacent_publications_are_coalesced_up_to_the_limit() {
    let mut bed = five();
    bed.publish("event:1", 1, "a");
    for (offset, text) in [(2, "bbb"), (3, "cccc"), (4, "dd"), (5, "e")] {
        assert_eq!(bed.publish("event:1", offset, text), [""; 0]);
    }
    bed.walk(0, 10);
    assert_eq!(bed.delivered(0, 5), ["handed over 1 to 5", "deliver 0 bbbcccc"]);
    bed.walk(0, 10);
    assert_eq!(bed.delivered(0, 3), ["handed over 2 to 3", "handed over 3 to 3", "deliver 0 dde"]);
    bed.walk(0, 10);
    assert_eq!(bed.delivered(0, 5), ["handed over 4 to 5", "handed over 5 to 5"]);
    assert_eq!(bed.shard.stats().sent[Kind::TicketReleased.index()], 5 + 2 * 3 + 2 * 5);
}

#[test]
fn publications_that_exclude_somebody_are_not_coalesced() {
    let mut bed = bed();
    bed.open_as(0, identity("ann", &[], None), 0);
    bed.open_as(1, identity("bob", &[], None), 2);
    let excluding = |offset, user: &str| Publication {
        exclude_user: Some(user.into()),
        ..publication("all", offset, "x")
    };
    assert_eq!(bed.publish_this(excluding(1, "ann")), ["deliver 0 x"]);
    bed.publish_this(excluding(2, "nobody"));
    bed.publish("all", 3, "y");
    bed.publish_this(excluding(4, "bob"));
    assert_eq!(bed.walk(0, 10), [1]);
    assert_eq!(bed.delivered(0, 1), ["handed over 1 to 1", "deliver 0 x"]);
    assert_eq!(bed.walk(0, 10), [0, 1]);
    assert_eq!(bed.delivered(0, 2), ["handed over 2 to 2", "deliver 0 y"]);
    assert_eq!(bed.walk(0, 10), [0, 1]);
    assert_eq!(bed.delivered(0, 2), ["handed over 3 to 2", "deliver 0 x"]);
    assert_eq!(bed.walk(0, 10), [0]);
}

#[test]
fn fan_outs_of_different_streams_run_at_once() {
    let mut bed = five();
    assert_eq!(bed.publish("event:1", 1, "a"), ["deliver 0 a"]);
    assert_eq!(bed.publish("all", 2, "b"), ["deliver 1 b"]);
    assert_eq!(bed.walk(1, 10).len(), 5);
    assert_eq!(bed.delivered(1, 5), ["handed over 2 to 5"]);
    assert_eq!(bed.walk(0, 10).len(), 5);
}

#[test]
fn a_stream_that_empties_during_a_fan_out_is_forgotten_after_it() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.join(0, "event:1", 1);
    bed.publish("event:1", 1, "a");
    bed.publish("event:1", 2, "b");
    let left = bed.say(0, r#"{"type":"room:leave","payload":{"room":"event:1"}}"#);
    assert_eq!(left[0], "vacated event:1");
    assert_eq!(bed.walk(0, 10), [0; 0]);
    assert_eq!(bed.delivered(0, 0), ["handed over 1 to 0", "handed over 2 to 0"]);
    bed.join(0, "event:1", 2);
    assert_eq!(bed.publish("event:1", 3, "c"), ["deliver 0 c"]);
}

#[test]
fn missed_messages_are_told_to_every_member_in_turn() {
    let mut bed = bed();
    for slot in 0..2 {
        bed.open(slot, u64::from(slot) * 2);
        bed.join(slot, "event:1", u64::from(slot) * 2 + 1);
    }
    bed.publish("event:1", 1, "a");
    let stream = StreamName::room("event:1").unwrap();
    let resync = ToShard::Resync { stream, by_all: true, position: position(9), spread_ms: 20_000 };
    assert_eq!(bed.relayed(resync), [""; 0]);
    bed.publish("event:1", 10, "b");
    bed.walk(0, 10);
    let done = bed.delivered(0, 2);
    assert_eq!(done.len(), 4);
    for (done, slot) in done[1..3].iter().zip(0..) {
        let expected = format!(
            r#"{{"type":"system:resync","payload":{{"room":"event:1","id":"{}","after_ms":"#,
            id(9)
        );
        assert!(done.starts_with(&format!("send {slot} {expected}")), "{done}");
    }
    assert_eq!(done[3], "deliver 0 b");
    assert_eq!(bed.shard.stats().resyncs, 2);
}

#[test]
fn without_positions_nothing_has_an_id() {
    let mut bed = bed();
    bed.arrive(0, Handshake::default());
    let joined = ToShard::Joined {
        request: RequestId(0),
        position: None,
        recovered: false,
        suffix: Suffix::default(),
    };
    assert!(bed.relayed(joined)[0].contains(r#""all":{"id":null}"#));
    let without = Publication { position: None, ..publication("all", 1, "x") };
    assert_eq!(bed.publish_this(without), ["deliver 0 x"]);
    assert_eq!(bed.walk(0, 10), [0]);
}
