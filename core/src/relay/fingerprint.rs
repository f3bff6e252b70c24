//! The hash that fingerprints a state: the same on every machine, unlike the one of std.

use std::hash::{Hash, Hasher};

/// FNV-1a over 64-bit words.
#[derive(Debug)]
pub(super) struct Fingerprint(u64);

/// The fingerprint of one value.
pub(super) fn of(value: &impl Hash) -> u64 {
    let mut hasher = Fingerprint(0xCBF2_9CE4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        // The rotation carries upper bits down, which a multiplication alone never does.
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x0000_0100_0000_01B3);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
