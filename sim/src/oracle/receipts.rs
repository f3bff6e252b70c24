//! Receipts: each publication that is waited for is answered once and in time, never with more than
//! was handed over, and exactly when nothing went wrong.

use std::collections::BTreeMap;

use realtime_core::{id::Mid, time::Instant};

use crate::truth::Truth;

use super::{Failure, Verdict};

/// Everything that was waited for.
#[derive(Debug, Default)]
pub struct Receipts(BTreeMap<Mid, Expected>);

#[derive(Debug)]
struct Expected {
    number: usize,
    life: (usize, u32),
    deadline: Instant,
    /// What it was answered with; none as long as it was not.
    answer: Option<Option<u32>>,
}

impl Receipts {
    /// Somebody begins to wait.
    pub fn expect(&mut self, mid: Mid, number: usize, life: (usize, u32), deadline: Instant) {
        self.0.insert(mid, Expected { number, life, deadline, answer: None });
    }

    /// A receipt, or none for one that there will be no receipt for.
    pub fn answered(
        &mut self,
        truth: &Truth,
        mid: Mid,
        answer: Option<u32>,
        now: Instant,
        may_be_late: bool,
    ) -> Verdict {
        let failed = |what: &str| Failure::new("receipts", format!("{what}: {mid:?} {answer:?}"));
        let expected = self.0.get_mut(&mid).ok_or_else(|| failed("nobody waits for it"))?;
        if expected.answer.is_some() {
            return Err(failed("the second answer"));
        }
        expected.answer = Some(answer);
        let (handed, _) = truth.publications[expected.number].handed(expected.life);
        if answer.is_some_and(|recipients| recipients > handed) {
            return Err(failed(&format!("only {handed} were handed over")));
        }
        if now > expected.deadline && !may_be_late {
            return Err(failed("late"));
        }
        Ok(())
    }

    /// An instance is gone: nobody waits there any more.
    pub fn forget(&mut self, life: (usize, u32)) {
        self.0.retain(|_, expected| expected.life != life);
    }

    /// At the end nobody waits, and if nothing went wrong every count is exact.
    pub fn judge(&self, truth: &Truth, is_calm: bool) -> Verdict {
        for (mid, expected) in &self.0 {
            let failed =
                |what: &str| Failure::new("receipts", format!("{what}: {mid:?} {expected:?}"));
            let Some(answer) = expected.answer else {
                return Err(failed("never answered"));
            };
            // Who joins while it is published may be counted or not.
            let (all, members) = truth.publications[expected.number].handed(expected.life);
            if is_calm && !answer.is_some_and(|answer| (members..=all).contains(&answer)) {
                return Err(failed(&format!("{members} to {all} were handed over")));
            }
        }
        Ok(())
    }
}
