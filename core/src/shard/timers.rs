//! What time brings: heartbeats, expiry, slow and silent peers, overdue closes, the drain.

use std::time::Duration;

use crate::{
    id::ConnectionId,
    slab,
    time::{Instant, UnixMillis},
    wire::{CloseCode, Kind, encode},
};

use super::{
    Action, Actions, Shard,
    connection::{Connection, NEVER, Phase},
    millis,
    streams::NONE,
};

/// The instance shuts down.
#[derive(Debug, Hash)]
pub(super) struct Drain {
    /// When the next connection is closed.
    next: Instant,
    /// From one close to the next.
    interval: Duration,
    /// Slots below are closed.
    cursor: u32,
    /// `Drained` was said.
    reported: bool,
}

impl Shard {
    pub(super) fn timed_out(&mut self, actions: &mut Actions) {
        if let Some((due, _)) = self.next_deadline()
            && self.now.saturating_since(due) >= STALL
        {
            actions.push(Action::Reach("the worker stalled"));
            self.stalled_until = self.now + STALL_GRACE;
        }
        // What is left keeps its deadline in the past, so the next call comes at once.
        let mut budget = LOOKS_MAX;
        while budget > 0
            && let Some((request, join)) = self.parked.first_key_value()
            && join.deadline <= self.now
        {
            let request = *request;
            self.join_overdue(request, actions);
            budget -= 1;
        }
        while budget > 0
            && let Some(slot) = self.wheel.pop(self.now)
        {
            self.look_at(slot, actions);
            budget -= 1;
        }
        self.drain_due(budget, actions);
    }

    /// Does what is due for a connection, and says when to look again.
    pub(super) fn look_at(&mut self, slot: u32, actions: &mut Actions) {
        let conn = &mut self.connections[slot as usize];
        match conn.phase {
            Phase::Open => self.look_at_open(slot, actions),
            Phase::Closing if self.now >= conn.since + self.limits.close_timeout => {
                conn.phase = Phase::Reset;
                actions.push(Action::Reset { conn: self.id(slot) });
            }
            Phase::Closing => self.schedule(slot),
            Phase::Free | Phase::Verifying | Phase::Joining | Phase::Reset => {}
        }
    }

    fn look_at_open(&mut self, slot: u32, actions: &mut Actions) {
        let unix = self.unix();
        let conn = &mut self.connections[slot as usize];
        let expires_in = conn.expires_ms().saturating_sub(unix.0);
        if expires_in == 0 && !planted!("let expired tokens stay") {
            return self.close(slot, CloseCode::TokenExpired, actions);
        }
        let is_slow = conn.congested && !planted!("let slow peers stay");
        if is_slow && self.now >= conn.since + self.limits.slow_timeout {
            return self.close(slot, CloseCode::TooSlow, actions);
        }
        if self.now >= (conn.heard + self.limits.pong_timeout).max(self.stalled_until) {
            return self.close(slot, CloseCode::Silent, actions);
        }
        if self.now >= conn.ping_at {
            let silent_at = conn.heard + self.limits.ping_interval;
            if conn.fresh || self.now >= silent_at {
                conn.fresh = false;
                conn.ping_at = self.now + self.limits.ping_interval;
                actions.push(Action::Ping {
                    conn: ConnectionId { slot, generation: conn.generation },
                });
            } else {
                conn.ping_at = silent_at;
            }
        }
        if !conn.expiry_told && expires_in <= millis(self.limits.expiry_notice) {
            conn.expiry_told = true;
            self.send(slot, Kind::SystemTokenExpiring, actions, |out| {
                encode::token_expiring(out, expires_in);
            });
        }
        self.schedule(slot);
    }

    /// Asks the wheel to look when the first thing is due for a connection.
    fn schedule(&mut self, slot: u32) {
        let conn = &self.connections[slot as usize];
        let at = if conn.phase == Phase::Closing {
            conn.since + self.limits.close_timeout
        } else {
            let silent = (conn.heard + self.limits.pong_timeout).max(self.stalled_until);
            let slow = conn.congested.then(|| conn.since + self.limits.slow_timeout);
            let heartbeat = conn.ping_at.min(silent);
            self.expiry(conn).into_iter().chain(slow).fold(heartbeat, Instant::min)
        };
        self.wheel.schedule(slot, at);
    }

    /// When to tell a connection that its token expires, or when to close it for that.
    fn expiry(&self, conn: &Connection) -> Option<Instant> {
        if conn.expires == NEVER {
            return None;
        }
        let notice = if conn.expiry_told { 0 } else { millis(self.limits.expiry_notice) };
        let at = conn.expires_ms().saturating_sub(notice);
        Some(self.now + Duration::from_millis(at.saturating_sub(self.unix().0)))
    }

    pub(super) fn is_expired(&self, expires: Option<u64>) -> bool {
        expires.is_some_and(|expires| expires.saturating_mul(1_000) <= self.unix().0)
    }

    /// Begins the heartbeat of a connection that has been greeted. The first ping comes at a random
    /// time within the interval, so that those who came together are not pinged together for ever.
    pub(super) fn start_heartbeat(&mut self, slot: u32, actions: &mut Actions) {
        let interval = u64::try_from(self.limits.ping_interval.as_nanos()).unwrap_or(u64::MAX);
        let mut first = Duration::from_nanos(self.rng.below(interval).max(1));
        if planted!("ping in bursts") {
            first = self.limits.ping_interval;
        }
        self.connections[slot as usize].ping_at = self.now + first;
        if planted!("lose the heartbeat of a slot that is used again")
            && self.connections[slot as usize].generation > 0
        {
            return;
        }
        self.look_at(slot, actions);
    }

    /// Takes a reading of the wall clock.
    pub(super) fn set_clock(&mut self, unix: UnixMillis, actions: &mut Actions) {
        let step_ms = unix.0.abs_diff(self.unix().0);
        self.clock = (self.now, unix);
        if step_ms < STEP_MS_MIN {
            return;
        }
        actions.push(Action::Reach("the wall clock was stepped"));
        for slot in (0u32..).take(self.connections.len()) {
            let conn = &self.connections[slot as usize];
            if conn.phase == Phase::Open && conn.expires != NEVER {
                self.schedule(slot);
            }
        }
    }

    /// More than half of an outbox is full, or no longer.
    pub(super) fn set_congested(&mut self, conn: ConnectionId, congested: bool) {
        let Some(slot) = self.slot_in(conn, Phase::Open) else { return };
        let conn = &mut self.connections[slot as usize];
        if conn.congested == congested {
            return;
        }
        conn.congested = congested;
        if congested {
            conn.since = self.now;
            self.stats.congested += 1;
            self.schedule(slot);
        } else {
            self.stats.congested -= 1;
        }
    }

    /// Begins the close of an open connection, which receives nothing further.
    pub(super) fn close(&mut self, slot: u32, code: CloseCode, actions: &mut Actions) {
        let at = CloseCode::ALL.iter().position(|other| *other == code);
        self.stats.closes[at.expect("every code is in the list")] += 1;
        actions.push(Action::Close { conn: self.id(slot), code });
        self.leave_all(slot, actions);
        let conn = &mut self.connections[slot as usize];
        conn.phase = Phase::Closing;
        conn.since = self.now;
        self.schedule(slot);
    }

    /// Frees the slot of a connection that is gone.
    pub(super) fn closed(&mut self, slot: u32, actions: &mut Actions) {
        self.leave_all(slot, actions);
        self.connections[slot as usize] = Connection::FREE;
        self.wheel.cancel(slot);
        self.occupied -= 1;
        self.report_drained(actions);
    }

    /// Gives up free slots at the end of the table. Whoever names the slots takes the lowest free
    /// one: so the table shrinks when many have left.
    pub(super) fn trim(&mut self) {
        while self.connections.last().is_some_and(|conn| conn.phase == Phase::Free) {
            self.connections.pop();
        }
        slab::shrink(&mut self.connections);
        self.wheel.truncate(self.connections.len());
    }

    /// Takes a connection out of everything but its slot.
    fn leave_all(&mut self, slot: u32, actions: &mut Actions) {
        let conn = &self.connections[slot as usize];
        match conn.phase {
            Phase::Verifying | Phase::Joining => self.stats.handshaking -= 1,
            Phase::Open => {
                self.stats.congested -= u32::from(conn.congested);
                if conn.user == NONE {
                    self.stats.anonymous -= 1;
                } else {
                    self.stats.authenticated -= 1;
                }
            }
            Phase::Free | Phase::Closing | Phase::Reset => return,
        }
        self.unpark_all(slot, actions);
        while let Some(seat) = self.connections[slot as usize].seats.last() {
            self.unseat(slot, seat.stream, actions);
        }
        let conn = &mut self.connections[slot as usize];
        conn.seats = Vec::new();
        conn.extra = None;
        conn.user = NONE;
        conn.congested = false;
    }

    /// Refuses newcomers from now on, and closes the others evenly over `period`.
    pub(super) fn start_drain(&mut self, period: Duration, actions: &mut Actions) {
        let reported = self.drain.as_ref().is_some_and(|drain| drain.reported);
        let period = if planted!("drain all at once") { period / 100 } else { period };
        let interval = period / self.open().saturating_sub(1).max(1);
        self.drain = Some(Drain { next: self.now, interval, cursor: 0, reported });
        for slot in (0u32..).take(self.connections.len()) {
            if matches!(self.connections[slot as usize].phase, Phase::Verifying | Phase::Joining) {
                self.refuse_draining(slot, actions);
            }
        }
        self.drain_due(LOOKS_MAX, actions);
        self.report_drained(actions);
    }

    /// When the next connection is closed by the drain.
    pub(super) fn next_drained(&self) -> Option<Instant> {
        let drain = self.drain.as_ref()?;
        (self.open() > 0).then_some(drain.next)
    }

    /// Closes those whose turn has come, at most `budget`.
    fn drain_due(&mut self, budget: usize, actions: &mut Actions) {
        for _ in 0..budget {
            if self.next_drained().is_none_or(|at| at > self.now) {
                return;
            }
            let drain = self.drain.as_mut().expect("a drain is on");
            drain.next = drain.next + drain.interval;
            let mut slots = drain.cursor..;
            let slot = slots
                .find(|slot| self.connections[*slot as usize].phase == Phase::Open)
                .expect("no connection opens while a drain is on");
            drain.cursor = slot + 1;
            let mut after_ms = self.rng.below(RECONNECT_SPREAD_MS + 1);
            if planted!("reconnect without jitter") {
                after_ms = 0;
            }
            self.send(slot, Kind::SystemReconnect, actions, |out| {
                encode::reconnect(out, "restarting", after_ms);
            });
            self.close(slot, CloseCode::Restarting, actions);
        }
    }

    /// Says once that the last connection is gone.
    fn report_drained(&mut self, actions: &mut Actions) {
        if let Some(drain) = &mut self.drain
            && self.occupied == 0
            && !drain.reported
        {
            drain.reported = true;
            actions.push(Action::Drained);
        }
    }
}

impl Connection {
    /// Unix milliseconds; the end of time for a token that does not expire.
    fn expires_ms(&self) -> u64 {
        self.expires.saturating_mul(1_000)
    }
}

/// Looks, overdue joins and closes of one input.
const LOOKS_MAX: usize = 256;

/// A deadline missed by this much means that the whole worker stood still.
const STALL: Duration = Duration::from_secs(1);

/// How long a worker that stood still may take to read what has come meanwhile.
const STALL_GRACE: Duration = Duration::from_secs(5);

/// A smaller step of the wall clock is drift.
const STEP_MS_MIN: u64 = 1_000;

/// Longest time that a client is told to wait before it reconnects: short, so that nobody is away
/// for longer than its history lasts.
const RECONNECT_SPREAD_MS: u64 = 1_000;
