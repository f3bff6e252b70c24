//! Publishing, and waiting for the receipt.

use std::{sync::Arc, time::Duration};

use realtime_core::{entry::Body, id::Mid, time::Instant, wire::encode};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{timeout, timeout_at},
};
use tonic::{Code, Status};

use super::{
    request::Message,
    status::{unavailable, unknown_outcome},
};
use crate::{
    broker::{Class, Publish, PublishError, Published},
    entropy,
    link::{LinkCommand, Receipt},
    metrics::ServiceError,
    service::Shared,
};

/// Publishes what callers send.
#[derive(Clone, Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    /// One for each publish that the broker has not answered.
    permits: Arc<Semaphore>,
}

/// What became of a publish that was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The position of the message in its stream; empty without one.
    pub(super) message_id: String,
    /// Connections that it was handed to.
    pub(super) recipients: u32,
    /// Instances with at least one of them.
    pub(super) instances: u32,
    /// Every instance has reported that could have handed it to anybody.
    pub(super) complete: bool,
    /// The idempotency key was seen before.
    pub(super) duplicate: bool,
}

impl Publisher {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }

    /// Publishes `message` and waits for the receipt, by `deadline` at the latest if there is one.
    ///
    /// # Errors
    /// `UNAVAILABLE` when it was certainly not published, `DEADLINE_EXCEEDED` when it is not known.
    pub(super) async fn publish(
        &self,
        message: Message,
        deadline: Option<Instant>,
    ) -> Result<Outcome, Status> {
        let outcome = self.publish_within(message, deadline).await;
        if let Err(status) = &outcome {
            self.shared.counters.failed(if status.code() == Code::Unavailable {
                ServiceError::PublishUnavailable
            } else {
                ServiceError::PublishUnknown
            });
        }
        outcome
    }

    async fn publish_within(
        &self,
        message: Message,
        deadline: Option<Instant>,
    ) -> Result<Outcome, Status> {
        let shared = &self.shared;
        let clock = shared.service.clock;
        let now = clock.now();
        let by = deadline.unwrap_or(now + PUBLISH_TIMEOUT).min(now + PUBLISH_TIMEOUT);
        let permit = Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|_| unavailable("not published: too many publishes are in progress"))?;

        let receipt_timeout = shared.service.config.receipt_timeout;
        let mid = entropy::fresh_mid();
        let (receipt, received) = oneshot::channel();
        let stream = message.stream.clone();
        let expected =
            LinkCommand::Expected { mid, stream, deadline: by + receipt_timeout, receipt };
        // Told before the broker is, since the message may come back at once.
        match timeout_at(clock.tokio(by), shared.service.link.send(expected)).await {
            Ok(Ok(())) => (),
            Ok(Err(_)) => return Err(unavailable("not published: the instance is stopping")),
            Err(_) => return Err(unavailable("not published: the relay is overloaded")),
        }

        let kind = Arc::clone(&message.kind);
        // On its own: a caller that gives up must not stop a publish half-way, since the next ones
        // of the stream wait for its outcome.
        let publishing = {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let published = carry_out(&shared, message, mid, by).await;
                drop(permit);
                published
            })
        };
        let published = match timeout_at(clock.tokio(by), publishing).await {
            Ok(published) => published.expect("publishing does not panic")?,
            Err(_) => return Err(unknown_outcome("the broker did not answer in time")),
        };
        let mut outcome = Outcome { duplicate: published.duplicate, ..Outcome::default() };
        if let Some(position) = published.position {
            let mut id = Vec::new();
            encode::id(&mut id, position);
            outcome.message_id = String::from_utf8(id).expect("an id is ASCII");
        }
        if published.duplicate {
            return Ok(outcome);
        }
        let receipt_by = (clock.now() + receipt_timeout).min(by);
        // The relay answers by then with what was counted; a busy one may be late. What it can't
        // tell is not counted.
        let given_up = clock.tokio(receipt_by + RELAY_MARGIN);
        if let Ok(Ok(receipt)) = timeout_at(given_up, received).await {
            let Receipt { recipients, instances, complete } = receipt;
            outcome = Outcome { recipients, instances, complete, ..outcome };
        }
        shared.counters.notified(&kind, outcome.recipients);
        Ok(outcome)
    }
}

/// Publishes through the broker, and tells the relay what became of it.
async fn carry_out(
    shared: &Shared,
    message: Message,
    mid: Mid,
    by: Instant,
) -> Result<Published, Status> {
    let stream = message.stream.clone();
    let published = through_broker(shared, message, mid).await;
    let command = match &published {
        Ok(published) if !published.duplicate => {
            shared.counters.published(stream.kind());
            let deadline = (shared.now() + shared.service.config.receipt_timeout).min(by);
            LinkCommand::Published { mid, subscribers: published.subscribers, deadline }
        }
        Ok(_) | Err(_) => LinkCommand::Unpublished { mid },
    };
    // Without this there is no receipt, which the caller finds out by itself; it must not wait for
    // a busy relay any longer than for the receipt.
    let told = shared.service.link.send(command);
    let _untold = timeout(shared.service.config.receipt_timeout, told).await;
    published
}

async fn through_broker(shared: &Shared, message: Message, mid: Mid) -> Result<Published, Status> {
    let service = &shared.service;
    let class = match &message.latest {
        // Types contain no control characters, so the field tells both.
        Some(key) => Class::Latest { field: format!("{}\n{key}", message.kind).into() },
        None => Class::Durable,
    };
    let body = Body {
        kind: message.kind,
        payload: message.payload,
        exclude_user: message.exclude_user,
        key: message.latest.unwrap_or_default(),
        ack: message.ack,
        origin: service.boot,
        published: service.clock.unix(),
    };
    let publish = Publish {
        stream: message.stream,
        mid,
        epoch: entropy::fresh_epoch(service.clock),
        body: body.encode(),
        class,
        idempotency_key: message.idempotency_key,
    };
    service.broker.publish(publish).await.map_err(|error| match &error {
        PublishError::Unavailable(_) => unavailable(&error.to_string()),
        PublishError::Unknown(_) => unknown_outcome(&error.to_string()),
    })
}

/// Publishes that the broker has not answered, at once. At 20 µs each this is 80 ms of its time.
const IN_FLIGHT_MAX: usize = 4_096;

/// How late the relay may answer. Half of what is left of a caller's deadline for the answer.
const RELAY_MARGIN: Duration = Duration::from_millis(25);

/// How long a call without a deadline waits for the broker.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
