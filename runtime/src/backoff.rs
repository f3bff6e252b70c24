//! Pauses between attempts to reach something that is away.

use std::time::Duration;

use realtime_core::rng::Rng;

/// Pauses that double from 50 ms to 5 s, each shortened by up to half at random, so that many
/// instances don't come back at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    rng: Rng,
    pause_max: Duration,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), pause_max: FIRST }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause_max_ms = u64::try_from(self.pause_max.as_millis()).unwrap_or(u64::MAX);
        self.pause_max = (self.pause_max * 2).min(LAST);
        let half_ms = pause_max_ms / 2;
        Duration::from_millis(pause_max_ms - self.rng.below(half_ms + 1))
    }

    /// An attempt has succeeded: the next pause is the shortest one.
    pub(crate) fn reset(&mut self) {
        self.pause_max = FIRST;
    }
}

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new(7);
        let mut pause_max_ms = 50;
        for _ in 0..12 {
            let pause = backoff.pause();
            assert!(pause <= Duration::from_millis(pause_max_ms), "{pause:?}");
            assert!(pause >= Duration::from_millis(pause_max_ms / 2), "{pause:?}");
            pause_max_ms = (pause_max_ms * 2).min(5_000);
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(50));
    }
}
