//! What crosses the WebSocket: client messages in, server frames out.

pub mod decode;
pub mod encode;
mod json;
mod kind;
pub(crate) mod number;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::transcript::latin1;

pub use kind::{ErrorCode, Kind, is_reserved};

/// Longest event type that can be published, in bytes.
pub const TYPE_BYTES_MAX: usize = 128;

/// One or more complete unmasked WebSocket frames (RFC 6455 §5.2), ready to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame(#[serde(with = "latin1")] pub Bytes);

/// Why a connection is closed (RFC 6455 §7.4; 4xxx are this service's own).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u16)]
pub enum CloseCode {
    /// The peer closed normally.
    Normal = 1000,
    /// A malformed frame.
    ProtocolError = 1002,
    /// A binary message.
    Unsupported = 1003,
    /// A text message that is not UTF-8.
    InvalidText = 1007,
    /// Too many errors in a row.
    Policy = 1008,
    /// A message over the limit.
    TooBig = 1009,
    /// The instance restarts; `system:reconnect` came first.
    Restarting = 1012,
    /// The token has expired.
    TokenExpired = 4401,
    /// The peer was silent for too long.
    Silent = 4408,
    /// Too many messages for too long.
    TooManyMessages = 4429,
    /// The peer reads too slowly.
    TooSlow = 4508,
}

impl CloseCode {
    /// What the close frame says beside the code.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ProtocolError => "protocol error",
            Self::Unsupported => "binary messages are not supported",
            Self::InvalidText => "text is not valid utf-8",
            Self::Policy => "too many errors",
            Self::TooBig => "message too big",
            Self::Restarting => "restarting",
            Self::TokenExpired => "token expired",
            Self::Silent => "peer silent",
            Self::TooManyMessages => "too many messages",
            Self::TooSlow => "consumer too slow",
        }
    }

    /// Every one of them.
    pub const ALL: [Self; 11] = [
        Self::Normal,
        Self::ProtocolError,
        Self::Unsupported,
        Self::InvalidText,
        Self::Policy,
        Self::TooBig,
        Self::Restarting,
        Self::TokenExpired,
        Self::Silent,
        Self::TooManyMessages,
        Self::TooSlow,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
}
