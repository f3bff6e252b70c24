//! A small HTTP/1.1 client: one request a connection, nothing hidden.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{server::Server, within};

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status code.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the body of {self:?}"))
    }

    /// Checks that it is an error with this status, in the form that all errors have.
    #[track_caller]
    pub fn assert_refused(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        let json = self.json();
        let error = &json["error"];
        assert!(error["code"].as_str().is_some_and(|code| !code.is_empty()), "{self:?}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
    }

    /// Checks that it asks to come back later.
    #[track_caller]
    pub fn assert_retry_after(&self) {
        let seconds = self.header("retry-after").and_then(|value| value.parse::<u32>().ok());
        assert!(seconds.is_some(), "no Retry-After in {self:?}");
    }

    /// Reads the head of an answer.
    pub fn parse_head(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.and_then(|status| status.parse().ok());
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Self {
            status: status.unwrap_or_else(|| panic!("not an HTTP answer: {head:?}")),
            headers: headers.collect(),
            body: String::new(),
        }
    }
}

/// Asks for a path on `HTTP_PORT`.
pub async fn fetch(server: &Server, path: &str) -> Response {
    fetch_from(server.http, path).await
}

/// Asks for a path.
pub async fn fetch_from(address: SocketAddr, path: &str) -> Response {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).await
}

/// Sends a well-formed upgrade request for `path` with further header lines, and gives the answer,
/// which for a 101 is its head.
pub async fn upgrade(server: &Server, path: &str, headers: &[&str]) -> Response {
    exchange(server.http, upgrade_request(path, headers).as_bytes()).await
}

/// The text of a well-formed upgrade request.
pub fn upgrade_request(path: &str, headers: &[&str]) -> String {
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    );
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request
}

/// Sends bytes on a connection of their own and reads one answer.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> Response {
    within("an HTTP answer", async {
        let mut stream = TcpStream::connect(address).await.expect("the service listens");
        stream.write_all(request).await.expect("the service reads");
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(at) = find(&bytes, b"\r\n\r\n") {
                break at;
            }
            let read = stream.read_buf(&mut bytes).await.expect("the service answers");
            assert!(read > 0, "closed before an answer: {:?}", String::from_utf8_lossy(&bytes));
        };
        let head = std::str::from_utf8(&bytes[..head_end]).expect("heads are ASCII");
        let mut response = Response::parse_head(head);
        if response.status != 101 {
            let length = response.header("content-length").and_then(|value| value.parse().ok());
            let length: usize = length.unwrap_or_else(|| panic!("no length in {response:?}"));
            let mut body = bytes.split_off(head_end + 4);
            while body.len() < length {
                let read = stream.read_buf(&mut body).await.expect("the service answers");
                assert!(read > 0, "closed within the body of {response:?}");
            }
            response.body = String::from_utf8(body).expect("bodies are UTF-8");
        }
        response
    })
    .await
}

/// Where `needle` begins.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
