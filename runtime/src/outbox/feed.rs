//! What a member missed, on its way to it: a cursor over entries that all who resume share.

use std::{collections::BTreeMap, sync::Arc};

use realtime_core::link::{Missed, Suffix};

/// A cursor over a suffix.
#[derive(Debug)]
pub(super) struct Feed {
    suffix: Suffix,
    /// Entries that exclude this user are left out.
    skip_user: Option<Arc<str>>,
    /// The next entry that is not left out.
    at: usize,
    /// Bytes of it that are written.
    written: usize,
}

impl Feed {
    /// None when nothing is to be sent.
    pub(super) fn new(suffix: Suffix, skip_user: Option<Arc<str>>) -> Option<Self> {
        let mut feed = Self { suffix, skip_user, at: 0, written: 0 };
        feed.skip();
        (!feed.is_over()).then_some(feed)
    }

    /// What is still to be written, frame by frame.
    pub(super) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let left = &self.suffix.entries()[self.at..];
        let sent = left.iter().filter(|missed| !self.skips(missed));
        sent.enumerate().map(|(n, missed)| {
            let written = if n == 0 { self.written } else { 0 };
            &missed.frame.0[written..]
        })
    }

    /// Notes that up to `written` bytes of the present frame are out. How many that were, and
    /// whether it is complete.
    pub(super) fn advance(&mut self, written: usize) -> (usize, bool) {
        let frame = &self.suffix.entries()[self.at].frame.0;
        let taken = written.min(frame.len() - self.written);
        self.written += taken;
        let is_complete = self.written == frame.len();
        if is_complete {
            self.at += 1;
            self.written = 0;
            self.skip();
        }
        (taken, is_complete)
    }

    /// Whether all is written.
    pub(super) fn is_over(&self) -> bool {
        self.at == self.suffix.entries().len()
    }

    /// What it shares with others.
    pub(super) fn shared(&self) -> &Arc<[Missed]> {
        self.suffix.shared()
    }

    fn skip(&mut self) {
        while self.suffix.entries().get(self.at).is_some_and(|missed| self.skips(missed)) {
            self.at += 1;
        }
    }

    fn skips(&self, missed: &Missed) -> bool {
        missed.is_skipped_for(self.skip_user.as_deref())
    }
}

/// Entries that are fed to somebody, by where they are: how many feeds share them, and their bytes.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    shared: BTreeMap<usize, (usize, usize)>,
    bytes: usize,
}

impl Pinned {
    /// Counts one more feed of `entries`; false when they are new and more than `room` would be
    /// pinned.
    pub(super) fn pin(&mut self, entries: &Arc<[Missed]>, room: usize) -> bool {
        if let Some((feeds, _)) = self.shared.get_mut(&address(entries)) {
            *feeds += 1;
            return true;
        }
        let bytes = entries.iter().map(|missed| missed.frame.0.len() + size_of::<Missed>()).sum();
        if self.bytes + bytes > room {
            return false;
        }
        self.bytes += bytes;
        self.shared.insert(address(entries), (1, bytes));
        true
    }

    /// A feed of `entries` is over.
    pub(super) fn unpin(&mut self, entries: &Arc<[Missed]>) {
        let address = address(entries);
        let (feeds, bytes) = self.shared.get_mut(&address).expect("it was pinned");
        *feeds -= 1;
        if *feeds == 0 {
            self.bytes -= *bytes;
            self.shared.remove(&address);
        }
    }
}

/// Only compared while the entries are alive.
fn address(entries: &Arc<[Missed]>) -> usize {
    entries.as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use realtime_core::{id::Position, wire::Frame};

    use super::{
        super::{Budget, Outbox, Queued},
        *,
    };

    fn missed(text: &'static str, exclude: Option<&str>) -> Missed {
        Missed {
            frame: Frame(Bytes::from_static(text.as_bytes())),
            kind: "x".into(),
            exclude_user: exclude.map(Into::into),
            acks_to: None,
            position: Some(Position::default()),
        }
    }

    /// Writes all there is, at most `at_once` bytes a time.
    fn drain(outbox: &mut Outbox, budget: &Budget, at_once: usize) -> String {
        let mut out = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 3];
            let used = outbox.front(&mut slices);
            let all: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
            let taken = all.len().min(at_once);
            out.extend(&all[..taken]);
            outbox.advance(taken, budget);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_was_missed_goes_out_in_its_place_and_costs_an_entry() {
        for at_once in 1..12 {
            let (mut outbox, budget) = (Outbox::default(), Budget::new(1_000, 10_000));
            let entries: Arc<[Missed]> =
                [missed("one", None), missed("two", None), missed("three", None)].into();
            outbox.push(Bytes::from_static(b"<"), None, &budget);
            assert_eq!(outbox.feed(Suffix::new(entries, 1), None, &budget), Queued::Fits);
            outbox.push(Bytes::from_static(b">"), None, &budget);
            assert_eq!(budget.used_bytes(), 2 + 3 * super::super::ENTRY_BYTES);
            assert_eq!(drain(&mut outbox, &budget, at_once), "<twothree>");
            assert_eq!((budget.used_bytes(), budget.pinned.borrow().bytes), (0, 0));
        }
    }

    #[test]
    fn the_excluded_user_is_fed_the_others() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(1_000, 10_000));
        let entries = [
            missed("a", Some("ann")),
            missed("b", None),
            missed("c", Some("bob")),
            missed("d", Some("ann")),
        ];
        let suffix = Suffix::new(entries.into(), 0);
        outbox.feed(suffix, Some("ann".into()), &budget);
        assert_eq!(drain(&mut outbox, &budget, 100), "bc");
        let suffix = Suffix::new([missed("a", Some("ann"))].into(), 0);
        assert_eq!(outbox.feed(suffix, Some("ann".into()), &budget), Queued::Fits);
        assert!(outbox.is_empty());
    }

    #[test]
    fn an_urgent_frame_goes_between_two_that_were_missed() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(1_000, 10_000));
        let suffix = Suffix::new([missed("one", None), missed("two", None)].into(), 0);
        outbox.feed(suffix, None, &budget);
        outbox.advance(1, &budget);
        outbox.push_urgent(b"!");
        assert_eq!(drain(&mut outbox, &budget, 100), "ne!two");
    }

    #[test]
    fn what_many_are_fed_counts_once_and_is_bounded() {
        let budget = Budget::new(1_000, 1_500);
        let long = |n: usize| -> Arc<[Missed]> { vec![missed("x", None); n].into() };
        let shared = long(10);
        let mut outboxes: Vec<Outbox> = (0..5).map(|_| Outbox::default()).collect();
        for outbox in &mut outboxes {
            let suffix = Suffix::new(Arc::clone(&shared), 0);
            assert_eq!(outbox.feed(suffix, None, &budget), Queued::Fits);
        }
        let mut other = Outbox::default();
        assert_eq!(other.feed(Suffix::new(long(20), 0), None, &budget), Queued::Overflowed);
        for outbox in &mut outboxes {
            outbox.clear(&budget);
        }
        assert_eq!(budget.pinned.borrow().bytes, 0);
    }
}
