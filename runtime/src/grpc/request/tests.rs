use tonic::Code;

use super::*;

fn config() -> Config {
    let variables = [("JWT_SECRET", "s"), ("DELIVERY_LATEST", "ticket:availability,my:latest")];
    config_of(&variables)
}

fn config_of(variables: &[(&str, &str)]) -> Config {
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
    Config::from_env(&|name| find(name).map(|(_, value)| (*value).to_owned())).unwrap()
}

/// What an error says, after checking that it blames the caller.
#[track_caller]
fn refusal(checked: Checked) -> String {
    let status = checked.expect_err("must be refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    status.message().to_owned()
}

fn text(message: &Message) -> &str {
    str::from_utf8(&message.payload).unwrap()
}

fn booking() -> NotifyBookingResultRequest {
    NotifyBookingResultRequest {
        user_id: "u".into(),
        booking_id: "b".into(),
        success: true,
        message: "done".into(),
        ..Default::default()
    }
}

fn payment() -> NotifyPaymentStatusRequest {
    NotifyPaymentStatusRequest {
        user_id: "u".into(),
        payment_id: "p".into(),
        status: PaymentStatus::Success.into(),
        ..Default::default()
    }
}

fn event() -> BroadcastEventRequest {
    BroadcastEventRequest {
        event_type: "ticket:released".into(),
        room: "event:1".into(),
        payload: r#"{"a": 1.0}"#.into(),
        ..Default::default()
    }
}

fn direct() -> SendToUserRequest {
    SendToUserRequest {
        user_id: "u".into(),
        event_type: "my:type".into(),
        payload: "[1]".into(),
        ..Default::default()
    }
}

#[test]
fn a_booking_result_becomes_confirmed_or_failed() {
    let message = booking_result(booking(), &config()).unwrap();
    assert_eq!((&*message.kind, message.stream.as_str()), ("booking:confirmed", "user:u"));
    assert_eq!(
        text(&message),
        r#"{"booking_id":"b","booking_reference":"","success":true,"message":"done"}"#
    );
    assert_eq!((message.latest, message.ack, message.idempotency_key), (None, false, None));

    let full = NotifyBookingResultRequest {
        booking_id: String::new(),
        success: false,
        booking_reference: "r".into(),
        event_id: "e".into(),
        seat_numbers: vec!["A1".into(), "\"".into()],
        total_amount: "1.00".into(),
        currency: "USD".into(),
        idempotency_key: "k".into(),
        ..booking()
    };
    let message = booking_result(full, &config()).unwrap();
    assert_eq!(&*message.kind, "booking:failed");
    assert_eq!(
        text(&message),
        concat!(
            r#"{"booking_id":"","booking_reference":"r","success":false,"message":"done","#,
            r#""event_id":"e","seat_numbers":["A1","\""],"total_amount":"1.00","currency":"USD"}"#,
        )
    );
    assert_eq!(message.idempotency_key.as_deref(), Some("k"));
}

#[test]
fn a_booking_result_needs_a_user_and_on_success_a_booking() {
    let check = |request| refusal(booking_result(request, &config()));
    let request = NotifyBookingResultRequest { user_id: String::new(), ..booking() };
    assert_eq!(check(request), "user_id is empty");
    let request = NotifyBookingResultRequest { booking_id: String::new(), ..booking() };
    assert_eq!(check(request), "booking_id is empty, but success is true");
    let request = NotifyBookingResultRequest { user_id: "x".repeat(129), ..booking() };
    assert_eq!(check(request), "user_id is too long; at most 128 bytes are accepted");
    let request = NotifyBookingResultRequest { user_id: "a\tb".into(), ..booking() };
    assert_eq!(check(request), "user_id contains a control character");
    let request = NotifyBookingResultRequest { booking_id: "x".repeat(129), ..booking() };
    assert_eq!(check(request), "booking_id has 129 bytes; at most 128 are accepted");
    let request = NotifyBookingResultRequest { idempotency_key: "x".repeat(129), ..booking() };
    assert_eq!(check(request), "idempotency_key has 129 bytes; at most 128 are accepted");
    let request = NotifyBookingResultRequest { message: "x".repeat(65_536), ..booking() };
    assert!(check(request).starts_with("the message has 65"));
}

#[test]
fn a_queue_position_is_the_newest_of_its_event() {
    let request = NotifyQueuePositionRequest {
        user_id: "u".into(),
        event_id: "e".into(),
        position: 3,
        estimated_wait_seconds: 40,
        total_in_queue: 500,
        ..Default::default()
    };
    let message = queue_position(request.clone(), &config()).unwrap();
    assert_eq!(
        text(&message),
        r#"{"position":3,"estimated_wait":40,"event_id":"e","total_in_queue":500}"#
    );
    assert_eq!(message.latest.as_deref(), Some("e"));
    let nobody = NotifyQueuePositionRequest { user_id: String::new(), ..request.clone() };
    assert_eq!(refusal(queue_position(nobody, &config())), "user_id is empty");
    let long = NotifyQueuePositionRequest { event_id: "x".repeat(129), ..request };
    assert!(refusal(queue_position(long, &config())).starts_with("event_id has 129 bytes"));
}

#[test]
fn a_payment_status_names_its_type() {
    for (status, name) in [
        (PaymentStatus::Processing, "processing"),
        (PaymentStatus::Success, "success"),
        (PaymentStatus::Failed, "failed"),
        (PaymentStatus::Refunded, "refunded"),
    ] {
        let request =
            NotifyPaymentStatusRequest { status: status.into(), amount: "2".into(), ..payment() };
        let message = payment_status(request, &config()).unwrap();
        assert_eq!(*message.kind, format!("payment:{name}"));
        assert_eq!(
            text(&message),
            [
                r#"{"payment_id":"p","booking_id":"","status":""#,
                name,
                r#"","message":"","amount":"2"}"#
            ]
            .concat()
        );
    }
    let check = |status| {
        refusal(payment_status(NotifyPaymentStatusRequest { status, ..payment() }, &config()))
    };
    assert_eq!(check(0), "status is not given");
    assert_eq!(check(99), "status is unknown: 99");
    let nobody = NotifyPaymentStatusRequest { user_id: String::new(), ..payment() };
    assert_eq!(refusal(payment_status(nobody, &config())), "user_id is empty");
}

#[test]
fn a_payload_is_passed_on_byte_for_byte() {
    let payload = "\n {\"z\":1.00, \"a\":\"\\u00e9\", \"z\":1e400 } \t";
    let request = BroadcastEventRequest { payload: payload.into(), ..event() };
    assert_eq!(text(&broadcast(request, &config()).unwrap()), payload.trim());
    let request = BroadcastEventRequest { payload: String::new(), ..event() };
    assert_eq!(text(&broadcast(request, &config()).unwrap()), "{}");
}

#[test]
fn a_broadcast_goes_to_a_room_a_user_or_everyone() {
    let stream = |room: &str| {
        let message = broadcast(BroadcastEventRequest { room: room.into(), ..event() }, &config());
        message.unwrap().stream
    };
    assert_eq!(stream("event:1"), StreamName::room("event:1").unwrap());
    assert_eq!(stream("user:u"), StreamName::user("u").unwrap());
    assert_eq!(stream("all"), StreamName::all());
}

#[test]
fn a_sender_is_excluded_only_when_asked_and_named() {
    let excluded = |exclude_sender, sender: &str| {
        let sender_user_id = sender.into();
        let request = BroadcastEventRequest { exclude_sender, sender_user_id, ..event() };
        broadcast(request, &config()).unwrap().exclude_user
    };
    assert_eq!(excluded(true, "u").as_deref(), Some("u"));
    assert_eq!(excluded(true, ""), None);
    assert_eq!(excluded(false, "u"), None);
    let sender_user_id = "x".repeat(129);
    let request = BroadcastEventRequest { sender_user_id, ..event() };
    assert!(refusal(broadcast(request, &config())).starts_with("sender_user_id is too long"));
}

#[test]
fn a_bad_broadcast_is_refused_with_the_name_of_the_field() {
    let check = |request| refusal(broadcast(request, &config()));
    let room = |room: String| BroadcastEventRequest { room, ..event() };
    assert_eq!(check(room(String::new())), "room is empty");
    assert_eq!(check(room("user:".into())), "room is empty");
    assert_eq!(check(room("x".repeat(201))), "room is too long; at most 200 bytes are accepted");
    assert_eq!(check(room("a\u{0}".into())), "room contains a control character");
    let kind = |kind: &str| BroadcastEventRequest { event_type: kind.into(), ..event() };
    assert_eq!(check(kind("")), "event_type is empty");
    assert!(check(kind(&"x".repeat(129))).starts_with("event_type is too long"));
    for reserved in ["system:ping", "auth:refresh", "room:joined"] {
        assert!(check(kind(reserved)).starts_with("event_type is reserved"));
    }
    let payload = |payload: String| BroadcastEventRequest { payload, ..event() };
    for bad in ["{", "nope", "{} {}", "{\"a\":}", "\u{feff}{}"] {
        assert!(check(payload(bad.into())).starts_with("payload is not a JSON text"), "{bad}");
    }
    assert!(check(payload("[".repeat(10_000))).starts_with("payload is not a JSON text"));
    let long = format!("\"{}\"", "x".repeat(65_536));
    assert_eq!(check(payload(long)), "payload has 65538 bytes; at most 65536 are accepted");
    let longest = format!("\"{}\"", "x".repeat(65_534));
    assert!(broadcast(payload(longest), &config()).is_ok());
}

#[test]
fn the_newest_of_a_configured_type_is_told_by_its_event() {
    let key = |payload: &str| {
        let (event_type, payload) = ("my:latest".into(), payload.into());
        let request = SendToUserRequest { event_type, payload, ..direct() };
        send_to_user(request, &config()).unwrap().latest.unwrap().to_string()
    };
    assert_eq!(key(r#"{"event_id":"e\u0031"}"#), "e1");
    assert_eq!(key(r#"{"event_id":12}"#), "12");
    for none in ["{}", r#"{"event_id":null}"#, r#"{"event_id":[1]}"#, "[\"e\"]", "7"] {
        assert_eq!(key(none), "", "{none}");
    }
    let payload = format!(r#"{{"event_id":"{}"}}"#, "x".repeat(129));
    let request = SendToUserRequest { event_type: "my:latest".into(), payload, ..direct() };
    let said = refusal(send_to_user(request, &config()));
    assert!(said.starts_with("event_id in payload has 129 bytes"));
    assert_eq!(send_to_user(direct(), &config()).unwrap().latest, None);
    let queue = SendToUserRequest { event_type: QUEUE_POSITION.into(), ..direct() };
    assert!(send_to_user(queue, &config()).unwrap().latest.is_some());
}

#[test]
fn what_is_to_be_acknowledged_is_durable() {
    let request =
        SendToUserRequest { event_type: "my:latest".into(), require_ack: true, ..direct() };
    let message = send_to_user(request.clone(), &config()).unwrap();
    assert_eq!((message.ack, message.latest), (true, None));
    let off = config_of(&[("HISTORY_SIZE", "0")]);
    assert_eq!(send_to_user(request, &off).unwrap_err().code(), Code::FailedPrecondition);
    assert!(send_to_user(direct(), &off).is_ok());
}

#[test]
fn a_direct_message_needs_a_user_and_a_type() {
    let check = |request| refusal(send_to_user(request, &config()));
    let nobody = SendToUserRequest { user_id: String::new(), ..direct() };
    assert_eq!(check(nobody), "user_id is empty");
    let untyped = SendToUserRequest { event_type: String::new(), ..direct() };
    assert_eq!(check(untyped), "event_type is empty");
    let reserved = SendToUserRequest { event_type: "system:x".into(), ..direct() };
    assert!(check(reserved).starts_with("event_type is reserved"));
}
