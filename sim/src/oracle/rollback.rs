//! What was acknowledged is kept, or its numbering is given up, so that nobody takes what is left
//! for all there was; and each time only once.

use crate::{
    session::Session,
    truth::{NodeId, StreamId, Truth},
};

use super::{Failure, Verdict};

/// In the end, each publication that whoever published it still vouches for leads to where its
/// stream is, unless that is of a later numbering. A broker that was set back `often` may first go
/// back behind the beginning of a numbering, take something in the one before, and then come with
/// the later one again: that is not found out.
pub fn kept(
    truth: &Truth,
    head: impl Fn(StreamId) -> Option<NodeId>,
    acknowledged: impl Iterator<Item = NodeId>,
    often: bool,
) -> Verdict {
    for node in acknowledged {
        let place = truth.node(node);
        let Some(head) = head(place.stream) else { continue };
        let (lost, at) = (place.position, truth.node(head).position);
        // Epochs do not tell: one may have been drawn long before its numbering began.
        let is_later = truth.beginning_of(head) > node || (often && at.epoch > lost.epoch);
        let is_left_behind = lost.epoch != at.epoch && is_later;
        if !is_left_behind && truth.distance(node, head).is_none() {
            let name = truth.name(place.stream);
            let what = format!("{name}: {lost:?} is lost, and the stream goes on at {at:?}");
            return Err(Failure::new("rollback", what));
        }
    }
    Ok(())
}

/// Though nothing more is published, members know that a numbering was given up.
pub fn told(
    truth: &Truth,
    head: impl Fn(StreamId) -> Option<NodeId>,
    session: &Session,
) -> Verdict {
    for (stream, seen) in &session.streams {
        let Some((at, head)) = seen.at.zip(head(*stream)) else { continue };
        let (at, head) = (truth.node(at).position, truth.node(head).position);
        if at.epoch != head.epoch {
            let name = truth.name(*stream);
            let what = format!("{name}: the client is at {at:?} still, the stream at {head:?}");
            return Err(Failure::new("rollback", what));
        }
    }
    Ok(())
}

/// No numbering was given up more often than the broker ended.
pub fn once(
    truth: &Truth,
    mut rollovers: impl Iterator<Item = (StreamId, u32)>,
    ends: u32,
) -> Verdict {
    let Some((stream, count)) = rollovers.find(|(_, count)| *count > ends) else { return Ok(()) };
    let name = truth.name(stream);
    let what = format!("{name} was given up {count} times, and the broker ended {ends} times");
    Err(Failure::new("rollback", what))
}
