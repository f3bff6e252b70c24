use super::*;

/// The value number `version` of `key`, published when the stream was at `at`.
fn value(at: u64, version: u64, key: &str) -> Bytes {
    let place = Place::Latest { epoch: Epoch(1), at, version, mid: Mid((100 + version) << 32) };
    let payload = Bytes::from(format!(r#""{key}{version}""#));
    Entry { place, body: Body { kind: "queue".into(), key: key.into(), payload, ..body() } }
        .encode()
}

fn came_value(at: u64, version: u64, key: &str) -> Input {
    let channel = Channel::Stream(name(ROOM));
    Input::Received { generation: Generation(1), channel, bytes: value(at, version, key) }
}

/// The answer to a read: the head, what is kept before it, and the values.
fn read(read: u64, offsets: std::ops::RangeInclusive<u64>, latest: Vec<Bytes>) -> Input {
    let head = position(*offsets.end());
    let history = History { head, entries: offsets.map(kept).collect(), latest };
    Input::Read { read: ReadId(read), history: Some(history) }
}

/// The same where nothing is lacking: the stream is at 5.
fn values(read: u64, latest: Vec<Bytes>) -> Input {
    let history = History { head: position(5), entries: Vec::new(), latest };
    Input::Read { read: ReadId(read), history: Some(history) }
}

/// The first who joins is not yet answered.
fn reading() -> Relay {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 0, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    relay
}

#[test]
fn who_joins_is_given_the_newest_value_of_each_key_in_the_order_of_their_versions() {
    let mut relay = reading();
    let latest = vec![value(4, 7, "b"), value(2, 3, "a"), value(3, 5, "b")];
    assert_eq!(step(&mut relay, 0, values(0, latest)), [r#"0: joined 0 at 5 +"a3" +"b7""#]);
}

#[test]
fn who_comes_back_is_given_the_values_in_their_places() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join_since(0, 0, ROOM, since(position(5))));
    step(&mut relay, 0, subscribed(1, ROOM));
    let latest = vec![value(4, 1, "a"), value(6, 2, "b"), value(7, 3, "c")];
    assert_eq!(
        step(&mut relay, 0, read(0, 6..=7, latest)),
        [r#"0: joined 0 at 7, recovered +"a1" +6 +"b2" +7 +"c3""#]
    );
}

#[test]
fn a_stream_without_values_is_not_read_for_those_who_join_later() {
    let mut relay = live();
    assert_eq!(step(&mut relay, 0, join(1, 1, ROOM)), ["1: joined 1 at 5"]);
}

#[test]
fn a_stream_with_values_is_read_once_for_all_who_join_meanwhile() {
    let mut relay = reading();
    step(&mut relay, 0, values(0, vec![value(5, 1, "a")]));
    assert_eq!(step(&mut relay, 0, join(1, 1, ROOM)), ["read 1 of event:1"]);
    assert_eq!(step(&mut relay, 0, join(0, 2, ROOM)), [""; 0]);
    let answered = step(&mut relay, 0, values(1, vec![value(5, 1, "a")]));
    assert_eq!(answered, [r#"0: joined 2 at 5 +"a1""#, r#"1: joined 1 at 5 +"a1""#]);
    // When they have expired there is nothing to be read any more.
    assert_eq!(step(&mut relay, 0, join(1, 3, ROOM)), ["read 2 of event:1"]);
    assert_eq!(step(&mut relay, 0, values(2, vec![])), ["1: joined 3 at 5"]);
    assert_eq!(step(&mut relay, 0, join(1, 4, ROOM)), ["1: joined 4 at 5"]);
}

#[test]
fn a_value_that_comes_while_the_others_are_read_is_given_to_who_joins() {
    let mut relay = live();
    assert_eq!(step(&mut relay, 0, came_value(5, 1, "a")), ["0: 0 at nowhere"]);
    step(&mut relay, 0, join(1, 1, ROOM));
    assert_eq!(step(&mut relay, 0, came_value(5, 2, "a")).len(), 2, "members have it");
    let answered = step(&mut relay, 0, values(1, vec![value(5, 1, "a")]));
    assert_eq!(answered, [r#"1: joined 1 at 5 +"a2""#]);
}

#[test]
fn a_value_that_was_read_before_it_came_goes_to_the_members_and_does_not_come_again() {
    let mut relay = live();
    step(&mut relay, 0, came_value(5, 1, "a"));
    step(&mut relay, 0, handed_over(0, 0, 1));
    step(&mut relay, 0, join(0, 1, ROOM));
    assert_eq!(
        step(&mut relay, 0, values(1, vec![value(5, 3, "a")])),
        ["reach relay_values_filled", "0: 1 at nowhere", r#"0: joined 1 at 5 +"a3""#]
    );
    assert_eq!(step(&mut relay, 0, came_value(5, 2, "a")), [""; 0], "an older one");
    assert_eq!(step(&mut relay, 0, came_value(5, 3, "a")), [""; 0], "the same");
    assert_eq!(step(&mut relay, 0, came_value(5, 4, "a")), ["0: 2 at nowhere"]);
}

#[test]
fn values_that_were_missed_over_a_reconnect_are_given_to_the_members_in_their_places() {
    let mut relay = live();
    step(&mut relay, 0, Input::LinkDown);
    step(&mut relay, 0, link_up(2));
    step(&mut relay, 0, subscribed(2, ROOM));
    let latest = vec![value(4, 1, "a"), value(5, 2, "b"), value(6, 3, "c")];
    assert_eq!(
        step(&mut relay, 0, read(1, 6..=6, latest)),
        [
            "reach relay_values_filled",
            "0: 0 at nowhere",
            "0: 1 at 6",
            "reach relay_gap_filled",
            "reach relay_values_filled",
            "0: 2 at nowhere",
        ],
        "a is older than what the members have"
    );
}

#[test]
fn a_value_beyond_where_the_stream_is_comes_by_itself() {
    let mut relay = reading();
    step(&mut relay, 0, values(0, vec![value(5, 1, "a")]));
    step(&mut relay, 0, join(0, 1, ROOM));
    // The read is ahead of the channel.
    let ahead = read(1, 6..=6, vec![value(6, 2, "a")]);
    assert_eq!(step(&mut relay, 0, ahead), ["reach relay_history_read_again", "read 2 of event:1"]);
    assert_eq!(step(&mut relay, 0, came(6)), ["0: 0 at 6"]);
    let answered = step(&mut relay, 0, read(2, 6..=6, vec![value(6, 2, "a")]));
    assert_eq!(answered.last().unwrap(), r#"0: joined 1 at 6 +"a2""#);
}

#[test]
fn who_joins_before_a_loss_is_noticed_is_given_the_value_that_came_after_it() {
    let mut relay = live();
    // 6 was lost: the stream is at 5 still.
    assert_eq!(step(&mut relay, 0, came_value(6, 7, "a")), ["0: 0 at nowhere"]);
    assert_eq!(step(&mut relay, 0, join(0, 1, ROOM)), ["read 1 of event:1"]);
    let history =
        History { head: position(6), entries: Vec::new(), latest: vec![value(6, 7, "a")] };
    step(&mut relay, 0, Input::Read { read: ReadId(1), history: Some(history.clone()) });
    let again = Input::Read { read: ReadId(2), history: Some(history.clone()) };
    step(&mut relay, 0, again);
    let said = step(&mut relay, 0, Input::Read { read: ReadId(3), history: Some(history) });
    assert_eq!(said, [r#"0: joined 1 at 5 +"a7""#]);
}

#[test]
fn a_value_that_comes_twice_is_sent_once_also_when_the_broker_has_forgotten_it_meanwhile() {
    let mut relay = live();
    step(&mut relay, 0, came_value(5, 3, "a"));
    step(&mut relay, 0, join(0, 1, ROOM));
    assert_eq!(step(&mut relay, 0, values(1, vec![])), ["0: joined 1 at 5"]);
    assert_eq!(step(&mut relay, 0, came_value(5, 3, "a")), [""; 0]);
    // On a new connection nothing old is on its way, and the clock may be another one.
    step(&mut relay, 0, Input::LinkDown);
    step(&mut relay, 0, link_up(2));
    step(&mut relay, 0, subscribed(2, ROOM));
    step(&mut relay, 0, values(2, vec![]));
    let channel = Channel::Stream(name(ROOM));
    let bytes = value(5, 2, "a");
    let again = Input::Received { generation: Generation(2), channel, bytes };
    assert_eq!(step(&mut relay, 0, again), ["0: 1 at nowhere"]);
}

#[test]
fn the_count_of_a_value_that_came_before_the_stream_was_live_may_not_be_all() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 0, ROOM));
    let mid = Mid(103 << 32);
    let deadline = millis(250);
    step(&mut relay, 0, Input::Expected { mid, stream: name(ROOM), deadline });
    step(&mut relay, 0, Input::Published { mid, subscribers: 1, deadline, ack_by: None });
    // Whoever was seated meanwhile is given it by the read.
    let said = step(&mut relay, 0, came_value(5, 3, "a"));
    assert_eq!(said, ["receipt 103: 0 on 0, or more"]);
}

#[test]
fn members_without_a_position_are_given_the_values_after_the_resync() {
    let mut relay = reading();
    step(&mut relay, 0, head_at(0, None));
    step(&mut relay, 0, join(0, 1, ROOM));
    assert_eq!(step(&mut relay, 200, Input::TimedOut), ["read 1 of event:1"]);
    assert_eq!(
        step(&mut relay, 200, values(1, vec![value(5, 1, "a")])),
        ["0: resync newcomers of event:1 at 5", "reach relay_values_filled", "0: 0 at nowhere"]
    );
}
