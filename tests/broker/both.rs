//! What both brokers promise, asked of both.

use std::time::{Duration, Instant};

use bytes::Bytes;
use realtime_core::{
    entry::{Body, Entry, Place},
    id::{BootId, Epoch, Mid, Position},
    relay::History,
    time::UnixMillis,
};
use realtime_runtime::broker::{
    Class, Item, ProbesSent, Publish, Published, Retention, SharedBroker, Subscription,
};

use crate::{common::*, redis_server::DEADLINE};

/// Where something is. The embedded broker gives each stream an epoch of its own, of the same time.
fn place(position: Option<Position>) -> Option<(u64, u64, Mid)> {
    position.map(|position| (position.epoch.0 >> 22, position.offset, position.mid))
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
                duplicate_of: None,
                subscribers: 1,
            };
            assert_eq!(published, expected);
            let prev = if offset == 1 { Mid(0) } else { Mid(mid - 1) };
            assert_eq!(durable(&mut subscription, "event:1").await, (position(offset, mid), prev));
        }
        let other = broker.publish(publish("event:2", 9)).await.unwrap();
        assert_eq!((place(other.position), other.subscribers), (place(Some(position(1, 9))), 0));
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
        assert_eq!(first.duplicate_of, None);
        broker.publish(publish("user:1", 2)).await.unwrap();
        let again = broker.publish(keyed("user:1", 3, "order {7}")).await.unwrap();
        assert_eq!(again.position, Some(position(1, 1)));
        assert_eq!(again.duplicate_of, Some(position(1, 1).mid));
        let elsewhere = broker.publish(keyed("user:2", 4, "order {7}")).await.unwrap();
        assert_eq!(elsewhere.duplicate_of, None);
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
                assert_eq!((again.position, again.duplicate_of), (first.position, None));
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
async fn the_heads_of_many_streams_are_read_at_once() {
    on_both(retention(), async |broker| {
        broker.publish(publish("event:1", 1)).await.unwrap();
        broker.publish(publish("event:1", 2)).await.unwrap();
        broker.read(stream("user:1"), EPOCH, None, None).await.unwrap();
        broker.publish(latest("event:3", 3, "queue 9")).await.unwrap();
        let asked = ["event:1", "user:1", "event:2", "event:3"].map(stream);
        let places: Vec<_> =
            positions(&broker, asked.to_vec()).await.into_iter().map(place).collect();
        let expected = [position(2, 2), position(0, 0)].map(|at| place(Some(at)));
        assert_eq!(places, [expected[0], expected[1], None, None]);
        // Nothing was made by looking.
        assert_eq!(broker.heads(vec![stream("event:2")]).await.unwrap(), [None]);
    })
    .await;
}

#[tokio::test]
async fn a_head_tells_the_version_of_the_newest_value() {
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &["user:1"]).await;
        let version = async || {
            let heads = broker.heads(vec![stream("user:1")]).await.unwrap();
            heads[0].unwrap().version
        };
        broker.publish(publish("user:1", 1)).await.unwrap();
        durable(&mut subscription, "user:1").await;
        assert_eq!(version().await, 0);
        for (mid, field) in [(2, "queue 1"), (3, "queue 2")] {
            broker.publish(latest("user:1", mid, field)).await.unwrap();
            let place = entry(&mut subscription, "user:1").await.place;
            let Place::Latest { version: published, .. } = place else { panic!("{place:?}") };
            assert_eq!(version().await, published);
        }
    })
    .await;
}

#[tokio::test]
async fn looking_at_a_head_lets_it_live_on() {
    let position_ttl = Duration::from_secs(1);
    on_both(Retention { position_ttl, ..retention() }, async |broker| {
        broker.publish(publish("event:1", 1)).await.unwrap();
        broker.publish(publish("event:2", 2)).await.unwrap();
        // For much longer than it would live by itself.
        let start = Instant::now();
        let mut looks = tokio::time::interval(position_ttl / 10);
        while start.elapsed() < 3 * position_ttl {
            looks.tick().await;
            let heads = positions(&broker, vec![stream("event:1")]).await;
            assert_eq!(heads, [Some(position(1, 1))]);
        }
        assert_eq!(broker.heads(vec![stream("event:2")]).await.unwrap(), [None]);
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
        assert_eq!(broker.publish(keyed.clone()).await.unwrap().duplicate_of, None);
        let again = broker.publish(Publish { mid: Mid(7), ..keyed }).await.unwrap();
        assert_eq!((again.position, again.duplicate_of), (None, Some(keyed.mid)));
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
            assert_eq!(place(published.position), place(Some(position(1, mid))), "{name}");
            let heard = durable(&mut subscription, name).await.0;
            assert_eq!(Some(heard), published.position, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_head_is_made_once_and_then_follows_the_publications() {
    on_both(retention(), async |broker| {
        let head = async |epoch| {
            let read = broker.read(stream("event:1"), Epoch(epoch), None, None).await;
            read.map(|history| history.head)
        };
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
async fn a_read_gives_what_comes_after_an_offset_as_far_as_it_is_kept() {
    on_both(retention(), async |broker| {
        let mut subscription = subscribe(&broker, &["user:1"]).await;
        let mut entries = Vec::new();
        for mid in 1..=5 {
            broker.publish(publish("user:1", mid)).await.unwrap();
            entries.push(entry(&mut subscription, "user:1").await.encode());
        }
        for (after, kept) in [
            (None, &entries[5..]),
            (Some(0), &entries[2..]), // The history of a user has three entries.
            (Some(1), &entries[2..]),
            (Some(3), &entries[3..]),
            (Some(5), &entries[5..]),
            (Some(u64::MAX), &entries[5..]),
        ] {
            let history = broker.read(stream("user:1"), Epoch(9), after, None).await.unwrap();
            let entries = kept.to_vec();
            let expected = History { head: position(5, 5), entries, latest: Vec::new() };
            assert_eq!(history, expected, "{after:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_read_brings_the_newest_value_of_each_field_of_the_newest_32() {
    on_both(retention(), async |broker| {
        let mids = async || {
            let history = broker.read(stream("event:1"), EPOCH, None, None).await.unwrap();
            let mid = |bytes| match Entry::decode(bytes).unwrap().place {
                Place::Latest { mid, .. } => mid.0,
                place => panic!("not latest: {place:?}"),
            };
            let mut mids: Vec<_> = history.latest.iter().map(mid).collect();
            mids.sort_unstable();
            mids
        };
        assert!(mids().await.is_empty());
        for (mid, field) in [(1, "a"), (2, "b"), (3, "a")] {
            broker.publish(latest("event:1", mid, field)).await.unwrap();
        }
        assert_eq!(mids().await, [2, 3]);
        broker.publish(publish("event:1", 4)).await.unwrap();
        assert_eq!(mids().await, [2, 3], "they are no part of the history");
        for mid in 5..=35 {
            broker.publish(latest("event:1", mid, &format!("field {mid}"))).await.unwrap();
        }
        assert_eq!(mids().await, (3..=35).filter(|mid| *mid != 4).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn latest_values_are_kept_for_their_time_after_the_last_one() {
    let retention = Retention { latest_ttl: Duration::from_millis(100), ..retention() };
    on_both(retention, async |broker| {
        broker.publish(latest("event:1", 1, "a")).await.unwrap();
        let started = Instant::now();
        while !broker.read(stream("event:1"), EPOCH, None, None).await.unwrap().latest.is_empty() {
            assert!(started.elapsed() < DEADLINE, "they stay");
        }
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
            let expected = Published { position: None, duplicate_of: None, subscribers: 1 };
            assert_eq!(published, expected);
            let place = Place::Latest { epoch: Epoch(0), at: 0, version: 0, mid: request.mid };
            let entry = entry(&mut subscription, "event:1").await;
            assert_eq!((entry.place, entry.body.encode()), (place, request.body));
        }
        let again = broker.publish(keyed("event:1", 4, "k")).await.unwrap();
        assert!(again.duplicate_of.is_some());
        let nothing = broker.read(stream("event:1"), EPOCH, Some(0), None).await;
        assert_eq!(nothing, Ok(History::default()));
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
