//! `sim`: runs plans of simulated clusters.

mod shim;

use std::{
    fs,
    io::Write as _,
    ops::Range,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use lexopt::prelude::*;
use realtime_sim::{
    plan::Plan,
    recording,
    tier1::{self, Answer},
    tier2, timeline,
};

const USAGE: &str = "\
usage: sim run --seed N [--trace FILE]      one seed; what happens goes to FILE, or to - 
       sim sweep --seeds A..B [--minutes M] the seeds from A to B - 1, until one fails
       sim twice --seed N                   a seed in two processes; they must not differ
       sim explain --seed N                 the plan that a seed stands for
       sim replay PLAN [--trace FILE]       a plan from a file
       sim replay-recording FILE or FOLDER  what an instance recorded, through bare machines
       sim shrink --seed N -o PLAN          a smaller plan that fails as the seed does
       sim shrink PLAN -o PLAN              the same for a plan from a file
       sim corpus [FOLDER]                  every plan that once failed
       sim diff A B                         where two traces begin to differ
       sim timeline TRACE -o FILE.html      a trace of either tier as a page for a browser
       sim reach [--seeds A..B]             rare situations that the seeds never reach
       sim bench [--seeds A..B]             what happens in a second of processor time
       sim run, replay or shrink ... --plant NAME   with a planted bug
       sim mutants [--seeds A..B] [--only NAME]  in how many seeds planted bugs are caught
";

fn main() -> ExitCode {
    if let Some(code) = tier2::cli::main(shim::forbid_raw_entropy) {
        return code;
    }
    // What a machine says in a panic becomes the verdict of its run.
    std::panic::set_hook(Box::new(|_| {}));
    let (code, text) = match parse()
        .map_err(|error| error.to_string())
        .and_then(|arguments| arguments.carry_out())
    {
        Ok(answer) => answer,
        Err(error) => (2, format!("sim: {error}\n{USAGE}")),
    };
    // Nobody reads further: nothing can be told any more.
    _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::from(code)
}

#[derive(Debug, Default)]
struct Arguments {
    command: String,
    seed: Option<u64>,
    seeds: Option<Range<u64>>,
    minutes: Option<u64>,
    trace: Option<PathBuf>,
    output: Option<PathBuf>,
    only: Option<String>,
    plant: Option<String>,
    paths: Vec<PathBuf>,
}

fn parse() -> Result<Arguments, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut arguments = Arguments::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seed") => arguments.seed = Some(parser.value()?.parse()?),
            Long("seeds") => arguments.seeds = Some(range(&parser.value()?.string()?)?),
            Long("minutes") => arguments.minutes = Some(parser.value()?.parse()?),
            Long("trace") => arguments.trace = Some(parser.value()?.into()),
            Long("plant") => arguments.plant = Some(parser.value()?.string()?),
            Long("only") => arguments.only = Some(parser.value()?.string()?),
            Short('o') => arguments.output = Some(parser.value()?.into()),
            Value(command) if arguments.command.is_empty() => {
                arguments.command = command.string()?;
            }
            Value(path) => arguments.paths.push(path.into()),
            Short(_) | Long(_) => return Err(argument.unexpected()),
        }
    }
    Ok(arguments)
}

fn range(text: &str) -> Result<Range<u64>, lexopt::Error> {
    let (from, to) = text.split_once("..").ok_or("--seeds takes A..B")?;
    let from = from.parse().map_err(|_| "A is no number")?;
    Ok(from..to.parse().map_err(|_| "B is no number")?)
}

impl Arguments {
    fn carry_out(&self) -> Result<Answer, String> {
        let trace = self.trace.as_deref();
        if let Some(name) = &self.plant {
            tier1::plant(name)?;
        }
        Ok(match self.command.as_str() {
            "run" => tier1::run(&Plan::from_seed(self.seed()?), trace),
            "replay" => tier1::run(&tier1::read(self.path(0)?)?, trace),
            "replay-recording" => recording::replay(self.path(0)?),
            "sweep" => self.sweep()?,
            "twice" => tier1::twice(self.seed()?),
            "explain" => (0, tier1::write(&Plan::from_seed(self.seed()?))),
            "shrink" => self.shrink()?,
            "corpus" => tier1::corpus(self.path(0).unwrap_or_else(|_| Path::new("sim/corpus"))),
            "diff" => tier1::diff(self.path(0)?, self.path(1)?),
            "timeline" => self.timeline()?,
            "reach" => tier1::reach(self.seeds(2_000), tier1::REACHABLE),
            "bench" => tier1::bench(self.seeds(500), &cpu_seconds),
            "mutants" => tier1::mutants(self.seeds(200), self.only.as_deref()),
            "" => return Err("a command is missing".to_owned()),
            other => return Err(format!("{other} is no command")),
        })
    }

    fn sweep(&self) -> Result<Answer, String> {
        let seeds = self.seeds.clone().ok_or("--seeds is missing")?;
        let minutes = self.minutes.map(|minutes| Duration::from_secs(minutes * 60));
        let start = Instant::now();
        let is_over = || minutes.is_some_and(|minutes| start.elapsed() >= minutes);
        Ok(tier1::sweep(seeds, &is_over))
    }

    fn shrink(&self) -> Result<Answer, String> {
        let plan = match self.seed {
            Some(seed) => Plan::from_seed(seed),
            None => tier1::read(self.path(0)?)?,
        };
        let output = self.output.as_deref().ok_or("-o is missing")?;
        Ok(tier1::shrink_to(&plan, output))
    }

    fn timeline(&self) -> Result<Answer, String> {
        let (trace, output) = (self.path(0)?, self.output.as_deref().ok_or("-o is missing")?);
        let failed = |path: &Path, error| format!("{}: {error}", path.display());
        let text = fs::read_to_string(trace).map_err(|error| failed(trace, error))?;
        let page = timeline::page(&text)?;
        fs::write(output, page).map_err(|error| failed(output, error))?;
        Ok((0, format!("{} lines, to be opened in a browser\n", text.lines().count())))
    }

    fn seed(&self) -> Result<u64, String> {
        self.seed.ok_or_else(|| "--seed is missing".to_owned())
    }

    fn seeds(&self, count: u64) -> Range<u64> {
        self.seeds.clone().unwrap_or(0..count)
    }

    fn path(&self, n: usize) -> Result<&Path, String> {
        self.paths.get(n).map(PathBuf::as_path).ok_or_else(|| "a file is missing".to_owned())
    }
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, counted behind the name, which may contain anything; 100 ticks a second.
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
