//! What carries publications between instances: Redis, or an embedded broker for one instance.

mod memory;
mod redis;

pub use self::{
    memory::MemoryBroker,
    redis::{RedisBroker, SCRIPTS},
};

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use realtime_core::{
    id::{Epoch, Mid, Position},
    relay::{Channel, Destination, History, RunId, StreamHead},
    stream::StreamName,
};

/// A future of a broker. Boxed, since brokers are chosen at run time; the cost is small beside a
/// round trip.
pub type BrokerFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What carries publications between instances.
pub trait Broker: fmt::Debug + Send + Sync {
    /// Numbers, stores and publishes in one atomic step. Takes a bounded time, and next to none
    /// while the broker is known to be away. Dropping the future stops nothing that was sent.
    ///
    /// The answer to a latest value without an idempotency key, and to anything without a history
    /// and a key, is `Unknown` as soon as an answer is lost; everything else is asked again, and
    /// recognised by its mid if it was carried out.
    fn publish(&self, request: Publish) -> BrokerFuture<'_, Result<Published, PublishError>>;

    /// Reads where a stream is, and what of its history comes after the offset `after`; nothing of
    /// it without one. Begins a numbering, for which `epoch` is, when it has none. The same when it
    /// shows that it can't have been at `known`, a place of this numbering or of a later one: then
    /// it has lost some, and everybody who listens to it is told.
    fn read(
        &self,
        stream: StreamName,
        epoch: Epoch,
        after: Option<u64>,
        known: Option<Position>,
    ) -> BrokerFuture<'_, Result<History, BrokerError>>;

    /// Reads where streams are, and lets their numbering live on as [`Broker::read`] does. None
    /// where there is none.
    fn heads(
        &self,
        streams: Vec<StreamName>,
    ) -> BrokerFuture<'_, Result<Vec<Option<StreamHead>>, BrokerError>>;

    /// Opens a subscription connection, with nothing subscribed but the channels that every
    /// instance reads (control, ingress when enabled, and its own for receipts and probes).
    fn subscribe(&self) -> BrokerFuture<'_, Result<Subscription, BrokerError>>;

    /// Publishes `bytes` for other instances, by no stream: it is neither numbered nor kept, and
    /// held up by no publish.
    fn tell(&self, to: Destination, bytes: Bytes) -> BrokerFuture<'_, Result<(), BrokerError>>;

    /// Publishes `token` to this instance's own probe channel over every command connection.
    fn probe(&self, token: u64) -> BrokerFuture<'_, Result<ProbesSent, BrokerError>>;
}

/// How many probes went out; each comes back as one [`Item::Probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbesSent(pub u32);

/// What is to be published.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The stream.
    pub stream: StreamName,
    /// Names the publication. A retry of the same call has the same one.
    pub mid: Mid,
    /// For a numbering that begins, if one does.
    pub epoch: Epoch,
    /// `realtime_core::entry::Body`, encoded.
    pub body: Bytes,
    /// Durable, or latest with the field that names what it is the newest value of.
    pub class: Class,
    /// At most 128 bytes.
    pub idempotency_key: Option<Box<str>>,
}

/// How a publication is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// It gets an offset and goes into the history.
    Durable,
    /// It replaces the value of this field in the stream's latest values.
    Latest {
        /// Event type and key of the value.
        field: Box<str>,
    },
}

/// A publication was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its place; none for latest values and when there is no history. For a duplicate it is the
    /// first one's.
    pub position: Option<Position>,
    /// The idempotency key was seen before: nothing was published. This is the first one.
    pub duplicate_of: Option<Mid>,
    /// Subscribers of the channel at that moment; 0 for a duplicate.
    pub subscribers: u32,
}

/// Why a publish failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Certainly not published; the text says why.
    #[error("not published: {0}")]
    Unavailable(String),
    /// It may or may not have been published.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The broker can't be reached, or answered with an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BrokerError(pub String);

/// A subscription connection: the side that asks and the side that hears. Dropping either closes
/// it.
#[derive(Debug)]
pub struct Subscription {
    /// The life of the server.
    pub run_id: RunId,
    /// Where to ask for subscriptions.
    pub requests: Box<dyn SubscriptionRequests>,
    /// Where items arrive, in the order in which the broker sent them.
    pub items: Box<dyn SubscriptionItems>,
}

/// Asks for subscriptions. Confirmations arrive among the items, so that they are in order with
/// the publications.
pub trait SubscriptionRequests: fmt::Debug + Send {
    /// Subscribes to and unsubscribes from the channels of streams, none of which is in both lists.
    fn request(
        &mut self,
        subscribe: Vec<StreamName>,
        unsubscribe: Vec<StreamName>,
    ) -> BrokerFuture<'_, Result<(), BrokerError>>;
}

/// Hears what a subscription connection brings.
pub trait SubscriptionItems: fmt::Debug + Send {
    /// Waits for the next item. An error means that the connection is gone. Cancel-safe.
    fn next(&mut self) -> BrokerFuture<'_, Result<Item, BrokerError>>;
}

/// What a subscription connection brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A subscription holds.
    Subscribed(StreamName),
    /// A subscription has ended.
    Unsubscribed(StreamName),
    /// A message.
    Message(Channel, Bytes),
    /// A probe came back.
    Probe(u64),
}

/// What the brokers keep of a stream, and for how long.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Entries of a user's history; 0 turns positions off everywhere.
    pub user_entries_max: u32,
    /// Entries of a room's history.
    pub room_entries_max: u32,
    /// Bytes of one history.
    pub bytes_max: usize,
    /// How long a history lives after its last entry.
    pub history_ttl: Duration,
    /// How long a numbering lives after it was last used.
    pub position_ttl: Duration,
    /// How long latest values live after the last one.
    pub latest_ttl: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
}

/// A broker chosen at start.
pub type SharedBroker = Arc<dyn Broker>;

/// Latest values of one stream; beyond that the oldest one is dropped.
const LATEST_VALUES_MAX: usize = 32;
