//! Client messages and ingress messages, checked once.

use crate::{
    entry::Body, id::BootId, link::Since, shard::Reference, stream::StreamName, time::UnixMillis,
};

use super::{ErrorCode, Kind};

/// A client message: what it asks for, and the `ref` to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its type, for counting.
    pub kind: Kind,
    /// Copied into the direct reply.
    pub reference: Option<Reference>,
    /// What it asks for, or the error to answer.
    pub command: Result<Command, Mistake>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `system:ping`
    Ping,
    /// `room:join`
    Join {
        /// The room.
        stream: StreamName,
        /// Whether there was a non-empty `since`, and what could be read of it.
        since: Option<Option<Since>>,
    },
    /// `room:leave`
    Leave {
        /// The room.
        stream: StreamName,
    },
    /// `user:subscribe`
    Subscribe {
        /// The user id.
        user: Box<str>,
    },
    /// `auth:refresh`
    Refresh {
        /// The token.
        token: Box<str>,
    },
    /// `system:ack`
    Ack {
        /// The message, if the `id` can be read as one.
        id: Option<Since>,
    },
}

/// A client's mistake, as `system:error` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The code.
    pub code: ErrorCode,
    /// What is wrong, for the developer of the client.
    pub message: &'static str,
}

/// Reads a client message. Never fails: mistakes are part of the result. A `system:ping` without
/// `ref` allocates nothing.
pub fn request(text: &str) -> Request {
    todo!()
}

/// Reads an `id`. None for anything that is not of the form of one.
pub fn since(id: &str) -> Option<Since> {
    todo!()
}

/// Reads a message of an ingress channel: the stream it is for and what it says. None for anything
/// malformed, reserved, or over `bytes_max`.
pub fn ingress(bytes: &[u8], bytes_max: usize) -> Option<(StreamName, Body)> {
    todo!()
}

/// Takes the insignificant white space around a JSON text off, checking that it is one; an empty
/// text is `{}`. None for anything that is not JSON or nested too deeply.
pub fn payload(text: &str) -> Option<&str> {
    todo!()
}

/// Whether a room pattern (`*` stands for any text) matches a name.
pub fn pattern_matches(pattern: &str, name: &str) -> bool {
    todo!()
}
