//! What both brokers promise, asked of both; and what only Redis can show.
#![allow(clippy::disallowed_methods, reason = "tests stand outside of the seams")]

#[path = "broker/redis_server.rs"]
mod redis_server;

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use realtime_core::{
    entry::{Body, Entry, Place},
    id::{BootId, Epoch, Mid, Position},
    relay::{Channel, Ingress},
    stream::StreamName,
    time::UnixMillis,
};
use realtime_runtime::{
    broker::{
        Class, Item, MemoryBroker, ProbesSent, Publish, PublishError, Published, RedisBroker,
        Retention, SharedBroker, Subscription,
    },
    clock::Clock,
    config::RedisConfig,
    net::TokioNet,
};
use redis_server::{Answers, DEADLINE, Proxy, RedisServer};

const EPOCH: Epoch = Epoch(0x1234_5678);

fn retention() -> Retention {
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

fn config(port: u16) -> RedisConfig {
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

fn redis_broker(config: RedisConfig, retention: Retention) -> SharedBroker {
    Arc::new(RedisBroker::<TokioNet>::new(config, retention, true, BootId(7)))
}

/// A broker on a server of its own, once it is connected.
async fn on_redis(retention: Retention) -> (RedisServer, SharedBroker) {
    let server = RedisServer::start(&[]);
    let broker = redis_broker(config(server.port), retention);
    until(async || broker.probe(0).await.is_ok()).await;
    (server, broker)
}

/// Runs `test` on a broker of each kind.
async fn on_both<F: Future<Output = ()>>(retention: Retention, test: impl Fn(SharedBroker) -> F) {
    test(Arc::new(MemoryBroker::new(retention.clone(), 1 << 20, Clock::new()))).await;
    let (_server, broker) = on_redis(retention).await;
    test(broker).await;
}

/// Asks until it is so.
#[track_caller]
fn until(mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
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

fn stream(name: &str) -> StreamName {
    StreamName::room(name).unwrap()
}

fn body(text: &str) -> Bytes {
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

fn publish(name: &str, mid: u64) -> Publish {
    Publish {
        stream: stream(name),
        mid: Mid(mid),
        epoch: EPOCH,
        body: body("x"),
        class: Class::Durable,
        idempotency_key: None,
    }
}

fn keyed(name: &str, mid: u64, key: &str) -> Publish {
    Publish { idempotency_key: Some(key.into()), ..publish(name, mid) }
}

fn latest(name: &str, mid: u64, field: &str) -> Publish {
    Publish { class: Class::Latest { field: field.into() }, ..publish(name, mid) }
}

fn position(offset: u64, mid: u64) -> Position {
    Position { epoch: EPOCH, offset, mid: Mid(mid) }
}

/// Subscribes to `names` and waits until it holds.
async fn subscribe(broker: &SharedBroker, names: &[&str]) -> Subscription {
    let mut subscription = broker.subscribe().await.unwrap();
    let streams = names.iter().map(|name| stream(name)).collect();
    subscription.requests.request(streams, vec![]).await.unwrap();
    for name in names {
        assert_eq!(next(&mut subscription).await, Item::Subscribed(stream(name)));
    }
    subscription
}

async fn next(subscription: &mut Subscription) -> Item {
    let next = tokio::time::timeout(DEADLINE, subscription.items.next());
    next.await.expect("nothing comes").expect("the subscription is gone")
}

/// The next item, which must be an entry of `name`.
async fn entry(subscription: &mut Subscription, name: &str) -> Entry {
    match next(subscription).await {
        Item::Message(Channel::Stream(channel), bytes) if channel == stream(name) => {
            Entry::decode(&bytes).unwrap()
        }
        other => panic!("not an entry of {name}: {other:?}"),
    }
}

async fn durable(subscription: &mut Subscription, name: &str) -> (Position, Mid) {
    match entry(subscription, name).await.place {
        Place::Durable { position, prev } => (position, prev),
        place @ Place::Latest { .. } => panic!("not durable: {place:?}"),
    }
}

async fn ended(mut subscription: Subscription) {
    let ending = async { while subscription.items.next().await.is_ok() {} };
    tokio::time::timeout(DEADLINE, ending).await.expect("it goes on");
}

#[tokio::test]
async fn publications_are_numbered_and_each_names_the_one_before() {
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &["event:1"]).await;
        for offset in 1..=30 {
            let mid = 1_000 + offset;
            let published = broker.publish(publish("event:1", mid)).await.unwrap();
            let expected = Published {
                position: Some(position(offset, mid)),
                duplicate: false,
                subscribers: 1,
            };
            assert_eq!(published, expected);
            let prev = if offset == 1 { Mid(0) } else { Mid(mid - 1) };
            assert_eq!(durable(&mut subscription, "event:1").await, (position(offset, mid), prev));
        }
        let other = broker.publish(publish("event:2", 9)).await.unwrap();
        assert_eq!((other.position, other.subscribers), (Some(position(1, 9)), 0));
    })
    .await;
}

#[tokio::test]
async fn what_is_published_arrives_byte_for_byte() {
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &["event:1"]).await;
        let sent = Body {
            kind: "vip:näher".into(),
            payload: Bytes::from_static(b"{\"a\\r\\n\":1.50,\"\xC3\xA4\":[]}"),
            exclude_user: Some("user with spaces".into()),
            key: "event:1".into(),
            ack: true,
            origin: BootId(u64::MAX),
            published: UnixMillis(1),
        };
        let request = Publish { body: sent.encode(), ..publish("event:1", 1) };
        broker.publish(request).await.unwrap();
        assert_eq!(entry(&mut subscription, "event:1").await.body, sent);
    })
    .await;
}

#[tokio::test]
async fn an_idempotency_key_publishes_once_in_its_stream() {
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &["user:1"]).await;
        let first = broker.publish(keyed("user:1", 1, "order {7}")).await.unwrap();
        assert!(!first.duplicate);
        broker.publish(publish("user:1", 2)).await.unwrap();
        let again = broker.publish(keyed("user:1", 3, "order {7}")).await.unwrap();
        assert_eq!((again.position, again.duplicate), (Some(position(1, 1)), true));
        let elsewhere = broker.publish(keyed("user:2", 4, "order {7}")).await.unwrap();
        assert!(!elsewhere.duplicate);
        broker.publish(publish("user:1", 5)).await.unwrap();
        for (offset, mid) in [(1, 1), (2, 2), (3, 5)] {
            assert_eq!(durable(&mut subscription, "user:1").await.0, position(offset, mid));
        }
    })
    .await;
}

#[tokio::test]
async fn the_same_call_again_is_recognised_and_is_no_duplicate() {
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &["user:1"]).await;
        for request in [publish("user:1", 1), keyed("user:1", 2, "key"), latest("user:1", 3, "f")] {
            let first = broker.publish(request.clone()).await.unwrap();
            if matches!(request.class, Class::Durable) {
                let again = broker.publish(request).await.unwrap();
                assert_eq!((again.position, again.duplicate), (first.position, false));
            }
        }
        assert_eq!(durable(&mut subscription, "user:1").await.0, position(1, 1));
        assert_eq!(durable(&mut subscription, "user:1").await.0, position(2, 2));
        assert!(matches!(entry(&mut subscription, "user:1").await.place, Place::Latest { .. }));
    })
    .await;
}

#[tokio::test]
async fn two_subscribers_see_the_same_order_whoever_publishes() {
    on_both(retention(), async |broker| {
        let mut subscriptions =
            [subscribe(&broker, &["all"]).await, subscribe(&broker, &["all"]).await];
        let publishers = (0..8).map(|publisher| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for number in 1..=25 {
                    broker.publish(publish("all", publisher * 100 + number)).await.unwrap();
                }
            })
        });
        for publisher in publishers.collect::<Vec<_>>() {
            publisher.await.unwrap();
        }
        let mut orders = Vec::new();
        for subscription in &mut subscriptions {
            let mut last = Mid(0);
            let mut order = Vec::new();
            for offset in 1..=200 {
                let (position, prev) = durable(subscription, "all").await;
                assert_eq!((position.offset, prev), (offset, last));
                last = position.mid;
                order.push(position.mid);
            }
            orders.push(order);
        }
        assert_eq!(orders[0], orders[1]);
    })
    .await;
}

#[tokio::test]
async fn confirmations_stand_in_order_among_the_publications() {
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &["event:1", "event:2"]).await;
        let count = |broker: SharedBroker, mid| async move {
            broker.publish(publish("event:1", mid)).await.unwrap().subscribers
        };
        assert_eq!(count(broker.clone(), 1).await, 1);
        subscription.requests.request(vec![], vec![stream("event:1")]).await.unwrap();
        assert_eq!(durable(&mut subscription, "event:1").await.0, position(1, 1));
        assert_eq!(next(&mut subscription).await, Item::Unsubscribed(stream("event:1")));
        assert_eq!(count(broker.clone(), 2).await, 0);
        subscription.requests.request(vec![stream("event:1")], vec![]).await.unwrap();
        assert_eq!(next(&mut subscription).await, Item::Subscribed(stream("event:1")));
        assert_eq!(count(broker.clone(), 3).await, 1);
        assert_eq!(durable(&mut subscription, "event:1").await, (position(3, 3), Mid(2)));
    })
    .await;
}

#[tokio::test]
async fn many_subscriptions_at_once_are_all_confirmed() {
    on_both(retention(), async |broker| {
        let mut subscription = broker.subscribe().await.unwrap();
        let streams: Vec<_> = (0..3_000).map(|i| stream(&format!("user:{i}"))).collect();
        let Subscription { requests, items, .. } = &mut subscription;
        let asking = async { requests.request(streams.clone(), vec![]).await.unwrap() };
        let hearing = async {
            for expected in &streams {
                assert_eq!(items.next().await, Ok(Item::Subscribed(expected.clone())));
            }
        };
        tokio::time::timeout(DEADLINE, async { tokio::join!(asking, hearing) }).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn latest_values_take_no_number_and_their_versions_grow() {
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &["user:1"]).await;
        broker.publish(publish("user:1", 1)).await.unwrap();
        let mut last = 0;
        durable(&mut subscription, "user:1").await;
        for mid in 2..=4 {
            let published = broker.publish(latest("user:1", mid, "queue 9")).await.unwrap();
            assert_eq!((published.position, published.subscribers), (None, 1));
            let place = entry(&mut subscription, "user:1").await.place;
            let Place::Latest { epoch, at, version, mid: found } = place else {
                panic!("not latest: {place:?}");
            };
            assert_eq!((epoch, at, found), (EPOCH, 1, Mid(mid)));
            assert!(version > last, "{version} after {last}");
            last = version;
        }
        let next = broker.publish(publish("user:1", 5)).await.unwrap();
        assert_eq!(next.position, Some(position(2, 5)));
        let keyed = Publish { idempotency_key: Some("k".into()), ..latest("user:1", 6, "queue 9") };
        assert!(!broker.publish(keyed.clone()).await.unwrap().duplicate);
        let again = broker.publish(Publish { mid: Mid(7), ..keyed }).await.unwrap();
        assert_eq!((again.position, again.duplicate), (None, true));
    })
    .await;
}

#[tokio::test]
async fn any_valid_name_is_a_stream_of_its_own() {
    let names = ["all", "user:all", "{all}", "a{b}c", "a%7Bb%7Dc", "}", "%", "käse 🎫", "x:meta"];
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &names).await;
        for (mid, name) in (1..).zip(names) {
            let published = broker.publish(publish(name, mid)).await.unwrap();
            assert_eq!(published.position, Some(position(1, mid)), "{name}");
            assert_eq!(durable(&mut subscription, name).await.0, position(1, mid), "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_is_made_once_and_then_follows_the_publications() {
    on_both(retention(), async |broker| {
        let head = |epoch| broker.read_head(stream("event:1"), Epoch(epoch));
        let start = Position { epoch: Epoch(5), ..Position::default() };
        assert_eq!(head(5).await, Ok(start));
        assert_eq!(head(6).await, Ok(start));
        let first = broker.publish(publish("event:1", 1)).await.unwrap().position.unwrap();
        assert_eq!(first, Position { epoch: Epoch(5), offset: 1, mid: Mid(1) });
        assert_eq!(head(7).await, Ok(first));
    })
    .await;
}

#[tokio::test]
async fn without_a_history_nothing_is_numbered_but_keys_are_honoured() {
    let retention = Retention { user_entries_max: 0, ..retention() };
    on_both(retention, async |broker| {
        let mut subscription = subscribe(&broker, &["event:1"]).await;
        for request in [publish("event:1", 1), latest("event:1", 2, "f"), keyed("event:1", 3, "k")]
        {
            let published = broker.publish(request.clone()).await.unwrap();
            let expected = Published { position: None, duplicate: false, subscribers: 1 };
            assert_eq!(published, expected);
            let place = Place::Latest { epoch: Epoch(0), at: 0, version: 0, mid: request.mid };
            let entry = entry(&mut subscription, "event:1").await;
            assert_eq!((entry.place, entry.body.encode()), (place, request.body));
        }
        assert!(broker.publish(keyed("event:1", 4, "k")).await.unwrap().duplicate);
        assert_eq!(broker.read_head(stream("event:1"), EPOCH).await, Ok(Position::default()));
    })
    .await;
}

#[tokio::test]
async fn every_probe_comes_back() {
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &["all"]).await;
        let ProbesSent(count) = broker.probe(u64::MAX).await.unwrap();
        assert!(count > 0);
        for _ in 0..count {
            assert_eq!(next(&mut subscription).await, Item::Probe(u64::MAX));
        }
    })
    .await;
}

#[tokio::test]
async fn only_the_documented_keys_are_written_and_all_of_them_expire() {
    let (server, broker) = on_redis(retention()).await;
    broker.publish(keyed("user:{1}", 0xAB, "order")).await.unwrap();
    broker.publish(latest("user:{1}", 0xCD, "field")).await.unwrap();
    let mut client = server.client();
    let query = |client: &mut redis::Connection, command: &str, key: &str| -> redis::Value {
        redis::cmd(command).arg(key).query(client).unwrap()
    };
    let keys: BTreeSet<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    let tag = "realtime:{user:%7B1%7D}";
    let ttls = [("meta", 86_400), ("log", 600), ("latest", 500), ("idem:order", 300)];
    let expected: BTreeSet<_> = ttls.iter().map(|(key, _)| format!("{tag}:{key}")).collect();
    assert_eq!(keys, expected);
    for (key, ttl_s) in ttls {
        let redis::Value::Int(left_ms) = query(&mut client, "PTTL", &format!("{tag}:{key}")) else {
            panic!("no TTL of {key}");
        };
        let wanted_ms = (ttl_s - 15) * 1_000..=ttl_s * 1_000;
        assert!(wanted_ms.contains(&left_ms), "{key}: {left_ms} ms");
    }
    let meta: String = redis::cmd("GET").arg(format!("{tag}:meta")).query(&mut client).unwrap();
    let (head, bytes) = meta.rsplit_once(' ').unwrap();
    assert_eq!(head, "0000000012345678 1 00000000000000ab");
    let log: Vec<String> =
        redis::cmd("LRANGE").arg(format!("{tag}:log")).arg(0).arg(-1).query(&mut client).unwrap();
    assert_eq!(bytes, log[0].len().to_string());
    assert!(log[0].starts_with("1 D 0000000012345678 1 00000000000000ab 0000000000000000\n"));
}

#[tokio::test]
async fn a_history_is_trimmed_by_entries_and_by_bytes() {
    let (server, broker) = on_redis(retention()).await;
    let mut client = server.client();
    for mid in 1..=40 {
        broker.publish(publish("user:1", mid)).await.unwrap();
        broker.publish(publish("event:1", mid)).await.unwrap();
    }
    let mut log = |name: &str| -> Vec<String> {
        let key = format!("realtime:{{{name}}}:log");
        redis::cmd("LRANGE").arg(key).arg(0).arg(-1).query(&mut client).unwrap()
    };
    assert_eq!(log("user:1").len(), 3);
    let room = log("event:1");
    let bytes: usize = room.iter().map(String::len).sum();
    assert!(bytes <= 2_000 && bytes + room[0].len() > 2_000, "{bytes} bytes");
    assert!(room.last().unwrap().contains(" 40 "), "the newest is kept");
    let large = Publish { body: body(&"y".repeat(5_000)), ..publish("event:1", 41) };
    broker.publish(large).await.unwrap();
    assert_eq!(log("event:1").len(), 1, "the newest is kept even when it is too large");
    for mid in 42..=60 {
        broker.publish(publish("event:1", mid)).await.unwrap();
    }
    assert_eq!(log("event:1").len(), room.len());
}

#[tokio::test]
async fn a_stream_keeps_the_newest_32_latest_values() {
    let (server, broker) = on_redis(retention()).await;
    for mid in 1..=40 {
        broker.publish(latest("user:1", mid, &format!("field {mid}"))).await.unwrap();
    }
    broker.publish(latest("user:1", 41, "field 40")).await.unwrap();
    let fields: BTreeSet<String> =
        redis::cmd("HKEYS").arg("realtime:{user:1}:latest").query(&mut server.client()).unwrap();
    let expected: BTreeSet<_> =
        (9..=40).map(|mid| format!("=field {mid}")).chain(["#v".to_owned()]).collect();
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn a_lost_position_begins_a_new_epoch_and_drops_the_history() {
    let (server, broker) = on_redis(retention()).await;
    broker.publish(publish("event:1", 1)).await.unwrap();
    let mut client = server.client();
    redis::cmd("DEL").arg("realtime:{event:1}:meta").exec(&mut client).unwrap();
    let request = Publish { epoch: Epoch(99), ..publish("event:1", 2) };
    let head = broker.publish(request).await.unwrap().position.unwrap();
    assert_eq!(head, Position { epoch: Epoch(99), offset: 1, mid: Mid(2) });
    let length: u32 = redis::cmd("LLEN").arg("realtime:{event:1}:log").query(&mut client).unwrap();
    assert_eq!(length, 1);
    redis::cmd("DEL").arg("realtime:{event:1}:meta").exec(&mut client).unwrap();
    broker.read_head(stream("event:1"), Epoch(100)).await.unwrap();
    let length: u32 = redis::cmd("LLEN").arg("realtime:{event:1}:log").query(&mut client).unwrap();
    assert_eq!(length, 0);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_sent_again() {
    let (server, broker) = on_redis(retention()).await;
    let mut client = server.client();
    for (offset, request) in [publish("event:1", 1), keyed("event:1", 2, "k")].iter().enumerate() {
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut client).unwrap();
        let published = broker.publish(request.clone()).await.unwrap();
        assert_eq!(published.position.unwrap().offset, offset as u64 + 1);
    }
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut client).unwrap();
    assert_eq!(broker.read_head(stream("event:1"), EPOCH).await, Ok(position(2, 2)));
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut client).unwrap();
    assert!(broker.publish(latest("event:1", 3, "f")).await.is_ok());
}

#[tokio::test]
async fn a_key_of_another_type_or_form_refuses_and_nothing_is_changed() {
    let (server, broker) = on_redis(retention()).await;
    let mut client = server.client();
    for (key, command, value) in [
        ("meta", "RPUSH", "x"),
        ("meta", "SET", "nonsense"),
        ("log", "SET", "x"),
        ("idem:k", "RPUSH", "x"),
        ("idem:k", "SET", "nonsense"),
    ] {
        redis::cmd("FLUSHALL").exec(&mut client).unwrap();
        broker.publish(publish("event:1", 1)).await.unwrap();
        let key = format!("realtime:{{event:1}}:{key}");
        redis::cmd("DEL").arg(&key).exec(&mut client).unwrap();
        redis::cmd(command).arg(&key).arg(value).exec(&mut client).unwrap();
        let keys = ["meta", "log", "idem:k"].map(|key| format!("realtime:{{event:1}}:{key}"));
        let mut dump = || -> Vec<Option<Vec<u8>>> {
            let dump = |key| redis::cmd("DUMP").arg(key).query(&mut client).unwrap();
            keys.iter().map(dump).collect()
        };
        let before = dump();
        let refused = broker.publish(keyed("event:1", 2, "k")).await;
        assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{key}: {refused:?}");
        assert_eq!(dump(), before, "{key}");
    }
    redis::cmd("SET").arg("realtime:{event:2}:latest").arg("x").exec(&mut client).unwrap();
    let refused = broker.publish(latest("event:2", 3, "f")).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn a_redis_without_memory_or_mastership_refuses_and_nothing_is_changed() {
    let (server, broker) = on_redis(retention()).await;
    let mut client = server.client();
    broker.publish(publish("event:1", 1)).await.unwrap();
    let mut config = |setting: &str, value: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg(setting).arg(value).exec(&mut client).unwrap();
    };
    config("maxmemory", "1");
    for request in [publish("event:1", 2), keyed("event:1", 2, "k"), latest("event:1", 2, "f")] {
        let refused = broker.publish(request).await;
        assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    }
    config("maxmemory", "0");
    let mut client = server.client();
    let nowhere = RedisServer::later();
    let mut command = redis::cmd("REPLICAOF");
    command.arg("127.0.0.1").arg(nowhere.port).exec(&mut client).unwrap();
    let refused = broker.publish(publish("event:1", 3)).await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut client).unwrap();
    let mut published = None;
    until(async || {
        published = broker.publish(publish("event:1", 4)).await.ok();
        published.is_some()
    })
    .await;
    assert_eq!(published.unwrap().position, Some(position(2, 4)));
}

#[tokio::test]
async fn too_few_replicas_leave_the_outcome_unknown() {
    let server = RedisServer::start(&[]);
    let config = RedisConfig { wait_replicas: 1, ..config(server.port) };
    let broker = redis_broker(config, retention());
    until(async || broker.probe(0).await.is_ok()).await;
    let unknown = broker.publish(publish("event:1", 1)).await;
    assert!(matches!(unknown, Err(PublishError::Unknown(_))), "{unknown:?}");
}

#[tokio::test]
async fn the_ingress_channels_are_heard_when_they_are_wanted() {
    let (server, broker) = on_redis(retention()).await;
    let mut client = server.client();
    let mut subscription = broker.subscribe().await.unwrap();
    for ingress in Ingress::ALL {
        let mut command = redis::cmd("PUBLISH");
        let count: u32 =
            command.arg(ingress.channel()).arg("not\r\njson").query(&mut client).unwrap();
        assert_eq!(count, 1);
        let expected = Item::Message(Channel::Ingress(ingress), "not\r\njson".into());
        assert_eq!(next(&mut subscription).await, expected);
    }
    let boot = BootId(8);
    let quiet = RedisBroker::<TokioNet>::new(config(server.port), retention(), false, boot);
    let _quiet = subscribe(&(Arc::new(quiet) as SharedBroker), &["all"]).await;
    let count: u32 =
        redis::cmd("PUBLISH").arg("booking:events").arg("{}").query(&mut client).unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn a_redis_that_is_away_refuses_at_once_and_is_found_when_it_comes() {
    let mut server = RedisServer::later();
    let broker = redis_broker(config(server.port), retention());
    let refused = tokio::time::timeout(Duration::from_millis(100), async {
        assert!(broker.subscribe().await.is_err());
        assert!(broker.probe(1).await.is_err());
        assert!(broker.read_head(stream("all"), EPOCH).await.is_err());
        broker.publish(publish("all", 1)).await
    });
    let refused = refused.await.expect("it takes its time");
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    assert!(server.launch());
    until(async || broker.publish(publish("all", 2)).await.is_ok()).await;
    subscribe(&broker, &["all"]).await;
}

#[tokio::test]
async fn a_restart_of_redis_ends_subscriptions_and_publishes_recover() {
    let (mut server, broker) = on_redis(retention()).await;
    let subscription = subscribe(&broker, &["all"]).await;
    let before = subscription.run_id;
    server.kill();
    ended(subscription).await;
    assert!(server.launch());
    let mut mid = 0;
    until(async || {
        mid += 1;
        broker.publish(publish("all", mid)).await.is_ok()
    })
    .await;
    let mut subscription = subscribe(&broker, &["all"]).await;
    assert_ne!(subscription.run_id, before);
    broker.publish(publish("all", 1_000_000)).await.unwrap();
    assert_eq!(durable(&mut subscription, "all").await.0.mid, Mid(1_000_000));
}

#[tokio::test]
async fn a_publish_whose_answer_is_lost_is_published_once_and_answered() {
    for fault in [Answers::Cut, Answers::Swallow] {
        let server = RedisServer::start(&[]);
        let proxy = Proxy::start(server.port).await;
        let config = RedisConfig { connections: 1, ..config(proxy.port) };
        let broker = redis_broker(config, retention());
        until(async || broker.probe(0).await.is_ok()).await;
        let direct = redis_broker(self::config(server.port), retention());
        let mut subscription = subscribe(&direct, &["event:1"]).await;
        broker.publish(publish("event:1", 1)).await.unwrap();
        proxy.answers.send(fault).unwrap();
        // They share the connection: both answers are lost, and each is found in the history.
        let (second, third) = tokio::join!(
            broker.publish(publish("event:1", 2)),
            broker.publish(keyed("event:1", 3, "k"))
        );
        for (offset, published) in [(2, second.unwrap()), (3, third.unwrap())] {
            let expected = Some(position(offset, offset));
            assert_eq!((published.position, published.duplicate), (expected, false), "{fault:?}");
            assert_eq!(published.subscribers, 1, "{fault:?}");
        }
        assert_eq!(proxy.connections.load(Ordering::Relaxed), 2, "{fault:?}");
        direct.publish(publish("event:1", 4)).await.err();
        until(async || direct.publish(publish("event:1", 4)).await.is_ok()).await;
        for mid in 1..=4 {
            assert_eq!(durable(&mut subscription, "event:1").await.0, position(mid, mid));
        }
    }
}

#[tokio::test]
async fn a_latest_value_whose_answer_is_lost_is_not_repeated() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.port).await;
    let broker = redis_broker(config(proxy.port), retention());
    until(async || broker.probe(0).await.is_ok()).await;
    proxy.answers.send(Answers::Cut).unwrap();
    let unknown = broker.publish(latest("event:1", 1, "f")).await;
    assert!(matches!(unknown, Err(PublishError::Unknown(_))), "{unknown:?}");
}

#[tokio::test]
async fn a_password_is_used_and_never_told() {
    let server = RedisServer::start(&["--requirepass", "open sesame"]);
    let with = |password: Option<&str>| {
        let password = password.map(str::to_owned);
        redis_broker(RedisConfig { password, db: 3, ..config(server.port) }, retention())
    };
    let broker = with(Some("open sesame"));
    until(async || broker.publish(publish("all", 1)).await.is_ok()).await;
    subscribe(&broker, &["all"]).await;
    let stranger = with(Some("wrong horse"));
    let mut reason = String::new();
    until(async || {
        let error = stranger.publish(publish("all", 2)).await.unwrap_err();
        reason = error.to_string();
        assert!(matches!(error, PublishError::Unavailable(_)));
        reason.contains("authentication")
    })
    .await;
    let subscription = stranger.subscribe().await.unwrap_err().to_string();
    for text in [reason, subscription, format!("{stranger:?}")] {
        assert!(!text.contains("wrong horse"), "{text}");
    }
    assert!(with(None).subscribe().await.is_err());
}
