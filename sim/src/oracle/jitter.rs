//! What would hurt if many did it at once is spread: first pings, reconnects, refetches.

use super::{Failure, Verdict};

/// Times that are to be spread.
#[derive(Debug, Default)]
pub struct Spread {
    first: Option<u64>,
    seen: u32,
    differs: bool,
}

impl Spread {
    /// One of them.
    pub fn saw(&mut self, value: u64) {
        let first = *self.first.get_or_insert(value);
        self.seen += 1;
        self.differs |= value != first;
    }

    /// They are not all the same.
    pub fn judge(&self, what: &str) -> Verdict {
        if self.seen < ENOUGH || self.differs {
            return Ok(());
        }
        Err(Failure::new("jitter", format!("{} {what} of {:?}", self.seen, self.first)))
    }
}

/// So many equal numbers of a thousand or more are no chance.
const ENOUGH: u32 = 6;
