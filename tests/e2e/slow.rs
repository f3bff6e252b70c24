//! One reader that is far too slow, in a room in which much is said.

use std::collections::VecDeque;

use serde_json::json;
use tokio::{net::TcpSocket, task::JoinSet};

use crate::common::{
    client::Client,
    grpc,
    http::fetch,
    server::{Server, Setup},
    token::token,
};

const BROADCASTS: u64 = 50_000;
const READERS: usize = 5;

#[tokio::test]
async fn a_slow_reader_costs_nobody_anything_and_has_the_final_state_when_it_is_back() {
    let server = Setup::embedded().set("WS_SLOW_TIMEOUT", "2s").start().await;
    let mut readers = Vec::new();
    for reader in 0..READERS {
        let mut client = Client::connect(&server, &token(&format!("reader-{reader}"))).await;
        client.join("event:1").await;
        readers.push(client);
    }
    // The kernel takes little for it, so that the rest is the server's.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let stream = socket.connect(server.http).await.unwrap();
    let path = format!("/ws?token={}", token("slow"));
    let mut slow = Client::over(stream, &server, &path, &[]).await;
    let start = slow.join("event:1").await["payload"]["id"].as_str().unwrap().to_owned();
    let before = server.resident_bytes();

    let mut reading = JoinSet::new();
    for client in readers {
        reading.spawn(read_all(client));
    }
    publish_all(&server).await;
    while let Some(lacking) = reading.join_next().await {
        lacking.unwrap();
    }
    // It reads its first messages now, and finds out that it was closed meanwhile.
    let (code, got) = slow.until_closed().await;
    assert!(matches!(code, None | Some(4508)), "{code:?}");
    let (mut last, mut next) = (start, 1);
    for message in &got {
        let id = message["id"].as_str().unwrap();
        assert_eq!(offset(id), next);
        (last, next) = (id.to_owned(), next + 1);
    }
    assert!(next <= BROADCASTS, "it did not get everything before");

    // Whoever is back is given what it missed, or told; here it is too much for the history.
    let mut back = Client::connect(&server, &token("slow")).await;
    let join = json!({"type": "room:join", "payload": {"room": "event:1", "since": last}});
    let joined = back.ask(join, "room:joined").await;
    assert_eq!(joined["payload"]["recovered"], false);
    assert_eq!(offset(joined["payload"]["id"].as_str().unwrap()), BROADCASTS);
    grpc::broadcast(&server, "event:1", "n", "0").await.unwrap();
    assert_eq!(offset(back.expect("n").await["id"].as_str().unwrap()), BROADCASTS + 1);

    // The history of a room and one outbox are bounded, and nothing is left in any outbox.
    let grown = server.resident_bytes().saturating_sub(before);
    eprintln!("{} messages before the slow one was closed; {grown} bytes more", next - 1);
    assert!(grown < 24 << 20, "{grown} bytes more");
    let metrics = fetch(&server, "/metrics").await.body;
    assert!(metrics.contains("realtime_websocket_outbox_bytes 0"), "{metrics}");
}

/// Every message, once and in order.
async fn read_all(mut client: Client) {
    for expected in 1..=BROADCASTS {
        let message = client.expect("n").await;
        assert_eq!(offset(message["id"].as_str().unwrap()), expected);
    }
}

/// So many at once that the server is never idle.
async fn publish_all(server: &Server) {
    let caller = grpc::client(server);
    let mut calls = VecDeque::new();
    for number in 0..BROADCASTS {
        let mut caller = caller.clone();
        let request = realtime_proto::BroadcastEventRequest {
            event_type: "n".to_owned(),
            room: "event:1".to_owned(),
            payload: format!("\"{number} {}\"", "x".repeat(300)),
            ..Default::default()
        };
        calls.push_back(tokio::spawn(async move { caller.broadcast_event(request).await }));
        if calls.len() == 64 {
            calls.pop_front().unwrap().await.unwrap().unwrap();
        }
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

/// The middle of `epoch-offset-check`.
fn offset(id: &str) -> u64 {
    id.split('-').nth(1).unwrap().parse().unwrap()
}
