//! What the machines count is what the world around them saw.

use realtime_core::{shard::Stats, wire::Kind};

use super::{Failure, Verdict};

/// What the world saw of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections with a user, at present.
    pub authenticated: u32,
    /// Open connections without one.
    pub anonymous: u32,
    /// Connections accepted.
    pub accepted: u64,
    /// Messages sent, by kind.
    pub sent: [u64; Kind::COUNT],
    /// Messages received.
    pub received: u64,
    /// Closes that the shard began.
    pub closes: u64,
    /// Handshakes that were refused.
    pub refusals: u64,
}

/// Compares.
pub fn judge(stats: &Stats, seen: &Counts) -> Verdict {
    let told = Counts {
        authenticated: stats.authenticated,
        anonymous: stats.anonymous,
        accepted: stats.accepted,
        sent: stats.sent,
        received: stats.received.iter().sum(),
        closes: stats.closes.iter().sum(),
        refusals: stats.refusals.iter().sum(),
    };
    if told != *seen {
        return Err(Failure::new("gauges", format!("told {told:?}, seen {seen:?}")));
    }
    if (stats.handshaking, stats.parked_joins, stats.congested) != (0, 0, 0) {
        return Err(Failure::new("gauges", format!("something is left over: {stats:?}")));
    }
    Ok(())
}
