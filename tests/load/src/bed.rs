//! Servers and clients of a scenario, put together.

use std::{io, net::SocketAddr, time::Duration};

use tokio::time::sleep;

use crate::{
    fleet::Fleet,
    histogram::Histogram,
    options::Options,
    orders::Setup,
    publisher::Publisher,
    servers::{Instance, Recipe, Redis, binary_beside},
    usage::Usage,
};

/// The room that all clients join.
pub(crate) const ROOM: &str = "event:load";

/// What a scenario plays on.
pub(crate) struct Bed {
    pub(crate) instances: Vec<Instance>,
    pub(crate) recipe: Recipe,
    /// If there is one that the tool knows of.
    pub(crate) redis: Option<Redis>,
    pub(crate) fleet: Fleet,
    pub(crate) publishers: Vec<Publisher>,
    /// Before the clients, but for some that have come and gone.
    pub(crate) empty: Usage,
    pub(crate) connections: u32,
}

impl Bed {
    /// Starts what does not run yet. Nobody is connected.
    pub(crate) async fn new(options: &Options) -> io::Result<Self> {
        let redis = match options.redis {
            Some(address) => Some(Redis::running(address)),
            None if options.http.is_empty() && options.instances > 1 => Some(Redis::start().await?),
            None => None,
        };
        let recipe = Recipe {
            binary: options.binary.clone().map_or_else(binary_beside, Ok)?,
            secret: options.secret.clone().unwrap_or_else(|| SECRET.to_owned()),
            redis: redis.as_ref().map(|redis| redis.address),
            plain: options.plain,
        };
        let mut instances = Vec::new();
        for ((http, grpc), pid) in options.http.iter().zip(&options.grpc).zip(&options.pids) {
            instances.push(Instance::running(*http, *grpc, *pid));
        }
        if instances.is_empty() {
            for _ in 0..options.instances {
                instances.push(Instance::start(&recipe).await?);
            }
        }
        let servers = instances.iter().map(|instance| instance.http).collect();
        let secret = if options.anonymous { None } else { Some(recipe.secret.clone()) };
        let setup = Setup { servers, secret, room: ROOM.to_owned() };
        let fleet = Fleet::start(&setup, options.connections).await?;
        let mut publishers = Vec::new();
        for instance in &instances {
            publishers.push(Publisher::connect(instance.grpc).await?);
        }
        let mut bed = Self {
            instances,
            recipe,
            redis,
            fleet,
            publishers,
            empty: Usage::default(),
            connections: options.connections,
        };
        bed.warm_up(options).await?;
        bed.empty = bed.usage()?;
        Ok(bed)
    }

    /// What the first clients have the servers read into memory, code above all, is not theirs.
    async fn warm_up(&mut self, options: &Options) -> io::Result<()> {
        let clients = options.connections.min(WARM_UP_CLIENTS);
        self.fleet.connect(clients, options.per_second).await?;
        self.broadcast(options.bytes, 1).await?;
        self.fleet.leave().await?;
        sleep(WARM_UP_REST).await;
        Ok(())
    }

    /// What the servers have used so far.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let pids: Vec<u32> = self.instances.iter().map(|instance| instance.pid).collect();
        Usage::of(&pids)
    }

    /// Resident memory for each connection, beyond that of the empty servers.
    pub(crate) fn bytes_per_connection(&self) -> io::Result<u64> {
        Ok((self.usage()? - self.empty).rss_bytes / u64::from(self.connections))
    }

    /// Connects everybody.
    pub(crate) async fn connect(&mut self, per_second: u32) -> io::Result<Histogram> {
        self.fleet.connect(self.connections, per_second).await
    }

    /// Broadcasts and waits until all have got it; `at_once` calls at a time.
    pub(crate) async fn broadcast(&mut self, bytes: usize, at_once: u64) -> io::Result<()> {
        self.publishers[0].broadcast_batch(ROOM, bytes, at_once).await?;
        self.fleet.expect_all(at_once);
        self.fleet.settle().await.map(drop)
    }

    /// Somebody to publish through; not always the same one.
    pub(crate) fn publisher(&self, number: u64) -> Publisher {
        in_turn(&self.publishers, number)
    }

    /// Where the clients may connect to.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        self.instances.iter().map(|instance| instance.http).collect()
    }

    /// Ends what was started.
    pub(crate) async fn stop(self) -> io::Result<()> {
        let Self { instances, mut fleet, .. } = self;
        fleet.leave().await?;
        for instance in instances {
            instance.stop().await?;
        }
        Ok(())
    }
}

/// One of several, by turns.
pub(crate) fn in_turn<T: Clone>(all: &[T], number: u64) -> T {
    let at = number % all.len() as u64;
    all[usize::try_from(at).expect("it is below a length")].clone()
}

/// Enough to have been everywhere.
const WARM_UP_CLIENTS: u32 = 200;

/// In this time the servers have let go of those who warmed them up.
const WARM_UP_REST: Duration = Duration::from_secs(3);

/// Of instances that live as long as a scenario.
const SECRET: &str = "a secret of a load test on this machine";
