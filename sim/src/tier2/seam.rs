//! Time and randomness of the run on this thread. The binary answers libc's questions with them.

use std::{cell::Cell, time::Duration};

use realtime_core::rng::Rng;

use crate::random::labelled;

/// A run begins on this thread; none may have begun on it before, since threads cache randomness.
pub(crate) fn begin(seed: u64) {
    RNG.set(Some(labelled(seed, "entropy")));
    set_elapsed(Duration::ZERO);
    set_ahead(0);
}

/// The wall clock of the host at work is so many milliseconds ahead, or behind.
pub(super) fn set_ahead(ms: i64) {
    AHEAD_MS.set(ms);
}

/// The run has come so far.
pub(crate) fn set_elapsed(elapsed: Duration) {
    ELAPSED.set(Some(elapsed));
}

/// Whether a run has begun on this thread.
pub fn is_active() -> bool {
    ELAPSED.get().is_some()
}

/// Simulated time for deadlines; none without a run.
pub fn monotonic() -> Option<Duration> {
    // Some subtract from it, so it does not begin at zero.
    ELAPSED.get().map(|elapsed| MONOTONIC_START + elapsed)
}

/// Simulated time since the beginning of 1970, by the clock of the host at work; none without a
/// run.
pub fn unix() -> Option<Duration> {
    let unix = UNIX_START + elapsed()?;
    let ahead_ms = AHEAD_MS.get();
    let off = Duration::from_millis(ahead_ms.unsigned_abs());
    Some(if ahead_ms < 0 { unix - off } else { unix + off })
}

/// How far the run has come; none without one.
pub(super) fn elapsed() -> Option<Duration> {
    ELAPSED.get()
}

/// Fills `bytes` with the randomness of the run, if there is one.
pub fn fill(bytes: &mut [u8]) {
    let Some(mut rng) = RNG.take() else { return };
    for chunk in bytes.chunks_mut(size_of::<u64>()) {
        chunk.copy_from_slice(&rng.next().to_le_bytes()[..chunk.len()]);
    }
    RNG.set(Some(rng));
}

thread_local! {
    // None has a destructor, so all can be asked at any moment of a thread's life.
    static ELAPSED: Cell<Option<Duration>> = const { Cell::new(None) };
    static AHEAD_MS: Cell<i64> = const { Cell::new(0) };
    static RNG: Cell<Option<Rng>> = const { Cell::new(None) };
}

/// When every run begins: in March 2026.
pub(crate) const UNIX_START: Duration = Duration::from_secs(1_772_000_000);

const MONOTONIC_START: Duration = Duration::from_secs(100_000);
