//! What happens in a run: expanded from a seed, before anything runs.

use std::time::Duration;

use realtime_core::time::Instant;

use crate::random::labelled;

/// Everything that is decided about a run before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where the machines' own seeds and the latencies come from.
    pub seed: u64,
    /// Processes.
    pub instances: usize,
    /// Shards of each.
    pub workers: u16,
    /// Who connects.
    pub clients: Vec<ClientPlan>,
    /// What is published.
    pub publishes: Vec<PublishPlan>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// From here on nothing is published and nothing goes wrong.
    pub quiet: Instant,
    /// The end: everything must have arrived by now.
    pub end: Instant,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// None is anonymous.
    pub user: Option<String>,
    /// Where it connects.
    pub instance: usize,
    /// And to which shard.
    pub worker: u16,
    /// When.
    pub at: Instant,
    /// Joins and leaves, with their times.
    pub steps: Vec<(Instant, Step)>,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Joins a room.
    Join(String),
    /// Leaves a room.
    Leave(String),
}

/// One publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishPlan {
    /// When.
    pub at: Instant,
    /// The stream, by its name.
    pub stream: String,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An instance loses its subscription connection, and what was on its way in it.
    LinkCut {
        /// Which one.
        instance: usize,
        /// When.
        at: Instant,
        /// For how long.
        lasts: Duration,
    },
}

/// Publications and faults end here; what follows is the quiet tail.
const BUSY: Duration = Duration::from_secs(20);

/// Longer than a repair after the last fault can take: back-offs end at 5 s.
const TAIL: Duration = Duration::from_secs(40);

impl Plan {
    /// The plan that a seed stands for.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = labelled(seed, "plan");
        let instances = 1 + index(rng.below(3));
        let workers = u16::try_from(1 + rng.below(3)).expect("at most 3");
        let clients = (0..2 + rng.below(7)).map(|n| client(seed, n, instances, workers)).collect();
        let mut rng = labelled(seed, "publish");
        let mut publishes: Vec<_> = (0..20 + rng.below(200))
            .map(|_| PublishPlan {
                at: moment(rng.below(millis(BUSY))),
                stream: stream(rng.below(7)),
            })
            .collect();
        publishes.sort_by_key(|publish| publish.at);
        let mut rng = labelled(seed, "faults");
        let faults = (0..rng.below(4))
            .map(|_| Fault::LinkCut {
                instance: index(rng.below(instances as u64)),
                at: moment(rng.below(millis(BUSY))),
                lasts: Duration::from_millis(1 + rng.below(3_000)),
            })
            .collect();
        let quiet = Instant::default() + BUSY;
        Self { seed, instances, workers, clients, publishes, faults, quiet, end: quiet + TAIL }
    }
}

fn client(seed: u64, n: u64, instances: usize, workers: u16) -> ClientPlan {
    let mut rng = labelled(seed, &format!("client/{n}"));
    let at = rng.below(5_000);
    let mut steps: Vec<_> = (0..rng.below(6))
        .map(|_| {
            let room = format!("event:{}", rng.below(3));
            let step = if rng.below(3) == 0 { Step::Leave(room) } else { Step::Join(room) };
            (moment(at + rng.below(15_000)), step)
        })
        .collect();
    steps.sort_by_key(|(at, _)| *at);
    ClientPlan {
        user: (rng.below(4) != 0).then(|| format!("user-{}", rng.below(3))),
        instance: index(rng.below(instances as u64)),
        worker: u16::try_from(rng.below(u64::from(workers))).expect("below a u16"),
        at: moment(at),
        steps,
    }
}

fn stream(n: u64) -> String {
    match n {
        0..3 => format!("event:{n}"),
        3..6 => format!("user:user-{}", n - 3),
        _ => "all".to_owned(),
    }
}

fn moment(ms: u64) -> Instant {
    Instant::default() + Duration::from_millis(ms)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a plan lasts seconds")
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("small numbers")
}
