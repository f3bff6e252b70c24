//! The six methods: what they refuse, and what they answer.

use realtime_proto::{
    BroadcastEventRequest, GetConnectionStatsRequest, NotifyBookingResultRequest,
    NotifyPaymentStatusRequest, NotifyQueuePositionRequest, PaymentStatus, SendToUserRequest,
};
use tonic::{Code, Response, Status};

use super::handshake::assert_is_id;
use crate::common::{
    client::Client,
    eventually, grpc,
    redis::Redis,
    server::{Server, Setup},
    token::token,
};

#[tokio::test]
async fn every_method_that_names_a_user_refuses_impossible_ones() {
    let server = Setup::embedded().start().await;
    let mut client = grpc::client(&server);
    for user in ["", &"x".repeat(129), "a\nb", "\u{0}"] {
        let user_id = user.to_owned();
        let request = NotifyBookingResultRequest { user_id, ..booking() };
        refused(client.notify_booking_result(request).await, "user_id");
        let request = NotifyQueuePositionRequest { user_id: user.to_owned(), ..Default::default() };
        refused(client.notify_queue_position(request).await, "user_id");
        let request = NotifyPaymentStatusRequest { user_id: user.to_owned(), ..payment() };
        refused(client.notify_payment_status(request).await, "user_id");
        refused(client.send_to_user(sending(user, "x", "{}")).await, "user_id");
    }
    let longest = "x".repeat(128);
    client.send_to_user(sending(&longest, "x", "{}")).await.unwrap();
}

#[tokio::test]
async fn a_confirmed_booking_needs_its_id_and_a_failed_one_does_not() {
    let server = Setup::embedded().start().await;
    let mut client = grpc::client(&server);
    let nameless = NotifyBookingResultRequest { booking_id: String::new(), ..booking() };
    refused(client.notify_booking_result(nameless.clone()).await, "booking_id");
    let failed = NotifyBookingResultRequest { success: false, ..nameless };
    client.notify_booking_result(failed).await.unwrap();
}

#[tokio::test]
async fn a_payment_needs_a_status_that_exists() {
    let server = Setup::embedded().start().await;
    let mut client = grpc::client(&server);
    for status in [0, 5, -1, i32::MAX] {
        let request = NotifyPaymentStatusRequest { status, ..payment() };
        refused(client.notify_payment_status(request).await, "status");
    }
    client.notify_payment_status(payment()).await.unwrap();
}

#[tokio::test]
async fn a_broadcast_needs_a_room_a_type_and_a_payload_that_is_json() {
    let server = Setup::embedded().start().await;
    let mut client = grpc::client(&server);
    let long = "x".repeat(201);
    for room in ["", &long, "a\nb", "user:", &format!("user:{}", "x".repeat(129))] {
        refused(client.broadcast_event(broadcasting(room, "x", "{}")).await, "room");
    }
    for kind in ["", "system:ping", "system:", "auth:refresh", "room:joined", "system:anything"] {
        refused(client.broadcast_event(broadcasting("event:1", kind, "{}")).await, "event_type");
        refused(client.send_to_user(sending("a", kind, "{}")).await, "event_type");
    }
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let wrong = ["{", "{'a':1}", "nonsense", "{} {}", "01", "\"\u{1}\"", "NaN", &deep];
    for payload in wrong {
        refused(client.broadcast_event(broadcasting("event:1", "x", payload)).await, "payload");
        refused(client.send_to_user(sending("a", "x", payload)).await, "payload");
    }
    client.broadcast_event(broadcasting(&long[..200], "x", " ")).await.unwrap();
}

#[tokio::test]
async fn a_payload_has_a_limit() {
    let server = Setup::embedded().start().await;
    let mut client = grpc::client(&server);
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let mut receiver = Client::connect(&server, &token("a")).await;
    client.send_to_user(sending("a", "x", &text(65_536))).await.unwrap();
    assert_eq!(receiver.expect("x").await["payload"].as_str().unwrap().len(), 65_534);
    refused(client.send_to_user(sending("a", "x", &text(65_537))).await, "payload");
    refused(client.broadcast_event(broadcasting("all", "x", &text(65_537))).await, "payload");
    let small = Setup::embedded().set("MAX_PAYLOAD_SIZE", "1024").start().await;
    let mut client = grpc::client(&small);
    client.send_to_user(sending("a", "x", &text(1024))).await.unwrap();
    refused(client.send_to_user(sending("a", "x", &text(1025))).await, "payload");
    // Far over any limit it is still an answer and not the end of the connection.
    assert!(client.send_to_user(sending("a", "x", &text(10 << 20))).await.is_err());
    client.send_to_user(sending("a", "x", "{}")).await.unwrap();
}

#[tokio::test]
async fn an_idempotency_key_has_a_limit() {
    let server = Setup::embedded().start().await;
    let mut client = grpc::client(&server);
    let keyed = |bytes: usize| SendToUserRequest {
        idempotency_key: "k".repeat(bytes),
        ..sending("a", "x", "{}")
    };
    client.send_to_user(keyed(128)).await.unwrap();
    refused(client.send_to_user(keyed(129)).await, "idempotency_key");
}

#[tokio::test]
async fn acknowledgements_need_a_history() {
    let server = Setup::embedded().set("HISTORY_SIZE", "0").start().await;
    let mut receiver = Client::connect(&server, &token("a")).await;
    let mut client = grpc::client(&server);
    let request = SendToUserRequest { require_ack: true, ..sending("a", "x", "{}") };
    let status = client.send_to_user(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let answer = client.send_to_user(sending("a", "x", "{}")).await.unwrap().into_inner();
    assert_eq!(answer.connections_notified, 1);
    assert!(receiver.expect("x").await.get("id").is_none(), "{}", receiver.text);
}

#[tokio::test]
async fn a_publish_that_nobody_receives_is_not_delivered_and_no_error() {
    let server = Setup::embedded().start().await;
    let mut client = grpc::client(&server);
    let answer = client.notify_booking_result(booking()).await.unwrap().into_inner();
    assert!(!answer.delivered);
    assert_eq!(answer.active_connections, 0);
    assert_eq!(answer.instances, 0);
    assert_is_id(&answer.message_id.into());
    assert!(!client.notify_payment_status(payment()).await.unwrap().into_inner().delivered);
    let request = NotifyQueuePositionRequest { user_id: "a".to_owned(), ..Default::default() };
    assert!(!client.notify_queue_position(request).await.unwrap().into_inner().delivered);
    let answer = client.broadcast_event(broadcasting("event:1", "x", "{}")).await.unwrap();
    assert_eq!(answer.into_inner().recipients, 0);
}

#[tokio::test]
async fn statistics_count_connections_rooms_and_messages() {
    let server = Setup::embedded().start().await;
    let mut user = Client::connect(&server, &token("a")).await;
    let mut anonymous = Client::anonymous(&server).await;
    let mut other = Client::anonymous(&server).await;
    user.join("event:1").await;
    anonymous.join("event:1").await;
    other.join("event:2").await;
    other.assert_quiet().await;
    let stats = grpc::stats(&server).await;
    assert_eq!(stats.total_connections, 3);
    assert_eq!(stats.authenticated_connections, 1);
    assert_eq!(stats.anonymous_connections, 2);
    assert_eq!(stats.connections_per_room.get("event:1"), Some(&2));
    assert_eq!(stats.connections_per_room.get("event:2"), Some(&1));
    assert!(!stats.connections_per_room.keys().any(|room| room.starts_with("user:")), "{stats:?}");
    assert!(stats.messages_received_total >= 4, "{stats:?}");
    assert!(stats.messages_sent_total >= 7, "{stats:?}");
    assert!(stats.uptime_seconds >= 0, "{stats:?}");
    let request = GetConnectionStatsRequest { room: "event:2".to_owned(), cluster: false };
    let filtered = grpc::client(&server).get_connection_stats(request).await.unwrap().into_inner();
    assert_eq!(filtered.total_connections, 3);
    assert_eq!(filtered.connections_per_room.len(), 1);
    assert_eq!(filtered.connections_per_room.get("event:2"), Some(&1));
    other.close().await;
    eventually("a closed connection to be forgotten", async || {
        let stats = grpc::stats(&server).await;
        (stats.total_connections == 2 && !stats.connections_per_room.contains_key("event:2"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn statistics_of_the_cluster_list_the_instances() {
    let server = Setup::embedded().start().await;
    let _user = Client::connect(&server, &token("a")).await;
    let request = GetConnectionStatsRequest { cluster: true, ..Default::default() };
    let stats = grpc::client(&server).get_connection_stats(request).await.unwrap().into_inner();
    assert_eq!(stats.total_connections, 1);
    assert_eq!(stats.instances.len(), 1);
    let instance = &stats.instances[0];
    assert!(!instance.id.is_empty());
    assert_eq!((instance.total, instance.authenticated, instance.anonymous), (1, 1, 0));
}

#[tokio::test]
async fn without_redis_every_publish_is_unavailable_and_says_when_to_retry() {
    let redis = Redis::absent();
    let server = Setup::on(&redis).start().await;
    for status in publish_everything(&server).await {
        let status = status.expect_err("Redis is away");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(details.contains("google.rpc.RetryInfo"), "{status:?}");
    }
    // What is wrong with a request is said first, and statistics need no Redis.
    refused(grpc::client(&server).send_to_user(sending("", "x", "{}")).await, "user_id");
    assert_eq!(grpc::stats(&server).await.total_connections, 0);
}

#[tokio::test]
async fn redis_that_takes_no_writes_makes_publishes_unavailable() {
    let redis = Redis::start().await;
    let server = Setup::on(&redis).start().await;
    let mut receiver = Client::connect(&server, &token("a")).await;
    grpc::send_to_user(&server, "a", "before", "{}").await.unwrap();
    receiver.expect("before").await;
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let status = grpc::send_to_user(&server, "a", "refused", "{}").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "0"]);
    grpc::send_to_user(&server, "a", "after", "{}").await.unwrap();
    receiver.expect("after").await; // And nothing of the refused one.
    receiver.assert_quiet().await;
}

/// Calls each publishing method once.
pub async fn publish_everything(server: &Server) -> [Result<(), Status>; 5] {
    let mut client = grpc::client(server);
    let position = NotifyQueuePositionRequest { user_id: "a".to_owned(), ..Default::default() };
    [
        client.notify_booking_result(booking()).await.map(|_| ()),
        client.notify_queue_position(position).await.map(|_| ()),
        client.notify_payment_status(payment()).await.map(|_| ()),
        client.broadcast_event(broadcasting("event:1", "x", "{}")).await.map(|_| ()),
        client.send_to_user(sending("a", "y", "{}")).await.map(|_| ()),
    ]
}

fn booking() -> NotifyBookingResultRequest {
    NotifyBookingResultRequest {
        user_id: "a".to_owned(),
        booking_id: "b".to_owned(),
        success: true,
        ..Default::default()
    }
}

fn payment() -> NotifyPaymentStatusRequest {
    NotifyPaymentStatusRequest {
        user_id: "a".to_owned(),
        status: PaymentStatus::Success.into(),
        ..Default::default()
    }
}

fn sending(user: &str, kind: &str, payload: &str) -> SendToUserRequest {
    SendToUserRequest {
        user_id: user.to_owned(),
        event_type: kind.to_owned(),
        payload: payload.to_owned(),
        ..Default::default()
    }
}

fn broadcasting(room: &str, kind: &str, payload: &str) -> BroadcastEventRequest {
    BroadcastEventRequest {
        room: room.to_owned(),
        event_type: kind.to_owned(),
        payload: payload.to_owned(),
        ..Default::default()
    }
}

/// Checks that a call was refused, with a message that names the field.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, field: &str) {
    let status = answer.expect_err(field);
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(field), "{status} does not name {field}");
}
