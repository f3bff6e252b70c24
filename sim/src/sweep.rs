//! Seeds in processes of their own: what one leaves behind can't reach the next one, and a process
//! that crashes or does not end has found something, too.

use std::{
    collections::VecDeque,
    fs,
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    cli::Arguments,
    tier1::{self, Answer},
    tier2,
};

/// Lets the process fail that is not done in time.
pub(crate) fn watch(timeout: Option<Duration>) {
    let Some(timeout) = timeout else { return };
    // It ends with the process.
    thread::spawn(move || {
        thread::sleep(timeout);
        // Whatever holds the lock of the output does not let go.
        _ = fs::write("/dev/stderr", format!("sim: not done after {timeout:?}\n"));
        std::process::exit(1);
    });
}

/// Many seeds.
pub(crate) fn sweep(arguments: &Arguments) -> Result<Answer, String> {
    if arguments.is_tier_2() {
        tier2::cli::check_build()?;
    }
    let seeds = arguments.seeds.clone().ok_or("--seeds A..B is missing")?;
    let Swept { seeds, failed } = run_all(arguments, seeds)?;
    if failed.is_empty() {
        return Ok((0, format!("{seeds} seeds, all as promised\n")));
    }
    let mut text = String::new();
    for (seeds, why) in &failed {
        text.push_str(&format!("{why}\n"));
        if arguments.is_tier_2() {
            let plan = tier2::plan::Plan::from_seed(seeds.start);
            let name = format!("tier2-{}", seeds.start);
            text.push_str(&format!("{}\n", tier1::keep(&name, &tier2::cli::write(&plan))));
        }
    }
    text.push_str(&format!("{} of {seeds} seeds failed\n", failed.len()));
    Ok((1, text))
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    pub(crate) seeds: u64,
    /// Which ones failed, and why.
    pub(crate) failed: Vec<(Range<u64>, String)>,
}

/// Runs seeds: in tier 2 a process for each, in tier 1 for some hundred.
pub(crate) fn run_all(arguments: &Arguments, seeds: Range<u64>) -> Result<Swept, String> {
    let started = Instant::now();
    let jobs =
        arguments.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let step = if arguments.is_tier_2() { 1 } else { BATCH };
    let minutes = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let in_time = |_: &u64| minutes.is_none_or(|minutes| started.elapsed() < minutes);
    let end = seeds.end;
    let mut starts = seeds.step_by(usize::try_from(step).unwrap_or(1)).take_while(in_time);
    let (mut swept, mut running) = (Swept::default(), VecDeque::new());
    loop {
        while running.len() < jobs.max(1)
            && let Some(start) = starts.next()
        {
            let seeds = start..end.min(start + step);
            let which = if arguments.is_tier_2() {
                ["--seed".to_owned(), start.to_string()]
            } else {
                ["--seeds".to_owned(), format!("{}..{}", seeds.start, seeds.end)]
            };
            let timeout = ["--timeout", TIMEOUT_S];
            let which = which.iter().map(String::as_str).chain(timeout);
            let child = child(arguments, &["run"].into_iter().chain(which).collect::<Vec<_>>())?;
            running.push_back((seeds, child));
        }
        let Some((seeds, child)) = running.pop_front() else { break };
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        swept.seeds += seeds.end - seeds.start;
        if !output.status.success() {
            swept.failed.push((seeds.clone(), reason(arguments, &seeds, &output)));
        }
    }
    Ok(swept)
}

/// What a process that failed has said, and how to see that again.
fn reason(arguments: &Arguments, seeds: &Range<u64>, output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim_end().to_owned();
    if said.contains("again: ") {
        return said;
    }
    // It crashed, or did not end.
    let status = output.status;
    let again = if arguments.is_tier_2() {
        format!("cargo sim run --tier 2 --seed {}", seeds.start)
    } else {
        format!("cargo sim run --seeds {}..{}", seeds.start, seeds.end)
    };
    format!("seeds from {} on ended with {status}: {said}\nagain: {again}", seeds.start)
}

/// A seed in two processes, which must write the same bytes: in tier 2 with and without full logs.
/// The second one may be of another build.
pub(crate) fn twice(arguments: &Arguments, seed: u64) -> Result<Answer, String> {
    if !arguments.is_tier_2() {
        return compare(arguments, seed, &[]);
    }
    tier2::cli::check_build()?;
    let (code, text) = compare(arguments, seed, &["--full"])?;
    if code != 0 || arguments.full {
        return Ok((code, text));
    }
    let (code, other) = compare(arguments, seed, &[])?;
    Ok((code, text + &other))
}

fn compare(arguments: &Arguments, seed: u64, more: &[&str]) -> Result<Answer, String> {
    let seed = seed.to_string();
    let trace = |number: u8| {
        let name = format!("realtime-sim-{}-{number}.jsonl", std::process::id());
        let path = std::env::temp_dir().join(name);
        let place = path.to_str().ok_or("the folder for temporary files has an odd name")?;
        let run = ["run", "--seed", &seed, "--trace", place];
        let program = arguments.against.as_ref().filter(|_| number == 2);
        let child = child_of(program, arguments, &[&run[..], more].concat())?;
        child.wait_with_output().map_err(|error| error.to_string())?;
        let text = fs::read(&path).map_err(|error| error.to_string());
        // It may never have come to be.
        drop(fs::remove_file(&path));
        text
    };
    let (first, second) = (trace(1)?, trace(2)?);
    if first == second {
        let lines = first.iter().filter(|byte| **byte == b'\n').count();
        return Ok((0, format!("seed {seed}: {lines} lines, the same both times\n")));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (_, difference) = tier1::difference(&text(&first), &text(&second));
    Ok((1, format!("seed {seed} differs: {difference}")))
}

/// Starts this program again, for the same tier and with the same planted bug.
pub(crate) fn child(arguments: &Arguments, more: &[&str]) -> Result<Child, String> {
    child_of(None, arguments, more)
}

/// The same with another build of it.
fn child_of(
    other: Option<&PathBuf>,
    arguments: &Arguments,
    more: &[&str],
) -> Result<Child, String> {
    let program = match other {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|error| error.to_string())?,
    };
    Command::new(&program)
        .args(more)
        .args(arguments.inherited())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))
}

/// Seeds of tier 1 in one process: about two seconds.
const BATCH: u64 = 250;

/// Far longer than any process of a sweep takes, on a machine that has other things to do.
const TIMEOUT_S: &str = "300";
