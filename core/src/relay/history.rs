//! What is read of a stream's history: gaps are filled from it, members are given what they missed,
//! and workers that fell behind catch up.

use std::sync::Arc;

use crate::{
    entry::Entry,
    id::{Mid, Position, WorkerId},
    link::{Missed, Since, Suffix, ToShard},
    stream::StreamName,
    wire::encode,
};

use super::{
    Action, History, Relay, Turn,
    stream::{Behind, Seat, Waiting, durable, follows, is_at},
    streams::StreamIndex,
    values::Values,
};

/// Durable entries in unbroken order, each with its place and its predecessor.
#[derive(Debug)]
pub(super) struct Run {
    links: Vec<Link>,
    /// Where it ends: the last entry, or where the stream is without any.
    end: Position,
    /// The entries as members get them, once one needs them.
    missed: Option<Arc<[Missed]>>,
}

#[derive(Debug)]
struct Link {
    position: Position,
    prev: Mid,
    entry: Entry,
}

impl Run {
    /// What of `history` leads to its head without a break.
    pub(super) fn of(history: &History) -> Self {
        let mut links: Vec<Link> = Vec::new();
        for bytes in history.entries.iter().rev() {
            let Ok(entry) = Entry::decode(bytes) else { break };
            let Some((position, prev)) = durable(&entry) else { break };
            let joins = match links.last() {
                Some(next) => follows(position, next.position, next.prev),
                None => position == history.head,
            };
            if !joins {
                break;
            }
            links.push(Link { position, prev, entry });
        }
        links.reverse();
        Self { links, end: history.head, missed: None }
    }

    /// Goes on with entries that came meanwhile, as far as they follow.
    pub(super) fn extend(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let Some((position, prev)) = durable(entry)
                && follows(self.end, position, prev)
            {
                self.links.push(Link { position, prev, entry: entry.clone() });
                self.end = position;
            }
        }
    }

    /// Where it ends.
    pub(super) fn end(&self) -> Position {
        self.end
    }

    /// Ends it at `end`; false when that is not in it.
    pub(super) fn end_at(&mut self, end: Position) -> bool {
        if self.end == end {
            return true;
        }
        let Some(at) = self.links.iter().position(|link| link.position == end) else {
            return false;
        };
        self.links.truncate(at + 1);
        self.end = end;
        true
    }

    /// The index of the first entry after `position`, which that entry names.
    pub(super) fn after(&self, position: Position) -> Option<usize> {
        if position == self.end {
            return Some(self.links.len());
        }
        let at = self.index(position.epoch.0, position.offset)?;
        follows(position, self.links[at].position, self.links[at].prev).then_some(at)
    }

    /// The entries from an index on, with their places and predecessors.
    pub(super) fn from(&self, index: usize) -> impl Iterator<Item = (Position, Mid, &Entry)> {
        self.links[index..].iter().map(|link| (link.position, link.prev, &link.entry))
    }

    /// The index of the first entry that who was at `since` has not seen.
    fn since(&self, since: Since) -> Option<usize> {
        if is_at(Some(since), Some(self.end)) {
            return Some(self.links.len());
        }
        let at = match self.index(since.epoch, since.offset) {
            None if planted!("call a trimmed history whole") && !self.links.is_empty() => {
                return Some(0);
            }
            at => at?,
        };
        let prev = Position { mid: self.links[at].prev, ..Position::default() };
        (prev.check() == since.check).then_some(at)
    }

    /// Where the entry after an offset is.
    fn index(&self, epoch: u64, offset: u64) -> Option<usize> {
        let first = self.links.first()?.position;
        let at = offset.checked_add(1)?.checked_sub(first.offset)?;
        let at = usize::try_from(at).ok().filter(|at| *at < self.links.len())?;
        (first.epoch.0 == epoch).then_some(at)
    }

    /// What comes after `since`, for the members of `stream`; none when that can't be proven.
    fn suffix(&mut self, stream: &StreamName, since: Since) -> Option<Suffix> {
        let from = self.since(since)?;
        if from == self.links.len() {
            return Some(Suffix::default());
        }
        let missed = self.missed.get_or_insert_with(|| {
            let missed = |link: &Link| Missed {
                frame: encode::publication(stream, &link.entry.body, Some(link.position)),
                kind: Arc::clone(&link.entry.body.kind),
                exclude_user: link.entry.body.exclude_user.clone(),
                acks_to: link.entry.body.ack.then_some(link.entry.body.origin),
                position: Some(link.position),
            };
            self.links.iter().map(missed).collect()
        });
        let from = if planted!("leave out the first missed one") { from + 1 } else { from };
        Some(Suffix::new(Arc::clone(missed), from))
    }
}

impl Relay {
    /// Tells a worker that the stream is live for it. With a run that ends where the stream is, a
    /// member is given what it missed, and in any case the latest values.
    pub(super) fn answer(
        &self,
        index: StreamIndex,
        join: &Waiting,
        run: Option<&mut Run>,
        values: Option<&mut Values>,
        turn: &mut Turn<'_>,
    ) {
        let stream = &self.streams[index];
        let position = stream.last;
        let suffix = match (join.since, run) {
            (Some(since), _) if is_at(Some(since), position) => Some(Suffix::default()),
            (Some(since), Some(run)) => run.suffix(&stream.name, since),
            (Some(_) | None, _) => None,
        };
        let recovered = suffix.is_some();
        let mut suffix = suffix.unwrap_or_default();
        if let Some(values) = values {
            suffix = values.merge(&stream.name, suffix);
        }
        let message = ToShard::Joined { request: join.request, position, recovered, suffix };
        turn.actions.push(Action::ToShard { worker: join.worker, message });
    }

    /// Answers the joins of one worker, but for those that need more of the history than was asked
    /// for.
    pub(super) fn answer_worker(
        &mut self,
        index: StreamIndex,
        worker: WorkerId,
        mut run: Option<&mut Run>,
        mut values: Option<&mut Values>,
        turn: &mut Turn<'_>,
    ) {
        let stream = &mut self.streams[index];
        if stream.valued && values.is_none() {
            return; // They are read with what else is lacking.
        }
        let Some(busy) = &mut stream.busy else { return };
        let (last, asked_after) = (stream.last, busy.after);
        let is_due = |waiting: &mut Waiting| {
            waiting.worker == worker && !waiting.needs_more(last, asked_after)
        };
        let joins: Vec<Waiting> = busy.waiting.extract_if(.., is_due).collect();
        self.waiting -= joins.len();
        for join in &joins {
            self.answer(index, join, run.as_deref_mut(), values.as_deref_mut(), turn);
        }
    }

    /// The same, of all workers that are not behind.
    pub(super) fn answer_all(
        &mut self,
        index: StreamIndex,
        mut run: Option<&mut Run>,
        mut values: Option<&mut Values>,
        turn: &mut Turn<'_>,
    ) {
        for at in 0..self.streams[index].seats.len() {
            let Seat { worker, behind, .. } = self.streams[index].seats[at];
            if !behind {
                let (run, values) = (run.as_deref_mut(), values.as_deref_mut());
                self.answer_worker(index, worker, run, values, turn);
            }
        }
    }

    /// Asks for what joins and workers of a live stream lack, unless that is on its way.
    pub(super) fn catch_up(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let stream = &self.streams[index];
        let Some(busy) = &stream.busy else { return };
        // Joins of a worker that is behind wait until it has caught up.
        let is_behind = |worker| stream.seats.iter().any(|s| s.worker == worker && s.behind);
        let mut waiting = busy.waiting.iter().filter(|waiting| !is_behind(waiting.worker));
        let lacking = busy.behind.iter().any(|behind| behind.relieved)
            || waiting.any(|join| stream.valued || join.needs_more(stream.last, None));
        if busy.read.is_none() && lacking {
            self.ask(index, turn);
        }
    }

    /// The history of a live stream was read.
    pub(super) fn caught_up(
        &mut self,
        index: StreamIndex,
        history: Option<&History>,
        turn: &mut Turn<'_>,
    ) {
        let stream = &mut self.streams[index];
        let last = stream.last;
        let busy = stream.busy();
        let tail = std::mem::take(&mut busy.held);
        busy.held_bytes = 0;
        let is_cut = std::mem::take(&mut busy.unreadable);
        let mut run = history.map(Run::of).and_then(|mut run| {
            run.extend(&tail);
            last.is_some_and(|last| run.end_at(last)).then_some(run)
        });
        if (run.is_none() || is_cut) && history.is_some() && busy.reads < self.limits.head_reads_max
        {
            turn.actions.push(Action::Reach("relay_history_read_again"));
            return self.ask(index, turn);
        }
        busy.reads = 0;
        let relieved: Vec<Behind> = busy.behind.extract_if(.., |behind| behind.relieved).collect();
        for Behind { worker, at, .. } in relieved {
            let from = run.as_ref().and_then(|run| run.after(at));
            self.refeed(index, worker, run.as_ref().zip(from), turn);
        }
        let came = if planted!("forget the values that came while others were read") {
            &[]
        } else {
            &*tail
        };
        let mut values = history.map(|history| Values::of(history, came));
        if values.is_some() {
            let mut lacking = self.lacking(index, values.as_mut(), (last, last), false, &tail);
            self.forward_values(index, &mut lacking, None, turn);
        } else {
            // The stream is live, so they can be members. What they missed can't be told.
            self.streams[index].busy().after = Some(0);
        }
        self.answer_all(index, run.as_mut(), Some(&mut values.unwrap_or_default()), turn);
        self.streams[index].busy().after = None;
        self.streams[index].trim();
        self.catch_up(index, turn);
    }

    /// Gives a worker what it lacks from an entry of a run on, or tells it that it lacks something.
    fn refeed(
        &mut self,
        index: StreamIndex,
        worker: WorkerId,
        lacking: Option<(&Run, usize)>,
        turn: &mut Turn<'_>,
    ) {
        let spread_ms = self.spread_ms(index, false);
        let stream = &mut self.streams[index];
        let seat = stream.seat(worker);
        seat.behind = false;
        // Whom a resync is owed gets nothing before it.
        let is_owed = std::mem::take(&mut seat.owed) | std::mem::take(&mut seat.blind);
        let Some((run, from)) = lacking.filter(|_| !is_owed) else {
            turn.actions.push(Action::Reach("relay_worker_not_refed"));
            return self.outlet.resync(stream, worker, true, spread_ms, turn.actions);
        };
        turn.actions.push(Action::Reach("relay_worker_refed"));
        for link in &run.links[from..] {
            if !self.outlet.refeed(stream, index, worker, &link.entry.body, link.position, turn) {
                let at = before(link.position, link.prev);
                stream.busy().behind.push(Behind { worker, at, relieved: false });
                return;
            }
        }
    }
}

impl Waiting {
    /// Whether it can't be answered by a read of what comes after `asked_after`.
    pub(super) fn needs_more(&self, last: Option<Position>, asked_after: Option<u64>) -> bool {
        let (Some(since), Some(last)) = (self.since, last) else { return false };
        since.epoch == last.epoch.0
            && since.offset < last.offset
            && asked_after.is_none_or(|after| since.offset < after)
    }
}

/// The place before an entry.
pub(super) fn before(position: Position, prev: Mid) -> Position {
    Position { offset: position.offset.saturating_sub(1), mid: prev, ..position }
}
