//! Plain HTTP: health, readiness, metrics, and what is answered to everything else that is not a
//! WebSocket.

mod connection;

use std::{sync::Arc, time::Duration};

use ::http::{
    HeaderValue, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use axum::{
    Router,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::get,
};
use realtime_core::time::Instant;
use serde::Serialize;

use crate::{
    link::LinkHealth,
    metrics,
    service::{Phase, Shared},
};

pub(crate) use connection::{serve_handoffs, serve_metrics};

/// The bytes of a complete HTTP/1.1 answer with the body `{"error":{"code","message"}}`, after
/// which the connection is closed. 401, 405 and 426 get the headers that HTTP asks of them;
/// `headers` are further ones, such as `Retry-After`, and must be valid header lines.
///
/// `code` is for programs and in capitals (`UNAUTHORIZED`), `message` for people.
pub fn error_response(status: u16, code: &str, message: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error");
    let body = error_body(code, message, &[]);
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
    let given = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let required = required_headers(status).iter().filter(|(name, _)| !given(name));
    for (name, value) in required.chain(headers) {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    head.push_str(&format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    ));
    let mut response = head.into_bytes();
    response.extend_from_slice(&body);
    response
}

/// Everything that is served on `HTTP_PORT` beside WebSockets.
fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new().route("/health", get(health)).route("/ready", get(ready));
    if shared.service.config.metrics_port.is_some() {
        router = router.route("/metrics", get(metrics));
    }
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed).with_state(shared)
}

/// What is served on `METRICS_PORT`.
fn metrics_router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(shared)
}

async fn health() -> Response {
    json(StatusCode::OK, br#"{"status":"ok"}"#.to_vec())
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let reasons = unready(
        shared.phase(),
        &shared.service.health.borrow(),
        shared.now(),
        shared.service.config.ready_grace,
    );
    if reasons.is_empty() {
        return json(StatusCode::OK, br#"{"status":"ready"}"#.to_vec());
    }
    let message = format!("not ready: {}", reasons.join(", "));
    json(StatusCode::SERVICE_UNAVAILABLE, error_body("NOT_READY", &message, &reasons))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.scrape().await;
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn not_found() -> Response {
    json(StatusCode::NOT_FOUND, error_body("NOT_FOUND", "there is nothing here", &[]))
}

async fn method_not_allowed() -> Response {
    let body = error_body("METHOD_NOT_ALLOWED", "only GET and HEAD are answered here", &[]);
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, body);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    // Health and readiness are about this moment.
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, body).into_response()
}

/// Why the instance should get no new connections, as `/ready` says it; empty when it should.
fn unready(phase: Phase, health: &LinkHealth, now: Instant, grace: Duration) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    // A broker that was never there is told at once; one that goes away only after a grace, so that
    // a failover does not empty the load balancer.
    let away = health.away_since.map(|since| now.saturating_since(since));
    if !health.ever_reachable || (!health.reachable && away.is_some_and(|away| away >= grace)) {
        reasons.push("redis");
    }
    match phase {
        Phase::Starting => reasons.push("starting"),
        Phase::Serving => (),
        Phase::Draining | Phase::Stopping => reasons.push("draining"),
    }
    reasons
}

/// The JSON body of every HTTP error; `reasons` only where there are any.
fn error_body(code: &str, message: &str, reasons: &[&str]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        error: Error<'a>,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        reasons: &'a [&'a str],
    }
    #[derive(Serialize)]
    struct Error<'a> {
        code: &'a str,
        message: &'a str,
    }
    let body = Body { error: Error { code, message }, reasons };
    serde_json::to_vec(&body).expect("strings are JSON")
}

/// What HTTP asks to go with a status: RFC 9110 §11.6.1 and §15.5.6, RFC 6455 §4.4.
fn required_headers(status: u16) -> &'static [(&'static str, &'static str)] {
    match status {
        401 => &[("WWW-Authenticate", "Bearer")],
        405 => &[("Allow", "GET")],
        426 => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        _ => &[],
    }
}

#[cfg(test)]
mod tests;
