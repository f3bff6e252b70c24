//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use lexopt::prelude::*;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Idle,
    Storm,
    Fanout,
    Unicast,
    OnSale,
    Deploy,
    Compare,
    Durability,
    Slow,
    Figures,
    Plot,
    /// Used by the tool itself.
    Swarm,
    /// Used by the tool itself.
    Yardstick,
}

/// How.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) scenario: Scenario,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) grpc: Vec<SocketAddr>,
    pub(crate) pids: Vec<u32>,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) instances: u32,
    pub(crate) redis: Option<SocketAddr>,
    pub(crate) secret: Option<String>,
    pub(crate) anonymous: bool,
    /// Starts instances without histories. Set by `durability` for one of its sides.
    pub(crate) plain: bool,
    pub(crate) connections: u32,
    pub(crate) per_second: u32,
    pub(crate) messages: u64,
    pub(crate) bytes: usize,
    pub(crate) in_flight: u64,
    pub(crate) rounds: u32,
    pub(crate) idle: Duration,
    pub(crate) rss_max: u64,
    pub(crate) json: Option<PathBuf>,
    /// Of `plot`: what to read.
    pub(crate) reports: Vec<PathBuf>,
    /// Of `plot`: what to write.
    pub(crate) svg: PathBuf,
}

pub(crate) const USAGE: &str = "\
usage: realtime-load SCENARIO [options]

  idle       connects, waits, broadcasts, waits again, leaves, and waits for memory to come back
  storm      connects as fast as it goes, loses all connections, and connects again
  fanout     broadcasts to a room that all have joined
  unicast    notifies one user after the other
  on-sale    connects, broadcasts, notifies and tells queue positions, all at the same time
  deploy     replaces instances one by one while messages go out
  compare    fan-out beside that of the least possible server, in turns
  durability fan-out over Redis beside that of instances with HISTORY_SIZE=0, in turns
  slow       fan-out with a client that hardly reads beside one without, in turns
  figures    measures all that the service has to reach, for some twelve minutes
  plot       draws what idle has saved: plot FILE.json FILE.json … -o FILE.svg

Instances that run already are told by address and process, each option once for each of them; they
must share a Redis if there are several. Without, the tool starts its own and ends them.

  --http ADDR        HTTP address of an instance
  --grpc ADDR        its gRPC address
  --pid PID          its process
  --binary FILE      what to start                       (realtime, beside this program)
  --instances N      how many to start                   (1)
  --redis ADDR       their Redis; deploy starts one      (none: the embedded broker)
  --secret SECRET    JWT_SECRET of instances that run    (made up for those that are started)
  --anonymous        connect without tokens
  --connections N    how many clients                    (1000)
  --rate N           connects a second                   (as many as go)
  --messages N       broadcasts, or notifications        (200)
  --bytes N          size of each payload                (128)
  --in-flight N      calls at once                       (1)
  --rounds N         of scenarios that take turns        (15)
  --seconds N        to wait, or to go on, up to 600     (5)
  --rss-max N        fail when a connection takes more  (no limit)
  --json FILE        write what was measured there, too
";

/// Reads the command line.
pub(crate) fn parse() -> Result<Options, lexopt::Error> {
    let mut options = Options {
        scenario: Scenario::Idle,
        http: Vec::new(),
        grpc: Vec::new(),
        pids: Vec::new(),
        binary: None,
        instances: 1,
        redis: None,
        secret: None,
        anonymous: false,
        plain: false,
        connections: 1_000,
        per_second: 0,
        messages: 200,
        bytes: 128,
        in_flight: 1,
        rounds: 15,
        idle: Duration::from_secs(5),
        rss_max: u64::MAX,
        json: None,
        reports: Vec::new(),
        svg: "load.svg".into(),
    };
    let mut parser = lexopt::Parser::from_env();
    let mut scenario = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) if scenario.is_none() => scenario = Some(named(&name.string()?)?),
            Long("http") => options.http.push(parser.value()?.parse()?),
            Long("grpc") => options.grpc.push(parser.value()?.parse()?),
            Long("pid") => options.pids.push(parser.value()?.parse()?),
            Long("binary") => options.binary = Some(parser.value()?.into()),
            Long("instances") => options.instances = parser.value()?.parse()?,
            Long("redis") => options.redis = Some(parser.value()?.parse()?),
            Long("secret") => options.secret = Some(parser.value()?.string()?),
            Long("anonymous") => options.anonymous = true,
            Long("connections") => options.connections = parser.value()?.parse()?,
            Long("rate") => options.per_second = parser.value()?.parse()?,
            Long("messages") => options.messages = parser.value()?.parse()?,
            Long("bytes") => options.bytes = parser.value()?.parse()?,
            Long("in-flight") => options.in_flight = parser.value()?.parse()?,
            Long("rounds") => options.rounds = parser.value()?.parse()?,
            Long("seconds") => {
                options.idle = Duration::from_secs(parser.value()?.parse::<u64>()?.min(600));
            }
            Value(report) if scenario == Some(Scenario::Plot) => {
                options.reports.push(report.into());
            }
            Short('o') => options.svg = parser.value()?.into(),
            Long("rss-max") => options.rss_max = parser.value()?.parse()?,
            Long("json") => options.json = Some(parser.value()?.into()),
            Short(_) | Long(_) | Value(_) => return Err(argument.unexpected()),
        }
    }
    options.scenario = scenario.ok_or("name a scenario")?;
    check(options)
}

fn named(name: &str) -> Result<Scenario, lexopt::Error> {
    Ok(match name {
        "idle" => Scenario::Idle,
        "storm" => Scenario::Storm,
        "fanout" => Scenario::Fanout,
        "unicast" => Scenario::Unicast,
        "on-sale" => Scenario::OnSale,
        "deploy" => Scenario::Deploy,
        "compare" => Scenario::Compare,
        "durability" => Scenario::Durability,
        "slow" => Scenario::Slow,
        "figures" => Scenario::Figures,
        "plot" => Scenario::Plot,
        "swarm" => Scenario::Swarm,
        "yardstick" => Scenario::Yardstick,
        _ => return Err(format!("there is no scenario {name}").into()),
    })
}

fn check(options: Options) -> Result<Options, lexopt::Error> {
    let Options { http, grpc, pids, .. } = &options;
    if http.len() != grpc.len() || http.len() != pids.len() {
        return Err("--http, --grpc and --pid are needed once for each instance".into());
    }
    if options.connections == 0 || options.in_flight == 0 || options.rounds == 0 {
        return Err("--connections, --in-flight and --rounds must be at least 1".into());
    }
    let runs_already = !http.is_empty();
    if runs_already && options.secret.is_none() && !options.anonymous {
        return Err("instances that run already need --secret or --anonymous".into());
    }
    if options.anonymous
        && matches!(options.scenario, Scenario::Unicast | Scenario::OnSale | Scenario::Deploy)
    {
        return Err("users are needed to notify them".into());
    }
    if runs_already
        && matches!(
            options.scenario,
            Scenario::Compare
                | Scenario::Deploy
                | Scenario::Durability
                | Scenario::Slow
                | Scenario::Figures
        )
    {
        return Err("this scenario starts its own instances".into());
    }
    if options.connections > 200_000 {
        return Err("--connections may be 200000 at most".into());
    }
    Ok(options)
}
