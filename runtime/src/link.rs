//! The relay thread: one [`Relay`](realtime_core::relay::Relay) and the subscription connection.

use realtime_core::{
    id::{Mid, WorkerId},
    link::ToRelay,
    stream::StreamName,
    time::Instant,
};
use tokio::sync::oneshot;

/// What other threads tell the relay thread.
#[derive(Debug)]
pub enum LinkCommand {
    /// A shard said something.
    FromShard(WorkerId, ToRelay),
    /// The service is about to publish `mid`.
    Expected {
        /// The publication.
        mid: Mid,
        /// Its stream.
        stream: StreamName,
        /// When the service stops waiting.
        deadline: Instant,
        /// Gets the number of connections of this instance that it was handed to. Dropped when
        /// that can't be told.
        receipt: oneshot::Sender<u32>,
    },
    /// The broker has published `mid`.
    Published {
        /// The publication.
        mid: Mid,
    },
}

/// How the broker is, for readiness and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkHealth {
    /// A probe has come back over the present subscription connection, and none is overdue.
    pub reachable: bool,
    /// Since when it is not, by the instance's clock; none while it is. From the start until the first success it is the
    /// start.
    pub away_since: Option<Instant>,
    /// It has been reachable at least once.
    pub ever_reachable: bool,
    /// Subscription connections opened after the first.
    pub reconnects: u64,
    /// Streams subscribed.
    pub subscriptions: u64,
    /// What the relay has counted.
    pub relay: realtime_core::relay::RelayStats,
}
