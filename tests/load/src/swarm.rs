//! A process with many clients on one thread: files are limited per process.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header};
use mio::{Events, Interest, Poll, Token, Waker};
use serde::Serialize;

use crate::{
    client::{Client, Errand, Places, Stage, Tally},
    histogram::{Histogram, now_ns},
    orders::{Order, Report, Setup},
};

/// The user with the given number.
pub(crate) fn user(number: u32) -> String {
    format!("load-{number}")
}

/// Carries out what standard input orders, until it ends.
pub(crate) fn run() -> io::Result<()> {
    let mut setup = String::new();
    io::stdin().read_line(&mut setup)?;
    let mut swarm = Swarm::new(serde_json::from_str(&setup)?)?;
    let waker = Arc::new(Waker::new(swarm.poll.registry(), WAKER)?);
    let (sender, orders) = mpsc::sync_channel(1);
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() || waker.wake().is_err() {
                return;
            }
        }
        drop(sender);
        // Who is gone needs no waking.
        let _gone = waker.wake();
    });
    let mut events = Events::with_capacity(1_024);
    loop {
        swarm.poll.poll(&mut events, Some(swarm.patience()))?;
        for event in &events {
            if event.token() != WAKER {
                swarm.turn(event.token().0, event.is_writable());
            }
        }
        loop {
            match orders.try_recv() {
                Ok(order) => swarm.order(serde_json::from_str(&order)?)?,
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
            }
        }
        swarm.go_on()?;
    }
}

struct Swarm {
    setup: Setup,
    poll: Poll,
    /// By number of the client, less that of the first one.
    clients: Vec<Option<Client>>,
    first: u32,
    key: Option<EncodingKey>,
    scratch: Vec<u8>,
    tally: Tally,
    wave: Option<Wave>,
    awaited: Option<u64>,
    /// Clients that were asked to come back, and when they will.
    away: Vec<(Instant, u32, Places)>,
}

/// Clients that are being connected.
struct Wave {
    next: u32,
    end: u32,
    at_once: u32,
    per_second: u32,
    began: Instant,
    begun: u32,
    under_way: u32,
    failed: u32,
    error: Option<String>,
    latency: Histogram,
}

impl Swarm {
    fn new(setup: Setup) -> io::Result<Self> {
        let key = setup.secret.as_deref().map(|text| EncodingKey::from_secret(text.as_bytes()));
        Ok(Self {
            setup,
            poll: Poll::new()?,
            clients: Vec::new(),
            first: 0,
            key,
            scratch: vec![0; 64 << 10],
            tally: Tally::default(),
            wave: None,
            awaited: None,
            away: Vec::new(),
        })
    }

    /// How long to wait for sockets.
    fn patience(&self) -> Duration {
        let paced = self.wave.as_ref().is_some_and(|wave| wave.next < wave.end);
        if paced || !self.away.is_empty() { PACE } else { Duration::from_secs(3_600) }
    }

    fn order(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Connect { first, count, at_once, per_second } => {
                if self.clients.is_empty() {
                    self.first = first;
                }
                self.clients.resize_with((first + count - self.first) as usize, || None);
                // What the warm-up took, which is to many at once, is nobody's figure.
                self.tally.latency = Histogram::default();
                self.wave = Some(Wave {
                    next: first,
                    end: first + count,
                    at_once,
                    per_second,
                    began: Instant::now(),
                    begun: 0,
                    under_way: 0,
                    failed: 0,
                    error: None,
                    latency: Histogram::default(),
                });
                Ok(())
            }
            Order::Await { durable } => {
                self.awaited = Some(durable);
                Ok(())
            }
            Order::Count => self.report_count(),
            Order::Move { servers } => {
                self.setup.servers = servers;
                self.report_count()
            }
            Order::Leave => {
                self.clients.drain(..).flatten().for_each(Client::reset);
                self.report_count()
            }
        }
    }

    fn report_count(&self) -> io::Result<()> {
        say(&Report::Counted(self.tally.clone()))
    }

    /// Begins what is due, and reports what is done.
    fn go_on(&mut self) -> io::Result<()> {
        while self.wave.as_ref().is_some_and(Wave::may_begin) {
            self.begin_next();
        }
        let now = Instant::now();
        while let Some(at) = self.away.iter().position(|(back, ..)| *back <= now) {
            let (_, number, places) = self.away.swap_remove(at);
            if self.start(number, places).is_err() {
                self.tally.ended += 1;
            }
        }
        if let Some(wave) = self.wave.take_if(|wave| wave.next == wave.end && wave.under_way == 0) {
            let Wave { failed, error, latency, .. } = wave;
            say(&Report::Connected { failed, error, latency })?;
        }
        let done = |awaited: &mut u64| self.tally.durable() >= *awaited || self.tally.ended > 0;
        if self.awaited.take_if(done).is_some() {
            self.report_count()?;
        }
        Ok(())
    }

    fn begin_next(&mut self) {
        let Some(wave) = &mut self.wave else { return };
        let number = wave.next;
        wave.next += 1;
        wave.begun += 1;
        wave.under_way += 1;
        if let Err(error) = self.start(number, Places::default()) {
            self.failed(&error);
        }
    }

    /// Counts a client that has not joined and never will.
    fn failed(&mut self, error: &io::Error) {
        match &mut self.wave {
            Some(wave) => {
                wave.under_way -= 1;
                wave.failed += 1;
                wave.error.get_or_insert_with(|| error.to_string());
            }
            None => self.tally.ended += 1,
        }
    }

    fn server(&self, number: u32) -> SocketAddr {
        self.setup.servers[number as usize % self.setup.servers.len()]
    }

    fn start(&mut self, number: u32, places: Places) -> io::Result<()> {
        let mut client = Client::connect(self.server(number), number, places)?;
        let index = (number - self.first) as usize;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut client.stream, Token(index), interest)?;
        self.clients[index] = Some(client);
        Ok(())
    }

    /// The socket of a client can do something.
    fn turn(&mut self, index: usize, writable: bool) {
        let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) else { return };
        let before = client.stage;
        let mut result = Ok(());
        if writable && before == Stage::Connecting {
            let server = self.setup.servers[client.number as usize % self.setup.servers.len()];
            let token = self.key.as_ref().map(|key| mint(key, client.number)).transpose();
            result = token.and_then(|token| {
                client.writable(&Errand { server, number: client.number, token: token.as_deref() })
            });
        }
        if result.is_ok() && client.stage != Stage::Connecting {
            result = client.readable(&self.setup.room, &mut self.scratch, &mut self.tally);
        }
        let (after, began_ns) = (client.stage, client.began_ns);
        let joined = before != Stage::Joined && after == Stage::Joined;
        if joined && let Some(wave) = &mut self.wave {
            wave.under_way -= 1;
            wave.latency.add(now_ns() - began_ns);
        }
        if let Err(error) = result {
            self.lost(index, after, &error);
        }
    }

    fn lost(&mut self, index: usize, stage: Stage, error: &io::Error) {
        let Some(client) = self.clients[index].take() else { return };
        match stage {
            Stage::Leaving => {
                let Some(pause) = client.back_after else {
                    self.tally.ended += 1; // It was sent away without a word.
                    return;
                };
                self.tally.returned += 1;
                self.away.push((Instant::now() + pause, client.number, client.places));
            }
            Stage::Joined => self.tally.ended += 1,
            Stage::Connecting | Stage::Upgrading | Stage::Greeting | Stage::Joining => {
                self.failed(error);
            }
        }
    }
}

impl Wave {
    fn may_begin(&self) -> bool {
        let due = self.began.elapsed().as_secs_f64() * f64::from(self.per_second);
        let is_due = self.per_second == 0 || f64::from(self.begun) < due;
        self.next < self.end && self.under_way < self.at_once && is_due
    }
}

#[derive(Serialize)]
struct Claims {
    sub: String,
    exp: u64,
}

fn mint(key: &EncodingKey, number: u32) -> io::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let claims = Claims { sub: user(number), exp: now.as_secs() + 3_600 };
    jsonwebtoken::encode(&Header::default(), &claims, key).map_err(io::Error::other)
}

fn say(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// No client has this number.
const WAKER: Token = Token(usize::MAX);

/// How exactly a rate is kept.
const PACE: Duration = Duration::from_millis(5);
