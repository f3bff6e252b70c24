//! The six methods.

use std::{sync::Arc, time::Duration};

use realtime_core::time::Instant;
use realtime_proto::{
    BroadcastEventRequest, BroadcastEventResponse, GetConnectionStatsRequest,
    GetConnectionStatsResponse, NotifyBookingResultRequest, NotifyBookingResultResponse,
    NotifyPaymentStatusRequest, NotifyPaymentStatusResponse, NotifyQueuePositionRequest,
    NotifyQueuePositionResponse, SendToUserRequest, SendToUserResponse,
    realtime_service_server::RealtimeService,
};
use tonic::{Request, Response, Status, async_trait};

use super::{
    publish::{Outcome, Publisher},
    request::{self, Message},
    stats,
};
use crate::{config::Config, service::Shared};

/// Answers calls.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    shared: Arc<Shared>,
    publisher: Publisher,
}

impl Calls {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), publisher: Publisher::new(shared) }
    }

    /// Checks a request and publishes what it asks for.
    async fn publish<T>(
        &self,
        request: Request<T>,
        check: fn(T, &Config) -> Result<Message, Status>,
    ) -> Result<Outcome, Status> {
        let timeout = request.metadata().get("grpc-timeout").and_then(|text| text.to_str().ok());
        let deadline = timeout.and_then(parse_timeout).map(|timeout| self.answer_by(timeout));
        let message = check(request.into_inner(), &self.shared.service.config)?;
        self.publisher.publish(message, deadline).await
    }

    /// When the answer must be ready for a caller that waits for `timeout`.
    fn answer_by(&self, timeout: Duration) -> Instant {
        // The answer has a way to go. Of a very short timeout half is left for it.
        self.shared.now() + timeout.saturating_sub(ANSWER_MARGIN).max(timeout / 2)
    }
}

#[async_trait]
impl RealtimeService for Calls {
    async fn notify_booking_result(
        &self,
        request: Request<NotifyBookingResultRequest>,
    ) -> Result<Response<NotifyBookingResultResponse>, Status> {
        let outcome = self.publish(request, request::booking_result).await?;
        Ok(Response::new(NotifyBookingResultResponse {
            delivered: outcome.delivered,
            active_connections: count(outcome.recipients),
            message_id: outcome.message_id,
            instances: count(outcome.instances),
            complete: outcome.complete,
            duplicate: outcome.duplicate,
        }))
    }

    async fn notify_queue_position(
        &self,
        request: Request<NotifyQueuePositionRequest>,
    ) -> Result<Response<NotifyQueuePositionResponse>, Status> {
        let outcome = self.publish(request, request::queue_position).await?;
        Ok(Response::new(NotifyQueuePositionResponse {
            delivered: outcome.delivered,
            message_id: outcome.message_id,
            instances: count(outcome.instances),
            complete: outcome.complete,
            duplicate: outcome.duplicate,
        }))
    }

    async fn notify_payment_status(
        &self,
        request: Request<NotifyPaymentStatusRequest>,
    ) -> Result<Response<NotifyPaymentStatusResponse>, Status> {
        let outcome = self.publish(request, request::payment_status).await?;
        Ok(Response::new(NotifyPaymentStatusResponse {
            delivered: outcome.delivered,
            message_id: outcome.message_id,
            instances: count(outcome.instances),
            complete: outcome.complete,
            duplicate: outcome.duplicate,
        }))
    }

    async fn broadcast_event(
        &self,
        request: Request<BroadcastEventRequest>,
    ) -> Result<Response<BroadcastEventResponse>, Status> {
        let outcome = self.publish(request, request::broadcast).await?;
        Ok(Response::new(BroadcastEventResponse {
            recipients: count(outcome.recipients),
            message_id: outcome.message_id,
            instances: count(outcome.instances),
            complete: outcome.complete,
            duplicate: outcome.duplicate,
        }))
    }

    async fn send_to_user(
        &self,
        request: Request<SendToUserRequest>,
    ) -> Result<Response<SendToUserResponse>, Status> {
        let outcome = self.publish(request, request::send_to_user).await?;
        Ok(Response::new(SendToUserResponse {
            delivered: outcome.delivered,
            connections_notified: count(outcome.recipients),
            message_id: outcome.message_id,
            instances: count(outcome.instances),
            complete: outcome.complete,
            duplicate: outcome.duplicate,
        }))
    }

    async fn get_connection_stats(
        &self,
        request: Request<GetConnectionStatsRequest>,
    ) -> Result<Response<GetConnectionStatsResponse>, Status> {
        Ok(Response::new(stats::answer(&self.shared, request.get_ref()).await))
    }
}

/// Reads the header `grpc-timeout`: up to 8 digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

pub(super) fn count(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// What is left of a caller's deadline for the way of the answer.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(parse_timeout("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse_timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(parse_timeout("1n"), Some(Duration::from_nanos(1)));
        for bad in ["", "S", "1", "1s", "-1S", "123456789S", "1é", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }
}
