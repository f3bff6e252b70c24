//! Server frames. Each function appends one complete WebSocket text frame.

use crate::{
    entry::Body,
    id::{ConnectionId, Position},
    shard::Reference,
    stream::StreamName,
    time::UnixMillis,
};

use super::{
    CloseCode, ErrorCode, Frame, Kind,
    json::{self, Sink},
};

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
    message(out, Kind::SystemConnected, None, |out| {
        out.put(b"\"connection_id\":");
        json::string(out, connected.connection_id);
        out.put(b",\"server_time\":");
        json::decimal(out, connected.now.seconds());
        out.put(b",\"user_id\":");
        json::string_or_null(out, connected.user);
        out.put(b",\"id\":");
        json::id_or_null(out, connected.position);
        recovered(out, connected.recovered);
        out.put(b",\"all\":{\"id\":");
        json::id_or_null(out, connected.all_position);
        recovered(out, connected.all_recovered);
        out.put(b"},\"ping_interval_ms\":");
        json::decimal(out, connected.ping_interval_ms);
        out.put(b",\"pong_timeout_ms\":");
        json::decimal(out, connected.pong_timeout_ms);
    });
}

/// Appends `system:pong`. Allocates nothing but room in `out`.
pub fn pong(out: &mut Vec<u8>, now: UnixMillis, reference: Option<&Reference>) {
    message(out, Kind::SystemPong, reference, |out| {
        out.put(b"\"server_time\":");
        json::decimal(out, now.seconds());
    });
}

/// Appends `system:error`.
pub fn error(out: &mut Vec<u8>, code: ErrorCode, message: &str, reference: Option<&Reference>) {
    self::message(out, Kind::SystemError, reference, |out| {
        out.put(b"\"code\":");
        json::string(out, code.name());
        out.put(b",\"message\":");
        json::string(out, message);
    });
}

/// Appends `system:token_expiring`.
pub fn token_expiring(out: &mut Vec<u8>, expires_in_ms: u64) {
    message(out, Kind::SystemTokenExpiring, None, |out| {
        out.put(b"\"expires_in_ms\":");
        json::decimal(out, expires_in_ms);
    });
}

/// Appends `auth:refreshed`; `expires_at` in Unix seconds, null for a token that never expires.
pub fn refreshed(out: &mut Vec<u8>, expires_at: Option<u64>, reference: Option<&Reference>) {
    message(out, Kind::AuthRefreshed, reference, |out| {
        out.put(b"\"expires_at\":");
        match expires_at {
            Some(seconds) => json::decimal(out, seconds),
            None => out.put(b"null"),
        }
    });
}

/// Appends `room:joined`. `recovered` only when the request had a `since`.
pub fn room_joined(
    out: &mut Vec<u8>,
    room: &str,
    position: Option<Position>,
    recovered: Option<bool>,
    reference: Option<&Reference>,
) {
    message(out, Kind::RoomJoined, reference, |out| {
        out.put(b"\"room\":");
        json::string(out, room);
        out.put(b",\"id\":");
        json::id_or_null(out, position);
        self::recovered(out, recovered);
    });
}

/// Appends `room:left`; `reason` when the server did it.
pub fn room_left(
    out: &mut Vec<u8>,
    room: &str,
    reason: Option<&str>,
    reference: Option<&Reference>,
) {
    message(out, Kind::RoomLeft, reference, |out| {
        out.put(b"\"room\":");
        json::string(out, room);
        if let Some(reason) = reason {
            out.put(b",\"reason\":");
            json::string(out, reason);
        }
    });
}

/// Appends `system:reconnect`.
pub fn reconnect(out: &mut Vec<u8>, reason: &str, after_ms: u64) {
    message(out, Kind::SystemReconnect, None, |out| {
        out.put(b"\"reason\":");
        json::string(out, reason);
        out.put(b",\"after_ms\":");
        json::decimal(out, after_ms);
    });
}

/// Appends `system:resync`; the room is null for a user's own stream.
pub fn resync(out: &mut Vec<u8>, stream: &StreamName, position: Option<Position>, after_ms: u64) {
    message(out, Kind::SystemResync, None, |out| {
        out.put(b"\"room\":");
        json::string_or_null(out, stream.room_name());
        out.put(b",\"id\":");
        json::id_or_null(out, position);
        out.put(b",\"after_ms\":");
        json::decimal(out, after_ms);
    });
}

/// Encodes a publication for all its receivers. `position` gives it an `id`; without one no
/// acknowledgement is asked for, since there is nothing to acknowledge it by. The payload goes in
/// byte for byte; an empty one becomes `{}`.
pub fn publication(stream: &StreamName, body: &Body, position: Option<Position>) -> Frame {
    let frame = json::text_frame_alone(|out| {
        out.put(b"{\"type\":");
        json::string(out, &body.kind);
        if position.is_some() {
            out.put(b",\"id\":");
            json::id_or_null(out, position);
        }
        if let Some(room) = stream.room_name() {
            out.put(b",\"room\":");
            json::string(out, room);
        }
        if body.ack && position.is_some() {
            out.put(b",\"ack\":true");
        }
        out.put(b",\"payload\":");
        out.put(if body.payload.is_empty() { b"{}" } else { &body.payload });
        out.put(b"}");
    });
    Frame(frame.into())
}

/// Appends the close frame for `code`, with its name as the reason.
pub fn close(out: &mut Vec<u8>, code: CloseCode) {
    const FIN_CLOSE: u8 = 0x88;
    let reason = code.reason().as_bytes();
    // The payload of a control frame is at most 125 bytes (RFC 6455 §5.5).
    let length = u8::try_from(2 + reason.len()).expect("reasons are short");
    out.extend_from_slice(&[FIN_CLOSE, length]);
    out.extend_from_slice(&(code as u16).to_be_bytes());
    out.extend_from_slice(reason);
}

/// An empty ping frame.
pub const PING: &[u8] = &[0x89, 0x00];

/// Appends the `id` of a position: `<epoch>-<offset>-<check>`, hex, decimal, 8 hex digits.
pub fn id(out: &mut Vec<u8>, position: Position) {
    json::id(out, position);
}

/// Appends the text that names a connection to its client.
pub fn connection_id(out: &mut Vec<u8>, instance: u64, conn: ConnectionId) {
    out.put(&json::hex_digits::<16>(instance));
    out.put(b"-");
    json::hex(out, conn.slot.into());
    out.put(b"-");
    json::hex(out, conn.generation.into());
}

/// Appends a message of the service itself. `payload` writes the fields of the payload.
fn message(
    out: &mut Vec<u8>,
    kind: Kind,
    reference: Option<&Reference>,
    payload: impl Fn(&mut dyn Sink),
) {
    json::text_frame(out, |out| {
        out.put(b"{\"type\":");
        json::string(out, kind.name());
        if let Some(Reference(text)) = reference {
            out.put(b",\"ref\":");
            out.put(text.as_bytes());
        }
        out.put(b",\"payload\":{");
        payload(out);
        out.put(b"}}");
    });
}

/// Writes the field `recovered`, if there is something to say.
fn recovered(out: &mut dyn Sink, recovered: Option<bool>) {
    if let Some(recovered) = recovered {
        out.put(b",\"recovered\":");
        json::boolean(out, recovered);
    }
}

#[cfg(test)]
mod tests;
