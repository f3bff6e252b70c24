//! What happens in a run: written down before anything runs, so that it can be kept, cut down and
//! replayed. Times are milliseconds since the start of the run.

use std::time::Duration;

use realtime_core::time::Instant;
use serde::{Deserialize, Serialize};

/// Everything that is decided about a run before it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Where the machines' own seeds and the latencies come from.
    pub seed: u64,
    /// Limits of the machines and sizes around them.
    pub knobs: Knobs,
    /// Processes, by the time at which they start first.
    pub instances: Vec<u64>,
    /// Who connects.
    pub clients: Vec<ClientPlan>,
    /// What is published.
    pub publishes: Vec<PublishPlan>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// From here on nothing goes wrong, and clients only reconnect and rejoin.
    pub quiet_ms: u64,
    /// The end: everything must be as it should by now.
    pub end_ms: u64,
}

/// Limits of the machines and sizes around them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knobs {
    /// Shards of each instance.
    pub workers: u16,
    /// Whether streams have positions.
    pub positions: bool,
    /// Publications on their way to one worker.
    pub in_flight: u32,
    /// How long a stream stays subscribed.
    pub linger_ms: u64,
    /// Bytes held for a stream while its head is read.
    pub held_bytes: usize,
    /// Bytes of frames joined into one write.
    pub coalesced_bytes: usize,
    /// Receipts waited for at once.
    pub expected: u32,
    /// Reads of one head.
    pub head_reads: u32,
    /// Entries that the history of a stream keeps.
    #[serde(default = "usual_history")]
    pub history: usize,
    /// Time in which each stream is compared with the broker once; 0 is never.
    #[serde(default)]
    pub check_ms: u64,
    /// Silence after which a peer is pinged; it is closed after twice that.
    pub ping_ms: u64,
    /// How long a join may take.
    pub join_timeout_ms: u64,
    /// Connections of one user on an instance.
    pub per_user: u32,
    /// Rooms of one connection.
    pub rooms: u32,
    /// Messages a second of one connection; 0 is no limit.
    pub messages_per_s: u32,
    /// Errors in a row.
    pub errors: u32,
    /// Bytes that a connection's outbox holds.
    pub outbox_bytes: usize,
    /// Members that a walk takes in one go.
    pub walk_chunk: usize,
    /// Longest time that a message takes from a relay to a worker, in microseconds.
    pub to_worker_us: u64,
    /// Longest time that anything else takes.
    pub network_us: u64,
}

/// One client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientPlan {
    /// None is anonymous.
    pub user: Option<String>,
    /// Where it connects first.
    pub instance: usize,
    /// And to which shard.
    pub worker: u16,
    /// When.
    pub at_ms: u64,
    /// How long each of its tokens is good for; None is for ever.
    pub token_ms: Option<u64>,
    /// Whether it tells where it was when it joins again.
    pub since: bool,
    /// What it does, with times.
    pub steps: Vec<(u64, Step)>,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Joins a room.
    Join(String),
    /// Leaves a room.
    Leave(String),
    /// Sends `system:ping`.
    Ping,
    /// Sends one of several messages that are no good.
    Garbage(u8),
    /// Asks for its own stream, which it has.
    Subscribe,
    /// Brings a new token: 0 a good one, 1 a bad one, 2 another user's, 3 one without rooms.
    Refresh(u8),
    /// Breaks the WebSocket protocol.
    Misbehave,
    /// Goes away properly, and comes back.
    Quit,
    /// Is gone without a word, and comes back.
    Vanish,
    /// Reads nothing for some milliseconds.
    Stall(u64),
}

/// One publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishPlan {
    /// When.
    pub at_ms: u64,
    /// By which instance.
    pub instance: usize,
    /// The stream, by its name.
    pub stream: String,
    /// What is promised.
    pub class: Class,
    /// Whose connections skip it.
    pub exclude: Option<String>,
    /// Bytes that the payload is filled with.
    pub bytes: usize,
    /// Whether the service waits for an acknowledgement. Only for durable ones.
    #[serde(default)]
    pub ack: bool,
}

/// What is promised of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// It is missed by nobody who is not told so.
    Durable,
    /// Only the newest of a key matters.
    Latest(u8),
    /// At most once.
    Ingress,
}

/// What happens to the data when Redis restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// It is kept.
    Kept,
    /// It is lost.
    Lost,
    /// It is that of some milliseconds earlier.
    Older(u64),
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When.
    pub at_ms: u64,
    /// For how long.
    pub lasts_ms: u64,
    /// Whom it hits, where that matters.
    pub instance: usize,
    /// What it is.
    pub what: Trouble,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// An instance loses its subscription connection. The broker notices some milliseconds later,
    /// and what it sends until then arrives late.
    LinkCut(u64),
    /// Publications are lost on a live subscription, so many of a thousand.
    Lossy(u64),
    /// Durable publications come twice.
    Twice,
    /// Subscriptions are not confirmed, so many of a thousand.
    Unconfirmed(u64),
    /// Subscriptions are not even made, so many of a thousand.
    Unsubscribable(u64),
    /// Heads can't be read.
    ReadsFail,
    /// Heads are read slowly, in milliseconds.
    ReadsSlow(u64),
    /// What a subscription connection brings takes so many milliseconds more: what is read over
    /// another connection overtakes it.
    ItemsSlow(u64),
    /// The replies to publishes are lost.
    RepliesLost,
    /// Redis restarts.
    Restart(Data),
    /// The meta key of a stream is evicted.
    Evict(String),
    /// An instance stands still.
    Freeze,
    /// What the relay sends to a worker takes so many milliseconds more.
    SlowWorker(u16, u64),
    /// An instance crashes, and is back after the fault.
    Crash,
    /// An instance is told to close its connections over so many milliseconds. It is back after
    /// the fault, if it was done by then.
    Drain(u64),
    /// The wall clock of an instance is set by so many milliseconds.
    Clock(i64),
}

impl Plan {
    /// Whether any publication asks to be acknowledged.
    pub fn asks_for_acks(&self) -> bool {
        self.publishes.iter().any(|publish| publish.ack)
    }

    /// Whether nothing at all can go wrong, so that nobody may miss anything.
    pub fn is_calm(&self) -> bool {
        self.faults.is_empty()
            && self.knobs.is_roomy()
            && !self.has_step(|step| matches!(step, Step::Stall(_)))
    }

    /// Whether nothing that goes wrong can make anything be missed for good, however much is
    /// delayed or has to be read from the history.
    pub fn is_lossless(&self) -> bool {
        self.is_repaired() && !self.has(|what| matches!(what, Trouble::Lossy(_)))
    }

    /// The same of what is durable.
    pub fn is_repaired(&self) -> bool {
        let is_harmless = |fault: &Fault| {
            matches!(
                fault.what,
                Trouble::Twice
                    | Trouble::LinkCut(_)
                    | Trouble::Lossy(_)
                    | Trouble::Restart(Data::Kept)
                    | Trouble::Crash
                    | Trouble::Drain(_)
                    | Trouble::ReadsSlow(_)
                    | Trouble::RepliesLost
                    | Trouble::SlowWorker(..)
                    | Trouble::Clock(_)
            )
        };
        let reads = Knobs::usual().head_reads;
        self.knobs.is_roomy()
            && self.knobs.head_reads >= reads
            && self.faults.iter().all(is_harmless)
    }

    /// Whether a client does something of this kind.
    pub fn has_step(&self, is_it: impl Fn(&Step) -> bool) -> bool {
        self.clients.iter().any(|client| client.steps.iter().any(|(_, step)| is_it(step)))
    }

    /// Whether something of this kind goes wrong.
    pub fn has(&self, is_it: impl Fn(&Trouble) -> bool) -> bool {
        self.faults.iter().any(|fault| is_it(&fault.what))
    }

    /// Whether the broker may forget what it acknowledged.
    pub fn sets_back(&self) -> bool {
        self.has(|what| matches!(what, Trouble::Restart(Data::Older(_))))
    }
}

impl Knobs {
    /// As in production, or nearly so.
    pub fn usual() -> Self {
        Self {
            workers: 1,
            positions: true,
            in_flight: 1_024,
            linger_ms: 30_000,
            held_bytes: 1 << 20,
            coalesced_bytes: 1 << 16,
            expected: 1_024,
            head_reads: 3,
            history: usual_history(),
            check_ms: 0,
            ping_ms: 30_000,
            join_timeout_ms: 5_000,
            per_user: 100,
            rooms: 100,
            messages_per_s: 0,
            errors: 50,
            outbox_bytes: 1 << 18,
            walk_chunk: 128,
            to_worker_us: 1_000,
            network_us: 5_000,
        }
    }

    /// Time in which each stream is compared with the broker once.
    pub fn position_check(&self) -> Duration {
        match self.check_ms {
            0 => Duration::from_secs(24 * 60 * 60),
            ms => Duration::from_millis(ms),
        }
    }

    /// Lifts the limits that make something be lost in ordinary operation.
    pub fn calm(&mut self) {
        let usual = Self::usual();
        self.positions = usual.positions;
        self.in_flight = usual.in_flight;
        self.held_bytes = usual.held_bytes;
        self.expected = usual.expected;
        self.history = usual.history;
        self.outbox_bytes = usual.outbox_bytes;
        self.join_timeout_ms = usual.join_timeout_ms;
        self.to_worker_us = usual.to_worker_us;
    }

    /// Whether no limit is so low that something is lost in ordinary operation.
    pub fn is_roomy(&self) -> bool {
        let usual = Self::usual();
        self.positions
            && self.in_flight >= usual.in_flight
            && self.held_bytes >= usual.held_bytes
            && self.expected >= usual.expected
            && self.history >= usual.history
            && self.outbox_bytes >= usual.outbox_bytes
            && self.join_timeout_ms >= usual.join_timeout_ms
            && self.to_worker_us <= usual.to_worker_us
            && self.network_us <= 10 * usual.network_us
    }
}

/// More than runs publish to one stream. Plans that were written before there were histories have
/// none of their own.
fn usual_history() -> usize {
    2_048
}

/// So many milliseconds after the start.
pub fn moment(ms: u64) -> Instant {
    Instant::default() + Duration::from_millis(ms)
}
