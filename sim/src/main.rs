//! `sim`: runs plans of simulated clusters.

mod shim;

use std::{fs, process::ExitCode};

use realtime_sim::cli::{self, Powers};

fn main() -> ExitCode {
    cli::main(Powers { forbid_raw_entropy: shim::forbid_raw_entropy, cpu_seconds })
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, counted behind the name, which may contain anything; 100 ticks a second.
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
