//! Connecting: what is let in, and how everything else is answered.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::common::{
    client::Client,
    eventually,
    http::{exchange, upgrade, upgrade_request},
    raw::Raw,
    redis::Redis,
    server::{Server, Setup},
    token::{mint, token},
    unix_now,
};

#[tokio::test]
async fn a_valid_token_is_greeted_with_all_that_a_client_needs() {
    let server = Setup::embedded().start().await;
    let client = Client::connect(&server, &token("user-1")).await;
    let greeting = &client.greeting;
    assert_eq!(greeting["user_id"], "user-1");
    assert!(greeting["connection_id"].as_str().is_some_and(|id| !id.is_empty()), "{greeting}");
    assert!(greeting["server_time"].as_u64().unwrap().abs_diff(unix_now()) <= 30, "{greeting}");
    assert_is_id(&greeting["id"]);
    assert_is_id(&greeting["all"]["id"]);
    assert_eq!(greeting["ping_interval_ms"], 30_000);
    assert_eq!(greeting["pong_timeout_ms"], 60_000);
    assert!(greeting.get("recovered").is_none(), "{greeting}");
    assert!(greeting["all"].get("recovered").is_none(), "{greeting}");
    let frame: Value = serde_json::from_str(&client.text).unwrap();
    assert!(frame.get("id").is_none() && frame.get("room").is_none(), "{frame}");
}

#[tokio::test]
async fn every_connection_of_an_instance_has_an_id_of_its_own() {
    let server = Setup::embedded().set("WORKERS", "4").start().await;
    let mut clients = Vec::new();
    let mut ids = BTreeSet::new();
    for _ in 0..20 {
        let client = Client::anonymous(&server).await;
        assert!(ids.insert(client.greeting["connection_id"].to_string()), "{}", client.greeting);
        clients.push(client);
    }
}

#[tokio::test]
async fn an_anonymous_connection_is_greeted_without_a_stream_of_its_own() {
    let server = Setup::embedded().start().await;
    let client = Client::anonymous(&server).await;
    assert_eq!(client.greeting["user_id"], Value::Null);
    assert_eq!(client.greeting["id"], Value::Null);
    assert_is_id(&client.greeting["all"]["id"]);
    let empty = Client::open(&server, "/ws?token=", &[]).await;
    assert_eq!(empty.greeting["user_id"], Value::Null);
}

#[tokio::test]
async fn without_a_token_it_is_401_where_anonymous_connections_are_not_allowed() {
    let server = Setup::embedded().set("WS_ALLOW_ANONYMOUS", "false").start().await;
    upgrade(&server, "/ws", &[]).await.assert_refused(401);
    Client::connect(&server, &token("user-1")).await;
}

#[tokio::test]
async fn the_token_is_taken_from_the_first_place_that_has_one() {
    let server = Setup::embedded().start().await;
    let (a, b, c) = (token("a"), token("b"), token("c"));
    let header = format!("Bearer {a}");
    let protocol = format!("bearer, {c}");
    let all = [("authorization", &*header), ("sec-websocket-protocol", &*protocol)];
    let path = format!("/ws?token={b}");
    assert_eq!(Client::open(&server, &path, &all).await.greeting["user_id"], "a");
    assert_eq!(Client::open(&server, &path, &all[1..]).await.greeting["user_id"], "b");
    assert_eq!(Client::open(&server, "/ws", &all[1..]).await.greeting["user_id"], "c");
    // A bad one is not made good by a good one in a later place.
    let good = format!("Sec-WebSocket-Protocol: bearer, {c}");
    upgrade(&server, "/ws?token=bad", &[&good]).await.assert_refused(401);
    let good = format!("/ws?token={b}");
    upgrade(&server, &good, &["Authorization: Bearer bad"]).await.assert_refused(401);
}

#[tokio::test]
async fn a_token_in_the_subprotocol_is_answered_with_bearer() {
    let server = Setup::embedded().start().await;
    let header = format!("Sec-WebSocket-Protocol: bearer, {}", token("a"));
    let answer = upgrade(&server, "/ws", &[&header]).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-protocol"), Some("bearer"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let plain = upgrade(&server, "/ws", &[]).await;
    assert_eq!(plain.status, 101);
    assert_eq!(plain.header("sec-websocket-protocol"), None);
    assert_eq!(plain.header("sec-websocket-extensions"), None);
}

#[tokio::test]
async fn a_percent_encoded_token_and_other_parameters_are_understood() {
    let server = Setup::embedded().start().await;
    let encoded = token("a").replace('.', "%2E");
    let client = Client::open(&server, &format!("/ws?x=1&token={encoded}&y=%20"), &[]).await;
    assert_eq!(client.greeting["user_id"], "a");
}

#[tokio::test]
async fn an_origin_must_be_on_the_list() {
    let server = Setup::embedded().set("WS_ALLOWED_ORIGINS", "https://shop.example").start().await;
    upgrade(&server, "/ws", &["Origin: https://evil.example"]).await.assert_refused(403);
    upgrade(&server, "/ws", &["Origin: null"]).await.assert_refused(403);
    assert_eq!(upgrade(&server, "/ws", &["Origin: https://shop.example"]).await.status, 101);
    assert_eq!(upgrade(&server, "/ws", &[]).await.status, 101);
    let open = Setup::embedded().start().await;
    assert_eq!(upgrade(&open, "/ws", &["Origin: https://evil.example"]).await.status, 101);
}

#[tokio::test]
async fn what_is_not_an_upgrade_is_told_to_upgrade() {
    let server = Setup::embedded().start().await;
    let plain = "GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
    let old = upgrade_request("/ws", &[]).replace("Version: 13", "Version: 8");
    let missing = upgrade_request("/ws", &[]).replace("Sec-WebSocket-Version: 13\r\n", "");
    let other = upgrade_request("/ws", &[]).replace("Upgrade: websocket", "Upgrade: h2c");
    for request in [plain, old, missing, other] {
        let answer = exchange(server.http, request.as_bytes()).await;
        answer.assert_refused(426);
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{request}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{request}");
    }
}

#[tokio::test]
async fn a_malformed_handshake_is_400() {
    let server = Setup::embedded().start().await;
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let no_key = upgrade_request("/ws", &[]).replace(key, "");
    let short = upgrade_request("/ws", &[]).replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=");
    let not_base64 = upgrade_request("/ws", &[]).replace("dGhlIHNhbXBsZSBub25jZQ==", "%%%%");
    let not_http = "hello\r\n\r\n".to_owned();
    let bad_header = upgrade_request("/ws", &["no colon here"]);
    for request in [no_key, short, not_base64, not_http, bad_header] {
        exchange(server.http, request.as_bytes()).await.assert_refused(400);
    }
}

#[tokio::test]
async fn another_method_is_405() {
    let server = Setup::embedded().start().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = upgrade_request("/ws", &[]).replacen("GET", method, 1);
        let answer = exchange(server.http, request.as_bytes()).await;
        answer.assert_refused(405);
        assert_eq!(answer.header("allow"), Some("GET"));
    }
}

#[tokio::test]
async fn a_full_instance_answers_503_until_somebody_leaves() {
    let server = Setup::embedded().set("WS_MAX_CONNECTIONS", "2").set("WORKERS", "1").start().await;
    let first = Client::anonymous(&server).await;
    let _second = Client::connect(&server, &token("a")).await;
    let answer = upgrade(&server, "/ws", &[]).await;
    answer.assert_refused(503);
    answer.assert_retry_after();
    first.close().await;
    eventually("a free place", async || {
        (upgrade(&server, "/ws", &[]).await.status == 101).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_user_with_too_many_connections_is_429_and_others_are_not() {
    let server =
        Setup::embedded().set("WS_MAX_CONNECTIONS_PER_USER", "2").set("WORKERS", "1").start().await;
    let _one = Client::connect(&server, &token("a")).await;
    let _two = Client::connect(&server, &token("a")).await;
    let path = format!("/ws?token={}", token("a"));
    upgrade(&server, &path, &[]).await.assert_refused(429);
    Client::connect(&server, &token("b")).await;
    Client::anonymous(&server).await;
}

#[tokio::test]
async fn handshakes_over_the_accept_rate_are_503_before_their_token_is_looked_at() {
    let server = Setup::embedded().set("WS_ACCEPT_RATE", "1").set("WORKERS", "1").start().await;
    eventually("a handshake over the rate", async || {
        let answer = upgrade(&server, "/ws?token=bad", &[]).await;
        if answer.status == 401 {
            return None; // Within the rate.
        }
        answer.assert_refused(503);
        answer.assert_retry_after();
        Some(())
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_request_that_is_never_complete_is_closed() {
    let server = Setup::embedded().set("HTTP_READ_TIMEOUT", "300ms").start().await;
    let mut silent = Raw::connect(&server).await;
    let mut slow = Raw::connect(&server).await;
    slow.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n").await;
    silent.expect_end().await;
    slow.expect_end().await;
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let server = Setup::embedded().start().await;
    let mut endless = Raw::connect(&server).await;
    endless.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n").await;
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
    for _ in 0..1000 {
        if !endless.try_send(line.as_bytes()).await {
            break;
        }
    }
    endless.expect_end().await;
    Client::anonymous(&server).await;
}

#[tokio::test]
async fn without_redis_users_are_503_and_anonymous_connections_are_let_in() {
    let mut redis = Redis::absent();
    let server = Setup::on(&redis).start().await;
    let answer = upgrade(&server, &format!("/ws?token={}", token("a")), &[]).await;
    answer.assert_refused(503);
    answer.assert_retry_after();
    upgrade(&server, "/ws?token=bad", &[]).await.assert_refused(401);
    let mut client = Client::anonymous(&server).await;
    assert_eq!(client.greeting["all"], json!({"id": null}));
    redis.restart().await;
    let resync = client.expect("system:resync").await;
    assert_eq!(resync["payload"]["room"], "all");
    assert_is_id(&resync["payload"]["id"]);
    assert!(resync["payload"]["after_ms"].is_u64(), "{resync}");
}

#[tokio::test]
async fn a_since_that_means_nothing_is_not_recovered_and_no_error() {
    let server = Setup::embedded().start().await;
    for since in ["garbage", "0-0-00000000", "%F0%9F%8E%AB", "1-2", &"9".repeat(300)] {
        let path = format!("/ws?token={}&since={since}&since_all={since}", token("a"));
        let client = Client::open(&server, &path, &[]).await;
        assert_eq!(client.greeting["recovered"], false, "{since}");
        assert_eq!(client.greeting["all"]["recovered"], false, "{since}");
        assert_is_id(&client.greeting["id"]);
    }
    let path = format!("/ws?token={}&since=&since_all=", token("a"));
    let client = Client::open(&server, &path, &[]).await;
    assert!(client.greeting.get("recovered").is_none(), "an empty since is none");
    assert!(client.greeting["all"].get("recovered").is_none(), "an empty since is none");
}

#[tokio::test]
async fn without_a_history_there_are_no_positions() {
    let server = Setup::embedded().set("HISTORY_SIZE", "0").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    assert_eq!(client.greeting["id"], Value::Null);
    assert_eq!(client.greeting["all"]["id"], Value::Null);
    assert_eq!(client.join("event:1").await["payload"]["id"], Value::Null);
    let path = format!("/ws?token={}&since=1-1-00000000", token("a"));
    let resumed = Client::open(&server, &path, &[]).await;
    assert_eq!(resumed.greeting["recovered"], false);
}

#[tokio::test]
async fn user_ids_are_checked() {
    let server = Setup::embedded().start().await;
    let with = |user: &str| format!("/ws?token={}", mint(json!({ "sub": user })));
    upgrade(&server, &with(&"x".repeat(129)), &[]).await.assert_refused(401);
    upgrade(&server, &with("a\nb"), &[]).await.assert_refused(401);
    assert_eq!(upgrade(&server, &with(&"x".repeat(128)), &[]).await.status, 101);
    assert_eq!(upgrade(&server, &with("người dùng"), &[]).await.status, 101);
}

#[tokio::test]
async fn other_paths_are_not_websockets() {
    let server: Server = Setup::embedded().start().await;
    upgrade(&server, "/", &[]).await.assert_refused(404);
    upgrade(&server, "/wss", &[]).await.assert_refused(404);
}

/// Checks the form `<epoch>-<offset>-<check>`.
#[track_caller]
pub fn assert_is_id(id: &Value) {
    let text = id.as_str().unwrap_or_else(|| panic!("not an id: {id}"));
    let parts: Vec<&str> = text.split('-').collect();
    let &[epoch, offset, check] = parts.as_slice() else {
        panic!("not an id: {id}");
    };
    assert!(u64::from_str_radix(epoch, 16).is_ok(), "not an id: {id}");
    assert!(offset.parse::<u64>().is_ok(), "not an id: {id}");
    assert!(check.len() == 8 && u32::from_str_radix(check, 16).is_ok(), "not an id: {id}");
}
