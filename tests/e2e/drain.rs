//! The end: SIGTERM, what clients are told, and the second signal.

use std::time::{Duration, Instant};

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::http::reasons;
use crate::common::{
    client::Client,
    eventually, grpc,
    http::{fetch, upgrade},
    server::Setup,
    token::token,
};

#[tokio::test]
async fn a_drain_is_announced_before_anybody_is_closed() {
    let mut server =
        Setup::embedded().set("DRAIN_DELAY", "3s").set("DRAIN_TIMEOUT", "3s").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    let mut health = HealthClient::new(grpc::channel(&server));
    server.terminate();
    let ready = eventually("unreadiness", async || {
        let ready = fetch(&server, "/ready").await;
        (ready.status == 503).then_some(ready)
    })
    .await;
    assert_eq!(reasons(&ready), ["draining"]);
    assert_eq!(fetch(&server, "/health").await.status, 200);
    let check = health.check(HealthCheckRequest { service: String::new() }).await.unwrap();
    assert_eq!(check.into_inner().status(), ServingStatus::NotServing);
    // Load balancers have not noticed yet: everything still works.
    client.assert_quiet().await;
    let mut late = Client::connect(&server, &token("b")).await;
    assert!(grpc::send_to_user(&server, "b", "x", "{}").await.unwrap().delivered);
    late.expect("x").await;
    for client in [&mut client, &mut late] {
        let reconnect = client.expect("system:reconnect").await;
        assert!(reconnect["payload"]["after_ms"].as_u64().unwrap() <= 1000, "{reconnect}");
        assert!(reconnect["payload"]["reason"].is_string(), "{reconnect}");
        client.expect_close(1012).await;
    }
    assert_eq!(server.exit().await.code(), Some(0));
}

#[tokio::test]
async fn closes_are_spread_over_the_drain_and_newcomers_are_refused() {
    let mut server = Setup::embedded().set("DRAIN_TIMEOUT", "4s").start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::anonymous(&server).await);
    }
    let started = Instant::now();
    server.terminate();
    let (sender, mut closed) = tokio::sync::mpsc::channel(20);
    for mut client in clients {
        let sender = sender.clone();
        tokio::spawn(async move {
            client.expect("system:reconnect").await;
            client.expect_close(1012).await;
            sender.send(started.elapsed()).await.unwrap();
        });
    }
    drop(sender);
    let first = closed.recv().await.unwrap();
    let answer = upgrade(&server, "/ws", &[]).await;
    answer.assert_refused(503);
    answer.assert_retry_after();
    let mut last = first;
    let mut count = 1;
    while let Some(elapsed) = closed.recv().await {
        last = elapsed;
        count += 1;
    }
    assert_eq!(count, 20);
    assert!(last - first >= Duration::from_millis(500), "all closed within {:?}", last - first);
    assert!(last < Duration::from_secs(8), "the last closed after {last:?}");
    assert_eq!(server.exit().await.code(), Some(0));
}

#[tokio::test]
async fn an_idle_instance_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let mut server = Setup::embedded().set("DRAIN_TIMEOUT", "25s").start().await;
        let started = Instant::now();
        server.signal(signal);
        assert_eq!(server.exit().await.code(), Some(0));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut server = Setup::embedded().set("DRAIN_DELAY", "60s").start().await;
    let _client = Client::anonymous(&server).await;
    server.terminate();
    eventually("the drain", async || (fetch(&server, "/ready").await.status == 503).then_some(()))
        .await;
    assert!(server.exited().is_none());
    let started = Instant::now();
    server.terminate();
    server.exit().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_peer_that_ignores_its_close_does_not_hold_up_the_end() {
    let mut server = Setup::embedded().set("DRAIN_TIMEOUT", "2s").start().await;
    let mut silent = crate::common::raw::Raw::upgraded(&server, "/ws").await;
    let started = Instant::now();
    server.terminate();
    silent.expect_text("system:reconnect").await;
    assert_eq!(silent.frame().await.expect("a close frame").close_code(), 1012);
    assert_eq!(server.exit().await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}
