//! The shard of a worker, and the hands that carry out what it wants.

use std::{
    cell::RefCell, collections::VecDeque, fmt, future, mem, num::NonZeroU16, rc::Rc, sync::Arc,
};

use realtime_core::{
    id::{ConnectionId, DeliveryId, WorkerId},
    link::{ToRelay, ToShard, ValueKey},
    shard::{Action, Actions, Handshake, Input, Shard},
    time::{Instant, UnixMillis},
    transcript::{Recorded, Sink},
    wire::{CloseCode, Frame, encode},
};
use tokio::sync::{Notify, mpsc};

use super::{
    Census, Latency, Snapshot, arrival,
    slots::{Slots, Waiting},
};
use crate::{
    auth::Verifier,
    clock::Clock,
    config::Config,
    handshake::switching_protocols,
    link::LinkCommand,
    net::Stream,
    outbox::Budget,
    service::Handoff,
    socket::{Bounds, Connection, Event, Owner, Sent, Socket},
};

/// What a machine is made of.
pub(super) struct Parts<S> {
    pub(super) id: WorkerId,
    pub(super) shard: Recorded<Shard, Box<dyn Sink + Send>>,
    pub(super) workers: NonZeroU16,
    pub(super) config: Arc<Config>,
    pub(super) clock: Clock,
    pub(super) census: Arc<Census>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) link: mpsc::Sender<LinkCommand>,
    pub(super) handoff: mpsc::Sender<Handoff<S>>,
    pub(super) drained: mpsc::Sender<WorkerId>,
}

/// A shard and its sockets. The tasks of a worker share it.
pub(super) struct Machine<S> {
    pub(super) config: Arc<Config>,
    pub(super) handoff: mpsc::Sender<Handoff<S>>,
    pub(super) arrivals: arrival::Arrivals,
    pub(super) census: Arc<Census>,
    pub(super) workers: NonZeroU16,
    id: WorkerId,
    clock: Clock,
    verifier: Arc<Verifier>,
    link: mpsc::Sender<LinkCommand>,
    drained: mpsc::Sender<WorkerId>,
    bounds: Rc<Bounds>,
    state: RefCell<State<S>>,
    /// A fan-out has begun.
    fan_out_began: Notify,
    /// `to_link` has its first message.
    link_waits: Notify,
    /// The next deadline is earlier than the one that is slept for.
    deadline_moved: Notify,
}

struct State<S> {
    shard: Recorded<Shard, Box<dyn Sink + Send>>,
    actions: Actions,
    /// What came up while actions were carried out; handled after them.
    follow_ups: VecDeque<Input<'static>>,
    slots: Slots<S>,
    /// Fan-outs that take more than one turn, each in turn.
    fan_outs: VecDeque<FanOut>,
    members: Vec<ConnectionId>,
    /// What the relay thread had no room for. Bounded by what the shard bounds: parked joins,
    /// publications in flight, streams.
    to_link: VecDeque<ToRelay>,
    /// What the timer sleeps for.
    armed: Option<Instant>,
    latency: Latency,
    /// Frames written to members, ever.
    sends: u64,
}

struct FanOut {
    delivery: DeliveryId,
    frame: Frame,
    published: Option<UnixMillis>,
    value_of: Option<ValueKey>,
    accepted: u32,
}

impl<S: Stream> Machine<S> {
    pub(super) fn new(parts: Parts<S>) -> Self {
        let ws = &parts.config.ws;
        let total = ws.outbox_total_bytes_max / usize::from(parts.workers.get());
        let budget = Budget::new(ws.outbox_bytes_max, total);
        let bounds = Rc::new(Bounds { budget, message_bytes_max: ws.message_bytes_max });
        Self {
            config: parts.config,
            handoff: parts.handoff,
            arrivals: arrival::Arrivals::default(),
            census: parts.census,
            workers: parts.workers,
            id: parts.id,
            clock: parts.clock,
            verifier: parts.verifier,
            link: parts.link,
            drained: parts.drained,
            bounds,
            state: RefCell::new(State {
                shard: parts.shard,
                actions: Actions::default(),
                follow_ups: VecDeque::new(),
                slots: Slots::new(),
                fan_outs: VecDeque::new(),
                members: Vec::with_capacity(MEMBERS_PER_TURN),
                to_link: VecDeque::new(),
                armed: None,
                latency: Latency::default(),
                sends: 0,
            }),
            fan_out_began: Notify::new(),
            link_waits: Notify::new(),
            deadline_moved: Notify::new(),
        }
    }

    /// A complete upgrade request. The census knows of it.
    pub(super) fn arrived(self: &Rc<Self>, waiting: Waiting<S>, request: Handshake<'_>) {
        let conn = self.state.borrow_mut().slots.insert(waiting);
        self.input(Input::Arrived { conn, request });
    }

    /// Hands the shard one input, at the present.
    pub(super) fn input(self: &Rc<Self>, input: Input<'_>) {
        self.input_at(self.clock.now(), input);
    }

    fn input_at(self: &Rc<Self>, now: Instant, input: Input<'_>) {
        let state = &mut *self.state.borrow_mut();
        state.shard.handle(now, input, &mut state.actions);
        self.carry_out(state);
        while let Some(input) = state.follow_ups.pop_front() {
            state.shard.handle(now, input, &mut state.actions);
            self.carry_out(state);
        }
        let next = state.shard.next_deadline().map(|(at, _)| at);
        if next.is_some_and(|at| state.armed.is_none_or(|armed| at < armed)) {
            self.deadline_moved.notify_one();
        }
    }

    fn carry_out(self: &Rc<Self>, state: &mut State<S>) {
        let mut actions = mem::take(&mut state.actions);
        let (list, bytes) = actions.drain();
        for action in list {
            self.carry_out_one(state, action, bytes);
        }
        actions.clear();
        state.actions = actions;
    }

    fn carry_out_one(self: &Rc<Self>, state: &mut State<S>, action: Action, bytes: &[u8]) {
        match action {
            Action::Verify { conn } => self.verify(state, conn),
            Action::Refuse { conn, refusal } => {
                let Some((waiting, user)) = state.slots.refuse(conn) else { return };
                tracing::debug!(worker = self.id.0, conn.slot, ?refusal, "handshake refused");
                self.census.left(user);
                arrival::refuse(self, waiting.stream, refusal);
            }
            Action::Accept { conn, greeting } => self.accept(state, conn, greeting.of(bytes)),
            Action::Send { conn, frame } => {
                let Some(socket) = state.slots.socket(conn) else { return };
                let sent = socket.borrow_mut().send_copy(frame.of(bytes));
                state.sent(conn, sent);
            }
            Action::Feed { conn, suffix, skip_user } => {
                let Some(socket) = state.slots.socket(conn) else { return };
                let sent = socket.borrow_mut().feed(suffix, skip_user);
                state.sent(conn, sent);
            }
            Action::Deliver { delivery, frame, published, value_of } => {
                // A short one is over at once, a long one takes its turns with the others.
                let fan_out = FanOut { delivery, frame, published, value_of, accepted: 0 };
                if let Some(fan_out) = state.walk(fan_out, self.clock) {
                    state.fan_outs.push_back(fan_out);
                    self.fan_out_began.notify_one();
                }
            }
            Action::Ping { conn } => {
                let Some(socket) = state.slots.socket(conn) else { return };
                let sent = socket.borrow_mut().send_copy(encode::PING);
                state.sent(conn, sent);
            }
            Action::Close { conn, code } => {
                let Some(socket) = state.slots.socket(conn) else { return };
                tracing::debug!(worker = self.id.0, conn.slot, ?code, "closing");
                let mut frame = Vec::new();
                encode::close(&mut frame, code);
                socket.borrow_mut().close(&frame);
            }
            Action::Reset { conn } => {
                let Some(socket) = state.slots.socket(conn) else { return };
                tracing::debug!(worker = self.id.0, conn.slot, "resetting");
                socket.borrow_mut().reset();
            }
            Action::VerifyRefresh { conn, token, reference } => {
                let outcome = self.verifier.verify(&token, self.clock);
                state.follow_ups.push_back(Input::Refreshed { conn, reference, outcome });
            }
            Action::ToRelay(message) => self.to_relay(state, message),
            // The server waits for one such message of each worker, and has room for all.
            Action::Drained => drop(self.drained.try_send(self.id)),
            Action::Reach(name) => tracing::trace!(name, "reached"),
        }
    }

    /// Verifies the token of an upgrade request; a good one counts as a connection of its user.
    fn verify(&self, state: &mut State<S>, conn: ConnectionId) {
        let Some(waiting) = state.slots.waiting(conn) else { return };
        let token = waiting.token.as_deref().unwrap_or_default();
        let outcome = self.verifier.verify(token, self.clock);
        let user_connections = match &outcome {
            Ok(identity) => {
                let (user, connections) = self.census.verified(&identity.user);
                state.slots.set_user(conn, user);
                connections
            }
            Err(error) => {
                tracing::debug!(reason = error.0, "token refused");
                0
            }
        };
        state.follow_ups.push_back(Input::Verified { conn, outcome, user_connections });
    }

    /// Writes the answer and the greeting, and lets the connection's task begin.
    fn accept(self: &Rc<Self>, state: &mut State<S>, conn: ConnectionId, greeting: &[u8]) {
        let mut sent = Sent::Refused;
        let socket = state.slots.open(conn, |waiting| {
            let mut first = Vec::with_capacity(ANSWER_BYTES + greeting.len());
            switching_protocols(&mut first, &waiting.accept, waiting.bearer);
            first.extend_from_slice(greeting);
            let mut socket = Socket::new(waiting.stream, &waiting.leftover, self.bounds.clone());
            sent = socket.send_copy(&first);
            Rc::new(RefCell::new(socket))
        });
        let Some(socket) = socket else { return };
        let session = Session { machine: self.clone(), conn };
        tokio::task::spawn_local(Connection::new(socket, session));
        state.sent(conn, sent);
    }

    fn to_relay(&self, state: &mut State<S>, message: ToRelay) {
        if !state.to_link.is_empty() {
            return state.to_link.push_back(message);
        }
        let command = LinkCommand::FromShard(self.id, message);
        if let Err(mpsc::error::TrySendError::Full(LinkCommand::FromShard(_, message))) =
            self.link.try_send(command)
        {
            state.to_link.push_back(message);
            self.link_waits.notify_one();
        }
    }

    /// What the worker has to report.
    pub(super) fn snapshot(&self, rooms: bool) -> Snapshot {
        let state = &mut *self.state.borrow_mut();
        let mut listed = Vec::new();
        if rooms {
            state.shard.rooms(&mut |name, members| listed.push((name.clone(), members)));
        }
        Snapshot {
            stats: state.shard.stats(),
            rooms: listed,
            queued_bytes: self.bounds.budget.used_bytes() as u64,
            values_replaced: self.bounds.budget.replaced(),
            latency: state.latency.counts,
            latency_sum_s: state.latency.sum_s,
            accept_failures: self.arrivals.failures(),
        }
    }

    /// Task: walks the long fan-outs, a stretch of each in turn.
    pub(super) async fn fan_out(self: Rc<Self>) {
        loop {
            let more = self.state.borrow_mut().fan_out_turn(self.clock);
            self.follow_up();
            if more {
                tokio::task::yield_now().await;
            } else {
                self.fan_out_began.notified().await;
            }
        }
    }

    /// Handles what came up outside of an input.
    fn follow_up(self: &Rc<Self>) {
        let input = self.state.borrow_mut().follow_ups.pop_front();
        if let Some(input) = input {
            self.input(input); // Takes the others along.
        }
    }

    /// Task: takes what the relay says, in order.
    pub(super) async fn hear_link(self: Rc<Self>, mut from_link: mpsc::Receiver<ToShard>) {
        let mut batch = Vec::with_capacity(BATCH);
        while from_link.recv_many(&mut batch, BATCH).await > 0 {
            let now = self.clock.now();
            let mut yield_at = self.state.borrow().sends + SENDS_PER_TURN;
            for message in batch.drain(..) {
                self.input_at(now, Input::FromRelay(message));
                let sends = self.state.borrow().sends;
                if sends >= yield_at {
                    tokio::task::yield_now().await;
                    yield_at = sends + SENDS_PER_TURN;
                }
            }
        }
        // The relay is gone: the instance is ending.
        future::pending::<()>().await;
    }

    /// Task: tells the relay what it had no room for at first.
    pub(super) async fn tell_link(self: Rc<Self>) {
        loop {
            self.link_waits.notified().await;
            while !self.state.borrow().to_link.is_empty() {
                let Ok(room) = self.link.reserve().await else { return future::pending().await };
                if let Some(message) = self.state.borrow_mut().to_link.pop_front() {
                    room.send(LinkCommand::FromShard(self.id, message));
                }
            }
        }
    }

    /// Task: tells the shard when its deadlines have passed.
    pub(super) async fn time_out(self: Rc<Self>) {
        loop {
            let next = {
                let state = &mut *self.state.borrow_mut();
                state.armed = state.shard.next_deadline().map(|(at, _)| at);
                state.armed
            };
            let passed = async {
                match next {
                    Some(at) => tokio::time::sleep_until(self.clock.tokio(at)).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.deadline_moved.notified() => (),
                () = passed => self.input(Input::TimedOut),
            }
        }
    }

    /// Task: reads the wall clock once a minute.
    pub(super) async fn read_wall_clock(self: Rc<Self>) {
        loop {
            tokio::time::sleep(WALL_CLOCK_INTERVAL).await;
            self.input(Input::WallClock(self.clock.unix()));
        }
    }
}

impl<S: Stream> State<S> {
    /// Follows what became of a frame.
    fn sent(&mut self, conn: ConnectionId, sent: Sent) -> bool {
        self.sends += 1;
        match sent {
            Sent::Accepted => true,
            Sent::Congested => {
                self.follow_ups.push_back(Input::Congested { conn });
                true
            }
            Sent::Overflowed => {
                self.follow_ups.push_back(Input::Overflowed { conn });
                false
            }
            // Closing or gone; the shard knows or will be told by the task.
            Sent::Refused => false,
        }
    }

    /// Walks a stretch of the next fan-out. Whether there is more to walk, of this or another one.
    fn fan_out_turn(&mut self, clock: Clock) -> bool {
        let Some(fan_out) = self.fan_outs.pop_front() else { return false };
        let unfinished = self.walk(fan_out, clock);
        self.fan_outs.extend(unfinished);
        !self.fan_outs.is_empty()
    }

    /// Walks a stretch of a fan-out, and gives it back unless that was the end of it.
    fn walk(&mut self, mut fan_out: FanOut, clock: Clock) -> Option<FanOut> {
        let mut members = mem::take(&mut self.members);
        let mut left = MEMBERS_PER_TURN;
        while left > 0 {
            members.clear();
            self.shard.next_members(fan_out.delivery, left, &mut members);
            if members.is_empty() {
                break;
            }
            left -= members.len();
            for conn in members.drain(..) {
                let Some(socket) = self.slots.socket(conn) else { continue };
                let sent = socket.borrow_mut().send(&fan_out.frame.0, fan_out.value_of);
                fan_out.accepted += u32::from(self.sent(conn, sent));
            }
        }
        self.members = members;
        if left == 0 {
            return Some(fan_out);
        }
        let FanOut { delivery, accepted, published, .. } = fan_out;
        if let Some(published) = published {
            self.latency.observe(published, clock.unix());
        }
        self.follow_ups.push_back(Input::Delivered { delivery, accepted });
        None
    }
}

impl<S> fmt::Debug for Machine<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Tells the shard what the task of a connection tells.
struct Session<S> {
    machine: Rc<Machine<S>>,
    conn: ConnectionId,
}

impl<S: Stream> Owner for Session<S> {
    fn on(&mut self, event: Event) {
        let conn = self.conn;
        match event {
            Event::Text(text) => self.machine.input(Input::Received { conn, text: &text }),
            // The description knows text messages only.
            Event::Binary(_) => {
                let code = CloseCode::Unsupported;
                self.machine.input(Input::Misbehaved { conn, code });
            }
            Event::Heard => self.machine.input(Input::Heard { conn }),
            Event::Misbehaved(code) => self.machine.input(Input::Misbehaved { conn, code }),
            Event::Relieved => self.machine.input(Input::Relieved { conn }),
            Event::Gone => {
                if let Some(user) = self.machine.state.borrow_mut().slots.remove(conn) {
                    self.machine.census.left(user);
                }
                self.machine.input(Input::Closed { conn });
            }
        }
    }
}

/// Members of one fan-out that are written to before others get their turn: about half a
/// millisecond.
const MEMBERS_PER_TURN: usize = 64;

/// Messages of the relay that are taken at once.
const BATCH: usize = 256;

/// Frames written for one batch of the relay before others get their turn. The last publication may
/// add a stretch of its own, and a long fan-out another one: fewer than 256 sends are between a
/// ping and its pong.
const SENDS_PER_TURN: u64 = 64;

/// What the head of a 101 answer takes.
const ANSWER_BYTES: usize = 176;

/// Wall clocks are stepped rarely; tokens expire by the second.
const WALL_CLOCK_INTERVAL: std::time::Duration = std::time::Duration::from_secs(60);
