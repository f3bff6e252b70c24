//! The commands of tier 1: many machines and a model broker in one loop of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufWriter},
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    plan::Plan,
    shrink::{shrink, size},
    tier2,
    world::{self, Outcome},
};

/// An exit code and what to print.
pub type Answer = (u8, String);

/// Runs one plan, and writes down what happens if a file is named.
pub fn run(plan: &Plan, trace: Option<&Path>) -> Answer {
    let outcome = match trace {
        None => world::run(plan),
        Some(path) if path == Path::new("-") => {
            world::run_traced(plan, Some(&mut BufWriter::new(io::stdout().lock())))
        }
        Some(path) => match fs::File::create(path) {
            Ok(file) => world::run_traced(plan, Some(&mut BufWriter::new(file))),
            Err(error) => return (2, format!("sim: {}: {error}\n", path.display())),
        },
    };
    if trace == Some(Path::new("-")) {
        return (u8::from(outcome.verdict.is_err()), String::new());
    }
    let Outcome { hash, inputs, received, verdict, .. } = outcome;
    let counts = format!("{hash:016x}, {inputs} inputs, {received} frames received");
    match verdict {
        Ok(()) => (0, format!("passed: {counts}\n")),
        Err(failure) => (1, format!("{failure}\n{counts}\n")),
    }
}

/// Runs many seeds, until one fails. `again` is the command that runs a seed again.
pub fn run_all(seeds: Range<u64>, again: &dyn Fn(u64) -> String) -> Answer {
    let (mut ran, mut received) = (0_u64, 0);
    for seed in seeds {
        let outcome = world::run(&Plan::from_seed(seed));
        ran += 1;
        received += outcome.received;
        if let Err(failure) = outcome.verdict {
            let kept = keep(&format!("tier1-{seed}"), &write(&Plan::from_seed(seed)));
            let again = again(seed);
            return (1, format!("seed {seed} failed: {failure}\n{kept}\nagain: {again}\n"));
        }
    }
    (0, format!("{ran} seeds, {received} frames received, all as promised\n"))
}

/// Keeps the plan of a seed that failed, beside this program: a seed means nothing any more once
/// the generator has changed. Says where it is.
pub fn keep(name: &str, plan: &str) -> String {
    let kept = std::env::current_exe().and_then(|program| {
        let path = program.with_file_name(format!("failed-{name}.json"));
        fs::write(&path, plan)?;
        Ok(path)
    });
    match kept {
        Ok(path) => format!("plan: {}", path.display()),
        Err(error) => format!("the plan can't be kept: {error}"),
    }
}

/// Says where two traces begin to differ.
pub fn diff(first: &Path, second: &Path) -> Answer {
    match (fs::read_to_string(first), fs::read_to_string(second)) {
        (Ok(one), Ok(other)) => difference(&one, &other),
        (Err(error), _) | (_, Err(error)) => (2, format!("sim: {error}\n")),
    }
}

/// The first difference, with what comes before it.
pub(crate) fn difference(one: &str, other: &str) -> Answer {
    if one == other {
        return (0, "the same\n".to_owned());
    }
    let pairs = one.lines().zip(other.lines());
    let same = pairs.take_while(|(one, other)| one == other).count();
    let mut text = format!("from line {} on\n", same + 1);
    for line in one.lines().take(same).skip(same.saturating_sub(CONTEXT_LINES)) {
        text.push_str(&format!("  {line}\n"));
    }
    for (mark, trace) in [("<", one), (">", other)] {
        let mut rest = trace.lines().skip(same).take(CONTEXT_LINES).peekable();
        if rest.peek().is_none() {
            text.push_str(&format!("{mark} (the end)\n"));
        }
        rest.for_each(|line| text.push_str(&format!("{mark} {line}\n")));
    }
    (1, text)
}

/// Lines before a difference, and of each side behind it.
const CONTEXT_LINES: usize = 3;

/// Reads a plan, which may be one of tier 2.
pub fn read(path: &Path) -> Result<Plan, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).or_else(|error| {
        let plan = serde_json::from_str::<tier2::plan::Plan>(&text);
        plan.map(|plan| plan.lowered()).map_err(|_| format!("{}: {error}", path.display()))
    })
}

/// A plan as it is kept.
pub fn write(plan: &Plan) -> String {
    serde_json::to_string_pretty(plan).expect("a plan is plain data") + "\n"
}

/// Makes a plan that fails smaller, and writes it to a file.
pub fn shrink_to(plan: &Plan, path: &Path) -> Answer {
    let Some((smaller, runs)) = shrink(plan) else {
        return (2, "sim: the plan does not fail\n".to_owned());
    };
    if let Err(error) = fs::write(path, write(&smaller)) {
        return (2, format!("sim: {}: {error}\n", path.display()));
    }
    let failure = world::run(&smaller).verdict.expect_err("it fails");
    let (from, to, path) = (size(plan), size(&smaller), path.display());
    (0, format!("{failure}\nfrom {from} to {to} things in {runs} runs: sim replay {path}\n"))
}

/// Replays every plan that once failed, also those of tier 2 in a folder of that name.
pub fn corpus(folder: &Path) -> Answer {
    let mut plans = match plans(folder) {
        Ok(plans) => plans,
        Err(error) => return (2, format!("sim: {}: {error}\n", folder.display())),
    };
    plans.extend(self::plans(&folder.join("tier2")).unwrap_or_default());
    for path in &plans {
        let failure = match read(path) {
            Ok(plan) => world::run(&plan).verdict.err().map(|failure| failure.to_string()),
            Err(error) => Some(error),
        };
        if let Some(failure) = failure {
            let path = path.display();
            return (1, format!("{failure}\nagain: cargo sim replay {path}\n"));
        }
    }
    (0, format!("{} plans, all as promised\n", plans.len()))
}

pub(crate) fn plans(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut plans: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    plans.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    plans.sort();
    Ok(plans)
}

/// Tells which rare situations many seeds reached, how often, and which they never did. `run` gives
/// those of a seed.
pub fn reach(
    seeds: Range<u64>,
    known: &[&str],
    run: &mut dyn FnMut(u64) -> BTreeSet<String>,
) -> Answer {
    let mut reached: BTreeMap<_, u64> = known.iter().map(|name| ((*name).to_owned(), 0)).collect();
    for seed in seeds.clone() {
        for name in run(seed) {
            *reached.entry(name).or_default() += 1;
        }
    }
    let never: BTreeSet<_> = reached.iter().filter(|(_, times)| **times == 0).collect();
    let mut text = String::new();
    for (name, times) in &reached {
        text.push_str(&format!("{times:8} {name}\n"));
    }
    let count = seeds.count();
    text.push_str(&format!("{} of {} never in {count} seeds\n", never.len(), reached.len()));
    (u8::from(!never.is_empty()), text)
}

/// The rare situations of one seed.
pub fn reached(seed: u64) -> BTreeSet<String> {
    let reached = world::run(&Plan::from_seed(seed)).reached;
    reached.into_iter().map(str::to_owned).collect()
}

/// Runs seeds for their speed: `cpu_seconds` tells the processor time that was used so far.
pub fn bench(seeds: Range<u64>, cpu_seconds: &dyn Fn() -> f64) -> Answer {
    let from = cpu_seconds();
    let (mut inputs, mut received) = (0, 0);
    for seed in seeds.clone() {
        let outcome = world::run(&Plan::from_seed(seed));
        inputs += outcome.inputs;
        received += outcome.received;
    }
    let seconds = cpu_seconds() - from;
    let events = inputs + received;
    #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
    let rate = events as f64 / seconds;
    let count = seeds.count();
    let text = format!(
        "{count} seeds: {inputs} inputs and {received} frames in {seconds:.2} s of processor \
         time, {rate:.0} a second\n"
    );
    (0, text)
}

/// Plants one bug in this thread.
#[cfg(planted_bugs)]
pub fn plant(name: &str) -> Result<(), String> {
    use realtime_core::planted;

    let names = planted::NAMES.iter().chain(realtime_runtime::planted::NAMES);
    let name = names.copied().find(|other| *other == name);
    planted::select(Some(name.ok_or("there is no such planted bug")?));
    Ok(())
}

/// Without the bugs there is none to plant.
#[cfg(not(planted_bugs))]
pub fn plant(_name: &str) -> Result<(), String> {
    Err("built without planted bugs; use `cargo sim`".to_owned())
}

/// Plants each bug in turn, and tells in how many seeds it is caught.
#[cfg(planted_bugs)]
pub fn mutants(seeds: Range<u64>, only: Option<&str>) -> Answer {
    use realtime_core::planted;

    let (mut text, mut missed) = (String::new(), 0);
    let names = planted::NAMES.iter().filter(|name| only.is_none_or(|only| only == **name));
    for name in names {
        planted::select(Some(name));
        let mut caught = 0;
        let mut first = None;
        for seed in seeds.clone() {
            let plan = Plan::from_seed(seed);
            if let Err(failure) = world::run(&plan).verdict {
                caught += 1;
                first.get_or_insert((seed, plan, failure));
            }
        }
        let line = match first {
            None => {
                missed += 1;
                format!("{name:40} never caught\n")
            }
            Some((seed, plan, failure)) => {
                let (smaller, runs) = shrink(&plan).expect("it fails");
                let (from, to) = (size(&plan), size(&smaller));
                format!(
                    "{name:40} {caught:4} seeds, first {seed} by {}, {from} to {to} things in \
                     {runs} runs\n",
                    failure.oracle
                )
            }
        };
        planted::select(None);
        text.push_str(&line);
        eprint_line(&line);
    }
    text = format!("{missed} of the planted bugs were never caught\n");
    (u8::from(missed > 0), text)
}

/// Without the bugs there is nothing to look for.
#[cfg(not(planted_bugs))]
pub fn mutants(_seeds: Range<u64>, _only: Option<&str>) -> Answer {
    (2, "sim: built without planted bugs; use `cargo sim mutants`\n".to_owned())
}

/// A line while it takes long.
#[cfg(planted_bugs)]
fn eprint_line(line: &str) {
    // Nobody looks: nothing is lost.
    _ = io::Write::write_all(&mut io::stderr(), line.as_bytes());
}

/// Every rare situation that machines tell of.
pub const REACHABLE: &[&str] = &[
    "a failed join that nobody waits for",
    "a handshake that too much was held for",
    "a join that was not answered in time",
    "a join that failed during a fan-out",
    "a late answer to an anonymous connection",
    "a request that waited for a join",
    "an answer to a join that nobody waits for",
    "an answer to a join that was given up in its turn",
    "publications coalesced",
    "publications held for a handshake",
    "relay_check_differs",
    "relay_check_finds_a_loss",
    "relay_gap_filled",
    "relay_head_never_joins_up",
    "relay_head_unreadable",
    "relay_reads_hurried",
    "relay_repair_timed_out",
    "relay_held_overflow",
    "relay_history_read_again",
    "relay_joined_while_unsubscribing",
    "relay_order_suspect",
    "relay_receipts_full",
    "relay_rolled_over",
    "relay_subscribe_unanswered",
    "relay_unsubscribe_unanswered",
    "relay_values_filled",
    "relay_worker_full",
    "relay_worker_not_refed",
    "relay_worker_refed",
    "the wall clock was stepped",
    "the worker stalled",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rare_situation_that_a_machine_tells_of_is_looked_for() {
        let core = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../core/src"));
        let mut told = BTreeSet::new();
        for folder in ["shard", "relay"] {
            for entry in fs::read_dir(core.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let text =
                    if path.is_dir() { String::new() } else { fs::read_to_string(path).unwrap() };
                for rest in text.split("Action::Reach(\"").skip(1) {
                    told.insert(rest.split('"').next().unwrap().to_owned());
                }
            }
        }
        let known: BTreeSet<_> = REACHABLE.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(told, known);
    }

    #[test]
    fn a_difference_is_shown_with_what_comes_before_it() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), (0, "the same\n".to_owned()));
        let (code, text) = difference("1\n2\n3\n4\nx\n5\n", "1\n2\n3\n4\ny\n");
        assert_eq!(code, 1);
        assert_eq!(text, "from line 5 on\n  2\n  3\n  4\n< x\n< 5\n> y\n");
        let (_, text) = difference("1\n2\n", "1\n");
        assert_eq!(text, "from line 2 on\n  1\n< 2\n> (the end)\n");
    }
}
