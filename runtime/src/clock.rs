//! The one place where time is read.

use std::time::{SystemTime, UNIX_EPOCH};

use realtime_core::time::{Instant, UnixMillis};

/// Reads the time. All machines of an instance share one origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock whose origin is the present.
    #[expect(clippy::new_without_default, reason = "a clock made by accident has another origin")]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn new() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    /// The present, for deadlines.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(self) -> Instant {
        let since = tokio::time::Instant::now() - self.origin;
        Instant(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// A deadline as tokio's timers want it.
    pub fn tokio(self, at: Instant) -> tokio::time::Instant {
        self.origin + std::time::Duration::from_nanos(at.0)
    }

    /// The wall clock.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn unix(self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
