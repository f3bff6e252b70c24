//! An instance of the service on a simulated host.

use std::{cell::RefCell, rc::Rc};

use realtime_runtime::{
    config::Config,
    server::{self, Spawn},
};
use tokio::sync::mpsc;

use super::{
    net::SimNet,
    plan::{Plan, pod_name},
    trace,
    twins::Twins,
};

/// The ways to stop each instance, and who has stopped.
pub(super) type SharedStops = Rc<RefCell<Vec<Stop>>>;

/// See [`SharedStops`].
#[derive(Debug, Default)]
pub(super) struct Stop {
    pub(super) signal: Option<mpsc::Sender<()>>,
    pub(super) stopped: bool,
}

/// What the instance is configured with.
///
/// # Panics
/// When the plan has a knob that does not exist, or with a value that is not accepted.
pub(super) fn config(plan: &Plan, pod: usize) -> Config {
    let workers = plan.workers[pod].to_string();
    let lookup = |name: &str| {
        if let Some((_, value)) = plan.knobs.iter().find(|(knob, _)| knob == name) {
            return Some(value.clone());
        }
        let value = match name {
            "WORKERS" => workers.as_str(),
            "JWT_SECRET" => "a secret that is long enough for a simulation",
            "REDIS_HOST" => "redis",
            "REDIS_POOL_SIZE" => "2",
            "WS_MAX_CONNECTIONS" => "1000",
            "MAX_PAYLOAD_SIZE" => "24000",
            "WS_PING_INTERVAL" => "2s",
            "WS_PONG_TIMEOUT" => "5s",
            "WS_JOIN_TIMEOUT" => "2s",
            "TOKEN_EXPIRY_NOTICE" => "1s",
            "READY_REDIS_GRACE" => "2s",
            "DRAIN_DELAY" => "500ms",
            "DRAIN_TIMEOUT" => "2s",
            _ => return None,
        };
        Some(value.to_owned())
    };
    Config::from_env(&lookup).unwrap_or_else(|error| panic!("the plan configures {error}"))
}

/// Runs the instance, with twins of its machines. Once it has stopped it waits to be cleaned up.
pub(super) async fn run(
    plan: Rc<Plan>,
    pod: usize,
    stops: SharedStops,
    twins: Twins,
) -> turmoil::Result {
    let (signal, shutdown) = mpsc::channel(2);
    stops.borrow_mut()[pod] = Stop { signal: Some(signal), stopped: false };
    let name = pod_name(pod);
    let record = |_, machine: &str| twins.recorder(format!("{machine} of {name}"));
    server::run::<SimNet>(config(&plan, pod), Spawn::Inline, &record, shutdown, |_| {
        trace::note(&name, format_args!("\"state\":\"listening\""));
    })
    .await?;
    trace::note(&name, format_args!("\"state\":\"stopped\""));
    stops.borrow_mut()[pod].stopped = true;
    std::future::pending().await
}

/// The port for WebSockets, as in `env.example`.
pub(super) const HTTP_PORT: u16 = 3003;

/// The port for gRPC, as in `env.example`.
pub(super) const GRPC_PORT: u16 = 50_057;
