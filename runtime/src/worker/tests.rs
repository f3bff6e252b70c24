use std::{cell::Cell, future::Future, io, time::Duration};

use bytes::Bytes;
use realtime_core::{
    id::{DispatchId, Epoch, Mid, Position},
    link::{Publication, Suffix, ToRelay, ValueKey},
    wire::Frame,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    task::LocalSet,
};

use super::*;
use crate::net::memory::{MemoryListener, MemoryStream, pair, writes};

const PIPE_BYTES: usize = 4096;
const REQUEST: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A worker, and a test in the place of everything around it.
struct Harness {
    arrivals: mpsc::Sender<io::Result<MemoryStream>>,
    to_shard: mpsc::Sender<ToShard>,
    from_shard: mpsc::Receiver<LinkCommand>,
    handoffs: mpsc::Receiver<Handoff<MemoryStream>>,
    commands: mpsc::Sender<WorkerCommand>,
    drained: mpsc::Receiver<WorkerId>,
    phase: watch::Sender<Phase>,
    dispatches: Cell<u64>,
}

/// Runs a test in paused time: it moves on when everybody waits.
fn run<F: Future<Output = ()>>(config: impl FnOnce(&mut Config), test: impl FnOnce(Harness) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let mut settings = Config::from_env(&|_| None).unwrap();
    settings.ws.allow_anonymous = true;
    settings.ws.connections_max = 10_000;
    config(&mut settings);
    LocalSet::new().block_on(&runtime, async {
        let (link, from_shard) = mpsc::channel(2);
        let (to_shard, from_link) = mpsc::channel(64);
        let (commands, worker_commands) = mpsc::channel(4);
        let (handoff, handoffs) = mpsc::channel(1);
        let (drained, drains) = mpsc::channel(1);
        let (phase, phases) = watch::channel(Phase::Serving);
        let (arrivals, accepts) = mpsc::channel(4);
        let setup = Setup {
            id: WorkerId(0),
            workers: NonZeroU16::MIN,
            verifier: Arc::new(Verifier::new(&settings.keys).unwrap()),
            config: Arc::new(settings),
            clock: Clock::new(),
            census: Arc::default(),
            boot: BootId(1),
            seed: 1,
            link,
            from_link,
            commands: worker_commands,
            handoff,
            drained,
            phase: phases,
            record: None,
        };
        let worker = tokio::task::spawn_local(super::run(setup, MemoryListener(accepts)));
        let harness = Harness {
            arrivals,
            to_shard,
            from_shard,
            handoffs,
            commands,
            drained: drains,
            phase,
            dispatches: Cell::new(0),
        };
        let phase = harness.phase.clone();
        test(harness).await;
        phase.send_replace(Phase::Stopping);
        worker.await.unwrap();
    });
}

fn unchanged(_: &mut Config) {}

impl Harness {
    /// A connection that has sent `request`.
    async fn connect(&self, request: &str) -> DuplexStream {
        let (ours, mut theirs) = pair(PIPE_BYTES);
        self.arrivals.send(Ok(ours)).await.unwrap();
        theirs.write_all(request.as_bytes()).await.unwrap();
        theirs
    }

    async fn heard(&mut self) -> ToRelay {
        match self.from_shard.recv().await.unwrap() {
            LinkCommand::FromShard(WorkerId(0), message) => message,
            LinkCommand::FromShard(..)
            | LinkCommand::Expected { .. }
            | LinkCommand::Published { .. }
            | LinkCommand::Peers(_)
            | LinkCommand::Leave(_)
            | LinkCommand::Unpublished { .. } => panic!("only this worker speaks"),
        }
    }

    /// Answers the next message, which is to be a join.
    async fn answer_join(&mut self) {
        let ToRelay::Join { request, .. } = self.heard().await else { panic!("not a join") };
        let position = Some(Position { epoch: Epoch(1), offset: 0, mid: Mid(0) });
        let joined =
            ToShard::Joined { request, position, recovered: false, suffix: Suffix::default() };
        self.to_shard.send(joined).await.unwrap();
    }

    /// An open anonymous connection, its greeting read.
    async fn open(&mut self) -> DuplexStream {
        let mut client = self.connect(REQUEST).await;
        self.answer_join().await;
        read_head(&mut client).await;
        assert!(text(&mut client).await.contains("system:connected"));
        client
    }

    async fn publish(&self, stream: &str, frame: Bytes) -> DispatchId {
        self.publish_value(stream, frame, None).await
    }

    async fn publish_value(
        &self,
        stream: &str,
        frame: Bytes,
        value_of: Option<ValueKey>,
    ) -> DispatchId {
        let dispatch = DispatchId(self.dispatches.replace(self.dispatches.get() + 1));
        let publication = Publication {
            dispatch,
            stream: StreamName::room(stream).unwrap(),
            frame: Frame(frame),
            kind: "other".into(),
            exclude_user: None,
            acks_to: None,
            position: None,
            published: None,
            value_of,
        };
        self.to_shard.send(ToShard::Publication(Arc::new(publication))).await.unwrap();
        dispatch
    }

    async fn snapshot(&self) -> Snapshot {
        let (reply, snapshot) = oneshot::channel();
        let rooms = true;
        self.commands.send(WorkerCommand::Snapshot { rooms, reply }).await.unwrap();
        snapshot.await.unwrap()
    }
}

async fn read_head(client: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn read_all(client: &mut DuplexStream) -> String {
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    all
}

/// The next frame: its first byte and its payload.
async fn frame(client: &mut DuplexStream) -> (u8, Vec<u8>) {
    let (head, length) = (client.read_u8().await.unwrap(), client.read_u8().await.unwrap());
    let length = if length == 126 { client.read_u16().await.unwrap() } else { length.into() };
    let mut payload = vec![0; length.into()];
    client.read_exact(&mut payload).await.unwrap();
    (head, payload)
}

async fn text(client: &mut DuplexStream) -> String {
    let (head, payload) = frame(client).await;
    assert_eq!(head, 0x81);
    String::from_utf8(payload).unwrap()
}

async fn send(client: &mut DuplexStream, head: u8, payload: &str) {
    let length = u8::try_from(payload.len()).unwrap();
    client.write_all(&[head, 0x80 | length, 0, 0, 0, 0]).await.unwrap();
    client.write_all(payload.as_bytes()).await.unwrap();
}

/// A frame as the core would have encoded it.
fn text_frame(payload: &str) -> Bytes {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0x81, length][..], payload.as_bytes()].concat().into()
}

#[test]
fn the_greeting_follows_the_answer_once_the_join_is_answered() {
    run(unchanged, async |mut worker| {
        let mut client = worker.connect(REQUEST).await;
        worker.answer_join().await;
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(text(&mut client).await.starts_with(r#"{"type":"system:connected""#));
        let snapshot = worker.snapshot().await;
        assert_eq!((snapshot.stats.anonymous, snapshot.stats.handshaking), (1, 0));
        assert_eq!(snapshot.rooms, [(StreamName::all(), 1)]);
        drop(client);
        assert_eq!(worker.heard().await, ToRelay::Vacated { stream: StreamName::all() });
        assert_eq!(worker.snapshot().await.stats.anonymous, 0);
    });
}

#[test]
fn a_request_for_another_path_is_handed_on_with_all_that_was_read() {
    run(unchanged, async |mut worker| {
        let request = "GET /health HTTP/1.1\r\nHost: a\r\n\r\nmore";
        let _client = worker.connect(request).await;
        assert_eq!(worker.handoffs.recv().await.unwrap().head, request);
    });
}

#[test]
fn more_plain_requests_than_can_be_handed_on_are_refused() {
    run(unchanged, async |worker| {
        let request = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
        let _first = worker.connect(request).await;
        let mut second = worker.connect(request).await;
        assert!(read_all(&mut second).await.starts_with("HTTP/1.1 503 "));
    });
}

#[test]
fn flawed_requests_are_answered_and_closed() {
    run(unchanged, async |worker| {
        for (request, status) in [
            ("POST /ws HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
            ("GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", "426"),
            ("\x16\x03\x01 this is TLS\r\n\r\n", "400"),
        ] {
            let mut client = worker.connect(request).await;
            let answer = read_all(&mut client).await;
            assert_eq!(answer["HTTP/1.1 ".len()..][..3], *status, "{answer}");
        }
        let (ours, mut theirs) = pair(2 * handshake_limit());
        worker.arrivals.send(Ok(ours)).await.unwrap();
        theirs.write_all(&vec![b'x'; handshake_limit()]).await.unwrap();
        assert!(read_all(&mut theirs).await.starts_with("HTTP/1.1 431 "));
    });
}

fn handshake_limit() -> usize {
    crate::handshake::HEAD_BYTES_MAX
}

#[test]
fn a_request_that_is_not_complete_in_time_is_closed_without_an_answer() {
    run(unchanged, async |worker| {
        let mut client = worker.connect(&REQUEST[..REQUEST.len() - 1]).await;
        assert_eq!(read_all(&mut client).await, "");
    });
}

#[test]
fn a_bad_token_is_refused_and_the_answer_can_be_read() {
    run(unchanged, async |worker| {
        let request = REQUEST.replace("/ws", "/ws?token=nonsense");
        let mut client = worker.connect(&request).await;
        assert!(read_all(&mut client).await.starts_with("HTTP/1.1 401 "));
        assert_eq!(worker.snapshot().await.stats.handshaking, 0);
    });
}

#[test]
fn running_out_of_files_is_counted_and_survived() {
    run(unchanged, async |mut worker| {
        for _ in 0..3 {
            // EMFILE on Linux.
            worker.arrivals.send(Err(io::Error::from_raw_os_error(24))).await.unwrap();
        }
        let gone = Err(io::ErrorKind::ConnectionAborted.into());
        worker.arrivals.send(gone).await.unwrap();
        worker.open().await;
        assert_eq!(worker.snapshot().await.accept_failures, 3);
    });
}

#[test]
fn connections_that_say_nothing_make_way_for_those_that_do() {
    run(
        |config| config.ws.sockets_max = 4,
        async |mut worker| {
            let mut silent = Vec::new();
            for _ in 0..6 {
                let (ours, theirs) = pair(PIPE_BYTES);
                worker.arrivals.send(Ok(ours)).await.unwrap();
                silent.push(theirs);
            }
            worker.open().await;
            assert_eq!(worker.snapshot().await.accept_failures, 3);
            // The oldest are gone, and only they: with the open one they are four.
            for gone in &mut silent[..3] {
                assert_eq!(read_all(gone).await, "");
            }
            silent[3].write_all(b"GET /ws HTTP/1.1\r\n\r\n").await.unwrap();
            assert!(read_all(&mut silent[3]).await.starts_with("HTTP/1.1 426 "));
        },
    );
}

#[test]
fn a_frame_in_the_segment_of_the_request_is_answered_after_the_greeting() {
    run(unchanged, async |mut worker| {
        let (ours, mut client) = pair(PIPE_BYTES);
        worker.arrivals.send(Ok(ours)).await.unwrap();
        let ping = [0x89, 0x81, 0, 0, 0, 0, b'p'];
        client.write_all(&[REQUEST.as_bytes(), &ping].concat()).await.unwrap();
        worker.answer_join().await;
        read_head(&mut client).await;
        text(&mut client).await;
        assert_eq!(frame(&mut client).await, (0x8A, b"p".to_vec()));
    });
}

#[test]
fn a_binary_message_closes_with_1003() {
    run(unchanged, async |mut worker| {
        let mut client = worker.open().await;
        send(&mut client, 0x82, "").await;
        let (head, payload) = frame(&mut client).await;
        assert_eq!((head, &payload[..2]), (0x88, &1003_u16.to_be_bytes()[..]));
        client.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 235]).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn a_message_reaches_the_shard_and_its_answer_the_client() {
    run(unchanged, async |mut worker| {
        let mut client = worker.open().await;
        send(&mut client, 0x81, r#"{"type":"system:ping","ref":7}"#).await;
        let answer = text(&mut client).await;
        assert!(answer.contains("system:pong") && answer.contains(r#""ref":7"#), "{answer}");
        send(&mut client, 0x81, r#"{"type":"room:join","payload":{"room":"event:1"}}"#).await;
        worker.answer_join().await;
        assert!(text(&mut client).await.contains("room:joined"));
        let dispatch = worker.publish("event:1", text_frame("published")).await;
        assert_eq!(text(&mut client).await, "published");
        assert_eq!(worker.heard().await, ToRelay::HandedOver { dispatch, recipients: 1 });
    });
}

#[test]
fn a_long_fan_out_reaches_everybody_and_lets_a_short_one_overtake() {
    run(unchanged, async |mut worker| {
        let mut clients = Vec::new();
        for _ in 0..300 {
            let mut client = worker.connect(REQUEST).await;
            worker.answer_join().await;
            read_head(&mut client).await;
            text(&mut client).await;
            clients.push(client);
        }
        let member = &mut clients[0];
        send(member, 0x81, r#"{"type":"room:join","payload":{"room":"event:1"}}"#).await;
        worker.answer_join().await;
        text(member).await;
        let long = worker.publish("all", text_frame("to all")).await;
        let short = worker.publish("event:1", text_frame("to one")).await;
        assert_eq!(worker.heard().await, ToRelay::HandedOver { dispatch: short, recipients: 1 });
        assert_eq!(worker.heard().await, ToRelay::HandedOver { dispatch: long, recipients: 300 });
        for client in &mut clients[1..] {
            assert_eq!(text(client).await, "to all");
        }
    });
}

#[test]
fn a_client_that_is_behind_gets_the_newest_values_and_is_not_closed_for_the_others() {
    run(
        |config| config.ws.outbox_bytes_max = 20_000,
        async |mut worker| {
            let mut slow = worker.open().await;
            let key = Some(ValueKey::new(&StreamName::all(), "queue", "1"));
            for number in 0..1_000 {
                let filling = "x".repeat(96);
                worker
                    .publish_value("all", text_frame(&format!("{number:04}{filling}")), key)
                    .await;
                let handed = worker.heard().await;
                assert!(matches!(handed, ToRelay::HandedOver { recipients: 1, .. }), "{number}");
            }
            let snapshot = worker.snapshot().await;
            assert!(snapshot.queued_bytes < 11_000, "{}", snapshot.queued_bytes);
            assert!(snapshot.values_replaced > 700, "{}", snapshot.values_replaced);
            let mut last = 0;
            while last < 999 {
                let number = text(&mut slow).await[..4].parse().unwrap();
                assert!(number >= last, "{number} after {last}");
                last = number;
            }
            assert_eq!(worker.snapshot().await.queued_bytes, 0);
        },
    );
}

#[test]
fn a_client_that_reads_nothing_is_closed_and_delays_nobody() {
    run(
        |config| config.ws.outbox_bytes_max = 20_000,
        async |mut worker| {
            let _stalled = worker.open().await;
            let mut reader = worker.open().await;
            let mut recipients = Vec::new();
            for _ in 0..300 {
                worker.publish("all", text_frame(&"x".repeat(100))).await;
                assert_eq!(text(&mut reader).await.len(), 100);
                let ToRelay::HandedOver { recipients: count, .. } = worker.heard().await else {
                    panic!("nobody moves")
                };
                recipients.push(count);
            }
            let both = recipients.iter().filter(|count| **count == 2).count();
            assert!((100..250).contains(&both), "about 24 KB of 31 KB fit: {both}");
            assert!(recipients[both..].iter().all(|count| *count == 1));
            assert!(worker.snapshot().await.queued_bytes > 0);
            tokio::time::sleep(Duration::from_secs(10)).await;
            let snapshot = worker.snapshot().await;
            assert_eq!((snapshot.stats.anonymous, snapshot.queued_bytes), (1, 0));
        },
    );
}

#[test]
fn what_the_relay_has_no_room_for_is_told_later_in_order() {
    run(unchanged, async |mut worker| {
        let mut client = worker.open().await;
        for room in 0..9 {
            let join = format!(r#"{{"type":"room:join","payload":{{"event_id":"{room}"}}}}"#);
            send(&mut client, 0x81, &join).await;
        }
        send(&mut client, 0x89, "").await;
        assert_eq!(frame(&mut client).await.0, 0x8A, "all of them have been read");
        for room in 0..9 {
            let ToRelay::Join { stream, .. } = worker.heard().await else { panic!("not a join") };
            assert_eq!(stream.as_str(), format!("event:{room}"));
        }
    });
}

#[test]
fn a_silent_client_is_pinged_and_then_closed() {
    run(unchanged, async |mut worker| {
        let mut client = worker.open().await;
        assert_eq!(frame(&mut client).await, (0x89, Vec::new()));
        loop {
            let (head, payload) = frame(&mut client).await;
            if head == 0x88 {
                assert_eq!(payload[..2], 4408_u16.to_be_bytes());
                break;
            }
        }
        // It does not answer that, either.
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn a_drain_closes_everybody_and_refuses_newcomers() {
    run(unchanged, async |mut worker| {
        let mut client = worker.open().await;
        let period = Duration::from_secs(1);
        worker.commands.send(WorkerCommand::Drain { period }).await.unwrap();
        assert!(text(&mut client).await.contains("system:reconnect"));
        let (head, payload) = frame(&mut client).await;
        assert_eq!((head, &payload[..2]), (0x88, &1012_u16.to_be_bytes()[..]));
        let mut late = worker.connect(REQUEST).await;
        let answer = read_all(&mut late).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After"), "{answer}");
        client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(worker.drained.recv().await, Some(WorkerId(0)));
    });
}

/// No heartbeats during a test.
fn without_heartbeats(config: &mut Config) {
    config.ws.ping_interval = Duration::from_hours(10);
    config.ws.pong_timeout = Duration::from_hours(20);
}

/// Reads what `client` is sent up to a pong.
async fn pong(client: &mut DuplexStream) {
    while frame(client).await.0 != 0x8A {}
}

#[test]
fn a_delivery_is_one_write_to_each_member() {
    run(without_heartbeats, async |mut worker| {
        let mut clients = Vec::new();
        for _ in 0..300 {
            clients.push(worker.open().await);
        }
        let before = writes();
        for round in 1..=3 {
            worker.publish("all", text_frame("x")).await;
            let ToRelay::HandedOver { recipients, .. } = worker.heard().await else {
                panic!("nobody moves")
            };
            assert_eq!((recipients, writes() - before), (300, 300 * round));
        }
    });
}

#[test]
fn a_ping_is_answered_within_256_sends_to_others() {
    run(without_heartbeats, async |mut worker| {
        let mut pinger = worker.open().await;
        let mut members = Vec::new();
        for number in 0..900 {
            let mut member = worker.open().await;
            let join =
                format!(r#"{{"type":"room:join","payload":{{"event_id":"{}"}}}}"#, number / 90);
            send(&mut member, 0x81, &join).await;
            worker.answer_join().await;
            assert!(text(&mut member).await.contains("room:joined"));
            members.push(member);
        }
        // A long fan-out, and many short ones behind it.
        worker.publish("all", text_frame("to all")).await;
        for room in 0..10 {
            worker.publish(&format!("event:{room}"), text_frame("to a room")).await;
        }
        let (begun, mut answered) = (writes(), 0);
        while writes() - begun < 1_800 {
            send(&mut pinger, 0x89, "").await;
            let before = writes();
            pong(&mut pinger).await;
            assert!(writes() - before <= 256, "{} sends", writes() - before);
            answered += 1;
        }
        assert!(answered >= 7, "{answered} pings were answered before it was over");
    });
}
