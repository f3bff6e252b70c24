//! What a shard has counted. The runtime turns it into metrics when they are asked for.

use crate::wire::{CloseCode, ErrorCode, Kind};

/// Counts of one shard. Totals only grow; the rest is the present state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stats {
    /// Open connections whose user is known.
    pub authenticated: u32,
    /// Open connections without a user.
    pub anonymous: u32,
    /// Connections in their handshake.
    pub handshaking: u32,
    /// Open connections whose outbox is more than half full.
    pub congested: u32,
    /// Joins waiting for the relay.
    pub parked_joins: u32,
    /// Connections that the drain has still to close.
    pub draining: u32,
    /// Total of messages sent, by [`Kind::index`].
    pub sent: [u64; Kind::COUNT],
    /// Total of messages received, by [`Kind::index`].
    pub received: [u64; Kind::COUNT],
    /// Total of errors told to clients, by [`ErrorCode::index`].
    pub errors: [u64; ErrorCode::COUNT],
    /// Total of closes that this side began, by index in [`CloseCode::ALL`].
    pub closes: [u64; CloseCode::COUNT],
    /// Total of refused handshakes, by index in [`super::Refusal::LABELS`].
    pub refusals: [u64; super::Refusal::COUNT],
    /// Total of accepted connections.
    pub accepted: u64,
    /// Total of joins answered with `recovered: true`.
    pub recovered: u64,
    /// Total of joins answered with `recovered: false`.
    pub unrecovered: u64,
    /// Total of connections told that messages were missed.
    pub resyncs: u64,
}
