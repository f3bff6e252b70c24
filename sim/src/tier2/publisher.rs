//! A simulated back end that publishes over gRPC.

use std::{rc::Rc, time::Duration};

use hyper_util::rt::TokioIo;
use realtime_proto::{
    BroadcastEventRequest, GetConnectionStatsRequest, NotifyBookingResultRequest,
    NotifyQueuePositionRequest, SendToUserRequest, realtime_service_client::RealtimeServiceClient,
};
use realtime_runtime::net::Net as _;
use tokio::time::{sleep, timeout};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

use super::{
    host::GRPC_PORT,
    journal::{Answer, Call, SharedJournal},
    net::SimNet,
    plan::{CallPlan, Plan, PublishPlan, USERS, pod_name},
};

type Grpc = RealtimeServiceClient<Channel>;

/// Makes all calls of the plan, and those at the end that everybody must hear of.
pub(super) async fn run(plan: Rc<Plan>, journal: SharedJournal) -> turmoil::Result {
    let pods: Vec<Grpc> = (0..plan.workers.len()).map(connect).collect();
    let planned = plan.publishes.iter().cloned().map(|publish| (publish, false));
    let last = last(&plan).into_iter().map(|publish| (publish, true));
    for (marker, (publish, last)) in (1..).zip(planned.chain(last)) {
        if publish.call.is_ingress() {
            continue;
        }
        let (plan, pods, journal) = (plan.clone(), pods.clone(), journal.clone());
        tokio::task::spawn_local(async move {
            sleep(Duration::from_millis(publish.at_ms)).await;
            let (attempts, outcome) = publish_until_done(pods, &publish, marker).await;
            journal.borrow_mut().call(Call {
                marker,
                stream: publish.call.stream(),
                durable: publish.call.is_durable(),
                attempts,
                pod: asked(&publish, attempts - 1, plan.workers.len()),
                last,
                outcome,
            });
        });
    }
    sleep(Duration::from_millis(plan.end_ms) - BEFORE_THE_END).await;
    for mut pod in pods {
        let mut stats = async |cluster| {
            let request = GetConnectionStatsRequest { cluster, ..Default::default() };
            pod.get_connection_stats(request).await.map(Response::into_inner).unwrap_or_default()
        };
        let stats = [stats(false).await, stats(true).await];
        journal.borrow_mut().stats.push(stats);
    }
    std::future::pending().await
}

/// One call to each stream, when all is well again.
fn last(plan: &Plan) -> Vec<PublishPlan> {
    let rooms = plan.streams().into_iter().filter(|stream| !stream.starts_with("user:"));
    let rooms = rooms.map(|room| CallPlan::Broadcast { room, exclude: None });
    let users = USERS.iter().flat_map(|user| {
        let user = (*user).to_owned();
        [CallPlan::Send { user: user.clone() }, CallPlan::Queue { user, event: 1 }]
    });
    let publish = |(number, call)| PublishPlan {
        at_ms: plan.last_ms,
        pod: number % plan.workers.len(),
        call,
        keyed: false,
        padding: 0,
    };
    rooms.chain(users).enumerate().map(publish).collect()
}

fn connect(pod: usize) -> Grpc {
    let host = pod_name(pod);
    let endpoint = Endpoint::from_shared(format!("http://{host}:{GRPC_PORT}"))
        .expect("host names are good URLs")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    let connector = tower::service_fn(move |_| {
        let host = host.clone();
        async move { SimNet::connect(&host, GRPC_PORT).await.map(TokioIo::new) }
    });
    RealtimeServiceClient::new(endpoint.connect_with_connector_lazy(connector))
}

/// Calls once, or with an idempotency key again and again, each time another instance.
async fn publish_until_done(
    pods: Vec<Grpc>,
    publish: &PublishPlan,
    marker: u64,
) -> (u32, Result<Answer, String>) {
    let attempts_max = if publish.keyed { ATTEMPTS_MAX } else { 1 };
    let mut attempts = 0;
    loop {
        let mut grpc = pods[asked(publish, attempts, pods.len())].clone();
        attempts += 1;
        let outcome = match timeout(CALL_TIMEOUT, call(&mut grpc, publish, marker)).await {
            Ok(outcome) => {
                outcome.map_err(|status| format!("{:?}: {}", status.code(), status.message()))
            }
            Err(_) => Err("no answer".to_owned()),
        };
        if outcome.is_ok() || attempts == attempts_max {
            return (attempts, outcome);
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Which instance is asked after so many attempts.
fn asked(publish: &PublishPlan, attempts: u32, pods: usize) -> usize {
    (publish.pod + usize::try_from(attempts).unwrap_or(0)) % pods
}

async fn call(grpc: &mut Grpc, publish: &PublishPlan, marker: u64) -> Result<Answer, Status> {
    let padding = "x".repeat(publish.padding);
    let payload = format!(r#"{{"n":{marker},"padding":"{padding}"}}"#);
    let idempotency_key = if publish.keyed { format!("key {marker}") } else { String::new() };
    let count = |count: i32| usize::try_from(count).unwrap_or(0);
    match publish.call.clone() {
        CallPlan::Broadcast { room, exclude } => {
            let answer = grpc.broadcast_event(BroadcastEventRequest {
                event_type: "ticket:reserved".to_owned(),
                room,
                payload,
                exclude_sender: exclude.is_some(),
                sender_user_id: exclude.unwrap_or_default(),
                idempotency_key,
            });
            let answer = answer.await?.into_inner();
            let recipients = count(answer.recipients);
            Ok(Answer { message_id: answer.message_id, recipients })
        }
        CallPlan::Send { user } => {
            let answer = grpc.send_to_user(SendToUserRequest {
                user_id: user,
                event_type: "note".to_owned(),
                payload,
                require_ack: false,
                idempotency_key,
            });
            let answer = answer.await?.into_inner();
            let recipients = count(answer.connections_notified);
            Ok(Answer { message_id: answer.message_id, recipients })
        }
        CallPlan::Booking { user } => {
            let answer = grpc.notify_booking_result(NotifyBookingResultRequest {
                user_id: user,
                booking_id: format!("b{marker}"),
                success: true,
                message: padding,
                idempotency_key,
                ..Default::default()
            });
            let answer = answer.await?.into_inner();
            let recipients = count(answer.active_connections);
            Ok(Answer { message_id: answer.message_id, recipients })
        }
        CallPlan::Queue { user, event } => {
            let answer = grpc.notify_queue_position(NotifyQueuePositionRequest {
                user_id: user,
                event_id: event.to_string(),
                position: i32::try_from(marker).unwrap_or(i32::MAX),
                idempotency_key,
                ..Default::default()
            });
            let answer = answer.await?.into_inner();
            let recipients = usize::from(answer.delivered);
            Ok(Answer { message_id: String::new(), recipients })
        }
        CallPlan::Ingress { .. } => unreachable!("it goes to Redis"),
    }
}

/// Nothing happens then any more, and there is time for the answers.
const BEFORE_THE_END: Duration = Duration::from_millis(1_000);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

const KEEPALIVE: Duration = Duration::from_secs(1);

const CALL_TIMEOUT: Duration = Duration::from_secs(3);

const RETRY_PAUSE: Duration = Duration::from_millis(300);

const ATTEMPTS_MAX: u32 = 5;
