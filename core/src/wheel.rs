//! A hashed timer wheel: says when to look at something, and forgets why.
//!
//! What is due is a matter of whoever owns the timers. The wheel may say to look too early (a time
//! beyond its turn is cut to the turn) and is late by less than a tick. Every operation takes a
//! constant time, and none allocates but the first for an index.

use crate::{slab, time::Instant};

/// At most one pending look for each index.
#[derive(Debug, Hash)]
pub(crate) struct Wheel {
    /// The first index of each bucket's list.
    heads: Box<[u32]>,
    /// A bit for each bucket that is not empty.
    occupied: [u64; BUCKETS / 64],
    nodes: Vec<Node>,
    /// Every pending look is in the turn that begins with this tick.
    tick: u64,
}

/// One index's place in the list of its bucket.
#[derive(Clone, Copy, Debug, Hash)]
struct Node {
    next: u32,
    previous: u32,
    bucket: u16,
}

impl Wheel {
    /// Nothing is pending.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            heads: vec![NONE; BUCKETS].into(),
            occupied: [0; BUCKETS / 64],
            nodes: Vec::new(),
            tick: now.0 >> TICK_BITS,
        }
    }

    /// Looks at `index` at `at`, or at the end of this turn when that is earlier. Replaces what was
    /// pending for it.
    pub(crate) fn schedule(&mut self, index: u32, at: Instant) {
        self.cancel(index);
        if self.nodes.len() <= index as usize {
            self.nodes.resize(index as usize + 1, Node::IDLE);
        }
        let turn_end = self.tick + BUCKETS as u64 - 1;
        let bucket = bucket(ceil_tick(at).clamp(self.tick, turn_end));
        let next = self.heads[usize::from(bucket)];
        self.nodes[index as usize] = Node { next, previous: NONE, bucket };
        if next != NONE {
            self.nodes[next as usize].previous = index;
        }
        self.heads[usize::from(bucket)] = index;
        self.occupied[usize::from(bucket) / 64] |= 1 << (bucket % 64);
    }

    /// Nothing is pending for `index`.
    pub(crate) fn cancel(&mut self, index: u32) {
        let Some(node) = self.nodes.get(index as usize).copied() else { return };
        if node.bucket == IDLE {
            return;
        }
        self.nodes[index as usize] = Node::IDLE;
        if node.next != NONE {
            self.nodes[node.next as usize].previous = node.previous;
        }
        if node.previous != NONE {
            self.nodes[node.previous as usize].next = node.next;
            return;
        }
        self.heads[usize::from(node.bucket)] = node.next;
        if node.next == NONE {
            self.occupied[usize::from(node.bucket) / 64] &= !(1 << (node.bucket % 64));
        }
    }

    /// Gives up the places from an index on, for which nothing is pending.
    pub(crate) fn truncate(&mut self, end: usize) {
        self.nodes.truncate(end);
        slab::shrink(&mut self.nodes);
    }

    /// When to call `pop`; none when nothing is pending.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next_tick().map(|tick| Instant(tick << TICK_BITS))
    }

    /// Takes out an index whose look is due at `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<u32> {
        let present = now.0 >> TICK_BITS;
        match self.next_tick() {
            Some(tick) if tick <= present => {
                self.tick = tick;
                let index = self.heads[usize::from(bucket(tick))];
                self.cancel(index);
                Some(index)
            }
            Some(_) | None => {
                self.tick = self.tick.max(present);
                None
            }
        }
    }

    fn next_tick(&self) -> Option<u64> {
        let start = usize::from(bucket(self.tick));
        let words = self.occupied.len();
        // The word of the first bucket comes twice: its upper bits first, its lower bits last.
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                _ if step == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            if bits != 0 {
                let found = word * 64 + bits.trailing_zeros() as usize;
                let distance = (found + BUCKETS - start) % BUCKETS;
                return Some(self.tick + distance as u64);
            }
        }
        None
    }
}

impl Node {
    const IDLE: Self = Self { next: NONE, previous: NONE, bucket: IDLE };
}

fn ceil_tick(at: Instant) -> u64 {
    (at.0 >> TICK_BITS) + u64::from(at.0 & ((1 << TICK_BITS) - 1) != 0)
}

fn bucket(tick: u64) -> u16 {
    u16::try_from(tick % BUCKETS as u64).expect("there are fewer than 2^16 buckets")
}

/// A tick is 2^27 ns, 134 ms.
const TICK_BITS: u32 = 27;

/// About 137 s a turn.
const BUCKETS: usize = 1 << 10;

/// The bucket of an index that nothing is pending for.
const IDLE: u16 = u16::MAX;

/// No index.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const TICK: u64 = 1 << TICK_BITS;

    #[test]
    fn a_look_comes_at_the_next_tick_and_once() {
        let mut wheel = Wheel::new(Instant(0));
        wheel.schedule(3, Instant(TICK + 1));
        assert_eq!(wheel.next(), Some(Instant(2 * TICK)));
        assert_eq!(wheel.pop(Instant(2 * TICK - 1)), None);
        assert_eq!(wheel.pop(Instant(2 * TICK)), Some(3));
        assert_eq!(wheel.pop(Instant(9 * TICK)), None);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_time_beyond_the_turn_is_cut_to_it() {
        let mut wheel = Wheel::new(Instant(0));
        wheel.schedule(0, Instant(u64::MAX));
        assert_eq!(wheel.next(), Some(Instant((BUCKETS as u64 - 1) * TICK)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Cancel(u32),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..40u32, 0..6_000 * TICK).prop_map(|(index, at)| Step::Schedule(index, at)),
            1 => (0..40u32).prop_map(Step::Cancel),
            3 => (0..3_000 * TICK).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Against a sorted map: nothing is late by a tick, early but for the turn, or forgotten.
        #[test]
        fn looks_come_in_time(steps in vec(step(), 1..80)) {
            let mut wheel = Wheel::new(Instant(0));
            let mut model = BTreeMap::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Schedule(index, after) => {
                        wheel.schedule(index, Instant(now + after));
                        model.insert(index, now + after);
                    }
                    Step::Cancel(index) => {
                        wheel.cancel(index);
                        model.remove(&index);
                    }
                    Step::Pass(time) => {
                        now += time;
                        while let Some(index) = wheel.pop(Instant(now)) {
                            let at = model.remove(&index).expect("it was pending");
                            if at > now {
                                wheel.schedule(index, Instant(at));
                                model.insert(index, at);
                            }
                        }
                        prop_assert!(model.values().all(|at| at + TICK > now));
                    }
                }
                prop_assert_eq!(wheel.next().is_some(), !model.is_empty());
                let first = model.values().min();
                prop_assert!(wheel.next().is_none_or(|at| at.0 < first.unwrap() + TICK
                    || at.0 <= now.next_multiple_of(TICK)));
            }
        }
    }
}
