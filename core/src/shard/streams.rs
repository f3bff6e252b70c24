//! Streams, their members, and the walks over them.
//!
//! A member is a slot of the connection table; its index in the list is its seat. A walk is a
//! cursor over a list that may change meanwhile: seats below the cursor are done, those from it to
//! the walk's end are to come, and those behind the end have joined since. A seat that falls vacant
//! is filled from the same part of the list, and the hole moves through the parts to the end of the
//! list. So nobody is skipped or met twice, nothing is copied, and each change moves at most three
//! members.

use std::{
    collections::VecDeque,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::{
    id::{DeliveryId, Position, RequestId},
    intern::Names,
    link::{Publication, Suffix},
    slab::shrink,
    stream::StreamName,
};

/// Every stream that has members, parked joins, or a walk that outlived both.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) names: Names,
    list: Vec<Stream>,
    walks: Vec<Walk>,
    free_walks: Vec<u32>,
}

/// One stream.
#[derive(Debug, Hash)]
pub(super) struct Stream {
    members: Vec<u32>,
    /// Of the last answered join or started publication.
    pub(super) position: Option<Position>,
    /// Joins that are not seated yet.
    pub(super) parked: u32,
    walk: u32,
    /// The relay was sent a `Join`, and no `Vacated` since.
    pub(super) interested: bool,
}

/// A fan-out under way, and what of its stream waits for the end of it. Its slot is used again with
/// the room that its lists have grown, so that a fan-out allocates nothing.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) stream: u32,
    cursor: u32,
    end: u32,
    /// The stream's position before this walk: the one of members that it has yet to meet.
    before: Option<Position>,
    /// The user whose connections are skipped, by the index of the user's stream. That index may
    /// be used again during the walk, but only by a user who joins behind its end.
    pub(super) excluded: u32,
    /// Some of what is being delivered asks to be acknowledged.
    pub(super) asks: bool,
    /// What is being delivered, in order.
    pub(super) carried: Vec<Arc<Publication>>,
    /// Bounded by what the relay has in flight and by the parked joins.
    pub(super) waiting: VecDeque<Item>,
}

/// Something that takes its turn in a stream.
#[derive(Debug)]
pub(super) enum Item {
    Publication(Arc<Publication>),
    Joined { request: RequestId, position: Option<Position>, recovered: bool, suffix: Suffix },
    JoinFailed { request: RequestId },
    Resync { by_all: bool, position: Option<Position>, spread_ms: u32 },
}

impl Streams {
    /// No streams. `key` keys the hash of their names.
    pub(super) fn new(key: u64) -> Self {
        Self { names: Names::new(key), list: Vec::new(), walks: Vec::new(), free_walks: Vec::new() }
    }

    /// The index of the stream `name`, which is made if there is none.
    pub(super) fn open(&mut self, name: &StreamName) -> u32 {
        let index = self.names.intern(name);
        if self.list.len() == index as usize {
            self.list.push(Stream::EMPTY);
        }
        index
    }

    /// Forgets a stream that nobody needs any more.
    pub(super) fn forget(&mut self, stream: u32) {
        let record = &mut self.list[stream as usize];
        assert!(record.members.is_empty(), "a stream with members is needed");
        assert!(record.parked == 0 && record.walk == NONE, "a stream at work is needed");
        *record = Stream::EMPTY;
        self.names.release(stream);
        self.list.truncate(self.names.end());
        shrink(&mut self.list);
    }

    pub(super) fn stream(&self, stream: u32) -> &Stream {
        &self.list[stream as usize]
    }

    pub(super) fn stream_mut(&mut self, stream: u32) -> &mut Stream {
        &mut self.list[stream as usize]
    }

    /// Appends a member, and gives its seat.
    pub(super) fn seat(&mut self, stream: u32, slot: u32) -> u32 {
        let members = &mut self.list[stream as usize].members;
        members.push(slot);
        index(members.len() - 1)
    }

    /// Takes the member at `seat` out. Calls `moved` with each member whose seat has changed.
    pub(super) fn unseat(&mut self, stream: u32, seat: u32, mut moved: impl FnMut(u32, u32)) {
        let Stream { members, walk, .. } = &mut self.list[stream as usize];
        let mut hole = seat;
        let mut fill_from = |members: &mut [u32], from: u32| {
            if hole != from {
                members[hole as usize] = members[from as usize];
                moved(members[hole as usize], hole);
            }
            hole = from;
        };
        if let Some(walk) = self.walks.get_mut(*walk as usize) {
            if seat < walk.cursor && !planted!("skip a member after one has left") {
                walk.cursor -= 1;
                fill_from(members, walk.cursor);
            }
            if seat < walk.end && !planted!("walk past the end after one has left") {
                walk.end -= 1;
                fill_from(members, walk.end);
            }
        }
        let last = index(members.len() - 1);
        fill_from(members, last);
        members.pop();
        if members.capacity() > MEMBERS_KEPT_MAX && members.len() * 4 < members.capacity() {
            members.shrink_to(members.len() * 2);
        }
    }

    /// Up to where the member at `seat` has been sent everything.
    pub(super) fn position_at(&self, stream: u32, seat: u32) -> Option<Position> {
        let record = self.stream(stream);
        match self.walks.get(record.walk as usize) {
            Some(walk) if (walk.cursor..walk.end).contains(&seat) => walk.before,
            Some(_) | None => record.position,
        }
    }

    /// The walk over `stream`.
    pub(super) fn walk_of(&self, stream: u32) -> Option<DeliveryId> {
        let walk = self.stream(stream).walk;
        (walk != NONE).then_some(DeliveryId(walk))
    }

    /// Takes a walk for `stream`, which has none.
    pub(super) fn open_walk(&mut self, stream: u32) -> DeliveryId {
        let walk = self.free_walks.pop().unwrap_or_else(|| {
            self.walks.push(Walk::IDLE);
            index(self.walks.len() - 1)
        });
        self.walks[walk as usize].stream = stream;
        let record = &mut self.list[stream as usize];
        assert_eq!(record.walk, NONE, "fan-outs of one stream never overlap");
        record.walk = walk;
        DeliveryId(walk)
    }

    /// Sets the cursor of a walk before all present members. `position` is the stream's when the
    /// walk is over.
    pub(super) fn start_walk(&mut self, delivery: DeliveryId, position: Option<Position>) {
        let walk = &mut self.walks[delivery.0 as usize];
        let stream = &mut self.list[walk.stream as usize];
        walk.cursor = 0;
        walk.end = index(stream.members.len());
        walk.before = stream.position;
        stream.position = position.or(stream.position);
    }

    /// Gives a walk back that carries nothing and that nothing waits for.
    pub(super) fn close_walk(&mut self, delivery: DeliveryId) {
        let walk = &mut self.walks[delivery.0 as usize];
        assert!(walk.waiting.is_empty() && walk.carried.is_empty(), "the walk has work to do");
        self.list[walk.stream as usize].walk = NONE;
        walk.stream = NONE;
        walk.before = None;
        walk.carried.shrink_to(WALK_KEPT_MAX);
        walk.waiting.shrink_to(WALK_KEPT_MAX);
        self.free_walks.push(delivery.0);
    }

    /// A walk that is under way.
    ///
    /// # Panics
    /// If it is not.
    pub(super) fn walk_mut(&mut self, delivery: DeliveryId) -> &mut Walk {
        let walk = &mut self.walks[delivery.0 as usize];
        assert_ne!(walk.stream, NONE, "this fan-out is over");
        walk
    }

    /// Takes a walk one member further.
    pub(super) fn next_member(&mut self, delivery: DeliveryId) -> Option<u32> {
        let walk = &mut self.walks[delivery.0 as usize];
        if walk.cursor == walk.end {
            return None;
        }
        walk.cursor += 1;
        Some(self.list[walk.stream as usize].members[walk.cursor as usize - 1])
    }
}

impl Stream {
    const EMPTY: Self =
        Self { members: Vec::new(), position: None, parked: 0, walk: NONE, interested: false };

    pub(super) fn members(&self) -> &[u32] {
        &self.members
    }

    pub(super) fn is_walked(&self) -> bool {
        self.walk != NONE
    }
}

impl Walk {
    const IDLE: Self = Self {
        stream: NONE,
        cursor: 0,
        end: 0,
        before: None,
        excluded: NONE,
        asks: false,
        carried: Vec::new(),
        waiting: VecDeque::new(),
    };

    /// Whether every member has been met.
    pub(super) fn is_done(&self) -> bool {
        self.cursor == self.end
    }
}

impl Hash for Streams {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (index, name) in self.names.iter() {
            (index, name.as_str()).hash(state);
        }
        self.list.hash(state);
        self.walks.hash(state);
        self.free_walks.hash(state);
    }
}

impl Hash for Walk {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.stream, self.cursor, self.end, self.before, self.excluded, self.asks).hash(state);
        self.carried.len().hash(state);
        for publication in &self.carried {
            publication.dispatch.hash(state);
        }
        self.waiting.hash(state);
    }
}

impl Hash for Item {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Publication(publication) => (0u8, publication.dispatch).hash(state),
            Self::Joined { request, position, recovered, suffix } => {
                (1u8, request, position, recovered, suffix).hash(state);
            }
            Self::JoinFailed { request } => (3u8, request).hash(state),
            Self::Resync { by_all, position, spread_ms } => {
                (2u8, by_all, position, spread_ms).hash(state);
            }
        }
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("there are fewer than 2^32 connections")
}

/// No stream, no walk.
pub(super) const NONE: u32 = u32::MAX;

/// Members that a list keeps room for when it empties.
const MEMBERS_KEPT_MAX: usize = 64;

/// Publications that an idle walk keeps room for.
const WALK_KEPT_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Join(u32),
        Leave(u32),
        Walk,
        Meet(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..30u32).prop_map(Step::Join),
            3 => (0..30u32).prop_map(Step::Leave),
            1 => Just(Step::Walk),
            3 => (0..6usize).prop_map(Step::Meet),
        ]
    }

    proptest! {
        /// Whoever is a member at the start of a walk and at its end is met exactly once; whoever
        /// leaves is met at most once, and whoever joins behind it never.
        #[test]
        fn a_walk_meets_everyone_once(steps in vec(step(), 1..200)) {
            let mut streams = Streams::new(0);
            let stream = streams.open(&StreamName::all());
            let mut seats: BTreeMap<u32, u32> = BTreeMap::new();
            let mut to_meet: Option<(DeliveryId, BTreeSet<u32>)> = None;
            for step in steps.into_iter().chain([Step::Meet(100)]) {
                match step {
                    Step::Join(slot) => {
                        seats.entry(slot).or_insert_with(|| streams.seat(stream, slot));
                    }
                    Step::Leave(slot) => {
                        let Some(seat) = seats.remove(&slot) else { continue };
                        streams.unseat(stream, seat, |slot, seat| {
                            seats.insert(slot, seat);
                        });
                        if let Some((_, to_meet)) = &mut to_meet {
                            to_meet.remove(&slot);
                        }
                    }
                    Step::Walk if to_meet.is_none() => {
                        let delivery = streams.open_walk(stream);
                        streams.start_walk(delivery, None);
                        to_meet = Some((delivery, seats.keys().copied().collect()));
                    }
                    Step::Walk => {}
                    Step::Meet(count) => {
                        let Some((delivery, members)) = &mut to_meet else { continue };
                        for _ in 0..count {
                            let Some(slot) = streams.next_member(*delivery) else { break };
                            prop_assert!(members.remove(&slot), "{slot} is met twice or too late");
                        }
                        if streams.walk_mut(*delivery).is_done() {
                            prop_assert!(members.is_empty(), "{members:?} are skipped");
                            streams.close_walk(*delivery);
                            to_meet = None;
                        }
                    }
                }
                let members = streams.stream(stream).members();
                prop_assert_eq!(members.len(), seats.len());
                for (slot, seat) in &seats {
                    prop_assert_eq!(members[*seat as usize], *slot);
                }
            }
        }
    }
}
