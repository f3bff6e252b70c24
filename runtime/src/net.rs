//! The seam between the runtime and the network: production, tests and simulation differ in this.

#[cfg(test)]
pub(crate) mod memory;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A network to listen and connect on. Static dispatch; all state is in streams and listeners.
pub trait Net: 'static {
    /// A connection.
    type Stream: Stream;
    /// A listening socket.
    type Listener: Listener<Stream = Self::Stream>;

    /// Listens on `addr`. With `shared`, several listeners of one process share the port.
    fn bind(addr: SocketAddr, shared: bool) -> impl Future<Output = io::Result<Self::Listener>>;

    /// Connects to `host`, which may be a name.
    fn connect(host: &str, port: u16) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A listening socket.
pub trait Listener: Send + 'static {
    /// What it accepts.
    type Stream: Stream;

    /// Waits for the next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// The address it is bound to.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Writes what can be written at once; `WouldBlock` if nothing can.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Closes at once: what is still unsent is thrown away, where the network can do that.
    fn reset(self)
    where
        Self: Sized,
    {
        drop(self);
    }
}

/// The network of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct TokioNet;

/// A listening socket of the operating system.
#[derive(Debug)]
pub struct TcpListener(tokio::net::TcpListener);

/// A TCP connection, without Nagle's delay and with keepalive.
#[derive(Debug)]
pub struct TcpStream(tokio::net::TcpStream);

impl Net for TokioNet {
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn bind(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if shared {
            socket.set_reuse_port(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener(tokio::net::TcpListener::from_std(socket.into())?))
    }

    async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        configure(&stream)?;
        Ok(TcpStream(stream))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let (stream, peer) = self.0.accept().await?;
            // Refused only when the peer has gone already.
            if configure(&stream).is_ok() {
                return Ok((TcpStream(stream), peer));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Stream for TcpStream {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn reset(self) {
        // Where this fails the close is an ordinary one, which is all that can be done.
        drop(self.0.set_zero_linger());
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Frames are written whole, so waiting for more would only delay them; a peer that vanished
/// without a word is found even where nothing is ever sent to it.
fn configure(stream: &tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Connections that the kernel accepts ahead of us: two seconds' worth at 2,000 a second.
const BACKLOG: i32 = 4096;

/// Silence after which the kernel asks whether the peer is there; with the two below a vanished
/// peer is given up after 90 s.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);

/// Time between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Unanswered questions after which the connection is given up.
const KEEPALIVE_RETRIES: u32 = 3;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn run(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future);
    }

    #[test]
    fn shared_listeners_take_the_same_port_and_others_do_not() {
        run(async {
            let first = TokioNet::bind(ANY, true).await.unwrap();
            let addr = first.local_addr().unwrap();
            assert_ne!(addr.port(), 0);
            assert_eq!(TokioNet::bind(addr, true).await.unwrap().local_addr().unwrap(), addr);
            assert!(TokioNet::bind(addr, false).await.is_err());
        });
    }

    #[test]
    fn both_ends_of_a_connection_have_no_delay_and_keepalive() {
        run(async {
            let mut listener = TokioNet::bind(ANY, false).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (accepted, connected) =
                tokio::join!(listener.accept(), TokioNet::connect("127.0.0.1", port));
            for stream in [&accepted.unwrap().0, &connected.unwrap()] {
                assert!(stream.0.nodelay().unwrap());
                assert!(SockRef::from(&stream.0).keepalive().unwrap());
            }
        });
    }

    #[test]
    fn a_reset_connection_ends_in_an_error_and_not_in_an_end_of_file() {
        run(async {
            let mut listener = TokioNet::bind(ANY, false).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (accepted, connected) =
                tokio::join!(listener.accept(), TokioNet::connect("127.0.0.1", port));
            let mut connected = connected.unwrap();
            connected.write_all(b"unread").await.unwrap();
            accepted.unwrap().0.reset();
            let error = connected.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }
}
