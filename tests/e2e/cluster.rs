//! Several instances on one Redis, and that one instance on the embedded broker does the same.

use realtime_proto::BroadcastEventRequest;
use serde_json::{Value, json};

use super::{grpc_calls::publish_everything, handshake::assert_is_id};
use crate::common::{
    client::Client,
    eventually, grpc,
    http::fetch,
    redis::Redis,
    server::{Server, Setup},
    token::{token, token_with_rooms},
};

#[tokio::test]
async fn the_basics_work_on_the_embedded_broker() {
    basics(&Setup::embedded().start().await).await;
}

#[tokio::test]
async fn the_basics_work_on_redis() {
    let redis = Redis::start().await;
    basics(&Setup::on(&redis).start().await).await;
}

#[tokio::test]
async fn the_basics_work_without_a_history_on_either_broker() {
    let redis = Redis::start().await;
    for setup in [Setup::embedded(), Setup::on(&redis)] {
        let server = setup.set("HISTORY_SIZE", "0").start().await;
        let mut client = Client::connect(&server, &token("a")).await;
        client.join("event:1").await;
        for result in publish_everything(&server).await {
            result.unwrap();
        }
        let mut kinds = Vec::new();
        for _ in 0..5 {
            let kind = ["booking:confirmed", "booking:queue_position", "payment:success", "x", "y"];
            let message = client.next_of(&kind).await;
            assert!(message.get("id").is_none(), "{message}");
            kinds.push(message["type"].clone());
        }
        kinds.sort_by_key(Value::to_string);
        kinds.dedup();
        assert_eq!(kinds.len(), 5, "{kinds:?}");
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn every_method_on_any_instance_reaches_the_right_clients_on_all() {
    let redis = Redis::start().await;
    let servers = three(&redis).await;
    let mut users = Vec::new();
    let mut members = Vec::new();
    let mut others = Vec::new();
    for server in &servers {
        for _ in 0..2 {
            users.push(Client::connect(server, &token("a")).await);
            let mut member = Client::anonymous(server).await;
            member.join("event:1").await;
            members.push(member);
        }
        let mut other = Client::connect(server, &token("b")).await;
        other.join("event:2").await;
        others.push(other);
    }
    for server in &servers {
        for result in publish_everything(server).await {
            result.unwrap();
        }
        grpc::broadcast(server, "all", "to:all", "{}").await.unwrap();
        // Order holds within a stream, so those of the user's stream and of `all` may interleave.
        for client in &mut users {
            let own = ["booking:confirmed", "booking:queue_position", "payment:success", "y"];
            expect_interleaved(client, &own, "to:all").await;
        }
        for client in &mut members {
            expect_interleaved(client, &["x"], "to:all").await;
        }
        for client in &mut others {
            client.expect("to:all").await;
        }
    }
    for client in users.iter_mut().chain(&mut members).chain(&mut others) {
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn a_thousand_messages_arrive_everywhere_in_publish_order() {
    let redis = Redis::start().await;
    let servers = three(&redis).await;
    let mut clients = Vec::new();
    for server in &servers {
        clients.push(Client::connect(server, &token("a")).await);
    }
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                for number in 0..1000 {
                    let message = client.expect("x").await;
                    assert_eq!(message["payload"]["number"], number, "{message}");
                }
                client.assert_quiet().await;
            })
        })
        .collect();
    let mut publishers: Vec<_> = servers.iter().map(grpc::client).collect();
    for number in 0..1000 {
        let request = realtime_proto::SendToUserRequest {
            user_id: "a".to_owned(),
            event_type: "x".to_owned(),
            payload: json!({ "number": number }).to_string(),
            ..Default::default()
        };
        let publisher = &mut publishers[number % 3];
        assert!(publisher.send_to_user(request).await.unwrap().into_inner().delivered);
    }
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn concurrent_publishers_are_seen_in_one_order_by_all() {
    let redis = Redis::start().await;
    let servers = three(&redis).await;
    let mut clients = Vec::new();
    for server in &servers {
        let mut client = Client::anonymous(server).await;
        client.join("event:1").await;
        clients.push(client);
    }
    let publishers: Vec<_> = (0..6)
        .map(|publisher| {
            let mut client = grpc::client(&servers[publisher % 3]);
            tokio::spawn(async move {
                for number in 0..50 {
                    let request = BroadcastEventRequest {
                        room: "event:1".to_owned(),
                        event_type: "x".to_owned(),
                        payload: json!({"publisher": publisher, "number": number}).to_string(),
                        ..Default::default()
                    };
                    client.broadcast_event(request).await.unwrap();
                }
            })
        })
        .collect();
    let mut seen: Vec<Vec<Value>> = Vec::new();
    for client in &mut clients {
        let mut messages = Vec::new();
        for _ in 0..300 {
            messages.push(client.expect("x").await);
        }
        client.assert_quiet().await;
        seen.push(messages);
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
    let mut next = [0; 6];
    for message in &seen[0] {
        let publisher = usize::try_from(message["payload"]["publisher"].as_u64().unwrap()).unwrap();
        assert_eq!(message["payload"]["number"], next[publisher], "{message}");
        next[publisher] += 1;
    }
}

#[tokio::test]
async fn one_user_connects_to_several_instances_and_one_of_them_crashes() {
    let redis = Redis::start().await;
    let mut servers = three(&redis).await;
    let mut stays = Client::connect(&servers[0], &token("a")).await;
    let mut loses = Client::connect(&servers[2], &token("a")).await;
    stays.join("event:1").await;
    loses.join("event:1").await;
    servers[2].kill();
    assert_eq!(loses.until_closed().await.0, None);
    let mut moved = Client::connect(&servers[1], &token("a")).await;
    moved.join("event:1").await;
    for server in &servers[..2] {
        grpc::send_to_user(server, "a", "x", "{}").await.unwrap();
        for client in [&mut stays, &mut moved] {
            client.expect("x").await;
        }
        grpc::broadcast(server, "event:1", "y", "{}").await.unwrap();
        for client in [&mut stays, &mut moved] {
            client.expect("y").await;
            client.assert_quiet().await;
        }
    }
}

#[tokio::test]
async fn everything_in_redis_has_the_prefix_and_expires() {
    let redis = Redis::start().await;
    let server = Setup::on(&redis).set("REDIS_PREFIX", "tickets:live:").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    client.join("event:1").await;
    for result in publish_everything(&server).await {
        result.unwrap();
    }
    let keys: Vec<String> = redis.run(&["KEYS", "*"]);
    assert!(!keys.is_empty());
    for key in keys {
        assert!(key.starts_with("tickets:live:"), "{key}");
        let left: i64 = redis.run(&["TTL", &key]);
        assert!(left > 0, "{key} never expires");
    }
    let channels: Vec<String> = redis.run(&["PUBSUB", "CHANNELS"]);
    let ingress = ["booking:events", "payment:events", "ticket:events", "broadcast:all"];
    for channel in channels.iter().filter(|channel| !ingress.contains(&channel.as_str())) {
        assert!(channel.starts_with("tickets:live:"), "{channel}");
    }
}

#[tokio::test]
async fn two_prefixes_on_one_redis_do_not_meet() {
    let redis = Redis::start().await;
    let one = Setup::on(&redis).set("REDIS_PREFIX", "one:").start().await;
    let two = Setup::on(&redis).set("REDIS_PREFIX", "two:").start().await;
    let mut first = Client::connect(&one, &token("a")).await;
    let mut second = Client::connect(&two, &token("a")).await;
    assert!(grpc::send_to_user(&one, "a", "x", "{}").await.unwrap().delivered);
    first.expect("x").await;
    assert!(grpc::send_to_user(&two, "a", "y", "{}").await.unwrap().delivered);
    second.expect("y").await;
    first.assert_quiet().await;
    second.assert_quiet().await;
}

#[tokio::test]
async fn an_instance_subscribes_only_to_what_its_clients_want() {
    let redis = Redis::start().await;
    let server = Setup::on(&redis).start().await;
    let mut anonymous = Client::anonymous(&server).await;
    let before: Vec<String> = redis.run(&["PUBSUB", "CHANNELS"]);
    grpc::send_to_user(&server, "somebody", "x", "{}").await.unwrap();
    grpc::broadcast(&server, "event:7", "x", "{}").await.unwrap();
    let after: Vec<String> = redis.run(&["PUBSUB", "CHANNELS"]);
    assert_eq!(before.len(), after.len(), "{before:?} {after:?}");
    anonymous.join("event:7").await;
    let joined: Vec<String> = redis.run(&["PUBSUB", "CHANNELS"]);
    assert_eq!(joined.len(), before.len() + 1, "{joined:?}");
}

#[tokio::test]
async fn a_password_and_a_database_are_used() {
    let redis = Redis::start().await;
    let _: () = redis.run(&["ACL", "SETUSER", "app", "on", ">sesame", "~*", "&*", "+@all"]);
    let _: () = redis.run(&["ACL", "SETUSER", "default", "-@all", "+ping"]);
    let login = Setup::on(&redis).set("REDIS_USERNAME", "app").set("REDIS_DB", "3");
    let server = login.clone().set("REDIS_PASSWORD", "sesame").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    assert!(grpc::send_to_user(&server, "a", "x", "{}").await.unwrap().delivered);
    client.expect("x").await;
    let locked_out = login.set("REDIS_PASSWORD", "wrong-password").start().await;
    let ready = fetch(&locked_out, "/ready").await;
    assert_eq!(ready.status, 503);
    let said = locked_out.output().join("\n");
    assert!(!said.contains("wrong-password"), "the password is in the log: {said}");
}

/// What must work on any broker.
async fn basics(server: &Server) {
    eventually("readiness", async || (fetch(server, "/ready").await.status == 200).then_some(()))
        .await;
    let mut user = Client::connect(server, &token_with_rooms("a", &["vip:*"])).await;
    let mut anonymous = Client::anonymous(server).await;
    assert_is_id(&user.greeting["id"]);
    for client in [&mut user, &mut anonymous] {
        assert_is_id(&client.join("event:1").await["payload"]["id"]);
    }
    user.join("vip:1").await;
    for result in publish_everything(server).await {
        result.unwrap();
    }
    let own = ["booking:confirmed", "booking:queue_position", "payment:success", "y"];
    expect_interleaved(&mut user, &own, "x").await;
    anonymous.expect("x").await;
    for number in 0..100 {
        let payload = json!({ "number": number }).to_string();
        let room = if number % 2 == 0 { "event:1" } else { "all" };
        assert_eq!(grpc::broadcast(server, room, "z", &payload).await.unwrap().recipients, 2);
        let one = user.expect("z").await;
        let other = anonymous.expect("z").await;
        assert_eq!(one["payload"]["number"], number);
        assert_eq!(one, other);
        assert_eq!(one["room"], room);
    }
    let excluding = BroadcastEventRequest {
        event_type: "w".to_owned(),
        room: "event:1".to_owned(),
        exclude_sender: true,
        sender_user_id: "a".to_owned(),
        ..Default::default()
    };
    let sent = grpc::client(server).broadcast_event(excluding).await.unwrap().into_inner();
    assert_eq!(sent.recipients, 1);
    anonymous.expect("w").await;
    grpc::broadcast(server, "vip:1", "v", "{}").await.unwrap();
    user.expect("v").await;
    user.assert_quiet().await;
    anonymous.assert_quiet().await;
    user.close().await;
    anonymous.close().await;
}

async fn three(redis: &Redis) -> Vec<Server> {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Setup::on(redis).start().await);
    }
    servers
}

/// Expects `ordered` in this order, and `other` anywhere among them.
async fn expect_interleaved(client: &mut Client, ordered: &[&str], other: &str) {
    let mut next = ordered.iter();
    let mut met_other = false;
    for _ in 0..=ordered.len() {
        let mut kinds = ordered.to_vec();
        kinds.push(other);
        let message = client.next_of(&kinds).await;
        if message["type"] == other {
            assert!(!met_other, "{other} came twice");
            met_other = true;
        } else {
            assert_eq!(Some(&message["type"]), next.next().map(|kind| json!(kind)).as_ref());
        }
    }
    assert!(met_other, "{other} did not come");
}
