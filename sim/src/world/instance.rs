//! Instances: one life after another, each with a relay and shards.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use realtime_core::{
    id::{BootId, ConnectionId, DeliveryId, Mid},
    limits::{RelayLimits, ShardLimits},
    link::ToShard,
    relay::{self, Relay},
    shard::{Identity, Reference, Shard, VerifyError},
    time::{Instant, UnixMillis},
};

use crate::{
    oracle::{Failure, Verdict, gauges::Counts, peers},
    plan::{Knobs, Trouble},
    random::labelled,
    session::Stage,
    truth::NodeId,
};

use super::{Event, Queue, World, lanes::Acknowledged, route::pod};

/// An instance and which of its lives.
pub(super) type LifeId = (usize, u32);

/// A place where an instance runs.
#[derive(Debug, Default)]
pub(super) struct Instance {
    pub(super) life: Option<Life>,
    pub(super) lives: u32,
}

/// A running instance.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) id: LifeId,
    pub(super) born: Instant,
    pub(super) relay: Relay,
    pub(super) relay_timer: Option<Instant>,
    pub(super) hosts: Vec<Host>,
    pub(super) generation: u64,
    /// The connection that the relay was told of last: what it wants goes there. In the service the
    /// relay hears of a new one before anything can be sent through it.
    pub(super) known: u64,
    pub(super) up: bool,
    /// The server that its command connections lead to.
    pub(super) server: u32,
    /// What publishers were told of, in order.
    pub(super) acknowledged: Vec<Acknowledged>,
    pub(super) skew_ms: i64,
    pub(super) frozen: bool,
    /// What came while it stood still.
    pub(super) deferred: VecDeque<HostEvent>,
    /// Shards that are drained, once it is being drained.
    pub(super) drained: Option<usize>,
    /// When it is back after a drain.
    pub(super) back: Instant,
}

/// What surrounds a shard.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) shard: Shard,
    pub(super) timer: Option<Instant>,
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<usize>,
    pub(super) walks: BTreeMap<DeliveryId, Walk>,
    pub(super) counts: Counts,
    /// How far the wall clock was off when the shard was told of it last.
    pub(super) told_skew_ms: i64,
}

/// A slot of the table of connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) session: Option<usize>,
    pub(super) generation: u32,
}

/// A fan-out under way.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) bytes: usize,
    /// What it brings: the numbers of publications and their places.
    pub(super) carried: Vec<(usize, Option<NodeId>)>,
    pub(super) accepted: u32,
}

/// Something that happens to an instance; waits while it stands still.
#[derive(Debug)]
pub(super) enum HostEvent {
    Relay(relay::Input),
    /// A server has taken a publication.
    Taken(Acknowledged, relay::Input),
    RelayTimer(Instant),
    Shard(ShardEvent),
}

/// Something that happens to a shard, or to a connection of one.
#[derive(Debug)]
pub(super) enum ShardEvent {
    ToShard(usize, ToShard),
    ShardTimer(usize, Instant),
    Walk(usize, DeliveryId),
    Arrive(usize),
    Verified(usize, Result<Identity, VerifyError>),
    Message(usize, String),
    Heard(usize),
    Misbehaved(usize),
    Refreshed(usize, Option<Reference>, Result<Identity, VerifyError>),
    Congested(usize),
    Relieved(usize),
    Overflowed(usize),
    Closed(usize),
    Draining(usize, Duration),
    WallClock(usize),
}

impl World<'_, '_> {
    pub(super) fn boot(&mut self, instance: usize) {
        if self.instances[instance].life.is_some() {
            return;
        }
        self.instances[instance].lives += 1;
        let id = (instance, self.instances[instance].lives);
        let seed = labelled(self.plan.seed, &format!("instance/{id:?}")).next();
        let knobs = &self.plan.knobs;
        let unix = UnixMillis(super::EPOCH_MS + self.now.0 / 1_000_000);
        let hosts = (0..u64::from(knobs.workers))
            .map(|worker| Host {
                shard: Shard::new(shard_limits(knobs), seed ^ worker, seed, self.now, unix),
                timer: None,
                slots: Vec::new(),
                free: Vec::new(),
                walks: BTreeMap::new(),
                counts: Counts::default(),
                told_skew_ms: 0,
            })
            .collect();
        self.instances[instance].life = Some(Life {
            id,
            born: self.now,
            relay: Relay::new(relay_limits(knobs), boot_of(id), seed, self.now),
            relay_timer: None,
            hosts,
            generation: 0,
            known: 0,
            up: false,
            server: self.server,
            acknowledged: Vec::new(),
            skew_ms: 0,
            frozen: false,
            deferred: VecDeque::new(),
            drained: None,
            back: Instant(0),
        });
        self.try_link(instance);
    }

    pub(super) fn live(&self, id: LifeId) -> &Life {
        self.instances[id.0].life.as_ref().expect("it was there a moment ago")
    }

    pub(super) fn live_mut(&mut self, id: LifeId) -> &mut Life {
        self.instances[id.0].life.as_mut().expect("it was there a moment ago")
    }

    /// Something happens to an instance.
    pub(super) fn host(&mut self, id: LifeId, event: HostEvent) -> Verdict {
        let Some(life) = self.instances[id.0].life.as_mut().filter(|life| life.id == id) else {
            return Ok(());
        };
        if life.frozen {
            life.deferred.push_back(event);
            return Ok(());
        }
        self.inputs += 1;
        let input = match event {
            // A connection that was lost before anybody heard that it is up never was.
            HostEvent::Relay(relay::Input::LinkUp { generation, .. })
                if !life.up || life.generation != generation.0 =>
            {
                return Ok(());
            }
            HostEvent::Relay(input) => {
                if let relay::Input::LinkUp { generation, .. } = &input {
                    life.known = generation.0;
                }
                input
            }
            HostEvent::Taken(taken, input) => {
                self.was_taken(id, taken);
                input
            }
            HostEvent::RelayTimer(at) => {
                if life.relay_timer != Some(at) {
                    return Ok(());
                }
                life.relay_timer = None;
                relay::Input::TimedOut
            }
            HostEvent::Shard(event) => return self.shard_event(id, event),
        };
        self.relay(id, input)
    }

    fn relay(&mut self, id: LifeId, input: relay::Input) -> Verdict {
        let now = self.now;
        let life = self.live_mut(id);
        let mut actions = Vec::new();
        life.relay.handle(now, input, &mut actions);
        let deadline = life.relay.next_deadline().map(|at| at.max(now));
        if deadline != life.relay_timer {
            life.relay_timer = deadline;
            if let Some(at) = deadline {
                self.at(at, Event::Host(id, HostEvent::RelayTimer(at)));
            }
        }
        for action in actions {
            self.trace.say("relay", now, || (pod(id.0), None, format!("{id:?} {action:?}")));
            self.relay_action(id, action)?;
        }
        Ok(())
    }

    fn relay_action(&mut self, id: LifeId, action: relay::Action) -> Verdict {
        let link = (id.0, id.1, self.live(id).known);
        match action {
            relay::Action::ToShard { worker, message } => {
                let slow = self.delay_of(id.0, worker.0);
                let worker = usize::from(worker.0);
                let event = Event::Host(id, HostEvent::Shard(ShardEvent::ToShard(worker, message)));
                self.queue_slowly(Queue::ToShard(id, worker), slow, event);
            }
            relay::Action::Subscribe { stream } => {
                let stream = self.truth.stream(stream.as_str());
                self.queue(Queue::Interest(link), Event::Interest(link, stream, true));
            }
            relay::Action::Unsubscribe { stream } => {
                let stream = self.truth.stream(stream.as_str());
                self.queue(Queue::Interest(link), Event::Interest(link, stream, false));
            }
            relay::Action::Read { read, stream, after, known } => {
                let stream = self.truth.stream(stream.as_str());
                let event = Event::Read(id, read, stream, after, known);
                self.queue(Queue::Commands(id, stream % 2), event);
            }
            relay::Action::Compare { check, streams } => {
                let streams = streams.iter().map(|stream| self.truth.stream(stream.as_str()));
                let event = Event::Compare(id, check, streams.collect());
                self.queue(Queue::Commands(id, 0), event);
            }
            // What is counted so far; the rest follows.
            relay::Action::Receipt { awaits_ack: true, .. } => {}
            relay::Action::Receipt { mid, recipients, complete, acknowledged, .. } => {
                self.receipt(mid, Some((recipients, complete)))?;
                self.ack_answered(mid, acknowledged)?;
            }
            relay::Action::Tell { to, bytes } => {
                self.queue(Queue::Tells(id), Event::Tell(to, bytes));
            }
            relay::Action::Unexpected { mid } => self.receipt(mid, None)?,
            relay::Action::Reach(name) => self.reach(name),
        }
        Ok(())
    }

    fn receipt(&mut self, mid: Mid, answer: Option<(u32, bool)>) -> Verdict {
        self.receipts.answered(&self.truth, mid, answer, self.now, !self.is_steady)
    }

    /// Whoever waits for an acknowledgement is told whether there was one.
    fn ack_answered(&self, mid: Mid, acknowledged: bool) -> Verdict {
        let Some((number, by)) = self.receipts.awaits_ack(mid) else { return Ok(()) };
        let was_taken = self.truth.publications[number].taken.is_some();
        let is_calm = self.is_calm && was_taken;
        self.acks.answered(number, acknowledged, self.now, by, is_calm)
    }

    /// How much slower the way to a worker is at present.
    fn delay_of(&self, instance: usize, worker: u16) -> Duration {
        self.longest(instance, |what| {
            if let Trouble::SlowWorker(of, delay) = what {
                (*of == worker).then_some(*delay)
            } else {
                None
            }
        })
    }

    /// An instance is gone, and its connections with it.
    pub(super) fn end_life(&mut self, instance: usize) {
        let Some(life) = self.instances[instance].life.take() else { return };
        self.receipts.forget(life.id);
        self.drains.forget(life.id);
        if life.up {
            let ghost = self.some(Duration::from_secs(2));
            self.after(ghost, Event::Ghost((life.id.0, life.id.1, life.generation)));
        }
        for session in 0..self.sessions.len() {
            if self.sessions[session].life == life.id && self.sessions[session].stage != Stage::Gone
            {
                self.sessions[session].stage = Stage::Gone;
                self.come_back(session, Duration::from_secs(2));
            }
        }
    }

    /// The present connection of a slot.
    pub(super) fn session_of(
        &self,
        id: LifeId,
        worker: usize,
        conn: ConnectionId,
    ) -> Result<usize, Failure> {
        let slot = self.live(id).hosts[worker].slots.get(conn.slot as usize);
        slot.filter(|slot| slot.generation == conn.generation)
            .and_then(|slot| slot.session)
            .ok_or_else(|| Failure::new("stale", format!("{conn:?} of {id:?} is no connection")))
    }
}

/// The boot id of a life.
pub(super) fn boot_of(id: LifeId) -> BootId {
    BootId((id.0 as u64 + 1) << 32 | u64::from(id.1))
}

fn relay_limits(knobs: &Knobs) -> RelayLimits {
    RelayLimits {
        workers: knobs.workers,
        positions: knobs.positions,
        in_flight_max: knobs.in_flight,
        in_flight_bytes_max: 8 << 20,
        linger: Duration::from_millis(knobs.linger_ms),
        held_bytes_max: knobs.held_bytes,
        repair_timeout: Duration::from_secs(2),
        expected_max: knobs.expected,
        head_reads_max: knobs.head_reads,
        position_check: knobs.position_check(),
        subscribe_timeout: Duration::from_secs(5),
        ingress_bytes_max: 65_536,
    }
}

fn shard_limits(knobs: &Knobs) -> ShardLimits {
    ShardLimits {
        connections_max: 1_000,
        connections_per_user_max: knobs.per_user,
        accepts_per_second_max: 0,
        rooms_per_connection_max: knobs.rooms,
        anonymous_allowed: true,
        origins: vec!["*".to_owned()],
        public_rooms: vec!["event:*".to_owned()],
        ping_interval: Duration::from_millis(knobs.ping_ms),
        pong_timeout: peers::pong_timeout(knobs),
        join_timeout: Duration::from_millis(knobs.join_timeout_ms),
        close_timeout: Duration::from_secs(5),
        slow_timeout: peers::SLOW_TIMEOUT,
        expiry_notice: Duration::from_secs(5),
        messages_per_second_max: knobs.messages_per_s,
        message_burst_max: 5,
        rate_grace: Duration::from_secs(3),
        errors_max: knobs.errors,
        parked_joins_max: 10_000,
        waiting_requests_max: u32::try_from(peers::WAITING_MAX).expect("a few"),
        coalesced_bytes_max: knobs.coalesced_bytes,
    }
}
