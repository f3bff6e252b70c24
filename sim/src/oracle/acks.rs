//! Acknowledgements: a publication is acknowledged only if a client said so on a connection that it
//! was sent to; and where nothing goes wrong, whenever one did in time.

use std::{collections::BTreeSet, time::Duration};

use realtime_core::time::Instant;

use super::{Failure, Verdict};

/// What clients have acknowledged.
#[derive(Debug, Default)]
pub struct Acks {
    said: BTreeSet<usize>,
    heard: BTreeSet<usize>,
}

impl Acks {
    /// A client acknowledges a publication on a connection that brought it.
    pub fn said(&mut self, number: usize) {
        self.said.insert(number);
    }

    /// It is [`WAY`] later, and its connection is well.
    pub fn heard(&mut self, number: usize) {
        self.heard.insert(number);
    }

    /// Somebody waited for it until `by`, and is answered.
    pub fn answered(
        &self,
        number: usize,
        acknowledged: bool,
        now: Instant,
        by: Instant,
        is_calm: bool,
    ) -> Verdict {
        let failed = |what| Err(Failure::new("acks", format!("publication {number}: {what}")));
        if acknowledged && !self.said.contains(&number) {
            return failed("nobody acknowledged it");
        }
        if acknowledged || !is_calm {
            return Ok(());
        }
        if now < by {
            return failed("nobody waited");
        }
        if self.heard.contains(&number) {
            return failed("it was acknowledged");
        }
        Ok(())
    }
}

/// The longest that an acknowledgement is on its way where nothing goes wrong.
pub const WAY: Duration = Duration::from_secs(1);
