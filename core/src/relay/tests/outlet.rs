use super::*;

/// Fills the queue of worker 0, then publishes one more: entries 6 to 10, dispatches 0 to 3.
fn behind() -> Relay {
    let mut relay = live();
    for offset in 6..=9 {
        step(&mut relay, 0, came(offset));
    }
    assert_eq!(step(&mut relay, 0, came(10)), ["reach relay_worker_full"]);
    relay
}

fn ingress(bytes: &'static [u8]) -> Input {
    Input::Received {
        generation: Generation(1),
        channel: Channel::Ingress(Ingress::Ticket),
        bytes: Bytes::from_static(bytes),
    }
}

#[test]
fn a_full_worker_gets_nothing_until_it_is_half_empty_and_then_what_it_lacks() {
    let mut relay = behind();
    step(&mut relay, 0, handed_over(0, 0, 1));
    assert_eq!(step(&mut relay, 0, came(11)), [""; 0]);
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 1)), ["read 1 of event:1 after 9"]);
    assert_eq!(
        step(&mut relay, 0, history(1, 10..=11)),
        ["reach relay_worker_refed", "0: 4 at 10", "0: 5 at 11"]
    );
    step(&mut relay, 0, handed_over(0, 2, 1));
    assert_eq!(step(&mut relay, 0, came(12)), ["0: 6 at 12"]);
    assert_eq!((relay.stats().queue_full, relay.stats().resyncs), (2, 0));
}

#[test]
fn a_full_worker_does_not_hold_others_up() {
    let mut relay = behind();
    assert_eq!(step(&mut relay, 0, join(1, 1, ROOM)), ["1: joined 1 at 10"]);
    assert_eq!(step(&mut relay, 0, came(11)), ["1: 4 at 11"]);
}

#[test]
fn joins_of_a_full_worker_are_answered_when_it_has_caught_up() {
    let mut relay = behind();
    assert_eq!(step(&mut relay, 0, join(0, 1, ROOM)), [""; 0]);
    step(&mut relay, 0, handed_over(0, 0, 1));
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 1)), ["read 1 of event:1 after 9"]);
    assert_eq!(
        step(&mut relay, 0, history(1, 10..=10)),
        ["reach relay_worker_refed", "0: 4 at 10", "0: joined 1 at 10"]
    );
}

#[test]
fn a_worker_that_catches_up_while_the_head_is_read_is_resynced_after_that() {
    let mut relay = behind();
    step(&mut relay, 0, came(4));
    step(&mut relay, 0, handed_over(0, 0, 1));
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 1)), [""; 0]);
    assert_eq!(step(&mut relay, 0, head(1, 10)), ["0: resync event:1 at 10"]);
}

#[test]
fn a_worker_that_leaves_while_it_is_behind_is_sent_nothing_more() {
    let mut relay = behind();
    step(&mut relay, 0, vacated(0, ROOM));
    step(&mut relay, 0, handed_over(0, 0, 1));
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 1)), [""; 0]);
}

#[test]
fn a_worker_that_was_behind_when_the_link_went_is_resynced_once() {
    let mut relay = behind();
    assert_eq!(step(&mut relay, 0, join(0, 1, ROOM)), [""; 0]);
    assert_eq!(step(&mut relay, 0, Input::LinkDown), ["0: join 1 failed"]);
    step(&mut relay, 0, link_up(2));
    step(&mut relay, 0, subscribed(2, ROOM));
    assert_eq!(step(&mut relay, 0, head(1, 12)), [""; 0]);
    step(&mut relay, 0, handed_over(0, 0, 1));
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 1)), ["0: resync event:1 at 12"]);
}

#[test]
fn a_queue_is_bounded_in_bytes_but_takes_anything_when_it_is_empty() {
    let limits = RelayLimits { in_flight_bytes_max: 10, ..limits() };
    let mut relay = Relay::new(limits, BOOT, 7, Instant(0));
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 0, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    step(&mut relay, 0, head(0, 5));
    assert_eq!(step(&mut relay, 0, came(6)), ["0: 0 at 6"]);
    assert_eq!(step(&mut relay, 0, came(7)), ["reach relay_worker_full"]);
    assert_eq!(step(&mut relay, 0, handed_over(0, 0, 1)), ["read 1 of event:1 after 6"]);
    let refed = ["reach relay_worker_refed", "0: 1 at 7"];
    assert_eq!(step(&mut relay, 0, history(1, 7..=7)), refed);
}

#[test]
fn a_report_counts_once_and_only_from_a_worker_that_owes_it() {
    let mut relay = behind();
    for _ in 0..3 {
        assert_eq!(step(&mut relay, 0, handed_over(0, 0, 1)), [""; 0]);
        assert_eq!(step(&mut relay, 0, handed_over(1, 1, 1)), [""; 0]);
        assert_eq!(step(&mut relay, 0, handed_over(0, 77, 1)), [""; 0]);
    }
    assert_eq!(step(&mut relay, 0, handed_over(0, 1, 1)), ["read 1 of event:1 after 9"]);
}

#[test]
fn ingress_messages_reach_members_without_a_position() {
    let mut relay = live();
    step(&mut relay, 0, join(0, 1, "user:u1"));
    let to_room = br#"{"type":"ticket:reserved","room":"event:1","payload":{}}"#;
    assert_eq!(step(&mut relay, 0, ingress(to_room)), ["0: 0 at nowhere"]);
    // The user's stream is not live yet: best effort needs no order.
    let to_user = br#"{"type":"ticket:reserved","user_id":"u1","payload":{}}"#;
    assert_eq!(step(&mut relay, 0, ingress(to_user)), ["0: 1 at nowhere"]);
    let to_nobody = br#"{"type":"ticket:reserved","room":"event:2","payload":{}}"#;
    assert_eq!(step(&mut relay, 0, ingress(to_nobody)), [""; 0]);
    assert_eq!(relay.stats().received_ingress, [0, 0, 3, 0]);
}

#[test]
fn bad_ingress_messages_are_dropped_and_counted() {
    let mut relay = live();
    assert_eq!(step(&mut relay, 0, ingress(b"{")), [""; 0]);
    assert_eq!(step(&mut relay, 0, ingress(br#"{"type":"system:ping"}"#)), [""; 0]);
    assert_eq!((relay.stats().ingress_invalid, relay.stats().streams), (2, 1));
}

#[test]
fn best_effort_messages_leave_half_of_a_queue_to_the_others() {
    let mut relay = live();
    let flood = || ingress(br#"{"type":"ticket:released","room":"event:1","payload":{}}"#);
    assert_eq!(step(&mut relay, 0, flood()), ["0: 0 at nowhere"]);
    assert_eq!(step(&mut relay, 0, flood()), ["0: 1 at nowhere"]);
    assert_eq!(step(&mut relay, 0, flood()), ["reach relay_worker_full"]);
    // Nothing durable was kept back, so that there is nothing to catch up with.
    assert_eq!(step(&mut relay, 0, came(6)), ["0: 2 at 6"]);
    assert_eq!(step(&mut relay, 0, came(7)), ["0: 3 at 7"]);
    assert_eq!(relay.stats().queue_full, 1);
}

#[test]
fn members_get_longer_to_refetch_when_many_must() {
    let mut relay = relay();
    for user in 0..20_000 {
        step(&mut relay, 0, join(0, user, &format!("user:{user}")));
    }
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, subscribed(1, "user:0"));
    let mut actions = Vec::new();
    relay.handle(Instant(0), head(0, 5), &mut actions);
    let stream = name("user:0");
    let message =
        ToShard::Resync { stream, by_all: false, position: Some(position(5)), spread_ms: 10_000 };
    assert_eq!(actions[0], Action::ToShard { worker: WorkerId(0), message });
}

#[test]
fn a_flooded_room_does_not_cost_a_user_a_notification() {
    const USER: &str = "user:u1";
    let mut relay = behind();
    step(&mut relay, 0, join(0, 1, USER));
    step(&mut relay, 0, subscribed(1, USER));
    step(&mut relay, 0, head(1, 1));
    let place = Place::Durable { position: position(2), prev: position(1).mid };
    assert_eq!(step(&mut relay, 0, received(1, USER, place)), ["0: 4 at 2"]);
}
