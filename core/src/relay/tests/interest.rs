use super::*;

#[test]
fn a_join_is_answered_once_the_stream_is_subscribed_and_its_head_known() {
    let mut relay = relay();
    assert_eq!(step(&mut relay, 0, link_up(1)), [""; 0]);
    assert_eq!(step(&mut relay, 0, join(0, 7, ROOM)), ["subscribe event:1"]);
    assert_eq!(step(&mut relay, 0, subscribed(1, ROOM)), ["read 0 of event:1"]);
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["0: joined 7 at 5"]);
    assert_eq!(relay.next_due(), None);
}

#[test]
fn a_join_of_a_live_stream_is_answered_at_once() {
    let mut relay = live();
    step(&mut relay, 0, came(6));
    assert_eq!(step(&mut relay, 0, join(1, 1, ROOM)), ["1: joined 1 at 6"]);
}

#[test]
fn joins_of_one_stream_share_a_subscription_and_a_read() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    assert_eq!(step(&mut relay, 0, join(1, 1, ROOM)), [""; 0]);
    step(&mut relay, 0, subscribed(1, ROOM));
    assert_eq!(step(&mut relay, 0, join(0, 2, ROOM)), [""; 0]);
    assert_eq!(
        step(&mut relay, 0, head(0, 5)),
        ["0: joined 1 at 5", "0: joined 2 at 5", "1: joined 1 at 5"]
    );
}

#[test]
fn a_client_that_was_at_the_position_answered_has_recovered() {
    let mut relay = live();
    let joined = |relay: &mut Relay, at| step(relay, 0, join_since(1, 1, ROOM, since(at)));
    assert_eq!(joined(&mut relay, position(5)), ["1: joined 1 at 5, recovered"]);
    let forged = Position { mid: Mid(1), ..position(5) };
    assert_eq!(joined(&mut relay, forged), ["1: joined 1 at 5"]);
    let foreign = Position { epoch: Epoch(2), ..position(5) };
    assert_eq!(joined(&mut relay, foreign), ["1: joined 1 at 5"]);
}

#[test]
fn without_a_broker_joins_fail_at_once_and_members_are_told_when_it_is_back() {
    let mut relay = relay();
    assert_eq!(step(&mut relay, 0, join(0, 1, "all")), ["0: join 1 failed"]);
    assert_eq!(step(&mut relay, 0, link_up(1)), ["subscribe all"]);
    step(&mut relay, 0, subscribed(1, "all"));
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["0: resync newcomers of all at 5"]);
    assert_eq!(relay.stats().gaps, 0);
}

#[test]
fn a_refused_newcomer_does_not_cost_members_a_resync_when_nothing_was_missed() {
    let mut relay = live();
    step(&mut relay, 0, Input::LinkDown);
    assert_eq!(step(&mut relay, 0, join(0, 1, ROOM)), ["0: join 1 failed"]);
    step(&mut relay, 0, link_up(2));
    step(&mut relay, 0, subscribed(2, ROOM));
    assert_eq!(step(&mut relay, 0, head(1, 5)), ["0: resync newcomers of event:1 at 5"]);
}

#[test]
fn members_are_told_what_they_missed_whether_or_not_a_newcomer_was_refused() {
    let mut relay = live();
    step(&mut relay, 0, Input::LinkDown);
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, link_up(2));
    step(&mut relay, 0, subscribed(2, ROOM));
    assert_eq!(step(&mut relay, 0, head(1, 6)), ["0: resync event:1 at 6"]);
}

#[test]
fn without_a_broker_a_vacated_stream_is_forgotten() {
    let mut relay = relay();
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(relay.stats().streams, 0);
    assert_eq!(step(&mut relay, 0, link_up(1)), [""; 0]);
}

#[test]
fn losing_the_link_fails_the_joins_that_wait() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    assert_eq!(step(&mut relay, 0, Input::LinkDown), ["0: join 1 failed"]);
    assert_eq!(step(&mut relay, 0, head(0, 5)), [""; 0]);
    assert_eq!(relay.next_due(), None);
}

#[test]
fn a_new_link_subscribes_rooms_before_users_and_in_portions() {
    let mut relay = relay();
    for user in 0..1_500 {
        step(&mut relay, 0, join(0, user, &format!("user:{user}")));
    }
    step(&mut relay, 0, join(0, 1_500, ROOM));
    step(&mut relay, 0, join(0, 1_501, "all"));
    let asked = step(&mut relay, 0, link_up(1));
    assert_eq!(asked[..3], ["subscribe event:1", "subscribe all", "subscribe user:0"]);
    assert_eq!(asked.len(), 1_000);
    assert_eq!(step(&mut relay, 0, subscribed(1, ROOM)), ["read 0 of event:1"]);
    assert_eq!(
        step(&mut relay, 0, head(0, 5)),
        ["0: resync newcomers of event:1 at 5", "subscribe user:998"]
    );
}

#[test]
fn somebody_who_waits_comes_before_the_streams_that_are_restored() {
    let mut relay = relay();
    for user in 0..1_002 {
        step(&mut relay, 0, join(0, user, &format!("user:{user}")));
    }
    step(&mut relay, 0, link_up(1));
    assert_eq!(step(&mut relay, 0, join(0, 2_000, "user:1001")), [""; 0]);
    step(&mut relay, 0, subscribed(1, "user:0"));
    let freed = step(&mut relay, 0, head(0, 5));
    assert_eq!(freed, ["0: resync newcomers of user:0 at 5", "subscribe user:1001"]);
}

#[test]
fn a_join_whose_stream_does_not_get_its_turn_fails_in_time() {
    let mut relay = relay();
    for user in 0..1_000 {
        step(&mut relay, 0, join(0, user, &format!("user:{user}")));
    }
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 100, join(0, 1_000, ROOM));
    step(&mut relay, 2_000, Input::TimedOut);
    assert_eq!(step(&mut relay, 2_100, Input::TimedOut), ["0: join 1000 failed"]);
}

#[test]
fn streams_unchanged_while_the_link_was_down_go_on_silently() {
    let mut relay = live();
    step(&mut relay, 0, Input::LinkDown);
    assert_eq!(step(&mut relay, 0, link_up(2)), ["subscribe event:1"]);
    step(&mut relay, 0, subscribed(2, ROOM));
    assert_eq!(step(&mut relay, 0, head(1, 5)), [""; 0]);
    assert_eq!(relay.stats().resyncs, 0);
}

#[test]
fn streams_that_went_on_while_the_link_was_down_are_resynced() {
    let mut relay = live();
    step(&mut relay, 0, Input::LinkDown);
    step(&mut relay, 0, link_up(2));
    step(&mut relay, 0, subscribed(2, ROOM));
    assert_eq!(step(&mut relay, 0, head(1, 6)), ["0: resync event:1 at 6"]);
    assert_eq!((relay.stats().resyncs, relay.stats().gaps), (1, 1));
}

#[test]
fn a_new_link_without_word_of_the_old_ones_end_replaces_it() {
    let mut relay = live();
    assert_eq!(step(&mut relay, 0, link_up(2)), ["subscribe event:1"]);
    assert_eq!(step(&mut relay, 0, link_up(1)), [""; 0]);
    assert_eq!(step(&mut relay, 0, subscribed(1, ROOM)), [""; 0]);
    assert_eq!(step(&mut relay, 0, subscribed(2, ROOM)), ["read 1 of event:1 after 5"]);
}

#[test]
fn an_unconfirmed_subscription_is_asked_for_again() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    assert_eq!(relay.next_due(), Some(millis(2_000)));
    assert_eq!(
        step(&mut relay, 2_000, Input::TimedOut),
        ["reach relay_subscribe_unanswered", "0: join 1 failed", "subscribe event:1"]
    );
    step(&mut relay, 2_100, subscribed(1, ROOM));
    assert_eq!(step(&mut relay, 2_100, head(0, 5)), ["0: resync newcomers of event:1 at 5"]);
    assert_eq!(step(&mut relay, 2_200, subscribed(1, ROOM)), [""; 0]);
}

#[test]
fn a_vacated_stream_lingers_then_is_unsubscribed_and_forgotten() {
    let mut relay = live();
    assert_eq!(step(&mut relay, 1_000, vacated(0, ROOM)), [""; 0]);
    assert_eq!(relay.next_due(), Some(millis(31_000)));
    assert_eq!(step(&mut relay, 30_999, Input::TimedOut), [""; 0]);
    assert_eq!(step(&mut relay, 31_000, Input::TimedOut), ["unsubscribe event:1"]);
    assert_eq!(relay.stats().streams, 1);
    assert_eq!(step(&mut relay, 31_100, unsubscribed(1, ROOM)), [""; 0]);
    assert_eq!((relay.stats().streams, relay.next_due()), (0, None));
}

#[test]
fn a_join_keeps_a_lingering_stream() {
    let mut relay = live();
    step(&mut relay, 1_000, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 2_000, came(6)), [""; 0]);
    assert_eq!(step(&mut relay, 3_000, join(1, 9, ROOM)), ["1: joined 9 at 6"]);
    assert_eq!(relay.next_due(), None);
}

#[test]
fn a_join_during_an_unsubscribe_waits_for_its_end() {
    let mut relay = live();
    step(&mut relay, 0, vacated(0, ROOM));
    step(&mut relay, 30_000, Input::TimedOut);
    assert_eq!(step(&mut relay, 30_001, join(0, 9, ROOM)), [""; 0]);
    assert_eq!(
        step(&mut relay, 30_002, unsubscribed(1, ROOM)),
        ["reach relay_joined_while_unsubscribing", "subscribe event:1"]
    );
    step(&mut relay, 30_003, subscribed(1, ROOM));
    assert_eq!(step(&mut relay, 30_003, head(1, 8)), ["0: joined 9 at 8"]);
}

#[test]
fn a_join_does_not_wait_for_ever_for_the_end_of_an_unsubscribe() {
    let mut relay = live();
    step(&mut relay, 0, vacated(0, ROOM));
    step(&mut relay, 30_000, Input::TimedOut);
    assert_eq!(relay.next_due(), None);
    step(&mut relay, 31_000, join(0, 9, ROOM));
    assert_eq!(
        step(&mut relay, 33_000, Input::TimedOut),
        ["reach relay_unsubscribe_unanswered", "0: join 9 failed"]
    );
    step(&mut relay, 34_000, unsubscribed(1, ROOM));
    step(&mut relay, 34_000, subscribed(1, ROOM));
    assert_eq!(step(&mut relay, 34_000, head(1, 8)), ["0: resync newcomers of event:1 at 8"]);
}

#[test]
fn a_stream_vacated_before_it_is_confirmed_lingers_too() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 40_000, subscribed(1, ROOM)), [""; 0]);
    assert_eq!(step(&mut relay, 50_000, join(0, 2, ROOM)), ["read 0 of event:1"]);
    step(&mut relay, 50_000, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 50_001, head(0, 5)), [""; 0]);
    assert_eq!(step(&mut relay, 80_000, Input::TimedOut), ["unsubscribe event:1"]);
}

#[test]
fn a_vacated_stream_is_subscribed_again_until_it_can_be_unsubscribed() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(
        step(&mut relay, 30_000, Input::TimedOut),
        ["reach relay_subscribe_unanswered", "subscribe event:1"]
    );
    assert_eq!(step(&mut relay, 30_000, subscribed(1, ROOM)), [""; 0]);
    assert_eq!(step(&mut relay, 60_000, Input::TimedOut), ["unsubscribe event:1"]);
    step(&mut relay, 60_000, unsubscribed(1, ROOM));
    assert_eq!((relay.stats().streams, relay.next_due()), (0, None));
}

#[test]
fn joins_that_come_and_go_do_not_put_off_that_a_subscription_is_asked_for_again() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    let asked = step(&mut relay, 0, join(0, 1, ROOM));
    assert_eq!(asked, ["subscribe event:1"]);
    let due = relay.next_due();
    step(&mut relay, 500, vacated(0, ROOM));
    step(&mut relay, 1_000, join(0, 2, ROOM));
    assert_eq!(relay.next_due(), due);
}

#[test]
fn a_lingering_stream_is_forgotten_with_the_link() {
    let mut relay = live();
    step(&mut relay, 0, vacated(0, ROOM));
    step(&mut relay, 0, Input::LinkDown);
    assert_eq!((relay.stats().streams, relay.next_due()), (0, None));
}

#[test]
fn vacating_drops_the_joins_that_wait_and_nobody_elses() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 1, ROOM));
    step(&mut relay, 0, join(1, 2, ROOM));
    step(&mut relay, 0, vacated(0, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["1: joined 2 at 5"]);
}

#[test]
fn joins_beyond_what_may_wait_fail_and_the_stream_comes_up_all_the_same() {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    let mut actions = Vec::new();
    for request in 0..1 << 18 {
        relay.handle(Instant(0), join(0, request, ROOM), &mut actions);
        actions.clear();
    }
    assert_eq!(
        step(&mut relay, 0, join(1, 1, "event:2")),
        ["1: join 1 failed", "subscribe event:2"]
    );
    step(&mut relay, 0, vacated(0, ROOM));
    assert_eq!(step(&mut relay, 0, join(1, 2, "event:2")), [""; 0]);
    step(&mut relay, 0, subscribed(1, "event:2"));
    assert_eq!(
        step(&mut relay, 0, head(0, 5)),
        ["1: resync newcomers of event:2 at 5", "1: joined 2 at 5"]
    );
}

#[test]
fn without_positions_a_stream_is_live_when_it_is_subscribed() {
    let mut relay = Relay::new(RelayLimits { positions: false, ..limits() }, BOOT, 7, Instant(0));
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join_since(0, 1, ROOM, since(position(5))));
    assert_eq!(step(&mut relay, 0, subscribed(1, ROOM)), ["0: joined 1 at nowhere"]);
    assert_eq!(step(&mut relay, 0, came(9)), ["0: 0 at nowhere"]);
    assert_eq!(step(&mut relay, 0, came(3)), ["0: 1 at nowhere"]);
    step(&mut relay, 0, link_up(2));
    assert_eq!(step(&mut relay, 0, subscribed(2, ROOM)), ["0: resync event:1 at nowhere"]);
}
