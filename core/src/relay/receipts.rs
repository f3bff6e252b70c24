//! How many connections a publication was handed to, on this instance and on the others, and
//! whether a client has acknowledged it.
//!
//! Each instance that hears a publication owes its origin one receipt, also for nobody. The origin
//! answers whoever published when it has as many receipts as the channel had subscribers, or one of
//! every instance that is alive, or when the time is up. Only the first shows that it has all.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    cluster::{REPORT_ACKS_MAX, REPORT_RECEIPTS_MAX, Receipt, Report},
    entry::Entry,
    id::{BootId, DispatchId, Mid},
    stream::StreamName,
    time::Instant,
};

use super::{Action, Destination, Turn, peers::Peers, stream::mid};

/// Receipts that are waited for, and those that are owed.
#[derive(Debug, Hash)]
pub(super) struct Receipts {
    boot: BootId,
    /// The instances that may owe one.
    pub(super) peers: Peers,
    /// There is no subscription connection, so that none can come.
    deaf: bool,
    expected: BTreeMap<Mid, Expected>,
    deadlines: BTreeSet<(Instant, Mid)>,
    /// Publications on their way to workers, whosever they are.
    owed: BTreeMap<DispatchId, Owed>,
    /// Those of others among them.
    under_way: BTreeSet<Mid>,
    /// The newest that were reported, so that one that comes twice is not reported twice.
    reported: VecDeque<Mid>,
    /// The newest that came out of the history, and what was counted of those that have been handed
    /// over. A receipt is owed once the live copy shows that this instance was a subscriber.
    filled: VecDeque<(Mid, Option<Count>)>,
    /// What goes to other instances, held back for a moment so that many go together.
    batches: BTreeMap<BootId, Batch>,
}

/// Whom a publication is from.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Source {
    mid: Mid,
    origin: BootId,
}

/// A publication that somebody waits for.
#[derive(Debug, Hash)]
struct Expected {
    stream: StreamName,
    deadline: Instant,
    /// Subscribers of its channel; none until the broker has taken it.
    subscribers: Option<u32>,
    own: Own,
    /// Other instances that have reported.
    reports: Vec<BootId>,
    recipients: u32,
    /// Instances with at least one of them.
    instances: u32,
    /// Some worker may hand it over later.
    partial: bool,
    /// Until when an acknowledgement is waited for.
    ack_by: Option<Instant>,
    /// A client has acknowledged it.
    acknowledged: bool,
    /// Nothing but an acknowledgement is waited for; whether the count is complete.
    counted: Option<bool>,
}

/// This instance's own receipt for one of its own publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Own {
    /// The publication has not come in.
    Awaited,
    /// It has not, and need not.
    NotOwed,
    /// Workers have not reported.
    Dispatched,
    /// It is counted.
    Counted,
}

/// What was counted of a publication here.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Count {
    recipients: u32,
    partial: bool,
}

/// A publication on its way to workers.
#[derive(Debug, Hash)]
struct Owed {
    source: Source,
    /// Workers that have not reported.
    pending: usize,
    count: Count,
    /// A receipt is owed for it.
    counts: bool,
}

/// Receipts and acknowledgements for one instance.
#[derive(Debug, Hash)]
struct Batch {
    receipts: Vec<Receipt>,
    acks: Vec<Mid>,
    /// When they go.
    due: Instant,
}

impl Batch {
    fn is_held(&self) -> bool {
        !self.receipts.is_empty() || !self.acks.is_empty()
    }
}

impl Expected {
    /// Adds what one instance has counted.
    fn add(&mut self, recipients: u32, partial: bool) {
        self.recipients = self.recipients.saturating_add(recipients);
        self.instances += u32::from(recipients > 0);
        self.partial |= partial;
    }

    /// What is counted so far.
    fn receipt(&self, mid: Mid, complete: bool, awaits_ack: bool) -> Action {
        let Self { recipients, instances, acknowledged, .. } = *self;
        let complete = complete && !self.partial;
        Action::Receipt { mid, recipients, instances, complete, acknowledged, awaits_ack }
    }
}

impl Source {
    pub(super) fn of(entry: &Entry) -> Self {
        Self { mid: mid(entry), origin: entry.body.origin }
    }
}

impl Receipts {
    pub(super) fn new(boot: BootId) -> Self {
        Self {
            boot,
            peers: Peers::default(),
            deaf: true,
            expected: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            owed: BTreeMap::new(),
            under_way: BTreeSet::new(),
            reported: VecDeque::new(),
            filled: VecDeque::new(),
            batches: BTreeMap::new(),
        }
    }

    /// Begins to wait for `mid`; false when `max` others are waited for already.
    pub(super) fn expect(
        &mut self,
        mid: Mid,
        stream: StreamName,
        deadline: Instant,
        max: u32,
    ) -> bool {
        if self.expected.contains_key(&mid) {
            self.set_deadline(mid, deadline);
            return true;
        }
        if self.expected.len() >= max as usize {
            return false;
        }
        let expected = Expected {
            stream,
            deadline,
            subscribers: None,
            own: Own::Awaited,
            reports: Vec::new(),
            recipients: 0,
            instances: 0,
            partial: false,
            ack_by: None,
            acknowledged: false,
            counted: None,
        };
        self.expected.insert(mid, expected);
        self.deadlines.insert((deadline, mid));
        true
    }

    /// The stream of a publication that is waited for.
    pub(super) fn stream_of(&self, mid: Mid) -> Option<&StreamName> {
        self.expected.get(&mid).map(|expected| &expected.stream)
    }

    /// The broker has taken `mid`, and so many subscribers hear it; `comes` tells whether this
    /// instance is one of them. The caller waits for counts until `by.0`, and for an
    /// acknowledgement, if it does, until `by.1`.
    pub(super) fn published(
        &mut self,
        mid: Mid,
        subscribers: u32,
        comes: bool,
        by: (Instant, Option<Instant>),
        turn: &mut Turn<'_>,
    ) {
        let Some(expected) = self.expected.get_mut(&mid) else { return };
        expected.subscribers = Some(subscribers);
        if expected.own == Own::Awaited && (self.deaf || !comes) {
            expected.own = Own::NotOwed;
        }
        expected.ack_by = by.1;
        self.set_deadline(mid, by.0);
        self.settle(mid, turn);
    }

    /// Nobody waits for `mid` any more, or it was not published.
    pub(super) fn unpublished(&mut self, mid: Mid, turn: &mut Turn<'_>) {
        if self.expected.contains_key(&mid) {
            self.answer(mid, false, turn.actions);
        }
    }

    /// A publication has gone out to `workers` workers; `partial` tells that others are behind.
    /// Only the first time counts.
    pub(super) fn dispatched(
        &mut self,
        source: Source,
        dispatch: DispatchId,
        workers: usize,
        partial: bool,
        turn: &mut Turn<'_>,
    ) {
        if partial && let Some(expected) = self.expected.get_mut(&source.mid) {
            expected.partial = true;
        }
        if workers == 0 {
            return self.handed_to_nobody(source, partial, turn);
        }
        let is_first = if source.origin == self.boot {
            let expected = self.expected.get_mut(&source.mid);
            let expected =
                expected.filter(|expected| matches!(expected.own, Own::Awaited | Own::NotOwed));
            expected.map(|expected| expected.own = Own::Dispatched).is_some()
        } else {
            self.under_way.insert(source.mid)
        };
        if is_first {
            self.owe(source, dispatch, workers, partial, true);
        }
    }

    fn owe(
        &mut self,
        source: Source,
        dispatch: DispatchId,
        workers: usize,
        partial: bool,
        counts: bool,
    ) {
        let count = Count { recipients: 0, partial };
        self.owed.insert(dispatch, Owed { source, pending: workers, count, counts });
    }

    /// A publication came out of the history and has gone out to `workers` workers. Whoever
    /// published counts the subscribers that heard of it then, and this instance may be none.
    pub(super) fn filled(
        &mut self,
        source: Source,
        dispatch: DispatchId,
        workers: usize,
        partial: bool,
    ) {
        let nothing = Count { recipients: 0, partial };
        remember(&mut self.filled, (source.mid, (workers == 0).then_some(nothing)));
        if workers > 0 {
            self.owe(source, dispatch, workers, partial, false);
        }
    }

    /// A publication will not be handed to anybody, unless that has begun already.
    pub(super) fn missed(&mut self, source: Source, turn: &mut Turn<'_>) {
        self.handed_to_nobody(source, false, turn);
    }

    /// The same; `partial` tells that it may be handed to somebody later.
    pub(super) fn handed_to_nobody(&mut self, source: Source, partial: bool, turn: &mut Turn<'_>) {
        let at = self.filled.iter().position(|(mid, _)| *mid == source.mid);
        match at.and_then(|at| self.filled.remove(at)) {
            Some((_, Some(count))) => self.count(source, count, turn),
            Some((_, None)) => self.owe_for_filled(source),
            None => {
                // One that is forgotten may have been handed over.
                let partial = partial || self.filled.len() == KNOWN_MAX;
                self.count(source, Count { recipients: 0, partial }, turn);
            }
        }
    }

    /// The live copy of what is being handed over out of the history has come.
    fn owe_for_filled(&mut self, source: Source) {
        let mut owed = self.owed.values_mut();
        let Some(owed) = owed.find(|owed| owed.source.mid == source.mid) else { return };
        owed.counts = true;
        let Count { recipients, partial } = owed.count;
        if source.origin != self.boot {
            self.under_way.insert(source.mid);
        } else if let Some(expected) = self.expected.get_mut(&source.mid) {
            expected.own = Own::Dispatched;
            expected.add(recipients, partial);
        }
    }

    /// Gives or sends the whole count of this instance, unless it is known or to come.
    fn count(&mut self, source: Source, count: Count, turn: &mut Turn<'_>) {
        let (Source { mid, origin }, Count { recipients, partial }) = (source, count);
        if origin != self.boot {
            if !self.under_way.contains(&mid) && !self.reported.contains(&mid) {
                self.report(origin, Receipt { mid, recipients, partial }, turn);
            }
            return;
        }
        let Some(expected) = self.expected.get_mut(&mid) else { return };
        if matches!(expected.own, Own::Awaited | Own::NotOwed) {
            expected.add(recipients, partial);
            expected.own = Own::Counted;
            self.settle(mid, turn);
        }
    }

    /// A worker has handed `dispatch` to `recipients` connections.
    pub(super) fn handed_over(
        &mut self,
        dispatch: DispatchId,
        recipients: u32,
        turn: &mut Turn<'_>,
    ) {
        let Some(owed) = self.owed.get_mut(&dispatch) else { return };
        let Source { mid, origin } = owed.source;
        let is_first = owed.count.recipients == 0;
        owed.count.recipients = owed.count.recipients.saturating_add(recipients);
        owed.pending -= 1;
        let (count, counts, is_last) = (owed.count, owed.counts, owed.pending == 0);
        if is_last {
            self.owed.remove(&dispatch);
        }
        if !counts {
            let mut filled = self.filled.iter_mut();
            if is_last && let Some((_, known)) = filled.find(|(filled, _)| *filled == mid) {
                *known = Some(count);
            }
            return;
        }
        if origin != self.boot {
            if is_last || planted!("report each worker") {
                self.under_way.remove(&mid);
                let Count { recipients, partial } = count;
                self.report(origin, Receipt { mid, recipients, partial }, turn);
            }
            return;
        }
        let Some(expected) = self.expected.get_mut(&mid) else { return };
        expected.recipients = expected.recipients.saturating_add(recipients);
        // Its first recipients make this one of the instances.
        expected.instances += u32::from(recipients > 0 && is_first);
        if is_last {
            expected.own = Own::Counted;
            self.settle(mid, turn);
        }
    }

    /// Another instance has reported.
    pub(super) fn reported(&mut self, report: &Report, turn: &mut Turn<'_>) {
        for Receipt { mid, recipients, partial } in &report.receipts {
            let Some(expected) = self.expected.get_mut(mid) else { continue };
            let is_known = expected.reports.contains(&report.from) || report.from == self.boot;
            if is_known && !planted!("count a receipt twice") {
                continue;
            }
            expected.reports.push(report.from);
            expected.add(*recipients, *partial);
            self.settle(*mid, turn);
        }
        report.acks.iter().for_each(|mid| self.has_ack(*mid, turn));
    }

    /// A client has acknowledged `mid`, which the instance `origin` wants to know.
    pub(super) fn acknowledged(&mut self, mid: Mid, origin: BootId, turn: &mut Turn<'_>) {
        if origin == self.boot {
            return self.has_ack(mid, turn);
        }
        if planted!("keep acknowledgements for other instances") {
            return;
        }
        let batch = self.batch(origin, turn.now);
        batch.acks.push(mid);
        let is_full = batch.acks.len() == REPORT_ACKS_MAX;
        self.send_soon(origin, is_full, turn);
    }

    fn has_ack(&mut self, mid: Mid, turn: &mut Turn<'_>) {
        let Some(expected) = self.expected.get_mut(&mid) else { return };
        expected.acknowledged = true;
        if let Some(complete) = expected.counted {
            self.answer(mid, complete, turn.actions);
        }
    }

    /// Answers those whose time is up with what was counted so far, and sends what was held back.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        while let Some(&(deadline, mid)) = self.deadlines.first()
            && deadline <= turn.now
            && !planted!("wait for receipts for ever")
        {
            self.counted(mid, false, turn);
        }
        let due = self.batches.iter().filter(|(_, batch)| batch.is_held() && batch.due <= turn.now);
        let due: Vec<BootId> = due.map(|(origin, _)| *origin).collect();
        due.into_iter().for_each(|origin| self.send(origin, turn));
    }

    /// Forgets whom nothing was reported to of late. To be called now and then.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.batches.retain(|_, batch| batch.is_held() || batch.due > now);
    }

    /// A subscription connection is up.
    pub(super) fn connect(&mut self) {
        self.deaf = false;
    }

    /// The subscription connection is gone: what has not come in can't any more.
    pub(super) fn disconnect(&mut self, turn: &mut Turn<'_>) {
        self.deaf = true;
        self.peers.forget();
        let mids: Vec<Mid> = self.expected.keys().copied().collect();
        for mid in mids {
            let expected = self.expected.get_mut(&mid).expect("it was there");
            if expected.own == Own::Awaited {
                expected.own = Own::NotOwed;
            }
            self.settle(mid, turn);
        }
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let expected = self.deadlines.first().map(|&(deadline, _)| deadline);
        let held = self.batches.values().filter(|batch| batch.is_held());
        let due = held.map(|batch| batch.due);
        expected.into_iter().chain(due).min()
    }

    /// Answers if nothing more is to come.
    fn settle(&mut self, mid: Mid, turn: &mut Turn<'_>) {
        let expected = &self.expected[&mid];
        let Some(subscribers) = expected.subscribers else { return };
        if expected.own == Own::Dispatched {
            return;
        }
        let reports = expected.reports.len() + usize::from(expected.own == Own::Counted);
        let lacking = (subscribers as usize).saturating_sub(reports);
        let only_the_dead = expected.own != Own::Awaited
            && self.peers.lack_only_the_dead(turn.now, &expected.reports, lacking);
        if lacking == 0 {
            self.counted(mid, true, turn);
        } else if only_the_dead || self.deaf {
            // One that is silent may be cut off, and still serve its clients.
            self.counted(mid, false, turn);
        }
    }

    /// No more is to be counted of `mid`: answers, unless an acknowledgement is waited for.
    fn counted(&mut self, mid: Mid, complete: bool, turn: &mut Turn<'_>) {
        let expected = self.expected.get_mut(&mid).expect("only called for what is expected");
        match expected.ack_by {
            Some(by)
                if by > turn.now
                    && !expected.acknowledged
                    && !planted!("wait for no acknowledgement") =>
            {
                expected.counted = Some(complete);
                let receipt = expected.receipt(mid, complete, true);
                self.set_deadline(mid, by);
                turn.actions.push(receipt);
            }
            Some(_) | None => {
                let complete = complete || expected.counted == Some(true);
                self.answer(mid, complete, turn.actions);
            }
        }
    }

    fn answer(&mut self, mid: Mid, complete: bool, actions: &mut Vec<Action>) {
        let expected = self.expected.remove(&mid).expect("only called for what is expected");
        self.deadlines.remove(&(expected.deadline, mid));
        actions.push(expected.receipt(mid, complete, false));
    }

    fn set_deadline(&mut self, mid: Mid, deadline: Instant) {
        let expected = self.expected.get_mut(&mid).expect("only called for what is expected");
        self.deadlines.remove(&(expected.deadline, mid));
        expected.deadline = deadline;
        self.deadlines.insert((deadline, mid));
    }

    /// Gives another instance a receipt: the first at once, those that follow soon together.
    fn report(&mut self, origin: BootId, receipt: Receipt, turn: &mut Turn<'_>) {
        remember(&mut self.reported, receipt.mid);
        let batch = self.batch(origin, turn.now);
        batch.receipts.push(receipt);
        let is_full = batch.receipts.len() == REPORT_RECEIPTS_MAX;
        self.send_soon(origin, is_full, turn);
    }

    fn batch(&mut self, origin: BootId, now: Instant) -> &mut Batch {
        let empty = || Batch { receipts: Vec::new(), acks: Vec::new(), due: now };
        self.batches.entry(origin).or_insert_with(empty)
    }

    /// Sends what is held for an instance, now or when it is due.
    fn send_soon(&mut self, origin: BootId, is_full: bool, turn: &mut Turn<'_>) {
        if is_full || self.batches[&origin].due <= turn.now {
            self.send(origin, turn);
        }
    }

    fn send(&mut self, origin: BootId, turn: &mut Turn<'_>) {
        let batch = self.batches.get_mut(&origin).expect("only called for one that is there");
        batch.due = turn.now + BATCH_INTERVAL;
        let receipts = std::mem::take(&mut batch.receipts);
        let acks = std::mem::take(&mut batch.acks);
        let bytes = Report { from: self.boot, receipts, acks }.encode();
        turn.actions.push(Action::Tell { to: Destination::Instance(origin), bytes });
    }
}

/// Keeps the newest ones.
fn remember<T>(known: &mut VecDeque<T>, newest: T) {
    if known.len() == KNOWN_MAX {
        known.pop_front();
    }
    known.push_back(newest);
}

/// Publications that are remembered: a few milliseconds' worth of a busy instance's.
const KNOWN_MAX: usize = 128;

/// Time between two reports to one instance.
const BATCH_INTERVAL: Duration = Duration::from_millis(5);
