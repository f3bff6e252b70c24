use super::*;

const GRACE: Duration = Duration::from_secs(15);

fn at(seconds: u64) -> Instant {
    Instant(seconds * 1_000_000_000)
}

#[test]
fn an_error_response_is_complete_and_says_how_to_upgrade() {
    let bytes = error_response(426, "UPGRADE_REQUIRED", "say \"please\"", &[("A", "b")]);
    let body = r#"{"error":{"code":"UPGRADE_REQUIRED","message":"say \"please\""}}"#;
    let expected = format!(
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         A: b\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
}

#[test]
fn a_header_that_is_given_is_not_written_twice() {
    let bytes = error_response(405, "METHOD_NOT_ALLOWED", "", &[("allow", "GET, HEAD")]);
    let text = String::from_utf8(bytes).unwrap().to_lowercase();
    assert_eq!(text.matches("allow:").count(), 1);
}

#[test]
fn a_broker_that_was_never_there_is_told_at_once() {
    let health = LinkHealth { away_since: Some(at(0)), ..LinkHealth::default() };
    assert_eq!(unready(Phase::Serving, &health, at(1), GRACE), ["redis"]);
    assert_eq!(unready(Phase::Starting, &health, at(1), GRACE), ["redis", "starting"]);
}

#[test]
fn a_broker_that_goes_away_is_told_after_the_grace() {
    let known = LinkHealth { ever_reachable: true, ..LinkHealth::default() };
    let there = LinkHealth { reachable: true, ..known.clone() };
    let none: [&str; 0] = [];
    assert_eq!(unready(Phase::Serving, &there, at(100), GRACE), none);
    let away = LinkHealth { away_since: Some(at(100)), ..known };
    assert_eq!(unready(Phase::Serving, &away, at(114), GRACE), none);
    assert_eq!(unready(Phase::Serving, &away, at(115), GRACE), ["redis"]);
    assert_eq!(unready(Phase::Serving, &away, at(100), Duration::ZERO), ["redis"]);
}

#[test]
fn a_draining_instance_is_not_ready() {
    let there = LinkHealth { ever_reachable: true, reachable: true, ..LinkHealth::default() };
    assert_eq!(unready(Phase::Draining, &there, at(1), GRACE), ["draining"]);
    assert_eq!(unready(Phase::Stopping, &there, at(1), GRACE), ["draining"]);
}
