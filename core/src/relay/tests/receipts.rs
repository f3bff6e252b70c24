use super::*;
use crate::cluster::{Beat, Census, Receipt};

/// The service waits until 250 ms for the publication number `offset`.
fn expected(offset: u64) -> Input {
    expected_in(offset, ROOM)
}

fn expected_in(offset: u64, room: &str) -> Input {
    Input::Expected { mid: position(offset).mid, stream: name(room), deadline: millis(250) }
}

/// The broker has taken it; the service waits until 250 ms from the start on.
fn published(offset: u64) -> Input {
    heard_by(1, offset)
}

fn heard_by(subscribers: u32, offset: u64) -> Input {
    let (mid, deadline) = (position(offset).mid, millis(250));
    Input::Published { mid, subscribers, deadline, ack_by: None }
}

/// Of another instance.
fn came_from(boot: u64, offset: u64) -> Input {
    let place = Place::Durable { position: position(offset), prev: position(offset - 1).mid };
    let body = Body { origin: BootId(boot), ..body() };
    let bytes = Entry { place, body }.encode();
    Input::Received { generation: Generation(1), channel: Channel::Stream(name(ROOM)), bytes }
}

fn report(from: u64, receipts: &[(u64, u32)]) -> Input {
    let receipts = receipts.iter().map(|(offset, recipients)| Receipt {
        mid: position(*offset).mid,
        recipients: *recipients,
        partial: false,
    });
    let report = Report { from: BootId(from), receipts: receipts.collect(), acks: Vec::new() };
    let bytes = report.encode();
    Input::Received { generation: Generation(1), channel: Channel::Receipts, bytes }
}

/// The same, and it waits until 5 s for an acknowledgement.
fn published_with_ack(offset: u64) -> Input {
    let (mid, deadline, ack_by) = (position(offset).mid, millis(250), Some(millis(5_000)));
    Input::Published { mid, subscribers: 2, deadline, ack_by }
}

/// A client of worker 0 acknowledges a publication of the instance `origin`.
fn acknowledged(origin: u64, offset: u64) -> Input {
    let (mid, origin) = (position(offset).mid, BootId(origin));
    let message = ToRelay::Acknowledged { mid, origin };
    Input::FromShard { worker: WorkerId(0), message }
}

fn acks(from: u64, offset: u64) -> Input {
    let acks = vec![position(offset).mid];
    let bytes = Report { from: BootId(from), receipts: Vec::new(), acks }.encode();
    Input::Received { generation: Generation(1), channel: Channel::Receipts, bytes }
}

#[test]
fn an_acknowledgement_is_waited_for_until_its_own_time_is_up() {
    let mut relay = live();
    for offset in 6..=9 {
        step(&mut relay, 0, expected(offset));
        step(&mut relay, 0, came(offset));
        step(&mut relay, 0, published_with_ack(offset));
        step(&mut relay, 0, handed_over(0, offset - 6, 1));
    }
    // What is counted is told at once, and when the time for that is up.
    assert_eq!(
        step(&mut relay, 10, report(2, &[(6, 1), (7, 1)])),
        ["receipt 6: 2 on 2, not yet acknowledged", "receipt 7: 2 on 2, not yet acknowledged"]
    );
    assert_eq!(
        step(&mut relay, 250, Input::TimedOut),
        [
            "receipt 8: 1 on 1, or more, not yet acknowledged",
            "receipt 9: 1 on 1, or more, not yet acknowledged"
        ]
    );
    assert_eq!(step(&mut relay, 300, acknowledged(1, 6)), ["receipt 6: 2 on 2, acknowledged"]);
    assert_eq!(step(&mut relay, 300, acks(2, 8)), ["receipt 8: 1 on 1, or more, acknowledged"]);
    // What comes late still counts.
    assert_eq!(
        step(&mut relay, 400, report(2, &[(9, 1)])),
        ["receipt 9: 2 on 2, not yet acknowledged"]
    );
    let late = step(&mut relay, 5_000, Input::TimedOut);
    let receipts: Vec<_> = late.iter().filter(|line| line.starts_with("receipt")).collect();
    assert_eq!(receipts, ["receipt 7: 2 on 2", "receipt 9: 2 on 2"]);
    assert_eq!(step(&mut relay, 5_001, acknowledged(1, 7)), [""; 0], "nobody waits any more");
}

#[test]
fn an_acknowledgement_may_come_before_the_counts_and_before_the_broker_answers() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, came(6));
    assert_eq!(step(&mut relay, 0, acknowledged(1, 6)), [""; 0]);
    step(&mut relay, 0, published_with_ack(6));
    step(&mut relay, 0, handed_over(0, 0, 1));
    assert_eq!(step(&mut relay, 0, report(2, &[(6, 0)])), ["receipt 6: 1 on 1, acknowledged"]);
}

#[test]
fn acknowledgements_for_another_instance_go_with_its_receipts() {
    let mut relay = live();
    step(&mut relay, 0, came_from(2, 6));
    assert_eq!(step(&mut relay, 0, acknowledged(2, 6)), ["tell 2 acked 6"]);
    assert_eq!(step(&mut relay, 1, handed_over(0, 0, 1)), [""; 0], "held for a moment");
    assert_eq!(step(&mut relay, 1, acknowledged(2, 7)), [""; 0]);
    assert_eq!(step(&mut relay, 5, Input::TimedOut), ["tell 2 6: 1, acked 7"]);
}

#[test]
fn a_receipt_adds_up_what_all_workers_report() {
    let mut relay = live();
    step(&mut relay, 0, join(1, 1, ROOM));
    assert_eq!(step(&mut relay, 0, expected(6)), [""; 0]);
    step(&mut relay, 0, came(6));
    assert_eq!(step(&mut relay, 0, published(6)), [""; 0]);
    assert_eq!(step(&mut relay, 0, handed_over(1, 0, 2)), [""; 0]);
    assert_eq!(step(&mut relay, 0, handed_over(1, 0, 2)), [""; 0]);
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 3)), ["receipt 6: 5 on 1"]);
    assert_eq!(relay.next_due(), None);
}

#[test]
fn a_publication_without_members_is_answered_when_it_is_published() {
    let mut relay = live();
    step(&mut relay, 0, expected_in(6, "event:2"));
    assert_eq!(step(&mut relay, 0, heard_by(0, 6)), ["receipt 6: 0 on 0"]);
}

#[test]
fn a_publish_that_failed_is_not_waited_for() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    let unpublished = Input::Unpublished { mid: position(6).mid };
    assert_eq!(step(&mut relay, 0, unpublished.clone()), ["receipt 6: 0 on 0, or more"]);
    assert_eq!(relay.next_due(), None);
    assert_eq!(step(&mut relay, 0, unpublished), [""; 0]);
}

#[test]
fn a_publication_that_comes_in_after_the_last_member_left_reached_nobody() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, published(6));
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 0, came(6)), ["receipt 6: 0 on 0"]);
}

#[test]
fn workers_that_left_still_report_what_they_were_given() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 0, published(6)), [""; 0]);
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 1)), ["receipt 6: 1 on 1"]);
}

#[test]
fn at_its_deadline_a_receipt_says_what_was_counted_so_far() {
    let mut relay = live();
    step(&mut relay, 0, join(1, 1, ROOM));
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, published(6));
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, handed_over(0, 0, 3));
    assert_eq!(relay.next_due(), Some(millis(250)));
    assert_eq!(step(&mut relay, 249, Input::TimedOut), [""; 0]);
    assert_eq!(step(&mut relay, 250, Input::TimedOut), ["receipt 6: 3 on 1, or more"]);
    assert_eq!(step(&mut relay, 251, handed_over(1, 0, 2)), [""; 0]);
}

#[test]
fn a_publication_that_comes_twice_counts_once() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, published(6));
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, came(6));
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 3)), ["receipt 6: 3 on 1"]);
}

#[test]
fn a_lost_link_answers_what_can_not_come_in_any_more() {
    let mut relay = live();
    for offset in [6, 7] {
        step(&mut relay, 0, expected(offset));
        step(&mut relay, 0, published(offset));
    }
    step(&mut relay, 0, came(6));
    assert_eq!(step(&mut relay, 0, Input::LinkDown), ["receipt 7: 0 on 0, or more"]);
    step(&mut relay, 0, expected(8));
    assert_eq!(step(&mut relay, 0, published(8)), ["receipt 8: 0 on 0, or more"]);
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 3)), ["receipt 6: 3 on 1"]);
}

#[test]
fn a_publication_that_the_head_covers_reached_nobody() {
    let mut relay = live();
    step(&mut relay, 0, expected(7));
    step(&mut relay, 0, published(7));
    step(&mut relay, 0, came(7));
    assert_eq!(step(&mut relay, 0, head(1, 7)), ["0: resync event:1 at 7", "receipt 7: 0 on 0"]);
}

#[test]
fn no_more_than_so_many_are_waited_for() {
    let mut relay = live();
    for offset in 6..10 {
        assert_eq!(step(&mut relay, 0, expected(offset)), [""; 0]);
    }
    assert_eq!(step(&mut relay, 0, expected(10)), ["reach relay_receipts_full", "unexpected 10"]);
    // One that is waited for may be prolonged.
    assert_eq!(step(&mut relay, 0, expected(9)), [""; 0]);
}

#[test]
fn latest_values_have_receipts_too() {
    let mut relay = live();
    step(&mut relay, 0, expected(99));
    step(&mut relay, 0, published(99));
    step(&mut relay, 0, came_latest(5));
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 1)), ["receipt 99: 1 on 1"]);
}

#[test]
fn a_full_worker_is_not_waited_for() {
    let mut relay = live();
    for offset in 6..=9 {
        step(&mut relay, 0, came(offset));
    }
    step(&mut relay, 0, expected(10));
    step(&mut relay, 0, published(10));
    assert_eq!(
        step(&mut relay, 0, came(10)),
        ["reach relay_worker_full", "receipt 10: 0 on 0, or more"]
    );
}

#[test]
fn the_origin_is_told_what_all_workers_handed_over_together() {
    let mut relay = live();
    step(&mut relay, 0, join(1, 1, ROOM));
    step(&mut relay, 0, came_from(2, 6));
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 3)), [""; 0]);
    assert_eq!(step(&mut relay, 0, handed_over(1, 0, 2)), ["tell 2 6: 5"]);
}

#[test]
fn a_receipt_is_owed_for_nobody_too() {
    let mut relay = live();
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 0, came_from(2, 6)), ["tell 2 6: 0"]);
}

#[test]
fn a_publication_that_comes_twice_is_reported_once() {
    let mut relay = live();
    step(&mut relay, 0, came_from(2, 6));
    assert_eq!(step(&mut relay, 0, came_from(2, 6)), [""; 0]);
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 3)), ["tell 2 6: 3"]);
    assert_eq!(step(&mut relay, 0, came_from(2, 6)), [""; 0]);
    assert_eq!(step(&mut relay, 5, Input::TimedOut), [""; 0]);
}

#[test]
fn the_first_receipt_goes_at_once_and_those_that_follow_soon_go_together() {
    let mut relay = live();
    for offset in 6..=8 {
        step(&mut relay, 0, came_from(2, offset));
    }
    assert_eq!(step(&mut relay, 10, handed_over(0, 0, 1)), ["tell 2 6: 1"]);
    assert_eq!(step(&mut relay, 11, handed_over(0, 1, 1)), [""; 0]);
    assert_eq!(step(&mut relay, 12, handed_over(0, 2, 0)), [""; 0]);
    assert_eq!(relay.next_due(), Some(millis(15)));
    assert_eq!(step(&mut relay, 15, Input::TimedOut), ["tell 2 7: 1, 8: 0"]);
    assert_eq!(step(&mut relay, 20, Input::TimedOut), [""; 0]);
    assert_eq!(relay.next_due(), None);
}

#[test]
fn a_receipt_is_complete_with_as_many_reports_as_there_are_subscribers() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, came(6));
    assert_eq!(step(&mut relay, 0, report(2, &[(6, 4)])), [""; 0]);
    assert_eq!(step(&mut relay, 0, heard_by(3, 6)), [""; 0]);
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 1)), [""; 0]);
    assert_eq!(step(&mut relay, 0, report(2, &[(6, 4)])), [""; 0], "counted once");
    assert_eq!(step(&mut relay, 0, report(3, &[(9, 1), (6, 0)])), ["receipt 6: 5 on 2"]);
}

#[test]
fn a_subscriber_that_is_dead_is_not_waited_for() {
    let mut relay = live();
    let beat = |boot| {
        let census = Census::default();
        let beat = Beat { boot, uptime_s: 1, leaving: false, census };
        let (generation, bytes) = (Generation(1), beat.encode());
        Input::Received { generation, channel: Channel::Control, bytes }
    };
    step(&mut relay, 100, beat(BootId(2)));
    step(&mut relay, 3_000, beat(BootId(3)));
    let mut publish = |at: u64, offset: u64| {
        let (mid, deadline) = (position(offset).mid, millis(at + 250));
        step(&mut relay, at, Input::Expected { mid, stream: name(ROOM), deadline });
        step(&mut relay, at, came(offset));
        step(&mut relay, at, Input::Published { mid, subscribers: 3, deadline, ack_by: None });
        step(&mut relay, at, handed_over(0, offset - 6, 1));
        let answer = step(&mut relay, at, report(3, &[(offset, 1)]));
        let later = step(&mut relay, at + 250, Input::TimedOut);
        [answer, vec!["250 ms later".to_owned()], later].concat()
    };
    // As far as anybody knows the second instance is still alive; then it is not.
    assert_eq!(publish(3_050, 6), ["250 ms later", "receipt 6: 2 on 2, or more"]);
    assert_eq!(publish(3_400, 7), ["receipt 7: 2 on 2, or more", "250 ms later"]);
}

#[test]
fn what_a_worker_that_is_behind_may_still_be_given_is_not_counted_out() {
    let mut relay = live();
    for offset in 6..=10 {
        step(&mut relay, 0, came(offset));
    }
    step(&mut relay, 0, expected(12));
    assert_eq!(
        step(&mut relay, 0, came(12)),
        ["reach relay_order_suspect", "read 1 of event:1 after 10"]
    );
    step(&mut relay, 0, published(12));
    // The history begins behind what is lacking, so that the stream goes on from its head.
    assert_eq!(step(&mut relay, 0, history(1, 12..=12)), ["receipt 12: 0 on 0, or more"]);
}

#[test]
fn what_is_filled_in_counts_when_its_own_copy_shows_that_it_was_heard() {
    let mut relay = live();
    step(&mut relay, 0, expected(7));
    step(&mut relay, 0, published(7));
    step(&mut relay, 0, came_from(2, 6));
    step(&mut relay, 0, handed_over(0, 0, 1));
    // A late entry has the stream read, and the history is ahead of what has come.
    let forged = Place::Durable { position: position(3), prev: position(2).mid };
    step(&mut relay, 0, received(1, ROOM, forged));
    assert_eq!(
        step(&mut relay, 0, history(1, 7..=8)),
        ["0: 1 at 7", "0: 2 at 8", "reach relay_gap_filled"]
    );
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 2)), [""; 0], "it may be no subscriber");
    assert_eq!(step(&mut relay, 0, came(7)), ["receipt 7: 2 on 1"]);
}
