//! The model broker: what Redis does for the instances, without a network.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use realtime_core::{
    entry::{Body, Entry, Place},
    id::{Epoch, Mid, Position},
    stream::StreamName,
};

/// Streams and who is subscribed to them.
#[derive(Debug, Default)]
pub struct Broker {
    heads: BTreeMap<StreamName, Position>,
    subscribers: BTreeMap<StreamName, BTreeSet<usize>>,
}

impl Broker {
    /// Numbers and encodes a publication, and tells which instances are sent it.
    pub fn publish(
        &mut self,
        stream: &StreamName,
        mid: Mid,
        epoch: Epoch,
        body: Body,
    ) -> (Bytes, Vec<usize>) {
        let before = self.head(stream, epoch);
        let position = Position { epoch: before.epoch, offset: before.offset + 1, mid };
        self.heads.insert(stream.clone(), position);
        let entry = Entry { place: Place::Durable { position, prev: before.mid }, body };
        let subscribers = self.subscribers.get(stream).into_iter().flatten().copied().collect();
        (entry.encode(), subscribers)
    }

    /// Where a stream is; its numbering begins here if it has none.
    pub fn head(&mut self, stream: &StreamName, epoch: Epoch) -> Position {
        *self.heads.entry(stream.clone()).or_insert(Position { epoch, offset: 0, mid: Mid(0) })
    }

    /// The offsets of all heads, by name.
    pub fn offsets(&self) -> BTreeMap<String, u64> {
        self.heads.iter().map(|(name, head)| (name.as_str().to_owned(), head.offset)).collect()
    }

    /// An instance subscribes.
    pub fn subscribe(&mut self, instance: usize, stream: &StreamName) {
        self.subscribers.entry(stream.clone()).or_default().insert(instance);
    }

    /// An instance unsubscribes.
    pub fn unsubscribe(&mut self, instance: usize, stream: &StreamName) {
        if let Some(instances) = self.subscribers.get_mut(stream) {
            instances.remove(&instance);
        }
    }

    /// The subscription connection of an instance is gone.
    pub fn disconnect(&mut self, instance: usize) {
        for instances in self.subscribers.values_mut() {
            instances.remove(&instance);
        }
    }
}
