//! The subscription connection: opened, watched, and opened again.

use std::{
    future::pending,
    mem::{replace, take},
    pin::Pin,
};

use realtime_core::{id::Generation, relay::RunId, stream::StreamName, time::Instant};

use crate::{
    backoff::Backoff,
    broker::{
        BrokerError, Item, SharedBroker, Subscription, SubscriptionItems, SubscriptionRequests,
    },
};

/// The present subscription connection, or the way to the next one.
pub(super) struct Connection {
    broker: SharedBroker,
    backoff: Backoff,
    /// Counts connections; 0 before the first.
    generation: Generation,
    state: State,
    /// What is to be asked for as soon as what was asked before is on its way.
    subscribe: Vec<StreamName>,
    unsubscribe: Vec<StreamName>,
}

enum State {
    Down { until: Instant },
    Opening(Boxed<Result<Subscription, BrokerError>>),
    Up { items: Box<dyn SubscriptionItems>, requests: Requests },
}

/// The side that asks, which is away while it does.
enum Requests {
    Idle(Box<dyn SubscriptionRequests>),
    Busy(Boxed<(Box<dyn SubscriptionRequests>, Result<(), BrokerError>)>),
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What became of the connection.
#[derive(Debug)]
pub(super) enum Change {
    /// It is up.
    Up(Generation, RunId),
    /// It brought something.
    Item(Generation, Item),
    /// It was up and is gone.
    Lost(BrokerError),
    /// It could not be opened.
    Failed(BrokerError),
}

impl Connection {
    /// Opens the first one at `now`.
    pub(super) fn new(broker: SharedBroker, seed: u64, now: Instant) -> Self {
        Self {
            broker,
            backoff: Backoff::new(seed),
            generation: Generation(0),
            state: State::Down { until: now },
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
        }
    }

    /// Asks for a subscription, unless there is no connection.
    pub(super) fn subscribe(&mut self, stream: StreamName) {
        if matches!(self.state, State::Up { .. }) {
            self.subscribe.push(stream);
        }
    }

    /// Asks for the end of one, unless there is no connection.
    pub(super) fn unsubscribe(&mut self, stream: StreamName) {
        if matches!(self.state, State::Up { .. }) {
            self.unsubscribe.push(stream);
        }
    }

    /// When to call `tick`.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Down { until } => Some(until),
            State::Opening(_) | State::Up { .. } => None,
        }
    }

    /// Begins to open the next connection when it is time to.
    pub(super) fn tick(&mut self, now: Instant) {
        if let State::Down { until } = self.state
            && until <= now
        {
            let broker = self.broker.clone();
            self.state = State::Opening(Box::pin(async move { broker.subscribe().await }));
        }
    }

    /// All is well: after the next loss the pause is the shortest one.
    pub(super) fn proved(&mut self) {
        self.backoff.reset();
    }

    /// Closes the connection; the next one follows after a pause.
    pub(super) fn close(&mut self, now: Instant) {
        self.state = State::Down { until: now + self.backoff.pause() };
        self.subscribe.clear();
        self.unsubscribe.clear();
    }

    /// Waits for a change. After `Lost` and `Failed` the caller must call `close`. Cancel-safe.
    pub(super) async fn change(&mut self) -> Change {
        match &mut self.state {
            State::Down { .. } => pending().await,
            State::Opening(opening) => match opening.await {
                Ok(Subscription { run_id, requests, items }) => {
                    self.generation = Generation(self.generation.0 + 1);
                    self.state = State::Up { items, requests: Requests::Idle(requests) };
                    Change::Up(self.generation, run_id)
                }
                Err(error) => Change::Failed(error),
            },
            State::Up { items, requests } => tokio::select! {
                biased;
                error = requests.ask(&mut self.subscribe, &mut self.unsubscribe) => {
                    Change::Lost(error)
                }
                item = items.next() => match item {
                    Ok(item) => Change::Item(self.generation, item),
                    Err(error) => Change::Lost(error),
                }
            },
        }
    }
}

impl Requests {
    /// Asks for what is wanted, all at once. Ends only when it fails. Cancel-safe.
    async fn ask(
        &mut self,
        subscribe: &mut Vec<StreamName>,
        unsubscribe: &mut Vec<StreamName>,
    ) -> BrokerError {
        loop {
            match self {
                Self::Idle(_) if subscribe.is_empty() && unsubscribe.is_empty() => {
                    return pending().await;
                }
                Self::Idle(_) => {
                    let (subscribe, unsubscribe) = (take(subscribe), take(unsubscribe));
                    let gone = Self::Busy(Box::pin(pending()));
                    let Self::Idle(mut requests) = replace(self, gone) else {
                        unreachable!("it was idle a line ago");
                    };
                    *self = Self::Busy(Box::pin(async move {
                        let result = requests.request(subscribe, unsubscribe).await;
                        (requests, result)
                    }));
                }
                Self::Busy(asking) => {
                    let (requests, result) = asking.await;
                    *self = Self::Idle(requests);
                    if let Err(error) = result {
                        return error;
                    }
                }
            }
        }
    }
}
