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
//! <flags> <origin> <published> <type bytes> <exclude bytes> <key bytes>\n<texts>
//! ```
//!
//! where the texts are the type, the excluded user, the key and the payload, one behind another,
//! with flags `-` or `a` (an acknowledgement is asked for), the origin's boot id in 16 hex digits
//! and the time of publishing in Unix milliseconds; the payload is the rest.
//!
//! When a stream has lost entries, its numbering is given up, and this is all that its channel
//! carries of it:
//!
//! ```text
//! 1 R <epoch> <offset>\n     rollover: what comes next is numbered by this epoch, from behind this
//!                           offset on
//! ```

use std::{str, sync::Arc};

use bytes::Bytes;

use crate::{
    id::{BootId, Epoch, Mid, Position},
    time::UnixMillis,
    wire::number,
};

/// The version that entries are written with. Readers accept this one and the one before.
pub const FORMAT: u8 = 1;

/// What the publisher says of a publication.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// What it says.
    pub body: Body,
}

/// Says over the channel of a stream that the broker has lost some of it, and that what follows is
/// numbered by a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollover {
    /// The new epoch.
    pub epoch: Epoch,
    /// The offset before the first one of it.
    pub offset: u64,
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
    /// Encodes it as documented at the head of this module. An `exclude_user` that is empty
    /// excludes nobody.
    pub fn encode(&self) -> Bytes {
        let exclude = self.exclude_user.as_deref().unwrap_or("");
        let header = format!(
            "{} {:016x} {} {} {} {}\n",
            if self.ack { ACK } else { NO_ACK },
            self.origin.0,
            self.published.0,
            self.kind.len(),
            exclude.len(),
            self.key.len(),
        );
        let parts: [&[u8]; 5] = [
            header.as_bytes(),
            self.kind.as_bytes(),
            exclude.as_bytes(),
            self.key.as_bytes(),
            &self.payload,
        ];
        parts.concat().into()
    }

    /// Reads a body. The payload shares `bytes`.
    ///
    /// # Errors
    /// `Malformed` for anything that [`Self::encode`] does not write.
    pub fn decode(bytes: &Bytes) -> Result<Self, EntryError> {
        Self::parse(bytes).ok_or(EntryError::Malformed)
    }

    fn parse(bytes: &Bytes) -> Option<Self> {
        let (header, rest) = split_header(bytes)?;
        let [flags, origin, published, kind, exclude, key] = fields(header)?;
        let ack = match str::from_utf8(flags).ok()? {
            ACK => true,
            NO_ACK => false,
            _ => return None,
        };
        let (kind, rest) = split_name(rest, kind)?;
        let (exclude, rest) = split_name(rest, exclude)?;
        let (key, payload) = split_name(rest, key)?;
        // It goes to clients as text; anything else would make them close the connection.
        str::from_utf8(payload).ok()?;
        Some(Self {
            kind: kind.into(),
            payload: bytes.slice_ref(payload),
            exclude_user: (!exclude.is_empty()).then(|| exclude.into()),
            key: key.into(),
            ack,
            origin: BootId(number::hex_padded::<16>(origin)?),
            published: UnixMillis(number::decimal(published)?),
        })
    }
}

impl Place {
    /// The header line of an entry, with its line feed.
    pub fn header(&self) -> String {
        match self {
            Self::Durable { position, prev } => {
                let Position { epoch, offset, mid } = position;
                format!("{FORMAT} D {:016x} {offset} {:016x} {:016x}\n", epoch.0, mid.0, prev.0)
            }
            Self::Latest { epoch, at, version, mid } => {
                format!("{FORMAT} L {:016x} {at} {version} {:016x}\n", epoch.0, mid.0)
            }
        }
    }

    /// Reads a header line, without its line feed.
    fn parse(header: &[u8]) -> Result<Self, EntryError> {
        let version = header.split(|&byte| byte == b' ').next().and_then(number::decimal);
        if version.ok_or(EntryError::Malformed)? != u64::from(FORMAT) {
            return Err(EntryError::Version); // There is no format before the first.
        }
        let fields: [&[u8]; 6] = fields(header).ok_or(EntryError::Malformed)?;
        let place = match fields[1] {
            b"D" => Self::parse_durable(fields),
            b"L" => Self::parse_latest(fields),
            _ => None,
        };
        place.ok_or(EntryError::Malformed)
    }

    fn parse_durable([_, _, epoch, offset, mid, prev]: [&[u8]; 6]) -> Option<Self> {
        let position = Position {
            epoch: Epoch(number::hex_padded::<16>(epoch)?),
            offset: number::decimal(offset)?,
            mid: Mid(number::hex_padded::<16>(mid)?),
        };
        Some(Self::Durable { position, prev: Mid(number::hex_padded::<16>(prev)?) })
    }

    fn parse_latest([_, _, epoch, at, version, mid]: [&[u8]; 6]) -> Option<Self> {
        Some(Self::Latest {
            epoch: Epoch(number::hex_padded::<16>(epoch)?),
            at: number::decimal(at)?,
            version: number::decimal(version)?,
            mid: Mid(number::hex_padded::<16>(mid)?),
        })
    }
}

impl Entry {
    /// Encodes it as documented at the head of this module.
    pub fn encode(&self) -> Bytes {
        [self.place.header().as_bytes(), &self.body.encode()].concat().into()
    }

    /// Reads an entry. The payload shares `bytes`.
    ///
    /// # Errors
    /// `Version` for an entry of another format, which a rolling deploy may bring; `Malformed` for
    /// anything else that [`Self::encode`] does not write.
    pub fn decode(bytes: &Bytes) -> Result<Self, EntryError> {
        let (header, body) = split_header(bytes).ok_or(EntryError::Malformed)?;
        let place = Place::parse(header)?;
        Ok(Self { place, body: Body::decode(&bytes.slice_ref(body))? })
    }
}

impl Rollover {
    /// Encodes it as documented at the head of this module.
    pub fn encode(self) -> Bytes {
        format!("{FORMAT} R {:016x} {}\n", self.epoch.0, self.offset).into()
    }

    /// Reads one; none for anything that [`Self::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = split_header(bytes)?;
        let [version, kind, epoch, offset] = fields(header)?;
        let is_ours = number::decimal(version) == Some(u64::from(FORMAT)) && kind == b"R";
        let epoch = Epoch(number::hex_padded::<16>(epoch)?);
        let rollover = Self { epoch, offset: number::decimal(offset)? };
        (is_ours && rest.is_empty()).then_some(rollover)
    }
}

/// Splits at the first line feed, which must come soon.
fn split_header(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().take(HEADER_BYTES_MAX).position(|&byte| byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Splits a header into just `N` fields.
fn fields<const N: usize>(header: &[u8]) -> Option<[&[u8]; N]> {
    let mut parts = header.split(|&byte| byte == b' ');
    let mut fields: [&[u8]; N] = [&[]; N];
    for field in &mut fields {
        *field = parts.next()?;
    }
    parts.next().is_none().then_some(fields)
}

/// Splits a name off whose length in bytes is written in `length`.
fn split_name<'a>(bytes: &'a [u8], length: &[u8]) -> Option<(&'a str, &'a [u8])> {
    let length = usize::try_from(number::decimal(length)?).ok()?;
    let (name, rest) = bytes.split_at_checked(length)?;
    Some((str::from_utf8(name).ok()?, rest))
}

/// The flags of a body that asks for an acknowledgement.
const ACK: &str = "a";

/// The flags of a body that does not.
const NO_ACK: &str = "-";

/// Longer than any header line: the longest is that of a body with 64-bit lengths, 102 bytes.
const HEADER_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests;
