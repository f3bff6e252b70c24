use std::iter::once;

use bytes::Bytes;
use realtime_core::{
    entry::{Body, Entry, Place},
    id::{BootId, Epoch, Mid, Position},
    time::UnixMillis,
    wire::encode,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    plan::Class,
    session::Asked,
    tier2::{journal::Outboxes, redis_host::Logged},
    truth::{Publication, Taken, Truth},
};

fn place(offset: u64) -> Position {
    let mid = if offset == 0 { Mid(0) } else { Mid((7 << 32) + offset) };
    Position { epoch: Epoch(1), offset, mid }
}

fn id(offset: u64) -> String {
    let mut id = Vec::new();
    encode::id(&mut id, place(offset));
    String::from_utf8(id).unwrap()
}

/// Three publications to a room, the second not for ann.
fn facts() -> Facts {
    facts_of(1..=3)
}

/// Those that were taken, in this order.
fn facts_of(offsets: impl IntoIterator<Item = u64>) -> Facts {
    let logged = offsets.into_iter().map(|offset| {
        let body = Body {
            kind: "note".into(),
            payload: Bytes::from(format!("{{\"n\":{offset}}}")),
            exclude_user: (offset == 2).then(|| "ann".into()),
            key: "".into(),
            ack: false,
            origin: BootId(1),
            published: UnixMillis(0),
        };
        let place = Place::Durable { position: place(offset), prev: place(offset - 1).mid };
        let message = Entry { place, body }.encode();
        Logged { channel: Bytes::from("realtime:{event:1}"), message }
    });
    Facts::new(&logged.collect::<Vec<_>>())
}

fn note(offset: u64) -> Value {
    json!({"type": "note", "room": "event:1", "id": id(offset), "payload": {"n": offset}})
}

/// What is said of a client that joined at the start of the room and then heard `heard`.
fn verdict(user: &str, heard: &[Value]) -> Result<(), String> {
    verdict_on(&mut facts(), user, heard)
}

fn verdict_on(facts: &mut Facts, user: &str, heard: &[Value]) -> Result<(), String> {
    let session = member(user, heard);
    let heard = Listener::new(&session).listen(&session, facts, RULES);
    heard.map_err(|error| error.to_string())
}

const RULES: Rules =
    Rules { positions: true, sets_back: false, is_complete: false, recovers: None, marker };

/// The connection of a client that joined at the start of the room and then heard `heard`.
fn member(user: &str, heard: &[Value]) -> Session {
    let joined = json!({
        "type": "room:joined", "ref": 0, "payload": {"room": "event:1", "id": id(0)}
    });
    let asked = Word::Asked(0, Asked::Join("event:1".to_owned(), None), None);
    let heard = once(&joined).chain(heard).map(|message| Word::Heard(message.to_string()));
    let words = once(asked).chain(heard).map(|word| (0, word)).collect();
    Session {
        client: 0,
        user: Some(user.to_owned()),
        pod: 0,
        since: Vec::new(),
        words,
        opened: 0,
        closed: None,
        code: None,
    }
}

/// A plan in which nothing goes wrong.
fn calm() -> Plan {
    Plan { faults: Vec::new(), ..Plan::from_seed(1) }
}

#[test]
fn what_is_not_for_a_user_is_not_missed_by_that_user_alone() {
    assert_eq!(verdict("ann", &[note(1), note(3)]), Ok(()));
    assert!(verdict("bob", &[note(1), note(3)]).unwrap_err().starts_with("missed: "));
    assert!(verdict("ann", &[note(1), note(2)]).unwrap_err().contains("was to be skipped"));
}

#[test]
fn messages_come_once_and_in_order() {
    assert_eq!(verdict("bob", &[note(1), note(2), note(3)]), Ok(()));
    assert!(verdict("bob", &[note(1), note(1)]).unwrap_err().starts_with("order: "));
    assert!(verdict("bob", &[note(2)]).unwrap_err().starts_with("missed: "));
}

#[test]
fn what_a_redis_lost_and_is_given_again_is_what_it_was() {
    let facts = || facts_of([1, 2, 3, 2]);
    assert_eq!(verdict_on(&mut facts(), "bob", &[note(1), note(2), note(3)]), Ok(()));
    assert!(verdict_on(&mut facts(), "bob", &[note(1), note(3)]).is_err());
    assert_eq!(facts().count(2), 2);
}

#[test]
fn a_resync_explains_what_is_missing() {
    let resync = json!({
        "type": "system:resync", "payload": {"room": "event:1", "id": id(2), "after_ms": 1}
    });
    assert_eq!(verdict("bob", &[resync, note(3)]), Ok(()));
}

#[test]
fn only_members_hear_and_only_what_was_published() {
    let left = json!({"type": "room:left", "payload": {"room": "event:1"}});
    assert!(verdict("bob", &[left, note(1)]).unwrap_err().contains("no member"));
    let mut other = note(1);
    other["payload"]["n"] = json!(5);
    assert!(verdict("bob", &[other]).unwrap_err().contains("changed on its way"));
    let mut foreign = note(1);
    foreign["id"] = json!("1-1-00000000");
    assert!(verdict("bob", &[foreign]).unwrap_err().starts_with("payload: "));
}

#[test]
fn requests_are_answered_in_order_and_nobody_is_told_what_was_not_asked() {
    let joined = json!({"type": "room:joined", "ref": 7, "payload": {"room": "event:1"}});
    assert!(verdict("bob", &[joined]).unwrap_err().contains("nobody asked"));
}

#[test]
fn redis_has_the_subscriptions_of_members_and_no_others() {
    let said = |subscribed: &[(&str, usize)]| {
        let mut plan = calm();
        plan.clients[0].rooms = vec!["event:1".to_owned(), "event:2".to_owned()];
        let journal = Journal { sessions: vec![member("bob", &[])], ..Journal::default() };
        let mut facts = facts();
        let mut listener = Listener::new(&journal.sessions[0]);
        listener.listen(&journal.sessions[0], &mut facts, RULES).unwrap();
        let channel =
            |(name, count): &(&str, usize)| (Bytes::from(format!("realtime:{{{name}}}")), *count);
        facts.count_audiences(&subscribed.iter().map(channel).collect::<Vec<_>>());
        interest(&plan, &journal, &facts, &[listener])
    };
    let fine: [&[_]; 2] = [&[("event:1", 1)], &[("event:1", 1), ("event:2", 1), ("user:bob", 1)]];
    assert!(fine.into_iter().all(|subscribed| said(subscribed).is_empty()));
    assert!(said(&[])[0].contains("nobody subscribes to event:1"));
    assert!(said(&[("event:1", 2)])[0].contains("1 instances have members, 1 had, 2 subscribe"));
    assert!(said(&[("event:1", 1), ("event:3", 1)])[0].contains("event:3: 0 instances"));
}

#[test]
fn who_is_silent_for_too_long_is_closed_and_nobody_else_is_for_that() {
    let said = |code, closed, nap: Option<(u64, u64)>| {
        let session = Session { code, closed, ..member("bob", &[]) };
        let naps = nap.into_iter().map(|(from_us, until_us)| (0, from_us, until_us)).collect();
        let journal = Journal { sessions: vec![session], naps, ..Journal::default() };
        peers(&calm(), &journal)
    };
    let second = 1_000_000;
    let nap = Some((2 * second, 8 * second));
    assert!(said(Some(4408), Some(9 * second), nap).is_empty());
    assert!(said(None, None, Some((2 * second, 5 * second))).is_empty());
    assert!(said(None, None, nap)[0].contains("was silent from 2000000 us on"));
    assert!(said(None, Some(12 * second), nap)[0].contains("was silent"));
    assert!(said(Some(4408), Some(second), None)[0].contains("was not silent"));
}

#[test]
fn no_more_waits_than_the_connections_of_an_instance_may_have() {
    let said = |bytes, sessions: usize, knobs: &[(&str, &str)]| {
        let knobs = knobs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let plan = Plan { knobs: knobs.collect(), ..calm() };
        let sessions = (0..sessions).map(|_| member("bob", &[])).collect();
        let outboxes = vec![Outboxes { asked_us: 1, us: 2, pod: 0, bytes }];
        super::outboxes(&plan, &Journal { sessions, outboxes, ..Journal::default() })
    };
    let small = [("WS_OUTBOX_BYTES", "1000")];
    assert!(said(2_000, 2, &small).is_empty());
    assert!(said(2_001, 2, &small)[0].contains("2001 bytes wait for 2 connections of pod 0"));
    assert!(said(2_001, 2, &[]).is_empty());
}

#[test]
fn only_who_does_not_read_is_too_slow() {
    let said = |naps: &[(usize, u64, u64)]| {
        let session = Session { code: Some(4508), closed: Some(9), ..member("bob", &[]) };
        let (sessions, naps) = (vec![session], naps.to_vec());
        let plan = Plan { knobs: Vec::new(), ..calm() };
        slow(&plan, &Journal { sessions, naps, ..Journal::default() })
    };
    assert!(said(&[(0, 1, 5)]).is_empty());
    assert!(said(&[(1, 1, 5)])[0].contains("session 0 was closed, and read at once"));
}

#[test]
fn where_nothing_is_lost_the_newest_value_of_each_key_comes() {
    let publication = |key| Publication {
        taken: Some(Taken { node: None, order: 1, version: 1 }),
        ..Publication::new(0, Class::Latest(key), "booking:queue_position", String::new())
    };
    let mut truth = Truth::default();
    let stream = truth.stream("user:bob");
    for (marker, key) in [(0, 1), (1, 2), (2, 1)] {
        truth.add(publication(key), marker);
    }
    let mut session = Listener::new(&member("bob", &[])).session;
    session.streams.insert(stream, session::Seen::default());
    assert_eq!(values::of_each_key(&truth, &session, &[1, 2]), Ok(()));
    let failure = values::of_each_key(&truth, &session, &[0, 2]).unwrap_err();
    assert!(failure.to_string().contains("the newest value of 2 did not come"));
    session.streams.clear();
    assert_eq!(values::of_each_key(&truth, &session, &[]), Ok(()));
}
