//! What happens to shards, and what they ask for.

use std::{collections::BTreeSet, time::Duration};

use realtime_core::{
    id::{ConnectionId, DeliveryId, WorkerId},
    link::Suffix,
    relay,
    shard::{Action, Actions, Handshake, Identity, Input, Slice, VerifyError},
    time::UnixMillis,
    wire::{CloseCode, Frame, Kind},
};

use crate::{
    frames::{Message, texts},
    oracle::{Failure, Verdict, audience, peers},
    session::{Session, Stage},
    truth::NodeId,
};

use super::{
    Event, Queue, World,
    instance::{HostEvent, Life, LifeId, ShardEvent, Walk},
    route::{client, pod},
};

impl World<'_, '_> {
    pub(super) fn shard_event(&mut self, id: LifeId, event: ShardEvent) -> Verdict {
        match event {
            ShardEvent::ToShard(worker, message) => {
                self.shard(id, worker, Input::FromRelay(message))
            }
            ShardEvent::ShardTimer(worker, at) => {
                let host = &mut self.live_mut(id).hosts[worker];
                if host.timer != Some(at) {
                    return Ok(());
                }
                host.timer = None;
                self.shard(id, worker, Input::TimedOut)
            }
            ShardEvent::Walk(worker, delivery) => self.walk(id, worker, delivery),
            ShardEvent::Draining(worker, period) => {
                let counts = &self.live(id).hosts[worker].counts;
                let open = counts.authenticated + counts.anonymous;
                self.drains.start((id.0, id.1, worker), self.now, period, open);
                self.shard(id, worker, Input::Draining { period })
            }
            ShardEvent::WallClock(worker) => {
                let unix = UnixMillis(self.unix_ms(id));
                let life = self.live_mut(id);
                life.hosts[worker].told_skew_ms = life.skew_ms;
                self.shard(id, worker, Input::WallClock(unix))
            }
            ShardEvent::Arrive(session) => self.arrive(session),
            ShardEvent::Verified(session, outcome) => {
                let (worker, conn) = self.address(session);
                let user_connections = self.of_user_elsewhere(session);
                self.shard(id, worker, Input::Verified { conn, outcome, user_connections })
            }
            ShardEvent::Message(session, text) => {
                let (worker, conn) = self.address(session);
                self.hear(session, true);
                self.shard(id, worker, Input::Received { conn, text: &text })
            }
            ShardEvent::Heard(session) => {
                let (worker, conn) = self.address(session);
                self.hear(session, false);
                self.shard(id, worker, Input::Heard { conn })
            }
            ShardEvent::Misbehaved(session) => {
                let (worker, conn) = self.address(session);
                self.sessions[session].misbehaved = true;
                let code = CloseCode::ProtocolError;
                self.shard(id, worker, Input::Misbehaved { conn, code })
            }
            ShardEvent::Refreshed(session, reference, outcome) => {
                let (worker, conn) = self.address(session);
                self.note_expiry(session, &outcome);
                self.shard(id, worker, Input::Refreshed { conn, reference, outcome })
            }
            ShardEvent::Congested(session) => {
                let (worker, conn) = self.address(session);
                self.shard(id, worker, Input::Congested { conn })
            }
            ShardEvent::Relieved(session) => {
                let (worker, conn) = self.address(session);
                self.sessions[session].congested = None;
                self.shard(id, worker, Input::Relieved { conn })
            }
            ShardEvent::Overflowed(session) => self.overflowed(id, session),
            ShardEvent::Closed(session) => self.closed(session),
        }
    }

    fn overflowed(&mut self, id: LifeId, session: usize) -> Verdict {
        let (worker, conn) = self.address(session);
        self.shard(id, worker, Input::Overflowed { conn })?;
        if self.sessions[session].stage == Stage::Open {
            let what = "its outbox overflowed, and it is still open";
            return Err(Failure::new("peers", what));
        }
        Ok(())
    }

    /// A fresh token of the same user puts the end of a session off.
    fn note_expiry(&mut self, session: usize, outcome: &Result<Identity, VerifyError>) {
        let session = &mut self.sessions[session];
        if let Ok(identity) = outcome
            && session.user.as_deref() == Some(&*identity.user)
        {
            session.expires_ms = identity.expires.map(|seconds| seconds * 1_000);
        }
    }

    fn address(&self, session: usize) -> (usize, ConnectionId) {
        (self.sessions[session].worker, self.sessions[session].conn)
    }

    /// A connection is heard.
    fn hear(&mut self, session: usize, message: bool) {
        let now = self.now;
        let session = &mut self.sessions[session];
        if session.stage == Stage::Open {
            session.heard = now;
            session.pings = 0;
            let (life, worker) = (session.life, session.worker);
            self.live_mut(life).hosts[worker].counts.received += u64::from(message);
        }
    }

    /// Where a client says that it was, in its own stream and in `all`.
    fn sinces(&mut self, session: usize) -> [Option<NodeId>; 2] {
        let Session { client, ref user, .. } = self.sessions[session];
        let own = user.as_ref().map(|user| format!("user:{user}"));
        let names = [own, Some("all".to_owned())];
        if !self.plan.clients[client].since {
            return [None; 2];
        }
        names.map(|name| {
            let stream = self.truth.stream(&name?);
            let node = *self.clients[client].last.get(&stream)?;
            self.sessions[session].since.insert(stream, node);
            Some(node)
        })
    }

    fn arrive(&mut self, session: usize) -> Verdict {
        let since = self.sinces(session);
        let ids = since.each_ref().map(|since| since.map(|node| self.truth.id(node)));
        let Session { life: id, worker, ref user, .. } = self.sessions[session];
        let request = Handshake {
            token: user.is_some(),
            since: ids[0].as_deref(),
            since_all: ids[1].as_deref(),
            instance_connections: self.occupied(id),
            ..Handshake::default()
        };
        let host = &mut self.live_mut(id).hosts[worker];
        let slot = host.free.pop().unwrap_or_else(|| {
            host.slots.push(Default::default());
            host.slots.len() - 1
        });
        let entry = &mut host.slots[slot];
        entry.session = Some(session);
        let slot = u32::try_from(slot).expect("few clients");
        let conn = ConnectionId { slot, generation: entry.generation };
        self.sessions[session].conn = conn;
        self.shard(id, worker, Input::Arrived { conn, request })
    }

    fn occupied(&self, id: LifeId) -> u32 {
        let hosts = self.live(id).hosts.iter();
        let occupied: usize = hosts.map(|host| host.slots.len() - host.free.len()).sum();
        u32::try_from(occupied).expect("few clients")
    }

    /// Connections of the same user on the other shards of the instance.
    fn of_user_elsewhere(&self, session: usize) -> u32 {
        let me = &self.sessions[session];
        let hosts = self.live(me.life).hosts.iter().enumerate();
        let others = hosts.filter(|(worker, _)| *worker != me.worker);
        let sessions = others.flat_map(|(_, host)| &host.slots).filter_map(|slot| slot.session);
        let same = sessions.map(|other| &self.sessions[other]).filter(|other| {
            other.user == me.user && matches!(other.stage, Stage::Arriving | Stage::Open)
        });
        u32::try_from(same.count()).expect("few clients")
    }

    fn closed(&mut self, session: usize) -> Verdict {
        if self.sessions[session].stage == Stage::Gone {
            return Ok(());
        }
        let (worker, conn) = self.address(session);
        let id = self.sessions[session].life;
        self.release(session);
        self.shard(id, worker, Input::Closed { conn })
    }

    /// The slot of a connection is free.
    fn release(&mut self, session: usize) {
        let Session { life, worker, conn, stage, .. } = self.sessions[session];
        if stage == Stage::Open {
            self.count_open(session, false);
        }
        self.sessions[session].stage = Stage::Gone;
        let host = &mut self.live_mut(life).hosts[worker];
        let slot = &mut host.slots[conn.slot as usize];
        slot.session = None;
        slot.generation += 1;
        host.free.push(conn.slot as usize);
        self.come_back(session, Duration::from_secs(3));
    }

    /// A connection is open, or no longer.
    fn count_open(&mut self, session: usize, is_open: bool) {
        let Session { life, worker, ref user, .. } = self.sessions[session];
        let has_user = user.is_some();
        let counts = &mut self.live_mut(life).hosts[worker].counts;
        let count = if has_user { &mut counts.authenticated } else { &mut counts.anonymous };
        *count = if is_open { *count + 1 } else { *count - 1 };
    }

    fn shard(&mut self, id: LifeId, worker: usize, input: Input<'_>) -> Verdict {
        let now = self.now;
        let mut actions = std::mem::take(&mut self.actions);
        let host = &mut self.live_mut(id).hosts[worker];
        host.shard.handle(now, input, &mut actions);
        let deadline = host.shard.next_deadline().map(|(at, _)| at.max(now));
        if deadline != host.timer {
            host.timer = deadline;
            if let Some(at) = deadline {
                self.at(at, Event::Host(id, HostEvent::Shard(ShardEvent::ShardTimer(worker, at))));
            }
        }
        let done = self.shard_actions(id, worker, &mut actions);
        actions.clear();
        self.actions = actions;
        done
    }

    fn shard_actions(&mut self, id: LifeId, worker: usize, actions: &mut Actions) -> Verdict {
        let now = self.now;
        let (list, bytes) = actions.drain();
        for action in list {
            let said = || (pod(id.0), None, format!("{id:?} {worker} {action:?}"));
            self.trace.say("shard", now, said);
            self.shard_action(id, worker, action, bytes)?;
            if self.instances[id.0].life.is_none() {
                return Ok(()); // It has drained, and is gone.
            }
        }
        Ok(())
    }

    fn shard_action(&mut self, id: LifeId, worker: usize, action: Action, bytes: &[u8]) -> Verdict {
        match action {
            Action::Verify { conn } => {
                let session = self.session_of(id, worker, conn)?;
                self.verify(session);
            }
            Action::Accept { conn, greeting } => {
                let session = self.session_of(id, worker, conn)?;
                self.accept(session)?;
                self.send(session, greeting, bytes)?;
            }
            Action::Send { conn, frame } => {
                let session = self.session_of(id, worker, conn)?;
                self.send(session, frame, bytes)?;
            }
            Action::Feed { conn, suffix, skip_user } => {
                let session = self.session_of(id, worker, conn)?;
                self.feed(session, &suffix, skip_user.as_deref())?;
            }
            Action::Deliver { delivery, frame, .. } => {
                let walk = self.read_publications(&frame)?;
                self.live_mut(id).hosts[worker].walks.insert(delivery, walk);
                self.pending.push_back((id, HostEvent::Shard(ShardEvent::Walk(worker, delivery))));
            }
            Action::Ping { conn } => {
                let session = self.session_of(id, worker, conn)?;
                self.ping(session);
            }
            Action::ToRelay(message) => {
                let from = WorkerId(u16::try_from(worker).expect("few workers"));
                let input = relay::Input::FromShard { worker: from, message };
                let event = Event::Host(id, HostEvent::Relay(input));
                self.queue(Queue::FromShard(id, worker), event);
            }
            Action::Refuse { conn, .. } => {
                let session = self.session_of(id, worker, conn)?;
                self.live_mut(id).hosts[worker].counts.refusals += 1;
                self.release(session);
            }
            Action::Close { conn, code } => {
                let session = self.session_of(id, worker, conn)?;
                self.close(session, code)?;
            }
            Action::Reset { conn } => {
                let session = self.session_of(id, worker, conn)?;
                self.sessions[session].stage = Stage::Reset;
                self.pending.push_back((id, HostEvent::Shard(ShardEvent::Closed(session))));
            }
            Action::VerifyRefresh { conn, token, reference } => {
                let session = self.session_of(id, worker, conn)?;
                self.verify_refresh(session, &token, reference);
            }
            Action::Drained => self.drained(id, worker)?,
            Action::Reach(name) => self.reach(name),
        }
        Ok(())
    }

    fn accept(&mut self, session: usize) -> Verdict {
        let Session { life, worker, .. } = self.sessions[session];
        if self.drains.is_on((life.0, life.1, worker)) {
            return Err(Failure::new("drain", "a connection is let in"));
        }
        let now = self.now;
        let accepted = &mut self.sessions[session];
        accepted.stage = Stage::Open;
        accepted.heard = now;
        accepted.accepted = now;
        self.live_mut(life).hosts[worker].counts.accepted += 1;
        self.count_open(session, true);
        Ok(())
    }

    /// Writes one frame to one connection.
    fn send(&mut self, session: usize, frame: Slice, bytes: &[u8]) -> Verdict {
        let bytes = frame.of(bytes);
        self.mix_bytes(bytes);
        let now = self.now;
        let Session { client: number, life, worker, stage, .. } = self.sessions[session];
        self.trace.say("sent", now, || {
            let texts: Vec<_> = texts(bytes).map(String::from_utf8_lossy).collect();
            let text = format!("session {session}: {}", texts.join(" "));
            (pod(life.0), Some(client(number)), text)
        });
        if stage != Stage::Open {
            let what = format!("something is sent in {stage:?}: {:?}", self.sessions[session]);
            return Err(Failure::new("audience", what));
        }
        for text in texts(bytes) {
            let message = Message::read(text).map_err(|error| Failure::new("payload", error))?;
            let counts = &mut self.live_mut(life).hosts[worker].counts;
            counts.sent[Kind::of(message.kind).index()] += 1;
            self.sessions[session].told_to_reconnect = message.kind == "system:reconnect";
            if self.offer(session, bytes.len()) {
                self.received += 1;
                self.receive(session, &message).map_err(|error| self.whose(session, error))?;
            }
        }
        Ok(())
    }

    /// Gives a connection what it missed, which costs its outbox nothing.
    fn feed(&mut self, session: usize, suffix: &Suffix, skip_user: Option<&str>) -> Verdict {
        for missed in suffix.entries() {
            if missed.is_skipped_for(skip_user) {
                continue;
            }
            let now = self.now;
            self.mix_bytes(&missed.frame.0);
            let Session { client: number, life, worker, overflowed, .. } = self.sessions[session];
            self.trace.say("fed", now, || {
                let texts: Vec<_> = texts(&missed.frame.0).map(String::from_utf8_lossy).collect();
                let text = format!("session {session}: {}", texts.join(" "));
                (pod(life.0), Some(client(number)), text)
            });
            let kind = Kind::of(&missed.kind).index();
            self.live_mut(life).hosts[worker].counts.sent[kind] += 1;
            for text in texts(&missed.frame.0) {
                let failed = |error| Failure::new("payload", error);
                let message = Message::read(text).map_err(failed)?;
                if !overflowed {
                    self.received += 1;
                    self.receive(session, &message).map_err(|error| self.whose(session, error))?;
                }
            }
        }
        Ok(())
    }

    /// Puts bytes into the socket of a connection, or into its outbox; false if they don't fit.
    fn offer(&mut self, session: usize, bytes: usize) -> bool {
        let (now, outbox) = (self.now, self.plan.knobs.outbox_bytes);
        let session_id = session;
        let session = &mut self.sessions[session];
        if session.stalled_until.is_none() && !session.vanished {
            return true;
        }
        if session.overflowed {
            return false;
        }
        let life = session.life;
        if session.queued + bytes > outbox {
            session.overflowed = true;
            self.pending.push_back((life, HostEvent::Shard(ShardEvent::Overflowed(session_id))));
            return false;
        }
        session.queued += bytes;
        if session.queued > outbox / 2 && session.congested.is_none() {
            session.congested = Some(now);
            self.pending.push_back((life, HostEvent::Shard(ShardEvent::Congested(session_id))));
        }
        true
    }

    /// Reads what a fan-out brings.
    fn read_publications(&mut self, frame: &Frame) -> Result<Walk, Failure> {
        self.mix_bytes(&frame.0);
        let mut carried = Vec::new();
        for text in texts(&frame.0) {
            let failed = |error| Failure::new("payload", error);
            let message = Message::read(text).map_err(failed)?;
            let number = message.payload().map_err(failed)?.n;
            let number =
                number.ok_or_else(|| Failure::new("payload", "no publication is fanned out"))?;
            let positions = self.plan.knobs.positions;
            let node = audience::intact(&self.truth, &message, number, positions)?;
            carried.push((number, node));
        }
        Ok(Walk { bytes: frame.0.len(), carried, accepted: 0 })
    }

    /// Takes a fan-out some members further.
    fn walk(&mut self, id: LifeId, worker: usize, delivery: DeliveryId) -> Verdict {
        let chunk = self.plan.knobs.walk_chunk;
        let host = &mut self.live_mut(id).hosts[worker];
        let mut walk = host.walks.remove(&delivery).expect("it is under way");
        let mut members = Vec::new();
        host.shard.next_members(delivery, chunk, &mut members);
        let is_over = members.len() < chunk;
        let mut met = BTreeSet::new();
        for conn in members {
            self.mix(u64::from(conn.slot));
            let session = self.session_of(id, worker, conn)?;
            if self.sessions[session].stage != Stage::Open || !met.insert(session) {
                return Err(Failure::new("audience", format!("{conn:?} is met in a fan-out")));
            }
            if self.offer(session, walk.bytes) {
                walk.accepted += 1;
                for (number, node) in &walk.carried {
                    self.received += 1;
                    let publication = &mut self.truth.publications[*number];
                    let seen = self.sessions[session].streams.get(&publication.stream);
                    let joined = seen.map(|seen| seen.joined);
                    let was_member = joined < Some(publication.announced);
                    publication.hand(id, was_member, self.now);
                    self.hearing(session)
                        .publication(*number, *node)
                        .map_err(|error| self.whose(session, error))?;
                    self.maybe_acknowledge(session, *number);
                }
            }
        }
        let accepted = walk.accepted;
        if !is_over {
            self.live_mut(id).hosts[worker].walks.insert(delivery, walk);
            // A worker that is slow to hear is slow to go on, too; but it gets somewhere.
            let longest = self.plan.knobs.to_worker_us.clamp(2_000, 20_000);
            let pause = Duration::from_micros(self.net.below(longest));
            self.after(
                pause,
                Event::Host(id, HostEvent::Shard(ShardEvent::Walk(worker, delivery))),
            );
            return Ok(());
        }
        for (number, _) in &walk.carried {
            let kind = Kind::of(&self.truth.publications[*number].kind);
            let counts = &mut self.live_mut(id).hosts[worker].counts;
            counts.sent[kind.index()] += u64::from(accepted);
        }
        self.shard(id, worker, Input::Delivered { delivery, accepted })
    }

    fn whose(&self, session: usize, error: Failure) -> Failure {
        let Session { client, life, .. } = self.sessions[session];
        error.at(format!("session {session} of client {client} on {life:?}"))
    }

    fn ping(&mut self, session: usize) {
        let now = self.now;
        let life = self.sessions[session].life;
        let pinged = &mut self.sessions[session];
        pinged.pings += 1;
        if !pinged.pinged {
            pinged.pinged = true;
            let wait = now.saturating_since(pinged.accepted);
            let eighth = Duration::from_millis(self.plan.knobs.ping_ms) / 8;
            self.first_pings
                .saw(u64::try_from(wait.as_nanos() / eighth.as_nanos()).expect("runs are short"));
        }
        if self.sessions[session].is_well() {
            let event = Event::Host(life, HostEvent::Shard(ShardEvent::Heard(session)));
            self.queue(Queue::Socket(session), event);
        }
    }

    fn close(&mut self, session: usize, code: CloseCode) -> Verdict {
        let Session { life, worker, stage, told_to_reconnect, .. } = self.sessions[session];
        if stage != Stage::Open {
            return Err(Failure::new("peers", format!("closed in {stage:?}")));
        }
        peers::closed(&self.sessions[session], code, self.moment(life, worker))
            .map_err(|error| self.whose(session, error))?;
        if code == CloseCode::Restarting {
            self.drains.closed((life.0, life.1, worker), self.now, told_to_reconnect)?;
        }
        self.live_mut(life).hosts[worker].counts.closes += 1;
        self.count_open(session, false);
        let is_well = self.sessions[session].is_well();
        self.sessions[session].stage = Stage::Closing;
        if is_well {
            let event = Event::Host(life, HostEvent::Shard(ShardEvent::Closed(session)));
            self.queue(Queue::Socket(session), event);
        }
        Ok(())
    }

    /// What the judge of a connection needs to know.
    pub(super) fn moment(&self, life: LifeId, worker: usize) -> peers::Moment<'_> {
        let Life { skew_ms, hosts, .. } = self.live(life);
        peers::Moment {
            now: self.now,
            // One that stands still hears of a step later.
            unix_ms: self.unix_ms(life).saturating_add_signed(hosts[worker].told_skew_ms - skew_ms),
            knobs: &self.plan.knobs,
            is_steady: self.is_steady,
        }
    }

    fn drained(&mut self, id: LifeId, worker: usize) -> Verdict {
        let host = &self.live(id).hosts[worker];
        let occupied = host.slots.len() - host.free.len();
        self.drains.done((id.0, id.1, worker), occupied)?;
        let life = self.live_mut(id);
        let drained = life.drained.as_mut().expect("a drain is on");
        *drained += 1;
        if *drained == life.hosts.len() {
            let back = life.back;
            self.end_life(id.0);
            self.at(back.max(self.now + Duration::from_millis(100)), Event::Boot(id.0));
        }
        Ok(())
    }
}
