use super::*;

fn resume(request: u64, offset: u64) -> Input {
    join_since(0, request, ROOM, since(position(offset)))
}

#[test]
fn a_gap_is_filled_from_the_history_in_order() {
    let mut relay = live();
    assert_eq!(
        step(&mut relay, 0, came(8)),
        ["reach relay_order_suspect", "read 1 of event:1 after 5"]
    );
    assert_eq!(
        step(&mut relay, 0, history(1, 6..=8)),
        ["0: 0 at 6", "0: 1 at 7", "0: 2 at 8", "reach relay_gap_filled"]
    );
    assert_eq!(step(&mut relay, 0, came(9)), ["0: 3 at 9"]);
    assert_eq!((relay.stats().gaps, relay.stats().gaps_filled), (0, 1));
}

#[test]
fn what_was_missed_over_a_reconnect_is_filled_in() {
    let mut relay = live();
    step(&mut relay, 0, Input::LinkDown);
    step(&mut relay, 0, link_up(2));
    assert_eq!(step(&mut relay, 0, subscribed(2, ROOM)), ["read 1 of event:1 after 5"]);
    let place = Place::Durable { position: position(8), prev: position(7).mid };
    assert_eq!(step(&mut relay, 0, received(2, ROOM, place)), [""; 0]);
    assert_eq!(
        step(&mut relay, 0, history(1, 6..=7)),
        ["0: 0 at 6", "0: 1 at 7", "reach relay_gap_filled", "0: 2 at 8"]
    );
}

#[test]
fn a_history_that_was_trimmed_does_not_fill_a_gap() {
    let mut relay = live();
    step(&mut relay, 0, came(9));
    assert_eq!(step(&mut relay, 0, history(1, 7..=9)), ["0: resync event:1 at 9"]);
}

#[test]
fn a_history_with_another_predecessor_does_not_fill_a_gap() {
    let mut relay = live();
    step(&mut relay, 0, came(7));
    let place = Place::Durable { position: position(6), prev: Mid(1) };
    let forged = Entry { place, body: body() }.encode();
    let history = History { head: position(7), entries: vec![forged, kept(7)], latest: Vec::new() };
    let read = Input::Read { read: ReadId(1), history: Some(history) };
    assert_eq!(step(&mut relay, 0, read), ["0: resync event:1 at 7"]);
}

#[test]
fn who_comes_back_is_given_exactly_what_it_missed() {
    let mut relay = live();
    for offset in 6..=8 {
        step(&mut relay, 0, came(offset));
    }
    assert_eq!(step(&mut relay, 0, resume(7, 6)), ["read 1 of event:1 after 6"]);
    assert_eq!(step(&mut relay, 0, history(1, 7..=8)), ["0: joined 7 at 8, recovered +7 +8"]);
    assert_eq!(step(&mut relay, 0, resume(8, 8)), ["0: joined 8 at 8, recovered"]);
}

#[test]
fn what_comes_while_the_history_is_read_is_part_of_the_suffix() {
    let mut relay = live();
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, resume(7, 5));
    assert_eq!(step(&mut relay, 0, came(7)), ["0: 1 at 7"], "members don't wait");
    assert_eq!(step(&mut relay, 0, history(1, 6..=6)), ["0: joined 7 at 7, recovered +6 +7"]);
    // The history may also be ahead of what has come.
    step(&mut relay, 0, resume(8, 6));
    assert_eq!(step(&mut relay, 0, history(2, 7..=9)), ["0: joined 8 at 7, recovered +7"]);
}

#[test]
fn those_who_come_back_together_share_a_read() {
    let mut relay = live();
    for offset in 6..=8 {
        step(&mut relay, 0, came(offset));
    }
    assert_eq!(step(&mut relay, 0, resume(7, 5)), ["read 1 of event:1 after 5"]);
    for request in 8..1_000 {
        assert_eq!(step(&mut relay, 0, resume(request, 5 + request % 3)), [""; 0]);
    }
    let answers = step(&mut relay, 0, history(1, 6..=8));
    assert_eq!(answers.len(), 1_000 - 7);
    assert_eq!(answers[1], "0: joined 8 at 8, recovered +8");
}

#[test]
fn who_needs_more_than_was_asked_for_is_read_for_once_more() {
    let mut relay = live();
    for offset in 6..=8 {
        step(&mut relay, 0, came(offset));
    }
    step(&mut relay, 0, resume(7, 7));
    step(&mut relay, 0, resume(8, 5));
    assert_eq!(
        step(&mut relay, 0, history(1, 8..=8)),
        ["0: joined 7 at 8, recovered +8", "read 2 of event:1 after 5"]
    );
    assert_eq!(step(&mut relay, 0, history(2, 6..=8)), ["0: joined 8 at 8, recovered +6 +7 +8"]);
}

#[test]
fn a_since_that_is_foreign_expired_or_of_the_future_is_not_recovered() {
    let mut relay = live();
    for offset in 6..=8 {
        step(&mut relay, 0, came(offset));
    }
    let forged = Position { mid: Mid(1 << 32), ..position(6) };
    step(&mut relay, 0, join_since(0, 7, ROOM, since(forged)));
    assert_eq!(step(&mut relay, 0, history(1, 7..=8)), ["0: joined 7 at 8"]);
    step(&mut relay, 0, resume(8, 5));
    assert_eq!(step(&mut relay, 0, history(2, 7..=8)), ["0: joined 8 at 8"], "it is trimmed");
    assert_eq!(step(&mut relay, 0, resume(9, 99)), ["0: joined 9 at 8"]);
    let other = Position { epoch: Epoch(2), ..position(6) };
    assert_eq!(step(&mut relay, 0, join_since(0, 10, ROOM, since(other))), ["0: joined 10 at 8"]);
}

#[test]
fn a_stream_that_nobody_was_in_is_resumed_by_the_read_of_its_head() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, resume(0, 3));
    assert_eq!(step(&mut relay, 0, subscribed(1, ROOM)), ["read 0 of event:1 after 3"]);
    assert_eq!(step(&mut relay, 0, history(0, 4..=5)), ["0: joined 0 at 5, recovered +4 +5"]);
}

#[test]
fn a_worker_that_fell_behind_is_given_what_it_lacks() {
    let mut relay = live();
    step(&mut relay, 0, join(1, 1, ROOM));
    for offset in 6..=9 {
        step(&mut relay, 0, came(offset));
        step(&mut relay, 0, handed_over(1, offset - 6, 1));
    }
    for offset in 10..=11 {
        let sent = step(&mut relay, 0, came(offset));
        assert!(sent.iter().any(|sent| sent.starts_with("1: ")), "the other one goes on: {sent:?}");
    }
    step(&mut relay, 0, handed_over(0, 0, 1));
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 1)), ["read 1 of event:1 after 9"]);
    assert_eq!(
        step(&mut relay, 0, history(1, 10..=11)),
        ["reach relay_worker_refed", "0: 6 at 10", "0: 7 at 11"]
    );
    step(&mut relay, 0, handed_over(0, 2, 1));
    assert_eq!(step(&mut relay, 0, came(12)), ["0: 8 at 12", "1: 8 at 12"]);
}

#[test]
fn a_worker_whose_lack_is_no_longer_kept_is_told_so() {
    let mut relay = live();
    for offset in 6..=10 {
        step(&mut relay, 0, came(offset));
    }
    step(&mut relay, 0, handed_over(0, 0, 1));
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 1)), ["read 1 of event:1 after 9"]);
    for again in 2..=3 {
        let read = format!("read {again} of event:1 after 9");
        let lost = step(&mut relay, 0, head_at(again - 1, Some(position(9))));
        assert_eq!(lost, ["reach relay_history_read_again".to_owned(), read]);
    }
    assert_eq!(
        step(&mut relay, 0, head_at(3, Some(position(9)))),
        ["reach relay_worker_not_refed", "0: resync event:1 at 10"]
    );
}

#[test]
fn who_comes_back_while_the_history_can_not_be_read_joins_without_it() {
    let mut relay = live();
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, resume(7, 5));
    step(&mut relay, 0, resume(8, 4));
    assert_eq!(step(&mut relay, 0, head_at(1, None)), ["0: joined 7 at 6", "0: joined 8 at 6"]);
    assert_eq!(step(&mut relay, 0, came(7)), ["0: 1 at 7"]);
}

#[test]
fn a_history_that_comes_when_nobody_is_left_is_ignored() {
    let mut relay = live();
    step(&mut relay, 0, came(6));
    step(&mut relay, 0, resume(7, 5));
    step(&mut relay, 0, vacated(0, ROOM));
    step(&mut relay, 0, Input::LinkDown);
    assert_eq!(relay.stats().streams, 0);
    assert_eq!(step(&mut relay, 0, history(1, 6..=6)), [""; 0]);
}

#[test]
fn a_join_of_a_worker_that_is_behind_is_read_for_when_it_is_relieved() {
    let mut relay = live();
    step(&mut relay, 0, join(1, 1, ROOM));
    for offset in 6..=10 {
        step(&mut relay, 0, came(offset));
        step(&mut relay, 0, handed_over(1, offset - 6, 1));
    }
    assert_eq!(step(&mut relay, 0, resume(7, 7)), [""; 0]);
    let there = Input::FromShard {
        worker: WorkerId(1),
        message: ToRelay::Join {
            request: RequestId(8),
            stream: name(ROOM),
            since: since(position(8)),
        },
    };
    assert_eq!(step(&mut relay, 0, there), ["read 1 of event:1 after 7"]);
    assert_eq!(
        step(&mut relay, 0, history(1, 8..=10)),
        ["1: joined 8 at 10, recovered +9 +10"],
        "nothing is read again for nothing"
    );
    step(&mut relay, 0, handed_over(0, 0, 1));
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 1)), ["read 2 of event:1 after 7"]);
    assert_eq!(
        step(&mut relay, 0, history(2, 8..=10)),
        ["reach relay_worker_refed", "0: 5 at 10", "0: joined 7 at 10, recovered +8 +9 +10"]
    );
}
