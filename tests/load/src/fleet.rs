//! All clients of a scenario: several swarms, each a process.

use std::{
    env, io,
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

use crate::{
    client::Tally,
    histogram::Histogram,
    orders::{Order, Report, Setup},
};

/// The clients of a scenario.
pub(crate) struct Fleet {
    swarms: Vec<Swarm>,
}

struct Swarm {
    /// Killed when dropped.
    _child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    first: u32,
    count: u32,
    /// Durable messages that must have come.
    expected: u64,
}

impl Fleet {
    /// Starts as many processes as `connections` clients need. Nobody connects yet.
    pub(crate) async fn start(setup: &Setup, connections: u32) -> io::Result<Self> {
        let swarms = connections.div_ceil(PER_SWARM).max(1);
        let mut fleet = Self { swarms: Vec::new() };
        for _ in 0..swarms {
            let mut child = Command::new(env::current_exe()?)
                .arg("swarm")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(io::Error::other("a swarm without pipes"));
            };
            let answers = BufReader::new(stdout).lines();
            let mut swarm =
                Swarm { _child: child, stdin, answers, first: 0, count: 0, expected: 0 };
            swarm.say(setup).await?;
            fleet.swarms.push(swarm);
        }
        Ok(fleet)
    }

    /// Connects clients 0 to `connections`. Fails when one fails. From SYN to `room:joined`.
    pub(crate) async fn connect(
        &mut self,
        connections: u32,
        per_second: u32,
    ) -> io::Result<Histogram> {
        let swarms = u32::try_from(self.swarms.len()).map_err(io::Error::other)?;
        let mut first = 0;
        for (at, swarm) in (0..).zip(&mut self.swarms) {
            let count = (connections - first).div_ceil(swarms - at);
            (swarm.first, swarm.count) = (first, count);
            let at_once = (AT_ONCE / swarms).max(1);
            let per_second = per_second.div_ceil(swarms);
            swarm.say(&Order::Connect { first, count, at_once, per_second }).await?;
            first += count;
        }
        let mut all = Histogram::default();
        for swarm in &mut self.swarms {
            match swarm.answer(CONNECT_MAX).await? {
                Report::Connected { failed: 0, latency, .. } => all.merge(&latency),
                Report::Connected { failed, error, .. } => {
                    let why = error.unwrap_or_default();
                    return Err(io::Error::other(format!("{failed} can't connect: {why}")));
                }
                Report::Counted(_) => return Err(io::Error::other("an answer out of turn")),
            }
        }
        Ok(all)
    }

    /// So many more durable messages will come to every client.
    pub(crate) fn expect_all(&mut self, messages: u64) {
        for swarm in &mut self.swarms {
            swarm.expected += messages * u64::from(swarm.count);
        }
    }

    /// One more durable message will come to one client.
    pub(crate) fn expect(&mut self, client: u32) {
        let owner = |swarm: &&mut Swarm| (swarm.first..swarm.first + swarm.count).contains(&client);
        if let Some(swarm) = self.swarms.iter_mut().find(owner) {
            swarm.expected += 1;
        }
    }

    /// Waits for what is expected, at most for `LOST_AFTER`: what has not come by then is lost.
    pub(crate) async fn settle(&mut self) -> io::Result<Tally> {
        for swarm in &mut self.swarms {
            let durable = swarm.expected;
            swarm.say(&Order::Await { durable }).await?;
        }
        let mut all = Tally::default();
        for swarm in &mut self.swarms {
            let tally = match swarm.counted(LOST_AFTER).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let why = format!("lost: fewer than {} messages came", swarm.expected);
                    return Err(io::Error::other(why));
                }
                tally => tally?,
            };
            if tally.ended > 0 {
                return Err(io::Error::other(format!("{} connections ended", tally.ended)));
            }
            add(&mut all, &tally);
        }
        Ok(all)
    }

    /// Waits until nothing comes any more, and expects what has come.
    pub(crate) async fn quiesce(&mut self) -> io::Result<Tally> {
        let began = Instant::now();
        let mut before = self.count().await?;
        loop {
            sleep(QUIET).await;
            let now = self.count().await?;
            if now.durable() == before.durable() && now.returned == before.returned {
                return Ok(now);
            }
            if began.elapsed() > LOST_AFTER {
                return Err(io::Error::other("messages come without an end"));
            }
            before = now;
        }
    }

    /// What has been counted.
    pub(crate) async fn count(&mut self) -> io::Result<Tally> {
        self.ask(&Order::Count).await
    }

    /// New connections go there.
    pub(crate) async fn move_to(&mut self, servers: Vec<SocketAddr>) -> io::Result<Tally> {
        self.ask(&Order::Move { servers }).await
    }

    /// Closes all connections.
    pub(crate) async fn leave(&mut self) -> io::Result<Tally> {
        self.ask(&Order::Leave).await
    }

    async fn ask(&mut self, order: &Order) -> io::Result<Tally> {
        for swarm in &mut self.swarms {
            swarm.say(order).await?;
        }
        let mut all = Tally::default();
        for swarm in &mut self.swarms {
            let tally = swarm.counted(LOST_AFTER).await?;
            swarm.expected = swarm.expected.max(tally.durable());
            add(&mut all, &tally);
        }
        Ok(all)
    }
}

impl Swarm {
    async fn say(&mut self, what: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.stdin.write_all(&line).await
    }

    async fn answer(&mut self, at_most: Duration) -> io::Result<Report> {
        match timeout(at_most, self.answers.next_line()).await?? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => Err(io::Error::other("a swarm has ended")),
        }
    }

    async fn counted(&mut self, at_most: Duration) -> io::Result<Tally> {
        match self.answer(at_most).await? {
            Report::Counted(tally) => Ok(tally),
            Report::Connected { .. } => Err(io::Error::other("an answer out of turn")),
        }
    }
}

fn add(all: &mut Tally, one: &Tally) {
    let Tally { room, user, latest, lost, repeated, missed, ended, returned, latency } = one;
    all.room += room;
    all.user += user;
    all.latest += latest;
    all.lost += lost;
    all.repeated += repeated;
    all.missed += missed;
    all.ended += ended;
    all.returned += returned;
    all.latency.merge(latency);
}

/// Clients of one process, which may open 20,000 files on many machines.
pub(crate) const PER_SWARM: u32 = 18_000;

/// Handshakes at once, of all swarms together.
const AT_ONCE: u32 = 128;

/// Connecting takes no longer.
const CONNECT_MAX: Duration = Duration::from_secs(300);

/// A message that has not reached everyone by then is lost.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// Longer than messages and returning clients take, if there are any.
const QUIET: Duration = Duration::from_secs(2);
