//! gRPC clients.

use realtime_proto::{
    BroadcastEventRequest, BroadcastEventResponse, GetConnectionStatsRequest,
    GetConnectionStatsResponse, SendToUserRequest, SendToUserResponse,
    realtime_service_client::RealtimeServiceClient,
};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use super::{DEADLINE, server::Server, within};

/// The generated client, connected to one server.
pub type Realtime = RealtimeServiceClient<Channel>;

/// A connection to the gRPC port.
pub fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc));
    endpoint.expect("the address is well formed").timeout(DEADLINE).connect_lazy()
}

/// A client of `realtime.RealtimeService`.
pub fn client(server: &Server) -> Realtime {
    Realtime::new(channel(server))
}

/// Calls `SendToUser`.
pub async fn send_to_user(
    server: &Server,
    user: &str,
    kind: &str,
    payload: &str,
) -> Result<SendToUserResponse, Status> {
    let request = SendToUserRequest {
        user_id: user.to_owned(),
        event_type: kind.to_owned(),
        payload: payload.to_owned(),
        ..Default::default()
    };
    Ok(client(server).send_to_user(request).await?.into_inner())
}

/// Calls `BroadcastEvent`.
pub async fn broadcast(
    server: &Server,
    room: &str,
    kind: &str,
    payload: &str,
) -> Result<BroadcastEventResponse, Status> {
    let request = BroadcastEventRequest {
        room: room.to_owned(),
        event_type: kind.to_owned(),
        payload: payload.to_owned(),
        ..Default::default()
    };
    Ok(client(server).broadcast_event(request).await?.into_inner())
}

/// Calls `GetConnectionStats`.
pub async fn stats(server: &Server) -> GetConnectionStatsResponse {
    let request = GetConnectionStatsRequest::default();
    let answer = client(server).get_connection_stats(request).await;
    answer.expect("statistics are always available").into_inner()
}

/// Calls a method by its path with bytes that are a message already, as tools do that know the
/// contract only by reflection.
pub async fn call_raw(channel: Channel, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let path = PathAndQuery::try_from(path).expect("the path is well formed");
    let mut grpc = Grpc::new(channel);
    within("the gRPC port", grpc.ready()).await.expect("the service listens");
    Ok(grpc.unary(Request::new(message), path, Bytes).await?.into_inner())
}

/// Messages that are passed as they are.
#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &message);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use bytes::Buf as _;
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length).to_vec()))
    }
}
