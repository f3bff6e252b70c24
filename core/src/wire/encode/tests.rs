use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    fuzzing::only_text,
    id::{BootId, Epoch, Mid},
    wire::decode,
};

const POSITION: Position =
    Position { epoch: Epoch(0x1f), offset: 41, mid: Mid(0x0abc_def0_1234_5678) };

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    only_text(&out).to_owned()
}

fn reference(text: &str) -> Reference {
    Reference(text.into())
}

fn body(kind: &str, payload: &'static str, ack: bool) -> Body {
    Body {
        kind: kind.into(),
        payload: payload.into(),
        exclude_user: None,
        key: "".into(),
        ack,
        origin: BootId(0),
        published: UnixMillis(0),
    }
}

fn published(stream: &StreamName, body: &Body, position: Option<Position>) -> String {
    only_text(&publication(stream, body, position).0).to_owned()
}

#[test]
fn an_anonymous_greeting_names_nobody_and_no_position() {
    let greeting = Connected {
        connection_id: "c1",
        user: None,
        position: None,
        recovered: None,
        all_position: None,
        all_recovered: None,
        ping_interval_ms: 30_000,
        pong_timeout_ms: 60_000,
        now: UnixMillis(1_700_000_000_999),
    };
    assert_eq!(
        text(|out| connected(out, &greeting)),
        concat!(
            r#"{"type":"system:connected","payload":{"connection_id":"c1","#,
            r#""server_time":1700000000,"user_id":null,"id":null,"all":{"id":null},"#,
            r#""ping_interval_ms":30000,"pong_timeout_ms":60000}}"#
        )
    );
}

#[test]
fn a_greeting_that_resumes_says_what_was_recovered() {
    let greeting = Connected {
        connection_id: "c1",
        user: Some("a\"b"),
        position: Some(POSITION),
        recovered: Some(true),
        all_position: Some(Position::default()),
        all_recovered: Some(false),
        ping_interval_ms: 1,
        pong_timeout_ms: 2,
        now: UnixMillis(0),
    };
    assert_eq!(
        text(|out| connected(out, &greeting)),
        concat!(
            r#"{"type":"system:connected","payload":{"connection_id":"c1","server_time":0,"#,
            r#""user_id":"a\"b","id":"1f-41-0abcdef0","recovered":true,"#,
            r#""all":{"id":"0-0-00000000","recovered":false},"#,
            r#""ping_interval_ms":1,"pong_timeout_ms":2}}"#
        )
    );
}

#[test]
fn direct_replies_carry_the_reference_before_the_payload() {
    let seven = reference("7");
    let name = reference("\"r\"");
    let cases = [
        (
            text(|out| pong(out, UnixMillis(12_345), Some(&seven))),
            r#"{"type":"system:pong","ref":7,"payload":{"server_time":12}}"#,
        ),
        (
            text(|out| error(out, ErrorCode::Forbidden, "no", Some(&name))),
            r#"{"type":"system:error","ref":"r","payload":{"code":"FORBIDDEN","message":"no"}}"#,
        ),
        (
            text(|out| refreshed(out, Some(99), Some(&seven))),
            r#"{"type":"auth:refreshed","ref":7,"payload":{"expires_at":99}}"#,
        ),
        (
            text(|out| room_joined(out, "event:1", Some(POSITION), Some(false), Some(&seven))),
            concat!(
                r#"{"type":"room:joined","ref":7,"#,
                r#""payload":{"room":"event:1","id":"1f-41-0abcdef0","recovered":false}}"#
            ),
        ),
        (
            text(|out| room_left(out, "event:1", None, Some(&seven))),
            r#"{"type":"room:left","ref":7,"payload":{"room":"event:1"}}"#,
        ),
    ];
    for (written, expected) in cases {
        assert_eq!(written, expected);
    }
}

#[test]
fn messages_that_nobody_asked_for_have_no_reference() {
    let room = StreamName::room("event:1").unwrap();
    let user = StreamName::user("u").unwrap();
    let cases = [
        (
            text(|out| pong(out, UnixMillis(0), None)),
            r#"{"type":"system:pong","payload":{"server_time":0}}"#,
        ),
        (
            text(|out| token_expiring(out, 60_000)),
            r#"{"type":"system:token_expiring","payload":{"expires_in_ms":60000}}"#,
        ),
        (
            text(|out| refreshed(out, None, None)),
            r#"{"type":"auth:refreshed","payload":{"expires_at":null}}"#,
        ),
        (
            text(|out| room_joined(out, "event:1", None, None, None)),
            r#"{"type":"room:joined","payload":{"room":"event:1","id":null}}"#,
        ),
        (
            text(|out| room_left(out, "vip:1", Some("forbidden"), None)),
            r#"{"type":"room:left","payload":{"room":"vip:1","reason":"forbidden"}}"#,
        ),
        (
            text(|out| reconnect(out, "draining", 250)),
            r#"{"type":"system:reconnect","payload":{"reason":"draining","after_ms":250}}"#,
        ),
        (
            text(|out| resync(out, &room, Some(POSITION), 17)),
            concat!(
                r#"{"type":"system:resync","#,
                r#""payload":{"room":"event:1","id":"1f-41-0abcdef0","after_ms":17}}"#
            ),
        ),
        (
            text(|out| resync(out, &user, None, 0)),
            r#"{"type":"system:resync","payload":{"room":null,"id":null,"after_ms":0}}"#,
        ),
    ];
    for (written, expected) in cases {
        assert_eq!(written, expected);
    }
}

#[test]
fn a_room_publication_names_its_room_and_a_users_does_not() {
    let message = body("ticket:reserved", r#"{"seat": "A1"}"#, false);
    assert_eq!(
        published(&StreamName::room("event:1").unwrap(), &message, Some(POSITION)),
        concat!(
            r#"{"type":"ticket:reserved","id":"1f-41-0abcdef0","room":"event:1","#,
            r#""payload":{"seat": "A1"}}"#
        )
    );
    assert_eq!(
        published(&StreamName::all(), &message, None),
        r#"{"type":"ticket:reserved","room":"all","payload":{"seat": "A1"}}"#
    );
    assert_eq!(
        published(&StreamName::user("u").unwrap(), &message, None),
        r#"{"type":"ticket:reserved","payload":{"seat": "A1"}}"#
    );
}

#[test]
fn an_acknowledgement_is_asked_for_only_where_there_is_an_id_to_acknowledge() {
    let user = StreamName::user("u").unwrap();
    let message = body("offer", "1", true);
    assert_eq!(
        published(&user, &message, Some(POSITION)),
        r#"{"type":"offer","id":"1f-41-0abcdef0","ack":true,"payload":1}"#
    );
    assert_eq!(published(&user, &message, None), r#"{"type":"offer","payload":1}"#);
}

#[test]
fn a_payload_is_never_absent() {
    let message = body("a", "", false);
    assert_eq!(
        published(&StreamName::all(), &message, None),
        r#"{"type":"a","room":"all","payload":{}}"#
    );
}

#[test]
fn a_publication_takes_up_just_its_size() {
    let Frame(frame) = publication(&StreamName::all(), &body("a", "[1,2]", false), None);
    // Bytes gives back the vector that it was made of, with its capacity.
    let vec = Vec::from(frame);
    assert_eq!(vec.capacity(), vec.len());
}

#[test]
fn lengths_have_their_shortest_form_on_both_sides_of_each_limit() {
    const AROUND: usize = r#"{"type":"a","room":"all","payload":""}"#.len();
    for (length, header) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10), (70_000, 10)] {
        let payload = format!("\"{}\"", "x".repeat(length - AROUND));
        let message = Body { payload: payload.into(), ..body("a", "", false) };
        let Frame(frame) = publication(&StreamName::all(), &message, None);
        assert_eq!(frame.len(), length + header);
        assert_eq!(only_text(&frame).len(), length);
    }
}

#[test]
fn frames_are_appended_behind_one_another() {
    let mut out = PING.to_vec();
    token_expiring(&mut out, 1);
    let end = out.len();
    reconnect(&mut out, "draining", 2);
    assert_eq!(&out[..2], PING);
    assert!(only_text(&out[2..end]).contains("token_expiring"));
    assert!(only_text(&out[end..]).contains("reconnect"));
}

#[test]
fn close_frames_carry_the_code_and_a_reason() {
    let mut out = Vec::new();
    close(&mut out, CloseCode::Silent);
    assert_eq!(out, b"\x88\x0d\x11\x38peer silent");
    for code in CloseCode::ALL {
        let mut out = Vec::new();
        close(&mut out, code);
        assert_eq!(out[0], 0x88);
        assert!(out[1] <= 125, "control frames are short");
        assert_eq!(out.len(), 2 + usize::from(out[1]));
        assert!(!code.reason().contains(char::is_uppercase));
    }
}

#[test]
fn connection_ids_differ_by_instance_slot_and_generation() {
    let named = |instance, slot, generation| {
        let mut out = Vec::new();
        connection_id(&mut out, instance, ConnectionId { slot, generation });
        String::from_utf8(out).unwrap()
    };
    assert_eq!(named(0xab, 16, 0), "00000000000000ab-10-0");
    assert_eq!(named(u64::MAX, u32::MAX, 1), "ffffffffffffffff-ffffffff-1");
    assert_ne!(named(1, 0x11, 0x1), named(1, 0x1, 0x11));
}

proptest! {
    #[test]
    fn any_text_survives_as_a_json_string(name in any::<String>(), message in any::<String>()) {
        let written = text(|out| error(out, ErrorCode::Internal, &message, None));
        let read: Value = serde_json::from_str(&written).unwrap();
        prop_assert_eq!(&read["payload"]["message"], &json!(message));
        let written = text(|out| room_left(out, &name, Some(&message), None));
        let read: Value = serde_json::from_str(&written).unwrap();
        prop_assert_eq!(read["payload"].clone(), json!({ "room": name, "reason": message }));
    }

    #[test]
    fn ids_are_read_back(epoch: u64, offset: u64, mid: u64) {
        let position = Position { epoch: Epoch(epoch), offset, mid: Mid(mid) };
        let mut out = Vec::new();
        id(&mut out, position);
        let since = decode::since(std::str::from_utf8(&out).unwrap()).unwrap();
        prop_assert_eq!((since.epoch, since.offset), (epoch, offset));
        prop_assert_eq!(u64::from(since.check), mid >> 32);
    }

    #[test]
    fn publications_are_json_whatever_the_names(
        kind in any::<String>(),
        room in "[^\\p{Cc}]{1,40}",
        payload in "\"[a-z]{0,300}\"",
        ack: bool,
        positioned: bool,
    ) {
        let stream = StreamName::room(&room).unwrap();
        let message = Body { payload: payload.clone().into(), ..body(&kind, "", ack) };
        let position = positioned.then_some(POSITION);
        let written = published(&stream, &message, position);
        let read: Value = serde_json::from_str(&written).unwrap();
        let mut expected = json!({ "type": kind, "payload": payload.trim_matches('"') });
        if positioned {
            expected["id"] = json!("1f-41-0abcdef0");
        }
        if positioned && ack {
            expected["ack"] = json!(true);
        }
        if let Some(room) = stream.room_name() {
            expected["room"] = json!(room);
        }
        prop_assert_eq!(read, expected);
    }
}
