//! Randomness by label, so that one draw more in one place does not shift those of another.

use realtime_core::rng::Rng;

use crate::trace::{FNV_BASIS, fnv1a};

/// The generator that `label` names under `seed`.
pub fn labelled(seed: u64, label: &str) -> Rng {
    // FNV-1a: stable everywhere, and good enough to tell labels apart.
    let mut rng = Rng::new(seed ^ fnv1a(FNV_BASIS, label.as_bytes()));
    let start = rng.next();
    Rng::new(start)
}
