//! What the embedded broker keeps: positions, histories, latest values, idempotency keys. The rules
//! are those of the Redis scripts.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use lru::LruCache;
use realtime_core::{
    entry::Place,
    id::{Epoch, Position},
    relay::{History, StreamHead},
    stream::{StreamKind, StreamName},
    time::{Instant, UnixMillis},
};

use super::keys::{Keys, Remembered};
use crate::{
    broker::{Class, LATEST_VALUES_MAX, Publish, PublishError, Published, Retention},
    entropy,
    fnv::fnv1a,
};

/// Everything that is kept, within `bytes_max`.
#[derive(Debug)]
pub(super) struct Store {
    retention: Retention,
    bytes_max: usize,
    /// What the streams take.
    bytes: usize,
    /// Streams with content, by name. They are forgotten before the others, each kind by its last
    /// use.
    full: LruCache<Box<str>, Stream>,
    /// Streams of which nothing is known but where they are. The names are copies: many streams are
    /// here long after everybody has gone, and what else was allocated beside a name is given back.
    bare: LruCache<Box<str>, Stream>,
    /// What the epochs are made from in which streams begin, so that one to which nothing was ever
    /// published need not be remembered. Something else follows as soon as nothing is left of a
    /// stream that began like that and had publications.
    beginning: Option<Epoch>,
    keys: Keys,
}

/// One stream. Most have nothing but a head: one for each user who is here, or who was sent
/// something in a day.
#[derive(Debug, Default)]
struct Stream {
    head: Option<Position>,
    head_until: Instant,
    content: Option<Box<Content>>,
}

/// What was published to a stream.
#[derive(Debug, Default)]
struct Content {
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
            full: LruCache::unbounded(),
            bare: LruCache::unbounded(),
            beginning: None,
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
        if publish.body.len() + STREAM_BYTES + CONTENT_BYTES > self.bytes_max {
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
            Class::Durable => {
                let append = |stream: &mut Stream, store: &mut Self| {
                    let (position, entry) = stream.append(publish, store, now);
                    (Some(position), entry)
                };
                self.use_stream(publish.stream.as_str(), now, append)
            }
            Class::Latest { field } => {
                self.use_stream(publish.stream.as_str(), now, |stream, store| {
                    (None, Some(stream.replace(publish, field, &store.retention, now, unix)))
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

    /// Where a stream is, what of its history comes after the offset `after`, and its latest
    /// values. Begins its numbering with `epoch` when it has none.
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
        let name = stream.as_str();
        let history = self.use_stream(name, now, |stream, store| {
            stream.head_until = now + store.retention.position_ttl;
            let head = stream.head.get_or_insert_with(|| store.begin(name, epoch));
            let count = head.offset.saturating_sub(after.unwrap_or(u64::MAX));
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let mut history = History { head: *head, ..History::default() };
            if let Some(Content { log, latest, .. }) = stream.content.as_deref() {
                history.entries.extend(log.range(log.len().saturating_sub(count)..).cloned());
                history.latest.extend(latest.values().map(|value| value.entry.clone()));
            }
            history
        });
        self.shrink();
        history
    }

    /// Where a stream is, if it has a numbering, which lives on.
    pub(super) fn head(&mut self, stream: &StreamName, now: Instant) -> Option<StreamHead> {
        self.expire(now);
        let name = stream.as_str();
        self.bare.peek(name).or_else(|| self.full.peek(name))?.head?;
        self.use_stream(stream.as_str(), now, |stream, store| {
            stream.head_until = now + store.retention.position_ttl;
            let content = stream.content.iter();
            let versions = content.flat_map(|content| content.latest.values()).map(|of| of.version);
            let version = versions.max().unwrap_or(0);
            stream.head.map(|position| StreamHead { position, version })
        })
    }

    /// Nobody listens to a stream any more.
    pub(super) fn vacate(&mut self, stream: &StreamName) {
        let name = stream.as_str();
        let head = self.bare.peek(name).and_then(|stream| stream.head);
        if head.is_some_and(|head| head.offset == 0 && self.is_present(name, head))
            && let Some(stream) = self.bare.pop(name)
        {
            self.bytes -= stream.weight(name);
        }
    }

    /// The place before the first publication of a stream.
    fn begin(&mut self, name: &str, epoch: Epoch) -> Position {
        let beginning = *self.beginning.get_or_insert_with(|| mixed(epoch, name));
        Position { epoch: mixed(beginning, name), ..Position::default() }
    }

    /// Whether a stream that begins now begins in this epoch.
    fn is_present(&self, name: &str, head: Position) -> bool {
        self.beginning.is_some_and(|beginning| mixed(beginning, name) == head.epoch)
    }

    /// Nothing is known of a stream any more. Should it begin again, nobody must take that for
    /// going on.
    fn forget(&mut self, name: &str, head: Option<Position>) {
        if head.is_some_and(|head| head.offset > 0 && self.is_present(name, head)) {
            self.beginning = None;
        }
    }

    /// Changes a stream, which becomes the youngest one.
    fn use_stream<R>(
        &mut self,
        name: &str,
        now: Instant,
        change: impl FnOnce(&mut Stream, &mut Self) -> R,
    ) -> R {
        let known = self.bare.pop_entry(name).or_else(|| self.full.pop_entry(name));
        let (name, mut stream) = match known {
            Some((name, stream)) => {
                self.bytes -= stream.weight(&name);
                (name, stream)
            }
            None => (name.into(), Stream::default()),
        };
        let known = stream.head;
        stream.expire(now);
        if stream.head.is_none() {
            self.forget(&name, known);
        }
        let result = change(&mut stream, self);
        self.put(name, stream);
        result
    }

    /// Keeps a stream, unless there is nothing to keep.
    fn put(&mut self, name: Box<str>, stream: Stream) {
        let streams = match (&stream.content, &stream.head) {
            (Some(_), _) => &mut self.full,
            (None, Some(_)) => &mut self.bare,
            (None, None) => return,
        };
        self.bytes += stream.weight(&name);
        streams.put(name, stream);
    }

    /// Lets go of what has outlived its time, as far as it is among the oldest.
    fn expire(&mut self, now: Instant) {
        self.keys.expire(now);
        let oldest = [self.full.peek_lru(), self.bare.peek_lru()].map(|oldest| {
            let (name, _) = oldest.filter(|(_, stream)| stream.expires() <= now)?;
            Some(name.clone())
        });
        for name in oldest.into_iter().flatten() {
            self.use_stream(&name, now, |_, _| ());
        }
    }

    /// Forgets until it fits: the histories and latest values used longest ago, then positions.
    fn shrink(&mut self) {
        while self.bytes > self.bytes_max
            && let Some((name, mut stream)) = self.full.pop_lru().or_else(|| self.bare.pop_lru())
        {
            self.bytes -= stream.weight(&name);
            if stream.content.take().is_some() {
                self.put(name, stream);
            } else {
                self.forget(&name, stream.head);
            }
        }
    }
}

impl Stream {
    /// Numbers and keeps a durable entry. None instead of the entry when it was here already.
    fn append(
        &mut self,
        publish: &Publish,
        store: &mut Store,
        now: Instant,
    ) -> (Position, Option<Bytes>) {
        let head = match self.head {
            Some(head) if head.mid == publish.mid => return (head, None),
            Some(head) => head,
            None => {
                self.clear_log();
                store.begin(publish.stream.as_str(), publish.epoch)
            }
        };
        let retention = &store.retention;
        let position = Position { epoch: head.epoch, offset: head.offset + 1, mid: publish.mid };
        let entry = with_header(Place::Durable { position, prev: head.mid }, &publish.body);
        let content = self.content.get_or_insert_default();
        content.log_bytes += entry.len();
        content.log.push_back(entry.clone());
        let entries_max = match publish.stream.kind() {
            StreamKind::User(_) => retention.user_entries_max,
            StreamKind::All | StreamKind::Room(_) => retention.room_entries_max,
        };
        let entries_max = usize::try_from(entries_max).unwrap_or(usize::MAX);
        while content.log.len() > 1
            && (content.log.len() > entries_max || content.log_bytes > retention.bytes_max)
        {
            content.log_bytes -= content.log.pop_front().map_or(0, |oldest| oldest.len());
        }
        content.log_until = now + retention.history_ttl;
        self.head = Some(position);
        self.head_until = now + retention.position_ttl;
        (position, Some(entry))
    }

    /// Keeps a latest value.
    fn replace(
        &mut self,
        publish: &Publish,
        field: &str,
        retention: &Retention,
        now: Instant,
        unix: UnixMillis,
    ) -> Bytes {
        let head = self.head.unwrap_or_default();
        let content = self.content.get_or_insert_default();
        // At least the time in microseconds, so that versions grow even over what expired.
        let version = (content.version + 1).max(unix.0.saturating_mul(1_000));
        content.version = version;
        let place = Place::Latest { epoch: head.epoch, at: head.offset, version, mid: publish.mid };
        let entry = with_header(place, &publish.body);
        content.replace(field, Latest { version, entry: entry.clone() });
        content.latest_until = now + retention.latest_ttl;
        entry
    }

    fn expire(&mut self, now: Instant) {
        if let Some(content) = &mut self.content {
            if content.log_until <= now {
                content.clear_log();
            }
            if content.latest_until <= now {
                content.clear_latest();
            }
        }
        self.trim();
        if self.head_until <= now {
            self.head = None;
        }
    }

    /// When the first of what it has expires.
    fn expires(&self) -> Instant {
        let head = self.head.map(|_| self.head_until);
        let content = self.content.iter().flat_map(|content| {
            let log = (!content.log.is_empty()).then_some(content.log_until);
            let latest = (!content.latest.is_empty()).then_some(content.latest_until);
            log.into_iter().chain(latest)
        });
        head.into_iter().chain(content).min().unwrap_or_default()
    }

    fn clear_log(&mut self) {
        if let Some(content) = &mut self.content {
            content.clear_log();
        }
        self.trim();
    }

    /// Lets go of content in which there is nothing.
    fn trim(&mut self) {
        self.content.take_if(|content| content.log.is_empty() && content.latest.is_empty());
    }

    /// About what it takes, its place in the map included.
    fn weight(&self, name: &str) -> usize {
        let content = self.content.as_ref().map_or(0, |content| content.weight());
        STREAM_BYTES + name.len() + content
    }
}

impl Content {
    /// Keeps a latest value in place of the one before.
    fn replace(&mut self, field: &str, value: Latest) {
        self.latest_bytes += field.len() + value.entry.len();
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
    }

    fn clear_log(&mut self) {
        self.log = VecDeque::new();
        self.log_bytes = 0;
    }

    fn clear_latest(&mut self) {
        self.latest.clear();
        self.latest_bytes = 0;
    }

    fn weight(&self) -> usize {
        let entries = self.log.len() + self.latest.len();
        CONTENT_BYTES + self.log_bytes + self.latest_bytes + entries * ENTRY_BYTES
    }
}

/// An epoch of the same time that differs from stream to stream: a client must not take a place in
/// one for a place in another. Twice mixed is not mixed.
fn mixed(Epoch(epoch): Epoch, name: &str) -> Epoch {
    Epoch(epoch ^ (fnv1a(name.as_bytes()) & entropy::EPOCH_RANDOM))
}

fn with_header(place: Place, body: &[u8]) -> Bytes {
    [place.header().as_bytes(), body].concat().into()
}

/// About what a stream takes beside its name and its content.
const STREAM_BYTES: usize = 128;

/// About what content takes beside its entries.
const CONTENT_BYTES: usize = 256;

/// About what an entry takes beside its bytes.
const ENTRY_BYTES: usize = 64;

#[cfg(test)]
mod tests;
