//! All streams of a relay, found by name or by index.

use std::{
    hash::{DefaultHasher, Hasher},
    ops,
};

use crate::{slab::Slab, stream::StreamName};

use super::stream::Stream;

/// Where a stream is kept. Used again after the stream is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct StreamIndex(pub(super) u32);

/// A slab of streams and an open-addressing table from names to places in it. Iteration follows
/// the slab, so that it depends on inputs only and never on hashes.
#[derive(Debug)]
pub(super) struct Streams {
    slab: Slab<Stream>,
    cells: Vec<Cell>,
    seed: u64,
}

/// One cell of the table: 8 bytes, at most three quarters of them in use.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    hash: u32,
    /// Index of the stream plus one; 0 is an empty cell.
    stream: u32,
}

impl Streams {
    /// No streams. The seed keeps those who choose room names from choosing their cells as well.
    pub(super) fn new(seed: u64) -> Self {
        Self { slab: Slab::new(), cells: vec![Cell::default(); CELLS_MIN], seed }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Finds a stream by its name.
    pub(super) fn find(&self, name: &StreamName) -> Option<StreamIndex> {
        let hash = self.hash(name);
        let mut at = self.home(hash);
        loop {
            let cell = self.cells[at];
            let index = StreamIndex(cell.stream.checked_sub(1)?);
            if cell.hash == hash && self[index].name == *name {
                return Some(index);
            }
            at = self.after(at);
        }
    }

    /// Adds a stream that is not there yet.
    pub(super) fn insert(&mut self, name: StreamName) -> StreamIndex {
        if (self.len() + 1) * 4 > self.cells.len() * 3 {
            self.resize(self.cells.len() * 2);
        }
        let hash = self.hash(&name);
        let index = self.slab.insert(Stream::new(name));
        self.occupy(Cell { hash, stream: index + 1 });
        StreamIndex(index)
    }

    /// Forgets a stream.
    pub(super) fn remove(&mut self, index: StreamIndex) {
        let hash = self.hash(&self[index].name);
        let mut hole = self.home(hash);
        while self.cells[hole].stream != index.0 + 1 {
            hole = self.after(hole);
        }
        // Cells behind the hole move up, so that no search ends before it has found its stream.
        let mut at = self.after(hole);
        while self.cells[at].stream != 0 {
            let home = self.home(self.cells[at].hash);
            let mask = self.cells.len() - 1;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.cells[hole] = Cell::default();
        self.slab.remove(index.0);
        if self.cells.len() > CELLS_MIN && self.len() * 8 < self.cells.len() {
            self.resize(self.cells.len() / 2);
        }
    }

    /// The indices of all streams, in slab order.
    pub(super) fn indices(&self) -> Vec<StreamIndex> {
        self.slab.iter().map(|(index, _)| StreamIndex(index)).collect()
    }

    /// Calls `visit` with the streams from a place in the slab on, until it returns false. Gives
    /// the place to go on at, and whether there may be more from there on.
    pub(super) fn some_from(
        &self,
        place: usize,
        mut visit: impl FnMut(&Stream) -> bool,
    ) -> (usize, bool) {
        let from = u32::try_from(place).unwrap_or(u32::MAX);
        for (index, stream) in self.slab.iter_from(from) {
            if !visit(stream) {
                return (index as usize + 1, true);
            }
        }
        (self.slab.end(), false)
    }

    /// All streams, in slab order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slab.iter().map(|(_, stream)| stream)
    }

    fn hash(&self, name: &StreamName) -> u32 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write(name.as_str().as_bytes());
        let hash = hasher.finish();
        u32::try_from(hash >> 32).expect("32 bits are left")
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.cells.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.cells.len() - 1)
    }

    fn occupy(&mut self, cell: Cell) {
        let mut at = self.home(cell.hash);
        while self.cells[at].stream != 0 {
            at = self.after(at);
        }
        self.cells[at] = cell;
    }

    fn resize(&mut self, cells: usize) {
        let cells = vec![Cell::default(); cells];
        for cell in std::mem::replace(&mut self.cells, cells) {
            if cell.stream != 0 {
                self.occupy(cell);
            }
        }
    }
}

impl ops::Index<StreamIndex> for Streams {
    type Output = Stream;

    fn index(&self, index: StreamIndex) -> &Stream {
        &self.slab[index.0]
    }
}

impl ops::IndexMut<StreamIndex> for Streams {
    fn index_mut(&mut self, index: StreamIndex) -> &mut Stream {
        &mut self.slab[index.0]
    }
}

/// Cells of an empty table. A power of two, as every size of it.
const CELLS_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(number: u16) -> StreamName {
        StreamName::room(&format!("event:{number}")).unwrap()
    }

    proptest! {
        #[test]
        fn streams_are_found_as_in_an_ordered_map(
            seed: u64,
            steps in prop::collection::vec((any::<bool>(), 0..200_u16), 0..600),
        ) {
            let mut streams = Streams::new(seed);
            let mut model = BTreeMap::new();
            for (keep, number) in steps {
                match (streams.find(&name(number)), keep) {
                    (None, true) => {
                        model.insert(number, streams.insert(name(number)));
                    }
                    (Some(index), false) => {
                        streams.remove(index);
                        model.remove(&number);
                    }
                    (None, false) | (Some(_), true) => {}
                }
                prop_assert_eq!(streams.len(), model.len());
            }
            for number in 0..200 {
                prop_assert_eq!(streams.find(&name(number)), model.get(&number).copied());
            }
        }
    }
}
