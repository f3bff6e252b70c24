//! What would hurt if many did it at once is spread: first pings, reconnects, refetches.

use super::{Failure, Verdict};

/// Times that are to be spread.
#[derive(Debug)]
pub struct Spread {
    /// So many equal ones are no chance.
    enough: u32,
    first: Option<u64>,
    seen: u32,
    differs: bool,
}

impl Spread {
    /// None yet; so many equal ones are no chance.
    pub fn new(enough: u32) -> Self {
        Self { enough, first: None, seen: 0, differs: false }
    }

    /// One of them.
    pub fn saw(&mut self, value: u64) {
        let first = *self.first.get_or_insert(value);
        self.seen += 1;
        self.differs |= value != first;
    }

    /// They are not all the same.
    pub fn judge(&self, what: &str) -> Verdict {
        if self.seen < self.enough || self.differs {
            return Ok(());
        }
        Err(Failure::new("jitter", format!("{} {what} of {:?}", self.seen, self.first)))
    }
}
