//! A back end: publishes over gRPC.

use std::{io, net::SocketAddr};

use realtime_proto::{
    BroadcastEventRequest, NotifyQueuePositionRequest, SendToUserRequest,
    realtime_service_client::RealtimeServiceClient,
};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::histogram::now_ns;

/// A connection to one instance.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    client: RealtimeServiceClient<Channel>,
}

/// What an answer says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub(crate) connections: u64,
    /// Whether these are all that it reached.
    pub(crate) complete: bool,
}

impl Publisher {
    pub(crate) async fn connect(grpc: SocketAddr) -> io::Result<Self> {
        let endpoint = Channel::from_shared(format!("http://{grpc}")).map_err(io::Error::other)?;
        let channel = endpoint.connect().await.map_err(io::Error::other)?;
        Ok(Self { client: RealtimeServiceClient::new(channel) })
    }

    /// Broadcasts to a room. To how many.
    pub(crate) async fn broadcast(mut self, room: &str, bytes: usize) -> io::Result<u32> {
        let request = BroadcastEventRequest {
            event_type: "ticket:availability".to_owned(),
            room: room.to_owned(),
            payload: payload(bytes),
            ..BroadcastEventRequest::default()
        };
        let answer = self.client.broadcast_event(request).await.map_err(io::Error::other)?;
        u32::try_from(answer.into_inner().recipients).map_err(io::Error::other)
    }

    /// So many broadcasts at once.
    pub(crate) async fn broadcast_batch(
        &self,
        room: &str,
        bytes: usize,
        count: u64,
    ) -> io::Result<()> {
        if count == 1 {
            return self.clone().broadcast(room, bytes).await.map(drop);
        }
        let mut calls = JoinSet::new();
        for _ in 0..count {
            let (this, room) = (self.clone(), room.to_owned());
            calls.spawn(async move { this.broadcast(&room, bytes).await });
        }
        while let Some(call) = calls.join_next().await {
            call.map_err(io::Error::other)??;
        }
        Ok(())
    }

    /// Tells one user something durable. Whom it reached.
    pub(crate) async fn notify(mut self, user: String, bytes: usize) -> io::Result<Reached> {
        let request = SendToUserRequest {
            user_id: user,
            event_type: "seat:held".to_owned(),
            payload: payload(bytes),
            ..SendToUserRequest::default()
        };
        let answer = self.client.send_to_user(request).await.map_err(io::Error::other)?;
        let answer = answer.into_inner();
        let connections = u64::try_from(answer.connections_notified).map_err(io::Error::other)?;
        Ok(Reached { connections, complete: answer.complete })
    }

    /// Tells one user a place in a queue, of which only the newest matters.
    pub(crate) async fn queue_position(mut self, user: String, position: i32) -> io::Result<()> {
        let request = NotifyQueuePositionRequest {
            user_id: user,
            event_id: "load".to_owned(),
            position,
            total_in_queue: 10_000,
            ..NotifyQueuePositionRequest::default()
        };
        self.client.notify_queue_position(request).await.map(drop).map_err(io::Error::other)
    }
}

/// JSON of so many bytes that says when it was sent.
pub(crate) fn payload(bytes: usize) -> String {
    let head = format!(r#"{{"sent":{},"pad":""#, now_ns());
    let pad = "x".repeat(bytes.saturating_sub(head.len() + 2));
    format!(r#"{head}{pad}"}}"#)
}
