//! The gRPC port: the service under its two names, health and reflection.

mod calls;
mod edge;
mod publish;
mod recent;
mod request;
mod stats;
mod status;

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream;
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use realtime_proto::{FILE_DESCRIPTOR_SET, realtime_service_server::RealtimeServiceServer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tonic::{
    server::NamedService as _,
    service::Routes,
    transport::{Server, server::Connected},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder as Reflection;
use tracing::warn;

use crate::{
    config::server_tls,
    metrics::ServiceError,
    net::Listener,
    service::{Phase, Shared},
};
use calls::Calls;
use edge::Edge;

/// Serves gRPC until the instance stops, and finishes the calls that are in progress then.
///
/// # Errors
/// TLS can't be set up, or the server failed as a whole.
pub(crate) async fn serve<L: Listener>(shared: &Arc<Shared>, listener: L) -> io::Result<()> {
    let reporter = HealthReporter::new();
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .http2_max_header_list_size(Some(HEADER_BYTES_MAX))
        .timeout(CALL_TIMEOUT);
    if let Some(tls) = &shared.service.config.grpc_tls {
        let tls = server_tls(tls).map_err(io::Error::other)?;
        server = server.tls_config(tls).map_err(io::Error::other)?;
    }
    let serving = server
        .add_routes(routes(shared, &reporter)?)
        .serve_with_incoming_shutdown(incoming(Arc::clone(shared), listener), shared.stopping());
    let cut_off = async {
        report_health(shared, reporter).await;
        sleep(FINISH_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        outcome = serving => outcome.map_err(io::Error::other),
        () = cut_off => {
            warn!("gRPC calls in progress were cut off");
            Ok(())
        }
    }
}

fn routes(shared: &Arc<Shared>, reporter: &HealthReporter) -> io::Result<Routes> {
    // A longer message can't hold an acceptable payload; the other fields fit into the margin.
    let message_bytes_max = shared.service.config.payload_bytes_max + MESSAGE_MARGIN_BYTES;
    let service =
        RealtimeServiceServer::new(Calls::new(shared)).max_decoding_message_size(message_bytes_max);
    let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
    let (v1, v1alpha) = (reflection()?.build_v1(), reflection()?.build_v1alpha());
    let mut routes = Routes::builder();
    routes
        .add_service(Edge::<false>::new(service.clone(), shared))
        .add_service(Edge::<true>::new(service, shared))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(v1.map_err(io::Error::other)?)
        .add_service(v1alpha.map_err(io::Error::other)?);
    Ok(routes.routes())
}

/// Reflection that lists the service under both names.
fn reflection() -> io::Result<Reflection<'static>> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).map_err(io::Error::other)?;
    let renamed = FileDescriptorSet { file: files.file.iter().map(renamed).collect() };
    Ok(Reflection::configure()
        .register_file_descriptor_set(files)
        .register_file_descriptor_set(renamed)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET))
}

/// The same file in the package `realtime.v1`.
fn renamed(file: &FileDescriptorProto) -> FileDescriptorProto {
    let mut file = file.clone();
    file.name = Some("realtime/v1/realtime.proto".to_owned());
    file.package = Some("realtime.v1".to_owned());
    for method in file.service.iter_mut().flat_map(|service| &mut service.method) {
        rename(&mut method.input_type);
        rename(&mut method.output_type);
    }
    let mut messages: Vec<_> = file.message_type.iter_mut().collect();
    while let Some(message) = messages.pop() {
        for field in &mut message.field {
            rename(&mut field.type_name);
        }
        messages.extend(&mut message.nested_type);
    }
    file
}

fn rename(name: &mut Option<String>) {
    if let Some(rest) = name.as_ref().and_then(|name| name.strip_prefix(".realtime.")) {
        *name = Some(format!(".realtime.v1.{rest}"));
    }
}

/// Keeps the health service up to date until the instance stops; then ends those who watch it, for
/// whom the server would wait.
async fn report_health(shared: &Shared, mut reporter: HealthReporter) {
    let mut phase = shared.service.phase.clone();
    let mut told = None;
    loop {
        let now = *phase.borrow_and_update();
        let status = match now {
            Phase::Serving => ServingStatus::Serving,
            Phase::Starting | Phase::Draining | Phase::Stopping => ServingStatus::NotServing,
        };
        // Those who watch are told each time a status is set, changed or not.
        if told != Some(status) {
            told = Some(status);
            for name in HEALTH_NAMES {
                reporter.set_service_status(name, status).await;
            }
        }
        if now == Phase::Stopping || phase.changed().await.is_err() {
            break;
        }
    }
    for name in HEALTH_NAMES {
        reporter.clear_service_status(name).await;
    }
}

/// Accepts connections, a bounded number at once.
fn incoming<L: Listener>(
    shared: Arc<Shared>,
    listener: L,
) -> impl stream::Stream<Item = io::Result<GrpcStream<L::Stream>>> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    stream::unfold((shared, listener, permits), |(shared, mut listener, permits)| async move {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("it is never closed");
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    shared.counters.failed(ServiceError::GrpcAccept);
                    warn!(%error, "a gRPC connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        shared.counters.grpc_connections().fetch_add(1, Ordering::Relaxed);
        let stream = GrpcStream { stream, shared: Arc::clone(&shared), _permit: permit };
        Some((Ok(stream), (shared, listener, permits)))
    })
}

/// A connection that counts while it is open.
struct GrpcStream<S> {
    stream: S,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl<S> Drop for GrpcStream<S> {
    fn drop(&mut self) {
        self.shared.counters.grpc_connections().fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S> Connected for GrpcStream<S> {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl<S: AsyncRead + Unpin> AsyncRead for GrpcStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GrpcStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The names that the health service knows.
const HEALTH_NAMES: [&str; 3] = ["", Edge::<false>::NAME, Edge::<true>::NAME];

/// A quiet peer is pinged this often, and dropped when it does not answer in time.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections at once. Callers are the company's own back ends, which hold a few each.
const CONNECTIONS_MAX: usize = 1_024;

/// Calls at once of one connection.
const STREAMS_MAX: u32 = 1_024;

/// Bytes of one call's headers.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Bytes of a request beside the payload: ids, texts, seats.
const MESSAGE_MARGIN_BYTES: usize = 64 << 10;

/// The longest that any call takes, whatever its deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a stopping instance waits for calls in progress.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long nothing is accepted after accepting failed: most likely for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
