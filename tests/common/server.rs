//! The real binary as a child process.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{DEADLINE, eventually, redis::Redis, token};

/// How to start a server: the whole environment that it gets.
#[derive(Clone, Debug)]
pub struct Setup {
    environment: BTreeMap<String, String>,
    open_files_max: Option<u32>,
}

impl Setup {
    /// On the embedded broker, with free ports, a known secret and a quick end.
    pub fn embedded() -> Self {
        Self { environment: BTreeMap::new(), open_files_max: None }
            .set("BIND_ADDRESS", "127.0.0.1")
            .set("HTTP_PORT", "0")
            .set("GRPC_PORT", "0")
            .set("METRICS_PORT", "0")
            .set("LOG_FORMAT", "json")
            .set("WORKERS", "2")
            .set("JWT_SECRET", token::SECRET)
            .set("DRAIN_DELAY", "0s")
            .set("DRAIN_TIMEOUT", "2s")
    }

    /// The same on a Redis.
    pub fn on(redis: &Redis) -> Self {
        Self::embedded().set("REDIS_HOST", "127.0.0.1").set("REDIS_PORT", &redis.port().to_string())
    }

    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Leaves a variable unset.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// Lowers the limit of open files, which the service can't raise again.
    #[must_use]
    pub fn open_files(mut self, limit: u32) -> Self {
        self.open_files_max = Some(limit);
        self
    }

    /// Runs the binary to its end and gives what it said.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("cargo has built the binary");
        let deadline = Instant::now() + DEADLINE;
        while child.try_wait().expect("it is our own child").is_none() {
            if Instant::now() > deadline {
                child.kill().expect("it is our own child");
                panic!("{arguments:?} did not end: {:?}", child.wait_with_output());
            }
            thread::sleep(Duration::from_millis(5)); // What it says fits into the pipe.
        }
        child.wait_with_output().expect("it is our own child")
    }

    /// Starts the service and waits until it serves.
    pub async fn start(&self) -> Server {
        let mut child = self
            .command(&[])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo has built the binary");
        let said = Said::default();
        said.drain(child.stdout.take().expect("it is piped"));
        said.drain(child.stderr.take().expect("it is piped"));
        let mut server = Server {
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            grpc: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics: None,
            said,
            child,
        };
        let listening = eventually("the service to listen", async || {
            let exited = server.child.try_wait().expect("it is our own child");
            assert!(exited.is_none(), "the service ended at its start: {exited:?}");
            server.logged("listening")
        })
        .await;
        server.http = address(&listening, "http").expect("the log names the HTTP address");
        server.grpc = address(&listening, "grpc").expect("the log names the gRPC address");
        server.metrics = address(&listening, "metrics");
        server
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let binary = env!("CARGO_BIN_EXE_realtime");
        let mut command = match self.open_files_max {
            None => Command::new(binary),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        command.args(arguments).env_clear().envs(&self.environment).stdin(Stdio::null());
        command
    }
}

/// A running service, which ends with its owner.
#[derive(Debug)]
pub struct Server {
    /// Where `HTTP_PORT` is.
    pub http: SocketAddr,
    /// Where `GRPC_PORT` is.
    pub grpc: SocketAddr,
    /// Where `METRICS_PORT` is.
    pub metrics: Option<SocketAddr>,
    said: Said,
    child: Child,
}

impl Server {
    /// The fields of the first log line with this message, if there is one yet.
    pub fn logged(&self, message: &str) -> Option<Value> {
        self.said.lines().iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields").cloned().unwrap_or(line);
            (fields["message"] == message).then_some(fields)
        })
    }

    /// Everything said so far, in lines.
    pub fn output(&self) -> Vec<String> {
        self.said.lines()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the service runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is listed");
        let kilobytes = line.split_whitespace().nth(1).expect("it has a value");
        kilobytes.parse::<usize>().expect("it is a number") * 1024
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &command]).status().expect("there is a shell");
        assert!(status.success(), "the service is gone already");
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our own child");
        self.child.wait().expect("it is our own child");
    }

    /// Whether it has ended, and how.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our own child")
    }

    /// Waits for its end.
    pub async fn exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the service to end", async || child.try_wait().expect("it is our own child"))
            .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok(); // It may have ended by itself.
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("--- what the service on {} said", self.http);
            for line in self.said.lines() {
                eprintln!("{line}");
            }
        }
    }
}

/// The lines that a child writes, read as they come so that it never waits for the test.
#[derive(Clone, Debug, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    fn drain(&self, pipe: impl Read + Send + 'static) {
        let said = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else {
                    return;
                };
                said.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn address(fields: &Value, name: &str) -> Option<SocketAddr> {
    fields[name].as_str()?.parse().ok()
}
