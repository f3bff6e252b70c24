//! `realtime-load`: puts a service under load, checks that everybody gets everything once and in
//! order, and measures what it costs the servers.
//!
//! Bytes and CPU time are those of the server processes; so they describe the servers even when the
//! clients run on the same cores.
#![forbid(unsafe_code)]

mod bed;
mod client;
mod compare;
mod durability;
mod figures;
mod fleet;
mod histogram;
mod mix;
mod options;
mod orders;
mod plot;
mod publisher;
mod report;
mod scenarios;
mod servers;
mod slow;
mod swarm;
mod usage;
mod wire;
mod yardstick;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use crate::{
    options::{Options, Scenario},
    report::Report,
};

fn main() -> ExitCode {
    let options = match options::parse() {
        Ok(options) => options,
        Err(error) => {
            let _unheard = writeln!(io::stderr(), "realtime-load: {error}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _unheard = writeln!(io::stderr(), "realtime-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    if options.scenario == Scenario::Swarm {
        return swarm::run();
    }
    if options.scenario == Scenario::Yardstick {
        return yardstick::run();
    }
    if options.scenario == Scenario::Plot {
        return plot::plot(&options.reports, &options.svg);
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // What was started ends with the future that is dropped.
        tokio::select! {
            biased;
            _ = terminate.recv() => Err(io::Error::other("terminated")),
            _ = interrupt.recv() => Err(io::Error::other("interrupted")),
            report = play(options) => report,
        }
    })?;
    report.print()?;
    options.json.as_deref().map_or(Ok(()), |path| report.save(path))
}

async fn play(options: &Options) -> io::Result<Report> {
    match options.scenario {
        Scenario::Idle => scenarios::idle(options).await,
        Scenario::Storm => scenarios::storm(options).await,
        Scenario::Fanout => scenarios::fanout(options).await,
        Scenario::Unicast => scenarios::unicast(options).await,
        Scenario::OnSale => mix::on_sale(options).await,
        Scenario::Deploy => mix::deploy(options).await,
        Scenario::Compare => compare::compare(options).await,
        Scenario::Durability => durability::durability(options).await,
        Scenario::Slow => slow::slow(options).await,
        Scenario::Figures => figures::figures(options).await,
        Scenario::Swarm | Scenario::Yardstick | Scenario::Plot => unreachable!("they run above"),
    }
}
