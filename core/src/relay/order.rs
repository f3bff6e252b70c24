//! What arrives on the channel of a stream, and how its order is kept.
//!
//! A live stream accepts an entry that follows the last one. Anything else than that, or one that
//! is known already, sends the stream back to reading its head and what of its history comes after
//! the last one, holding what arrives meanwhile: then what was missed is forwarded in its place;
//! or, where the history does not prove that it is complete, members are told that something is
//! lacking.

use bytes::Bytes;

use crate::{
    entry::{Entry, Place, Rollover},
    id::{Generation, Mid, Position, ReadId, WorkerId},
    stream::{StreamKind, StreamName},
};

use super::{
    Action, History, Relay, Turn,
    history::{Run, before},
    outlet::Forward,
    receipts::Source,
    stream::{Head, Resumption, Verdict, durable, follows},
    streams::StreamIndex,
    values::{Lacking, Values},
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
            (Some(index), Err(_)) => {
                return match Rollover::decode(bytes) {
                    Some(rollover) => self.rolled_over(index, rollover, turn),
                    None => self.unreadable(index, turn),
                };
            }
            (None, Ok(entry)) => return self.outlet.receipts.missed(Source::of(&entry), turn),
            (None, Err(_)) => return,
        };
        match self.streams[index].head {
            Head::Unknown => self.miss(index, &[entry], turn),
            Head::Reading => self.hold(index, entry, bytes.len(), turn),
            Head::Live if self.limits.positions => self.accept(index, entry, bytes.len(), turn),
            Head::Live => self.forward(index, &entry, None, None, turn),
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

    /// The broker has lost some of a stream. Whoever reads it finds a numbering that does not go on
    /// from where members are.
    fn rolled_over(&mut self, index: StreamIndex, rollover: Rollover, turn: &mut Turn<'_>) {
        let stream = &mut self.streams[index];
        if !self.limits.positions || stream.last.is_some_and(|last| last.epoch == rollover.epoch) {
            return;
        }
        match stream.head {
            Head::Unknown => {}
            // What was asked for may be of before, and newcomers would never know.
            Head::Reading => self.read_head(index, turn),
            Head::Live if stream.seats.is_empty() => self.lose_head(index, turn),
            Head::Live => {
                turn.actions.push(Action::Reach("relay_rolled_over"));
                self.outlet.stats.rolled_over += 1;
                if !planted!("overhear that a stream is rolled over") {
                    self.read_head(index, turn);
                }
            }
        }
    }

    /// An entry of a live stream that has positions.
    fn accept(&mut self, index: StreamIndex, entry: Entry, bytes: usize, turn: &mut Turn<'_>) {
        let stream = &mut self.streams[index];
        let Some((position, prev)) = durable(&entry) else {
            self.forward_latest(index, &entry, turn);
            return self.keep_for_read(index, entry, bytes);
        };
        match stream.judge(position, prev) {
            Verdict::Next => {
                stream.advance(position);
                self.forward(index, &entry, Some(position), Some(prev), turn);
                self.keep_for_read(index, entry, bytes);
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
                stream.busy().drop_held();
                let next_read = self.next_read;
                self.hold(index, entry, bytes, turn);
                if self.next_read == next_read {
                    self.read_head(index, turn);
                }
            }
        }
    }

    /// Keeps an entry that was forwarded while the history is read: what is read may end before it.
    fn keep_for_read(&mut self, index: StreamIndex, entry: Entry, bytes: usize) {
        let bytes_max = self.limits.held_bytes_max;
        let Some(busy) = &mut self.streams[index].busy else { return };
        if busy.read.is_none() {
            return;
        }
        busy.held.push(entry);
        busy.held_bytes += bytes + size_of::<Entry>();
        if busy.held_bytes > bytes_max {
            busy.drop_held(); // It is read once more.
            busy.unreadable = true;
        }
    }

    /// Keeps an entry until the head is known.
    fn hold(&mut self, index: StreamIndex, entry: Entry, bytes: usize, turn: &mut Turn<'_>) {
        let bytes_max = self.limits.held_bytes_max;
        let busy = self.streams[index].busy();
        if durable(&entry).is_some_and(|(position, _)| busy.holds(position)) {
            self.outlet.stats.duplicates += 1;
            return;
        }
        let is_durable = durable(&entry).is_some();
        busy.held.push(entry);
        busy.held_bytes += bytes + size_of::<Entry>();
        if busy.held_bytes <= bytes_max {
            if is_durable {
                self.wait_for_head(index, turn);
            }
            return;
        }
        turn.actions.push(Action::Reach("relay_held_overflow"));
        self.give_held(index, turn);
    }

    /// Gives members what is held of a stream whose head is not known yet. What they lack, the head
    /// tells when it is.
    pub(super) fn give_held(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let stream = &mut self.streams[index];
        let last = stream.last;
        let busy = stream.busy();
        let restoring = busy.restoring;
        if let Some(resumption) = busy.tail(last) {
            self.go_live(index, Some(resumption), None, None, turn);
            self.read_head(index, turn);
            self.streams[index].busy().restoring = restoring; // Values are lacking as before.
            return;
        }
        let held = busy.take_held();
        busy.covered = 0;
        stream.seats.iter_mut().for_each(|seat| seat.owed = true);
        self.miss(index, &held, turn);
    }

    /// Asks for the head of a stream that some worker wants.
    pub(super) fn read_head(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let stream = &mut self.streams[index];
        if stream.head == Head::Live {
            stream.busy().drop_held();
        }
        stream.head = Head::Reading;
        let by = stream.busy().repair_by;
        self.set_timer(index, by);
        self.ask(index, turn);
    }

    /// Asks where a stream is, and for what of its history is needed.
    pub(super) fn ask(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let read = ReadId(self.next_read);
        self.next_read += 1;
        self.reads.insert(read, index);
        let stream = &mut self.streams[index];
        let (after, known) = (stream.needed_after(), stream.last);
        let busy = stream.busy();
        if let Some(earlier) = busy.read.replace(read) {
            self.reads.remove(&earlier);
        }
        busy.after = after;
        busy.reads += 1;
        busy.covered = busy.held.len();
        busy.unreadable = false;
        turn.actions.push(Action::Read { read, stream: stream.name.clone(), after, known });
    }

    /// The broker has said where a stream is, or that it can't.
    pub(super) fn history_read(
        &mut self,
        read: ReadId,
        history: Option<History>,
        turn: &mut Turn<'_>,
    ) {
        let Some(index) = self.reads.remove(&read) else { return };
        let is_read = history.is_some();
        let stream = &mut self.streams[index];
        stream.busy().read = None;
        match history {
            history if stream.head == Head::Live => self.caught_up(index, history.as_ref(), turn),
            Some(history) => self.resume(index, &history, turn),
            None => self.head_unreadable(index, turn),
        }
        if is_read {
            self.hurry_reads(turn);
        }
        self.pump(turn);
    }

    /// A stream that is not live goes on from what was read, unless that does not join up with what
    /// arrived meanwhile.
    fn resume(&mut self, index: StreamIndex, history: &History, turn: &mut Turn<'_>) {
        let stream = &mut self.streams[index];
        let last = stream.last;
        let busy = stream.busy();
        busy.failures = 0;
        let run = Run::of(history);
        let values = Some(Values::of(history, &[]));
        // What was read may be older than what could not be read.
        let unreadable = busy.unreadable;
        let may_repeat = busy.reads < self.limits.head_reads_max;
        match busy.resume(last, history.head, &run) {
            _ if unreadable && may_repeat => self.read_head(index, turn),
            Some(mut resumption) => {
                resumption.missed |= unreadable && last.is_some();
                self.go_live(index, Some(resumption), Some(run), values, turn);
            }
            None if may_repeat => self.read_head(index, turn),
            None => {
                turn.actions.push(Action::Reach("relay_head_never_joins_up"));
                let (base, from, missed) = (history.head, busy.held.len(), last.is_some());
                let at_head = Resumption { base, from, missed, fill: None };
                let resumption = busy.tail(last).unwrap_or(at_head);
                self.go_live(index, Some(resumption), None, values, turn);
            }
        }
    }

    /// The stream is live: gives members what they lack, or tells them that they lack something,
    /// answers those who wait, and goes on with what was held.
    pub(super) fn go_live(
        &mut self,
        index: StreamIndex,
        resumption: Option<Resumption>,
        run: Option<Run>,
        mut values: Option<Values>,
        turn: &mut Turn<'_>,
    ) {
        let missed = resumption.is_some_and(|resumption| resumption.missed)
            && !planted!("say nothing of a gap");
        self.outlet.stats.gaps += u64::from(missed);
        let restoring = self.streams[index].busy.as_ref().is_some_and(|busy| busy.restoring);
        let spread_ms = self.spread_ms(index, restoring);
        self.set_timer(index, None);
        let after = self.streams[index].busy.as_ref().and_then(|busy| busy.after);
        let held = self.stop(index);
        let stream = &mut self.streams[index];
        stream.head = Head::Live;
        let mut members = stream.last;
        let fill = resumption.and_then(|resumption| resumption.fill).zip(run.as_ref());
        if fill.is_none()
            && let Some(resumption) = resumption
            && stream.last != Some(resumption.base)
        {
            stream.rebase(Some(resumption.base));
        }
        for at in 0..self.streams[index].seats.len() {
            let stream = &mut self.streams[index];
            let seat = &mut stream.seats[at];
            if seat.behind {
                continue; // It is told when it has caught up.
            }
            let owed = std::mem::take(&mut seat.owed) || missed;
            let blind = std::mem::take(&mut seat.blind);
            let worker = seat.worker;
            if owed || blind {
                members.get_or_insert_default();
                self.outlet.resync(stream, worker, owed, spread_ms, turn.actions);
            }
        }
        let end = fill.map(|(_, run)| run.end()).or(self.streams[index].last);
        let mut lacking = self.lacking(index, values.as_mut(), (members, end), restoring, &held);
        if let Some((from, run)) = fill {
            self.fill(index, run.from(from), &mut lacking, turn);
        }
        self.forward_values(index, &mut lacking, None, turn);
        drop(lacking);
        self.streams[index].busy().after = after;
        let last = self.streams[index].last;
        let mut run = run.filter(|_| last.is_some());
        if !run.as_mut().zip(last).is_some_and(|(run, last)| run.end_at(last)) {
            run = None;
        }
        self.answer_all(index, run.as_mut(), values.as_mut(), turn);
        self.streams[index].busy().after = None;
        self.streams[index].trim();
        let from = resumption.map_or(0, |resumption| resumption.from);
        for (at, entry) in held.iter().enumerate() {
            self.release(index, entry, at >= from, turn);
        }
        self.catch_up(index, turn);
    }

    /// Forwards what was missed.
    fn fill<'a>(
        &mut self,
        index: StreamIndex,
        missed: impl Iterator<Item = (Position, Mid, &'a Entry)>,
        lacking: &mut Lacking<'_>,
        turn: &mut Turn<'_>,
    ) {
        let mut count = 0;
        for (position, prev, entry) in missed {
            self.forward_values(index, lacking, Some(position), turn);
            let stream = &mut self.streams[index];
            stream.advance(position);
            let (position, before) = (Some(position), Some(before(position, prev)));
            let (source, filled) = (Some(Source::of(entry)), !lacking.came(entry));
            let body = &entry.body;
            let forward = Forward { body, position, before, source, filled, is_value: false };
            self.outlet.forward(stream, index, forward, turn);
            count += 1;
        }
        if count > 0 {
            turn.actions.push(Action::Reach("relay_gap_filled"));
            self.outlet.stats.gaps_filled += 1;
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
                    if planted!("drop what was held") {
                        return;
                    }
                    self.forward(index, entry, Some(position), Some(prev), turn);
                } else {
                    // A worker that is behind may still be given it.
                    let partial = stream.seats.iter().any(|seat| seat.behind);
                    self.outlet.receipts.handed_to_nobody(Source::of(entry), partial, turn);
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
            // It was on its way while the head was read. An old value must not follow a newer one,
            // or a newer durable message.
            self.outlet.receipts.missed(Source::of(entry), turn);
        } else {
            let stream = &mut self.streams[index];
            if let Place::Latest { version, .. } = entry.place {
                stream.version = stream.version.max(version);
                stream.valued |= version > 0;
            }
            self.forward(index, entry, None, None, turn);
        }
    }

    fn forward(
        &mut self,
        index: StreamIndex,
        entry: &Entry,
        position: Option<Position>,
        prev: Option<Mid>,
        turn: &mut Turn<'_>,
    ) {
        let before = position.zip(prev).map(|(position, prev)| before(position, prev));
        let source = Some(Source::of(entry));
        let is_value = matches!(entry.place, Place::Latest { version: 1.., .. });
        let body = &entry.body;
        let forward = Forward { body, position, before, source, filled: false, is_value };
        self.outlet.forward(&mut self.streams[index], index, forward, turn);
    }

    /// A worker has reported; it may go on with streams in which it was behind: what it lacks is
    /// read, or it is told that it lacks something that no history has.
    pub(super) fn relieve(&mut self, worker: WorkerId, turn: &mut Turn<'_>) {
        let relieved = self.outlet.take_relieved(worker);
        for index in &relieved {
            let spread_ms = self.spread_ms(*index, relieved.len() > 1);
            let stream = &mut self.streams[*index];
            let live = stream.head == Head::Live;
            let seat = *stream.seat(worker);
            let mut behind = stream.busy.iter_mut().flat_map(|busy| &mut busy.behind);
            if let Some(behind) = behind.find(|behind| behind.worker == worker)
                && live
                && !seat.owed
                && !seat.blind
            {
                behind.relieved = true;
                self.catch_up(*index, turn);
                continue;
            }
            if let Some(busy) = &mut stream.busy {
                busy.behind.retain(|behind| behind.worker != worker);
            }
            let seat = stream.seat(worker);
            seat.behind = false;
            if planted!("catch up without a resync") {
                continue;
            }
            seat.owed = !live;
            seat.blind &= !live;
            if live {
                self.outlet.resync(stream, worker, true, spread_ms, turn.actions);
                self.answer_worker(*index, worker, None, None, turn);
                self.streams[*index].trim();
                self.catch_up(*index, turn);
            }
        }
    }

    /// Forgets where a stream is that nobody wants.
    pub(super) fn lose_head(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        self.stop_reading(index, turn);
        let stream = &mut self.streams[index];
        stream.head = Head::Unknown;
        (stream.version, stream.valued) = (0, false);
        stream.rebase(None);
    }

    /// Ends the reading of a head. What was held is lost.
    pub(super) fn stop_reading(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let held = self.stop(index);
        self.miss(index, &held, turn);
    }

    /// Forgets what is read of a stream; gives what was held meanwhile.
    pub(super) fn stop(&mut self, index: StreamIndex) -> Vec<Entry> {
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
    pub(super) fn spread_ms(&self, index: StreamIndex, many_streams: bool) -> u32 {
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
    fn miss(&mut self, index: StreamIndex, held: &[Entry], turn: &mut Turn<'_>) {
        let stream = &self.streams[index];
        let has_members = !stream.seats.is_empty();
        for entry in held {
            // Members without a position are given no more than values when the stream is live.
            let is_kept = stream.last.is_some() || durable(entry).is_none();
            let may_be_filled_in = has_members && is_kept;
            let receipts = &mut self.outlet.receipts;
            receipts.handed_to_nobody(Source::of(entry), may_be_filled_in, turn);
        }
    }
}

/// How long members of one stream are given to refetch, in milliseconds.
const SPREAD_MS_MIN: u32 = 5_000;

/// Longest time that members are given.
const SPREAD_MS_MAX: u32 = 60_000;

/// Refetches that the back ends behind one instance can stand: 2,000 a second.
const REFETCHES_PER_MS: usize = 2;
