//! Comparing streams with the broker: that the last message or value of an idle stream was lost is
//! found by nothing else.

use std::{collections::VecDeque, time::Duration};

use crate::{
    id::{CheckId, Position},
    stream::StreamName,
    time::Instant,
};

use super::{
    Action, Relay, StreamHead, Turn,
    stream::{Head, Stream},
    streams::StreamIndex,
};

/// Compares every live stream once in a while, some at a time.
#[derive(Debug, Hash)]
pub(super) struct Checks {
    /// In this time each stream has its turn.
    round: Duration,
    /// Where in the slab to go on.
    cursor: usize,
    /// When that is due, while there is a subscription connection.
    next: Option<Instant>,
    /// The newest comparison.
    last: CheckId,
    /// What the newest one is about and where that was, until it is answered.
    asked: Vec<(StreamName, Position)>,
    /// Streams that the broker was ahead in, in the order of time.
    late: VecDeque<Late>,
}

/// A stream that is looked at again: what it lacks may be on its way.
#[derive(Debug, Hash)]
struct Late {
    at: Instant,
    stream: StreamName,
    /// Where it was, if the broker had more.
    was: Option<Position>,
    /// The version that the broker had.
    version: u64,
}

/// What a comparison shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// They agree.
    Same,
    /// The broker has more.
    Behind,
    /// The broker has something else, or less.
    Other,
}

impl Checks {
    pub(super) fn new(round: Duration) -> Self {
        let (asked, late) = (Vec::new(), VecDeque::new());
        Self { round, cursor: 0, next: None, last: CheckId(0), asked, late }
    }

    /// When something is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let late = self.late.front().map(|late| late.at);
        self.next.into_iter().chain(late).min()
    }

    /// There is no connection: each stream is read anyway when there is one again.
    pub(super) fn stop(&mut self) {
        self.next = None;
        self.asked.clear();
        self.late.clear();
    }

    /// The time from one comparison to the next.
    fn interval(&self, streams: usize) -> Duration {
        let turns = streams.div_ceil(COMPARED_MAX).max(1);
        self.round / u32::try_from(turns).unwrap_or(u32::MAX)
    }
}

impl Relay {
    /// A connection is up. Instances that lost theirs together do not compare together.
    pub(super) fn start_checks(&mut self, turn: &Turn<'_>) {
        if self.limits.positions && !planted!("compare no stream with the broker") {
            let interval = self.checks.interval(self.streams.len()).as_nanos();
            let jitter = self.rng.below(u64::try_from(interval).unwrap_or(u64::MAX).max(1));
            self.checks.next = Some(turn.now + Duration::from_nanos(jitter));
        }
    }

    /// Compares the next streams, when it is time to.
    pub(super) fn check(&mut self, turn: &mut Turn<'_>) {
        while let Some(late) = self.checks.late.pop_front_if(|late| late.at <= turn.now) {
            self.look_again(&late, turn);
        }
        if self.checks.next.is_none_or(|next| next > turn.now) {
            return;
        }
        self.checks.next = Some(turn.now + self.checks.interval(self.streams.len()));
        if !self.checks.asked.is_empty() {
            return; // The broker is slow.
        }
        let from = std::mem::take(&mut self.checks.cursor);
        self.gather(from);
        if self.checks.asked.is_empty() && from > 0 {
            self.gather(0); // There is none behind the last one.
        }
        if self.checks.asked.is_empty() {
            return;
        }
        let check = CheckId(self.checks.last.0 + 1);
        self.checks.last = check;
        let streams = self.checks.asked.iter().map(|(name, _)| name.clone()).collect();
        turn.actions.push(Action::Compare { check, streams });
    }

    /// Takes the streams that are next in the slab.
    fn gather(&mut self, from: usize) {
        let asked = &mut self.checks.asked;
        let (cursor, is_more) = self.streams.some_from(from, |stream| {
            asked.extend(place(stream));
            asked.len() < COMPARED_MAX
        });
        self.checks.cursor = if is_more { cursor } else { 0 };
    }

    /// The broker has said where streams are, or that it can't; none for one that it knows nothing
    /// of.
    pub(super) fn compared(
        &mut self,
        check: CheckId,
        heads: Option<Vec<Option<StreamHead>>>,
        turn: &mut Turn<'_>,
    ) {
        if check != self.checks.last {
            return;
        }
        let asked = std::mem::take(&mut self.checks.asked);
        let Some(heads) = heads else { return };
        self.outlet.stats.compared += asked.len() as u64;
        for ((name, was), head) in asked.into_iter().zip(heads) {
            let Some((index, last)) = self.live(&name) else { continue };
            let version = head.map_or(0, |head| head.version);
            let at = turn.now + LATE;
            match head.map_or(Finding::Other, |head| compare(was, last, head.position)) {
                Finding::Same if planted!("compare no values") => {}
                Finding::Same if version > self.streams[index].version => {
                    self.checks.late.push_back(Late { at, stream: name, was: None, version });
                }
                Finding::Same => {}
                Finding::Behind => {
                    self.checks.late.push_back(Late { at, stream: name, was: Some(last), version });
                }
                Finding::Other if planted!("compare only what is ahead") => {}
                Finding::Other => {
                    turn.actions.push(Action::Reach("relay_check_differs"));
                    self.outlet.stats.compared_unequal += 1;
                    self.read_head(index, turn);
                }
            }
        }
    }

    /// What the broker had more of has had its time to come. A stream that has moved shows by
    /// itself whether it lacks a message.
    fn look_again(&mut self, late: &Late, turn: &mut Turn<'_>) {
        if let Some((index, last)) = self.live(&late.stream)
            && (late.was == Some(last) || late.version > self.streams[index].version)
        {
            turn.actions.push(Action::Reach("relay_check_finds_a_loss"));
            self.outlet.stats.compared_unequal += 1;
            self.read_head(index, turn);
        }
    }

    /// A stream that is live and has members, and where it is.
    fn live(&self, name: &StreamName) -> Option<(StreamIndex, Position)> {
        let index = self.streams.find(name)?;
        Some((index, place(&self.streams[index])?.1))
    }
}

/// Where a stream is, if it is live and has members.
fn place(stream: &Stream) -> Option<(StreamName, Position)> {
    let is_live = stream.head == Head::Live && !stream.seats.is_empty();
    stream.last.filter(|_| is_live).map(|last| (stream.name.clone(), last))
}

/// Compares the broker's head with where the stream was when it was asked and where it is now.
fn compare(was: Position, last: Position, head: Position) -> Finding {
    if head == was || head == last {
        Finding::Same
    } else if head.epoch != last.epoch {
        Finding::Other
    } else if head.offset > last.offset {
        Finding::Behind
    } else if was.epoch == head.epoch && head.offset > was.offset && head.offset < last.offset {
        Finding::Same // It has come meanwhile.
    } else {
        Finding::Other
    }
}

/// Streams that are compared at once: a fraction of a millisecond of Redis' time.
const COMPARED_MAX: usize = 256;

/// How late a message may be before it counts as lost. Longer than any of the usual delays.
const LATE: Duration = Duration::from_secs(1);
