//! Plain HTTP connections: where they come from, and how long they may take.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use bytes::{Buf as _, Bytes};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::AbortHandle,
    time::{Sleep, sleep, timeout},
};
use tracing::{debug, warn};

use super::{metrics_router, router};
use crate::{
    metrics::ServiceError,
    net::{Listener, Stream},
    service::{Handoff, Shared},
};

/// Serves the connections that workers hand over, until the instance stops.
pub(crate) async fn serve_handoffs<S: Stream>(
    shared: &Arc<Shared>,
    mut handoffs: mpsc::Receiver<Handoff<S>>,
) {
    let pool = Pool::new(shared, router(Arc::clone(shared)), CONNECTIONS_MAX, false);
    let mut served = VecDeque::new();
    loop {
        let handoff = tokio::select! {
            biased;
            () = shared.stopping() => break,
            handoff = handoffs.recv() => handoff,
        };
        let Some(Handoff { head, stream }) = handoff else {
            break;
        };
        if pool.permits.available_permits() == 0 {
            cut_off_oldest(shared, &mut served);
        }
        let permit = Arc::clone(&pool.permits).acquire_owned().await.expect("it is never closed");
        if served.len() >= CONNECTIONS_MAX as usize {
            served.retain(|connection: &AbortHandle| !connection.is_finished());
        }
        served.push_back(pool.spawn(permit, head, stream));
    }
    pool.finish().await;
}

/// Makes room: clients that don't read their answers must not keep health checks out.
fn cut_off_oldest(shared: &Shared, served: &mut VecDeque<AbortHandle>) {
    while let Some(oldest) = served.pop_front() {
        if !oldest.is_finished() {
            oldest.abort();
            return shared.counters.failed(ServiceError::HttpRefused);
        }
    }
}

/// Serves the metrics port, until the instance stops.
pub(crate) async fn serve_metrics<L: Listener>(shared: &Arc<Shared>, mut listener: L) {
    let pool = Pool::new(shared, metrics_router(Arc::clone(shared)), SCRAPERS_MAX, true);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stopping() => break,
            accepted = accept(&mut listener, &pool.permits) => accepted,
        };
        match accepted {
            Ok((permit, stream)) => drop(pool.spawn(permit, Bytes::new(), stream)),
            Err(error) => {
                shared.counters.failed(ServiceError::HttpAccept);
                warn!(%error, "a metrics connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    pool.finish().await;
}

/// Accepts when there is room.
async fn accept<L: Listener>(
    listener: &mut L,
    permits: &Arc<Semaphore>,
) -> io::Result<(OwnedSemaphorePermit, L::Stream)> {
    let permit = Arc::clone(permits).acquire_owned().await.expect("it is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((permit, stream))
}

/// A bounded number of connections of one router.
struct Pool {
    shared: Arc<Shared>,
    router: Router,
    permits: Arc<Semaphore>,
    connections_max: u32,
    /// Whether a connection may be used again. Not on `HTTP_PORT`: proxies send any request over a
    /// connection they have kept, and from here an upgrade can't get back to a worker.
    keep_alive: bool,
}

impl Pool {
    fn new(shared: &Arc<Shared>, router: Router, connections_max: u32, keep_alive: bool) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max as usize));
        Self { shared: Arc::clone(shared), router, permits, connections_max, keep_alive }
    }

    fn spawn<S: Stream>(
        &self,
        permit: OwnedSemaphorePermit,
        head: Bytes,
        stream: S,
    ) -> AbortHandle {
        let (shared, router) = (Arc::clone(&self.shared), self.router.clone());
        let connection = serve(shared, router, self.keep_alive, head, stream);
        let counted = Counted::new(&self.shared);
        let task = tokio::spawn(async move {
            connection.await;
            drop(counted);
            drop(permit);
        });
        task.abort_handle()
    }

    /// Waits until the answers in progress are written. They take no longer than the timeouts of
    /// their connections; an instance that stops does not wait that long.
    async fn finish(self) {
        let _cut_off =
            timeout(FINISH_TIMEOUT, self.permits.acquire_many(self.connections_max)).await;
    }
}

/// Counts a connection while it exists.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.counters.http_connections().fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters.http_connections().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection, from the head that was read of it.
async fn serve<S: Stream>(
    shared: Arc<Shared>,
    router: Router,
    keep_alive: bool,
    head: Bytes,
    stream: S,
) {
    let config = &shared.service.config;
    let stream =
        PlainStream { head, stream, overdue: None, write_timeout: config.http_write_timeout };
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(keep_alive)
            .header_read_timeout(config.http_read_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let outcome = tokio::select! {
        biased;
        outcome = &mut connection => outcome,
        () = shared.stopping() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "a plain HTTP connection failed");
    }
}

/// A stream of which the beginning has been read already, and whose writes have a deadline.
struct PlainStream<S> {
    head: Bytes,
    stream: S,
    /// Runs from the first write that the peer does not take until everything is taken.
    overdue: Option<Pin<Box<Sleep>>>,
    write_timeout: Duration,
}

impl<S> PlainStream<S> {
    /// An error when the peer has not taken an answer in time.
    fn check_overdue<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let overdue = self.overdue.get_or_insert_with(|| Box::pin(sleep(self.write_timeout)));
        overdue.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: Stream> AsyncRead for PlainStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let taken = self.head.len().min(buffer.remaining());
        buffer.put_slice(&self.head[..taken]);
        self.head.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for PlainStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => self.check_overdue(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => self.check_overdue(cx),
            // hyper flushes only what it has written to the end.
            ready @ Poll::Ready(_) => {
                self.overdue = None;
                ready
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Pending => self.check_overdue(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }
}

/// Plain HTTP connections at once, each for one request.
const CONNECTIONS_MAX: u32 = 256;

/// Connections of the metrics port at once.
const SCRAPERS_MAX: u32 = 64;

/// Longest head of a request; hyper takes no less than 8 KiB.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long nothing is accepted after accepting failed: most likely for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a stopping instance waits for answers in progress.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
