//! Everything that decodes bytes from outside.

use std::str;

use bytes::Bytes;

use crate::{
    entry::{Body, Entry},
    id::{Epoch, Mid, Position},
    stream::StreamName,
    time::UnixMillis,
    wire::{
        Frame, Kind, TYPE_BYTES_MAX,
        decode::{self, Command, Request},
        encode, is_reserved,
    },
};

/// Takes `data` for everything that comes from outside: a client's message, an id, a message of an
/// ingress channel, a stored entry, a payload, a room pattern.
///
/// # Panics
/// When a decoder accepts what the encoder would not write, or something goes out that clients
/// could not read.
pub fn wire_decode(data: &[u8]) {
    check_entry(&Bytes::copy_from_slice(data));
    check_ingress(data);
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    check_request(text);
    check_payload(text);
    if let Some(since) = decode::since(text) {
        let mid = Mid(u64::from(since.check) << 32);
        let position = Position { epoch: Epoch(since.epoch), offset: since.offset, mid };
        let mut id = Vec::new();
        encode::id(&mut id, position);
        assert_eq!(id, data, "an id has one form only");
    }
    if let Some((pattern, name)) = text.split_once('\n')
        && pattern.len() * name.len() <= 1 << 16
    {
        let matches = decode::pattern_matches(pattern, name);
        assert_eq!(matches, pattern_matches_naively(pattern, name));
    }
}

/// An entry that is read is written as it was.
fn check_entry(bytes: &Bytes) {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(entry.encode(), bytes, "an entry has one form only");
    }
    if let Ok(body) = Body::decode(bytes) {
        assert_eq!(body.encode(), bytes, "a body has one form only");
    }
}

/// What an ingress channel is let to say obeys every limit, and makes a readable frame.
fn check_ingress(data: &[u8]) {
    const PAYLOAD_BYTES_MAX: usize = 4096;
    let Some((stream, body)) = decode::ingress(data, PAYLOAD_BYTES_MAX) else {
        return;
    };
    assert!(!is_reserved(&body.kind));
    assert!((1..=TYPE_BYTES_MAX).contains(&body.kind.len()));
    assert!(body.payload.len() <= PAYLOAD_BYTES_MAX);
    assert_eq!(StreamName::room(stream.as_str()), Ok(stream.clone()), "names are valid");
    let Frame(frame) = encode::publication(&stream, &body, None);
    let text = only_text(&frame);
    assert!(decode::payload(text).is_some(), "a publication is JSON");
    let payload = str::from_utf8(&body.payload).expect("it was checked");
    assert!(text.ends_with(&[",\"payload\":", payload, "}"].concat()), "payloads are not changed");
    assert_eq!(Body::decode(&body.encode()), Ok(body));
}

/// A client's message is understood or refused, and the answer is readable.
fn check_request(text: &str) {
    let Request { kind, reference, command } = decode::request(text);
    match &command {
        Ok(Command::Join { stream, .. } | Command::Leave { stream }) => {
            assert_eq!(StreamName::room(stream.as_str()), Ok(stream.clone()), "names are valid");
        }
        Ok(Command::Subscribe { user }) => assert!(StreamName::user(user).is_ok()),
        Ok(Command::Refresh { .. } | Command::Ack { .. }) => (),
        Ok(Command::Ping) => assert_eq!(kind, Kind::SystemPing),
        Err(mistake) => assert!(!mistake.message.is_empty()),
    }
    if let Some(reference) = &reference {
        assert!(reference.0.len() <= 64);
    }
    let mut out = Vec::new();
    encode::pong(&mut out, UnixMillis(0), reference.as_ref());
    assert!(decode::payload(only_text(&out)).is_some(), "an answer is JSON");
}

/// A payload that is accepted is JSON without white space around it, and accepted again.
fn check_payload(text: &str) {
    if let Some(payload) = decode::payload(text) {
        assert!(payload == "{}" || text.contains(payload), "payloads are not changed");
        assert_eq!(decode::payload(payload), Some(payload));
    }
}

/// The text of the only frame in `bytes`.
///
/// # Panics
/// When `bytes` is anything but one unmasked text frame with the shortest form of its length.
pub(crate) fn only_text(bytes: &[u8]) -> &str {
    let (text, rest) = first_text(bytes);
    assert!(rest.is_empty(), "one frame and nothing behind it");
    text
}

/// The text of the first frame in `bytes`, and what is behind it.
///
/// # Panics
/// When `bytes` does not begin with an unmasked text frame with the shortest form of its length.
pub(super) fn first_text(bytes: &[u8]) -> (&str, &[u8]) {
    assert_eq!(bytes[0], 0x81, "a whole text message");
    let (length, rest) = match bytes[1] {
        126 => {
            let (length, rest) = bytes[2..].split_first_chunk().expect("2 bytes of length");
            let length = u16::from_be_bytes(*length);
            assert!(length > 125, "the length has its shortest form");
            (usize::from(length), rest)
        }
        127 => {
            let (length, rest) = bytes[2..].split_first_chunk().expect("8 bytes of length");
            let length = u64::from_be_bytes(*length);
            assert!(length > u64::from(u16::MAX), "the length has its shortest form");
            (usize::try_from(length).expect("it is in memory"), rest)
        }
        short => (usize::from(short), &bytes[2..]),
    };
    let (text, rest) = rest.split_at_checked(length).expect("the frame is whole");
    (str::from_utf8(text).expect("text frames are UTF-8"), rest)
}

/// The table of which prefixes of both match, row by row.
pub(crate) fn pattern_matches_naively(pattern: &str, name: &str) -> bool {
    let mut row = vec![false; name.len() + 1];
    row[0] = true;
    for p in pattern.bytes() {
        let above = row.clone();
        row[0] = above[0] && p == b'*';
        for (at, n) in name.bytes().enumerate() {
            row[at + 1] = if p == b'*' { above[at + 1] || row[at] } else { above[at] && p == n };
        }
    }
    row[name.len()]
}
