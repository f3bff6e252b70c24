//! When heads are read again that could not be read, and how long members wait for that.

use std::time::Duration;

use crate::time::Instant;

use super::{Action, Relay, Turn, streams::StreamIndex};

/// What is known of reads that failed.
#[derive(Debug, Default, Hash)]
pub(super) struct Retries {
    /// Some stream waits to be read again.
    waiting: bool,
    /// When those that waited were last hurried.
    hurried: Option<Instant>,
}

impl Relay {
    /// The head of a stream that is not live could not be read: it is read again after a while, and
    /// nobody waits for that.
    pub(super) fn head_unreadable(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        turn.actions.push(Action::Reach("relay_head_unreadable"));
        self.retries.waiting = true;
        let busy = self.streams[index].busy();
        busy.failures += 1;
        busy.reads = 0;
        let (pause, by) = (backoff(busy.failures), busy.repair_by);
        let retry = turn.now + pause / 2 + self.some(pause / 2);
        self.set_timer(index, Some(by.map_or(retry, |by| by.min(retry))));
        self.refuse_all(index, turn);
    }

    /// The broker has answered a read: what waits to be read again need not wait for long any more.
    /// What can't be read for reasons of its own is no reason to try all the time.
    pub(super) fn hurry_reads(&mut self, turn: &mut Turn<'_>) {
        let lately = |hurried| turn.now.saturating_since(hurried) < RETRY_MAX;
        if !self.retries.waiting || self.retries.hurried.is_some_and(lately) {
            return;
        }
        self.retries = Retries { waiting: false, hurried: Some(turn.now) };
        let waits = |index: &StreamIndex| {
            let stream = &self.streams[*index];
            stream.busy.as_ref().is_some_and(|busy| busy.failures > 0) && stream.awaits_retry()
        };
        let waiting: Vec<_> = self.streams.indices().into_iter().filter(waits).collect();
        let count = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        let spread = RETRY_PACE.saturating_mul(count).min(RETRY_MAX);
        for index in waiting {
            turn.actions.push(Action::Reach("relay_reads_hurried"));
            let busy = self.streams[index].busy();
            busy.failures = 1;
            let (timer, soon) = (busy.timer, turn.now + self.some(spread));
            self.set_timer(index, Some(timer.map_or(soon, |timer| timer.min(soon))));
        }
    }

    /// A durable entry is held. Its members wait for the head no longer than for a certain time.
    pub(super) fn wait_for_head(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let busy = self.streams[index].busy();
        if busy.repair_by.is_none() {
            let by = turn.now + self.limits.repair_timeout;
            busy.repair_by = Some(by);
            let timer = busy.timer.map_or(by, |timer| timer.min(by));
            self.set_timer(index, Some(timer));
        }
    }

    /// The time of a stream with members has come: its head is read again, or what is held has
    /// waited for it long enough, and members are given that. What they lack, the head tells when
    /// it is known.
    pub(super) fn head_timed_out(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        if self.streams[index].busy().repair_by.is_none_or(|by| by > turn.now) {
            return self.read_head(index, turn);
        }
        turn.actions.push(Action::Reach("relay_repair_timed_out"));
        self.give_held(index, turn);
        if self.streams[index].awaits_retry() {
            self.read_head(index, turn);
        }
    }

    fn some(&mut self, at_most: Duration) -> Duration {
        Duration::from_nanos(self.rng.below(u64::try_from(at_most.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// How long to wait before a head is read again, after so many failures in a row, less a jitter of
/// up to a half.
fn backoff(failures: u32) -> Duration {
    (RETRY_MIN * 2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(RETRY_MAX)
}

/// First pause before a head that could not be read is read again.
const RETRY_MIN: Duration = Duration::from_millis(200);

/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// From one hurried read to the next, on average.
const RETRY_PACE: Duration = Duration::from_millis(1);
