use super::*;

const TOKEN: Handshake<'_> =
    Handshake { token: true, origin: None, since: None, since_all: None, instance_connections: 0 };

fn verified(bed: &mut Bed, slot: u32, identity: Identity) -> Vec<String> {
    bed.step(Input::Verified { conn: conn(slot), outcome: Ok(identity), user_connections: 0 })
}

#[test]
fn an_anonymous_connection_is_greeted_when_it_is_seated_in_all() {
    let mut bed = bed();
    assert_eq!(bed.arrive(0, Handshake::default()), ["join 0 all"]);
    assert_eq!(bed.shard.stats().handshaking, 1);
    assert_eq!(
        bed.joined(0, 5),
        [concat!(
            r#"accept 0 {"type":"system:connected","payload":{"#,
            r#""connection_id":"0000000000000abc-0-7","server_time":1000,"user_id":null,"#,
            r#""id":null,"all":{"id":"1-5-00000005"},"#,
            r#""ping_interval_ms":30000,"pong_timeout_ms":60000}}"#,
        )]
    );
    let stats = bed.shard.stats();
    assert_eq!((stats.handshaking, stats.anonymous, stats.accepted), (0, 1, 1));
}

#[test]
fn a_user_is_greeted_when_both_streams_have_answered() {
    let mut bed = bed();
    let request = Handshake { since: Some(&id(3)), since_all: Some("nonsense"), ..TOKEN };
    assert_eq!(bed.arrive(0, request), ["verify 0"]);
    let identity = identity("ann", &[], None);
    assert_eq!(verified(&mut bed, 0, identity), ["join 0 user:ann since 3", "join 1 all"]);
    assert_eq!(bed.joined(1, 9), [""; 0]);
    let greeting = bed.recovered(0, 3);
    assert_eq!(greeting.len(), 1);
    let (user, all) = (id(3), id(9));
    assert!(greeting[0].contains(&format!(
        r#""user_id":"ann","id":"{user}","recovered":true,"all":{{"id":"{all}","recovered":false}}"#
    )));
    let stats = bed.shard.stats();
    assert_eq!((stats.authenticated, stats.recovered, stats.unrecovered), (1, 1, 1));
}

#[test]
fn an_empty_since_is_none() {
    let mut bed = bed();
    bed.arrive(0, Handshake { since_all: Some(""), ..Handshake::default() });
    assert!(bed.joined(0, 5)[0].contains(&format!(r#""all":{{"id":"{}"}}"#, id(5))));
}

#[test]
fn what_is_published_between_the_two_answers_follows_the_greeting() {
    let mut bed = bed();
    bed.arrive(0, Handshake { since: Some(&id(3)), ..TOKEN });
    verified(&mut bed, 0, identity("ann", &[], None));
    bed.recovered(0, 3);
    assert_eq!(bed.publish("user:ann", 4, "u4"), ["deliver 0 u4"]);
    assert_eq!(bed.walk(0, 10), [0; 0]);
    assert_eq!(bed.delivered(0, 0), ["handed over 4 to 0"]);
    // A walk that has not met the connection when it opens meets it as usual.
    assert_eq!(bed.publish("user:ann", 5, "u5"), ["deliver 0 u5"]);
    let greeting = bed.joined(1, 9);
    assert!(greeting[0].contains(&format!(r#""id":"{}","recovered":true"#, id(3))));
    assert_eq!(greeting[1..], ["send 0 u4"]);
    assert_eq!(bed.walk(0, 10), [0]);
}

#[test]
fn a_handshake_that_too_much_is_held_for_is_refused() {
    let mut bed = bed();
    bed.arrive(0, TOKEN);
    verified(&mut bed, 0, identity("ann", &[], None));
    bed.joined(0, 0);
    for offset in 1..200 {
        bed.publish("user:ann", offset, "u");
        bed.walk(0, 10);
        bed.delivered(0, 0);
    }
    assert_eq!(bed.joined(1, 9), ["refuse 0 BrokerAway", "vacated all", "vacated user:ann"]);
}

#[test]
fn messages_missed_in_the_handshake_are_told_by_the_greeting() {
    let mut bed = bed();
    bed.arrive(0, Handshake { since: Some(&id(3)), ..TOKEN });
    verified(&mut bed, 0, identity("ann", &[], None));
    bed.recovered(0, 3);
    bed.publish("user:ann", 4, "u4");
    bed.walk(0, 10);
    bed.delivered(0, 0);
    let stream = StreamName::user("ann").unwrap();
    let resync = ToShard::Resync { stream, by_all: true, position: position(9), spread_ms: 0 };
    assert_eq!(bed.relayed(resync), [""; 0]);
    let greeting = bed.joined(1, 0);
    assert_eq!(greeting.len(), 1);
    assert!(greeting[0].contains(&format!(r#""id":"{}","recovered":false"#, id(9))));
}

#[test]
fn newcomers_are_refused_for_the_cheapest_reason() {
    let mut bed = bed_with(|limits| {
        limits.connections_max = 1;
        limits.origins = vec!["https://tickets.example".into()];
        limits.anonymous_allowed = false;
        limits.accepts_per_second_max = 4;
    });
    let evil = Handshake { origin: Some("https://evil.example"), ..Handshake::default() };
    let own = Handshake { origin: Some("https://TICKETS.example"), ..Handshake::default() };
    assert_eq!(bed.arrive(0, evil), ["refuse 0 OriginForbidden"]);
    assert_eq!(bed.arrive(0, own), ["refuse 0 TokenMissing"]);
    assert_eq!(bed.arrive(0, TOKEN), ["verify 0"]);
    assert_eq!(bed.arrive(1, evil), ["refuse 1 Full"]);
    assert_eq!(bed.arrive(1, evil), ["refuse 1 TooFast"]);
    bed.step(Input::Draining { period: Duration::from_secs(1) });
    assert_eq!(bed.arrive(1, evil), ["refuse 1 Draining"]);
    assert_eq!(bed.shard.stats().refusals, [1, 0, 1, 0, 1, 2, 1, 0]);
}

#[test]
fn refused_clients_come_back_at_different_times() {
    let mut bed = bed_with(|limits| limits.connections_max = 0);
    let mut actions = Actions::default();
    let mut seen = [false; 7];
    for _ in 0..100 {
        let request = Handshake::default();
        bed.shard.handle(bed.now, Input::Arrived { conn: conn(0), request }, &mut actions);
        let [Action::Refuse { refusal: Refusal::Full { retry_after_s }, .. }] = actions.list()
        else {
            panic!("{actions:?}")
        };
        seen[*retry_after_s as usize] = true;
        actions.clear();
    }
    assert_eq!(seen, [false, true, true, true, true, true, false]);
}

#[test]
fn a_bad_token_is_refused() {
    let mut bed = bed();
    bed.arrive(0, TOKEN);
    let outcome = Err(VerifyError("signature"));
    let bad = Input::Verified { conn: conn(0), outcome, user_connections: 0 };
    assert_eq!(bed.step(bad), ["refuse 0 TokenInvalid"]);
    bed.arrive(0, TOKEN);
    let expired = identity("ann", &[], Some(UNIX_S));
    assert_eq!(verified(&mut bed, 0, expired), ["refuse 0 TokenInvalid"]);
    bed.arrive(0, TOKEN);
    assert_eq!(verified(&mut bed, 0, identity("", &[], None)), ["refuse 0 TokenInvalid"]);
    assert_eq!(bed.shard.stats().handshaking, 0);
}

#[test]
fn connections_of_other_shards_count_towards_the_limits_of_the_instance() {
    let mut bed = bed();
    assert_eq!(bed.arrive(0, Handshake { instance_connections: 10, ..TOKEN }), ["refuse 0 Full"]);
    bed.arrive(0, Handshake { instance_connections: 9, ..TOKEN });
    let verified = |user_connections| {
        let outcome = Ok(identity("ann", &[], None));
        Input::Verified { conn: conn(0), outcome, user_connections }
    };
    assert_eq!(bed.step(verified(2)), ["refuse 0 TooManyConnections"]);
    bed.arrive(0, TOKEN);
    assert_eq!(bed.step(verified(1)).len(), 2);
}

#[test]
fn a_user_has_a_limited_number_of_connections() {
    let mut bed = bed();
    bed.open_as(0, identity("ann", &[], None), 0);
    bed.arrive(1, TOKEN);
    verified(&mut bed, 1, identity("ann", &[], None));
    bed.arrive(2, TOKEN);
    assert_eq!(verified(&mut bed, 2, identity("ann", &[], None)), ["refuse 2 TooManyConnections"]);
    bed.arrive(2, TOKEN);
    assert_eq!(verified(&mut bed, 2, identity("bob", &[], None)).len(), 2);
    // One that is being closed does not count.
    bed.step(Input::Overflowed { conn: conn(0) });
    bed.arrive(3, TOKEN);
    assert_eq!(verified(&mut bed, 3, identity("ann", &[], None)).len(), 2);
}

#[test]
fn without_a_broker_users_are_refused_and_others_are_let_in() {
    let mut bed = bed();
    bed.arrive(0, TOKEN);
    verified(&mut bed, 0, identity("ann", &[], None));
    assert_eq!(bed.failed(0), ["vacated user:ann", "refuse 0 BrokerAway", "vacated all"]);
    assert_eq!(bed.failed(1), [""; 0]);
    bed.arrive(0, Handshake { since_all: Some(&id(4)), ..Handshake::default() });
    let greeting = bed.failed(2);
    assert!(greeting[0].starts_with("accept 0"));
    assert!(greeting[0].contains(r#""all":{"id":null,"recovered":false}"#));
    let all = StreamName::all();
    let resync =
        ToShard::Resync { stream: all, by_all: false, position: position(6), spread_ms: 0 };
    let resync = bed.relayed(resync);
    assert_eq!(resync.len(), 1);
    assert!(resync[0].contains(&format!(
        r#"send 0 {{"type":"system:resync","payload":{{"room":"all","id":"{}""#,
        id(6)
    )));
}

#[test]
fn only_those_who_were_seated_without_a_position_hear_of_a_resync_for_newcomers() {
    let mut bed = bed();
    bed.arrive(0, Handshake::default());
    bed.joined(0, 6);
    bed.arrive(1, Handshake::default());
    bed.failed(1);
    let resync = |by_all, offset| {
        let stream = StreamName::all();
        ToShard::Resync { stream, by_all, position: position(offset), spread_ms: 0 }
    };
    let told = bed.relayed(resync(false, 6));
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with(r#"send 1 {"type":"system:resync""#));
    assert_eq!(bed.relayed(resync(false, 6)), [""; 0]);
    assert_eq!(bed.relayed(resync(true, 7)).len(), 2);
}

#[test]
fn a_relay_that_does_not_answer_is_a_broker_that_is_away() {
    let mut bed = bed();
    bed.arrive(0, TOKEN);
    verified(&mut bed, 0, identity("ann", &[], None));
    bed.joined(0, 0);
    assert_eq!(bed.pass(5), ["5 vacated all", "5 refuse 0 BrokerAway", "5 vacated user:ann"]);
    assert_eq!(bed.shard.next_deadline(), None);
    assert_eq!(bed.joined(1, 0), [""; 0]);
}

#[test]
fn a_late_answer_makes_the_stream_of_an_anonymous_connection_complete() {
    let mut bed = bed();
    bed.arrive(0, Handshake::default());
    bed.arrive(1, Handshake::default());
    assert_eq!(bed.pass(5).len(), 2);
    let resync = bed.joined(0, 8);
    assert_eq!(resync.len(), 1);
    assert!(resync[0].starts_with(r#"send 0 {"type":"system:resync""#));
    assert_eq!(bed.joined(0, 8), [""; 0]);
    assert_eq!(bed.step(Input::Closed { conn: conn(1) }), [""; 0]);
    assert_eq!(bed.joined(1, 8), [""; 0]);
}

#[test]
fn an_anonymous_connection_without_an_answer_is_sent_nothing_of_the_stream() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.arrive(1, Handshake::default());
    assert!(bed.pass(5).last().unwrap().contains("accept 1"));
    bed.publish("all", 1, "x");
    assert_eq!(bed.walk(0, 10), [0]);
    assert_eq!(bed.delivered(0, 1), ["handed over 1 to 1"]);
    assert_eq!(bed.failed(1), [""; 0]);
    bed.publish("all", 2, "y");
    assert_eq!(bed.walk(0, 10), [0, 1]);
}

#[test]
fn an_anonymous_connection_without_an_answer_can_join_rooms() {
    let mut bed = bed_with(|limits| limits.rooms_per_connection_max = 1);
    bed.arrive(0, Handshake::default());
    bed.pass(5);
    let all = r#"{"type":"room:join","payload":{"room":"all"}}"#;
    assert!(bed.say(0, all)[0].contains("FORBIDDEN"));
    let leave = r#"{"type":"room:leave","payload":{"room":"all"}}"#;
    assert!(bed.say(0, leave)[0].contains("FORBIDDEN"), "it will be seated there");
    bed.join(0, "event:1", 1);
    let more = r#"{"type":"room:join","payload":{"room":"event:2"}}"#;
    assert!(bed.say(0, more)[0].contains("TOO_MANY_ROOMS"));
    bed.joined(0, 1);
    assert!(bed.say(0, more)[0].contains("TOO_MANY_ROOMS"));
    let closed = bed.step(Input::Closed { conn: conn(0) });
    assert_eq!(closed, ["vacated all", "vacated event:1"]);
}

#[test]
fn a_client_that_goes_in_its_handshake_leaves_nothing_behind() {
    let mut bed = bed();
    bed.arrive(0, TOKEN);
    verified(&mut bed, 0, identity("ann", &[], None));
    bed.joined(0, 0);
    assert_eq!(bed.step(Input::Closed { conn: conn(0) }), ["vacated all", "vacated user:ann"]);
    assert_eq!(bed.joined(1, 0), [""; 0]);
    assert_eq!(bed.shard.next_deadline(), None);
    let stats = bed.shard.stats();
    assert_eq!((stats.handshaking, stats.parked_joins, stats.authenticated), (0, 0, 0));
}

#[test]
fn inputs_of_an_earlier_owner_of_the_slot_are_ignored() {
    let mut bed = bed();
    bed.open(0, 0);
    let stale = ConnectionId { slot: 0, generation: 6 };
    let hash = bed.shard.state_hash();
    for input in [
        Input::Received { conn: stale, text: r#"{"type":"system:ping"}"# },
        Input::Heard { conn: stale },
        Input::Misbehaved { conn: stale, code: CloseCode::TooBig },
        Input::Congested { conn: stale },
        Input::Overflowed { conn: stale },
        Input::Closed { conn: stale },
        Input::Verified { conn: conn(0), outcome: Err(VerifyError("late")), user_connections: 0 },
        Input::Closed { conn: conn(9) },
    ] {
        assert_eq!(bed.step(input), [""; 0]);
    }
    assert_eq!(bed.shard.state_hash(), hash);
}

#[test]
fn joins_are_bounded_for_the_whole_shard() {
    let mut bed = bed_with(|limits| limits.parked_joins_max = 2);
    bed.arrive(0, Handshake::default());
    bed.arrive(1, TOKEN);
    assert_eq!(verified(&mut bed, 1, identity("ann", &[], None)), ["refuse 1 Full"]);
    bed.joined(0, 0);
    let join = |room| format!(r#"{{"type":"room:join","payload":{{"room":"event:{room}"}}}}"#);
    assert_eq!(bed.say(0, &join(1)), ["join 1 event:1"]);
    assert_eq!(bed.say(0, &join(2)), ["join 2 event:2"]);
    assert!(bed.say(0, &join(3))[0].contains("UNAVAILABLE"));
}

#[test]
fn a_join_that_fails_during_a_fan_out_takes_its_turn() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.publish("all", 1, "x");
    bed.publish("all", 2, "y");
    bed.arrive(1, Handshake::default());
    assert_eq!(bed.failed(1), [""; 0]);
    assert_eq!(bed.walk(0, 10), [0]);
    assert_eq!(bed.delivered(0, 1), ["handed over 1 to 1", "deliver 0 y"]);
    assert_eq!(bed.walk(0, 10), [0]);
    let done = bed.delivered(0, 1);
    assert_eq!(done[0], "handed over 2 to 1");
    assert!(done[1].starts_with("accept 1") && done[1].contains(r#""all":{"id":null}"#));
    assert_eq!(done.len(), 2);
}
