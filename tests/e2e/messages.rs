//! The envelope: what clients may say, what they are answered, and what publications look like.

use realtime_proto::{
    NotifyBookingResultRequest, NotifyPaymentStatusRequest, NotifyQueuePositionRequest,
    PaymentStatus,
};
use serde_json::{Value, json};

use super::handshake::assert_is_id;
use crate::common::{client::Client, grpc, server::Setup, token::token, unix_now};

#[tokio::test]
async fn a_ping_is_answered_with_the_time_and_its_ref() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    for reference in [json!("text"), json!(7), json!("x".repeat(60)), json!("\u{1f3ab}\"\\")] {
        let ping =
            json!({"type": "system:ping", "payload": [1, {"any": "thing"}], "ref": reference});
        let pong = client.ask(ping, "system:pong").await;
        assert_eq!(pong["ref"], reference);
        assert!(pong["payload"]["server_time"].as_u64().unwrap().abs_diff(unix_now()) <= 30);
    }
    let pong = client.ask(json!({"type": "system:ping"}), "system:pong").await;
    assert!(pong.get("ref").is_none(), "{pong}");
    client.send_text(" {\"payload\":null,\n\"type\":\"system:ping\"} ").await;
    client.expect("system:pong").await;
}

#[tokio::test]
async fn a_mistake_is_answered_with_its_code_and_the_connection_goes_on() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    let join = |payload: Value| json!({"type": "room:join", "payload": payload}).to_string();
    let cases = [
        ("".to_owned(), "PARSE_ERROR"),
        ("{".to_owned(), "PARSE_ERROR"),
        ("{\"type\":\"system:ping\"} x".to_owned(), "PARSE_ERROR"),
        ("{\"type\":\"system:ping\"}\n{\"type\":\"system:ping\"}".to_owned(), "PARSE_ERROR"),
        (json!({"type": "no:such"}).to_string(), "UNKNOWN_TYPE"),
        (json!({"type": "system:connected"}).to_string(), "UNKNOWN_TYPE"),
        (json!({"type": "booking:confirmed", "payload": {}}).to_string(), "UNKNOWN_TYPE"),
        (json!({"type": "room:join"}).to_string(), "MISSING_ROOM"),
        (join(json!({})), "MISSING_ROOM"),
        (json!({"type": "room:leave", "payload": {}}).to_string(), "MISSING_ROOM"),
        (join(json!({"room": 7})), "INVALID_PAYLOAD"),
        (join(json!("event:1")), "INVALID_PAYLOAD"),
        (json!({"type": "user:subscribe", "payload": {"user_id": "b"}}).to_string(), "FORBIDDEN"),
    ];
    for (text, code) in cases {
        client.send_text(&text).await;
        let error = client.expect("system:error").await;
        assert_eq!(error["payload"]["code"], code, "{text}");
        assert!(error["payload"]["message"].as_str().is_some_and(|text| !text.is_empty()));
    }
    for text in ["[]", "7", "null", "\"system:ping\"", "{}", "{\"type\":7}"] {
        client.send_text(text).await;
        client.expect("system:error").await;
    }
    client.assert_quiet().await;
}

#[tokio::test]
async fn an_error_carries_the_ref_of_what_caused_it() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    let cases = [
        (json!({"type": "no:such", "ref": "r1"}), "r1"),
        (json!({"type": "room:join", "payload": {}, "ref": "r2"}), "r2"),
        (json!({"type": "room:join", "payload": {"room": "secret:1"}, "ref": "r3"}), "r3"),
    ];
    for (message, reference) in cases {
        let error = client.ask(message, "system:error").await;
        assert_eq!(error["ref"], reference);
    }
    for reference in [json!("x".repeat(100)), json!({}), json!([1]), json!(true)] {
        client.send(json!({"type": "system:ping", "ref": reference})).await;
        let answer = client.expect("system:error").await;
        assert!(answer.get("ref").is_none(), "{answer}");
    }
}

#[tokio::test]
async fn subscribing_to_oneself_is_allowed_and_to_anybody_else_is_not() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    client.send(json!({"type": "user:subscribe", "payload": {"user_id": "a"}})).await;
    client.assert_quiet().await;
    client.send(json!({"type": "user:subscribe", "payload": {"user_id": "b"}})).await;
    client.expect_error("FORBIDDEN").await;
    let mut anonymous = Client::anonymous(&server).await;
    anonymous.send(json!({"type": "user:subscribe", "payload": {"user_id": "a"}})).await;
    anonymous.expect_error("FORBIDDEN").await;
    let sent = grpc::send_to_user(&server, "a", "x", "{}").await.unwrap();
    assert_eq!(sent.connections_notified, 1);
    client.expect("x").await;
    client.assert_quiet().await;
    anonymous.assert_quiet().await;
}

#[tokio::test]
async fn an_acknowledgement_of_nothing_does_no_harm() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    client.send(json!({"type": "system:ack", "payload": {"id": "1-1-00000000"}})).await;
    client.assert_quiet().await;
}

#[tokio::test]
async fn payloads_arrive_byte_for_byte() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    client.join("event:1").await;
    let payloads = [
        r#"{"z":1.0,"a":1e5,"big":123456789012345678901234567890,"z":"again"}"#,
        r#"{"text":"\u0041\/é \ud83c\udfab 🎫","nothing":null}"#,
        r#"{ "spaced" :  [ 1 , 2 ],
            "deep": [[[{}]]] }"#,
        r#"[1,-0,0.10]"#,
        r#""text""#,
        "null",
        "7",
    ];
    for payload in payloads {
        grpc::broadcast(&server, "event:1", "raw", &format!(" \n{payload}\t ")).await.unwrap();
        let message = client.expect("raw").await;
        assert!(client.text.contains(&format!("\"payload\":{payload}")), "{}", client.text);
        assert_eq!(message["room"], "event:1");
        grpc::send_to_user(&server, "a", "raw", payload).await.unwrap();
        client.expect("raw").await;
        assert!(client.text.contains(&format!("\"payload\":{payload}")), "{}", client.text);
    }
    grpc::send_to_user(&server, "a", "raw", "").await.unwrap();
    assert_eq!(client.expect("raw").await["payload"], json!({}));
}

#[tokio::test]
async fn unusual_types_and_rooms_are_escaped_and_come_back_the_same() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    let room = "event:\"quoted\" \\ 🎫";
    let kind = "my \"type\" \\ é";
    client.join(room).await;
    let sent = grpc::broadcast(&server, room, kind, "{}").await.unwrap();
    assert_eq!(sent.recipients, 1);
    assert_eq!(client.expect(kind).await["room"], room);
}

#[tokio::test]
async fn a_durable_message_has_an_id_and_its_room() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    client.join("event:1").await;
    let mut last = 0;
    for _ in 0..3 {
        let sent = grpc::send_to_user(&server, "a", "x", "{}").await.unwrap();
        let message = client.expect("x").await;
        assert_is_id(&message["id"]);
        assert_eq!(message["id"], sent.message_id.as_str());
        assert!(message.get("room").is_none(), "a user's own stream has no room: {message}");
        assert!(message.get("ack").is_none(), "{message}");
        let offset = message["id"].as_str().unwrap().split('-').nth(1).unwrap().to_owned();
        let offset: u64 = offset.parse().unwrap();
        assert!(offset == last + 1 || last == 0, "{message} does not follow {last}");
        last = offset;
    }
    for room in ["event:1", "all"] {
        let sent = grpc::broadcast(&server, room, "x", "{}").await.unwrap();
        let message = client.expect("x").await;
        assert_eq!(message["room"], room);
        assert_eq!(message["id"], sent.message_id.as_str());
        assert_is_id(&message["id"]);
    }
    // A broadcast to a user's stream is the same as sending to the user.
    let sent = grpc::broadcast(&server, "user:a", "x", "{}").await.unwrap();
    assert_eq!(sent.recipients, 1);
    let message = client.expect("x").await;
    assert!(message.get("room").is_none(), "{message}");
    client.assert_quiet().await;
}

#[tokio::test]
async fn a_message_that_wants_an_acknowledgement_says_so() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    let request = realtime_proto::SendToUserRequest {
        user_id: "a".to_owned(),
        event_type: "x".to_owned(),
        require_ack: true,
        ..Default::default()
    };
    let mut grpc = grpc::client(&server);
    let call = tokio::spawn(async move { grpc.send_to_user(request).await });
    let message = client.expect("x").await;
    assert_eq!(message["ack"], true);
    assert_is_id(&message["id"]);
    client.send(json!({"type": "system:ack", "payload": {"id": message["id"]}})).await;
    client.assert_quiet().await;
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_booking_result_says_what_is_known() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    let full = NotifyBookingResultRequest {
        user_id: "a".to_owned(),
        booking_id: "b-1".to_owned(),
        success: true,
        message: "Booking confirmed".to_owned(),
        booking_reference: "BK12345".to_owned(),
        event_id: "e-1".to_owned(),
        seat_numbers: vec!["A1".to_owned(), "A2".to_owned()],
        total_amount: "100.00".to_owned(),
        currency: "USD".to_owned(),
        ..Default::default()
    };
    let mut grpc = grpc::client(&server);
    let answer = grpc.notify_booking_result(full).await.unwrap().into_inner();
    assert!(answer.delivered);
    assert_eq!(answer.active_connections, 1);
    let message = client.expect("booking:confirmed").await;
    assert_is_id(&message["id"]);
    let expected = json!({
        "booking_id": "b-1", "booking_reference": "BK12345", "success": true,
        "message": "Booking confirmed", "event_id": "e-1", "seat_numbers": ["A1", "A2"],
        "total_amount": "100.00", "currency": "USD",
    });
    assert_eq!(message["payload"], expected);
    let failed = NotifyBookingResultRequest {
        user_id: "a".to_owned(),
        message: "sold out".to_owned(),
        ..Default::default()
    };
    grpc.notify_booking_result(failed).await.unwrap();
    let expected =
        json!({"booking_id": "", "booking_reference": "", "success": false, "message": "sold out"});
    assert_eq!(client.expect("booking:failed").await["payload"], expected);
}

#[tokio::test]
async fn a_payment_status_names_its_message() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    let mut grpc = grpc::client(&server);
    let statuses = [
        (PaymentStatus::Processing, "processing"),
        (PaymentStatus::Success, "success"),
        (PaymentStatus::Failed, "failed"),
        (PaymentStatus::Refunded, "refunded"),
    ];
    for (status, name) in statuses {
        let request = NotifyPaymentStatusRequest {
            user_id: "a".to_owned(),
            booking_id: "b".to_owned(),
            payment_id: "p".to_owned(),
            status: status.into(),
            message: "m".to_owned(),
            ..Default::default()
        };
        assert!(grpc.notify_payment_status(request).await.unwrap().into_inner().delivered);
        let message = client.expect(&format!("payment:{name}")).await;
        assert_is_id(&message["id"]);
        let expected =
            json!({"payment_id": "p", "booking_id": "b", "status": name, "message": "m"});
        assert_eq!(message["payload"], expected);
    }
    let request = NotifyPaymentStatusRequest {
        user_id: "a".to_owned(),
        status: PaymentStatus::Success.into(),
        amount: "9.50".to_owned(),
        currency: "EUR".to_owned(),
        ..Default::default()
    };
    grpc.notify_payment_status(request).await.unwrap();
    let message = client.expect("payment:success").await;
    assert_eq!(message["payload"]["amount"], "9.50");
    assert_eq!(message["payload"]["currency"], "EUR");
}

#[tokio::test]
async fn a_queue_position_has_no_id() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    let request = NotifyQueuePositionRequest {
        user_id: "a".to_owned(),
        event_id: "e".to_owned(),
        position: 42,
        estimated_wait_seconds: 90,
        total_in_queue: 1000,
        ..Default::default()
    };
    let answer = grpc::client(&server).notify_queue_position(request).await.unwrap();
    assert!(answer.into_inner().delivered);
    let message = client.expect("booking:queue_position").await;
    assert!(message.get("id").is_none(), "{message}");
    let expected =
        json!({"position": 42, "estimated_wait": 90, "event_id": "e", "total_in_queue": 1000});
    assert_eq!(message["payload"], expected);
}

#[tokio::test]
async fn the_types_of_delivery_latest_have_no_id() {
    let server = Setup::embedded().set("DELIVERY_LATEST", "ticket:availability").start().await;
    let mut client = Client::anonymous(&server).await;
    client.join("event:1").await;
    grpc::broadcast(&server, "event:1", "ticket:availability", "{}").await.unwrap();
    assert!(client.expect("ticket:availability").await.get("id").is_none());
    grpc::broadcast(&server, "event:1", "ticket:reserved", "{}").await.unwrap();
    assert_is_id(&client.expect("ticket:reserved").await["id"]);
}

#[tokio::test]
async fn every_connection_of_a_user_gets_what_is_sent_to_the_user() {
    let server = Setup::embedded().start().await;
    let mut connections = Vec::new();
    for _ in 0..5 {
        connections.push(Client::connect(&server, &token("a")).await);
    }
    let mut other = Client::connect(&server, &token("b")).await;
    let sent = grpc::send_to_user(&server, "a", "x", "{}").await.unwrap();
    assert!(sent.delivered);
    assert_eq!(sent.connections_notified, 5);
    for client in &mut connections {
        client.expect("x").await;
        client.assert_quiet().await;
    }
    other.assert_quiet().await;
    let sent = grpc::send_to_user(&server, "nobody", "x", "{}").await.unwrap();
    assert!(!sent.delivered);
    assert_eq!(sent.connections_notified, 0);
}
