//! Receipts: each publication that is waited for is answered once and in time, never with more than
//! was handed over on all instances together, and exactly when it says that it is complete.

use std::{collections::BTreeMap, time::Duration};

use realtime_core::{id::Mid, time::Instant};

use crate::{plan::Class, truth::Truth};

use super::{Failure, Verdict};

/// Everything that was waited for.
#[derive(Debug, Default)]
pub struct Receipts(BTreeMap<Mid, Expected>);

#[derive(Debug)]
struct Expected {
    number: usize,
    life: (usize, u32),
    deadline: Instant,
    /// Until when it waits for an acknowledgement, if it does.
    ack_by: Option<Instant>,
    /// What it was answered with, and whether that is said to be all; none as long as it was not.
    answer: Option<Option<(u32, bool)>>,
}

impl Receipts {
    /// Somebody begins to wait.
    pub fn expect(
        &mut self,
        mid: Mid,
        number: usize,
        life: (usize, u32),
        deadline: Instant,
        ack_by: Option<Instant>,
    ) {
        self.0.insert(mid, Expected { number, life, deadline, ack_by, answer: None });
    }

    /// A receipt, or none for one that there will be no receipt for.
    pub fn answered(
        &mut self,
        truth: &Truth,
        mid: Mid,
        answer: Option<(u32, bool)>,
        now: Instant,
        may_be_late: bool,
    ) -> Verdict {
        let failed = |what: &str| Failure::new("receipts", format!("{what}: {mid:?} {answer:?}"));
        let expected = self.0.get_mut(&mid).ok_or_else(|| failed("nobody waits for it"))?;
        if expected.answer.is_some() {
            return Err(failed("the second answer"));
        }
        expected.answer = Some(answer);
        let (handed, _) = truth.publications[expected.number].handed();
        if answer.is_some_and(|(recipients, _)| recipients > handed) {
            return Err(failed(&format!("only {handed} were handed over")));
        }
        if now > expected.ack_by.unwrap_or(expected.deadline) && !may_be_late {
            return Err(failed("late"));
        }
        Ok(())
    }

    /// Until when somebody waits for counts, and for an acknowledgement.
    pub fn deadlines(&self, mid: Mid) -> Option<(Instant, Option<Instant>)> {
        self.0.get(&mid).map(|expected| (expected.deadline, expected.ack_by))
    }

    /// The number of a publication that somebody waits for an acknowledgement of, and until when.
    pub fn awaits_ack(&self, mid: Mid) -> Option<(usize, Instant)> {
        let expected = self.0.get(&mid)?;
        expected.ack_by.map(|by| (expected.number, by))
    }

    /// An instance is gone: nobody waits there any more.
    pub fn forget(&mut self, life: (usize, u32)) {
        self.0.retain(|_, expected| expected.life != life);
    }

    /// At the end nobody waits, every count that is said to be complete is, unless instances stood
    /// still and seemed dead. If nothing went wrong every count is, and says so where the network
    /// is fast: elsewhere one of nobody may come too late.
    pub fn judge(&self, truth: &Truth, is_calm: bool, is_steady: bool, is_fast: bool) -> Verdict {
        for (mid, expected) in &self.0 {
            let failed =
                |what: &str| Failure::new("receipts", format!("{what}: {mid:?} {expected:?}"));
            let Some(answer) = expected.answer else {
                return Err(failed("never answered"));
            };
            // Who joins while it is published may be counted or not.
            let publication = &truth.publications[expected.number];
            let (all, members) = publication.handed();
            let is_exact = answer.is_some_and(|(count, _)| (members..=all).contains(&count));
            let is_complete = answer.is_some_and(|(_, complete)| complete);
            // A long fan-out is answered with what was counted so far.
            let last = publication.last_handed;
            let in_time = last.is_none_or(|last| last + REPORT < expected.deadline);
            let is_calm = is_calm && in_time;
            // Somebody may be about to join, and be given a value that came before.
            let may_be_given = matches!(publication.class, Class::Latest(_)) && all == 0;
            let must_say_so = is_calm && is_fast && !may_be_given;
            if (is_complete && is_steady || is_calm) && !is_exact || must_say_so && !is_complete {
                return Err(failed(&format!("{members} to {all} were handed over")));
            }
        }
        Ok(())
    }
}

/// The longest that a report of what was handed over takes where nothing goes wrong.
const REPORT: Duration = Duration::from_millis(120);
