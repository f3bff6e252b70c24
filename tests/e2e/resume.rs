//! Clients that come back, and gaps: what was missed is sent again.

use serde_json::{Value, json};

use crate::common::{
    client::Client,
    eventually, grpc,
    redis::Redis,
    server::{Server, Setup},
    token::token,
};

#[tokio::test]
async fn who_comes_back_on_any_instance_is_given_exactly_what_it_missed() {
    let redis = Redis::start().await;
    // The embedded broker is of one instance.
    let one = [Setup::embedded().start().await];
    let two = [Setup::on(&redis).start().await, Setup::on(&redis).start().await];
    for servers in [&one[..], &two] {
        let (first, second) = (&servers[0], &servers[servers.len() - 1]);
        let mut client = Client::connect(first, &token("a")).await;
        client.join("event:1").await;
        publish(first, 0).await;
        let [own, all, room] = [
            client.expect("own").await["id"].clone(),
            client.expect("all").await["id"].clone(),
            client.expect("room").await["id"].clone(),
        ];
        client.close().await;
        for number in 1..=50 {
            publish(second, number).await;
        }

        let since = |id: &Value| id.as_str().unwrap().to_owned();
        let path =
            format!("/ws?token={}&since={}&since_all={}", token("a"), since(&own), since(&all));
        let mut client = Client::open(second, &path, &[]).await;
        assert_eq!(client.greeting["recovered"], true);
        assert_eq!(client.greeting["all"]["recovered"], true);
        for kind in ["own", "all"] {
            for number in 1..=50 {
                let message = client.expect(kind).await;
                assert_eq!(message["payload"]["number"], number, "{message}");
            }
        }
        let join = json!({"type": "room:join", "payload": {"room": "event:1", "since": room}});
        let joined = client.ask(join, "room:joined").await;
        assert_eq!(joined["payload"]["recovered"], true);
        for number in 1..=50 {
            let message = client.expect("room").await;
            assert_eq!(message["payload"]["number"], number, "{message}");
        }
        publish(first, 51).await;
        for kind in ["own", "all", "room"] {
            assert_eq!(client.expect(kind).await["payload"]["number"], 51);
        }
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn who_was_away_for_longer_than_the_history_reaches_is_told_so() {
    let server = Setup::embedded().set("HISTORY_SIZE", "3").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    send(&server, 0).await;
    let id = client.expect("own").await["id"].as_str().unwrap().to_owned();
    client.close().await;
    let back = format!("/ws?token={}&since={id}", token("a"));
    for number in 1..=3 {
        send(&server, number).await;
    }
    let mut client = Client::open(&server, &back, &[]).await;
    assert_eq!(client.greeting["recovered"], true);
    for number in 1..=3 {
        assert_eq!(client.expect("own").await["payload"]["number"], number);
    }
    send(&server, 4).await;
    let mut late = Client::open(&server, &back, &[]).await;
    assert_eq!(late.greeting["recovered"], false);
    late.assert_quiet().await;
}

#[tokio::test]
async fn the_last_message_of_a_quiet_stream_is_not_lost_though_nothing_follows() {
    let redis = Redis::start().await;
    let setup = Setup::on(&redis).set("POSITION_CHECK", "500ms");
    let servers = [setup.start().await, setup.start().await];
    let mut clients = Vec::new();
    for server in &servers {
        let mut client = Client::connect(server, &token("a")).await;
        send(server, 0).await;
        client.expect("own").await;
        clients.push(client);
    }
    clients[0].expect("own").await;
    // One more is kept, but its message on Pub/Sub is lost, as if the output buffer was full.
    let (meta, log) = ("realtime:{user:a}:meta", "realtime:{user:a}:log");
    let head: String = redis.run(&["GET", meta]);
    let [epoch, offset, mid, bytes] = head.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let last: String = redis.run(&["LINDEX", log, "-1"]);
    let body = last.split_once('\n').unwrap().1.replace(r#"{"number":0}"#, r#"{"number":1}"#);
    let offset = offset.parse::<u64>().unwrap() + 1;
    let entry = format!("1 D {epoch} {offset} 00000000000000aa {mid}\n{body}");
    redis.run::<()>(&["RPUSH", log, &entry]);
    redis.run::<()>(&["SET", meta, &format!("{epoch} {offset} 00000000000000aa {bytes}")]);
    for client in &mut clients {
        assert_eq!(client.expect("own").await["payload"]["number"], 1);
    }
    // And what follows comes once.
    send(&servers[0], 2).await;
    for client in &mut clients {
        assert_eq!(client.expect("own").await["payload"]["number"], 2);
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn the_sender_is_left_out_when_it_comes_back() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    let start = client.join("event:1").await["payload"]["id"].clone();
    client.close().await;
    for (number, sender) in ["b", "a", "b"].into_iter().enumerate() {
        let request = realtime_proto::BroadcastEventRequest {
            event_type: "x".to_owned(),
            room: "event:1".to_owned(),
            payload: json!({ "number": number }).to_string(),
            exclude_sender: true,
            sender_user_id: sender.to_owned(),
            ..Default::default()
        };
        grpc::client(&server).broadcast_event(request).await.unwrap();
    }
    let join = json!({"type": "room:join", "payload": {"room": "event:1", "since": start}});
    for (user, numbers) in [("a", [0, 2].as_slice()), ("b", &[1]), ("c", &[0, 1, 2])] {
        let mut client = Client::connect(&server, &token(user)).await;
        let joined = client.ask(join.clone(), "room:joined").await;
        assert_eq!(joined["payload"]["recovered"], true);
        for number in numbers {
            assert_eq!(client.expect("x").await["payload"]["number"], *number, "of {user}");
        }
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn a_suffix_of_megabytes_is_fed_to_a_client_with_a_small_outbox() {
    let server = Setup::embedded()
        .set("WS_OUTBOX_BYTES", "70000")
        .set("MAX_PAYLOAD_SIZE", "60000")
        .set("HISTORY_BYTES", "8388608")
        .start()
        .await;
    let mut client = Client::connect(&server, &token("a")).await;
    send(&server, 0).await;
    let id = client.expect("own").await["id"].as_str().unwrap().to_owned();
    client.close().await;
    let filling = "x".repeat(50_000);
    for number in 1..=100 {
        let payload = json!({ "number": number, "filling": filling }).to_string();
        grpc::send_to_user(&server, "a", "own", &payload).await.unwrap();
    }
    let back = format!("/ws?token={}&since={id}", token("a"));
    let mut client = Client::open(&server, &back, &[]).await;
    assert_eq!(client.greeting["recovered"], true);
    // It goes on behind what was missed.
    send(&server, 101).await;
    for number in 1..=101 {
        assert_eq!(client.expect("own").await["payload"]["number"], number);
    }
}

#[tokio::test]
async fn what_is_published_while_a_subscription_is_cut_is_filled_in() {
    let redis = Redis::start().await;
    let servers = [Setup::on(&redis).start().await, Setup::on(&redis).start().await];
    let mut clients = Vec::new();
    for server in &servers {
        let mut client = Client::connect(server, &token("a")).await;
        client.join("event:1").await;
        clients.push(client);
    }
    let mut number = 0;
    for _ in 0..5 {
        redis.run::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        // Some come before the subscriptions are restored, some after.
        for _ in 0..20 {
            publish(&servers[number % 2], number).await;
            number += 1;
        }
        eventually("the subscriptions are back", async || {
            let channel = "realtime:{all}";
            let (_, heard): (String, u32) = redis.run(&["PUBSUB", "NUMSUB", channel]);
            (heard == 2).then_some(())
        })
        .await;
    }
    for mut client in clients {
        let mut seen = [0; 3];
        for _ in 0..3 * number {
            let message = client.next_of(&["own", "all", "room"]).await;
            let kind = message["type"].as_str().unwrap().to_owned();
            let kind = ["own", "all", "room"].iter().position(|known| *known == kind).unwrap();
            assert_eq!(message["payload"]["number"], seen[kind], "{message}");
            seen[kind] += 1;
        }
        client.assert_quiet().await;
    }
}

async fn send(server: &Server, number: usize) {
    let payload = json!({ "number": number }).to_string();
    grpc::send_to_user(server, "a", "own", &payload).await.unwrap();
}

/// To the user `a`, to everyone, and to the room.
async fn publish(server: &Server, number: usize) {
    let payload = json!({ "number": number }).to_string();
    send(server, number).await;
    grpc::broadcast(server, "all", "all", &payload).await.unwrap();
    grpc::broadcast(server, "event:1", "room", &payload).await.unwrap();
}
