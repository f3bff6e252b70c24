//! Twenty thousand notifications through everything that goes wrong on a bad day: what was
//! acknowledged arrives once and in order, or the client is told that something is missing.
//!
//! Redis may lose everything at any time here: each stream has a new epoch then, by which everyone
//! is told. (What only the publisher's instance could tell is a write that Redis acknowledged and
//! then lost alone, as in a failover to a replica that lags.)

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use realtime_core::rng::Rng;
use realtime_proto::{
    SendToUserRequest, SendToUserResponse, realtime_service_client::RealtimeServiceClient,
};
use serde_json::Value;
use tokio::{net::TcpStream, time::sleep};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use tonic::{Code, Request, Status, transport::Channel};

use crate::common::{
    eventually, grpc,
    redis::Redis,
    server::{Server, Setup},
    token::token,
};

const USERS: usize = 200;
const EACH: usize = 100;
const INSTANCES: usize = 3;

/// What everybody knows.
#[derive(Debug, Default)]
struct Shared {
    /// How to reach the instances that there are at present: HTTP and gRPC.
    instances: Mutex<Vec<(SocketAddr, Channel)>>,
    /// How often Redis has lost everything.
    losses: AtomicUsize,
    connected: AtomicUsize,
    acknowledged: AtomicUsize,
    /// Nothing goes wrong any more, and everything is published.
    over: AtomicBool,
}

/// What one client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Number(usize),
    /// `recovered: false` or `system:resync`.
    Told,
}

/// What became of one user's notifications.
#[derive(Debug, Default)]
struct Published {
    /// An idempotency key of theirs was lost between two attempts.
    maybe_twice: BTreeSet<usize>,
    retries: usize,
}

#[tokio::test]
async fn what_was_acknowledged_arrives_once_in_order_or_the_client_is_told() {
    let mut redis = Redis::start_on_disk().await;
    let setup = Setup::on(&redis);
    let mut servers: Vec<Server> = Vec::new();
    for _ in 0..INSTANCES {
        servers.push(setup.start().await);
    }
    let shared = Arc::new(Shared::default());
    let way = |server: &Server| (server.http, grpc::channel(server));
    *shared.instances.lock().unwrap() = servers.iter().map(way).collect();

    let clients = (0..USERS).map(|user| tokio::spawn(listen(Arc::clone(&shared), user)));
    let clients: Vec<_> = clients.collect();
    reach("all clients to connect", &shared.connected, USERS).await;
    let publishers = (0..USERS).map(|user| tokio::spawn(publish(Arc::clone(&shared), user)));
    let publishers: Vec<_> = publishers.collect();

    // One after another, as the work goes on.
    let (mut kills, mut cuts, mut restarts) = (0, 0, 0);
    for step in 1..=18 {
        reach("the work to go on", &shared.acknowledged, step * 1_000).await;
        match step % 6 {
            0 | 3 => {
                let at = kills % INSTANCES;
                servers[at].kill();
                kills += 1;
                servers[at] = setup.start().await;
                shared.instances.lock().unwrap()[at] = way(&servers[at]);
            }
            1 | 4 => {
                redis.run::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                cuts += 1;
            }
            2 => {
                redis.restart().await;
                restarts += 1;
            }
            _ => {
                shared.losses.fetch_add(1, SeqCst);
                redis.restart_without_data().await;
                shared.losses.fetch_add(1, SeqCst);
            }
        }
    }
    let mut published = Vec::new();
    for publisher in publishers {
        published.push(publisher.await.unwrap());
    }
    assert_eq!(shared.acknowledged.load(SeqCst), USERS * EACH);
    shared.over.store(true, SeqCst);
    let (mut received, mut told, mut missing) = (0, 0, 0);
    for (user, (client, published)) in clients.into_iter().zip(&published).enumerate() {
        let seen = client.await.unwrap();
        received += seen.iter().filter(|seen| **seen != Seen::Told).count();
        told += seen.iter().filter(|seen| **seen == Seen::Told).count();
        missing += judge(user, &seen, &published.maybe_twice);
    }
    let retries: usize = published.iter().map(|published| published.retries).sum();
    let losses = shared.losses.load(SeqCst) / 2;
    eprintln!(
        "{} acknowledged after {retries} retries; {received} received, {missing} missed by clients \
         that were told, {told} times; {kills} instances killed, subscriptions cut {cuts} times, \
         Redis restarted {restarts} times with its data and {losses} times without",
        USERS * EACH
    );
    assert!(missing * 10 < USERS * EACH, "next to everything arrives");
}

/// Everything is there once and in order, but for what was missed by a client that was told so in
/// between. Gives how much that is.
fn judge(user: usize, seen: &[Seen], maybe_twice: &BTreeSet<usize>) -> usize {
    let (mut next, mut may_miss, mut missing) = (0, false, 0);
    for event in seen {
        match event {
            Seen::Told => may_miss = true,
            Seen::Number(number) if *number < next => {
                assert!(maybe_twice.contains(number), "user {user} got {number} twice: {seen:?}");
            }
            Seen::Number(number) => {
                let is_right = *number == next || may_miss;
                assert!(is_right, "user {user} got {number} in place of {next}: {seen:?}");
                missing += number - next;
                (next, may_miss) = (number + 1, false);
            }
        }
    }
    assert!(next == EACH || may_miss, "user {user} lacks what comes after {next}: {seen:?}");
    missing + EACH - next
}

/// Publishes the numbers of one user in order, each until it is acknowledged.
async fn publish(shared: Arc<Shared>, user: usize) -> Published {
    let mut published = Published::default();
    for number in 0..EACH {
        let losses = shared.losses.load(SeqCst);
        let mut attempt = user + number;
        loop {
            let (_, channel) = shared.instances.lock().unwrap()[attempt % INSTANCES].clone();
            match send(channel, user, number).await {
                Ok(_) => break,
                Err(status) => {
                    let is_fine = matches!(
                        status.code(),
                        Code::Unavailable
                            | Code::DeadlineExceeded
                            | Code::Unknown
                            | Code::Cancelled
                    );
                    assert!(is_fine, "{status:?}");
                }
            }
            published.retries += 1;
            attempt += 1;
            sleep(Duration::from_millis(50)).await; // As a back end does before it repeats a call.
        }
        if shared.losses.load(SeqCst) != losses {
            published.maybe_twice.insert(number);
        }
        shared.acknowledged.fetch_add(1, SeqCst);
    }
    published
}

async fn send(channel: Channel, user: usize, number: usize) -> Result<SendToUserResponse, Status> {
    let mut caller = RealtimeServiceClient::new(channel);
    let mut request = Request::new(SendToUserRequest {
        user_id: format!("user-{user}"),
        event_type: "n".to_owned(),
        payload: number.to_string(),
        idempotency_key: format!("{user}/{number}"),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(5));
    Ok(caller.send_to_user(request).await?.into_inner())
}

/// One client, which reconnects and resumes until it has everything.
async fn listen(shared: Arc<Shared>, user: usize) -> Vec<Seen> {
    let mut rng = Rng::new(user as u64);
    let (mut seen, mut last) = (Vec::new(), None::<String>);
    let mut attempt = user;
    loop {
        attempt += 1;
        let http = shared.instances.lock().unwrap()[attempt % INSTANCES].0;
        let since = last.as_ref().map(|id| format!("&since={id}")).unwrap_or_default();
        let url = format!("ws://{http}/ws?token={}{since}", token(&format!("user-{user}")));
        if let Ok(stream) = TcpStream::connect(http).await
            && let Ok((socket, _)) = client_async(url, stream).await
        {
            // Now and then it goes away by itself.
            let messages = 5 + rng.below(40);
            let is_over = hear(socket, messages, &shared, &mut seen, &mut last).await;
            if is_over {
                return seen;
            }
        }
        sleep(Duration::from_millis(10 + rng.below(100))).await; // As the recipe does.
    }
}

/// Hears up to so many messages; true if there is nothing more to come.
async fn hear(
    mut socket: WebSocketStream<TcpStream>,
    messages: u64,
    shared: &Shared,
    seen: &mut Vec<Seen>,
    last: &mut Option<String>,
) -> bool {
    for _ in 0..=messages {
        let wait = tokio::time::timeout(QUIET, socket.next());
        let text = match wait.await {
            Ok(Some(Ok(Message::Text(text)))) => text,
            Ok(Some(Ok(_))) => continue,
            Ok(_) => return false,
            // It has been quiet for long since the last was published.
            Err(_) if shared.over.load(SeqCst) => return true,
            Err(_) => continue,
        };
        let message: Value = serde_json::from_str(&text).unwrap();
        let payload = &message["payload"];
        match message["type"].as_str().unwrap() {
            "n" => {
                let number = payload.as_u64().unwrap();
                seen.push(Seen::Number(usize::try_from(number).unwrap()));
                *last = message["id"].as_str().map(str::to_owned);
                let is_last = number + 1 == EACH as u64;
                if is_last && shared.over.load(SeqCst) {
                    return true;
                }
            }
            "system:connected" => {
                if last.is_none() {
                    shared.connected.fetch_add(1, SeqCst);
                } else if payload["recovered"] == false {
                    seen.push(Seen::Told);
                }
                if payload["recovered"] != true {
                    *last = payload["id"].as_str().map(str::to_owned);
                }
            }
            "system:resync" if payload["room"].is_null() => {
                seen.push(Seen::Told);
                *last = payload["id"].as_str().map(str::to_owned);
            }
            _ => {}
        }
    }
    false
}

async fn reach(what: &str, counter: &AtomicUsize, count: usize) {
    eventually(what, async || (counter.load(SeqCst) >= count).then_some(())).await;
}

/// A client that has heard nothing for so long at the end has everything, or will never have it.
const QUIET: Duration = Duration::from_secs(3);
