//! Many kinds of calls at the same time, at given rates.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

use crate::{
    bed::{Bed, ROOM, in_turn},
    options::Options,
    publisher::{Publisher, Reached},
    report::{Report, check, say},
    scenarios::{connect, last_call, spread},
    servers::Instance,
    swarm,
};

/// Calls a second.
#[derive(Clone, Copy, Debug)]
struct Rates {
    broadcasts: u64,
    notifications: u64,
    positions: u64,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    broadcasts: u64,
    notifications: u64,
    positions: u64,
    /// Connections that notifications reached, as far as the answers know.
    reached: u64,
    /// Answers that do not know all.
    incomplete: u64,
}

/// What goes on in the background.
struct Mix {
    task: JoinHandle<io::Result<Sent>>,
    stop: oneshot::Sender<()>,
    publishers: watch::Sender<Vec<Publisher>>,
}

impl Mix {
    fn start(rates: Rates, publishers: Vec<Publisher>, users: u32, bytes: usize) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (publishers, present) = watch::channel(publishers);
        let task = tokio::spawn(Calls::new(rates, present, users, bytes).run(stopped));
        Self { task, stop, publishers }
    }

    /// Fails if a call has failed.
    async fn stop(self) -> io::Result<Sent> {
        // A task that has failed listens no more; it tells why.
        let _failed = self.stop.send(());
        self.task.await.map_err(io::Error::other)?
    }
}

struct Calls {
    rates: Rates,
    publishers: watch::Receiver<Vec<Publisher>>,
    users: u32,
    bytes: usize,
    sent: Sent,
    running: JoinSet<io::Result<Option<Reached>>>,
}

impl Calls {
    fn new(
        rates: Rates,
        publishers: watch::Receiver<Vec<Publisher>>,
        users: u32,
        bytes: usize,
    ) -> Self {
        let sent = Sent::default();
        Self { rates, publishers, users, bytes, sent, running: JoinSet::new() }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> io::Result<Sent> {
        let began = Instant::now();
        let mut ticks = interval(Duration::from_millis(5));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                Some(call) = self.running.join_next() => self.answered(call)?,
                _ = ticks.tick() => self.begin(began.elapsed()),
            }
        }
        while let Some(call) = self.running.join_next().await {
            self.answered(call)?;
        }
        Ok(self.sent)
    }

    /// Begins the calls that are due, as far as not too many are under way.
    fn begin(&mut self, elapsed: Duration) {
        let due = |rate: u64| {
            elapsed.as_secs() * rate + u64::from(elapsed.subsec_millis()) * rate / 1_000
        };
        let present = self.publishers.borrow().clone();
        let publisher = |number| in_turn(&present, number);
        while self.sent.broadcasts < due(self.rates.broadcasts) && self.running.len() < AT_ONCE {
            let (publisher, bytes) = (publisher(self.sent.broadcasts), self.bytes);
            self.running.spawn(async move { publisher.broadcast(ROOM, bytes).await.map(|_| None) });
            self.sent.broadcasts += 1;
        }
        while self.sent.notifications < due(self.rates.notifications)
            && self.running.len() < AT_ONCE
        {
            let number = self.sent.notifications;
            let user = swarm::user(spread(number, self.users));
            let (publisher, bytes) = (publisher(number), self.bytes);
            self.running.spawn(async move { publisher.notify(user, bytes).await.map(Some) });
            self.sent.notifications += 1;
        }
        while self.sent.positions < due(self.rates.positions) && self.running.len() < AT_ONCE {
            let number = self.sent.positions;
            let user = swarm::user(spread(number / 3, self.users));
            let publisher = publisher(number);
            let position = i32::try_from(number % 10_000).unwrap_or(0);
            self.running.spawn(async move {
                publisher.queue_position(user, position).await.map(|()| None)
            });
            self.sent.positions += 1;
        }
    }

    fn answered(
        &mut self,
        call: Result<io::Result<Option<Reached>>, tokio::task::JoinError>,
    ) -> io::Result<()> {
        if let Some(reached) = call.map_err(io::Error::other)?? {
            self.sent.reached += reached.connections;
            self.sent.incomplete += u64::from(!reached.complete);
        }
        Ok(())
    }
}

/// Connects while messages of all kinds go out.
pub(crate) async fn on_sale(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("on-sale");
    let mut bed = Bed::new(options).await?;
    let rates = Rates { broadcasts: 10, notifications: 200, positions: 500 };
    let before = bed.usage()?;
    let mix = Mix::start(rates, bed.publishers.clone(), options.connections, options.bytes);
    connect(&mut bed, options, &mut report).await?;
    tokio::time::sleep(options.idle).await;
    let sent = mix.stop().await?;
    last_call(&mut bed, options.bytes).await?;
    put_sent(&mut report, sent);
    let used = bed.usage()? - before;
    let tally = bed.fleet.count().await?;
    report.put_cpu("message", used, tally.durable() + tally.latest);
    report.put_tally(&tally);
    check(&tally)?;
    let (least, exact) = (sent.reached, sent.incomplete == 0);
    if tally.user < least || (exact && tally.user != least) {
        let why = format!("answers said {least} connections, {} got something", tally.user);
        return Err(io::Error::other(why));
    }
    bed.stop().await?;
    Ok(report)
}

/// Replaces every instance by a new one while messages go out.
pub(crate) async fn deploy(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("deploy");
    let mut options = options.clone();
    options.instances = options.instances.max(2);
    let mut bed = Bed::new(&options).await?;
    connect(&mut bed, &options, &mut report).await?;
    let rates = Rates { broadcasts: 10, notifications: 100, positions: 0 };
    let mix = Mix::start(rates, bed.publishers.clone(), options.connections, options.bytes);
    let began = Instant::now();
    for number in 1..=options.instances {
        say(&format!("replacing instance {number} of {}", options.instances))?;
        let new = Instance::start(&bed.recipe).await?;
        let publisher = Publisher::connect(new.grpc).await?;
        bed.publishers.push(publisher);
        bed.publishers.remove(0);
        bed.instances.push(new);
        let old = bed.instances.remove(0);
        bed.fleet.move_to(bed.servers()).await?;
        mix.publishers.send_replace(bed.publishers.clone());
        old.stop().await?;
    }
    report.put("instances_replaced", options.instances);
    report.put("seconds", began.elapsed().as_secs_f64());
    let sent = mix.stop().await?;
    last_call(&mut bed, options.bytes).await?;
    put_sent(&mut report, sent);
    let tally = bed.fleet.count().await?;
    report.put("connections_moved", tally.returned);
    report.put_tally(&tally);
    check(&tally)?;
    if tally.user != sent.notifications {
        let why = format!("{} of {} notifications arrived", tally.user, sent.notifications);
        return Err(io::Error::other(why));
    }
    bed.stop().await?;
    Ok(report)
}

fn put_sent(report: &mut Report, sent: Sent) {
    report.put("broadcasts_sent", sent.broadcasts);
    report.put("notifications_sent", sent.notifications);
    report.put("positions_sent", sent.positions);
    report.put("incomplete_answers", sent.incomplete);
}

/// Calls under way.
const AT_ONCE: usize = 256;
