//! Calls that wait until a client has acknowledged what it was sent.

use std::time::{Duration, Instant};

use realtime_proto::{SendToUserRequest, SendToUserResponse};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::common::{
    client::Client,
    eventually, grpc,
    http::fetch,
    redis::Redis,
    server::{Server, Setup},
    token::token,
};

#[tokio::test]
async fn a_call_waits_for_the_acknowledgement_of_a_client_of_any_instance() {
    let redis = Redis::start().await;
    let setup = Setup::on(&redis).set("ACK_TIMEOUT", "60s");
    let servers = [setup.start().await, setup.start().await];
    for (caller, of) in [(0, 0), (0, 1)] {
        let mut client = Client::connect(&servers[of], &token("a")).await;
        let mut other = Client::connect(&servers[of], &token("b")).await;
        let call = call(&servers[caller], "");
        let message = client.expect("offer").await;
        assert_eq!(message["ack"], true);
        // Somebody else can't, and nobody can for what there is not.
        ack(&mut other, &message["id"]).await;
        ack(&mut client, &json!("1-2-00000003")).await;
        client.ask(json!({"type": "system:ping"}), "system:pong").await;
        other.ask(json!({"type": "system:ping"}), "system:pong").await;
        // A later call is answered as soon as it is counted.
        grpc::client(&servers[caller]).send_to_user(request("", false)).await.unwrap();
        assert!(!call.is_finished(), "counts are there, and the acknowledgement is not");
        ack(&mut client, &message["id"]).await;
        let answer = call.await.unwrap();
        assert!(answer.delivered && answer.complete, "{answer:?}");
        assert_eq!((answer.connections_notified, answer.instances), (1, 1));
        client.close().await;
        other.close().await;
    }
}

#[tokio::test]
async fn a_message_that_is_resumed_asks_again() {
    let server = Setup::embedded().set("ACK_TIMEOUT", "60s").start().await;
    let first = Client::connect(&server, &token("a")).await;
    let id = first.greeting["id"].as_str().unwrap().to_owned();
    first.close().await;
    let call = call(&server, "");
    eventually("it is published", async || {
        let metrics = fetch(&server, "/metrics").await.body;
        let line = "realtime_pubsub_messages_published_total{channel=\"user\"} 1";
        metrics.contains(line).then_some(())
    })
    .await;
    let path = format!("/ws?token={}&since={id}", token("a"));
    let mut second = Client::open(&server, &path, &[]).await;
    let missed = second.expect("offer").await;
    assert_eq!(missed["ack"], true);
    ack(&mut second, &missed["id"]).await;
    let answer = call.await.unwrap();
    assert!(answer.delivered, "{answer:?}");
    assert_eq!(answer.connections_notified, 0, "nobody was connected when it was published");
}

#[tokio::test]
async fn without_an_acknowledgement_a_call_ends_at_its_deadline_or_the_time_out() {
    let server = Setup::embedded().set("ACK_TIMEOUT", "400ms").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    let mut caller = grpc::client(&server);
    let started = Instant::now();
    let answer = caller.send_to_user(request("", true)).await.unwrap().into_inner();
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    assert_eq!((answer.delivered, answer.connections_notified), (false, 1), "{answer:?}");

    let mut timed = tonic::Request::new(request("", true));
    timed.set_timeout(Duration::from_millis(1_500));
    let started = Instant::now();
    let answer = caller.send_to_user(timed).await.unwrap().into_inner();
    assert!(started.elapsed() >= Duration::from_millis(1_400), "{:?}", started.elapsed());
    assert!(!answer.delivered, "{answer:?}");
    // What comes too late harms nobody.
    for _ in 0..2 {
        let late = client.expect("offer").await;
        ack(&mut client, &late["id"]).await;
    }
    client.ask(json!({"type": "system:ping"}), "system:pong").await;
}

#[tokio::test]
async fn a_call_that_is_repeated_waits_for_the_same_acknowledgement() {
    let server = Setup::embedded().set("ACK_TIMEOUT", "60s").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    // The caller gives up, and asks again.
    let first = call(&server, "order-7");
    let message = client.expect("offer").await;
    first.abort();
    let again = call(&server, "order-7");
    ack(&mut client, &message["id"]).await;
    let answer = again.await.unwrap();
    assert!(answer.delivered && answer.duplicate, "{answer:?}");
    assert_eq!(answer.connections_notified, 1);
    assert_eq!(answer.message_id, message["id"].as_str().unwrap());
    client.assert_quiet().await;
}

async fn ack(client: &mut Client, id: &Value) {
    client.send(json!({"type": "system:ack", "payload": {"id": id}})).await;
}

/// Calls, and waits for an acknowledgement meanwhile.
fn call(server: &Server, key: &str) -> JoinHandle<SendToUserResponse> {
    let (mut caller, request) = (grpc::client(server), request(key, true));
    tokio::spawn(async move { caller.send_to_user(request).await.unwrap().into_inner() })
}

fn request(key: &str, require_ack: bool) -> SendToUserRequest {
    SendToUserRequest {
        user_id: "a".to_owned(),
        event_type: "offer".to_owned(),
        payload: "{}".to_owned(),
        require_ack,
        idempotency_key: key.to_owned(),
    }
}
