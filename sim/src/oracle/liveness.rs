//! After the quiet tail every client is connected, and has everything of all its streams.

use crate::{
    session::Session,
    truth::{NodeId, StreamId, Truth},
};

use super::{Failure, Verdict};

/// A client has everything, or was told that it has not.
pub fn judge(
    truth: &Truth,
    head: impl Fn(StreamId) -> Option<NodeId>,
    session: &Session,
) -> Verdict {
    for (stream, seen) in &session.streams {
        let name = truth.name(*stream);
        let Some(head) = head(*stream) else { continue };
        let Some(at) = seen.at else {
            let what = format!("{name}: the client still does not know where it is");
            return Err(Failure::new("liveness", what));
        };
        if !truth.nothing_between(at, head, session.user.as_deref()) {
            let (at, head) = (truth.node(at).position, truth.node(head).position);
            let what = format!("{name}: the client is at {at:?}, the stream at {head:?}");
            return Err(Failure::new("liveness", what));
        }
    }
    Ok(())
}
