use super::*;

#[test]
fn entries_that_follow_one_another_are_forwarded() {
    let mut relay = live();
    step(&mut relay, 0, join(2, 1, ROOM));
    assert_eq!(step(&mut relay, 0, came(6)), ["0: 0 at 6", "2: 0 at 6"]);
    assert_eq!(step(&mut relay, 0, came(7)), ["0: 1 at 7", "2: 1 at 7"]);
    assert_eq!(relay.stats().received_room, 2);
}

#[test]
fn a_publication_says_all_that_its_receivers_need() {
    let mut relay = live();
    let body = Body { exclude_user: Some("u1".into()), ack: true, ..body() };
    let place = Place::Durable { position: position(6), prev: position(5).mid };
    let bytes = Entry { place, body: body.clone() }.encode();
    let channel = Channel::Stream(name(ROOM));
    let mut actions = Vec::new();
    let input = Input::Received { generation: Generation(1), channel, bytes };
    relay.handle(Instant(0), input, &mut actions);
    let expected = crate::link::Publication {
        dispatch: DispatchId(0),
        stream: name(ROOM),
        frame: crate::wire::encode::publication(&name(ROOM), &body, Some(position(6))),
        kind: "ticket:reserved".into(),
        exclude_user: Some("u1".into()),
        acks_to: Some(BootId(1)),
        position: Some(position(6)),
        published: Some(UnixMillis(1)),
        value_of: None,
    };
    let message = ToShard::Publication(expected.into());
    assert_eq!(actions, [Action::ToShard { worker: WorkerId(0), message }]);
}

#[test]
fn what_arrives_while_the_head_is_read_follows_the_answer() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    for offset in 4..=7 {
        assert_eq!(step(&mut relay, 0, came(offset)), [""; 0]);
    }
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["0: joined 1 at 5", "0: 0 at 6", "0: 1 at 7"]);
    assert_eq!(step(&mut relay, 0, came(8)), ["0: 2 at 8"]);
}

#[test]
fn an_entry_that_comes_twice_is_forwarded_once() {
    let mut relay = live();
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, came(7));
    assert_eq!(step(&mut relay, 0, came(7)), [""; 0]);
    assert_eq!(step(&mut relay, 0, came(6)), [""; 0]);
    assert_eq!(step(&mut relay, 0, came(5)), [""; 0]);
    assert_eq!(relay.stats().duplicates, 3);
    assert_eq!(step(&mut relay, 0, came(8)), ["0: 2 at 8"]);
}

#[test]
fn an_entry_that_comes_twice_while_the_head_is_read_is_forwarded_once() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    for offset in [6, 7, 6, 7] {
        step(&mut relay, 0, came(offset));
    }
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["0: joined 1 at 5", "0: 0 at 6", "0: 1 at 7"]);
    assert_eq!(relay.stats().duplicates, 2);
}

#[test]
fn members_are_told_of_a_gap_before_anything_that_follows_it() {
    let mut relay = live();
    step(&mut relay, 0, join(1, 1, ROOM));
    assert_eq!(
        step(&mut relay, 0, came(7)),
        ["reach relay_order_suspect", "read 1 of event:1 after 5"]
    );
    assert_eq!(step(&mut relay, 0, came(8)), [""; 0]);
    assert_eq!(
        step(&mut relay, 0, head(1, 7)),
        ["0: resync event:1 at 7", "1: resync event:1 at 7", "0: 0 at 8", "1: 0 at 8"]
    );
    assert_eq!((relay.stats().gaps, relay.stats().resyncs), (1, 2));
}

#[test]
fn a_publication_of_another_history_is_a_gap() {
    let mut relay = live();
    let other = Position { mid: Mid(1), ..position(6) };
    let place = Place::Durable { position: other, prev: Mid(2) };
    step(&mut relay, 0, received(1, ROOM, place));
    assert_eq!(step(&mut relay, 0, head_at(1, Some(other))), ["0: resync event:1 at 6"]);
}

#[test]
fn a_new_epoch_is_a_gap() {
    let mut relay = live();
    let first = Position { epoch: Epoch(2), offset: 1, mid: Mid(1) };
    let place = Place::Durable { position: first, prev: Mid(0) };
    step(&mut relay, 0, received(1, ROOM, place));
    assert_eq!(step(&mut relay, 0, head_at(1, Some(first))), ["0: resync event:1 at 2/1"]);
}

#[test]
fn a_stream_that_was_set_back_is_resynced() {
    let mut relay = live();
    let other = Position { mid: Mid(1), ..position(3) };
    let place = Place::Durable { position: other, prev: position(2).mid };
    step(&mut relay, 0, received(1, ROOM, place));
    assert_eq!(step(&mut relay, 0, head_at(1, Some(other))), ["0: resync event:1 at 3"]);
}

#[test]
fn a_stream_that_is_set_back_while_its_head_is_read_is_resynced() {
    let mut relay = live();
    step(&mut relay, 0, came(4));
    step(&mut relay, 0, came(6));
    let other = Some(Position { mid: Mid(1), ..position(3) });
    assert_eq!(step(&mut relay, 0, head_at(1, other)), ["read 2 of event:1 after 5"]);
    assert_eq!(step(&mut relay, 0, head_at(2, other)), ["0: resync event:1 at 3"]);
}

#[test]
fn an_entry_that_was_on_its_way_while_the_head_was_read_is_no_gap() {
    let mut relay = live();
    assert_eq!(
        step(&mut relay, 0, came(4)),
        ["reach relay_order_suspect", "read 1 of event:1 after 5"]
    );
    step(&mut relay, 0, came(5));
    step(&mut relay, 0, came(6));
    // The head is ahead of what has arrived: the rest follows.
    assert_eq!(step(&mut relay, 0, head(1, 7)), ["0: 0 at 6"]);
    assert_eq!(step(&mut relay, 0, came(7)), ["0: 1 at 7"]);
    assert_eq!(relay.stats().gaps, 0);
}

#[test]
fn a_head_that_was_read_too_early_is_read_again() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    step(&mut relay, 0, came(8));
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["read 1 of event:1"]);
    step(&mut relay, 0, came(9));
    assert_eq!(step(&mut relay, 0, head(1, 8)), ["0: joined 1 at 8", "0: 0 at 9"]);
}

#[test]
fn a_head_that_never_joins_up_is_given_up() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join_since(0, 1, ROOM, since(position(5))));
    step(&mut relay, 0, subscribed(1, ROOM));
    step(&mut relay, 0, came(10));
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["read 1 of event:1 after 5"]);
    step(&mut relay, 0, came(20));
    assert_eq!(step(&mut relay, 0, head(1, 5)), ["read 2 of event:1 after 5"]);
    step(&mut relay, 0, came(30));
    assert_eq!(
        step(&mut relay, 0, head(2, 5)),
        ["reach relay_head_never_joins_up", "0: joined 1 at 29", "0: 0 at 30"]
    );
    assert_eq!(step(&mut relay, 0, came(31)), ["0: 1 at 31"]);
}

#[test]
fn a_stream_that_holds_too_much_goes_on_with_what_it_holds() {
    let limits = RelayLimits { held_bytes_max: 1_000, in_flight_max: 100, ..limits() };
    let mut relay = Relay::new(limits, BOOT, 7, Instant(0));
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    let mut offset = 6;
    let said = loop {
        let said = step(&mut relay, 0, came(offset));
        if !said.is_empty() {
            break said;
        }
        offset += 1;
        assert!(offset < 20, "held without bound");
    };
    // Who joins is given the latest values, which are not known yet.
    assert_eq!(said[0], "reach relay_held_overflow");
    let forwarded: Vec<_> = (6..=offset).map(|at| format!("0: {} at {at}", at - 6)).collect();
    assert_eq!(said[1..=forwarded.len()], forwarded);
    assert_eq!(
        said[forwarded.len() + 1..],
        ["read 1 of event:1".to_owned(), format!("read 2 of event:1 after {offset}")]
    );
    assert_eq!(step(&mut relay, 0, head(0, 5)), [""; 0]);
    assert_eq!(step(&mut relay, 0, head(1, offset)), [""; 0]);
    let joined = format!("0: joined 1 at {offset}");
    assert_eq!(step(&mut relay, 0, head(2, offset)), [joined]);
    let next = format!("0: {} at {}", forwarded.len(), offset + 1);
    assert_eq!(step(&mut relay, 0, came(offset + 1)), [next]);
}

#[test]
fn a_late_entry_that_can_not_be_held_takes_nobody_back() {
    let limits = RelayLimits { held_bytes_max: 1, ..limits() };
    let mut relay = Relay::new(limits, BOOT, 7, Instant(0));
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 0, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["0: joined 0 at 5"]);
    let suspected =
        ["reach relay_order_suspect", "reach relay_held_overflow", "read 1 of event:1 after 5"];
    assert_eq!(step(&mut relay, 0, came(3)), suspected);
    assert_eq!(step(&mut relay, 0, head(1, 5)), ["0: resync event:1 at 5"]);
    assert_eq!(step(&mut relay, 0, came(6)), ["0: 0 at 6"]);
}

#[test]
fn latest_values_that_are_not_held_any_more_are_owed_a_resync() {
    let limits = RelayLimits { held_bytes_max: 1_000, ..limits() };
    let mut relay = Relay::new(limits, BOOT, 7, Instant(0));
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    let reached =
        |relay: &mut Relay| step(relay, 0, came_latest(5)) == ["reach relay_held_overflow"];
    assert!((0..20).any(|_| reached(&mut relay)));
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["0: resync event:1 at 5", "0: joined 1 at 5"]);
}

#[test]
fn a_head_that_can_not_be_read_is_tried_again_with_growing_pauses() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    let mut now = 0;
    for (read, pause) in [200, 400, 800, 1_600, 3_200, 5_000, 5_000].into_iter().enumerate() {
        let said = step(&mut relay, now, head_at(read as u64, None));
        assert_eq!(said[0], "reach relay_head_unreadable");
        let at = relay.next_due().unwrap();
        assert!(at >= millis(now + pause / 2) && at <= millis(now + pause));
        now += pause;
        let again = format!("read {} of event:1", read + 1);
        assert_eq!(step(&mut relay, now, Input::TimedOut), [again]);
    }
    assert_eq!(step(&mut relay, now, head(7, 5)), ["0: resync newcomers of event:1 at 5"]);
}

#[test]
fn joins_fail_while_a_head_can_not_be_read() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    assert_eq!(
        step(&mut relay, 0, head_at(0, None)),
        ["reach relay_head_unreadable", "0: join 1 failed"]
    );
    assert_eq!(step(&mut relay, 0, join(0, 2, ROOM)), ["0: join 2 failed"]);
}

#[test]
fn latest_values_keep_their_place_among_the_others() {
    let mut relay = live();
    assert_eq!(step(&mut relay, 0, came_latest(5)), ["0: 0 at nowhere"]);
    step(&mut relay, 0, came(4));
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, came_latest(6));
    step(&mut relay, 0, came(7));
    assert_eq!(step(&mut relay, 0, head(1, 7)), ["0: 1 at 6", "0: 2 at nowhere", "0: 3 at 7"]);
}

#[test]
fn a_latest_value_never_follows_a_newer_durable_message() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    step(&mut relay, 0, came_latest(4));
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["0: joined 1 at 5"]);
    assert_eq!(step(&mut relay, 0, came_latest(4)), [""; 0]);
    assert_eq!(step(&mut relay, 0, came_latest(5)), ["0: 0 at nowhere"]);
}

#[test]
fn items_of_an_older_connection_are_ignored() {
    let mut relay = live();
    step(&mut relay, 0, link_up(2));
    step(&mut relay, 0, subscribed(2, ROOM));
    step(&mut relay, 0, head(1, 5));
    assert_eq!(step(&mut relay, 0, came(6)), [""; 0]);
    let place = Place::Durable { position: position(6), prev: position(5).mid };
    assert_eq!(step(&mut relay, 0, received(2, ROOM, place)), ["0: 0 at 6"]);
}

#[test]
fn what_joins_up_after_a_reconnect_is_forwarded_without_a_resync() {
    let mut relay = live();
    step(&mut relay, 0, link_up(2));
    step(&mut relay, 0, subscribed(2, ROOM));
    let place = Place::Durable { position: position(6), prev: position(5).mid };
    step(&mut relay, 0, received(2, ROOM, place));
    assert_eq!(step(&mut relay, 0, head(1, 6)), ["0: 0 at 6"]);
}

#[test]
fn an_unreadable_entry_is_counted_and_the_head_tells_whether_it_mattered() {
    let garbage = || Input::Received {
        generation: Generation(1),
        channel: Channel::Stream(name(ROOM)),
        bytes: Bytes::from_static(b"9 D\n"),
    };
    let mut relay = live();
    assert_eq!(step(&mut relay, 0, garbage()), ["read 1 of event:1 after 5"]);
    assert_eq!(step(&mut relay, 0, garbage()), [""; 0]);
    assert_eq!(step(&mut relay, 0, head(1, 5)), ["read 2 of event:1 after 5"]);
    assert_eq!(step(&mut relay, 0, head(2, 5)), [""; 0]);
    assert_eq!((relay.stats().entries_invalid, relay.stats().gaps), (2, 0));
    step(&mut relay, 0, garbage());
    assert_eq!(step(&mut relay, 0, head(3, 6)), ["0: resync event:1 at 6"]);
}

#[test]
fn entries_of_streams_that_nobody_wants_are_ignored() {
    let mut relay = live();
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 0, came(6)), [""; 0]);
    assert_eq!(step(&mut relay, 0, came(9)), [""; 0]);
    assert_eq!(step(&mut relay, 0, join(0, 2, ROOM)), ["read 1 of event:1"]);
    let elsewhere = Place::Durable { position: position(1), prev: Mid(0) };
    assert_eq!(step(&mut relay, 0, received(1, "event:2", elsewhere)), [""; 0]);
}

#[test]
fn what_can_not_be_read_while_the_head_is_read_is_found_by_another_read() {
    let unreadable = |generation| Input::Received {
        generation: Generation(generation),
        channel: Channel::Stream(name(ROOM)),
        bytes: Bytes::from_static(b"9 D"),
    };
    let mut relay = live();
    step(&mut relay, 0, Input::LinkDown);
    step(&mut relay, 0, link_up(2));
    assert_eq!(step(&mut relay, 0, subscribed(2, ROOM)), ["read 1 of event:1 after 5"]);
    assert_eq!(step(&mut relay, 0, unreadable(2)), [""; 0]);
    assert_eq!(step(&mut relay, 0, head(1, 5)), ["read 2 of event:1 after 5"]);
    step(&mut relay, 0, unreadable(2));
    assert_eq!(step(&mut relay, 0, head(2, 6)), ["read 3 of event:1 after 5"]);
    step(&mut relay, 0, unreadable(2));
    // It is not read for ever.
    assert_eq!(step(&mut relay, 0, head(3, 5)), ["0: resync event:1 at 5"]);
}
