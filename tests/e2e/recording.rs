//! `RECORD_DIR`: what an instance was given and did, replayed through bare machines.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use realtime_core::transcript::{Replay, ReplayError};
use serde_json::json;

use crate::common::{
    TempDir, client::Client, eventually, grpc, redis::Redis, server::Setup, token::token,
};

#[tokio::test]
async fn bare_machines_want_what_a_recorded_instance_did() {
    let redis = Redis::start().await;
    for setup in [Setup::embedded(), Setup::on(&redis)] {
        let directory = TempDir::new();
        let path = directory.path().join("recordings");
        let mut server = setup.set("RECORD_DIR", path.to_str().unwrap()).start().await;
        let mut clients = Vec::new();
        for user in ["a", "b", "c", "d"] {
            let mut client = Client::connect(&server, &token(user)).await;
            client.join("event:\"käse\"").await;
            clients.push(client);
        }
        let event = json!({"é": "\u{1F600} \"quoted\""});
        let payload = event.to_string();
        grpc::broadcast(&server, "event:\"käse\"", "gone", &payload).await.unwrap();
        for client in &mut clients {
            assert_eq!(client.expect("gone").await["payload"], event);
        }
        drop(clients.pop());
        server.terminate();
        assert!(server.exit().await.success());

        // Which worker takes a connection is the kernel's choice: one may have none.
        let (mut machines, mut inputs) = (Vec::new(), 0);
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "nobody else may read what was sent");
            inputs += replay(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            machines.push(name.split_once('-').unwrap().1.to_owned());
        }
        machines.sort();
        assert_eq!(machines, ["relay", "worker-0", "worker-1"]);
        assert!(inputs > 30, "there are only {inputs}");
    }
}

#[tokio::test]
async fn a_recording_ends_where_its_file_is_full_and_can_be_replayed_up_to_there() {
    let directory = TempDir::new();
    let server = Setup::embedded()
        .set("WORKERS", "1")
        .set("RECORD_DIR", directory.path().to_str().unwrap())
        .set("RECORD_BYTES", "4KiB")
        .start()
        .await;
    let mut client = Client::connect(&server, &token("a")).await;
    let full = eventually("the file to be full", async || {
        client.join("event:1").await;
        let full = "RECORD_BYTES are full: nothing more is recorded";
        server.logged(full).filter(|line| line["path"].as_str().unwrap().contains("worker-0"))
    })
    .await;
    let path = Path::new(full["path"].as_str().unwrap());
    let bytes = fs::metadata(path).unwrap().len();
    assert!((2_048..=4_096).contains(&bytes), "{bytes} bytes");
    assert!(replay(path).unwrap() > 0);
}

/// Gives the number of inputs.
fn replay(path: &Path) -> Result<u64, ReplayError> {
    let mut replay = Replay::default();
    let text = fs::read_to_string(path).unwrap();
    text.lines().try_for_each(|line| replay.line(line))?;
    replay.finish()
}
