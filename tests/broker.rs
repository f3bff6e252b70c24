//! The brokers, and the relay on top of them. Starts real Redis servers on free ports.
#![allow(clippy::disallowed_methods, reason = "tests stand outside of the seams")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

#[path = "broker/both.rs"]
mod both;
#[path = "broker/common.rs"]
mod common;
#[path = "broker/link.rs"]
mod link;
#[path = "broker/redis.rs"]
mod redis;
#[path = "broker/redis_server.rs"]
mod redis_server;
#[path = "broker/rollback.rs"]
mod rollback;
