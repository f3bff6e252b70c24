//! What goes out to the workers: forwards, resyncs and answers, bounded by what each worker has not
//! yet reported as handed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    entry::Body,
    id::{BootId, DispatchId, Position, WorkerId},
    limits::RelayLimits,
    link::{Publication, ToShard, ValueKey},
    stream::{StreamKind, StreamName},
    wire::encode,
};

use super::{
    Action, RelayStats, Turn, fingerprint,
    receipts::{Receipts, Source},
    stream::{Behind, Stream},
    streams::StreamIndex,
};

/// The way out to the workers.
#[derive(Debug)]
pub(super) struct Outlet {
    in_flight_max: usize,
    in_flight_bytes_max: usize,
    workers: Vec<Worker>,
    /// Which streams each worker has fallen behind in.
    behind: BTreeSet<(WorkerId, StreamIndex)>,
    next_dispatch: u64,
    pub(super) receipts: Receipts,
    pub(super) stats: RelayStats,
}

/// What is on its way to one worker.
#[derive(Debug, Default, Hash)]
struct Worker {
    /// Bytes of each publication.
    in_flight: BTreeMap<DispatchId, usize>,
    bytes: usize,
}

/// What is forwarded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forward<'a> {
    pub(super) body: &'a Body,
    /// Its place; none for latest and best-effort messages.
    pub(super) position: Option<Position>,
    /// The place before it, likewise.
    pub(super) before: Option<Position>,
    /// To whom a receipt is owed. None for messages of ingress channels, and for what a worker that
    /// was behind is given.
    pub(super) source: Option<Source>,
    /// It comes out of the history, and its live copy has not come.
    pub(super) filled: bool,
    /// It is a latest value.
    pub(super) is_value: bool,
}

impl Forward<'_> {
    /// Whether it may be lost without a word.
    fn is_best_effort(&self) -> bool {
        self.source.is_none() && self.position.is_none()
    }
}

/// How much of a worker's queue a publication may find full and still go in, so that a flood of
/// what matters less does not cost others what matters more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// Best effort: half of it. That is how empty the queue has to be for a stream that fell behind
    /// to go on.
    Half,
    /// All of it.
    Whole,
    /// A user's own stream: a quarter more, which no room can take.
    Extra,
}

impl Share {
    /// What matters may take.
    fn whole_of(name: &StreamName) -> Self {
        match name.kind() {
            StreamKind::User(_) => Self::Extra,
            StreamKind::All | StreamKind::Room(_) => Self::Whole,
        }
    }

    fn of_limit(self, limit: usize) -> usize {
        match self {
            Self::Half => limit / 2,
            Self::Whole => limit,
            Self::Extra => limit.saturating_add(limit / 4),
        }
    }
}

impl Outlet {
    pub(super) fn new(limits: &RelayLimits, boot: BootId) -> Self {
        Self {
            in_flight_max: limits.in_flight_max as usize,
            in_flight_bytes_max: limits.in_flight_bytes_max,
            workers: (0..limits.workers).map(|_| Worker::default()).collect(),
            behind: BTreeSet::new(),
            next_dispatch: 0,
            receipts: Receipts::new(boot),
            stats: RelayStats::default(),
        }
    }

    /// Sends a publication to every interested worker that has room for it.
    pub(super) fn forward(
        &mut self,
        stream: &mut Stream,
        index: StreamIndex,
        forward: Forward<'_>,
        turn: &mut Turn<'_>,
    ) {
        let dispatch = DispatchId(self.next_dispatch);
        let share = match forward.is_best_effort() {
            true => Share::Half,
            false => Share::whole_of(&stream.name),
        };
        let mut publication = None;
        let mut reached = 0;
        let mut left_out = false;
        let mut fell_behind = Vec::new();
        for seat in &mut stream.seats {
            let is_latest = !forward.is_best_effort() && forward.before.is_none();
            if seat.behind {
                self.stats.queue_full += 1;
                seat.owed |= is_latest;
                left_out = true;
                continue;
            }
            let publication =
                publication.get_or_insert_with(|| publication_of(dispatch, &stream.name, forward));
            if self.admit(seat.worker, share, dispatch, publication.frame.0.len()) {
                let message = ToShard::Publication(Arc::clone(publication));
                if reached > 0 && planted!("deliver twice to a user's other worker") {
                    turn.actions
                        .push(Action::ToShard { worker: seat.worker, message: message.clone() });
                }
                turn.actions.push(Action::ToShard { worker: seat.worker, message });
                reached += 1;
                continue;
            }
            self.stats.queue_full += 1;
            turn.actions.push(Action::Reach("relay_worker_full"));
            // A best-effort message may be lost without a word; what has a position may not.
            if !forward.is_best_effort() && !planted!("drop on a full hand-off without a mark") {
                seat.behind = true;
                seat.owed |= is_latest;
                left_out = true;
                self.behind.insert((seat.worker, index));
                let worker = seat.worker;
                fell_behind.extend(forward.before.map(|at| Behind { worker, at, relieved: false }));
            }
        }
        if !fell_behind.is_empty() {
            stream.busy().behind.append(&mut fell_behind);
        }
        if reached > 0 {
            self.next_dispatch += 1;
        }
        if let Some(source) = forward.source {
            if forward.filled {
                self.receipts.filled(source, dispatch, reached, left_out);
            } else {
                self.receipts.dispatched(source, dispatch, reached, left_out, turn);
            }
        }
    }

    /// Sends a publication to a worker that lacks it; false when there is no room for it.
    pub(super) fn refeed(
        &mut self,
        stream: &mut Stream,
        index: StreamIndex,
        worker: WorkerId,
        body: &Body,
        position: Position,
        turn: &mut Turn<'_>,
    ) -> bool {
        let dispatch = DispatchId(self.next_dispatch);
        let forward = Forward {
            body,
            position: Some(position),
            before: None,
            source: None,
            filled: false,
            is_value: false,
        };
        let publication = publication_of(dispatch, &stream.name, forward);
        let share = Share::whole_of(&stream.name);
        if !self.admit(worker, share, dispatch, publication.frame.0.len()) {
            stream.seat(worker).behind = true;
            self.behind.insert((worker, index));
            return false;
        }
        self.next_dispatch += 1;
        let message = ToShard::Publication(publication);
        turn.actions.push(Action::ToShard { worker, message });
        true
    }

    /// Notes that a worker has handed a publication over; true if that was awaited.
    pub(super) fn handed_over(
        &mut self,
        worker: WorkerId,
        dispatch: DispatchId,
        recipients: u32,
        turn: &mut Turn<'_>,
    ) -> bool {
        let queue = &mut self.workers[usize::from(worker.0)];
        let Some(bytes) = queue.in_flight.remove(&dispatch) else { return false };
        queue.bytes -= bytes;
        self.receipts.handed_over(dispatch, recipients, turn);
        true
    }

    /// The streams that `worker` may go on with: all that it fell behind in, once its queue is no
    /// more than half full.
    pub(super) fn take_relieved(&mut self, worker: WorkerId) -> Vec<StreamIndex> {
        let queue = &self.workers[usize::from(worker.0)];
        let half_full = queue.in_flight.len() > self.in_flight_max / 2
            || queue.bytes > self.in_flight_bytes_max / 2;
        if half_full {
            return Vec::new();
        }
        let whole = (worker, StreamIndex(0))..=(worker, StreamIndex(u32::MAX));
        let relieved: Vec<_> = self.behind.range(whole).map(|&(_, index)| index).collect();
        for index in &relieved {
            self.behind.remove(&(worker, *index));
        }
        relieved
    }

    /// A worker lost its interest in a stream in which it was behind.
    pub(super) fn forget_behind(&mut self, worker: WorkerId, index: StreamIndex) {
        self.behind.remove(&(worker, index));
    }

    /// Tells a worker's members of `stream` that they have missed something, all of them or those
    /// without a position.
    pub(super) fn resync(
        &mut self,
        stream: &Stream,
        worker: WorkerId,
        by_all: bool,
        spread_ms: u32,
        actions: &mut Vec<Action>,
    ) {
        self.stats.resyncs += 1;
        let message = ToShard::Resync {
            stream: stream.name.clone(),
            by_all,
            position: stream.last,
            spread_ms,
        };
        actions.push(Action::ToShard { worker, message });
    }

    /// What the state of it amounts to, for the fingerprint.
    pub(super) fn fingerprint(&self) -> u64 {
        fingerprint::of(&(&self.workers, self.next_dispatch, &self.receipts))
    }

    /// Makes room for a publication in a worker's queue. One that is larger than the whole queue
    /// may still have it to itself.
    fn admit(
        &mut self,
        worker: WorkerId,
        share: Share,
        dispatch: DispatchId,
        bytes: usize,
    ) -> bool {
        let queue = &mut self.workers[usize::from(worker.0)];
        let full = queue.in_flight.len() >= share.of_limit(self.in_flight_max)
            || queue.bytes + bytes > share.of_limit(self.in_flight_bytes_max);
        if full && !queue.in_flight.is_empty() {
            return false;
        }
        queue.in_flight.insert(dispatch, bytes);
        queue.bytes += bytes;
        true
    }
}

fn publication_of(
    dispatch: DispatchId,
    stream: &StreamName,
    forward: Forward<'_>,
) -> Arc<Publication> {
    let Forward { body, position, is_value, .. } = forward;
    Arc::new(Publication {
        dispatch,
        stream: stream.clone(),
        frame: encode::publication(stream, body, position),
        kind: Arc::clone(&body.kind),
        exclude_user: body.exclude_user.clone(),
        acks_to: (body.ack && position.is_some()).then_some(body.origin),
        position,
        published: (!forward.is_best_effort()).then_some(body.published),
        value_of: is_value.then(|| ValueKey::new(stream, &body.kind, &body.key)),
    })
}
