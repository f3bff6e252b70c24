//! The relay thread on a broker that hears nothing, in simulated time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use realtime_core::{
    id::Epoch,
    relay::{Destination, History, StreamHead},
};

use super::*;
use crate::broker::{
    Broker, BrokerFuture, MemoryBroker, Publish, PublishError, Published, Retention, Subscription,
};

/// An embedded broker whose probes get lost while it is deaf.
#[derive(Debug)]
struct Deaf {
    inner: MemoryBroker,
    deaf: AtomicBool,
    /// The last probe that got lost.
    lost: watch::Sender<u64>,
    subscriptions: AtomicU32,
}

impl Deaf {
    fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryBroker::new(retention(), 1 << 20, clock),
            deaf: AtomicBool::new(false),
            lost: watch::Sender::new(0),
            subscriptions: AtomicU32::new(0),
        })
    }
}

impl Broker for Deaf {
    fn publish(&self, request: Publish) -> BrokerFuture<'_, Result<Published, PublishError>> {
        self.inner.publish(request)
    }

    fn read(
        &self,
        stream: StreamName,
        epoch: Epoch,
        after: Option<u64>,
        known: Option<Position>,
    ) -> BrokerFuture<'_, Result<History, BrokerError>> {
        self.inner.read(stream, epoch, after, known)
    }

    fn heads(
        &self,
        streams: Vec<StreamName>,
    ) -> BrokerFuture<'_, Result<Vec<Option<StreamHead>>, BrokerError>> {
        self.inner.heads(streams)
    }

    fn subscribe(&self) -> BrokerFuture<'_, Result<Subscription, BrokerError>> {
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        self.inner.subscribe()
    }

    fn tell(&self, to: Destination, bytes: Bytes) -> BrokerFuture<'_, Result<(), BrokerError>> {
        self.inner.tell(to, bytes)
    }

    fn probe(&self, token: u64) -> BrokerFuture<'_, Result<ProbesSent, BrokerError>> {
        if self.deaf.load(Ordering::Relaxed) {
            self.lost.send_replace(token);
            return Box::pin(async { Ok(ProbesSent(1)) });
        }
        self.inner.probe(token)
    }
}

fn retention() -> Retention {
    Retention {
        user_entries_max: 16,
        room_entries_max: 16,
        bytes_max: 1 << 16,
        history_ttl: Duration::from_secs(600),
        position_ttl: Duration::from_secs(600),
        latest_ttl: Duration::from_secs(600),
        idempotency_ttl: Duration::from_secs(600),
    }
}

fn limits() -> RelayLimits {
    RelayLimits {
        workers: 0,
        positions: true,
        in_flight_max: 16,
        in_flight_bytes_max: 1 << 16,
        linger: Duration::from_secs(30),
        held_bytes_max: 1 << 16,
        repair_timeout: Duration::from_secs(2),
        expected_max: 16,
        head_reads_max: 3,
        position_check: Duration::from_secs(300),
        subscribe_timeout: Duration::from_secs(5),
        ingress_bytes_max: 1 << 16,
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_no_probe_comes_back_is_replaced_until_one_does() {
    let clock = Clock::new();
    let broker = Deaf::new(clock);
    let (_commands, receiver) = mpsc::channel(1);
    let (sender, mut health) = watch::channel(LinkHealth::default());
    let link = run(broker.clone(), limits(), BootId(1), 7, clock, receiver, vec![], sender, None);
    tokio::spawn(link);
    health.wait_for(|health| health.reachable).await.unwrap();
    sleep_until(clock.tokio(clock.now() + Duration::from_secs(60))).await;
    assert_eq!(broker.subscriptions.load(Ordering::Relaxed), 1);
    assert!(health.borrow().reachable);

    broker.deaf.store(true, Ordering::Relaxed);
    let deaf = clock.now();
    let away = health.wait_for(|health| !health.reachable).await.unwrap().away_since.unwrap();
    // The next probe is at most 5 s away and is given 2 s.
    assert!(away.saturating_since(deaf) <= Duration::from_secs(7));
    health.wait_for(|health| health.reconnects >= 3).await.unwrap();
    assert!(!health.borrow().reachable);

    broker.deaf.store(false, Ordering::Relaxed);
    let back = health.wait_for(|health| health.reachable).await.unwrap().clone();
    assert_eq!((back.away_since, back.ever_reachable), (None, true));
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_not_replaced_because_this_thread_was_late() {
    let clock = Clock::new();
    let broker = Deaf::new(clock);
    let (commands, receiver) = mpsc::channel(1);
    let (sender, mut health) = watch::channel(LinkHealth::default());
    let link = run(broker.clone(), limits(), BootId(1), 7, clock, receiver, vec![], sender, None);
    tokio::spawn(link);
    health.wait_for(|health| health.reachable).await.unwrap();
    broker.deaf.store(true, Ordering::Relaxed);
    let mut lost = broker.lost.subscribe();
    lost.changed().await.unwrap();

    // Everything is there by the time the thread runs again: the probe, a command, the deadline.
    let token = *lost.borrow();
    broker.inner.probe(token).await.unwrap();
    commands.try_send(LinkCommand::Unpublished { mid: Mid(1) }).unwrap();
    broker.deaf.store(false, Ordering::Relaxed);
    tokio::time::advance(Duration::from_secs(3)).await;
    sleep_until(clock.tokio(clock.now() + Duration::from_secs(20))).await;
    assert_eq!(broker.subscriptions.load(Ordering::Relaxed), 1);
}
