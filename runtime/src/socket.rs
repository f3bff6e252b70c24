//! A WebSocket after its handshake: one ordered path for everything that is written, and one task
//! that reads, and writes what had to wait.
//!
//! What is read goes through tungstenite, which unmasks, joins fragments and checks; what it would
//! write by itself is thrown away, since pongs and closes must queue behind the frames that are
//! written directly. Between messages a connection has no decoder and no buffer.

mod decoder;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use realtime_core::{
    link::{Suffix, ValueKey},
    wire::CloseCode,
};
use tokio::io::ReadBuf;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use self::decoder::{CONTROL_BYTES_MAX, Decoder, Heartbeat, READ_BYTES};
use crate::{
    net::Stream,
    outbox::{Budget, Outbox, Queued},
};

/// What all sockets of a worker have in common.
#[derive(Debug)]
pub struct Bounds {
    /// How much may wait to be written.
    pub budget: Budget,
    /// The largest message read, in bytes.
    pub message_bytes_max: usize,
}

/// The write side of a connection, and what its task needs for reading.
pub struct Socket<S> {
    /// None once the connection is gone.
    stream: Option<S>,
    bounds: Rc<Bounds>,
    outbox: Outbox,
    /// Only while a message is incomplete.
    decoder: Option<Box<Decoder>>,
    /// Of the task, which is asleep when nothing waits.
    waker: Option<Waker>,
    phase: Phase,
}

/// What a connection's task tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole text message.
    Text(Utf8Bytes),
    /// A whole binary message.
    Binary(Bytes),
    /// A ping, which has been answered, or a pong.
    Heard,
    /// The peer broke the protocol, and nothing more is read from it. To be answered with
    /// [`Socket::close`].
    Misbehaved(CloseCode),
    /// The outbox is no more than half full again.
    Relieved,
    /// The connection is gone. The last event.
    Gone,
}

/// Whom a connection's task tells.
pub trait Owner {
    /// Called for each event, while the socket is not borrowed.
    fn on(&mut self, event: Event);
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The socket or the outbox has it.
    Accepted,
    /// The outbox has it, and is more than half full from now on.
    Congested,
    /// It does not fit into the outbox. Told once; nothing is accepted afterwards.
    Overflowed,
    /// The connection is closing or gone.
    Refused,
}

impl From<Queued> for Sent {
    fn from(queued: Queued) -> Self {
        match queued {
            Queued::Fits => Self::Accepted,
            Queued::Congested => Self::Congested,
            Queued::Overflowed => Self::Overflowed,
            Queued::Refused => Self::Refused,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Our close frame is queued; the peer's is waited for.
    Closing,
    /// Both close frames have been sent, or ours will be when the outbox is empty.
    Closed,
    /// What the peer sends can't be understood. It is thrown away until the peer has closed, so
    /// that our close frame is not lost by a TCP reset.
    Deaf {
        shut: bool,
        left_bytes: u32,
    },
}

impl<S: Stream> Socket<S> {
    /// A connection whose handshake is done but for the answer. `leftover` are bytes that came
    /// behind the handshake.
    pub fn new(stream: S, leftover: &[u8], bounds: Rc<Bounds>) -> Self {
        let decoder = if leftover.is_empty() {
            None
        } else {
            Some(Box::new(Decoder::new(leftover, bounds.message_bytes_max)))
        };
        Self {
            stream: Some(stream),
            bounds,
            outbox: Outbox::default(),
            decoder,
            waker: None,
            phase: Phase::Open,
        }
    }

    /// Writes a frame, or queues what the socket does not take. Nothing is copied. A `latest` value
    /// may take the place of an older one that waits.
    pub fn send(&mut self, frame: &Bytes, value_of: Option<ValueKey>) -> Sent {
        self.write(frame, value_of, |written| frame.slice(written..))
    }

    /// The same for a frame that is only borrowed; what must be queued is copied.
    pub fn send_copy(&mut self, frame: &[u8]) -> Sent {
        self.write(frame, None, |written| Bytes::copy_from_slice(&frame[written..]))
    }

    /// Sends what was missed as the socket drains: behind what is queued, before what comes next.
    pub fn feed(&mut self, suffix: Suffix, skip_user: Option<Arc<str>>) -> Sent {
        if self.phase != Phase::Open || self.stream.is_none() {
            return Sent::Refused;
        }
        let queued = self.outbox.feed(suffix, skip_user, &self.bounds.budget);
        self.wake();
        queued.into()
    }

    /// Queues a close frame behind everything else. Nothing is sent after it.
    pub fn close(&mut self, frame: &[u8]) {
        match self.phase {
            Phase::Open => self.phase = Phase::Closing,
            Phase::Deaf { .. } => (),
            Phase::Closing | Phase::Closed => return,
        }
        self.outbox.push_anyway(Bytes::copy_from_slice(frame), &self.bounds.budget);
        self.wake();
    }

    /// Closes TCP at once. The task ends with [`Event::Gone`].
    pub fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.reset();
            self.wake();
        }
    }

    fn write(
        &mut self,
        frame: &[u8],
        value_of: Option<ValueKey>,
        rest: impl FnOnce(usize) -> Bytes,
    ) -> Sent {
        if self.phase != Phase::Open {
            return Sent::Refused;
        }
        if self.outbox.has_overflowed() {
            return Sent::Refused;
        }
        let Some(stream) = &mut self.stream else { return Sent::Refused };
        let asleep = self.outbox.is_empty();
        let written = if asleep { try_write(stream, frame) } else { Ok(0) };
        let Ok(written) = written else {
            self.stream = None;
            self.wake();
            return Sent::Refused;
        };
        if written == frame.len() {
            return Sent::Accepted;
        }
        let value_of = value_of.filter(|_| written == 0);
        let queued = self.outbox.push(rest(written), value_of, &self.bounds.budget);
        if written > 0 {
            self.outbox.note_begun();
        }
        if written > 0 && queued == Queued::Overflowed {
            // Half a frame is out: no close frame could follow it.
            self.reset();
        } else if asleep {
            self.wake();
        }
        queued.into()
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits for the next event, and writes what is queued.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        match self.poll_event(cx) {
            Poll::Ready(Ok(event)) => Poll::Ready(event),
            Poll::Ready(Err(_)) => {
                self.stream = None;
                Poll::Ready(Event::Gone)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The same; an error is the end of the connection.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Event>> {
        loop {
            if self.stream.is_none() {
                return Poll::Ready(Err(gone()));
            }
            let flushed = match self.poll_flush(cx) {
                Poll::Ready(Ok(Flushed::Relieved)) => return Poll::Ready(Ok(Event::Relieved)),
                Poll::Ready(Ok(Flushed::Empty)) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => false,
            };
            match self.phase {
                // A peer that does not read is not read from: replies to it can't pile up.
                Phase::Open | Phase::Closing if self.outbox.is_congested() => return Poll::Pending,
                Phase::Open | Phase::Closing => {
                    if let Some(event) = ready!(self.poll_message(cx))? {
                        return Poll::Ready(Ok(event));
                    }
                }
                Phase::Closed | Phase::Deaf { .. } if !flushed => return Poll::Pending,
                Phase::Closed => {
                    // What lies unread would turn the close into a reset.
                    let _: Poll<io::Result<()>> = self.poll_discard(cx, CLOSED_DISCARD_BYTES);
                    return Poll::Ready(Err(gone()));
                }
                Phase::Deaf { shut: false, left_bytes } => {
                    let stream = self.stream.as_mut().ok_or_else(gone)?;
                    ready!(Pin::new(stream).poll_shutdown(cx))?;
                    self.phase = Phase::Deaf { shut: true, left_bytes };
                }
                Phase::Deaf { shut: true, left_bytes } => {
                    ready!(self.poll_discard(cx, left_bytes))?;
                    return Poll::Ready(Err(gone()));
                }
            }
        }
    }

    /// Writes what is queued until the socket takes no more.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Flushed>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(gone())) };
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
            let used = self.outbox.front(&mut slices);
            let written = if stream.is_write_vectored() {
                Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..used])
            } else {
                Pin::new(&mut *stream).poll_write(cx, &slices[0])
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if self.outbox.advance(written, &self.bounds.budget) {
                return Poll::Ready(Ok(Flushed::Relieved));
            }
        }
        Poll::Ready(Ok(Flushed::Empty))
    }

    /// Reads until there is an event; none when only the phase has changed.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Event>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(gone())) };
        if self.decoder.is_none() {
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let mut buf = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Err(gone()));
            }
            if let Some(heartbeat) = Heartbeat::alone(buf.filled()) {
                if heartbeat.is_ping {
                    self.pong(heartbeat.payload());
                }
                return Poll::Ready(Ok(Some(Event::Heard)));
            }
            let decoder = Decoder::new(buf.filled(), self.bounds.message_bytes_max);
            self.decoder = Some(Box::new(decoder));
        }
        let decoder = self.decoder.as_mut().expect("made above");
        let message = match decoder.read(stream, cx) {
            Ok(message) => message,
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if decoder.is_between_messages() {
                    self.decoder = None;
                }
                return Poll::Pending;
            }
            Err(tungstenite::Error::Io(error)) => return Poll::Ready(Err(error)),
            Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return Poll::Ready(Err(gone())),
            Err(error) => return Poll::Ready(Ok(self.misbehaved(&error))),
        };
        Poll::Ready(Ok(self.event(message)))
    }

    /// What a message means. None for the peer's close frame.
    fn event(&mut self, message: Message) -> Option<Event> {
        match message {
            Message::Text(text) => Some(Event::Text(text)),
            Message::Binary(bytes) => Some(Event::Binary(bytes)),
            Message::Ping(payload) => {
                self.pong(&payload);
                Some(Event::Heard)
            }
            Message::Pong(_) => Some(Event::Heard),
            Message::Close(close) => {
                if self.phase == Phase::Open {
                    let answer = match close.map(|close| u16::from(close.code).to_be_bytes()) {
                        Some([high, low]) => Bytes::copy_from_slice(&[0x88, 2, high, low]),
                        None => Bytes::from_static(&[0x88, 0]),
                    };
                    self.outbox.push_anyway(answer, &self.bounds.budget);
                }
                self.phase = Phase::Closed;
                self.decoder = None;
                None
            }
            Message::Frame(_) => None, // Only ever written.
        }
    }

    /// Answers a ping, unless our close frame is out. Of several that wait to be answered only the
    /// last one is (RFC 6455 §5.5.3), so that pings can't pile up pongs.
    fn pong(&mut self, payload: &[u8]) {
        let length = u8::try_from(payload.len()).expect("a control frame has at most 125 bytes");
        let mut space = [0; 2 + CONTROL_BYTES_MAX];
        let frame = &mut space[..2 + payload.len()];
        frame[..2].copy_from_slice(&[0x8A, length]);
        frame[2..].copy_from_slice(payload);
        if self.phase != Phase::Open {
            return;
        }
        if !self.outbox.is_empty() {
            return self.outbox.push_urgent(frame);
        }
        let Some(stream) = &mut self.stream else { return };
        match try_write(stream, frame) {
            Ok(written) if written == frame.len() => (),
            Ok(written) => {
                let rest = Bytes::copy_from_slice(&frame[written..]);
                self.outbox.push_anyway(rest, &self.bounds.budget);
                if written > 0 {
                    self.outbox.note_begun();
                }
            }
            Err(_) => self.stream = None,
        }
    }

    /// Stops reading. None when the peer was being closed anyway.
    fn misbehaved(&mut self, error: &tungstenite::Error) -> Option<Event> {
        let closing = self.phase != Phase::Open;
        self.decoder = None;
        self.phase = Phase::Deaf { shut: false, left_bytes: DEAF_DISCARD_BYTES };
        let code = if matches!(error, tungstenite::Error::Capacity(_)) {
            CloseCode::TooBig
        } else if matches!(error, tungstenite::Error::Utf8(_)) {
            CloseCode::InvalidText
        } else {
            CloseCode::ProtocolError
        };
        if closing { None } else { Some(Event::Misbehaved(code)) }
    }

    /// Throws away what comes, until the peer has closed or `left_bytes` have come.
    fn poll_discard(&mut self, cx: &mut Context<'_>, mut left_bytes: u32) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(gone())) };
        loop {
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let mut buf = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
            let read = u32::try_from(buf.filled().len()).unwrap_or(u32::MAX);
            left_bytes = left_bytes.saturating_sub(read);
            if let Phase::Deaf { left_bytes: kept, .. } = &mut self.phase {
                *kept = left_bytes;
            }
            if read == 0 || left_bytes == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S> Drop for Socket<S> {
    fn drop(&mut self) {
        self.outbox.clear(&self.bounds.budget);
    }
}

impl<S> fmt::Debug for Socket<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("phase", &self.phase)
            .field("outbox", &self.outbox)
            .finish_non_exhaustive()
    }
}

/// The task of a connection: reads messages, tells the owner, writes what had to wait.
pub struct Connection<S, O> {
    socket: Rc<RefCell<Socket<S>>>,
    owner: O,
}

impl<S, O> Connection<S, O> {
    /// A task for `socket`, to be spawned where the socket lives.
    pub fn new(socket: Rc<RefCell<Socket<S>>>, owner: O) -> Self {
        Self { socket, owner }
    }
}

impl<S, O> fmt::Debug for Connection<S, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl<S: Stream, O: Owner + Unpin> Future for Connection<S, O> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..EVENTS_PER_TURN {
            let event = ready!(self.socket.borrow_mut().poll(cx));
            let last = event == Event::Gone;
            self.owner.on(event);
            if last {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

enum Flushed {
    Empty,
    /// Not all is written, but the owner must hear of this first.
    Relieved,
}

fn try_write(stream: &mut impl Stream, bytes: &[u8]) -> io::Result<usize> {
    match stream.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Queued frames that are written by one system call.
const WRITE_SLICES: usize = 16;

/// Events of one connection before others get their turn.
const EVENTS_PER_TURN: usize = 32;

/// Unread bytes that a closed connection is cleared of.
const CLOSED_DISCARD_BYTES: u32 = 1 << 16;

/// Bytes that are read and thrown away after a protocol error before TCP is closed over the rest.
const DEAF_DISCARD_BYTES: u32 = 1 << 20;
