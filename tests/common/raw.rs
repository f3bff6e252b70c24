//! A WebSocket peer made of bytes, for what a well-behaved client never does.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    http::{Response, find, upgrade_request},
    server::Server,
    within,
};

/// Opcodes (RFC 6455 §5.2).
pub const TEXT: u8 = 1;
/// A binary frame.
pub const BINARY: u8 = 2;
/// A close frame.
pub const CLOSE: u8 = 8;
/// A ping frame.
pub const PING: u8 = 9;
/// A pong frame.
pub const PONG: u8 = 10;

/// A TCP connection to `HTTP_PORT`.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A frame of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its opcode.
    pub opcode: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame.
    #[track_caller]
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, CLOSE, "{self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

impl Raw {
    /// Connects and sends nothing.
    pub async fn connect(server: &Server) -> Self {
        let stream = within("TCP", TcpStream::connect(server.http)).await;
        Self { stream: stream.expect("the service listens"), unread: Vec::new() }
    }

    /// Connects as a WebSocket, and reads `system:connected`.
    pub async fn upgraded(server: &Server, path: &str) -> Self {
        let mut raw = Self::connect(server).await;
        raw.send(upgrade_request(path, &[]).as_bytes()).await;
        assert_eq!(raw.head().await.status, 101);
        raw.expect_text("system:connected").await;
        raw
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        within("the service to read", self.stream.write_all(bytes)).await.expect("it reads");
    }

    /// Sends bytes if the connection still takes them.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        within("the service to read", self.stream.write_all(bytes)).await.is_ok()
    }

    /// Sends no more, as the first half of a TCP close.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("it is connected");
    }

    /// Reads the head of an HTTP answer.
    pub async fn head(&mut self) -> Response {
        within("the head of an answer", async {
            loop {
                if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                    let rest = self.unread.split_off(at + 4);
                    let head = std::mem::replace(&mut self.unread, rest);
                    let head = String::from_utf8(head).expect("heads are ASCII");
                    return Response::parse_head(&head);
                }
                assert!(self.more().await, "closed before an answer");
            }
        })
        .await
    }

    /// Reads bytes and forgets them.
    pub async fn skip(&mut self, bytes: usize) {
        within("the body of an answer", async {
            while self.unread.len() < bytes {
                assert!(self.more().await, "closed within a body");
            }
        })
        .await;
        self.unread.drain(..bytes);
    }

    /// Reads a frame; none when the connection has ended.
    pub async fn frame(&mut self) -> Option<Frame> {
        within("a frame", async {
            loop {
                if let Some(frame) = self.take_frame() {
                    return Some(frame);
                }
                if !self.more().await {
                    return None;
                }
            }
        })
        .await
    }

    /// The next frame, which must be a text that contains `part`.
    pub async fn expect_text(&mut self, part: &str) -> String {
        let frame = self.frame().await.unwrap_or_else(|| panic!("closed before {part}"));
        assert_eq!(frame.opcode, TEXT, "{frame:?}");
        let text = String::from_utf8(frame.payload).expect("text frames are UTF-8");
        assert!(text.contains(part), "expected {part}, got {text}");
        text
    }

    /// The next frame but pings, which must be a close frame with this code; then TCP ends.
    pub async fn expect_close(&mut self, code: u16) {
        loop {
            let frame = self.frame().await.expect("a close frame comes before the end");
            if frame.opcode == PING {
                continue;
            }
            assert_eq!(frame.close_code(), code, "{frame:?}");
            break;
        }
        self.try_send(&masked(CLOSE, &code.to_be_bytes())).await;
        self.expect_end().await;
    }

    /// Waits for TCP to end, reading what still comes.
    pub async fn expect_end(&mut self) {
        within("the end of the connection", async { while self.more().await {} }).await;
    }

    /// Reads more bytes; false when the connection has ended, by FIN or RST.
    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.unread).await.is_ok_and(|read| read > 0)
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let bytes = &self.unread;
        let (length, start) = match *bytes.get(1)? {
            126 => (usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 4),
            127 => {
                let length: [u8; 8] = bytes.get(2..10)?.try_into().expect("it is 8 bytes");
                (usize::try_from(u64::from_be_bytes(length)).expect("it fits"), 10)
            }
            short => {
                assert!(short < 126, "the server masks its frames");
                (usize::from(short), 2)
            }
        };
        if bytes.len() < start + length {
            return None;
        }
        assert_eq!(bytes[0] & 0xf0, 0x80, "a fragment or a reserved bit from the server");
        let frame =
            Frame { opcode: bytes[0] & 0x0f, payload: bytes[start..start + length].to_vec() };
        self.unread.drain(..start + length);
        Some(frame)
    }
}

/// A frame as clients send it.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = header(opcode, payload.len(), 0x80);
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A frame as only servers may send it.
pub fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

fn header(opcode: u8, length: usize, mask: u8) -> Vec<u8> {
    let mut header = vec![0x80 | opcode];
    if let Ok(short @ 0..126) = u8::try_from(length) {
        header.push(mask | short);
    } else if let Ok(medium) = u16::try_from(length) {
        header.push(mask | 126);
        header.extend_from_slice(&medium.to_be_bytes());
    } else {
        header.push(mask | 127);
        header.extend_from_slice(&(length as u64).to_be_bytes());
    }
    header
}
