use std::collections::BTreeSet;

use super::*;

#[test]
fn a_silent_connection_is_pinged_then_closed() {
    let mut bed = bed();
    bed.open(0, 0);
    let done = bed.pass(70);
    let actions: Vec<&str> = done.iter().map(|done| done.split_once(' ').unwrap().1).collect();
    let after_pings = actions.iter().position(|action| *action != "ping 0").unwrap();
    assert!((2..=3).contains(&after_pings), "{done:?}");
    assert_eq!(done[after_pings..], ["60 close 0 Silent", "60 vacated all", "65 reset 0"]);
    assert_eq!(bed.shard.next_deadline(), None);
    assert_eq!(bed.step(Input::Closed { conn: conn(0) }), [""; 0]);
}

#[test]
fn a_connection_that_answers_pings_stays() {
    let mut bed = bed();
    bed.open(0, 0);
    let mut pings = 0;
    for _ in 0..600 {
        let done = bed.pass(1);
        if !done.is_empty() {
            assert!(done[0].ends_with(" ping 0"), "{done:?}");
            pings += 1;
            bed.step(Input::Heard { conn: conn(0) });
        }
    }
    assert!((19..=21).contains(&pings), "{pings}");
}

#[test]
fn a_connection_that_talks_is_not_pinged() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.pass(30);
    for _ in 0..100 {
        assert_eq!(bed.say(0, r#"{"type":"system:ping"}"#).len(), 1);
        assert_eq!(bed.pass(20), [""; 0]);
    }
}

#[test]
fn heartbeats_of_connections_that_came_together_are_spread() {
    let mut bed = bed_with(|limits| limits.connections_max = 1_000);
    for slot in 0..1_000 {
        bed.open(slot, u64::from(slot));
    }
    let mut pinged = [0; 31]; // Those that are due in the last tick come in the last one.
    let mut met = BTreeSet::new();
    for pings in &mut pinged {
        let done = bed.pass(1);
        *pings = done.len();
        met.extend(done.iter().filter_map(|done| done.rsplit(' ').next()).map(str::to_owned));
    }
    assert_eq!(met.len(), 1_000, "{pinged:?}");
    assert!(pinged.iter().all(|pings| *pings < 80), "{pinged:?}");
}

#[test]
fn nobody_is_called_silent_right_after_a_stall_of_the_worker() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.now = bed.now + Duration::from_secs(90);
    assert_eq!(bed.step(Input::TimedOut), ["ping 0"]);
    bed.pass(1);
    bed.step(Input::Heard { conn: conn(0) });
    assert_eq!(bed.pass(20), [""; 0]);
    assert!(bed.reached.contains(&"the worker stalled"));
}

#[test]
fn a_peer_that_stays_silent_after_a_stall_is_closed() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.now = bed.now + Duration::from_secs(90);
    bed.step(Input::TimedOut);
    assert_eq!(bed.pass(6), ["95 close 0 Silent", "95 vacated all"]);
}

#[test]
fn a_close_that_is_not_answered_ends_in_a_reset() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.open(1, 1);
    let overflowed = bed.step(Input::Overflowed { conn: conn(0) });
    assert_eq!(overflowed, ["close 0 TooSlow"]);
    assert_eq!(bed.publish("all", 1, "x"), ["deliver 0 x"]);
    assert_eq!(bed.walk(0, 10), [1]);
    let mut done = bed.pass(6);
    done.retain(|done| !done.contains("ping"));
    assert_eq!(done, ["5 reset 0"]);
    bed.step(Input::Closed { conn: conn(0) });
    bed.delivered(0, 1);
    bed.open(0, 2);
}

#[test]
fn a_slow_consumer_is_closed_unless_it_catches_up() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.step(Input::Congested { conn: conn(0) });
    assert_eq!(bed.shard.stats().congested, 1);
    bed.pass(9);
    bed.step(Input::Relieved { conn: conn(0) });
    assert_eq!(bed.shard.stats().congested, 0);
    bed.pass(5);
    bed.step(Input::Congested { conn: conn(0) });
    let mut done = bed.pass(11);
    done.retain(|done| !done.contains("ping"));
    assert_eq!(done, ["24 close 0 TooSlow", "24 vacated all"]);
    assert_eq!(bed.shard.stats().congested, 0);
}

#[test]
fn a_stalled_worker_catches_up_in_bounded_steps() {
    let mut bed = bed_with(|limits| limits.connections_max = 1_000);
    for slot in 0..1_000 {
        bed.open(slot, u64::from(slot));
    }
    bed.now = bed.now + Duration::from_secs(40);
    let mut pings = 0;
    while bed.shard.next_deadline().is_some_and(|(at, _)| at <= bed.now) {
        let done = bed.step(Input::TimedOut);
        assert!(done.len() <= 256);
        pings += done.len();
    }
    assert_eq!(pings, 1_000);
}
