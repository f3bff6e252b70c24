//! What the tool and its swarms, which are processes, say to each other: a line of JSON each.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{client::Tally, histogram::Histogram};

/// What a swarm is told first.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Setup {
    /// Where to connect; the clients take turns.
    pub(crate) servers: Vec<SocketAddr>,
    /// Makes tokens; without it clients are anonymous.
    pub(crate) secret: Option<String>,
    /// The room that all join.
    pub(crate) room: String,
}

/// What a swarm is told afterwards. It answers each with one [`Report`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Order {
    /// Connect so many more clients.
    Connect {
        /// The number of the first one.
        first: u32,
        /// How many.
        count: u32,
        /// How many handshakes at once.
        at_once: u32,
        /// How many to begin in a second; 0 is as many as go.
        per_second: u32,
    },
    /// Answer when so many durable messages have come altogether, or a connection has ended.
    Await {
        /// How many.
        durable: u64,
    },
    /// Tell what has been counted.
    Count,
    /// From now on connect to these.
    Move {
        /// The new servers.
        servers: Vec<SocketAddr>,
    },
    /// Close all connections.
    Leave,
}

/// What a swarm answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Report {
    /// All have joined, but for those that failed.
    Connected {
        /// How many failed.
        failed: u32,
        /// Why the first of them did.
        error: Option<String>,
        /// From the first SYN to `room:joined`.
        latency: Histogram,
    },
    /// What was asked for is done, and this is what has been counted.
    Counted(Tally),
}
