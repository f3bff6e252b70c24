//! Each client sees each stream in order, nothing twice, and misses nothing without being told.

use crate::{
    session::{Seen, Session},
    truth::{NodeId, StreamId, Taken, Truth},
};

use super::{Failure, Verdict};

/// A client is told where it is: in a greeting, the answer to a join, or a resync. Unless the
/// broker was set back, that is no earlier place than it had reached.
pub fn started(truth: &Truth, seen: &mut Seen, at: Option<NodeId>, sets_back: bool) -> Verdict {
    if let Some((before, here)) = seen.at.zip(at)
        && !sets_back
    {
        let (before, here) = (truth.node(before).position, truth.node(here).position);
        if before.epoch == here.epoch && here.offset < before.offset {
            return Err(Failure::new("order", format!("taken back to {here:?} from {before:?}")));
        }
    }
    *seen = Seen { at, ..*seen };
    Ok(())
}

/// The answer to a second join of the same room says where the member is already.
pub fn repeated(truth: &Truth, session: &Session, stream: StreamId, at: NodeId) -> Verdict {
    let Some(before) = session.streams[&stream].at else { return Ok(()) };
    if truth.nothing_between(before, at, session.user.as_deref()) {
        return Ok(());
    }
    let (before, at) = (truth.node(before).position, truth.node(at).position);
    Err(Failure::new("order", format!("joined again at {at:?}, being at {before:?}")))
}

/// A client receives a message with a position.
pub fn durable(truth: &Truth, user: Option<&str>, seen: &mut Seen, node: NodeId) -> Verdict {
    let place = truth.node(node);
    let name = truth.name(place.stream);
    let Some(at) = seen.at else {
        // Who was let in without the broker is told where it is before anything else.
        let what = format!("{name}: {:?} came before the client knew where it is", place.position);
        return Err(Failure::new("order", what));
    };
    let prev = place.prev.expect("a publication has a predecessor");
    if !truth.nothing_between(at, prev, user) {
        let before = truth.node(at).position;
        let is_late =
            before.epoch == place.position.epoch && before.offset >= place.position.offset;
        let oracle = if is_late { "order" } else { "missed" };
        let what = format!("{name}: {:?} came after {before:?}", place.position);
        return Err(Failure::new(oracle, what));
    }
    seen.at = Some(node);
    seen.heard = Some(node);
    Ok(())
}

/// A client receives a durable message while positions are off.
pub fn numberless(seen: &mut Seen, taken: Taken) -> Verdict {
    if taken.order <= seen.order {
        return Err(Failure::new("order", format!("{taken:?} came after {seen:?}")));
    }
    seen.order = taken.order;
    Ok(())
}

/// A client receives a latest value: after whatever was before it, and no older one after it. Who
/// joins is given values that are older than where the stream is. One without a version may be
/// either of two.
pub fn latest(truth: &Truth, seen: &mut Seen, taken: Taken, sets_back: bool) -> Verdict {
    // A broker that has forgotten counts from the start again.
    if sets_back || taken.version == 0 {
        return Ok(());
    }
    if let Some((node, heard)) = taken.node.zip(seen.heard) {
        let (value, client) = (truth.node(node).position, truth.node(heard).position);
        if value.epoch == client.epoch && value.offset < client.offset {
            let what = format!("a latest value of {value:?} came after {client:?}");
            return Err(Failure::new("latest", what));
        }
    }
    if taken.version <= seen.latest {
        return Err(Failure::new("latest", format!("{taken:?} came after {seen:?}")));
    }
    seen.latest = taken.version;
    Ok(())
}

/// A client receives a message of an ingress channel.
pub fn best_effort(seen: &mut Seen, taken: Taken) -> Verdict {
    if taken.order <= seen.ingress {
        return Err(Failure::new("order", format!("an ingress message came twice: {taken:?}")));
    }
    seen.ingress = taken.order;
    Ok(())
}
