//! The least that a server can do: epoll, and one `send()` for each receiver. It upgrades whoever
//! comes, answers the join, and writes what its control connection says to everybody; nothing is
//! queued, checked or numbered.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

use crate::{publisher::payload, wire};

/// Where it listens.
#[derive(Debug, Deserialize, Serialize)]
struct Ports {
    clients: SocketAddr,
    control: SocketAddr,
}

/// Serves until the control connection ends.
pub(crate) fn run() -> io::Result<()> {
    let (clients, control) = (listen()?, listen()?);
    let ports = Ports { clients: clients.local_addr()?, control: control.local_addr()? };
    writeln!(io::stdout(), "{}", serde_json::to_string(&ports)?)?;
    let (control, _) = control.accept()?;
    Yardstick::new(clients, control)?.serve()
}

fn listen() -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4_096)?;
    Ok(socket.into())
}

struct Yardstick {
    poll: Poll,
    listener: TcpListener,
    control: TcpStream,
    clients: Vec<Option<TcpStream>>,
    /// What the control connection has said of a frame that is not complete yet.
    heard: Vec<u8>,
}

impl Yardstick {
    fn new(listener: std::net::TcpListener, control: std::net::TcpStream) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        control.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let mut control = TcpStream::from_std(control);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        poll.registry().register(&mut control, CONTROL, Interest::READABLE)?;
        Ok(Self { poll, listener, control, clients: Vec::new(), heard: Vec::new() })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1_024);
        loop {
            self.poll.poll(&mut events, None)?;
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    CONTROL => {
                        if !self.hear()? {
                            return Ok(());
                        }
                    }
                    Token(client) => self.read(client)?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    stream.set_nodelay(true)?;
                    let token = Token(self.clients.len());
                    self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
                    self.clients.push(Some(stream));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// A request is answered with everything up to the greeting, a join with the answer.
    fn read(&mut self, client: usize) -> io::Result<()> {
        let mut space = [0; 2_048];
        let Some(stream) = &mut self.clients[client] else { return Ok(()) };
        match stream.read(&mut space) {
            Ok(0) | Err(_) => self.clients[client] = None,
            Ok(read) if space[..read].starts_with(b"GET ") => {
                let mut answer = UPGRADED.as_bytes().to_vec();
                answer.extend(wire::text_frame(br#"{"type":"system:connected","payload":{}}"#));
                stream.write_all(&answer)?;
            }
            Ok(read) if space[..read].starts_with(&[0x81]) => {
                stream.write_all(&wire::text_frame(br#"{"type":"room:joined","payload":{}}"#))?;
            }
            Ok(_) => {}
        }
        Ok(())
    }

    /// Takes what is to be written to everybody. Whether the control connection still stands.
    fn hear(&mut self) -> io::Result<bool> {
        let mut space = [0; 65_536];
        loop {
            match self.control.read(&mut space) {
                Ok(0) => return Ok(false),
                Ok(read) => self.heard.extend_from_slice(&space[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        while let Some((_, _, length)) = wire::frame(&self.heard) {
            let frame: Vec<u8> = self.heard.drain(..length).collect();
            for stream in self.clients.iter_mut().flatten() {
                // This is what is measured.
                let written = stream.write(&frame)?;
                if written < frame.len() {
                    return Err(io::Error::other("a receiver is slower than the yardstick"));
                }
            }
        }
        Ok(true)
    }
}

/// A yardstick in a process of its own.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) clients: SocketAddr,
    pub(crate) pid: u32,
    control: tokio::net::TcpStream,
    sent: u64,
    _child: Child,
}

impl Server {
    pub(crate) async fn start() -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("yardstick")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no ports"))?;
        let line = BufReader::new(stdout).lines().next_line().await?.unwrap_or_default();
        let ports: Ports = serde_json::from_str(&line)?;
        let control = tokio::net::TcpStream::connect(ports.control).await?;
        control.set_nodelay(true)?;
        let pid = child.id().ok_or_else(|| io::Error::other("the yardstick has ended"))?;
        Ok(Self { clients: ports.clients, pid, control, sent: 0, _child: child })
    }

    /// Sends everybody a message with such a payload, as long as one of the service.
    pub(crate) async fn broadcast(&mut self, room: &str, bytes: usize) -> io::Result<()> {
        self.sent += 1;
        let id = format!("{:016x}-{}-{:08x}", 1, self.sent, 1);
        let payload = payload(bytes);
        let text = format!(
            r#"{{"type":"ticket:availability","id":"{id}","room":"{room}","payload":{payload}}}"#
        );
        self.control.write_all(&wire::text_frame(text.as_bytes())).await
    }
}

/// The answer to the example of RFC 6455.
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Clients count from 0.
const LISTENER: Token = Token(usize::MAX);
const CONTROL: Token = Token(usize::MAX - 1);
