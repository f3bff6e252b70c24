//! The commands of tier 2.

use std::{
    fs, io,
    io::Write as _,
    ops::Range,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use lexopt::prelude::*;

use super::{
    plan::Plan,
    run::{Outcome, run},
    trace,
};
use crate::tier1;

const USAGE: &str = "\
usage: sim run --tier 2 --seed N [--trace FILE] [--full]   one seed
       sim replay --tier 2 PLAN [--trace FILE] [--full]    one plan
       sim plan --tier 2 --seed N                          the plan of a seed, as JSON
       sim twice --tier 2 --seed N [--full]                one seed in two processes, byte by byte
       sim sweep --tier 2 --seeds A..B [--jobs N] [--minutes M]
       sim corpus --tier 2                                 plans that failed once
       sim shrink --tier 2 --seed N -o PLAN                the smallest plan that still fails
       sim run, replay, sweep or shrink ... --plant NAME   with a planted bug
       sim mutants --tier 2 [--seeds A..B]                 how many seeds see each of the runtime
";

/// What is asked for.
#[derive(Debug, Default)]
struct Request {
    command: String,
    seed: Option<u64>,
    seeds: Option<Range<u64>>,
    plan: Option<PathBuf>,
    trace: Option<PathBuf>,
    output: Option<PathBuf>,
    minutes: Option<u64>,
    jobs: Option<usize>,
    full: bool,
    plant: Option<String>,
}

type Result<T = ()> = std::result::Result<T, String>;

/// Carries out what the arguments ask for; none when that is not about tier 2. The thread of a run
/// calls `forbid_raw_entropy` first.
pub fn main(forbid_raw_entropy: fn()) -> Option<ExitCode> {
    let one = |plan: &Plan, request: &Request| one(plan, request, forbid_raw_entropy);
    let request = match parse() {
        Ok(request) => request?,
        Err(error) => return Some(complain(2, &format!("{error}\n{USAGE}"))),
    };
    if !cfg!(tokio_unstable) {
        let reason = "tier 2 needs seeded runtimes: start it with `cargo sim`, without RUSTFLAGS";
        return Some(complain(2, reason));
    }
    if let Some(Err(error)) = request.plant.as_deref().map(tier1::plant) {
        return Some(complain(2, &error));
    }
    let outcome = match request.command.as_str() {
        "run" => request.seed().map(Plan::from_seed).and_then(|plan| one(&plan, &request)),
        "replay" => request.plan_file().and_then(|plan| one(&plan, &request)),
        "plan" => request.seed().map(Plan::from_seed).and_then(|plan| say(&json(&plan))),
        "twice" => request.seed().and_then(|seed| twice(seed, request.full)),
        "sweep" => sweep(&request),
        "corpus" => corpus(),
        "shrink" => shrink(&request),
        "mutants" => mutants(&request),
        _ => return Some(complain(2, &format!("an unknown command\n{USAGE}"))),
    };
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(1, &error),
    })
}

fn complain(code: u8, text: &str) -> ExitCode {
    // Nobody listens: there is nobody to tell.
    _ = writeln!(io::stderr(), "sim: {text}");
    ExitCode::from(code)
}

fn say(text: &str) -> Result {
    writeln!(io::stdout(), "{text}").map_err(|error| error.to_string())
}

fn parse() -> std::result::Result<Option<Request>, lexopt::Error> {
    let mut arguments = std::env::args();
    let tier = arguments.by_ref().skip_while(|argument| !argument.starts_with("--tier")).take(2);
    let tier: Vec<_> = tier.collect();
    if tier.first().is_none_or(|argument| argument != "--tier=2") && tier != ["--tier", "2"] {
        return Ok(None);
    }
    let mut request = Request::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("tier") => drop(parser.value()?),
            Long("seed") => request.seed = Some(parser.value()?.parse()?),
            Long("seeds") => {
                let text = parser.value()?.string()?;
                let (from, to) = text.split_once("..").ok_or("--seeds takes A..B")?;
                let number = |text: &str| text.parse().map_err(|_| "--seeds takes A..B");
                request.seeds = Some(number(from)?..number(to)?);
            }
            Long("trace") => request.trace = Some(parser.value()?.into()),
            Short('o') => request.output = Some(parser.value()?.into()),
            Long("minutes") => request.minutes = Some(parser.value()?.parse()?),
            Long("jobs") => request.jobs = Some(parser.value()?.parse()?),
            Long("full") => request.full = true,
            Long("plant") => request.plant = Some(parser.value()?.string()?),
            Value(name) if request.command.is_empty() => request.command = name.string()?,
            Value(plan) => request.plan = Some(plan.into()),
            Short(_) | Long(_) => return Err(argument.unexpected()),
        }
    }
    Ok(Some(request))
}

impl Request {
    fn seed(&self) -> Result<u64> {
        self.seed.ok_or_else(|| "--seed N is missing".to_owned())
    }

    fn plan_file(&self) -> Result<Plan> {
        let path = self.plan.as_ref().ok_or("a plan is missing")?;
        let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

fn json(plan: &Plan) -> String {
    serde_json::to_string_pretty(plan).expect("a plan is plain data")
}

/// One plan, in this process.
fn one(plan: &Plan, request: &Request, forbid_raw_entropy: fn()) -> Result {
    let outcome = in_a_fresh_thread(plan.clone(), request, forbid_raw_entropy)?;
    if let Some(path) = &request.trace {
        fs::write(path, &outcome.trace).map_err(|error| error.to_string())?;
    }
    let Outcome { hash, heard, acknowledged, inputs, wrong, .. } = &outcome;
    let seed = plan.seed;
    if wrong.is_empty() {
        return say(&format!(
            "seed {seed}: {hash:016x}, {heard} messages heard, {acknowledged} calls acknowledged, \
             {inputs} inputs replayed, all as promised"
        ));
    }
    Err(format!("seed {seed}: {hash:016x}\n  {}\nagain: {}", wrong.join("\n  "), again(request)))
}

fn again(request: &Request) -> String {
    match (&request.plan, request.seed) {
        (Some(plan), _) => format!("cargo sim replay --tier 2 {}", plan.display()),
        (None, seed) => format!("cargo sim run --tier 2 --seed {}", seed.unwrap_or_default()),
    }
}

/// Threads keep randomness of their own, so a run has one to itself.
fn in_a_fresh_thread(plan: Plan, request: &Request, forbid_raw_entropy: fn()) -> Result<Outcome> {
    // A panic ends the run, in whichever task it happens.
    let report = std::panic::take_hook();
    let (path, again) = (request.trace.clone(), again(request));
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if let Some(path) = &path {
            // The panic is worth more than its trace.
            drop(fs::write(path, trace::salvage()));
        }
        complain(1, &format!("it panicked\nagain: {again}"));
        std::process::exit(1);
    }));
    let (full, planted) = (request.full, request.plant.clone());
    let thread = thread::Builder::new().spawn(move || {
        forbid_raw_entropy();
        if let Some(name) = &planted {
            tier1::plant(name).expect("it was looked up before");
        }
        run(&plan, full)
    });
    let thread = thread.map_err(|error| error.to_string())?;
    thread.join().map_err(|_| "the run panicked".to_owned())
}

/// The same seed in two processes.
fn twice(seed: u64, full: bool) -> Result {
    let trace = |number: u8| {
        let name = format!("realtime-sim-{}-{number}.jsonl", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut arguments = vec!["run".to_owned(), "--seed".to_owned(), seed.to_string()];
        arguments.extend(["--trace".to_owned(), path.display().to_string()]);
        if full {
            arguments.push("--full".to_owned());
        }
        child(&Request::default(), &arguments)?
            .wait_with_output()
            .map_err(|error| error.to_string())?;
        let text = fs::read(&path).map_err(|error| error.to_string());
        // It may never have come to be.
        drop(fs::remove_file(&path));
        text
    };
    let (first, second) = (trace(1)?, trace(2)?);
    if first == second {
        let lines = first.iter().filter(|byte| **byte == b'\n').count();
        return say(&format!("seed {seed}: {lines} lines, {} bytes, both the same", first.len()));
    }
    let lines = first.split(|byte| *byte == b'\n').zip(second.split(|byte| *byte == b'\n'));
    let (number, (one, other)) =
        lines.enumerate().find(|(_, (one, other))| one != other).unwrap_or_default();
    Err(format!(
        "seed {seed} differs from line {}:\n< {}\n> {}",
        number + 1,
        String::from_utf8_lossy(one),
        String::from_utf8_lossy(other)
    ))
}

/// Starts this program again, with the planted bug of the request.
fn child(request: &Request, arguments: &[String]) -> Result<std::process::Child> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let plant = request.plant.iter().flat_map(|name| ["--plant", name]);
    Command::new(program)
        .args(["--tier", "2"])
        .args(arguments)
        .args(plant)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())
}

/// Many seeds.
fn sweep(request: &Request) -> Result {
    let seeds = request.seeds.clone().ok_or("--seeds A..B is missing")?;
    let (done, failed) = run_all(request, seeds)?;
    for (_, why) in &failed {
        say(why)?;
    }
    if failed.is_empty() {
        return say(&format!("{done} seeds, all as promised"));
    }
    for (seed, _) in &failed {
        say(&tier1::keep(&format!("tier2-{seed}"), &json(&Plan::from_seed(*seed))))?;
        say(&format!("again: cargo sim run --tier 2 --seed {seed}"))?;
    }
    let seeds: Vec<_> = failed.iter().map(|(seed, _)| *seed).collect();
    Err(format!("{} of {done} seeds failed: {seeds:?}", seeds.len()))
}

/// Plants each bug of the runtime in turn, and tells in how many seeds it is caught.
#[cfg(planted_bugs)]
fn mutants(request: &Request) -> Result {
    let mut missed = 0;
    for name in realtime_runtime::planted::NAMES {
        let seeds = request.seeds.clone().unwrap_or(0..200);
        let request = Request { plant: Some((*name).to_owned()), ..Request::default() };
        let (done, failed) = run_all(&request, seeds)?;
        missed += u32::from(failed.is_empty());
        let first = failed.first().map(|(seed, why)| {
            let why = why.lines().nth(1).unwrap_or(why).trim();
            format!(", first {seed} by {}", why.split(':').next().unwrap_or(why))
        });
        let caught = failed.len();
        say(&format!("{name:40} {caught:4} of {done} seeds{}", first.unwrap_or_default()))?;
    }
    if missed == 0 { Ok(()) } else { Err(format!("{missed} of them were never caught")) }
}

/// Without the bugs there is nothing to look for.
#[cfg(not(planted_bugs))]
fn mutants(_request: &Request) -> Result {
    Err("built without planted bugs; use `cargo sim mutants --tier 2`".to_owned())
}

/// Runs seeds, a process for each. Gives how many, and which failed why.
fn run_all(request: &Request, seeds: Range<u64>) -> Result<(u64, Vec<(u64, String)>)> {
    let started = Instant::now();
    let jobs =
        request.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let mut running = std::collections::VecDeque::new();
    let (mut done, mut failed) = (0_u64, Vec::new());
    let in_time = || {
        let minutes = request.minutes.map(|minutes| Duration::from_secs(60 * minutes));
        minutes.is_none_or(|minutes| started.elapsed() < minutes)
    };
    let mut seeds = seeds.take_while(|_| in_time());
    loop {
        while running.len() < jobs
            && let Some(seed) = seeds.next()
        {
            let arguments = ["run".to_owned(), "--seed".to_owned(), seed.to_string()];
            running.push_back((seed, child(request, &arguments)?));
        }
        let Some((seed, child)) = running.pop_front() else { break };
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        done += 1;
        if !output.status.success() {
            failed.push((seed, String::from_utf8_lossy(&output.stderr).trim_end().to_owned()));
        }
    }
    Ok((done, failed))
}

/// Plans that failed once must not fail again.
fn corpus() -> Result {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/tier2");
    let files = fs::read_dir(folder).map_err(|error| format!("{folder}: {error}"))?;
    let mut plans: Vec<_> =
        files.map_while(std::result::Result::ok).map(|file| file.path()).collect();
    plans.sort();
    for plan in &plans {
        let arguments = ["replay".to_owned(), plan.display().to_string()];
        let child = child(&Request::default(), &arguments)?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned());
        }
    }
    say(&format!("{} plans, all as promised", plans.len()))
}

/// Leaves out of a failing plan what it fails without.
fn shrink(request: &Request) -> Result {
    let output = request.output.as_ref().ok_or("-o PLAN is missing")?;
    let mut plan = match &request.plan {
        Some(_) => request.plan_file()?,
        None => Plan::from_seed(request.seed()?),
    };
    let fails = |plan: &Plan| -> Result<bool> {
        fs::write(output, json(plan)).map_err(|error| error.to_string())?;
        let arguments = ["replay".to_owned(), output.display().to_string()];
        let child = child(request, &arguments)?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        Ok(!output.status.success())
    };
    if !fails(&plan)? {
        return Err("it does not fail".to_owned());
    }
    plan = smaller(plan, &fails, |plan| &mut plan.faults)?;
    plan = smaller(plan, &fails, |plan| &mut plan.publishes)?;
    plan = smaller(plan, &fails, |plan| &mut plan.clients)?;
    plan = smaller(plan, &fails, |plan| &mut plan.knobs)?;
    plan = smaller(plan, &fails, |plan| &mut plan.faults)?;
    fs::write(output, json(&plan)).map_err(|error| error.to_string())?;
    let (faults, publishes) = (plan.faults.len(), plan.publishes.len());
    let clients = plan.clients.len();
    say(&format!("{faults} faults, {publishes} publishes and {clients} clients are left"))
}

/// Removes pieces of one list, halves first, as long as the plan fails.
fn smaller<T: Clone>(
    mut plan: Plan,
    fails: &dyn Fn(&Plan) -> Result<bool>,
    list: impl Fn(&mut Plan) -> &mut Vec<T>,
) -> Result<Plan> {
    let mut piece = list(&mut plan).len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < list(&mut plan).len() {
            let mut candidate = plan.clone();
            let items = list(&mut candidate);
            let end = (at + piece).min(items.len());
            items.drain(at..end);
            if fails(&candidate)? {
                plan = candidate;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    Ok(plan)
}
