//! The relay thread on both brokers: joins, publications, receipts, a Redis that comes and goes.

use std::time::Duration;

use realtime_core::{
    id::{BootId, DispatchId, Mid, Position, RequestId, WorkerId},
    limits::RelayLimits,
    link::{Publication, Since, ToRelay, ToShard},
};
use realtime_runtime::{
    broker::SharedBroker,
    clock::Clock,
    link::{self, LinkCommand, LinkHealth, Receipt},
};
use tokio::sync::{mpsc, watch};

use crate::{
    common::*,
    redis_server::{DEADLINE, RedisServer},
};

/// The instance that publishes.
const ORIGIN: BootId = BootId(7);

/// A relay with two workers, which are the test.
struct Instance {
    clock: Clock,
    commands: mpsc::Sender<LinkCommand>,
    workers: Vec<mpsc::Receiver<ToShard>>,
    health: watch::Receiver<LinkHealth>,
    task: tokio::task::JoinHandle<()>,
}

impl Instance {
    fn start(boot: BootId, broker: SharedBroker) -> Self {
        let limits = RelayLimits {
            workers: 2,
            positions: true,
            in_flight_max: 1_000,
            in_flight_bytes_max: 1 << 20,
            linger: Duration::from_secs(30),
            held_bytes_max: 1 << 20,
            repair_timeout: Duration::from_secs(2),
            expected_max: 1_000,
            head_reads_max: 3,
            position_check: Duration::from_secs(300),
            subscribe_timeout: Duration::from_secs(5),
            ingress_bytes_max: 1 << 16,
        };
        let clock = Clock::new();
        let (commands, receiver) = mpsc::channel(64);
        // Queues of one, so that what does not fit is a matter of course.
        let (senders, workers) = (0..2).map(|_| mpsc::channel(1)).unzip();
        let (sender, health) = watch::channel(LinkHealth::default());
        let running = link::run(broker, limits, boot, 7, clock, receiver, senders, sender, None);
        let task = tokio::spawn(running);
        Self { clock, commands, workers, health, task }
    }

    async fn reachable(broker: SharedBroker) -> Self {
        Self::reachable_as(ORIGIN, broker).await
    }

    async fn reachable_as(boot: BootId, broker: SharedBroker) -> Self {
        let mut instance = Self::start(boot, broker);
        instance.health(|health| health.reachable).await;
        instance
    }

    async fn health(&mut self, holds: impl FnMut(&LinkHealth) -> bool) -> LinkHealth {
        let health = tokio::time::timeout(DEADLINE, self.health.wait_for(holds)).await;
        health.expect("it does not become so").unwrap().clone()
    }

    async fn tell(&self, worker: u16, message: ToRelay) {
        self.commands.send(LinkCommand::FromShard(WorkerId(worker), message)).await.unwrap();
    }

    async fn join(&self, worker: u16, request: u64, name: &str, since: Option<Since>) {
        let request = RequestId(request);
        self.tell(worker, ToRelay::Join { request, stream: stream(name), since }).await;
    }

    /// Hears what comes next, beats apart.
    async fn hear(&mut self, worker: usize) -> ToShard {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.workers[worker].recv()).await;
            let message = message.expect("the worker hears nothing").unwrap();
            if message != ToShard::Count {
                return message;
            }
        }
    }

    /// Hears that `request` is seated at `position`.
    async fn seated(&mut self, worker: usize, request: u64) -> (Option<Position>, bool) {
        let message = self.hear(worker).await;
        let ToShard::Joined { request: found, position, recovered, .. } = message else {
            panic!("not an answer to {request}: {message:?}");
        };
        assert_eq!(found, RequestId(request));
        (position, recovered)
    }

    /// Hears a publication, and reports it as handed over to `recipients`.
    async fn publication(&mut self, worker: usize, recipients: u32) -> Publication {
        let ToShard::Publication(publication) = self.hear(worker).await else {
            panic!("not a publication");
        };
        let dispatch = publication.dispatch;
        let message = ToRelay::HandedOver { dispatch, recipients };
        self.tell(u16::try_from(worker).unwrap(), message).await;
        Publication { dispatch: DispatchId(0), ..(*publication).clone() }
    }

    /// Publishes as the service does, with a receipt.
    async fn publish(&self, broker: &SharedBroker, mid: u64) -> watch::Receiver<Option<Receipt>> {
        let (receipt, receiver) = watch::channel(None);
        let deadline = self.clock.now() + DEADLINE;
        let (mid, stream) = (Mid(mid), stream("event:1"));
        let expected = LinkCommand::Expected { mid, stream, deadline, receipt };
        self.commands.send(expected).await.unwrap();
        let published = broker.publish(publish("event:1", mid.0)).await.unwrap();
        let subscribers = published.subscribers;
        let published = LinkCommand::Published { mid, subscribers, deadline, ack_by: None };
        self.commands.send(published).await.unwrap();
        receiver
    }
}

async fn counted(mut receipt: watch::Receiver<Option<Receipt>>) -> Receipt {
    let counted = tokio::time::timeout(DEADLINE, receipt.wait_for(Option::is_some)).await;
    counted.expect("no receipt").unwrap().unwrap()
}

#[tokio::test]
async fn a_join_is_answered_and_what_is_published_then_follows_on_every_instance() {
    on_both(retention(), async |broker| {
        broker.publish(publish("event:1", 1)).await.unwrap();
        let mut first = Instance::reachable(broker.clone()).await;
        let mut second = Instance::reachable_as(BootId(8), broker.clone()).await;
        first.join(0, 10, "event:1", None).await;
        first.join(1, 11, "event:1", None).await;
        second.join(0, 12, "event:1", None).await;
        assert_eq!(first.seated(0, 10).await.0, Some(position(1, 1)));
        assert_eq!(first.seated(1, 11).await.0, Some(position(1, 1)));
        assert_eq!(second.seated(0, 12).await.0, Some(position(1, 1)));
        for mid in 2..=50 {
            let receipt = first.publish(&broker, mid).await;
            for publication in [
                first.publication(0, 3).await,
                first.publication(1, 3).await,
                second.publication(0, 3).await,
            ] {
                assert_eq!(publication.position, Some(position(mid, mid)));
                assert_eq!(publication.stream, stream("event:1"));
            }
            let all = Receipt { recipients: 9, instances: 2, complete: true, ..Receipt::default() };
            assert_eq!(counted(receipt).await, all);
        }
    })
    .await;
}

#[tokio::test]
async fn a_publication_without_members_here_is_reported_as_such() {
    on_both(retention(), async |broker| {
        let instance = Instance::reachable(broker.clone()).await;
        let receipt = instance.publish(&broker, 1).await;
        assert_eq!(counted(receipt).await, Receipt { complete: true, ..Receipt::default() });
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_takes_nothing_holds_nobody_else_up() {
    on_both(retention(), async |broker| {
        broker.publish(publish("event:1", 1)).await.unwrap();
        let mut instance = Instance::reachable(broker.clone()).await;
        instance.join(0, 1, "event:1", None).await;
        instance.join(1, 2, "event:1", None).await;
        instance.seated(1, 2).await;
        for mid in 2..=100 {
            broker.publish(publish("event:1", mid)).await.unwrap();
            assert_eq!(instance.publication(1, 1).await.position, Some(position(mid, mid)));
        }
        instance.seated(0, 1).await;
        for mid in 2..=100 {
            assert_eq!(instance.publication(0, 1).await.position, Some(position(mid, mid)));
        }
    })
    .await;
}

#[tokio::test]
async fn the_link_ends_when_nobody_can_tell_it_anything() {
    on_both(retention(), async |broker| {
        let Instance { commands, task, .. } = Instance::reachable(broker).await;
        drop(commands);
        tokio::time::timeout(DEADLINE, task).await.expect("it goes on").unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_comes_later_is_found_and_members_are_told() {
    let mut server = RedisServer::later();
    let broker = redis_broker(config(server.port), retention());
    let mut instance = Instance::start(ORIGIN, broker);
    let away = instance.health(|health| health.away_since.is_some()).await;
    assert!(!away.reachable && !away.ever_reachable);
    instance.join(0, 1, "all", None).await;
    assert_eq!(instance.hear(0).await, ToShard::JoinFailed { request: RequestId(1) });
    assert!(server.launch());
    let health = instance.health(|health| health.reachable).await;
    assert!(health.ever_reachable && health.away_since.is_none() && health.reconnects == 0);
    let message = instance.hear(0).await;
    assert!(matches!(message, ToShard::Resync { ref stream, .. } if stream.as_str() == "all"));
}

#[tokio::test]
async fn over_a_restart_of_redis_members_stay_and_learn_what_they_missed() {
    let (mut server, broker) = on_redis(retention()).await;
    let mut instance = Instance::reachable(broker.clone()).await;
    instance.join(0, 1, "event:1", None).await;
    instance.seated(0, 1).await;
    broker.publish(publish("event:1", 1)).await.unwrap();
    instance.publication(0, 1).await;
    server.kill();
    let away = instance.health(|health| !health.reachable).await;
    assert!(away.away_since.is_some() && away.ever_reachable);
    assert!(server.launch());
    let back = instance.health(|health| health.reachable).await;
    assert_eq!(back.reconnects, 1);
    // The server has lost everything, so the numbering is a new one.
    let ToShard::Resync { position: Some(fresh), .. } = instance.hear(0).await else {
        panic!("not told");
    };
    assert_ne!(fresh.epoch, EPOCH);
    broker.publish(publish("event:1", 2)).await.unwrap();
    let next = instance.publication(0, 1).await.position.unwrap();
    assert_eq!((next.epoch, next.offset, next.mid), (fresh.epoch, 1, Mid(2)));
    let check = u32::try_from(next.mid.0 >> 32).unwrap();
    let since = Since { epoch: next.epoch.0, offset: next.offset, check };
    instance.join(1, 2, "event:1", Some(since)).await;
    assert_eq!(instance.seated(1, 2).await, (Some(next), true));
}

#[tokio::test]
async fn ingress_messages_reach_those_they_name() {
    let (server, broker) = on_redis(retention()).await;
    let mut instance = Instance::reachable(broker).await;
    instance.join(0, 1, "user:7", None).await;
    instance.seated(0, 1).await;
    let body = r#"{"type":"ticket:released","user_id":"7","payload":{"seat":1}}"#;
    let mut client = server.client();
    redis::cmd("PUBLISH").arg("ticket:events").arg(body).exec(&mut client).unwrap();
    let publication = instance.publication(0, 1).await;
    assert_eq!((publication.stream, publication.position), (stream("user:7"), None));
    assert_eq!(&*publication.kind, "ticket:released");
}
