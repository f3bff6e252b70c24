//! Plain HTTP: what is answered to everything that is not a WebSocket.

use ::http::StatusCode;
use serde::Serialize;

/// The bytes of a complete HTTP/1.1 answer with the body `{"error":{"code","message"}}`, after which
/// the connection is closed. 401, 426 and 405 get the headers that HTTP asks of them; `headers` are
/// further ones, such as `Retry-After`, and must be valid header lines.
///
/// `code` is for programs and in capitals (`UNAUTHORIZED`), `message` for people.
pub fn error_response(status: u16, code: &str, message: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error");
    let body = error_body(code, message);
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
    let given = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let required = required_headers(status).iter().filter(|(name, _)| !given(name));
    for (name, value) in required.chain(headers) {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    // `Connection: close, upgrade` would be the letter of RFC 9110 §7.8 beside `Upgrade`; `close`
    // alone is what every client understands, and the field is only information in a 426.
    head.push_str(&format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    ));
    let mut response = head.into_bytes();
    response.extend_from_slice(&body);
    response
}

/// The JSON body of every HTTP error.
fn error_body(code: &str, message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        error: Error<'a>,
    }
    #[derive(Serialize)]
    struct Error<'a> {
        code: &'a str,
        message: &'a str,
    }
    serde_json::to_vec(&Body { error: Error { code, message } }).expect("strings are JSON")
}

/// What HTTP asks to go with a status: RFC 9110 §11.6.1 and §15.5.22, RFC 6455 §4.4.
fn required_headers(status: u16) -> &'static [(&'static str, &'static str)] {
    match status {
        401 => &[("WWW-Authenticate", "Bearer")],
        405 => &[("Allow", "GET")],
        426 => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_response_is_complete_and_says_how_to_upgrade() {
        let bytes = error_response(426, "UPGRADE_REQUIRED", "say \"please\"", &[("A", "b")]);
        let body = r#"{"error":{"code":"UPGRADE_REQUIRED","message":"say \"please\""}}"#;
        let expected = format!(
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             A: b\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
