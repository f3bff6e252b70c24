//! A Redis server of the test's own, and a proxy that loses what it brings.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::watch,
};

/// A running redis-server; killed when dropped.
#[derive(Debug)]
pub(crate) struct RedisServer {
    pub(crate) port: u16,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one on a free port.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        loop {
            let mut server = Self {
                port: free_port(),
                arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
                process: None,
            };
            if server.launch() {
                return server;
            }
        }
    }

    /// Names a port, but starts nothing on it.
    pub(crate) fn later() -> Self {
        Self { port: free_port(), arguments: Vec::new(), process: None }
    }

    /// Starts it; false when somebody else has taken the port.
    pub(crate) fn launch(&mut self) -> bool {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let mut process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(directory)
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "these tests need the program `redis-server`, version 7 or newer, in PATH \
                     (Debian: apt-get install redis-server): {error}"
                )
            });
        let deadline = Instant::now() + DEADLINE;
        loop {
            if std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                self.process = Some(process);
                return true;
            }
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "redis-server does not come up");
            std::thread::yield_now();
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// A connection of the test's own.
    pub(crate) fn client(&self) -> redis::Connection {
        let client = redis::Client::open(("127.0.0.1", self.port)).unwrap();
        client.get_connection().unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a [`Proxy`] does with answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Pass,
    /// Both sides of a connection are closed in place of its next answer.
    Cut,
    /// The next answers of connections that are open now are never seen.
    Swallow,
}

/// Stands between the broker and Redis.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) answers: watch::Sender<Answers>,
    /// Connections accepted so far.
    pub(crate) connections: Arc<AtomicU32>,
}

impl Proxy {
    pub(crate) fn start(to: u16) -> Self {
        let listener = tokio::net::TcpSocket::new_v4().unwrap();
        listener.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = listener.listen(16).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answers, mode) = watch::channel(Answers::Pass);
        let connections = Arc::new(AtomicU32::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(near, to, mode.clone()));
            }
        });
        Self { port, answers, connections }
    }
}

async fn carry(near: TcpStream, to: u16, mut mode: watch::Receiver<Answers>) {
    mode.mark_unchanged();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    let Ok(far) = socket.connect((Ipv4Addr::LOCALHOST, to).into()).await else {
        return;
    };
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let questions = tokio::spawn(async move {
        drop(tokio::io::copy(&mut from_near, &mut to_far).await);
    });
    let mut swallowing = false;
    while let Some(answer) = read(&mut from_far).await {
        // Only what was set after the connection was made is meant for it.
        swallowing |= mode.has_changed().unwrap_or(false) && *mode.borrow() == Answers::Swallow;
        if mode.has_changed().unwrap_or(false) && *mode.borrow() == Answers::Cut {
            break;
        }
        if !swallowing && to_near.write_all(&answer).await.is_err() {
            break;
        }
    }
    questions.abort();
}

async fn read(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 16];
    let count = from.read(&mut bytes).await.ok()?;
    bytes.truncate(count);
    (count > 0).then_some(bytes)
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
