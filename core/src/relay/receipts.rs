//! How many connections of this instance its own publications were handed to.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id::{DispatchId, Mid},
    stream::StreamName,
    time::Instant,
};

use super::Action;

/// The publications that somebody waits for.
#[derive(Debug, Default, Hash)]
pub(super) struct Receipts {
    expected: BTreeMap<Mid, Expected>,
    deadlines: BTreeSet<(Instant, Mid)>,
    dispatched: BTreeMap<DispatchId, Mid>,
}

/// A publication that somebody waits for.
#[derive(Debug, Hash)]
struct Expected {
    stream: StreamName,
    deadline: Instant,
    /// Set once it has come in and gone out to workers.
    dispatch: Option<DispatchId>,
    /// Workers that have not reported.
    pending: usize,
    recipients: u32,
}

impl Receipts {
    /// Begins to wait for `mid`; false when `max` others are waited for already.
    pub(super) fn expect(
        &mut self,
        mid: Mid,
        stream: StreamName,
        deadline: Instant,
        max: u32,
    ) -> bool {
        if let Some(expected) = self.expected.get_mut(&mid) {
            self.deadlines.remove(&(expected.deadline, mid));
            expected.deadline = deadline;
        } else if self.expected.len() >= max as usize {
            return false;
        } else {
            let expected = Expected { stream, deadline, dispatch: None, pending: 0, recipients: 0 };
            self.expected.insert(mid, expected);
        }
        self.deadlines.insert((deadline, mid));
        true
    }

    /// The stream of a publication that is waited for and has not come in.
    pub(super) fn outstanding(&self, mid: Mid) -> Option<&StreamName> {
        let expected = self.expected.get(&mid)?;
        expected.dispatch.is_none().then_some(&expected.stream)
    }

    /// `mid` has gone out to `workers` workers. Only the first time counts.
    pub(super) fn dispatched(
        &mut self,
        mid: Mid,
        dispatch: DispatchId,
        workers: usize,
        actions: &mut Vec<Action>,
    ) {
        let Some(expected) = self.expected.get_mut(&mid) else { return };
        if expected.dispatch.is_some() {
            return;
        }
        if workers == 0 {
            return self.answer(mid, actions);
        }
        expected.dispatch = Some(dispatch);
        expected.pending = workers;
        self.dispatched.insert(dispatch, mid);
    }

    /// `mid` will not be handed to anybody, unless that has begun already.
    pub(super) fn missed(&mut self, mid: Mid, actions: &mut Vec<Action>) {
        if self.outstanding(mid).is_some() {
            self.answer(mid, actions);
        }
    }

    /// A worker has handed `dispatch` to `recipients` connections.
    pub(super) fn handed_over(
        &mut self,
        dispatch: DispatchId,
        recipients: u32,
        actions: &mut Vec<Action>,
    ) {
        let Some(&mid) = self.dispatched.get(&dispatch) else { return };
        let expected = self.expected.get_mut(&mid).expect("what is dispatched is expected");
        expected.recipients = expected.recipients.saturating_add(recipients);
        expected.pending -= 1;
        if expected.pending == 0 {
            self.answer(mid, actions);
        }
    }

    /// Answers those whose time is up with what was counted so far.
    pub(super) fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while let Some(&(deadline, mid)) = self.deadlines.first()
            && deadline <= now
            && !planted!("wait for receipts for ever")
        {
            self.answer(mid, actions);
        }
    }

    /// Answers those that have not come in: they can't any more, the connection is gone.
    pub(super) fn disconnect(&mut self, actions: &mut Vec<Action>) {
        let waiting = self.expected.iter().filter(|(_, expected)| expected.dispatch.is_none());
        let mids: Vec<Mid> = waiting.map(|(&mid, _)| mid).collect();
        for mid in mids {
            self.answer(mid, actions);
        }
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    fn answer(&mut self, mid: Mid, actions: &mut Vec<Action>) {
        let expected = self.expected.remove(&mid).expect("only called for what is expected");
        self.deadlines.remove(&(expected.deadline, mid));
        if let Some(dispatch) = expected.dispatch {
            self.dispatched.remove(&dispatch);
        }
        actions.push(Action::Receipt { mid, recipients: expected.recipients });
    }
}
