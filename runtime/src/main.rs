//! The command `realtime`.
#![forbid(unsafe_code)]

mod cli;

use std::{
    env,
    error::Error,
    fmt::Display,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use realtime_runtime::{
    clock::Clock,
    config::{Config, ConfigError, Keys, unknown_variables},
    log,
    net::TokioNet,
    record,
    server::{self, Addresses, Spawn},
    token::{self, Grant},
};
use tikv_jemallocator::Jemalloc;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tracing::warn;

use cli::Command;

/// Connections come and go by the thousand, on threads of their own. With the C library's allocator
/// they cost a sixth more memory, which is kept when they leave, and more time to connect.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let outcome = match cli::parse(env::args_os()) {
        Err(error) => return refuse(&error),
        Ok(Command::Help) => say(cli::HELP),
        Ok(Command::Version) => say(concat!("realtime ", env!("CARGO_PKG_VERSION"))),
        Ok(Command::Serve) => serve(),
        Ok(Command::CheckConfig) => check_config(),
        Ok(Command::Token(grant)) => mint(&grant),
        Ok(Command::Healthcheck) => healthcheck(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<ConfigError>() => refuse(&error),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// What every command comes to.
type Outcome = Result<(), Box<dyn Error>>;

/// Runs the service until it is told to stop.
fn serve() -> Outcome {
    let config = Config::from_process()?;
    log::init(&config);
    server::abort_on_panic();
    for warning in warnings(&config) {
        warn!("{warning}");
    }
    let demo = config.keys.secret_is_random.then(|| demo_token(&config.keys)).flatten();
    let recorders =
        record::to_files(config.record.clone()).map_err(|error| format!("RECORD_DIR: {error}"))?;
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let shutdown = shutdown_signals()?;
        let listening = |addresses: Addresses| {
            // A log is not for secrets, so this goes where only an operator looks.
            if let Some(token) = demo {
                let _unseen = say(&demonstration(&addresses, &token));
            }
        };
        Ok(server::run::<TokioNet>(config, Spawn::Threads, &recorders, shutdown, listening).await?)
    })
}

fn check_config() -> Outcome {
    let config = Config::from_process()?;
    for warning in warnings(&config) {
        complain(&warning);
    }
    say("the configuration is good")
}

fn warnings(config: &Config) -> Vec<String> {
    let names = env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let mut warnings = unknown_variables(names);
    warnings.extend(config.warnings());
    warnings
}

fn mint(grant: &Grant) -> Outcome {
    let keys = Config::from_process()?.keys;
    if keys.secret_is_random {
        return Err(
            "JWT_SECRET is not set: a token is good only for the secret that it is made with"
                .into(),
        );
    }
    let token = token::mint(&keys, grant, Clock::new().unix())
        .ok_or("tokens are made with JWT_SECRET, but another kind of key is configured")?;
    say(&token)
}

/// Asks the instance that has the same configuration whether it is alive.
fn healthcheck() -> Outcome {
    let config = Config::from_process()?;
    if config.http_port == 0 {
        return Err("HTTP_PORT=0: there is no telling which port was taken".into());
    }
    let addr = SocketAddr::new(reachable(config.bind_address), config.http_port);
    match health_status(addr) {
        Ok(HEALTHY) => Ok(()),
        Ok(other) => Err(format!("{addr} answered {:?}", String::from_utf8_lossy(&other)).into()),
        Err(error) => Err(format!("{addr}: {error}").into()),
    }
}

/// The beginning of the answer to `/health`.
fn health_status(addr: SocketAddr) -> io::Result<[u8; HEALTHY.len()]> {
    let mut stream = TcpStream::connect_timeout(&addr, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut status = [0; HEALTHY.len()];
    stream.read_exact(&mut status)?;
    Ok(status)
}

/// Gives one message for each SIGTERM or SIGINT.
fn shutdown_signals() -> io::Result<mpsc::Receiver<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The second one ends the process, so there is no use for a third.
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
            if sender.send(()).await.is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

fn demo_token(keys: &Keys) -> Option<String> {
    let grant = Grant { user: DEMO_USER.to_owned(), rooms: Vec::new(), ttl: DEMO_TTL };
    token::mint(keys, &grant, Clock::new().unix())
}

/// What to paste into other terminals.
fn demonstration(addresses: &Addresses, token: &str) -> String {
    let local = |addr: SocketAddr| SocketAddr::new(reachable(addr.ip()), addr.port());
    format!(
        "\nJWT_SECRET is not set, so one was made up for this run. To see it work, connect as the \
         user {DEMO_USER}:\n\n  \
         npx wscat -c \"ws://{http}/ws?token={token}\"\n\n\
         and tell that user something:\n\n  \
         grpcurl -plaintext -d '{{\"user_id\": \"{DEMO_USER}\", \"booking_id\": \"b-1\", \
         \"success\": true, \"message\": \"Booking confirmed\"}}' \\\n    \
         {grpc} realtime.RealtimeService/NotifyBookingResult\n",
        http = local(addresses.http),
        grpc = local(addresses.grpc),
    )
}

/// An address that this machine reaches itself by.
fn reachable(bound: IpAddr) -> IpAddr {
    // A listener on [::] takes IPv4 too.
    if bound.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bound }
}

/// Writes to standard output, which may be closed.
fn say(text: &str) -> Outcome {
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn complain(problem: &dyn Display) {
    let _unheard = writeln!(io::stderr(), "realtime: {problem}");
}

/// Ends on wrong usage or configuration.
fn refuse(problem: &dyn Display) -> ExitCode {
    complain(problem);
    ExitCode::from(2)
}

/// How long a health check waits for each step.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// How the answer of a live instance begins.
const HEALTHY: [u8; 15] = *b"HTTP/1.1 200 OK";

/// Whom the demo token names.
const DEMO_USER: &str = "demo";

/// How long the demo token is good: for a day of trying things out.
const DEMO_TTL: Duration = Duration::from_secs(86_400);
