//! One connection of a client, as the client and the judges see it.

use std::collections::BTreeMap;

use realtime_core::{id::ConnectionId, time::Instant};

use crate::{
    oracle::epochs::Epochs,
    truth::{NodeId, StreamId},
};

/// A connection, from the request to the end.
#[derive(Debug)]
pub struct Session {
    /// Whose.
    pub client: usize,
    /// The user of its token.
    pub user: Option<String>,
    /// The instance and its life.
    pub life: (usize, u32),
    /// The shard.
    pub worker: usize,
    /// Its name there.
    pub conn: ConnectionId,
    /// How far it is.
    pub stage: Stage,
    /// It is gone without a word: it reads and answers nothing.
    pub vanished: bool,
    /// It reads nothing until then.
    pub stalled_until: Option<Instant>,
    /// When it began to read again.
    pub stalled: Instant,
    /// Bytes that wait for it.
    pub queued: usize,
    /// Since when its shard knows that it is slow.
    pub congested: Option<Instant>,
    /// A frame did not fit.
    pub overflowed: bool,
    /// When its shard heard of it last.
    pub heard: Instant,
    /// When it was accepted.
    pub accepted: Instant,
    /// Pings since it was heard last.
    pub pings: u32,
    /// It was pinged.
    pub pinged: bool,
    /// When its token expires, in Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// The last message was `system:reconnect`.
    pub told_to_reconnect: bool,
    /// Errors that it was told, one after another.
    pub errors: u32,
    /// Since when it sends too much.
    pub limited: bool,
    /// It broke the protocol.
    pub misbehaved: bool,
    /// Where it said that it was in the streams of its greeting.
    pub since: BTreeMap<StreamId, NodeId>,
    /// What it is a member of, as it was told.
    pub streams: BTreeMap<StreamId, Seen>,
    /// The newest epochs it was told.
    pub epochs: Epochs,
    /// What it asked and was not answered, by `ref`.
    pub asked: BTreeMap<u32, Asked>,
    /// The next `ref`.
    pub next_ref: u32,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In its handshake.
    Arriving,
    /// Greeted.
    Open,
    /// Sent a close frame.
    Closing,
    /// Cut.
    Reset,
    /// Over.
    Gone,
}

/// What a client knows of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// When it became a member.
    pub joined: Instant,
    /// Everything up to here was received, was before the join, or was said to be missed. None
    /// until the client is told where it is.
    pub at: Option<NodeId>,
    /// The newest publication without a position, by the order in which the broker took them.
    pub order: u64,
    /// The newest message with a position that it was sent as a member.
    pub heard: Option<NodeId>,
    /// The version of the newest latest value.
    pub latest: u64,
    /// The version of the newest latest value when it was told to fetch the state, if it was while
    /// it had no place.
    pub fetched: u64,
    /// The newest message of an ingress channel.
    pub ingress: u64,
}

/// What a client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To join a room, maybe from a position.
    Join(String, Option<NodeId>),
    /// To leave a room.
    Leave(String),
    /// For a pong.
    Ping,
    /// For a longer life, with a token that is good or not.
    Refresh(bool),
    /// Something that is answered with an error.
    Garbage,
}

impl Asked {
    /// The room that it names.
    pub fn room(&self) -> Option<&str> {
        match self {
            Self::Join(room, _) | Self::Leave(room) => Some(room),
            Self::Ping | Self::Refresh(_) | Self::Garbage => None,
        }
    }
}

impl Session {
    /// A connection that arrives.
    pub fn new(
        client: usize,
        user: Option<String>,
        life: (usize, u32),
        worker: usize,
        conn: ConnectionId,
    ) -> Self {
        Self {
            client,
            user,
            life,
            worker,
            conn,
            stage: Stage::Arriving,
            vanished: false,
            stalled_until: None,
            stalled: Instant(0),
            queued: 0,
            congested: None,
            overflowed: false,
            heard: Instant(0),
            accepted: Instant(0),
            pings: 0,
            pinged: false,
            expires_ms: None,
            told_to_reconnect: false,
            errors: 0,
            limited: false,
            misbehaved: false,
            since: BTreeMap::new(),
            streams: BTreeMap::new(),
            epochs: Epochs::default(),
            asked: BTreeMap::new(),
            next_ref: 1,
        }
    }

    /// Whether its client reads and answers.
    pub fn is_well(&self) -> bool {
        self.stage == Stage::Open && !self.vanished && self.stalled_until.is_none()
    }
}
