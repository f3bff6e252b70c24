//! Sockets, threads, Redis, gRPC and HTTP around `realtime-core`, which makes the decisions.
#![forbid(unsafe_code)]

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
pub mod server;
pub mod service;
pub mod socket;
pub mod token;
pub mod worker;
