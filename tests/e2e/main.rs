//! End-to-end tests: the real binary on loopback, with a real redis-server where one is needed.
//! One binary with a module a topic, because linking is what takes the time.
#![allow(
    clippy::disallowed_methods,
    reason = "tests stand outside of the service: real sockets and the real clock"
)]
#![allow(unreachable_pub, reason = "the harness is written as a library")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

#[path = "../common/mod.rs"]
mod common;

mod acks;
mod browser;
mod cluster;
mod config;
mod drain;
mod grpc_calls;
mod grpc_edge;
mod handshake;
mod hostile;
mod http;
mod ingress;
mod latest;
mod limits;
mod messages;
mod metrics;
mod outage;
mod proof;
mod receipts;
mod recording;
mod resume;
mod rollback;
mod rooms;
mod slow;
mod tokens;
