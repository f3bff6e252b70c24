//! What a shard knows of one connection.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::{
    id::{Position, RequestId},
    link::{Publication, Since, Suffix},
    stream::StreamName,
    time::Instant,
};

use super::{Reference, streams::NONE};

/// A slot of the table. Kept small, since most connections do nothing most of the time: what only
/// some have, or only for some time, is in `extra`.
#[derive(Debug, Hash)]
pub(super) struct Connection {
    /// When the peer was last heard.
    pub(super) heard: Instant,
    /// When the next ping is due, if the peer is silent until then.
    pub(super) ping_at: Instant,
    /// When it was last congested, or when its close began.
    pub(super) since: Instant,
    /// Unix seconds, or `NEVER`.
    pub(super) expires: u64,
    /// Messages.
    pub(super) bucket: Bucket,
    /// In every stream that it is a member of.
    pub(super) seats: Vec<Seat>,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) generation: u32,
    /// The index of the user's stream, or `NONE`.
    pub(super) user: u32,
    /// In a row.
    pub(super) errors: u32,
    pub(super) phase: Phase,
    /// More than half of the outbox is full.
    pub(super) congested: bool,
    /// The peer knows that its token expires.
    pub(super) expiry_told: bool,
    /// It was never pinged. The first ping comes early, so that heartbeats spread.
    pub(super) fresh: bool,
    /// It is a member of `all` without a position, and is told to resync when there is one.
    pub(super) blind: bool,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// The slot has no connection.
    Free,
    /// Its token is being verified.
    Verifying,
    /// Its first joins are parked.
    Joining,
    /// It has been greeted.
    Open,
    /// It has been sent a close frame.
    Closing,
    /// It has been reset.
    Reset,
}

/// A membership.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Seat {
    pub(super) stream: u32,
    pub(super) seat: u32,
}

/// What few connections have at any time.
#[derive(Debug, Default, Hash)]
pub(super) struct Extra {
    /// Room patterns of the token.
    pub(super) grants: Option<Arc<[Box<str>]>>,
    /// Since when it sends too much.
    pub(super) over_since: Option<Instant>,
    /// Its joins that are not answered yet, by stream.
    pub(super) parked: Vec<(u32, RequestId)>,
    /// What it asks of rooms with a parked join, in order.
    pub(super) waiting: Vec<Waiting>,
    /// Until it is greeted.
    pub(super) handshake: Option<Handshaking>,
}

/// A request behind a parked join of the same room.
#[derive(Debug, Hash)]
pub(super) struct Waiting {
    pub(super) room: StreamName,
    pub(super) what: RoomRequest,
    pub(super) reference: Option<Reference>,
}

/// What a client asks of a room.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum RoomRequest {
    Join(Asked),
    Leave,
}

/// A `since`, if there was one, and what could be read of it.
pub(super) type Asked = Option<Option<Since>>;

/// A connection that is seated stream by stream, and greeted when it is seated in all. What comes
/// for it meanwhile is held, since the greeting goes first.
#[derive(Debug, Default)]
pub(super) struct Handshaking {
    pub(super) since: Asked,
    pub(super) since_all: Asked,
    pub(super) user: Option<Answer>,
    pub(super) all: Option<Answer>,
    /// At most [`HELD_MAX`], with their streams.
    pub(super) held: Vec<(u32, Arc<Publication>)>,
    /// More came.
    pub(super) overflowed: bool,
}

/// What a join was answered with.
#[derive(Clone, Debug, Hash)]
pub(super) struct Answer {
    pub(super) position: Option<Position>,
    /// Only if there was a `since`.
    pub(super) recovered: Option<bool>,
    /// What was missed since then.
    pub(super) suffix: Suffix,
}

impl Answer {
    /// The stream could not be joined.
    pub(super) fn nowhere(recovered: Option<bool>) -> Self {
        Self { position: None, recovered, suffix: Suffix::default() }
    }
}

/// A join that waits for the relay.
#[derive(Debug, Hash)]
pub(super) struct Parked {
    pub(super) slot: u32,
    pub(super) stream: u32,
    pub(super) asked: Asked,
    pub(super) reference: Option<Reference>,
    pub(super) deadline: Instant,
}

impl Connection {
    pub(super) const FREE: Self = Self {
        heard: Instant(0),
        ping_at: Instant(0),
        since: Instant(0),
        expires: NEVER,
        bucket: Bucket(Instant(0)),
        seats: Vec::new(),
        extra: None,
        generation: 0,
        user: NONE,
        errors: 0,
        phase: Phase::Free,
        congested: false,
        expiry_told: false,
        fresh: true,
        blind: false,
    };

    pub(super) fn seat_in(&self, stream: u32) -> Option<u32> {
        self.seats.iter().find(|seat| seat.stream == stream).map(|seat| seat.seat)
    }

    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Gives `extra` back when there is nothing in it.
    pub(super) fn trim(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| extra.is_empty()) {
            self.extra = None;
        }
    }

    /// Whether a join of `stream` is parked.
    pub(super) fn awaits(&self, stream: u32) -> bool {
        let parked = self.extra.as_ref().map_or(&[][..], |extra| &extra.parked);
        parked.iter().any(|(parked, _)| *parked == stream)
    }

    pub(super) fn parked(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.parked.len())
    }

    /// Rooms that it is in, or is about to be in; only for open connections.
    pub(super) fn rooms(&self) -> usize {
        let apart = if self.user == NONE { 1 } else { 2 };
        self.seats.len() + self.parked() - apart
    }
}

impl Extra {
    fn is_empty(&self) -> bool {
        self.grants.is_none()
            && self.over_since.is_none()
            && self.parked.is_empty()
            && self.waiting.is_empty()
            && self.handshake.is_none()
    }
}

impl Handshaking {
    /// Keeps a publication for later.
    pub(super) fn hold(&mut self, stream: u32, publication: &Arc<Publication>) {
        if self.held.len() < HELD_MAX {
            self.held.push((stream, publication.clone()));
        } else {
            self.overflowed = true;
        }
    }
}

impl Hash for Handshaking {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.since, self.since_all, &self.user, &self.all, self.overflowed).hash(state);
        self.held.len().hash(state);
        for (stream, publication) in &self.held {
            (stream, publication.dispatch).hash(state);
        }
    }
}

/// A token bucket as one moment: when it will be full again, were nothing more taken.
#[derive(Debug, Default, Hash)]
pub(super) struct Bucket(Instant);

impl Bucket {
    /// Takes one out of a bucket that holds `burst` and is filled with `per_second`; false if it is
    /// empty. Without a rate it never is.
    pub(super) fn take(&mut self, now: Instant, per_second: u32, burst: u32) -> bool {
        if per_second == 0 {
            return true;
        }
        let each = each_nanos(per_second);
        if self.nanos_taken(now) + each > each * u64::from(burst.max(1)) {
            return false;
        }
        self.0 = Instant(self.0.0.max(now.0) + each);
        true
    }

    /// Whether at least half of what it holds is there.
    pub(super) fn is_half_full(&self, now: Instant, per_second: u32, burst: u32) -> bool {
        per_second == 0
            || self.nanos_taken(now) * 2 <= each_nanos(per_second) * u64::from(burst.max(1))
    }

    fn nanos_taken(&self, now: Instant) -> u64 {
        self.0.0.saturating_sub(now.0)
    }
}

fn each_nanos(per_second: u32) -> u64 {
    1_000_000_000 / u64::from(per_second)
}

/// A token that does not expire.
pub(super) const NEVER: u64 = u64::MAX;

/// Publications held for one connection in its handshake. More than 25 a second for all of the
/// join timeout means that the broker is in trouble.
const HELD_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket(Instant(0));
        let second = 1_000_000_000;
        let now = Instant(5 * second);
        assert_eq!((0..10).filter(|_| bucket.take(now, 2, 3)).count(), 3);
        assert!(!bucket.is_half_full(now, 2, 3));
        assert!(!bucket.take(Instant(5 * second + second / 2 - 1), 2, 3));
        assert!(bucket.take(Instant(5 * second + second / 2), 2, 3));
        assert!(bucket.is_half_full(Instant(7 * second), 2, 3));
    }

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Connection>() <= 96, "{}", size_of::<Connection>());
        assert!(size_of::<Extra>() <= 400, "{}", size_of::<Extra>());
    }
}
