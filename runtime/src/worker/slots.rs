//! The connections of a worker by slot.

use std::{cell::RefCell, mem, rc::Rc};

use realtime_core::id::ConnectionId;

use super::census::UserKey;
use crate::socket::Socket;

/// Connections by id. Slots are used again, under another generation.
#[derive(Debug)]
pub(super) struct Slots<S> {
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
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
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Takes a free slot.
    pub(super) fn insert(&mut self, waiting: Waiting<S>) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, user: None, content: Content::Free });
            u32::try_from(self.slots.len() - 1).expect("the file limit is far below")
        });
        let taken = &mut self.slots[slot as usize];
        taken.generation = taken.generation.wrapping_add(1);
        taken.content = Content::Waiting(Box::new(waiting));
        ConnectionId { slot, generation: taken.generation }
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
        self.free.push(conn.slot);
        let slot = &mut self.slots[conn.slot as usize];
        (mem::replace(&mut slot.content, Content::Free), slot.user.take())
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
