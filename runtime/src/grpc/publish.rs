//! Publishing, and waiting for the receipt.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use realtime_core::{
    entry::Body,
    id::{Mid, Position},
    time::Instant,
    wire::encode,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{timeout, timeout_at},
};
use tonic::{Code, Status};

use super::{
    recent::{Awaited, Recent},
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
    /// One for each call that waits for an acknowledgement.
    ack_permits: Arc<Semaphore>,
    recent: Arc<Mutex<Recent>>,
}

/// What became of a publish that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The position of the message in its stream; empty without one.
    pub(super) message_id: String,
    /// Whether it was delivered: handed to a connection, or, if that was asked for, acknowledged.
    pub(super) delivered: bool,
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
        let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let ack_permits = Arc::new(Semaphore::new(ACK_CALLS_MAX));
        Self { shared: Arc::clone(shared), permits, ack_permits, recent: Arc::default() }
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
        // The server gives a call no longer than that.
        let deadline = deadline.map(|deadline| deadline.min(now + CALL_MAX));
        let by = deadline.unwrap_or(now + PUBLISH_TIMEOUT).min(now + PUBLISH_TIMEOUT);
        let permit = Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|_| unavailable("not published: too many publishes are in progress"))?;
        let mid = entropy::fresh_mid();
        let received = self.expect(&message, mid, by).await?;
        // A repeated call may go on waiting where this one is given up.
        let is_alone = message.ack && message.idempotency_key.is_none();
        let _waiting = is_alone.then(|| Waiting { shared, mid });
        let kind = Arc::clone(&message.kind);
        let ack_timeout = message.ack.then_some(shared.service.config.ack_timeout);
        // On its own: a caller that gives up must not stop a publish half-way, since the next ones
        // of the stream wait for its outcome.
        let publishing = {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let published = carry_out(&shared, message, mid, deadline).await;
                drop(permit);
                published
            })
        };
        let published = match timeout_at(clock.tokio(by), publishing).await {
            Ok(published) => published.expect("publishing does not panic")?,
            Err(_) => return Err(unknown_outcome("the broker did not answer in time")),
        };
        let duplicate = published.duplicate_of.is_some();
        if duplicate {
            self.recent().forget(mid);
        }
        let received = match published.duplicate_of {
            // Another instance may know of the first one, or nobody any more.
            Some(first) => self.recent().of(first),
            None => Some(received),
        };
        let by = match ack_timeout {
            Some(timeout) => deadline.unwrap_or_else(|| clock.now() + timeout),
            None => receipt_by(shared, deadline),
        };
        // The relay answers by then with what was counted; a busy one may be late. What it can't
        // tell is not counted.
        let given_up = clock.tokio(by + RELAY_MARGIN);
        let receipt = match received {
            Some(received) => receipt_of(received, given_up, ack_timeout.is_some(), shared).await,
            None => Receipt::default(),
        };
        let Receipt { recipients, instances, complete, acknowledged, .. } = receipt;
        let delivered = if ack_timeout.is_some() { acknowledged } else { recipients > 0 };
        if !duplicate {
            shared.counters.notified(&kind, delivered);
        }
        let message_id = published.position.map(id_of).unwrap_or_default();
        Ok(Outcome { message_id, delivered, recipients, instances, complete, duplicate })
    }

    /// Tells the relay that the receipt of `mid` is waited for: before the broker is asked, since
    /// the message may come back at once.
    async fn expect(&self, message: &Message, mid: Mid, by: Instant) -> Result<Awaited, Status> {
        let service = &self.shared.service;
        let permit = match message.ack {
            false => None,
            true => Some(Arc::clone(&self.ack_permits).try_acquire_owned().map_err(|_| {
                unavailable("not published: too many calls wait for an acknowledgement")
            })?),
        };
        let (receipt, received) = watch::channel(None);
        let (stream, deadline) = (message.stream.clone(), by + service.config.receipt_timeout);
        let expected = LinkCommand::Expected { mid, stream, deadline, receipt };
        match timeout_at(service.clock.tokio(by), service.link.send(expected)).await {
            Ok(Ok(())) => (),
            Ok(Err(_)) => return Err(unavailable("not published: the instance is stopping")),
            Err(_) => return Err(unavailable("not published: the relay is overloaded")),
        }
        if message.idempotency_key.is_some() {
            self.recent().remember(mid, received.clone());
        }
        if let Some(permit) = permit {
            tokio::spawn(hold(permit, received.clone()));
        }
        Ok(received)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The `id` of the message at a position.
fn id_of(position: Position) -> String {
    let mut id = Vec::new();
    encode::id(&mut id, position);
    String::from_utf8(id).expect("an id is ASCII")
}

/// Waits for a receipt until `by`, and for an acknowledgement if there is to be one. Gives what is
/// known by then; one of nobody where there will be none. An instance that stops waits for counts
/// only.
async fn receipt_of(
    mut received: Awaited,
    by: tokio::time::Instant,
    with_ack: bool,
    shared: &Shared,
) -> Receipt {
    let is_whole = |receipt: &Option<Receipt>| {
        receipt.as_ref().is_some_and(|receipt| !with_ack || !receipt.awaits_ack)
    };
    let stopping = async {
        shared.stopping().await;
        received.clone().wait_for(Option::is_some).await.ok();
    };
    let mut waiting = received.clone();
    tokio::select! {
        biased;
        _ = waiting.wait_for(is_whole) => (),
        () = stopping => (),
        () = tokio::time::sleep_until(by) => (),
    }
    let known = *received.borrow_and_update();
    known.unwrap_or_default()
}

/// Keeps a permit until nobody waits for an acknowledgement any more.
async fn hold(permit: OwnedSemaphorePermit, mut received: Awaited) {
    received.wait_for(|receipt| receipt.is_some_and(|receipt| !receipt.awaits_ack)).await.ok();
    drop(permit);
}

/// A call that waits for the receipt of `mid`. When it is given up, nobody does.
struct Waiting<'a> {
    shared: &'a Shared,
    mid: Mid,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Where there is no room for it the relay finds out in its time.
        self.shared.service.link.try_send(LinkCommand::Unpublished { mid: self.mid }).ok();
    }
}

/// Until when counts are waited for, from now on.
fn receipt_by(shared: &Shared, deadline: Option<Instant>) -> Instant {
    let by = shared.now() + shared.service.config.receipt_timeout;
    deadline.map_or(by, |deadline| deadline.min(by))
}

/// Publishes through the broker, and tells the relay what became of it.
async fn carry_out(
    shared: &Shared,
    message: Message,
    mid: Mid,
    deadline: Option<Instant>,
) -> Result<Published, Status> {
    let stream = message.stream.clone();
    let ack_timeout = message.ack.then_some(shared.service.config.ack_timeout);
    let published = through_broker(shared, message, mid).await;
    let command = match &published {
        Ok(published) if published.duplicate_of.is_none() => {
            shared.counters.published(stream.kind());
            let ack_by =
                ack_timeout.map(|timeout| deadline.unwrap_or_else(|| shared.now() + timeout));
            let deadline = receipt_by(shared, deadline.or(ack_by));
            let subscribers = published.subscribers;
            LinkCommand::Published { mid, subscribers, deadline, ack_by }
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
        Some(_) if planted!("keep a latest value in the history") => Class::Durable,
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
        idempotency_key: message.idempotency_key.filter(|_| !planted!("forget idempotency keys")),
    };
    service.broker.publish(publish).await.map_err(|error| match &error {
        PublishError::Unavailable(_) => unavailable(&error.to_string()),
        PublishError::Unknown(_) => unknown_outcome(&error.to_string()),
    })
}

/// Publishes that the broker has not answered, at once. At 20 µs each this is 80 ms of its time.
const IN_FLIGHT_MAX: usize = 4_096;

/// Calls that wait for an acknowledgement at once: half of all that can wait for a receipt.
const ACK_CALLS_MAX: usize = 1 << 15;

/// The longest that a call waits for anything, less than the server gives it.
const CALL_MAX: Duration = Duration::from_secs(595);

/// How late the relay may answer. Half of what is left of a caller's deadline for the answer.
const RELAY_MARGIN: Duration = Duration::from_millis(25);

/// How long a call without a deadline waits for the broker.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
