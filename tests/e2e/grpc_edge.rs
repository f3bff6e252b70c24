//! The gRPC port: service names, reflection, health, keepalive and TLS.

use std::{process::Command, time::Duration};

use prost::Message as _;
use prost_types::FileDescriptorProto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use realtime_proto::{
    GetConnectionStatsRequest, GetConnectionStatsResponse, NotifyBookingResultResponse,
    SendToUserRequest, SendToUserResponse,
};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::common::{
    TempDir,
    client::Client,
    grpc::{self, Realtime, call_raw, channel},
    server::{Server, Setup},
    token::token,
    within,
};

/// Asks a version of the reflection service, each of which has its own types.
macro_rules! reflect {
    ($version:ident, $server:expr, $request:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest::*,
            server_reflection_response::MessageResponse,
        };
        let request =
            ServerReflectionRequest { host: String::new(), message_request: Some($request) };
        let mut client = ServerReflectionClient::new(channel($server));
        let mut answers = client
            .server_reflection_info(tokio_stream::once(request))
            .await
            .expect("reflection is served")
            .into_inner();
        let answer = within("a reflection answer", answers.message()).await.unwrap().unwrap();
        match answer.message_response.expect("it has an answer") {
            MessageResponse::ListServicesResponse(list) => {
                list.service.into_iter().map(|service| service.name.into_bytes()).collect()
            }
            MessageResponse::FileDescriptorResponse(files) => files.file_descriptor_proto,
            other => panic!("an answer to another question: {other:?}"),
        }
    }};
}

#[tokio::test]
async fn both_names_of_the_service_answer() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("a")).await;
    for name in ["realtime.RealtimeService", "realtime.v1.RealtimeService"] {
        let request = SendToUserRequest {
            user_id: "a".to_owned(),
            event_type: "x".to_owned(),
            ..Default::default()
        };
        let path = format!("/{name}/SendToUser");
        let answer = call_raw(channel(&server), &path, request.encode_to_vec()).await.unwrap();
        let answer = SendToUserResponse::decode(answer.as_slice()).unwrap();
        assert_eq!(answer.connections_notified, 1, "{name}");
        client.expect("x").await;
        let path = format!("/{name}/NoSuchMethod");
        let status = call_raw(channel(&server), &path, Vec::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
    }
    let status = call_raw(channel(&server), "/realtime.v2.RealtimeService/SendToUser", Vec::new());
    assert_eq!(status.await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn both_versions_of_reflection_list_the_services() {
    let server = Setup::embedded().start().await;
    let v1: Vec<Vec<u8>> = reflect!(v1, &server, ListServices(String::new()));
    let v1alpha: Vec<Vec<u8>> = reflect!(v1alpha, &server, ListServices(String::new()));
    for mut services in [v1, v1alpha] {
        services.sort_unstable();
        let names: Vec<&str> =
            services.iter().map(|name| std::str::from_utf8(name).unwrap()).collect();
        for name in
            ["realtime.RealtimeService", "realtime.v1.RealtimeService", "grpc.health.v1.Health"]
        {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
    }
}

#[tokio::test]
async fn reflection_describes_the_contract_with_its_field_numbers() {
    let server = Setup::embedded().start().await;
    let old: Vec<Vec<u8>> =
        reflect!(v1alpha, &server, FileContainingSymbol("realtime.RealtimeService".to_owned()));
    let new: Vec<Vec<u8>> =
        reflect!(v1, &server, FileContainingSymbol("realtime.v1.RealtimeService".to_owned()));
    for (files, package) in [(old, "realtime"), (new, "realtime.v1")] {
        let file = described(&files, package);
        let methods: Vec<&str> =
            file.service[0].method.iter().map(|method| method.name()).collect();
        let expected = [
            "NotifyBookingResult",
            "NotifyQueuePosition",
            "NotifyPaymentStatus",
            "BroadcastEvent",
            "SendToUser",
            "GetConnectionStats",
        ];
        assert_eq!(methods, expected);
        let fields = [
            ("NotifyBookingResultRequest", "booking_reference", 5),
            ("NotifyBookingResultRequest", "currency", 9),
            ("NotifyBookingResultResponse", "active_connections", 2),
            ("NotifyQueuePositionRequest", "total_in_queue", 5),
            ("NotifyPaymentStatusRequest", "status", 4),
            ("BroadcastEventRequest", "sender_user_id", 5),
            ("SendToUserRequest", "require_ack", 4),
            ("SendToUserRequest", "idempotency_key", 16),
            ("SendToUserResponse", "complete", 18),
            ("GetConnectionStatsRequest", "cluster", 16),
            ("GetConnectionStatsResponse", "messages_received_total", 7),
        ];
        for (message, field, number) in fields {
            assert_eq!(field_number(&file, message, field), number, "{message}.{field}");
        }
    }
}

#[tokio::test]
async fn a_tool_that_knows_nothing_but_reflection_can_notify_and_count() {
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("user-uuid")).await;
    let files: Vec<Vec<u8>> =
        reflect!(v1, &server, FileContainingSymbol("realtime.RealtimeService".to_owned()));
    let file = described(&files, "realtime");
    let number = |field| field_number(&file, "NotifyBookingResultRequest", field);
    let mut request = Vec::new();
    let texts = [
        ("user_id", "user-uuid"),
        ("booking_id", "booking-uuid"),
        ("message", "Booking confirmed"),
    ];
    for (field, value) in texts {
        prost::encoding::string::encode(number(field), &value.to_owned(), &mut request);
    }
    prost::encoding::bool::encode(number("success"), &true, &mut request);
    let path = "/realtime.RealtimeService/NotifyBookingResult";
    let answer = call_raw(channel(&server), path, request).await.unwrap();
    assert!(NotifyBookingResultResponse::decode(answer.as_slice()).unwrap().delivered);
    let message = client.expect("booking:confirmed").await;
    assert_eq!(message["payload"]["booking_id"], "booking-uuid");
    let path = "/realtime.RealtimeService/GetConnectionStats";
    let answer = call_raw(channel(&server), path, Vec::new()).await.unwrap();
    let stats = GetConnectionStatsResponse::decode(answer.as_slice()).unwrap();
    assert_eq!(stats.total_connections, 1);
}

#[tokio::test]
async fn grpcurl_works_as_documented() {
    if Command::new("grpcurl").arg("-version").output().is_err() {
        eprintln!("skipped: grpcurl is not installed");
        return;
    }
    let server = Setup::embedded().start().await;
    let mut client = Client::connect(&server, &token("user-uuid")).await;
    let address = server.grpc.to_string();
    let run = async |arguments: &[&str]| {
        let mut command = Command::new("grpcurl");
        command.arg("-plaintext").args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let list = run(&[&address, "list"]).await;
    assert!(list.contains("realtime.RealtimeService"), "{list}");
    let request = r#"{"user_id":"user-uuid","booking_id":"b","success":true,"message":"m"}"#;
    let method = "realtime.RealtimeService/NotifyBookingResult";
    let answer = run(&["-d", request, &address, method]).await;
    assert!(answer.contains("\"delivered\": true"), "{answer}");
    client.expect("booking:confirmed").await;
    let stats = run(&[&address, "realtime.RealtimeService/GetConnectionStats"]).await;
    assert!(stats.contains("\"totalConnections\": 1"), "{stats}");
    let health = run(&[&address, "grpc.health.v1.Health/Check"]).await;
    assert!(health.contains("SERVING"), "{health}");
}

#[tokio::test]
async fn health_is_served_for_the_server_and_the_service() {
    let server = Setup::embedded().start().await;
    let mut client = HealthClient::new(channel(&server));
    for service in ["", "realtime.RealtimeService", "realtime.v1.RealtimeService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = client.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest { service: "no.such.Service".to_owned() };
    assert_eq!(client.check(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn frequent_keepalive_pings_are_tolerated() {
    let server = Setup::embedded().start().await;
    let channel = Endpoint::from_shared(format!("http://{}", server.grpc))
        .unwrap()
        .http2_keep_alive_interval(Duration::from_millis(200))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .connect()
        .await
        .unwrap();
    let mut idle = tokio::time::interval(Duration::from_millis(700));
    for _ in 0..4 {
        idle.tick().await;
        let request = GetConnectionStatsRequest::default();
        Realtime::new(channel.clone()).get_connection_stats(request).await.unwrap();
    }
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused() {
    let server = Setup::embedded().start().await;
    let path = "/realtime.RealtimeService/SendToUser";
    for bytes in [vec![0xff; 10], vec![0x0a, 0x02, 0xff, 0xff], vec![0x0a, 0x7f]] {
        assert!(call_raw(channel(&server), path, bytes).await.is_err());
    }
    grpc::stats(&server).await;
}

#[tokio::test]
async fn tls_is_spoken_where_it_is_enabled() {
    let pki = Pki::new();
    let server = pki.setup().start().await;
    let tls = ClientTlsConfig::new().ca_certificate(pki.authority()).domain_name("localhost");
    let mut client = Realtime::new(secure(&server, tls).await.unwrap());
    client.get_connection_stats(GetConnectionStatsRequest::default()).await.unwrap();
    let stranger = Pki::new();
    let tls = ClientTlsConfig::new().ca_certificate(stranger.authority()).domain_name("localhost");
    assert!(secure(&server, tls).await.is_err(), "an unknown authority is not trusted");
    let request = GetConnectionStatsRequest::default();
    assert!(grpc::client(&server).get_connection_stats(request).await.is_err(), "without TLS");
}

#[tokio::test]
async fn mutual_tls_asks_for_a_certificate_of_the_authority() {
    let pki = Pki::new();
    let server = pki.setup().set("GRPC_TLS_CA", &pki.file("ca.pem")).start().await;
    let base = ClientTlsConfig::new().ca_certificate(pki.authority()).domain_name("localhost");
    let call = async |tls: ClientTlsConfig| {
        let channel = secure(&server, tls).await.ok()?;
        let request = GetConnectionStatsRequest::default();
        Realtime::new(channel).get_connection_stats(request).await.ok()
    };
    assert!(call(base.clone().identity(pki.identity())).await.is_some());
    assert!(call(base.clone()).await.is_none(), "without a certificate");
    let stranger = Pki::new();
    assert!(call(base.identity(stranger.identity())).await.is_none(), "a stranger's certificate");
}

/// An authority, a certificate for `localhost`, and one for a client.
struct Pki {
    directory: TempDir,
    authority: String,
    client: (String, String),
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            (certificate.pem(), key.serialize_pem())
        };
        let (certificate, key) = issue("localhost");
        let directory = TempDir::new();
        directory.file("cert.pem", &certificate);
        directory.file("key.pem", &key);
        directory.file("ca.pem", &authority.pem());
        Self { directory, authority: authority.pem(), client: issue("back-end") }
    }

    fn setup(&self) -> Setup {
        Setup::embedded()
            .set("GRPC_TLS_ENABLED", "true")
            .set("GRPC_TLS_CERT", &self.file("cert.pem"))
            .set("GRPC_TLS_KEY", &self.file("key.pem"))
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn authority(&self) -> Certificate {
        Certificate::from_pem(&self.authority)
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.client.0, &self.client.1)
    }
}

async fn secure(server: &Server, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("https://{}", server.grpc))?;
    within("TLS", endpoint.tls_config(tls)?.connect()).await
}

fn described(files: &[Vec<u8>], package: &str) -> FileDescriptorProto {
    let mut files = files.iter().map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap());
    files.find(|file| file.package() == package).expect("the package is described")
}

#[track_caller]
fn field_number(file: &FileDescriptorProto, message: &str, field: &str) -> u32 {
    let message = file.message_type.iter().find(|found| found.name() == message);
    let field = message.and_then(|found| found.field.iter().find(|found| found.name() == field));
    field.expect("it is described").number().try_into().expect("numbers are positive")
}
