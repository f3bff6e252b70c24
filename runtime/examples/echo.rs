//! A WebSocket server that sends back what it gets, text and binary, on the service's own socket
//! layer; for conformance suites to be pointed at.
//!
//! Listens on `127.0.0.1:$PORT` (default 9002), answers on any path, sends nothing unasked.
//! Messages are limited to `WS_MAX_MESSAGE_SIZE` bytes (default 65536).

use std::{
    cell::RefCell,
    env, fmt, io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
};

use realtime_core::wire::encode;
use realtime_runtime::{
    handshake::{self, Head},
    net::{Listener, Net, Stream, TokioNet},
    outbox::Budget,
    socket::{Bounds, Connection, Event, Owner, Sent, Socket},
};
use tokio::task::LocalSet;

fn main() -> io::Result<()> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, variable("PORT", 9002)?));
    let message_bytes_max = variable("WS_MAX_MESSAGE_SIZE", 65536)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        serve(TokioNet::bind(addr, false).await?, message_bytes_max).await
    })
}

/// Serves until accepting fails.
pub async fn serve(mut listener: impl Listener, message_bytes_max: usize) -> io::Result<()> {
    let frame_bytes_max = message_bytes_max + FRAME_OVERHEAD_BYTES;
    let budget = Budget::new(4 * frame_bytes_max, 1024 * frame_bytes_max);
    let bounds = Rc::new(Bounds { budget, message_bytes_max });
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::task::spawn_local(serve_one(stream, bounds.clone()));
    }
}

async fn serve_one<S: Stream>(mut stream: S, bounds: Rc<Bounds>) {
    let Ok(head) = Head::read(&mut stream).await else { return };
    let mut answer = Vec::new();
    match head.upgrade() {
        Ok(upgrade) => handshake::switching_protocols(&mut answer, &upgrade.accept, false),
        Err(rejection) => {
            // Whether the client reads why is its own affair.
            drop(handshake::respond(stream, &rejection.response()).await);
            return;
        }
    }
    let socket = Rc::new(RefCell::new(Socket::new(stream, head.leftover(), bounds)));
    socket.borrow_mut().send_copy(&answer);
    Connection::new(socket.clone(), Echo(socket)).await;
}

struct Echo<S>(Rc<RefCell<Socket<S>>>);

impl<S: Stream> Echo<S> {
    fn send(&self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        let length = payload.len();
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(length @ ..=125), _) => frame.push(length),
            (_, Ok(length)) => {
                frame.push(126);
                frame.extend(length.to_be_bytes());
            }
            (_, Err(_)) => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        let sent = self.0.borrow_mut().send(&frame.into(), None);
        if sent == Sent::Overflowed {
            self.0.borrow_mut().reset();
        }
    }
}

impl<S: Stream> Owner for Echo<S> {
    fn on(&mut self, event: Event) {
        match event {
            Event::Text(text) => self.send(1, text.as_bytes()),
            Event::Binary(bytes) => self.send(2, &bytes),
            Event::Misbehaved(code) => {
                let mut frame = Vec::new();
                encode::close(&mut frame, code);
                self.0.borrow_mut().close(&frame);
            }
            Event::Heard | Event::Relieved | Event::Gone => (),
        }
    }
}

impl<S> fmt::Debug for Echo<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Echo")
    }
}

#[expect(clippy::disallowed_methods, reason = "an example has no configuration but this")]
fn variable<T: std::str::FromStr>(name: &str, default: T) -> io::Result<T> {
    let Ok(text) = env::var(name) else { return Ok(default) };
    text.parse().map_err(|_| io::Error::other(format!("{name} is not a number in range: {text}")))
}

/// What a frame adds to its message, generously.
const FRAME_OVERHEAD_BYTES: usize = 128;
