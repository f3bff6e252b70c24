//! What a socket could not take at once: a byte-bounded queue per connection, within a byte budget
//! of all connections of a worker.

mod feed;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::IoSlice,
    sync::Arc,
};

use bytes::{Buf, Bytes};
use realtime_core::link::{Suffix, ValueKey};

use self::feed::{Feed, Pinned};

/// Frames waiting for a socket. Owns no memory while it is empty. Frames are shared, not copied.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Item>,
    /// What the queue costs: its bytes and [`ENTRY_BYTES`] for each entry.
    queued_bytes: usize,
    /// A frame that goes out as soon as the one at the front is complete. Not counted.
    urgent: Option<Box<[u8]>>,
    /// A part of the frame at the front is out.
    begun: bool,
    congested: bool,
    overflowed: bool,
}

/// Something that waits.
#[derive(Debug)]
enum Item {
    Frame(Bytes),
    /// A `latest` value, which a newer one may replace.
    Value(ValueKey, Bytes),
    /// What a member missed. Counts as an entry only: its bytes are shared by all who resume.
    Feed(Box<Feed>),
}

/// How much outboxes may hold: each for itself, and all of one worker together.
#[derive(Debug)]
pub struct Budget {
    connection_bytes_max: usize,
    total_bytes_max: usize,
    used_bytes: Cell<usize>,
    /// Values that newer ones took the place of, ever.
    replaced: Cell<u64>,
    /// What is fed to somebody, each counted once.
    pinned: RefCell<Pinned>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It is queued.
    Fits,
    /// It is queued, and with it the outbox is more than half full, for the first time since it was
    /// relieved.
    Congested,
    /// It does not fit, for the first time; it is not queued.
    Overflowed,
    /// It is not queued, since an earlier one was not.
    Refused,
}

impl Budget {
    /// At most `connection_bytes_max` in one outbox and `total_bytes_max` in all.
    pub fn new(connection_bytes_max: usize, total_bytes_max: usize) -> Self {
        Self {
            connection_bytes_max,
            total_bytes_max,
            used_bytes: Cell::new(0),
            replaced: Cell::new(0),
            pinned: RefCell::default(),
        }
    }

    /// `latest` values that newer ones took the place of, ever.
    pub fn replaced(&self) -> u64 {
        self.replaced.get()
    }

    /// Bytes in all outboxes.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.get()
    }
}

impl Outbox {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether it is more than half full.
    pub fn is_congested(&self) -> bool {
        self.congested
    }

    /// Whether a frame did not fit. None is accepted any more.
    pub fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// Notes that what was just queued, the first that waits, is the rest of a frame whose
    /// beginning is out.
    pub fn note_begun(&mut self) {
        self.begun = !self.is_empty();
    }

    /// Queues a frame if it fits. After one that did not fit, none does: the peer would see a gap.
    /// What is queued then is of no use to it, but for the frame that is half out: it will have to
    /// come again for the rest.
    ///
    /// A `latest` value makes an older one leave the queue of a congested outbox. It waits at the
    /// end itself: it must not overtake what was published between the two.
    pub fn push(&mut self, frame: Bytes, value_of: Option<ValueKey>, budget: &Budget) -> Queued {
        if self.overflowed {
            return Queued::Refused;
        }
        if let Some(value_of) = value_of.filter(|_| self.congested) {
            self.give_way(value_of, budget);
        }
        let bytes = frame.len() + ENTRY_BYTES;
        let is_full = self.queued_bytes + bytes > budget.connection_bytes_max;
        if is_full && !planted!("let an outbox grow without bounds")
            || budget.used_bytes() + bytes > budget.total_bytes_max
        {
            self.overflow(budget);
            return Queued::Overflowed;
        }
        let cost = frame.len();
        let item = match value_of {
            Some(value_of) => Item::Value(value_of, frame),
            None => Item::Frame(frame),
        };
        self.push_item(item, cost, budget);
        if !self.congested && self.queued_bytes > budget.connection_bytes_max / 2 {
            self.congested = true;
            return Queued::Congested;
        }
        Queued::Fits
    }

    /// Queues what a member missed, to be sent as the socket drains. It does not fit when all that
    /// is fed on this worker, each shared piece counted once, would be more than all outboxes may
    /// hold.
    pub fn feed(&mut self, suffix: Suffix, skip_user: Option<Arc<str>>, budget: &Budget) -> Queued {
        if self.overflowed {
            return Queued::Refused;
        }
        let Some(feed) = Feed::new(suffix, skip_user) else { return Queued::Fits };
        let room = budget.total_bytes_max.saturating_sub(budget.used_bytes());
        if !budget.pinned.borrow_mut().pin(feed.shared(), room) {
            self.overflow(budget);
            return Queued::Overflowed;
        }
        self.push_item(Item::Feed(Box::new(feed)), 0, budget);
        Queued::Fits
    }

    /// Queues a frame whether it fits or not: a close frame, the last one of a connection.
    pub fn push_anyway(&mut self, frame: Bytes, budget: &Budget) {
        let bytes = frame.len();
        self.push_item(Item::Frame(frame), bytes, budget);
    }

    /// Takes an older value out of the queue, unless it is half out. At most one waits while the
    /// outbox is congested; those from before then go first.
    fn give_way(&mut self, value_of: ValueKey, budget: &Budget) {
        let is_older = |item: &Item| match item {
            Item::Value(of, _) => *of == value_of,
            Item::Frame(_) => planted!("let a value take the place of a message"),
            Item::Feed(_) => false,
        };
        let Some(at) = self.queue.iter().rposition(is_older) else { return };
        if at == 0 && self.begun {
            return;
        }
        if let Some(Item::Value(_, frame) | Item::Frame(frame)) = self.queue.remove(at) {
            let bytes = frame.len() + ENTRY_BYTES;
            self.queued_bytes -= bytes;
            budget.used_bytes.set(budget.used_bytes() - bytes);
            budget.replaced.set(budget.replaced() + 1);
        }
    }

    fn overflow(&mut self, budget: &Budget) {
        let front = self.queue.front().filter(|_| self.begun);
        let rest = front.and_then(|item| item.frames().next()).map(Bytes::copy_from_slice);
        self.clear(budget);
        self.overflowed = true;
        if let Some(rest) = rest {
            self.push_anyway(rest, budget);
        }
    }

    fn push_item(&mut self, item: Item, bytes: usize, budget: &Budget) {
        self.queued_bytes += bytes + ENTRY_BYTES;
        budget.used_bytes.set(budget.used_bytes() + bytes + ENTRY_BYTES);
        self.queue.push_back(item);
    }

    /// Puts a frame right behind the one that is being written, in place of an earlier one that
    /// still waits there. Something must be queued.
    pub fn push_urgent(&mut self, frame: &[u8]) {
        debug_assert!(!self.is_empty(), "there is nothing to be ahead of");
        self.urgent = Some(frame.into());
    }

    /// Fills `slices` with what is to be written next, and gives how many it used.
    pub fn front<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let at_most = if self.urgent.is_some() { 1 } else { slices.len() };
        let frames = self.queue.iter().flat_map(Item::frames).take(at_most).zip(slices);
        frames.map(|(frame, slice)| *slice = IoSlice::new(frame)).count()
    }

    /// Takes `written` bytes off the front. Whether that relieves a congested outbox: it is at most
    /// half full now.
    pub fn advance(&mut self, mut written: usize, budget: &Budget) -> bool {
        budget.used_bytes.set(budget.used_bytes() - self.queued_bytes);
        while written > 0 {
            let front = self.queue.front_mut().expect("no more is written than was queued");
            let (taken, is_complete) = match front {
                Item::Frame(frame) | Item::Value(_, frame) => {
                    let taken = written.min(frame.len());
                    frame.advance(taken);
                    self.queued_bytes -= taken;
                    (taken, frame.is_empty())
                }
                Item::Feed(feed) => feed.advance(written),
            };
            written -= taken;
            self.begun = !is_complete;
            if !is_complete {
                continue; // It ends in the middle of this frame.
            }
            let is_over = match front {
                Item::Frame(_) | Item::Value(..) => true,
                Item::Feed(feed) => feed.is_over(),
            };
            if is_over {
                self.queued_bytes -= ENTRY_BYTES;
                if let Some(Item::Feed(feed)) = self.queue.pop_front() {
                    budget.pinned.borrow_mut().unpin(feed.shared());
                }
            }
            if let Some(urgent) = self.urgent.take() {
                self.queued_bytes += urgent.len() + ENTRY_BYTES;
                self.queue.push_front(Item::Frame(urgent.into()));
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        budget.used_bytes.set(budget.used_bytes() + self.queued_bytes);
        let relieved = self.congested && self.queued_bytes <= budget.connection_bytes_max / 2;
        self.congested &= !relieved;
        relieved
    }

    /// Throws away what is queued. Must be called before an outbox is dropped: the budget is told.
    pub fn clear(&mut self, budget: &Budget) {
        budget.used_bytes.set(budget.used_bytes() - self.queued_bytes);
        for item in &self.queue {
            if let Item::Feed(feed) = item {
                budget.pinned.borrow_mut().unpin(feed.shared());
            }
        }
        *self = Self { overflowed: self.overflowed, ..Self::default() };
    }
}

impl Item {
    /// What of it is still to be written, frame by frame.
    fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let (frame, feed) = match self {
            Self::Frame(frame) | Self::Value(_, frame) => (Some(&**frame), None),
            Self::Feed(feed) => (None, Some(feed.frames())),
        };
        frame.into_iter().chain(feed.into_iter().flatten())
    }
}

/// What an entry costs beside its bytes: itself and the allocation behind it. Without it, a flood
/// of tiny frames would hold many times what the limit says.
const ENTRY_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use realtime_core::stream::StreamName;

    use super::*;

    fn frame(cost: usize) -> Bytes {
        Bytes::from(vec![7; cost - ENTRY_BYTES])
    }

    #[test]
    fn an_outbox_reports_congestion_once_and_relief_once() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(1000, 10_000));
        assert_eq!(outbox.push(frame(500), None, &budget), Queued::Fits);
        assert_eq!(outbox.push(frame(100), None, &budget), Queued::Congested);
        assert_eq!(outbox.push(frame(100), None, &budget), Queued::Fits);
        assert!(outbox.is_congested());
        assert!(!outbox.advance(199, &budget), "501 are left");
        assert!(outbox.advance(1, &budget), "500 are left");
        assert!(!outbox.is_congested());
        assert!(!outbox.advance(1, &budget));
        assert_eq!(outbox.push(frame(102), None, &budget), Queued::Congested);
    }

    #[test]
    fn a_frame_that_does_not_fit_is_refused_and_so_is_every_later_one() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(1000, 10_000));
        assert_eq!(outbox.push(frame(900), None, &budget), Queued::Congested);
        assert_eq!(outbox.push(frame(101), None, &budget), Queued::Overflowed);
        assert_eq!(outbox.push(frame(100), None, &budget), Queued::Refused);
        assert!(outbox.is_empty() && outbox.has_overflowed());
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn an_overflowed_outbox_keeps_the_frame_that_is_half_out_alone() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(1000, 10_000));
        outbox.push(Bytes::from_static(b"rest"), None, &budget);
        outbox.note_begun();
        outbox.push(frame(500), None, &budget);
        assert_eq!(outbox.push(frame(500), None, &budget), Queued::Overflowed);
        assert_eq!(budget.used_bytes(), 4 + ENTRY_BYTES);
        outbox.push_anyway(Bytes::from_static(b"bye"), &budget);
        let mut slices = [IoSlice::new(&[]); 4];
        let used = outbox.front(&mut slices);
        let all: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(all, b"restbye");

        let mut other = Outbox::default();
        other.push(frame(500), None, &budget);
        other.advance(100, &budget);
        assert_eq!(other.push(frame(700), None, &budget), Queued::Overflowed);
        assert_eq!(other.queued_bytes, 400, "what is left of the first one");
    }

    #[test]
    fn the_budget_of_all_outboxes_bounds_each() {
        let budget = Budget::new(1000, 1500);
        let (mut first, mut second) = (Outbox::default(), Outbox::default());
        assert_eq!(first.push(frame(900), None, &budget), Queued::Congested);
        assert_eq!(second.push(frame(601), None, &budget), Queued::Overflowed);
        first.clear(&budget);
        assert_eq!(budget.used_bytes(), 0);
        let mut third = Outbox::default();
        assert_eq!(third.push(frame(601), None, &budget), Queued::Congested);
    }

    #[test]
    fn a_close_frame_is_queued_even_behind_an_overflow() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(100, 100));
        assert_eq!(outbox.push(frame(101), None, &budget), Queued::Overflowed);
        outbox.push_anyway(Bytes::from_static(b"bye"), &budget);
        assert!(!outbox.is_empty());
        assert_eq!(budget.used_bytes(), 3 + ENTRY_BYTES);
    }

    #[test]
    fn bytes_come_out_in_order_across_frames_and_partial_writes() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(10_000, 10_000));
        for text in ["first", "second", "third"] {
            outbox.push(Bytes::from_static(text.as_bytes()), None, &budget);
        }
        let mut out: Vec<u8> = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            let used = outbox.front(&mut slices);
            let all: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
            let taken = all.len().min(7);
            out.extend(&all[..taken]);
            outbox.advance(taken, &budget);
        }
        assert_eq!(out, b"firstsecondthird");
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn an_urgent_frame_overtakes_all_but_the_one_being_written() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(10_000, 10_000));
        for text in ["first", "second"] {
            outbox.push(Bytes::from_static(text.as_bytes()), None, &budget);
        }
        outbox.advance(2, &budget);
        outbox.push_urgent(b"old");
        outbox.push_urgent(b"new");
        let mut out: Vec<u8> = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let used = outbox.front(&mut slices);
            let all: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
            outbox.advance(all.len(), &budget);
            out.extend(all);
        }
        assert_eq!(out, b"rstnewsecond");
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn an_outbox_that_has_drained_owns_no_memory() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(10_000, 10_000));
        outbox.push(frame(100), None, &budget);
        assert!(outbox.queue.capacity() > 0);
        outbox.advance(100 - ENTRY_BYTES, &budget);
        assert_eq!(outbox.queue.capacity(), 0);
    }

    fn key(event: &str) -> Option<ValueKey> {
        Some(ValueKey::new(&StreamName::all(), "queue", event))
    }

    fn waiting(outbox: &Outbox) -> String {
        let mut slices = [IoSlice::new(&[]); 16];
        let used = outbox.front(&mut slices);
        let all: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn in_a_congested_outbox_a_value_takes_the_place_of_an_older_one_at_the_end() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(800, 10_000));
        let push = |outbox: &mut Outbox, text: &'static str, value_of| {
            outbox.push(Bytes::from_static(text.as_bytes()), value_of, &budget)
        };
        for (text, event) in [("a1 ", "a"), ("b1 ", "b"), ("a2 ", "a")] {
            assert_eq!(push(&mut outbox, text, key(event)), Queued::Fits);
        }
        assert_eq!(waiting(&outbox), "a1 b1 a2 ", "it is not congested");
        while push(&mut outbox, "x ", None) != Queued::Congested {}
        push(&mut outbox, "a3 ", key("a"));
        assert_eq!(waiting(&outbox), "a1 b1 x x x x a3 ");
        push(&mut outbox, "b2 ", key("b"));
        assert_eq!(waiting(&outbox), "a1 x x x x a3 b2 ");
        // The same key in another stream is another value.
        let other = ValueKey::new(&StreamName::user("1").unwrap(), "queue", "b");
        push(&mut outbox, "c1 ", Some(other));
        assert_eq!(waiting(&outbox), "a1 x x x x a3 b2 c1 ");
        assert_eq!(budget.replaced(), 2);
        assert_eq!(budget.used_bytes(), outbox.queued_bytes);
        assert_eq!(outbox.queued_bytes, "a1 x x x x a3 b2 c1 ".len() + 8 * ENTRY_BYTES);
    }

    #[test]
    fn a_value_that_is_half_out_stays() {
        let (mut outbox, budget) = (Outbox::default(), Budget::new(200, 10_000));
        outbox.push(Bytes::from_static(b"a1"), key("a"), &budget);
        outbox.advance(1, &budget);
        assert_eq!(outbox.push(Bytes::from_static(b"x"), None, &budget), Queued::Congested);
        outbox.push(Bytes::from_static(b"a2"), key("a"), &budget);
        assert_eq!(waiting(&outbox), "1xa2");
        outbox.push(Bytes::from_static(b"a3"), key("a"), &budget);
        assert_eq!(waiting(&outbox), "1xa3");
    }
}
