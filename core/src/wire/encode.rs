//! Server frames. Each function appends one complete WebSocket text frame.

use crate::{
    entry::Body,
    id::{ConnectionId, Position},
    shard::Reference,
    stream::StreamName,
    time::UnixMillis,
};

use super::{CloseCode, ErrorCode, Frame};

/// What `system:connected` says.
#[derive(Clone, Copy, Debug)]
pub struct Connected<'a> {
    /// Random text, unique in the cluster; opaque to clients.
    pub connection_id: &'a str,
    /// None for anonymous connections.
    pub user: Option<&'a str>,
    /// Head of the user's stream.
    pub position: Option<Position>,
    /// Only with `since`.
    pub recovered: Option<bool>,
    /// Head of the stream `all`.
    pub all_position: Option<Position>,
    /// Only with `since_all`.
    pub all_recovered: Option<bool>,
    /// `WS_PING_INTERVAL`
    pub ping_interval_ms: u64,
    /// `WS_PONG_TIMEOUT`
    pub pong_timeout_ms: u64,
    /// The wall clock.
    pub now: UnixMillis,
}

/// Appends `system:connected`.
pub fn connected(out: &mut Vec<u8>, connected: &Connected<'_>) {
    todo!()
}

/// Appends `system:pong`. Allocates nothing but room in `out`.
pub fn pong(out: &mut Vec<u8>, now: UnixMillis, reference: Option<&Reference>) {
    todo!()
}

/// Appends `system:error`.
pub fn error(out: &mut Vec<u8>, code: ErrorCode, message: &str, reference: Option<&Reference>) {
    todo!()
}

/// Appends `system:token_expiring`.
pub fn token_expiring(out: &mut Vec<u8>, expires_in_ms: u64) {
    todo!()
}

/// Appends `auth:refreshed`; `expires_at` in Unix seconds, null for a token that never expires.
pub fn refreshed(out: &mut Vec<u8>, expires_at: Option<u64>, reference: Option<&Reference>) {
    todo!()
}

/// Appends `room:joined`. `recovered` only when the request had a `since`.
pub fn room_joined(
    out: &mut Vec<u8>,
    room: &str,
    position: Option<Position>,
    recovered: Option<bool>,
    reference: Option<&Reference>,
) {
    todo!()
}

/// Appends `room:left`; `reason` when the server did it.
pub fn room_left(
    out: &mut Vec<u8>,
    room: &str,
    reason: Option<&str>,
    reference: Option<&Reference>,
) {
    todo!()
}

/// Appends `system:reconnect`.
pub fn reconnect(out: &mut Vec<u8>, reason: &str, after_ms: u64) {
    todo!()
}

/// Appends `system:resync`; the room is null for a user's own stream.
pub fn resync(out: &mut Vec<u8>, stream: &StreamName, position: Option<Position>, after_ms: u64) {
    todo!()
}

/// Encodes a publication for all its receivers. `position` gives it an `id`.
pub fn publication(stream: &StreamName, body: &Body, position: Option<Position>) -> Frame {
    todo!()
}

/// The close frame for `code`, with its name as the reason.
pub fn close(out: &mut Vec<u8>, code: CloseCode) {
    todo!()
}

/// An empty ping frame.
pub const PING: &[u8] = &[0x89, 0x00];

/// Appends the `id` of a position: `<epoch>-<offset>-<check>`, hex, decimal, 8 hex digits.
pub fn id(out: &mut Vec<u8>, position: Position) {
    todo!()
}

/// Appends the text that names a connection to its client.
pub fn connection_id(out: &mut Vec<u8>, instance: u64, conn: ConnectionId) {
    todo!()
}
