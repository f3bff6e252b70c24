//! The probe that tells whether the broker can be reached: it goes out on every command connection
//! and must come back on the subscription connection.

use std::{future::pending, pin::Pin, time::Duration};

use realtime_core::time::Instant;

use crate::broker::{BrokerError, ProbesSent, SharedBroker};

/// Sends probes and waits for them, one at a time.
pub(super) struct Prober {
    broker: SharedBroker,
    /// Names the present probe.
    token: u64,
    sending: Option<Sending>,
    /// How many of it must come back.
    expected: Option<ProbesSent>,
    returned: u32,
    state: State,
}

type Sending = Pin<Box<dyn Future<Output = Result<ProbesSent, BrokerError>> + Send>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no subscription connection to come back on.
    Off,
    Waiting {
        due: Instant,
    },
    Probing {
        overdue: Instant,
    },
}

/// How a probe went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it came back.
    Reachable,
    /// It could not be sent.
    Unsent(String),
    /// It was sent and did not come back.
    Lost,
}

impl Prober {
    /// `token` is the first one; ours must not be taken for those of an earlier connection.
    pub(super) fn new(broker: SharedBroker, token: u64) -> Self {
        Self { broker, token, sending: None, expected: None, returned: 0, state: State::Off }
    }

    /// A new subscription connection is up: it is probed at once.
    pub(super) fn start(&mut self, now: Instant) {
        self.state = State::Waiting { due: now };
    }

    /// The subscription connection is gone.
    pub(super) fn stop(&mut self) {
        self.sending = None;
        self.state = State::Off;
    }

    /// When to call `tick`.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Off => None,
            State::Waiting { due: at } | State::Probing { overdue: at } => Some(at),
        }
    }

    /// Sends the next probe, or gives the present one up, when it is time to.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Verdict> {
        match self.state {
            State::Waiting { due } if due <= now => {
                self.token = self.token.wrapping_add(1);
                let (broker, token) = (self.broker.clone(), self.token);
                self.sending = Some(Box::pin(async move { broker.probe(token).await }));
                self.expected = None;
                self.returned = 0;
                self.state = State::Probing { overdue: now + TIMEOUT };
                None
            }
            State::Probing { overdue } if overdue <= now => {
                let verdict = match self.expected {
                    Some(_) => Verdict::Lost,
                    None => Verdict::Unsent("no answer in time".to_owned()),
                };
                Some(self.conclude(verdict, now))
            }
            State::Off | State::Waiting { .. } | State::Probing { .. } => None,
        }
    }

    /// Waits until the probe has been sent. Cancel-safe.
    pub(super) async fn sent(&mut self) -> Result<ProbesSent, BrokerError> {
        let Some(sending) = &mut self.sending else {
            return pending().await;
        };
        let result = sending.await;
        self.sending = None;
        result
    }

    /// What `sent` said.
    pub(super) fn on_sent(
        &mut self,
        result: Result<ProbesSent, BrokerError>,
        now: Instant,
    ) -> Option<Verdict> {
        match result {
            Ok(sent) => {
                self.expected = Some(sent);
                self.settle(now)
            }
            Err(BrokerError(text)) => Some(self.conclude(Verdict::Unsent(text), now)),
        }
    }

    /// A probe came back.
    pub(super) fn on_returned(&mut self, token: u64, now: Instant) -> Option<Verdict> {
        let present = token == self.token && matches!(self.state, State::Probing { .. });
        if !present {
            return None; // It was given up before.
        }
        self.returned += 1;
        self.settle(now)
    }

    fn settle(&mut self, now: Instant) -> Option<Verdict> {
        let ProbesSent(sent) = self.expected?;
        (self.returned >= sent).then(|| self.conclude(Verdict::Reachable, now))
    }

    fn conclude(&mut self, verdict: Verdict, now: Instant) -> Verdict {
        let pause = if verdict == Verdict::Reachable { INTERVAL } else { INTERVAL_AWAY };
        self.sending = None;
        self.state = State::Waiting { due: now + pause };
        verdict
    }
}

/// Time between probes while all is well.
const INTERVAL: Duration = Duration::from_secs(5);

/// Time between probes while it is not.
const INTERVAL_AWAY: Duration = Duration::from_millis(500);

/// How long a probe may take.
const TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use realtime_core::{
        id::{Epoch, Position},
        stream::StreamName,
    };

    use bytes::Bytes;
    use realtime_core::relay::{Destination, History, StreamHead};

    use super::*;
    use crate::broker::{Broker, BrokerFuture, Publish, PublishError, Published, Subscription};

    /// A broker with two command connections that is never asked.
    #[derive(Debug)]
    struct Absent;

    impl Broker for Absent {
        fn publish(&self, _: Publish) -> BrokerFuture<'_, Result<Published, PublishError>> {
            Box::pin(pending())
        }

        fn read(
            &self,
            _: StreamName,
            _: Epoch,
            _: Option<u64>,
            _: Option<Position>,
        ) -> BrokerFuture<'_, Result<History, BrokerError>> {
            Box::pin(pending())
        }

        fn heads(
            &self,
            _streams: Vec<StreamName>,
        ) -> BrokerFuture<'_, Result<Vec<Option<StreamHead>>, BrokerError>> {
            Box::pin(pending())
        }

        fn subscribe(&self) -> BrokerFuture<'_, Result<Subscription, BrokerError>> {
            Box::pin(pending())
        }

        fn tell(&self, _: Destination, _: Bytes) -> BrokerFuture<'_, Result<(), BrokerError>> {
            Box::pin(pending())
        }

        fn probe(&self, _: u64) -> BrokerFuture<'_, Result<ProbesSent, BrokerError>> {
            Box::pin(pending())
        }
    }

    const SECOND: u64 = 1_000_000_000;
    const TWO: Result<ProbesSent, BrokerError> = Ok(ProbesSent(2));

    fn at(seconds: u64) -> Instant {
        Instant(seconds * SECOND)
    }

    /// A prober that sends its first probe, number 8, at second 1.
    fn prober() -> Prober {
        let mut prober = Prober::new(Arc::new(Absent), 7);
        assert_eq!(prober.next_deadline(), None);
        prober.start(at(1));
        assert_eq!(prober.tick(at(1)), None);
        prober
    }

    #[test]
    fn a_probe_counts_once_all_of_it_came_back_in_whatever_order() {
        let mut prober = prober();
        assert_eq!(prober.on_returned(8, at(1)), None);
        assert_eq!(prober.on_sent(TWO, at(1)), None);
        assert_eq!(prober.on_returned(7, at(1)), None, "not the present one");
        assert_eq!(prober.on_returned(8, at(2)), Some(Verdict::Reachable));
        assert_eq!(prober.next_deadline(), Some(at(7)));
        assert_eq!(prober.on_returned(8, at(2)), None);
    }

    #[test]
    fn a_probe_that_does_not_come_back_is_told_from_one_that_could_not_be_sent() {
        let mut lost = prober();
        assert_eq!(lost.on_sent(TWO, at(1)), None);
        assert_eq!(lost.on_returned(8, at(1)), None);
        assert_eq!(lost.tick(at(2)), None);
        assert_eq!(lost.tick(at(3)), Some(Verdict::Lost));
        assert_eq!(lost.next_deadline(), Some(Instant(7 * SECOND / 2)));
        let mut unsent = prober();
        let away = Err(BrokerError("away".into()));
        assert_eq!(unsent.on_sent(away, at(1)), Some(Verdict::Unsent("away".into())));
        let mut slow = prober();
        assert!(matches!(slow.tick(at(3)), Some(Verdict::Unsent(_))));
    }

    #[test]
    fn without_a_connection_nothing_is_probed() {
        let mut prober = prober();
        prober.stop();
        assert_eq!((prober.next_deadline(), prober.tick(at(9))), (None, None));
        assert_eq!(prober.on_returned(8, at(9)), None);
    }
}
