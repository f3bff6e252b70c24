//! Looks at `/ready`, as a load balancer does, and at `/metrics`, as Prometheus does.

use std::{rc::Rc, time::Duration};

use realtime_runtime::net::Net as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use super::{
    host::HTTP_PORT,
    journal::{Outboxes, Probe, SharedJournal},
    net::SimNet,
    plan::{Plan, pod_name},
    trace,
};

/// Asks every instance, twice a second, for ever.
pub(super) async fn run(plan: Rc<Plan>, journal: SharedJournal) -> turmoil::Result {
    let measures = plan.outbox_bytes().is_some();
    for pod in 0..plan.workers.len() {
        let journal = journal.clone();
        tokio::task::spawn_local(async move {
            loop {
                ready(pod, &journal).await;
                if measures {
                    outboxes(pod, &journal).await;
                }
                sleep(INTERVAL).await;
            }
        });
    }
    std::future::pending().await
}

async fn ready(pod: usize, journal: &SharedJournal) {
    let asked_us = trace::now_us();
    let status = ask(pod, "/ready").await.and_then(|answer| answer.split(' ').nth(1)?.parse().ok());
    let us = trace::now_us();
    let (from, status_or_0) = (pod_name(pod), status.unwrap_or(0));
    trace::note("probe", format_args!("\"from\":\"{from}\",\"ready\":{status_or_0}"));
    journal.borrow_mut().probes.push(Probe { asked_us, us, pod, status });
}

async fn outboxes(pod: usize, journal: &SharedJournal) {
    let asked_us = trace::now_us();
    let answer = ask(pod, "/metrics").await;
    let Some(answer) = answer.filter(|answer| answer.starts_with("HTTP/1.1 200 ")) else { return };
    let mut lines = answer.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(name, _)| *name == "realtime_websocket_outbox_bytes");
    let us = trace::now_us();
    let Some(bytes) = found.and_then(|(_, bytes)| bytes.parse().ok()) else {
        return journal.borrow_mut().violate(format!("pod {pod} does not tell of its outboxes"));
    };
    let from = pod_name(pod);
    trace::note("probe", format_args!("\"from\":\"{from}\",\"outboxes\":{bytes}"));
    journal.borrow_mut().outboxes.push(Outboxes { asked_us, us, pod, bytes });
}

async fn ask(pod: usize, path: &str) -> Option<String> {
    let asked = async {
        let mut stream = SimNet::connect(&pod_name(pod), HTTP_PORT).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        String::from_utf8(answer).ok()
    };
    timeout(TIMEOUT, asked).await.ok().flatten()
}

const INTERVAL: Duration = Duration::from_millis(500);

const TIMEOUT: Duration = Duration::from_secs(1);
