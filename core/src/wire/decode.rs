//! Client messages and ingress messages, checked once.

use std::{borrow::Cow, str};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{
    entry::Body,
    id::BootId,
    link::Since,
    shard::Reference,
    stream::{self, StreamName},
    time::UnixMillis,
};

use super::{ErrorCode, Kind, TYPE_BYTES_MAX, is_reserved, json, number};

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
    let Some(envelope) = object::<Envelope<'_>>(text).filter(|_| !json::is_too_deep(text)) else {
        return Request { kind: Kind::Other, reference: None, command: Err(NOT_AN_OBJECT) };
    };
    let name = envelope.kind.and_then(string);
    let kind = name.as_deref().map_or(Kind::Other, Kind::of);
    let reference = match envelope.reference.map(reference) {
        None => None,
        Some(Some(reference)) => Some(reference),
        Some(None) => return Request { kind, reference: None, command: Err(BAD_REFERENCE) },
    };
    let command = match name {
        Some(name) => command(&name, envelope.payload),
        None => Err(NO_TYPE),
    };
    Request { kind, reference, command }
}

/// Reads an `id`. None for anything that is not of the form of one.
pub fn since(id: &str) -> Option<Since> {
    let mut parts = id.as_bytes().split(|&byte| byte == b'-');
    let (epoch, offset, check) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some(Since {
        epoch: number::hex(epoch)?,
        offset: number::decimal(offset)?,
        check: u32::try_from(number::hex_padded::<8>(check)?).ok()?,
    })
}

/// Reads a message of an ingress channel: the stream it is for and what it says. None for anything
/// malformed, reserved, or with a payload over `bytes_max`. An empty `user_id` or `room` counts as
/// absent.
pub fn ingress(bytes: &[u8], bytes_max: usize) -> Option<(StreamName, Body)> {
    if bytes.len() > bytes_max.saturating_add(INGRESS_ENVELOPE_BYTES_MAX) {
        return None;
    }
    let text = str::from_utf8(bytes).ok()?;
    let message = object::<IngressMessage<'_>>(text)?;
    if json::is_too_deep(text) {
        return None;
    }
    let kind = string(message.kind)?;
    if is_reserved(&kind) || stream::check(&kind, TYPE_BYTES_MAX).is_err() {
        return None;
    }
    let user = optional_string(message.user_id).ok()?;
    let room = optional_string(message.room).ok()?;
    let stream = match (user, room) {
        (Some(user), _) => StreamName::user(&user).ok()?,
        (None, Some(room)) => StreamName::room(&room).ok()?,
        (None, None) => StreamName::all(),
    };
    let payload = message.payload.map_or("{}", RawValue::get);
    if payload.len() > bytes_max {
        return None;
    }
    let body = Body {
        kind: kind.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        exclude_user: None,
        key: "".into(),
        ack: false,
        origin: BootId(0),
        published: UnixMillis(0),
    };
    Some((stream, body))
}

/// Takes the insignificant white space around a JSON text off, checking that it is one; an empty
/// text is `{}`. None for anything that is not JSON or nested too deeply.
pub fn payload(text: &str) -> Option<&str> {
    let text = json::trim(text);
    if text.is_empty() {
        return Some("{}");
    }
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    (!json::is_too_deep(text)).then_some(text)
}

/// Whether a room pattern (`*` stands for any text) matches a name. Takes at most time
/// proportional to the product of both lengths.
pub fn pattern_matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Behind the last star seen, and where in the name the text that it stands for ends. Only the
    // last one is ever tried again: an earlier one can't do better with more text.
    let mut star = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, n));
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((behind, end)) = star {
            star = Some((behind, end + 1));
            (p, n) = (behind, end + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// A client message whose fields are still JSON texts. A field that is null counts as absent.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
}

/// What a client's payload may say. A field that is null counts as absent.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    room: Option<&'a RawValue>,
    #[serde(borrow)]
    event_id: Option<&'a RawValue>,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// A message of an ingress channel.
#[derive(Deserialize)]
struct IngressMessage<'a> {
    #[serde(rename = "type", borrow)]
    kind: &'a RawValue,
    #[serde(borrow)]
    room: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
}

/// A field that is there, be it null.
fn present<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads a command of the type `name`.
fn command(name: &str, payload: Option<&RawValue>) -> Result<Command, Mistake> {
    match name {
        "system:ping" => Ok(Command::Ping),
        "room:join" => {
            let fields = fields(payload)?;
            Ok(Command::Join { stream: room(&fields)?, since: fields.since.and_then(join_since) })
        }
        "room:leave" => Ok(Command::Leave { stream: room(&fields(payload)?)? }),
        "user:subscribe" => {
            let user = fields(payload)?.user_id.and_then(string).ok_or(BAD_USER)?;
            stream::check(&user, stream::USER_BYTES_MAX).map_err(|_| BAD_USER)?;
            Ok(Command::Subscribe { user: user.into() })
        }
        "auth:refresh" => {
            let token = fields(payload)?.token.and_then(string).ok_or(BAD_TOKEN)?;
            Ok(Command::Refresh { token: token.into() })
        }
        "system:ack" => {
            let id = fields(payload)?.id.and_then(string).ok_or(BAD_ID)?;
            Ok(Command::Ack { id: since(&id) })
        }
        _ => Err(UNKNOWN),
    }
}

/// The fields of a payload; an absent payload has none.
fn fields(payload: Option<&RawValue>) -> Result<Fields<'_>, Mistake> {
    object(payload.map_or("{}", RawValue::get)).ok_or(BAD_PAYLOAD)
}

/// The room that a payload names.
fn room(fields: &Fields<'_>) -> Result<StreamName, Mistake> {
    if let Some(room) = optional_string(fields.room)? {
        return StreamName::room(&room).map_err(|_| BAD_ROOM);
    }
    let event = fields.event_id.ok_or(NO_ROOM)?;
    let event = string(event).or_else(|| whole_number(event)).ok_or(BAD_EVENT)?;
    if event.is_empty() {
        return Err(NO_ROOM);
    }
    if event.len() > stream::ROOM_BYTES_MAX {
        return Err(BAD_ROOM); // Before it is copied.
    }
    StreamName::room(&["event:", &event].concat()).map_err(|_| BAD_ROOM)
}

/// Reads a `since` that is there. None for an empty one.
fn join_since(raw: &RawValue) -> Option<Option<Since>> {
    match string(raw) {
        Some(id) if id.is_empty() => None,
        Some(id) => Some(since(&id)),
        None => Some(None),
    }
}

/// Reads a `ref`. None for one that is refused.
fn reference(raw: &RawValue) -> Option<Reference> {
    let text = raw.get();
    let bytes = match text.as_bytes().first()? {
        b'"' => text.len() - "\"\"".len(),
        b'-' | b'0'..=b'9' => text.len(),
        _ => return None,
    };
    (bytes <= REFERENCE_BYTES_MAX).then(|| Reference(text.into()))
}

/// Reads a field that may be absent or empty, which is the same.
fn optional_string(raw: Option<&RawValue>) -> Result<Option<Cow<'_, str>>, Mistake> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    let text = string(raw).ok_or(BAD_ROOM)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The text of a JSON string. None for anything else, and for half a surrogate pair.
fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str::<String>(raw.get()).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// The text of a JSON number without sign, fraction and exponent.
fn whole_number(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(Cow::Borrowed(text))
}

/// Reads a JSON object. serde would take an array for a struct too.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    if !json::trim(text).starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Bytes of the JSON text of a `ref`, without quotes.
const REFERENCE_BYTES_MAX: usize = 64;

/// Bytes of an ingress message beside its payload: the names with every character escaped, white
/// space, and fields that are not looked at.
const INGRESS_ENVELOPE_BYTES_MAX: usize = 1 << 13;

const fn mistake(code: ErrorCode, message: &'static str) -> Mistake {
    Mistake { code, message }
}

const NOT_AN_OBJECT: Mistake =
    mistake(ErrorCode::ParseError, "a message must be one JSON object, not nested too deeply");
const NO_TYPE: Mistake = mistake(ErrorCode::ParseError, "type must be a string");
const BAD_REFERENCE: Mistake =
    mistake(ErrorCode::InvalidPayload, "ref must be a string or number of at most 64 bytes");
const BAD_PAYLOAD: Mistake = mistake(ErrorCode::InvalidPayload, "payload must be an object");
const BAD_ROOM: Mistake = mistake(
    ErrorCode::InvalidPayload,
    "room must be a string of at most 200 bytes without control characters",
);
const BAD_EVENT: Mistake =
    mistake(ErrorCode::InvalidPayload, "event_id must be a string or a whole number");
const BAD_USER: Mistake = mistake(
    ErrorCode::InvalidPayload,
    "user_id must be a string of 1 to 128 bytes without control characters",
);
const BAD_TOKEN: Mistake = mistake(ErrorCode::InvalidPayload, "token must be a string");
const BAD_ID: Mistake = mistake(ErrorCode::InvalidPayload, "id must be a string");
const NO_ROOM: Mistake = mistake(ErrorCode::MissingRoom, "room or event_id is required");
const UNKNOWN: Mistake = mistake(ErrorCode::UnknownType, "there is no request of this type");

#[cfg(test)]
mod tests;
