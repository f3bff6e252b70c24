//! Sockets, threads, Redis, gRPC and HTTP around `realtime-core`, which makes the decisions.
#![forbid(unsafe_code)]

/// Whether the planted bug of this name is on. Without `cfg(planted_bugs)` there are none.
#[cfg(planted_bugs)]
macro_rules! planted {
    ($name:literal) => {
        realtime_core::planted::on($name)
    };
}

/// Whether the planted bug of this name is on. Without `cfg(planted_bugs)` there are none.
#[cfg(not(planted_bugs))]
macro_rules! planted {
    ($name:literal) => {
        false
    };
}

pub mod auth;
mod backoff;
pub mod broker;
pub mod clock;
pub mod config;
pub mod entropy;
mod fnv;
mod grpc;
pub mod handshake;
pub mod http;
pub mod link;
pub mod log;
pub mod metrics;
pub mod net;
pub mod outbox;
#[cfg(planted_bugs)]
pub mod planted;
pub mod record;
pub mod server;
pub mod service;
pub mod socket;
pub mod token;
pub mod worker;
