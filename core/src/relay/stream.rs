//! One stream: who wants it, how far it is subscribed, where it is.

use crate::{
    entry::{Entry, Place},
    id::{Mid, Position, ReadId, RequestId, WorkerId},
    link::Since,
    stream::{StreamKind, StreamName},
    time::Instant,
};

use super::history::{Run, before};

/// A stream that some worker wants, or wanted until recently. What only a stream in transition
/// needs is boxed: an idle one takes less than 256 bytes, all told.
#[derive(Debug, Hash)]
pub(super) struct Stream {
    pub(super) name: StreamName,
    /// Where the workers are that are neither behind nor owed a resync. None without positions.
    pub(super) last: Option<Position>,
    /// Up to which version members have the newest values.
    pub(super) version: u64,
    /// Interested workers, by id.
    pub(super) seats: Vec<Seat>,
    pub(super) recent: Option<Box<Recent>>,
    pub(super) busy: Option<Box<Busy>>,
    pub(super) subscription: Subscription,
    pub(super) head: Head,
    /// It may have latest values, which are read for those who join.
    pub(super) valued: bool,
    /// It waits for its turn to be subscribed.
    pub(super) queued: Option<Class>,
}

/// A worker's interest in a stream.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Seat {
    pub(super) worker: WorkerId,
    /// Publications were kept from it since its queue was full. It gets none until it has caught
    /// up, and then a resync first.
    pub(super) behind: bool,
    /// It missed something: it gets a resync as soon as the stream is live.
    pub(super) owed: bool,
    /// It may have members that never got a position: likewise, for those alone.
    pub(super) blind: bool,
}

/// How far the subscription is, on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subscription {
    /// Nothing was asked for.
    Idle,
    /// SUBSCRIBE is on its way.
    Asked,
    /// Publications arrive.
    Confirmed,
    /// UNSUBSCRIBE is on its way.
    Leaving,
}

/// Whether it is known where the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Head {
    /// Publications are ignored.
    Unknown,
    /// Publications are held until the head has been read.
    Reading,
    /// Publications are forwarded.
    Live,
}

/// The order in which streams are subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    /// Somebody waits for an answer.
    Joins,
    /// Many members may miss something.
    Rooms,
    /// One user may miss something.
    Users,
}

/// What a stream in transition needs besides.
#[derive(Debug, Default, Hash)]
pub(super) struct Busy {
    /// When to look at it again.
    pub(super) timer: Option<Instant>,
    /// The read whose answer is awaited.
    pub(super) read: Option<ReadId>,
    /// The offset after which the history is read with it.
    pub(super) after: Option<u64>,
    /// Reads since it was live.
    pub(super) reads: u32,
    /// Reads in a row that the broker could not answer.
    pub(super) failures: u32,
    /// It was not live since it was last subscribed.
    pub(super) restoring: bool,
    /// Entries that arrived while the head is read, in order; of a live stream those that were
    /// forwarded while its history is read.
    pub(super) held: Vec<Entry>,
    pub(super) held_bytes: usize,
    /// When members are given what is held, whether or not the head is known.
    pub(super) repair_by: Option<Instant>,
    /// Held entries that had arrived before the read was asked for: the head includes them.
    pub(super) covered: usize,
    /// Something arrived since the read was asked for that could not be read as an entry.
    pub(super) unreadable: bool,
    /// Joins to be answered, in order.
    pub(super) waiting: Vec<Waiting>,
    /// Workers that are behind and lack nothing but durable entries.
    pub(super) behind: Vec<Behind>,
}

/// A worker that is behind.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Behind {
    pub(super) worker: WorkerId,
    /// What it was sent last.
    pub(super) at: Position,
    /// It may go on.
    pub(super) relieved: bool,
}

/// A join to be answered.
#[derive(Clone, Debug, Hash)]
pub(super) struct Waiting {
    pub(super) worker: WorkerId,
    pub(super) request: RequestId,
    pub(super) since: Option<Since>,
}

/// Checks of the newest publications, so that one that comes twice is known.
#[derive(Clone, Debug, Hash)]
pub(super) struct Recent {
    /// The check of the publication at each offset, modulo the size.
    checks: [u32; RECENT],
    /// How many are set, counted back from the newest.
    known: u64,
}

/// What a live stream makes of a durable entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It follows the last one.
    Next,
    /// It has been seen.
    Duplicate,
    /// Something was missed, or it is an old one that was on its way while the head was read, or
    /// the stream was set back. The head tells.
    Suspect,
}

/// Where a stream goes on after its head was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resumption {
    /// Everything after this is known.
    pub(super) base: Position,
    /// The first held entry that may be after `base`.
    pub(super) from: usize,
    /// Between the last position and `base` something may be lacking.
    pub(super) missed: bool,
    /// It is filled by what was read, from this entry on.
    pub(super) fill: Option<usize>,
}

impl Stream {
    pub(super) fn new(name: StreamName) -> Self {
        Self {
            name,
            last: None,
            version: 0,
            valued: false,
            seats: Vec::new(),
            recent: None,
            busy: None,
            subscription: Subscription::Idle,
            head: Head::Unknown,
            queued: None,
        }
    }

    /// From which offset on the history is needed.
    pub(super) fn needed_after(&self) -> Option<u64> {
        let own = self.last.filter(|_| self.head != Head::Live).map(|last| last.offset);
        let busy = self.busy.as_deref();
        let waiting = busy.into_iter().flat_map(|busy| &busy.waiting);
        let since = waiting.filter_map(|waiting| waiting.since);
        let known = |since: &Since| self.last.is_none_or(|last| last.epoch.0 == since.epoch);
        let since = since.filter(known).map(|since| since.offset);
        let behind = busy.into_iter().flat_map(|busy| &busy.behind);
        let behind = behind.filter(|behind| behind.relieved).map(|behind| behind.at.offset);
        own.into_iter().chain(since).chain(behind).min()
    }

    /// The rarely used part, made when it is not there.
    pub(super) fn busy(&mut self) -> &mut Busy {
        self.busy.get_or_insert_with(Box::default)
    }

    /// Gives the rarely used part back when nothing is in it.
    pub(super) fn trim(&mut self) {
        if self.busy.as_ref().is_some_and(|busy| busy.is_empty()) {
            self.busy = None;
        }
    }

    /// When to look at it again.
    pub(super) fn timer(&self) -> Option<Instant> {
        self.busy.as_ref()?.timer
    }

    /// Whether the broker could not say where the head is, and is to be asked again later.
    pub(super) fn awaits_retry(&self) -> bool {
        let idle = self.busy.as_ref().is_none_or(|busy| busy.read.is_none());
        self.head == Head::Reading && idle
    }

    /// The interest of `worker`, noted if it is new.
    pub(super) fn seat(&mut self, worker: WorkerId) -> &mut Seat {
        let at = match self.seats.binary_search_by_key(&worker, |seat| seat.worker) {
            Ok(at) => at,
            Err(at) => {
                if self.seats.is_empty() {
                    // Most streams are users' and stay with one worker.
                    self.seats.reserve_exact(1);
                }
                self.seats.insert(at, Seat { worker, behind: false, owed: false, blind: false });
                at
            }
        };
        &mut self.seats[at]
    }

    /// Ends the interest of `worker`; gives what was noted of it.
    pub(super) fn unseat(&mut self, worker: WorkerId) -> Option<Seat> {
        let at = self.seats.binary_search_by_key(&worker, |seat| seat.worker).ok()?;
        Some(self.seats.remove(at))
    }

    /// When it is its turn to be subscribed.
    pub(super) fn class(&self) -> Class {
        if self.busy.as_ref().is_some_and(|busy| !busy.waiting.is_empty()) {
            return Class::Joins;
        }
        match self.name.kind() {
            StreamKind::All | StreamKind::Room(_) => Class::Rooms,
            StreamKind::User(_) => Class::Users,
        }
    }

    /// What to make of a durable entry, given what has been seen.
    pub(super) fn judge(&self, position: Position, prev: Mid) -> Verdict {
        let Some(last) = self.last else { return Verdict::Suspect };
        if follows(last, position, prev) || planted!("take any order for the right one") {
            Verdict::Next
        } else if position == last || self.remembers(last, position) {
            Verdict::Duplicate
        } else {
            Verdict::Suspect
        }
    }

    /// Notes that the publication at `position`, which follows the last one, was accepted.
    pub(super) fn advance(&mut self, position: Position) {
        if let Some(last) = self.last {
            self.recent.get_or_insert_with(|| Box::new(Recent::starting(last))).push(position);
        }
        self.last = Some(position);
    }

    /// Starts again at `base`: nothing before it is remembered.
    pub(super) fn rebase(&mut self, base: Option<Position>) {
        self.last = base;
        self.recent = None;
    }

    /// Whether a latest value is not newer than those that members have, or older than a durable
    /// publication that they have.
    pub(super) fn is_outdated(&self, place: &Place) -> bool {
        let Place::Latest { epoch, at, version, .. } = place else { return false };
        let is_known = *version != 0 && *version <= self.version;
        is_known || self.last.is_some_and(|last| *epoch == last.epoch && *at < last.offset)
    }

    fn remembers(&self, last: Position, position: Position) -> bool {
        let Some(recent) = &self.recent else { return false };
        position.epoch == last.epoch
            && last.offset.checked_sub(position.offset).is_some_and(|back| back < recent.known)
            && recent.checks[slot(position.offset)] == position.check()
    }
}

impl Busy {
    fn is_empty(&self) -> bool {
        self.timer.is_none()
            && self.read.is_none()
            && self.reads == 0
            && self.failures == 0
            && !self.restoring
            && self.held.is_empty()
            && self.waiting.is_empty()
            && self.behind.is_empty()
            && self.after.is_none()
    }

    /// Forgets what is held.
    pub(super) fn drop_held(&mut self) {
        drop(self.take_held());
    }

    /// Gives what is held.
    pub(super) fn take_held(&mut self) -> Vec<Entry> {
        self.held_bytes = 0;
        self.repair_by = None;
        std::mem::take(&mut self.held)
    }

    /// Forgets reads and gives what was held meanwhile.
    pub(super) fn end_reading(&mut self) -> Vec<Entry> {
        self.read = None;
        self.after = None;
        self.reads = 0;
        self.failures = 0;
        self.restoring = false;
        self.unreadable = false;
        self.covered = 0;
        self.take_held()
    }

    /// Whether the entry at `position` is already held. Looks as far back as a live stream does.
    pub(super) fn holds(&self, position: Position) -> bool {
        self.held
            .iter()
            .rev()
            .take(RECENT)
            .any(|entry| durable(entry).is_some_and(|(held, _)| held == position))
    }

    /// Where to go on when the head can't be told: from before the first of the newest entries that
    /// follow one another. None when no durable entry is held that is newer than the last position:
    /// one may be late, and nobody is taken back without the head.
    pub(super) fn tail(&self, last: Option<Position>) -> Option<Resumption> {
        let place = |position: Position| (position.epoch, position.offset);
        let is_newer = |position: Position| last.is_none_or(|last| place(position) > place(last));
        let held = self.held.iter().enumerate().rev();
        let mut held = held.filter_map(|(at, entry)| Some((at, durable(entry)?)));
        let mut first = held.find(|(_, (position, _))| is_newer(*position))?;
        for (at, (position, prev)) in held {
            let (_, (next, named)) = first;
            if position != next && !(is_newer(position) && follows(position, next, named)) {
                break;
            }
            first = (at, (position, prev));
        }
        let (from, (position, prev)) = first;
        let base = before(position, prev);
        let missed = last.is_some_and(|last| last != base);
        Some(Resumption { base, from, missed, fill: None })
    }

    /// Where to go on, now that the head and a `run` to it are known. None when what is held does
    /// not join up with it: then the head has to be read again.
    pub(super) fn resume(
        &self,
        last: Option<Position>,
        head: Position,
        run: &Run,
    ) -> Option<Resumption> {
        if let Some(last) = last
            && continues(last, head, &self.held)
        {
            return Some(Resumption { base: last, from: 0, missed: false, fill: None });
        }
        // What had arrived before the read is part of the head, whatever it looks like.
        let from = self.covered;
        let fill = last.and_then(|last| run.after(last)).filter(|_| !planted!("fill no gap"));
        continues(head, head, &self.held[from..]).then_some(Resumption {
            base: head,
            from,
            missed: last.is_some() && fill.is_none(),
            fill,
        })
    }
}

impl Recent {
    fn starting(at: Position) -> Self {
        let mut checks = [0; RECENT];
        checks[slot(at.offset)] = at.check();
        Self { checks, known: 1 }
    }

    fn push(&mut self, position: Position) {
        self.checks[slot(position.offset)] = position.check();
        self.known = (self.known + 1).min(RECENT as u64);
    }
}

/// Whether `since` names `position`.
pub(super) fn is_at(since: Option<Since>, position: Option<Position>) -> bool {
    let (Some(since), Some(position)) = (since, position) else { return false };
    since.epoch == position.epoch.0
        && since.offset == position.offset
        && since.check == position.check()
}

/// Whether the publication at `position`, which names `prev` as its predecessor, comes right after
/// `last`.
pub(super) fn follows(last: Position, position: Position, prev: Mid) -> bool {
    position.epoch == last.epoch
        && position.offset.checked_sub(1) == Some(last.offset)
        && prev == last.mid
}

/// Position and predecessor of a durable entry.
pub(super) fn durable(entry: &Entry) -> Option<(Position, Mid)> {
    match entry.place {
        Place::Durable { position, prev } => Some((position, prev)),
        Place::Latest { .. } => None,
    }
}

/// The mid of an entry.
pub(super) fn mid(entry: &Entry) -> Mid {
    match entry.place {
        Place::Durable { position, .. } => position.mid,
        Place::Latest { mid, .. } => mid,
    }
}

/// Whether the entries of `held` show that nothing is lacking from `base` to `head` and beyond.
/// What they don't reach yet is on its way behind them.
fn continues(base: Position, head: Position, held: &[Entry]) -> bool {
    let ahead = head.epoch == base.epoch && head.offset > base.offset;
    if base != head && !ahead {
        return false;
    }
    let mut at = base;
    for (position, prev) in held.iter().filter_map(durable) {
        let late = position.epoch == base.epoch && position.offset < base.offset;
        if late || position == at {
            continue;
        }
        if !follows(at, position, prev) {
            return false;
        }
        at = position;
        if at.offset == head.offset && at != head {
            return false;
        }
    }
    base == head || at != base
}

fn slot(offset: u64) -> usize {
    usize::try_from(offset % RECENT as u64).expect("it is less than RECENT")
}

/// Publications that are remembered.
const RECENT: usize = 16;
