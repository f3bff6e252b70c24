//! The log: one line an occurrence, to standard error.
//!
//! Levels: what happens to a frame is TRACE, to a connection DEBUG, to the instance INFO; WARN is
//! worth waking someone, ERROR means that the instance ends. Names of users and rooms appear at
//! DEBUG and below only.

use std::io;

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::Config;

/// Starts logging as configured. Does nothing when something else logs already.
pub fn init(config: &Config) {
    // The parser of the configuration has tried it.
    let filter = EnvFilter::builder().parse_lossy(&config.log_level);
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    let _already = if config.log_json {
        builder.json().flatten_event(true).finish().try_init()
    } else {
        builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).finish().try_init()
    };
}
