//! The commands, and what they are given: alike for both tiers.

use std::{
    fs,
    io::Write as _,
    ops::Range,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use lexopt::prelude::*;

use crate::{
    at::{self, Made},
    explain,
    plan::Plan,
    recording, sweep,
    tier1::{self, Answer},
    tier2, timeline,
};

/// One screen.
const HELP: &str = "\
usage: cargo sim COMMAND [--tier 2]    tier 1 is the machines alone, tier 2 the whole service

  run --seed N [--trace FILE]          one seed; what happens goes to FILE, or to -
  run --seeds A..B                     those from A to B - 1, in one process; tier 1 only
  replay PLAN [--trace FILE]           a plan from a file
  sweep --seeds A..B                   many seeds, in processes of their own
  twice --seed N                       a seed in two processes; they must not differ
  plan --seed N                        the plan that a seed stands for, as JSON
  explain --seed N, or PLAN            a plan in words
  shrink --seed N, or PLAN, -o PLAN    a smaller plan that fails as well
  corpus [FOLDER]                      every plan that once failed
  reach [--seeds A..B]                 rare situations that the seeds never reach
  mutants [--seeds A..B] [--only NAME] in how many seeds planted bugs are caught
  bench [--seeds A..B]                 how much processor time it takes; without seeds in tier 2
  at TRACE --line N                    the machines as they are at a line of a trace
  diff A B                             where two traces begin to differ
  timeline TRACE -o FILE.html          a trace as a page for a browser
  replay-recording FILE or FOLDER      what an instance recorded, through bare machines

  --against PROGRAM   twice: the second process is of another build
  --minutes M, --jobs N   sweep: for so long, so many at a time
  --full         with all details: in a trace of tier 2, or of the machines
  --plant NAME   run, replay, sweep or shrink with a planted bug
  --timeout S    run or replay: not to be done after so many seconds is a failure
";

/// The options that each command takes, and how many files.
const COMMANDS: &[(&str, &[&str], usize)] = &[
    ("run", &["tier", "seed", "seeds", "trace", "full", "plant", "timeout"], 0),
    ("replay", &["tier", "trace", "full", "plant", "timeout"], 1),
    ("sweep", &["tier", "seeds", "minutes", "jobs", "plant"], 0),
    ("twice", &["tier", "seed", "full", "against"], 0),
    ("plan", &["tier", "seed"], 0),
    ("explain", &["tier", "seed"], 1),
    ("shrink", &["tier", "seed", "o", "plant"], 1),
    ("corpus", &["tier"], 1),
    ("reach", &["tier", "seeds"], 0),
    ("mutants", &["tier", "seeds", "only"], 0),
    ("bench", &["tier", "seeds"], 0),
    ("at", &["line", "full"], 1),
    ("diff", &[], 2),
    ("timeline", &["o"], 1),
    ("replay-recording", &[], 1),
    ("help", &[], 0),
];

/// What only a program can do, not a library that forbids unsafe code.
#[derive(Clone, Copy, Debug)]
pub struct Powers {
    /// Lets the thread die that asks the kernel for randomness.
    pub forbid_raw_entropy: fn(),
    /// Processor time of the process so far.
    pub cpu_seconds: fn() -> f64,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments {
    command: String,
    is_tier_2: bool,
    pub(crate) seed: Option<u64>,
    pub(crate) seeds: Option<Range<u64>>,
    pub(crate) minutes: Option<u64>,
    pub(crate) jobs: Option<usize>,
    pub(crate) timeout: Option<Duration>,
    /// Another build of this program.
    pub(crate) against: Option<PathBuf>,
    pub(crate) trace: Option<PathBuf>,
    pub(crate) full: bool,
    pub(crate) plant: Option<String>,
    only: Option<String>,
    output: Option<PathBuf>,
    line: Option<u64>,
    paths: Vec<PathBuf>,
}

/// Does what the command line says.
pub fn main(powers: Powers) -> ExitCode {
    let outcome = parse().map_err(|error| error.to_string());
    let (code, text) = match outcome.and_then(|arguments| arguments.carry_out(powers)) {
        Ok(answer) => answer,
        Err(error) => (2, format!("sim: {error}; `cargo sim help` says more\n")),
    };
    // Nobody reads further: nothing can be told any more.
    _ = match code {
        2 => std::io::stderr().lock().write_all(text.as_bytes()),
        _ => std::io::stdout().lock().write_all(text.as_bytes()),
    };
    ExitCode::from(code)
}

fn parse() -> Result<Arguments, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut arguments = Arguments::default();
    let mut given = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => "help".clone_into(&mut arguments.command),
            Long(name) => {
                let name = name.to_owned();
                arguments.take(&name, &mut parser)?;
                given.push(name);
            }
            Short('o') => {
                given.push("o".to_owned());
                arguments.output = Some(parser.value()?.into());
            }
            Value(command) if arguments.command.is_empty() => {
                arguments.command = command.string()?;
            }
            Value(path) => arguments.paths.push(path.into()),
            Short(_) => return Err(argument.unexpected()),
        }
    }
    arguments.check(&given)?;
    Ok(arguments)
}

fn range(text: &str) -> Result<Range<u64>, lexopt::Error> {
    let numbers =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    Ok(numbers.ok_or("--seeds takes A..B, two numbers")?)
}

impl Arguments {
    fn take(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<(), lexopt::Error> {
        match name {
            "tier" => {
                self.is_tier_2 = match parser.value()?.to_str() {
                    Some("1") => false,
                    Some("2") => true,
                    _ => return Err("--tier takes 1 or 2".into()),
                };
            }
            "seed" => self.seed = Some(parser.value()?.parse()?),
            "seeds" => self.seeds = Some(range(&parser.value()?.string()?)?),
            "minutes" => self.minutes = Some(parser.value()?.parse()?),
            "jobs" => self.jobs = Some(parser.value()?.parse()?),
            "timeout" => self.timeout = Some(Duration::from_secs(parser.value()?.parse()?)),
            "against" => self.against = Some(parser.value()?.into()),
            "trace" => self.trace = Some(parser.value()?.into()),
            "full" => self.full = true,
            "plant" => self.plant = Some(parser.value()?.string()?),
            "only" => self.only = Some(parser.value()?.string()?),
            "line" => self.line = Some(parser.value()?.parse()?),
            other => return Err(format!("--{other} is no option").into()),
        }
        Ok(())
    }

    /// Refuses what the command has no use for.
    fn check(&self, given: &[String]) -> Result<(), lexopt::Error> {
        let command = self.command.as_str();
        if command.is_empty() {
            return Err("a command is missing".into());
        }
        let Some((_, options, paths)) = COMMANDS.iter().find(|(name, ..)| *name == command) else {
            return Err(format!("{command} is no command").into());
        };
        if let Some(option) = given.iter().find(|option| !options.contains(&option.as_str())) {
            return Err(format!("{command} does not take {option}").into());
        }
        match self.paths.get(*paths) {
            Some(path) => Err(format!("{command} does not take {}", path.display()).into()),
            None => Ok(()),
        }
    }

    fn carry_out(&self, powers: Powers) -> Result<Answer, String> {
        if let Some(name) = &self.plant {
            tier1::plant(name)?;
        }
        match self.command.as_str() {
            "help" => return Ok((0, HELP.to_owned())),
            "twice" => return sweep::twice(self, self.seed()?),
            "sweep" => return sweep::sweep(self),
            "at" => return self.at(powers),
            "diff" => return Ok(tier1::diff(self.path(0)?, self.path(1)?)),
            "timeline" => return self.timeline(),
            "replay-recording" => {
                silence();
                return Ok(recording::replay(self.path(0)?));
            }
            _ => {}
        }
        if self.is_tier_2 { self.in_tier_2(powers) } else { self.in_tier_1(powers) }
    }

    fn in_tier_1(&self, powers: Powers) -> Result<Answer, String> {
        silence();
        sweep::watch(self.timeout);
        let trace = self.trace.as_deref();
        let seeded = || self.seed().map(Plan::from_seed);
        let plan = || self.path(0).map_or_else(|_| seeded(), tier1::read);
        Ok(match self.command.as_str() {
            "run" => match self.seeds.clone() {
                Some(seeds) => tier1::run_all(seeds, &|seed| self.with_seed(seed).again()),
                None => tier1::run(&seeded()?, trace),
            },
            "replay" => tier1::run(&tier1::read(self.path(0)?)?, trace),
            "plan" => (0, tier1::write(&seeded()?)),
            "explain" => (0, explain::tier1(&plan()?)),
            "shrink" => tier1::shrink_to(&plan()?, self.output()?),
            "corpus" => tier1::corpus(self.path(0).unwrap_or_else(|_| Path::new("sim/corpus"))),
            "reach" => tier1::reach(self.seeds(2_000), tier1::REACHABLE, &mut tier1::reached),
            "bench" => tier1::bench(self.seeds(500), &powers.cpu_seconds),
            "mutants" => tier1::mutants(self.seeds(200), self.only.as_deref()),
            other => return Err(format!("{other} is no command")),
        })
    }

    fn in_tier_2(&self, powers: Powers) -> Result<Answer, String> {
        use tier2::{bench, cli, plan::Plan};
        let seeded = || self.seed().map(Plan::from_seed);
        let plan = || self.path(0).map_or_else(|_| seeded(), cli::read);
        match self.command.as_str() {
            "plan" => return Ok((0, cli::write(&seeded()?))),
            "explain" => return Ok((0, explain::tier2(&plan()?))),
            _ => cli::check_build()?,
        }
        sweep::watch(self.timeout);
        match self.command.as_str() {
            "run" => cli::one(&seeded()?, self, powers.forbid_raw_entropy),
            "replay" => cli::one(&cli::read(self.path(0)?)?, self, powers.forbid_raw_entropy),
            "shrink" => cli::shrink(plan()?, self, self.output()?),
            "corpus" => cli::corpus(self.path(0).ok()),
            "reach" => cli::reach(self.seeds(200), powers.forbid_raw_entropy),
            "bench" if self.seeds.is_none() => bench::run(powers),
            "mutants" => cli::mutants(self.seeds(200), self.only.as_deref()),
            other => Err(format!("{other} has no tier 2")),
        }
    }

    fn at(&self, powers: Powers) -> Result<Answer, String> {
        let line = self.line.ok_or("--line N is missing")?;
        let text = match at::made(self.path(0)?)? {
            Made::Tier1(plan) => {
                silence();
                at::tier1(&plan, line, self.full)
            }
            Made::Tier2(plan, logs) => {
                tier2::cli::check_build()?;
                tier2::cli::look(&plan, logs, line, self.full, powers.forbid_raw_entropy)?
            }
        };
        Ok((0, text))
    }

    fn timeline(&self) -> Result<Answer, String> {
        let (trace, output) = (self.path(0)?, self.output()?);
        let failed = |path: &Path, error| format!("{}: {error}", path.display());
        let text = fs::read_to_string(trace).map_err(|error| failed(trace, error))?;
        let page = timeline::page(&text)?;
        fs::write(output, page).map_err(|error| failed(output, error))?;
        Ok((0, format!("{} lines, to be opened in a browser\n", text.lines().count())))
    }

    /// The arguments that choose the tier and the planted bug, for another process.
    pub(crate) fn inherited(&self) -> Vec<&str> {
        let tier = ["--tier", if self.is_tier_2 { "2" } else { "1" }];
        let plant = self.plant.iter().flat_map(|name| ["--plant", name.as_str()]);
        tier.into_iter().chain(plant).collect()
    }

    pub(crate) fn is_tier_2(&self) -> bool {
        self.is_tier_2
    }

    /// What another process of tier 2 is started with.
    pub(crate) fn of_tier_2(plant: Option<String>) -> Self {
        Self { is_tier_2: true, plant, ..Self::default() }
    }

    fn with_seed(&self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self.clone() }
    }

    /// The command that runs the same plan again.
    pub(crate) fn again(&self) -> String {
        let mut options = if self.is_tier_2 { " --tier 2" } else { "" }.to_owned();
        if let Some(name) = &self.plant {
            options.push_str(&format!(" --plant {name:?}"));
        }
        match (self.paths.first(), self.seed) {
            (Some(plan), _) => format!("cargo sim replay{options} {}", plan.display()),
            (None, seed) => format!("cargo sim run{options} --seed {}", seed.unwrap_or_default()),
        }
    }

    fn seed(&self) -> Result<u64, String> {
        self.seed.ok_or_else(|| "--seed N is missing".to_owned())
    }

    fn seeds(&self, count: u64) -> Range<u64> {
        self.seeds.clone().unwrap_or(0..count)
    }

    fn path(&self, n: usize) -> Result<&Path, String> {
        self.paths.get(n).map(PathBuf::as_path).ok_or_else(|| "a file is missing".to_owned())
    }

    fn output(&self) -> Result<&Path, String> {
        self.output.as_deref().ok_or_else(|| "-o FILE is missing".to_owned())
    }
}

/// What a machine says in a panic becomes the verdict of its run.
fn silence() {
    std::panic::set_hook(Box::new(|_| {}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_a_screen_and_names_every_command_and_option() {
        assert!(HELP.lines().count() <= 30);
        for line in HELP.lines() {
            assert!(line.len() <= 100, "{line}");
        }
        for (command, options, _) in COMMANDS {
            let is_named = HELP.contains(&format!("\n  {command} "));
            assert!(is_named || *command == "help", "{command}");
            for option in *options {
                let dashes = if option.len() == 1 { "-" } else { "--" };
                assert!(HELP.contains(&format!("{dashes}{option} ")), "{option}");
            }
        }
    }
}
