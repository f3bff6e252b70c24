//! The machines come to rest: no more than so much happens in a simulated second.

use realtime_core::time::Instant;

use super::{Failure, Verdict};

/// Counts what happens.
#[derive(Debug, Default)]
pub struct Work {
    second: u64,
    happened: u64,
}

impl Work {
    /// Something happens.
    pub fn happened(&mut self, now: Instant) -> Verdict {
        let second = now.0 / 1_000_000_000;
        if second != self.second {
            *self = Self { second, happened: 0 };
        }
        self.happened += 1;
        if self.happened > WORK_MAX {
            let what = format!("more than {WORK_MAX} things happened in second {second}");
            return Err(Failure::new("work", what));
        }
        Ok(())
    }
}

/// Far more than any plan gives cause for.
const WORK_MAX: u64 = 50_000;
