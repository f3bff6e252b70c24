//! The numbers things go by.

use serde::{Deserialize, Serialize};

/// A WebSocket of one shard. Slots are dense and used again; the generation tells an earlier owner
/// of the slot from the present one, so that a stale id is recognised and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId {
    /// Index into the tables of the worker.
    pub slot: u32,
    /// Counts the owners of the slot.
    pub generation: u32,
}

/// A worker thread and its shard, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u16);

/// A join that a shard has parked until the relay answers. Unique within the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// A fan-out that a shard is walking. Slots are used again after the walk has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeliveryId(pub u32);

/// A publication on its way through one relay; the receipt names it. Unique within the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DispatchId(pub u64);

/// One subscription connection to the broker; a later connection has a larger number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

/// One read of a stream's head that the relay asked for. Unique within the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReadId(pub u64);

/// One comparison of streams that the relay asked for. Unique within the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckId(pub u64);

/// One life of a process: random, new at every start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(pub u64);

/// One publication, cluster-wide: random. 0 stands for "none".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Mid(pub u64);

/// One uninterrupted numbering of a stream. A new epoch means that history was lost. The upper 42
/// bits are the millisecond of its creation, the lower 22 are random.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// A place in a stream.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The numbering that `offset` belongs to.
    pub epoch: Epoch,
    /// Counts the durable publications of the epoch; 0 is before the first.
    pub offset: u64,
    /// The publication at `offset`; [`Mid`] 0 at offset 0.
    pub mid: Mid,
}

impl Position {
    /// The part of the mid that goes into an `id`: its upper 32 bits.
    pub fn check(self) -> u32 {
        u32::try_from(self.mid.0 >> 32).expect("32 bits are left")
    }
}
