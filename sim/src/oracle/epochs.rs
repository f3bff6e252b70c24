//! The epochs that a connection sees of a stream never go back, unless the broker did. Instances
//! learn of a new epoch one after another, so a client that changes from one to another may.

use std::collections::BTreeMap;

use crate::truth::{NodeId, StreamId, Truth};

use super::{Failure, Verdict};

/// The newest epoch of each stream that a connection has seen.
#[derive(Debug, Default)]
pub struct Epochs(BTreeMap<StreamId, u64>);

impl Epochs {
    /// A client is told where it is.
    pub fn saw(&mut self, truth: &Truth, node: NodeId) -> Verdict {
        let node = truth.node(node);
        let epoch = node.position.epoch.0;
        let newest = self.0.entry(node.stream).or_insert(epoch);
        if epoch < *newest {
            let what = format!("{}: {epoch:x} after {newest:x}", truth.name(node.stream));
            return Err(Failure::new("epochs", what));
        }
        *newest = epoch;
        Ok(())
    }
}
