//! What was really published, from the simulated Redis' own log.

use std::collections::BTreeMap;

use realtime_core::{
    entry::{Entry, Place},
    id::{Mid, Position},
    wire::encode,
};
use serde_json::Value;

use super::redis_host::Logged;

/// Everything that was published, in order.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) entries: Vec<Fact>,
    by_id: BTreeMap<(String, String), usize>,
    by_mid: BTreeMap<(String, Mid), usize>,
}

/// One publication.
#[derive(Debug)]
pub(super) struct Fact {
    pub(super) stream: String,
    /// Which call it was.
    pub(super) marker: Option<u64>,
    pub(super) payload: Value,
    pub(super) entry: Entry,
}

impl Truth {
    /// Reads the log.
    pub(super) fn new(log: &[Logged]) -> Self {
        let mut truth = Self::default();
        for logged in log {
            let Some(fact) = fact(logged) else { continue };
            let at = truth.entries.len();
            if let Place::Durable { position, .. } = fact.entry.place {
                let stream = fact.stream.clone();
                truth.by_id.insert((stream.clone(), id(position)), at);
                truth.by_mid.insert((stream, position.mid), at);
            }
            truth.entries.push(fact);
        }
        truth
    }

    /// The publication with this `id`.
    pub(super) fn by_id(&self, stream: &str, id: &str) -> Option<&Fact> {
        self.by_id.get(&(stream.to_owned(), id.to_owned())).map(|at| &self.entries[*at])
    }

    /// The publication with this mid.
    pub(super) fn by_mid(&self, stream: &str, mid: Mid) -> Option<&Fact> {
        self.by_mid.get(&(stream.to_owned(), mid)).map(|at| &self.entries[*at])
    }

    /// Where the newest publication of `marker` stands among all.
    pub(super) fn last_of(&self, stream: &str, marker: u64) -> Option<usize> {
        self.entries.iter().rposition(|fact| fact.stream == stream && fact.marker == Some(marker))
    }

    /// How often a call was published.
    pub(super) fn count(&self, marker: u64) -> usize {
        self.entries.iter().filter(|fact| fact.marker == Some(marker)).count()
    }
}

impl Fact {
    /// Its offset; 0 for a latest value.
    pub(super) fn offset(&self) -> u64 {
        match self.entry.place {
            Place::Durable { position, .. } => position.offset,
            Place::Latest { .. } => 0,
        }
    }

    /// What was published before it.
    pub(super) fn before(&self) -> Mid {
        match self.entry.place {
            Place::Durable { prev, .. } => prev,
            Place::Latest { .. } => Mid(0),
        }
    }
}

fn fact(logged: &Logged) -> Option<Fact> {
    let channel = std::str::from_utf8(&logged.channel).ok()?;
    let stream = channel.strip_prefix("realtime:{")?.strip_suffix('}')?.to_owned();
    let entry = Entry::decode(&logged.message).ok()?;
    let payload: Value = serde_json::from_slice(&entry.body.payload).ok()?;
    Some(Fact { stream, marker: marker(&payload), payload, entry })
}

/// Which call a payload comes from.
pub(super) fn marker(payload: &Value) -> Option<u64> {
    let booking = || payload["booking_id"].as_str()?.strip_prefix('b')?.parse().ok();
    payload["n"].as_u64().or_else(|| payload["position"].as_u64()).or_else(booking)
}

fn id(position: Position) -> String {
    let mut id = Vec::new();
    encode::id(&mut id, position);
    String::from_utf8_lossy(&id).into_owned()
}
