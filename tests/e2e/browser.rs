//! The documented JavaScript client, in node and in a real browser.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use realtime_proto::{NotifyBookingResultRequest, NotifyPaymentStatusRequest, PaymentStatus};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::common::{
    TempDir, eventually, grpc,
    http::find,
    redis::{Redis, free_port},
    server::{Server, Setup},
    token::token,
    within,
};

/// As documented, for `localhost:3003`.
const SNIPPET: &str = include_str!("snippet.js");

/// Has a recipe for code that reconnects and resumes.
const README: &str = include_str!("../../README.md");

#[tokio::test]
async fn the_documented_snippet_works_in_node() {
    if !has_node() {
        return;
    }
    let (reports, page) = Reports::listen().await;
    let server = Setup::embedded().start().await;
    let _node = node(&script(&server, &format!("http://localhost:{page}/report")));
    notify_and_check(&server, reports).await;
}

#[tokio::test]
async fn the_documented_snippet_works_in_a_browser() {
    let Some(browser) = find_browser() else { return };
    let (reports, page) = Reports::listen().await;
    let origin = format!("http://localhost:{page}");
    let server = Setup::embedded().set("WS_ALLOWED_ORIGINS", &origin).start().await;
    reports.serve(&script(&server, "/report"));
    let profile = TempDir::new();
    let _browser = open(browser, &profile, &origin);
    notify_and_check(&server, reports).await;
}

#[tokio::test]
async fn the_recipe_survives_a_server_that_is_killed_in_node() {
    if !has_node() {
        return;
    }
    let (reports, page) = Reports::listen().await;
    let killed = Killed::start(&format!("http://localhost:{page}")).await;
    let _node = node(&recipe(killed.port, &format!("http://localhost:{page}/report")));
    killed.kill_and_check(reports).await;
}

#[tokio::test]
async fn the_recipe_survives_a_server_that_is_killed_in_a_browser() {
    let Some(browser) = find_browser() else { return };
    let (reports, page) = Reports::listen().await;
    let origin = format!("http://localhost:{page}");
    let killed = Killed::start(&origin).await;
    reports.serve(&recipe(killed.port, "/report"));
    let profile = TempDir::new();
    let _browser = open(browser, &profile, &origin);
    killed.kill_and_check(reports).await;
}

/// Whether there is a node with a WebSocket; says so if not.
fn has_node() -> bool {
    let has_websocket = Command::new("node")
        .args([
            "--experimental-websocket",
            "-e",
            "process.exit(typeof WebSocket == 'function' ? 0 : 1)",
        ])
        .stderr(Stdio::null())
        .status();
    let has_websocket = has_websocket.is_ok_and(|status| status.success());
    if !has_websocket {
        eprintln!("skipped: there is no node with a WebSocket (20.10 or newer)");
    }
    has_websocket
}

fn node(script: &str) -> Group {
    let node = Command::new("node")
        .args(["--experimental-websocket", "--input-type=module", "-e", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()
        .expect("it ran a moment ago");
    Group(node)
}

/// The name of Chromium; says so if there is none.
fn find_browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&str| {
        let found = Command::new(name).arg("--version").stderr(Stdio::null()).output();
        found.is_ok_and(|output| output.status.success())
    };
    let browser = names.into_iter().find(is_there);
    if browser.is_none() {
        eprintln!("skipped: chromium is not installed");
    }
    browser
}

fn open(browser: &str, profile: &TempDir, page: &str) -> Group {
    let browser = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
        .args(["--disable-component-update", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        // Without a debugging port it would print the page and end, not stay to run it.
        .arg("--remote-debugging-port=0")
        .arg(page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("it ran a moment ago");
    Group(browser)
}

/// Two instances, of which the one that the recipe connects to is killed.
struct Killed {
    _redis: Redis,
    setup: Setup,
    port: u16,
    victim: Server,
    other: Server,
}

impl Killed {
    async fn start(origin: &str) -> Self {
        let redis = Redis::start().await;
        let port = free_port();
        let other = Setup::on(&redis).start().await;
        let setup =
            Setup::on(&redis).set("HTTP_PORT", &port.to_string()).set("WS_ALLOWED_ORIGINS", origin);
        let victim = setup.start().await;
        Self { _redis: redis, setup, port, victim, other }
    }

    async fn kill_and_check(mut self, mut reports: Reports) {
        joined(&self.victim).await;
        self.publish(0).await;
        assert_eq!(numbers(&mut reports).await, [("all", 0), ("own", 0), ("room", 0)]);
        self.victim.kill();
        self.publish(1).await;
        self.victim = self.setup.start().await;
        joined(&self.victim).await;
        self.publish(2).await;
        // What it missed, and what is live; nothing twice, and nothing is said to be missing.
        for number in [1, 2] {
            let expected = [("all", number), ("own", number), ("room", number)];
            assert_eq!(numbers(&mut reports).await, expected);
        }
    }

    /// To the user, to the room and to everyone, by the instance that lives.
    async fn publish(&self, number: u64) {
        let payload = number.to_string();
        grpc::send_to_user(&self.other, "user-1", "own", &payload).await.unwrap();
        grpc::broadcast(&self.other, "event:123", "room", &payload).await.unwrap();
        grpc::broadcast(&self.other, "all", "all", &payload).await.unwrap();
    }
}

/// The next three messages, by their types.
async fn numbers(reports: &mut Reports) -> Vec<(&'static str, u64)> {
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let report = reports.next().await;
        let kind = ["all", "own", "room"].into_iter().find(|kind| report["shown"] == *kind);
        let kind = kind.unwrap_or_else(|| panic!("{report}"));
        numbers.push((kind, report["payload"].as_u64().expect("it is a number")));
    }
    numbers.sort_unstable();
    numbers
}

/// The recipe of the README, connected to a port and reporting one thing after another.
fn recipe(port: u16, report: &str) -> String {
    let code = README.split("```js\n").nth(1).and_then(|rest| rest.split("```").next());
    let code = code.expect("the README has a recipe");
    assert!(code.lines().count() < 60, "it is short");
    format!(
        "{code}\nlet last = Promise.resolve();\n\
         const report = (shown, payload) => last = last.then(() =>\n  \
         fetch('{report}', {{method: 'POST', body: JSON.stringify({{shown, payload}})}}));\n\
         connect('ws://localhost:{port}/ws', async () => '{}', ['event:123'], {{\n  \
         message: ({{type, payload}}) => report(type, payload),\n  \
         missed: (stream) => report('missed', stream),\n  \
         stopped: (code) => report('stopped', code),\n}});\n",
        token("user-1"),
    )
}

/// Waits for the snippet to join its room, notifies its user, and checks what it showed.
async fn notify_and_check(server: &Server, mut reports: Reports) {
    joined(server).await;
    let mut client = grpc::client(server);
    let booking = NotifyBookingResultRequest {
        user_id: "user-1".to_owned(),
        booking_id: "b-1".to_owned(),
        success: true,
        booking_reference: "BK12345".to_owned(),
        message: "đã xác nhận 🎫".to_owned(),
        ..Default::default()
    };
    assert!(client.notify_booking_result(booking).await.unwrap().into_inner().delivered);
    let payment = NotifyPaymentStatusRequest {
        user_id: "user-1".to_owned(),
        payment_id: "p-1".to_owned(),
        status: PaymentStatus::Success.into(),
        ..Default::default()
    };
    assert!(client.notify_payment_status(payment).await.unwrap().into_inner().delivered);
    let mut shown = [reports.next().await, reports.next().await];
    shown.sort_by_key(|report| report["shown"].to_string());
    assert_eq!(shown[0]["shown"], "booking");
    assert_eq!(shown[0]["payload"]["booking_reference"], "BK12345");
    assert_eq!(shown[0]["payload"]["message"], "đã xác nhận 🎫");
    assert_eq!(shown[1]["shown"], "payment");
    assert_eq!(shown[1]["payload"]["payment_id"], "p-1");
}

async fn joined(server: &Server) {
    eventually("the script to join", async || {
        let stats = grpc::stats(server).await;
        (stats.connections_per_room.get("event:123") == Some(&1)).then_some(())
    })
    .await;
}

/// The snippet with what its page would define, reporting what it shows.
fn script(server: &Server, report: &str) -> String {
    let snippet = SNIPPET.replace("localhost:3003", &format!("localhost:{}", server.http.port()));
    format!(
        "const jwtToken = '{}';\nconst eventId = '123';\n\
         const report = (shown, payload) =>\n  \
         fetch('{report}', {{method: 'POST', body: JSON.stringify({{shown, payload}})}});\n\
         const showBookingConfirmation = (payload) => report('booking', payload);\n\
         const showPaymentSuccess = (payload) => report('payment', payload);\n{snippet}",
        token("user-1"),
    )
}

/// A web server that gives out one page and collects what is posted to it.
struct Reports {
    page: tokio::sync::watch::Sender<String>,
    received: tokio::sync::mpsc::Receiver<Value>,
}

impl Reports {
    async fn listen() -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (page, shown) = tokio::sync::watch::channel(String::new());
        let (sender, received) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, shown.clone(), sender.clone()));
            }
        });
        (Self { page, received }, port)
    }

    fn serve(&self, script: &str) {
        let page =
            format!("<!doctype html><meta charset=utf-8><script type=module>{script}</script>");
        self.page.send_replace(page);
    }

    async fn next(&mut self) -> Value {
        within("a report of the snippet", self.received.recv()).await.expect("it listens on")
    }
}

async fn answer(
    mut stream: tokio::net::TcpStream,
    page: tokio::sync::watch::Receiver<String>,
    reports: tokio::sync::mpsc::Sender<Value>,
) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if let Some(at) = find(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..at]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if bytes.len() >= at + 4 + length {
                bytes.drain(..at + 4);
                break (head, length);
            }
        }
        if stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
            continue;
        }
        return; // Browsers open connections that they then do not need.
    };
    let body = if head.starts_with("post") {
        let report = serde_json::from_slice(&bytes[..length]).expect("reports are JSON");
        reports.send(report).await.ok();
        String::new()
    } else {
        page.borrow().clone()
    };
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await.ok();
}

/// A process and its children, which end with their owner.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Its children may be gone already; it itself must be, or waiting would not end.
        let command = format!("kill -KILL -{}", self.0.id());
        Command::new("sh").args(["-c", &command]).stderr(Stdio::null()).status().ok();
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
