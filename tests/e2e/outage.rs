//! Redis comes late, goes, comes back empty, and cuts connections.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::Code;

use super::{grpc_calls::publish_everything, handshake::assert_is_id};
use crate::common::{
    client::Client,
    eventually, grpc,
    http::{fetch, upgrade},
    redis::Redis,
    server::{Server, Setup},
    token::token,
};

#[tokio::test]
async fn a_redis_that_comes_late_is_found_without_a_restart() {
    let mut redis = Redis::absent();
    let server = Setup::on(&redis).start().await;
    let mut anonymous = Client::anonymous(&server).await;
    anonymous.assert_quiet().await;
    for result in publish_everything(&server).await {
        assert_eq!(result.unwrap_err().code(), Code::Unavailable);
    }
    redis.restart().await;
    ready(&server).await;
    assert_eq!(anonymous.expect("system:resync").await["payload"]["room"], "all");
    let mut user = Client::connect(&server, &token("a")).await;
    anonymous.join("event:1").await;
    published(&server, "before").await;
    user.expect("before").await;
    assert_eq!(grpc::broadcast(&server, "event:1", "x", "{}").await.unwrap().recipients, 1);
    anonymous.expect("x").await;
    assert_eq!(grpc::broadcast(&server, "all", "y", "{}").await.unwrap().recipients, 2);
    anonymous.expect("y").await;
    user.expect("y").await;
}

#[tokio::test]
async fn clients_stay_through_a_restart_of_redis_and_are_told_to_refetch() {
    let mut redis = Redis::start().await;
    let setup = Setup::on(&redis).set("READY_REDIS_GRACE", "500ms");
    let servers = [setup.start().await, setup.start().await];
    let mut clients = Vec::new();
    for server in &servers {
        ready(server).await;
        let mut client = Client::connect(server, &token("a")).await;
        client.join("event:1").await;
        clients.push(client);
    }
    published(&servers[0], "before").await;
    for client in &mut clients {
        client.expect("before").await;
    }
    redis.kill();
    for server in &servers {
        eventually("unreadiness", async || {
            (fetch(server, "/ready").await.status == 503).then_some(())
        })
        .await;
        for result in publish_everything(server).await {
            assert_eq!(result.unwrap_err().code(), Code::Unavailable);
        }
        let answer = upgrade(server, &format!("/ws?token={}", token("b")), &[]).await;
        answer.assert_refused(503);
        answer.assert_retry_after();
    }
    for client in &mut clients {
        client.assert_quiet().await;
    }
    redis.restart().await;
    for (server, client) in servers.iter().zip(&mut clients) {
        ready(server).await;
        let mut rooms: Vec<Value> = Vec::new();
        for _ in 0..3 {
            let resync = client.expect("system:resync").await;
            assert_is_id(&resync["payload"]["id"]);
            assert!(resync["payload"]["after_ms"].is_u64(), "{resync}");
            rooms.push(resync["payload"]["room"].clone());
        }
        rooms.sort_by_key(Value::to_string);
        assert_eq!(rooms, [Value::from("all"), Value::from("event:1"), Value::Null]);
        client.assert_quiet().await;
    }
    for server in &servers {
        published(server, "after").await;
        for client in &mut clients {
            client.expect("after").await;
        }
        grpc::broadcast(server, "event:1", "x", "{}").await.unwrap();
        for client in &mut clients {
            client.expect("x").await;
            client.assert_quiet().await;
        }
    }
}

#[tokio::test]
async fn a_cut_subscription_is_repaired_and_nothing_is_lost_in_silence() {
    let redis = Redis::start().await;
    let server = Setup::on(&redis).start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    for round in 0..3 {
        let killed: u32 = redis.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert!(killed >= 1, "round {round}: nobody was subscribed");
        published(&server, "during").await;
        // Either it comes, or the client is told that something may be missing.
        client.next_of(&["during", "system:resync"]).await;
        eventually("a message after the cut", async || {
            published(&server, "after").await;
            loop {
                match client.next_of(&["during", "after", "system:resync", "system:pong"]).await {
                    message if message["type"] == "after" => return Some(()),
                    message if message["type"] == "system:pong" => return None,
                    _ => client.send(json!({"type": "system:ping"})).await,
                }
            }
        })
        .await;
        settle(&mut client).await;
    }
}

#[tokio::test]
async fn cut_command_connections_are_replaced() {
    let redis = Redis::start().await;
    let server = Setup::on(&redis).start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    published(&server, "before").await;
    client.expect("before").await;
    let _: u32 = redis.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    published(&server, "after").await;
    client.expect("after").await;
    client.assert_quiet().await;
}

#[tokio::test]
async fn a_join_that_cannot_be_answered_is_unavailable_and_can_be_repeated() {
    let mut redis = Redis::absent();
    let server = Setup::on(&redis).set("WS_JOIN_TIMEOUT", "300ms").start().await;
    let mut client = Client::anonymous(&server).await;
    let join = json!({"type": "room:join", "ref": 1, "payload": {"room": "event:1"}});
    client.send(join).await;
    assert_eq!(client.expect_error("UNAVAILABLE").await["ref"], 1);
    redis.restart().await;
    assert_eq!(client.expect("system:resync").await["payload"]["room"], "all");
    client.join("event:1").await;
    assert_eq!(grpc::broadcast(&server, "event:1", "x", "{}").await.unwrap().recipients, 1);
    client.expect("x").await;
    client.assert_quiet().await;
}

#[tokio::test]
async fn a_redis_that_hangs_does_not_hang_callers_or_clients() {
    let redis = Redis::start().await;
    let server = Setup::on(&redis).set("WS_JOIN_TIMEOUT", "500ms").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    published(&server, "before").await;
    client.expect("before").await;
    redis.freeze();
    let mut request = tonic::Request::new(realtime_proto::SendToUserRequest {
        user_id: "a".to_owned(),
        event_type: "during".to_owned(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(1));
    let status = grpc::client(&server).send_to_user(request).await.unwrap_err();
    let codes = [Code::DeadlineExceeded, Code::Unavailable, Code::Cancelled];
    assert!(codes.contains(&status.code()), "{status}");
    client.assert_quiet().await;
    let path = format!("/ws?token={}", token("b"));
    let refused = upgrade(&server, &path, &[]).await;
    refused.assert_refused(503);
    refused.assert_retry_after();
    assert_eq!(fetch(&server, "/health").await.status, 200);
    redis.thaw();
    eventually("Redis to be used again", async || {
        (upgrade(&server, &path, &[]).await.status == 101).then_some(())
    })
    .await;
    published(&server, "after").await;
    // What timed out may have been published or not; the client was told if anything is unsure.
    while client.next_of(&["during", "after", "system:resync"]).await["type"] != "after" {}
    client.assert_quiet().await;
}

/// Publishes to the user `a`, trying again until it works, as back ends do.
async fn published(server: &Server, kind: &str) {
    eventually("a publish to work", async || {
        match grpc::send_to_user(server, "a", kind, "{}").await {
            Ok(_) => Some(()),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                None
            }
        }
    })
    .await;
}

async fn ready(server: &Server) {
    eventually("readiness", async || (fetch(server, "/ready").await.status == 200).then_some(()))
        .await;
}

/// Reads what is still on its way after a cut.
async fn settle(client: &mut Client) {
    client.send(json!({"type": "system:ping"})).await;
    let kinds = ["during", "after", "system:resync", "system:pong"];
    while client.next_of(&kinds).await["type"] != "system:pong" {}
}
