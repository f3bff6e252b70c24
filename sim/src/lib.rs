//! The machines of `realtime-core` in a deterministic simulated cluster: several instances, each
//! with its shards and its relay, a model broker between them, clients and publishers around them.
//!
//! One seed gives one [`Plan`](plan::Plan), one plan gives one run, event by event the same.
#![forbid(unsafe_code)]

pub mod at;
pub mod broker;
pub mod cli;
mod explain;
pub mod frames;
mod generate;
pub mod hearing;
pub mod oracle;
pub mod plan;
pub mod random;
pub mod recording;
pub mod redis;
pub mod session;
pub mod shrink;
mod sweep;
pub mod tier1;
pub mod tier2;
pub mod timeline;
mod trace;
pub mod truth;
pub mod world;
