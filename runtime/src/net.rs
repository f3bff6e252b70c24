//! The seam between the runtime and the network: production, tests and simulation differ in this.

use std::{future::Future, io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
};

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
}
