//! Peers that mean no good: whatever they do is their own trouble.

use serde_json::json;
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::Message;

use crate::common::{
    client::Client,
    eventually, grpc,
    http::upgrade_request,
    raw::{BINARY, PING, Raw, TEXT, masked, unmasked},
    server::{Server, Setup},
    token::token,
};

#[tokio::test]
async fn frames_that_break_the_protocol_close_with_the_code_that_says_so() {
    let server = Setup::embedded().start().await;
    let ping = br#"{"type":"system:ping"}"#;
    let with_first_byte = |first: u8| {
        let mut frame = masked(TEXT, ping);
        frame[0] = first;
        frame
    };
    let endless = {
        let mut frame = vec![0x81, 0xff];
        frame.extend_from_slice(&(1_u64 << 62).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame
    };
    let cases = [
        ("binary", masked(BINARY, ping), 1003),
        ("empty binary", masked(BINARY, b""), 1003),
        ("bad UTF-8", masked(TEXT, &[b'"', 0xc3, 0x28, b'"']), 1007),
        ("cut UTF-8", masked(TEXT, &[b'"', 0xf0, 0x9f]), 1007),
        ("unmasked", unmasked(TEXT, ping), 1002),
        ("a reserved bit", with_first_byte(0xc1), 1002),
        ("an unknown opcode", with_first_byte(0x83), 1002),
        ("a continuation of nothing", with_first_byte(0x80), 1002),
        ("a fragmented ping", masked(PING, b"x").tap(|frame| frame[0] = PING), 1002),
        ("a long ping", masked(PING, &[0; 126]), 1002),
        ("64 KiB + 1", masked(TEXT, &[b' '; 65_537]), 1009),
        ("an endless frame", endless, 1009),
    ];
    for (what, bytes, code) in cases {
        let mut peer = Raw::upgraded(&server, "/ws").await;
        peer.try_send(&bytes).await;
        eprintln!("{what}");
        peer.expect_close(code).await;
    }
    everything_is_fine(&server).await;
}

#[tokio::test]
async fn fragments_that_add_up_to_too_much_close_with_1009() {
    let server = Setup::embedded().start().await;
    let mut peer = Raw::upgraded(&server, "/ws").await;
    let chunk = [b' '; 1000];
    let mut first = masked(TEXT, &chunk);
    first[0] = TEXT; // Without FIN.
    let mut more = masked(0, &chunk);
    more[0] = 0;
    peer.send(&first).await;
    for _ in 0..65 {
        peer.try_send(&more).await;
    }
    peer.expect_close(1009).await;
}

#[tokio::test]
async fn deep_json_is_an_error_and_no_stack_overflow() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    let payloads = [
        "[".repeat(10_000) + &"]".repeat(10_000),
        "{\"a\":".repeat(10_000) + "1" + &"}".repeat(3_000),
        "[".repeat(60_000),
    ];
    for payload in payloads {
        client.send_text(&format!("{{\"type\":\"room:join\",\"payload\":{payload}}}")).await;
        client.expect("system:error").await;
        client.send_text(&payload).await;
        client.expect("system:error").await;
    }
    client.assert_quiet().await;
}

#[tokio::test]
async fn a_peer_that_sends_byte_by_byte_is_served() {
    let server = Setup::embedded().start().await;
    let mut peer = Raw::connect(&server).await;
    for byte in upgrade_request("/ws", &[]).as_bytes() {
        peer.send(std::slice::from_ref(byte)).await;
    }
    assert_eq!(peer.head().await.status, 101);
    peer.expect_text("system:connected").await;
    for byte in masked(TEXT, br#"{"type":"system:ping","ref":"slow"}"#) {
        peer.send(&[byte]).await;
    }
    peer.expect_text("\"ref\":\"slow\"").await;
}

#[tokio::test]
async fn frames_in_the_same_segment_as_the_handshake_are_read() {
    let server = Setup::embedded().start().await;
    for path in ["/ws".to_owned(), format!("/ws?token={}", token("a"))] {
        let mut peer = Raw::connect(&server).await;
        let mut bytes = upgrade_request(&path, &[]).into_bytes();
        for number in 0..3 {
            let ping = json!({"type": "system:ping", "ref": number}).to_string();
            bytes.extend(masked(TEXT, ping.as_bytes()));
        }
        peer.send(&bytes).await;
        assert_eq!(peer.head().await.status, 101);
        peer.expect_text("system:connected").await;
        for number in 0..3 {
            peer.expect_text(&format!("\"ref\":{number}")).await;
        }
    }
}

#[tokio::test]
async fn peers_that_vanish_at_any_point_leave_nothing_behind() {
    let server = Setup::embedded().start().await;
    let request = upgrade_request(&format!("/ws?token={}", token("a")), &[]);
    for sent in (1..request.len()).step_by(37) {
        Raw::connect(&server).await.send(&request.as_bytes()[..sent]).await;
    }
    let frame = masked(TEXT, br#"{"type":"room:join","payload":{"room":"event:1"}}"#);
    for sent in 1..frame.len() {
        let mut peer = Raw::upgraded(&server, "/ws").await;
        peer.send(&frame[..sent]).await;
    }
    nobody_is_left(&server).await;
    everything_is_fine(&server).await;
}

#[tokio::test]
async fn a_half_closed_peer_is_closed() {
    let server = Setup::embedded().start().await;
    let mut peer = Raw::upgraded(&server, "/ws").await;
    peer.send(&masked(TEXT, br#"{"type":"room:join","payload":{"room":"event:1"}}"#)).await;
    peer.expect_text("room:joined").await;
    peer.finish().await;
    peer.expect_end().await;
    nobody_is_left(&server).await;
}

#[tokio::test]
async fn ten_thousand_joins_of_one_peer_do_not_disturb_another() {
    let server =
        Setup::embedded().set("WS_MESSAGE_RATE", "0").set("WS_MAX_ROOMS", "10000").start().await;
    let mut greedy = Client::anonymous(&server).await;
    let mut bystander = Client::connect(&server, &token("b")).await;
    bystander.join("event:0").await;
    let (sent, mut done) = tokio::sync::oneshot::channel();
    let greedy = tokio::spawn(async move {
        for chunk in 0..100 {
            for number in 0..100 {
                let id = (chunk * 100 + number).to_string();
                let join = json!({"type": "room:join", "payload": {"event_id": id}});
                greedy.send(join).await;
            }
            for _ in 0..100 {
                greedy.expect("room:joined").await;
            }
        }
        sent.send(()).unwrap();
        greedy
    });
    while done.try_recv().is_err() {
        bystander.assert_quiet().await;
    }
    let greedy = greedy.await.unwrap();
    assert_eq!(grpc::broadcast(&server, "event:0", "x", "{}").await.unwrap().recipients, 2);
    assert_eq!(grpc::broadcast(&server, "event:9999", "y", "{}").await.unwrap().recipients, 1);
    bystander.expect("x").await;
    drop(greedy);
    eventually("the rooms to be forgotten", async || {
        let stats = grpc::stats(&server).await;
        let mut rooms = stats.connections_per_room.keys();
        rooms.all(|room| room == "event:0" || room == "all").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_joins_without_reading_is_cut_off() {
    let server = Setup::embedded().start().await;
    let mut peer = Raw::upgraded(&server, "/ws").await;
    let mut bystander = Client::connect(&server, &token("b")).await;
    for number in 0..10_000 {
        let join = json!({"type": "room:join", "payload": {"event_id": number.to_string()}});
        if !peer.try_send(&masked(TEXT, join.to_string().as_bytes())).await {
            break;
        }
    }
    peer.expect_end().await;
    bystander.assert_quiet().await;
    everything_is_fine(&server).await;
}

#[tokio::test]
async fn a_flood_of_pings_without_reading_stays_bounded() {
    let server = Setup::embedded().set("WS_CLOSE_TIMEOUT", "300ms").start().await;
    let before = server.resident_bytes();
    let mut peer = Client::over(stingy(&server).await, &server, "/ws", &[]).await;
    let mut bystander = Client::connect(&server, &token("b")).await;
    let ping = Message::Ping(vec![0; 125].into());
    let flood = async {
        for _ in 0..200_000 {
            if peer.try_send_frame(ping.clone()).await.is_err() {
                return;
            }
        }
    };
    // The server may close it, reset it, or stop reading from it.
    tokio::time::timeout(std::time::Duration::from_secs(5), flood).await.ok();
    bystander.assert_quiet().await;
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "it grew by {grown} bytes");
    drop(peer);
    everything_is_fine(&server).await;
}

#[tokio::test]
async fn a_peer_that_never_reads_is_cut_off_and_others_get_everything() {
    const MESSAGES: usize = 400;
    let server = Setup::embedded().set("WS_CLOSE_TIMEOUT", "300ms").start().await;
    let before = server.resident_bytes();
    let mut stuck = Client::over(stingy(&server).await, &server, "/ws", &[]).await;
    stuck.join("event:1").await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut client = Client::anonymous(&server).await;
        client.join("event:1").await;
        readers.push(tokio::spawn(async move {
            for number in 0..MESSAGES {
                assert_eq!(client.expect("x").await["payload"]["number"], number);
            }
            client
        }));
    }
    let mut publisher = grpc::client(&server);
    let filler = "x".repeat(60_000);
    for number in 0..MESSAGES {
        let request = realtime_proto::BroadcastEventRequest {
            room: "event:1".to_owned(),
            event_type: "x".to_owned(),
            payload: json!({"number": number, "filler": filler}).to_string(),
            ..Default::default()
        };
        let sent = publisher.broadcast_event(request).await.unwrap().into_inner();
        assert!((3..=4).contains(&sent.recipients), "{number} reached {}", sent.recipients);
    }
    for reader in readers {
        reader.await.unwrap().assert_quiet().await;
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "it grew by {grown} bytes");
    eventually("the stuck peer to be cut off", async || {
        let stats = grpc::stats(&server).await;
        (stats.connections_per_room.get("event:1").copied().unwrap_or(0) <= 0).then_some(())
    })
    .await;
    let (code, _) = stuck.until_closed().await;
    assert!(matches!(code, None | Some(4508)), "{code:?}");
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_others_out() {
    let server = Setup::embedded().start().await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(Raw::connect(&server).await);
    }
    everything_is_fine(&server).await;
    drop(idle);
    everything_is_fine(&server).await;
}

#[tokio::test]
async fn running_out_of_files_is_survived() {
    let server = Setup::embedded().open_files(128).set("WS_MAX_CONNECTIONS", "20").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    let mut greedy = Vec::new();
    for _ in 0..200 {
        greedy.push(Raw::connect(&server).await);
    }
    client.assert_quiet().await;
    drop(greedy);
    everything_is_fine(&server).await;
    client.assert_quiet().await;
}

#[tokio::test]
async fn nonsense_on_every_port_is_survived() {
    let server = Setup::embedded().start().await;
    let nonsense = [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], // The start of a TLS hello.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /ws HTTP/1.0\r\n\r\n",
        b"GET http://[::1/ws HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ws?token=%zz&%=& HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ];
    for address in [server.http, server.grpc, server.metrics.unwrap()] {
        for bytes in nonsense {
            use tokio::io::AsyncWriteExt as _;
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.ok();
            let mut answer = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
            crate::common::within("an answer or the end", read).await.ok();
        }
    }
    everything_is_fine(&server).await;
}

/// Checks that a newcomer gets what is due.
async fn everything_is_fine(server: &Server) {
    let mut client = Client::connect(server, &token("newcomer")).await;
    client.join("event:newcomer").await;
    let sent = grpc::send_to_user(server, "newcomer", "hello", "{}").await.unwrap();
    assert_eq!(sent.connections_notified, 1);
    client.expect("hello").await;
    let sent = grpc::broadcast(server, "event:newcomer", "room", "{}").await.unwrap();
    assert_eq!(sent.recipients, 1);
    client.expect("room").await;
    client.close().await;
}

async fn nobody_is_left(server: &Server) {
    eventually("all connections to be forgotten", async || {
        let stats = grpc::stats(server).await;
        (stats.total_connections == 0).then_some(())
    })
    .await;
}

/// A TCP connection that takes little before it must be read.
async fn stingy(server: &Server) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(server.http).await.unwrap()
}

/// Changes a value in place within an expression.
trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Tap for Vec<u8> {}
