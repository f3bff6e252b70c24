//! The command line and the environment.

use std::process::Output;

use serde_json::Value;

use crate::common::{TempDir, client::Client, redis::free_port, server::Setup};

#[test]
fn a_value_that_cannot_be_read_stops_the_start_with_one_line() {
    let cases = [
        ("HTTP_PORT", "http"),
        ("HTTP_PORT", "70000"),
        ("GRPC_PORT", "-1"),
        ("METRICS_PORT", "x"),
        ("BIND_ADDRESS", "localhost.localdomain:1"),
        ("HTTP_READ_TIMEOUT", "15"),
        ("WS_PING_INTERVAL", "soon"),
        ("WS_PING_INTERVAL", "-1s"),
        ("WS_PONG_TIMEOUT", "1 day"),
        ("WS_ALLOW_ANONYMOUS", "maybe"),
        ("METRICS_ENABLED", "2"),
        ("WS_MAX_ROOMS", "many"),
        ("WS_MAX_MESSAGE_SIZE", "-5"),
        ("WS_OUTBOX_BYTES", "lots"),
        ("HISTORY_SIZE", "-1"),
        ("HISTORY_TTL", "ten minutes"),
        ("WORKERS", "0"),
        ("WORKERS", "1000000"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud=="),
        ("REDIS_PORT", "0x10"),
        ("REDIS_DB", "first"),
        ("RECEIPT_TIMEOUT", "fast"),
        ("DRAIN_TIMEOUT", "NaN"),
        ("JWT_PUBLIC_KEY_FILE", "/no/such/file.pem"),
        ("JWKS_FILE", "/no/such/file.json"),
        ("DELIVERY_LATEST", "system:ping"),
    ];
    for (name, value) in cases {
        let mut setup = Setup::embedded().set(name, value);
        if name.ends_with("_FILE") {
            setup = setup.unset("JWT_SECRET");
        }
        for arguments in [&["check-config"][..], &[]] {
            assert_rejected(&setup.run(arguments), name, value);
        }
    }
}

#[test]
fn unsafe_combinations_stop_the_start() {
    let directory = TempDir::new();
    let no_key = directory.file("key.pem", "nothing of the kind");
    let base = Setup::embedded;
    let cases = [
        (base().unset("JWT_SECRET").set("REDIS_HOST", "localhost"), "JWT_SECRET"),
        (base().set("WS_PING_INTERVAL", "60s").set("WS_PONG_TIMEOUT", "30s"), "WS_PONG_TIMEOUT"),
        (base().set("GRPC_TLS_ENABLED", "true"), "GRPC_TLS_CERT"),
        (base().set("GRPC_TLS_ENABLED", "true").set("GRPC_TLS_CERT", "/no/such/file"), "GRPC_TLS_"),
        (base().set("HTTP_PORT", "4000").set("GRPC_PORT", "4000"), "GRPC_PORT"),
        (base().set("HTTP_PORT", "4000").set("METRICS_PORT", "4000"), "METRICS_PORT"),
        (base().set("REDIS_HOST", "x").set("REDIS_PREFIX", "a{b}"), "REDIS_PREFIX"),
        (base().set("JWT_PUBLIC_KEY_FILE", &no_key), "JWT_"),
        (base().unset("JWT_SECRET").set("JWT_PUBLIC_KEY_FILE", &no_key), "JWT_PUBLIC_KEY_FILE"),
        (base().set("WS_PONG_TIMEOUT", "40s").set("WS_PONG_WAIT", "50s"), "WS_PONG_"),
    ];
    for (setup, name) in cases {
        assert_rejected(&setup.run(&["check-config"]), name, "");
    }
}

#[test]
fn a_good_configuration_passes_the_check() {
    let output = Setup::embedded().run(&["check-config"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let old_name = Setup::embedded().set("WS_PONG_WAIT", "2m").run(&["check-config"]);
    assert_eq!(old_name.status.code(), Some(0), "{old_name:?}");
    let secret = Setup::embedded().set("WS_PING_INTERVAL", "never").run(&["check-config"]);
    let said = format!("{secret:?}");
    assert!(!said.contains(crate::common::token::SECRET), "the secret is in {said}");
}

#[test]
fn an_unknown_command_exits_with_2_and_help_with_0() {
    for arguments in [&["frobnicate"][..], &["--frobnicate"], &["token", "--ttl", "1h"]] {
        let output = Setup::embedded().run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
    for argument in ["--help", "--version"] {
        let output = Setup::embedded().run(&[argument]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(!output.stdout.is_empty());
    }
}

#[tokio::test]
async fn a_minted_token_is_good_for_its_user_and_rooms() {
    let setup = Setup::embedded();
    let server = setup.start().await;
    let output = setup.run(&["token", "--user", "user-1", "--room", "vip:*", "--room", "x"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let token = String::from_utf8(output.stdout).unwrap();
    let mut client = Client::connect(&server, token.trim()).await;
    assert_eq!(client.greeting["user_id"], "user-1");
    client.join("vip:7").await;
    client.join("x").await;
    client.assert_quiet().await;
    let output = setup.run(&["token", "--user", "user-1", "--ttl", "30s"]);
    let token = String::from_utf8(output.stdout).unwrap();
    let mut client = Client::connect(&server, token.trim()).await;
    client.expect("system:token_expiring").await;
}

#[tokio::test]
async fn without_redis_and_secret_a_working_demo_url_is_printed() {
    let server = Setup::embedded().unset("JWT_SECRET").start().await;
    let output = crate::common::eventually("the demo URL", async || {
        server.output().into_iter().find(|line| line.contains("/ws?token="))
    })
    .await;
    let at = output.find("/ws?token=").unwrap() + "/ws?token=".len();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let token: String = output[at..].chars().take_while(|c| is_token(*c)).collect();
    let client = Client::connect(&server, &token).await;
    assert!(client.greeting["user_id"].is_string(), "{}", client.greeting);
    assert!(output.contains(&server.http.port().to_string()), "{output} has another port");
}

#[tokio::test]
async fn the_health_check_tells_by_its_exit_code() {
    let port = free_port().to_string();
    let setup = Setup::embedded().set("HTTP_PORT", &port);
    assert_eq!(setup.run(&["healthcheck"]).status.code(), Some(1));
    let server = setup.start().await;
    assert_eq!(server.http.port().to_string(), port);
    let output = tokio::task::spawn_blocking(move || setup.run(&["healthcheck"])).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_and_ends_the_start() {
    let server = Setup::embedded().start().await;
    let taken = server.grpc.port().to_string();
    let output = Setup::embedded().set("GRPC_PORT", &taken).run(&[]);
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&taken), "{said}");
}

#[tokio::test]
async fn names_of_users_and_rooms_are_not_logged() {
    let server = Setup::embedded().set("LOG_LEVEL", "info").start().await;
    let token = crate::common::token::token("somebody-special");
    let mut client = Client::connect(&server, &token).await;
    client.join("event:top-secret").await;
    crate::common::grpc::send_to_user(&server, "somebody-special", "x", "{}").await.unwrap();
    client.expect("x").await;
    client.close().await;
    for line in server.output() {
        serde_json::from_str::<Value>(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(!line.contains("special") && !line.contains("secret:"), "{line}");
        assert!(!line.contains("top-secret") && !line.contains(&token), "{line}");
    }
}

#[track_caller]
fn assert_rejected(output: &Output, name: &str, value: &str) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{name}={value}: {said}");
    let lines: Vec<&str> = said.trim_end().lines().collect();
    assert_eq!(lines.len(), 1, "{name}={value}: {said}");
    assert!(lines[0].contains(name) && lines[0].contains(value), "{name}={value}: {said}");
}
