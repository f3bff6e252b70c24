use super::*;

fn join(room: &str) -> String {
    format!(r#"{{"type":"room:join","ref":1,"payload":{{"room":"{room}"}}}}"#)
}

fn leave(room: &str) -> String {
    format!(r#"{{"type":"room:leave","ref":2,"payload":{{"room":"{room}"}}}}"#)
}

fn error(slot: u32, code: &str, done: &[String]) {
    let expected = format!(r#"send {slot} {{"type":"system:error""#);
    assert_eq!(done.len(), 1, "{done:?}");
    assert!(done[0].starts_with(&expected) && done[0].contains(code), "{done:?}");
}

const LEFT: &str = r#"send 0 {"type":"room:left","ref":2,"payload":{"room":"event:1"}}"#;

fn joined(offset: u64) -> String {
    let id = id(offset);
    format!(r#"send 0 {{"type":"room:joined","ref":1,"payload":{{"room":"event:1","id":"{id}"}}}}"#)
}

#[test]
fn a_room_is_joined_when_the_relay_has_answered() {
    let mut bed = bed();
    bed.open(0, 0);
    assert_eq!(bed.say(0, &join("event:1")), ["join 1 event:1"]);
    assert_eq!(bed.publish("event:1", 1, "early"), ["handed over 1 to 0"]);
    assert_eq!(bed.joined(1, 1), [joined(1)]);
    assert_eq!(bed.publish("event:1", 2, "live"), ["deliver 0 live"]);
    assert_eq!(bed.walk(0, 10), [0]);
    assert_eq!(bed.delivered(0, 1), ["handed over 2 to 1"]);
    let mut rooms = Vec::new();
    bed.shard.rooms(&mut |name, members| rooms.push((name.as_str().to_owned(), members)));
    assert_eq!(rooms, [("all".to_owned(), 1), ("event:1".to_owned(), 1)]);
}

#[test]
fn a_joined_room_is_answered_again_with_its_present_position() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.join(0, "event:1", 1);
    bed.publish("event:1", 1, "one");
    // The walk has not met the connection yet.
    assert_eq!(bed.say(0, &join("event:1")), [joined(0)]);
    bed.walk(0, 10);
    assert_eq!(bed.say(0, &join("event:1")), [joined(1)]);
    bed.delivered(0, 1);
    for (offset, recovered) in [(0, false), (1, true), (2, false)] {
        let since = id(offset);
        let text =
            format!(r#"{{"type":"room:join","payload":{{"room":"event:1","since":"{since}"}}}}"#);
        assert!(bed.say(0, &text)[0].contains(&format!(r#""recovered":{recovered}"#)));
    }
}

#[test]
fn a_room_is_left_at_once_and_leaving_twice_is_no_error() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.join(0, "event:1", 1);
    assert_eq!(bed.say(0, &leave("event:1")), ["vacated event:1", LEFT]);
    assert_eq!(bed.say(0, &leave("event:1")), [LEFT]);
    assert_eq!(bed.publish("event:1", 1, "late"), ["handed over 1 to 0"]);
}

#[test]
fn requests_for_one_room_are_answered_in_order() {
    let mut bed = bed();
    bed.open(0, 0);
    assert_eq!(bed.say(0, &join("event:1")), ["join 1 event:1"]);
    assert_eq!(bed.say(0, &leave("event:1")), [""; 0]);
    assert_eq!(bed.say(0, &join("event:1")), [""; 0]);
    assert_eq!(bed.say(0, &leave("event:1")), [""; 0]);
    assert_eq!(bed.say(0, &join("event:2")), ["join 2 event:2"]);
    assert_eq!(bed.joined(1, 4), [&joined(4), "vacated event:1", LEFT, "join 3 event:1"]);
    assert_eq!(bed.joined(3, 5), [&joined(5), "vacated event:1", LEFT]);
}

#[test]
fn what_waits_for_a_failed_join_is_carried_out() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.say(0, &join("event:1"));
    bed.say(0, &leave("event:1"));
    let done = bed.failed(1);
    assert_eq!(done[0], "vacated event:1");
    error(0, "UNAVAILABLE", &done[1..2]);
    assert_eq!(done[2..], [LEFT]);
}

#[test]
fn a_join_that_is_not_answered_in_time_is_unavailable() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.say(0, &join("event:1"));
    assert_eq!(bed.shard.next_deadline().map(|(_, reason)| reason), Some(Reason::Join));
    let done = bed.pass(5);
    assert_eq!(done[0], "5 vacated event:1");
    assert!(done[1].contains("UNAVAILABLE") && done[1].contains(r#""ref":1"#));
    assert_eq!(bed.joined(1, 4), [""; 0]);
    assert_eq!(bed.publish("event:1", 5, "x"), ["handed over 5 to 0"]);
}

#[test]
fn the_interest_in_a_stream_ends_with_its_last_member_or_join() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.open(1, 1);
    bed.say(0, &join("event:1"));
    bed.say(1, &join("event:1"));
    assert_eq!(bed.step(Input::Closed { conn: conn(0) }), [""; 0]);
    assert_eq!(bed.joined(2, 4), [""; 0]);
    assert_eq!(bed.joined(3, 4).len(), 1);
    let closed = bed.step(Input::Closed { conn: conn(1) });
    assert_eq!(closed, ["vacated event:1", "vacated all"]);
}

#[test]
fn only_open_rooms_and_granted_ones_can_be_joined() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.open_as(1, identity("ann", &["vip:*"], None), 1);
    for room in ["all", "user:ann", "vip:1", "staff"] {
        error(0, "FORBIDDEN", &bed.say(0, &join(room)));
    }
    for room in ["all", "user:bob", "staff"] {
        error(1, "FORBIDDEN", &bed.say(1, &join(room)));
    }
    assert_eq!(bed.say(1, &join("vip:1")), ["join 3 vip:1"]);
    let own = format!(
        r#"send 1 {{"type":"room:joined","ref":1,"payload":{{"room":"user:ann","id":"{}"}}}}"#,
        id(0)
    );
    assert_eq!(bed.say(1, &join("user:ann")), [own]);
}

#[test]
fn all_and_the_own_stream_are_not_left() {
    let mut bed = bed();
    bed.open_as(0, identity("ann", &[], None), 0);
    error(0, "FORBIDDEN", &bed.say(0, &leave("all")));
    error(0, "FORBIDDEN", &bed.say(0, &leave("user:ann")));
    assert_eq!(bed.say(0, &leave("user:bob")).len(), 1);
    assert_eq!(bed.publish("user:ann", 1, "x"), ["deliver 0 x"]);
}

#[test]
fn the_limit_of_rooms_counts_parked_joins() {
    let mut bed = bed();
    bed.open_as(0, identity("ann", &[], None), 0);
    bed.join(0, "event:1", 2);
    bed.say(0, &join("event:2"));
    bed.say(0, &join("event:3"));
    error(0, "TOO_MANY_ROOMS", &bed.say(0, &join("event:4")));
    bed.joined(3, 0);
    error(0, "TOO_MANY_ROOMS", &bed.say(0, &join("event:4")));
    assert_eq!(bed.say(0, &join("event:1")).len(), 1);
    bed.say(0, &leave("event:1"));
    assert_eq!(bed.say(0, &join("event:4")), ["join 5 event:4"]);
}

#[test]
fn subscribing_to_oneself_is_a_no_op_and_to_others_forbidden() {
    let mut bed = bed();
    bed.open_as(0, identity("ann", &[], None), 0);
    bed.open(1, 2);
    let subscribe = r#"{"type":"user:subscribe","payload":{"user_id":"ann"}}"#;
    assert_eq!(bed.say(0, subscribe), [""; 0]);
    error(1, "FORBIDDEN", &bed.say(1, subscribe));
    error(0, "FORBIDDEN", &bed.say(0, &subscribe.replace("ann", "bob")));
}

#[test]
fn a_ping_is_answered_with_the_wall_clock() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.pass(3);
    assert_eq!(
        bed.say(0, r#"{"type":"system:ping","ref":"a"}"#),
        [r#"send 0 {"type":"system:pong","ref":"a","payload":{"server_time":1003}}"#]
    );
    assert_eq!(bed.shard.stats().received[Kind::SystemPing.index()], 1);
    assert_eq!(bed.shard.stats().sent[Kind::SystemPong.index()], 1);
}

#[test]
fn too_many_errors_in_a_row_close_the_connection() {
    let mut bed = bed_with(|limits| limits.errors_max = 3);
    bed.open(0, 0);
    error(0, "PARSE_ERROR", &bed.say(0, "{"));
    error(0, "PARSE_ERROR", &bed.say(0, "{"));
    bed.say(0, r#"{"type":"system:ping"}"#);
    error(0, "UNKNOWN_TYPE", &bed.say(0, r#"{"type":"what"}"#));
    error(0, "PARSE_ERROR", &bed.say(0, "{"));
    let last = bed.say(0, "{");
    assert_eq!(last[1..], ["close 0 Policy", "vacated all"]);
    assert_eq!(bed.say(0, "{"), [""; 0]);
    assert_eq!(bed.shard.stats().errors[crate::wire::ErrorCode::ParseError.index()], 4);
}

#[test]
fn a_broker_that_is_away_is_no_mistake_of_the_client() {
    let mut bed = bed_with(|limits| limits.errors_max = 1);
    bed.open(0, 0);
    bed.say(0, &join("event:1"));
    assert_eq!(bed.failed(1).len(), 2);
    assert_eq!(bed.say(0, r#"{"type":"system:ping"}"#).len(), 1);
}

#[test]
fn messages_over_the_rate_are_ignored_and_later_close_the_connection() {
    let mut bed = bed_with(|limits| {
        limits.messages_per_second_max = 2;
        limits.message_burst_max = 4;
    });
    bed.open(0, 0);
    let ping = r#"{"type":"system:ping","ref":1}"#;
    for _ in 0..4 {
        assert!(bed.say(0, ping)[0].contains("pong"));
    }
    error(0, "RATE_LIMITED", &bed.say(0, ping));
    for second in 1..10 {
        bed.pass(1);
        assert!(bed.say(0, ping)[0].contains("pong"), "{second}");
        assert!(bed.say(0, ping)[0].contains("pong"), "{second}");
        error(0, "RATE_LIMITED", &bed.say(0, ping));
    }
    bed.pass(1);
    bed.say(0, ping);
    bed.say(0, ping);
    assert_eq!(bed.say(0, ping), ["close 0 TooManyMessages", "vacated all"]);
}

#[test]
fn a_pause_relieves_the_rate() {
    let mut bed = bed_with(|limits| {
        limits.messages_per_second_max = 2;
        limits.message_burst_max = 4;
    });
    bed.open(0, 0);
    let ping = r#"{"type":"system:ping"}"#;
    let flood = |bed: &mut Bed| (0..5).map(|_| bed.say(0, ping)).last().unwrap();
    error(0, "RATE_LIMITED", &flood(&mut bed));
    bed.pass(9);
    bed.say(0, ping);
    bed.pass(9);
    error(0, "RATE_LIMITED", &flood(&mut bed));
}

#[test]
fn a_peer_that_breaks_the_protocol_is_closed() {
    let mut bed = bed();
    bed.open(0, 0);
    let input = Input::Misbehaved { conn: conn(0), code: CloseCode::TooBig };
    assert_eq!(bed.step(input), ["close 0 TooBig", "vacated all"]);
    let input = Input::Misbehaved { conn: conn(0), code: CloseCode::Unsupported };
    assert_eq!(bed.step(input), [""; 0]);
    assert_eq!(bed.shard.stats().closes[5], 1);
}

#[test]
fn more_requests_than_may_wait_for_a_join_close_the_connection() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.say(0, &join("event:1"));
    for _ in 0..3 {
        assert_eq!(bed.say(0, &leave("event:1")), [""; 0]);
    }
    let closed = ["close 0 TooManyMessages", "vacated event:1", "vacated all"];
    assert_eq!(bed.say(0, &leave("event:1")), closed);
}
