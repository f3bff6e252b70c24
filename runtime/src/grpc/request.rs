//! Requests, checked once and turned into what is to be published.

use std::sync::Arc;

use bytes::Bytes;
use realtime_core::{
    stream::{NameError, ROOM_BYTES_MAX, StreamName, USER_BYTES_MAX, check},
    wire::{TYPE_BYTES_MAX, decode, is_reserved},
};
use realtime_proto::{
    BroadcastEventRequest, NotifyBookingResultRequest, NotifyPaymentStatusRequest,
    NotifyQueuePositionRequest, PaymentStatus, SendToUserRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tonic::Status;

use super::status::invalid;
use crate::config::Config;

/// A message to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) stream: StreamName,
    /// The event type.
    pub(super) kind: Arc<str>,
    /// JSON text.
    pub(super) payload: Bytes,
    /// A user whose connections skip it.
    pub(super) exclude_user: Option<Arc<str>>,
    /// For a message of which only the newest matters: what it is the newest of, beside its type.
    pub(super) latest: Option<Arc<str>>,
    /// Whether an acknowledgement is asked for.
    pub(super) ack: bool,
    pub(super) idempotency_key: Option<Box<str>>,
}

type Checked = Result<Message, Status>;

pub(super) fn booking_result(request: NotifyBookingResultRequest, config: &Config) -> Checked {
    #[derive(Serialize)]
    struct Payload<'a> {
        booking_id: &'a str,
        booking_reference: &'a str,
        success: bool,
        message: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        event_id: &'a str,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        seat_numbers: &'a [String],
        #[serde(skip_serializing_if = "str::is_empty")]
        total_amount: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        currency: &'a str,
    }
    let stream = user_stream(&request.user_id)?;
    // A booking that failed often has no id yet.
    if request.success && request.booking_id.is_empty() {
        return Err(invalid("booking_id is empty, but success is true"));
    }
    short("booking_id", &request.booking_id)?;
    short("booking_reference", &request.booking_reference)?;
    short("event_id", &request.event_id)?;
    let payload = Payload {
        booking_id: &request.booking_id,
        booking_reference: &request.booking_reference,
        success: request.success,
        message: &request.message,
        event_id: &request.event_id,
        seat_numbers: &request.seat_numbers,
        total_amount: &request.total_amount,
        currency: &request.currency,
    };
    let kind = if request.success { "booking:confirmed" } else { "booking:failed" };
    typed(stream, kind, &payload, &request.event_id, request.idempotency_key, config)
}

pub(super) fn queue_position(request: NotifyQueuePositionRequest, config: &Config) -> Checked {
    #[derive(Serialize)]
    struct Payload<'a> {
        position: i32,
        estimated_wait: i32,
        event_id: &'a str,
        total_in_queue: i32,
    }
    let stream = user_stream(&request.user_id)?;
    short("event_id", &request.event_id)?;
    let payload = Payload {
        position: request.position,
        estimated_wait: request.estimated_wait_seconds,
        event_id: &request.event_id,
        total_in_queue: request.total_in_queue,
    };
    let key = request.idempotency_key;
    typed(stream, QUEUE_POSITION, &payload, &request.event_id, key, config)
}

pub(super) fn payment_status(request: NotifyPaymentStatusRequest, config: &Config) -> Checked {
    #[derive(Serialize)]
    struct Payload<'a> {
        payment_id: &'a str,
        booking_id: &'a str,
        status: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        amount: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        currency: &'a str,
    }
    let stream = user_stream(&request.user_id)?;
    let (kind, status) = match PaymentStatus::try_from(request.status) {
        Ok(PaymentStatus::Processing) => ("payment:processing", "processing"),
        Ok(PaymentStatus::Success) => ("payment:success", "success"),
        Ok(PaymentStatus::Failed) => ("payment:failed", "failed"),
        Ok(PaymentStatus::Refunded) => ("payment:refunded", "refunded"),
        Ok(PaymentStatus::Unspecified) => return Err(invalid("status is not given")),
        Err(_) => return Err(invalid(format!("status is unknown: {}", request.status))),
    };
    short("booking_id", &request.booking_id)?;
    short("payment_id", &request.payment_id)?;
    let payload = Payload {
        payment_id: &request.payment_id,
        booking_id: &request.booking_id,
        status,
        message: &request.message,
        amount: &request.amount,
        currency: &request.currency,
    };
    typed(stream, kind, &payload, "", request.idempotency_key, config)
}

pub(super) fn broadcast(request: BroadcastEventRequest, config: &Config) -> Checked {
    let stream =
        StreamName::room(&request.room).map_err(|error| bad_name("room", error, ROOM_BYTES_MAX))?;
    let exclude_user = match &*request.sender_user_id {
        "" => None,
        sender => {
            check(sender, USER_BYTES_MAX)
                .map_err(|error| bad_name("sender_user_id", error, USER_BYTES_MAX))?;
            request.exclude_sender.then(|| sender.into())
        }
    };
    let message =
        free(stream, request.event_type, &request.payload, request.idempotency_key, config)?;
    Ok(Message { exclude_user, ..message })
}

pub(super) fn send_to_user(request: SendToUserRequest, config: &Config) -> Checked {
    let stream = user_stream(&request.user_id)?;
    let message =
        free(stream, request.event_type, &request.payload, request.idempotency_key, config)?;
    if !request.require_ack {
        return Ok(message);
    }
    if config.retention.user_entries_max == 0 {
        return Err(Status::failed_precondition(
            "require_ack needs positions, which HISTORY_SIZE=0 turns off",
        ));
    }
    // What is to be acknowledged has an id, so it is durable whatever its type.
    Ok(Message { ack: true, latest: None, ..message })
}

/// A message whose payload the service writes.
fn typed(
    stream: StreamName,
    kind: &str,
    payload: &impl Serialize,
    event_id: &str,
    idempotency_key: String,
    config: &Config,
) -> Checked {
    let payload = serde_json::to_vec(payload).expect("strings and numbers are JSON");
    if payload.len() > config.payload_bytes_max {
        return Err(too_long("the message", payload.len(), config.payload_bytes_max));
    }
    let idempotency_key = key(idempotency_key)?;
    let event_id = if planted!("conflate across events") { "" } else { event_id };
    Ok(Message {
        stream,
        kind: kind.into(),
        payload: payload.into(),
        exclude_user: None,
        latest: is_latest(kind, config).then(|| event_id.into()),
        ack: false,
        idempotency_key,
    })
}

/// A message whose type and payload the caller chose.
fn free(
    stream: StreamName,
    kind: String,
    payload: &str,
    idempotency_key: String,
    config: &Config,
) -> Checked {
    check(&kind, TYPE_BYTES_MAX).map_err(|error| bad_name("event_type", error, TYPE_BYTES_MAX))?;
    if is_reserved(&kind) {
        return Err(invalid(format!("event_type is reserved for the service itself: {kind}")));
    }
    if payload.len() > config.payload_bytes_max {
        return Err(too_long("payload", payload.len(), config.payload_bytes_max));
    }
    let payload = decode::payload(payload)
        .ok_or_else(|| invalid("payload is not a JSON text, or nested too deeply"))?;
    let latest = match is_latest(&kind, config) {
        true => Some(event_of(payload)?),
        false => None,
    };
    Ok(Message {
        stream,
        kind: kind.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        exclude_user: None,
        latest,
        ack: false,
        idempotency_key: key(idempotency_key)?,
    })
}

fn is_latest(kind: &str, config: &Config) -> bool {
    kind == QUEUE_POSITION || config.latest_types.iter().any(|latest| latest == kind)
}

/// The `event_id` of a payload: a string or a number, else nothing.
fn event_of(payload: &str) -> Result<Arc<str>, Status> {
    #[derive(Deserialize)]
    struct Fields {
        event_id: Value,
    }
    // An array would be taken for a struct, too.
    let fields = payload.starts_with('{').then(|| serde_json::from_str::<Fields>(payload).ok());
    let event = match fields.flatten().map(|fields| fields.event_id) {
        Some(Value::String(text)) => text,
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => {
            String::new()
        }
    };
    short("event_id in payload", &event)?;
    Ok(event.into())
}

fn user_stream(user: &str) -> Result<StreamName, Status> {
    StreamName::user(user).map_err(|error| bad_name("user_id", error, USER_BYTES_MAX))
}

fn key(key: String) -> Result<Option<Box<str>>, Status> {
    short("idempotency_key", &key)?;
    Ok(Some(key.into_boxed_str()).filter(|key| !key.is_empty()))
}

/// Checks the length of an id.
fn short(field: &str, id: &str) -> Result<(), Status> {
    if id.len() > ID_BYTES_MAX { Err(too_long(field, id.len(), ID_BYTES_MAX)) } else { Ok(()) }
}

fn too_long(field: &str, bytes: usize, bytes_max: usize) -> Status {
    invalid(format!("{field} has {bytes} bytes; at most {bytes_max} are accepted"))
}

fn bad_name(field: &str, error: NameError, bytes_max: usize) -> Status {
    invalid(match error {
        NameError::Empty => format!("{field} is empty"),
        NameError::TooLong => {
            format!("{field} is too long; at most {bytes_max} bytes are accepted")
        }
        NameError::ControlCharacter => format!("{field} contains a control character"),
    })
}

/// The type of which only the newest message of an event ever matters.
const QUEUE_POSITION: &str = "booking:queue_position";

/// Longest id that is not a user's.
const ID_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests;
