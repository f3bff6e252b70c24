//! What a shard hears of, and what it asks for.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    id::{ConnectionId, DeliveryId},
    link::{Suffix, ToRelay, ToShard, ValueKey},
    time::UnixMillis,
    transcript::latin1,
    wire::{CloseCode, Frame},
};

/// Something that happened. `Arrived` is the first input of a connection and `Closed` the last;
/// after `Action::Refuse` there is no further one.
#[derive(Debug, Serialize, Deserialize)]
pub enum Input<'a> {
    /// A complete and well-formed upgrade request for `/ws` has been read.
    Arrived {
        /// A slot that is free.
        conn: ConnectionId,
        /// What the request says.
        #[serde(borrow)]
        request: Handshake<'a>,
    },
    /// `Action::Verify` was carried out.
    Verified {
        /// The connection.
        conn: ConnectionId,
        /// Who it is.
        outcome: Result<Identity, VerifyError>,
        /// Connections of that user on all shards of the instance, without this one, as far as the
        /// runtime knows; the shard knows its own.
        user_connections: u32,
    },
    /// A whole text message came.
    Received {
        /// The connection.
        conn: ConnectionId,
        /// The message.
        text: &'a str,
    },
    /// Something else came that shows that the peer lives: a ping, a pong.
    Heard {
        /// The connection.
        conn: ConnectionId,
    },
    /// The peer broke the protocol in a way that its socket noticed: a binary frame, bad UTF-8, a
    /// message over the limit, a malformed frame.
    Misbehaved {
        /// The connection.
        conn: ConnectionId,
        /// What to close it with.
        code: CloseCode,
    },
    /// The socket is gone, whatever the cause. The slot is free after this.
    Closed {
        /// The connection.
        conn: ConnectionId,
    },
    /// `Action::VerifyRefresh` was carried out.
    Refreshed {
        /// The connection.
        conn: ConnectionId,
        /// As the action gave it.
        reference: Option<Reference>,
        /// Whom the new token names.
        outcome: Result<Identity, VerifyError>,
    },
    /// More than half of the connection's outbox is full.
    Congested {
        /// The connection.
        conn: ConnectionId,
    },
    /// No more than half of a congested connection's outbox is full.
    Relieved {
        /// The connection.
        conn: ConnectionId,
    },
    /// A frame did not fit into the connection's outbox, or into what all outboxes may hold.
    Overflowed {
        /// The connection.
        conn: ConnectionId,
    },
    /// `next_members` gave its last member, and every frame is written or queued.
    Delivered {
        /// The fan-out.
        delivery: DeliveryId,
        /// Connections that took the frame.
        accepted: u32,
    },
    /// The relay said something.
    FromRelay(ToShard),
    /// The instance shuts down: refuse newcomers and close everyone, evenly over `period`.
    Draining {
        /// From the first close to the last.
        period: Duration,
    },
    /// The wall clock was read. Comes once a minute, since clocks are stepped.
    WallClock(UnixMillis),
    /// The deadline that `next_deadline` named has passed.
    TimedOut,
}

/// What an upgrade request says.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Handshake<'a> {
    /// The `Origin` header.
    pub origin: Option<&'a str>,
    /// Whether there is a token.
    pub token: bool,
    /// The `since` parameter.
    pub since: Option<&'a str>,
    /// The `since_all` parameter.
    pub since_all: Option<&'a str>,
    /// Connections on all shards of the instance, without this one, as far as the runtime knows;
    /// the shard knows its own.
    pub instance_connections: u32,
}

/// Whom a verified token names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user, a valid user id.
    pub user: Arc<str>,
    /// Room patterns that the token grants.
    pub rooms: Arc<[Box<str>]>,
    /// When the token expires, in Unix seconds.
    pub expires: Option<u64>,
}

/// A token is no good. Clients learn no more than that, nor do transcripts; the reason is for the
/// log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyError(pub &'static str);

impl Serialize for VerifyError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for VerifyError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer).map(|()| Self("as in the log"))
    }
}

/// A client's `ref`, as the JSON text it was written in. At most 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference(pub Box<str>);

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Verify the token of the upgrade request.
    Verify {
        /// The connection.
        conn: ConnectionId,
    },
    /// Refuse the upgrade. The connection is forgotten.
    Refuse {
        /// The connection.
        conn: ConnectionId,
        /// Why.
        refusal: Refusal,
    },
    /// Complete the upgrade; `greeting` is the first frame.
    Accept {
        /// The connection.
        conn: ConnectionId,
        /// `system:connected`.
        greeting: Slice,
    },
    /// Send a frame to one connection.
    Send {
        /// The connection.
        conn: ConnectionId,
        /// The frame.
        frame: Slice,
    },
    /// Send a connection what it missed, as its socket drains: behind what is queued, and before
    /// what is sent after this.
    Feed {
        /// The connection.
        conn: ConnectionId,
        /// What it missed.
        suffix: Suffix,
        /// Entries that exclude this user are left out.
        skip_user: Option<Arc<str>>,
    },
    /// Write `frame` to every connection that `next_members` gives.
    Deliver {
        /// Names the fan-out to `next_members`.
        delivery: DeliveryId,
        /// One or more frames, to be written in one go.
        frame: Frame,
        /// When its first publication was published.
        published: Option<UnixMillis>,
        /// What it is the newest value of, if it is a `latest` value alone.
        value_of: Option<ValueKey>,
    },
    /// Send a ping frame.
    Ping {
        /// The connection.
        conn: ConnectionId,
    },
    /// Send a close frame behind what is queued, and close when it is answered.
    Close {
        /// The connection.
        conn: ConnectionId,
        /// With what.
        code: CloseCode,
    },
    /// Close the TCP connection at once.
    Reset {
        /// The connection.
        conn: ConnectionId,
    },
    /// Verify the token of an `auth:refresh`.
    VerifyRefresh {
        /// The connection.
        conn: ConnectionId,
        /// The token.
        token: Box<str>,
        /// To be given back.
        reference: Option<Reference>,
    },
    /// Tell the relay.
    ToRelay(ToRelay),
    /// The last connection is gone, after `Input::Draining`.
    Drained,
    /// A rare situation was reached; simulations count these.
    Reach(&'static str),
}

/// Why an upgrade is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Refusal {
    /// 401: no token, and anonymous connections are not allowed.
    TokenMissing,
    /// 401: the token is no good.
    TokenInvalid,
    /// 403: the origin is not allowed.
    OriginForbidden,
    /// 429: the user has too many connections.
    TooManyConnections,
    /// 503: the instance is full.
    Full {
        /// When to try again, in seconds.
        retry_after_s: u32,
    },
    /// 503: the instance shuts down.
    Draining {
        /// When to try again, in seconds.
        retry_after_s: u32,
    },
    /// 503: too many handshakes at once.
    TooFast {
        /// When to try again, in seconds.
        retry_after_s: u32,
    },
    /// 503: the broker can't be reached.
    BrokerAway {
        /// When to try again, in seconds.
        retry_after_s: u32,
    },
}

impl Refusal {
    /// The label of each refusal in metrics.
    pub const LABELS: [&str; Self::COUNT] = [
        "token_missing",
        "token_invalid",
        "origin",
        "user_connections",
        "full",
        "draining",
        "rate",
        "broker",
    ];
    /// How many there are.
    pub const COUNT: usize = 8;

    /// Index into [`Self::LABELS`].
    pub fn index(self) -> usize {
        match self {
            Self::TokenMissing => 0,
            Self::TokenInvalid => 1,
            Self::OriginForbidden => 2,
            Self::TooManyConnections => 3,
            Self::Full { .. } => 4,
            Self::Draining { .. } => 5,
            Self::TooFast { .. } => 6,
            Self::BrokerAway { .. } => 7,
        }
    }
}

/// Why `next_deadline` names a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A connection may be silent, slow, expired or overdue with its close.
    Connection,
    /// A join may be overdue.
    Join,
    /// The next connection is to be closed by the drain.
    Drain,
}

/// Bytes in [`Actions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// Index of the first byte.
    pub start: u32,
    /// Index behind the last byte.
    pub end: u32,
}

impl Slice {
    /// The bytes themselves.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// What a call of `handle` wants done, in order, and the frames written for it. Owned by the
/// caller, emptied before the next call and used again, so that nothing is allocated.
#[derive(Debug, Default, Serialize)]
pub struct Actions {
    list: Vec<Action>,
    #[serde(with = "latin1")]
    bytes: Vec<u8>,
}

impl Actions {
    /// Appends an action.
    pub fn push(&mut self, action: Action) {
        self.list.push(action);
    }

    /// Appends what `write` writes to the frames, and gives its place.
    pub fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Slice {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let index = |at: usize| u32::try_from(at).expect("one input makes less than 4 GiB");
        Slice { start: index(start), end: index(self.bytes.len()) }
    }

    /// The bytes of a frame.
    pub fn frame(&self, slice: Slice) -> &[u8] {
        slice.of(&self.bytes)
    }

    /// The actions, in order.
    pub fn list(&self) -> &[Action] {
        &self.list
    }

    /// Takes the actions out, in order, beside the bytes that their slices point into.
    pub fn drain(&mut self) -> (std::vec::Drain<'_, Action>, &[u8]) {
        (self.list.drain(..), &self.bytes)
    }

    /// Whether there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Empties it. A buffer that a large answer has grown is given back.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
        self.list.shrink_to(LIST_KEPT_MAX);
        self.bytes.shrink_to(BYTES_KEPT_MAX);
    }
}

/// Actions that an emptied buffer keeps room for.
const LIST_KEPT_MAX: usize = 1 << 10;

/// Bytes that an emptied buffer keeps room for.
const BYTES_KEPT_MAX: usize = 1 << 16;
