use std::{net::Ipv4Addr, time::Duration};

use futures_util::SinkExt;
use realtime_proto::{BroadcastEventRequest, realtime_service_client::RealtimeServiceClient};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use tonic::transport::Endpoint;

use super::*;
use crate::net::{TcpStream, TokioNet};

type Client = WebSocketStream<TcpStream>;

/// Runs an instance on the embedded broker, and a test beside it that is given its addresses and
/// the way to stop it.
fn with_instance<F: Future<Output = ()>>(
    spawn: Spawn,
    test: impl FnOnce(Addresses, mpsc::Sender<()>) -> F,
) -> Result<(), ServerError> {
    let mut config = Config::from_env(&|_| None).unwrap();
    config.bind_address = Ipv4Addr::LOCALHOST.into();
    (config.http_port, config.grpc_port, config.metrics_port) = (0, 0, Some(0));
    config.ws.allow_anonymous = true;
    config.ws.connections_max = 100;
    config.drain_delay = Duration::ZERO;
    config.drain_timeout = Duration::from_secs(4);
    config.workers = if spawn == Spawn::Inline { 1 } else { 2 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (stop, shutdown) = mpsc::channel(2);
        let (tell, told) = oneshot::channel();
        let instance =
            run::<TokioNet>(config, spawn, &|_, _| None, shutdown, |at| tell.send(at).unwrap());
        let test = async { test(told.await.unwrap(), stop).await };
        tokio::join!(instance, test).0
    })
}

async fn connect(addr: SocketAddr) -> Client {
    let stream = TokioNet::connect("127.0.0.1", addr.port()).await.unwrap();
    let (mut client, _) = client_async(format!("ws://{addr}/ws"), stream).await.unwrap();
    assert!(text(&mut client).await.contains("system:connected"));
    client
}

/// The next text message.
async fn text(client: &mut Client) -> String {
    loop {
        let message = client.next().await.unwrap().unwrap();
        if message.is_text() {
            return message.to_text().unwrap().to_owned();
        }
    }
}

async fn call_and_drain(at: Addresses, stop: mpsc::Sender<()>) {
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = connect(at.http).await;
        let join = r#"{"type":"room:join","payload":{"room":"event:1"}}"#;
        client.send(Message::text(join)).await.unwrap();
        let joined = text(&mut client).await;
        assert!(joined.contains("room:joined"), "{joined}");
        clients.push(client);
    }
    let channel = Endpoint::from_shared(format!("http://{}", at.grpc)).unwrap();
    let mut grpc = RealtimeServiceClient::new(channel.connect().await.unwrap());
    let request = BroadcastEventRequest {
        event_type: "ticket:reserved".into(),
        room: "event:1".into(),
        payload: r#"{"seat":"A1"}"#.into(),
        ..BroadcastEventRequest::default()
    };
    let response = grpc.broadcast_event(request).await.unwrap();
    assert_eq!(response.into_inner().recipients, 8);
    for client in &mut clients {
        assert!(text(client).await.contains(r#""payload":{"seat":"A1"}"#));
    }
    stop.send(()).await.unwrap();
    for mut client in clients {
        let reconnect = text(&mut client).await;
        assert!(reconnect.contains("system:reconnect"), "{reconnect}");
        let close = client.next().await.unwrap().unwrap();
        let Message::Close(Some(close)) = close else { panic!("{close:?}") };
        assert_eq!(u16::from(close.code), 1012);
        assert!(client.next().await.is_none(), "the answer to the close goes out with this");
    }
}

#[test]
fn an_instance_in_threads_serves_and_drains() {
    with_instance(Spawn::Threads, call_and_drain).unwrap();
}

#[test]
fn an_instance_on_one_thread_serves_and_drains() {
    with_instance(Spawn::Inline, call_and_drain).unwrap();
}

#[test]
fn a_second_signal_ends_the_drain() {
    let result = with_instance(Spawn::Inline, async |at, stop| {
        let _client = connect(at.http).await;
        stop.send(()).await.unwrap();
        stop.send(()).await.unwrap();
    });
    assert!(matches!(result, Err(ServerError::Interrupted)), "{result:?}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    for (variable, workers) in [("HTTP_PORT", 1), ("HTTP_PORT", 2), ("GRPC_PORT", 1)] {
        let mut config = Config::from_env(&|_| None).unwrap();
        config.bind_address = Ipv4Addr::LOCALHOST.into();
        (config.http_port, config.grpc_port, config.metrics_port) = (0, 0, None);
        config.workers = workers;
        *(if variable == "HTTP_PORT" { &mut config.http_port } else { &mut config.grpc_port }) =
            port;
        let (_stop, shutdown) = mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime
            .block_on(run::<TokioNet>(config, Spawn::Threads, &|_, _| None, shutdown, |_| ()))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(&format!("{variable}: can't listen on 127.0.0.1:{port}: ")));
    }
}
