//! The servers under load: told by address, or started for the occasion.

use std::{
    env, io,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

/// An instance of the service.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) pid: u32,
    /// From the start of the process to a positive answer of `/ready`, if it was started here.
    pub(crate) ready_after: Option<Duration>,
    /// Killed when dropped.
    child: Option<Child>,
}

/// What an instance is started with.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) binary: PathBuf,
    pub(crate) secret: String,
    pub(crate) redis: Option<SocketAddr>,
    /// With `HISTORY_SIZE=0`.
    pub(crate) plain: bool,
}

/// The line of the log that names the ports.
#[derive(Deserialize)]
struct Listening {
    message: String,
    http: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
}

impl Instance {
    /// One that runs already.
    pub(crate) fn running(http: SocketAddr, grpc: SocketAddr, pid: u32) -> Self {
        Self { http, grpc, pid, ready_after: None, child: None }
    }

    /// Starts one on free ports of the loopback interface. What else is in the environment applies.
    pub(crate) async fn start(recipe: &Recipe) -> io::Result<Self> {
        let began = Instant::now();
        let mut command = Command::new(&recipe.binary);
        command
            .envs([("BIND_ADDRESS", "127.0.0.1"), ("LOG_LEVEL", "info"), ("LOG_FORMAT", "json")])
            .envs([("HTTP_PORT", "0"), ("GRPC_PORT", "0"), ("METRICS_PORT", "0")])
            .envs([("DRAIN_DELAY", "0s"), ("DRAIN_TIMEOUT", "10s")])
            .env("JWT_SECRET", &recipe.secret)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if recipe.plain {
            command.env("HISTORY_SIZE", "0");
        }
        if let Some(redis) = recipe.redis {
            command.env("REDIS_HOST", redis.ip().to_string());
            command.env("REDIS_PORT", redis.port().to_string());
        }
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no log"))?;
        let mut lines = BufReader::new(stderr).lines();
        let mut log = String::new();
        let (http, grpc) = loop {
            let Some(line) = timeout(START_MAX, lines.next_line()).await?? else {
                return Err(io::Error::other(format!("the server did not start:\n{log}")));
            };
            if let Ok(Listening { message, http: Some(http), grpc: Some(grpc) }) =
                serde_json::from_str(&line)
                && message == "listening"
            {
                break (http, grpc);
            }
            log += &(line + "\n");
        };
        // A log that nobody reads would stop its writer.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let pid = child.id().ok_or_else(|| io::Error::other("the server has ended"))?;
        let mut instance = Self { http, grpc, pid, ready_after: None, child: Some(child) };
        instance.await_ready().await?;
        instance.ready_after = Some(began.elapsed());
        Ok(instance)
    }

    async fn await_ready(&self) -> io::Result<()> {
        let began = Instant::now();
        while !get(self.http, "/ready").await?.starts_with("HTTP/1.1 200 ") {
            if began.elapsed() > START_MAX {
                return Err(io::Error::other("the server does not get ready"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn stop(mut self) -> io::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        terminate(self.pid).await?;
        timeout(STOP_MAX, child.wait()).await??;
        Ok(())
    }

    /// The sum of the samples of a counter that have a label.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> io::Result<u64> {
        let text = get(self.http, "/metrics").await?;
        let has_it = |line: &&str| line.starts_with(name) && line.contains(label);
        let samples = text.lines().filter(has_it);
        Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}

/// Sends SIGTERM, by the command that every system has: no unsafe code for one signal.
async fn terminate(pid: u32) -> io::Result<()> {
    Command::new("kill").arg(pid.to_string()).status().await.map(drop)
}

/// The whole answer to a GET.
async fn get(server: SocketAddr, path: &str) -> io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(Duration::from_secs(5), exchange).await?
}

/// The Redis of several instances.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) address: SocketAddr,
    /// Killed when dropped.
    _child: Option<Child>,
}

impl Redis {
    /// One that runs already.
    pub(crate) fn running(address: SocketAddr) -> Self {
        Self { address, _child: None }
    }

    /// Starts one that keeps nothing, on a free port. `redis-server` must be installed.
    pub(crate) async fn start() -> io::Result<Self> {
        // Taken and given back: Redis can't take a free port by itself.
        let free = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let address = free.local_addr()?;
        drop(free);
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(address.port().to_string())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let redis = Self { address, _child: Some(child) };
        let began = Instant::now();
        while redis.ask("PING").await.is_err() {
            if began.elapsed() > START_MAX {
                return Err(io::Error::other("redis-server does not start"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(redis)
    }

    /// How often scripts have been called.
    pub(crate) async fn script_calls(&self) -> io::Result<u64> {
        let info = self.ask("INFO commandstats").await?;
        let calls = info.lines().filter(|line| line.starts_with("cmdstat_eval"));
        let calls = calls.filter_map(|line| line.split("calls=").nth(1)?.split(',').next());
        Ok(calls.filter_map(|calls| calls.parse::<u64>().ok()).sum())
    }

    /// Commands that it has carried out, those inside of scripts too, and bytes that went in and
    /// out.
    pub(crate) async fn work(&self) -> io::Result<(u64, u64)> {
        let info = self.ask("INFO stats").await?;
        let number = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name));
            value
                .and_then(|value| value.trim().parse::<u64>().ok())
                .ok_or_else(|| io::Error::other(format!("Redis does not tell {name}")))
        };
        let bytes = number("total_net_input_bytes:")? + number("total_net_output_bytes:")?;
        Ok((number("total_commands_processed:")?, bytes))
    }

    async fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

/// The service's binary beside this one.
pub(crate) fn binary_beside() -> io::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name("realtime"))
}

/// A start takes no longer.
const START_MAX: Duration = Duration::from_secs(20);

/// A drain of ten seconds and what belongs to it.
const STOP_MAX: Duration = Duration::from_secs(40);
