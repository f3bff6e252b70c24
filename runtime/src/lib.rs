//! Sockets, threads, Redis, gRPC and HTTP around `realtime-core`, which makes the decisions.
#![forbid(unsafe_code)]

pub mod auth;
pub mod broker;
pub mod clock;
pub mod config;
pub mod http;
pub mod link;
pub mod net;
pub mod token;
pub mod worker;
