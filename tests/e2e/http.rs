//! Plain HTTP: health, readiness, and everything that is not there.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{
    client::Client,
    eventually,
    http::{Response, exchange, fetch, fetch_from},
    raw::Raw,
    redis::Redis,
    server::Setup,
    token::token,
};

#[tokio::test]
async fn an_instance_on_the_embedded_broker_is_healthy_and_ready() {
    let server = Setup::embedded().start().await;
    assert_eq!(fetch(&server, "/health").await.status, 200);
    eventually("readiness", async || (fetch(&server, "/ready").await.status == 200).then_some(()))
        .await;
    let ready = fetch(&server, "/ready").await;
    assert!(ready.json().is_object(), "{ready:?}");
}

#[tokio::test]
async fn an_instance_without_redis_is_healthy_and_not_ready_until_it_comes() {
    let mut redis = Redis::absent();
    let server = Setup::on(&redis).start().await;
    assert_eq!(fetch(&server, "/health").await.status, 200);
    let ready = fetch(&server, "/ready").await;
    assert_eq!(ready.status, 503);
    assert!(reasons(&ready).contains(&"redis".to_owned()), "{ready:?}");
    redis.restart().await;
    eventually("readiness", async || (fetch(&server, "/ready").await.status == 200).then_some(()))
        .await;
    Client::connect(&server, &token("a")).await;
}

#[tokio::test]
async fn a_redis_that_goes_away_is_forgiven_for_the_grace() {
    let mut redis = Redis::start().await;
    let server = Setup::on(&redis).set("READY_REDIS_GRACE", "2s").start().await;
    eventually("readiness", async || (fetch(&server, "/ready").await.status == 200).then_some(()))
        .await;
    let killed = Instant::now();
    redis.kill();
    eventually("unreadiness", async || {
        (fetch(&server, "/ready").await.status == 503).then_some(())
    })
    .await;
    assert!(killed.elapsed() >= Duration::from_secs(2), "after {:?}", killed.elapsed());
    let ready = fetch(&server, "/ready").await;
    assert_eq!(reasons(&ready), ["redis"]);
    assert_eq!(fetch(&server, "/health").await.status, 200);
    redis.restart().await;
    eventually("readiness", async || (fetch(&server, "/ready").await.status == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_in_json() {
    let server = Setup::embedded().start().await;
    for path in ["/", "/nothing", "/health/", "/metrics2", "/%00"] {
        fetch(&server, path).await.assert_refused(404);
    }
    for path in ["/health", "/ready", "/metrics"] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        exchange(server.http, request.as_bytes()).await.assert_refused(405);
    }
}

#[tokio::test]
async fn metrics_are_on_both_ports_unless_they_are_disabled() {
    let server = Setup::embedded().start().await;
    for address in [server.http, server.metrics.expect("it is on")] {
        let metrics = fetch_from(address, "/metrics").await;
        assert_eq!(metrics.status, 200);
        assert!(metrics.header("content-type").unwrap().starts_with("text/plain"), "{metrics:?}");
        assert!(metrics.body.contains("realtime_websocket_connections_total 0\n"), "{metrics:?}");
    }
    let without = Setup::embedded().set("METRICS_ENABLED", "false").start().await;
    assert_eq!(without.metrics, None);
    fetch(&without, "/metrics").await.assert_refused(404);
}

#[tokio::test]
async fn a_connection_ends_with_the_answer_so_that_no_proxy_sends_an_upgrade_over_it() {
    let server = Setup::embedded().start().await;
    let mut raw = Raw::connect(&server).await;
    raw.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let head = raw.head().await;
    assert_eq!((head.status, head.header("connection")), (200, Some("close")));
    raw.skip(head.header("content-length").unwrap().parse().unwrap()).await;
    raw.expect_end().await;
}

/// The reasons that `/ready` gives, wherever in the body they are listed.
pub fn reasons(ready: &Response) -> Vec<String> {
    let json = ready.json();
    let reasons =
        [&json["reasons"], &json["error"]["reasons"]].into_iter().find_map(Value::as_array);
    let reasons = reasons.unwrap_or_else(|| panic!("no reasons in {ready:?}"));
    reasons.iter().map(|reason| reason.as_str().expect("reasons are names").to_owned()).collect()
}
