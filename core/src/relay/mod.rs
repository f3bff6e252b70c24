//! The cluster side of an instance.
//!
//! A relay keeps a record of each stream that some worker wants: `interest` brings it from unknown
//! to subscribed and back, `order` from subscribed to live and keeps its order, `outlet` sends what
//! comes of it to the workers and bounds what is on its way to them, `receipts` counts for the
//! publishers of this instance whom their publications reached.

mod input;
mod interest;
mod order;
mod outlet;
mod receipts;
mod stats;
mod stream;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use input::{Action, Channel, Ingress, Input, RunId};
pub use stats::RelayStats;

use crate::{
    fingerprint,
    id::{Generation, Mid, ReadId, WorkerId},
    limits::RelayLimits,
    link::ToRelay,
    rng::Rng,
    time::Instant,
    wire::decode,
};

use outlet::{Forward, Outlet};
use stream::Class;
use streams::{StreamIndex, Streams};

/// The cluster side of one instance.
#[derive(Debug)]
pub struct Relay {
    limits: RelayLimits,
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
    /// Joins that wait for an answer, of all streams.
    waiting: usize,
    /// The timers of all streams.
    timers: BTreeSet<(Instant, StreamIndex)>,
    outlet: Outlet,
}

/// What is handed down while one input is handled.
struct Turn<'a> {
    now: Instant,
    actions: &'a mut Vec<Action>,
}

impl Relay {
    /// A relay without a broker connection and without interest. The seed decides jitter, and
    /// guards the table of names against chosen ones.
    pub fn new(limits: RelayLimits, seed: u64, _now: Instant) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            outlet: Outlet::new(&limits),
            limits,
            link: None,
            newest: None,
            streams: Streams::new(rng.next()),
            rng,
            queue: BTreeSet::new(),
            asked: 0,
            reads: BTreeMap::new(),
            next_read: 0,
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
            Input::HeadRead { read, head } => self.head_read(read, head, turn),
            Input::Expected { mid, stream, deadline } => {
                let max = self.limits.expected_max;
                if !self.outlet.receipts.expect(mid, stream, deadline, max) {
                    turn.actions.push(Action::Reach("relay_receipts_full"));
                    turn.actions.push(Action::Unexpected { mid });
                }
            }
            Input::Published { mid } => self.published(mid, turn),
            Input::Unpublished { mid } => self.outlet.receipts.missed(mid, turn.actions),
            Input::TimedOut => self.timed_out(turn),
        }
    }

    /// When to come back with `Input::TimedOut`; none when nothing is pending.
    pub fn next_deadline(&self) -> Option<Instant> {
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
            (self.link, self.newest, self.next_read, self.asked, self.waiting),
            (streams, self.rng.clone().next(), self.outlet.fingerprint()),
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
                if self.outlet.handed_over(worker, dispatch, recipients, turn.actions) {
                    self.relieve(worker, turn);
                }
            }
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
        let forward = Forward { body: &body, position: None, mid: None };
        self.outlet.forward(&mut self.streams[index], index, forward, turn.actions);
    }

    /// The broker has published `mid`: if nobody here can get it any more, that is the answer.
    fn published(&mut self, mid: Mid, turn: &mut Turn<'_>) {
        let Some(name) = self.outlet.receipts.outstanding(mid) else { return };
        let index = self.streams.find(name);
        let wanted = index.is_some_and(|index| !self.streams[index].seats.is_empty());
        if self.link.is_none() || !wanted {
            self.outlet.receipts.missed(mid, turn.actions);
        }
    }

    fn timed_out(&mut self, turn: &mut Turn<'_>) {
        self.outlet.receipts.expire(turn.now, turn.actions);
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
