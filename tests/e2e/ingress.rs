//! The Redis channels for services that publish without gRPC.

use serde_json::json;

use crate::common::{
    client::Client,
    eventually,
    http::fetch,
    redis::Redis,
    server::{Server, Setup},
    token::token,
};

const CHANNELS: [&str; 4] = ["booking:events", "payment:events", "ticket:events", "broadcast:all"];

#[tokio::test]
async fn each_channel_reaches_users_rooms_and_everyone() {
    let redis = Redis::start().await;
    let server = Setup::on(&redis).start().await;
    listening(&redis, 1).await;
    let mut user = Client::connect(&server, &token("a")).await;
    let mut member = Client::anonymous(&server).await;
    member.join("event:1").await;
    for channel in CHANNELS {
        let to_user = json!({"type": "x", "user_id": "a", "room": "event:1", "payload": {"n": 1}});
        redis.publish(channel, &to_user.to_string());
        let message = user.expect("x").await;
        assert_eq!(message, json!({"type": "x", "payload": {"n": 1}}), "{channel}");
        let to_room = json!({"type": "y", "room": "event:1", "payload": [1.0]});
        redis.publish(channel, &to_room.to_string());
        let message = member.expect("y").await;
        assert_eq!(message, json!({"type": "y", "room": "event:1", "payload": [1.0]}));
        redis.publish(channel, r#"{"type":"z","payload":{}}"#);
        for client in [&mut user, &mut member] {
            let message = client.expect("z").await;
            assert!(message.get("id").is_none(), "best effort has no id: {message}");
        }
    }
    user.assert_quiet().await;
    member.assert_quiet().await;
}

#[tokio::test]
async fn what_is_no_message_is_dropped_and_counted() {
    let redis = Redis::start().await;
    let server = Setup::on(&redis).start().await;
    listening(&redis, 1).await;
    let mut client = Client::connect(&server, &token("a")).await;
    let oversized = json!({"type": "x", "payload": "x".repeat(70_000)}).to_string();
    let deep =
        format!("{{\"type\":\"x\",\"payload\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let bad = [
        "nonsense",
        "[]",
        "{}",
        r#"{"type":7,"payload":{}}"#,
        r#"{"type":"system:error","payload":{}}"#,
        r#"{"type":"room:left","payload":{}}"#,
        r#"{"type":"auth:refreshed","payload":{}}"#,
        r#"{"type":"","payload":{}}"#,
        &oversized,
        &deep,
    ];
    for body in bad {
        redis.publish("booking:events", body);
    }
    redis.publish("booking:events", r#"{"type":"good","user_id":"a","payload":{}}"#);
    client.expect("good").await;
    client.assert_quiet().await;
    let name = r#"realtime_pubsub_messages_received_total{channel="booking:events"}"#;
    eventually("the count", async || {
        let text = fetch(&server, "/metrics").await.body;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?.to_owned();
        (line.trim() != "0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_instance_delivers_to_its_own_members_once() {
    let redis = Redis::start().await;
    let servers = [Setup::on(&redis).start().await, Setup::on(&redis).start().await];
    listening(&redis, 2).await;
    let mut clients = Vec::new();
    for server in &servers {
        let mut client = Client::connect(server, &token("a")).await;
        client.join("event:1").await;
        clients.push(client);
    }
    for number in 0..50 {
        let body = json!({"type": "x", "room": "event:1", "payload": {"number": number}});
        assert_eq!(redis.publish("ticket:events", &body.to_string()), 2);
    }
    for client in &mut clients {
        for number in 0..50 {
            assert_eq!(client.expect("x").await["payload"]["number"], number);
        }
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn the_channels_can_be_turned_off() {
    let redis = Redis::start().await;
    let server: Server = Setup::on(&redis).set("INGRESS_ENABLED", "false").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    for channel in CHANNELS {
        assert_eq!(redis.publish(channel, r#"{"type":"x","payload":{}}"#), 0, "{channel}");
    }
    client.assert_quiet().await;
}

/// Waits until so many instances are subscribed to the ingress channels.
async fn listening(redis: &Redis, instances: u32) {
    eventually("the ingress channels", async || {
        let subscribed = CHANNELS.iter().all(|channel| {
            redis.publish(channel, "") == instances // An empty body is dropped.
        });
        subscribed.then_some(())
    })
    .await;
}
