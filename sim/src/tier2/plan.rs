//! What happens in a run: expanded from a seed, before anything runs.

use realtime_core::rng::Rng;
use serde::{Deserialize, Serialize};

use crate::random::labelled;

/// Everything that is decided about a run before it starts. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Where all randomness during the run comes from.
    pub seed: u64,
    /// Threads of each instance, one entry for each.
    pub workers: Vec<u16>,
    /// Smallest and largest delay of the network.
    pub latency_ms: (u64, u64),
    /// Environment variables of all instances that differ from the usual.
    pub knobs: Vec<(String, String)>,
    /// Who connects.
    pub clients: Vec<ClientPlan>,
    /// What is published.
    pub publishes: Vec<PublishPlan>,
    /// How far the wall clocks of hosts are ahead, by name.
    #[serde(default)]
    pub clocks_ms: Vec<(String, i64)>,
    /// What goes wrong, with the time.
    pub faults: Vec<(u64, Fault)>,
    /// From here on nothing goes wrong and everybody behaves.
    pub quiet_ms: u64,
    /// When the last messages are published, which everybody must get.
    pub last_ms: u64,
    /// The end.
    pub end_ms: u64,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientPlan {
    /// None is anonymous.
    pub user: Option<String>,
    /// When it first connects.
    pub at_ms: u64,
    /// What it joins after connecting.
    pub rooms: Vec<String>,
    /// How it behaves until the quiet time.
    pub habit: Habit,
    /// Whether it tells where it was when it comes back.
    #[serde(default)]
    pub since: bool,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Habit {
    /// It stays.
    Steady,
    /// It goes away without a word and comes again.
    Flapping,
    /// It leaves its rooms and joins them again.
    Wandering,
    /// It stops reading for a while.
    Sleepy,
    /// It stops reading for longer than a server waits.
    Deaf,
    /// It sends what is no request, or one that nobody grants.
    Clumsy,
    /// Its tokens are soon over, and it does not bring new ones in time.
    Expiring,
    /// Its tokens are soon over, and it brings new ones.
    Renewing,
}

/// One publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishPlan {
    /// When.
    pub at_ms: u64,
    /// Which instance is asked.
    pub pod: usize,
    /// Which call is made.
    pub call: CallPlan,
    /// With an idempotency key, and so repeated until it succeeds.
    pub keyed: bool,
    /// Bytes that make the message longer.
    pub padding: usize,
}

/// Which call is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallPlan {
    /// `BroadcastEvent` to a room, or to `all`.
    Broadcast {
        /// The room.
        room: String,
        /// Who is left out.
        exclude: Option<String>,
    },
    /// `SendToUser`
    Send {
        /// The user.
        user: String,
    },
    /// `NotifyBookingResult`
    Booking {
        /// The user.
        user: String,
    },
    /// `NotifyQueuePosition`
    Queue {
        /// The user.
        user: String,
        /// Whose queue.
        #[serde(default = "first_event")]
        event: u8,
    },
    /// None: it is published on an ingress channel.
    Ingress {
        /// The room, `all`, or the stream of a user.
        stream: String,
    },
}

fn first_event() -> u8 {
    1
}

impl CallPlan {
    /// The stream that is published to.
    pub fn stream(&self) -> String {
        match self {
            Self::Broadcast { room, .. } => room.clone(),
            Self::Send { user } | Self::Booking { user } | Self::Queue { user, .. } => {
                format!("user:{user}")
            }
            Self::Ingress { stream } => stream.clone(),
        }
    }

    /// Whether every message counts, not only the newest.
    pub fn is_durable(&self) -> bool {
        !matches!(self, Self::Queue { .. } | Self::Ingress { .. })
    }

    /// Whether it goes to no instance.
    pub fn is_ingress(&self) -> bool {
        matches!(self, Self::Ingress { .. })
    }
}

/// What goes wrong. Those that last do so for `ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Nothing gets from one host to the other, and connections never find out.
    Cut {
        /// One end.
        a: String,
        /// The other.
        b: String,
        /// How long.
        ms: u64,
    },
    /// Nothing gets from `from` to `to`.
    CutOneWay {
        /// Where it comes from.
        from: String,
        /// Where it does not arrive.
        to: String,
        /// How long.
        ms: u64,
    },
    /// What one host sends to the other arrives later.
    Hold {
        /// One end.
        a: String,
        /// The other.
        b: String,
        /// How long.
        ms: u64,
    },
    /// The process ends, the machine closes its connections.
    Crash {
        /// Which instance.
        pod: usize,
        /// Until it starts again.
        ms: u64,
    },
    /// The machine vanishes without a word.
    PowerLoss {
        /// Which instance.
        pod: usize,
        /// Until it starts again.
        ms: u64,
    },
    /// The instance is told to stop.
    Drain {
        /// Which instance.
        pod: usize,
    },
    /// Redis ends.
    CrashRedis {
        /// Until it starts again.
        ms: u64,
        /// What it then has.
        data: Data,
    },
    /// A copy of Redis' data is kept, to go back to.
    Keep,
    /// Redis closes all subscription connections.
    KillSubscribers,
    /// Redis forgets all subscriptions and says nothing.
    Deafen,
    /// Redis carries out nothing of some kind, and says so.
    Refuse {
        /// What it says.
        refusal: Refusal,
        /// How long.
        ms: u64,
    },
    /// Redis loses one key.
    Evict {
        /// Of this stream.
        stream: String,
        /// `meta`, `log` or `latest`.
        what: String,
    },
}

/// What Redis has left after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// Everything.
    All,
    /// Nothing.
    Nothing,
    /// What it had at the last [`Fault::Keep`].
    Older,
}

/// Why Redis carries out nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It has no memory left for scripts that need more.
    OutOfMemory,
    /// It is a replica.
    ReadOnly,
    /// It reads its data.
    Loading,
}

impl Fault {
    /// Whether Redis forgets what it has acknowledged.
    pub fn loses_data(&self) -> bool {
        matches!(
            self,
            Self::CrashRedis { data: Data::Nothing | Data::Older, .. } | Self::Evict { .. }
        )
    }
}

/// The name of an instance's host.
pub fn pod_name(pod: usize) -> String {
    format!("pod{pod}")
}

/// Hosts of clients, which share them when they are more; plans of seeds have fewer. Each tick
/// looks at the links between all hosts: with a thousand of them a minute takes more than seven.
pub const CLIENT_HOSTS_MAX: usize = 8;

/// The name of a client's host.
pub fn client_name(client: usize) -> String {
    format!("client{client}")
}

impl Plan {
    /// The plan of a seed.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = labelled(seed, "tier2/plan");
        let is_large = rng.below(10) == 0;
        let pods = if is_large { 4 + index(&mut rng, 5) } else { 1 + index(&mut rng, 3) };
        let workers = (0..pods).map(|_| if rng.below(2) == 0 { 1 } else { 2 }).collect();
        let low = 2 * (1 + rng.below(2));
        let latency_ms = (low, low + rng.below(25));
        let knobs = knobs(&mut labelled(seed, "tier2/knobs"));
        let count = 2 + index(&mut rng, 5);
        let mut clients: Vec<_> = (0..count).map(|number| client(seed, number)).collect();
        clients.extend(stampede(&mut labelled(seed, "tier2/stampede")));
        Self {
            seed,
            workers,
            latency_ms,
            knobs,
            clients,
            publishes: publishes(seed, pods),
            clocks_ms: clocks(&mut labelled(seed, "tier2/clocks"), pods),
            faults: faults(&mut labelled(seed, "tier2/faults"), pods, count),
            quiet_ms: QUIET_MS,
            last_ms: LAST_MS,
            end_ms: END_MS,
        }
    }

    /// Whether Redis can always tell that it has carried out a publish before: not when it forgets
    /// data, and not when the history is shorter than what may be on its way at once.
    pub fn recognises_repeats(&self) -> bool {
        !self.faults.iter().any(|(_, fault)| fault.loses_data())
            && !self.knobs.iter().any(|(knob, _)| knob.starts_with("HISTORY_"))
    }

    /// How much may wait for one connection, where that is less than usual.
    pub(super) fn outbox_bytes(&self) -> Option<u64> {
        let mut knobs = self.knobs.iter();
        let (_, bytes) = knobs.find(|(knob, _)| knob == "WS_OUTBOX_BYTES")?;
        bytes.parse().ok()
    }

    /// Every stream that the plan names.
    pub fn streams(&self) -> Vec<String> {
        let mut streams: Vec<_> =
            ROOMS.iter().map(ToString::to_string).chain(["all".to_owned()]).collect();
        streams.extend(USERS.iter().map(|user| format!("user:{user}")));
        streams
    }
}

fn knobs(rng: &mut Rng) -> Vec<(String, String)> {
    let mut knobs = Vec::new();
    for (name, values) in KNOBS {
        // Mostly the usual value.
        if rng.below(3) == 0 {
            knobs.push(((*name).to_owned(), pick(rng, values).to_string()));
        }
    }
    knobs
}

fn client(seed: u64, number: usize) -> ClientPlan {
    let mut rng = labelled(seed, &format!("tier2/client/{number}"));
    let user = (rng.below(5) > 0).then(|| pick(&mut rng, &USERS).to_string());
    let rooms = ROOMS.iter().filter(|_| rng.below(3) > 0).map(ToString::to_string).collect();
    let habit = *pick(&mut rng, &HABITS);
    let at_ms = 300 + rng.below(2_000);
    ClientPlan { user, at_ms, rooms, habit, since: rng.below(3) > 0 }
}

/// In some plans the clocks of instances and of Redis differ by less than a second, or by minutes:
/// by a clock that is some seconds behind, tokens that soon are over would be so in the quiet time.
fn clocks(rng: &mut Rng, pods: usize) -> Vec<(String, i64)> {
    let (least_ms, most_ms) = match rng.below(6) {
        0 => (0, 1_000),
        1 => (60_000, 600_000),
        _ => return Vec::new(),
    };
    let hosts = (0..pods).map(pod_name).chain(["redis".to_owned()]);
    let mut ahead_ms = || {
        let by_ms = (least_ms + rng.below(most_ms - least_ms)).cast_signed();
        if rng.below(2) == 0 { by_ms } else { -by_ms }
    };
    hosts.map(|host| (host, ahead_ms())).collect()
}

/// In some plans many come at once, to the same room.
fn stampede(rng: &mut Rng) -> Vec<ClientPlan> {
    let count = if rng.below(12) == 0 { 20 + rng.below(20) } else { 0 };
    let begin_ms = 1_000 + rng.below(4_000);
    let client = |_| ClientPlan {
        user: None,
        at_ms: begin_ms + rng.below(100),
        rooms: vec![ROOMS[0].to_owned()],
        habit: Habit::Steady,
        since: true,
    };
    (0..count).map(client).collect()
}

fn publishes(seed: u64, pods: usize) -> Vec<PublishPlan> {
    let mut publishes = usual(&mut labelled(seed, "tier2/publishes"), pods);
    publishes.extend(burst(&mut labelled(seed, "tier2/burst"), pods));
    publishes.extend(ingress(&mut labelled(seed, "tier2/ingress")));
    publishes.sort_by_key(|publish| publish.at_ms);
    publishes
}

/// More for one user than a client takes that does not read for a moment: long messages, with
/// places in two queues between them.
fn burst(rng: &mut Rng, pods: usize) -> Vec<PublishPlan> {
    let (user, at_ms) = (pick(rng, &USERS).to_string(), 2_000 + rng.below(QUIET_MS - 4_000));
    let count = if rng.below(3) == 0 { 0 } else { 16 + rng.below(16) };
    let publish = |number| {
        let user = user.clone();
        let (call, padding) = match number % 3 {
            0 => (CallPlan::Send { user }, 18_000),
            1 => (CallPlan::Queue { user, event: 3 }, 0),
            _ => (CallPlan::Queue { user, event: 4 }, 0),
        };
        let (at_ms, pod) = (at_ms + 40 * number, index(rng, pods));
        PublishPlan { at_ms, pod, call, keyed: false, padding }
    };
    (0..count).map(publish).collect()
}

/// What services publish straight to Redis.
fn ingress(rng: &mut Rng) -> Vec<PublishPlan> {
    let count = if rng.below(2) == 0 { 0 } else { rng.below(20) };
    let publish = |_| {
        let stream = match rng.below(3) {
            0 => pick(rng, &ROOMS).to_string(),
            1 => format!("user:{}", pick(rng, &USERS)),
            _ => "all".to_owned(),
        };
        let (at_ms, call) = (1_000 + rng.below(QUIET_MS + 1_000), CallPlan::Ingress { stream });
        PublishPlan { at_ms, pod: index(rng, 4), call, keyed: false, padding: 0 }
    };
    (0..count).map(publish).collect()
}

fn usual(rng: &mut Rng, pods: usize) -> Vec<PublishPlan> {
    let count = 20 + rng.below(130);
    let call = |rng: &mut Rng| match rng.below(10) {
        0..4 => CallPlan::Broadcast {
            room: pick(rng, &ROOMS).to_string(),
            exclude: (rng.below(4) == 0).then(|| pick(rng, &USERS).to_string()),
        },
        4 => CallPlan::Broadcast { room: "all".to_owned(), exclude: None },
        5..7 => CallPlan::Send { user: pick(rng, &USERS).to_string() },
        7 => CallPlan::Booking { user: pick(rng, &USERS).to_string() },
        _ => CallPlan::Queue { user: pick(rng, &USERS).to_string(), event: *pick(rng, &[1, 2]) },
    };
    let heavy = rng.below(4) == 0;
    let publish = |rng: &mut Rng| PublishPlan {
        at_ms: 1_000 + rng.below(QUIET_MS + 1_000),
        pod: index(rng, pods),
        call: call(rng),
        keyed: rng.below(3) == 0,
        padding: if heavy { index(rng, 20_000) } else { index(rng, 200) },
    };
    (0..count).map(|_| publish(rng)).collect()
}

/// Each seed has only some kinds of faults, so that each kind is seen alone, too.
fn faults(rng: &mut Rng, pods: usize, clients: usize) -> Vec<(u64, Fault)> {
    let kinds: Vec<_> = (0..FAULT_KINDS).filter(|_| rng.below(3) == 0).collect();
    let count = if kinds.is_empty() { 0 } else { rng.below(8) };
    let mut faults: Vec<_> = (0..count)
        .map(|_| {
            let at_ms = 1_500 + rng.below(QUIET_MS - 3_000);
            let kind = *pick(rng, &kinds);
            (at_ms, fault(rng, kind, pods, clients))
        })
        .collect();
    faults.sort_by_key(|(at_ms, _)| *at_ms);
    // There is something to go back to.
    let is_older =
        |(_, fault): &(u64, Fault)| matches!(fault, Fault::CrashRedis { data: Data::Older, .. });
    let at_ms = faults.iter().find(|fault| is_older(fault)).map(|(at_ms, _)| *at_ms);
    if let Some(at_ms) = at_ms
        && !faults.iter().any(|(kept_ms, fault)| *fault == Fault::Keep && *kept_ms < at_ms)
    {
        let kept_ms = at_ms - 1 - rng.below(1_500);
        faults
            .insert(faults.partition_point(|(at_ms, _)| *at_ms < kept_ms), (kept_ms, Fault::Keep));
    }
    faults
}

fn fault(rng: &mut Rng, kind: u64, pods: usize, clients: usize) -> Fault {
    let ms_max = if rng.below(2) == 0 { 500 } else { 5_000 };
    let ms = 50 + rng.below(ms_max);
    let pod = index(rng, pods);
    let redis = "redis".to_owned();
    let host = pod_name(pod);
    let client = client_name(index(rng, clients));
    match kind {
        0 => Fault::Cut { a: host, b: redis, ms },
        1 if rng.below(2) == 0 => Fault::CutOneWay { from: host, to: redis, ms },
        1 => Fault::CutOneWay { from: redis, to: host, ms },
        2 => Fault::Hold { a: host, b: redis, ms },
        3 => Fault::Cut { a: client, b: host, ms },
        4 => Fault::Hold { a: client, b: host, ms },
        5 => Fault::Crash { pod, ms },
        6 => Fault::PowerLoss { pod, ms },
        7 => Fault::Drain { pod },
        8 => Fault::CrashRedis { ms, data: Data::All },
        9 => Fault::CrashRedis { ms, data: Data::Nothing },
        10 if rng.below(2) == 0 => Fault::Keep,
        10 => Fault::CrashRedis { ms, data: Data::Older },
        11 => Fault::KillSubscribers,
        12 => Fault::Deafen,
        13 => Fault::Evict {
            stream: pick(rng, &ROOMS).to_string(),
            what: pick(rng, &["meta", "log", "latest"]).to_string(),
        },
        14 => Fault::Cut { a: "publisher".to_owned(), b: host, ms },
        15 => {
            let refusals = [Refusal::OutOfMemory, Refusal::ReadOnly, Refusal::Loading];
            Fault::Refuse { refusal: *pick(rng, &refusals), ms }
        }
        _ => Fault::Hold { a: "publisher".to_owned(), b: host, ms },
    }
}

fn index(rng: &mut Rng, end: usize) -> usize {
    let end = u64::try_from(end).unwrap_or(u64::MAX);
    usize::try_from(rng.below(end)).unwrap_or(0)
}

fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[index(rng, of.len())]
}

const FAULT_KINDS: u64 = 17;

/// Some are more frequent.
const HABITS: [Habit; 11] = [
    Habit::Steady,
    Habit::Steady,
    Habit::Steady,
    Habit::Flapping,
    Habit::Wandering,
    Habit::Wandering,
    Habit::Sleepy,
    Habit::Deaf,
    Habit::Clumsy,
    Habit::Expiring,
    Habit::Renewing,
];

/// The rooms of all plans; everyone may join them.
const ROOMS: [&str; 3] = ["event:1", "event:2", "event:3"];

/// The users of all plans.
pub const USERS: [&str; 3] = ["ann", "bob", "cleo"];

/// What can be set to other values than usual.
const KNOBS: &[(&str, &[&str])] = &[
    ("WS_OUTBOX_BYTES", &["30000", "60000"]),
    ("WS_SLOW_TIMEOUT", &["500ms", "2s"]),
    ("WS_JOIN_TIMEOUT", &["500ms", "1s"]),
    ("HISTORY_SIZE", &["1", "3"]),
    ("HISTORY_SIZE_ROOM", &["2"]),
    ("HISTORY_BYTES", &["4096"]),
    ("RECEIPT_TIMEOUT", &["400ms"]),
    ("WS_MAX_CONNECTIONS_PER_USER", &["6"]),
    ("POSITION_TTL", &["1m"]),
    ("POSITION_CHECK", &["1s", "4s"]),
    ("REDIS_WAIT_REPLICAS", &["1"]),
];

const QUIET_MS: u64 = 8_500;
const LAST_MS: u64 = 18_000;
const END_MS: u64 = 20_000;
