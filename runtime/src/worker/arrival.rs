//! Connections before they are WebSockets: accepted, read, and passed on or refused.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    io,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use realtime_core::shard::{Handshake, Refusal};
use tokio::{task::AbortHandle, time::timeout};

use super::{machine::Machine, slots::Waiting};
use crate::{
    handshake::{self, Head, HeadError},
    http::error_response,
    net::{Listener, Stream},
    service::Handoff,
};

/// Connections before they are WebSockets.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Requests being read or refused, in the order in which they came.
    pending: Rc<RefCell<BTreeMap<u64, AbortHandle>>>,
    /// How many there have been.
    count: Cell<u64>,
    failures: Cell<u64>,
}

/// The place of a request that is being read or refused.
struct Place {
    number: u64,
    pending: Rc<RefCell<BTreeMap<u64, AbortHandle>>>,
}

impl Arrivals {
    /// Times that a connection could not be taken: no files, or too many unanswered requests.
    pub(super) fn failures(&self) -> u64 {
        self.failures.get()
    }

    fn failed(&self) {
        self.failures.set(self.failures.get() + 1);
    }

    /// Starts a task for one more request. When there are `at_most` already, the oldest is given
    /// up: it had the most time, so connections that say nothing don't keep others out.
    fn start<F: Future<Output = ()> + 'static>(
        &self,
        at_most: usize,
        task: impl FnOnce(Place) -> F,
    ) {
        while self.pending.borrow().len() >= at_most.max(1) {
            let oldest = self.pending.borrow_mut().pop_first();
            let Some((_, oldest)) = oldest else { break };
            oldest.abort();
            self.failed();
        }
        let number = self.count.get();
        self.count.set(number + 1);
        let place = Place { number, pending: self.pending.clone() };
        let task = tokio::task::spawn_local(task(place)).abort_handle();
        self.pending.borrow_mut().insert(number, task);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.borrow_mut().remove(&self.number);
    }
}

/// How many requests this worker may read or refuse at once: no more than leave files for what is
/// not a client.
fn pending_max<S: Stream>(machine: &Machine<S>) -> usize {
    let sockets = machine.config.ws.sockets_max.saturating_sub(machine.census.connections());
    (sockets / u32::from(machine.workers.get())).min(PENDING_MAX) as usize
}

/// Task: accepts for ever. Without files it waits a moment: the backlog keeps who comes meanwhile.
pub(super) async fn accept<S: Stream>(
    machine: Rc<Machine<S>>,
    mut listener: impl Listener<Stream = S>,
) {
    // Said once for each time that it begins.
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                told = false;
                let read = |place| read(machine.clone(), stream, place);
                machine.arrivals.start(pending_max(&machine), read);
            }
            Err(error) if is_of_one_connection(&error) => (),
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "connections can't be accepted");
                }
                machine.arrivals.failed();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Reads a request and passes it on. Its place is free again when the shard has it.
async fn read<S: Stream>(machine: Rc<Machine<S>>, mut stream: S, place: Place) {
    let head = match timeout(machine.config.http_read_timeout, Head::read(&mut stream)).await {
        Ok(Ok(head)) => head,
        Ok(Err(HeadError::TooLong)) => {
            return respond(&machine, stream, handshake::too_long_response(), place).await;
        }
        Ok(Err(HeadError::Lost(error))) => {
            return tracing::debug!(%error, "lost before a request was complete");
        }
        Err(_) => return tracing::debug!("no complete request in time"),
    };
    if !head.is_for(PATH) {
        let handoff = Handoff { head: Bytes::from(head.into_bytes()), stream };
        let Err(error) = machine.handoff.try_send(handoff) else { return };
        let refused = error.into_inner();
        let response = error_response(503, "UNAVAILABLE", "too many requests at once", &[]);
        return respond(&machine, refused.stream, response, place).await;
    }
    let upgrade = match head.upgrade() {
        Ok(upgrade) => upgrade,
        Err(rejection) => return respond(&machine, stream, rejection.response(), place).await,
    };
    let request = Handshake {
        origin: upgrade.origin,
        token: upgrade.token.is_some(),
        since: upgrade.since.as_deref(),
        since_all: upgrade.since_all.as_deref(),
        instance_connections: machine.census.arrived(),
    };
    let waiting = Waiting {
        stream,
        accept: upgrade.accept,
        bearer: upgrade.bearer,
        token: upgrade.token.map(String::from),
        leftover: head.leftover().to_vec(),
    };
    machine.arrived(waiting, request);
}

/// Answers a refused upgrade.
pub(super) fn refuse<S: Stream>(machine: &Rc<Machine<S>>, stream: S, refusal: Refusal) {
    let response = handshake::refusal_response(refusal);
    let respond = |place| respond(machine, stream, response, place);
    machine.arrivals.start(pending_max(machine), respond);
}

fn respond<S: Stream>(
    machine: &Machine<S>,
    stream: S,
    response: Vec<u8>,
    place: Place,
) -> impl Future<Output = ()> + use<S> {
    let at_most = machine.config.http_write_timeout.min(RESPOND_TIMEOUT);
    async move {
        // Whether the client has read it can't be known.
        drop(timeout(at_most, handshake::respond(stream, &response)).await);
        drop(place);
    }
}

/// Whether accepting failed since that one client is gone already.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Where the WebSocket is.
const PATH: &str = "/ws";

/// Requests of one worker that are being read or refused: at 2,000 a second those of two seconds.
const PENDING_MAX: u32 = 4096;

/// How long to wait for files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a refused client may take to read the answer and close.
const RESPOND_TIMEOUT: Duration = Duration::from_secs(5);
