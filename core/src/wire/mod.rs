//! What crosses the WebSocket: client messages in, server frames out.

pub mod decode;
pub mod encode;
mod kind;

use bytes::Bytes;

pub use kind::{ErrorCode, Kind, is_reserved};

/// One or more complete unmasked WebSocket frames (RFC 6455 §5.2), ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub Bytes);

/// Why a connection is closed (RFC 6455 §7.4; 4xxx are this service's own).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
