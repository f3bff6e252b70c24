use super::*;
use crate::cluster::{Beat, Census};

fn beat(boot: u64, leaving: bool) -> Input {
    let beat = Beat { boot: BootId(boot), uptime_s: 9, leaving, census: Census::default() };
    let (generation, bytes) = (Generation(1), beat.encode());
    Input::Received { generation, channel: Channel::Control, bytes }
}

fn peers(relay: &Relay, at: u64) -> Vec<u64> {
    relay.peers(millis(at)).iter().map(|peer| peer.beat.boot.0).collect()
}

/// The beats among what is to be done.
fn beats(relay: &mut Relay, at: u64, input: Input) -> Vec<Beat> {
    let mut actions = Vec::new();
    relay.handle(millis(at), input, &mut actions);
    let beats = actions.iter().filter_map(|action| {
        let Action::Tell { to: Destination::Everyone, bytes } = action else { return None };
        Beat::decode(bytes)
    });
    beats.collect()
}

#[test]
fn an_instance_beats_once_a_second_while_it_is_connected() {
    let mut relay = relay();
    assert_eq!(relay.next_deadline(), None);
    step(&mut relay, 500, link_up(1));
    assert_eq!(relay.next_deadline(), Some(millis(500)));
    let beat = &beats(&mut relay, 500, Input::TimedOut)[0];
    assert_eq!((beat.boot, beat.uptime_s, beat.leaving), (BOOT, 0, false));
    assert_eq!(beats(&mut relay, 1_499, Input::TimedOut), []);
    assert_eq!(beats(&mut relay, 1_500, Input::TimedOut)[0].uptime_s, 1);
    step(&mut relay, 1_600, Input::LinkDown);
    assert_eq!(relay.next_deadline(), None);
}

#[test]
fn a_beat_says_what_the_workers_hold() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, Input::TimedOut);
    for worker in 0..2 {
        let census = Box::new(Census {
            authenticated: 2,
            rooms: vec![(name("event:1"), 1 + u32::from(worker))],
            ..Census::default()
        });
        let message = ToRelay::Counted(census);
        step(&mut relay, 1, Input::FromShard { worker: WorkerId(worker), message });
    }
    let beat = &beats(&mut relay, 1_000, Input::TimedOut)[0];
    assert_eq!(beat.census.authenticated, 4);
    assert_eq!(beat.census.rooms, [(name("event:1"), 3)]);
}

#[test]
fn a_busy_worker_is_asked_once() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    let counts = |relay: &mut Relay, at| {
        let mut actions = Vec::new();
        relay.handle(millis(at), Input::TimedOut, &mut actions);
        let asks =
            |action: &&Action| matches!(action, Action::ToShard { message: ToShard::Count, .. });
        actions.iter().filter(asks).count()
    };
    assert_eq!(counts(&mut relay, 0), 3);
    let message = ToRelay::Counted(Box::default());
    step(&mut relay, 1, Input::FromShard { worker: WorkerId(1), message });
    assert_eq!(counts(&mut relay, 1_000), 1);
}

#[test]
fn a_silent_instance_is_dead_after_three_seconds() {
    let mut relay = live();
    step(&mut relay, 0, beat(2, false));
    step(&mut relay, 1_000, beat(3, false));
    step(&mut relay, 1_000, beat(BOOT.0, false));
    assert_eq!(peers(&relay, 2_999), [2, 3]);
    assert_eq!(peers(&relay, 3_000), [3]);
}

#[test]
fn an_instance_that_leaves_is_forgotten_at_once() {
    let mut relay = live();
    step(&mut relay, 0, beat(2, false));
    step(&mut relay, 1, beat(2, true));
    assert_eq!(peers(&relay, 1), [0; 0]);
    assert!(beats(&mut relay, 2, Input::Leaving)[0].leaving);
}

#[test]
fn a_beat_that_can_not_be_read_is_counted() {
    let mut relay = live();
    let bytes = Bytes::from_static(b"{\"v\":2}");
    let (generation, channel) = (Generation(1), Channel::Control);
    step(&mut relay, 0, Input::Received { generation, channel, bytes });
    assert_eq!(relay.stats().control_invalid, 1);
}
