use super::*;

/// The service waits until 250 ms for the publication number `offset`.
fn expected(offset: u64) -> Input {
    expected_in(offset, ROOM)
}

fn expected_in(offset: u64, room: &str) -> Input {
    Input::Expected { mid: position(offset).mid, stream: name(room), deadline: millis(250) }
}

fn published(offset: u64) -> Input {
    Input::Published { mid: position(offset).mid }
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
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 3)), ["receipt 6: 5"]);
    assert_eq!(relay.next_deadline(), None);
}

#[test]
fn a_publication_without_members_is_answered_when_it_is_published() {
    let mut relay = live();
    step(&mut relay, 0, expected_in(6, "event:2"));
    assert_eq!(step(&mut relay, 0, published(6)), ["receipt 6: 0"]);
}

#[test]
fn a_publish_that_failed_is_not_waited_for() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    let unpublished = Input::Unpublished { mid: position(6).mid };
    assert_eq!(step(&mut relay, 0, unpublished.clone()), ["receipt 6: 0"]);
    assert_eq!(relay.next_deadline(), None);
    assert_eq!(step(&mut relay, 0, unpublished), [""; 0]);
}

#[test]
fn a_publication_that_comes_in_after_the_last_member_left_reached_nobody() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, published(6));
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 0, came(6)), ["receipt 6: 0"]);
}

#[test]
fn workers_that_left_still_report_what_they_were_given() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 0, published(6)), [""; 0]);
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 1)), ["receipt 6: 1"]);
}

#[test]
fn at_its_deadline_a_receipt_says_what_was_counted_so_far() {
    let mut relay = live();
    step(&mut relay, 0, join(1, 1, ROOM));
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, handed_over(0, 0, 3));
    assert_eq!(relay.next_deadline(), Some(millis(250)));
    assert_eq!(step(&mut relay, 249, Input::TimedOut), [""; 0]);
    assert_eq!(step(&mut relay, 250, Input::TimedOut), ["receipt 6: 3"]);
    assert_eq!(step(&mut relay, 251, handed_over(1, 0, 2)), [""; 0]);
}

#[test]
fn a_publication_that_comes_twice_counts_once() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, came(6));
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 3)), ["receipt 6: 3"]);
}

#[test]
fn a_lost_link_answers_what_can_not_come_in_any_more() {
    let mut relay = live();
    step(&mut relay, 0, expected(6));
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, expected(7));
    assert_eq!(step(&mut relay, 0, Input::LinkDown), ["receipt 7: 0"]);
    step(&mut relay, 0, expected(8));
    assert_eq!(step(&mut relay, 0, published(8)), ["receipt 8: 0"]);
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 3)), ["receipt 6: 3"]);
}

#[test]
fn a_publication_that_the_head_covers_reached_nobody() {
    let mut relay = live();
    step(&mut relay, 0, expected(7));
    step(&mut relay, 0, came(7));
    assert_eq!(step(&mut relay, 0, head(1, 7)), ["0: resync event:1 at 7", "receipt 7: 0"]);
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
    step(&mut relay, 0, came_latest(5));
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 1)), ["receipt 99: 1"]);
}

#[test]
fn a_full_worker_is_not_waited_for() {
    let mut relay = live();
    for offset in 6..=9 {
        step(&mut relay, 0, came(offset));
    }
    step(&mut relay, 0, expected(10));
    assert_eq!(step(&mut relay, 0, came(10)), ["reach relay_worker_full", "receipt 10: 0"]);
}
