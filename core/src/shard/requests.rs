//! What clients ask for.

use crate::{
    link::ToRelay,
    stream::{StreamKind, StreamName},
    wire::{
        CloseCode, ErrorCode, Kind,
        decode::{self, Command, Mistake},
        encode,
    },
};

use super::{
    Action, Actions, Identity, Reference, Shard, VerifyError,
    connection::{Asked, NEVER, Phase, RoomRequest, Waiting},
    joins::UNAVAILABLE,
    streams::NONE,
};

impl Shard {
    pub(super) fn received(&mut self, slot: u32, text: &str, actions: &mut Actions) {
        self.connections[slot as usize].heard = self.now;
        let decode::Request { kind, reference, command } = decode::request(text);
        self.stats.received[kind.index()] += 1;
        if !self.is_within_rate(slot) {
            return self.rate_limited(slot, reference.as_ref(), actions);
        }
        let is_refresh = matches!(command, Ok(Command::Refresh { .. }));
        match command.and_then(|command| self.execute(slot, command, reference.clone(), actions)) {
            // Whether a refresh is any good is known when its token has been verified.
            Ok(()) if is_refresh => {}
            Ok(()) => self.connections[slot as usize].errors = 0,
            Err(mistake) => self.error(slot, mistake, reference.as_ref(), actions),
        }
    }

    fn execute(
        &mut self,
        slot: u32,
        command: Command,
        reference: Option<Reference>,
        actions: &mut Actions,
    ) -> Result<(), Mistake> {
        match command {
            Command::Ping => {
                let now = self.unix();
                self.send(slot, Kind::SystemPong, actions, |out| {
                    encode::pong(out, now, reference.as_ref());
                });
            }
            Command::Join { stream, since } => {
                self.room_request(slot, &stream, RoomRequest::Join(since), reference, actions)?;
            }
            Command::Leave { stream } => {
                self.room_request(slot, &stream, RoomRequest::Leave, reference, actions)?;
            }
            Command::Subscribe { user } => {
                let own = self.connections[slot as usize].user;
                if own == NONE || self.user_id(own) != &*user {
                    return Err(FORBIDDEN_USER);
                }
            }
            Command::Refresh { token } => {
                if self.connections[slot as usize].user == NONE {
                    return Err(UNAUTHORIZED_ANONYMOUS);
                }
                let conn = self.id(slot);
                actions.push(Action::VerifyRefresh { conn, token, reference });
            }
            // Many tabs may acknowledge the same message, and late: only the first counts.
            Command::Ack { id } => {
                let conn = self.id(slot);
                let acknowledged = id.and_then(|id| self.acks.acknowledged(id, conn));
                if let Some((mid, origin)) = acknowledged {
                    actions.push(Action::ToRelay(ToRelay::Acknowledged { mid, origin }));
                }
            }
        }
        Ok(())
    }

    /// Carries out a request that names a room, or lets it wait: requests of one connection that
    /// name the same room are answered strictly in order.
    fn room_request(
        &mut self,
        slot: u32,
        name: &StreamName,
        what: RoomRequest,
        reference: Option<Reference>,
        actions: &mut Actions,
    ) -> Result<(), Mistake> {
        if let Some(stream) = self.streams.names.find(name.as_str())
            && self.is_room(stream)
            && self.connections[slot as usize].awaits(stream)
            && !planted!("let a leave overtake the join")
        {
            let waiting = &mut self.connections[slot as usize].extra().waiting;
            if waiting.len() >= self.limits.waiting_requests_max as usize {
                // A refusal would overtake the answers to those that wait.
                self.close(slot, CloseCode::TooManyMessages, actions);
                return Ok(());
            }
            waiting.push(Waiting { room: name.clone(), what, reference });
            return Ok(());
        }
        match what {
            RoomRequest::Join(asked) => self.join(slot, name, asked, reference, actions),
            RoomRequest::Leave => self.leave(slot, name, reference.as_ref(), actions),
        }
    }

    fn join(
        &mut self,
        slot: u32,
        name: &StreamName,
        asked: Asked,
        reference: Option<Reference>,
        actions: &mut Actions,
    ) -> Result<(), Mistake> {
        let conn = &self.connections[slot as usize];
        match name.kind() {
            StreamKind::All => return Err(FORBIDDEN_ROOM),
            StreamKind::User(id) if conn.user == NONE || self.user_id(conn.user) != id => {
                return Err(FORBIDDEN_ROOM);
            }
            StreamKind::Room(room) if !self.may_join(slot, room) => return Err(FORBIDDEN_ROOM),
            StreamKind::User(_) | StreamKind::Room(_) => {}
        }
        if let Some(stream) = self.streams.names.find(name.as_str())
            && conn.seat_in(stream).is_some()
        {
            self.rejoined(slot, stream, asked, reference.as_ref(), actions);
        } else if conn.rooms() >= self.limits.rooms_per_connection_max as usize {
            return Err(TOO_MANY_ROOMS);
        } else if self.parked.len() >= self.limits.parked_joins_max as usize {
            return Err(UNAVAILABLE);
        } else {
            self.park(slot, name, asked, reference, actions);
        }
        Ok(())
    }

    fn leave(
        &mut self,
        slot: u32,
        name: &StreamName,
        reference: Option<&Reference>,
        actions: &mut Actions,
    ) -> Result<(), Mistake> {
        let stream = self.streams.names.find(name.as_str());
        let conn = &self.connections[slot as usize];
        // It may not be seated yet in a stream that it can't leave.
        let is_own = stream.is_some_and(|stream| stream == conn.user);
        if is_own || *name == self.all {
            return Err(FORBIDDEN_LEAVE);
        }
        if let Some(stream) = stream.filter(|stream| conn.seat_in(*stream).is_some()) {
            self.unseat(slot, stream, actions);
        }
        self.send(slot, Kind::RoomLeft, actions, |out| {
            encode::room_left(out, name.as_str(), None, reference);
        });
        Ok(())
    }

    /// Carries out what has waited for a join of this room, up to the next join that is parked.
    pub(super) fn run_waiting(&mut self, slot: u32, name: &StreamName, actions: &mut Actions) {
        loop {
            let stream = self.streams.names.find(name.as_str());
            let conn = &mut self.connections[slot as usize];
            if conn.phase != Phase::Open || stream.is_some_and(|stream| conn.awaits(stream)) {
                return;
            }
            let waiting = conn.extra.as_mut().map(|extra| &mut extra.waiting);
            let next = waiting.and_then(|waiting| {
                let at = waiting.iter().position(|request| request.room == *name)?;
                Some(waiting.remove(at))
            });
            let Some(Waiting { what, reference, .. }) = next else { return conn.trim() };
            actions.push(Action::Reach("a request that waited for a join"));
            let again = reference.clone();
            if let Err(mistake) = self.room_request(slot, name, what, again, actions) {
                self.error(slot, mistake, reference.as_ref(), actions);
            }
        }
    }

    /// The token of an `auth:refresh` has been verified.
    pub(super) fn refreshed(
        &mut self,
        slot: u32,
        reference: Option<&Reference>,
        outcome: Result<Identity, VerifyError>,
        actions: &mut Actions,
    ) {
        let user = self.connections[slot as usize].user;
        let is_good = |identity: &Identity| {
            user != NONE
                && *identity.user == *self.user_id(user)
                && !self.is_expired(identity.expires)
        };
        let Some(identity) = outcome.ok().filter(is_good) else {
            return self.error(slot, UNAUTHORIZED_TOKEN, reference, actions);
        };
        let conn = &mut self.connections[slot as usize];
        conn.errors = 0;
        conn.expires = identity.expires.unwrap_or(NEVER);
        conn.expiry_told = false;
        conn.extra().grants = (!identity.rooms.is_empty()).then_some(identity.rooms);
        conn.trim();
        self.leave_forbidden(slot, actions);
        self.send(slot, Kind::AuthRefreshed, actions, |out| {
            encode::refreshed(out, identity.expires, reference);
        });
        self.look_at(slot, actions);
    }

    /// Leaves the rooms that the token does not grant any more.
    fn leave_forbidden(&mut self, slot: u32, actions: &mut Actions) {
        let seats = self.connections[slot as usize].seats.iter().map(|seat| seat.stream);
        let forbidden: Vec<u32> = seats
            .filter(|stream| {
                let name = self.streams.names.name(*stream).as_str();
                self.is_room(*stream) && !self.may_join(slot, name)
            })
            .collect();
        for stream in forbidden {
            let name = self.streams.names.name(stream).clone();
            self.unseat(slot, stream, actions);
            self.send(slot, Kind::RoomLeft, actions, |out| {
                encode::room_left(out, name.as_str(), Some("forbidden"), None);
            });
        }
    }

    /// Takes a message out of the connection's allowance.
    fn is_within_rate(&mut self, slot: u32) -> bool {
        let per_second = self.limits.messages_per_second_max;
        let burst = self.limits.message_burst_max;
        let conn = &mut self.connections[slot as usize];
        if !conn.bucket.take(self.now, per_second, burst) {
            return false;
        }
        if let Some(extra) = &mut conn.extra
            && conn.bucket.is_half_full(self.now, per_second, burst)
        {
            // At a rate just over the limit some messages always pass; that is no relief.
            extra.over_since = None;
            conn.trim();
        }
        true
    }

    fn rate_limited(&mut self, slot: u32, reference: Option<&Reference>, actions: &mut Actions) {
        let over_since =
            *self.connections[slot as usize].extra().over_since.get_or_insert(self.now);
        if self.now.saturating_since(over_since) >= self.limits.rate_grace {
            return self.close(slot, CloseCode::TooManyMessages, actions);
        }
        self.error(slot, RATE_LIMITED, reference, actions);
    }

    /// Tells a client of its mistake, and closes the connection when it has made too many in a row.
    pub(super) fn error(
        &mut self,
        slot: u32,
        mistake: Mistake,
        reference: Option<&Reference>,
        actions: &mut Actions,
    ) {
        self.stats.errors[mistake.code.index()] += 1;
        self.send(slot, Kind::SystemError, actions, |out| {
            encode::error(out, mistake.code, mistake.message, reference);
        });
        match mistake.code {
            // The one has a limit of its own, the others are not the client's mistakes.
            ErrorCode::RateLimited | ErrorCode::Unavailable | ErrorCode::Internal => return,
            ErrorCode::ParseError
            | ErrorCode::InvalidPayload
            | ErrorCode::MissingRoom
            | ErrorCode::UnknownType
            | ErrorCode::Forbidden
            | ErrorCode::TooManyRooms
            | ErrorCode::Unauthorized => {}
        }
        let errors = &mut self.connections[slot as usize].errors;
        *errors += 1;
        if *errors >= self.limits.errors_max {
            self.close(slot, CloseCode::Policy, actions);
        }
    }
}

pub(super) const FORBIDDEN_ROOM: Mistake =
    Mistake { code: ErrorCode::Forbidden, message: "you may not join this room" };

const FORBIDDEN_LEAVE: Mistake =
    Mistake { code: ErrorCode::Forbidden, message: "this stream can't be left" };

const FORBIDDEN_USER: Mistake = Mistake {
    code: ErrorCode::Forbidden,
    message: "only the notifications of the connection's own user can be subscribed to",
};

const UNAUTHORIZED_ANONYMOUS: Mistake = Mistake {
    code: ErrorCode::Unauthorized,
    message: "an anonymous connection can't become a user's; connect again with the token",
};

const UNAUTHORIZED_TOKEN: Mistake = Mistake {
    code: ErrorCode::Unauthorized,
    message: "the token is invalid, expired, or another user's",
};

const TOO_MANY_ROOMS: Mistake = Mistake {
    code: ErrorCode::TooManyRooms,
    message: "the connection is in as many rooms as it may be; leave one first",
};

const RATE_LIMITED: Mistake =
    Mistake { code: ErrorCode::RateLimited, message: "too many messages; this one was ignored" };
