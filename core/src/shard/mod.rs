//! The client side of a worker.
//!
//! A connection is admitted (`handshake`), asks for things (`requests`), is seated in streams once
//! the relay has answered (`joins`), is sent what is published there (`fanout`), and is watched and
//! closed by the clock (`timers`). Everything that changes a stream (publications, answers to
//! joins, resyncs) takes its turn in that stream, so that a member's position is always exact.

mod acks;
mod connection;
mod fanout;
mod handshake;
mod input;
mod joins;
mod requests;
mod stats;
mod streams;
#[cfg(test)]
mod tests;
mod timers;

pub use input::{
    Action, Actions, Handshake, Identity, Input, Reason, Reference, Refusal, Slice, VerifyError,
};
pub use stats::Stats;

use std::{collections::BTreeMap, time::Duration};

use crate::{
    cluster::Census,
    fingerprint,
    id::{ConnectionId, DeliveryId, RequestId},
    limits::ShardLimits,
    link::ToRelay,
    rng::Rng,
    stream::{StreamKind, StreamName},
    time::{Instant, UnixMillis},
    wheel::Wheel,
    wire::{CloseCode, Kind},
};
use acks::Acks;
use connection::{Bucket, Connection, Parked, Phase};
use streams::Streams;
use timers::Drain;

/// The client side of one worker.
#[derive(Debug)]
pub struct Shard {
    limits: ShardLimits,
    rng: Rng,
    instance: u64,
    all: StreamName,
    now: Instant,
    /// A reading of the wall clock, and when it was made.
    clock: (Instant, UnixMillis),
    /// By slot.
    connections: Vec<Connection>,
    /// Slots that are not free.
    occupied: u32,
    accepts: Bucket,
    streams: Streams,
    /// In the order of their deadlines, since all have the same time.
    parked: BTreeMap<RequestId, Parked>,
    /// Joins of `all` whose time is over, of anonymous connections that were greeted without the
    /// answer. It seats them when it comes.
    late: BTreeMap<RequestId, Parked>,
    requests: u64,
    acks: Acks,
    wheel: Wheel,
    /// After a stall of the whole worker nobody is called silent before this: what they sent
    /// meanwhile is still to be read.
    stalled_until: Instant,
    drain: Option<Drain>,
    stats: Stats,
}

impl Shard {
    /// A shard without connections. `instance` goes into connection ids and is random; `unix` is
    /// the wall clock at `now`.
    pub fn new(
        limits: ShardLimits,
        seed: u64,
        instance: u64,
        now: Instant,
        unix: UnixMillis,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let streams = Streams::new(rng.next());
        Self {
            limits,
            rng,
            instance,
            all: StreamName::all(),
            now,
            clock: (now, unix),
            connections: Vec::new(),
            occupied: 0,
            accepts: Bucket::default(),
            streams,
            parked: BTreeMap::new(),
            late: BTreeMap::new(),
            requests: 0,
            acks: Acks::default(),
            wheel: Wheel::new(now),
            stalled_until: Instant(0),
            drain: None,
            stats: Stats::default(),
        }
    }

    /// Takes one input and appends what is to be done. `actions` must be empty. Inputs of a
    /// connection that is gone or about to go are ignored.
    ///
    /// # Panics
    /// If `actions` is not empty, if a connection arrives at an occupied slot, or if `Delivered`
    /// names a fan-out that is not over.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, actions: &mut Actions) {
        assert!(actions.is_empty(), "the actions of the last input are carried out first");
        self.now = self.now.max(now);
        match input {
            Input::Arrived { conn, request } => self.arrived(conn, request, actions),
            Input::Verified { conn, outcome, user_connections } => {
                if let Some(slot) = self.slot_in(conn, Phase::Verifying) {
                    self.verified(slot, outcome, user_connections, actions);
                }
            }
            Input::Received { conn, text } => {
                if let Some(slot) = self.slot_in(conn, Phase::Open) {
                    self.received(slot, text, actions);
                }
            }
            Input::Heard { conn } => {
                if let Some(slot) = self.slot_in(conn, Phase::Open) {
                    self.connections[slot as usize].heard = self.now;
                }
            }
            Input::Misbehaved { conn, code } => {
                if let Some(slot) = self.slot_in(conn, Phase::Open) {
                    self.close(slot, code, actions);
                }
            }
            Input::Closed { conn } => {
                if let Some(slot) = self.slot_of(conn) {
                    self.closed(slot, actions);
                    self.trim();
                }
            }
            Input::Refreshed { conn, reference, outcome } => {
                if let Some(slot) = self.slot_in(conn, Phase::Open) {
                    self.refreshed(slot, reference.as_ref(), outcome, actions);
                }
            }
            Input::Congested { conn } => self.set_congested(conn, true),
            Input::Relieved { conn } => self.set_congested(conn, false),
            Input::Overflowed { conn } => {
                if let Some(slot) = self.slot_in(conn, Phase::Open)
                    && !planted!("let an outbox overflow")
                {
                    self.close(slot, CloseCode::TooSlow, actions);
                }
            }
            Input::Delivered { delivery, accepted } => self.delivered(delivery, accepted, actions),
            Input::FromRelay(message) => self.relayed(message, actions),
            Input::Draining { period } => self.start_drain(period, actions),
            Input::WallClock(unix) => self.set_clock(unix, actions),
            Input::TimedOut => self.timed_out(actions),
        }
    }

    /// When to come back with `Input::TimedOut`, and why; none when nothing is pending. To be asked
    /// again after each input.
    pub fn next_deadline(&self) -> Option<(Instant, Reason)> {
        let connection = self.wheel.next().map(|at| (at, Reason::Connection));
        let join = self.parked.first_key_value().map(|(_, join)| (join.deadline, Reason::Join));
        let drain = self.next_drained().map(|at| (at, Reason::Drain));
        [connection, join, drain].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Continues the walk of a fan-out: appends at most `at_most` receivers. Appends none when it
    /// is over; then `Input::Delivered` is due. What is appended is to be sent to before the next
    /// input.
    ///
    /// # Panics
    /// If the fan-out is over and `Input::Delivered` was given.
    pub fn next_members(
        &mut self,
        delivery: DeliveryId,
        at_most: usize,
        out: &mut Vec<ConnectionId>,
    ) {
        self.walk_on(delivery, at_most, out);
    }

    /// What it has counted.
    pub fn stats(&self) -> Stats {
        let draining = if self.drain.is_some() { self.open() } else { 0 };
        let parked_joins = u32::try_from(self.parked.len() + self.late.len()).unwrap_or(u32::MAX);
        Stats { draining, parked_joins, ..self.stats.clone() }
    }

    /// Calls `visit` with each room (and `all`) that has members, and how many.
    pub fn rooms(&self, visit: &mut dyn FnMut(&StreamName, u32)) {
        for (stream, name) in self.streams.names.iter() {
            let members = self.streams.stream(stream).members().len();
            if members > 0 && !matches!(name.kind(), StreamKind::User(_)) {
                visit(name, u32::try_from(members).unwrap_or(u32::MAX));
            }
        }
    }

    /// What it holds, for the beats of the instance.
    fn census(&self) -> Census {
        let mut rooms = Vec::new();
        self.rooms(&mut |room, members| rooms.push((room.clone(), members)));
        let mut census = Census {
            authenticated: self.stats.authenticated,
            anonymous: self.stats.anonymous,
            sent: self.stats.sent.iter().sum(),
            received: self.stats.received.iter().sum(),
            rooms,
        };
        census.keep_largest_rooms();
        census
    }

    /// A fingerprint of the whole state: equal states have equal ones, on every machine.
    pub fn state_hash(&self) -> u64 {
        fingerprint::of(&(
            (&self.rng, self.now, self.clock, self.occupied, &self.accepts, &self.connections),
            (&self.streams, &self.parked, &self.late, self.requests, &self.acks, &self.wheel),
            (self.stalled_until, &self.drain, &self.stats),
        ))
    }

    /// The slot of a connection that is still the present one of its slot.
    fn slot_of(&self, conn: ConnectionId) -> Option<u32> {
        let present = self.connections.get(conn.slot as usize)?;
        let is_other =
            present.generation != conn.generation && !planted!("ignore generations of slots");
        let is_stale = present.phase == Phase::Free || is_other;
        (!is_stale).then_some(conn.slot)
    }

    fn slot_in(&self, conn: ConnectionId, phase: Phase) -> Option<u32> {
        let slot = self.slot_of(conn)?;
        (self.connections[slot as usize].phase == phase).then_some(slot)
    }

    fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: self.connections[slot as usize].generation }
    }

    fn open(&self) -> u32 {
        self.stats.authenticated + self.stats.anonymous
    }

    /// The wall clock.
    fn unix(&self) -> UnixMillis {
        let since = self.now.saturating_since(self.clock.0);
        UnixMillis(self.clock.1.0.saturating_add(millis(since)))
    }

    /// Sends one frame to one connection.
    fn send(
        &mut self,
        slot: u32,
        kind: Kind,
        actions: &mut Actions,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.stats.sent[kind.index()] += 1;
        let frame = actions.write(write);
        actions.push(Action::Send { conn: self.id(slot), frame });
    }

    /// Makes a connection a member.
    fn seat(&mut self, slot: u32, stream: u32) {
        let seat = self.streams.seat(stream, slot);
        self.connections[slot as usize].seats.push(connection::Seat { stream, seat });
    }

    /// Takes a connection out of a stream that it is a member of.
    fn unseat(&mut self, slot: u32, stream: u32, actions: &mut Actions) {
        let seats = &mut self.connections[slot as usize].seats;
        let at = seats.iter().position(|seat| seat.stream == stream).expect("it is a member");
        let seat = seats.swap_remove(at).seat;
        let connections = &mut self.connections;
        self.streams.unseat(stream, seat, |slot, seat| {
            let seats = &mut connections[slot as usize].seats;
            if planted!("forget a seat that was moved") {
                return;
            }
            let moved = seats.iter_mut().find(|seat| seat.stream == stream);
            moved.expect("members know their streams").seat = seat;
        });
        self.vacate_if_empty(stream, actions);
    }

    /// Ends the interest in a stream that has neither members nor parked joins.
    fn vacate_if_empty(&mut self, stream: u32, actions: &mut Actions) {
        let record = self.streams.stream_mut(stream);
        if record.parked > 0 || !record.members().is_empty() {
            return;
        }
        let is_walked = record.is_walked();
        if std::mem::take(&mut record.interested) {
            let stream = self.streams.names.name(stream).clone();
            actions.push(Action::ToRelay(ToRelay::Vacated { stream }));
        }
        if !is_walked {
            self.streams.forget(stream);
        }
    }
}

/// Whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
