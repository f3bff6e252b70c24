//! Each request is answered once, and those that name the same room in order.

use crate::session::{Asked, Session};

use super::{Failure, Verdict};

/// An answer arrives. Gives what it answers.
pub fn answered(
    session: &mut Session,
    kind: &str,
    reference: u32,
    code: &str,
) -> Result<Asked, Failure> {
    let failed = |what: &str| Failure::new("answers", format!("{what}: {kind} {reference} {code}"));
    let asked = session.asked.remove(&reference).ok_or_else(|| failed("nobody asked"))?;
    let expected = match &asked {
        Asked::Join(..) => "room:joined",
        Asked::Leave(_) => "room:left",
        Asked::Ping => "system:pong",
        Asked::Refresh(true) => "auth:refreshed",
        Asked::Refresh(false) | Asked::Garbage => "system:error",
    };
    if kind != expected && kind != "system:error" {
        return Err(failed("another answer was expected"));
    }
    // What is refused for its rate is refused at once.
    if let Some(room) = asked.room()
        && code != "RATE_LIMITED"
        && session.asked.range(..reference).any(|(_, other)| other.room() == Some(room))
    {
        return Err(failed("an earlier request of the same room has no answer"));
    }
    Ok(asked)
}

/// At the end nobody waits.
pub fn judge(session: &Session) -> Verdict {
    match session.asked.first_key_value() {
        Some(asked) => Err(Failure::new("answers", format!("never answered: {asked:?}"))),
        None => Ok(()),
    }
}
