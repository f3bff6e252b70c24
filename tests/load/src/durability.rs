//! What durability costs: instances that keep histories beside such that keep none, in turns.

use std::io;

use tokio::time::sleep;

use crate::{
    bed::Bed,
    compare::{Cost, cost, put},
    options::Options,
    report::{Progress, Report, check, say},
    servers::Redis,
};

/// An instance, its clients, and a Redis of its own.
struct Side {
    name: &'static str,
    redis: Redis,
    bed: Bed,
    costs: Vec<Cost>,
}

/// Interleaved rounds of fan-out, and what they had Redis do.
pub(crate) async fn durability(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("durability");
    let mut plain = Side::start("plain", options).await?;
    let mut durable = Side::start("durable", options).await?;
    say("waiting")?;
    sleep(options.idle).await;
    let mut before = Vec::new();
    for side in [&plain, &durable] {
        let name = format!("rss_bytes_per_connection_{}", side.name);
        report.put(&name, side.bed.bytes_per_connection()?);
        before.push((side.redis.script_calls().await?, side.redis.work().await?));
    }
    let mut progress = Progress::new();
    for round in 0..options.rounds {
        let mut turns = [&mut plain, &mut durable];
        if round % 2 == 1 {
            turns.reverse();
        }
        for side in turns {
            side.costs.push(cost(&mut side.bed, options, options.in_flight).await?);
        }
        progress.at(u64::from(round) + 1, u64::from(options.rounds), "rounds")?;
    }
    let publications = u64::from(options.rounds) * options.messages;
    report.put("receivers", options.connections);
    report.put("publications_each", publications);
    for (side, (scripts, (commands, bytes))) in [&plain, &durable].into_iter().zip(before) {
        let per = |before: u64, after: u64| (after - before) as f64 / publications as f64;
        let now = side.redis.work().await?;
        let mut put = |what: &str, value: f64| report.put(&format!("{what}_{}", side.name), value);
        put("redis_commands_per_publication", per(commands, now.0));
        put("redis_bytes_per_publication", per(bytes, now.1));
        put("script_calls_per_publication", per(scripts, side.redis.script_calls().await?));
    }
    put(&mut report, plain.name, &plain.costs, &plain.costs);
    put(&mut report, durable.name, &durable.costs, &plain.costs);
    for mut side in [plain, durable] {
        check(&side.bed.fleet.count().await?)?;
        side.bed.stop().await?;
    }
    Ok(report)
}

impl Side {
    async fn start(name: &'static str, options: &Options) -> io::Result<Self> {
        say(&format!("connecting: {name}"))?;
        let redis = Redis::start().await?;
        let options =
            Options { redis: Some(redis.address), plain: name == "plain", ..options.clone() };
        let mut bed = Bed::new(&options).await?;
        bed.connect(options.per_second).await?;
        Ok(Self { name, redis, bed, costs: Vec::new() })
    }
}
