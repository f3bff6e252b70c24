//! What the embedded broker keeps: positions, histories, latest values, idempotency keys. The rules
//! are those of the Redis scripts.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use realtime_core::{
    entry::Place,
    id::{Epoch, Mid, Position},
    relay::History,
    stream::{StreamKind, StreamName},
    time::{Instant, UnixMillis},
};

use crate::broker::{Class, LATEST_VALUES_MAX, Publish, PublishError, Published, Retention};

/// Everything that is kept, within `bytes_max`.
#[derive(Debug)]
pub(super) struct Store {
    retention: Retention,
    bytes_max: usize,
    /// What the streams take.
    bytes: usize,
    streams: BTreeMap<StreamName, Stream>,
    /// The streams by how long ago they were used, those with content before those without: the
    /// order in which they are forgotten.
    ages: BTreeMap<Age, StreamName>,
    uses: u64,
    keys: Keys,
}

/// Where a stream stands in the order of forgetting: whether it is bare, and its last use.
type Age = (bool, u64);

/// One stream.
#[derive(Debug, Default)]
struct Stream {
    age: Age,
    head: Option<Position>,
    head_until: Instant,
    log: VecDeque<Bytes>,
    log_bytes: usize,
    log_until: Instant,
    latest: BTreeMap<Box<str>, Latest>,
    latest_bytes: usize,
    latest_until: Instant,
    version: u64,
}

#[derive(Debug)]
struct Latest {
    version: u64,
    entry: Bytes,
}

/// What idempotency keys stand for, within a quarter of what the store may take.
#[derive(Debug, Default)]
struct Keys {
    bytes: usize,
    known: BTreeMap<Key, Remembered>,
    /// In the order in which they came, which is that in which they expire.
    ages: VecDeque<Key>,
}

type Key = (StreamName, Box<str>);

#[derive(Clone, Copy, Debug)]
struct Remembered {
    position: Option<Position>,
    mid: Mid,
    until: Instant,
}

/// What is answered, and what is to be delivered, unless it was before.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) answer: Published,
    pub(super) entry: Option<Bytes>,
}

impl Store {
    pub(super) fn new(retention: Retention, bytes_max: usize) -> Self {
        Self {
            retention,
            bytes_max,
            bytes: 0,
            streams: BTreeMap::new(),
            ages: BTreeMap::new(),
            uses: 0,
            keys: Keys::default(),
        }
    }

    /// Numbers and stores.
    pub(super) fn publish(
        &mut self,
        publish: &Publish,
        now: Instant,
        unix: UnixMillis,
    ) -> Result<Stored, PublishError> {
        self.expire(now);
        if publish.body.len() + STREAM_BYTES > self.bytes_max {
            let text = "the message is larger than all that may be kept".to_owned();
            return Err(PublishError::Unavailable(text));
        }
        let key = publish.idempotency_key.clone().map(|key| (publish.stream.clone(), key));
        if let Some(seen) = key.as_ref().and_then(|key| self.keys.known.get(key)) {
            let duplicate_of = (seen.mid != publish.mid).then_some(seen.mid);
            let answer = Published { position: seen.position, duplicate_of, subscribers: 0 };
            return Ok(Stored { answer, entry: None });
        }
        let (position, entry) = match &publish.class {
            _ if self.retention.user_entries_max == 0 => {
                let place = Place::Latest { epoch: Epoch(0), at: 0, version: 0, mid: publish.mid };
                (None, Some(with_header(place, &publish.body)))
            }
            Class::Durable => self.use_stream(&publish.stream, now, |stream, retention| {
                let (position, entry) = stream.append(publish, retention, now);
                (Some(position), entry)
            }),
            Class::Latest { field } => {
                self.use_stream(&publish.stream, now, |stream, retention| {
                    (None, Some(stream.replace(publish, field, retention, now, unix)))
                })
            }
        };
        if let (Some(key), Some(_)) = (key, &entry) {
            let until = now + self.retention.idempotency_ttl;
            let remembered = Remembered { position, mid: publish.mid, until };
            self.keys.insert(key, remembered, self.bytes_max / 4);
        }
        self.shrink();
        let answer = Published { position, duplicate_of: None, subscribers: 0 };
        Ok(Stored { answer, entry })
    }

    /// Where a stream is, and what of its history comes after the offset `after`. Begins its
    /// numbering with `epoch` when it has none.
    pub(super) fn read(
        &mut self,
        stream: &StreamName,
        epoch: Epoch,
        after: Option<u64>,
        now: Instant,
    ) -> History {
        if self.retention.user_entries_max == 0 {
            return History::default(); // Positions are off: nothing is kept.
        }
        self.expire(now);
        let history = self.use_stream(stream, now, |stream, retention| {
            stream.head_until = now + retention.position_ttl;
            let head = stream.head.get_or_insert_with(|| Position { epoch, ..Position::default() });
            let count = head.offset.saturating_sub(after.unwrap_or(u64::MAX));
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(stream.log.len());
            let entries = stream.log.range(stream.log.len() - count..).cloned().collect();
            History { head: *head, entries }
        });
        self.shrink();
        history
    }

    /// Where a stream is, if it has a numbering, which lives on.
    pub(super) fn head(&mut self, stream: &StreamName, now: Instant) -> Option<Position> {
        self.expire(now);
        self.streams.get(stream)?.head?;
        self.use_stream(stream, now, |stream, retention| {
            stream.head_until = now + retention.position_ttl;
            stream.head
        })
    }

    /// Changes a stream, which becomes the youngest one.
    fn use_stream<R>(
        &mut self,
        name: &StreamName,
        now: Instant,
        change: impl FnOnce(&mut Stream, &Retention) -> R,
    ) -> R {
        self.uses += 1;
        let mut stream = self.take(name).unwrap_or_default();
        stream.expire(now);
        let result = change(&mut stream, &self.retention);
        stream.age.1 = self.uses;
        self.put(name.clone(), stream);
        result
    }

    fn take(&mut self, name: &StreamName) -> Option<Stream> {
        let stream = self.streams.remove(name)?;
        self.ages.remove(&stream.age);
        self.bytes -= stream.weight(name);
        Some(stream)
    }

    /// Keeps a stream, unless there is nothing to keep.
    fn put(&mut self, name: StreamName, mut stream: Stream) {
        stream.age.0 = stream.is_bare();
        if stream.head.is_some() || !stream.is_bare() {
            self.bytes += stream.weight(&name);
            self.ages.insert(stream.age, name.clone());
            self.streams.insert(name, stream);
        }
    }

    /// Lets go of what has outlived its time, as far as it is among the oldest.
    fn expire(&mut self, now: Instant) {
        self.keys.expire(now);
        for bare in [false, true] {
            let oldest = self.ages.range((bare, 0)..).next().map(|(_, name)| name.clone());
            if let Some(name) = oldest
                && let Some(mut stream) = self.take(&name)
            {
                stream.expire(now);
                self.put(name, stream);
            }
        }
    }

    /// Forgets until it fits: the histories and latest values used longest ago, then positions.
    fn shrink(&mut self) {
        while self.bytes > self.bytes_max
            && let Some((age, name)) = self.ages.pop_first()
        {
            let Some(mut stream) = self.take(&name) else {
                continue;
            };
            if age.0 {
                stream.head = None;
            }
            stream.clear_log();
            stream.clear_latest();
            self.put(name, stream);
        }
    }
}

impl Stream {
    /// Numbers and keeps a durable entry. None instead of the entry when it was here already.
    fn append(
        &mut self,
        publish: &Publish,
        retention: &Retention,
        now: Instant,
    ) -> (Position, Option<Bytes>) {
        let head = match self.head {
            Some(head) if head.mid == publish.mid => return (head, None),
            Some(head) => head,
            None => {
                self.clear_log();
                Position { epoch: publish.epoch, ..Position::default() }
            }
        };
        let position = Position { epoch: head.epoch, offset: head.offset + 1, mid: publish.mid };
        let entry = with_header(Place::Durable { position, prev: head.mid }, &publish.body);
        self.log_bytes += entry.len();
        self.log.push_back(entry.clone());
        let entries_max = match publish.stream.kind() {
            StreamKind::User(_) => retention.user_entries_max,
            StreamKind::All | StreamKind::Room(_) => retention.room_entries_max,
        };
        let entries_max = usize::try_from(entries_max).unwrap_or(usize::MAX);
        while self.log.len() > 1
            && (self.log.len() > entries_max || self.log_bytes > retention.bytes_max)
        {
            self.log_bytes -= self.log.pop_front().map_or(0, |oldest| oldest.len());
        }
        self.log_until = now + retention.history_ttl;
        self.head = Some(position);
        self.head_until = now + retention.position_ttl;
        (position, Some(entry))
    }

    /// Keeps a latest value in place of the one before.
    fn replace(
        &mut self,
        publish: &Publish,
        field: &str,
        retention: &Retention,
        now: Instant,
        unix: UnixMillis,
    ) -> Bytes {
        let head = self.head.unwrap_or_default();
        // At least the time in microseconds, so that versions grow even over what expired.
        self.version = (self.version + 1).max(unix.0.saturating_mul(1_000));
        let place = Place::Latest {
            epoch: head.epoch,
            at: head.offset,
            version: self.version,
            mid: publish.mid,
        };
        let entry = with_header(place, &publish.body);
        let value = Latest { version: self.version, entry: entry.clone() };
        self.latest_bytes += field.len() + entry.len();
        if let Some(before) = self.latest.insert(field.into(), value) {
            self.latest_bytes -= field.len() + before.entry.len();
        }
        if self.latest.len() > LATEST_VALUES_MAX
            && let Some(oldest) = self.latest.iter().min_by_key(|(_, value)| value.version)
        {
            let oldest = oldest.0.clone();
            let value = self.latest.remove(&oldest).expect("it was found a moment ago");
            self.latest_bytes -= oldest.len() + value.entry.len();
        }
        self.latest_until = now + retention.latest_ttl;
        entry
    }

    fn expire(&mut self, now: Instant) {
        if self.log_until <= now {
            self.clear_log();
        }
        if self.latest_until <= now {
            self.clear_latest();
        }
        if self.head_until <= now {
            self.head = None;
        }
    }

    fn clear_log(&mut self) {
        self.log = VecDeque::new();
        self.log_bytes = 0;
    }

    fn clear_latest(&mut self) {
        self.latest.clear();
        self.latest_bytes = 0;
    }

    fn is_bare(&self) -> bool {
        self.log.is_empty() && self.latest.is_empty()
    }

    /// About what it takes, its places in the maps included.
    fn weight(&self, name: &StreamName) -> usize {
        let entries = self.log.len() + self.latest.len();
        let content = self.log_bytes + self.latest_bytes + entries * ENTRY_BYTES;
        STREAM_BYTES + name.as_str().len() + content
    }
}

impl Keys {
    fn insert(&mut self, key: Key, remembered: Remembered, bytes_max: usize) {
        self.bytes += key_weight(&key);
        self.ages.push_back(key.clone());
        self.known.insert(key, remembered);
        while self.bytes > bytes_max && self.forget_oldest() {}
    }

    fn expire(&mut self, now: Instant) {
        while let Some(remembered) = self.ages.front().and_then(|key| self.known.get(key))
            && remembered.until <= now
        {
            self.forget_oldest();
        }
    }

    /// Whether there was one to forget.
    fn forget_oldest(&mut self) -> bool {
        let Some(key) = self.ages.pop_front() else {
            return false;
        };
        self.bytes -= key_weight(&key);
        self.known.remove(&key);
        true
    }
}

fn key_weight((stream, key): &Key) -> usize {
    KEY_BYTES + stream.as_str().len() + 2 * key.len()
}

fn with_header(place: Place, body: &[u8]) -> Bytes {
    [place.header().as_bytes(), body].concat().into()
}

/// About what a stream takes beside its name and its content.
const STREAM_BYTES: usize = 384;

/// About what an entry takes beside its bytes.
const ENTRY_BYTES: usize = 64;

/// About what an idempotency key takes beside its bytes.
const KEY_BYTES: usize = 192;

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        store.streams.get(&StreamName::room(room).unwrap()).map_or(0, |stream| stream.log.len())
    }

    /// What the streams weigh, counted anew.
    fn weight(store: &Store) -> usize {
        store.streams.iter().map(|(name, stream)| stream.weight(name)).sum()
    }

    #[test]
    fn histories_are_trimmed_by_entries_and_by_bytes() {
        let mut store = store(1 << 20);
        for mid in 1..=100 {
            put(&mut store, at(TTL), &publish("user:1", mid, None));
            put(&mut store, at(TTL), &publish("room", mid, None));
        }
        assert_eq!(history(&store, "user:1"), 2);
        let entry_bytes = store.streams[&StreamName::room("room").unwrap()].log[0].len();
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
        let kept = store.streams.values().filter(|stream| !stream.log.is_empty()).count();
        assert!(kept < store.streams.len(), "some are bare: {kept} of {}", store.streams.len());
        let again = put(&mut store, at(TTL), &publish("room:40", 41, None));
        assert_eq!((again.epoch, again.offset), (Epoch(40 << 32), 2));
    }

    #[test]
    fn what_has_outlived_its_time_is_forgotten_even_when_nobody_asks_for_it() {
        let mut store = store(1 << 20);
        put(&mut store, at(Duration::ZERO), &publish("room", 1, Some("key")));
        store.expire(at(TTL));
        assert_eq!((history(&store, "room"), store.streams.len()), (0, 1));
        assert!(store.keys.known.is_empty() && store.keys.ages.is_empty());
        assert_eq!(store.keys.bytes, 0);
        store.expire(at(10 * TTL));
        assert!(store.streams.is_empty() && store.ages.is_empty());
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
}
