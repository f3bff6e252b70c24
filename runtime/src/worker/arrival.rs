//! Connections before they are WebSockets: accepted, read, and passed on or refused.

use std::{cell::Cell, future::Future, io, rc::Rc, time::Duration};

use bytes::Bytes;
use realtime_core::shard::{Handshake, Refusal};
use tokio::time::timeout;

use super::{machine::Machine, slots::Waiting};
use crate::{
    handshake::{self, Head, HeadError},
    http::error_response,
    net::{Listener, Stream},
    service::Handoff,
};

/// What is counted about connections before they are WebSockets.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests being read or refused.
    pending: Rc<Cell<u32>>,
    failures: Cell<u64>,
}

/// Room for one request that is being read or refused.
struct Permit(Rc<Cell<u32>>);

impl Counts {
    /// Times that a connection could not be taken: no files, or too many unanswered requests.
    pub(super) fn failures(&self) -> u64 {
        self.failures.get()
    }

    fn permit(&self) -> Option<Permit> {
        if self.pending.get() >= PENDING_MAX {
            return None;
        }
        self.pending.set(self.pending.get() + 1);
        Some(Permit(self.pending.clone()))
    }

    fn failed(&self) {
        self.failures.set(self.failures.get() + 1);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Task: accepts for ever. Without files it waits a moment: the backlog keeps who comes meanwhile.
pub(super) async fn accept<S: Stream>(
    machine: Rc<Machine<S>>,
    mut listener: impl Listener<Stream = S>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match machine.arrivals.permit() {
                Some(permit) => {
                    tokio::task::spawn_local(read(machine.clone(), stream, permit));
                }
                None => machine.arrivals.failed(),
            },
            Err(error) if is_of_one_connection(&error) => (),
            Err(error) => {
                if machine.arrivals.failures() == 0 {
                    tracing::warn!(%error, "connections can't be accepted");
                }
                machine.arrivals.failed();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Reads a request and passes it on. The room for it is given back when the shard has it.
async fn read<S: Stream>(machine: Rc<Machine<S>>, mut stream: S, permit: Permit) {
    let head = match timeout(machine.config.http_read_timeout, Head::read(&mut stream)).await {
        Ok(Ok(head)) => head,
        Ok(Err(HeadError::TooLong)) => {
            return respond(&machine, stream, handshake::too_long_response(), permit).await;
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
        return respond(&machine, refused.stream, response, permit).await;
    }
    let upgrade = match head.upgrade() {
        Ok(upgrade) => upgrade,
        Err(rejection) => return respond(&machine, stream, rejection.response(), permit).await,
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

/// Answers a refused upgrade, or closes without an answer when too many are being answered.
pub(super) fn refuse<S: Stream>(machine: &Rc<Machine<S>>, stream: S, refusal: Refusal) {
    let Some(permit) = machine.arrivals.permit() else { return };
    let response = handshake::refusal_response(refusal);
    tokio::task::spawn_local(respond(machine, stream, response, permit));
}

fn respond<S: Stream>(
    machine: &Machine<S>,
    stream: S,
    response: Vec<u8>,
    permit: Permit,
) -> impl Future<Output = ()> + use<S> {
    let at_most = machine.config.http_write_timeout.min(RESPOND_TIMEOUT);
    async move {
        // Whether the client has read it can't be known.
        drop(timeout(at_most, handshake::respond(stream, &response)).await);
        drop(permit);
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

/// Requests of one worker that are being read or refused.
const PENDING_MAX: u32 = 4096;

/// How long to wait for files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a refused client may take to read the answer and close.
const RESPOND_TIMEOUT: Duration = Duration::from_secs(5);
