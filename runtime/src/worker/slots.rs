//! The connections of a worker by slot.

use std::{cell::RefCell, cmp::Reverse, collections::BinaryHeap, mem, rc::Rc};

use realtime_core::id::ConnectionId;

use super::census::UserKey;
use crate::socket::Socket;

/// Connections by id. Slots are used again, under another generation. The lowest free one comes
/// first, and free ones at the end are given up, so that the memory of many goes when they go.
#[derive(Debug)]
pub(super) struct Slots<S> {
    slots: Vec<Slot<S>>,
    /// Also some that have been given up, which are forgotten when they come up.
    free: BinaryHeap<Reverse<u32>>,
    /// Of the newest connection.
    generation: u32,
}

#[derive(Debug)]
struct Slot<S> {
    generation: u32,
    /// Whom the census counts the connection for.
    user: Option<UserKey>,
    content: Content<S>,
}

#[derive(Debug)]
enum Content<S> {
    Free,
    Waiting(Box<Waiting<S>>),
    Open(Rc<RefCell<Socket<S>>>),
}

/// A connection whose upgrade request has been read but not answered.
#[derive(Debug)]
pub(super) struct Waiting<S> {
    pub(super) stream: S,
    /// The value of `Sec-WebSocket-Accept`.
    pub(super) accept: String,
    /// Whether the subprotocol `bearer` is to be selected.
    pub(super) bearer: bool,
    pub(super) token: Option<String>,
    /// What came behind the request.
    pub(super) leftover: Vec<u8>,
}

impl<S> Slots<S> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: BinaryHeap::new(), generation: 0 }
    }

    /// Takes a free slot.
    pub(super) fn insert(&mut self, waiting: Waiting<S>) -> ConnectionId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let content = Content::Waiting(Box::new(waiting));
        let taken = Slot { generation, user: None, content };
        if let Some(Reverse(slot)) = self.free.pop()
            && let Some(free) = self.slots.get_mut(slot as usize)
        {
            *free = taken;
            return ConnectionId { slot, generation };
        }
        // The lowest one that is called free has been given up, so the others have been as well.
        self.free.clear();
        self.slots.push(taken);
        let slot = u32::try_from(self.slots.len() - 1).expect("the file limit is far below");
        ConnectionId { slot, generation }
    }

    /// Notes whose connection it is.
    pub(super) fn set_user(&mut self, conn: ConnectionId, user: UserKey) {
        if self.is_current(conn) {
            self.slots[conn.slot as usize].user = Some(user);
        }
    }

    /// A connection that waits for its answer.
    pub(super) fn waiting(&self, conn: ConnectionId) -> Option<&Waiting<S>> {
        match &self.slots.get(conn.slot as usize)?.content {
            Content::Waiting(waiting) if self.is_current(conn) => Some(waiting),
            Content::Waiting(_) | Content::Open(_) | Content::Free => None,
        }
    }

    /// An open connection.
    pub(super) fn socket(&self, conn: ConnectionId) -> Option<&Rc<RefCell<Socket<S>>>> {
        match &self.slots.get(conn.slot as usize)?.content {
            Content::Open(socket) if self.is_current(conn) => Some(socket),
            Content::Open(_) | Content::Waiting(_) | Content::Free => None,
        }
    }

    /// Opens a waiting connection: `open` makes the socket.
    pub(super) fn open(
        &mut self,
        conn: ConnectionId,
        open: impl FnOnce(Waiting<S>) -> Rc<RefCell<Socket<S>>>,
    ) -> Option<Rc<RefCell<Socket<S>>>> {
        self.waiting(conn)?;
        let content = &mut self.slots[conn.slot as usize].content;
        let Content::Waiting(waiting) = mem::replace(content, Content::Free) else {
            return None;
        };
        let socket = open(*waiting);
        *content = Content::Open(socket.clone());
        Some(socket)
    }

    /// Takes a waiting connection out, to be refused. Also whose it was.
    pub(super) fn refuse(&mut self, conn: ConnectionId) -> Option<(Waiting<S>, Option<UserKey>)> {
        self.waiting(conn)?;
        match self.take(conn) {
            (Content::Waiting(waiting), user) => Some((*waiting, user)),
            (Content::Open(_) | Content::Free, _) => None,
        }
    }

    /// Frees the slot of a connection that is gone. Whose it was; none for a stale id.
    pub(super) fn remove(&mut self, conn: ConnectionId) -> Option<Option<UserKey>> {
        self.is_current(conn).then(|| self.take(conn).1)
    }

    fn take(&mut self, conn: ConnectionId) -> (Content<S>, Option<UserKey>) {
        self.free.push(Reverse(conn.slot));
        let slot = &mut self.slots[conn.slot as usize];
        let taken = (mem::replace(&mut slot.content, Content::Free), slot.user.take());
        while self.slots.last().is_some_and(|slot| matches!(slot.content, Content::Free)) {
            self.slots.pop();
        }
        let left = self.slots.len();
        if left < self.slots.capacity() / 4 {
            self.slots.shrink_to(left * 2);
            self.free.retain(|Reverse(slot)| (*slot as usize) < left);
            self.free.shrink_to(left);
        }
        taken
    }

    fn is_current(&self, conn: ConnectionId) -> bool {
        self.slots.get(conn.slot as usize).is_some_and(|slot| {
            slot.generation == conn.generation && !matches!(slot.content, Content::Free)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> Waiting<u8> {
        Waiting {
            stream: 7,
            accept: String::new(),
            bearer: false,
            token: None,
            leftover: Vec::new(),
        }
    }

    #[test]
    fn a_slot_is_used_again_under_another_generation() {
        let mut slots = Slots::new();
        let first = slots.insert(waiting());
        assert!(slots.refuse(first).is_some());
        let second = slots.insert(waiting());
        assert_eq!(first.slot, second.slot);
        assert_ne!(first.generation, second.generation);
        assert!(slots.waiting(first).is_none());
        assert!(slots.waiting(second).is_some());
    }

    #[test]
    fn slots_of_many_who_left_are_given_up_and_their_ids_stay_stale() {
        let mut slots = Slots::new();
        let ids: Vec<_> = (0..1_000).map(|_| slots.insert(waiting())).collect();
        // From the middle outwards, so that both ends are given up late.
        let (low, high) = ids.split_at(500);
        for (low, high) in low[1..].iter().rev().zip(&high[1..]) {
            slots.remove(*low);
            slots.remove(*high);
        }
        slots.remove(high[0]);
        assert_eq!(slots.slots.len(), 1);
        assert!(slots.slots.capacity() <= 8 && slots.free.capacity() <= 8);
        for slot in 1..10 {
            let id = slots.insert(waiting());
            assert_eq!(id.slot, slot, "the lowest first");
            assert!(ids.iter().all(|old| old.generation != id.generation));
        }
        assert!(slots.waiting(ids[0]).is_some() && slots.waiting(ids[5]).is_none());
    }

    #[test]
    fn a_stale_id_frees_nothing() {
        let mut slots = Slots::new();
        let first = slots.insert(waiting());
        slots.remove(first);
        slots.remove(first);
        let second = slots.insert(waiting());
        slots.remove(first);
        assert!(slots.refuse(first).is_none());
        let third = slots.insert(waiting());
        assert_ne!(second.slot, third.slot);
    }
}
