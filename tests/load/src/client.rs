//! One WebSocket client, as small as it can be: it joins a room, counts and checks what comes.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::Notify,
};

/// What all clients of a run count together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Publications received.
    pub(crate) received: Cell<u64>,
    /// Publications that were not the next one: lost, twice, or out of order.
    pub(crate) wrong: Cell<u64>,
    /// Clients whose connection ended.
    pub(crate) ended: Cell<u64>,
    /// Told whenever `received` reaches `awaited`.
    pub(crate) reached: Notify,
    /// See `reached`.
    pub(crate) awaited: Cell<u64>,
}

impl Tally {
    /// Waits until `received` has reached `awaited`, or until a client's connection ends.
    pub(crate) async fn wait_for(&self, awaited: u64) {
        self.awaited.set(awaited);
        while self.received.get() < awaited && self.ended.get() == 0 {
            self.reached.notified().await;
        }
    }

    fn count(&self) {
        self.received.set(self.received.get() + 1);
        if self.received.get() >= self.awaited.get() {
            self.reached.notify_waiters();
        }
    }

    fn end(&self) {
        self.ended.set(self.ended.get() + 1);
        self.reached.notify_waiters();
    }
}

/// A connection that has joined its room.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    /// Bytes of a frame that is not complete yet; owns nothing while there are none.
    rest: Vec<u8>,
    /// The publication that comes next.
    next: u64,
}

impl Client {
    /// Connects from a loopback address of its own group and joins `room` once `system:connected`
    /// is there. An address has 28,000 ports, and finding a free one among those that an earlier
    /// run has left in TIME_WAIT takes the kernel milliseconds: hence many addresses, others in
    /// each run.
    pub(crate) async fn connect(
        server: SocketAddr,
        number: u32,
        token: Option<&str>,
        room: &str,
    ) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        let [.., run] = std::process::id().to_be_bytes();
        let [.., high, low] = (number / PER_ADDRESS).to_be_bytes();
        socket.bind(SocketAddr::from(([127, run.max(1), high, low.wrapping_add(1)], 0)))?;
        let mut stream = socket.connect(server).await?;
        stream.set_nodelay(true)?;
        // Else the ports of thousands of clients rest for a minute after a run, and a server that
        // is started meanwhile may find its own among them.
        stream.set_zero_linger()?;
        let query = token.map(|token| format!("?token={token}")).unwrap_or_default();
        let request = format!(
            "GET /ws{query} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut client = Self { stream, rest: Vec::new(), next: 0 };
        client.finish_handshake().await.map_err(|error| at("the answer", &error))?;
        client.await_type("system:connected").await?;
        let join = format!(r#"{{"type":"room:join","payload":{{"room":"{room}"}}}}"#);
        client.stream.write_all(&masked(0x81, join.as_bytes())).await?;
        client.await_type("room:joined").await?;
        Ok(client)
    }

    async fn finish_handshake(&mut self) -> io::Result<()> {
        loop {
            if let Some(end) = self.rest.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                if !self.rest.starts_with(b"HTTP/1.1 101 ") {
                    let answer = String::from_utf8_lossy(&self.rest).into_owned();
                    return Err(io::Error::other(answer));
                }
                self.rest.drain(..end + 4);
                return Ok(());
            }
            self.read().await?;
        }
    }

    async fn await_type(&mut self, kind: &str) -> io::Result<()> {
        let wanted = format!(r#"{{"type":"{kind}""#);
        loop {
            while let Some((opcode, text)) = self.frame() {
                match opcode {
                    1 if text.starts_with(wanted.as_bytes()) => return Ok(()),
                    8 => return Err(at(kind, &io::Error::other(format!("closed: {text:?}")))),
                    _ => {}
                }
            }
            self.read().await.map_err(|error| at(kind, &error))?;
        }
    }

    /// Reads until the connection ends; never returns before.
    pub(crate) async fn listen(mut self, tally: Rc<Tally>) {
        while self.hear(&tally).await.is_ok() {}
        tally.end();
    }

    async fn hear(&mut self, tally: &Tally) -> io::Result<()> {
        while let Some((opcode, text)) = self.frame() {
            match opcode {
                // The first publication that a client sees sets the count.
                1 => {
                    if let Some(number) = offset(&text) {
                        if self.next != 0 && number != self.next {
                            tally.wrong.set(tally.wrong.get() + 1);
                        }
                        self.next = number + 1;
                        tally.count();
                    }
                }
                9 => self.stream.write_all(&masked(0x8a, &text)).await?,
                _ => {}
            }
        }
        if self.rest.is_empty() {
            self.rest = Vec::new();
            self.stream.readable().await?;
        }
        self.read().await
    }

    async fn read(&mut self) -> io::Result<()> {
        self.rest.reserve(4_096);
        if self.stream.read_buf(&mut self.rest).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Takes the next complete frame.
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let rest = &self.rest;
        let (header, length) = match *rest.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]))),
            127 => {
                let length = u64::from_be_bytes(rest.get(2..10)?.try_into().ok()?);
                (10, usize::try_from(length).ok()?)
            }
            short => (2, usize::from(short)),
        };
        let text = rest.get(header..header + length)?.to_vec();
        let opcode = rest[0] & 0x0f;
        self.rest.drain(..header + length);
        Some((opcode, text))
    }
}

/// Says what was waited for.
fn at(stage: &str, error: &io::Error) -> io::Error {
    io::Error::other(format!("while waiting for {stage}: {error}"))
}

/// The offset in the `id` of a publication. Clients should not look into ids; this one checks that
/// the service kept its word.
fn offset(text: &[u8]) -> Option<u64> {
    let head = &text[..text.len().min(256)];
    let at = head.windows(6).position(|bytes| bytes == br#""id":""#)? + 6;
    let number = head[at..].split(|byte| *byte == b'-').nth(1)?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// A client frame of less than 64 KiB; a mask of zeros is a mask (RFC 6455 §5.3 wants a random one
/// against proxies that do not exist here).
fn masked(first: u8, text: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(text.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => unreachable!("this tool sends short messages"),
    }
    frame.extend([0; 4]);
    frame.extend(text);
    frame
}

/// Connections from one address.
const PER_ADDRESS: u32 = 1_000;
