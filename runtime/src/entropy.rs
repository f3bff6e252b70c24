//! The one place where randomness comes in.

use realtime_core::id::{BootId, Epoch, Mid};

use crate::clock::Clock;

/// 64 random bits, from the operating system.
///
/// # Panics
/// When the operating system has no randomness to give, which it promises to have.
pub fn random() -> u64 {
    getrandom::u64().expect("the operating system gives randomness")
}

/// Names a publication. Never 0, which stands for "none".
pub fn fresh_mid() -> Mid {
    Mid(random().max(1))
}

/// Names this life of the process.
pub fn fresh_boot_id() -> BootId {
    BootId(random())
}

/// A numbering that begins at present.
pub fn fresh_epoch(clock: Clock) -> Epoch {
    if planted!("reuse an epoch") {
        return Epoch(1);
    }
    Epoch((clock.unix().0 << EPOCH_RANDOM_BITS) | (random() >> (u64::BITS - EPOCH_RANDOM_BITS)))
}

/// `epoch`, or one like it that began after `known`, whose instance may have a clock that is ahead.
pub fn epoch_after(known: Epoch, epoch: Epoch) -> Epoch {
    let time = (epoch.0 >> EPOCH_RANDOM_BITS).max((known.0 >> EPOCH_RANDOM_BITS) + 1);
    Epoch((time << EPOCH_RANDOM_BITS) | (epoch.0 & EPOCH_RANDOM))
}

/// The lower bits of an epoch; the 42 above hold milliseconds until the year 2109.
const EPOCH_RANDOM_BITS: u32 = 22;

/// All of the lower bits of an epoch.
pub const EPOCH_RANDOM: u64 = (1 << EPOCH_RANDOM_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_carries_the_millisecond_of_its_creation() {
        let clock = Clock::new();
        let before = clock.unix().0;
        let epoch = fresh_epoch(clock);
        let after = clock.unix().0;
        assert!((before..=after).contains(&(epoch.0 >> 22)));
        assert_ne!(epoch, fresh_epoch(clock));
    }

    #[test]
    fn an_epoch_in_the_place_of_another_is_later_whatever_the_clock_says() {
        let epoch = Epoch((1_000 << 22) | 77);
        assert_eq!(epoch_after(Epoch(999 << 22), epoch), epoch);
        for known in [(1_000 << 22) | 5, 1_000 << 22 | 99, (5_000 << 22) | 77] {
            let after = epoch_after(Epoch(known), epoch);
            assert_eq!((after.0 >> 22, after.0 & 0x3F_FFFF), ((known >> 22) + 1, 77));
        }
    }
}
