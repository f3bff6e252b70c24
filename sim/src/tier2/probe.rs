//! Looks at `/ready`, as a load balancer does.

use std::{rc::Rc, time::Duration};

use realtime_runtime::net::Net as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use super::{
    host::HTTP_PORT,
    journal::{Probe, SharedJournal},
    net::SimNet,
    plan::{Plan, pod_name},
    trace,
};

/// Asks every instance, twice a second, for ever.
pub(super) async fn run(plan: Rc<Plan>, journal: SharedJournal) -> turmoil::Result {
    for pod in 0..plan.workers.len() {
        let journal = journal.clone();
        tokio::task::spawn_local(async move {
            loop {
                let asked_us = trace::now_us();
                let status = timeout(TIMEOUT, ask(pod)).await.ok().flatten();
                let us = trace::now_us();
                let (from, status_or_0) = (pod_name(pod), status.unwrap_or(0));
                let what = format_args!("\"from\":\"{from}\",\"ready\":{status_or_0}");
                trace::note("probe", what);
                journal.borrow_mut().probes.push(Probe { asked_us, us, pod, status });
                sleep(INTERVAL).await;
            }
        });
    }
    std::future::pending().await
}

async fn ask(pod: usize) -> Option<u16> {
    let mut stream = SimNet::connect(&pod_name(pod), HTTP_PORT).await.ok()?;
    let request = "GET /ready HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

const INTERVAL: Duration = Duration::from_millis(500);

const TIMEOUT: Duration = Duration::from_secs(1);
