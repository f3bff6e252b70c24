//! The event loop of a run: machines, queues with latency, faults, and time that jumps.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use realtime_core::{
    entry::Body,
    id::{BootId, ConnectionId, Epoch, Generation, Mid, WorkerId},
    limits::{RelayLimits, ShardLimits},
    link::ToShard,
    relay::{self, Channel, Relay},
    rng::Rng,
    shard::{self, Actions, Handshake, Identity, Shard},
    stream::StreamName,
    time::{Instant, UnixMillis},
};

use crate::{
    broker::Broker,
    client::{Client, frames},
    plan::{Fault, Plan, Step},
    random::labelled,
};

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A fingerprint of everything that happened, in order.
    pub hash: u64,
    /// Frames that clients received.
    pub received: u64,
    /// The first broken promise.
    pub verdict: Result<(), String>,
}

/// Runs a plan to its end, or to the first broken promise.
pub fn run(plan: &Plan) -> Outcome {
    let mut world = World::new(plan);
    let verdict = world.run();
    Outcome { hash: world.hash, received: world.received, verdict }
}

#[derive(Clone, Debug)]
enum Event {
    Connect(usize),
    Step(usize, Step),
    Publish(StreamName),
    Relay(usize, relay::Input),
    RelayTimer(usize),
    Shard(usize, usize, ToShard),
    ShardTimer(usize, usize),
    Cut(usize),
    Restore(usize),
}

struct Instance {
    relay: Relay,
    relay_timer: Option<Instant>,
    shards: Vec<Host>,
    generation: Generation,
    up: bool,
}

struct Host {
    shard: Shard,
    timer: Option<Instant>,
    /// The client of each slot.
    clients: Vec<usize>,
}

struct World<'a> {
    plan: &'a Plan,
    now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    scheduled: u64,
    /// When the last event of each ordered queue arrives.
    queues: BTreeMap<(&'static str, usize, usize), Instant>,
    broker: Broker,
    instances: Vec<Instance>,
    clients: Vec<Client>,
    connections: Vec<Option<ConnectionId>>,
    net: Rng,
    ids: Rng,
    hash: u64,
    received: u64,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> Self {
        let instances = (0..plan.instances).map(|n| instance(plan, n)).collect();
        let mut world = Self {
            plan,
            now: Instant::default(),
            events: BTreeMap::new(),
            scheduled: 0,
            queues: BTreeMap::new(),
            broker: Broker::default(),
            instances,
            clients: plan.clients.iter().map(|_| Client::default()).collect(),
            connections: vec![None; plan.clients.len()],
            net: labelled(plan.seed, "net"),
            ids: labelled(plan.seed, "ids"),
            hash: 0,
            received: 0,
        };
        world.schedule_plan();
        world
    }

    fn schedule_plan(&mut self) {
        for n in 0..self.plan.instances {
            self.at(Instant::default(), Event::Restore(n));
        }
        for (n, client) in self.plan.clients.iter().enumerate() {
            self.at(client.at, Event::Connect(n));
            for (at, step) in &client.steps {
                self.at(*at, Event::Step(n, step.clone()));
            }
        }
        for publish in &self.plan.publishes {
            let stream = StreamName::room(&publish.stream).expect("plans name valid streams");
            self.at(publish.at, Event::Publish(stream));
        }
        for fault in &self.plan.faults {
            let Fault::LinkCut { instance, at, lasts } = fault;
            self.at(*at, Event::Cut(*instance));
            self.at(*at + *lasts, Event::Restore(*instance));
        }
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(((at, sequence), event)) = self.events.pop_first() {
            if at > self.plan.end {
                break;
            }
            self.now = at;
            self.hash = mix(self.hash, at.0 ^ sequence.rotate_left(32));
            self.happen(event)?;
        }
        let heads = self.broker.offsets();
        for (n, client) in self.clients.iter().enumerate() {
            client.judge(&heads).map_err(|error| format!("client {n}: {error}"))?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Connect(client) => self.connect(client),
            Event::Step(client, step) => self.step(client, &step),
            Event::Publish(stream) => {
                self.publish(&stream);
                Ok(())
            }
            Event::Relay(instance, input) => {
                self.relay(instance, input);
                Ok(())
            }
            Event::RelayTimer(instance) => {
                if self.instances[instance].relay_timer == Some(self.now) {
                    self.instances[instance].relay_timer = None;
                    self.relay(instance, relay::Input::TimedOut);
                }
                Ok(())
            }
            Event::Shard(instance, worker, message) => {
                self.shard(instance, worker, shard::Input::FromRelay(message))
            }
            Event::ShardTimer(instance, worker) => {
                if self.instances[instance].shards[worker].timer != Some(self.now) {
                    return Ok(());
                }
                self.instances[instance].shards[worker].timer = None;
                self.shard(instance, worker, shard::Input::TimedOut)
            }
            Event::Cut(instance) => {
                if std::mem::take(&mut self.instances[instance].up) {
                    self.broker.disconnect(instance);
                    self.relay(instance, relay::Input::LinkDown);
                }
                Ok(())
            }
            Event::Restore(instance) => {
                let host = &mut self.instances[instance];
                if !std::mem::replace(&mut host.up, true) {
                    host.generation = Generation(host.generation.0 + 1);
                    let generation = host.generation;
                    self.relay(instance, relay::Input::LinkUp { generation, run_id: 1 });
                }
                Ok(())
            }
        }
    }

    fn connect(&mut self, client: usize) -> Result<(), String> {
        let plan = &self.plan.clients[client];
        let (instance, worker) = (plan.instance, usize::from(plan.worker));
        let host = &mut self.instances[instance].shards[worker];
        let slot = u32::try_from(host.clients.len()).expect("few clients");
        host.clients.push(client);
        let conn = ConnectionId { slot, generation: 0 };
        self.connections[client] = Some(conn);
        let request = Handshake { token: plan.user.is_some(), ..Handshake::default() };
        self.shard(instance, worker, shard::Input::Arrived { conn, request })
    }

    fn step(&mut self, client: usize, step: &Step) -> Result<(), String> {
        let Some(conn) = self.connections[client] else {
            return Ok(());
        };
        // A client that was refused, or is still waiting, has nothing to say.
        if !self.clients[client].streams.contains_key("all") {
            return Ok(());
        }
        let (kind, room) = match step {
            Step::Join(room) => ("room:join", room),
            Step::Leave(room) => ("room:leave", room),
        };
        let text = format!(r#"{{"type":"{kind}","payload":{{"room":"{room}"}}}}"#);
        let plan = &self.plan.clients[client];
        let (instance, worker) = (plan.instance, usize::from(plan.worker));
        self.shard(instance, worker, shard::Input::Received { conn, text: &text })
    }

    fn publish(&mut self, stream: &StreamName) {
        let mid = Mid(self.ids.next() | 1);
        let epoch = Epoch(self.ids.next() >> 1);
        let body = Body {
            kind: "ticket:availability".into(),
            payload: "{}".into(),
            exclude_user: None,
            key: "".into(),
            ack: false,
            origin: BootId(1),
            published: UnixMillis(0),
        };
        let (bytes, subscribers) = self.broker.publish(stream, mid, epoch, body);
        for instance in subscribers {
            let input = relay::Input::Received {
                generation: self.instances[instance].generation,
                channel: Channel::Stream(stream.clone()),
                bytes: bytes.clone(),
            };
            self.queue(("items", instance, 0), Event::Relay(instance, input));
        }
    }

    fn relay(&mut self, instance: usize, input: relay::Input) {
        let mut actions = Vec::new();
        self.instances[instance].relay.handle(self.now, input, &mut actions);
        for action in actions {
            self.relay_action(instance, action);
        }
        let host = &mut self.instances[instance];
        let deadline = host.relay.next_deadline().map(|at| at.max(self.now));
        if deadline != host.relay_timer {
            host.relay_timer = deadline;
            if let Some(at) = deadline {
                self.at(at, Event::RelayTimer(instance));
            }
        }
    }

    fn relay_action(&mut self, instance: usize, action: relay::Action) {
        let generation = self.instances[instance].generation;
        match action {
            relay::Action::ToShard { worker, message } => {
                let worker = usize::from(worker.0);
                self.queue(("to shard", instance, worker), Event::Shard(instance, worker, message));
            }
            relay::Action::Subscribe { stream } => {
                if self.instances[instance].up {
                    self.broker.subscribe(instance, &stream);
                    let input = relay::Input::Subscribed { generation, stream };
                    self.queue(("items", instance, 0), Event::Relay(instance, input));
                }
            }
            relay::Action::Unsubscribe { stream } => {
                if self.instances[instance].up {
                    self.broker.unsubscribe(instance, &stream);
                    let input = relay::Input::Unsubscribed { generation, stream };
                    self.queue(("items", instance, 0), Event::Relay(instance, input));
                }
            }
            relay::Action::ReadHead { read, stream } => {
                let epoch = Epoch(self.ids.next() >> 1);
                let head = self.instances[instance].up.then(|| self.broker.head(&stream, epoch));
                let input = relay::Input::HeadRead { read, head };
                self.queue(("reads", instance, 0), Event::Relay(instance, input));
            }
            relay::Action::Receipt { .. }
            | relay::Action::Unexpected { .. }
            | relay::Action::Reach(_) => {}
        }
    }

    fn shard(
        &mut self,
        instance: usize,
        worker: usize,
        input: shard::Input<'_>,
    ) -> Result<(), String> {
        let mut actions = Actions::default();
        self.instances[instance].shards[worker].shard.handle(self.now, input, &mut actions);
        let (list, bytes) = actions.drain();
        for action in list {
            self.shard_action(instance, worker, action, bytes)?;
        }
        let host = &mut self.instances[instance].shards[worker];
        let deadline = host.shard.next_deadline().map(|(at, _)| at.max(self.now));
        if deadline != host.timer {
            host.timer = deadline;
            if let Some(at) = deadline {
                self.at(at, Event::ShardTimer(instance, worker));
            }
        }
        Ok(())
    }

    fn shard_action(
        &mut self,
        instance: usize,
        worker: usize,
        action: shard::Action,
        bytes: &[u8],
    ) -> Result<(), String> {
        match action {
            shard::Action::Verify { conn } => {
                let client = self.client_of(instance, worker, conn);
                let user = self.plan.clients[client].user.as_deref().expect("it has a token");
                let outcome =
                    Ok(Identity { user: user.into(), rooms: Arc::from([]), expires: None });
                self.shard(
                    instance,
                    worker,
                    shard::Input::Verified { conn, outcome, user_connections: 0 },
                )
            }
            shard::Action::Accept { conn, greeting: frame }
            | shard::Action::Send { conn, frame } => {
                let client = self.client_of(instance, worker, conn);
                self.receive(client, frame.of(bytes))
            }
            shard::Action::Deliver { delivery, frame, .. } => {
                let mut members = Vec::new();
                self.instances[instance].shards[worker].shard.next_members(
                    delivery,
                    usize::MAX,
                    &mut members,
                );
                let accepted = u32::try_from(members.len()).expect("few clients");
                for conn in members {
                    let client = self.client_of(instance, worker, conn);
                    self.receive(client, &frame.0)?;
                }
                self.shard(instance, worker, shard::Input::Delivered { delivery, accepted })
            }
            shard::Action::Ping { conn } => {
                // A simulated client answers at once.
                self.shard(instance, worker, shard::Input::Heard { conn })
            }
            shard::Action::ToRelay(message) => {
                let input = relay::Input::FromShard {
                    worker: WorkerId(u16::try_from(worker).expect("few workers")),
                    message,
                };
                self.queue(("from shard", instance, worker), Event::Relay(instance, input));
                Ok(())
            }
            shard::Action::Refuse { conn, .. } => {
                let client = self.client_of(instance, worker, conn);
                self.connections[client] = None;
                Ok(())
            }
            shard::Action::Close { conn, code } => {
                Err(format!("{conn:?} was closed with {code:?} for no reason"))
            }
            shard::Action::Reset { .. }
            | shard::Action::VerifyRefresh { .. }
            | shard::Action::Drained
            | shard::Action::Reach(_) => Ok(()),
        }
    }

    fn receive(&mut self, client: usize, bytes: &[u8]) -> Result<(), String> {
        for (_, text) in frames(bytes) {
            self.received += 1;
            self.hash = text.iter().fold(self.hash, |hash, byte| mix(hash, u64::from(*byte)));
            self.clients[client]
                .received(text)
                .map_err(|error| format!("at {:?}, client {client}: {error}", self.now))?;
        }
        Ok(())
    }

    fn client_of(&self, instance: usize, worker: usize, conn: ConnectionId) -> usize {
        self.instances[instance].shards[worker].clients[conn.slot as usize]
    }

    /// Lets `event` happen after some latency, behind what is in the queue already.
    fn queue(&mut self, queue: (&'static str, usize, usize), event: Event) {
        let latency = Duration::from_micros(self.net.below(5_000));
        let last = self.queues.entry(queue).or_default();
        let at = (self.now + latency).max(*last);
        *last = at;
        self.at(at, event);
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        self.events.insert((at, self.scheduled), event);
    }
}

fn instance(plan: &Plan, n: usize) -> Instance {
    let start = Instant::default();
    let seed = labelled(plan.seed, &format!("instance/{n}")).next();
    Instance {
        relay: Relay::new(relay_limits(plan.workers), seed, start),
        relay_timer: None,
        shards: (0..u64::from(plan.workers))
            .map(|worker| Host {
                shard: Shard::new(shard_limits(), seed ^ worker, seed, start, UnixMillis(0)),
                timer: None,
                clients: Vec::new(),
            })
            .collect(),
        generation: Generation(0),
        up: false,
    }
}

fn relay_limits(workers: u16) -> RelayLimits {
    RelayLimits {
        workers,
        positions: true,
        in_flight_max: 1_024,
        in_flight_bytes_max: 8 << 20,
        linger: Duration::from_secs(30),
        held_bytes_max: 1 << 20,
        expected_max: 1_024,
        head_reads_max: 3,
        subscribe_timeout: Duration::from_secs(5),
        ingress_bytes_max: 65_536,
    }
}

fn shard_limits() -> ShardLimits {
    ShardLimits {
        connections_max: 1_000,
        connections_per_user_max: 20,
        accepts_per_second_max: 0,
        rooms_per_connection_max: 100,
        anonymous_allowed: true,
        origins: vec!["*".to_owned()],
        public_rooms: vec!["event:*".to_owned()],
        ping_interval: Duration::from_secs(30),
        pong_timeout: Duration::from_secs(60),
        join_timeout: Duration::from_secs(5),
        close_timeout: Duration::from_secs(5),
        slow_timeout: Duration::from_secs(10),
        expiry_notice: Duration::from_secs(60),
        messages_per_second_max: 0,
        message_burst_max: 200,
        rate_grace: Duration::from_secs(10),
        errors_max: 50,
        parked_joins_max: 10_000,
        waiting_requests_max: 16,
        coalesced_bytes_max: 65_536,
    }
}

fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_gets_every_publication_of_its_streams_once_and_in_order() {
        let mut received = 0;
        for seed in 0..300 {
            let outcome = run(&Plan::from_seed(seed));
            assert_eq!(outcome.verdict, Ok(()), "sim run --seed {seed}");
            received += outcome.received;
        }
        assert!(received > 10_000, "only {received} frames: the workload does not reach clients");
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        for seed in 0..20 {
            assert_eq!(run(&Plan::from_seed(seed)), run(&Plan::from_seed(seed)));
        }
    }
}
