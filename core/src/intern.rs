//! Stream names as small numbers.

use std::{
    hash::{DefaultHasher, Hasher},
    mem,
};

use crate::{
    slab::Slab,
    stream::{StreamName, USER_BYTES_MAX, USER_PREFIX},
};

/// Gives every name an index, dense and used again after `release`. A hash table with linear
/// probing over a slab of names; the hash is keyed, since clients choose the names of rooms.
#[derive(Debug)]
pub(crate) struct Names {
    key: u64,
    names: Slab<StreamName>,
    /// A power of two of slots, at most three quarters of them in use.
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    index: u32,
}

impl Names {
    /// No names.
    pub(crate) fn new(key: u64) -> Self {
        Self { key, names: Slab::new(), slots: vec![Slot::FREE; SLOTS_MIN] }
    }

    /// The index of `name`, given out now if it has none.
    pub(crate) fn intern(&mut self, name: &StreamName) -> u32 {
        if let Some(index) = self.find(name.as_str()) {
            return index;
        }
        if (self.len() + 1) * 4 > self.slots.len() * 3 {
            self.resize(self.slots.len() * 2);
        }
        let index = self.names.insert(name.clone());
        self.insert(Slot { hash: self.hash(name.as_str()), index });
        index
    }

    /// The index of `name`, if it has one.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        let slot = self.slots[self.find_slot(name)?];
        Some(slot.index)
    }

    /// The index of the stream of the user `id`, if it has one. Allocates nothing.
    pub(crate) fn find_user(&self, id: &str) -> Option<u32> {
        let mut name = [0; USER_PREFIX.len() + USER_BYTES_MAX];
        let bytes = name.get_mut(..USER_PREFIX.len() + id.len())?;
        bytes[..USER_PREFIX.len()].copy_from_slice(USER_PREFIX.as_bytes());
        bytes[USER_PREFIX.len()..].copy_from_slice(id.as_bytes());
        self.find(str::from_utf8(bytes).ok()?)
    }

    /// The name of an index that is in use.
    pub(crate) fn name(&self, index: u32) -> &StreamName {
        &self.names[index]
    }

    /// Forgets an index that is in use, and its name.
    pub(crate) fn release(&mut self, index: u32) {
        let at = self.find_slot(self.name(index).as_str()).expect("a name in use is in the table");
        self.names.remove(index);
        self.remove(at);
        if self.slots.len() > SLOTS_MIN && self.len() * 8 < self.slots.len() {
            self.resize(self.slots.len() / 2);
        }
    }

    /// Names in use.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// One more than the last index in use.
    pub(crate) fn end(&self) -> usize {
        self.names.end()
    }

    /// Every index in use, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &StreamName)> {
        self.names.iter()
    }

    fn hash(&self, name: &str) -> u32 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.key);
        hasher.write(name.as_bytes());
        u32::try_from(hasher.finish() >> 32).expect("32 bits are left")
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    fn find_slot(&self, name: &str) -> Option<usize> {
        let hash = self.hash(name);
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot.index == FREE {
                return None;
            }
            if slot.hash == hash && self.name(slot.index).as_str() == name {
                return Some(at);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    fn insert(&mut self, slot: Slot) {
        let mut at = self.home(slot.hash);
        while self.slots[at].index != FREE {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = slot;
    }

    /// Moves later slots of the run up, so that no probe meets a hole before its name.
    fn remove(&mut self, mut hole: usize) {
        let mask = self.slots.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.index == FREE {
                break;
            }
            let from_home = at.wrapping_sub(self.home(slot.hash)) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = Slot::FREE;
    }

    fn resize(&mut self, slots: usize) {
        let old = mem::replace(&mut self.slots, vec![Slot::FREE; slots]);
        for slot in old.into_iter().filter(|slot| slot.index != FREE) {
            self.insert(slot);
        }
    }
}

impl Slot {
    const FREE: Self = Self { hash: 0, index: FREE };
}

/// The index of a slot without a name.
const FREE: u32 = u32::MAX;

/// Slots of an empty table.
const SLOTS_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn a_user_is_found_by_id() {
        let mut names = Names::new(1);
        let index = names.intern(&StreamName::user("7").unwrap());
        assert_eq!(names.find_user("7"), Some(index));
        assert_eq!(names.find_user("8"), None);
        assert_eq!(names.find_user(&"7".repeat(USER_BYTES_MAX + 1)), None);
    }

    proptest! {
        /// Against a sorted map, with enough names that probes run into each other.
        #[test]
        fn names_keep_their_index(key: u64, steps in vec((0..120u32, any::<bool>()), 1..600)) {
            let mut names = Names::new(key);
            let mut model = BTreeMap::new();
            for (number, intern) in steps {
                let name = StreamName::room(&number.to_string()).unwrap();
                if intern {
                    let index = names.intern(&name);
                    prop_assert_eq!(*model.entry(number).or_insert(index), index);
                } else if let Some(index) = model.remove(&number) {
                    names.release(index);
                }
                for number in 0..120 {
                    prop_assert_eq!(names.find(&number.to_string()), model.get(&number).copied());
                }
                prop_assert_eq!(names.len(), model.len());
                let mut indices: Vec<u32> = model.values().copied().collect();
                indices.sort_unstable();
                prop_assert_eq!(names.iter().map(|(index, _)| index).collect::<Vec<_>>(), indices);
            }
        }
    }
}
