//! What only Redis can show: its keys, its refusals, its absence.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use realtime_core::{
    id::{BootId, Epoch, Mid, Position},
    relay::{Channel, Ingress},
};
use realtime_runtime::{
    broker::{Item, Publish, PublishError, RedisBroker, Retention, SharedBroker},
    config::RedisConfig,
    net::TokioNet,
};

use crate::{
    common::*,
    redis_server::{Answers, Proxy, RedisServer},
};

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
    broker.read(stream("event:1"), Epoch(100), None, None).await.unwrap();
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
    let read = broker.read(stream("event:1"), EPOCH, None, None).await.unwrap();
    assert_eq!(read.head, position(2, 2));
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
    // Nobody is kept from connecting and joining by that.
    let head = async |name| broker.read(stream(name), Epoch(9), None, None).await.unwrap().head;
    assert_eq!(head("event:1").await, position(1, 1));
    assert_eq!(head("event:2").await.epoch, Epoch(9));
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
    // Far less than any wait for an answer, and enough for a busy machine.
    let refused = tokio::time::timeout(Duration::from_millis(500), async {
        assert!(broker.subscribe().await.is_err());
        assert!(broker.probe(1).await.is_err());
        assert!(broker.read(stream("all"), EPOCH, None, None).await.is_err());
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
        let proxy = Proxy::start(server.port);
        let config = RedisConfig { connections: 1, ..config(proxy.port) };
        let broker = redis_broker(config, retention());
        until(async || broker.probe(0).await.is_ok()).await;
        let direct = redis_broker(crate::common::config(server.port), retention());
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
            assert_eq!((published.position, published.duplicate_of), (expected, None), "{fault:?}");
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
async fn a_publish_whose_answer_is_lost_is_found_behind_what_others_published_meanwhile() {
    const OTHERS: u64 = 200;
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.port);
    let config = RedisConfig { connections: 1, ..config(proxy.port) };
    let retention = Retention { room_entries_max: 2_048, bytes_max: 1 << 20, ..retention() };
    let broker = redis_broker(config, retention.clone());
    let direct = redis_broker(crate::common::config(server.port), retention);
    until(async || broker.probe(0).await.is_ok() && direct.probe(0).await.is_ok()).await;
    let mut subscription = subscribe(&direct, &["event:1"]).await;
    proxy.answers.send(Answers::Swallow).unwrap();
    let others = async {
        assert_eq!(durable(&mut subscription, "event:1").await.0, position(1, 1));
        for mid in 2..=OTHERS {
            direct.publish(publish("event:1", mid)).await.unwrap();
        }
    };
    let (published, ()) = tokio::join!(broker.publish(publish("event:1", 1)), others);
    assert_eq!(published.unwrap().position, Some(position(1, 1)));
    for mid in 2..=OTHERS {
        assert_eq!(durable(&mut subscription, "event:1").await.0, position(mid, mid));
    }
    direct.publish(publish("event:1", OTHERS + 1)).await.unwrap();
    let next = durable(&mut subscription, "event:1").await.0;
    assert_eq!(next, position(OTHERS + 1, OTHERS + 1));
}

#[tokio::test]
async fn a_latest_value_whose_answer_is_lost_is_not_repeated() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.port);
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

#[tokio::test]
async fn a_command_connection_that_is_silent_is_replaced_without_being_asked() {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.port);
    let config = RedisConfig { connections: 1, ..config(proxy.port) };
    let broker = redis_broker(config, retention());
    until(async || broker.probe(0).await.is_ok()).await;
    proxy.answers.send(Answers::Swallow).unwrap();
    until(async || proxy.connections.load(Ordering::Relaxed) == 2).await;
    until(async || broker.publish(publish("event:1", 1)).await.is_ok()).await;
}
