//! Limits and liveness: when the server says no, and when it says goodbye.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::common::{
    client::Client,
    raw::{PING, PONG, Raw, TEXT, masked},
    server::Setup,
    token::token,
};

#[tokio::test]
async fn a_message_of_exactly_the_limit_is_read_and_a_longer_one_closes() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    let ping = |bytes: usize| {
        let empty = json!({"type": "system:ping", "payload": ""}).to_string();
        json!({"type": "system:ping", "payload": "x".repeat(bytes - empty.len())}).to_string()
    };
    assert_eq!(ping(65_536).len(), 65_536);
    client.send_text(&ping(65_536)).await;
    client.expect("system:pong").await;
    client.send_text(&ping(65_537)).await;
    client.expect_close(1009).await;
}

#[tokio::test]
async fn the_size_of_messages_can_be_set() {
    let server = Setup::embedded().set("WS_MAX_MESSAGE_SIZE", "1024").start().await;
    let mut client = Client::anonymous(&server).await;
    client.send_text(&json!({"type": "system:ping", "payload": "x".repeat(900)}).to_string()).await;
    client.expect("system:pong").await;
    client
        .send_text(&json!({"type": "system:ping", "payload": "x".repeat(1100)}).to_string())
        .await;
    client.expect_close(1009).await;
}

#[tokio::test]
async fn too_many_errors_in_a_row_close_the_connection() {
    let server = Setup::embedded().set("WS_MAX_ERRORS", "3").start().await;
    let mut client = Client::anonymous(&server).await;
    for _ in 0..3 {
        for _ in 0..2 {
            client.send_text("nonsense").await;
            client.expect_error("PARSE_ERROR").await;
        }
        client.assert_quiet().await; // A good message, from which counting starts again.
    }
    for _ in 0..3 {
        client.send_text("nonsense").await;
    }
    let (code, messages) = client.until_closed().await;
    assert_eq!(code, Some(1008));
    assert!(messages.iter().all(|message| message["payload"]["code"] == "PARSE_ERROR"));
}

#[tokio::test]
async fn messages_over_the_rate_are_refused_and_a_pause_is_forgiven() {
    let server = Setup::embedded()
        .set("WS_MESSAGE_RATE", "20")
        .set("WS_MESSAGE_BURST", "10")
        .set("WS_MAX_ERRORS", "1000")
        .start()
        .await;
    let mut client = Client::anonymous(&server).await;
    let started = Instant::now();
    for number in 0..30 {
        client.send(json!({"type": "system:ping", "ref": number})).await;
    }
    let mut refused = 0;
    for number in 0..30 {
        let answer = client.next_of(&["system:pong", "system:error"]).await;
        if answer["type"] == "system:error" {
            assert_eq!(answer["payload"]["code"], "RATE_LIMITED");
            refused += 1;
        } else {
            assert!(number >= 10 || answer["ref"] == number, "within the burst: {answer}");
        }
    }
    let allowed = 10 + started.elapsed().as_millis() / 50 + 1;
    assert!(30 - refused <= allowed, "{refused} of 30 were refused");
    crate::common::eventually("the rate to recover", async || {
        client.send(json!({"type": "system:ping"})).await;
        let answer = client.next_of(&["system:pong", "system:error"]).await;
        (answer["type"] == "system:pong").then_some(())
    })
    .await;
}

#[tokio::test]
async fn ten_seconds_over_the_rate_close_the_connection() {
    let server = Setup::embedded()
        .set("WS_MESSAGE_RATE", "1")
        .set("WS_MESSAGE_BURST", "1")
        .set("WS_MAX_ERRORS", "1000000")
        .start()
        .await;
    let mut client = Client::anonymous(&server).await;
    let mut bystander = Client::connect(&server, &token("b")).await;
    let started = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let ping = Message::text(r#"{"type":"system:ping"}"#);
    while client.try_send_frame(ping.clone()).await.is_ok() {
        pace.tick().await;
        if started.elapsed() > Duration::from_secs(12) {
            break;
        }
    }
    let (code, _) = client.until_closed().await;
    assert_eq!(code, Some(4429));
    assert!(started.elapsed() >= Duration::from_secs(9), "closed after {:?}", started.elapsed());
    bystander.assert_quiet().await;
}

#[tokio::test]
async fn a_silent_peer_is_pinged_and_then_closed() {
    let server = Setup::embedded()
        .set("WS_PING_INTERVAL", "300ms")
        .set("WS_PONG_TIMEOUT", "900ms")
        .start()
        .await;
    let mut silent = Raw::upgraded(&server, "/ws").await;
    let ping = silent.frame().await.expect("a ping comes before the end");
    assert_eq!(ping.opcode, PING, "{ping:?}");
    silent.expect_close(4408).await;
}

#[tokio::test]
async fn a_peer_that_answers_pings_stays() {
    let server = Setup::embedded()
        .set("WS_PING_INTERVAL", "200ms")
        .set("WS_PONG_TIMEOUT", "600ms")
        .start()
        .await;
    let mut peer = Raw::upgraded(&server, "/ws").await;
    let started = Instant::now();
    let mut pings = 0;
    while started.elapsed() < Duration::from_millis(1500) {
        let ping = peer.frame().await.expect("it answers and stays");
        assert_eq!(ping.opcode, PING, "{ping:?}");
        peer.send(&masked(PONG, &ping.payload)).await;
        pings += 1;
    }
    assert!(pings >= 2, "{pings} pings in {:?}", started.elapsed());
}

#[tokio::test]
async fn a_peer_that_talks_is_pinged_only_to_spread_the_heartbeats() {
    let server =
        Setup::embedded().set("WS_PING_INTERVAL", "1s").set("WS_PONG_TIMEOUT", "5s").start().await;
    let mut peer = Raw::upgraded(&server, "/ws").await;
    let started = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let mut pings = 0;
    while started.elapsed() < Duration::from_secs(3) {
        pace.tick().await;
        peer.send(&masked(TEXT, br#"{"type":"system:ping"}"#)).await;
        let mut answer = peer.frame().await.expect("it stays");
        while answer.opcode == PING {
            pings += 1;
            answer = peer.frame().await.expect("it stays");
        }
        assert_eq!(answer.opcode, TEXT, "{answer:?}");
    }
    // The first comes at a random time of the first interval, whatever the peer does.
    assert!(pings <= 1, "{pings} pings");
}

#[tokio::test]
async fn a_websocket_ping_is_answered_with_its_payload() {
    let server = Setup::embedded().start().await;
    let mut peer = Raw::upgraded(&server, "/ws").await;
    for payload in [&b""[..], b"hello", &[0xff; 125]] {
        peer.send(&masked(PING, payload)).await;
        let pong = peer.frame().await.expect("it stays");
        assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, payload));
    }
}

#[tokio::test]
async fn a_normal_close_is_answered_and_tcp_ends() {
    let server = Setup::embedded().start().await;
    for code in [1000_u16, 1001] {
        let mut peer = Raw::upgraded(&server, "/ws").await;
        peer.send(&masked(crate::common::raw::CLOSE, &code.to_be_bytes())).await;
        let close = peer.frame().await.expect("it is answered");
        assert_eq!(close.close_code(), code);
        peer.expect_end().await;
    }
}

#[tokio::test]
async fn a_peer_that_never_answers_a_close_is_not_waited_for() {
    let server =
        Setup::embedded().set("WS_CLOSE_TIMEOUT", "300ms").set("WS_MAX_ERRORS", "1").start().await;
    let mut peer = Raw::upgraded(&server, "/ws").await;
    peer.send(&masked(TEXT, b"nonsense")).await;
    let mut last = peer.frame().await.expect("it is told");
    while last.opcode == 1 {
        last = peer.frame().await.expect("a close frame comes before the end");
    }
    assert_eq!(last.close_code(), 1008);
    peer.expect_end().await;
}
