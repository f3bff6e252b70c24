//! What the tests of the brokers are made of.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use realtime_core::{
    entry::{Body, Entry, Place},
    id::{BootId, Epoch, Mid, Position},
    relay::Channel,
    stream::StreamName,
    time::UnixMillis,
};
use realtime_runtime::{
    broker::{
        Class, Item, MemoryBroker, Publish, RedisBroker, Retention, SharedBroker, Subscription,
    },
    clock::Clock,
    config::RedisConfig,
    net::TokioNet,
};

use crate::redis_server::{DEADLINE, RedisServer};

pub(crate) const EPOCH: Epoch = Epoch(0x1234_5678);

pub(crate) fn retention() -> Retention {
    Retention {
        user_entries_max: 3,
        room_entries_max: 20,
        bytes_max: 2_000,
        history_ttl: Duration::from_secs(600),
        position_ttl: Duration::from_secs(86_400),
        latest_ttl: Duration::from_secs(500),
        idempotency_ttl: Duration::from_secs(300),
    }
}

pub(crate) fn config(port: u16) -> RedisConfig {
    RedisConfig {
        host: "127.0.0.1".into(),
        port,
        username: None,
        password: None,
        db: 0,
        prefix: "realtime:".into(),
        connections: 2,
        wait_replicas: 0,
    }
}

pub(crate) fn redis_broker(config: RedisConfig, retention: Retention) -> SharedBroker {
    Arc::new(RedisBroker::<TokioNet>::new(config, retention, true, BootId(7)))
}

/// A broker on a server of its own, once it is connected.
pub(crate) async fn on_redis(retention: Retention) -> (RedisServer, SharedBroker) {
    let server = RedisServer::start(&[]);
    let broker = redis_broker(config(server.port), retention);
    until(async || broker.probe(0).await.is_ok()).await;
    (server, broker)
}

/// Runs `test` on a broker of each kind.
pub(crate) async fn on_both<F: Future<Output = ()>>(
    retention: Retention,
    test: impl Fn(SharedBroker) -> F,
) {
    test(Arc::new(MemoryBroker::new(retention.clone(), 1 << 20, Clock::new()))).await;
    let (_server, broker) = on_redis(retention).await;
    test(broker).await;
}

/// Asks until it is so.
#[track_caller]
pub(crate) fn until(mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let waiting = async {
            let mut pace = tokio::time::interval(Duration::from_millis(2));
            while !holds().await {
                pace.tick().await;
            }
        };
        let result = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(result.is_ok(), "what {place} waits for does not happen");
    }
}

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::room(name).unwrap()
}

pub(crate) fn body(text: &str) -> Bytes {
    let body = Body {
        kind: "booking:confirmed".into(),
        payload: format!("{{\"text\":\"{text}\"}}").into(),
        exclude_user: None,
        key: "".into(),
        ack: false,
        origin: BootId(7),
        published: UnixMillis(1_700_000_000_000),
    };
    body.encode()
}

pub(crate) fn publish(name: &str, mid: u64) -> Publish {
    Publish {
        stream: stream(name),
        mid: Mid(mid),
        epoch: EPOCH,
        body: body("x"),
        class: Class::Durable,
        idempotency_key: None,
    }
}

pub(crate) fn keyed(name: &str, mid: u64, key: &str) -> Publish {
    Publish { idempotency_key: Some(key.into()), ..publish(name, mid) }
}

pub(crate) fn latest(name: &str, mid: u64, field: &str) -> Publish {
    Publish { class: Class::Latest { field: field.into() }, ..publish(name, mid) }
}

pub(crate) fn position(offset: u64, mid: u64) -> Position {
    Position { epoch: EPOCH, offset, mid: Mid(mid) }
}

/// Subscribes to `names` and waits until it holds.
/// Where streams are.
pub(crate) async fn positions(
    broker: &SharedBroker,
    streams: Vec<StreamName>,
) -> Vec<Option<Position>> {
    let heads = broker.heads(streams).await.unwrap();
    heads.into_iter().map(|head| head.map(|head| head.position)).collect()
}

pub(crate) async fn subscribe(broker: &SharedBroker, names: &[&str]) -> Subscription {
    let mut subscription = broker.subscribe().await.unwrap();
    let streams = names.iter().map(|name| stream(name)).collect();
    subscription.requests.request(streams, vec![]).await.unwrap();
    for name in names {
        assert_eq!(next(&mut subscription).await, Item::Subscribed(stream(name)));
    }
    subscription
}

pub(crate) async fn next(subscription: &mut Subscription) -> Item {
    let next = tokio::time::timeout(DEADLINE, subscription.items.next());
    next.await.expect("nothing comes").expect("the subscription is gone")
}

/// The next item, which must be an entry of `name`.
pub(crate) async fn entry(subscription: &mut Subscription, name: &str) -> Entry {
    match next(subscription).await {
        Item::Message(Channel::Stream(channel), bytes) if channel == stream(name) => {
            Entry::decode(&bytes).unwrap()
        }
        other @ (Item::Subscribed(_)
        | Item::Unsubscribed(_)
        | Item::Message(..)
        | Item::Probe(_)) => panic!("not an entry of {name}: {other:?}"),
    }
}

pub(crate) async fn durable(subscription: &mut Subscription, name: &str) -> (Position, Mid) {
    match entry(subscription, name).await.place {
        Place::Durable { position, prev } => (position, prev),
        place @ Place::Latest { .. } => panic!("not durable: {place:?}"),
    }
}

pub(crate) async fn ended(mut subscription: Subscription) {
    let ending = async { while subscription.items.next().await.is_ok() {} };
    tokio::time::timeout(DEADLINE, ending).await.expect("it goes on");
}
