//! How long publications took from the publisher to the sockets.

use realtime_core::time::UnixMillis;

use super::LATENCY_BUCKETS_S;

/// A histogram since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Latency {
    pub(super) counts: [u64; LATENCY_BUCKETS_S.len() + 1],
    pub(super) sum_s: f64,
}

impl Latency {
    /// Counts one publication. Clocks of hosts differ: what comes from the future took no time.
    pub(super) fn observe(&mut self, published: UnixMillis, now: UnixMillis) {
        let millis = u32::try_from(now.0.saturating_sub(published.0)).unwrap_or(u32::MAX);
        let seconds = f64::from(millis) / 1_000.0;
        let bucket = LATENCY_BUCKETS_S.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum_s += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_the_bucket_whose_bound_they_do_not_exceed() {
        let mut latency = Latency::default();
        for (published, now) in [(1_000, 1_000), (1_000, 900), (1_000, 1_001), (0, 10_000)] {
            latency.observe(UnixMillis(published), UnixMillis(now));
        }
        latency.observe(UnixMillis(0), UnixMillis(10_001));
        assert_eq!(latency.counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert!((latency.sum_s - 20.002).abs() < 1e-9);
    }
}
