//! What is counted. Shards and the relay count for themselves and are asked at scrape time; what
//! the service thread counts is here.

mod exposition;
mod overview;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use realtime_core::{stream::StreamKind, wire::Kind};

pub use exposition::{CONTENT_TYPE, Scrape, expose};
pub use overview::{Overview, Workers};

/// Counters of the service thread. All are totals since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Publishes that were carried out, by type and whether somebody was reached.
    notifications: [[AtomicU64; 2]; Kind::COUNT],
    /// Calls, by method and gRPC code.
    calls: [[AtomicU64; CODES.len()]; METHODS.len()],
    /// How long calls took, by method.
    call_durations: [Durations; METHODS.len()],
    /// Messages published, by kind of channel.
    published: [AtomicU64; PUBLISHED_CHANNELS.len()],
    /// Errors, by index in [`SERVICE_ERRORS`].
    errors: [AtomicU64; SERVICE_ERRORS.len()],
    /// Open gRPC connections.
    grpc_connections: AtomicU64,
    /// Open plain HTTP connections.
    http_connections: AtomicU64,
}

/// Something that went wrong in the service thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceError {
    /// A publish was refused or can't have happened: the broker is away.
    PublishUnavailable,
    /// Whether a publish happened is not known.
    PublishUnknown,
    /// A gRPC connection could not be accepted.
    GrpcAccept,
    /// A metrics connection could not be accepted.
    HttpAccept,
    /// A plain HTTP connection was cut off, since others came and there were too many.
    HttpRefused,
}

/// The labels of [`ServiceError`], in order.
pub const SERVICE_ERRORS: [&str; 5] =
    ["publish_unavailable", "publish_unknown", "grpc_accept", "http_accept", "http_refused"];

/// Methods, as metrics name them; the last stands for every name that is not a method.
pub const METHODS: [&str; 7] = [
    "NotifyBookingResult",
    "NotifyQueuePosition",
    "NotifyPaymentStatus",
    "BroadcastEvent",
    "SendToUser",
    "GetConnectionStats",
    "other",
];

/// The names of gRPC's codes, by number.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Kinds of streams that this service publishes to.
const PUBLISHED_CHANNELS: [&str; 2] = ["user", "room"];

impl Counters {
    /// A publish was carried out and reached `recipients` connections.
    pub fn notified(&self, kind: &str, delivered: bool) {
        self.notifications[Kind::of(kind).index()][usize::from(delivered)]
            .fetch_add(1, Ordering::Relaxed);
    }

    /// A message went out on the channel of a stream.
    pub fn published(&self, stream: StreamKind<'_>) {
        let channel = match stream {
            StreamKind::User(_) => 0,
            StreamKind::Room(_) | StreamKind::All => 1,
        };
        self.published[channel].fetch_add(1, Ordering::Relaxed);
    }

    /// A call ended. `method` is an index into [`METHODS`], `code` one into [`CODES`].
    pub fn called(&self, method: usize, code: usize, took: Duration) {
        self.calls[method][code].fetch_add(1, Ordering::Relaxed);
        self.call_durations[method].observe(took);
    }

    /// Something went wrong.
    pub fn failed(&self, error: ServiceError) {
        self.errors[error as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The number of open gRPC connections.
    pub fn grpc_connections(&self) -> &AtomicU64 {
        &self.grpc_connections
    }

    /// The number of open plain HTTP connections.
    pub fn http_connections(&self) -> &AtomicU64 {
        &self.http_connections
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
struct Durations {
    /// Not cumulative; the last one has no upper bound.
    buckets: [AtomicU64; DURATION_BUCKETS_S.len() + 1],
    sum_ns: AtomicU64,
}

impl Durations {
    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = DURATION_BUCKETS_S.partition_point(|&bound| bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

/// Upper bounds of the histogram of calls, in seconds. Half of them are around the time that a
/// receipt may take.
const DURATION_BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0];
