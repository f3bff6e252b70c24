use super::*;

const OTHER: &str = "event:2";

#[test]
fn what_is_held_waits_for_the_head_until_the_repair_timeout() {
    let mut relay = live();
    assert_eq!(
        step(&mut relay, 100, came(7)),
        ["reach relay_order_suspect", "read 1 of event:1 after 5"]
    );
    assert_eq!(step(&mut relay, 900, came(8)), [""; 0]);
    assert_eq!(relay.next_due(), Some(millis(2_100)));
    assert_eq!(
        step(&mut relay, 2_100, Input::TimedOut),
        [
            "reach relay_repair_timed_out",
            "0: resync event:1 at 6",
            "0: 0 at 7",
            "0: 1 at 8",
            "read 2 of event:1 after 8"
        ]
    );
    assert_eq!(step(&mut relay, 2_200, came(9)), [""; 0]);
    assert_eq!(step(&mut relay, 2_200, history(1, 6..=8)), [""; 0]);
    assert_eq!(step(&mut relay, 2_300, history(2, 9..=9)), ["0: 2 at 9"]);
    assert_eq!(step(&mut relay, 2_300, came(10)), ["0: 3 at 10"]);
}

#[test]
fn what_follows_the_last_one_is_no_reason_to_tell_anybody_when_it_has_waited() {
    let mut relay = live();
    step(&mut relay, 0, link_up(2));
    step(&mut relay, 0, subscribed(2, ROOM));
    let came = |offset| {
        let (position, prev) = (position(offset), position(offset - 1).mid);
        received(2, ROOM, Place::Durable { position, prev })
    };
    step(&mut relay, 0, came(6));
    step(&mut relay, 10, came(7));
    let said = step(&mut relay, 2_000, Input::TimedOut);
    let expected = ["reach relay_repair_timed_out", "0: 0 at 6", "0: 1 at 7"];
    assert_eq!(said[..3], expected);
    assert_eq!(said[3..], ["read 2 of event:1 after 7"]);
}

#[test]
fn reads_that_fail_do_not_make_what_is_held_wait_longer() {
    let mut relay = live();
    step(&mut relay, 0, came(7));
    let (mut now, mut read, mut said) = (0, 1, Vec::new());
    while now < 2_000 {
        step(&mut relay, now, head_at(read, None));
        now = relay.next_due().unwrap().0 / 1_000_000 + 1;
        said = step(&mut relay, now, Input::TimedOut);
        read += 1;
    }
    assert!(now <= 2_001, "{now}");
    assert_eq!(said[..2], ["reach relay_repair_timed_out", "0: resync event:1 at 6"]);
}

#[test]
fn who_is_given_the_missed_in_time_is_told_nothing() {
    let mut relay = live();
    step(&mut relay, 0, came(7));
    let said = step(&mut relay, 1_999, history(1, 6..=7));
    assert_eq!(said, ["0: 0 at 6", "0: 1 at 7", "reach relay_gap_filled"]);
    assert_eq!(step(&mut relay, 2_000, Input::TimedOut), [""; 0]);
    step(&mut relay, 5_000, came(9));
    assert_eq!(relay.next_due(), Some(millis(7_000)));
}

#[test]
fn an_answer_of_the_broker_hurries_the_reads_that_wait() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    for (request, room) in [(1, ROOM), (2, OTHER)] {
        step(&mut relay, 0, join(0, request, room));
        step(&mut relay, 0, subscribed(1, room));
    }
    let (mut now, mut read) = (0, 1);
    step(&mut relay, 0, head_at(0, None));
    step(&mut relay, 0, head_at(1, None));
    for _ in 0..12 {
        now = relay.next_due().unwrap().0.div_ceil(1_000_000);
        for action in step(&mut relay, now, Input::TimedOut) {
            assert!(action.starts_with("read "), "{action}");
            read += 1;
            step(&mut relay, now, head_at(read, None));
        }
    }
    let far = relay.next_due().unwrap();
    assert!(far > millis(now + 1_000), "{far:?} {now}");

    // The one whose time comes first is answered; the other is read right after it.
    now = far.0.div_ceil(1_000_000);
    assert_eq!(step(&mut relay, now, Input::TimedOut).len(), 1);
    let said = step(&mut relay, now, head(read + 1, 5));
    assert_eq!(said.last().unwrap(), "reach relay_reads_hurried");
    assert!(relay.next_due().unwrap() <= millis(now + 1));
    assert_eq!(step(&mut relay, now + 1, Input::TimedOut).len(), 1);

    // If it can't be read still, other answers do not hurry it again so soon.
    step(&mut relay, now + 1, head_at(read + 2, None));
    step(&mut relay, now + 1, join(0, 3, "event:3"));
    step(&mut relay, now + 1, subscribed(1, "event:3"));
    let said = step(&mut relay, now + 1, head(read + 3, 5));
    assert_eq!(said, ["0: joined 3 at 5"]);
}
