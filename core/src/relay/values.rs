//! Latest values: who joins is given the newest ones, and nobody an older one after them.
//!
//! The values of a stream are no part of its history. Their versions grow along its channel, so one
//! number says how far the members are: up to that version they have what is newest of each type
//! and key. A read brings the newest ones; those beyond that number go to all members, and whoever
//! is answered by that read is given all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    entry::{Entry, Place},
    id::{Epoch, Mid, Position},
    link::{Missed, Suffix},
    stream::StreamName,
    wire::encode,
};

use super::{
    Action, History, Relay, Turn, outlet::Forward, receipts::Source, stream::mid,
    streams::StreamIndex,
};

/// The newest value of each type and key, oldest first.
#[derive(Debug, Default)]
pub(super) struct Values {
    list: Vec<Value>,
    /// With what was missed, by how much that is: many who join are given the same.
    merged: BTreeMap<usize, Arc<[Missed]>>,
}

/// One value, and where the stream was when it was published.
#[derive(Debug)]
struct Value {
    epoch: Epoch,
    at: u64,
    version: u64,
    entry: Entry,
}

impl Values {
    /// Those that were read, and those that came meanwhile.
    pub(super) fn of(history: &History, came: &[Entry]) -> Self {
        let mut newest = BTreeMap::new();
        let kept = history.latest.iter().filter_map(|bytes| Entry::decode(bytes).ok());
        for entry in kept.chain(came.iter().cloned()) {
            let Place::Latest { epoch, at, version, .. } = entry.place else { continue };
            let key = (Arc::clone(&entry.body.kind), Arc::clone(&entry.body.key));
            let is_newer = newest.get(&key).is_none_or(|value: &Value| value.version < version);
            if is_newer && !planted!("send no latest values after a join") {
                newest.insert(key, Value { epoch, at, version, entry });
            }
        }
        let mut list: Vec<Value> = newest.into_values().collect();
        list.sort_unstable_by_key(|value| value.version);
        Self { list, merged: BTreeMap::new() }
    }

    /// Leaves out what was published after `end`: it comes by itself, unless it has come, up to
    /// the version `known`.
    fn end_at(&mut self, end: Option<Position>, known: u64) {
        self.list.retain(|value| {
            let is_within = |end: Position| value.epoch != end.epoch || value.at <= end.offset;
            value.version <= known || end.is_none_or(is_within)
        });
    }

    /// The newest version; 0 without any.
    fn version(&self) -> u64 {
        self.list.last().map_or(0, |value| value.version)
    }

    /// What was missed, with every value in its place.
    pub(super) fn merge(&mut self, stream: &StreamName, suffix: Suffix) -> Suffix {
        if self.list.is_empty() {
            return suffix;
        }
        let missed = suffix.entries();
        let list = &self.list;
        let merged = self.merged.entry(missed.len()).or_insert_with(|| {
            let mut values = list.iter().peekable();
            let mut merged = Vec::with_capacity(missed.len() + list.len());
            for missed in missed {
                while let Some(value) = values.next_if(|value| value.precedes(missed.position)) {
                    merged.push(value.missed(stream));
                }
                merged.push(missed.clone());
            }
            merged.extend(values.map(|value| value.missed(stream)));
            merged.into()
        });
        Suffix::new(Arc::clone(merged), 0)
    }
}

impl Value {
    /// Whether it was published before the durable message at `position`.
    fn precedes(&self, position: Option<Position>) -> bool {
        let Some(position) = position else { return false };
        if planted!("send latest values behind what was missed") {
            return false;
        }
        self.epoch != position.epoch || self.at < position.offset
    }

    fn missed(&self, stream: &StreamName) -> Missed {
        Missed {
            frame: encode::publication(stream, &self.entry.body, None),
            kind: Arc::clone(&self.entry.body.kind),
            exclude_user: self.entry.body.exclude_user.clone(),
            acks_to: None,
            position: None,
        }
    }
}

/// What members lack of a stream's values, oldest first.
pub(super) struct Lacking<'a> {
    values: std::iter::Peekable<std::vec::IntoIter<&'a Value>>,
    /// Their live copies have come, and are held.
    came: BTreeSet<Mid>,
}

impl Lacking<'_> {
    /// Whether the live copy of an entry has come.
    pub(super) fn came(&self, entry: &Entry) -> bool {
        self.came.contains(&mid(entry))
    }
}

impl Relay {
    /// Notes up to which version members have the values of a stream that were read, if they were,
    /// and gives those that members lack: who is at `members` and goes on at `end`. `is_restored`
    /// tells that the subscription is a new one.
    pub(super) fn lacking<'a>(
        &mut self,
        index: StreamIndex,
        values: Option<&'a mut Values>,
        (members, end): (Option<Position>, Option<Position>),
        is_restored: bool,
        held: &[Entry],
    ) -> Lacking<'a> {
        let stream = &mut self.streams[index];
        let came = held.iter().map(mid).collect();
        let Some(values) = values else {
            stream.valued = true; // As far as is known.
            return Lacking { values: Vec::new().into_iter().peekable(), came };
        };
        let (known, read) = (stream.version, values.version());
        stream.valued = read > 0;
        values.end_at(end, known);
        if !planted!("let a latest value that was read come again") {
            stream.version = known.max(values.version());
        }
        if is_restored && read < known {
            // The broker has lost some, and its clock may be another one. What it sent before is
            // not on its way any more.
            stream.version = read;
        }
        let is_lacking = |value: &&Value| {
            let is_old = members
                .is_none_or(|members| value.epoch == members.epoch && value.at < members.offset);
            value.version > known && !is_old
        };
        let values: Vec<_> = values.list.iter().filter(is_lacking).collect();
        Lacking { values: values.into_iter().peekable(), came }
    }

    /// Forwards values that members lack: those that were published before a durable message, or
    /// all.
    pub(super) fn forward_values(
        &mut self,
        index: StreamIndex,
        lacking: &mut Lacking<'_>,
        before: Option<Position>,
        turn: &mut Turn<'_>,
    ) {
        let is_due = |value: &&Value| before.is_none() || value.precedes(before);
        while let Some(Value { entry, .. }) = lacking.values.next_if(is_due) {
            turn.actions.push(Action::Reach("relay_values_filled"));
            let (source, filled) = (Some(Source::of(entry)), !lacking.came(entry));
            let body = &entry.body;
            let forward =
                Forward { body, position: None, before: None, source, filled, is_value: true };
            self.outlet.forward(&mut self.streams[index], index, forward, turn);
        }
    }
}
