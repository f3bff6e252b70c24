//! What shards and the relay tell each other. Both ways are ordered queues; publications and the
//! answers to joins share one, which is why an answer is exact: everything before it is in the
//! position it names, everything after it is live.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    cluster::Census,
    id::{BootId, DispatchId, Mid, Position, RequestId},
    stream::StreamName,
    time::UnixMillis,
    wire::Frame,
};

/// From a shard to the relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRelay {
    /// A connection wants to be a member of `stream`. From here on the worker is interested in it.
    Join {
        /// Names the request in the answer.
        request: RequestId,
        /// The stream to join.
        stream: StreamName,
        /// The last position the client saw, when it sent one that can be read as a position.
        since: Option<Since>,
    },
    /// The worker has neither members nor parked joins of `stream` any more.
    Vacated {
        /// The stream that was left.
        stream: StreamName,
    },
    /// A publication has been handed to every member.
    HandedOver {
        /// The publication.
        dispatch: DispatchId,
        /// Connections whose socket or outbox took the frame.
        recipients: u32,
    },
    /// A client has acknowledged a message that asks for it, on a connection to which it was sent.
    Acknowledged {
        /// The message.
        mid: Mid,
        /// The instance that wants to know.
        origin: BootId,
    },
    /// The answer to `ToShard::Count`.
    Counted(Box<Census>),
}

/// Where a client says it was in a stream: an `id`, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Since {
    /// The numbering.
    pub epoch: u64,
    /// The offset of the last message seen.
    pub offset: u64,
    /// The upper 32 bits of that message's mid.
    pub check: u32,
}

/// From the relay to a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToShard {
    /// The stream is live for this worker; the request is to be seated.
    Joined {
        /// The join that this answers.
        request: RequestId,
        /// Where the stream is, for this worker; none when positions are off.
        position: Option<Position>,
        /// Whether no durable message was missed since the `since` of the request, but for those in
        /// `suffix`.
        recovered: bool,
        /// What was missed, and the stream's latest values, to be sent after the answer and before
        /// anything else of the stream.
        suffix: Suffix,
    },
    /// The stream can't be made live: the broker is away. The worker stays interested until it says
    /// otherwise, and is sent a `Resync` once the stream is live: it may seat members nevertheless.
    JoinFailed {
        /// The join that this answers.
        request: RequestId,
    },
    /// A publication for the members of its stream. Each is answered by one `HandedOver`.
    Publication(Arc<Publication>),
    /// Messages of `stream` were missed; members must be told.
    Resync {
        /// The stream.
        stream: StreamName,
        /// Whether all members missed something, or only those that were seated after a
        /// `JoinFailed`, without a position.
        by_all: bool,
        /// From here on it is complete again; none when positions are off.
        position: Option<Position>,
        /// Members are told to wait a random time up to this, in milliseconds.
        spread_ms: u32,
    },
    /// Say what this worker holds.
    Count,
}

/// The end of a stream's history, which is what a member missed, with the stream's latest values in
/// their places. Shared by all who join by one read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Arc<[Missed]>")]
pub struct Suffix {
    entries: Arc<[Missed]>,
    from: usize,
}

/// A durable publication that was missed, or a latest value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// The bytes that members get.
    pub frame: Frame,
    /// The event type, for counting.
    pub kind: Arc<str>,
    /// A user whose connections skip it.
    pub exclude_user: Option<Arc<str>>,
    /// The instance that wants to know whether it is acknowledged, if one does.
    pub acks_to: Option<BootId>,
    /// Where it is in the stream; none for `latest` values.
    pub position: Option<Position>,
}

impl Suffix {
    /// The entries from the index `from` on.
    pub fn new(entries: Arc<[Missed]>, from: usize) -> Self {
        Self { entries, from }
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[Missed] {
        self.entries.get(self.from..).unwrap_or_default()
    }

    /// Whether nothing was missed.
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// What is shared by all suffixes of one read: names it, as long as any of them is there.
    pub fn shared(&self) -> &Arc<[Missed]> {
        &self.entries
    }
}

impl Publication {
    /// Where it is and who wants to know, if it asks to be acknowledged.
    pub fn asks_for_ack(&self) -> Option<(Position, BootId)> {
        self.position.zip(self.acks_to)
    }
}

impl Missed {
    /// Whether `user` is to skip it.
    pub fn is_skipped_for(&self, user: Option<&str>) -> bool {
        user.is_some() && self.exclude_user.as_deref() == user
    }
}

impl From<Arc<[Missed]>> for Suffix {
    fn from(entries: Arc<[Missed]>) -> Self {
        Self::new(entries, 0)
    }
}

/// What comes before the suffix is no part of it.
impl Serialize for Suffix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.entries())
    }
}

/// Its first and last place name it, with its length.
impl Hash for Suffix {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let place = |missed: &Missed| missed.position;
        let entries = self.entries();
        (entries.len(), entries.first().map(place), entries.last().map(place)).hash(state);
    }
}

/// One publication, encoded once for all members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Names the publication in the answer.
    pub dispatch: DispatchId,
    /// Whose members get it.
    pub stream: StreamName,
    /// The bytes they get.
    pub frame: Frame,
    /// The event type, for counting.
    pub kind: Arc<str>,
    /// A user whose connections are skipped.
    pub exclude_user: Option<Arc<str>>,
    /// The instance that wants to know whether it is acknowledged, if one does. It has a position.
    pub acks_to: Option<BootId>,
    /// Where it is in the stream; none for `latest` and best-effort messages.
    pub position: Option<Position>,
    /// When it was published, by the publisher's clock; none where that is unknown.
    pub published: Option<UnixMillis>,
    /// What a `latest` value is the newest one of.
    pub value_of: Option<ValueKey>,
}

/// Names the stream, the type and the key of a `latest` value: of two with the same, the newer one
/// may take the place of the other while that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValueKey(u64);

impl ValueKey {
    /// A hash, wide enough that two of one connection's outbox are not the same by chance.
    pub fn new(stream: &StreamName, kind: &str, key: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (stream.as_str(), kind, key).hash(&mut hasher);
        Self(hasher.finish())
    }
}
