//! The embedded broker: what Redis does for many instances, for one, in its own memory.

mod keys;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use realtime_core::{
    id::{Epoch, Position},
    relay::{Channel, Destination, History, RunId, StreamHead},
    stream::StreamName,
};
use tokio::sync::Notify;

use self::store::Store;
use super::{
    Broker, BrokerError, BrokerFuture, Item, ProbesSent, Publish, PublishError, Published,
    Retention, Subscription, SubscriptionItems, SubscriptionRequests,
};
use crate::clock::Clock;

/// A broker in this process. Everything is under one lock that is held for microseconds and never
/// across an await.
#[derive(Debug)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    store: Store,
    subscribers: BTreeMap<u64, Subscriber>,
    /// Who subscribed to which stream.
    audiences: BTreeSet<(StreamName, u64)>,
    subscribers_ever: u64,
}

/// One subscription: what it has not taken yet.
#[derive(Debug, Default)]
struct Subscriber {
    queue: VecDeque<Item>,
    queued_bytes: usize,
    /// Something did not fit: after what is queued it ends.
    overflowed: bool,
    /// The side that asks is gone.
    deaf: bool,
    wake: Arc<Notify>,
}

impl MemoryBroker {
    /// Keeps up to about `bytes_max` of histories, positions and keys; beyond that the oldest ones
    /// are forgotten.
    pub fn new(retention: Retention, bytes_max: usize, clock: Clock) -> Self {
        let state = State {
            store: Store::new(retention, bytes_max),
            subscribers: BTreeMap::new(),
            audiences: BTreeSet::new(),
            subscribers_ever: 0,
        };
        Self { shared: Arc::new(Shared { clock, state: Mutex::new(state) }) }
    }
}

impl Broker for MemoryBroker {
    fn publish(&self, request: Publish) -> BrokerFuture<'_, Result<Published, PublishError>> {
        Box::pin(async move {
            let Shared { clock, .. } = *self.shared;
            let mut state = self.shared.state();
            let mut published = state.store.publish(&request, clock.now(), clock.unix())?;
            if let Some(entry) = published.entry {
                state.deliver(&request.stream, &entry);
            }
            let audience = audience(&state.audiences, &request.stream).count();
            if published.answer.duplicate_of.is_none() {
                published.answer.subscribers = u32::try_from(audience).unwrap_or(u32::MAX);
            }
            Ok(published.answer)
        })
    }

    fn read(
        &self,
        stream: StreamName,
        epoch: Epoch,
        after: Option<u64>,
        _known: Option<Position>, // It is lost with the process, and its readers with it.
    ) -> BrokerFuture<'_, Result<History, BrokerError>> {
        Box::pin(async move {
            let now = self.shared.clock.now();
            Ok(self.shared.state().store.read(&stream, epoch, after, now))
        })
    }

    fn heads(
        &self,
        streams: Vec<StreamName>,
    ) -> BrokerFuture<'_, Result<Vec<Option<StreamHead>>, BrokerError>> {
        Box::pin(async move {
            let now = self.shared.clock.now();
            let store = &mut self.shared.state().store;
            Ok(streams.iter().map(|stream| store.head(stream, now)).collect())
        })
    }

    fn subscribe(&self) -> BrokerFuture<'_, Result<Subscription, BrokerError>> {
        Box::pin(async move {
            let mut state = self.shared.state();
            state.subscribers_ever += 1;
            let id = state.subscribers_ever;
            let subscriber = Subscriber::default();
            let wake = subscriber.wake.clone();
            state.subscribers.insert(id, subscriber);
            drop(state);
            let requests = Requests { shared: self.shared.clone(), id };
            let items = Items { shared: self.shared.clone(), id, wake };
            Ok(Subscription {
                run_id: RUN_ID,
                requests: Box::new(requests),
                items: Box::new(items),
            })
        })
    }

    fn tell(&self, to: Destination, bytes: Bytes) -> BrokerFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            // Every subscriber is this instance, and a relay knows what concerns it.
            let channel = match to {
                Destination::Everyone => Channel::Control,
                Destination::Instance(_) => Channel::Receipts,
            };
            for subscriber in self.shared.state().subscribers.values_mut() {
                subscriber.push(Item::Message(channel.clone(), bytes.clone()));
            }
            Ok(())
        })
    }

    fn probe(&self, token: u64) -> BrokerFuture<'_, Result<ProbesSent, BrokerError>> {
        Box::pin(async move {
            for subscriber in self.shared.state().subscribers.values_mut() {
                subscriber.push(Item::Probe(token));
            }
            Ok(ProbesSent(1))
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }
}

impl State {
    /// Queues an entry for everyone who subscribed to `stream`.
    fn deliver(&mut self, stream: &StreamName, entry: &Bytes) {
        let Self { audiences, subscribers, .. } = self;
        for id in audience(audiences, stream) {
            if let Some(subscriber) = subscribers.get_mut(&id) {
                let channel = Channel::Stream(stream.clone());
                subscriber.push(Item::Message(channel, entry.clone()));
            }
        }
    }
}

impl Subscriber {
    fn push(&mut self, item: Item) {
        let bytes = item_bytes(&item);
        self.overflowed |= self.queued_bytes + bytes > QUEUED_BYTES_MAX;
        if !self.overflowed {
            self.queued_bytes += bytes;
            self.queue.push_back(item);
        }
        self.wake.notify_one();
    }
}

/// Who subscribed to a stream, in ascending order.
fn audience(
    audiences: &BTreeSet<(StreamName, u64)>,
    stream: &StreamName,
) -> impl Iterator<Item = u64> {
    audiences.range((stream.clone(), 0)..=(stream.clone(), u64::MAX)).map(|(_, id)| *id)
}

/// Asks for subscriptions.
struct Requests {
    shared: Arc<Shared>,
    id: u64,
}

impl SubscriptionRequests for Requests {
    fn request(
        &mut self,
        subscribe: Vec<StreamName>,
        unsubscribe: Vec<StreamName>,
    ) -> BrokerFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            let mut state = self.shared.state();
            let State { store, subscribers, audiences, .. } = &mut *state;
            let Some(subscriber) = subscribers.get_mut(&self.id) else {
                return Err(closed());
            };
            for stream in &subscribe {
                audiences.insert((stream.clone(), self.id));
                subscriber.push(Item::Subscribed(stream.clone()));
            }
            for stream in unsubscribe {
                audiences.remove(&(stream.clone(), self.id));
                if audience(audiences, &stream).next().is_none() {
                    store.vacate(&stream);
                }
                subscriber.push(Item::Unsubscribed(stream));
            }
            Ok(())
        })
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        if let Some(subscriber) = self.shared.state().subscribers.get_mut(&self.id) {
            subscriber.deaf = true;
            subscriber.wake.notify_one();
        }
    }
}

/// Hears what a subscription brings.
struct Items {
    shared: Arc<Shared>,
    id: u64,
    wake: Arc<Notify>,
}

impl SubscriptionItems for Items {
    fn next(&mut self) -> BrokerFuture<'_, Result<Item, BrokerError>> {
        Box::pin(async move {
            loop {
                if let Some(item) = self.take()? {
                    return Ok(item);
                }
                self.wake.notified().await;
            }
        })
    }
}

impl Items {
    fn take(&self) -> Result<Option<Item>, BrokerError> {
        let mut state = self.shared.state();
        let subscriber = state.subscribers.get_mut(&self.id).ok_or_else(closed)?;
        match subscriber.queue.pop_front() {
            Some(item) => {
                subscriber.queued_bytes -= item_bytes(&item);
                Ok(Some(item))
            }
            None if subscriber.overflowed => {
                Err(BrokerError("items came faster than they were taken".to_owned()))
            }
            None if subscriber.deaf => Err(closed()),
            None => Ok(None),
        }
    }
}

impl Drop for Items {
    /// Nobody hears any more, so nothing need be kept.
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.subscribers.remove(&self.id);
        let State { store, audiences, .. } = &mut *state;
        let left: Vec<_> = audiences.extract_if(.., |(_, id)| *id == self.id).collect();
        for (stream, _) in left {
            if audience(audiences, &stream).next().is_none() {
                store.vacate(&stream);
            }
        }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").field("id", &self.id).finish_non_exhaustive()
    }
}

fn closed() -> BrokerError {
    BrokerError("the subscription is closed".to_owned())
}

/// What an item weighs: its bytes, and about as much again for its place in the queue.
fn item_bytes(item: &Item) -> usize {
    let bytes = match item {
        Item::Message(_, bytes) => bytes.len(),
        Item::Subscribed(_) | Item::Unsubscribed(_) | Item::Probe(_) => 0,
    };
    bytes + ITEM_BYTES
}

/// The only life that this broker has.
const RUN_ID: RunId = 1;

/// About what an item takes beside its bytes.
const ITEM_BYTES: usize = 128;

/// What a subscription may hold: some 100,000 items of usual size.
const QUEUED_BYTES_MAX: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use realtime_core::id::Mid;

    use super::*;
    use crate::broker::Class;

    fn broker() -> MemoryBroker {
        let retention = Retention {
            user_entries_max: 2,
            room_entries_max: 4,
            bytes_max: 1 << 20,
            history_ttl: Duration::from_secs(600),
            position_ttl: Duration::from_secs(86_400),
            latest_ttl: Duration::from_secs(600),
            idempotency_ttl: Duration::from_secs(300),
        };
        MemoryBroker::new(retention, 1 << 20, Clock::new())
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn a_subscription_that_takes_nothing_ends_after_what_it_held() {
        run(async {
            let broker = broker();
            let mut slow = broker.subscribe().await.unwrap();
            slow.requests.request(vec![StreamName::all()], vec![]).await.unwrap();
            let body = Bytes::from(vec![b'x'; 1 << 18]);
            let mut mid = 0;
            while !broker.shared.state().subscribers[&1].overflowed {
                mid += 1;
                let request = Publish {
                    stream: StreamName::all(),
                    mid: Mid(mid),
                    epoch: Epoch(1),
                    body: body.clone(),
                    class: Class::Durable,
                    idempotency_key: None,
                };
                broker.publish(request).await.unwrap();
            }
            assert_eq!(slow.items.next().await, Ok(Item::Subscribed(StreamName::all())));
            for _ in 1..mid {
                assert!(matches!(slow.items.next().await, Ok(Item::Message(..))));
            }
            assert!(slow.items.next().await.is_err());
        });
    }

    #[test]
    fn dropping_either_side_of_a_subscription_closes_the_other_and_leaves_nothing_behind() {
        run(async {
            let broker = broker();
            let Subscription { mut requests, items, .. } = broker.subscribe().await.unwrap();
            requests.request(vec![StreamName::all()], vec![]).await.unwrap();
            drop(items);
            assert!(requests.request(vec![StreamName::all()], vec![]).await.is_err());
            assert!(broker.shared.state().audiences.is_empty());
            let Subscription { requests, mut items, .. } = broker.subscribe().await.unwrap();
            drop(requests);
            assert!(items.next().await.is_err());
            drop(items);
            assert!(broker.shared.state().subscribers.is_empty());
        });
    }
}
