//! The network that the service and its clients see.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use realtime_runtime::net::{Listener, Net, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime,
    sync::mpsc,
};
use turmoil::net::{TcpListener, TcpStream};

/// The simulated network.
#[derive(Clone, Copy, Debug)]
pub(super) struct SimNet;

/// A connection.
#[derive(Debug)]
pub(super) struct SimStream(TcpStream);

/// A listening socket, or one of several that share a port.
#[derive(Debug)]
pub(super) struct SimListener {
    addr: SocketAddr,
    accepted: mpsc::Receiver<(TcpStream, SocketAddr)>,
}

type Accepted = mpsc::Sender<(TcpStream, SocketAddr)>;

/// A port that several listeners may share.
struct Port {
    /// The life of the host: each has a runtime of its own.
    life: runtime::Id,
    port: u16,
    listeners: Vec<Accepted>,
}

thread_local! {
    static PORTS: RefCell<Vec<Port>> = RefCell::default();
}

impl Net for SimNet {
    type Stream = SimStream;
    type Listener = SimListener;

    async fn bind(addr: SocketAddr, shared: bool) -> io::Result<SimListener> {
        let life = runtime::Handle::current().id();
        let (sender, accepted) = mpsc::channel(BACKLOG);
        if shared && share(life, addr.port(), &sender) {
            return Ok(SimListener { addr, accepted });
        }
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let port = addr.port();
        PORTS.with_borrow_mut(|ports| {
            ports.retain(|other| (other.life, other.port) != (life, port));
            ports.push(Port { life, port, listeners: vec![sender] });
        });
        tokio::task::spawn_local(distribute(listener, life, port));
        Ok(SimListener { addr, accepted })
    }

    async fn connect(host: &str, port: u16) -> io::Result<SimStream> {
        TcpStream::connect((host, port)).await.map(SimStream)
    }
}

/// Adds a listener to those of the port, if there are any.
fn share(life: runtime::Id, port: u16, sender: &Accepted) -> bool {
    PORTS.with_borrow_mut(|ports| {
        let shared = ports.iter_mut().find(|other| (other.life, other.port) == (life, port));
        let Some(shared) = shared.filter(|shared| !live(&shared.listeners).is_empty()) else {
            return false;
        };
        shared.listeners.push(sender.clone());
        true
    })
}

fn live(listeners: &[Accepted]) -> Vec<Accepted> {
    listeners.iter().filter(|listener| !listener.is_closed()).cloned().collect()
}

/// Hands connections to the listeners in turns, until all of them are gone.
async fn distribute(listener: TcpListener, life: runtime::Id, port: u16) {
    let mut turn = 0;
    loop {
        let listeners = PORTS.with_borrow(|ports| {
            let shared = ports.iter().find(|other| (other.life, other.port) == (life, port));
            shared.map(|shared| live(&shared.listeners)).unwrap_or_default()
        });
        let Some(first) = listeners.first() else { return };
        let accepted = tokio::select! {
            biased;
            () = first.closed() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok(accepted) = accepted else { continue };
        turn += 1;
        // One that closes at this moment resets the connection, as a kernel does.
        drop(listeners[turn % listeners.len()].send(accepted).await);
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> io::Result<(SimStream, SocketAddr)> {
        match self.accepted.recv().await {
            Some((stream, peer)) => Ok((SimStream(stream), peer)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

impl Stream for SimStream {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(self).poll_write(&mut cx, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let segment = &bytes[..bytes.len().min(SEGMENT_BYTES)];
        Pin::new(&mut self.0).poll_write(cx, segment)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The network counts writes, 64 of any size: in pieces like these it holds 64 KiB.
pub(super) const SEGMENT_BYTES: usize = 1 << 10;

/// Connections that nobody has accepted yet.
const BACKLOG: usize = 128;
