//! A list whose places are used again.

use std::{cmp::Reverse, collections::BinaryHeap, ops};

/// Values by index. The lowest free place is taken first, and the list ends with the last value,
/// so that what a crowd needed is given back when it has gone.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Option<T>>,
    /// The free places, and some that are behind the end by now.
    free: BinaryHeap<Reverse<u32>>,
    used: usize,
}

impl<T> Slab<T> {
    /// No values.
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), free: BinaryHeap::new(), used: 0 }
    }

    /// Values in it.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// One more than the last index in use.
    pub(crate) fn end(&self) -> usize {
        self.places.len()
    }

    /// Puts a value in, and gives its index.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.used += 1;
        if let Some(Reverse(index)) = self.free.pop()
            && let Some(place) = self.places.get_mut(index as usize)
        {
            *place = Some(value);
            return index;
        }
        self.free.clear(); // The lowest one was behind the end, and so are all.
        self.places.push(Some(value));
        u32::try_from(self.places.len() - 1).expect("fewer than 2^32 values fit in memory")
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.places.get_mut(index as usize)?.take()?;
        self.used -= 1;
        self.free.push(Reverse(index));
        while let Some(None) = self.places.last() {
            self.places.pop();
        }
        let end = self.places.len();
        if self.free.len() > end.max(KEPT_MAX) {
            self.free.retain(|Reverse(index)| (*index as usize) < end);
            self.free.shrink_to(end);
        }
        shrink(&mut self.places);
        Some(value)
    }

    /// The value at an index, if there is one.
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.places.get(index as usize)?.as_ref()
    }

    /// Every index in use with its value, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.iter_from(0)
    }

    /// Likewise, from an index on.
    pub(crate) fn iter_from(&self, first: u32) -> impl Iterator<Item = (u32, &T)> {
        let places = self.places.get(first as usize..).unwrap_or_default();
        (first..).zip(places).filter_map(|(index, place)| Some((index, place.as_ref()?)))
    }
}

impl<T> ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        self.get(index).expect("the index is in use")
    }
}

impl<T> ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.places[index as usize].as_mut().expect("the index is in use")
    }
}

/// Gives back what a list needed when it was at least four times as long.
pub(crate) fn shrink<T>(list: &mut Vec<T>) {
    if list.capacity() > KEPT_MAX && list.len() * 4 < list.capacity() {
        list.shrink_to(list.len() * 2);
    }
}

/// Places that are kept in any case.
const KEPT_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn when_a_crowd_has_gone_its_places_are_gone_too() {
        let mut slab = Slab::new();
        for number in 0..10_000_u32 {
            assert_eq!(slab.insert(number), number);
        }
        for number in (0..10_000).filter(|number| *number != 7) {
            assert_eq!(slab.remove(number), Some(number));
        }
        assert_eq!((slab.len(), slab.end()), (1, 8));
        assert!(slab.places.capacity() <= 16 && slab.free.capacity() <= 16);
        assert_eq!(slab.insert(1), 0);
    }

    proptest! {
        /// Against a sorted map: the lowest free index is taken, and nothing moves.
        #[test]
        fn values_keep_their_index(steps in vec((0..200_u32, any::<bool>()), 1..800)) {
            let mut slab = Slab::new();
            let mut model = BTreeMap::new();
            for (number, insert) in steps {
                if insert {
                    let free = (0..).find(|index| !model.contains_key(index));
                    model.insert(free.unwrap(), number);
                    prop_assert_eq!(Some(slab.insert(number)), free);
                } else {
                    prop_assert_eq!(slab.remove(number), model.remove(&number));
                }
                prop_assert_eq!(slab.len(), model.len());
                let end = model.last_key_value().map_or(0, |(index, _)| *index as usize + 1);
                prop_assert_eq!(slab.end(), end);
                let all: Vec<_> = slab.iter().map(|(index, value)| (index, *value)).collect();
                prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
            }
        }
    }
}
