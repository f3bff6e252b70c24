//! What can be played.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use crate::{
    bed::{Bed, ROOM},
    options::Options,
    report::{Progress, Report, check, say},
    swarm,
};

/// Connects, waits, broadcasts, leaves, waits.
pub(crate) async fn idle(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("idle");
    let mut bed = Bed::new(options).await?;
    connect(&mut bed, options, &mut report).await?;
    let connected = bed.usage()?;
    say("waiting")?;
    sleep(options.idle).await;
    let bytes = bed.bytes_per_connection()?;
    report.put("rss_bytes", bed.usage()?.rss_bytes);
    report.put("rss_bytes_per_connection", bytes);
    if bytes > options.rss_max {
        let why = format!("{bytes} bytes for each connection, more than {}", options.rss_max);
        return Err(io::Error::other(why));
    }
    let idle = bed.usage()? - connected;
    report.put("idle_cpu_percent", percent(idle.cpu_ns, options.idle));
    for number in 0..options.messages {
        bed.broadcast(options.bytes, 1).await?;
        if number + 1 == options.messages {
            sleep(Duration::from_secs(1)).await;
            report.put("rss_bytes_per_connection_after", bed.bytes_per_connection()?);
        }
    }
    // What the embedded broker keeps of the room is nobody's.
    let history = if bed.redis.is_none() { options.messages * options.bytes as u64 } else { 0 };
    let full = bed.usage()? - bed.empty;
    let tally = bed.fleet.leave().await?;
    say("waiting for memory to come back")?;
    sleep(options.idle).await;
    let kept = (bed.usage()? - bed.empty).rss_bytes.saturating_sub(history);
    let returned = 1.0 - kept as f64 / (full.rss_bytes - history).max(1) as f64;
    report.put("rss_returned_percent", 100.0 * returned);
    report.put_tally(&tally);
    check(&tally)?;
    bed.stop().await?;
    Ok(report)
}

fn percent(cpu_ns: u64, of: Duration) -> f64 {
    100.0 * cpu_ns as f64 / 1e9 / of.as_secs_f64().max(0.001)
}

/// Connects everybody, and reports how that went.
pub(crate) async fn connect(
    bed: &mut Bed,
    options: &Options,
    report: &mut Report,
) -> io::Result<()> {
    say(&format!("connecting {} clients", options.connections))?;
    let (before, began) = (bed.usage()?, Instant::now());
    let latency = bed.connect(options.per_second).await?;
    let took = began.elapsed();
    report.put("connections", options.connections);
    report.put("connects_per_second", f64::from(options.connections) / took.as_secs_f64());
    report.put_cpu("connect", bed.usage()? - before, u64::from(options.connections));
    report.put_latency("connect", &latency);
    Ok(())
}

/// Connects, loses everybody, and connects again.
pub(crate) async fn storm(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("storm");
    let mut bed = Bed::new(options).await?;
    connect(&mut bed, options, &mut report).await?;
    bed.fleet.leave().await?;
    // The second time memory is there already, and so are the users' streams.
    say("connecting again")?;
    let (before, began) = (bed.usage()?, Instant::now());
    let latency = bed.connect(options.per_second).await?;
    let took = began.elapsed();
    report.put("again_per_second", f64::from(options.connections) / took.as_secs_f64());
    report.put_cpu("connect_again", bed.usage()? - before, u64::from(options.connections));
    report.put_latency("connect_again", &latency);
    bed.broadcast(options.bytes, 1).await?;
    let tally = bed.fleet.count().await?;
    report.put_tally(&tally);
    check(&tally)?;
    bed.stop().await?;
    Ok(report)
}

/// Broadcasts to everybody.
pub(crate) async fn fanout(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("fanout");
    let mut bed = Bed::new(options).await?;
    connect(&mut bed, options, &mut report).await?;
    report.put("rss_bytes_per_connection", bed.bytes_per_connection()?);
    let (before, began) = (bed.usage()?, Instant::now());
    let mut progress = Progress::new();
    let mut sent = 0;
    while sent < options.messages {
        let at_once = options.in_flight.min(options.messages - sent);
        bed.broadcast(options.bytes, at_once).await?;
        sent += at_once;
        progress.at(sent, options.messages, "broadcasts")?;
    }
    let used = bed.usage()? - before;
    let deliveries = options.messages * u64::from(options.connections);
    report.put("deliveries_per_second", deliveries as f64 / began.elapsed().as_secs_f64());
    report.put_cpu("delivery", used, deliveries);
    report.put("rss_bytes_per_connection_after", bed.bytes_per_connection()?);
    let tally = bed.fleet.count().await?;
    report.put_tally(&tally);
    check(&tally)?;
    bed.stop().await?;
    Ok(report)
}

/// Notifies one user after the other.
pub(crate) async fn unicast(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("unicast");
    let mut bed = Bed::new(options).await?;
    connect(&mut bed, options, &mut report).await?;
    let before = bed.usage()?;
    let brokered = Brokered::count(&bed).await?;
    let mut progress = Progress::new();
    let mut sent = 0;
    while sent < options.messages {
        let at_once = options.in_flight.min(options.messages - sent);
        let mut calls = JoinSet::new();
        for number in sent..sent + at_once {
            let user = spread(number, options.connections);
            bed.fleet.expect(user);
            let publisher = bed.publisher(number);
            calls.spawn(publisher.notify(swarm::user(user), options.bytes));
        }
        while let Some(call) = calls.join_next().await {
            let connections = call.map_err(io::Error::other)??.connections;
            if connections != 1 {
                return Err(io::Error::other(format!("reached {connections} connections, not 1")));
            }
        }
        bed.fleet.settle().await?;
        sent += at_once;
        progress.at(sent, options.messages, "notifications")?;
    }
    report.put_cpu("notification", bed.usage()? - before, options.messages);
    let after = Brokered::count(&bed).await?;
    let per = |before: u64, after: u64| (after - before) as f64 / options.messages as f64;
    report.put("script_calls_per_notification", per(brokered.scripts, after.scripts));
    // Each has one member on one instance: the others should not even see it.
    report.put("publications_received_per_notification", per(brokered.received, after.received));
    let tally = bed.fleet.count().await?;
    report.put_tally(&tally);
    check(&tally)?;
    bed.stop().await?;
    Ok(report)
}

/// What went through the broker.
#[derive(Clone, Copy, Debug, Default)]
struct Brokered {
    /// Calls of scripts; 0 without Redis.
    scripts: u64,
    /// Publications to users that instances got.
    received: u64,
}

impl Brokered {
    async fn count(bed: &Bed) -> io::Result<Self> {
        sleep(COUNTED_AFTER).await;
        let mut count = Self::default();
        if let Some(redis) = &bed.redis {
            count.scripts = redis.script_calls().await?;
        }
        for instance in &bed.instances {
            count.received += instance.metric(RECEIVED, r#"channel="user""#).await?;
        }
        Ok(count)
    }
}

/// Spreads numbers over `0..of`, the same way in each run.
pub(crate) fn spread(number: u64, of: u32) -> u32 {
    // Fibonacci hashing: neighbours come to lie far apart.
    let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    u32::try_from((hash * u64::from(of)) >> 32).unwrap_or(0)
}

/// Once more to all, to see that nobody has missed the last messages.
pub(crate) async fn last_call(bed: &mut Bed, bytes: usize) -> io::Result<()> {
    bed.fleet.quiesce().await?;
    let reached = bed.publishers[0].clone().broadcast(ROOM, bytes).await?;
    if reached != bed.connections {
        let why = format!("reached {reached} of {} connections", bed.connections);
        return Err(io::Error::other(why));
    }
    bed.fleet.expect_all(1);
    bed.fleet.settle().await.map(drop)
}

/// Counts publications that came through the broker.
const RECEIVED: &str = "realtime_pubsub_messages_received_total";

/// Instances bring their counts up to date once a second.
const COUNTED_AFTER: Duration = Duration::from_millis(1_500);
