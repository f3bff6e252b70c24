//! A redis-server of the test's own.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use super::{TempDir, eventually};

/// A real Redis on a port of its own, which ends with its owner.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    directory: TempDir,
    on_disk: bool,
    child: Option<Child>,
}

impl Redis {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        let mut redis = Self::absent();
        redis.restart().await;
        redis
    }

    /// One that is not running yet, so that its port refuses connections.
    pub fn absent() -> Self {
        Self { port: free_port(), directory: TempDir::new(), on_disk: false, child: None }
    }

    /// Starts one that keeps what it holds on disk.
    pub async fn start_on_disk() -> Self {
        let mut redis = Self::absent();
        redis.on_disk = true;
        redis.restart().await;
        redis
    }

    /// `REDIS_PORT`
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once, as a crash would. Nothing of what it held comes back, unless it is on disk.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is our own child");
            child.wait().expect("it is our own child");
        }
    }

    /// Stops it from answering, with all its connections open, as a stalled host would.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it was started");
        let command = format!("kill -{name} {}", child.id());
        let status = Command::new("sh").args(["-c", &command]).status().expect("there is a shell");
        assert!(status.success(), "redis-server is gone already");
    }

    /// Loses what is on disk, too.
    pub async fn restart_without_data(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.directory.path().join("appendonlydir")).expect("it is there");
        self.restart().await;
    }

    /// Starts it, on the same port as before, with what is on disk.
    pub async fn restart(&mut self) {
        self.kill();
        self.child = Some(spawn(self.port, &self.directory, self.on_disk));
        let port = self.port;
        eventually("redis-server to answer", async || answers(port).then_some(())).await;
    }

    /// Runs a command on a connection of its own.
    pub fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))
            .expect("the address is well formed");
        let mut connection = client.get_connection().expect("Redis is running");
        let mut request = redis::cmd(command[0]);
        for argument in &command[1..] {
            request.arg(argument);
        }
        request.query(&mut connection).expect("the command is well formed")
    }

    /// Publishes to a channel and gives the number of its subscribers.
    pub fn publish(&self, channel: &str, body: &str) -> u32 {
        self.run(&["PUBLISH", channel, body])
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, directory: &TempDir, on_disk: bool) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--loglevel", "warning"])
        // Written before it answers, and safe unless the whole machine stops.
        .args(["--save", "", "--appendfsync", "no"])
        .args(["--appendonly", if on_disk { "yes" } else { "no" }])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "could not start redis-server ({error}): these tests need Redis 7 or newer in \
                 the PATH; on Debian and Ubuntu `apt-get install redis-server`, or run .ci/test, \
                 which installs it"
            )
        })
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut answer = [0; 7];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"+PONG\r\n"
}

/// A port below those that the kernel gives to outgoing connections, so that a killed Redis finds
/// its own port free when it is restarted.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).expect("it is below 10,000");
    for _ in 0..10_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (start + step) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port between 20,000 and 30,000 is free");
}
