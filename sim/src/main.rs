//! `sim`: runs seeds.

mod shim;

use std::{io::Write as _, process::ExitCode};

use lexopt::prelude::*;
use realtime_sim::{plan::Plan, tier2, world};

const USAGE: &str = "\
usage: sim run --seed N        one seed
       sim sweep --seeds A..B  the seeds from A to B - 1
       sim twice --seed N      the same seed twice; they must not differ
";

fn main() -> ExitCode {
    if let Some(code) = tier2::cli::main(shim::forbid_raw_entropy) {
        return code;
    }
    let mut out = std::io::stdout().lock();
    let (code, text) = match parse() {
        Ok(Command::Run(seed)) => sweep(seed..seed + 1),
        Ok(Command::Sweep(seeds)) => sweep(seeds),
        Ok(Command::Twice(seed)) => twice(seed),
        Err(error) => (2, format!("sim: {error}\n{USAGE}")),
    };
    // Nobody reads further: nothing can be told any more.
    _ = out.write_all(text.as_bytes());
    ExitCode::from(code)
}

enum Command {
    Run(u64),
    Sweep(std::ops::Range<u64>),
    Twice(u64),
}

fn parse() -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let Some(Value(name)) = parser.next()? else {
        return Err("a command is missing".into());
    };
    let (mut seed, mut seeds) = (0, 0..0);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seed") => seed = parser.value()?.parse()?,
            Long("seeds") => {
                let text = parser.value()?.string()?;
                let (from, to) = text.split_once("..").ok_or("--seeds takes A..B")?;
                seeds = from.parse().map_err(|_| "A is no number")?
                    ..to.parse().map_err(|_| "B is no number")?;
            }
            Short(_) | Long(_) | Value(_) => return Err(argument.unexpected()),
        }
    }
    match name.to_str() {
        Some("run") => Ok(Command::Run(seed)),
        Some("sweep") => Ok(Command::Sweep(seeds)),
        Some("twice") => Ok(Command::Twice(seed)),
        _ => Err("an unknown command".into()),
    }
}

fn sweep(seeds: std::ops::Range<u64>) -> (u8, String) {
    let mut received = 0;
    for seed in seeds.clone() {
        let outcome = world::run(&Plan::from_seed(seed));
        received += outcome.received;
        if let Err(error) = outcome.verdict {
            return (
                1,
                format!("seed {seed} failed: {error}\nagain: cargo sim run --seed {seed}\n"),
            );
        }
    }
    (0, format!("{} seeds, {received} frames received, all as promised\n", seeds.count()))
}

fn twice(seed: u64) -> (u8, String) {
    let plan = Plan::from_seed(seed);
    let (first, second) = (world::run(&plan), world::run(&plan));
    if first == second {
        (0, format!("seed {seed}: {:016x} both times\n", first.hash))
    } else {
        (1, format!("seed {seed} differs: {first:?}, {second:?}\n"))
    }
}
