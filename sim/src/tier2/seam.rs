//! Time and randomness of the run on this thread. The binary answers libc's questions with them.

use std::{cell::Cell, time::Duration};

use realtime_core::rng::Rng;

use crate::random::labelled;

/// A run begins on this thread; none may have begun on it before, since threads cache randomness.
pub(crate) fn begin(seed: u64) {
    RNG.set(Some(labelled(seed, "entropy")));
    set_elapsed(Duration::ZERO);
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

/// Simulated time since the beginning of 1970; none without a run.
pub fn unix() -> Option<Duration> {
    ELAPSED.get().map(|elapsed| UNIX_START + elapsed)
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
    // Neither has a destructor, so both can be asked at any moment of a thread's life.
    static ELAPSED: Cell<Option<Duration>> = const { Cell::new(None) };
    static RNG: Cell<Option<Rng>> = const { Cell::new(None) };
}

/// When every run begins: in March 2026.
pub(crate) const UNIX_START: Duration = Duration::from_secs(1_772_000_000);

const MONOTONIC_START: Duration = Duration::from_secs(100_000);
