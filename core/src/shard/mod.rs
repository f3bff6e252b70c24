//! The client side of a worker.

mod input;
mod stats;

pub use input::{
    Action, Actions, Handshake, Identity, Input, Reason, Reference, Refusal, Slice, VerifyError,
};
pub use stats::Stats;

use crate::{
    id::{ConnectionId, DeliveryId},
    limits::ShardLimits,
    stream::StreamName,
    time::{Instant, UnixMillis},
};

/// The client side of one worker.
#[derive(Debug)]
pub struct Shard {}

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
        todo!()
    }

    /// Takes one input and appends what is to be done. `actions` must be empty.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, actions: &mut Actions) {
        todo!()
    }

    /// When to come back with `Input::TimedOut`, and why; none when nothing is pending.
    pub fn next_deadline(&self) -> Option<(Instant, Reason)> {
        todo!()
    }

    /// Continues the walk of a fan-out: appends at most `at_most` receivers. Appends none when it is
    /// over; then `Input::Delivered` is due.
    pub fn next_members(
        &mut self,
        delivery: DeliveryId,
        at_most: usize,
        out: &mut Vec<ConnectionId>,
    ) {
        todo!()
    }

    /// What it has counted.
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Calls `visit` with each room (and `all`) that has members, and how many.
    pub fn rooms(&self, visit: &mut dyn FnMut(&StreamName, u32)) {
        todo!()
    }

    /// A fingerprint of the whole state: equal states have equal ones, on every machine.
    pub fn state_hash(&self) -> u64 {
        todo!()
    }
}
