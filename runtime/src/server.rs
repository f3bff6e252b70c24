//! An instance: its threads, the channels between them, and how it starts and ends.

#[cfg(test)]
mod tests;

use std::{
    future::Future, io, net::SocketAddr, num::NonZeroU16, sync::Arc, thread, time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use realtime_core::{
    id::{BootId, WorkerId},
    limits::RelayLimits,
    link::ToShard,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
    time::timeout,
};

use crate::{
    auth::{KeyError, Verifier},
    broker::{MemoryBroker, RedisBroker, SharedBroker},
    clock::Clock,
    config::Config,
    entropy,
    link::{self, LinkCommand, LinkHealth},
    net::{Listener, Net},
    record::{Recorder, Recorders},
    service::{self, Handoff, Phase, Service},
    worker::{self, Census, Setup, WorkerCommand},
};

/// Where the parts of an instance run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spawn {
    /// Each in a thread with a runtime of its own.
    Threads,
    /// All in the `LocalSet` of the caller, for simulations.
    Inline,
}

/// Where an instance listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// WebSockets and plain HTTP.
    pub http: SocketAddr,
    /// gRPC.
    pub grpc: SocketAddr,
    /// Metrics alone; none without `METRICS_ENABLED`.
    pub metrics: Option<SocketAddr>,
}

/// Why an instance ended otherwise than by draining.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port can't be listened on.
    #[error("{variable}: can't listen on {addr}: {error}")]
    Bind {
        /// What configures it.
        variable: &'static str,
        /// The address.
        addr: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A thread could not be started.
    #[error("can't start a thread: {0}")]
    Thread(io::Error),
    /// A part of the instance has ended by itself.
    #[error("{part} has ended: {error}")]
    Ended {
        /// Which one.
        part: String,
        /// Why.
        error: io::Error,
    },
    /// A second signal came while the first was being obeyed.
    #[error("interrupted while draining")]
    Interrupted,
}

/// Runs an instance until `shutdown` brings a first message and everything is drained, or a second
/// one. `listening` is called once everything is bound, `record` for each machine before.
///
/// # Errors
/// Something could not be started, or broke, or the drain was cut short.
pub async fn run<N: Net>(
    config: Config,
    spawn: Spawn,
    record: Recorders<'_>,
    mut shutdown: mpsc::Receiver<()>,
    listening: impl FnOnce(Addresses),
) -> Result<(), ServerError> {
    let (mut instance, addresses) = Instance::start::<N>(config, spawn, record).await?;
    instance.phase.send_replace(Phase::Serving);
    let metrics = addresses.metrics.map(tracing::field::display);
    tracing::info!(http = %addresses.http, grpc = %addresses.grpc, metrics, "listening");
    listening(addresses);
    tokio::select! {
        biased;
        Some(()) = shutdown.recv() => (),
        error = ended(&mut instance.parts) => return Err(error),
    }
    let result = tokio::select! {
        biased;
        Some(()) = shutdown.recv() => Err(ServerError::Interrupted),
        result = instance.drain() => result,
    };
    if result.is_ok() {
        tracing::info!("stopped");
    }
    result
}

/// Ends the process when any thread panics. A release build does so by itself; elsewhere the other
/// threads would keep serving on a broken invariant.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// The channels into the parts of a running instance.
struct Instance {
    config: Arc<Config>,
    phase: watch::Sender<Phase>,
    link: mpsc::Sender<LinkCommand>,
    workers: Vec<mpsc::Sender<WorkerCommand>>,
    drained: mpsc::Receiver<WorkerId>,
    parts: FuturesUnordered<Part>,
}

/// Says how a part ended.
type Part = std::pin::Pin<Box<dyn Future<Output = (String, io::Result<()>)>>>;

impl Instance {
    async fn start<N: Net>(
        config: Config,
        spawn: Spawn,
        record: Recorders<'_>,
    ) -> Result<(Self, Addresses), ServerError> {
        let config = Arc::new(config);
        let clock = Clock::new();
        let boot = entropy::fresh_boot_id();
        let (phase, phases) = watch::channel(Phase::Starting);
        let (link, link_commands) = mpsc::channel(LINK_COMMANDS);
        let (handoff, handoffs) = mpsc::channel(HANDOFFS);
        let (to_shards, from_link) =
            (0..config.workers.max(1)).map(|_| mpsc::channel(TO_SHARD)).unzip();
        let (drained, drains) = mpsc::channel(usize::from(config.workers.max(1)));
        let mut instance = Self {
            config: config.clone(),
            phase,
            link: link.clone(),
            workers: Vec::new(),
            drained: drains,
            parts: FuturesUnordered::new(),
        };
        let verifier = Arc::new(Verifier::new(&config.keys)?);
        let broker = broker::<N>(&config, clock, boot);
        let (health, mut healths) = watch::channel(LinkHealth::default());
        instance.start_relay(
            spawn,
            broker.clone(),
            boot,
            clock,
            link_commands,
            to_shards,
            health,
            record(boot, "relay"),
        )?;
        // Clients who came first would only be told to come again. Without Redis they are.
        drop(timeout(BROKER_WAIT, healths.wait_for(|health| health.reachable)).await);
        let common = Common {
            config: config.clone(),
            census: Arc::default(),
            clock,
            boot,
            verifier,
            link: link.clone(),
            handoff,
            drained,
            phase: phases.clone(),
        };
        let http = instance.start_workers::<N>(spawn, common, from_link, record).await?;
        let service = Service {
            config,
            clock,
            boot,
            broker,
            workers: instance.workers.clone(),
            link,
            health: healths,
            phase: phases,
            has_process: spawn == Spawn::Threads,
        };
        let (grpc, metrics) = instance.start_service::<N>(spawn, service, handoffs).await?;
        Ok((instance, Addresses { http, grpc, metrics }))
    }

    fn start_relay(
        &mut self,
        spawn: Spawn,
        broker: SharedBroker,
        boot: BootId,
        clock: Clock,
        commands: mpsc::Receiver<LinkCommand>,
        to_shards: Vec<mpsc::Sender<ToShard>>,
        health: watch::Sender<LinkHealth>,
        record: Recorder,
    ) -> Result<(), ServerError> {
        let limits = relay_limits(&self.config);
        let seed = entropy::random();
        let part = launch(spawn, "relay".into(), move || async move {
            link::run(broker, limits, boot, seed, clock, commands, to_shards, health, record).await;
            Ok(())
        })?;
        self.parts.push(part);
        Ok(())
    }

    /// Starts the workers one after another: the first finds a port, the others share it.
    async fn start_workers<N: Net>(
        &mut self,
        spawn: Spawn,
        common: Common<N::Stream>,
        from_link: Vec<mpsc::Receiver<ToShard>>,
        record: Recorders<'_>,
    ) -> Result<SocketAddr, ServerError> {
        let count = NonZeroU16::new(self.config.workers).unwrap_or(NonZeroU16::MIN);
        let shared = count.get() > 1;
        let mut addr = SocketAddr::new(self.config.bind_address, self.config.http_port);
        if shared && addr.port() != 0 {
            // Ports can be shared by processes, too, which would be a mistake here.
            drop(bind::<N>("HTTP_PORT", addr, false).await?);
        }
        for (index, from_link) in (0..count.get()).zip(from_link) {
            let (commands, worker_commands) = mpsc::channel(WORKER_COMMANDS);
            self.workers.push(commands);
            let record = record(common.boot, &format!("worker-{index}"));
            let setup = common.setup(WorkerId(index), count, from_link, worker_commands, record);
            let (tell, told) = oneshot::channel();
            let part = launch(spawn, format!("worker {index}"), move || async move {
                let (listener, addr) = match bind::<N>("HTTP_PORT", addr, shared).await {
                    Ok(bound) => bound,
                    Err(error) => return tell.send(Err(error)).map_err(|_| server_gone()),
                };
                tell.send(Ok(addr)).map_err(|_| server_gone())?;
                worker::run(setup, listener).await;
                Ok(())
            })?;
            self.parts.push(part);
            addr = self.bound(told).await?;
        }
        Ok(addr)
    }

    async fn start_service<N: Net>(
        &mut self,
        spawn: Spawn,
        service: Service,
        handoffs: mpsc::Receiver<Handoff<N::Stream>>,
    ) -> Result<(SocketAddr, Option<SocketAddr>), ServerError> {
        let (tell, told) = oneshot::channel();
        let part = launch(spawn, "service".into(), move || async move {
            let config = &service.config;
            let ip = config.bind_address;
            let bound = async {
                let grpc = SocketAddr::new(ip, config.grpc_port);
                let grpc = bind::<N>("GRPC_PORT", grpc, false).await?;
                let metrics = match config.metrics_port {
                    Some(port) => {
                        let addr = SocketAddr::new(ip, port);
                        Some(bind::<N>("METRICS_PORT", addr, false).await?)
                    }
                    None => None,
                };
                Ok((grpc, metrics))
            };
            let ((grpc, grpc_addr), metrics) = match bound.await {
                Ok(bound) => bound,
                Err(error) => return tell.send(Err(error)).map_err(|_| server_gone()),
            };
            let (metrics, metrics_addr) = metrics.unzip();
            tell.send(Ok((grpc_addr, metrics_addr))).map_err(|_| server_gone())?;
            service::run::<N>(service, grpc, metrics, handoffs).await
        })?;
        self.parts.push(part);
        self.bound(told).await
    }

    /// Waits until a part has bound what it listens on.
    async fn bound<T>(
        &mut self,
        told: oneshot::Receiver<Result<T, ServerError>>,
    ) -> Result<T, ServerError> {
        match told.await {
            Ok(bound) => bound,
            Err(_) => Err(ended(&mut self.parts).await),
        }
    }

    /// Says goodbye to clients and callers, in this order: load balancers, WebSockets, gRPC.
    async fn drain(&mut self) -> Result<(), ServerError> {
        tracing::info!(delay = ?self.config.drain_delay, "draining");
        if !planted!("drain without readiness") {
            self.phase.send_replace(Phase::Draining);
        }
        tokio::time::sleep(self.config.drain_delay).await;
        let closes = async {
            let period = close_period(&self.config);
            for worker in &self.workers {
                // One that has ended has no connections.
                drop(worker.send(WorkerCommand::Drain { period }).await);
            }
            for _ in &self.workers {
                self.drained.recv().await;
            }
        };
        if timeout(self.config.drain_timeout, closes).await.is_err() {
            tracing::warn!("connections are left after the drain timeout");
        }
        self.leave().await;
        self.phase.send_replace(Phase::Stopping);
        let ends = async {
            while let Some((part, result)) = self.parts.next().await {
                match result {
                    Ok(()) if part == "service" => return Ok(()),
                    Ok(()) => (),
                    Err(error) => return Err(ServerError::Ended { part, error }),
                }
            }
            Ok(())
        };
        timeout(STOP_TIMEOUT, ends).await.unwrap_or_else(|_| {
            tracing::warn!("calls are left after the stop timeout");
            Ok(())
        })
    }

    /// Tells the other instances, who find out by themselves if it takes too long.
    async fn leave(&self) {
        let (done, left) = oneshot::channel();
        let leaving = async {
            if self.link.send(LinkCommand::Leave(done)).await.is_ok() {
                drop(left.await);
            }
        };
        drop(timeout(LEAVE_TIMEOUT, leaving).await);
    }
}

/// What the workers of an instance have in common.
struct Common<S> {
    config: Arc<Config>,
    census: Arc<Census>,
    clock: Clock,
    boot: BootId,
    verifier: Arc<Verifier>,
    link: mpsc::Sender<LinkCommand>,
    handoff: mpsc::Sender<Handoff<S>>,
    drained: mpsc::Sender<WorkerId>,
    phase: watch::Receiver<Phase>,
}

impl<S> Common<S> {
    fn setup(
        &self,
        id: WorkerId,
        workers: NonZeroU16,
        from_link: mpsc::Receiver<ToShard>,
        commands: mpsc::Receiver<WorkerCommand>,
        record: Recorder,
    ) -> Setup<S> {
        Setup {
            id,
            workers,
            config: self.config.clone(),
            clock: self.clock,
            census: self.census.clone(),
            boot: self.boot,
            seed: entropy::random(),
            verifier: self.verifier.clone(),
            link: self.link.clone(),
            from_link,
            commands,
            handoff: self.handoff.clone(),
            drained: self.drained.clone(),
            phase: self.phase.clone(),
            record,
        }
    }
}

/// Starts a part of the instance.
fn launch<F: Future<Output = io::Result<()>> + 'static>(
    spawn: Spawn,
    name: String,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<Part, ServerError> {
    let (tell, told) = oneshot::channel();
    match spawn {
        Spawn::Threads => {
            let body = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let result = runtime
                    .and_then(|runtime| LocalSet::new().block_on(&runtime, async { make().await }));
                // Nobody listens when the server has ended before.
                drop(tell.send(result));
            };
            thread::Builder::new().name(name.clone()).spawn(body).map_err(ServerError::Thread)?;
        }
        Spawn::Inline => {
            tokio::task::spawn_local(async move { drop(tell.send(make().await)) });
        }
    }
    Ok(Box::pin(async move {
        let result = told.await.unwrap_or_else(|_| Err(io::Error::other("it panicked")));
        (name, result)
    }))
}

/// Waits for a part to end, which none does by itself.
async fn ended(parts: &mut FuturesUnordered<Part>) -> ServerError {
    let (part, result) = match parts.next().await {
        Some(ended) => ended,
        None => ("everything".into(), Ok(())),
    };
    let error = result.err().unwrap_or_else(|| io::Error::other("without an error"));
    ServerError::Ended { part, error }
}

async fn bind<N: Net>(
    variable: &'static str,
    addr: SocketAddr,
    shared: bool,
) -> Result<(N::Listener, SocketAddr), ServerError> {
    let failed = |error| ServerError::Bind { variable, addr, error };
    let listener = N::bind(addr, shared).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((listener, addr))
}

fn broker<N: Net>(config: &Config, clock: Clock, boot: BootId) -> SharedBroker {
    let retention = config.retention.clone();
    match &config.redis {
        Some(redis) => {
            Arc::new(RedisBroker::<N>::new(redis.clone(), retention, config.ingress, boot))
        }
        None => {
            tracing::info!("REDIS_HOST is not set: one instance, on the embedded broker");
            Arc::new(MemoryBroker::new(retention, config.memory_broker_bytes_max, clock))
        }
    }
}

fn relay_limits(config: &Config) -> RelayLimits {
    RelayLimits {
        workers: config.workers.max(1),
        positions: config.retention.user_entries_max > 0,
        in_flight_max: IN_FLIGHT,
        in_flight_bytes_max: IN_FLIGHT_BYTES,
        linger: LINGER,
        held_bytes_max: HELD_BYTES,
        repair_timeout: config.repair_timeout,
        expected_max: EXPECTED,
        head_reads_max: HEAD_READS,
        position_check: config.position_check,
        subscribe_timeout: SUBSCRIBE_TIMEOUT,
        ingress_bytes_max: config.payload_bytes_max,
    }
}

/// How long the closes of a drain are spread over: the last ones need time for their handshake.
fn close_period(config: &Config) -> Duration {
    let margin = config.ws.close_timeout.min(config.drain_timeout / 4);
    config.drain_timeout.saturating_sub(margin)
}

fn server_gone() -> io::Error {
    io::Error::other("the server has ended")
}

/// Messages to the relay thread: with each of 2,000 connects a second come three or four.
const LINK_COMMANDS: usize = 1 << 14;

/// Messages to a worker. The relay thread keeps what does not fit, and bounds it.
const TO_SHARD: usize = 1 << 12;

/// How long the workers wait for the broker at the start.
const BROKER_WAIT: Duration = Duration::from_secs(1);

/// Snapshots and the drain.
const WORKER_COMMANDS: usize = 16;

/// Plain HTTP connections on their way to the service thread.
const HANDOFFS: usize = 256;

/// Publications on their way to one worker.
const IN_FLIGHT: u32 = 1 << 12;

/// Bytes of those.
const IN_FLIGHT_BYTES: usize = 16 << 20;

/// A page that is reloaded comes back sooner.
const LINGER: Duration = Duration::from_secs(30);

/// Live entries held for one stream while its head is read.
const HELD_BYTES: usize = 1 << 20;

/// Calls that wait for a receipt at once.
const EXPECTED: u32 = 1 << 16;

/// Reads of one head before the stream is given up until the next connection.
const HEAD_READS: u32 = 3;

/// A Redis that is there confirms within milliseconds.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long calls in flight may take to finish: the service bounds them itself, more tightly.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a goodbye to the other instances may take.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(250);
