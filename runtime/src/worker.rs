//! A worker thread: its sockets, one Shard that makes the decisions, and the few tasks that
//! bring the shard its inputs. Everything lives on one thread, so there is no lock, and no borrow
//! is held across an await.

mod arrival;
mod census;
mod latency;
mod machine;
mod slots;
#[cfg(test)]
mod tests;

use std::{num::NonZeroU16, rc::Rc, sync::Arc, time::Duration};

use realtime_core::{
    id::{BootId, WorkerId},
    limits::ShardLimits,
    link::ToShard,
    shard::{Input, Stats},
    stream::StreamName,
    transcript::Recorded,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

pub use self::census::Census;
use self::{latency::Latency, machine::Machine};
use crate::{
    auth::Verifier,
    clock::Clock,
    config::Config,
    link::LinkCommand,
    net::{Listener, Stream},
    record::Recorder,
    service::{Handoff, Phase},
};

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup<S> {
    /// Which one it is.
    pub id: WorkerId,
    /// How many there are.
    pub workers: NonZeroU16,
    /// What is configured.
    pub config: Arc<Config>,
    /// The instance's clock.
    pub clock: Clock,
    /// Goes into connection ids.
    pub boot: BootId,
    /// For jitter; differs between workers.
    pub seed: u64,
    /// What all workers count together.
    pub census: Arc<Census>,
    /// Verifies tokens.
    pub verifier: Arc<Verifier>,
    /// To the relay thread.
    pub link: mpsc::Sender<LinkCommand>,
    /// From the relay thread.
    pub from_link: mpsc::Receiver<ToShard>,
    /// From other threads.
    pub commands: mpsc::Receiver<WorkerCommand>,
    /// Takes connections that are not for `/ws`.
    pub handoff: mpsc::Sender<Handoff<S>>,
    /// Is told when the last connection of a drain is gone.
    pub drained: mpsc::Sender<WorkerId>,
    /// The worker ends with [`Phase::Stopping`].
    pub phase: watch::Receiver<Phase>,
    /// Takes the transcript of the shard.
    pub record: Recorder,
}

/// Serves the connections that `listener` accepts until the instance stops. To be run in a
/// `LocalSet`.
pub async fn run<S: Stream>(setup: Setup<S>, listener: impl Listener<Stream = S>) {
    let Setup { from_link, commands, mut phase, .. } = setup;
    let machine = Rc::new(Machine::new(machine::Parts {
        id: setup.id,
        shard: Recorded::shard(
            shard_limits(&setup.config, setup.workers),
            setup.seed,
            // Names connections, which must differ from those of the other workers too.
            setup.boot.0.wrapping_add(u64::from(setup.id.0)),
            setup.clock.now(),
            setup.clock.unix(),
            setup.record,
        ),
        workers: setup.workers,
        config: setup.config,
        clock: setup.clock,
        census: setup.census,
        verifier: setup.verifier,
        link: setup.link,
        handoff: setup.handoff,
        drained: setup.drained,
    }));
    // Dropping the set ends the tasks.
    let mut tasks = JoinSet::new();
    tasks.spawn_local(machine.clone().fan_out());
    tasks.spawn_local(machine.clone().hear_link(from_link));
    tasks.spawn_local(machine.clone().tell_link());
    tasks.spawn_local(machine.clone().time_out());
    tasks.spawn_local(machine.clone().read_wall_clock());
    tasks.spawn_local(hear_commands(machine.clone(), commands));
    tasks.spawn_local(arrival::accept(machine, listener));
    tokio::select! {
        biased;
        // An error means that the server is gone, which is an end as well.
        _ = phase.wait_for(|phase| *phase == Phase::Stopping) => (),
        // They have no end.
        _ = tasks.join_next() => (),
    }
}

async fn hear_commands<S: Stream>(
    machine: Rc<Machine<S>>,
    mut commands: mpsc::Receiver<WorkerCommand>,
) {
    while let Some(command) = commands.recv().await {
        match command {
            WorkerCommand::Snapshot { rooms, reply } => {
                // Whoever asked may have given up.
                drop(reply.send(machine.snapshot(rooms)));
            }
            WorkerCommand::Drain { period } => machine.input(Input::Draining { period }),
        }
    }
}

/// What a shard allows. It is told how many connections there are elsewhere; of what comes with a
/// rate it gets its share.
fn shard_limits(config: &Config, workers: NonZeroU16) -> ShardLimits {
    let ws = &config.ws;
    let share = |limit: u32| limit.div_ceil(u32::from(workers.get()));
    ShardLimits {
        connections_max: ws.connections_max,
        connections_per_user_max: ws.connections_per_user_max,
        accepts_per_second_max: share(ws.accept_rate),
        rooms_per_connection_max: ws.rooms_max,
        anonymous_allowed: ws.allow_anonymous,
        origins: ws.allowed_origins.clone(),
        public_rooms: ws.public_rooms.clone(),
        ping_interval: ws.ping_interval,
        pong_timeout: ws.pong_timeout,
        join_timeout: ws.join_timeout,
        close_timeout: ws.close_timeout,
        slow_timeout: ws.slow_timeout,
        expiry_notice: ws.expiry_notice,
        messages_per_second_max: ws.message_rate,
        message_burst_max: ws.message_burst,
        rate_grace: RATE_GRACE,
        errors_max: ws.errors_max,
        parked_joins_max: PARKED_JOINS_MAX,
        waiting_requests_max: WAITING_REQUESTS_MAX,
        coalesced_bytes_max: COALESCED_BYTES_MAX,
    }
}

/// How long a connection may send too much before it is closed.
const RATE_GRACE: Duration = Duration::from_secs(10);

/// Joins of one worker that wait for the relay: five seconds (`WS_JOIN_TIMEOUT`) at 2,000 connects
/// a second with three joins each, and as much again.
const PARKED_JOINS_MAX: u32 = 1 << 16;

/// Requests of one connection that wait behind joins of the same rooms. A client that waits for
/// its answers has one.
const WAITING_REQUESTS_MAX: u32 = 64;

/// A write of this size is as cheap per byte as a larger one.
const COALESCED_BYTES_MAX: usize = 64 << 10;

/// What other threads ask of a worker.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Report what there is.
    Snapshot {
        /// Whether to list the rooms.
        rooms: bool,
        /// Where to.
        reply: oneshot::Sender<Snapshot>,
    },
    /// Refuse newcomers and close everyone, evenly over `period`.
    Drain {
        /// From the first close to the last.
        period: Duration,
    },
}

/// What a worker reports.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What its shard counted.
    pub stats: Stats,
    /// Members of each room, when asked for; without users' streams, with `all`.
    pub rooms: Vec<(StreamName, u32)>,
    /// Bytes in all outboxes.
    pub queued_bytes: u64,
    /// `latest` values that newer ones took the place of in an outbox, ever.
    pub values_replaced: u64,
    /// Publish-to-write times since the start, by bucket of [`LATENCY_BUCKETS_S`], the last
    /// for longer ones.
    pub latency: [u64; LATENCY_BUCKETS_S.len() + 1],
    /// Sum of those times, in seconds.
    pub latency_sum_s: f64,
    /// Times that a connection could not be taken: no files, or too many unanswered requests.
    pub accept_failures: u64,
}

/// Upper bounds of the delivery latency histogram, in seconds.
pub const LATENCY_BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
