//! The outermost layer of the service: its two names, and what is counted of every call.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ::http::{HeaderValue, Request, Response, Uri};
use realtime_core::time::Instant;
use realtime_proto::realtime_service_server::RealtimeServiceServer;
use tonic::{Code, body::Body, server::NamedService};
use tower::Service;

use super::calls::Calls;
use crate::{
    metrics::{CODES, METHODS},
    service::Shared,
};

/// The service under one of its names: `realtime.v1.RealtimeService` if `V1`, else
/// `realtime.RealtimeService`. Both are the same.
#[derive(Clone)]
pub(super) struct Edge<const V1: bool> {
    service: RealtimeServiceServer<Calls>,
    shared: Arc<Shared>,
}

impl<const V1: bool> Edge<V1> {
    pub(super) fn new(service: RealtimeServiceServer<Calls>, shared: &Arc<Shared>) -> Self {
        Self { service, shared: Arc::clone(shared) }
    }
}

impl<const V1: bool> NamedService for Edge<V1> {
    const NAME: &'static str =
        if V1 { "realtime.v1.RealtimeService" } else { "realtime.RealtimeService" };
}

impl<const V1: bool> Service<Request<Body>> for Edge<V1> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.service, cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = method_of(request.uri().path());
        if let Some(path) = PATHS.get(method) {
            *request.uri_mut() = Uri::from_static(path);
        }
        let mut call = Call::new(method, Arc::clone(&self.shared));
        let answer = self.service.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            call.ended(&mut response);
            Ok(response)
        })
    }
}

/// Index into [`METHODS`] of what a path names.
fn method_of(path: &str) -> usize {
    let name = path.rsplit('/').next().unwrap_or_default();
    PATHS.iter().zip(METHODS).position(|(_, known)| known == name).unwrap_or(PATHS.len())
}

/// A call on its way. It counts as cancelled when it is dropped without an answer.
struct Call {
    method: usize,
    began: Instant,
    code: Code,
    shared: Arc<Shared>,
}

impl Call {
    fn new(method: usize, shared: Arc<Shared>) -> Self {
        Self { method, began: shared.now(), code: Code::Cancelled, shared }
    }

    /// Reads the code of an answer. One that failed has it in its headers; one that did not has it
    /// behind its message.
    fn ended(&mut self, response: &mut Response<Body>) {
        let status = response.headers_mut().get_mut(tonic::Status::GRPC_STATUS);
        self.code = match status {
            None => Code::Ok,
            Some(status) => {
                if Code::from_bytes(status.as_bytes()) == Code::OutOfRange {
                    // That a message is too long to be decoded; a payload that is a little shorter
                    // but still too long is refused with this code.
                    *status = HeaderValue::from(Code::InvalidArgument as u16);
                }
                Code::from_bytes(status.as_bytes())
            }
        };
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.shared.now().saturating_since(self.began);
        let code = (self.code as usize).min(CODES.len() - 1);
        self.shared.counters.called(self.method, code, took);
    }
}

/// The paths of the methods, in the order of [`METHODS`], which has one element more.
const PATHS: [&str; METHODS.len() - 1] = [
    "/realtime.RealtimeService/NotifyBookingResult",
    "/realtime.RealtimeService/NotifyQueuePosition",
    "/realtime.RealtimeService/NotifyPaymentStatus",
    "/realtime.RealtimeService/BroadcastEvent",
    "/realtime.RealtimeService/SendToUser",
    "/realtime.RealtimeService/GetConnectionStats",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_by_their_method_under_any_service_name() {
        for (index, path) in PATHS.iter().enumerate() {
            assert_eq!(method_of(path), index);
            assert_eq!(method_of(&path.replace("realtime.", "realtime.v1.")), index);
            assert!(path.ends_with(METHODS[index]));
        }
        for other in ["", "/", "/realtime.RealtimeService/", "/a/b", "/a/other"] {
            assert_eq!(METHODS[method_of(other)], "other");
        }
    }
}
