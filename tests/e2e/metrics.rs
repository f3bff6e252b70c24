//! Metrics: names, types, and that they are there before anything happened.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::common::{
    client::Client,
    eventually, grpc,
    http::{fetch, upgrade},
    server::{Server, Setup},
    token::token,
};

#[tokio::test]
async fn every_metric_has_its_name_and_type() {
    let server = Setup::embedded().start().await;
    let text = scrape(&server).await;
    let metrics = [
        ("realtime_websocket_connections_total", "gauge"),
        ("realtime_websocket_connections_authenticated", "gauge"),
        ("realtime_websocket_connections_anonymous", "gauge"),
        ("realtime_messages_sent_total", "counter"),
        ("realtime_messages_received_total", "counter"),
        ("realtime_notifications_delivered_total", "counter"),
        ("realtime_grpc_requests_total", "counter"),
        ("realtime_grpc_request_duration_seconds", "histogram"),
        ("realtime_pubsub_messages_received_total", "counter"),
        ("realtime_pubsub_messages_published_total", "counter"),
        ("realtime_errors_total", "counter"),
        ("realtime_delivery_latency_seconds", "histogram"),
    ];
    for (name, kind) in metrics {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is no {kind}: {text}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    assert!(text.contains("# TYPE process_"), "process metrics are missing: {text}");
}

#[tokio::test]
async fn series_with_a_closed_set_of_labels_exist_from_the_start() {
    let server = Setup::embedded().start().await;
    let text = scrape(&server).await;
    let series = [
        r#"realtime_messages_sent_total{type="booking:confirmed"}"#,
        r#"realtime_messages_sent_total{type="ticket:availability"}"#,
        r#"realtime_messages_sent_total{type="other"}"#,
        r#"realtime_messages_received_total{type="room:join"}"#,
        r#"realtime_messages_received_total{type="other"}"#,
        r#"realtime_notifications_delivered_total{delivered="true",type="payment:success"}"#,
        r#"realtime_notifications_delivered_total{delivered="false",type="payment:success"}"#,
        r#"realtime_grpc_requests_total{method="SendToUser",status="OK"}"#,
        r#"realtime_grpc_requests_total{method="SendToUser",status="INVALID_ARGUMENT"}"#,
        r#"realtime_grpc_requests_total{method="GetConnectionStats",status="OK"}"#,
        r#"realtime_grpc_request_duration_seconds_count{method="BroadcastEvent"}"#,
        r#"realtime_pubsub_messages_received_total{channel="user"}"#,
        r#"realtime_pubsub_messages_received_total{channel="booking:events"}"#,
        r#"realtime_pubsub_messages_published_total{channel="room"}"#,
        r"realtime_delivery_latency_seconds_count",
        r"realtime_websocket_connections_authenticated",
    ];
    for name in series {
        assert_eq!(value(&text, name), Some(0.0), "{name} in {text}");
    }
    assert!(text.lines().any(|line| line.starts_with("realtime_errors_total{type=")), "{text}");
}

#[tokio::test]
async fn what_happens_is_counted() {
    let server = Setup::embedded().start().await;
    let mut user = Client::connect(&server, &token("a")).await;
    let mut anonymous = Client::anonymous(&server).await;
    user.join("event:1").await;
    anonymous.join("event:1").await;
    anonymous.send(json!({"type": "made:up"})).await;
    anonymous.expect_error("UNKNOWN_TYPE").await;
    upgrade(&server, "/ws?token=bad", &[]).await.assert_refused(401);
    grpc::broadcast(&server, "event:1", "ticket:availability", "{}").await.unwrap();
    grpc::broadcast(&server, "event:1", "made:up", "{}").await.unwrap();
    grpc::send_to_user(&server, "a", "booking:confirmed", "{}").await.unwrap();
    grpc::send_to_user(&server, "b", "booking:confirmed", "{}").await.unwrap();
    grpc::send_to_user(&server, "", "x", "{}").await.unwrap_err();
    for client in [&mut user, &mut anonymous] {
        client.expect("ticket:availability").await;
        client.expect("made:up").await;
    }
    user.expect("booking:confirmed").await;
    let expected = [
        ("realtime_websocket_connections_total", 2.0),
        ("realtime_websocket_connections_authenticated", 1.0),
        ("realtime_websocket_connections_anonymous", 1.0),
        (r#"realtime_websocket_connections_per_room{room="event:1"}"#, 2.0),
        (r#"realtime_messages_sent_total{type="system:connected"}"#, 2.0),
        (r#"realtime_messages_sent_total{type="ticket:availability"}"#, 2.0),
        (r#"realtime_messages_sent_total{type="booking:confirmed"}"#, 1.0),
        (r#"realtime_messages_sent_total{type="other"}"#, 2.0),
        (r#"realtime_messages_received_total{type="room:join"}"#, 2.0),
        (r#"realtime_messages_received_total{type="other"}"#, 1.0),
        (
            r#"realtime_notifications_delivered_total{delivered="true",type="booking:confirmed"}"#,
            1.0,
        ),
        (
            r#"realtime_notifications_delivered_total{delivered="false",type="booking:confirmed"}"#,
            1.0,
        ),
        (r#"realtime_grpc_requests_total{method="BroadcastEvent",status="OK"}"#, 2.0),
        (r#"realtime_grpc_requests_total{method="SendToUser",status="OK"}"#, 2.0),
        (r#"realtime_grpc_requests_total{method="SendToUser",status="INVALID_ARGUMENT"}"#, 1.0),
        (r#"realtime_grpc_request_duration_seconds_count{method="SendToUser"}"#, 3.0),
        (r#"realtime_pubsub_messages_published_total{channel="room"}"#, 2.0),
        (r#"realtime_pubsub_messages_published_total{channel="user"}"#, 2.0),
    ];
    eventually("the counts", async || {
        let text = scrape(&server).await;
        let missing: Vec<_> = expected
            .iter()
            .filter(|(name, count)| value(&text, name) != Some(*count))
            .map(|(name, count)| (name, count, value(&text, name)))
            .collect();
        assert!(
            missing.iter().all(|(_, count, got)| got.is_none_or(|got| got <= **count)),
            "too many: {missing:?}"
        );
        missing.is_empty().then_some(())
    })
    .await;
    let text = scrape(&server).await;
    assert!(!text.contains("made:up"), "a freely chosen type is no label");
    assert!(!text.contains("user:a"), "a user's stream is no room");
}

#[tokio::test]
async fn the_rooms_in_the_metrics_are_bounded() {
    let server = Setup::embedded().set("METRICS_MAX_ROOMS", "3").start().await;
    let mut client = Client::anonymous(&server).await;
    let mut other = Client::anonymous(&server).await;
    for room in ["event:1", "event:2", "event:3", "event:4"] {
        client.join(room).await;
    }
    for room in ["event:2", "event:4"] {
        other.join(room).await;
    }
    // The third of the largest is `all`, with everybody in it.
    let room = |name: &str| format!("realtime_websocket_connections_per_room{{room=\"{name}\"}}");
    let text = scrape(&server).await;
    assert_eq!(value(&text, &room("all")), Some(2.0), "{text}");
    assert_eq!(value(&text, &room("event:2")), Some(2.0), "{text}");
    assert_eq!(value(&text, &room("event:4")), Some(2.0), "{text}");
    assert_eq!(value(&text, &room("event:1")), None, "{text}");
    assert_eq!(value(&text, &room("_other")), Some(2.0), "{text}");
}

#[tokio::test]
async fn promtool_finds_nothing_but_the_name_that_is_fixed() {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("skipped: promtool is not installed");
        return;
    }
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    client.join("event:1").await;
    let text = scrape(&server).await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    let findings: Vec<&str> = said
        .lines()
        .filter(|line| !line.starts_with("realtime_websocket_connections_total "))
        .collect();
    assert!(findings.is_empty(), "{findings:?}");
}

async fn scrape(server: &Server) -> String {
    let metrics = fetch(server, "/metrics").await;
    assert_eq!(metrics.status, 200);
    metrics.body
}

/// The value of a series, whose labels are in alphabetical order.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(series)?.strip_prefix(' ')?;
        value.parse().ok()
    })
}
