//! The model broker: what Redis does for the instances, without a network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use realtime_core::{
    entry::{Body, Entry, Place, Rollover},
    id::{Epoch, Mid, Position},
    relay::History,
    time::Instant,
};

use crate::{
    plan::Class,
    truth::{Node, NodeId, StreamId, Taken, Truth, behind, origin},
};

/// A subscription connection: the instance, its life, and the generation.
pub type Link = (usize, u32, u64);

/// Streams and who is subscribed to them.
#[derive(Debug, Default)]
pub struct Broker {
    data: BTreeMap<StreamId, Meta>,
    subscribers: BTreeMap<StreamId, BTreeSet<Link>>,
    links: BTreeSet<Link>,
    /// Data of earlier moments, the oldest first.
    copies: VecDeque<(Instant, BTreeMap<StreamId, Meta>)>,
    taken: u64,
    /// The newest version of any latest value: like the clock of a server, it never goes back.
    version: u64,
    /// How often numberings were given up.
    rollovers: BTreeMap<StreamId, u32>,
    /// Entries that a history keeps.
    history: usize,
}

/// Where a stream is, and the end of its history.
#[derive(Clone, Debug)]
struct Meta {
    node: NodeId,
    log: VecDeque<Bytes>,
    /// The newest value of each key.
    latest: BTreeMap<u8, (u64, Bytes)>,
}

impl Broker {
    /// A broker that keeps so many entries of each stream.
    pub fn new(history: usize) -> Self {
        Self { history, ..Self::default() }
    }

    /// Numbers and encodes a publication.
    pub fn publish(
        &mut self,
        truth: &mut Truth,
        number: usize,
        (mid, epoch): (Mid, Epoch),
        body: Body,
    ) -> Bytes {
        let (stream, class) = (truth.publications[number].stream, truth.publications[number].class);
        let before = self.head(truth, stream, epoch);
        let meta = self.data.get_mut(&stream).expect("it was made");
        let at = meta.node;
        let place = if class == Class::Durable {
            let position = Position { epoch: before.epoch, offset: before.offset + 1, mid };
            let prev = Some(at);
            meta.node = truth.grow(Node { stream, position, prev, publication: Some(number) });
            Place::Durable { position, prev: before.mid }
        } else {
            self.version += 1;
            let (epoch, at) = (before.epoch, before.offset);
            Place::Latest { epoch, at, version: self.version, mid }
        };
        self.taken += 1;
        truth.publications[number].taken =
            Some(Taken { node: Some(meta.node), order: self.taken, version: self.version });
        let bytes = Entry { place, body }.encode();
        let meta = self.data.get_mut(&stream).expect("it was made");
        match class {
            Class::Durable => {
                meta.log.push_back(bytes.clone());
                if meta.log.len() > self.history {
                    meta.log.pop_front();
                }
            }
            Class::Latest(key) => {
                meta.latest.insert(key, (self.version, bytes.clone()));
            }
            Class::Ingress => {}
        }
        bytes
    }

    /// Takes a message of an ingress channel, which has no place in its stream.
    pub fn ingress(&mut self, truth: &mut Truth, number: usize) {
        self.taken += 1;
        truth.publications[number].taken =
            Some(Taken { node: None, order: self.taken, version: 0 });
    }

    /// Where a stream is; its numbering begins here if it has none.
    pub fn head(&mut self, truth: &mut Truth, stream: StreamId, epoch: Epoch) -> Position {
        let meta = self.data.entry(stream).or_insert_with(|| Meta {
            node: truth.grow(origin(stream, epoch)),
            log: VecDeque::new(),
            latest: BTreeMap::new(),
        });
        truth.node(meta.node).position
    }

    /// Whether a stream may have been at a place before; none when the history does not reach back
    /// to there. One of another numbering only if that began later.
    fn was_at(&self, truth: &Truth, stream: StreamId, known: Position) -> Option<bool> {
        let Some(meta) = self.data.get(&stream) else { return Some(true) };
        let head = truth.node(meta.node).position;
        if head.epoch != known.epoch {
            return Some(head.epoch > known.epoch);
        }
        let Some(back) = head.offset.checked_sub(known.offset) else { return Some(false) };
        if back > meta.log.len() as u64 {
            return None;
        }
        let before = |node: NodeId| truth.node(node).prev.expect("what is kept has predecessors");
        let there = (0..back).fold(meta.node, |node, _| before(node));
        Some(truth.node(there).position.mid == known.mid)
    }

    /// Gives a numbering up that has lost something of what was up to an offset.
    fn roll_over(&mut self, truth: &mut Truth, stream: StreamId, epoch: Epoch, known: u64) {
        let meta = self.data.get_mut(&stream).expect("it has a numbering");
        let offset = truth.node(meta.node).position.offset.max(known);
        meta.node = truth.grow(behind(stream, epoch, offset));
        meta.log.clear();
        *self.rollovers.entry(stream).or_default() += 1;
    }

    /// A publisher looks for what it was told is kept. Says where the numbering is given up, if the
    /// stream can't show it.
    pub fn verify(
        &mut self,
        truth: &mut Truth,
        stream: StreamId,
        epoch: Epoch,
        known: Position,
    ) -> Option<Rollover> {
        if self.was_at(truth, stream, known) == Some(true) {
            return None;
        }
        self.roll_over(truth, stream, epoch, known.offset);
        let offset = truth.node(self.data[&stream].node).position.offset;
        Some(Rollover { epoch, offset })
    }

    /// How often numberings of a stream were given up.
    pub fn rollovers(&self) -> impl Iterator<Item = (StreamId, u32)> {
        self.rollovers.iter().map(|(stream, count)| (*stream, *count))
    }

    /// Where a stream is, what of its history comes after an offset, and its latest values. Who
    /// knows that it was elsewhere makes it give its numbering up.
    pub fn read(
        &mut self,
        truth: &mut Truth,
        stream: StreamId,
        epoch: Epoch,
        after: Option<u64>,
        known: Option<Position>,
    ) -> (History, Option<Rollover>) {
        let is_lost = |known: &Position| self.was_at(truth, stream, *known) == Some(false);
        let known = known.filter(is_lost);
        let rollover = known.and_then(|known| self.verify(truth, stream, epoch, known));
        let head = self.head(truth, stream, epoch);
        let Meta { log, latest, .. } = &self.data[&stream];
        let count = after.map_or(0, |after| head.offset.saturating_sub(after));
        let skip = log.len().saturating_sub(usize::try_from(count).expect("runs are short"));
        let entries = log.iter().skip(skip).cloned().collect();
        let latest = latest.values().map(|(_, bytes)| bytes.clone()).collect();
        (History { head, entries, latest }, rollover)
    }

    /// The versions of a stream's latest values.
    pub fn versions(&self, stream: StreamId) -> impl Iterator<Item = u64> {
        self.data.get(&stream).into_iter().flat_map(|meta| meta.latest.values()).map(|(v, _)| *v)
    }

    /// Where a stream is, if it has a numbering.
    pub fn place(&self, stream: StreamId) -> Option<NodeId> {
        self.data.get(&stream).map(|meta| meta.node)
    }

    /// A subscription connection is up.
    pub fn connect(&mut self, link: Link) {
        self.links.insert(link);
    }

    /// Subscribes a connection that is up.
    pub fn subscribe(&mut self, link: Link, stream: StreamId) {
        if self.links.contains(&link) {
            self.subscribers.entry(stream).or_default().insert(link);
        }
    }

    /// Unsubscribes a connection.
    pub fn unsubscribe(&mut self, link: Link, stream: StreamId) {
        if let Some(links) = self.subscribers.get_mut(&stream) {
            links.remove(&link);
        }
    }

    /// The broker notices that a connection is gone.
    pub fn disconnect(&mut self, link: Link) {
        self.links.remove(&link);
        self.subscribers.values_mut().for_each(|links| {
            links.remove(&link);
        });
    }

    /// Whom a publication of `stream` is sent to.
    pub fn subscribers(&self, stream: StreamId) -> Vec<Link> {
        self.subscribers.get(&stream).into_iter().flatten().copied().collect()
    }

    /// Every connection.
    pub fn links(&self) -> Vec<Link> {
        self.links.iter().copied().collect()
    }

    /// What a connection is subscribed to.
    pub fn subscriptions(&self, link: Link) -> BTreeSet<StreamId> {
        let streams = self.subscribers.iter().filter(|(_, links)| links.contains(&link));
        streams.map(|(stream, _)| *stream).collect()
    }

    /// Forgets where a stream is.
    pub fn evict(&mut self, stream: StreamId) {
        self.data.remove(&stream);
    }

    /// Restarts without data.
    pub fn lose(&mut self) {
        self.data.clear();
    }

    /// Keeps a copy of the data, to be set back to.
    pub fn copy(&mut self, now: Instant) {
        self.copies.push_back((now, self.data.clone()));
    }

    /// Restarts with the data of an earlier moment.
    pub fn set_back(&mut self, to: Instant) {
        let copy = self.copies.iter().rev().find(|(at, _)| *at <= to);
        self.data = copy.map(|(_, data)| data.clone()).unwrap_or_default();
    }
}
