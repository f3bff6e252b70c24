//! The upgrade request: read, checked, answered. Nothing is decided here but what HTTP and RFC 6455
//! prescribe.

use std::{borrow::Cow, io, str};

use realtime_core::shard::Refusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{http::error_response, net::Stream};

/// A request head and what came with it.
#[derive(Debug)]
pub struct Head {
    bytes: Vec<u8>,
    /// Where the head ends and something else begins.
    end: usize,
}

/// Why no head was read.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The head is longer than [`HEAD_BYTES_MAX`].
    #[error("request head too long")]
    TooLong,
    /// The connection broke or ended.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
}

/// A request that asks for a WebSocket in all due form.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade<'a> {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// Whether the client offers the subprotocol `bearer`; a browser insists on an answer to that.
    pub bearer: bool,
    /// The `Origin` header.
    pub origin: Option<&'a str>,
    /// From the first of: `Authorization: Bearer`, `?token=`, the subprotocol behind `bearer`.
    pub token: Option<Cow<'a, str>>,
    /// The parameter `since`.
    pub since: Option<Cow<'a, str>>,
    /// The parameter `since_all`.
    pub since_all: Option<Cow<'a, str>>,
}

/// An answer that refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    status: u16,
    code: &'static str,
    message: &'static str,
}

impl Head {
    /// Reads until the head is complete. Cancel-safe only in that the connection is then useless.
    pub async fn read(stream: &mut impl Stream) -> Result<Self, HeadError> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES_USUAL);
        loop {
            let seen = bytes.len();
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(HeadError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            // The end may have begun in what was read before.
            let from = seen.saturating_sub(HEAD_END.len() - 1);
            let found = bytes[from..].windows(HEAD_END.len()).position(|end| end == HEAD_END);
            match found.map(|at| from + at + HEAD_END.len()) {
                Some(end) if end <= HEAD_BYTES_MAX => return Ok(Self { bytes, end }),
                None if bytes.len() < HEAD_BYTES_MAX => (),
                Some(_) | None => return Err(HeadError::TooLong),
            }
        }
    }

    /// What came behind the head.
    pub fn leftover(&self) -> &[u8] {
        &self.bytes[self.end..]
    }

    /// Everything that was read.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether it is a request for `path`. Also when it is none that can be understood, so that
    /// somebody says so.
    pub fn is_for(&self, path: &str) -> bool {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match (request.parse(&self.bytes[..self.end]), request.path) {
            (Ok(_), Some(target)) => split_target(target).0 == path,
            _ => true,
        }
    }

    /// Checks it as an upgrade request (RFC 6455 §4.2.1).
    pub fn upgrade(&self) -> Result<Upgrade<'_>, Rejection> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let complete =
            request.parse(&self.bytes[..self.end]).is_ok_and(|status| status.is_complete());
        let (true, Some(method), Some(target), Some(version)) =
            (complete, request.method, request.path, request.version)
        else {
            return Err(bad_request("the request is not HTTP/1.1, or has more than 64 headers"));
        };
        if method != "GET" {
            return Err(METHOD);
        }
        let headers = Headers(request.headers);
        if version == 0
            || !headers.lists("upgrade", "websocket")
            || !headers.lists("connection", "upgrade")
            || headers.only("sec-websocket-version")? != Some("13")
        {
            return Err(UPGRADE);
        }
        if headers.only("host")?.is_none() {
            return Err(bad_request("the Host header is missing"));
        }
        if headers.only("content-length")?.is_some_and(|length| length != "0")
            || headers.only("transfer-encoding")?.is_some()
        {
            return Err(bad_request("an upgrade request has no body"));
        }
        let key = headers.only("sec-websocket-key")?.filter(|key| is_key(key));
        let key = key.ok_or(bad_request("Sec-WebSocket-Key is not 16 bytes in Base64"))?;
        let query = Query(split_target(target).1);
        let (bearer, offered) = headers.bearer()?;
        let token = match headers.authorization()? {
            Some(token) => Some(Cow::Borrowed(token)),
            None => query.first("token").or_else(|| offered.map(Cow::Borrowed)),
        };
        Ok(Upgrade {
            accept: derive_accept_key(key.as_bytes()),
            bearer,
            origin: headers.only("origin")?,
            token,
            since: query.first("since"),
            since_all: query.first("since_all"),
        })
    }
}

/// The head of the answer that completes an upgrade.
pub fn switching_protocols(out: &mut Vec<u8>, accept: &str, bearer: bool) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept.as_bytes());
    if bearer {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: bearer");
    }
    out.extend_from_slice(HEAD_END);
}

/// Answers and closes so that the client reads the answer: what it still sends is awaited for a
/// while, since a close over unread bytes resets the connection. To be bounded by the caller.
pub async fn respond(mut stream: impl Stream, response: &[u8]) -> io::Result<()> {
    stream.write_all(response).await?;
    stream.shutdown().await?;
    let mut space = [0; 1024];
    let mut left = DISCARD_BYTES;
    while left > 0 {
        match stream.read(&mut space).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

impl Rejection {
    /// The whole answer.
    pub fn response(self) -> Vec<u8> {
        error_response(self.status, self.code, self.message, &[])
    }
}

/// The whole answer to a head that is too long.
pub fn too_long_response() -> Vec<u8> {
    error_response(431, "HEADERS_TOO_LARGE", "a request head has at most 16384 bytes", &[])
}

/// The whole answer to a refused upgrade.
pub fn refusal_response(refusal: Refusal) -> Vec<u8> {
    let (status, code, message, retry_after_s) = match refusal {
        Refusal::TokenMissing => (401, "UNAUTHORIZED", "a token is needed", None),
        Refusal::TokenInvalid => (401, "UNAUTHORIZED", "the token is not valid", None),
        Refusal::OriginForbidden => (403, "FORBIDDEN", "this origin is not allowed", None),
        Refusal::TooManyConnections => {
            (429, "TOO_MANY_CONNECTIONS", "the user has too many connections", None)
        }
        Refusal::Full { retry_after_s } => {
            (503, "FULL", "no more connections are taken", Some(retry_after_s))
        }
        Refusal::Draining { retry_after_s } => {
            (503, "DRAINING", "the instance is shutting down", Some(retry_after_s))
        }
        Refusal::TooFast { retry_after_s } => {
            (503, "TOO_FAST", "too many connections at once", Some(retry_after_s))
        }
        Refusal::BrokerAway { retry_after_s } => {
            (503, "UNAVAILABLE", "the broker can't be reached", Some(retry_after_s))
        }
    };
    match retry_after_s {
        Some(seconds) => {
            error_response(status, code, message, &[("Retry-After", &seconds.to_string())])
        }
        None => error_response(status, code, message, &[]),
    }
}

/// Headers by lower-case name.
struct Headers<'h, 'a>(&'h [httparse::Header<'a>]);

impl<'a> Headers<'_, 'a> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    }

    /// The value of a header that may come once.
    fn only(&self, name: &str) -> Result<Option<&'a str>, Rejection> {
        let mut values = self.all(name);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(bad_request("a header that may come once came twice"));
        }
        let value = str::from_utf8(value).map_err(|_| bad_request("a header is not UTF-8"))?;
        Ok(Some(value.trim()))
    }

    /// Whether a header whose value is a list has `item` in it.
    fn lists(&self, name: &str, item: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(item.as_bytes()))
    }

    fn authorization(&self) -> Result<Option<&'a str>, Rejection> {
        let Some(value) = self.only("authorization")? else { return Ok(None) };
        let Some((scheme, token)) = value.split_once(' ') else { return Ok(None) };
        let token = token.trim();
        Ok((scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token))
    }

    /// Whether the subprotocol `bearer` is offered, and the token behind it.
    fn bearer(&self) -> Result<(bool, Option<&'a str>), Rejection> {
        let mut offered = Vec::new();
        for value in self.all("sec-websocket-protocol") {
            let value = str::from_utf8(value).map_err(|_| bad_request("a header is not UTF-8"))?;
            offered.extend(value.split(',').map(str::trim));
        }
        let Some(at) = offered.iter().position(|protocol| *protocol == "bearer") else {
            return Ok((false, None));
        };
        let token = offered.get(at + 1).copied().filter(|token| !token.is_empty());
        Ok((true, token))
    }
}

/// The part of a request target behind the `?`.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// The first non-empty value of a parameter, decoded. One that can't be is given as it came: no
    /// token and no position has a `%`, so it is refused as the one and unknown as the other.
    fn first(&self, name: &str) -> Option<Cow<'a, str>> {
        let values = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let mut values = values.filter(|(given, value)| *given == name && !value.is_empty());
        let (_, value) = values.next()?;
        Some(percent_decoded(value).unwrap_or(Cow::Borrowed(value)))
    }
}

/// None for what is not percent-encoded UTF-8.
fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut pieces = text.split('%');
    let mut out = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let digits = piece.get(..2)?;
        // `from_str_radix` takes a sign, too.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        out.push(u8::from_str_radix(digits, 16).ok()?);
        out.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(out).map(Cow::Owned).ok()
}

/// Path and query of a request target, which may be a whole URL (RFC 9112 §3.2.2).
fn split_target(target: &str) -> (&str, &str) {
    let target = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => {
            rest.find(['/', '?']).map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    target.split_once('?').unwrap_or((target, ""))
}

/// Whether it is 16 bytes in Base64: 22 digits and two pads.
fn is_key(key: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    key.strip_suffix("==").is_some_and(|digits| digits.len() == 22 && digits.bytes().all(is_digit))
}

const fn bad_request(message: &'static str) -> Rejection {
    Rejection { status: 400, code: "BAD_REQUEST", message }
}

const METHOD: Rejection =
    Rejection { status: 405, code: "METHOD_NOT_ALLOWED", message: "a WebSocket is opened by GET" };

const UPGRADE: Rejection = Rejection {
    status: 426,
    code: "UPGRADE_REQUIRED",
    message: "this is a WebSocket of version 13 (RFC 6455)",
};

/// Longest request head, in bytes. A token of 8 KiB, twice, fits.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// What a browser's request head takes, without a token.
const HEAD_BYTES_USUAL: usize = 1 << 10;

/// The empty line.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Headers of one request.
const HEADERS_MAX: usize = 64;

/// Bytes that a refused client may still send before its connection is closed over them.
const DISCARD_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn head(request_line: &str, headers: &[&str]) -> Head {
        let bytes = format!("{request_line}\r\n{}\r\n\r\n", headers.join("\r\n")).into_bytes();
        Head { end: bytes.len(), bytes }
    }

    /// A good request for `target`, changed by headers that are added, or that replace.
    fn request(target: &str, changes: &[&str]) -> Head {
        let name = |line: &str| line.split(':').next().unwrap().to_ascii_lowercase();
        let usual = [
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: keep-alive, Upgrade",
            "Sec-WebSocket-Version: 13",
            &format!("Sec-WebSocket-Key: {KEY}"),
        ];
        let mut lines: Vec<&str> = usual.to_vec();
        lines.retain(|line| !changes.iter().any(|change| name(change) == name(line)));
        lines.extend(changes.iter().filter(|change| change.contains(": ")));
        head(&format!("GET {target} HTTP/1.1"), &lines)
    }

    #[track_caller]
    fn status(head: &Head) -> u16 {
        head.upgrade().unwrap_err().status
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let head = request("/ws", &[]);
        let upgrade = head.upgrade().unwrap();
        assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!((upgrade.token, upgrade.origin, upgrade.bearer), (None, None, false));
        let mut answer = Vec::new();
        switching_protocols(&mut answer, &upgrade.accept, true);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(answer.contains("\r\nSec-WebSocket-Protocol: bearer\r\n"), "{answer}");
    }

    #[test]
    fn each_flaw_has_its_status() {
        assert_eq!(status(&head("POST /ws HTTP/1.1", &["Host: a"])), 405);
        assert_eq!(status(&head("GET /ws HTTP/1.1", &["Host: a"])), 426);
        assert_eq!(status(&head("GET /ws HTTP/1.0", &["Host: a"])), 426);
        for wrong in ["Upgrade: h2c", "Connection: close", "Sec-WebSocket-Version: 8", "Upgrade"] {
            assert_eq!(status(&request("/ws", &[wrong])), 426, "{wrong}");
        }
        for wrong in [
            "Host",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Key: short",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q==",
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
        ] {
            assert_eq!(status(&request("/ws", &[wrong])), 400, "{wrong}");
        }
        assert_eq!(status(&request("/ws", &["Host: a", "Host: b"])), 400);
        assert_eq!(status(&head("nonsense", &[])), 400);
        let many: Vec<String> = (0..65).map(|n| format!("X-{n}: y")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(status(&request("/ws", &many)), 400);
    }

    #[test]
    fn the_token_comes_from_the_first_place_that_has_one() {
        let token = |target: &str, headers: &[&str]| {
            let head = request(target, headers);
            head.upgrade().unwrap().token.map(Cow::into_owned)
        };
        let (header, protocol) =
            ("Authorization: bearer h.h.h", "Sec-WebSocket-Protocol: bearer, p");
        assert_eq!(token("/ws?token=q", &[header, protocol]).unwrap(), "h.h.h");
        assert_eq!(token("/ws?a=b&token=q%2E%71", &[protocol]).unwrap(), "q.q");
        assert_eq!(token("/ws?token=", &[protocol]).unwrap(), "p");
        assert_eq!(token("/ws?token=", &["Authorization: Basic eHl6"]), None);
        assert_eq!(token("/ws?token", &["Sec-WebSocket-Protocol: bearer"]), None);
        assert_eq!(token("/ws", &["Sec-WebSocket-Protocol: chat, p"]), None);
    }

    #[test]
    fn the_subprotocol_bearer_is_selected_whenever_it_is_offered() {
        let bearer = |value: &str| {
            let head = request("/ws?token=q", &[&format!("Sec-WebSocket-Protocol: {value}")]);
            head.upgrade().unwrap().bearer
        };
        assert!(bearer("bearer, p") && bearer("chat, bearer"));
        assert!(!bearer("chat"));
    }

    #[test]
    fn positions_and_origin_are_passed_on() {
        let head = request("/ws?since=a-1-b&since_all=&since_all=c-2-d", &["Origin: https://x"]);
        let upgrade = head.upgrade().unwrap();
        assert_eq!(upgrade.since.as_deref(), Some("a-1-b"));
        assert_eq!(upgrade.since_all.as_deref(), Some("c-2-d"));
        assert_eq!(upgrade.origin, Some("https://x"));
    }

    #[test]
    fn a_parameter_that_can_not_be_decoded_is_a_bad_token_or_position_and_no_bad_request() {
        for text in ["%zz", "%+1", "%ff", "%e", "a%", "%é1"] {
            let head = request(&format!("/ws?token={text}&since={text}&since_all={text}"), &[]);
            let upgrade = head.upgrade().unwrap();
            assert_eq!(upgrade.token.as_deref(), Some(text));
            assert_eq!(upgrade.since.as_deref(), Some(text));
            assert_eq!(upgrade.since_all.as_deref(), Some(text));
        }
    }

    #[test]
    fn a_target_is_compared_without_its_query_and_authority() {
        for target in ["/ws", "/ws?token=x", "http://localhost:1/ws?a=b"] {
            assert!(request(target, &[]).is_for("/ws"), "{target}");
        }
        for target in ["/", "/ws/", "/wss", "/health?/ws", "http://ws", "/a://b/ws"] {
            assert!(!request(target, &[]).is_for("/ws"), "{target}");
        }
        assert!(head("nonsense", &[]).is_for("/ws"), "so that it is told");
    }

    #[test]
    fn every_refusal_has_a_status_and_a_hint_when_to_come_back() {
        let status = |refusal| {
            let text = String::from_utf8(refusal_response(refusal)).unwrap();
            let status: u16 = text["HTTP/1.1 ".len()..][..3].parse().unwrap();
            (status, text.contains("\r\nRetry-After: 3\r\n"))
        };
        let retry_after_s = 3;
        assert_eq!(status(Refusal::TokenMissing), (401, false));
        assert_eq!(status(Refusal::TokenInvalid), (401, false));
        assert_eq!(status(Refusal::OriginForbidden), (403, false));
        assert_eq!(status(Refusal::TooManyConnections), (429, false));
        assert_eq!(status(Refusal::Full { retry_after_s }), (503, true));
        assert_eq!(status(Refusal::Draining { retry_after_s }), (503, true));
        assert_eq!(status(Refusal::TooFast { retry_after_s }), (503, true));
        assert_eq!(status(Refusal::BrokerAway { retry_after_s }), (503, true));
    }
}
