//! The whole service thread on loopback, with a broker, a relay and a worker that do as they are
//! told.

mod acks;
mod broker;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Mutex,
    time::Duration,
};

use realtime_core::{
    entry::{Body, Place},
    id::Mid,
    stream::StreamName,
};
use realtime_proto::{
    BroadcastEventRequest, GetConnectionStatsRequest, NotifyQueuePositionRequest,
    SendToUserRequest, SendToUserResponse, realtime_service_client::RealtimeServiceClient,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::{JoinHandle, LocalSet},
};
use tonic::{
    Code, Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use self::broker::{Script, ScriptedBroker};
use super::*;
use crate::{
    broker::{Class, Publish, PublishError},
    link::Receipt,
    net::{Listener as _, TokioNet},
    worker::Snapshot,
};

/// A running service thread and everything around it.
struct Bench {
    broker: Arc<ScriptedBroker>,
    health: watch::Sender<LinkHealth>,
    phase: watch::Sender<Phase>,
    /// Publications that nobody waits for any more, as the relay was told.
    given_up: watch::Receiver<Vec<Mid>>,
    handoffs: mpsc::Sender<Handoff<<TokioNet as Net>::Stream>>,
    grpc: SocketAddr,
    metrics: SocketAddr,
    serving: JoinHandle<io::Result<()>>,
}

/// Runs `test` against a service thread that is configured by `variables`.
fn bench<F: Future<Output = ()>>(variables: &[(&str, &str)], test: impl FnOnce(Bench) -> F) {
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
    let config =
        Config::from_env(&|name| find(name).map(|(_, value)| (*value).to_owned())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let started = start(config).await;
        let limit = tokio::time::timeout(Duration::from_secs(30), test(started));
        limit.await.expect("the test is over in time");
    });
}

async fn start(config: Config) -> Bench {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let grpc = TokioNet::bind(free, false).await.unwrap();
    let metrics = TokioNet::bind(free, false).await.unwrap();
    let addresses = (grpc.local_addr().unwrap(), metrics.local_addr().unwrap());
    let broker = Arc::new(ScriptedBroker {
        script: Mutex::new(Script::Publish),
        published: Mutex::new(Vec::new()),
    });
    let (health, health_seen) = watch::channel(LinkHealth {
        reachable: true,
        ever_reachable: true,
        ..LinkHealth::default()
    });
    let (phase, phase_seen) = watch::channel(Phase::Serving);
    let (link, commands) = mpsc::channel(16);
    let (worker, asked) = mpsc::channel(16);
    let (handoffs, handed) = mpsc::channel(16);
    let (gone, given_up) = watch::channel(Vec::new());
    tokio::spawn(relay(commands, gone));
    tokio::spawn(work(asked));
    let service = Service {
        config: Arc::new(config),
        clock: Clock::new(),
        boot: BootId(0xB007),
        broker: broker.clone(),
        workers: vec![worker],
        link,
        health: health_seen,
        phase: phase_seen,
        has_process: true,
    };
    let serving = tokio::task::spawn_local(run::<TokioNet>(service, grpc, Some(metrics), handed));
    let (grpc, metrics) = addresses;
    Bench { broker, health, phase, given_up, handoffs, grpc, metrics, serving }
}

const RECEIPT: Receipt =
    Receipt { recipients: 3, instances: 2, complete: true, acknowledged: false, awaits_ack: false };

/// Gives a receipt of 3 once a message is published, except for the user `lost`. No client of the
/// user `quiet` acknowledges anything.
async fn relay(mut commands: mpsc::Receiver<LinkCommand>, gone: watch::Sender<Vec<Mid>>) {
    let mut quiet = BTreeMap::new();
    let mut waiting: Vec<(Mid, watch::Sender<Option<Receipt>>)> = Vec::new();
    while let Some(command) = commands.recv().await {
        match command {
            LinkCommand::Expected { mid, stream, receipt, .. } => match stream.as_str() {
                "user:lost" => {}
                "user:quiet" => _ = quiet.insert(mid, receipt),
                _ => waiting.push((mid, receipt)),
            },
            LinkCommand::Published { mid, .. } => {
                if let Some(receipt) = quiet.get(&mid) {
                    receipt.send_replace(Some(Receipt { awaits_ack: true, ..RECEIPT }));
                }
                while let Some(at) = waiting.iter().position(|(known, _)| *known == mid) {
                    let _given_up = waiting.swap_remove(at).1.send(Some(RECEIPT));
                }
            }
            LinkCommand::Unpublished { mid } => {
                waiting.retain(|(known, _)| *known != mid);
                quiet.remove(&mid);
                gone.send_modify(|gone| gone.push(mid));
            }
            LinkCommand::Peers(reply) => drop(reply.send(Vec::new())),
            LinkCommand::Leave(_) | LinkCommand::FromShard(..) => {
                panic!("the service thread says no such thing")
            }
        }
    }
}

/// A worker with 5 connections. It failed to accept another one whenever it was asked.
async fn work(mut commands: mpsc::Receiver<WorkerCommand>) {
    let mut asked = 0;
    while let Some(command) = commands.recv().await {
        if let WorkerCommand::Snapshot { reply, .. } = command {
            asked += 1;
            let mut snapshot = Snapshot { accept_failures: asked, ..Snapshot::default() };
            snapshot.stats.authenticated = 2;
            snapshot.stats.anonymous = 3;
            snapshot.stats.sent[0] = 5;
            snapshot.stats.received[1] = 4;
            snapshot.rooms =
                vec![(StreamName::all(), 5), (StreamName::room("event:1").unwrap(), 2)];
            let _gone = reply.send(snapshot);
        }
    }
}

impl Bench {
    fn script(&self, script: Script) {
        *self.broker.script.lock().unwrap() = script;
    }

    fn published(&self) -> Vec<Publish> {
        std::mem::take(&mut self.broker.published.lock().unwrap())
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn client(&self) -> RealtimeServiceClient<Channel> {
        RealtimeServiceClient::new(self.channel().await)
    }

    async fn scrape(&self) -> String {
        exchange(self.metrics, "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await
    }

    /// Hands a connection over whose first request is `head`, sends `more`, and gives all answers.
    async fn hand_over(&self, head: &str, more: &str) -> String {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut listener = TokioNet::bind(free, false).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let head = Bytes::copy_from_slice(head.as_bytes());
        let served = async {
            let (stream, _) = listener.accept().await.unwrap();
            self.handoffs.send(Handoff { head, stream }).await.unwrap();
        };
        tokio::join!(exchange(addr, more), served).0
    }
}

/// Sends a text and gives everything that comes back until the peer closes.
async fn exchange(addr: SocketAddr, text: &str) -> String {
    let mut stream = TokioNet::connect(&addr.ip().to_string(), addr.port()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn direct(user: &str) -> SendToUserRequest {
    SendToUserRequest {
        user_id: user.into(),
        event_type: "my:type".into(),
        payload: r#"{"a":1}"#.into(),
        ..Default::default()
    }
}

#[test]
fn a_call_publishes_and_answers_with_the_receipt() {
    bench(&[("DELIVERY_LATEST", "my:latest")], |bench| async move {
        let mut client = bench.client().await;
        let request = SendToUserRequest { idempotency_key: "k".into(), ..direct("u") };
        let answer = client.send_to_user(request).await.unwrap().into_inner();
        assert!(answer.delivered && answer.complete && !answer.duplicate);
        assert_eq!((answer.connections_notified, answer.instances), (3, 2));
        assert_eq!(answer.message_id, "a-7-abcdef01");

        let request = BroadcastEventRequest {
            event_type: "my:latest".into(),
            room: "event:1".into(),
            payload: r#"{"event_id":9}"#.into(),
            exclude_sender: true,
            sender_user_id: "s".into(),
            ..Default::default()
        };
        let answer = client.broadcast_event(request).await.unwrap().into_inner();
        assert_eq!((answer.recipients, &*answer.message_id), (3, ""));

        let [first, second] = &bench.published()[..] else { panic!("there are two") };
        assert_eq!(first.stream, StreamName::user("u").unwrap());
        assert_eq!((&first.class, first.idempotency_key.as_deref()), (&Class::Durable, Some("k")));
        assert_eq!(second.class, Class::Latest { field: "my:latest\n9".into() });
        assert_ne!(first.mid, second.mid);
        let body = body_of(second);
        assert_eq!((&*body.kind, &*body.key), ("my:latest", "9"));
        assert_eq!(body.exclude_user.as_deref(), Some("s"));
        assert_eq!(body.origin, BootId(0xB007));
    });
}

/// What a publish carries, read as receivers read it.
fn body_of(publish: &Publish) -> Body {
    let header = format!("1 D {:016x} 1 {:016x} {:016x}\n", 1, 1, 0);
    let entry = [header.as_bytes(), &publish.body].concat();
    let entry = realtime_core::entry::Entry::decode(&entry.into()).unwrap();
    assert!(matches!(entry.place, Place::Durable { .. }));
    entry.body
}

#[test]
fn both_names_answer() {
    bench(&[], |bench| async move {
        let mut grpc = tonic::client::Grpc::new(bench.channel().await);
        for name in ["realtime", "realtime.v1"] {
            let path = format!("/{name}.RealtimeService/SendToUser").parse().unwrap();
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<_, SendToUserResponse>::default();
            let answer = grpc.unary(Request::new(direct("u")), path, codec).await.unwrap();
            assert!(answer.into_inner().delivered, "{name}");
        }
        let scrape = bench.scrape().await;
        let line = "realtime_grpc_requests_total{method=\"SendToUser\",status=\"OK\"} 2";
        assert!(scrape.contains(line), "{scrape}");
    });
}

#[test]
fn a_duplicate_is_told_what_the_first_one_was_if_that_is_known() {
    bench(&[], |bench| async move {
        bench.script(Script::Duplicate);
        let mut client = bench.client().await;
        let answer = client.send_to_user(direct("u")).await.unwrap().into_inner();
        assert!(answer.duplicate && !answer.delivered, "another instance took the first one");
        assert_eq!((answer.connections_notified, answer.instances), (0, 0));
        assert_eq!(answer.message_id, "a-7-abcdef01");

        bench.script(Script::Publish);
        let keyed = || SendToUserRequest { idempotency_key: "k".into(), ..direct("u") };
        let first = client.send_to_user(keyed()).await.unwrap().into_inner();
        let mid = bench.published().last().unwrap().mid;
        bench.script(Script::DuplicateOf(mid));
        let again = client.send_to_user(keyed()).await.unwrap().into_inner();
        assert_eq!(again, SendToUserResponse { duplicate: true, ..first });
        assert_eq!((again.delivered, again.connections_notified), (true, 3));
    });
}

#[test]
fn what_is_delivered_but_not_acknowledged_is_not_said_to_be_delivered() {
    bench(&[], |bench| async move {
        let request = SendToUserRequest { require_ack: true, ..direct("u") };
        let answer = bench.client().await.send_to_user(request).await.unwrap().into_inner();
        assert_eq!((answer.delivered, answer.connections_notified), (false, 3));
        assert!(body_of(&bench.published()[0]).ack);
        let scrape = bench.scrape().await;
        let line = "realtime_notifications_delivered_total{delivered=\"false\",type=\"other\"} 1";
        assert!(scrape.contains(line), "{scrape}");
    });
}

#[test]
fn a_receipt_that_does_not_come_is_not_waited_for_long() {
    bench(&[("RECEIPT_TIMEOUT", "20ms")], |bench| async move {
        let answer = bench.client().await.send_to_user(direct("lost")).await.unwrap();
        assert!(!answer.get_ref().delivered && !answer.get_ref().complete);
        assert!(!answer.get_ref().message_id.is_empty());
    });
}

#[test]
fn what_was_not_published_is_unavailable_and_says_when_to_retry() {
    bench(&[], |bench| async move {
        bench.script(Script::Fail(PublishError::Unavailable("LOADING".into())));
        let status = bench.client().await.send_to_user(direct("u")).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "not published: LOADING")
        );
        assert!(status.details().windows(9).any(|part| part == b"RetryInfo"));
        let scrape = bench.scrape().await;
        assert!(scrape.contains("realtime_errors_total{type=\"publish_unavailable\"} 1"));
    });
}

#[test]
fn an_unknown_outcome_is_deadline_exceeded() {
    bench(&[], |bench| async move {
        let mut client = bench.client().await;
        bench.script(Script::Fail(PublishError::Unknown("connection lost".into())));
        let status = client.send_to_user(direct("u")).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("idempotency_key"));

        bench.script(Script::Hang);
        let mut request = Request::new(direct("u"));
        request.set_timeout(Duration::from_millis(200));
        let status = client.send_to_user(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("did not answer in time"), "answered by the service");
    });
}

#[test]
fn a_message_that_is_too_long_to_be_read_is_an_invalid_argument() {
    bench(&[], |bench| async move {
        let payload = format!("\"{}\"", "x".repeat(1 << 20));
        let request = SendToUserRequest { payload, ..direct("u") };
        let status = bench.client().await.send_to_user(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let scrape = bench.scrape().await;
        let line =
            "realtime_grpc_requests_total{method=\"SendToUser\",status=\"INVALID_ARGUMENT\"} 1";
        assert!(scrape.contains(line));
        assert!(scrape.contains("realtime_errors_total{type=\"publish_unknown\"} 0"));
    });
}

#[test]
fn a_bad_request_is_refused_before_the_broker_hears_of_it() {
    bench(&[], |bench| async move {
        let request = NotifyQueuePositionRequest::default();
        let status = bench.client().await.notify_queue_position(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "user_id is empty"));
        assert!(bench.published().is_empty());
    });
}

#[test]
fn connection_stats_are_those_of_the_workers() {
    bench(&[], |bench| async move {
        let mut client = bench.client().await;
        let all = client.get_connection_stats(GetConnectionStatsRequest::default()).await.unwrap();
        let all = all.into_inner();
        assert_eq!((all.total_connections, all.authenticated_connections), (5, 2));
        assert_eq!((all.messages_sent_total, all.messages_received_total), (5, 4));
        assert_eq!(all.connections_per_room.len(), 2);
        assert!(all.instances.is_empty());
        let request = GetConnectionStatsRequest { room: "event:1".into(), cluster: true };
        let one = client.get_connection_stats(request).await.unwrap().into_inner();
        assert_eq!(
            one.connections_per_room.into_iter().collect::<Vec<_>>(),
            [("event:1".into(), 2)]
        );
        assert_eq!((one.total_connections, &*one.instances[0].id), (5, "000000000000b007"));
    });
}

#[test]
fn reflection_lists_both_names_and_knows_their_messages() {
    bench(&[], |bench| async move {
        let mut client = ServerReflectionClient::new(bench.channel().await);
        let ask = |message_request| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message_request),
        };
        let symbol = |name: &str| ask(MessageRequest::FileContainingSymbol(name.to_owned()));
        let questions = futures_util::stream::iter([
            ask(MessageRequest::ListServices(String::new())),
            symbol("realtime.RealtimeService"),
            symbol("realtime.v1.RealtimeService"),
            symbol("realtime.v1.SendToUserRequest"),
        ]);
        let mut answers = client.server_reflection_info(questions).await.unwrap().into_inner();
        let mut next = async || answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(list) = next().await else {
            panic!("it is a list");
        };
        let names: Vec<_> = list.service.iter().map(|service| &*service.name).collect();
        for name in ["realtime.RealtimeService", "realtime.v1.RealtimeService"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for _ in 0..3 {
            assert!(matches!(next().await, MessageResponse::FileDescriptorResponse(_)));
        }
    });
}

#[test]
fn health_follows_the_phase_and_a_stop_ends_everything() {
    bench(&[], |bench| async move {
        let mut client = HealthClient::new(bench.channel().await);
        let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
        for name in ["", "realtime.RealtimeService", "realtime.v1.RealtimeService"] {
            assert_eq!(client.check(ask(name)).await.unwrap().get_ref().status, 1, "{name}");
        }
        let mut watching = client.watch(ask("")).await.unwrap().into_inner();
        assert_eq!(watching.message().await.unwrap().unwrap().status, 1);
        bench.phase.send_replace(Phase::Draining);
        assert_eq!(watching.message().await.unwrap().unwrap().status, 2);
        assert_eq!(client.check(ask("")).await.unwrap().get_ref().status, 2);
        // Calls are still answered.
        let answer = bench.client().await.send_to_user(direct("u")).await.unwrap();
        assert!(answer.get_ref().delivered);
        bench.phase.send_replace(Phase::Stopping);
        assert!(watching.message().await.unwrap().is_none());
        bench.serving.await.unwrap().unwrap();
    });
}

#[test]
fn a_connection_that_is_handed_over_gets_its_answers() {
    bench(&[], |bench| async move {
        let health = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n";
        let ready = "GET /ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let said = bench.hand_over(health, "").await;
        assert!(said.starts_with("HTTP/1.1 200") && said.contains(r#"{"status":"ok"}"#));
        let said = bench.hand_over(ready, "").await;
        assert!(said.starts_with("HTTP/1.1 200") && said.contains(r#"{"status":"ready"}"#));

        bench.health.send_replace(LinkHealth::default());
        let said = bench.hand_over("", ready).await;
        assert!(said.starts_with("HTTP/1.1 503"), "{said}");
        assert!(said.contains(r#""code":"NOT_READY""#) && said.contains(r#""reasons":["redis"]"#));

        let last = |line: &str| format!("{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let said = bench.hand_over(&last("POST /health"), "").await;
        assert!(
            said.starts_with("HTTP/1.1 405") && said.contains(r#""code":"METHOD_NOT_ALLOWED""#)
        );
        let said = bench.hand_over(&last("GET /nothing"), "").await;
        assert!(said.starts_with("HTTP/1.1 404") && said.contains(r#""code":"NOT_FOUND""#));
        let said = bench.hand_over(&last("GET /metrics"), "").await;
        assert!(said.contains("realtime_websocket_connections_total 5"));
    });
}

#[test]
fn a_connection_that_is_handed_over_ends_with_its_answer() {
    bench(&[], |bench| async move {
        // A proxy that could keep it would send the next upgrade over it.
        let health = "GET /health HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n";
        let said = bench.hand_over(health, health).await;
        assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 1, "{said}");
        assert!(said.contains("connection: close"), "{said}");
    });
}

#[test]
fn scrapes_that_wait_for_each_other_share_one() {
    bench(&[], |bench| async move {
        let scrapes = futures_util::future::join_all((0..20).map(|_| bench.scrape())).await;
        let asked = |n| format!("\nrealtime_websocket_accept_failures_total {n}\n");
        for scrape in &scrapes {
            assert!((1..10).any(|n| scrape.contains(&asked(n))), "{scrape}");
        }
        assert!(!bench.scrape().await.contains(&asked(1)), "nothing old is told");
    });
}

#[test]
fn clients_that_hold_a_connection_do_not_keep_health_checks_out() {
    bench(&[], |bench| async move {
        let mut held = Vec::new();
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut listener = TokioNet::bind(free, false).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for _ in 0..300 {
            let (client, accepted) =
                tokio::join!(TokioNet::connect("127.0.0.1", port), listener.accept());
            held.push(client.unwrap());
            let head = Bytes::from_static(b"GET /health HTTP/1.1\r\n");
            bench.handoffs.send(Handoff { head, stream: accepted.unwrap().0 }).await.unwrap();
        }
        let health = "GET /health HTTP/1.1\r\nHost: h\r\n\r\n";
        assert!(bench.hand_over(health, "").await.starts_with("HTTP/1.1 200 OK"));
        let metrics = bench.scrape().await;
        assert!(metrics.contains("realtime_errors_total{type=\"http_refused\"} 45"), "{metrics}");
        assert!(metrics.contains("\nrealtime_http_connections 256\n"), "{metrics}");
    });
}

#[test]
fn a_request_that_does_not_end_is_cut_off() {
    bench(&[("HTTP_READ_TIMEOUT", "50ms")], |bench| async move {
        let said = bench.hand_over("GET /health HTTP/1.1\r\nHost:", " h\r\n").await;
        assert!(!said.contains("200 OK"), "{said}");
    });
}

#[test]
fn metrics_can_be_switched_off() {
    bench(&[("METRICS_ENABLED", "false")], |bench| async move {
        let request = "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        assert!(bench.hand_over(request, "").await.starts_with("HTTP/1.1 404"));
    });
}

#[test]
fn scrapes_at_once_all_get_everything() {
    bench(&[], |bench| async move {
        let scrapes = tokio::join!(bench.scrape(), bench.scrape(), bench.scrape());
        for scrape in [scrapes.0, scrapes.1, scrapes.2] {
            assert!(scrape.starts_with("HTTP/1.1 200 OK"));
            assert!(scrape.contains("realtime_websocket_connections_per_room{room=\"event:1\"} 2"));
            assert!(scrape.contains("realtime_messages_sent_total{type=\"system:connected\"} 5"));
        }
    });
}

#[test]
fn with_an_authority_only_its_clients_are_served() {
    let file = |name: &str| format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    let (cert, key, ca) = (file("server.cert.pem"), file("server.key.pem"), file("ca.cert.pem"));
    let variables = [
        ("GRPC_TLS_ENABLED", "true"),
        ("GRPC_TLS_CERT", &*cert),
        ("GRPC_TLS_KEY", &*key),
        ("GRPC_TLS_CA", &*ca),
    ];
    bench(&variables, |bench| async move {
        let read = |name| std::fs::read(file(name)).unwrap();
        let endpoint = Endpoint::from_shared(format!("https://{}", bench.grpc)).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca.cert.pem")))
            .domain_name("localhost");
        let identity = Identity::from_pem(read("client.cert.pem"), read("client.key.pem"));
        let known = endpoint.clone().tls_config(tls.clone().identity(identity)).unwrap();
        let mut client = RealtimeServiceClient::new(known.connect().await.unwrap());
        assert!(client.send_to_user(direct("u")).await.unwrap().get_ref().delivered);

        let stranger = endpoint.tls_config(tls).unwrap().connect().await;
        // The handshake is over for a client before the server has judged its certificate.
        if let Ok(channel) = stranger {
            assert!(RealtimeServiceClient::new(channel).send_to_user(direct("u")).await.is_err());
        }
        let plain =
            Endpoint::from_shared(format!("http://{}", bench.grpc)).unwrap().connect().await;
        if let Ok(channel) = plain {
            assert!(RealtimeServiceClient::new(channel).send_to_user(direct("u")).await.is_err());
        }
        assert_eq!(bench.published().len(), 1);
    });
}
