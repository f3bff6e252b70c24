//! At rest an instance is subscribed to just the streams in which it has members.

use std::collections::BTreeSet;

use crate::truth::{StreamId, Truth};

use super::{Failure, Verdict};

/// Compares the subscriptions that the broker knows with the streams that clients are members of.
pub fn judge(
    truth: &Truth,
    subscribed: &BTreeSet<StreamId>,
    wanted: &BTreeSet<StreamId>,
) -> Verdict {
    let names = |streams: &mut dyn Iterator<Item = &StreamId>| {
        streams.map(|stream| truth.name(*stream).to_owned()).collect::<Vec<_>>()
    };
    let unwanted = names(&mut subscribed.difference(wanted));
    let lacking = names(&mut wanted.difference(subscribed));
    if unwanted.is_empty() && lacking.is_empty() {
        return Ok(());
    }
    let what = format!("subscribed without members: {unwanted:?}; not subscribed: {lacking:?}");
    Err(Failure::new("interest", what))
}
