//! Idempotency keys of the embedded broker.

use std::collections::{BTreeMap, VecDeque};

use realtime_core::{
    id::{Mid, Position},
    stream::StreamName,
    time::Instant,
};

/// What idempotency keys stand for, within a quarter of what the store may take.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) bytes: usize,
    pub(super) known: BTreeMap<Key, Remembered>,
    /// In the order in which they came, which is that in which they expire.
    pub(super) ages: VecDeque<Key>,
}

pub(super) type Key = (StreamName, Box<str>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Remembered {
    pub(super) position: Option<Position>,
    pub(super) mid: Mid,
    pub(super) until: Instant,
}

impl Keys {
    pub(super) fn insert(&mut self, key: Key, remembered: Remembered, bytes_max: usize) {
        self.bytes += key_weight(&key);
        self.ages.push_back(key.clone());
        self.known.insert(key, remembered);
        while self.bytes > bytes_max && self.forget_oldest() {}
    }

    pub(super) fn expire(&mut self, now: Instant) {
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

/// About what an idempotency key takes beside its bytes.
const KEY_BYTES: usize = 192;
