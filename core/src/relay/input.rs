//! What the relay hears of, and what it asks for.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    id::{BootId, CheckId, Generation, Mid, Position, ReadId, WorkerId},
    link::{ToRelay, ToShard},
    stream::StreamName,
    time::Instant,
};

/// The life of a Redis server, as its `run_id` names it; constant for the embedded broker.
pub type RunId = u64;

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A shard said something.
    FromShard {
        /// Which one.
        worker: WorkerId,
        /// What.
        message: ToRelay,
    },
    /// A new subscription connection is up. Nothing is subscribed on it but the channels that
    /// every instance reads.
    LinkUp {
        /// Its number, larger than any before.
        generation: Generation,
        /// The server's life.
        run_id: RunId,
    },
    /// The subscription connection is gone.
    LinkDown,
    /// The broker confirmed `Subscribe` for a stream, on the connection `generation`.
    Subscribed {
        /// The connection.
        generation: Generation,
        /// The stream.
        stream: StreamName,
    },
    /// The broker confirmed `Unsubscribe` for a stream, on the connection `generation`.
    Unsubscribed {
        /// The connection.
        generation: Generation,
        /// The stream.
        stream: StreamName,
    },
    /// A channel brought something.
    Received {
        /// The connection it came over.
        generation: Generation,
        /// The channel.
        channel: Channel,
        /// What it brought.
        bytes: Bytes,
    },
    /// `Action::Read` was carried out.
    Read {
        /// Which one.
        read: ReadId,
        /// What was read; none when the broker could not say.
        history: Option<History>,
    },
    /// `Action::Compare` was carried out.
    Compared {
        /// Which one.
        check: CheckId,
        /// Where each stream is, none for one that has no numbering; none at all when the broker
        /// could not say.
        heads: Option<Vec<Option<StreamHead>>>,
    },
    /// The service is about to publish and wants to know how many connections were reached. Comes
    /// before the broker is asked to publish.
    Expected {
        /// The publication.
        mid: Mid,
        /// Its stream.
        stream: StreamName,
        /// When the service stops waiting.
        deadline: Instant,
    },
    /// The broker has published it.
    Published {
        /// The publication.
        mid: Mid,
        /// Subscribers of its channel at that moment: so many instances hear it.
        subscribers: u32,
        /// When the service stops waiting for counts, in place of what `Expected` said.
        deadline: Instant,
        /// Until when it waits for a client to acknowledge it, if it does.
        ack_by: Option<Instant>,
    },
    /// It was not published, or nobody waits for it any more.
    Unpublished {
        /// The publication.
        mid: Mid,
    },
    /// The instance is about to stop: this is its last beat.
    Leaving,
    /// The deadline that `next_deadline` named has passed.
    TimedOut,
}

/// Where a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHead {
    /// The place of the newest durable publication.
    pub position: Position,
    /// The version of the newest value; 0 when none is kept.
    pub version: u64,
}

/// Where a stream is, and what of its history was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The place of the newest durable publication.
    pub head: Position,
    /// Durable entries as they are kept, oldest first, the newest one last. The oldest ones may be
    /// gone.
    pub entries: Vec<Bytes>,
    /// The newest value of each type and key, in any order.
    pub latest: Vec<Bytes>,
}

/// Where bytes came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channel {
    /// The channel of a stream.
    Stream(StreamName),
    /// One of the channels that services publish to directly.
    Ingress(Ingress),
    /// The channel that all instances read.
    Control,
    /// The channel of this instance's own receipts.
    Receipts,
}

/// Whom the relay tells something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Destination {
    /// Every instance: the channel that all of them read.
    Everyone,
    /// One instance: the channel of its receipts.
    Instance(BootId),
}

/// The channels that services publish to directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ingress {
    /// `booking:events`
    Booking,
    /// `payment:events`
    Payment,
    /// `ticket:events`
    Ticket,
    /// `broadcast:all`
    Broadcast,
}

impl Ingress {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Booking, Self::Payment, Self::Ticket, Self::Broadcast];

    /// The name of the channel in Redis; no prefix goes before it.
    pub fn channel(self) -> &'static str {
        match self {
            Self::Booking => "booking:events",
            Self::Payment => "payment:events",
            Self::Ticket => "ticket:events",
            Self::Broadcast => "broadcast:all",
        }
    }
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Put `message` into the ordered queue of `worker`.
    ToShard {
        /// The worker.
        worker: WorkerId,
        /// The message.
        message: ToShard,
    },
    /// Subscribe to the channel of `stream`.
    Subscribe {
        /// The stream.
        stream: StreamName,
    },
    /// Unsubscribe from the channel of `stream`.
    Unsubscribe {
        /// The stream.
        stream: StreamName,
    },
    /// Read where `stream` is, beginning its numbering if there is none, or if it shows that it was
    /// set back from a place that is known.
    Read {
        /// Names the read in the answer.
        read: ReadId,
        /// The stream.
        stream: StreamName,
        /// Also read what is kept after this offset.
        after: Option<u64>,
        /// A place that the stream has been at.
        known: Option<Position>,
    },
    /// All have reported, or no more can be learned: answer whoever waits for `mid`. Each
    /// `Expected` gets one of these or `Unexpected`, at its deadline at the latest.
    Receipt {
        /// The publication.
        mid: Mid,
        /// Connections that it was handed to, on all instances that have reported.
        recipients: u32,
        /// Instances with at least one of them.
        instances: u32,
        /// Whether all instances have reported that could have handed it to anybody.
        complete: bool,
        /// Whether a client has acknowledged it.
        acknowledged: bool,
        /// An acknowledgement is waited for: there will be another receipt.
        awaits_ack: bool,
    },
    /// Ask the broker where streams are. To be answered by `Input::Compared`.
    Compare {
        /// Names the comparison in the answer.
        check: CheckId,
        /// At most 256 streams.
        streams: Vec<StreamName>,
    },
    /// Publish `bytes` on the channel of `to`. May be lost.
    Tell {
        /// Whom.
        to: Destination,
        /// A beat or a report of `crate::cluster`.
        bytes: Bytes,
    },
    /// Too much is waited for already: there will be no `Receipt` for `mid`.
    Unexpected {
        /// The publication.
        mid: Mid,
    },
    /// A rare situation was reached; simulations count these.
    Reach(&'static str),
}
