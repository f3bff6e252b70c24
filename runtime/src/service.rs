//! Placeholder.
use bytes::Bytes;
/// A
#[derive(Debug)]
pub struct Handoff<S> {
    /// a
    pub head: Bytes,
    /// b
    pub stream: S,
}
/// P
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// a
    Starting,
    /// a
    Serving,
    /// a
    Draining,
    /// a
    Stopping,
}
