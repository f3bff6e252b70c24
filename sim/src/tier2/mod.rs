//! The whole service in a simulated cluster: the runtime as it runs in production, on a simulated
//! network, with a simulated Redis, in simulated time.
//!
//! One seed gives one [`Plan`](plan::Plan), one plan gives one trace, byte by byte the same. Only
//! the network, the clock and the source of randomness are replaced: `net` and `seam`.

pub(crate) mod bench;
pub(crate) mod cli;
mod client;
mod clocks;
mod host;
mod journal;
mod judge;
mod lower;
mod net;
pub mod plan;
mod probe;
mod publisher;
mod redis_host;
pub mod run;
pub mod seam;
mod trace;
mod truth;
mod twins;
