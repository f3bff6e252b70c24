//! A drain closes connections evenly, tells each before, lets nobody in, and ends.

use std::{collections::BTreeMap, time::Duration};

use realtime_core::time::Instant;

use super::{Failure, Verdict};

/// A shard of one life of an instance.
type Place = (usize, u32, usize);

/// The drains of a run.
#[derive(Debug, Default)]
pub struct Drains(BTreeMap<Place, Drain>);

#[derive(Debug)]
struct Drain {
    started: Instant,
    period: Duration,
    /// Open connections when it started.
    open: u32,
    closed: u32,
    done: bool,
}

impl Drains {
    /// A drain starts.
    pub fn start(&mut self, place: Place, now: Instant, period: Duration, open: u32) {
        let drain = Drain { started: now, period, open, closed: 0, done: false };
        self.0.insert(place, drain);
    }

    /// Whether a shard is being drained.
    pub fn is_on(&self, place: Place) -> bool {
        self.0.contains_key(&place)
    }

    /// A connection is closed by the drain.
    pub fn closed(&mut self, place: Place, now: Instant, was_told: bool) -> Verdict {
        let failed = |what: String| Err(Failure::new("drain", what));
        let Some(drain) = self.0.get_mut(&place) else {
            return failed(format!("closed without a drain at {place:?}"));
        };
        if !was_told {
            return failed(format!("closed without a word before at {place:?}"));
        }
        drain.closed += 1;
        let elapsed = now.saturating_since(drain.started);
        // One at the start, one at the end, the others evenly between them.
        let gaps = u128::from(drain.open.saturating_sub(1).max(1));
        let due = 1 + elapsed.as_nanos() * gaps / drain.period.as_nanos().max(1);
        if u128::from(drain.closed) > due + 1 && !drain.period.is_zero() {
            return failed(format!("{} closes after {elapsed:?}: {drain:?}", drain.closed));
        }
        Ok(())
    }

    /// A shard says that it is empty.
    pub fn done(&mut self, place: Place, occupied: usize) -> Verdict {
        let drain = self.0.get_mut(&place);
        let Some(drain) = drain.filter(|drain| !drain.done && occupied == 0) else {
            let what = format!("done at {place:?} with {occupied} connections, or twice");
            return Err(Failure::new("drain", what));
        };
        drain.done = true;
        Ok(())
    }

    /// An instance is gone before its drain is over.
    pub fn forget(&mut self, life: (usize, u32)) {
        self.0.retain(|place, _| (place.0, place.1) != life);
    }

    /// At the end every drain is over.
    pub fn judge(&self) -> Verdict {
        match self.0.iter().find(|(_, drain)| !drain.done) {
            Some(drain) => Err(Failure::new("drain", format!("it never ends: {drain:?}"))),
            None => Ok(()),
        }
    }
}
