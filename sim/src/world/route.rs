//! Where an event happens, and where what it brings comes from: for the trace.

use realtime_core::time::Instant;

use crate::session::Session;

use super::{Event, Queue};

/// The way of an event to where it happens.
#[derive(Debug)]
pub(super) struct Route {
    /// The host where it happens; none when it happens to the whole cluster.
    pub(super) host: Option<String>,
    /// The other host it comes from, and when it left there.
    pub(super) from: Option<(String, Instant)>,
}

impl Route {
    /// The way of `event`, which was queued there and then, or was due by itself.
    pub(super) fn of(
        event: &Event,
        queued: Option<&(Queue, Instant)>,
        sessions: &[Session],
    ) -> Self {
        let from = queued.and_then(|(queue, left)| Some((sender(queue, sessions)?, *left)));
        Self { host: place(event, sessions), from }
    }
}

fn place(event: &Event, sessions: &[Session]) -> Option<String> {
    match event {
        Event::Boot(at)
        | Event::TryLink(at)
        | Event::Reconnected((at, _))
        | Event::Host((at, _), _) => Some(pod(*at)),
        Event::Connect(number) | Event::Step(number, _) => Some(client(*number)),
        Event::Retry(session, _)
        | Event::Acknowledge(session, _)
        | Event::Acknowledged(session, _)
        | Event::Unstall(session) => Some(client(sessions[*session].client)),
        Event::Publish(_) => Some("publisher".to_owned()),
        Event::Take(..)
        | Event::Interest(..)
        | Event::Tell(..)
        | Event::Read(..)
        | Event::Compare(..)
        | Event::Ghost(_)
        | Event::Copy => Some(BROKER.to_owned()),
        Event::Fault(_) | Event::Heal(_) | Event::Told => None,
    }
}

/// None for what never leaves its host.
fn sender(queue: &Queue, sessions: &[Session]) -> Option<String> {
    match queue {
        Queue::Items(_) | Queue::Replies(..) => Some(BROKER.to_owned()),
        Queue::Interest((at, ..)) | Queue::Commands((at, _), _) | Queue::Tells((at, _)) => {
            Some(pod(*at))
        }
        Queue::Socket(session) => Some(client(sessions[*session].client)),
        Queue::ToShard(..) | Queue::FromShard(..) => None,
    }
}

/// The name of an instance.
pub(super) fn pod(at: usize) -> String {
    format!("pod{at}")
}

/// The name of a client.
pub(super) fn client(number: usize) -> String {
    format!("client{number}")
}

/// The name of the broker's host, which is a model of Redis.
const BROKER: &str = "redis";
