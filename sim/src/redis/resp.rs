//! The Redis protocol (RESP2): requests in, replies out.

use bytes::{Buf as _, Bytes, BytesMut};

/// A command and its arguments.
pub type Request = Vec<Bytes>;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A short text, such as `OK`.
    Status(String),
    /// Begins with the kind of error, such as `ERR` or `WRONGTYPE`.
    Error(String),
    /// A number.
    Integer(i64),
    /// A value; none where there is none.
    Bulk(Option<Bytes>),
    /// Several answers.
    Array(Vec<Self>),
}

impl Reply {
    /// The status `OK`.
    pub fn ok() -> Self {
        Self::Status("OK".to_owned())
    }

    /// A value.
    pub fn bulk(value: impl Into<Bytes>) -> Self {
        Self::Bulk(Some(value.into()))
    }

    /// Appends the bytes that a server sends.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status(text) => line(out, '+', text),
            Self::Error(text) => line(out, '-', text),
            Self::Integer(number) => line(out, ':', &number.to_string()),
            Self::Bulk(None) => out.extend(b"$-1\r\n"),
            Self::Bulk(Some(value)) => {
                line(out, '$', &value.len().to_string());
                out.extend(value);
                out.extend(b"\r\n");
            }
            Self::Array(replies) => {
                line(out, '*', &replies.len().to_string());
                for reply in replies {
                    reply.encode(out);
                }
            }
        }
    }
}

fn line(out: &mut Vec<u8>, kind: char, text: &str) {
    out.extend(format!("{kind}{text}\r\n").bytes());
}

/// Takes the next complete request out of `buffer`. None when there is no complete one; an error
/// when it is not a request.
pub fn parse(buffer: &mut BytesMut) -> Result<Option<Request>, String> {
    let mut at = 0;
    let Some(count) = number(buffer, &mut at, b'*')? else { return Ok(None) };
    let mut places = Vec::new();
    for _ in 0..count {
        let Some(length) = number(buffer, &mut at, b'$')? else { return Ok(None) };
        if buffer.len() < at + length + 2 {
            return Ok(None);
        }
        places.push(at..at + length);
        at += length + 2;
    }
    let bytes = buffer.split_to(at).freeze();
    Ok(Some(places.into_iter().map(|place| bytes.slice(place)).collect()))
}

/// Reads `<kind><digits>\r\n` at `at` and moves behind it.
fn number(buffer: &BytesMut, at: &mut usize, kind: u8) -> Result<Option<usize>, String> {
    let mut rest = &buffer[*at..];
    let Some(end) = rest.windows(2).position(|bytes| bytes == b"\r\n") else {
        return Ok(None);
    };
    if rest.get_u8() != kind {
        return Err(format!("expected {:?}", char::from(kind)));
    }
    let digits = rest.get(..end.saturating_sub(1)).ok_or("an empty line")?;
    let text = std::str::from_utf8(digits).map_err(|error| error.to_string())?;
    *at += end + 2;
    text.parse().map(Some).map_err(|_| format!("not a length: {text}"))
}
