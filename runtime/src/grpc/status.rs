//! The errors that calls end with.

use std::time::Duration;

use prost::Message as _;
use prost_types::Any;
use tonic::{Code, Status};

/// The request is wrong; `message` names the field.
pub(super) fn invalid(message: impl Into<String>) -> Status {
    Status::invalid_argument(message)
}

/// Certainly nothing was published. The details say when to try again, as a `google.rpc.RetryInfo`.
pub(super) fn unavailable(message: &str) -> Status {
    let retry = RetryInfo { retry_delay: prost_types::Duration::try_from(RETRY_DELAY).ok() };
    let detail = Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
        value: retry.encode_to_vec(),
    };
    let details = RpcStatus {
        code: Code::Unavailable as i32,
        message: message.to_owned(),
        details: vec![detail],
    };
    Status::with_details(Code::Unavailable, message, details.encode_to_vec().into())
}

/// Whether something was published is not known.
pub(super) fn unknown_outcome(message: &str) -> Status {
    Status::deadline_exceeded(format!(
        "{message}; it may or may not have been published: retry with the same idempotency_key"
    ))
}

/// `google.rpc.Status`, which gRPC carries in the trailer `grpc-status-details-bin`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.RetryInfo`
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// About as long as a broker connection takes to come back when nothing is broken.
const RETRY_DELAY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_says_when_to_try_again() {
        let status = unavailable("away");
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "away"));
        // Field 3 of google.rpc.Status: an Any of RetryInfo {1: Duration {1: 1 s}}.
        let mut expected = vec![0x08, 14, 0x12, 4];
        expected.extend_from_slice(b"away");
        expected.extend_from_slice(&[0x1a, 48, 0x0a, 40]);
        expected.extend_from_slice(b"type.googleapis.com/google.rpc.RetryInfo");
        expected.extend_from_slice(&[0x12, 4, 0x0a, 2, 0x08, 1]);
        assert_eq!(status.details(), expected);
    }
}
