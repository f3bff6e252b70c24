//! Randomness by label, so that one draw more in one place does not shift those of another.

use realtime_core::rng::Rng;

/// The generator that `label` names under `seed`.
pub fn labelled(seed: u64, label: &str) -> Rng {
    // FNV-1a: stable everywhere, and good enough to tell labels apart.
    let hash = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut rng = Rng::new(seed ^ hash);
    let start = rng.next();
    Rng::new(start)
}
