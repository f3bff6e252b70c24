//! The other instances, as their beats tell, and this instance's own beat.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    cluster::{Beat, Census},
    id::{BootId, WorkerId},
    link::ToShard,
    time::Instant,
};

use super::{Action, Destination, Relay, Turn};

/// An instance that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// When its last beat came.
    pub heard: Instant,
    /// What that said.
    pub beat: Beat,
}

/// Those whose beats were heard over the present subscription connection.
#[derive(Debug, Default, Hash)]
pub(super) struct Peers {
    /// Those that have died remain for a while.
    known: BTreeMap<BootId, Peer>,
}

/// What goes into this instance's own beats.
#[derive(Debug, Hash)]
pub(super) struct Pulse {
    born: Instant,
    /// When the next beat is due, while there is a subscription connection.
    next: Option<Instant>,
    /// What each worker last said that it holds.
    workers: Vec<Census>,
    /// Workers that have not answered.
    asked: Vec<bool>,
}

impl Peers {
    /// None can be heard any more.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// Those that are alive, by id.
    pub(super) fn alive(&self, now: Instant) -> impl Iterator<Item = &Peer> {
        self.known.values().filter(move |peer| is_alive(peer, now))
    }

    /// Whether the `lacking` subscribers that have not reported can be those that have died, of
    /// whom the broker may not know yet, since every one that is alive is in `reports`.
    pub(super) fn lack_only_the_dead(
        &self,
        now: Instant,
        reports: &[BootId],
        lacking: usize,
    ) -> bool {
        let (alive, dead): (Vec<_>, Vec<_>) =
            self.known.values().partition(|peer| is_alive(peer, now));
        lacking <= dead.len() && alive.iter().all(|peer| reports.contains(&peer.beat.boot))
    }

    fn heard(&mut self, beat: Beat, now: Instant) {
        if beat.leaving {
            self.known.remove(&beat.boot);
            return;
        }
        if self.known.len() >= PEERS_MAX && !self.known.contains_key(&beat.boot) {
            self.known.retain(|_, peer| is_alive(peer, now));
            if self.known.len() >= PEERS_MAX {
                return;
            }
        }
        self.known.insert(beat.boot, Peer { heard: now, beat });
    }

    fn bury(&mut self, now: Instant) {
        self.known.retain(|_, peer| peer.heard + BURIED_AFTER > now);
    }
}

impl Pulse {
    pub(super) fn new(workers: u16, now: Instant) -> Self {
        let count = usize::from(workers);
        let (workers, asked) = (vec![Census::default(); count], vec![false; count]);
        Self { born: now, next: None, workers, asked }
    }

    /// When the next beat is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Beats from now on.
    pub(super) fn start(&mut self, now: Instant) {
        self.next = Some(now);
    }

    /// Nobody would hear of it.
    pub(super) fn stop(&mut self) {
        self.next = None;
    }
}

impl Relay {
    /// The other instances that are alive, by id.
    pub fn peers(&self, now: Instant) -> Vec<Peer> {
        self.outlet.receipts.peers.alive(now).cloned().collect()
    }

    /// A beat came.
    pub(super) fn beat_heard(&mut self, bytes: &[u8], turn: &Turn<'_>) {
        let Some(beat) = Beat::decode(bytes) else {
            self.outlet.stats.control_invalid += 1;
            return;
        };
        if beat.boot != self.boot {
            self.outlet.receipts.peers.heard(beat, turn.now);
        }
    }

    /// A worker has said what it holds.
    pub(super) fn counted(&mut self, worker: WorkerId, census: Census) {
        let index = usize::from(worker.0);
        self.pulse.workers[index] = census;
        self.pulse.asked[index] = false;
    }

    /// Beats when it is time to, and asks the workers what the next beat is to say.
    pub(super) fn pulse(&mut self, turn: &mut Turn<'_>) {
        if self.pulse.next.is_none_or(|next| next > turn.now) {
            return;
        }
        self.pulse.next = Some(turn.now + BEAT_INTERVAL);
        self.outlet.receipts.peers.bury(turn.now);
        self.outlet.receipts.tidy(turn.now);
        self.beat(false, turn);
        for (worker, asked) in (0..).zip(&mut self.pulse.asked) {
            // One that is busy is not asked again.
            if !std::mem::replace(asked, true) {
                let (worker, message) = (WorkerId(worker), ToShard::Count);
                turn.actions.push(Action::ToShard { worker, message });
            }
        }
    }

    /// The instance stops: the others need not find out by waiting.
    pub(super) fn leave(&mut self, turn: &mut Turn<'_>) {
        self.pulse.stop();
        self.beat(true, turn);
    }

    fn beat(&self, leaving: bool, turn: &mut Turn<'_>) {
        let mut census = Census::default();
        self.pulse.workers.iter().for_each(|worker| census.add(worker));
        census.keep_largest_rooms();
        let uptime_s = turn.now.saturating_since(self.pulse.born).as_secs();
        let bytes = Beat { boot: self.boot, uptime_s, leaving, census }.encode();
        turn.actions.push(Action::Tell { to: Destination::Everyone, bytes });
    }
}

fn is_alive(peer: &Peer, now: Instant) -> bool {
    peer.heard + DEAD_AFTER > now
}

/// Time between two beats of an instance.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Silence after which an instance counts as dead.
const DEAD_AFTER: Duration = Duration::from_secs(3);

/// How long the broker may count a host among the subscribers that has vanished: Redis asks after
/// 5 minutes of silence, and gives up after as much again.
const BURIED_AFTER: Duration = Duration::from_secs(600);

/// Instances that are known at once: more than a cluster has.
const PEERS_MAX: usize = 256;
