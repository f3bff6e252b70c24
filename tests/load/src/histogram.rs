//! Counts times in buckets that are 1/16 wide.

use std::{collections::BTreeMap, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Nanoseconds on a clock that all processes of this machine share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let since_boot = Duration::try_from(now).unwrap_or_default();
    u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX)
}

/// How many times were how long.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Histogram {
    /// By bucket: four bits behind the leading one, and its place.
    counts: BTreeMap<u64, u64>,
}

/// What is reported of a histogram.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Histogram {
    pub(crate) fn add(&mut self, ns: u64) {
        *self.counts.entry(bucket(ns)).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.counts {
            *self.counts.entry(*bucket).or_default() += count;
        }
    }

    /// None when nothing was counted.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let count: u64 = self.counts.values().sum();
        (count > 0).then(|| Percentiles {
            count,
            p50_us: self.at_us(count, 0.5),
            p90_us: self.at_us(count, 0.9),
            p99_us: self.at_us(count, 0.99),
            max_us: self.at_us(count, 1.0),
        })
    }

    /// The upper end of the bucket that holds the given share of all.
    fn at_us(&self, count: u64, share: f64) -> f64 {
        let mut left = (count as f64 * share).ceil();
        for (bucket, count) in &self.counts {
            left -= *count as f64;
            if left <= 0.0 {
                return upper(*bucket) as f64 / 1e3;
            }
        }
        f64::NAN
    }
}

fn bucket(ns: u64) -> u64 {
    let place = u64::from(ns.max(16).ilog2()) - 4;
    place * 16 + (ns >> place)
}

/// The first value of the next bucket.
fn upper(bucket: u64) -> u64 {
    let place = (bucket / 16).saturating_sub(1);
    (bucket - place * 16 + 1) << place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_off_by_a_sixteenth_at_most() {
        for ns in [1, 15, 16, 17, 31, 32, 1_000, 123_456_789] {
            let above = upper(bucket(ns));
            assert!(above > ns && above <= ns + ns / 16 + 1, "{ns}: {above}");
        }
        let mut histogram = Histogram::default();
        (1..=100_u64).for_each(|ms| histogram.add(ms * 1_000_000));
        let percentiles = histogram.percentiles().unwrap();
        assert!((50_000.0..53_500.0).contains(&percentiles.p50_us), "{percentiles:?}");
        assert!((99_000.0..106_000.0).contains(&percentiles.p99_us), "{percentiles:?}");
    }
}
