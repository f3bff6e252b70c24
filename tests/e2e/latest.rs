//! Latest values: who connects or joins is given the newest ones.

use realtime_proto::NotifyQueuePositionRequest;
use serde_json::{Value, json};

use crate::common::{
    client::Client,
    grpc,
    redis::Redis,
    server::{Server, Setup},
    token::token,
};

const QUEUE: &str = "booking:queue_position";

#[tokio::test]
async fn who_connects_is_given_the_newest_position_in_each_queue() {
    let redis = Redis::start().await;
    let one = [Setup::embedded().start().await];
    let two = [Setup::on(&redis).start().await, Setup::on(&redis).start().await];
    for servers in [&one[..], &two] {
        let (first, second) = (&servers[0], &servers[servers.len() - 1]);
        for (event, place) in [("1", 900), ("2", 50), ("1", 800)] {
            queue(first, event, place).await;
        }
        let mut client = Client::connect(second, &token("a")).await;
        for (event, place) in [("2", 50), ("1", 800)] {
            assert_eq!(where_it_is(&client.expect(QUEUE).await), (event.to_owned(), place));
        }
        // What comes then is live, and another device is given what is newest by then.
        queue(second, "1", 700).await;
        assert_eq!(where_it_is(&client.expect(QUEUE).await), ("1".to_owned(), 700));
        let mut other = Client::connect(first, &token("a")).await;
        for (event, place) in [("2", 50), ("1", 700)] {
            assert_eq!(where_it_is(&other.expect(QUEUE).await), (event.to_owned(), place));
        }
        client.assert_quiet().await;
        other.assert_quiet().await;
        Client::connect(first, &token("b")).await.assert_quiet().await;
    }
}

#[tokio::test]
async fn who_comes_back_is_given_the_newest_values_among_what_it_missed() {
    let redis = Redis::start().await;
    for server in [Setup::embedded().start().await, Setup::on(&redis).start().await] {
        let mut client = Client::connect(&server, &token("a")).await;
        own(&server, 0).await;
        let id = client.expect("own").await["id"].as_str().unwrap().to_owned();
        client.close().await;
        queue(&server, "1", 900).await;
        own(&server, 1).await;
        queue(&server, "2", 50).await;
        own(&server, 2).await;
        queue(&server, "3", 7).await;
        let path = format!("/ws?token={}&since={id}", token("a"));
        let mut client = Client::open(&server, &path, &[]).await;
        assert_eq!(client.greeting["recovered"], true);
        for expected in ["900", "own 1", "50", "own 2", "7"] {
            let message = client.next_of(&[QUEUE, "own"]).await;
            let payload = &message["payload"];
            let what = match message["type"].as_str() {
                Some(QUEUE) => payload["position"].to_string(),
                _ => format!("own {}", payload["number"]),
            };
            assert_eq!(what, expected);
        }
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn who_joins_a_room_is_given_the_newest_of_each_type_that_is_latest() {
    let redis = Redis::start().await;
    let setups = [Setup::embedded(), Setup::on(&redis)];
    for setup in setups {
        let server = setup.set("DELIVERY_LATEST", "seats:left,price:now").start().await;
        for (kind, event, value) in [
            ("seats:left", "1", 100),
            ("price:now", "1", 30),
            ("seats:left", "1", 99),
            ("seats:left", "2", 5),
        ] {
            let payload = json!({"event_id": event, "value": value}).to_string();
            grpc::broadcast(&server, "event:1", kind, &payload).await.unwrap();
        }
        let mut client = Client::anonymous(&server).await;
        client.join("event:1").await;
        for (kind, value) in [("price:now", 30), ("seats:left", 99), ("seats:left", 5)] {
            let message = client.next_of(&["seats:left", "price:now"]).await;
            assert_eq!(
                (&message["type"], &message["payload"]["value"]),
                (&json!(kind), &json!(value))
            );
            assert_eq!(message["room"], "event:1");
            assert!(message.get("id").is_none(), "{message}");
        }
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn without_a_history_nobody_is_given_what_was_before() {
    let server = Setup::embedded().set("HISTORY_SIZE", "0").start().await;
    queue(&server, "1", 900).await;
    let mut client = Client::connect(&server, &token("a")).await;
    client.assert_quiet().await;
}

/// To the user `a`.
async fn queue(server: &Server, event: &str, position: i32) {
    let request = NotifyQueuePositionRequest {
        user_id: "a".to_owned(),
        event_id: event.to_owned(),
        position,
        ..Default::default()
    };
    grpc::client(server).notify_queue_position(request).await.unwrap();
}

fn where_it_is(message: &Value) -> (String, i64) {
    let payload = &message["payload"];
    (payload["event_id"].as_str().unwrap().to_owned(), payload["position"].as_i64().unwrap())
}

/// To the user `a`.
async fn own(server: &Server, number: usize) {
    let payload = json!({ "number": number }).to_string();
    grpc::send_to_user(server, "a", "own", &payload).await.unwrap();
}
