//! The runtime and the relay around a shard, which check what it asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    entry::Body,
    id::{BootId, ConnectionId, DeliveryId, DispatchId, Epoch, Mid, Position, RequestId},
    limits::ShardLimits,
    link::{Publication, Suffix, ToRelay, ToShard},
    shard::{Action, Actions, Handshake, Identity, Input, Reference, Refusal, Shard, VerifyError},
    stream::StreamName,
    time::{Instant, UnixMillis},
    wire::{Frame, encode},
};

use super::{
    client::{Client, Exclusions, PUBLISHED},
    wire::{first_text, only_text},
};

/// Connections at once: a few more than the shard allows.
pub(super) const SLOTS: usize = 8;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The upgrade request is there.
    Arrived,
    /// Its token is being verified.
    Verifying,
    /// The greeting is sent.
    Open,
    /// The close frame is sent.
    Closing,
    /// The TCP connection is cut.
    Reset,
}

impl Stage {
    /// Whether its socket may still bring something.
    pub(super) fn is_upgraded(self) -> bool {
        matches!(self, Self::Open | Self::Closing | Self::Reset)
    }
}

/// A connection.
#[derive(Debug)]
struct Peer {
    conn: ConnectionId,
    stage: Stage,
    client: Client,
    /// When something came from it last.
    heard: Instant,
    /// Refreshes that are being verified.
    refreshing: Vec<Option<Reference>>,
}

/// A fan-out under way.
#[derive(Debug)]
pub(super) struct Walk {
    frame: Frame,
    sent: BTreeSet<ConnectionId>,
}

/// What two runs of the same inputs must agree on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Transcript {
    actions: Vec<Action>,
    bytes: Vec<u8>,
}

/// Everything around one shard.
#[derive(Debug)]
pub(super) struct World {
    pub(super) shard: Shard,
    pub(super) walks: BTreeMap<DeliveryId, Walk>,
    pub(super) transcript: Transcript,
    now: Instant,
    clock_step: Duration,
    /// When deadlines were last seen too late.
    stalled: Instant,
    peers: [Option<Peer>; SLOTS],
    generations: [u32; SLOTS],
    limits: ShardLimits,
    positions: bool,
    /// Joins that are not answered yet.
    joins: Vec<(RequestId, StreamName)>,
    /// Streams that the shard wants.
    interest: BTreeSet<StreamName>,
    /// Streams whose publications are given to the shard.
    live: BTreeSet<StreamName>,
    /// Streams whose join failed, and that owe a `Resync`.
    failed: BTreeSet<StreamName>,
    offsets: BTreeMap<StreamName, u64>,
    exclusions: Exclusions,
    /// Messages that ask to be acknowledged.
    asks: BTreeSet<Mid>,
    /// Publications that are not handed over yet.
    dispatched: BTreeSet<DispatchId>,
    dispatches: u64,
    /// What the walk that has just ended reached.
    accepted: Option<u32>,
    draining: bool,
    drained: bool,
}

impl World {
    pub(super) fn new(limits: ShardLimits, positions: bool, seed: u64) -> Self {
        let now = Instant(1_000_000_000);
        Self {
            shard: Shard::new(limits.clone(), seed, 7, now, unix(now)),
            walks: BTreeMap::new(),
            transcript: Transcript::default(),
            now,
            clock_step: Duration::ZERO,
            stalled: now,
            peers: [const { None }; SLOTS],
            generations: [0; SLOTS],
            limits,
            positions,
            joins: Vec::new(),
            interest: BTreeSet::new(),
            live: BTreeSet::new(),
            failed: BTreeSet::new(),
            offsets: BTreeMap::new(),
            exclusions: Exclusions::default(),
            asks: BTreeSet::new(),
            dispatched: BTreeSet::new(),
            dispatches: 0,
            accepted: None,
            draining: false,
            drained: false,
        }
    }

    /// The wall clock.
    pub(super) fn unix(&self) -> UnixMillis {
        unix(self.now + self.clock_step)
    }

    /// Every connection and how far it is.
    pub(super) fn peers(&self) -> impl Iterator<Item = (ConnectionId, Stage)> {
        self.peers.iter().flatten().map(|peer| (peer.conn, peer.stage))
    }

    /// The last connection of `slot` that is gone; one that never was if there is none.
    pub(super) fn stale(&self, slot: usize) -> ConnectionId {
        let present = u32::from(self.peers[slot].is_some());
        let generation = self.generations[slot].wrapping_sub(1 + present);
        ConnectionId { slot: u32::try_from(slot).expect("there are few"), generation }
    }

    /// A new connection in the first free slot from `from` on.
    pub(super) fn free_slot(&self, from: usize) -> Option<ConnectionId> {
        let slot = (from..SLOTS).chain(0..from).find(|&slot| self.peers[slot].is_none())?;
        let generation = self.generations[slot];
        Some(ConnectionId { slot: u32::try_from(slot).expect("there are few"), generation })
    }

    // What happens to connections.

    pub(super) fn arrive(&mut self, conn: ConnectionId, request: Handshake<'_>) {
        self.generations[conn.slot as usize] += 1;
        self.peers[conn.slot as usize] = Some(Peer {
            conn,
            stage: Stage::Arrived,
            client: Client::default(),
            heard: self.now,
            refreshing: Vec::new(),
        });
        self.feed(Input::Arrived { conn, request });
        let refused = self.peers[conn.slot as usize].is_none();
        assert!(refused || !self.draining, "newcomers are refused during a drain");
    }

    pub(super) fn verified(&mut self, conn: ConnectionId, outcome: Result<Identity, VerifyError>) {
        let peer = self.peer(conn);
        peer.stage = Stage::Arrived;
        peer.client.user = outcome.as_ref().ok().map(|identity| Arc::clone(&identity.user));
        self.feed(Input::Verified { conn, outcome, user_connections: 0 });
    }

    pub(super) fn refreshed(&mut self, conn: ConnectionId, outcome: Result<Identity, VerifyError>) {
        if let Some(reference) = self.peer(conn).refreshing.pop() {
            self.feed(Input::Refreshed { conn, reference, outcome });
        }
    }

    pub(super) fn close(&mut self, conn: ConnectionId) {
        self.peers[conn.slot as usize] = None;
        self.feed(Input::Closed { conn });
    }

    /// Gives an input that came over the socket of `conn`.
    pub(super) fn heard(&mut self, conn: ConnectionId, input: Input<'_>) {
        self.peer(conn).heard = self.now;
        self.feed(input);
    }

    // What the relay says.

    /// Answers a parked join: the first one of the stream of the `nth`.
    pub(super) fn answer_join(&mut self, nth: usize, works: bool) {
        if self.joins.is_empty() {
            return;
        }
        let stream = self.joins[nth % self.joins.len()].1.clone();
        let first = self.joins.iter().position(|(_, other)| *other == stream);
        let (request, _) = self.joins.remove(first.expect("it was picked from here"));
        let wanted = self.interest.contains(&stream);
        if !works && !self.live.contains(&stream) {
            if wanted {
                self.failed.insert(stream);
            }
            self.feed(Input::FromRelay(ToShard::JoinFailed { request }));
            return;
        }
        if self.failed.contains(&stream) {
            self.resync(&stream, 0);
        }
        if wanted {
            self.live.insert(stream.clone());
        }
        let position = self.position(&stream);
        let recovered = nth.is_multiple_of(2) && position.is_some();
        self.feed(Input::FromRelay(ToShard::Joined {
            request,
            position,
            recovered,
            suffix: Suffix::default(),
        }));
    }

    /// Loses `missed` publications of a stream and says so.
    pub(super) fn resync(&mut self, stream: &StreamName, missed: usize) {
        if !self.live.contains(stream) && !self.failed.remove(stream) {
            return;
        }
        self.live.insert(stream.clone());
        *self.offsets.entry(stream.clone()).or_default() += missed as u64;
        self.tell_resync(stream, missed > 0);
    }

    fn tell_resync(&mut self, stream: &StreamName, by_all: bool) {
        let position = self.position(stream);
        let stream = stream.clone();
        self.feed(Input::FromRelay(ToShard::Resync { stream, by_all, position, spread_ms: 5_000 }));
    }

    /// Publishes to a stream. The shard hears of it if the stream is live, or nobody is in it.
    pub(super) fn publish(
        &mut self,
        stream: &StreamName,
        durable: bool,
        exclude: Option<&str>,
        long: bool,
    ) {
        let exclude_user: Option<Arc<str>> = exclude.map(Into::into);
        let mut position = None;
        if durable {
            *self.offsets.entry(stream.clone()).or_default() += 1;
            position = self.position(stream);
        }
        if let (Some(position), Some(user)) = (position, &exclude_user) {
            self.exclusions.insert((stream.clone(), position.offset), Arc::clone(user));
        }
        let is_stale = !self.interest.contains(stream);
        if self.dispatched.len() >= DISPATCHED_MAX || !is_stale && !self.live.contains(stream) {
            if self.live.contains(stream) {
                // There is no room for it: everybody misses it.
                self.tell_resync(stream, true);
            }
            return;
        }
        let body = Body {
            kind: PUBLISHED.into(),
            payload: if long { "\"-------------------------------\"" } else { "1" }.into(),
            exclude_user,
            key: "".into(),
            ack: long,
            origin: ORIGIN,
            published: self.unix(),
        };
        self.asks.extend(position.filter(|_| long).map(|position| position.mid));
        self.dispatches += 1;
        let dispatch = DispatchId(self.dispatches);
        self.dispatched.insert(dispatch);
        self.feed(Input::FromRelay(ToShard::Publication(Arc::new(Publication {
            dispatch,
            stream: stream.clone(),
            frame: encode::publication(stream, &body, position),
            kind: body.kind,
            exclude_user: body.exclude_user,
            acks_to: position.filter(|_| long).map(|_| ORIGIN),
            position,
            published: Some(body.published),
            value_of: None,
        }))));
    }

    fn position(&self, stream: &StreamName) -> Option<Position> {
        let offset = self.offsets.get(stream).copied().unwrap_or(0);
        self.positions.then_some(Position { epoch: Epoch(1), offset, mid: Mid(offset << 32) })
    }

    // Fan-outs.

    /// Writes to the next members of a fan-out. Gives how many there were.
    pub(super) fn walk(&mut self, delivery: DeliveryId, at_most: usize) -> usize {
        let mut members = Vec::new();
        self.shard.next_members(delivery, at_most, &mut members);
        assert!(members.len() <= at_most);
        for &conn in &members {
            let walk = self.walks.get_mut(&delivery).expect("the caller picked it");
            assert!(walk.sent.insert(conn), "nobody gets a frame twice");
            let peer = self.peers[conn.slot as usize].as_mut().expect("members are there");
            assert_eq!((peer.conn, peer.stage), (conn, Stage::Open), "members are open");
            let mut rest = &*walk.frame.0;
            while !rest.is_empty() {
                let (text, behind) = first_text(rest);
                peer.client.saw(text, &self.exclusions);
                rest = behind;
            }
        }
        members.len()
    }

    pub(super) fn finish_walk(&mut self, delivery: DeliveryId) {
        let walk = self.walks.remove(&delivery).expect("the caller picked it");
        let accepted = u32::try_from(walk.sent.len()).expect("there are few");
        let waiting = self.dispatched.len();
        self.accepted = Some(accepted);
        self.feed(Input::Delivered { delivery, accepted });
        self.accepted = None;
        assert!(self.dispatched.len() < waiting, "what was walked is reported");
    }

    pub(super) fn finish_walks(&mut self) {
        while let Some(&delivery) = self.walks.keys().next() {
            while self.walk(delivery, SLOTS) > 0 {}
            self.finish_walk(delivery);
        }
        assert!(self.dispatched.is_empty(), "every publication is reported");
    }

    // Time.

    /// Lets time pass, waking up for each deadline, or too late for all of them.
    pub(super) fn advance(&mut self, period: Duration, late: bool) {
        let end = self.now + period;
        while let Some((deadline, _)) = self.shard.next_deadline()
            && deadline <= end
            && !late
        {
            self.now = self.now.max(deadline);
            self.time_out();
        }
        self.now = end;
        self.time_out();
        if late {
            self.stalled = end;
        }
        self.check_nobody_is_silent();
    }

    /// Checks that a peer that is silent for too long is closed. After a stall everyone gets time.
    fn check_nobody_is_silent(&self) {
        for peer in self.peers.iter().flatten().filter(|peer| peer.stage == Stage::Open) {
            let silence = self.now.saturating_since(peer.heard.max(self.stalled));
            assert!(silence <= self.limits.pong_timeout + WHEEL_SLACK, "{:?} is silent", peer.conn);
        }
    }

    /// Says that the deadline has passed, until it lies ahead.
    fn time_out(&mut self) {
        for _ in 0..TURNS_MAX {
            match self.shard.next_deadline() {
                Some((deadline, _)) if deadline <= self.now => self.feed(Input::TimedOut),
                Some(_) | None => return,
            }
        }
        panic!("the deadline {:?} does not go away at {:?}", self.shard.next_deadline(), self.now);
    }

    pub(super) fn step_wall_clock(&mut self, step: Duration) {
        self.clock_step = step;
        self.feed(Input::WallClock(self.unix()));
    }

    pub(super) fn drain(&mut self, period: Duration) {
        if !self.draining {
            self.draining = true;
            self.feed(Input::Draining { period });
        }
    }

    // The end.

    /// Checks that everyone has seen the newest publication of each stream they are in.
    pub(super) fn check_nothing_was_missed(&self) {
        for peer in self.peers.iter().flatten().filter(|peer| peer.stage == Stage::Open) {
            for stream in peer.client.streams().filter(|stream| self.live.contains(stream)) {
                let head = self.offsets.get(stream).copied().unwrap_or(0);
                peer.client.check_seen(stream, head, &self.exclusions);
            }
        }
    }

    /// Closes every connection and checks that nothing is left of them.
    pub(super) fn leave_all(&mut self) {
        let conns: Vec<_> = self.peers().map(|(conn, _)| conn).collect();
        for conn in conns {
            self.close(conn);
        }
        self.finish_walks();
        while !self.joins.is_empty() {
            self.answer_join(0, true);
        }
        self.advance(Duration::from_secs(3_600), false);
        assert_eq!(self.interest, BTreeSet::new(), "interest ends with the last member");
        self.shard.rooms(&mut |room, members| panic!("{members} are left in {room:?}"));
        let stats = self.shard.stats();
        let present = [
            stats.authenticated,
            stats.anonymous,
            stats.handshaking,
            stats.congested,
            stats.parked_joins,
            stats.draining,
        ];
        assert_eq!(present, [0; 6], "gauges return to zero");
        assert_eq!(self.drained, self.draining, "a drain ends");
    }

    // What the shard asks for.

    /// Gives an input, and does what the shard asks for.
    pub(super) fn feed(&mut self, input: Input<'_>) {
        let mut actions = Actions::default();
        self.shard.handle(self.now, input, &mut actions);
        let (list, bytes) = actions.drain();
        for action in list {
            self.transcript.actions.push(action.clone());
            self.carry_out(action, bytes);
        }
        self.transcript.bytes.extend_from_slice(bytes);
    }

    fn carry_out(&mut self, action: Action, bytes: &[u8]) {
        match action {
            Action::Verify { conn } => {
                self.advance_stage(conn, &[Stage::Arrived], Stage::Verifying);
            }
            Action::Refuse { conn, refusal } => {
                let stage = self.peer(conn).stage;
                assert!(matches!(stage, Stage::Arrived | Stage::Verifying), "{stage:?}");
                let draining = matches!(refusal, Refusal::Draining { .. });
                assert!(self.draining || !draining);
                self.peers[conn.slot as usize] = None;
            }
            Action::Accept { conn, greeting } => {
                self.advance_stage(conn, &[Stage::Arrived], Stage::Open);
                let now = self.now;
                let peer = self.peer(conn);
                peer.heard = now;
                peer.client.greeted(only_text(greeting.of(bytes)));
            }
            Action::Send { conn, frame } => {
                assert_eq!(self.peer(conn).stage, Stage::Open, "sent to an open connection");
                self.saw(conn, frame.of(bytes));
            }
            Action::Feed { .. } => panic!("nothing was missed"),
            Action::Ping { conn } => assert_eq!(self.peer(conn).stage, Stage::Open),
            Action::Close { conn, .. } => {
                self.advance_stage(conn, &[Stage::Open], Stage::Closing);
            }
            Action::Reset { conn } => {
                self.advance_stage(conn, &[Stage::Open, Stage::Closing], Stage::Reset);
            }
            Action::VerifyRefresh { conn, reference, .. } => {
                let peer = self.peer(conn);
                assert_eq!(peer.stage, Stage::Open);
                peer.refreshing.push(reference);
            }
            Action::Deliver { delivery, frame, .. } => {
                let (_, others) = first_text(&frame.0);
                let most = self.limits.coalesced_bytes_max;
                assert!(others.is_empty() || frame.0.len() <= most, "coalesced within the limit");
                let walk = Walk { frame, sent: BTreeSet::new() };
                assert!(self.walks.insert(delivery, walk).is_none(), "fan-outs have their own ids");
            }
            Action::ToRelay(message) => self.tell_relay(message),
            Action::Drained => {
                assert!(self.draining && !self.drained, "drained once");
                assert_eq!(self.peers().count(), 0, "drained when the last one is gone");
                self.drained = true;
            }
            Action::Reach(_) => (),
        }
    }

    fn saw(&mut self, conn: ConnectionId, frame: &[u8]) {
        let peer = self.peers[conn.slot as usize].as_mut().expect("its stage was checked");
        peer.client.saw(only_text(frame), &self.exclusions);
    }

    fn tell_relay(&mut self, message: ToRelay) {
        match message {
            ToRelay::Join { request, stream, .. } => {
                assert!(self.joins.iter().all(|(other, _)| *other != request), "requests differ");
                self.interest.insert(stream.clone());
                self.joins.push((request, stream));
            }
            ToRelay::Vacated { stream } => {
                assert!(self.interest.remove(&stream), "{stream:?} was wanted");
                self.live.remove(&stream);
                self.failed.remove(&stream);
            }
            ToRelay::HandedOver { dispatch, recipients } => {
                assert!(self.dispatched.remove(&dispatch), "reported once");
                let expected = recipients == 0 || self.accepted == Some(recipients);
                assert!(expected, "{recipients} reported, {:?} accepted", self.accepted);
            }
            ToRelay::Acknowledged { mid, origin } => {
                assert_eq!(origin, ORIGIN);
                assert!(self.asks.contains(&mid), "{mid:?} did not ask to be acknowledged");
            }
            ToRelay::Counted(_) => panic!("nobody asked"),
        }
    }

    fn peer(&mut self, conn: ConnectionId) -> &mut Peer {
        self.peers[conn.slot as usize]
            .as_mut()
            .filter(|peer| peer.conn == conn)
            .expect("actions name connections that are there")
    }

    fn advance_stage(&mut self, conn: ConnectionId, from: &[Stage], to: Stage) {
        let peer = self.peer(conn);
        assert!(from.contains(&peer.stage), "{conn:?} from {:?} to {to:?}", peer.stage);
        peer.stage = to;
    }
}

/// The wall clock, unless it was stepped.
fn unix(now: Instant) -> UnixMillis {
    UnixMillis(1_700_000_000_000 + now.0 / 1_000_000)
}

/// Who publishes.
const ORIGIN: BootId = BootId(7);

/// Publications that a relay has under way to one shard.
const DISPATCHED_MAX: usize = 16;

/// How late a connection may be looked at.
const WHEEL_SLACK: Duration = Duration::from_secs(1);

/// More than all connections and joins can need at one moment.
const TURNS_MAX: usize = 100;
