//! The hash that fingerprints a state: the same on every machine, unlike the one of std.

use std::hash::{Hash, Hasher};

/// The fingerprint of one value.
pub(crate) fn of(value: &impl Hash) -> u64 {
    let mut hasher = Fingerprint(0xCBF2_9CE4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}

/// FNV-1a over 64-bit words. Not for tables: it can be steered by whoever chooses the input.
#[derive(Debug)]
struct Fingerprint(u64);

impl Fingerprint {
    fn mix(&mut self, word: u64) {
        // The rotation carries upper bits down, which a multiplication alone never does.
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x0000_0100_0000_01B3);
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.mix(u64::from_le_bytes(chunk.try_into().expect("chunks have 8 bytes")));
        }
        for byte in chunks.remainder() {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.mix(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_same_everywhere() {
        assert_eq!(of(&(7u32, "event:123")), 6_893_292_956_367_373_900);
    }

    #[test]
    fn order_and_borders_matter() {
        assert_ne!(of(&("ab", "c")), of(&("a", "bc")));
        assert_ne!(of(&[1u32, 2]), of(&[2u32, 1]));
    }
}
