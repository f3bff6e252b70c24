//! What was really published, from the simulated Redis' own log, as the judges of both tiers know
//! it.

use std::collections::BTreeMap;

use bytes::Bytes;
use realtime_core::{
    entry::{Entry, Place, Rollover},
    id::{Mid, Position},
    relay::Ingress,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::redis_host::Logged;
use crate::{
    plan::Class,
    truth::{Node, NodeId, Publication, StreamId, Taken, Truth, behind, origin},
};

/// Everything that was published.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) truth: Truth,
    /// Where each stream is in the end.
    pub(super) heads: BTreeMap<StreamId, NodeId>,
    /// How often numberings of a stream were given up.
    pub(super) rollovers: BTreeMap<StreamId, u32>,
    /// How many connections are subscribed to each stream in the end.
    pub(super) audiences: BTreeMap<StreamId, usize>,
    /// Which call each publication was.
    pub(super) markers: Vec<Option<u64>>,
    by_mid: BTreeMap<(StreamId, u64, Mid), NodeId>,
    /// The newest place of each number.
    by_offset: BTreeMap<(StreamId, u64, u64), NodeId>,
}

impl Facts {
    /// Reads the log.
    pub(super) fn new(log: &[Logged]) -> Self {
        let mut facts = Self::default();
        for logged in log {
            facts.read(logged);
        }
        facts
    }

    /// Notes who is subscribed in the end.
    pub(super) fn count_audiences(&mut self, audiences: &[(Bytes, usize)]) {
        for (channel, count) in audiences {
            if let Some(stream) = std::str::from_utf8(channel).ok().and_then(stream_of) {
                let stream = self.truth.stream(stream);
                self.audiences.insert(stream, *count);
            }
        }
    }

    /// The place in a stream that a client names as the last it has seen.
    pub(super) fn since(&mut self, stream: &str, id: &str) -> Option<NodeId> {
        let stream = self.truth.stream(stream);
        self.truth.place(stream, id).or_else(|| self.truth.beginning(stream, id))
    }

    fn read(&mut self, logged: &Logged) -> Option<()> {
        let channel = std::str::from_utf8(&logged.channel).ok()?;
        if Ingress::ALL.iter().any(|ingress| ingress.channel() == channel) {
            return self.ingress(logged);
        }
        let stream = stream_of(channel)?;
        if let Some(Rollover { epoch, offset }) = Rollover::decode(&logged.message) {
            let stream = self.truth.stream(stream);
            let node = self.place(behind(stream, epoch, offset));
            self.heads.insert(stream, node);
            *self.rollovers.entry(stream).or_default() += 1;
            return Some(());
        }
        let entry = Entry::decode(&logged.message).ok()?;
        let payload = std::str::from_utf8(&entry.body.payload).ok()?.to_owned();
        let stream = self.truth.stream(stream);
        let number = self.truth.publications.len();
        let (class, node, version) = match entry.place {
            Place::Durable { position, prev } => {
                let prev = Some(self.before(stream, position, prev));
                let node = Node { stream, position, prev, publication: Some(number) };
                let node = self.again(node).unwrap_or_else(|| self.place(node));
                self.heads.insert(stream, node);
                (Class::Durable, node, 0)
            }
            Place::Latest { epoch, at, version, .. } => {
                let at = self.by_offset.get(&(stream, epoch.0, at)).copied();
                let at = at.unwrap_or_else(|| self.place(origin(stream, epoch)));
                (Class::Latest(queue(&payload)), at, version)
            }
        };
        let taken = Taken { node: Some(node), order: number as u64 + 1, version };
        self.add(Publication {
            exclude: entry.body.exclude_user.as_deref().map(str::to_owned),
            ack: entry.body.ack,
            taken: Some(taken),
            ..Publication::new(stream, class, &entry.body.kind, payload)
        });
        Some(())
    }

    fn ingress(&mut self, logged: &Logged) -> Option<()> {
        let message: IngressMessage<'_> = serde_json::from_slice(&logged.message).ok()?;
        let stream = match message.user_id {
            Some(user) => self.truth.stream(&format!("user:{user}")),
            None => self.truth.stream(message.room.unwrap_or("all")),
        };
        let order = self.truth.publications.len() as u64 + 1;
        let payload = message.payload.get().to_owned();
        self.add(Publication {
            taken: Some(Taken { node: None, order, version: 0 }),
            ..Publication::new(stream, Class::Ingress, message.kind, payload)
        });
        Some(())
    }

    /// Adds what was published. Values that a call published twice, since Redis had lost its key in
    /// between, can't be told apart by those who hear them: they have no version here.
    fn add(&mut self, mut publication: Publication) {
        let marker = marker(&publication.payload);
        let earlier = marker.and_then(|marker| self.truth.newest(publication.stream, marker));
        if let (Class::Latest(_), Some(earlier)) = (publication.class, earlier) {
            let earlier = &mut self.truth.publications[earlier].taken;
            for taken in [earlier, &mut publication.taken] {
                taken.iter_mut().for_each(|taken| taken.version = 0);
            }
        }
        self.markers.push(marker);
        self.truth.add(publication, marker.unwrap_or(u64::MAX));
    }

    /// The place that an entry names as the one before it.
    fn before(&mut self, stream: StreamId, position: Position, prev: Mid) -> NodeId {
        let epoch = position.epoch;
        let before = Position { offset: position.offset - 1, mid: prev, epoch };
        if let Some(known) = self.by_mid.get(&(stream, epoch.0, prev)) {
            return *known;
        }
        // The beginning of an epoch, or something that the log does not have.
        self.place(Node { stream, position: before, prev: None, publication: None })
    }

    /// Where a publication is already: its answer was lost, a Redis that was set back has lost it,
    /// too, and then it is published again, as what it was.
    fn again(&self, Node { stream, position, prev, .. }: Node) -> Option<NodeId> {
        let known = *self.by_mid.get(&(stream, position.epoch.0, position.mid))?;
        let is_same = self.truth.node(known).position == position;
        (is_same && self.truth.node(known).prev == prev).then_some(known)
    }

    fn place(&mut self, node: Node) -> NodeId {
        let Node { stream, position, .. } = node;
        let node = self.truth.grow(node);
        self.by_mid.insert((stream, position.epoch.0, position.mid), node);
        self.by_offset.insert((stream, position.epoch.0, position.offset), node);
        node
    }

    /// How often a call was published.
    pub(super) fn count(&self, marker: u64) -> usize {
        self.markers.iter().filter(|other| **other == Some(marker)).count()
    }

    /// Whether a call was published as something with a place in the history.
    pub(super) fn is_durable(&self, marker: u64) -> bool {
        let mut of = self.markers.iter().zip(&self.truth.publications);
        of.any(|(other, of)| *other == Some(marker) && of.class == Class::Durable)
    }

    /// Which call an id names.
    pub(super) fn call(&self, stream: &str, id: &str) -> Option<u64> {
        let place = self.truth.place(self.truth.find(stream)?, id)?;
        self.markers[self.truth.node(place).publication?]
    }
}

/// The stream that a channel is of.
fn stream_of(channel: &str) -> Option<&str> {
    channel.strip_prefix("realtime:{")?.strip_suffix('}')
}

/// A message of an ingress channel.
#[derive(Debug, Deserialize)]
struct IngressMessage<'a> {
    #[serde(borrow, rename = "type")]
    kind: &'a str,
    room: Option<&'a str>,
    user_id: Option<&'a str>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// The event of a place in a queue.
fn queue(payload: &str) -> u8 {
    let payload: Value = serde_json::from_str(payload).unwrap_or_default();
    payload["event_id"].as_str().and_then(|event| event.parse().ok()).unwrap_or_default()
}

/// Which call a payload comes from.
pub(super) fn marker(payload: &str) -> Option<u64> {
    let payload: Value = serde_json::from_str(payload).ok()?;
    let booking = || payload["booking_id"].as_str()?.strip_prefix('b')?.parse().ok();
    payload["n"].as_u64().or_else(|| payload["position"].as_u64()).or_else(booking)
}
