//! Rooms: who may join which, and who gets what is said there.

use realtime_proto::BroadcastEventRequest;
use serde_json::json;

use super::handshake::assert_is_id;
use crate::common::{
    client::Client,
    grpc,
    server::Setup,
    token::{token, token_with_rooms},
};

#[tokio::test]
async fn a_room_is_joined_by_its_name_or_by_the_id_of_its_event() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    let join = json!({"type": "room:join", "ref": 1, "payload": {"room": "event:123"}});
    let joined = client.ask(join, "room:joined").await;
    assert_eq!(joined["ref"], 1);
    assert_eq!(joined["payload"]["room"], "event:123");
    assert_is_id(&joined["payload"]["id"]);
    assert!(joined["payload"].get("recovered").is_none(), "{joined}");
    let join = json!({"type": "room:join", "payload": {"event_id": "456"}});
    assert_eq!(client.ask(join, "room:joined").await["payload"]["room"], "event:456");
    for room in ["event:123", "event:456"] {
        assert_eq!(grpc::broadcast(&server, room, "x", "{}").await.unwrap().recipients, 1);
        assert_eq!(client.expect("x").await["room"], room);
    }
    let leave = json!({"type": "room:leave", "ref": 2, "payload": {"event_id": "123"}});
    let left = client.ask(leave, "room:left").await;
    assert_eq!(left["ref"], 2);
    assert_eq!(left["payload"], json!({"room": "event:123"}));
    assert_eq!(grpc::broadcast(&server, "event:123", "x", "{}").await.unwrap().recipients, 0);
    client.assert_quiet().await;
}

#[tokio::test]
async fn joining_twice_and_leaving_without_being_in_are_no_errors() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    client.join("event:1").await;
    client.join("event:1").await;
    assert_eq!(grpc::broadcast(&server, "event:1", "x", "{}").await.unwrap().recipients, 1);
    client.expect("x").await;
    client.assert_quiet().await;
    let leave = json!({"type": "room:leave", "payload": {"room": "event:1"}});
    client.ask(leave.clone(), "room:left").await;
    client.ask(leave, "room:left").await;
    client.assert_quiet().await;
}

#[tokio::test]
async fn requests_for_one_room_are_answered_in_order() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    let kinds = ["join", "leave", "join", "join", "leave", "leave", "join"];
    for (number, kind) in kinds.iter().enumerate() {
        let kind = format!("room:{kind}");
        client.send(json!({"type": kind, "ref": number, "payload": {"event_id": "1"}})).await;
    }
    for (number, kind) in kinds.iter().enumerate() {
        let kind = if *kind == "join" { "room:joined" } else { "room:left" };
        assert_eq!(client.expect(kind).await["ref"], number);
    }
    assert_eq!(grpc::broadcast(&server, "event:1", "x", "{}").await.unwrap().recipients, 1);
    client.expect("x").await;
}

#[tokio::test]
async fn rooms_that_are_not_granted_are_forbidden() {
    let server = Setup::embedded().start().await;
    let mut anonymous = Client::anonymous(&server).await;
    let mut plain = Client::connect(&server, &token("a")).await;
    for client in [&mut anonymous, &mut plain] {
        for room in ["vip:1", "all", "user:b", "Event:1", "event", "*"] {
            client.send(json!({"type": "room:join", "ref": room, "payload": {"room": room}})).await;
            assert_eq!(client.expect_error("FORBIDDEN").await["ref"], room);
        }
    }
    let sent = grpc::broadcast(&server, "vip:1", "x", "{}").await.unwrap();
    assert_eq!(sent.recipients, 0);
    anonymous.assert_quiet().await;
}

#[tokio::test]
async fn a_token_grants_rooms_by_patterns() {
    let server = Setup::embedded().set("WS_PUBLIC_ROOMS", "open:*,lobby").start().await;
    let rooms = token_with_rooms("a", &["vip:*", "event:9:staff"]);
    let mut client = Client::connect(&server, &rooms).await;
    for room in ["vip:1", "vip:", "event:9:staff", "open:1", "lobby"] {
        client.join(room).await;
    }
    for room in ["vi", "event:9", "event:9:staff:2", "lobby2", "event:1"] {
        client.send(json!({"type": "room:join", "payload": {"room": room}})).await;
        client.expect_error("FORBIDDEN").await;
    }
    let greedy = token_with_rooms("c", &["*"]);
    let mut greedy = Client::connect(&server, &greedy).await;
    greedy.join("anything").await;
    for room in ["all", "user:a"] {
        greedy.send(json!({"type": "room:join", "payload": {"room": room}})).await;
        greedy.expect_error("FORBIDDEN").await;
    }
}

#[tokio::test]
async fn joining_ones_own_stream_is_answered_and_changes_nothing() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    client.join("user:a").await;
    let sent = grpc::send_to_user(&server, "a", "x", "{}").await.unwrap();
    assert_eq!(sent.connections_notified, 1);
    client.expect("x").await;
    client.assert_quiet().await;
}

#[tokio::test]
async fn names_that_no_room_can_have_are_invalid() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    let long = format!("event:{}", "x".repeat(195));
    for room in [long.as_str(), "event:\u{0}", "event:\n", "event:\u{7f}"] {
        client.send(json!({"type": "room:join", "payload": {"room": room}})).await;
        client.expect_error("INVALID_PAYLOAD").await;
    }
    client.send(json!({"type": "room:join", "payload": {"room": ""}})).await;
    client.expect("system:error").await;
    client.join(&long[..200]).await;
}

#[tokio::test]
async fn a_connection_has_a_limited_number_of_rooms() {
    let server = Setup::embedded().set("WS_MAX_ROOMS", "3").start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    for room in ["event:1", "event:2", "event:3", "event:1"] {
        client.join(room).await;
    }
    client.send(json!({"type": "room:join", "payload": {"room": "event:4"}})).await;
    client.expect_error("TOO_MANY_ROOMS").await;
    client.ask(json!({"type": "room:leave", "payload": {"room": "event:1"}}), "room:left").await;
    client.join("event:4").await;
}

#[tokio::test]
async fn a_since_of_a_room_that_means_nothing_is_not_recovered() {
    let server = Setup::embedded().start().await;
    let mut client = Client::anonymous(&server).await;
    let join = json!({"type": "room:join", "payload": {"room": "event:1", "since": "garbage"}});
    let joined = client.ask(join, "room:joined").await;
    assert_eq!(joined["payload"]["recovered"], false);
    assert_is_id(&joined["payload"]["id"]);
    let join = json!({"type": "room:join", "payload": {"room": "event:2", "since": ""}});
    let joined = client.ask(join, "room:joined").await;
    assert!(joined["payload"].get("recovered").is_none(), "{joined}");
}

#[tokio::test]
async fn a_broadcast_reaches_the_members_and_nobody_else() {
    let server = Setup::embedded().start().await;
    let mut members = Vec::new();
    for _ in 0..6 {
        let mut member = Client::anonymous(&server).await;
        member.join("event:1").await;
        members.push(member);
    }
    let mut outsider = Client::anonymous(&server).await;
    outsider.join("event:2").await;
    for number in 0..20 {
        let payload = json!({ "number": number }).to_string();
        let sent = grpc::broadcast(&server, "event:1", "x", &payload).await.unwrap();
        assert_eq!(sent.recipients, 6);
    }
    for member in &mut members {
        for number in 0..20 {
            assert_eq!(member.expect("x").await["payload"]["number"], number);
        }
        member.assert_quiet().await;
    }
    outsider.assert_quiet().await;
    let everyone = grpc::broadcast(&server, "all", "y", "{}").await.unwrap();
    assert_eq!(everyone.recipients, 7);
    outsider.expect("y").await;
}

#[tokio::test]
async fn a_sender_can_be_excluded() {
    let server = Setup::embedded().start().await;
    let mut sender = Client::connect(&server, &token("a")).await;
    let mut sender_too = Client::connect(&server, &token("a")).await;
    let mut other = Client::connect(&server, &token("b")).await;
    let mut anonymous = Client::anonymous(&server).await;
    for client in [&mut sender, &mut sender_too, &mut other, &mut anonymous] {
        client.join("event:1").await;
    }
    let request = |exclude_sender, sender: &str| BroadcastEventRequest {
        event_type: "x".to_owned(),
        room: "event:1".to_owned(),
        exclude_sender,
        sender_user_id: sender.to_owned(),
        ..Default::default()
    };
    let mut grpc = grpc::client(&server);
    let cases = [(true, "a", 2), (false, "a", 4), (true, "", 4), (true, "nobody", 4)];
    for (exclude, user, recipients) in cases {
        let answer = grpc.broadcast_event(request(exclude, user)).await.unwrap().into_inner();
        assert_eq!(answer.recipients, recipients, "{exclude} {user}");
    }
    for (client, messages) in
        [(&mut sender, 3), (&mut sender_too, 3), (&mut other, 4), (&mut anonymous, 4)]
    {
        for _ in 0..messages {
            client.expect("x").await;
        }
        client.assert_quiet().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_gone_is_no_member() {
    let server = Setup::embedded().start().await;
    let mut stays = Client::anonymous(&server).await;
    let mut goes = Client::connect(&server, &token("a")).await;
    stays.join("event:1").await;
    goes.join("event:1").await;
    goes.close().await;
    crate::common::eventually("the room to shrink", async || {
        let stats = grpc::stats(&server).await;
        (stats.connections_per_room.get("event:1") == Some(&1)).then_some(())
    })
    .await;
    assert_eq!(grpc::broadcast(&server, "event:1", "x", "{}").await.unwrap().recipients, 1);
    assert!(!grpc::send_to_user(&server, "a", "x", "{}").await.unwrap().delivered);
    stays.expect("x").await;
}
