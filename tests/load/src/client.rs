//! One WebSocket client, as small as it can be: it joins a room and checks what comes.

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use mio::net::TcpStream;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{
    histogram::{Histogram, now_ns},
    wire,
};

/// What all clients of a process count together.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Tally {
    /// Messages of the room.
    pub(crate) room: u64,
    /// Durable messages of users.
    pub(crate) user: u64,
    /// Messages of users without a position.
    pub(crate) latest: u64,
    /// Messages that should have come before one that came.
    pub(crate) lost: u64,
    /// Messages that came again, or after a later one.
    pub(crate) repeated: u64,
    /// Times that the service said that messages are missing.
    pub(crate) missed: u64,
    /// Connections that ended while they should not.
    pub(crate) ended: u64,
    /// Connections that came back after the service had asked them to.
    pub(crate) returned: u64,
    /// From sending the call to reading the frame.
    pub(crate) latency: Histogram,
}

impl Tally {
    /// All durable messages.
    pub(crate) fn durable(&self) -> u64 {
        self.room + self.user
    }
}

/// Where a client goes and what it wants.
#[derive(Debug)]
pub(crate) struct Errand<'a> {
    pub(crate) server: SocketAddr,
    pub(crate) number: u32,
    pub(crate) token: Option<&'a str>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) number: u32,
    pub(crate) began_ns: u64,
    pub(crate) stage: Stage,
    /// Bytes of a frame that is not complete yet; owns nothing while there are none.
    rest: Vec<u8>,
    pub(crate) places: Places,
    /// How long it was asked to wait before it comes back.
    pub(crate) back_after: Option<Duration>,
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The TCP connection is not there yet.
    Connecting,
    /// The answer to the request is awaited.
    Upgrading,
    /// `system:connected` is awaited.
    Greeting,
    /// `room:joined` is awaited.
    Joining,
    /// It has joined.
    Joined,
    /// The service has asked it to come back.
    Leaving,
}

/// Where a client is in its streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub(crate) user: Place,
    pub(crate) room: Place,
}

/// The last message of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its id, of as many bytes as the first one says.
    id: [u8; 48],
    /// Its number, once one is known.
    offset: Option<u64>,
}

impl Default for Place {
    fn default() -> Self {
        Self { id: [0; 48], offset: None }
    }
}

impl Place {
    /// The id, if there is one.
    pub(crate) fn id(&self) -> Option<&str> {
        let id = self.id.get(1..=usize::from(self.id[0]))?;
        std::str::from_utf8(id).ok().filter(|id| !id.is_empty())
    }

    fn note(&mut self, id: &[u8]) {
        if id.len() < self.id.len() {
            self.id[0] = u8::try_from(id.len()).unwrap_or(0);
            self.id[1..=id.len()].copy_from_slice(id);
        }
        self.offset = offset(id);
    }

    /// A message with this id has come: the next one?
    fn heard(&mut self, id: &[u8], tally: &mut Tally) {
        if let (Some(before), Some(number)) = (self.offset, offset(id)) {
            if number <= before {
                tally.repeated += 1;
                return;
            }
            tally.lost += number - before - 1;
        }
        self.note(id);
    }
}

impl Client {
    /// Begins to connect, from a loopback address of its own group. An address has 28,000 ports,
    /// and finding a free one among those that an earlier run has left in TIME_WAIT takes the
    /// kernel milliseconds: hence many addresses, others in each process.
    pub(crate) fn connect(server: SocketAddr, number: u32, places: Places) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let [.., run] = std::process::id().to_be_bytes();
        let [.., high, low] = (number / PER_ADDRESS).to_be_bytes();
        let from = SocketAddr::from(([127, run.max(1), high, low.wrapping_add(1)], 0));
        socket.bind(&from.into())?;
        match socket.connect(&server.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
            _ => {}
        }
        socket.set_tcp_nodelay(true)?;
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
            number,
            began_ns: now_ns(),
            stage: Stage::Connecting,
            rest: Vec::new(),
            places,
            back_after: None,
        })
    }

    /// Sends the request once TCP is there.
    pub(crate) fn writable(&mut self, errand: &Errand<'_>) -> io::Result<()> {
        if self.stage != Stage::Connecting {
            return Ok(());
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        if self.stream.peer_addr().is_err() {
            return Ok(()); // Not yet.
        }
        let Errand { server, number, token } = errand;
        let mut query = format!("n={number}");
        if let Some(token) = token {
            query += &format!("&token={token}");
        }
        if let Some(since) = self.places.user.id() {
            query += &format!("&since={since}");
        }
        let request = format!(
            "GET /ws?{query} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        self.stage = Stage::Upgrading;
        self.write(request.as_bytes())
    }

    /// Reads what is there. `scratch` is everybody's.
    pub(crate) fn readable(
        &mut self,
        room: &str,
        scratch: &mut [u8],
        tally: &mut Tally,
    ) -> io::Result<()> {
        loop {
            let space = scratch.len();
            match self.stream.read(scratch) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.take(&scratch[..read], room, tally)?;
                    // Else there is more, or the next arrival tells.
                    if read < space {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], room: &str, tally: &mut Tally) -> io::Result<()> {
        if self.rest.is_empty() {
            let used = self.take_frames(bytes, room, tally)?;
            self.rest.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let used = self.take_frames(&all, room, tally)?;
        if used < all.len() {
            self.rest = all.split_off(used);
        }
        Ok(())
    }

    /// Takes complete frames; gives how many bytes these were.
    fn take_frames(&mut self, bytes: &[u8], room: &str, tally: &mut Tally) -> io::Result<usize> {
        let mut used = 0;
        if self.stage == Stage::Upgrading {
            let Some(end) = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                return Ok(0);
            };
            if !bytes.starts_with(b"HTTP/1.1 101 ") {
                let answer = String::from_utf8_lossy(bytes).into_owned();
                return Err(io::Error::other(answer));
            }
            used = end + 4;
            self.stage = Stage::Greeting;
        }
        while let Some((opcode, payload, length)) = wire::frame(&bytes[used..]) {
            match opcode {
                1 => self.text(payload, room, tally)?,
                8 => {
                    self.write(&wire::masked(8, payload))?;
                    // The rest is up to the service.
                    self.stage = Stage::Leaving;
                }
                9 => self.write(&wire::masked(10, payload))?,
                _ => {}
            }
            used += length;
        }
        Ok(used)
    }

    fn text(&mut self, text: &[u8], room: &str, tally: &mut Tally) -> io::Result<()> {
        let kind = wire::field(text, "type").unwrap_or_default();
        match kind {
            b"system:connected" => {
                self.stage = Stage::Joining;
                note_answer(&mut self.places.user, text, tally);
                let since = self.places.room.id();
                let since = since.map(|id| format!(r#","since":"{id}""#)).unwrap_or_default();
                let join =
                    format!(r#"{{"type":"room:join","payload":{{"room":"{room}"{since}}}}}"#);
                self.write(&wire::masked(1, join.as_bytes()))?;
            }
            b"room:joined" => {
                self.stage = Stage::Joined;
                note_answer(&mut self.places.room, text, tally);
            }
            b"system:resync" => tally.missed += 1,
            b"system:reconnect" => {
                self.back_after = wire::number(text, "after_ms").map(Duration::from_millis);
            }
            b"system:error" => {
                return Err(io::Error::other(String::from_utf8_lossy(text).into_owned()));
            }
            _ if kind.starts_with(b"system:") => {}
            _ => self.message(text, tally),
        }
        Ok(())
    }

    fn message(&mut self, text: &[u8], tally: &mut Tally) {
        if let Some(sent) = wire::number(text, "sent") {
            tally.latency.add(now_ns().saturating_sub(sent));
        }
        let of_room = wire::field(text, "room").is_some();
        let Some(id) = wire::field(text, "id") else {
            // Without histories a room's messages have no position, and must come none the less.
            let count = if of_room { &mut tally.room } else { &mut tally.latest };
            *count += 1;
            return;
        };
        let count = if of_room { &mut tally.room } else { &mut tally.user };
        *count += 1;
        let place = if of_room { &mut self.places.room } else { &mut self.places.user };
        place.heard(id, tally);
    }

    /// Whatever is written here is short and fits into the socket.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends the connection without leaving its port at rest for a minute. A server that is started
    /// meanwhile might find its own among thousands of them.
    pub(crate) fn reset(self) {
        // What is gone already needs no more.
        let _gone = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

/// Notes where the service says that a stream is. It may say that something is missing.
fn note_answer(place: &mut Place, text: &[u8], tally: &mut Tally) {
    let was_somewhere = place.id().is_some();
    let recovered = text.windows(16).any(|bytes| bytes == br#""recovered":true"#);
    if was_somewhere && !recovered {
        tally.missed += 1;
    }
    // With what was missed behind it, the answer tells the head; the place stays until then.
    if !(was_somewhere && recovered)
        && let Some(id) = wire::field(text, "id")
    {
        place.note(id);
    }
}

/// The number in an id. Clients should not look into ids; this one checks that the service kept its
/// word.
fn offset(id: &[u8]) -> Option<u64> {
    let number = id.split(|byte| *byte == b'-').nth(1)?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// The example of RFC 6455, so that the yardstick knows the answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// `EINPROGRESS` of Linux: the connection is being made.
const EINPROGRESS: i32 = 115;

/// Connections from one address.
const PER_ADDRESS: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_repetitions_are_counted() {
        let (mut place, mut tally) = (Place::default(), Tally::default());
        assert_eq!(place.id(), None);
        for number in [3, 4, 7, 5, 7, 8] {
            place.heard(format!("0123456789abcdef-{number}-01234567").as_bytes(), &mut tally);
        }
        assert_eq!((tally.lost, tally.repeated), (2, 2));
        assert_eq!(place.id(), Some("0123456789abcdef-8-01234567"));
    }
}
