//! From the upgrade request to the greeting.

use crate::{
    id::ConnectionId,
    link::Since,
    stream::StreamName,
    wire::{
        Kind, decode,
        encode::{self, Connected},
    },
};

use super::{
    Action, Actions, Handshake, Identity, Refusal, Shard, VerifyError,
    connection::{Answer, Asked, Connection, Extra, Handshaking, NEVER, Phase},
    millis,
    streams::NONE,
};

impl Shard {
    pub(super) fn arrived(
        &mut self,
        conn: ConnectionId,
        request: Handshake<'_>,
        actions: &mut Actions,
    ) {
        let slot = conn.slot as usize;
        let is_free = self.connections.get(slot).is_none_or(|conn| conn.phase == Phase::Free);
        assert!(is_free, "connections arrive at free slots");
        if let Err(refusal) = self.admit(&request) {
            self.stats.refusals[refusal.index()] += 1;
            actions.push(Action::Refuse { conn, refusal });
            return;
        }
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || Connection::FREE);
        }
        self.occupied += 1;
        self.stats.handshaking += 1;
        let handshake = Handshaking {
            since: asked(request.since),
            since_all: asked(request.since_all),
            ..Handshaking::default()
        };
        self.connections[slot] = Connection {
            generation: conn.generation,
            phase: Phase::Verifying,
            extra: Some(Box::new(Extra { handshake: Some(handshake), ..Extra::default() })),
            ..Connection::FREE
        };
        if request.token {
            actions.push(Action::Verify { conn });
        } else {
            self.join_first(conn.slot, None, actions);
        }
    }

    /// The checks that need no token, cheapest first.
    fn admit(&mut self, request: &Handshake<'_>) -> Result<(), Refusal> {
        if self.drain.is_some() && !planted!("let newcomers in during a drain") {
            return Err(Refusal::Draining { retry_after_s: self.retry_after_s(RETRY_S_MAX) });
        }
        let per_second = self.limits.accepts_per_second_max;
        if !self.accepts.take(self.now, per_second, per_second) {
            return Err(Refusal::TooFast { retry_after_s: self.retry_after_s(RETRY_S_MAX) });
        }
        if self.occupied.max(request.instance_connections) >= self.limits.connections_max {
            return Err(Refusal::Full { retry_after_s: self.retry_after_s(RETRY_S_MAX) });
        }
        let allowed = |origin: &str| {
            let origins = &self.limits.origins;
            origins.iter().any(|open| open == "*" || open.eq_ignore_ascii_case(origin))
        };
        if !request.origin.is_none_or(allowed) {
            return Err(Refusal::OriginForbidden);
        }
        if !request.token && !self.limits.anonymous_allowed {
            return Err(Refusal::TokenMissing);
        }
        Ok(())
    }

    pub(super) fn verified(
        &mut self,
        slot: u32,
        outcome: Result<Identity, VerifyError>,
        user_connections: u32,
        actions: &mut Actions,
    ) {
        let Ok(identity) = outcome else {
            return self.refuse(slot, Refusal::TokenInvalid, actions);
        };
        let Ok(user_stream) = StreamName::user(&identity.user) else {
            return self.refuse(slot, Refusal::TokenInvalid, actions);
        };
        if self.is_expired(identity.expires) {
            return self.refuse(slot, Refusal::TokenInvalid, actions);
        }
        // Only handshakes join a user's stream, so its members and parked joins are the user's
        // connections.
        let connections = self.streams.names.find(user_stream.as_str()).map_or(0, |user| {
            let user = self.streams.stream(user);
            user.members().len() + user.parked as usize
        });
        if connections.max(user_connections as usize)
            >= self.limits.connections_per_user_max as usize
        {
            return self.refuse(slot, Refusal::TooManyConnections, actions);
        }
        let conn = &mut self.connections[slot as usize];
        conn.expires = identity.expires.unwrap_or(NEVER);
        conn.extra().grants = (!identity.rooms.is_empty()).then_some(identity.rooms);
        self.join_first(slot, Some(user_stream), actions);
    }

    /// Parks the joins of a connection that is let in.
    fn join_first(&mut self, slot: u32, user: Option<StreamName>, actions: &mut Actions) {
        let joins = if user.is_some() { 2 } else { 1 };
        if self.parked.len() + joins > self.limits.parked_joins_max as usize {
            let retry_after_s = self.retry_after_s(RETRY_S_MAX);
            return self.refuse(slot, Refusal::Full { retry_after_s }, actions);
        }
        let conn = &mut self.connections[slot as usize];
        conn.phase = Phase::Joining;
        let handshake = conn.extra().handshake.as_ref().expect("it has not been greeted");
        let (since, since_all) = (handshake.since, handshake.since_all);
        if let Some(user) = user {
            let stream = self.park(slot, &user, since, None, actions);
            self.connections[slot as usize].user = stream;
        }
        let all = self.all.clone();
        self.park(slot, &all, since_all, None, actions);
    }

    /// Notes the answer to one of the first joins. The connection is seated in that stream already;
    /// what is published there before all joins are answered is held. So what was answered stays
    /// exact however long the other answer takes.
    pub(super) fn answered(
        &mut self,
        slot: u32,
        stream: u32,
        answer: Answer,
        actions: &mut Actions,
    ) {
        let conn = &mut self.connections[slot as usize];
        let is_user = conn.user == stream;
        let is_anonymous = conn.user == NONE;
        let handshake = conn.extra().handshake.as_mut().expect("it has not been greeted");
        *(if is_user { &mut handshake.user } else { &mut handshake.all }) = Some(answer);
        if handshake.all.is_some() && (is_anonymous || handshake.user.is_some()) {
            self.greet(slot, actions);
        }
    }

    fn greet(&mut self, slot: u32, actions: &mut Actions) {
        let conn = &mut self.connections[slot as usize];
        let mut handshake = conn.extra().handshake.take().expect("it has not been greeted");
        if handshake.overflowed {
            actions.push(Action::Reach("a handshake that too much was held for"));
            let retry_after_s = self.retry_after_s(RETRY_BROKER_S_MAX);
            return self.refuse(slot, Refusal::BrokerAway { retry_after_s }, actions);
        }
        conn.phase = Phase::Open;
        conn.heard = self.now;
        conn.trim();
        let user = conn.user;
        if user == NONE {
            self.stats.anonymous += 1;
        } else {
            self.stats.authenticated += 1;
        }
        self.stats.handshaking -= 1;
        self.stats.accepted += 1;
        self.stats.sent[Kind::SystemConnected.index()] += 1;
        self.write_greeting(slot, &handshake, actions);
        for answer in [handshake.user.take(), handshake.all.take()].into_iter().flatten() {
            self.feed(slot, answer.suffix, actions);
        }
        if !handshake.held.is_empty() {
            actions.push(Action::Reach("publications held for a handshake"));
        }
        for (_, publication) in &handshake.held {
            if let Some((position, origin)) = publication.asks_for_ack() {
                self.ask_for_ack(slot, position, origin);
            }
            self.send(slot, Kind::of(&publication.kind), actions, |out| {
                out.extend_from_slice(&publication.frame.0);
            });
        }
        self.start_heartbeat(slot, actions);
    }

    fn write_greeting(&self, slot: u32, handshake: &Handshaking, actions: &mut Actions) {
        let conn = self.id(slot);
        let user = self.connections[slot as usize].user;
        let mut connection_id = Vec::new();
        encode::connection_id(&mut connection_id, self.instance, conn);
        let all = handshake.all.as_ref().expect("`all` has answered");
        let own = handshake.user.as_ref();
        let greeting = Connected {
            connection_id: str::from_utf8(&connection_id).expect("connection ids are text"),
            user: (user != NONE).then(|| self.user_id(user)),
            position: own.and_then(|answer| answer.position),
            recovered: own.and_then(|answer| answer.recovered),
            all_position: all.position,
            all_recovered: all.recovered,
            ping_interval_ms: millis(self.limits.ping_interval),
            pong_timeout_ms: millis(self.limits.pong_timeout),
            now: self.unix(),
        };
        let greeting = actions.write(|out| encode::connected(out, &greeting));
        actions.push(Action::Accept { conn, greeting });
    }

    /// Refuses a connection in its handshake, and forgets it.
    pub(super) fn refuse(&mut self, slot: u32, refusal: Refusal, actions: &mut Actions) {
        self.stats.refusals[refusal.index()] += 1;
        actions.push(Action::Refuse { conn: self.id(slot), refusal });
        self.closed(slot, actions);
    }

    pub(super) fn refuse_without_broker(&mut self, slot: u32, actions: &mut Actions) {
        let retry_after_s = self.retry_after_s(RETRY_BROKER_S_MAX);
        self.refuse(slot, Refusal::BrokerAway { retry_after_s }, actions);
    }

    pub(super) fn refuse_draining(&mut self, slot: u32, actions: &mut Actions) {
        let retry_after_s = self.retry_after_s(RETRY_S_MAX);
        self.refuse(slot, Refusal::Draining { retry_after_s }, actions);
    }

    /// The id of the user whose stream this is.
    pub(super) fn user_id(&self, user: u32) -> &str {
        let name = self.streams.names.name(user).as_str();
        name.strip_prefix(crate::stream::USER_PREFIX).expect("it is the stream of a user")
    }

    /// Random, so that those who are refused together don't come back together.
    fn retry_after_s(&mut self, max: u32) -> u32 {
        1 + u32::try_from(self.rng.below(u64::from(max))).expect("it is below `max`")
    }
}

/// An empty `since` is none.
fn asked(since: Option<&str>) -> Asked {
    since.filter(|since| !since.is_empty()).map(|since| -> Option<Since> { decode::since(since) })
}

/// Longest time after which a refused client is told to come back.
const RETRY_S_MAX: u32 = 5;

/// The same while the broker is away.
const RETRY_BROKER_S_MAX: u32 = 10;
