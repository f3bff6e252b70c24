//! Frames, as far as a load needs them.

/// Takes the first complete frame of a server: opcode, payload, and how long it was altogether.
pub(crate) fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (header, length): (usize, usize) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => {
            let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?);
            (10, usize::try_from(length).ok()?)
        }
        short => (2, usize::from(short)),
    };
    let payload = bytes.get(header..header.checked_add(length)?)?;
    Some((bytes[0] & 0x0F, payload, header + length))
}

/// A text frame of a server.
pub(crate) fn text_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()) {
        Ok(length) if length < 126 => frame.push(length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend((text.len() as u64).to_be_bytes());
        }
    }
    frame.extend(text);
    frame
}

/// A client's frame of less than 64 KiB. A mask of zeros is a mask (RFC 6455 §5.3 wants a random
/// one against proxies that do not exist here).
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => unreachable!("this tool sends short messages"),
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The text behind `"name":"` in the envelope of a message, which is not longer than 512 bytes.
pub(crate) fn field<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = after(&text[..text.len().min(512)], name)?.strip_prefix(b"\"")?;
    value.split(|byte| *byte == b'"').next()
}

/// The number behind `"name":`, wherever it is.
pub(crate) fn number(text: &[u8], name: &str) -> Option<u64> {
    let value = after(text, name)?;
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

fn after<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let key = name.as_bytes();
    let found = text.windows(key.len() + 3).position(|window| {
        window[0] == b'"' && window[1..].starts_with(key) && window.ends_with(b"\":")
    })?;
    Some(&text[found + key.len() + 3..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_read_whole_or_not_at_all() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let text = vec![b'x'; length];
            let whole = text_frame(&text);
            assert_eq!(frame(&whole), Some((1, &text[..], whole.len())));
            assert_eq!(frame(&whole[..whole.len() - 1]), None);
        }
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = br#"{"type":"a:b","id":"0-17-1","room":"r","payload":{"paid":3,"sent":99}}"#;
        assert_eq!(field(text, "id"), Some(&b"0-17-1"[..]));
        assert_eq!(field(text, "room"), Some(&b"r"[..]));
        assert_eq!(field(text, "om"), None);
        assert_eq!(number(text, "sent"), Some(99));
        assert_eq!(number(text, "type"), None);
    }
}
