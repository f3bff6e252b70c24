//! The relay thread: one [`Relay`] and the subscription connection.
//!
//! A turn waits until anything is there, feeds the relay a bounded batch from every side, and
//! carries out what it wants after each. Nothing here blocks on anything: what a worker or the
//! broker has no room for waits beside the loop.

mod connection;
mod outlet;
mod probe;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use realtime_core::{
    id::{BootId, CheckId, Mid, Position, ReadId, WorkerId},
    limits::RelayLimits,
    link::{ToRelay, ToShard},
    relay::{Action, Destination, History, Input, Peer, Relay, RelayStats, StreamHead},
    rng::Rng,
    stream::StreamName,
    time::Instant,
    transcript::{Recorded, Sink},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep_until,
};

use self::{
    connection::{Change, Connection},
    outlet::Outlet,
    probe::{Prober, Verdict},
};
use crate::{
    broker::{BrokerError, Item, ProbesSent, SharedBroker},
    clock::Clock,
    entropy,
    record::Recorder,
};

/// What other threads tell the relay thread.
#[derive(Debug)]
pub enum LinkCommand {
    /// A shard said something.
    FromShard(WorkerId, ToRelay),
    /// The service is about to publish `mid`.
    Expected {
        /// The publication.
        mid: Mid,
        /// Its stream.
        stream: StreamName,
        /// When the service stops waiting.
        deadline: Instant,
        /// Gets what was counted. Dropped when that can't be told.
        receipt: watch::Sender<Option<Receipt>>,
    },
    /// The broker has published `mid`.
    Published {
        /// The publication.
        mid: Mid,
        /// Subscribers of its channel.
        subscribers: u32,
        /// When the service stops waiting for counts, in place of what `Expected` said.
        deadline: Instant,
        /// Until when it waits for an acknowledgement, if it does.
        ack_by: Option<Instant>,
    },
    /// `mid` was not published, or its receipt is of no use any more.
    Unpublished {
        /// The publication.
        mid: Mid,
    },
    /// Which other instances are alive?
    Peers(oneshot::Sender<Vec<PeerAge>>),
    /// The instance stops. Answered when the other instances have been told.
    Leave(oneshot::Sender<()>),
}

/// Whom a publication was handed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Connections, on all instances that have reported.
    pub recipients: u32,
    /// Instances with at least one of them.
    pub instances: u32,
    /// Whether every instance has reported that could have handed it to anybody.
    pub complete: bool,
    /// Whether a client has acknowledged it.
    pub acknowledged: bool,
    /// An acknowledgement is waited for, after which this is told again.
    pub awaits_ack: bool,
}

/// Another instance, and the age of what it said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAge {
    /// The instance.
    pub peer: Peer,
    /// How old that is.
    pub age: Duration,
}

/// How the broker is, for readiness and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkHealth {
    /// A probe has come back over the present subscription connection, and none is overdue.
    pub reachable: bool,
    /// Since when it is not, by the instance's clock; none while it is. From the start until the
    /// first success it is the start.
    pub away_since: Option<Instant>,
    /// It has been reachable at least once.
    pub ever_reachable: bool,
    /// Subscription connections opened after the first.
    pub reconnects: u64,
    /// Streams whose subscription is confirmed.
    pub subscriptions: u64,
    /// Beats and reports sent to other instances.
    pub told: u64,
    /// What the relay has counted.
    pub relay: RelayStats,
}

/// Runs the relay until every sender of `commands` is gone.
///
/// `boot` names the instance, `workers` are the queues of the shards, in the order of their ids.
/// `seed` is for jitter, `record` takes the relay's transcript.
///
/// # Panics
/// If there are not as many workers as `limits` says.
pub async fn run(
    broker: SharedBroker,
    limits: RelayLimits,
    boot: BootId,
    seed: u64,
    clock: Clock,
    mut commands: mpsc::Receiver<LinkCommand>,
    workers: Vec<mpsc::Sender<ToShard>>,
    health: watch::Sender<LinkHealth>,
    record: Recorder,
) {
    assert_eq!(workers.len(), usize::from(limits.workers), "one queue for each worker");
    let mut link = Link::new(broker, limits, boot, seed, clock, workers, health, record);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let happened = link.wait(&mut commands, &mut batch).await;
        let now = clock.now();
        match happened {
            Happened::Commands(0) => return,
            Happened::Commands(_) => batch.drain(..).for_each(|command| link.command(now, command)),
            Happened::Changed(change) => link.changed(now, change),
            Happened::Read(read, history) => link.feed(now, Input::Read { read, history }),
            Happened::Compared(check, heads) => {
                link.feed(now, Input::Compared { check, heads });
            }
            Happened::ProbeSent(result) => {
                let verdict = link.prober.on_sent(result, now);
                link.judge(now, verdict);
            }
            Happened::Told => link.told(),
            Happened::TimePassed => {}
        }
        // Before time is looked at: what has come may be what a deadline waited for, unless it was
        // this thread that was late.
        link.drain(now, &mut commands);
        link.tick(now);
    }
}

/// What ended a wait.
enum Happened {
    /// So many commands are in the batch; none when nobody can send any more.
    Commands(usize),
    Changed(Change),
    Read(ReadId, Option<History>),
    Compared(CheckId, Heads),
    ProbeSent(Result<ProbesSent, BrokerError>),
    /// Another instance was told something.
    Told,
    TimePassed,
}

type Tell = Pin<Box<dyn Future<Output = ()> + Send>>;

type Heads = Option<Vec<Option<StreamHead>>>;

type Compare = Pin<Box<dyn Future<Output = (CheckId, Heads)> + Send>>;

type Read = Pin<Box<dyn Future<Output = (ReadId, Option<History>)> + Send>>;

/// The relay and everything around it.
struct Link {
    broker: SharedBroker,
    clock: Clock,
    relay: Recorded<Relay, Box<dyn Sink + Send>>,
    actions: Vec<Action>,
    connection: Connection,
    prober: Prober,
    outlets: Vec<Outlet>,
    /// Who waits for what the relay counts; it answers each, and bounds how many there are.
    receipts: BTreeMap<Mid, watch::Sender<Option<Receipt>>>,
    /// What goes to other instances, at most [`TELLS_MAX`].
    tells: FuturesUnordered<Tell>,
    /// How many there have been.
    told: u64,
    /// Who waits for the last of them.
    leaving: Option<oneshot::Sender<()>>,
    /// Reads of streams on their way, at most [`READS_MAX`].
    reads: FuturesUnordered<Read>,
    /// Those that wait for their turn: at most one a stream.
    waiting_reads: VecDeque<(ReadId, StreamName, Option<u64>, Option<Position>)>,
    /// Comparisons of streams on their way: the relay has one at a time for each connection.
    compares: FuturesUnordered<Compare>,
    /// Confirmed subscriptions of the present connection.
    subscriptions: u64,
    /// The log has said that the broker is away.
    away_told: bool,
    report_due: Instant,
    health: watch::Sender<LinkHealth>,
}

impl Link {
    fn new(
        broker: SharedBroker,
        limits: RelayLimits,
        boot: BootId,
        seed: u64,
        clock: Clock,
        workers: Vec<mpsc::Sender<ToShard>>,
        health: watch::Sender<LinkHealth>,
        record: Recorder,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let now = clock.now();
        health.send_modify(|health| health.away_since = Some(now));
        Self {
            relay: Recorded::relay(limits, boot, rng.next(), now, record),
            actions: Vec::new(),
            connection: Connection::new(broker.clone(), rng.next(), now),
            prober: Prober::new(broker.clone(), rng.next()),
            outlets: workers.into_iter().map(Outlet::new).collect(),
            receipts: BTreeMap::new(),
            tells: FuturesUnordered::new(),
            told: 0,
            leaving: None,
            reads: FuturesUnordered::new(),
            waiting_reads: VecDeque::new(),
            compares: FuturesUnordered::new(),
            subscriptions: 0,
            away_told: false,
            report_due: now,
            health,
            broker,
            clock,
        }
    }

    /// Waits until anything is there.
    async fn wait(
        &mut self,
        commands: &mut mpsc::Receiver<LinkCommand>,
        batch: &mut Vec<LinkCommand>,
    ) -> Happened {
        let deadlines = [
            self.relay.next_deadline(),
            self.connection.next_deadline(),
            self.prober.next_deadline(),
        ];
        let wake = deadlines.into_iter().flatten().fold(self.report_due, Instant::min);
        let outlets = &mut self.outlets;
        let spilling = std::future::poll_fn(|cx| {
            outlets.iter_mut().for_each(|outlet| outlet.poll_spill(cx));
            std::task::Poll::<()>::Pending
        });
        tokio::select! {
            biased;
            () = spilling => unreachable!("it is never ready"),
            count = commands.recv_many(batch, BATCH) => Happened::Commands(count),
            change = self.connection.change() => Happened::Changed(change),
            Some((read, history)) = self.reads.next() => Happened::Read(read, history),
            Some((check, heads)) = self.compares.next() => Happened::Compared(check, heads),
            Some(()) = self.tells.next() => Happened::Told,
            result = self.prober.sent() => Happened::ProbeSent(result),
            () = sleep_until(self.clock.tokio(wake)) => Happened::TimePassed,
        }
    }

    /// Takes what else is there already, a bounded part from every side, so that none of them has
    /// to wait for another to be quiet.
    fn drain(&mut self, now: Instant, commands: &mut mpsc::Receiver<LinkCommand>) {
        for _ in 0..BATCH {
            let Ok(command) = commands.try_recv() else {
                break;
            };
            self.command(now, command);
        }
        for _ in 0..BATCH {
            let Some(change) = self.connection.change().now_or_never() else {
                break;
            };
            self.changed(now, change);
        }
        for _ in 0..BATCH {
            let Some(Some((read, history))) = self.reads.next().now_or_never() else {
                break;
            };
            self.feed(now, Input::Read { read, history });
        }
    }

    fn command(&mut self, now: Instant, command: LinkCommand) {
        match command {
            LinkCommand::FromShard(worker, message) => {
                self.feed(now, Input::FromShard { worker, message });
            }
            LinkCommand::Expected { mid, stream, deadline, receipt } => {
                self.receipts.insert(mid, receipt);
                self.feed(now, Input::Expected { mid, stream, deadline });
            }
            LinkCommand::Published { mid, subscribers, deadline, ack_by } => {
                self.feed(now, Input::Published { mid, subscribers, deadline, ack_by });
            }
            LinkCommand::Unpublished { mid } => self.feed(now, Input::Unpublished { mid }),
            LinkCommand::Leave(done) => {
                self.leaving = Some(done);
                self.feed(now, Input::Leaving);
            }
            LinkCommand::Peers(reply) => {
                let age = |peer: Peer| PeerAge { age: now.saturating_since(peer.heard), peer };
                reply.send(self.relay.peers(now).into_iter().map(age).collect()).ok();
            }
        }
    }

    fn changed(&mut self, now: Instant, change: Change) {
        match change {
            Change::Up(generation, run_id) => {
                self.away_told = false;
                tracing::info!(generation = generation.0, "subscribed to the broker");
                self.health.send_modify(|health| health.reconnects = generation.0 - 1);
                self.feed(now, Input::LinkUp { generation, run_id });
                self.prober.start(now);
            }
            Change::Lost(BrokerError(reason)) => {
                tracing::warn!(reason, "the subscription connection is lost");
                self.away_told = true;
                self.lose(now);
            }
            Change::Failed(BrokerError(reason)) => {
                if !std::mem::replace(&mut self.away_told, true) {
                    tracing::warn!(reason, "the broker can't be reached");
                }
                tracing::debug!(reason, "no subscription connection can be opened");
                self.connection.close(now);
            }
            Change::Item(_, Item::Probe(token)) => {
                let verdict = self.prober.on_returned(token, now);
                self.judge(now, verdict);
            }
            Change::Item(generation, Item::Subscribed(stream)) => {
                self.subscriptions += 1;
                self.feed(now, Input::Subscribed { generation, stream });
            }
            Change::Item(generation, Item::Unsubscribed(stream)) => {
                self.subscriptions = self.subscriptions.saturating_sub(1);
                self.feed(now, Input::Unsubscribed { generation, stream });
            }
            Change::Item(generation, Item::Message(channel, bytes)) => {
                self.feed(now, Input::Received { generation, channel, bytes });
            }
        }
    }

    /// Draws the consequences of a probe.
    fn judge(&mut self, now: Instant, verdict: Option<Verdict>) {
        match verdict {
            None => {}
            Some(Verdict::Reachable) => {
                self.connection.proved();
                self.health.send_if_modified(|health| {
                    let changed = !health.reachable;
                    health.reachable = true;
                    health.ever_reachable = true;
                    health.away_since = None;
                    changed
                });
            }
            Some(Verdict::Unsent(reason)) => {
                tracing::debug!(reason, "the broker can't be probed");
                self.unreachable(now);
            }
            Some(Verdict::Lost) => {
                // Commands get through and nothing comes back: it is deaf, though it looks alive.
                tracing::warn!("the subscription connection is silent");
                self.lose(now);
            }
        }
    }

    /// The subscription connection is no good.
    fn lose(&mut self, now: Instant) {
        self.connection.close(now);
        self.prober.stop();
        self.subscriptions = 0;
        self.waiting_reads.clear(); // The relay asks again when it is connected.
        self.unreachable(now);
        self.feed(now, Input::LinkDown);
    }

    fn unreachable(&self, now: Instant) {
        self.health.send_if_modified(|health| {
            let changed = health.reachable;
            health.reachable = false;
            health.away_since.get_or_insert(now);
            changed
        });
    }

    /// Does what it is time for.
    fn tick(&mut self, now: Instant) {
        if self.relay.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.feed(now, Input::TimedOut);
        }
        self.connection.tick(now);
        let verdict = self.prober.tick(now);
        self.judge(now, verdict);
        if self.report_due <= now {
            self.report_due = now + REPORT_INTERVAL;
            let relay = self.relay.stats();
            let (subscriptions, told) = (self.subscriptions, self.told);
            self.health.send_modify(|health| {
                health.subscriptions = subscriptions;
                health.told = told;
                health.relay = relay;
            });
        }
    }

    /// Tells the relay and does what it wants.
    fn feed(&mut self, now: Instant, input: Input) {
        let mut actions = std::mem::take(&mut self.actions);
        self.relay.handle(now, input, &mut actions);
        for action in actions.drain(..) {
            self.carry_out(action);
        }
        actions.shrink_to(BATCH);
        self.actions = actions;
        self.begin_reads();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::ToShard { worker: WorkerId(worker), message } => {
                self.outlets[usize::from(worker)].send(message);
            }
            Action::Subscribe { stream } => self.connection.subscribe(stream),
            Action::Unsubscribe { stream } => self.connection.unsubscribe(stream),
            Action::Read { read, stream, after, known } => {
                self.waiting_reads.push_back((read, stream, after, known));
            }
            Action::Compare { check, streams } => self.compare(check, streams),
            Action::Receipt { mid, recipients, instances, complete, acknowledged, awaits_ack } => {
                let counted = Receipt { recipients, instances, complete, acknowledged, awaits_ack };
                if let Some(receipt) = self.receipts.get(&mid) {
                    receipt.send_replace(Some(counted));
                }
                if !awaits_ack {
                    self.receipts.remove(&mid);
                }
            }
            Action::Tell { to, bytes } => self.tell(to, bytes),
            Action::Unexpected { mid } => drop(self.receipts.remove(&mid)),
            Action::Reach(situation) => tracing::trace!(situation, "reached"),
        }
    }

    /// Tells other instances, who can do without it.
    fn tell(&mut self, to: Destination, bytes: Bytes) {
        if self.tells.len() >= TELLS_MAX {
            tracing::debug!(?to, "the broker is too slow for reports");
            return;
        }
        self.told += 1;
        let broker = self.broker.clone();
        self.tells.push(Box::pin(async move {
            if let Err(BrokerError(reason)) = broker.tell(to, bytes).await {
                tracing::debug!(reason, ?to, "an instance can't be told");
            }
        }));
    }

    fn compare(&self, check: CheckId, streams: Vec<StreamName>) {
        let broker = self.broker.clone();
        self.compares.push(Box::pin(async move {
            let heads = broker.heads(streams).await;
            if let Err(BrokerError(reason)) = &heads {
                tracing::debug!(reason, "streams can't be compared");
            }
            (check, heads.ok())
        }));
    }

    /// Another instance was told something.
    fn told(&mut self) {
        if self.tells.is_empty()
            && let Some(leaving) = self.leaving.take()
        {
            leaving.send(()).ok(); // Whoever asked may have given up.
        }
    }

    fn begin_reads(&mut self) {
        while self.reads.len() < READS_MAX
            && let Some((read, stream, after, known)) = self.waiting_reads.pop_front()
        {
            let broker = self.broker.clone();
            let epoch = entropy::fresh_epoch(self.clock);
            self.reads.push(Box::pin(async move {
                let history = broker.read(stream, epoch, after, known).await;
                if let Err(BrokerError(reason)) = &history {
                    tracing::debug!(reason, "a stream can't be read");
                }
                (read, history.ok())
            }));
        }
    }
}

/// What is taken from one side before the others have their turn.
const BATCH: usize = 256;

/// Reads of streams at once: heads alone are about 2 ms of Redis' time.
const READS_MAX: usize = 256;

/// Reports and beats on their way: with one a millisecond, a quarter of a second's.
const TELLS_MAX: usize = 256;

/// Time between reports of what was counted.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
