//! Numbers as ids and entries write them. Each value has exactly one text, and only that is read.

/// Reads a decimal number: digits only, no leading zero.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.len() > 1 && text[0] == b'0' {
        return None;
    }
    digits(text, 10)
}

/// Reads a hexadecimal number: lower-case digits, no leading zero.
pub(crate) fn hex(text: &[u8]) -> Option<u64> {
    if text.len() > 1 && text[0] == b'0' {
        return None;
    }
    digits(text, 16)
}

/// Reads a hexadecimal number of exactly `N` lower-case digits.
pub(crate) fn hex_padded<const N: usize>(text: &[u8]) -> Option<u64> {
    if text.len() != N {
        return None;
    }
    digits(text, 16)
}

fn digits(text: &[u8], base: u64) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        let digit = u64::from(digit);
        if digit >= base {
            return None;
        }
        value.checked_mul(base)?.checked_add(digit)
    })
}
