//! A Redis that has lost what it acknowledged.

use realtime_core::{
    entry::Rollover,
    id::{Epoch, Mid, Position},
    relay::{Channel, History},
};
use realtime_runtime::broker::{Item, Publish, SharedBroker};

use crate::{common::*, redis_server::RedisServer};

const NEW: Epoch = Epoch(0x2345_6789);

/// Reads a stream, as one who knows that it was at a place.
async fn read(broker: &SharedBroker, name: &str, known: Position) -> History {
    broker.read(stream(name), NEW, Some(0), Some(known)).await.unwrap()
}

/// A server that begins with nothing, and again with what it had at the last SAVE.
fn saving(file: &str) -> RedisServer {
    let server = RedisServer::start(&["--dbfilename", file]);
    redis::cmd("FLUSHALL").exec(&mut server.client()).unwrap();
    server
}

/// Five publications, of which users' streams keep three.
async fn five(broker: &SharedBroker, name: &str) {
    for mid in 1..=5 {
        broker.publish(publish(name, mid)).await.unwrap();
    }
}

#[tokio::test]
async fn who_knows_what_a_stream_has_been_at_changes_nothing() {
    on_both(retention(), async |broker| {
        five(&broker, "user:1").await;
        let elsewhere = Position { epoch: Epoch(7), ..position(9, 9) };
        let trimmed = position(1, 77); // The history does not say.
        for known in [position(5, 5), position(4, 4), position(3, 3), trimmed, elsewhere] {
            let history = read(&broker, "user:1", known).await;
            assert_eq!((history.head, history.entries.len()), (position(5, 5), 3), "{known:?}");
        }
        let fresh = read(&broker, "user:2", position(1, 1)).await;
        assert_eq!((fresh.head.offset, fresh.head.mid), (0, Mid(0)));
    })
    .await;
}

#[tokio::test]
async fn who_knows_a_place_that_the_stream_never_was_at_gives_its_numbering_up_once() {
    let (_server, broker) = on_redis(retention()).await;
    let later = Epoch(EPOCH.0 + (1 << 22));
    for (name, known) in [
        ("event:0", Position { epoch: later, ..position(2, 2) }), // It had another numbering.
        ("event:1", position(6, 6)),                              // It is behind.
        ("event:2", position(5, 66)),                             // Something else is there.
        ("event:3", position(3, 66)), // Others have gone on from before it.
        ("user:1", position(2, 66)),  // The next entry names another one.
        ("user:2", position(20, 20)),
    ] {
        five(&broker, name).await;
        let mut subscription = subscribe(&broker, &[name]).await;
        let history = read(&broker, name, known).await;
        let head = Position { epoch: NEW, offset: known.offset.max(5), mid: Mid(0) };
        assert_eq!(history, History { head, ..History::default() }, "{name}");
        // The next who knows of it finds that it was done.
        let again = Epoch(NEW.0 + 1);
        let again = broker.read(stream(name), again, Some(0), Some(known)).await.unwrap();
        assert_eq!(again.head, head, "{name}");
        let rollover = Rollover { epoch: NEW, offset: head.offset };
        let told = Item::Message(Channel::Stream(stream(name)), rollover.encode());
        assert_eq!(next(&mut subscription).await, told, "{name}");
        let next = broker.publish(publish(name, 7)).await.unwrap().position.unwrap();
        assert_eq!(next, Position { offset: head.offset + 1, mid: Mid(7), ..head });
        assert_eq!(durable(&mut subscription, name).await, (next, Mid(0)), "{name}");
        let history = read(&broker, name, head).await;
        assert_eq!((history.head, history.entries.len()), (next, 1), "{name}");
    }
}

#[tokio::test]
async fn a_server_that_has_lost_what_was_acknowledged_gives_those_numberings_up() {
    let mut server = saving("rollback.rdb");
    let broker = redis_broker(config(server.port), retention());
    until(async || broker.probe(0).await.is_ok()).await;
    let names = ["event:1", "event:2", "user:1", "user:2"];
    for name in names {
        five(&broker, name).await;
    }
    redis::cmd("SAVE").exec(&mut server.client()).unwrap();
    broker.publish(publish("event:1", 6)).await.unwrap();
    broker.publish(publish("user:1", 6)).await.unwrap();
    broker.publish(publish("user:3", 6)).await.unwrap(); // Nothing is left of its numbering.
    server.kill();
    assert!(server.launch());
    until(async || broker.probe(0).await.is_ok()).await;
    let streams = names.into_iter().chain(["user:3"]).map(stream).collect();
    let heads = positions(&broker, streams).await;
    for (at, offset) in [(0, 6), (2, 6)] {
        let head = heads[at].unwrap();
        assert!(head.epoch > EPOCH, "{head:?}");
        assert_eq!((head.offset, head.mid), (offset, Mid(0)));
    }
    let kept = [heads[1], heads[3], heads[4]];
    assert_eq!(kept, [Some(position(5, 5)), Some(position(5, 5)), None]);
    // What came since is not taken for lost at the next server.
    let published = broker.publish(publish("event:1", 7)).await.unwrap().position;
    redis::cmd("SAVE").exec(&mut server.client()).unwrap();
    server.kill();
    assert!(server.launch());
    until(async || broker.probe(0).await.is_ok()).await;
    assert_eq!(positions(&broker, vec![stream("event:1")]).await, [published]);
}

#[tokio::test]
async fn what_a_server_was_seen_to_have_is_looked_for_at_the_next_one_too() {
    let mut server = saving("rollback-twice.rdb");
    let broker = redis_broker(config(server.port), retention());
    until(async || broker.probe(0).await.is_ok()).await;
    five(&broker, "event:1").await;
    redis::cmd("SAVE").exec(&mut server.client()).unwrap();
    let request = Publish { epoch: NEW, ..publish("event:1", 6) };
    broker.publish(request).await.unwrap();
    let mut epochs = vec![EPOCH];
    for _ in 0..2 {
        // Each time it comes back as it was before, also before the new numbering.
        server.kill();
        assert!(server.launch());
        until(async || broker.probe(0).await.is_ok()).await;
        let head = positions(&broker, vec![stream("event:1")]).await[0].unwrap();
        assert!(!epochs.contains(&head.epoch), "{head:?}");
        epochs.push(head.epoch);
    }
}

#[tokio::test]
async fn who_has_called_something_a_duplicate_vouches_for_the_first_one() {
    let mut server = saving("rollback-duplicate.rdb");
    let broker = redis_broker(config(server.port), retention());
    until(async || broker.probe(0).await.is_ok()).await;
    broker.publish(publish("event:1", 1)).await.unwrap();
    redis::cmd("SAVE").exec(&mut server.client()).unwrap();
    let other = redis_broker(config(server.port), retention());
    until(async || other.probe(0).await.is_ok()).await;
    let first = other.publish(keyed("event:1", 2, "k")).await.unwrap().position;
    drop(other); // It dies, and its publisher asks the next one.
    let again = broker.publish(keyed("event:1", 3, "k")).await.unwrap();
    assert_eq!((again.position, again.duplicate_of), (first, Some(Mid(2))));
    server.kill();
    assert!(server.launch());
    until(async || broker.probe(0).await.is_ok()).await;
    let head = positions(&broker, vec![stream("event:1")]).await[0].unwrap();
    assert!(head.epoch > EPOCH, "{head:?}");
    assert_eq!((head.offset, head.mid), (2, Mid(0)));
}
