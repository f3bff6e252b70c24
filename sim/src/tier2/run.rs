//! Carries out a plan.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use realtime_core::{relay::Ingress, time::Instant};
use serde_json::Value;

use super::{
    client::Client,
    clocks::Clocks,
    host::{self, SharedStops, Stop},
    journal::{Journal, Session, SharedJournal},
    judge::judge,
    plan::{CLIENT_HOSTS_MAX, CallPlan, Data, Fault, Plan, Refusal, client_name, pod_name},
    probe, publisher,
    redis_host::{self, Server, SharedServer},
    seam,
    trace::{self, Detail},
    truth::Facts,
    twins::{Played, Twins},
};
use crate::at;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// JSON lines, without the first one.
    pub trace: Vec<u8>,
    /// Names the trace.
    pub hash: u64,
    /// Messages that clients received.
    pub heard: usize,
    /// Calls that were acknowledged.
    pub acknowledged: usize,
    /// What the machines were given, and their twins.
    pub inputs: u64,
    /// Rare situations that they reached.
    pub reached: BTreeSet<String>,
    /// What was wrong; empty when everything was as promised.
    pub wrong: Vec<String>,
}

/// Carries out `plan` on this thread, which must be a fresh one. With `full`, the trace has every
/// segment of the network.
///
/// # Panics
/// When the service does, or when the plan can't be carried out.
pub fn run(plan: &Plan, full: bool) -> Outcome {
    begun(plan, full, || carry_out(plan))
}

/// Carries out `plan` until its trace has `line` lines, and tells how the machines are then, to the
/// end of the tick.
///
/// # Panics
/// See [`run`].
pub fn look(plan: &Plan, full: bool, line: u64, with_everything: bool) -> String {
    begun(plan, full, || {
        let mut world = World::new(Rc::new(plan.clone()));
        let ended = world.run(line);
        let now = Instant(trace::now_us() * 1_000);
        let mut text = String::new();
        world.twins.show(|machines| text = at::describe(now, machines, with_everything));
        // What there is then is of interest all the same.
        text + &ended.err().map(|error| error + "\n").unwrap_or_default()
    })
}

fn begun<T>(plan: &Plan, full: bool, run: impl FnOnce() -> T) -> T {
    seam::begin(plan.seed);
    let detail = if full { Detail::Full } else { Detail::Normal };
    let clocks = Clocks(plan.clocks_ms.iter().cloned().collect());
    tracing::dispatcher::with_default(&trace::collector(detail, clocks), run)
}

fn carry_out(plan: &Plan) -> Outcome {
    let mut world = World::new(Rc::new(plan.clone()));
    let ended = world.run(u64::MAX);
    let World { journal, server, twins, .. } = world;
    let mut facts = Facts::new(server.borrow().published());
    facts.count_audiences(&server.borrow().audiences());
    let journal = journal.borrow();
    let mut wrong = judge(plan, &journal, &mut facts);
    wrong.extend(ended.err());
    let Played { inputs, reached, wrong: differences } = twins.end();
    wrong.extend(differences);
    let mut trace = trace::take();
    wrong.extend(trace.errors.iter().map(|line| format!("logged: {line}")));
    let hash = trace.end(&wrong);
    Outcome {
        trace: trace.text,
        hash,
        heard: journal.sessions.iter().map(Session::heard).sum(),
        acknowledged: journal.calls.iter().filter(|call| call.outcome.is_ok()).count(),
        inputs,
        reached,
        wrong,
    }
}

/// Hosts and the network between them.
struct World {
    plan: Rc<Plan>,
    sim: turmoil::Sim<'static>,
    journal: SharedJournal,
    server: SharedServer,
    stops: SharedStops,
    twins: Twins,
    /// What is to be done, by time in milliseconds and in order of the plan.
    agenda: BTreeMap<(u64, usize), Step>,
}

/// One thing that is done to the world.
#[derive(Clone, Debug)]
enum Step {
    Cut(String, String),
    CutOneWay(String, String),
    Hold(String, String),
    Mend(String, String),
    /// The link is as it was, but held traffic stays where it is.
    MendOneWay(String, String),
    Crash(String),
    /// A host that vanishes says goodbye to nobody.
    Vanish(String),
    Start(String),
    StopPod(usize),
    LoseData(Data),
    Keep,
    KillSubscribers,
    Deafen,
    Evict(String),
    Refuse(Option<Refusal>),
    /// A service publishes straight to Redis: the channel and the message.
    Ingress(&'static str, String),
    /// All is well again.
    Quiet,
}

impl World {
    fn new(plan: Rc<Plan>) -> Self {
        let (low, high) = plan.latency_ms;
        let mut sim = turmoil::Builder::new()
            .epoch(UNIX_EPOCH + seam::UNIX_START)
            .rng_seed(plan.seed)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(low))
            .max_message_latency(Duration::from_millis(high))
            .simulation_duration(Duration::from_millis(plan.end_ms + 1_000))
            .tcp_capacity(64)
            .build();
        let journal: SharedJournal = Rc::new(RefCell::new(Journal::default()));
        let server: SharedServer = Rc::new(RefCell::new(Server::default()));
        let pods = plan.workers.len();
        let stops: SharedStops =
            Rc::new(RefCell::new((0..pods).map(|_| Stop::default()).collect()));
        {
            let server = server.clone();
            sim.host("redis", move || redis_host::serve(server.clone()));
        }
        let twins = Twins::default();
        for pod in 0..pods {
            let (plan, stops, twins) = (plan.clone(), stops.clone(), twins.clone());
            sim.host(pod_name(pod), move || {
                host::run(plan.clone(), pod, stops.clone(), twins.clone())
            });
        }
        let keys = host::config(&plan, 0).keys;
        for host in 0..plan.clients.len().min(CLIENT_HOSTS_MAX) {
            let (plan, keys, journal) = (plan.clone(), keys.clone(), journal.clone());
            let others = (host..plan.clients.len()).step_by(CLIENT_HOSTS_MAX).skip(1);
            let client = move |number| {
                let (plan, keys, journal) = (plan.clone(), keys.clone(), journal.clone());
                Client { number, plan, keys, journal }.run()
            };
            sim.host(client_name(host), move || {
                for other in others.clone() {
                    tokio::task::spawn_local(client(other));
                }
                client(host)
            });
        }
        {
            let (plan, journal) = (plan.clone(), journal.clone());
            sim.host("publisher", move || publisher::run(plan.clone(), journal.clone()));
        }
        {
            let (plan, journal) = (plan.clone(), journal.clone());
            sim.host("probe", move || probe::run(plan.clone(), journal.clone()));
        }
        let agenda = agenda(&plan);
        Self { plan, sim, journal, server, stops, twins, agenda }
    }

    /// Runs to the end, to the first host that ends by itself, or until there are `lines` in the
    /// trace.
    fn run(&mut self, lines: u64) -> Result<(), String> {
        let end = Duration::from_millis(self.plan.end_ms);
        while self.sim.elapsed() < end && trace::lines() < lines {
            seam::set_elapsed(self.sim.elapsed());
            let now_ms = u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX);
            while let Some(entry) = self.agenda.first_entry() {
                if entry.key().0 > now_ms {
                    break;
                }
                let step = entry.remove();
                let text = format!("{step:?}").replace("\\\"", "'").replace('"', "'");
                trace::note("", format_args!("\"step\":{}", Value::from(text)));
                self.step(step, now_ms);
            }
            self.bury_the_stopped(now_ms);
            self.sim.step().map_err(|error| format!("a host ended: {error}"))?;
            trace::add_states(|| self.twins.states());
        }
        Ok(())
    }

    fn step(&mut self, step: Step, now_ms: u64) {
        match step {
            Step::Cut(a, b) => self.sim.partition(a, b),
            Step::CutOneWay(from, to) => self.sim.partition_oneway(from, to),
            Step::Hold(a, b) => self.sim.hold(a, b),
            Step::Mend(a, b) => {
                self.sim.release(a.clone(), b.clone());
                self.sim.repair(a, b);
            }
            Step::MendOneWay(from, to) => self.sim.repair_oneway(from, to),
            Step::Crash(host) => self.sim.crash(host),
            Step::Vanish(host) => {
                let others = self.hosts().into_iter().filter(|other| *other != host);
                let others: Vec<_> = others.collect();
                others.iter().for_each(|other| self.sim.partition(host.as_str(), other.as_str()));
                self.sim.crash(host.as_str());
                others.iter().for_each(|other| self.sim.repair(host.as_str(), other.as_str()));
            }
            Step::Start(host) => self.start(&host),
            Step::StopPod(pod) => {
                // A second signal would end it at once.
                if let Some(signal) = self.stops.borrow_mut()[pod].signal.take() {
                    self.journal.borrow_mut().stops.push((now_ms * 1_000, pod));
                    _ = signal.try_send(());
                }
            }
            Step::LoseData(data) => self.server.borrow_mut().lose(data),
            Step::Keep => self.server.borrow_mut().keep(),
            Step::KillSubscribers => self.server.borrow_mut().kill_subscribers(),
            Step::Deafen => self.server.borrow_mut().deafen(),
            Step::Evict(key) => {
                self.server.borrow_mut().evict(&key);
            }
            Step::Refuse(refusal) => self.server.borrow_mut().refuse(refusal),
            Step::Ingress(channel, message) => {
                if self.sim.is_host_running("redis") {
                    self.server.borrow_mut().publish(channel, message);
                }
            }
            Step::Quiet => self.quiet(now_ms),
        }
    }

    /// Instances that have drained are gone, as their processes would be, and start again.
    fn bury_the_stopped(&mut self, now_ms: u64) {
        for pod in 0..self.plan.workers.len() {
            let stopped = std::mem::take(&mut self.stops.borrow_mut()[pod].stopped);
            if stopped {
                self.sim.crash(pod_name(pod));
                let key = (now_ms + RESTART_MS, AFTER_ALL + pod);
                self.agenda.insert(key, Step::Start(pod_name(pod)));
            }
        }
    }

    fn start(&mut self, host: &str) {
        if !self.sim.is_host_running(host) {
            self.sim.bounce(host);
        }
    }

    fn quiet(&mut self, _now_ms: u64) {
        let hosts = self.hosts();
        for (at, a) in hosts.iter().enumerate() {
            for b in &hosts[at + 1..] {
                self.sim.release(a.as_str(), b.as_str());
                self.sim.repair(a.as_str(), b.as_str());
            }
        }
        for host in &hosts {
            self.start(host);
        }
    }

    fn hosts(&self) -> Vec<String> {
        let mut hosts = vec!["redis".to_owned(), "publisher".to_owned(), "probe".to_owned()];
        hosts.extend((0..self.plan.workers.len()).map(pod_name));
        hosts.extend((0..self.plan.clients.len().min(CLIENT_HOSTS_MAX)).map(client_name));
        hosts
    }
}

/// What a plan comes to, in order of time.
fn agenda(plan: &Plan) -> BTreeMap<(u64, usize), Step> {
    let mut agenda = BTreeMap::new();
    let mut add = |at_ms: u64, step: Step| {
        let number = agenda.len();
        agenda.insert((at_ms, number), step);
    };
    for (at, fault) in &plan.faults {
        let until = |ms: u64| (at + ms).min(plan.quiet_ms);
        match fault.clone() {
            Fault::Cut { a, b, ms } => {
                add(*at, Step::Cut(a.clone(), b.clone()));
                add(until(ms), Step::Mend(a, b));
            }
            Fault::CutOneWay { from, to, ms } => {
                add(*at, Step::CutOneWay(from.clone(), to.clone()));
                add(until(ms), Step::MendOneWay(from, to));
            }
            Fault::Hold { a, b, ms } => {
                add(*at, Step::Hold(a.clone(), b.clone()));
                add(until(ms), Step::Mend(a, b));
            }
            Fault::Crash { pod, ms } => {
                add(*at, Step::Crash(pod_name(pod)));
                add(until(ms), Step::Start(pod_name(pod)));
            }
            Fault::PowerLoss { pod, ms } => {
                add(*at, Step::Vanish(pod_name(pod)));
                add(until(ms), Step::Start(pod_name(pod)));
            }
            Fault::Drain { pod } => add(*at, Step::StopPod(pod)),
            Fault::CrashRedis { ms, data } => {
                add(*at, Step::Crash("redis".to_owned()));
                add(*at, Step::LoseData(data));
                add(until(ms), Step::Start("redis".to_owned()));
            }
            Fault::Keep => add(*at, Step::Keep),
            Fault::KillSubscribers => add(*at, Step::KillSubscribers),
            Fault::Deafen => add(*at, Step::Deafen),
            Fault::Refuse { refusal, ms } => {
                add(*at, Step::Refuse(Some(refusal)));
                add(until(ms), Step::Refuse(None));
            }
            Fault::Evict { stream, what } => {
                add(*at, Step::Evict(format!("realtime:{{{stream}}}:{what}")));
            }
        }
    }
    for (marker, publish) in (1_u64..).zip(&plan.publishes) {
        if let CallPlan::Ingress { stream } = &publish.call {
            let channel = Ingress::ALL[publish.pod % Ingress::ALL.len()].channel();
            add(publish.at_ms, Step::Ingress(channel, ingress(stream, marker)));
        }
    }
    add(plan.quiet_ms, Step::Quiet);
    agenda
}

/// The message of an ingress channel for the members of a stream.
fn ingress(stream: &str, marker: u64) -> String {
    let target = match stream.strip_prefix("user:") {
        Some(user) => format!(r#""user_id":"{user}""#),
        None => format!(r#""room":"{stream}""#),
    };
    format!(r#"{{"type":"ticket:released",{target},"payload":{{"n":{marker}}}}}"#)
}

/// The smallest delay of a link is no smaller.
const TICK: Duration = Duration::from_millis(2);

/// How soon an instance starts again that was told to stop.
const RESTART_MS: u64 = 500;

/// Behind everything that the plan says about the same moment.
const AFTER_ALL: usize = 1 << 20;
