//! What the relay sends for the members of streams.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    id::{BootId, ConnectionId, DeliveryId, Position},
    link::{Publication, Suffix, ToRelay, ToShard},
    stream::StreamName,
    wire::{Frame, Kind, encode},
};

use super::{
    Action, Actions, Shard,
    connection::{Answer, Connection, Phase},
    streams::{Item, NONE},
};

impl Shard {
    pub(super) fn relayed(&mut self, message: ToShard, actions: &mut Actions) {
        match message {
            ToShard::Joined { request, position, recovered, suffix } => {
                self.joined(request, position, recovered, suffix, actions);
            }
            ToShard::JoinFailed { request } => self.join_failed(request, actions),
            ToShard::Count => {
                let census = Box::new(self.census());
                actions.push(Action::ToRelay(ToRelay::Counted(census)));
            }
            ToShard::Publication(publication) => self.published(publication, actions),
            ToShard::Resync { stream, by_all, position, spread_ms } => {
                let Some(stream) = self.streams.names.find(stream.as_str()) else { return };
                match self.streams.walk_of(stream) {
                    Some(delivery) => {
                        let item = Item::Resync { by_all, position, spread_ms };
                        self.streams.walk_mut(delivery).waiting.push_back(item);
                    }
                    None => self.resync(stream, by_all, position, spread_ms, actions),
                }
            }
        }
    }

    fn published(&mut self, publication: Arc<Publication>, actions: &mut Actions) {
        let Some(stream) = self.streams.names.find(publication.stream.as_str()) else {
            return hand_over(&publication, 0, actions);
        };
        if let Some(delivery) = self.streams.walk_of(stream) {
            let waiting = &mut self.streams.walk_mut(delivery).waiting;
            waiting.push_back(Item::Publication(publication));
        } else if self.streams.stream(stream).members().is_empty() {
            self.pass(stream, &publication, actions);
        } else {
            let delivery = self.streams.open_walk(stream);
            self.deliver(delivery, publication, actions);
        }
    }

    /// A publication goes by a stream without members.
    fn pass(&mut self, stream: u32, publication: &Publication, actions: &mut Actions) {
        let record = self.streams.stream_mut(stream);
        record.position = publication.position.or(record.position);
        hand_over(publication, 0, actions);
    }

    /// Starts the fan-out of a publication, and of those right behind it that can go with it.
    fn deliver(&mut self, delivery: DeliveryId, first: Arc<Publication>, actions: &mut Actions) {
        let excluded = first.exclude_user.as_deref();
        let excluded = excluded.and_then(|user| self.streams.names.find_user(user));
        let walk = self.streams.walk_mut(delivery);
        walk.excluded = excluded.unwrap_or(NONE);
        walk.asks = first.acks_to.is_some();
        let is_for_all = first.exclude_user.is_none();
        let mut bytes = first.frame.0.len();
        let mut position = first.position;
        let mut frame = first.frame.clone();
        let (published, mut value_of) = (first.published, first.value_of);
        walk.carried.push(first);
        while is_for_all && let Some(Item::Publication(next)) = walk.waiting.front() {
            bytes += next.frame.0.len();
            let is_for_some =
                next.exclude_user.is_some() && !planted!("coalesce across exclusions");
            if is_for_some || bytes > self.limits.coalesced_bytes_max {
                break;
            }
            position = next.position.or(position);
            walk.asks |= next.acks_to.is_some();
            walk.carried.extend(walk.waiting.pop_front().and_then(Item::into_publication));
        }
        if walk.carried.len() > 1 {
            let frames: Vec<&[u8]> = walk.carried.iter().map(|part| &*part.frame.0).collect();
            frame = Frame(Bytes::from(frames.concat()));
            value_of = None;
            actions.push(Action::Reach("publications coalesced"));
        }
        self.streams.start_walk(delivery, position);
        if planted!("count a delivery before it is handed over") {
            let walk = self.streams.walk_mut(delivery);
            let (stream, carried) = (walk.stream, walk.carried.clone());
            let members = self.streams.stream(stream).members().len();
            for publication in carried {
                hand_over(&publication, u32::try_from(members).unwrap_or(u32::MAX), actions);
            }
        }
        actions.push(Action::Deliver { delivery, frame, published, value_of });
    }

    pub(super) fn walk_on(
        &mut self,
        delivery: DeliveryId,
        at_most: usize,
        out: &mut Vec<ConnectionId>,
    ) {
        let Self { streams, connections, acks, .. } = self;
        let walk = streams.walk_mut(delivery);
        let (excluded, asks) = (walk.excluded, walk.asks);
        let enough = out.len() + at_most;
        while out.len() < enough
            && let Some(slot) = streams.next_member(delivery)
        {
            let conn = &mut connections[slot as usize];
            let is_excluded = excluded != NONE && conn.user == excluded;
            if is_excluded && !planted!("deliver to the excluded user") {
                continue;
            }
            if conn.phase == Phase::Open {
                let conn = ConnectionId { slot, generation: conn.generation };
                out.push(conn);
                if asks {
                    let carried = streams.walk_mut(delivery).carried.iter();
                    for (position, origin) in carried.filter_map(|part| part.asks_for_ack()) {
                        acks.ask(position, origin, conn, |taker| is_there(connections, taker));
                    }
                }
                continue;
            }
            assert_eq!(conn.phase, Phase::Joining, "members are open or in their handshake");
            let handshake = conn.extra().handshake.as_mut().expect("it has not been greeted");
            let walk = streams.walk_mut(delivery);
            for publication in &walk.carried {
                handshake.hold(walk.stream, publication);
            }
        }
    }

    /// A connection is sent a message that asks to be acknowledged.
    pub(super) fn ask_for_ack(&mut self, slot: u32, position: Position, origin: BootId) {
        let (conn, connections) = (self.id(slot), &self.connections);
        self.acks.ask(position, origin, conn, |taker| is_there(connections, taker));
    }

    pub(super) fn delivered(&mut self, delivery: DeliveryId, accepted: u32, actions: &mut Actions) {
        let walk = self.streams.walk_mut(delivery);
        assert!(walk.is_done(), "every member is met before a fan-out is over");
        for publication in walk.carried.drain(..) {
            self.stats.sent[Kind::of(&publication.kind).index()] += u64::from(accepted);
            hand_over(&publication, accepted, actions);
        }
        self.next_turn(delivery, actions);
    }

    /// Carries out what has waited for the end of a walk, up to the next walk.
    fn next_turn(&mut self, delivery: DeliveryId, actions: &mut Actions) {
        loop {
            let walk = self.streams.walk_mut(delivery);
            let stream = walk.stream;
            match walk.waiting.pop_front() {
                Some(Item::Publication(publication)) => {
                    if !self.streams.stream(stream).members().is_empty() {
                        return self.deliver(delivery, publication, actions);
                    }
                    self.pass(stream, &publication, actions);
                }
                Some(Item::Joined { request, position, recovered, suffix }) => {
                    self.seat_joined(request, position, recovered, suffix, actions);
                }
                Some(Item::JoinFailed { request }) => self.seat_failed(request, actions),
                Some(Item::Resync { by_all, position, spread_ms }) => {
                    self.resync(stream, by_all, position, spread_ms, actions);
                }
                None => {
                    self.streams.close_walk(delivery);
                    return self.vacate_if_empty(stream, actions);
                }
            }
        }
    }

    /// Tells every member that messages were missed, or those that have no position.
    fn resync(
        &mut self,
        stream: u32,
        by_all: bool,
        position: Option<Position>,
        spread_ms: u32,
        actions: &mut Actions,
    ) {
        let name = self.streams.names.name(stream).clone();
        self.streams.stream_mut(stream).position = position;
        for seat in 0..self.streams.stream(stream).members().len() {
            let slot = self.streams.stream(stream).members()[seat];
            let conn = &mut self.connections[slot as usize];
            // Nobody is seated in any other stream without a position.
            let is_blind = name == self.all && std::mem::take(&mut conn.blind);
            if !by_all && !is_blind {
                continue;
            }
            if self.connections[slot as usize].phase == Phase::Joining {
                self.answer_again(slot, stream, position);
            } else {
                self.resync_one(slot, &name, position, spread_ms, actions);
            }
        }
    }

    pub(super) fn resync_one(
        &mut self,
        slot: u32,
        name: &StreamName,
        position: Option<Position>,
        spread_ms: u32,
        actions: &mut Actions,
    ) {
        self.stats.resyncs += 1;
        let after_ms = self.rng.below(u64::from(spread_ms.max(RESYNC_SPREAD_MS_MIN)) + 1);
        self.send(slot, Kind::SystemResync, actions, |out| {
            encode::resync(out, name, position, after_ms);
        });
    }

    /// Messages were missed by a connection that has not been greeted: the greeting says so.
    fn answer_again(&mut self, slot: u32, stream: u32, position: Option<Position>) {
        let conn = &mut self.connections[slot as usize];
        let is_user = conn.user == stream;
        let handshake = conn.extra().handshake.as_mut().expect("it has not been greeted");
        handshake.held.retain(|(held, _)| *held != stream);
        let answer = if is_user { &mut handshake.user } else { &mut handshake.all };
        let was_asked = answer.as_ref().is_some_and(|answer| answer.recovered.is_some());
        let (recovered, suffix) = (was_asked.then_some(false), Suffix::default());
        *answer = Some(Answer { position, recovered, suffix });
    }
}

impl Item {
    fn into_publication(self) -> Option<Arc<Publication>> {
        match self {
            Self::Publication(publication) => Some(publication),
            Self::Joined { .. } | Self::JoinFailed { .. } | Self::Resync { .. } => None,
        }
    }
}

/// Whether a connection is still the present one of its slot. The table may have become shorter.
fn is_there(connections: &[Connection], conn: ConnectionId) -> bool {
    let present = connections.get(conn.slot as usize);
    present.is_some_and(|present| present.generation == conn.generation)
}

fn hand_over(publication: &Publication, recipients: u32, actions: &mut Actions) {
    let dispatch = publication.dispatch;
    actions.push(Action::ToRelay(ToRelay::HandedOver { dispatch, recipients }));
}

/// Least range of the random time that members are told to wait before they refetch.
const RESYNC_SPREAD_MS_MIN: u32 = 5_000;
