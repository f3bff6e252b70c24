//! Every decision of the realtime service, as two pure state machines.
//!
//! [`shard::Shard`] is the client side (connections, users, rooms, limits), one per worker thread;
//! [`relay::Relay`] is the cluster side (interest, positions, order), one per instance. Both are
//! functions of `(state, now, input)` to `(state, actions)`: no clock, no randomness but a seed, no
//! threads, no async. The runtime moves bytes and carries actions out; it decides nothing.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

/// Whether the planted bug of this name is on. Without `cfg(planted_bugs)` there are none.
#[cfg(planted_bugs)]
macro_rules! planted {
    ($name:literal) => {
        crate::planted::on($name)
    };
}

/// Whether the planted bug of this name is on. Without `cfg(planted_bugs)` there are none.
#[cfg(not(planted_bugs))]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}

pub mod cluster;
pub mod entry;
mod fingerprint;
#[doc(hidden)]
pub mod fuzzing;
pub mod id;
mod intern;
pub mod limits;
pub mod link;
#[cfg(planted_bugs)]
pub mod planted;
pub mod relay;
pub mod rng;
pub mod shard;
mod slab;
pub mod stream;
pub mod time;
pub mod transcript;
mod wheel;
pub mod wire;
