//! Redis comes back without its newest data, as after a failover to a replica that lags.

use serde_json::{Value, json};

use crate::common::{
    client::Client,
    eventually, grpc,
    redis::Redis,
    server::{Server, Setup},
    token::token,
};

const ROOM: &str = "event:1";

/// Publishes a number to the room; gives the id of the message.
async fn publish(server: &Server, number: u32) -> String {
    let payload = json!({"number": number}).to_string();
    let publish = async || grpc::broadcast(server, ROOM, "n", &payload).await.ok();
    eventually("the room to be published to", publish).await.message_id
}

async fn member(server: &Server, user: &str) -> Client {
    let mut client = Client::connect(server, &token(user)).await;
    client.join(ROOM).await;
    client
}

/// A client comes back that was last at `since`; what it is told.
async fn back(server: &Server, user: &str, since: &str) -> (Client, Value) {
    let connect = async || {
        let path = format!("/ws?token={}", token(user));
        (crate::common::http::upgrade(server, &path, &[]).await.status == 101).then_some(())
    };
    eventually("clients to be let in", connect).await;
    let mut client = Client::connect(server, &token(user)).await;
    let join = json!({"type": "room:join", "payload": {"room": ROOM, "since": since}});
    let joined = client.ask(join, "room:joined").await;
    (client, joined["payload"].clone())
}

fn epoch(id: &str) -> &str {
    id.split('-').next().unwrap()
}

#[tokio::test]
async fn a_lost_message_is_told_to_who_heard_it_to_who_did_not_and_to_who_was_away() {
    let mut redis = Redis::start().await;
    let setup = Setup::on(&redis);
    let [one, other] = [setup.start().await, setup.start().await];
    let (mut near, mut far) = (member(&one, "near").await, member(&other, "far").await);
    let mut away = member(&other, "away").await;
    let old = publish(&one, 1).await;
    for client in [&mut near, &mut far, &mut away] {
        client.expect("n").await;
    }
    away.close().await;
    redis.run::<String>(&["SAVE"]);
    // Acknowledged, the last of its stream, and gone: nothing that comes behind shows it.
    let lost = publish(&one, 2).await;
    near.expect("n").await;
    far.expect("n").await;
    redis.restart().await;

    let resync = near.expect("system:resync").await;
    assert_eq!(resync["payload"]["room"], ROOM);
    let new = resync["payload"]["id"].as_str().unwrap().to_owned();
    assert!(![epoch(&old), epoch(&lost)].contains(&epoch(&new)), "{new} after {lost}");
    let resync = far.expect("system:resync").await;
    assert_eq!(resync["payload"]["id"], *new, "one new numbering for all");
    let (mut away, told) = back(&other, "away", &old).await;
    assert_eq!((&told["recovered"], &told["id"]), (&json!(false), &json!(new)));

    let next = publish(&other, 3).await;
    assert_eq!(epoch(&next), epoch(&new));
    for client in [&mut near, &mut far, &mut away] {
        assert_eq!(client.expect("n").await["payload"]["number"], 3);
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn a_lost_message_that_nobody_has_heard_is_told_too() {
    let mut redis = Redis::start().await;
    let setup = Setup::on(&redis);
    let [one, other] = [setup.start().await, setup.start().await];
    let mut away = member(&other, "away").await;
    let old = publish(&one, 1).await;
    away.expect("n").await;
    away.close().await;
    redis.run::<String>(&["SAVE"]);
    publish(&one, 2).await;
    redis.restart().await;
    // Others go on from where Redis is, maybe before the publisher has found out.
    publish(&other, 3).await;
    let told = eventually("the publisher to find out", async || {
        let (_, told) = back(&other, "away", &old).await;
        (told["recovered"] == false).then_some(told)
    })
    .await;
    assert_ne!(epoch(told["id"].as_str().unwrap()), epoch(&old));
}

#[tokio::test]
async fn a_lost_message_whose_publisher_died_is_told_if_anybody_has_heard_it() {
    let mut redis = Redis::start().await;
    let setup = Setup::on(&redis);
    let [mut one, other] = [setup.start().await, setup.start().await];
    let (mut heard, mut away) = (member(&other, "heard").await, member(&other, "away").await);
    let old = publish(&one, 1).await;
    for client in [&mut heard, &mut away] {
        client.expect("n").await;
    }
    away.close().await;
    redis.run::<String>(&["SAVE"]);
    publish(&one, 2).await;
    heard.expect("n").await;
    one.kill();
    redis.restart().await;
    heard.expect("system:resync").await;
    assert_eq!(back(&other, "away", &old).await.1["recovered"], false);
}

/// The one case that the service does not promise to notice: Redis loses what it acknowledged, and
/// the instance that published it dies before it can find out. Nobody else knows that it was there.
#[tokio::test]
async fn a_lost_message_that_only_its_dead_publisher_knew_of_is_the_exception() {
    let mut redis = Redis::start().await;
    let setup = Setup::on(&redis);
    let [mut one, other] = [setup.start().await, setup.start().await];
    let mut away = member(&other, "away").await;
    let old = publish(&one, 1).await;
    away.expect("n").await;
    away.close().await;
    redis.run::<String>(&["SAVE"]);
    let lost = publish(&one, 2).await;
    one.kill();
    redis.restart().await;
    let (_, told) = back(&other, "away", &old).await;
    eprintln!("Redis lost {lost}, and its publisher died: who was at {old} was told {told}");
}
