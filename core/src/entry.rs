//! Publications as they are stored in Redis and carried by its channels.
//!
//! A stored entry is a header line, which the publish script writes, and a body, which the
//! publisher writes:
//!
//! ```text
//! 1 D <epoch> <offset> <mid> <prev>\n<body>      durable; also an element of the history list
//! 1 L <epoch> <at> <version> <mid>\n<body>       latest: `at` is the stream's offset at that time
//! ```
//!
//! Epochs and mids are 16 hex digits, offsets and versions decimal. The first field is the format
//! version. The body is
//!
//! ```text
//! <flags> <origin> <published> <type bytes> <exclude bytes> <key bytes>\n<type><exclude><key><payload>
//! ```
//!
//! with flags `-` or `a` (an acknowledgement is asked for), the origin's boot id in 16 hex digits
//! and the time of publishing in Unix milliseconds; the payload is the rest.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    id::{BootId, Epoch, Mid, Position},
    time::UnixMillis,
};

/// The version that entries are written with. Readers accept this one and the one before.
pub const FORMAT: u8 = 1;

/// What the publisher says of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The event type.
    pub kind: Arc<str>,
    /// The payload, JSON text as the publisher gave it.
    pub payload: Bytes,
    /// A user whose connections skip the message.
    pub exclude_user: Option<Arc<str>>,
    /// What a `latest` value is the newest one of, besides its type: the payload's `event_id`.
    pub key: Arc<str>,
    /// Whether an acknowledgement is asked for.
    pub ack: bool,
    /// The instance that published it.
    pub origin: BootId,
    /// When, by that instance's clock.
    pub published: UnixMillis,
}

/// Where a publication stands in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has an offset, and the history keeps it.
    Durable {
        /// Its own place.
        position: Position,
        /// The mid of the publication before it; 0 for the first of an epoch.
        prev: Mid,
    },
    /// Only the newest of its key matters.
    Latest {
        /// The epoch of the stream when it was published.
        epoch: Epoch,
        /// The offset of the stream when it was published.
        at: u64,
        /// Grows with each latest value of the stream.
        version: u64,
        /// Its mid.
        mid: Mid,
    },
}

/// A publication as a channel or the history carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// What it says.
    pub body: Body,
}

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// The format version is neither this one nor the one before.
    Version,
    /// The header or the body is not of the documented form.
    Malformed,
}

impl Body {
    /// Encodes it as documented at the head of this module.
    pub fn encode(&self) -> Bytes {
        todo!()
    }
}

impl Entry {
    /// Reads an entry. The payload shares `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, EntryError> {
        todo!()
    }
}
