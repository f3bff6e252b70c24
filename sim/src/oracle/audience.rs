//! Messages reach only whom they are for, and arrive as they were published.

use crate::{
    frames::Message,
    plan::Class,
    session::Session,
    truth::{NodeId, Publication, Truth},
};

use super::{Failure, Verdict};

/// The message is what was published. Gives its place, if it has one.
pub fn intact(
    truth: &Truth,
    message: &Message<'_>,
    number: usize,
    positions: bool,
) -> Result<Option<NodeId>, Failure> {
    let failed = |what: &str| Failure::new("payload", format!("{what}: {message:?}"));
    let published = truth.publications.get(number).ok_or_else(|| failed("never published"))?;
    let taken = published.taken.ok_or_else(|| failed("not yet published"))?;
    if message.kind != &*published.kind || message.payload.get() != published.payload {
        return Err(failed("changed on its way"));
    }
    let name = truth.name(published.stream);
    let room = (!name.starts_with("user:")).then_some(name);
    if message.room != room {
        return Err(failed("the wrong room"));
    }
    let has_id = positions && published.class == Class::Durable;
    if message.ack != (has_id && published.ack).then_some(true) {
        return Err(failed("it asks for an acknowledgement that nobody waits for, or does not"));
    }
    match message.id {
        Some(id) if has_id => {
            let node = truth.place(published.stream, id);
            if node != taken.node {
                return Err(failed("the wrong id"));
            }
            Ok(node)
        }
        None if !has_id => Ok(None),
        Some(_) | None => Err(failed("an id too many or too few")),
    }
}

/// The client is one of those whom the message is for.
pub fn entitled(truth: &Truth, session: &Session, published: &Publication) -> Verdict {
    let name = truth.name(published.stream);
    if !session.streams.contains_key(&published.stream) {
        let what = format!("a message of {name}, of which the client is no member");
        return Err(Failure::new("audience", what));
    }
    if published.skips(session.user.as_deref()) {
        return Err(Failure::new("audience", format!("{name}: the client was to be skipped")));
    }
    Ok(())
}
