//! A Redis for simulations: the commands that the service uses, on simulated time.
//!
//! Scripts are not imitated: a real Lua runs the very text that the service sends. What is
//! imitated, the keys and commands below the scripts, is compared with a real server by
//! `tests/redis_twin.rs`, and so is what the scripts make of them.

mod resp;
mod script;
mod store;

pub use resp::{Reply, Request, parse};
pub use store::{Published, Redis, Snapshot};
