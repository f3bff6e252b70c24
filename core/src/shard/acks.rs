//! Messages that ask to be acknowledged, and whom they were sent to.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    id::{BootId, ConnectionId, Mid, Position},
    link::Since,
};

/// The newest messages of this worker that ask for an acknowledgement and have none.
#[derive(Debug, Default, Hash)]
pub(super) struct Acks {
    /// By what their `id` says.
    asked: BTreeMap<Since, Asked>,
    /// In the order in which they were first sent. Those that were acknowledged stay in here until
    /// it is their turn to be forgotten.
    order: VecDeque<Since>,
}

/// One message.
#[derive(Debug, Hash)]
struct Asked {
    mid: Mid,
    origin: BootId,
    takers: Vec<ConnectionId>,
}

impl Acks {
    /// The message at `position` goes to `conn`, and the instance `origin` wants to know whether it
    /// is acknowledged. `is_there` tells whether an earlier taker still is a connection.
    pub(super) fn ask(
        &mut self,
        position: Position,
        origin: BootId,
        conn: ConnectionId,
        is_there: impl Fn(ConnectionId) -> bool,
    ) {
        let id =
            Since { epoch: position.epoch.0, offset: position.offset, check: position.check() };
        let order = &mut self.order;
        let asked = self.asked.entry(id).or_insert_with(|| {
            order.push_back(id);
            Asked { mid: position.mid, origin, takers: Vec::new() }
        });
        // A client that comes back time and again is sent it time and again. Looked at whenever
        // there are twice as many, those that are gone cost little.
        if asked.takers.len().is_power_of_two() {
            asked.takers.retain(|taker| is_there(*taker));
        }
        asked.takers.push(conn);
        if self.order.len() > ASKED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.asked.remove(&oldest);
        }
    }

    /// A connection acknowledges a message. Gives it, and whom to tell, the first time that one to
    /// which it was sent does so.
    pub(super) fn acknowledged(&mut self, id: Since, conn: ConnectionId) -> Option<(Mid, BootId)> {
        let was_sent = self.asked.get(&id)?.takers.contains(&conn);
        if !was_sent && !planted!("take anybody's acknowledgement") {
            return None;
        }
        let Asked { mid, origin, .. } = self.asked.remove(&id)?;
        Some((mid, origin))
    }
}

/// Messages that an acknowledgement is accepted for, on one worker: some seconds' worth where each
/// of 5,000 messages a second asks for one, in about 2 MB.
const ASKED_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;

    const ORIGIN: BootId = BootId(9);

    fn position(offset: u64) -> Position {
        Position { epoch: Epoch(1), offset, mid: Mid(7 << 32 | offset) }
    }

    fn id(offset: u64) -> Since {
        Since { epoch: 1, offset, check: 7 }
    }

    fn conn(slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: 1 }
    }

    #[test]
    fn only_who_was_sent_a_message_can_acknowledge_it_and_once() {
        let mut acks = Acks::default();
        acks.ask(position(1), ORIGIN, conn(1), |_| true);
        acks.ask(position(1), ORIGIN, conn(2), |_| true);
        acks.ask(position(2), ORIGIN, conn(3), |_| true);
        assert_eq!(acks.acknowledged(id(1), conn(3)), None, "it was sent another one");
        let other = ConnectionId { slot: 1, generation: 2 };
        assert_eq!(acks.acknowledged(id(1), other), None, "it has the slot of one that is gone");
        assert_eq!(acks.acknowledged(Since { check: 8, ..id(1) }, conn(1)), None);
        assert_eq!(acks.acknowledged(id(1), conn(2)), Some((position(1).mid, ORIGIN)));
        assert_eq!(acks.acknowledged(id(1), conn(1)), None, "the second one");
    }

    #[test]
    fn the_oldest_messages_are_forgotten() {
        let mut acks = Acks::default();
        for offset in 0..=ASKED_MAX as u64 {
            acks.ask(position(offset), ORIGIN, conn(1), |_| true);
        }
        assert_eq!(acks.acknowledged(id(0), conn(1)), None);
        assert!(acks.acknowledged(id(1), conn(1)).is_some());
        assert!(acks.order.len() <= ASKED_MAX);
    }

    #[test]
    fn who_comes_back_time_and_again_takes_no_room() {
        let mut acks = Acks::default();
        for generation in 0..1_000 {
            let conn = ConnectionId { slot: 1, generation };
            acks.ask(position(1), ORIGIN, conn, |taker| taker.generation + 2 > generation);
        }
        assert!(acks.asked[&id(1)].takers.len() < 8);
        let last = ConnectionId { slot: 1, generation: 999 };
        assert!(acks.acknowledged(id(1), last).is_some());
    }
}
