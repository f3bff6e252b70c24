//! The cluster side of an instance.

mod input;

pub use input::{Action, Channel, Ingress, Input, RunId};
mod stats;
pub use stats::RelayStats;

use crate::{limits::RelayLimits, time::Instant};

/// The cluster side of one instance.
#[derive(Debug)]
pub struct Relay {}

impl Relay {
    /// A relay without a broker connection and without interest.
    pub fn new(limits: RelayLimits, seed: u64, now: Instant) -> Self {
        todo!()
    }

    /// Takes one input and appends what is to be done. `actions` must be empty.
    pub fn handle(&mut self, now: Instant, input: Input, actions: &mut Vec<Action>) {
        todo!()
    }

    /// When to come back with `Input::TimedOut`; none when nothing is pending.
    pub fn next_deadline(&self) -> Option<Instant> {
        todo!()
    }

    /// What it has counted.
    pub fn stats(&self) -> RelayStats {
        todo!()
    }

    /// A fingerprint of the whole state: equal states have equal ones, on every machine.
    pub fn state_hash(&self) -> u64 {
        todo!()
    }
}
