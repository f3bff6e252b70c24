//! A broker that does as it is told.

use std::sync::Mutex;

use bytes::Bytes;
use realtime_core::{
    id::{Epoch, Mid, Position},
    relay::{Destination, History, StreamHead},
    stream::StreamName,
};

use crate::broker::{
    Broker, BrokerError, BrokerFuture, Class, ProbesSent, Publish, PublishError, Published,
    Subscription,
};

/// What the broker is to do with the next publishes.
#[derive(Clone, Debug)]
pub(super) enum Script {
    Publish,
    Duplicate,
    DuplicateOf(Mid),
    Fail(PublishError),
    Hang,
}

#[derive(Debug)]
pub(super) struct ScriptedBroker {
    pub(super) script: Mutex<Script>,
    pub(super) published: Mutex<Vec<Publish>>,
}

pub(super) const POSITION: Position =
    Position { epoch: Epoch(10), offset: 7, mid: Mid(0xABCD_EF01 << 32) };

impl Broker for ScriptedBroker {
    fn publish(&self, request: Publish) -> BrokerFuture<'_, Result<Published, PublishError>> {
        Box::pin(async move {
            let script = self.script.lock().unwrap().clone();
            let duplicate_of = match script {
                Script::Duplicate => Some(POSITION.mid),
                Script::DuplicateOf(mid) => Some(mid),
                Script::Publish | Script::Fail(_) | Script::Hang => None,
            };
            let durable = request.class == Class::Durable;
            match script {
                Script::Publish | Script::Duplicate | Script::DuplicateOf(_) => (),
                Script::Fail(error) => return Err(error),
                Script::Hang => std::future::pending().await,
            }
            self.published.lock().unwrap().push(request);
            Ok(Published { position: durable.then_some(POSITION), duplicate_of, subscribers: 1 })
        })
    }

    fn read(
        &self,
        _stream: StreamName,
        _epoch: Epoch,
        _after: Option<u64>,
        _known: Option<Position>,
    ) -> BrokerFuture<'_, Result<History, BrokerError>> {
        unreachable!("the service only publishes")
    }

    fn heads(
        &self,
        _streams: Vec<StreamName>,
    ) -> BrokerFuture<'_, Result<Vec<Option<StreamHead>>, BrokerError>> {
        unreachable!("the service only publishes")
    }

    fn subscribe(&self) -> BrokerFuture<'_, Result<Subscription, BrokerError>> {
        unreachable!("the service only publishes")
    }

    fn tell(&self, _: Destination, _: Bytes) -> BrokerFuture<'_, Result<(), BrokerError>> {
        unreachable!("the service only publishes")
    }

    fn probe(&self, _token: u64) -> BrokerFuture<'_, Result<ProbesSent, BrokerError>> {
        unreachable!("the service only publishes")
    }
}
