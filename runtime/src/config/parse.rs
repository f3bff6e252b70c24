//! From variables to a [`Config`].

use std::{net::IpAddr, num::NonZero, thread::available_parallelism, time::Duration};

use realtime_core::{
    stream::{ROOM_BYTES_MAX, check},
    wire::{TYPE_BYTES_MAX, is_reserved},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

use super::{
    Config, ConfigError, GrpcTls, Keys, RecordConfig, RedisConfig, WsConfig, read::Reader,
    tls::server_tls,
};
use crate::{auth::Verifier, broker::Retention};

/// Every variable, and its default; an empty default is explained in `env.example`.
pub const VARIABLES: &[(&str, &str)] = &[
    ("BIND_ADDRESS", "0.0.0.0"),
    ("HTTP_PORT", "3003"),
    ("HTTP_READ_TIMEOUT", "15s"),
    ("HTTP_WRITE_TIMEOUT", "15s"),
    ("WORKERS", ""),
    ("GRPC_PORT", "50057"),
    ("GRPC_TLS_ENABLED", "false"),
    ("GRPC_TLS_CERT", ""),
    ("GRPC_TLS_KEY", ""),
    ("GRPC_TLS_CA", ""),
    ("MAX_PAYLOAD_SIZE", "65536"),
    ("RECEIPT_TIMEOUT", "250ms"),
    ("ACK_TIMEOUT", "5s"),
    ("WS_ALLOW_ANONYMOUS", "true"),
    ("WS_ALLOWED_ORIGINS", "*"),
    ("WS_PUBLIC_ROOMS", "event:*"),
    ("WS_MAX_CONNECTIONS", "0"),
    ("WS_MAX_CONNECTIONS_PER_USER", "20"),
    ("WS_ACCEPT_RATE", "0"),
    ("WS_MAX_ROOMS", "100"),
    ("WS_MAX_MESSAGE_SIZE", "65536"),
    ("WS_MESSAGE_RATE", "20"),
    ("WS_MESSAGE_BURST", "200"),
    ("WS_MAX_ERRORS", "50"),
    ("WS_PING_INTERVAL", "30s"),
    ("WS_PONG_TIMEOUT", "60s"),
    ("WS_PONG_WAIT", ""),
    ("WS_JOIN_TIMEOUT", "5s"),
    ("WS_CLOSE_TIMEOUT", "5s"),
    ("WS_SLOW_TIMEOUT", "10s"),
    ("WS_OUTBOX_BYTES", "262144"),
    ("OUTBOX_TOTAL_BYTES", "64MiB"),
    ("JWT_SECRET", ""),
    ("JWT_PUBLIC_KEY_FILE", ""),
    ("JWKS_FILE", ""),
    ("JWT_ISSUER", ""),
    ("JWT_AUDIENCE", ""),
    ("JWT_LEEWAY", "0s"),
    ("TOKEN_EXPIRY_NOTICE", "60s"),
    ("REDIS_HOST", ""),
    ("REDIS_PORT", "6379"),
    ("REDIS_USERNAME", ""),
    ("REDIS_PASSWORD", ""),
    ("REDIS_DB", "0"),
    ("REDIS_POOL_SIZE", "100"),
    ("REDIS_PREFIX", "realtime:"),
    ("REDIS_WAIT_REPLICAS", "0"),
    ("READY_REDIS_GRACE", "15s"),
    ("MEMORY_BROKER_BYTES", "256MiB"),
    ("INGRESS_ENABLED", "true"),
    ("HISTORY_SIZE", "256"),
    ("HISTORY_SIZE_ROOM", "2048"),
    ("HISTORY_BYTES", "1MiB"),
    ("HISTORY_TTL", "10m"),
    ("POSITION_TTL", "24h"),
    ("POSITION_CHECK", "5m"),
    ("REPAIR_TIMEOUT", "2s"),
    ("DELIVERY_LATEST", ""),
    ("LATEST_TTL", "10m"),
    ("IDEMPOTENCY_TTL", "5m"),
    ("METRICS_ENABLED", "true"),
    ("METRICS_PORT", "9057"),
    ("METRICS_MAX_ROOMS", "100"),
    ("DRAIN_DELAY", "5s"),
    ("DRAIN_TIMEOUT", "25s"),
    ("RECORD_DIR", ""),
    ("RECORD_BYTES", "256MiB"),
    ("LOG_LEVEL", "info"),
    ("LOG_FORMAT", "json"),
];

impl Config {
    /// Reads the environment of this process, and raises the limit of open files as far as it may.
    ///
    /// # Errors
    /// See [`Self::from_env`].
    pub fn from_process() -> Result<Self, ConfigError> {
        let lookup = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
        Self::from_env(&lookup)
    }

    /// Reads the variables that `lookup` knows. Files that are named are read, to check them.
    ///
    /// # Errors
    /// A value can't be parsed or is out of range, a file is unusable, or a combination is unsafe.
    pub fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        parse(&Reader { lookup }, &System::detect())
    }

    /// What an operator should know before trusting the configuration, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if u64::from(self.ws.connections_max).saturating_add(FILES_RESERVED) > files {
            warnings.push(format!(
                "WS_MAX_CONNECTIONS is {}, but only {files} files can be open, of which \
                 {FILES_RESERVED} are needed otherwise",
                self.ws.connections_max
            ));
        }
        let secret_bytes = self.keys.secret.as_ref().map_or(usize::MAX, String::len);
        if secret_bytes < SECRET_BYTES_MIN {
            warnings.push(format!(
                "JWT_SECRET has {secret_bytes} bytes; with less than {SECRET_BYTES_MIN} it can be \
                 guessed from a token"
            ));
        }
        let keys = &self.keys;
        if keys.secret.is_none() && keys.public_key_file.is_none() && keys.jwks_file.is_none() {
            warnings.push(
                "JWT_SECRET, JWT_PUBLIC_KEY_FILE and JWKS_FILE are not set: every token is refused"
                    .to_owned(),
            );
        }
        if let Some(record) = &self.record {
            warnings.push(format!(
                "RECORD_DIR is set: who is connected, and all that is sent, goes into files in {}",
                record.dir.display()
            ));
        }
        warnings
    }
}

/// What the machine offers.
struct System {
    /// Threads that can run at once.
    cores: u16,
    /// Files that can be open at once.
    files: u64,
}

impl System {
    fn detect() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let files = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.maximum,
            Err(_) => limit.current,
        };
        Self {
            cores: u16::try_from(cores).unwrap_or(WORKERS_MAX).min(WORKERS_MAX),
            files: files.unwrap_or(u64::MAX),
        }
    }
}

fn parse(env: &Reader<'_>, system: &System) -> Result<Config, ConfigError> {
    let workers = match env.text("WORKERS") {
        Some(_) => env.number("WORKERS", 1..=WORKERS_MAX)?,
        None => system.cores,
    };
    let redis = redis(env, workers)?;
    let config = Config {
        bind_address: bind_address(env)?,
        http_port: env.number("HTTP_PORT", 0..=u16::MAX)?,
        http_read_timeout: env.duration("HTTP_READ_TIMEOUT", ms(10)..=minutes(5))?,
        http_write_timeout: env.duration("HTTP_WRITE_TIMEOUT", ms(10)..=minutes(5))?,
        grpc_port: env.number("GRPC_PORT", 0..=u16::MAX)?,
        grpc_tls: grpc_tls(env)?,
        metrics_port: metrics_port(env)?,
        metrics_rooms_max: env.number("METRICS_MAX_ROOMS", 0..=10_000)?,
        workers,
        ws: web_socket(env, system)?,
        keys: keys(env, redis.is_some())?,
        redis,
        memory_broker_bytes_max: env.bytes("MEMORY_BROKER_BYTES", MIB..=MIB << 16)?,
        position_check: position_check(env)?,
        repair_timeout: env.duration("REPAIR_TIMEOUT", ms(10)..=minutes(5))?,
        retention: retention(env)?,
        latest_types: latest_types(env)?,
        ingress: env.flag("INGRESS_ENABLED")?,
        receipt_timeout: env.duration("RECEIPT_TIMEOUT", Duration::ZERO..=ms(10_000))?,
        ack_timeout: env.duration("ACK_TIMEOUT", ms(10)..=minutes(5))?,
        payload_bytes_max: env.bytes("MAX_PAYLOAD_SIZE", 128..=MIB << 4)?,
        ready_grace: env.duration("READY_REDIS_GRACE", Duration::ZERO..=minutes(60))?,
        drain_delay: env.duration("DRAIN_DELAY", Duration::ZERO..=minutes(10))?,
        drain_timeout: env.duration("DRAIN_TIMEOUT", Duration::ZERO..=minutes(60))?,
        record: record(env)?,
        log_level: log_level(env)?,
        log_json: match env.text("LOG_FORMAT").as_deref() {
            Some("json") => true,
            Some("text") => false,
            _ => return Err(env.error("LOG_FORMAT", "accepted is json or text")),
        },
    };
    ports_differ(env, &config)?;
    payloads_fit(env, &config)?;
    Verifier::new(&config.keys).map_err(|error| env.error(error.variable, error.problem))?;
    Ok(config)
}

fn record(env: &Reader<'_>) -> Result<Option<RecordConfig>, ConfigError> {
    let file_bytes_max = env.bytes("RECORD_BYTES", 1 << 10..=MIB << 16)?;
    Ok(env.path("RECORD_DIR").map(|dir| RecordConfig { dir, file_bytes_max }))
}

fn bind_address(env: &Reader<'_>) -> Result<IpAddr, ConfigError> {
    let text = env.text("BIND_ADDRESS").unwrap_or_default();
    text.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| {
        env.error("BIND_ADDRESS", "accepted is an IP address such as 0.0.0.0, 127.0.0.1 or ::")
    })
}

fn grpc_tls(env: &Reader<'_>) -> Result<Option<GrpcTls>, ConfigError> {
    if !env.flag("GRPC_TLS_ENABLED")? {
        return match env.text("GRPC_TLS_CA") {
            // Who asks for client certificates must not get a port that takes everyone.
            Some(_) => Err(env.error("GRPC_TLS_CA", "has no effect without GRPC_TLS_ENABLED=true")),
            None => Ok(None),
        };
    }
    let needed = |name| {
        env.path(name)
            .ok_or_else(|| env.error(name, "needed with GRPC_TLS_ENABLED=true: a PEM file"))
    };
    let tls = GrpcTls {
        cert: needed("GRPC_TLS_CERT")?,
        key: needed("GRPC_TLS_KEY")?,
        client_ca: env.path("GRPC_TLS_CA"),
    };
    server_tls(&tls)?;
    Ok(Some(tls))
}

fn metrics_port(env: &Reader<'_>) -> Result<Option<u16>, ConfigError> {
    let port = env.number("METRICS_PORT", 0..=u16::MAX)?;
    Ok(env.flag("METRICS_ENABLED")?.then_some(port))
}

fn ports_differ(env: &Reader<'_>, config: &Config) -> Result<(), ConfigError> {
    let ports = [
        ("HTTP_PORT", Some(config.http_port)),
        ("GRPC_PORT", Some(config.grpc_port)),
        ("METRICS_PORT", config.metrics_port),
    ];
    for (at, (name, port)) in ports.iter().enumerate() {
        for (earlier, other) in &ports[..at] {
            // Port 0 is a free one each time.
            if port == other && port.is_some_and(|port| port != 0) {
                return Err(env.error(name, format!("accepted is another port than {earlier}")));
            }
        }
    }
    Ok(())
}

/// A message that does not fit into an outbox closes every connection that it has to wait for, as
/// often as they come back for it.
fn payloads_fit(env: &Reader<'_>, config: &Config) -> Result<(), ConfigError> {
    let needed = config.payload_bytes_max + ENVELOPE_BYTES_MAX;
    if config.ws.outbox_bytes_max >= needed {
        return Ok(());
    }
    let accepted =
        format!("accepted are at least {needed} bytes: MAX_PAYLOAD_SIZE and an envelope");
    Err(env.error("WS_OUTBOX_BYTES", accepted))
}

fn web_socket(env: &Reader<'_>, system: &System) -> Result<WsConfig, ConfigError> {
    let config = WsConfig {
        connections_max: match env.number("WS_MAX_CONNECTIONS", 0..=CONNECTIONS_MAX)? {
            0 => connections_of(system.files),
            connections => connections,
        },
        sockets_max: connections_of(system.files.saturating_add(FILES_ARRIVING)),
        connections_per_user_max: env.number("WS_MAX_CONNECTIONS_PER_USER", 1..=CONNECTIONS_MAX)?,
        accept_rate: env.number("WS_ACCEPT_RATE", 0..=1_000_000)?,
        rooms_max: env.number("WS_MAX_ROOMS", 1..=10_000)?,
        allow_anonymous: env.flag("WS_ALLOW_ANONYMOUS")?,
        allowed_origins: origins(env)?,
        public_rooms: public_rooms(env)?,
        ping_interval: env.duration("WS_PING_INTERVAL", ms(10)..=minutes(60))?,
        pong_timeout: pong_timeout(env)?,
        join_timeout: env.duration("WS_JOIN_TIMEOUT", ms(10)..=minutes(5))?,
        close_timeout: env.duration("WS_CLOSE_TIMEOUT", ms(10)..=minutes(5))?,
        slow_timeout: env.duration("WS_SLOW_TIMEOUT", ms(10)..=minutes(10))?,
        expiry_notice: env.duration("TOKEN_EXPIRY_NOTICE", Duration::ZERO..=minutes(60))?,
        message_bytes_max: env.bytes("WS_MAX_MESSAGE_SIZE", 128..=MIB << 4)?,
        message_rate: env.number("WS_MESSAGE_RATE", 0..=1_000_000)?,
        message_burst: env.number("WS_MESSAGE_BURST", 1..=1_000_000)?,
        errors_max: env.number("WS_MAX_ERRORS", 1..=1_000_000)?,
        outbox_bytes_max: env.bytes("WS_OUTBOX_BYTES", 1 << 10..=MIB << 10)?,
        outbox_total_bytes_max: env.bytes("OUTBOX_TOTAL_BYTES", 1 << 10..=MIB << 16)?,
    };
    if config.pong_timeout < config.ping_interval + PINGED_LATE {
        let accepted = format!(
            "accepted is at least {PINGED_LATE:?} more than WS_PING_INTERVAL, {:?}: a peer must be \
             pinged before it is given up",
            config.ping_interval
        );
        let name = if env.given("WS_PONG_TIMEOUT").is_none() && env.given("WS_PONG_WAIT").is_some()
        {
            "WS_PONG_WAIT"
        } else {
            "WS_PONG_TIMEOUT"
        };
        return Err(env.error(name, accepted));
    }
    if config.outbox_bytes_max > config.outbox_total_bytes_max {
        let accepted = "accepted is at most OUTBOX_TOTAL_BYTES, which all outboxes share";
        return Err(env.error("WS_OUTBOX_BYTES", accepted));
    }
    Ok(config)
}

/// Pings wait for others that are due in the same tick of the wheel, and pongs for the network.
const PINGED_LATE: Duration = Duration::from_millis(300);

/// `WS_PONG_WAIT` is what the variable used to be called.
fn pong_timeout(env: &Reader<'_>) -> Result<Duration, ConfigError> {
    let range = ms(10)..=minutes(120);
    if env.given("WS_PONG_WAIT").is_none() {
        return env.duration("WS_PONG_TIMEOUT", range);
    }
    let wait = env.duration("WS_PONG_WAIT", range.clone())?;
    if env.given("WS_PONG_TIMEOUT").is_some() && env.duration("WS_PONG_TIMEOUT", range)? != wait {
        let accepted = "an older name of WS_PONG_TIMEOUT, which says something else; set only one";
        return Err(env.error("WS_PONG_WAIT", accepted));
    }
    Ok(wait)
}

fn origins(env: &Reader<'_>) -> Result<Vec<String>, ConfigError> {
    let origins = env.list("WS_ALLOWED_ORIGINS");
    let is_origin = |text: &String| {
        let host = text.split_once("://").map(|(_, host)| host);
        // Only the whole list can be open: a `*` within an origin would never match.
        text == "*" || host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*']))
    };
    if origins.len() > LIST_MAX || !origins.iter().all(is_origin) {
        let accepted = "accepted is * or up to 1000 origins such as https://shop.example, \
                        separated by commas, without a path";
        return Err(env.error("WS_ALLOWED_ORIGINS", accepted));
    }
    Ok(origins)
}

fn public_rooms(env: &Reader<'_>) -> Result<Vec<String>, ConfigError> {
    let rooms = env.list("WS_PUBLIC_ROOMS");
    if rooms.len() > LIST_MAX || rooms.iter().any(|room| check(room, ROOM_BYTES_MAX).is_err()) {
        let accepted = "accepted are up to 1000 patterns such as event:*, of up to 200 bytes, \
                        separated by commas";
        return Err(env.error("WS_PUBLIC_ROOMS", accepted));
    }
    Ok(rooms)
}

fn latest_types(env: &Reader<'_>) -> Result<Vec<String>, ConfigError> {
    let types = env.list("DELIVERY_LATEST");
    let refused = |kind: &String| check(kind, TYPE_BYTES_MAX).is_err() || is_reserved(kind);
    if types.len() > LIST_MAX || types.iter().any(refused) {
        let accepted = "accepted are up to 1000 event types, separated by commas, none of which \
                        begins with system:, auth: or room:";
        return Err(env.error("DELIVERY_LATEST", accepted));
    }
    Ok(types)
}

fn keys(env: &Reader<'_>, redis: bool) -> Result<Keys, ConfigError> {
    let mut given = ["JWT_SECRET", "JWT_PUBLIC_KEY_FILE", "JWKS_FILE"]
        .into_iter()
        .filter(|name| env.given(name).is_some());
    let first = given.next();
    if let (Some(first), Some(second)) = (first, given.next()) {
        return Err(env.error(second, format!("{first} is set too; accepted is one of them")));
    }
    let anonymous_only =
        env.given("WS_ALLOW_ANONYMOUS").is_some() && env.flag("WS_ALLOW_ANONYMOUS")?;
    if first.is_none() && redis && !anonymous_only {
        let accepted = "needed with REDIS_HOST to verify tokens: a secret, or one of \
                        JWT_PUBLIC_KEY_FILE and JWKS_FILE; or say WS_ALLOW_ANONYMOUS=true to \
                        refuse every token";
        return Err(env.error("JWT_SECRET", accepted));
    }
    let secret_is_random = first.is_none() && !redis;
    Ok(Keys {
        // Not trimmed: white space may be part of a secret.
        secret: if secret_is_random { Some(random_secret()) } else { env.given("JWT_SECRET") },
        secret_is_random,
        public_key_file: env.path("JWT_PUBLIC_KEY_FILE"),
        jwks_file: env.path("JWKS_FILE"),
        issuer: env.text("JWT_ISSUER"),
        audience: env.text("JWT_AUDIENCE"),
        leeway: env.duration("JWT_LEEWAY", Duration::ZERO..=minutes(60))?,
    })
}

fn random_secret() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn redis(env: &Reader<'_>, workers: u16) -> Result<Option<RedisConfig>, ConfigError> {
    let port = env.number("REDIS_PORT", 1..=u16::MAX)?;
    let db = env.number("REDIS_DB", 0..=65_535)?;
    let pool = env.number("REDIS_POOL_SIZE", 1..=10_000)?;
    let wait_replicas = env.number("REDIS_WAIT_REPLICAS", 0..=100)?;
    let prefix = env.text("REDIS_PREFIX").unwrap_or_default();
    // Braces would name a hash tag of their own, and streams have theirs.
    if check(&prefix, PREFIX_BYTES_MAX).is_err() || prefix.contains(['{', '}']) {
        let accepted = "accepted are up to 64 bytes without braces and control characters";
        return Err(env.error("REDIS_PREFIX", accepted));
    }
    let Some(host) = env.text("REDIS_HOST") else {
        return Ok(None);
    };
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        let accepted = "accepted is a host name or an IP address; the port goes into REDIS_PORT";
        return Err(env.error("REDIS_HOST", accepted));
    }
    Ok(Some(RedisConfig {
        host,
        port,
        username: env.text("REDIS_USERNAME"),
        password: env.given("REDIS_PASSWORD"),
        db,
        prefix,
        connections: usize::from(workers).min(pool).min(COMMAND_CONNECTIONS_MAX),
        wait_replicas,
    }))
}

fn retention(env: &Reader<'_>) -> Result<Retention, ConfigError> {
    Ok(Retention {
        user_entries_max: env.number("HISTORY_SIZE", 0..=100_000)?,
        room_entries_max: env.number("HISTORY_SIZE_ROOM", 1..=100_000)?,
        bytes_max: env.bytes("HISTORY_BYTES", 1 << 10..=MIB << 6)?,
        history_ttl: env.duration("HISTORY_TTL", ms(1_000)..=hours(24))?,
        position_ttl: env.duration("POSITION_TTL", ms(1_000)..=hours(24 * 30))?,
        latest_ttl: env.duration("LATEST_TTL", ms(1_000)..=hours(24))?,
        idempotency_ttl: env.duration("IDEMPOTENCY_TTL", ms(1_000)..=hours(24))?,
    })
}

/// It renews the numbering of streams, which must not expire meanwhile, though one may fail.
fn position_check(env: &Reader<'_>) -> Result<Duration, ConfigError> {
    let longest = retention(env)?.position_ttl / 4;
    Ok(env.duration("POSITION_CHECK", ms(500)..=hours(24))?.min(longest))
}

fn log_level(env: &Reader<'_>) -> Result<String, ConfigError> {
    let text = env.text("LOG_LEVEL").unwrap_or_default().to_ascii_lowercase();
    // A lone word that is no level would be read as a module's name, and switch all else off.
    let known = ["off", "error", "warn", "info", "debug", "trace"].contains(&text.as_str());
    let filter = text.contains('=') && EnvFilter::builder().parse(&text).is_ok();
    if known || filter {
        return Ok(text);
    }
    let accepted = "accepted is off, error, warn, info, debug or trace, or a filter such as \
                    info,realtime_runtime=debug";
    Err(env.error("LOG_LEVEL", accepted))
}

/// Warnings about variables that look like misspelt ones of ours.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let ours = |name: &String| {
        PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            && !VARIABLES.iter().any(|(known, _)| known == name)
    };
    let mut warnings: Vec<String> = names
        .filter(ours)
        .filter_map(|name| {
            let near = |(known, _): &&(&str, &str)| distance(known, &name) <= TYPOS_MAX;
            let (meant, _) = VARIABLES.iter().find(near)?;
            Some(format!("{name} is not a variable of this service; is {meant} meant?"))
        })
        .collect();
    warnings.sort();
    warnings
}

/// How many characters have to be put in, taken out or replaced to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > TYPOS_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Connections that fit into a limit of open files.
fn connections_of(files: u64) -> u32 {
    let connections = files.saturating_sub(FILES_RESERVED).clamp(1, CONNECTIONS_MAX.into());
    u32::try_from(connections).expect("clamped to a u32")
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

const fn hours(hours: u64) -> Duration {
    minutes(60 * hours)
}

/// More threads than this never helped a service whose work is system calls.
const WORKERS_MAX: u16 = 64;

/// Open files that are not clients: listeners, Redis, gRPC, plain HTTP, libraries.
const FILES_RESERVED: u64 = 512;

/// Those of them that connections may take while they are not WebSockets.
const FILES_ARRIVING: u64 = FILES_RESERVED / 2;

/// Far beyond what one address can serve; keeps sums of connections within 32 bits.
const CONNECTIONS_MAX: u32 = 10_000_000;

/// Command connections that are of use: Redis runs scripts on one core.
const COMMAND_CONNECTIONS_MAX: usize = 4;

/// What a frame has beside its payload: a type and a room, escaped, an id, and what it costs to
/// queue it.
const ENVELOPE_BYTES_MAX: usize = 1 << 10;

/// Entries of a list.
const LIST_MAX: usize = 1_000;

/// Longest prefix of keys and channels.
const PREFIX_BYTES_MAX: usize = 64;

/// 256 bits, as RFC 7518 §3.2 demands of keys for HS256.
const SECRET_BYTES_MIN: usize = 32;

/// Typing errors in a variable that are recognised.
const TYPOS_MAX: usize = 2;

/// What variables begin with that are certainly meant for this service.
const PREFIXES: [&str; 6] = ["WS_", "JWT_", "REDIS_", "GRPC_", "HTTP_", "METRICS_"];

const MIB: usize = 1 << 20;

#[cfg(test)]
mod tests;
