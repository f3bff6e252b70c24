//! The service thread: gRPC, plain HTTP and metrics. It delays no delivery, since those are made by
//! workers and the relay thread.

use std::{io, sync::Arc};

use bytes::Bytes;
use realtime_core::{id::BootId, time::Instant};
use tokio::sync::{Mutex, mpsc, watch};

use crate::{
    broker::SharedBroker,
    clock::Clock,
    config::Config,
    grpc, http,
    link::{LinkCommand, LinkHealth},
    metrics::{Counters, Overview, Scrape, Workers, expose},
    net::Net,
    worker::WorkerCommand,
};

/// What the service thread needs of the rest of the instance.
#[derive(Debug)]
pub struct Service {
    /// The configuration.
    pub config: Arc<Config>,
    /// The instance's clock, whose origin is its start.
    pub clock: Clock,
    /// This life of the process.
    pub boot: BootId,
    /// Where messages are published.
    pub broker: SharedBroker,
    /// The workers.
    pub workers: Vec<mpsc::Sender<WorkerCommand>>,
    /// The relay thread.
    pub link: mpsc::Sender<LinkCommand>,
    /// How the broker is.
    pub health: watch::Receiver<LinkHealth>,
    /// How far the instance is in its life.
    pub phase: watch::Receiver<Phase>,
    /// Whether it has its process for itself, so that its metrics are also those of the process.
    pub has_process: bool,
}

/// How far an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not everything is bound yet.
    Starting,
    /// In operation.
    Serving,
    /// Connections are being closed; calls are still answered.
    Draining,
    /// Calls in progress are finished, and no others taken.
    Stopping,
}

/// A connection of which a worker has read a request that is not for `/ws`.
#[derive(Debug)]
pub struct Handoff<S> {
    /// What was read: the head of the request, and whatever came with it.
    pub head: Bytes,
    /// The rest.
    pub stream: S,
}

/// Serves until [`Phase::Stopping`], and finishes the calls that are in progress then.
///
/// # Errors
/// The gRPC server can't be set up, or failed as a whole.
pub async fn run<N: Net>(
    service: Service,
    grpc: N::Listener,
    metrics: Option<N::Listener>,
    handoff: mpsc::Receiver<Handoff<N::Stream>>,
) -> io::Result<()> {
    let shared = Arc::new(Shared::new(service));
    let metrics = async {
        if let Some(listener) = metrics {
            http::serve_metrics(&shared, listener).await;
        }
    };
    let (outcome, (), ()) =
        tokio::join!(grpc::serve(&shared, grpc), metrics, http::serve_handoffs(&shared, handoff),);
    outcome
}

/// What requests and calls share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) service: Service,
    pub(crate) workers: Workers,
    pub(crate) counters: Counters,
    /// When the last scrape began, and its text.
    scraped: Mutex<Option<(Instant, Bytes)>>,
}

impl Shared {
    pub(crate) fn new(service: Service) -> Self {
        let workers = Workers::new(service.workers.clone());
        Self { service, workers, counters: Counters::default(), scraped: Mutex::default() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.service.clock.now()
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.service.phase.borrow()
    }

    /// Waits for [`Phase::Stopping`].
    pub(crate) async fn stopping(&self) {
        let mut phase = self.service.phase.clone();
        // Without a sender the instance is gone.
        let _gone = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    }

    /// The text of a scrape. One at a time; those who wait share the next one, so that a flood of
    /// scrapes costs no more than a few.
    pub(crate) async fn scrape(self: &Arc<Self>) -> Bytes {
        let asked = self.now();
        let mut scraped = self.scraped.lock().await;
        if let Some((began, text)) = &*scraped
            && *began > asked
        {
            return text.clone();
        }
        let began = self.now();
        let overview = self.workers.collect(true).await;
        let text = if self.service.has_process {
            let shared = Arc::clone(self);
            // It reads a file for each open socket: not on the thread that answers calls.
            let text = tokio::task::spawn_blocking(move || shared.expose(&overview));
            Bytes::from(text.await.expect("writing metrics does not panic"))
        } else {
            Bytes::from(self.expose(&overview))
        };
        *scraped = Some((began, text.clone()));
        text
    }

    fn expose(&self, overview: &Overview) -> String {
        expose(&Scrape {
            overview,
            health: &self.service.health.borrow(),
            counters: &self.counters,
            draining: matches!(self.phase(), Phase::Draining | Phase::Stopping),
            rooms_max: self.service.config.metrics_rooms_max,
            process: self.service.has_process,
        })
    }
}

#[cfg(test)]
mod tests;
