//! The commands of tier 2.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    ops::Range,
    path::Path,
    thread,
};

use super::{
    plan::Plan,
    run::{self, Outcome},
    trace,
};
use crate::{
    cli::Arguments,
    sweep,
    tier1::{self, Answer},
    trace::Header,
};

type Result<T> = std::result::Result<T, String>;

/// Runs of this tier need a build of their own.
pub(crate) fn check_build() -> Result<()> {
    if cfg!(tokio_unstable) {
        return Ok(());
    }
    Err("tier 2 needs seeded runtimes: start it with `cargo sim`, without RUSTFLAGS".to_owned())
}

/// Reads a plan.
pub(crate) fn read(path: &Path) -> Result<Plan> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A plan as it is kept.
pub(crate) fn write(plan: &Plan) -> String {
    serde_json::to_string_pretty(plan).expect("a plan is plain data") + "\n"
}

/// One plan, in this process.
pub(crate) fn one(plan: &Plan, arguments: &Arguments, forbid_raw_entropy: fn()) -> Result<Answer> {
    // Only who wants a trace has to be told what it is a trace of.
    let header = || Header::new(2, plan.seed, arguments.full, plan).line() + "\n";
    let header = arguments.trace.as_ref().map(|_| header()).unwrap_or_default();
    write_when_it_panics(arguments, header.clone());
    let plant = arguments.plant.clone();
    let outcome = run(plan.clone(), arguments.full, plant, forbid_raw_entropy)?;
    if let Some(path) = &arguments.trace {
        write_trace(path, &[header.as_bytes(), &outcome.trace].concat())?;
    }
    let Outcome { hash, heard, acknowledged, inputs, wrong, .. } = &outcome;
    let seed = plan.seed;
    if arguments.trace.as_deref() == Some(Path::new("-")) {
        return Ok((u8::from(!wrong.is_empty()), String::new()));
    }
    if wrong.is_empty() {
        let text = format!(
            "seed {seed}: {hash:016x}, {heard} messages heard, {acknowledged} calls acknowledged, \
             {inputs} inputs replayed, all as promised\n"
        );
        return Ok((0, text));
    }
    let (wrong, again) = (wrong.join("\n  "), arguments.again());
    Ok((1, format!("seed {seed}: {hash:016x}\n  {wrong}\nagain: {again}\n")))
}

fn write_trace(path: &Path, trace: &[u8]) -> Result<()> {
    let written = if path == Path::new("-") {
        io::stdout().lock().write_all(trace)
    } else {
        fs::write(path, trace)
    };
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// A panic ends the run, in whichever task it happens; what there is of the trace is written.
fn write_when_it_panics(arguments: &Arguments, header: String) {
    let report = std::panic::take_hook();
    let (path, again) = (arguments.trace.clone(), arguments.again());
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if let Some(path) = &path {
            // The panic is worth more than its trace.
            let trace = trace::salvage(&panic.to_string());
            drop(write_trace(path, &[header.as_bytes(), &trace].concat()));
        }
        // Nobody listens: there is nobody to tell.
        _ = writeln!(io::stderr(), "sim: it panicked\nagain: {again}");
        std::process::exit(1);
    }));
}

/// Carries out a plan.
pub(super) fn run(
    plan: Plan,
    full: bool,
    plant: Option<String>,
    forbid_raw_entropy: fn(),
) -> Result<Outcome> {
    in_a_fresh_thread(plant, forbid_raw_entropy, move || run::run(&plan, full))
}

/// Threads keep randomness of their own, so a run has one to itself.
fn in_a_fresh_thread<T: Send + 'static>(
    plant: Option<String>,
    forbid_raw_entropy: fn(),
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let thread = thread::Builder::new().spawn(move || {
        forbid_raw_entropy();
        if let Some(name) = &plant {
            tier1::plant(name).expect("it was looked up before");
        }
        run()
    });
    let thread = thread.map_err(|error| error.to_string())?;
    thread.join().map_err(|_| "the run panicked".to_owned())
}

/// The machines when the trace of a plan has so many lines.
pub(crate) fn look(
    plan: &Plan,
    logs: bool,
    line: u64,
    full: bool,
    forbid_raw_entropy: fn(),
) -> Result<String> {
    let plan = plan.clone();
    in_a_fresh_thread(None, forbid_raw_entropy, move || run::look(&plan, logs, line, full))
}

/// Tells which rare situations many seeds reached, and which they never did.
pub(crate) fn reach(seeds: Range<u64>, forbid_raw_entropy: fn()) -> Result<Answer> {
    let mut failed = None;
    let answer = tier1::reach(seeds, tier1::REACHABLE, &mut |seed| {
        run(Plan::from_seed(seed), false, None, forbid_raw_entropy).map_or_else(
            |error| {
                failed = Some(error);
                BTreeSet::new()
            },
            |outcome| outcome.reached,
        )
    });
    failed.map_or(Ok(answer), Err)
}

/// Plants each bug of the runtime in turn, and tells in how many seeds it is caught.
#[cfg(planted_bugs)]
pub(crate) fn mutants(seeds: Range<u64>, only: Option<&str>) -> Result<Answer> {
    let mut missed = 0;
    let names = realtime_runtime::planted::NAMES;
    for name in names.iter().filter(|name| only.is_none_or(|only| only == **name)) {
        let swept = sweep::run_all(&Arguments::of_tier_2(Some((*name).to_owned())), seeds.clone())?;
        missed += u32::from(swept.failed.is_empty());
        let first = swept.failed.first().map(|(seeds, why)| {
            let why = why.lines().nth(1).unwrap_or(why).trim();
            format!(", first {} by {}", seeds.start, why.split(':').next().unwrap_or(why))
        });
        let (caught, of) = (swept.failed.len(), swept.seeds);
        let line = format!("{name:40} {caught:4} of {of} seeds{}\n", first.unwrap_or_default());
        // It takes long, and whoever waits sees each at once.
        _ = io::stderr().write_all(line.as_bytes());
    }
    Ok((u8::from(missed > 0), format!("{missed} of the planted bugs were never caught\n")))
}

/// Without the bugs there is nothing to look for.
#[cfg(not(planted_bugs))]
pub(crate) fn mutants(_seeds: Range<u64>, _only: Option<&str>) -> Result<Answer> {
    Err("built without planted bugs; use `cargo sim mutants --tier 2`".to_owned())
}

/// Plans that failed once must not fail again.
pub(crate) fn corpus(folder: Option<&Path>) -> Result<Answer> {
    let usual = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/tier2"));
    let plans = tier1::plans(folder.unwrap_or(usual)).map_err(|error| error.to_string())?;
    for plan in &plans {
        let output = replay(&Arguments::of_tier_2(None), plan)?;
        if !output.status.success() {
            return Ok((1, String::from_utf8_lossy(&output.stdout).into_owned()));
        }
    }
    Ok((0, format!("{} plans, all as promised\n", plans.len())))
}

fn replay(arguments: &Arguments, plan: &Path) -> Result<std::process::Output> {
    let plan = plan.to_str().ok_or("a plan has an odd name")?;
    let child = sweep::child(arguments, &["replay", plan])?;
    child.wait_with_output().map_err(|error| error.to_string())
}

/// Leaves out of a failing plan what it fails without.
pub(crate) fn shrink(mut plan: Plan, arguments: &Arguments, output: &Path) -> Result<Answer> {
    let fails = |plan: &Plan| -> Result<bool> {
        fs::write(output, write(plan)).map_err(|error| error.to_string())?;
        Ok(!replay(arguments, output)?.status.success())
    };
    if !fails(&plan)? {
        return Err("it does not fail".to_owned());
    }
    plan = smaller(plan, &fails, |plan| &mut plan.faults)?;
    plan = smaller(plan, &fails, |plan| &mut plan.publishes)?;
    plan = smaller(plan, &fails, |plan| &mut plan.clients)?;
    plan = smaller(plan, &fails, |plan| &mut plan.knobs)?;
    plan = smaller(plan, &fails, |plan| &mut plan.clocks_ms)?;
    plan = smaller(plan, &fails, |plan| &mut plan.faults)?;
    fs::write(output, write(&plan)).map_err(|error| error.to_string())?;
    let (faults, publishes) = (plan.faults.len(), plan.publishes.len());
    let clients = plan.clients.len();
    Ok((0, format!("{faults} faults, {publishes} publishes and {clients} clients are left\n")))
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
