//! Joins, from the request to the seat.

use crate::{
    id::{Position, RequestId},
    link::{Suffix, ToRelay},
    stream::{StreamKind, StreamName},
    wire::{
        ErrorCode, Kind,
        decode::{self, Mistake},
        encode,
    },
};

use super::{
    Action, Actions, Reference, Shard,
    connection::{Answer, Asked, Parked, Phase},
    requests::FORBIDDEN_ROOM,
    streams::{Item, NONE},
};

impl Shard {
    /// Asks the relay for a stream. Gives its index.
    pub(super) fn park(
        &mut self,
        slot: u32,
        name: &StreamName,
        asked: Asked,
        reference: Option<Reference>,
        actions: &mut Actions,
    ) -> u32 {
        let stream = self.streams.open(name);
        let record = self.streams.stream_mut(stream);
        record.parked += 1;
        record.interested = true;
        let request = RequestId(self.requests);
        self.requests += 1;
        let deadline = self.now + self.limits.join_timeout;
        self.parked.insert(request, Parked { slot, stream, asked, reference, deadline });
        self.connections[slot as usize].extra().parked.push((stream, request));
        let since = asked.flatten();
        actions.push(Action::ToRelay(ToRelay::Join { request, stream: name.clone(), since }));
        stream
    }

    /// Takes a join out that was answered, was given up, or whose connection goes.
    fn unpark(&mut self, request: RequestId) -> Option<Parked> {
        let join = self.parked.remove(&request).or_else(|| self.late.remove(&request))?;
        self.streams.stream_mut(join.stream).parked -= 1;
        let conn = &mut self.connections[join.slot as usize];
        if let Some(extra) = &mut conn.extra {
            extra.parked.retain(|(_, other)| *other != request);
        }
        conn.trim();
        Some(join)
    }

    /// Gives up all joins of a connection that goes.
    pub(super) fn unpark_all(&mut self, slot: u32, actions: &mut Actions) {
        let Some(extra) = &mut self.connections[slot as usize].extra else { return };
        for (stream, request) in std::mem::take(&mut extra.parked) {
            self.unpark(request);
            self.vacate_if_empty(stream, actions);
        }
    }

    /// The relay has answered a join; it takes its turn in the stream.
    pub(super) fn joined(
        &mut self,
        request: RequestId,
        position: Option<Position>,
        recovered: bool,
        suffix: Suffix,
        actions: &mut Actions,
    ) {
        let Some(stream) = self.stream_asked(request) else {
            actions.push(Action::Reach("an answer to a join that nobody waits for"));
            return;
        };
        match self.streams.walk_of(stream) {
            Some(delivery) if !planted!("seat a member in the middle of a fan-out") => {
                let item = Item::Joined { request, position, recovered, suffix };
                self.streams.walk_mut(delivery).waiting.push_back(item);
            }
            Some(_) | None => self.seat_joined(request, position, recovered, suffix, actions),
        }
    }

    /// The stream that a join is for, unless it was given up.
    fn stream_asked(&self, request: RequestId) -> Option<u32> {
        let join = self.parked.get(&request).or_else(|| self.late.get(&request));
        join.map(|join| join.stream)
    }

    /// Carries out the answer to a join.
    pub(super) fn seat_joined(
        &mut self,
        request: RequestId,
        position: Option<Position>,
        recovered: bool,
        suffix: Suffix,
        actions: &mut Actions,
    ) {
        let Some(Parked { slot, stream, asked, reference, .. }) = self.unpark(request) else {
            actions.push(Action::Reach("an answer to a join that was given up in its turn"));
            return;
        };
        let name = self.streams.names.name(stream).clone();
        let is_open = self.connections[slot as usize].phase == Phase::Open;
        if is_open && self.is_room(stream) && !self.may_join(slot, name.as_str()) {
            // The token that granted the room was replaced meanwhile.
            self.vacate_if_empty(stream, actions);
            self.error(slot, FORBIDDEN_ROOM, reference.as_ref(), actions);
            return self.run_waiting(slot, &name, actions);
        }
        self.streams.stream_mut(stream).position = position;
        self.seat(slot, stream);
        if is_open && !self.is_room(stream) {
            actions.push(Action::Reach("a late answer to an anonymous connection"));
            return self.resync_one(slot, &name, position, 0, actions);
        }
        let recovered = self.count_recovered(asked, recovered);
        if !is_open {
            return self.answered(slot, stream, Answer { position, recovered, suffix }, actions);
        }
        self.send(slot, Kind::RoomJoined, actions, |out| {
            encode::room_joined(out, name.as_str(), position, recovered, reference.as_ref());
        });
        self.feed(slot, suffix, actions);
        self.run_waiting(slot, &name, actions);
    }

    /// Gives a connection what it missed and the latest values, before anything else that comes.
    pub(super) fn feed(&mut self, slot: u32, suffix: Suffix, actions: &mut Actions) {
        if suffix.is_empty() {
            return;
        }
        let user = self.connections[slot as usize].user;
        let user = (user != NONE).then(|| self.user_id(user));
        let excluded = suffix.entries().iter().filter_map(|missed| missed.exclude_user.as_ref());
        let skip_user = excluded.into_iter().find(|excluded| Some(&***excluded) == user).cloned();
        let skip_user = skip_user.filter(|_| !planted!("resume what is excluded"));
        for missed in suffix.entries() {
            if missed.is_skipped_for(skip_user.as_deref()) {
                continue;
            }
            self.stats.sent[Kind::of(&missed.kind).index()] += 1;
            if let Some((position, origin)) = missed.position.zip(missed.acks_to)
                && !planted!("let nobody acknowledge what is resumed")
            {
                self.ask_for_ack(slot, position, origin);
            }
        }
        actions.push(Action::Feed { conn: self.id(slot), suffix, skip_user });
    }

    /// The relay did not answer a join in time. An anonymous connection is greeted without it.
    pub(super) fn join_overdue(&mut self, request: RequestId, actions: &mut Actions) {
        actions.push(Action::Reach("a join that was not answered in time"));
        let join = &self.parked[&request];
        let (slot, stream, asked) = (join.slot, join.stream, join.asked);
        let conn = &self.connections[slot as usize];
        if conn.phase != Phase::Joining || conn.user != NONE {
            return self.seat_failed(request, actions);
        }
        let join = self.parked.remove(&request).expect("it is overdue");
        self.late.insert(request, join);
        let recovered = self.count_recovered(asked, false);
        self.answered(slot, stream, Answer::nowhere(recovered), actions);
    }

    /// The relay can't answer a join: the broker is away. That takes its turn in the stream, too:
    /// who becomes a member by it must not get what was published before.
    pub(super) fn join_failed(&mut self, request: RequestId, actions: &mut Actions) {
        let Some(stream) = self.stream_asked(request) else {
            actions.push(Action::Reach("a failed join that nobody waits for"));
            return;
        };
        match self.streams.walk_of(stream) {
            Some(delivery) if !planted!("let a failed join overtake a fan-out") => {
                actions.push(Action::Reach("a join that failed during a fan-out"));
                let item = Item::JoinFailed { request };
                self.streams.walk_mut(delivery).waiting.push_back(item);
            }
            Some(_) | None => self.seat_failed(request, actions),
        }
    }

    /// Carries out that a join has failed. An anonymous connection becomes a member nevertheless;
    /// it is sent a resync when the broker is back.
    pub(super) fn seat_failed(&mut self, request: RequestId, actions: &mut Actions) {
        let Some(Parked { slot, stream, asked, reference, .. }) = self.unpark(request) else {
            actions.push(Action::Reach("an answer to a join that was given up in its turn"));
            return;
        };
        let conn = &self.connections[slot as usize];
        if conn.phase == Phase::Open && !self.is_room(stream) {
            return self.seat_blind(slot, stream);
        }
        if conn.phase == Phase::Joining && conn.user == NONE {
            self.seat_blind(slot, stream);
            let recovered = self.count_recovered(asked, false);
            return self.answered(slot, stream, Answer::nowhere(recovered), actions);
        }
        if conn.phase == Phase::Joining {
            self.vacate_if_empty(stream, actions);
            return self.refuse_without_broker(slot, actions);
        }
        let name = self.streams.names.name(stream).clone();
        self.vacate_if_empty(stream, actions);
        self.error(slot, UNAVAILABLE, reference.as_ref(), actions);
        if planted!("forget what waited for a failed join") {
            return;
        }
        self.run_waiting(slot, &name, actions);
    }

    /// Makes an anonymous connection a member of `all` without knowing where that is.
    fn seat_blind(&mut self, slot: u32, all: u32) {
        self.connections[slot as usize].blind = true;
        self.seat(slot, all);
    }

    /// Answers a join of a stream that the connection is a member of.
    pub(super) fn rejoined(
        &mut self,
        slot: u32,
        stream: u32,
        asked: Asked,
        reference: Option<&Reference>,
        actions: &mut Actions,
    ) {
        let name = self.streams.names.name(stream).clone();
        let seat = self.connections[slot as usize].seat_in(stream).expect("it is a member");
        let position = self.streams.position_at(stream, seat);
        let is_present = asked.flatten().zip(position).is_some_and(|(since, position)| {
            (since.epoch, since.offset, since.check)
                == (position.epoch.0, position.offset, position.check())
        });
        let recovered = self.count_recovered(asked, is_present);
        self.send(slot, Kind::RoomJoined, actions, |out| {
            encode::room_joined(out, name.as_str(), position, recovered, reference);
        });
    }

    /// Whether a room is open to everyone, or to this connection.
    pub(super) fn may_join(&self, slot: u32, room: &str) -> bool {
        let grants = self.connections[slot as usize].extra.as_ref().and_then(|e| e.grants.as_ref());
        let grants = grants.map_or(&[][..], |grants| grants);
        let mut public = self.limits.public_rooms.iter();
        public.any(|pattern| decode::pattern_matches(pattern, room))
            || grants.iter().any(|pattern| decode::pattern_matches(pattern, room))
    }

    /// Whether the stream of this index is a room, and not `all` or a user's.
    pub(super) fn is_room(&self, stream: u32) -> bool {
        matches!(self.streams.names.name(stream).kind(), StreamKind::Room(_))
    }

    fn count_recovered(&mut self, asked: Asked, recovered: bool) -> Option<bool> {
        let recovered = asked?.is_some() && recovered;
        if recovered {
            self.stats.recovered += 1;
        } else {
            self.stats.unrecovered += 1;
        }
        Some(recovered)
    }
}

/// The answer to a join that could not be answered.
pub(super) const UNAVAILABLE: Mistake = Mistake {
    code: ErrorCode::Unavailable,
    message: "the room can't be joined at the moment; try again",
};
