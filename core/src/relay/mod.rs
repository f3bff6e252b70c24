//! The cluster side of an instance.
//!
//! A relay keeps a record of each stream that some worker wants: `interest` brings it from unknown
//! to subscribed and back, `order` from subscribed to live and keeps its order, `retry` reads again
//! what could not be read, `history` fills in what was missed, `check` finds losses that nothing
//! else shows, `outlet` sends what comes of it to the workers and bounds what is on its way to
//! them, `receipts` counts whom publications reached, here and on other instances, of which `peers`
//! knows.

mod check;
mod history;
mod input;
mod interest;
mod order;
mod outlet;
mod peers;
mod receipts;
mod retry;
mod stats;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, BTreeSet};

pub use input::{Action, Channel, Destination, History, Ingress, Input, RunId, StreamHead};
pub use peers::Peer;
pub use stats::RelayStats;

use crate::{
    cluster::Report,
    fingerprint,
    id::{BootId, Generation, ReadId, WorkerId},
    limits::RelayLimits,
    link::ToRelay,
    rng::Rng,
    time::Instant,
    wire::decode,
};

use check::Checks;
use outlet::{Forward, Outlet};
use peers::Pulse;
use retry::Retries;
use stream::Class;
use streams::{StreamIndex, Streams};

/// The cluster side of one instance.
#[derive(Debug)]
pub struct Relay {
    limits: RelayLimits,
    boot: BootId,
    /// Jitters retries.
    rng: Rng,
    /// The present subscription connection.
    link: Option<Generation>,
    /// The newest subscription connection there was.
    newest: Option<Generation>,
    streams: Streams,
    /// Streams that wait for their turn to be subscribed.
    queue: BTreeSet<(Class, StreamIndex)>,
    /// Streams whose SUBSCRIBE is on its way.
    asked: usize,
    /// Reads whose answers are awaited.
    reads: BTreeMap<ReadId, StreamIndex>,
    next_read: u64,
    retries: Retries,
    /// Joins that wait for an answer, of all streams.
    waiting: usize,
    /// The timers of all streams.
    timers: BTreeSet<(Instant, StreamIndex)>,
    outlet: Outlet,
    pulse: Pulse,
    checks: Checks,
}

/// What is handed down while one input is handled.
struct Turn<'a> {
    now: Instant,
    actions: &'a mut Vec<Action>,
}

impl Relay {
    /// The relay of the instance `boot`, without a broker connection and without interest. The
    /// seed decides jitter, and guards the table of names against chosen ones.
    pub fn new(limits: RelayLimits, boot: BootId, seed: u64, now: Instant) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            outlet: Outlet::new(&limits, boot),
            pulse: Pulse::new(limits.workers, now),
            checks: Checks::new(limits.position_check),
            limits,
            boot,
            link: None,
            newest: None,
            streams: Streams::new(rng.next()),
            rng,
            queue: BTreeSet::new(),
            asked: 0,
            reads: BTreeMap::new(),
            next_read: 0,
            retries: Retries::default(),
            waiting: 0,
            timers: BTreeSet::new(),
        }
    }

    /// Takes one input and appends what is to be done. `actions` must be empty.
    ///
    /// # Panics
    /// If `actions` is not empty, or a worker is none of `RelayLimits::workers`.
    pub fn handle(&mut self, now: Instant, input: Input, actions: &mut Vec<Action>) {
        assert!(actions.is_empty(), "actions are carried out before the next input");
        let turn = &mut Turn { now, actions };
        match input {
            Input::FromShard { worker, message } => self.shard_said(worker, message, turn),
            Input::LinkUp { generation, run_id: _ } => self.link_up(generation, turn),
            Input::LinkDown => self.link_down(turn),
            Input::Subscribed { generation, stream } => self.subscribed(generation, &stream, turn),
            Input::Unsubscribed { generation, stream } => {
                self.unsubscribed(generation, &stream, turn);
            }
            Input::Received { generation, channel: Channel::Stream(stream), bytes } => {
                self.received(generation, &stream, &bytes, turn);
            }
            Input::Received { generation, channel: Channel::Ingress(ingress), bytes } => {
                if self.link == Some(generation) {
                    self.ingress(ingress, &bytes, turn);
                }
            }
            Input::Received { generation, channel: Channel::Control, bytes } => {
                if self.link == Some(generation) {
                    self.outlet.stats.received_control += 1;
                    self.beat_heard(&bytes, turn);
                }
            }
            Input::Received { generation, channel: Channel::Receipts, bytes } => {
                if self.link == Some(generation) {
                    self.outlet.stats.received_control += 1;
                    self.report_heard(&bytes, turn);
                }
            }
            Input::Read { read, history } => self.history_read(read, history, turn),
            Input::Compared { check, heads } => self.compared(check, heads, turn),
            Input::Expected { mid, stream, deadline } => {
                let max = self.limits.expected_max;
                if !self.outlet.receipts.expect(mid, stream, deadline, max) {
                    turn.actions.push(Action::Reach("relay_receipts_full"));
                    turn.actions.push(Action::Unexpected { mid });
                }
            }
            Input::Published { mid, subscribers, deadline, ack_by } => {
                let stream = self.outlet.receipts.stream_of(mid);
                let index = stream.and_then(|stream| self.streams.find(stream));
                let comes = index.is_some_and(|index| !self.streams[index].seats.is_empty());
                self.outlet.receipts.published(mid, subscribers, comes, (deadline, ack_by), turn);
            }
            Input::Unpublished { mid } => self.outlet.receipts.unpublished(mid, turn),
            Input::Leaving => self.leave(turn),
            Input::TimedOut => self.timed_out(turn),
        }
    }

    /// When to come back with `Input::TimedOut`; none when nothing is pending.
    pub fn next_deadline(&self) -> Option<Instant> {
        let others = [self.pulse.next_deadline(), self.checks.next_deadline()];
        self.next_due().into_iter().chain(others.into_iter().flatten()).min()
    }

    /// The same, beats and checks apart.
    fn next_due(&self) -> Option<Instant> {
        let stream = self.timers.first().map(|&(at, _)| at);
        stream.into_iter().chain(self.outlet.receipts.next_deadline()).min()
    }

    /// What it has counted.
    pub fn stats(&self) -> RelayStats {
        RelayStats { streams: self.streams.len() as u64, ..self.outlet.stats.clone() }
    }

    /// A fingerprint of the whole state: equal states have equal ones, on every machine.
    pub fn state_hash(&self) -> u64 {
        // Summed up, so that it does not matter which streams came first.
        let streams = self.streams.iter().map(fingerprint::of).fold(0, u64::wrapping_add);
        fingerprint::of(&(
            (self.link, self.newest, self.next_read, self.asked, self.waiting, &self.pulse),
            (streams, self.rng.clone().next(), self.outlet.fingerprint(), &self.checks),
        ))
    }

    fn shard_said(&mut self, worker: WorkerId, message: ToRelay, turn: &mut Turn<'_>) {
        assert!(worker.0 < self.limits.workers, "there is no {worker:?}");
        match message {
            ToRelay::Join { request, stream, since } => {
                self.join(worker, request, stream, since, turn);
            }
            ToRelay::Vacated { stream } => self.vacated(worker, &stream, turn),
            ToRelay::HandedOver { dispatch, recipients } => {
                if self.outlet.handed_over(worker, dispatch, recipients, turn) {
                    self.relieve(worker, turn);
                }
            }
            ToRelay::Acknowledged { mid, origin } => {
                self.outlet.receipts.acknowledged(mid, origin, turn);
            }
            ToRelay::Counted(census) => self.counted(worker, *census),
        }
    }

    /// A service published to one of the channels that every instance reads.
    fn ingress(&mut self, ingress: Ingress, bytes: &[u8], turn: &mut Turn<'_>) {
        self.outlet.stats.received_ingress[ingress as usize] += 1;
        let Some((name, body)) = decode::ingress(bytes, self.limits.ingress_bytes_max) else {
            self.outlet.stats.ingress_invalid += 1;
            return;
        };
        let Some(index) = self.streams.find(&name) else { return };
        let forward = Forward {
            body: &body,
            position: None,
            before: None,
            source: None,
            filled: false,
            is_value: false,
        };
        self.outlet.forward(&mut self.streams[index], index, forward, turn);
    }

    /// Another instance has counted for this one.
    fn report_heard(&mut self, bytes: &[u8], turn: &mut Turn<'_>) {
        match Report::decode(bytes) {
            Some(report) => self.outlet.receipts.reported(&report, turn),
            None => self.outlet.stats.control_invalid += 1,
        }
    }

    fn timed_out(&mut self, turn: &mut Turn<'_>) {
        self.outlet.receipts.expire(turn);
        self.pulse(turn);
        self.check(turn);
        let due = (turn.now, StreamIndex(u32::MAX));
        let due: Vec<_> = self.timers.range(..=due).copied().collect();
        for (at, index) in due {
            // An earlier one may have moved or ended it.
            if self.timers.contains(&(at, index)) {
                self.set_timer(index, None);
                self.stream_timed_out(index, turn);
            }
        }
        self.pump(turn);
    }
}
