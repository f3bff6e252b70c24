//! The event loop of a run: machines, queues with latency, faults, and time that jumps.

mod broker_side;
mod faults;
mod instance;
mod judgement;
mod lanes;
mod people;
mod route;
mod shards;
mod trace;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::Bytes;
use realtime_core::{
    id::{CheckId, Mid, Position, ReadId},
    relay::Destination,
    rng::Rng,
    shard::Actions,
    time::Instant,
};

use crate::{
    at::Seen,
    broker::{Broker, Link},
    oracle::{
        Failure, Verdict, acks::Acks, drain::Drains, jitter::Spread, receipts::Receipts, work::Work,
    },
    plan::{Plan, moment},
    random::labelled,
    session::Session,
    truth::{NodeId, StreamId, Truth},
};
use instance::{HostEvent, Instance, LifeId};
use route::Route;
use trace::Trace;

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A fingerprint of everything that happened, in order.
    pub hash: u64,
    /// Inputs that machines took.
    pub inputs: u64,
    /// Frames that were handed to clients.
    pub received: u64,
    /// Rare situations that were reached.
    pub reached: BTreeSet<&'static str>,
    /// The first broken promise.
    pub verdict: Verdict,
}

/// Runs a plan to its end, or to the first broken promise.
pub fn run(plan: &Plan) -> Outcome {
    run_traced(plan, None)
}

/// The same, and writes down all that happens, a JSON object a line.
pub fn run_traced(plan: &Plan, trace: Option<&mut dyn Write>) -> Outcome {
    let mut world = World::new(plan, Trace::new(trace));
    // A machine that panics has found something wrong with itself.
    let verdict = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Failure::new("panic", text.unwrap_or("without a message")))
    });
    let hash = world.fingerprint();
    world.trace.end(hash, &verdict);
    Outcome {
        hash,
        inputs: world.inputs,
        received: world.received,
        reached: world.reached,
        verdict,
    }
}

/// Shows the machines at the moment when a trace of the run has `line` lines, or where the run ends
/// before.
pub fn look(plan: &Plan, line: u64, show: &mut dyn FnMut(Instant, &[Seen<'_>])) {
    let mut nowhere = io::sink();
    let mut world = World::new(plan, Trace::new(Some(&mut nowhere)));
    world.until = line;
    // Also when it ends by a panic, or a broken promise.
    _ = catch_unwind(AssertUnwindSafe(|| world.run()));
    show(world.now, &world.machines());
}

/// Something that happens at a time.
#[derive(Debug)]
enum Event {
    /// An instance starts, if it does not run.
    Boot(usize),
    /// A client connects.
    Connect(usize),
    /// A client does what its plan says.
    Step(usize, usize),
    /// A client asks again for a room.
    Retry(usize, String),
    /// A client acknowledges a publication that it has received.
    Acknowledge(usize, usize),
    /// It has reached its instance if its connection is still well.
    Acknowledged(usize, usize),
    /// A client reads again.
    Unstall(usize),
    /// A service publishes.
    Publish(usize),
    /// The broker is asked to publish.
    Take(LifeId, usize, Mid),
    /// The broker is asked to subscribe or unsubscribe.
    Interest(Link, StreamId, bool),
    /// The broker is asked to tell other instances something.
    Tell(Destination, Bytes),
    /// The broker is asked for a head.
    Read(LifeId, ReadId, StreamId, Option<u64>, Option<Position>),
    /// The broker is asked for the heads of many streams.
    Compare(LifeId, CheckId, Vec<StreamId>),
    /// The broker notices that a connection is gone.
    Ghost(Link),
    /// The command connections of an instance are up again.
    Reconnected(LifeId),
    /// An instance tries to connect to the broker.
    TryLink(usize),
    /// Everybody must know by now what has been given up.
    Told,
    /// The data is copied.
    Copy,
    /// A fault starts.
    Fault(usize),
    /// A fault ends.
    Heal(usize),
    /// Something for an instance.
    Host(LifeId, HostEvent),
}

/// An event and its place in time.
#[derive(Debug)]
struct Scheduled {
    at: Instant,
    sequence: u64,
    event: Event,
    /// Where and when it was queued, if it was.
    queued: Option<(Queue, Instant)>,
}

/// What keeps its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Queue {
    /// What a subscription connection brings.
    Items(Link),
    /// What is asked of the broker over it.
    Interest(Link),
    /// What is asked of the broker over a command connection; each stream has its own.
    Commands(LifeId, usize),
    /// What an instance tells others.
    Tells(LifeId),
    /// What the broker answers there.
    Replies(LifeId, usize),
    /// From a relay to a shard.
    ToShard(LifeId, usize),
    /// And back.
    FromShard(LifeId, usize),
    /// From a client's connection to its shard.
    Socket(usize),
}

/// A client, over all its connections.
#[derive(Debug, Default)]
struct Client {
    session: Option<usize>,
    attempts: usize,
    wants: BTreeSet<String>,
    last: BTreeMap<StreamId, NodeId>,
}

struct World<'a, 'b> {
    plan: &'a Plan,
    now: Instant,
    events: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    /// When the last event of each ordered queue arrives.
    queues: BTreeMap<Queue, Instant>,
    /// What instances are to take before anything else happens.
    pending: VecDeque<(LifeId, HostEvent)>,
    truth: Truth,
    broker: Broker,
    /// Restarts of the broker that are under way.
    broker_down: u32,
    /// Restarts of the broker so far: names the server.
    server: u32,
    /// Cuts of each instance's subscription connection that are under way.
    cut: Vec<u32>,
    /// Faults that are under way.
    active: BTreeSet<usize>,
    instances: Vec<Instance>,
    clients: Vec<Client>,
    sessions: Vec<Session>,
    net: Rng,
    ids: Rng,
    people: Rng,
    epochs_made: u64,
    receipts: Receipts,
    acks: Acks,
    drains: Drains,
    first_pings: Spread,
    reconnects: Spread,
    refetches: Spread,
    work: Work,
    trace: Trace<'b>,
    /// The run ends when its trace has so many lines.
    until: u64,
    hash: u64,
    inputs: u64,
    received: u64,
    reached: BTreeSet<&'static str>,
    /// Used again, so that nothing is allocated.
    actions: Actions,
    is_calm: bool,
    is_lossless: bool,
    is_repaired: bool,
    is_steady: bool,
    sets_back: bool,
}

impl<'a, 'b> World<'a, 'b> {
    fn new(plan: &'a Plan, trace: Trace<'b>) -> Self {
        let mut world = World {
            plan,
            now: Instant::default(),
            events: BinaryHeap::new(),
            scheduled: 0,
            queues: BTreeMap::new(),
            pending: VecDeque::new(),
            truth: Truth::default(),
            broker: Broker::new(plan.knobs.history),
            broker_down: 0,
            server: 0,
            cut: vec![0; plan.instances.len()],
            active: BTreeSet::new(),
            instances: plan.instances.iter().map(|_| Instance::default()).collect(),
            clients: plan.clients.iter().map(|_| Client::default()).collect(),
            sessions: Vec::new(),
            net: labelled(plan.seed, "net"),
            ids: labelled(plan.seed, "ids"),
            people: labelled(plan.seed, "people"),
            epochs_made: 0,
            receipts: Receipts::default(),
            acks: Acks::default(),
            drains: Drains::default(),
            // These are told apart by eighths of the interval.
            first_pings: Spread::new(10),
            reconnects: Spread::new(6),
            refetches: Spread::new(6),
            work: Work::default(),
            trace,
            until: u64::MAX,
            hash: 0,
            inputs: 0,
            received: 0,
            reached: BTreeSet::new(),
            actions: Actions::default(),
            is_calm: plan.is_calm(),
            is_lossless: plan.is_lossless(),
            is_repaired: plan.is_repaired(),
            is_steady: plan.is_steady(),
            sets_back: plan.sets_back(),
        };
        world.schedule_plan();
        world
    }

    fn schedule_plan(&mut self) {
        self.trace.begin(self.plan);
        for (n, start) in self.plan.instances.iter().enumerate() {
            self.at(moment(*start), Event::Boot(n));
        }
        for (n, client) in self.plan.clients.iter().enumerate() {
            self.at(moment(client.at_ms), Event::Connect(n));
            for (step, (at, _)) in client.steps.iter().enumerate() {
                self.at(moment(*at), Event::Step(n, step));
            }
        }
        for (n, publish) in self.plan.publishes.iter().enumerate() {
            self.at(moment(publish.at_ms), Event::Publish(n));
        }
        if self.plan.tells() {
            self.at(moment(self.plan.quiet_ms) + TOLD, Event::Told);
        }
        self.schedule_faults();
    }

    fn run(&mut self) -> Verdict {
        let end = moment(self.plan.end_ms);
        while let Some(Reverse(Scheduled { at, sequence, event, queued })) = self.events.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.work.happened(at)?;
            self.mix(at.0 ^ sequence.rotate_left(32));
            let route = || Route::of(&event, queued.as_ref(), &self.sessions);
            self.trace.event(at, &event, route);
            let happened = self.happen(event);
            happened.and_then(|()| self.carry_on()).map_err(|error| error.at(format!("{at:?}")))?;
            if self.trace.lines() >= self.until {
                return Ok(());
            }
            if self.trace.is_due() {
                let states = self.states();
                self.trace.states(self.hash, &states);
            }
        }
        self.now = end;
        self.judge()
    }

    fn happen(&mut self, event: Event) -> Verdict {
        match event {
            Event::Boot(instance) => self.boot(instance),
            Event::Connect(client) => self.connect(client),
            Event::Step(client, step) => self.step(client, step),
            Event::Retry(session, room) => self.retry(session, &room),
            Event::Acknowledge(session, number) => self.acknowledge(session, number),
            Event::Acknowledged(session, number) => self.acknowledged(session, number),
            Event::Unstall(session) => self.unstall(session),
            Event::Publish(number) => self.publish(number),
            Event::Take(life, number, mid) => self.take(life, number, mid),
            Event::Interest(link, stream, on) => self.interest(link, stream, on),
            Event::Tell(to, bytes) => self.tell(to, &bytes),
            Event::Read(life, read, stream, after, known) => {
                self.read(life, read, stream, after, known);
            }
            Event::Compare(life, check, streams) => self.compare(life, check, &streams),
            Event::Ghost(link) => self.broker.disconnect(link),
            Event::Reconnected(life) => self.reconnected(life),
            Event::TryLink(instance) => self.try_link(instance),
            Event::Told => self.judge_rollovers()?,
            Event::Copy => self.broker.copy(self.now),
            Event::Fault(fault) => self.strike(fault),
            Event::Heal(fault) => self.heal(fault)?,
            Event::Host(life, event) => self.host(life, event)?,
        }
        Ok(())
    }

    /// What has to be done before anything else happens.
    fn carry_on(&mut self) -> Verdict {
        while let Some((life, event)) = self.pending.pop_front() {
            self.host(life, event)?;
        }
        Ok(())
    }

    /// Lets `event` happen after some latency, behind what is in the queue already.
    fn queue(&mut self, queue: Queue, event: Event) {
        self.queue_slowly(queue, Duration::ZERO, event);
    }

    fn queue_slowly(&mut self, queue: Queue, more: Duration, event: Event) {
        let longest = match queue {
            Queue::ToShard(..) => self.plan.knobs.to_worker_us,
            Queue::FromShard(..) => 1_000,
            Queue::Items(..)
            | Queue::Interest(..)
            | Queue::Commands(..)
            | Queue::Tells(..)
            | Queue::Replies(..)
            | Queue::Socket(..) => self.plan.knobs.network_us,
        };
        let latency = Duration::from_micros(self.net.below(longest + 1)) + more;
        let last = self.queues.entry(queue).or_default();
        let at = (self.now + latency).max(*last);
        *last = at;
        self.schedule(at, event, Some((queue, self.now)));
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.schedule(at, event, None);
    }

    fn schedule(&mut self, at: Instant, event: Event, queued: Option<(Queue, Instant)>) {
        self.scheduled += 1;
        self.events.push(Reverse(Scheduled { at, sequence: self.scheduled, event, queued }));
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.mix(u64::from_le_bytes(chunk.try_into().expect("chunks have 8 bytes")));
        }
        for byte in chunks.remainder() {
            self.mix(u64::from(*byte));
        }
    }

    fn reach(&mut self, name: &'static str) {
        self.reached.insert(name);
    }

    /// The wall clock of an instance, in Unix milliseconds.
    fn unix_ms(&self, life: LifeId) -> u64 {
        let skew = self.instances[life.0].life.as_ref().map_or(0, |life| life.skew_ms);
        (EPOCH_MS + self.now.0 / 1_000_000).saturating_add_signed(skew)
    }

    /// Random time from nothing to `most`.
    fn some(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).expect("runs are short");
        Duration::from_micros(self.people.below(most))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// How long after everything has gone wrong clients know of it, though nothing more comes. In the
/// plans of seeds that is before the last publications.
const TOLD: Duration = Duration::from_secs(25);

/// When runs start, by the wall clock.
const EPOCH_MS: u64 = 1_700_000_000_000;

#[cfg(test)]
mod tests;
