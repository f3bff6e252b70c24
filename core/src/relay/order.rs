//! What arrives on the channel of a stream, and how its order is kept.
//!
//! A live stream accepts an entry that follows the last one. Anything else than that, or one that
//! is known already, sends the stream back to reading its head, holding what arrives meanwhile:
//! then either what is held joins up with the last position, and nothing was missed; or members are
//! told that something was.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    entry::{Entry, Place},
    id::{Generation, Position, ReadId, WorkerId},
    stream::{StreamKind, StreamName},
};

use super::{
    Action, Relay, Turn,
    outlet::Forward,
    receipts::Source,
    stream::{Head, Resumption, Verdict, durable, follows},
    streams::StreamIndex,
};

impl Relay {
    /// A channel of a stream brought something.
    pub(super) fn received(
        &mut self,
        generation: Generation,
        name: &StreamName,
        bytes: &Bytes,
        turn: &mut Turn<'_>,
    ) {
        if self.link != Some(generation) && !planted!("accept an item of an older connection") {
            return;
        }
        match name.kind() {
            StreamKind::User(_) => self.outlet.stats.received_user += 1,
            StreamKind::All | StreamKind::Room(_) => self.outlet.stats.received_room += 1,
        }
        let entry = Entry::decode(bytes);
        let (index, entry) = match (self.streams.find(name), entry) {
            (Some(index), Ok(entry)) => (index, entry),
            (Some(index), Err(_)) => return self.unreadable(index, turn),
            (None, Ok(entry)) => return self.outlet.receipts.missed(Source::of(&entry), turn),
            (None, Err(_)) => return,
        };
        match self.streams[index].head {
            Head::Unknown => self.outlet.receipts.missed(Source::of(&entry), turn),
            Head::Reading => self.hold(index, entry, bytes.len(), turn),
            Head::Live if self.limits.positions => self.accept(index, entry, bytes.len(), turn),
            Head::Live => self.forward(index, &entry, None, turn),
        }
    }

    /// Bytes that are no entry. Whatever they were, the head tells whether members lack something.
    fn unreadable(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        self.outlet.stats.entries_invalid += 1;
        let stream = &mut self.streams[index];
        if !self.limits.positions || stream.seats.is_empty() {
            return;
        }
        match stream.head {
            Head::Unknown => {}
            Head::Reading => stream.busy().unreadable = true,
            Head::Live => self.read_head(index, turn),
        }
    }

    /// An entry of a live stream that has positions.
    fn accept(&mut self, index: StreamIndex, entry: Entry, bytes: usize, turn: &mut Turn<'_>) {
        let stream = &mut self.streams[index];
        let Some((position, prev)) = durable(&entry) else {
            return self.forward_latest(index, &entry, turn);
        };
        match stream.judge(position, prev) {
            Verdict::Next => {
                stream.advance(position);
                self.forward(index, &entry, Some(position), turn);
            }
            Verdict::Duplicate => {
                self.outlet.stats.duplicates += 1;
                self.outlet.receipts.missed(Source::of(&entry), turn);
            }
            Verdict::Suspect if stream.seats.is_empty() => {
                self.lose_head(index, turn);
                self.outlet.receipts.missed(Source::of(&entry), turn);
            }
            Verdict::Suspect => {
                turn.actions.push(Action::Reach("relay_order_suspect"));
                stream.head = Head::Reading;
                self.hold(index, entry, bytes, turn);
                if self.streams[index].head == Head::Reading {
                    self.read_head(index, turn);
                }
            }
        }
    }

    /// Keeps an entry until the head is known.
    fn hold(&mut self, index: StreamIndex, entry: Entry, bytes: usize, turn: &mut Turn<'_>) {
        let bytes_max = self.limits.held_bytes_max;
        let stream = &mut self.streams[index];
        let last = stream.last;
        let busy = stream.busy();
        if durable(&entry).is_some_and(|(position, _)| busy.holds(position)) {
            self.outlet.stats.duplicates += 1;
            return;
        }
        busy.held.push(entry);
        busy.held_bytes += bytes + size_of::<Entry>();
        if busy.held_bytes <= bytes_max {
            return;
        }
        turn.actions.push(Action::Reach("relay_held_overflow"));
        if let Some(resumption) = busy.newest(last) {
            return self.go_live(index, Some(resumption), turn);
        }
        let held = std::mem::take(&mut busy.held);
        busy.held_bytes = 0;
        busy.covered = 0;
        stream.seats.iter_mut().for_each(|seat| seat.owed = true);
        self.miss(&held, turn);
    }

    /// Asks for the head of a stream that some worker wants.
    pub(super) fn read_head(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        self.set_timer(index, None);
        let read = ReadId(self.next_read);
        self.next_read += 1;
        self.reads.insert(read, index);
        let stream = &mut self.streams[index];
        stream.head = Head::Reading;
        let busy = stream.busy();
        busy.read = Some(read);
        busy.reads += 1;
        busy.covered = busy.held.len();
        busy.unreadable = false;
        turn.actions.push(Action::ReadHead { read, stream: stream.name.clone() });
    }

    /// The broker has said where a stream is, or that it can't.
    pub(super) fn head_read(&mut self, read: ReadId, head: Option<Position>, turn: &mut Turn<'_>) {
        let Some(index) = self.reads.remove(&read) else { return };
        let stream = &mut self.streams[index];
        let last = stream.last;
        let busy = stream.busy();
        busy.read = None;
        if let Some(head) = head {
            busy.failures = 0;
            // The head may be older than what could not be read.
            let unreadable = busy.unreadable;
            if unreadable && busy.reads < self.limits.head_reads_max {
                self.read_head(index, turn);
            } else if let Some(mut resumption) = busy.resume(last, head) {
                resumption.missed |= unreadable && last.is_some();
                self.go_live(index, Some(resumption), turn);
            } else if busy.reads < self.limits.head_reads_max {
                self.read_head(index, turn);
            } else {
                turn.actions.push(Action::Reach("relay_head_never_joins_up"));
                let (from, missed) = (busy.held.len(), last.is_some());
                let at_head = Resumption { base: head, from, missed };
                let resumption = busy.newest(last).unwrap_or(at_head);
                self.go_live(index, Some(resumption), turn);
            }
        } else {
            turn.actions.push(Action::Reach("relay_head_unreadable"));
            busy.failures += 1;
            busy.reads = 0;
            let pause = backoff(busy.failures);
            let jitter = self.rng.below(u64::try_from(pause.as_nanos() / 2).unwrap_or(u64::MAX));
            self.set_timer(index, Some(turn.now + pause / 2 + Duration::from_nanos(jitter)));
            self.refuse_all(index, turn);
        }
        self.pump(turn);
    }

    /// The stream is live: tells those who missed something, answers those who wait, and goes on
    /// with what was held.
    pub(super) fn go_live(
        &mut self,
        index: StreamIndex,
        resumption: Option<Resumption>,
        turn: &mut Turn<'_>,
    ) {
        let missed = resumption.is_some_and(|resumption| resumption.missed)
            && !planted!("say nothing of a gap");
        self.outlet.stats.gaps += u64::from(missed);
        let restoring = self.streams[index].busy.as_ref().is_some_and(|busy| busy.restoring);
        let spread_ms = self.spread_ms(index, restoring);
        self.set_timer(index, None);
        let held = self.stop(index);
        let stream = &mut self.streams[index];
        stream.head = Head::Live;
        if let Some(resumption) = resumption
            && stream.last != Some(resumption.base)
        {
            stream.rebase(Some(resumption.base));
        }
        for at in 0..self.streams[index].seats.len() {
            let stream = &mut self.streams[index];
            let seat = &mut stream.seats[at];
            let owed = std::mem::take(&mut seat.owed) || missed;
            let blind = std::mem::take(&mut seat.blind);
            let worker = seat.worker;
            if seat.behind {
                continue; // It is told when it has caught up.
            }
            if owed || blind {
                self.outlet.resync(stream, worker, owed, spread_ms, turn.actions);
            }
            self.answer_worker(index, worker, turn);
        }
        self.streams[index].trim();
        let from = resumption.map_or(0, |resumption| resumption.from);
        for (at, entry) in held.iter().enumerate() {
            if planted!("drop what was held") {
                continue;
            }
            self.release(index, entry, at >= from, turn);
        }
    }

    /// Goes on with one held entry, unless it is covered by where the stream went on.
    fn release(
        &mut self,
        index: StreamIndex,
        entry: &Entry,
        may_follow: bool,
        turn: &mut Turn<'_>,
    ) {
        let stream = &mut self.streams[index];
        match entry.place {
            Place::Durable { position, prev } => {
                let next = stream.last.is_some_and(|last| follows(last, position, prev));
                if may_follow && next {
                    stream.advance(position);
                    self.forward(index, entry, Some(position), turn);
                } else {
                    self.outlet.receipts.missed(Source::of(entry), turn);
                }
            }
            Place::Latest { epoch, .. } => {
                if may_follow || stream.last.is_some_and(|last| last.epoch == epoch) {
                    self.forward_latest(index, entry, turn);
                } else {
                    self.outlet.receipts.missed(Source::of(entry), turn);
                }
            }
        }
    }

    fn forward_latest(&mut self, index: StreamIndex, entry: &Entry, turn: &mut Turn<'_>) {
        let is_outdated = self.streams[index].is_outdated(&entry.place);
        if is_outdated && !planted!("let an old latest value follow a newer message") {
            // It was on its way while the head was read. An old value must not follow a newer
            // durable message.
            self.outlet.receipts.missed(Source::of(entry), turn);
        } else {
            self.forward(index, entry, None, turn);
        }
    }

    fn forward(
        &mut self,
        index: StreamIndex,
        entry: &Entry,
        position: Option<Position>,
        turn: &mut Turn<'_>,
    ) {
        let forward = Forward { body: &entry.body, position, source: Some(Source::of(entry)) };
        self.outlet.forward(&mut self.streams[index], index, forward, turn);
    }

    /// A worker has reported; it may go on with streams in which it was behind.
    pub(super) fn relieve(&mut self, worker: WorkerId, turn: &mut Turn<'_>) {
        let relieved = self.outlet.take_relieved(worker);
        for index in &relieved {
            let spread_ms = self.spread_ms(*index, relieved.len() > 1);
            let stream = &mut self.streams[*index];
            let live = stream.head == Head::Live;
            let seat = stream.seat(worker);
            seat.behind = false;
            if planted!("catch up without a resync") {
                continue;
            }
            seat.owed = !live;
            seat.blind &= !live;
            if live {
                self.outlet.resync(stream, worker, true, spread_ms, turn.actions);
                self.answer_worker(*index, worker, turn);
                self.streams[*index].trim();
            }
        }
    }

    /// Forgets where a stream is that nobody wants.
    pub(super) fn lose_head(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        self.stop_reading(index, turn);
        let stream = &mut self.streams[index];
        stream.head = Head::Unknown;
        stream.rebase(None);
    }

    /// Ends the reading of a head. What was held is lost.
    pub(super) fn stop_reading(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let held = self.stop(index);
        self.miss(&held, turn);
    }

    fn stop(&mut self, index: StreamIndex) -> Vec<Entry> {
        let stream = &mut self.streams[index];
        let Some(busy) = &mut stream.busy else { return Vec::new() };
        let read = busy.read.take();
        let held = busy.end_reading();
        stream.trim();
        if let Some(read) = read {
            self.reads.remove(&read);
        }
        held
    }

    /// How long the members of a stream are given to refetch: the longer, the more of them may
    /// have to do so at once.
    fn spread_ms(&self, index: StreamIndex, many_streams: bool) -> u32 {
        match self.streams[index].name.kind() {
            StreamKind::User(_) if !many_streams => SPREAD_MS_MIN,
            // There are about as many streams as members of a room can be: most are users'.
            StreamKind::User(_) | StreamKind::Room(_) | StreamKind::All => {
                let spread_ms = self.streams.len() / REFETCHES_PER_MS;
                u32::try_from(spread_ms).unwrap_or(u32::MAX).clamp(SPREAD_MS_MIN, SPREAD_MS_MAX)
            }
        }
    }

    /// Answers those who wait for entries that are not forwarded.
    fn miss(&mut self, held: &[Entry], turn: &mut Turn<'_>) {
        for entry in held {
            self.outlet.receipts.missed(Source::of(entry), turn);
        }
    }
}

/// How long to wait before a head is read again, after so many failures in a row, less a jitter of
/// up to a half.
fn backoff(failures: u32) -> Duration {
    (RETRY_MIN * 2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(RETRY_MAX)
}

/// First pause before a head that could not be read is read again.
const RETRY_MIN: Duration = Duration::from_millis(200);

/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long members of one stream are given to refetch, in milliseconds.
const SPREAD_MS_MIN: u32 = 5_000;

/// Longest time that members are given.
const SPREAD_MS_MAX: u32 = 60_000;

/// Refetches that the back ends behind one instance can stand: 2,000 a second.
const REFETCHES_PER_MS: usize = 2;
