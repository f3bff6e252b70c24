//! Connections within a test.

use std::{
    cell::Cell,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
};

use super::{Listener, Stream};

thread_local! {
    static WRITES: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has written to a [`MemoryStream`].
pub(crate) fn writes() -> u64 {
    WRITES.get()
}

/// One end of a pipe.
#[derive(Debug)]
pub(crate) struct MemoryStream(DuplexStream);

/// Both ends of a pipe that holds `bytes` each way.
pub(crate) fn pair(bytes: usize) -> (MemoryStream, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(bytes);
    (MemoryStream(ours), theirs)
}

/// Accepts what a test hands it.
#[derive(Debug)]
pub(crate) struct MemoryListener(pub(crate) mpsc::Receiver<io::Result<MemoryStream>>);

impl Listener for MemoryListener {
    type Stream = MemoryStream;

    async fn accept(&mut self) -> io::Result<(MemoryStream, SocketAddr)> {
        match self.0.recv().await {
            Some(accepted) => Ok((accepted?, self.local_addr()?)),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 1).into())
    }
}

impl Stream for MemoryStream {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        WRITES.set(WRITES.get() + 1);
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut self.0).poll_write(&mut cx, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        WRITES.set(WRITES.get() + 1);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
