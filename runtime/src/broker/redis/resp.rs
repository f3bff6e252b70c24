//! Reads what a Redis subscription connection brings (RESP2).
//!
//! redis-rs could read it too, but not as the relay needs it: its subscriptions hand messages over
//! through an unbounded queue and confirmations by another way, which loses their order. Here a
//! reader that is slow holds the server back, and there is one order.

use bytes::{Buf, BytesMut};

/// One reply or message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `+`, `$` or a nil: bytes. Nil is empty, since nothing here tells them apart.
    Bytes(Vec<u8>),
    /// `:`
    Integer(i64),
    /// `-`
    Error(String),
    /// `*`
    Array(Vec<Self>),
}

/// The other side does not speak RESP2 as a subscription connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Bytes on their way to becoming replies.
#[derive(Debug, Default)]
pub(super) struct Reader {
    input: BytesMut,
    /// Bytes of an oversized element that are still to be thrown away, and where they are.
    oversized: Option<Oversized>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Oversized {
    /// Index in the input of the first of them.
    at: usize,
    bytes: usize,
}

/// Why there is no reply yet.
enum Stop {
    Incomplete,
    Malformed,
    Oversized { header_at: usize, body_at: usize, bytes: usize },
}

impl Reader {
    /// Where arriving bytes go.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        self.input.reserve(READ_BYTES);
        &mut self.input
    }

    /// Takes the next reply out; none when more bytes must arrive first. An element of more than
    /// [`ELEMENT_BYTES_MAX`] becomes an empty one: it is nothing that we published, and whoever did
    /// must not make this connection fail or grow.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, Malformed> {
        loop {
            if !self.discard() {
                return Ok(None);
            }
            let mut cursor = Cursor { input: &self.input, at: 0 };
            match cursor.reply(DEPTH_MAX) {
                Ok(reply) => {
                    let end = cursor.at;
                    self.input.advance(end);
                    return Ok(Some(reply));
                }
                Err(Stop::Incomplete) => return Ok(None),
                Err(Stop::Malformed) => return Err(Malformed),
                Err(Stop::Oversized { header_at, body_at, bytes }) => {
                    // `$<n>` becomes `$0`, and what follows it is thrown away.
                    let mut input = self.input.split_to(header_at);
                    self.input.advance(body_at - header_at);
                    input.extend_from_slice(b"$0\r\n");
                    self.oversized = Some(Oversized { at: input.len(), bytes });
                    input.unsplit(self.input.split());
                    self.input = input;
                }
            }
        }
    }

    /// Throws away what there is of an oversized element; whether all of it was.
    fn discard(&mut self) -> bool {
        let Some(Oversized { at, bytes }) = self.oversized.take() else {
            return true;
        };
        let present = bytes.min(self.input.len() - at);
        let mut tail = self.input.split_off(at);
        tail.advance(present);
        self.input.extend_from_slice(&tail);
        if present < bytes {
            self.oversized = Some(Oversized { at, bytes: bytes - present });
        }
        present == bytes
    }
}

/// Reads one reply from the front of the input.
struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn reply(&mut self, depth: u32) -> Result<Reply, Stop> {
        let header_at = self.at;
        let line = self.line()?;
        let (kind, rest) = line.split_first().ok_or(Stop::Malformed)?;
        match kind {
            b'+' => Ok(Reply::Bytes(rest.to_vec())),
            b'-' => Ok(Reply::Error(String::from_utf8_lossy(rest).into_owned())),
            b':' => Ok(Reply::Integer(integer(rest)?)),
            b'$' => self.bytes(header_at, integer(rest)?),
            b'*' if depth > 0 => {
                let count = usize::try_from(integer(rest)?).map_err(|_| Stop::Malformed)?;
                if count > ARRAY_ELEMENTS_MAX {
                    return Err(Stop::Malformed);
                }
                (0..count)
                    .map(|_| self.reply(depth - 1))
                    .collect::<Result<_, _>>()
                    .map(Reply::Array)
            }
            _ => Err(Stop::Malformed),
        }
    }

    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.input[self.at..];
        let Some(end) = rest.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
            let complete = rest.len() >= LINE_BYTES_MAX;
            return Err(if complete { Stop::Malformed } else { Stop::Incomplete });
        };
        self.at += end + 1;
        rest[..end].strip_suffix(b"\r").ok_or(Stop::Malformed)
    }

    fn bytes(&mut self, header_at: usize, length: i64) -> Result<Reply, Stop> {
        if length == -1 {
            return Ok(Reply::Bytes(Vec::new()));
        }
        let length = usize::try_from(length).map_err(|_| Stop::Malformed)?;
        if length > ELEMENT_BYTES_MAX {
            return Err(Stop::Oversized { header_at, body_at: self.at, bytes: length });
        }
        let rest = &self.input[self.at..];
        let (bytes, end) = rest.split_at_checked(length).ok_or(Stop::Incomplete)?;
        if end.len() < 2 {
            return Err(Stop::Incomplete);
        }
        if !end.starts_with(b"\r\n") {
            return Err(Stop::Malformed);
        }
        self.at += length + 2;
        Ok(Reply::Bytes(bytes.to_vec()))
    }
}

fn integer(digits: &[u8]) -> Result<i64, Stop> {
    str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Stop::Malformed)
}

/// Room for what arrives at once.
const READ_BYTES: usize = 16 << 10;

/// Longest line: an error message is the only one that is more than a few digits.
const LINE_BYTES_MAX: usize = 4 << 10;

/// Largest element that is kept; entries are far smaller.
const ELEMENT_BYTES_MAX: usize = 4 << 20;

/// A message has three elements.
const ARRAY_ELEMENTS_MAX: usize = 16;

/// Nothing here nests arrays.
const DEPTH_MAX: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$3\r\nall\r\n$5\r\nhe\r\no\r\n";

    fn bytes(text: &[u8]) -> Reply {
        Reply::Bytes(text.to_vec())
    }

    fn message(body: &[u8]) -> Reply {
        Reply::Array(vec![bytes(b"message"), bytes(b"all"), bytes(body)])
    }

    /// Everything that `input` holds, arriving in pieces of `piece` bytes.
    fn read(input: &[u8], piece: usize) -> Result<Vec<Reply>, Malformed> {
        let mut reader = Reader::default();
        let mut replies = Vec::new();
        for piece in input.chunks(piece) {
            reader.input().extend_from_slice(piece);
            while let Some(reply) = reader.next()? {
                replies.push(reply);
            }
        }
        assert!(reader.input.is_empty());
        Ok(replies)
    }

    #[test]
    fn replies_are_the_same_however_they_are_cut() {
        let input = [MESSAGE, b"+OK\r\n:-7\r\n-ERR no\r\n$-1\r\n*0\r\n", MESSAGE].concat();
        let expected = vec![
            message(b"he\r\no"),
            bytes(b"OK"),
            Reply::Integer(-7),
            Reply::Error("ERR no".into()),
            bytes(b""),
            Reply::Array(vec![]),
            message(b"he\r\no"),
        ];
        for piece in 1..=input.len() {
            assert_eq!(read(&input, piece), Ok(expected.clone()), "pieces of {piece}");
        }
    }

    #[test]
    fn an_oversized_element_becomes_an_empty_one_and_is_not_held() {
        let size = ELEMENT_BYTES_MAX + 1;
        let header = format!("*3\r\n$7\r\nmessage\r\n$3\r\nall\r\n${size}\r\n");
        let body = vec![b'x'; size];
        let input = [header.as_bytes(), &body, b"\r\n", MESSAGE].concat();
        for piece in [1 << 16, input.len()] {
            assert_eq!(read(&input, piece), Ok(vec![message(b""), message(b"he\r\no")]));
        }
        let mut reader = Reader::default();
        reader.input().extend_from_slice(&input[..size]);
        assert_eq!(reader.next(), Ok(None));
        assert!(reader.input.len() < 100, "{} bytes are held", reader.input.len());
    }

    #[test]
    fn what_is_not_resp_is_refused() {
        let long_line = vec![b'+'; LINE_BYTES_MAX];
        let inputs: [&[u8]; 9] = [
            b"hello\r\n",
            b"\r\n",
            b"+OK\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$1\r\nxyz",
            b"*17\r\n",
            b"*1\r\n*1\r\n:1\r\n",
            &long_line,
        ];
        for input in inputs {
            assert_eq!(read(input, input.len()), Err(Malformed), "{}", input.escape_ascii());
        }
    }
}
