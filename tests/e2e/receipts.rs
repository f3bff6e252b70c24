//! What callers are told of those that were reached, over several instances.

use std::time::{Duration, Instant};

use realtime_proto::{
    BroadcastEventRequest, GetConnectionStatsRequest, GetConnectionStatsResponse,
    NotifyQueuePositionRequest, SendToUserRequest, SendToUserResponse,
};

use crate::common::{
    client::Client,
    eventually, grpc,
    redis::Redis,
    server::{Server, Setup},
    token::token,
};

#[tokio::test]
async fn counts_are_those_of_the_whole_cluster() {
    let redis = Redis::start().await;
    let servers = start(&Setup::on(&redis), 3).await;
    let mut clients = Vec::new();
    for server in &servers {
        for _ in 0..2 {
            clients.push(Client::connect(server, &token("a")).await);
        }
    }
    for client in &mut clients[..3] {
        client.join("event:1").await;
    }
    for server in &servers {
        let answer = send(server, "a").await;
        assert!(answer.delivered && answer.complete, "{answer:?}");
        assert_eq!((answer.connections_notified, answer.instances), (6, 3));

        let request = BroadcastEventRequest {
            event_type: "x".to_owned(),
            room: "event:1".to_owned(),
            payload: "{}".to_owned(),
            exclude_sender: true,
            sender_user_id: "b".to_owned(),
            ..Default::default()
        };
        let answer = grpc::client(server).broadcast_event(request).await.unwrap().into_inner();
        assert_eq!((answer.recipients, answer.instances, answer.complete), (3, 2, true));

        let request = NotifyQueuePositionRequest {
            user_id: "a".to_owned(),
            event_id: "1".to_owned(),
            position: 7,
            ..Default::default()
        };
        let mut caller = grpc::client(server);
        let answer = caller.notify_queue_position(request).await.unwrap().into_inner();
        assert_eq!((answer.delivered, answer.instances, answer.complete), (true, 3, true));

        let nobody = send(server, "nobody").await;
        assert!(!nobody.delivered && nobody.complete, "{nobody:?}");
        assert_eq!((nobody.connections_notified, nobody.instances), (0, 0));
    }
}

#[tokio::test]
async fn who_was_reached_by_no_history_is_counted_as_well() {
    let redis = Redis::start().await;
    let servers = start(&Setup::on(&redis).set("HISTORY_SIZE", "0"), 2).await;
    let _one = Client::connect(&servers[0], &token("a")).await;
    let _other = Client::connect(&servers[1], &token("a")).await;
    for server in &servers {
        let answer = send(server, "a").await;
        assert_eq!((answer.connections_notified, answer.instances), (2, 2));
        assert!(answer.complete && answer.message_id.is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn statistics_are_sums_over_the_instances_that_are_alive() {
    let redis = Redis::start().await;
    let mut servers = start(&Setup::on(&redis), 3).await;
    let mut clients = Vec::new();
    for server in &servers {
        let mut client = Client::connect(server, &token("a")).await;
        client.join("event:1").await;
        clients.push(client);
        clients.push(Client::anonymous(server).await);
    }
    for server in &servers {
        eventually("the statistics add up", async || {
            let stats = cluster(server, "event:1").await;
            let rooms = stats.connections_per_room;
            let holds = (stats.authenticated_connections, stats.anonymous_connections) == (3, 3)
                && stats.instances.len() == 3
                && rooms.len() == 1
                && rooms["event:1"] == 3
                && stats.instances.iter().all(|instance| instance.age_ms < 3_000);
            holds.then_some(())
        })
        .await;
    }
    // One that stops says so; one that is killed is missed.
    let mut leaving = servers.pop().unwrap();
    leaving.terminate();
    leaving.exit().await;
    let stats = cluster(&servers[0], "").await;
    assert_eq!((stats.instances.len(), stats.total_connections), (2, 4), "{stats:?}");
    servers[1].kill();
    eventually("the dead instance is missed", async || {
        let stats = cluster(&servers[0], "").await;
        (stats.instances.len() == 1 && stats.total_connections == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_instance_that_hangs_is_waited_for_until_it_counts_as_dead() {
    let redis = Redis::start().await;
    let timeout = Duration::from_secs(10);
    let servers = start(&Setup::on(&redis).set("RECEIPT_TIMEOUT", "10s"), 2).await;
    let _here = Client::connect(&servers[0], &token("a")).await;
    let _there = Client::connect(&servers[1], &token("a")).await;
    eventually("they know each other", async || {
        (cluster(&servers[0], "").await.instances.len() == 2).then_some(())
    })
    .await;
    servers[1].signal("STOP");
    eventually("it counts as dead", async || {
        (cluster(&servers[0], "").await.instances.len() == 1).then_some(())
    })
    .await;
    let start = Instant::now();
    let answer = send(&servers[0], "a").await;
    assert!(start.elapsed() < timeout, "nobody waits for the dead");
    assert_eq!((answer.connections_notified, answer.instances, answer.complete), (1, 1, false));
    servers[1].signal("CONT");
    eventually("it counts again", async || {
        let answer = send(&servers[0], "a").await;
        (answer.connections_notified == 2 && answer.complete).then_some(())
    })
    .await;
}

async fn start(setup: &Setup, count: usize) -> Vec<Server> {
    let mut servers = Vec::new();
    for _ in 0..count {
        servers.push(setup.start().await);
    }
    servers
}

async fn send(server: &Server, user: &str) -> SendToUserResponse {
    let request = SendToUserRequest {
        user_id: user.to_owned(),
        event_type: "x".to_owned(),
        payload: "{}".to_owned(),
        ..Default::default()
    };
    grpc::client(server).send_to_user(request).await.unwrap().into_inner()
}

async fn cluster(server: &Server, room: &str) -> GetConnectionStatsResponse {
    let request = GetConnectionStatsRequest { cluster: true, room: room.to_owned() };
    grpc::client(server).get_connection_stats(request).await.unwrap().into_inner()
}
