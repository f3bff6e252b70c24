use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    fuzzing::{pattern_matches_naively, wire_decode},
    id::{Epoch, Mid, Position},
    wire::encode,
};

fn room(name: &str) -> StreamName {
    StreamName::room(name).unwrap()
}

fn asked(text: &str) -> Command {
    request(text).command.unwrap_or_else(|mistake| panic!("{text}: {mistake:?}"))
}

#[track_caller]
fn assert_refused(text: &str, code: ErrorCode) -> Request {
    let request = request(text);
    assert_eq!(request.command.as_ref().map_err(|mistake| mistake.code), Err(code), "{text}");
    request
}

fn nested(open: &str, levels: usize, close: &str) -> String {
    [open.repeat(levels), close.repeat(levels)].concat()
}

#[test]
fn a_ping_is_understood_whatever_its_payload_is() {
    for payload in ["null", "1", "\"x\"", "[]", "{\"room\":1}", "[[[{}]]]"] {
        let text = format!(r#"{{"type":"system:ping","payload":{payload}}}"#);
        assert_eq!(asked(&text), Command::Ping, "{text}");
    }
    let plain = request(r#" {"type":"system:ping"} "#);
    assert_eq!(
        plain,
        Request { kind: Kind::SystemPing, reference: None, command: Ok(Command::Ping) }
    );
}

#[test]
fn what_is_not_one_json_object_with_a_type_is_a_parse_error() {
    for text in [
        "",
        " ",
        "null",
        "1",
        "\"system:ping\"",
        "[\"system:ping\",null,null]",
        "{",
        "{}",
        "{\"type\":null}",
        "{\"type\":1}",
        "{\"type\":[\"system:ping\"]}",
        "{\"type\":\"\\ud800\"}",
        "{\"type\":\"system:ping\"}{\"type\":\"system:ping\"}",
        "{\"type\":\"system:ping\"}\n{\"type\":\"system:ping\"}",
        "{\"type\":\"system:ping\",}",
        "{\"type\":\"system:ping\",\"type\":\"system:ping\"}",
        "{'type':'system:ping'}",
        "\u{feff}{\"type\":\"system:ping\"}",
        "\u{a0}{\"type\":\"system:ping\"}",
        "{\"type\":\"system:ping\",\"payload\":01}",
        "{\"type\":\"system:ping\",\"payload\":\"\u{1}\"}",
    ] {
        assert_eq!(assert_refused(text, ErrorCode::ParseError).kind, Kind::Other);
    }
}

#[test]
fn a_parse_error_keeps_a_reference_that_could_be_read() {
    let refused = assert_refused(r#"{"type":7,"ref":"r"}"#, ErrorCode::ParseError);
    assert_eq!(refused.reference, Some(Reference("\"r\"".into())));
}

#[test]
fn deep_nesting_is_refused_and_overflows_no_stack() {
    let message = |payload: &str| format!(r#"{{"type":"system:ping","payload":{payload}}}"#);
    // The message itself is one level.
    assert_eq!(asked(&message(&nested("[", 127, "]"))), Command::Ping);
    assert_refused(&message(&nested("[", 128, "]")), ErrorCode::ParseError);
    for levels in [1_000, 32_000, 1_000_000] {
        assert_refused(&message(&nested("[", levels, "]")), ErrorCode::ParseError);
        assert_refused(&nested("{\"type\":", levels, "}"), ErrorCode::ParseError);
        assert_refused(&"[".repeat(levels), ErrorCode::ParseError);
        assert_refused(&message(&"{\"a\":".repeat(levels)), ErrorCode::ParseError);
        assert_eq!(payload(&nested("[", levels, "]")), None);
        assert_eq!(payload(&"[".repeat(levels)), None);
    }
}

#[test]
fn brackets_in_strings_are_not_nesting() {
    let text = format!(r#"["\"{}\\","{}"]"#, "[".repeat(300), "{".repeat(300));
    assert_eq!(payload(&text), Some(&*text));
    let siblings = format!("[{}1]", "[[]],".repeat(300));
    assert_eq!(payload(&siblings), Some(&*siblings));
}

#[test]
fn unknown_and_server_side_types_are_told_apart_from_mistakes() {
    for (name, kind) in [
        ("chat:message", Kind::Other),
        ("other", Kind::Other),
        ("", Kind::Other),
        ("system:pong", Kind::SystemPong),
        ("system:connected", Kind::SystemConnected),
        ("booking:confirmed", Kind::BookingConfirmed),
    ] {
        let text = format!(r#"{{"type":"{name}","payload":3,"ref":"a"}}"#);
        let refused = assert_refused(&text, ErrorCode::UnknownType);
        assert_eq!(refused.kind, kind);
        assert_eq!(refused.reference, Some(Reference("\"a\"".into())));
    }
}

#[test]
fn references_are_short_strings_and_numbers() {
    let ping = |reference: &str| format!(r#"{{"type":"system:ping","ref":{reference}}}"#);
    let longest = format!("\"{}\"", "x".repeat(64));
    for reference in ["0", "-1.5e9", "\"\"", "\"\\u0041\\n\"", "\"\\ud800\"", &*longest] {
        let request = request(&ping(reference));
        assert_eq!(request.reference, Some(Reference(reference.into())));
        assert_eq!(request.command, Ok(Command::Ping));
    }
    assert_eq!(request(&ping("null")).reference, None);
    assert_eq!(asked(&ping("null")), Command::Ping);
    let too_long = format!("\"{}\"", "x".repeat(65));
    for reference in ["true", "{}", "[1]", &*too_long, &*"1".repeat(65)] {
        let refused = assert_refused(&ping(reference), ErrorCode::InvalidPayload);
        assert_eq!((refused.kind, refused.reference), (Kind::SystemPing, None));
    }
}

#[test]
fn rooms_are_named_by_room_or_by_event() {
    let join = |payload: &str| asked(&format!(r#"{{"type":"room:join","payload":{payload}}}"#));
    let joined = |name: &str| Command::Join { stream: room(name), since: None };
    assert_eq!(join(r#"{"room":"event:1"}"#), joined("event:1"));
    assert_eq!(join(r#"{"event_id":"1"}"#), joined("event:1"));
    assert_eq!(join(r#"{"event_id":123}"#), joined("event:123"));
    assert_eq!(join(r#"{"event_id":"2","room":"vip:1"}"#), joined("vip:1"));
    assert_eq!(join(r#"{"room":"","event_id":"2"}"#), joined("event:2"));
    assert_eq!(join(r#"{"room":null,"event_id":"2"}"#), joined("event:2"));
    assert_eq!(join(r#"{"room":"\u0061ll"}"#), joined("all"));
    assert_eq!(join(r#"{"room":"user:1","more":[1]}"#), joined("user:1"));
    assert_eq!(
        asked(r#"{"type":"room:leave","payload":{"event_id":"1"}}"#),
        Command::Leave { stream: room("event:1") }
    );
}

#[test]
fn a_join_without_a_room_is_told_so() {
    for payload in ["null", "{}", r#"{"room":""}"#, r#"{"event_id":""}"#, r#"{"since":"1-2-3"}"#] {
        for kind in ["room:join", "room:leave"] {
            let text = format!(r#"{{"type":"{kind}","payload":{payload},"ref":1}}"#);
            let refused = assert_refused(&text, ErrorCode::MissingRoom);
            assert_eq!(refused.reference, Some(Reference("1".into())));
        }
    }
    assert_refused(r#"{"type":"room:join"}"#, ErrorCode::MissingRoom);
}

#[test]
fn rooms_that_no_name_can_be_are_invalid() {
    let long = |bytes: usize| "x".repeat(bytes);
    let accepted = format!(r#"{{"type":"room:join","payload":{{"room":"{}"}}}}"#, long(200));
    assert!(request(&accepted).command.is_ok());
    for payload in [
        "7".to_owned(),
        "\"event:1\"".to_owned(),
        "[\"event:1\"]".to_owned(),
        r#"{"room":1}"#.to_owned(),
        r#"{"room":"a\u0000"}"#.to_owned(),
        r#"{"room":"a\n"}"#.to_owned(),
        r#"{"room":"\ud800"}"#.to_owned(),
        r#"{"room":"user:"}"#.to_owned(),
        r#"{"room":"a","room":"b"}"#.to_owned(),
        r#"{"event_id":1.5}"#.to_owned(),
        r#"{"event_id":-1}"#.to_owned(),
        r#"{"event_id":1e3}"#.to_owned(),
        r#"{"event_id":true}"#.to_owned(),
        r#"{"event_id":"\u0007"}"#.to_owned(),
        json!({ "room": long(201) }).to_string(),
        json!({ "room": format!("user:{}", long(129)) }).to_string(),
        json!({ "event_id": long(195) }).to_string(),
        json!({ "event_id": long(60_000) }).to_string(),
    ] {
        let text = format!(r#"{{"type":"room:join","payload":{payload}}}"#);
        assert_refused(&text, ErrorCode::InvalidPayload);
    }
}

#[test]
fn a_since_that_cannot_be_read_is_no_error() {
    let since = |text: &str| {
        let text = format!(r#"{{"type":"room:join","payload":{{"room":"a","since":{text}}}}}"#);
        match asked(&text) {
            Command::Join { since, .. } => since,
            other @ (Command::Ping
            | Command::Leave { .. }
            | Command::Subscribe { .. }
            | Command::Refresh { .. }
            | Command::Ack { .. }) => panic!("{other:?}"),
        }
    };
    let read = Since { epoch: 0x1f, offset: 41, check: 0xabc };
    assert_eq!(since(r#""1f-41-00000abc""#), Some(Some(read)));
    assert_eq!(since(r#""""#), None);
    assert_eq!(since("null"), None);
    for unreadable in ["7", "{}", "true", r#""x""#, r#""\ud800""#, r#"" ""#] {
        assert_eq!(since(unreadable), Some(None), "{unreadable}");
    }
}

#[test]
fn the_other_requests_need_their_field_as_a_string() {
    assert_eq!(
        asked(r#"{"type":"user:subscribe","payload":{"user_id":"u-1"}}"#),
        Command::Subscribe { user: "u-1".into() }
    );
    assert_eq!(
        asked(r#"{"type":"auth:refresh","payload":{"token":"a.b.c"}}"#),
        Command::Refresh { token: "a.b.c".into() }
    );
    assert_eq!(
        asked(r#"{"type":"system:ack","payload":{"id":"0-1-000000ff"}}"#),
        Command::Ack { id: Some(Since { epoch: 0, offset: 1, check: 255 }) }
    );
    assert_eq!(
        asked(r#"{"type":"system:ack","payload":{"id":"nonsense"}}"#),
        Command::Ack { id: None }
    );
    for kind in ["user:subscribe", "auth:refresh", "system:ack"] {
        for payload in ["null", "{}", "[]", "3", r#"{"user_id":1,"token":{},"id":[]}"#] {
            let text = format!(r#"{{"type":"{kind}","payload":{payload}}}"#);
            assert_refused(&text, ErrorCode::InvalidPayload);
        }
    }
    let user = |id: &str| format!(r#"{{"type":"user:subscribe","payload":{{"user_id":"{id}"}}}}"#);
    assert!(request(&user(&"x".repeat(128))).command.is_ok());
    for id in ["", "\\u0000", &*"x".repeat(129)] {
        assert_refused(&user(id), ErrorCode::InvalidPayload);
    }
}

#[test]
fn ids_have_one_form_only() {
    assert_eq!(
        since("ffffffffffffffff-18446744073709551615-ffffffff"),
        Some(Since { epoch: u64::MAX, offset: u64::MAX, check: u32::MAX })
    );
    for id in [
        "",
        "-",
        "--",
        "1-2",
        "1-2-",
        "1-2-0000000",
        "1-2-000000000",
        "1-2-0000000G",
        "1-2-0000000A",
        "A-2-00000000",
        "01-2-00000000",
        "1-02-00000000",
        "1-+2-00000000",
        "+1-2-00000000",
        "-1-2-00000000",
        "1--2-00000000",
        "1-2-00000000-",
        " 1-2-00000000",
        "1-2-00000000 ",
        "0x1-2-00000000",
        "1-a-00000000",
        "10000000000000000-2-00000000",
        "1-18446744073709551616-00000000",
        "1-२-00000000",
    ] {
        assert_eq!(since(id), None, "{id}");
    }
}

#[test]
fn payloads_keep_every_byte_but_the_white_space_around() {
    for (text, kept) in [
        ("", "{}"),
        (" \t\r\n", "{}"),
        ("{}", "{}"),
        (" {\"a\": 1.0e+5 , \"b\":\"\\u00e9\\/\"}\n", "{\"a\": 1.0e+5 , \"b\":\"\\u00e9\\/\"}"),
        ("null", "null"),
        ("\"\u{2028}\"", "\"\u{2028}\""),
        ("1e999", "1e999"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ] {
        assert_eq!(payload(text), Some(kept));
    }
    for text in
        ["{", "nul", "{}{}", "{} x", "'a'", "\u{a0}", "\u{feff}{}", "01", ".5", "NaN", "\"\u{7}\""]
    {
        assert_eq!(payload(text), None, "{text:?}");
    }
    assert_eq!(payload(&nested("[", 128, "]")).map(str::len), Some(256));
    assert_eq!(payload(&nested("[", 129, "]")), None);
}

#[test]
fn ingress_messages_go_to_the_user_the_room_or_everyone() {
    let stream = |text: &str| ingress(text.as_bytes(), 64).map(|(stream, _)| stream);
    let user = StreamName::user("u").unwrap();
    for (text, expected) in [
        (r#"{"type":"a","user_id":"u","room":"event:1","payload":{}}"#, user.clone()),
        (r#"{"type":"a","room":"user:u","payload":{}}"#, user),
        (r#"{"type":"a","room":"event:1","payload":{}}"#, room("event:1")),
        (r#"{"type":"a","user_id":"","room":"event:1","payload":{}}"#, room("event:1")),
        (r#"{"type":"a","user_id":null,"room":"all","payload":{}}"#, StreamName::all()),
        (r#"{"type":"a","user_id":"","room":"","payload":{}}"#, StreamName::all()),
        (r#"{"payload":{},"unknown":[1],"type":"a"}"#, StreamName::all()),
    ] {
        assert_eq!(stream(text), Some(expected), "{text}");
    }
}

#[test]
fn ingress_messages_are_best_effort_and_keep_their_payload() {
    let body = |text: &str| ingress(text.as_bytes(), 64).unwrap().1;
    assert_eq!(
        body(r#"{"type":"ticket:\u0072eserved","payload":{"n": 1.0}}"#),
        Body {
            kind: "ticket:reserved".into(),
            payload: r#"{"n": 1.0}"#.into(),
            exclude_user: None,
            key: "".into(),
            ack: false,
            origin: BootId(0),
            published: UnixMillis(0),
        }
    );
    assert_eq!(body(r#"{"type":"a"}"#).payload, "{}");
    assert_eq!(body(r#"{"type":"a","payload":null}"#).payload, "null");
}

#[test]
fn ingress_messages_that_break_a_rule_are_dropped() {
    let long = "x".repeat(129);
    let accepted = format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(62));
    assert!(ingress(accepted.as_bytes(), 64).is_some());
    let longest = format!(r#"{{"type":"{}"}}"#, &long[1..]);
    assert!(ingress(longest.as_bytes(), 64).is_some());
    for text in [
        String::new(),
        "[\"a\",null,null,{}]".to_owned(),
        "{\"payload\":{}}".to_owned(),
        r#"{"type":null}"#.to_owned(),
        r#"{"type":""}"#.to_owned(),
        r#"{"type":1}"#.to_owned(),
        r#"{"type":"a\u0000"}"#.to_owned(),
        r#"{"type":"system:connected"}"#.to_owned(),
        r#"{"type":"\u0073ystem:connected"}"#.to_owned(),
        r#"{"type":"auth:x"}"#.to_owned(),
        r#"{"type":"room:left"}"#.to_owned(),
        format!(r#"{{"type":"{long}"}}"#),
        r#"{"type":"a","user_id":7}"#.to_owned(),
        r#"{"type":"a","user_id":"u","room":7}"#.to_owned(),
        r#"{"type":"a","user_id":"\n"}"#.to_owned(),
        format!(r#"{{"type":"a","user_id":"{long}","room":"event:1"}}"#),
        format!(r#"{{"type":"a","room":"{long}{long}"}}"#),
        r#"{"type":"a","room":"user:"}"#.to_owned(),
        r#"{"type":"a","payload":{}"#.to_owned(),
        r#"{"type":"a","payload":{}}{}"#.to_owned(),
        format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(63)),
        format!(r#"{{"type":"a","other":"{}"}}"#, "x".repeat(10_000)),
        format!(r#"{{"type":"a","other":{}}}"#, nested("[", 200, "]")),
    ] {
        assert_eq!(ingress(text.as_bytes(), 64), None, "{text}");
    }
    assert_eq!(ingress(b"{\"type\":\"a\",\"payload\":\"\xff\"}", 64), None);
    assert_eq!(ingress(accepted.as_bytes(), 0), None);
    assert!(ingress(accepted.as_bytes(), usize::MAX).is_some());
}

#[test]
fn a_star_stands_for_any_text() {
    for (pattern, name) in [
        ("*", ""),
        ("*", "anything"),
        ("", ""),
        ("event:*", "event:"),
        ("event:*", "event:1:staff"),
        ("event:*:staff", "event:9:staff"),
        ("*:*", "a:b:c"),
        ("**a", "bba"),
        ("a*a", "aa"),
        ("*a*b*", "xxaxxbxx"),
        ("é*", "éè"),
    ] {
        assert!(pattern_matches(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [
        ("", "a"),
        ("event:*", "event"),
        ("event:*", "Event:1"),
        ("event:9:staff", "event:9:staffx"),
        ("event:*:staff", "event:9:staf"),
        ("a*a", "a"),
        ("*ab", "abx"),
        ("?", "a"),
        (".*", "event:1"),
    ] {
        assert!(!pattern_matches(pattern, name), "{pattern} {name}");
    }
}

#[test]
fn no_pattern_takes_exponential_time() {
    let pattern = "a*".repeat(100) + "b";
    assert!(!pattern_matches(&pattern, &"a".repeat(10_000)));
}

fn id_text() -> impl Strategy<Value = String> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(epoch, offset, mid)| {
        let mut out = Vec::new();
        encode::id(&mut out, Position { epoch: Epoch(epoch), offset, mid: Mid(mid) });
        String::from_utf8(out).unwrap()
    })
}

proptest! {
    #[test]
    fn a_join_is_read_as_it_was_written(
        name in "[^\\p{Cc}]{1,50}",
        since in id_text(),
        reference in "[ -~]{0,30}",
        by_event: bool,
    ) {
        let field = if by_event { "event_id" } else { "room" };
        let text = json!({
            "type": "room:join", "ref": reference, "payload": { field: name, "since": since },
        });
        let read = request(&text.to_string());
        prop_assert_eq!(read.reference, Some(Reference(json!(reference).to_string().into())));
        let stream = if by_event { room(&format!("event:{name}")) } else { room(&name) };
        let since = Some(super::since(&since));
        prop_assert_eq!(read.command, Ok(Command::Join { stream, since }));
    }

    #[test]
    fn an_id_with_one_byte_changed_is_another_or_none(
        id in id_text(),
        at: prop::sample::Index,
        byte in 0x20u8..0x7f,
    ) {
        let mut changed = id.clone().into_bytes();
        *at.get_mut(&mut changed) = byte;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert!(changed == id || since(&changed) != since(&id));
    }

    #[test]
    fn patterns_match_as_the_table_says(pattern in "[ab*]{0,12}", name in "[ab]{0,16}") {
        prop_assert_eq!(pattern_matches(&pattern, &name), pattern_matches_naively(&pattern, &name));
    }

    #[test]
    fn payloads_agree_with_a_parser_that_builds_trees(
        text in "[\\[\\]{}\",:01eE.+ a\\\\n-]{0,12}",
    ) {
        let read = serde_json::from_str::<serde_json::Value>(&text);
        match read {
            Ok(_) => prop_assert_eq!(payload(&text), Some(json::trim(&text))),
            // A number too large for a float is JSON all the same.
            Err(error) if error.to_string().starts_with("number out of range") => (),
            Err(_) => prop_assert!(payload(&text).is_none() || json::trim(&text).is_empty()),
        }
    }

    #[test]
    fn no_bytes_break_a_decoder(data in prop::collection::vec(any::<u8>(), 0..200)) {
        wire_decode(&data);
    }

    #[test]
    fn no_text_like_a_message_breaks_a_decoder(text in concat!(
        "\\{(\"(type|room|user_id|ref|payload|since|event_id)\":(",
        "\"(system:ping|room:join|a|\\\\u00[0-9a-f]{2})\"",
        "|[0-9]{1,3}|null|\\{\"room\":\"[a-z]{0,3}\"\\}),?){0,5}\\}",
    )) {
        wire_decode(text.as_bytes());
    }
}
