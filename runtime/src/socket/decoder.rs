//! From bytes to messages, by tungstenite.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

/// A ping or a pong that came alone, which is all that an idle connection hears twice a minute: to
/// make a decoder for it would cost more than the rest.
pub(super) struct Heartbeat {
    pub(super) is_ping: bool,
    payload: [u8; CONTROL_BYTES_MAX],
    length: usize,
}

impl Heartbeat {
    /// None for everything that is not exactly one valid ping or pong of a client.
    pub(super) fn alone(bytes: &[u8]) -> Option<Self> {
        let (&[first, second, ref mask @ ..], masked) = bytes.split_first_chunk::<6>()?;
        let length = usize::from(second.checked_sub(0x80)?);
        let is_whole = masked.len() == length && length <= CONTROL_BYTES_MAX;
        if !is_whole || !matches!(first, 0x89 | 0x8A) {
            return None;
        }
        let mut payload = [0; CONTROL_BYTES_MAX];
        for ((to, from), key) in payload.iter_mut().zip(masked).zip(mask.iter().cycle()) {
            *to = from ^ key;
        }
        Some(Self { is_ping: first == 0x89, payload, length })
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.payload[..self.length]
    }
}

/// What understands the bytes of a message; dropped when there is no incomplete one.
pub(super) struct Decoder {
    context: WebSocketContext,
    track: Track,
}

impl Decoder {
    /// A decoder that has been given `read`.
    pub(super) fn new(read: &[u8], message_bytes_max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let mut track = Track::default();
        track.feed(read);
        let context =
            WebSocketContext::from_partially_read(read.to_vec(), Role::Server, Some(config));
        Self { context, track }
    }

    /// The next message of `stream`. What tungstenite would answer is thrown away.
    pub(super) fn read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Result<Message, tungstenite::Error> {
        self.context.read(&mut Reader { stream, track: &mut self.track, cx })
    }

    /// Whether everything it was given has come out, so that it can be dropped.
    pub(super) fn is_between_messages(&self) -> bool {
        self.track.is_between_messages()
    }
}

/// Follows the frames that a decoder is fed just closely enough to know when there is nothing in
/// it.
#[derive(Default)]
struct Track {
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    payload_bytes_left: u64,
    in_fragments: bool,
}

impl Track {
    fn is_between_messages(&self) -> bool {
        self.header_bytes == 0 && self.payload_bytes_left == 0 && !self.in_fragments
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.payload_bytes_left > 0 {
                let left = usize::try_from(self.payload_bytes_left).unwrap_or(usize::MAX);
                let taken = left.min(bytes.len());
                self.payload_bytes_left -= taken as u64;
                bytes = &bytes[taken..];
                continue;
            }
            self.header[self.header_bytes] = *first;
            self.header_bytes += 1;
            bytes = rest;
            if self.header_bytes >= 2 && self.header_bytes == self.header_length() {
                self.frame_begins();
            }
        }
    }

    /// RFC 6455 §5.2: 2 bytes, then 0, 2 or 8 of length, then 0 or 4 of mask.
    fn header_length(&self) -> usize {
        let length = match self.header[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.header[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn frame_begins(&mut self) {
        let [b0, b1, length @ ..] = self.header;
        self.payload_bytes_left = match b1 & 0x7F {
            126 => u64::from(u16::from_be_bytes([length[0], length[1]])),
            127 => length[..8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            short => u64::from(short),
        };
        let is_control = b0 & 0x08 != 0;
        if !is_control {
            self.in_fragments = b0 & 0x80 == 0;
        }
        self.header_bytes = 0;
    }
}

/// The stream as a decoder sees it: reading does not wait, writing goes nowhere.
struct Reader<'a, 'c, S> {
    stream: &'a mut S,
    track: &'a mut Track,
    cx: &'a mut Context<'c>,
}

impl<S: AsyncRead + Unpin> Read for Reader<'_, '_, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(bytes);
        match Pin::new(&mut *self.stream).poll_read(self.cx, &mut buf) {
            Poll::Ready(read) => read?,
            Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
        }
        self.track.feed(buf.filled());
        Ok(buf.filled().len())
    }
}

impl<S> Write for Reader<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Most messages fit; one that does not is read in steps of this.
pub(super) const READ_BYTES: usize = 4096;

/// 2 bytes, 8 of length, 4 of mask.
const HEADER_BYTES_MAX: usize = 14;

/// RFC 6455 §5.5.
pub(super) const CONTROL_BYTES_MAX: usize = 125;

#[cfg(test)]
mod tests {
    use super::*;

    fn between(bytes: &[u8]) -> bool {
        let mut whole = Track::default();
        whole.feed(bytes);
        let mut piecewise = Track::default();
        for byte in bytes {
            piecewise.feed(&[*byte]);
        }
        assert_eq!(whole.is_between_messages(), piecewise.is_between_messages());
        whole.is_between_messages()
    }

    #[test]
    fn a_decoder_is_empty_only_where_a_message_ends() {
        let mask = [0; 4];
        let medium = [&[0x81, 0xFE, 0, 126][..], &mask, &[b'x'; 126]].concat();
        let long = [&[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0][..], &mask, &[7; 65_536]].concat();
        for message in [&[0x89, 0x80, 0, 0, 0, 0][..], &[0x81, 2, b'h', b'i'], &medium, &long] {
            assert!(between(message));
            assert!(!between(&message[..message.len() - 1]));
            assert!(!between(&message[..1]));
            assert!(between(&[message, message].concat()));
        }
    }

    #[test]
    fn a_control_frame_does_not_end_a_fragmented_message() {
        let (begin, ping, end) = ([0x01, 0x80, 0, 0, 0, 0], [0x89, 0x80, 0, 0, 0, 0], [0x80, 0]);
        assert!(!between(&begin));
        assert!(!between(&[begin, ping].concat()));
        assert!(between(&[&begin[..], &ping, &end].concat()));
    }
}
