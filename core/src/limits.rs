//! Every bound and interval that the machines hold themselves to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a [`Shard`](crate::shard::Shard) allows. Where a limit is one of the instance and not of a
/// connection, the runtime gives each shard its share, or says where the others stand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardLimits {
    /// Connections of the instance, those in their handshake included.
    pub connections_max: u32,
    /// Connections of one user on the instance.
    pub connections_per_user_max: u32,
    /// Handshakes a second; 0 is no limit.
    pub accepts_per_second_max: u32,
    /// Rooms of one connection; the user's own stream and `all` are apart.
    pub rooms_per_connection_max: u32,
    /// Whether a connection without a token is let in.
    pub anonymous_allowed: bool,
    /// Origins that browsers may connect from; `*` allows every one.
    pub origins: Vec<String>,
    /// Room patterns that are open to everyone.
    pub public_rooms: Vec<String>,
    /// Silence of a peer after which it is pinged.
    pub ping_interval: Duration,
    /// Silence of a peer after which it is closed.
    pub pong_timeout: Duration,
    /// How long a join may be parked before it is answered `UNAVAILABLE`.
    pub join_timeout: Duration,
    /// How long a peer may take to answer a close frame before the connection is reset.
    pub close_timeout: Duration,
    /// How long a connection may stay congested before it is closed.
    pub slow_timeout: Duration,
    /// How long before its token expires a connection is told.
    pub expiry_notice: Duration,
    /// Messages a second of one connection, sustained; 0 is no limit.
    pub messages_per_second_max: u32,
    /// Messages of one connection at once.
    pub message_burst_max: u32,
    /// How long a connection may stay over its message rate before it is closed.
    pub rate_grace: Duration,
    /// Errors in a row after which a connection is closed.
    pub errors_max: u32,
    /// Joins parked at once in this shard.
    pub parked_joins_max: u32,
    /// Requests of one connection that may wait behind parked joins of the same rooms. One more
    /// closes it.
    pub waiting_requests_max: u32,
    /// Bytes of frames joined into one write when publications of one stream queue up.
    pub coalesced_bytes_max: usize,
}

/// What a [`Relay`](crate::relay::Relay) allows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayLimits {
    /// Shards of this instance.
    pub workers: u16,
    /// Whether streams have positions and a history (`HISTORY_SIZE` is not 0).
    pub positions: bool,
    /// Publications on their way to one worker, handed over but not yet reported as delivered.
    /// Those of users' own streams may be a quarter more, best-effort ones only half as many.
    pub in_flight_max: u32,
    /// Bytes of those publications.
    pub in_flight_bytes_max: usize,
    /// How long a stream stays subscribed after its last member left.
    pub linger: Duration,
    /// Bytes of live entries held for one stream while its head is read.
    pub held_bytes_max: usize,
    /// How long they are held.
    pub repair_timeout: Duration,
    /// Receipts waited for at once.
    pub expected_max: u32,
    /// Reads of one head that may fail to join up with what arrives meanwhile. After that many the
    /// stream goes on from what arrived last, and members are told that something may be missing.
    pub head_reads_max: u32,
    /// Time in which each stream is compared with the broker once.
    pub position_check: Duration,
    /// How long to wait for the confirmation of a subscription before asking again.
    pub subscribe_timeout: Duration,
    /// Largest body accepted from an ingress channel, in bytes.
    pub ingress_bytes_max: usize,
}
