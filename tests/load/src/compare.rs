//! The service beside the least possible server, in turns: so whatever else the machine does hits
//! both alike, and their ratio holds.

use std::io;

use crate::{
    bed::{Bed, ROOM},
    fleet::Fleet,
    options::Options,
    orders::Setup,
    report::{Progress, Report, check, median, say},
    usage::Usage,
    yardstick::Server,
};

/// CPU time for each delivery, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    cpu_us: f64,
    user_us: f64,
}

/// The least possible server and its clients.
struct Yardstick {
    server: Server,
    fleet: Fleet,
}

/// Interleaved rounds of fan-out.
pub(crate) async fn compare(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("compare");
    say("connecting")?;
    let mut bed = Bed::new(options).await?;
    bed.connect(options.per_second).await?;
    let server = Server::start().await?;
    let setup = Setup { servers: vec![server.clients], secret: None, room: ROOM.to_owned() };
    let mut fleet = Fleet::start(&setup, options.connections).await?;
    fleet.connect(options.connections, options.per_second).await?;
    let mut yardstick = Yardstick { server, fleet };
    let (mut least, mut one, mut many) = (Vec::new(), Vec::new(), Vec::new());
    let mut progress = Progress::new();
    for round in 0..options.rounds {
        if round % 2 == 0 {
            least.push(yardstick.cost(options).await?);
            one.push(cost(&mut bed, options, 1).await?);
            many.push(cost(&mut bed, options, MANY).await?);
        } else {
            many.push(cost(&mut bed, options, MANY).await?);
            one.push(cost(&mut bed, options, 1).await?);
            least.push(yardstick.cost(options).await?);
        }
        progress.at(u64::from(round) + 1, u64::from(options.rounds), "rounds")?;
    }
    report.put("receivers", options.connections);
    report.put("rounds", options.rounds);
    report.put("messages_each", options.messages);
    put(&mut report, "yardstick", &least, &least);
    put(&mut report, "one_in_flight", &one, &least);
    put(&mut report, "sixteen_in_flight", &many, &least);
    let tally = bed.fleet.count().await?;
    report.put_tally(&tally);
    check(&tally)?;
    check(&yardstick.fleet.count().await?)?;
    bed.stop().await?;
    Ok(report)
}

/// Reports medians, and the median ratio to what cost the least.
pub(crate) fn put(report: &mut Report, name: &str, costs: &[Cost], least: &[Cost]) {
    let all = |of: fn(&Cost) -> f64| costs.iter().map(of).collect::<Vec<_>>();
    let ratios = costs.iter().zip(least).map(|(cost, least)| cost.cpu_us / least.cpu_us);
    let ratios = ratios.collect::<Vec<_>>();
    report.put(&format!("{name}_cpu_us"), median(&all(|cost| cost.cpu_us)));
    report.put(&format!("{name}_user_us"), median(&all(|cost| cost.user_us)));
    report.put(&format!("{name}_ratio"), median(&ratios));
}

impl Cost {
    fn new(used: Usage, options: &Options) -> Self {
        let deliveries = (options.messages * u64::from(options.connections)) as f64;
        let per = |ns: u64| ns as f64 / 1e3 / deliveries;
        Self { cpu_us: per(used.cpu_ns), user_us: per(used.user_ns) }
    }
}

/// Broadcasts `options.messages` times, with so many calls at once.
pub(crate) async fn cost(bed: &mut Bed, options: &Options, at_once: u64) -> io::Result<Cost> {
    let before = bed.usage()?;
    let mut sent = 0;
    while sent < options.messages {
        let batch = at_once.min(options.messages - sent);
        bed.broadcast(options.bytes, batch).await?;
        sent += batch;
    }
    Ok(Cost::new(bed.usage()? - before, options))
}

impl Yardstick {
    async fn cost(&mut self, options: &Options) -> io::Result<Cost> {
        let before = Usage::of(&[self.server.pid])?;
        for _ in 0..options.messages {
            self.server.broadcast(ROOM, options.bytes).await?;
            self.fleet.expect_all(1);
            self.fleet.settle().await?;
        }
        Ok(Cost::new(Usage::of(&[self.server.pid])? - before, options))
    }
}

/// Calls at once of the second figure.
const MANY: u64 = 16;
