use std::{collections::BTreeSet, time::Duration};

use realtime_core::id::Mid;

use super::*;

const TTL: Duration = Duration::from_secs(600);
const UNIX: UnixMillis = UnixMillis(1_700_000_000_000);

fn store(bytes_max: usize) -> Store {
    let retention = Retention {
        user_entries_max: 2,
        room_entries_max: 100,
        bytes_max: 10_000,
        history_ttl: TTL,
        position_ttl: 10 * TTL,
        latest_ttl: TTL,
        idempotency_ttl: TTL / 2,
    };
    Store::new(retention, bytes_max)
}

fn publish(room: &str, mid: u64, key: Option<&str>) -> Publish {
    Publish {
        stream: StreamName::room(room).unwrap(),
        mid: Mid(mid),
        epoch: Epoch(mid << 32),
        body: Bytes::from(vec![b'x'; 500]),
        class: Class::Durable,
        idempotency_key: key.map(Into::into),
    }
}

fn at(elapsed: Duration) -> Instant {
    Instant(0) + elapsed
}

#[track_caller]
fn put(store: &mut Store, now: Instant, publish: &Publish) -> Position {
    store.publish(publish, now, UNIX).unwrap().answer.position.unwrap()
}

fn history(store: &Store, room: &str) -> usize {
    let content = store.full.peek(room);
    content.and_then(|stream| stream.content.as_ref()).map_or(0, |content| content.log.len())
}

/// What the streams weigh, counted anew.
fn weight(store: &Store) -> usize {
    let streams = store.full.iter().chain(&store.bare);
    streams.map(|(name, stream)| stream.weight(name)).sum()
}

#[test]
fn histories_are_trimmed_by_entries_and_by_bytes() {
    let mut store = store(1 << 20);
    for mid in 1..=100 {
        put(&mut store, at(TTL), &publish("user:1", mid, None));
        put(&mut store, at(TTL), &publish("room", mid, None));
    }
    assert_eq!(history(&store, "user:1"), 2);
    let (_, newest) = store.full.iter().next().unwrap();
    let entry_bytes = newest.content.as_ref().unwrap().log[0].len();
    assert_eq!(history(&store, "room"), 10_000 / entry_bytes);
    assert_eq!(store.bytes, weight(&store));
}

#[test]
fn the_oldest_histories_go_first_and_positions_only_after_all_of_them() {
    let mut store = store(20_000);
    for mid in 1..=40 {
        put(&mut store, at(TTL), &publish(&format!("room:{mid}"), mid, None));
        assert!(store.bytes <= 20_000);
        assert_eq!(store.bytes, weight(&store));
    }
    assert_eq!((history(&store, "room:1"), history(&store, "room:40")), (0, 1));
    assert!(!store.full.is_empty() && !store.bare.is_empty());
    let again = put(&mut store, at(TTL), &publish("room:40", 41, None));
    assert_eq!(again.offset, 2);
}

#[test]
fn what_has_outlived_its_time_is_forgotten_even_when_nobody_asks_for_it() {
    let mut store = store(1 << 20);
    put(&mut store, at(Duration::ZERO), &publish("room", 1, Some("key")));
    store.expire(at(TTL));
    assert_eq!((store.full.len(), store.bare.len()), (0, 1));
    assert!(store.keys.known.is_empty() && store.keys.ages.is_empty());
    assert_eq!(store.keys.bytes, 0);
    store.expire(at(10 * TTL));
    assert!(store.full.is_empty() && store.bare.is_empty());
    assert_eq!(store.bytes, 0);
}

#[test]
fn an_expired_history_keeps_its_numbering_and_an_expired_numbering_begins_anew() {
    let mut store = store(1 << 20);
    put(&mut store, at(Duration::ZERO), &publish("room", 1, None));
    let next = put(&mut store, at(TTL), &publish("room", 2, None));
    assert_eq!((next.epoch, next.offset, history(&store, "room")), (Epoch(1 << 32), 2, 1));
    let later = put(&mut store, at(20 * TTL), &publish("room", 3, None));
    assert_eq!((later.epoch, later.offset), (Epoch(3 << 32), 1));
}

#[track_caller]
fn place(store: &mut Store, room: &str, epoch: u64, now: Instant) -> (u64, u64) {
    let stream = StreamName::room(room).unwrap();
    let head = store.read(&stream, Epoch(epoch), None, now).head;
    (head.epoch.0, head.offset)
}

#[test]
fn a_vacated_stream_to_which_nothing_was_published_takes_nothing_and_is_where_it_was() {
    let mut store = store(1 << 20);
    let quiet = place(&mut store, "quiet", 1, at(TTL));
    assert_eq!(quiet, (1, 0));
    assert_eq!(
        store.head(&StreamName::room("quiet").unwrap(), at(TTL)).unwrap().position.offset,
        0
    );
    put(&mut store, at(TTL), &publish("busy", 2, None));
    store.expire(at(3 * TTL)); // Nothing is left of its history.
    for room in ["quiet", "busy", "never seen"] {
        store.vacate(&StreamName::room(room).unwrap());
    }
    assert_eq!(store.bare.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["busy"]);
    assert_eq!(store.bytes, weight(&store));
    assert_eq!(place(&mut store, "quiet", 3, at(3 * TTL)), quiet);
    assert_eq!(place(&mut store, "busy", 3, at(3 * TTL)).1, 1);
}

#[test]
fn a_stream_of_which_publications_were_forgotten_begins_elsewhere() {
    let mut expiring = store(1 << 20);
    let first = put(&mut expiring, at(Duration::ZERO), &publish("room", 1, None));
    let quiet = place(&mut expiring, "quiet", 2, at(TTL));
    let again = place(&mut expiring, "room", 3, at(10 * TTL));
    assert_eq!((first.epoch.0, again), (1 << 32, (3, 0)));
    assert_eq!(place(&mut expiring, "quiet", 4, at(10 * TTL)), quiet, "it is known");
    let mut small = store(1_000);
    put(&mut small, at(TTL), &publish("room", 1, None));
    for number in 0..10 {
        place(&mut small, &format!("room:{number}"), 2, at(TTL));
    }
    assert_ne!(place(&mut small, "room", 3, at(TTL)), (1 << 32, 0));
}

#[test]
fn what_is_forgotten_of_an_older_beginning_changes_nothing_for_others() {
    let mut store = store(1 << 20);
    put(&mut store, at(Duration::ZERO), &publish("first", 1, None));
    put(&mut store, at(TTL), &publish("second", 2, None));
    let begun = place(&mut store, "quiet", 3, at(10 * TTL)); // The first one is forgotten.
    store.vacate(&StreamName::room("quiet").unwrap());
    assert_ne!(place(&mut store, "second", 4, at(11 * TTL)).0, 1 << 32); // So is the second.
    assert_eq!(place(&mut store, "quiet", 5, at(11 * TTL)), begun);
}

#[test]
fn no_two_streams_begin_in_the_same_epoch() {
    let mut store = store(1 << 20);
    let mut epochs = (0..100).map(|n| place(&mut store, &format!("room:{n}"), 7 << 22, at(TTL)));
    let epochs: BTreeSet<_> = epochs.by_ref().map(|(epoch, _)| epoch).collect();
    assert_eq!(epochs.len(), 100);
    assert!(epochs.iter().all(|epoch| epoch >> 22 == 7), "they tell the time");
}

#[test]
fn idempotency_keys_take_no_more_than_a_quarter() {
    let mut store = store(40_000);
    for mid in 1..=100 {
        put(&mut store, at(TTL), &publish("room", mid, Some(&format!("key {mid}"))));
        assert!(store.keys.bytes <= 10_000);
    }
    assert_eq!(store.keys.known.len(), store.keys.ages.len());
    let newest = publish("room", 101, Some("key 100"));
    assert!(store.publish(&newest, at(TTL), UNIX).unwrap().answer.duplicate_of.is_some());
    let oldest = publish("room", 102, Some("key 1"));
    let again = store.publish(&oldest, at(TTL), UNIX).unwrap();
    assert!(again.answer.duplicate_of.is_none());
}

#[test]
fn a_message_that_can_never_be_kept_is_refused() {
    let refused = store(400).publish(&publish("room", 1, None), at(TTL), UNIX);
    assert!(matches!(refused, Err(PublishError::Unavailable(_))));
}
