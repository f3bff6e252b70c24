//! The names of streams: rooms, users and `all` are one name space.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de::Error};

/// The stream in which every connection is seated.
pub const ALL: &str = "all";

/// What the name of a user's stream begins with.
pub const USER_PREFIX: &str = "user:";

/// Longest room name, in bytes.
pub const ROOM_BYTES_MAX: usize = 200;

/// Longest user id, in bytes.
pub const USER_BYTES_MAX: usize = 128;

/// The valid name of a stream: `all`, `user:<id>`, or the name of a room. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct StreamName(Arc<str>);

/// What a stream is the sequence of publications of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind<'a> {
    /// Everyone.
    All,
    /// One user, by id.
    User(&'a str),
    /// The members of a room, by name.
    Room(&'a str),
}

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// There is nothing in it.
    Empty,
    /// A room of more than [`ROOM_BYTES_MAX`] or a user id of more than [`USER_BYTES_MAX`] bytes.
    TooLong,
    /// It contains a control character.
    ControlCharacter,
}

impl StreamName {
    /// The stream of everyone.
    pub fn all() -> Self {
        Self(ALL.into())
    }

    /// The stream of the user `id`.
    pub fn user(id: &str) -> Result<Self, NameError> {
        check(id, USER_BYTES_MAX)?;
        Ok(Self([USER_PREFIX, id].concat().into()))
    }

    /// The stream that the room name `name` stands for, which may be `all` or `user:<id>`.
    pub fn room(name: &str) -> Result<Self, NameError> {
        match name.strip_prefix(USER_PREFIX) {
            Some(id) => check(id, USER_BYTES_MAX)?,
            None => check(name, ROOM_BYTES_MAX)?,
        }
        Ok(Self(name.into()))
    }

    /// What this is the stream of.
    pub fn kind(&self) -> StreamKind<'_> {
        match self.0.strip_prefix(USER_PREFIX) {
            Some(id) => StreamKind::User(id),
            None if &*self.0 == ALL => StreamKind::All,
            None => StreamKind::Room(&self.0),
        }
    }

    /// The room that a message of this stream names: none for a user's stream.
    pub fn room_name(&self) -> Option<&str> {
        match self.kind() {
            StreamKind::User(_) => None,
            StreamKind::All | StreamKind::Room(_) => Some(&self.0),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for StreamName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        Self::room(&name).map_err(|error| D::Error::custom(format_args!("{name:?}: {error:?}")))
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Checks a user id or a room name against its limit.
pub fn check(name: &str, bytes_max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > bytes_max {
        return Err(NameError::TooLong);
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(())
}
