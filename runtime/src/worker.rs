//! A worker thread.

use std::time::Duration;

use realtime_core::{shard::Stats, stream::StreamName};
use tokio::sync::oneshot;

/// What other threads ask of a worker.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Report what there is.
    Snapshot {
        /// Whether to list the rooms.
        rooms: bool,
        /// Where to.
        reply: oneshot::Sender<Snapshot>,
    },
    /// Refuse newcomers and close everyone, evenly over `period`.
    Drain {
        /// From the first close to the last.
        period: Duration,
    },
}

/// What a worker reports.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What its shard counted.
    pub stats: Stats,
    /// Members of each room, when asked for; without users' streams, with `all`.
    pub rooms: Vec<(StreamName, u32)>,
    /// Bytes in all outboxes.
    pub queued_bytes: u64,
    /// Publish-to-write times since the last snapshot, by bucket of [`LATENCY_BUCKETS_S`], the last for longer ones.
    pub latency: [u64; LATENCY_BUCKETS_S.len() + 1],
    /// Sum of those times, in seconds.
    pub latency_sum_s: f64,
    /// Times that accepting failed for want of files.
    pub accept_failures: u64,
}

/// Upper bounds of the delivery latency histogram, in seconds.
pub const LATENCY_BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
