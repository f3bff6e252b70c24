use super::*;

fn refreshed(bed: &mut Bed, outcome: Result<Identity, VerifyError>) -> Vec<String> {
    let reference = Some(Reference("9".into()));
    bed.step(Input::Refreshed { conn: conn(0), reference, outcome })
}

/// Takes the heartbeats out.
fn without_pings(mut done: Vec<String>) -> Vec<String> {
    done.retain(|done| !done.contains(" ping "));
    done
}

#[test]
fn a_token_that_expires_is_told_and_then_closed() {
    let mut bed = bed_with(|limits| limits.pong_timeout = Duration::from_secs(900));
    bed.open_as(0, identity("ann", &[], Some(UNIX_S + 400)), 0);
    assert_eq!(
        without_pings(bed.pass(401)),
        [
            r#"340 send 0 {"type":"system:token_expiring","payload":{"expires_in_ms":59893}}"#,
            "400 close 0 TokenExpired",
            "400 vacated all",
            "400 vacated user:ann",
        ]
    );
}

#[test]
fn a_token_that_expires_soon_is_told_at_once() {
    let mut bed = bed();
    let token = Handshake { token: true, ..Handshake::default() };
    bed.arrive(0, token);
    let outcome = Ok(identity("ann", &[], Some(UNIX_S + 30)));
    bed.step(Input::Verified { conn: conn(0), outcome, user_connections: 0 });
    bed.joined(0, 0);
    let done = bed.joined(1, 0);
    assert!(done[0].starts_with("accept 0"));
    assert_eq!(
        done[1..],
        [r#"send 0 {"type":"system:token_expiring","payload":{"expires_in_ms":30000}}"#]
    );
}

#[test]
fn a_step_of_the_wall_clock_moves_the_expiry() {
    let mut bed = bed_with(|limits| limits.pong_timeout = Duration::from_secs(900));
    bed.open_as(0, identity("ann", &[], Some(UNIX_S + 400)), 0);
    bed.pass(10);
    bed.step(Input::WallClock(UnixMillis((UNIX_S + 399) * 1_000)));
    let done = without_pings(bed.pass(2));
    assert!(done[0].contains("system:token_expiring"), "{done:?}");
    assert_eq!(done[1], "11 close 0 TokenExpired");
}

#[test]
fn a_fresh_token_of_the_same_user_extends_the_connection() {
    let mut bed = bed_with(|limits| limits.pong_timeout = Duration::from_secs(900));
    bed.open_as(0, identity("ann", &["vip:*", "staff"], Some(UNIX_S + 400)), 0);
    bed.join(0, "vip:1", 2);
    bed.join(0, "staff", 3);
    bed.join(0, "event:1", 4);
    let refresh = r#"{"type":"auth:refresh","ref":9,"payload":{"token":"t2"}}"#;
    assert_eq!(bed.say(0, refresh), ["refresh 0 t2"]);
    assert_eq!(
        refreshed(&mut bed, Ok(identity("ann", &["staff"], Some(UNIX_S + 800)))),
        [
            "vacated vip:1",
            r#"send 0 {"type":"room:left","payload":{"room":"vip:1","reason":"forbidden"}}"#,
            r#"send 0 {"type":"auth:refreshed","ref":9,"payload":{"expires_at":1800}}"#,
        ]
    );
    assert_eq!(without_pings(bed.pass(700)), [""; 0]);
    assert_eq!(without_pings(bed.pass(101)).len(), 6);
}

#[test]
fn a_refresh_that_is_no_good_changes_nothing() {
    let mut bed = bed();
    bed.open_as(0, identity("ann", &[], Some(UNIX_S + 10)), 0);
    for outcome in [
        Err(VerifyError("signature")),
        Ok(identity("bob", &[], None)),
        Ok(identity("ann", &[], Some(UNIX_S))),
    ] {
        let done = refreshed(&mut bed, outcome);
        assert_eq!(done.len(), 1);
        assert!(done[0].contains("UNAUTHORIZED") && done[0].contains(r#""ref":9"#));
    }
    assert_eq!(without_pings(bed.pass(11))[0], "10 close 0 TokenExpired");
}

#[test]
fn refreshes_that_are_no_good_close_the_connection_in_the_end() {
    let mut bed = bed_with(|limits| limits.errors_max = 2);
    bed.open_as(0, identity("ann", &[], None), 0);
    let refresh = r#"{"type":"auth:refresh","payload":{"token":"bad"}}"#;
    bed.say(0, refresh);
    refreshed(&mut bed, Err(VerifyError("signature")));
    bed.say(0, refresh);
    assert_eq!(refreshed(&mut bed, Err(VerifyError("signature")))[1], "close 0 Policy");
}

#[test]
fn an_anonymous_connection_can_not_be_refreshed() {
    let mut bed = bed();
    bed.open(0, 0);
    let done = bed.say(0, r#"{"type":"auth:refresh","payload":{"token":"t"}}"#);
    assert_eq!(done.len(), 1);
    assert!(done[0].contains("UNAUTHORIZED"));
}

#[test]
fn a_room_that_is_withdrawn_while_its_join_is_parked_is_forbidden() {
    let mut bed = bed();
    bed.open_as(0, identity("ann", &["vip:*"], None), 0);
    let join = r#"{"type":"room:join","ref":3,"payload":{"room":"vip:1"}}"#;
    assert_eq!(bed.say(0, join), ["join 2 vip:1"]);
    refreshed(&mut bed, Ok(identity("ann", &[], None)));
    let done = bed.joined(2, 0);
    assert_eq!(done[0], "vacated vip:1");
    assert!(done[1].contains("FORBIDDEN") && done[1].contains(r#""ref":3"#));
}
