//! Configuration: environment variables, parsed once and trusted afterwards.

mod parse;
mod read;
mod tls;

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use crate::broker::Retention;

pub use parse::{VARIABLES, unknown_variables};
pub use read::{ConfigError, parse_duration};
pub use tls::server_tls;

/// Everything that can be configured. `env.example` says what each variable means.
#[derive(Clone, Debug)]
pub struct Config {
    /// `BIND_ADDRESS`: the address that all ports are bound on.
    pub bind_address: IpAddr,
    /// `HTTP_PORT`; 0 takes a free one.
    pub http_port: u16,
    /// `HTTP_READ_TIMEOUT`: a request must be complete by then.
    pub http_read_timeout: Duration,
    /// `HTTP_WRITE_TIMEOUT`: a plain HTTP answer must be written by then.
    pub http_write_timeout: Duration,
    /// `GRPC_PORT`; 0 takes a free one.
    pub grpc_port: u16,
    /// `GRPC_TLS_*`; none without `GRPC_TLS_ENABLED`.
    pub grpc_tls: Option<GrpcTls>,
    /// `METRICS_PORT`; none without `METRICS_ENABLED`. 0 takes a free one.
    pub metrics_port: Option<u16>,
    /// `METRICS_MAX_ROOMS`
    pub metrics_rooms_max: usize,
    /// `WORKERS`
    pub workers: u16,
    /// `WS_*`
    pub ws: WsConfig,
    /// `JWT_*`, `JWKS_FILE`
    pub keys: Keys,
    /// None for the embedded broker (`REDIS_HOST` unset).
    pub redis: Option<RedisConfig>,
    /// `MEMORY_BROKER_BYTES`
    pub memory_broker_bytes_max: usize,
    /// `HISTORY_*`, `POSITION_TTL`, `LATEST_TTL`, `IDEMPOTENCY_TTL`
    pub retention: Retention,
    /// `POSITION_CHECK`, but at most a quarter of `POSITION_TTL`: in this time each stream is
    /// compared with the broker once.
    pub position_check: Duration,
    /// `REPAIR_TIMEOUT`
    pub repair_timeout: Duration,
    /// `DELIVERY_LATEST`: event types, beside `booking:queue_position`, of which only the newest
    /// value matters.
    pub latest_types: Vec<String>,
    /// `INGRESS_ENABLED`
    pub ingress: bool,
    /// `RECEIPT_TIMEOUT`
    pub receipt_timeout: Duration,
    /// `ACK_TIMEOUT`
    pub ack_timeout: Duration,
    /// `MAX_PAYLOAD_SIZE`, bytes
    pub payload_bytes_max: usize,
    /// `READY_REDIS_GRACE`
    pub ready_grace: Duration,
    /// `DRAIN_DELAY`
    pub drain_delay: Duration,
    /// `DRAIN_TIMEOUT`
    pub drain_timeout: Duration,
    /// None without `RECORD_DIR`.
    pub record: Option<RecordConfig>,
    /// `LOG_LEVEL`, as a `tracing_subscriber` filter
    pub log_level: String,
    /// `LOG_FORMAT` is `json`, not `text`
    pub log_json: bool,
}

/// What is recorded.
#[derive(Clone, Debug)]
pub struct RecordConfig {
    /// `RECORD_DIR`
    pub dir: PathBuf,
    /// `RECORD_BYTES`, of each file
    pub file_bytes_max: usize,
}

/// What concerns WebSockets.
#[derive(Clone, Debug)]
pub struct WsConfig {
    /// `WS_MAX_CONNECTIONS`, resolved: 0 becomes the file limit less 512.
    pub connections_max: u32,
    /// Sockets of clients at once, WebSockets or not yet: they leave files for everything else.
    pub sockets_max: u32,
    /// `WS_MAX_CONNECTIONS_PER_USER`
    pub connections_per_user_max: u32,
    /// `WS_ACCEPT_RATE`; 0 is no limit.
    pub accept_rate: u32,
    /// `WS_MAX_ROOMS`
    pub rooms_max: u32,
    /// `WS_ALLOW_ANONYMOUS`
    pub allow_anonymous: bool,
    /// `WS_ALLOWED_ORIGINS`
    pub allowed_origins: Vec<String>,
    /// `WS_PUBLIC_ROOMS`
    pub public_rooms: Vec<String>,
    /// `WS_PING_INTERVAL`
    pub ping_interval: Duration,
    /// `WS_PONG_TIMEOUT`
    pub pong_timeout: Duration,
    /// `WS_JOIN_TIMEOUT`
    pub join_timeout: Duration,
    /// `WS_CLOSE_TIMEOUT`
    pub close_timeout: Duration,
    /// `WS_SLOW_TIMEOUT`
    pub slow_timeout: Duration,
    /// `TOKEN_EXPIRY_NOTICE`
    pub expiry_notice: Duration,
    /// `WS_MAX_MESSAGE_SIZE`, bytes
    pub message_bytes_max: usize,
    /// `WS_MESSAGE_RATE`, a second; 0 is no limit.
    pub message_rate: u32,
    /// `WS_MESSAGE_BURST`
    pub message_burst: u32,
    /// `WS_MAX_ERRORS`, in a row
    pub errors_max: u32,
    /// `WS_OUTBOX_BYTES`
    pub outbox_bytes_max: usize,
    /// `OUTBOX_TOTAL_BYTES`
    pub outbox_total_bytes_max: usize,
}

/// TLS of the gRPC port.
#[derive(Clone, Debug)]
pub struct GrpcTls {
    /// `GRPC_TLS_CERT`, PEM
    pub cert: PathBuf,
    /// `GRPC_TLS_KEY`, PEM
    pub key: PathBuf,
    /// `GRPC_TLS_CA`, PEM: clients must show a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

/// What tokens are verified with.
#[derive(Clone)]
pub struct Keys {
    /// `JWT_SECRET`, or a random one.
    pub secret: Option<String>,
    /// The secret was made up at this start; a demo token goes to standard output.
    pub secret_is_random: bool,
    /// `JWT_PUBLIC_KEY_FILE`
    pub public_key_file: Option<PathBuf>,
    /// `JWKS_FILE`
    pub jwks_file: Option<PathBuf>,
    /// `JWT_ISSUER`
    pub issuer: Option<String>,
    /// `JWT_AUDIENCE`
    pub audience: Option<String>,
    /// `JWT_LEEWAY`
    pub leeway: Duration,
}

/// Where Redis is.
#[derive(Clone)]
pub struct RedisConfig {
    /// `REDIS_HOST`
    pub host: String,
    /// `REDIS_PORT`
    pub port: u16,
    /// `REDIS_USERNAME`
    pub username: Option<String>,
    /// `REDIS_PASSWORD`
    pub password: Option<String>,
    /// `REDIS_DB`
    pub db: i64,
    /// `REDIS_PREFIX`
    pub prefix: String,
    /// Command connections: min(`REDIS_POOL_SIZE`, `WORKERS`, 4).
    pub connections: usize,
    /// `REDIS_WAIT_REPLICAS`; 0 waits for none.
    pub wait_replicas: u32,
}

impl fmt::Debug for Keys {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl fmt::Debug for RedisConfig {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
