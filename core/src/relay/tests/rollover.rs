//! Streams of which the broker has lost some.

use super::*;
use crate::entry::Rollover;

/// The numbering 2 begins behind an offset.
fn rolled_over(offset: u64) -> Input {
    let bytes = Rollover { epoch: Epoch(2), offset }.encode();
    let channel = Channel::Stream(name(ROOM));
    Input::Received { generation: Generation(1), channel, bytes }
}

/// The place from which the numbering 2 begins.
fn beginning(offset: u64) -> Position {
    Position { epoch: Epoch(2), offset, mid: Mid(0) }
}

#[test]
fn members_of_a_stream_that_is_given_up_are_told() {
    let mut relay = live();
    let done = step(&mut relay, 0, rolled_over(7));
    assert_eq!(done, ["reach relay_rolled_over", "read 1 of event:1 after 5"]);
    let done = step(&mut relay, 0, head_at(1, Some(beginning(7))));
    assert_eq!(done, ["0: resync event:1 at 2/7"]);
    assert_eq!(relay.stats().rolled_over, 1);
    let next = Position { epoch: Epoch(2), offset: 8, mid: Mid(8 << 32) };
    let place = Place::Durable { position: next, prev: Mid(0) };
    assert_eq!(step(&mut relay, 0, received(1, ROOM, place)), ["0: 0 at 2/8"]);
}

#[test]
fn who_has_read_the_new_numbering_does_not_read_it_again() {
    let mut relay = live();
    step(&mut relay, 0, came(7));
    assert_eq!(step(&mut relay, 0, head_at(1, Some(beginning(7)))), ["0: resync event:1 at 2/7"]);
    assert_eq!(step(&mut relay, 0, rolled_over(7)), [""; 0]);
}

#[test]
fn what_is_read_while_a_stream_is_given_up_may_be_of_before() {
    let mut relay = live();
    step(&mut relay, 0, came(7));
    assert_eq!(step(&mut relay, 0, rolled_over(7)), ["read 2 of event:1 after 5"]);
    assert_eq!(step(&mut relay, 0, history(1, 6..=7)), [""; 0]);
    let done = step(&mut relay, 0, head_at(2, Some(beginning(7))));
    assert_eq!(done, ["0: resync event:1 at 2/7"]);
}

#[test]
fn a_read_names_the_place_that_members_are_at() {
    let mut relay = live();
    let mut actions = Vec::new();
    relay.handle(millis(0), came(7), &mut actions);
    let at = Some(position(5));
    let reads_on = |action: &Action| matches!(action, Action::Read { known, .. } if *known == at);
    assert!(actions.iter().any(reads_on), "{actions:?}");
}

#[test]
fn who_joins_while_its_stream_is_given_up_is_where_the_new_numbering_begins() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 7, ROOM));
    assert_eq!(step(&mut relay, 0, subscribed(1, ROOM)), ["read 0 of event:1"]);
    assert_eq!(step(&mut relay, 0, rolled_over(7)), ["read 1 of event:1"]);
    assert_eq!(step(&mut relay, 0, head(0, 5)), [""; 0], "this was asked before");
    let done = step(&mut relay, 0, head_at(1, Some(beginning(7))));
    assert_eq!(done, ["0: joined 7 at 2/7"]);
}
