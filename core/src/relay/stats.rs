//! What a relay has counted.

use super::Ingress;

/// Counts of one relay. Totals only grow; the rest is the present state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// Streams known: with members, joining or lingering.
    pub streams: u64,
    /// Total of publications received on users' streams.
    pub received_user: u64,
    /// Total of publications received on rooms and `all`.
    pub received_room: u64,
    /// Total of messages received on each ingress channel, in the order of [`Ingress::ALL`].
    pub received_ingress: [u64; Ingress::ALL.len()],
    /// Total of ingress messages that were dropped: malformed, reserved, over the limit.
    pub ingress_invalid: u64,
    /// Total of beats and reports received.
    pub received_control: u64,
    /// Total of beats and reports that could not be read.
    pub control_invalid: u64,
    /// Total of entries that could not be read.
    pub entries_invalid: u64,
    /// Total of publications received that were known already.
    pub duplicates: u64,
    /// Total of gaps in streams that were filled from the history.
    pub gaps_filled: u64,
    /// Total of gaps in streams that could not be filled.
    pub gaps: u64,
    /// Total of live streams whose numbering was given up, since the broker had lost some of them.
    pub rolled_over: u64,
    /// Total of comparisons of a stream with the broker.
    pub compared: u64,
    /// Total of those that showed that something was lost.
    pub compared_unequal: u64,
    /// Total of publications not handed to a worker since its queue was full.
    pub queue_full: u64,
    /// Total of resyncs sent to workers.
    pub resyncs: u64,
}
