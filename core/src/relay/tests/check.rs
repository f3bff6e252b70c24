use super::*;
use crate::id::CheckId;

/// The newest comparison in some actions.
fn compared_in(actions: &[String]) -> Option<&String> {
    actions.iter().find(|action| action.starts_with("compare"))
}

/// Lets time pass from deadline to deadline until streams are compared; gives when.
fn until_compared(relay: &mut Relay) -> (u64, String) {
    for _ in 0..1_000 {
        let at = relay.next_deadline().expect("a comparison is to come").0.div_ceil(1_000_000);
        let done = step(relay, at, Input::TimedOut);
        if let Some(compare) = compared_in(&done) {
            return (at, compare.clone());
        }
    }
    panic!("nothing is compared");
}

fn answered(check: u64, heads: &[Option<Position>]) -> Input {
    let head = |position| StreamHead { position, version: 0 };
    let heads = heads.iter().map(|position| position.map(head)).collect();
    Input::Compared { check: CheckId(check), heads: Some(heads) }
}

#[test]
fn a_stream_is_compared_every_five_minutes() {
    let mut relay = live();
    let (first, compare) = until_compared(&mut relay);
    assert!(first < 300_000, "not all instances at once: at a random time of the first round");
    assert_eq!(compare, "compare 1 of event:1");
    assert_eq!(step(&mut relay, first, answered(1, &[Some(position(5))])), [""; 0]);
    let (second, compare) = until_compared(&mut relay);
    assert_eq!((second - first, &*compare), (300_000, "compare 2 of event:1"));
    assert_eq!(relay.stats().compared, 1);
}

#[test]
fn the_last_message_of_a_stream_is_not_lost_though_nothing_follows() {
    let mut relay = live();
    let (at, _) = until_compared(&mut relay);
    assert_eq!(step(&mut relay, at, answered(1, &[Some(position(6))])), [""; 0], "maybe late");
    assert_eq!(step(&mut relay, at + 999, Input::TimedOut), [""; 0]);
    let done = step(&mut relay, at + 1_000, Input::TimedOut);
    assert_eq!(done, ["reach relay_check_finds_a_loss", "read 1 of event:1 after 5"]);
    assert_eq!(
        step(&mut relay, at + 1_000, history(1, 6..=6)),
        ["0: 0 at 6", "reach relay_gap_filled"]
    );
    assert_eq!(relay.stats().compared_unequal, 1);
}

#[test]
fn what_comes_while_streams_are_compared_is_no_difference() {
    let mut relay = live();
    let (at, _) = until_compared(&mut relay);
    step(&mut relay, at, came(6));
    step(&mut relay, at, came(7));
    // The broker looked between the two.
    assert_eq!(step(&mut relay, at, answered(1, &[Some(position(6))])), [""; 0]);
    let (at, _) = until_compared(&mut relay);
    assert_eq!(step(&mut relay, at, answered(2, &[Some(position(8))])), [""; 0]);
    step(&mut relay, at + 10, came(8));
    assert_eq!(step(&mut relay, at + 1_000, Input::TimedOut), [""; 0], "it was only late");
}

#[test]
fn a_stream_that_was_set_back_or_lost_is_read_again() {
    let other = Position { mid: Mid(77 << 32), ..position(5) };
    let newer = Position { epoch: Epoch(2), offset: 1, mid: Mid(1 << 32) };
    for head in [Some(position(4)), Some(other), Some(newer), None] {
        let mut relay = live();
        let (at, _) = until_compared(&mut relay);
        assert_eq!(
            step(&mut relay, at, answered(1, &[head])),
            ["reach relay_check_differs", "read 1 of event:1 after 5"]
        );
        let head = head.unwrap_or(newer);
        let done = step(&mut relay, at, head_at(1, Some(head)));
        assert_eq!(done.len(), 1, "{done:?}");
        assert!(done[0].contains("resync"), "{done:?}");
    }
}

#[test]
fn only_what_is_live_and_has_members_is_compared() {
    let mut relay = live();
    step(&mut relay, 0, join(0, 1, "event:2"));
    step(&mut relay, 0, vacated(0, ROOM));
    step(&mut relay, 0, join(0, 2, "event:3"));
    step(&mut relay, 0, subscribed(1, "event:3"));
    step(&mut relay, 0, head(1, 9));
    let (_, compare) = until_compared(&mut relay);
    assert_eq!(compare, "compare 1 of event:3");
}

#[test]
fn many_streams_are_compared_some_at_a_time_and_each_once_in_a_round() {
    for count in [256, 512, 600] {
        compared_in_a_round(count);
    }
}

fn compared_in_a_round(count: usize) {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    let names: Vec<String> = (0..count).map(|n| format!("event:{n}")).collect();
    for (n, room) in (0..).zip(&names) {
        step(&mut relay, 0, join(0, n, room));
        step(&mut relay, 0, subscribed(1, room));
        step(&mut relay, 0, head(n, 5));
    }
    let mut seen = Vec::new();
    let mut times = Vec::new();
    let turns = count.div_ceil(256) as u64;
    for check in 1..=2 * turns {
        let (at, compare) = until_compared(&mut relay);
        let compare = compare.split(" of ").nth(1).unwrap().to_owned();
        let streams: Vec<String> = compare.split(", ").map(str::to_owned).collect();
        assert!(streams.len() <= 256);
        let heads = vec![Some(position(5)); streams.len()];
        assert_eq!(step(&mut relay, at, answered(check, &heads)), [""; 0]);
        seen.extend(streams);
        times.push(at);
    }
    let round = times[times.len() / 2] - times[0];
    assert!(round.abs_diff(300_000) <= turns, "a round takes {round} ms");
    let mut names = [names.clone(), names].concat();
    names.sort();
    seen.sort();
    assert_eq!(seen, names, "each once in each round");
}

#[test]
fn a_broker_that_does_not_answer_is_not_asked_twice_and_an_old_answer_counts_for_nothing() {
    let mut relay = live();
    until_compared(&mut relay);
    let (mut at, end) = (0, relay.next_deadline().unwrap() + Duration::from_secs(1_000));
    while relay.next_deadline().unwrap() < end {
        at = relay.next_deadline().unwrap().0.div_ceil(1_000_000);
        assert_eq!(compared_in(&step(&mut relay, at, Input::TimedOut)), None);
    }
    step(&mut relay, at, link_up(2));
    assert_eq!(step(&mut relay, at, answered(1, &[None])), [""; 0]);
    step(&mut relay, at, subscribed(2, ROOM));
    step(&mut relay, at, head(1, 5));
    let (at, compare) = until_compared(&mut relay);
    assert_eq!(compare, "compare 2 of event:1");
    let failed = Input::Compared { check: CheckId(2), heads: None };
    assert_eq!(step(&mut relay, at, failed), [""; 0]);
    assert_eq!(until_compared(&mut relay).1, "compare 3 of event:1");
}

#[test]
fn the_last_value_of_a_stream_is_not_lost_though_nothing_follows() {
    let value = |version| {
        let place = Place::Latest { epoch: Epoch(1), at: 5, version, mid: Mid(70 + version) };
        Entry { place, body: body() }.encode()
    };
    let head = |version| StreamHead { position: position(5), version };
    let told = |check, version| Input::Compared {
        check: CheckId(check),
        heads: Some(vec![Some(head(version))]),
    };
    let mut relay = live();
    let (at, _) = until_compared(&mut relay);
    assert_eq!(step(&mut relay, at, told(1, 7)), [""; 0], "maybe late");
    let done = step(&mut relay, at + 1_000, Input::TimedOut);
    assert_eq!(done, ["reach relay_check_finds_a_loss", "read 1 of event:1 after 5"]);
    let history = History { head: position(5), entries: Vec::new(), latest: vec![value(7)] };
    let read = Input::Read { read: ReadId(1), history: Some(history) };
    let done = step(&mut relay, at + 1_000, read);
    assert_eq!(done, ["reach relay_values_filled", "0: 0 at nowhere"]);

    // Those that have come are not lost.
    let (at, _) = until_compared(&mut relay);
    assert_eq!(step(&mut relay, at, told(2, 7)), [""; 0]);
    assert_eq!(step(&mut relay, at + 1_000, Input::TimedOut), [""; 0]);
    let (at, _) = until_compared(&mut relay);
    assert_eq!(step(&mut relay, at, told(3, 8)), [""; 0]);
    let channel = Channel::Stream(name(ROOM));
    let late = Input::Received { generation: Generation(1), channel, bytes: value(8) };
    assert_eq!(step(&mut relay, at + 500, late), ["0: 1 at nowhere"]);
    assert_eq!(step(&mut relay, at + 1_000, Input::TimedOut), [""; 0]);
}
