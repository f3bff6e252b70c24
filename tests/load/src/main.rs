//! `realtime-load`: puts a running service under load and measures what it costs the server.
//!
//! Bytes are the growth of the server's resident memory, CPU is the server's own; so both describe
//! the server even when the generator runs on the same cores.
#![forbid(unsafe_code)]

mod client;
mod server;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use client::{Client, Tally};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use jsonwebtoken::{EncodingKey, Header};
use lexopt::prelude::*;
use realtime_proto::{BroadcastEventRequest, realtime_service_client::RealtimeServiceClient};
use serde::Serialize;
use server::Usage;
use tokio::{runtime, task::LocalSet, time};
use tonic::transport::Channel;

const USAGE: &str = "\
usage: realtime-load idle|fanout [options]

  idle     connects, joins one room, and waits
  fanout   the same, then broadcasts to the room

  --http ADDR        the service's HTTP address    (127.0.0.1:3003)
  --grpc ADDR        its gRPC address              (127.0.0.1:50057)
  --pid PID          the server process            (required)
  --secret SECRET    JWT_SECRET; without it connections are anonymous
  --connections N    how many                      (1000)
  --messages N       broadcasts                    (1000)
  --bytes N          size of each payload          (128)
  --in-flight N      broadcasts at once            (1)
  --seconds N        wait while idle, at most 600  (5)
";

/// A broadcast that has not reached everyone by then is lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// Handshakes at once.
const CONNECTING_MAX: usize = 100;

#[derive(Debug)]
struct Options {
    fanout: bool,
    http: SocketAddr,
    grpc: SocketAddr,
    pid: u32,
    secret: Option<String>,
    connections: u32,
    messages: u64,
    bytes: usize,
    in_flight: u64,
    idle: Duration,
}

/// What was measured. All of it concerns the server.
#[derive(Debug, Default, Serialize)]
struct Report {
    connections: u32,
    rss_bytes_per_connection: u64,
    cpu_us_per_connect: f64,
    idle_cpu_percent: f64,
    deliveries: u64,
    lost_or_out_of_order: u64,
    user_us_per_delivery: f64,
    system_us_per_delivery: f64,
    rss_bytes_per_connection_after: u64,
}

fn main() -> io::Result<()> {
    let options = match parse() {
        Ok(options) => options,
        Err(error) => {
            writeln!(io::stderr(), "realtime-load: {error}\n{USAGE}")?;
            std::process::exit(2);
        }
    };
    rlimit::increase_nofile_limit(u64::MAX)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let report = LocalSet::new().block_on(&runtime, run(&options))?;
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)
}

fn parse() -> Result<Options, lexopt::Error> {
    let mut options = Options {
        fanout: false,
        http: SocketAddr::from(([127, 0, 0, 1], 3003)),
        grpc: SocketAddr::from(([127, 0, 0, 1], 50057)),
        pid: 0,
        secret: None,
        connections: 1_000,
        messages: 1_000,
        bytes: 128,
        in_flight: 1,
        idle: Duration::from_secs(5),
    };
    let mut scenario = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) if scenario.is_none() => scenario = Some(name.string()?),
            Long("http") => options.http = parser.value()?.parse()?,
            Long("grpc") => options.grpc = parser.value()?.parse()?,
            Long("pid") => options.pid = parser.value()?.parse()?,
            Long("secret") => options.secret = Some(parser.value()?.string()?),
            Long("connections") => options.connections = parser.value()?.parse()?,
            Long("messages") => options.messages = parser.value()?.parse()?,
            Long("bytes") => options.bytes = parser.value()?.parse()?,
            Long("in-flight") => options.in_flight = parser.value()?.parse()?,
            Long("seconds") => {
                options.idle = Duration::from_secs(parser.value()?.parse::<u64>()?.min(600));
            }
            Short(_) | Long(_) | Value(_) => return Err(argument.unexpected()),
        }
    }
    match scenario.as_deref() {
        Some("idle") => {}
        Some("fanout") => options.fanout = true,
        _ => return Err("name a scenario: idle or fanout".into()),
    }
    if options.pid == 0 || options.connections == 0 || options.in_flight == 0 {
        return Err("--pid, --connections and --in-flight must be at least 1".into());
    }
    Ok(options)
}

async fn run(options: &Options) -> io::Result<Report> {
    let tally = Rc::new(Tally::default());
    let before = Usage::of(options.pid)?;
    connect(options, &tally).await?;
    let connected = Usage::of(options.pid)?;
    time::sleep(options.idle).await;
    let idle = Usage::of(options.pid)?;

    let per = |us: u64, count: u64| us as f64 / count.max(1) as f64;
    let connections = u64::from(options.connections);
    let growth = |now: Usage| now.rss.saturating_sub(before.rss) / connections;
    let mut report = Report {
        connections: options.connections,
        rss_bytes_per_connection: growth(idle),
        cpu_us_per_connect: per(cpu(before, connected), connections),
        idle_cpu_percent: 100.0 * cpu(connected, idle) as f64
            / 1e6
            / options.idle.as_secs_f64().max(0.001),
        ..Report::default()
    };
    if options.fanout {
        broadcast(options, &tally).await?;
        let after = Usage::of(options.pid)?;
        report.deliveries = tally.received.get();
        report.user_us_per_delivery = per(after.user_us - idle.user_us, report.deliveries);
        report.system_us_per_delivery = per(after.system_us - idle.system_us, report.deliveries);
        report.rss_bytes_per_connection_after = growth(after);
        let expected = options.messages * connections;
        report.lost_or_out_of_order = tally.wrong.get() + expected.abs_diff(report.deliveries);
    }
    if tally.ended.get() > 0 {
        return Err(io::Error::other(format!("{} connections ended", tally.ended.get())));
    }
    Ok(report)
}

fn cpu(from: Usage, to: Usage) -> u64 {
    to.user_us + to.system_us - from.user_us - from.system_us
}

async fn connect(options: &Options, tally: &Rc<Tally>) -> io::Result<()> {
    let mut connecting = FuturesUnordered::new();
    for number in 0..options.connections {
        let token = options.secret.as_deref().map(|secret| mint(secret, number)).transpose()?;
        connecting.push(async move {
            Client::connect(options.http, number, token.as_deref(), "event:load").await
        });
        if connecting.len() == CONNECTING_MAX
            && let Some(client) = connecting.next().await
        {
            tokio::task::spawn_local(client?.listen(tally.clone()));
        }
    }
    while let Some(client) = connecting.next().await {
        tokio::task::spawn_local(client?.listen(tally.clone()));
    }
    Ok(())
}

#[derive(Serialize)]
struct Claims {
    sub: String,
    exp: u64,
}

fn mint(secret: &str, number: u32) -> io::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let claims = Claims { sub: format!("load-{number}"), exp: now.as_secs() + 3_600 };
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes()))
        .map_err(io::Error::other)
}

async fn broadcast(options: &Options, tally: &Rc<Tally>) -> io::Result<()> {
    let channel = Channel::from_shared(format!("http://{}", options.grpc))
        .map_err(io::Error::other)?
        .connect()
        .await
        .map_err(io::Error::other)?;
    let client = RealtimeServiceClient::new(channel);
    let mut shown = Instant::now();
    let mut sent = 0;
    while sent < options.messages {
        let batch = options.in_flight.min(options.messages - sent);
        let mut calls = FuturesUnordered::new();
        for number in sent..sent + batch {
            let head = format!(r#"{{"number":{number},"pad":""#);
            let pad = "x".repeat(options.bytes.saturating_sub(head.len() + 2));
            let request = BroadcastEventRequest {
                event_type: "ticket:availability".to_owned(),
                room: "event:load".to_owned(),
                payload: format!(r#"{head}{pad}"}}"#),
                ..BroadcastEventRequest::default()
            };
            let mut client = client.clone();
            calls.push(async move { client.broadcast_event(request).await });
        }
        while let Some(answer) = calls.next().await {
            answer.map_err(io::Error::other)?;
        }
        sent += batch;
        let awaited = sent * u64::from(options.connections);
        time::timeout(LOST_AFTER, tally.wait_for(awaited)).await.map_err(io::Error::other)?;
        if shown.elapsed() > Duration::from_secs(5) {
            shown = Instant::now();
            writeln!(io::stderr(), "{sent} of {} broadcasts", options.messages)?;
        }
    }
    Ok(())
}
