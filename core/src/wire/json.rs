//! Writing JSON and frames without allocating, and the little reading that serde does not do.

use crate::id::Position;

/// Where text goes. A message is written twice, first into a [`Length`] and then into bytes, so
/// that a frame's header comes out right at once and a publication is allocated at its exact size.
pub(super) trait Sink {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts bytes.
struct Length(usize);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Appends one unmasked text frame (RFC 6455 §5.2) with what `write` writes.
pub(super) fn text_frame(out: &mut Vec<u8>, write: impl Fn(&mut dyn Sink)) {
    let mut length = Length(0);
    write(&mut length);
    out.reserve(length.0 + HEADER_BYTES_MAX);
    header(out, length.0);
    write(out);
}

/// One unmasked text frame with what `write` writes, in a buffer of just its size.
pub(super) fn text_frame_alone(write: impl Fn(&mut dyn Sink)) -> Vec<u8> {
    let mut length = Length(0);
    write(&mut length);
    let mut prefix = Length(0);
    header(&mut prefix, length.0);
    let mut out = Vec::with_capacity(prefix.0 + length.0);
    header(&mut out, length.0);
    write(&mut out);
    out
}

/// The first bytes of a text frame, with the shortest form of its length.
fn header(out: &mut dyn Sink, length: usize) {
    const FIN_TEXT: u8 = 0x81;
    if let Ok(short) = u8::try_from(length)
        && short < 126
    {
        out.put(&[FIN_TEXT, short]);
    } else if let Ok(medium) = u16::try_from(length) {
        out.put(&[FIN_TEXT, 126]);
        out.put(&medium.to_be_bytes());
    } else {
        out.put(&[FIN_TEXT, 127]);
        out.put(&(length as u64).to_be_bytes());
    }
}

/// Writes a JSON string.
pub(super) fn string(out: &mut dyn Sink, text: &str) {
    out.put(b"\"");
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.put(&bytes[written..at]);
        written = at + 1;
        match byte {
            b'"' => out.put(b"\\\""),
            b'\\' => out.put(b"\\\\"),
            _ => {
                out.put(b"\\u00");
                out.put(&hex_digits::<2>(u64::from(byte)));
            }
        }
    }
    out.put(&bytes[written..]);
    out.put(b"\"");
}

/// Writes a JSON string, or null.
pub(super) fn string_or_null(out: &mut dyn Sink, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.put(b"null"),
    }
}

/// Writes `true` or `false`.
pub(super) fn boolean(out: &mut dyn Sink, value: bool) {
    out.put(if value { b"true" } else { b"false" });
}

/// Writes a number.
pub(super) fn decimal(out: &mut dyn Sink, value: u64) {
    let mut digits = [0; 20]; // u64::MAX has 20.
    let mut start = digits.len();
    let mut rest = value;
    loop {
        start -= 1;
        digits[start] = HEX[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put(&digits[start..]);
}

/// Writes a number in hexadecimal digits, without padding.
pub(super) fn hex(out: &mut dyn Sink, value: u64) {
    let digits = hex_digits::<16>(value);
    let zeros = (value.leading_zeros() / 4).min(15) as usize;
    out.put(&digits[zeros..]);
}

/// Writes the `id` of a position, without quotes.
pub(super) fn id(out: &mut dyn Sink, position: Position) {
    hex(out, position.epoch.0);
    out.put(b"-");
    decimal(out, position.offset);
    out.put(b"-");
    out.put(&hex_digits::<8>(u64::from(position.check())));
}

/// Writes the `id` of a position as a JSON string, or null.
pub(super) fn id_or_null(out: &mut dyn Sink, position: Option<Position>) {
    match position {
        Some(position) => {
            out.put(b"\"");
            id(out, position);
            out.put(b"\"");
        }
        None => out.put(b"null"),
    }
}

/// The lowest `N` hexadecimal digits of a number.
pub(super) fn hex_digits<const N: usize>(value: u64) -> [u8; N] {
    let mut digits = [0; N];
    let mut rest = value;
    for digit in digits.iter_mut().rev() {
        *digit = HEX[(rest % 16) as usize];
        rest /= 16;
    }
    digits
}

/// Takes off what JSON regards as white space (RFC 8259 §2).
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

/// Whether a valid JSON text has more than [`NESTING_MAX`] arrays and objects in one another.
/// serde's own limit does not count what it skips, and a receiver may parse recursively.
pub(super) fn is_too_deep(text: &str) -> bool {
    if text.len() <= 2 * NESTING_MAX {
        return false; // Each level takes two bytes.
    }
    let mut depth = 0;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => (),
        }
        if depth > NESTING_MAX as isize {
            return true;
        }
    }
    false
}

/// Skips what is left of a string, and its closing quotation mark.
fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => _ = bytes.next(),
            _ => (),
        }
    }
}

/// Arrays and objects in one another that a JSON text may have.
pub(super) const NESTING_MAX: usize = 128;

/// A frame of 64 KiB or more, unmasked.
const HEADER_BYTES_MAX: usize = 10;

const HEX: &[u8; 16] = b"0123456789abcdef";
