//! RFC 6455 over a raw socket, against the socket layer of the service: the `echo` example runs in
//! a thread of the test.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::OnceLock,
    time::Duration,
};

use realtime_runtime::net::{Listener, Net, TokioNet};

#[path = "../runtime/examples/echo.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a program of its own")]
mod echo;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const LIMIT: usize = 65_536;

const REQUEST: &[u8] = b"GET /any HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The address of a server that all tests share.
fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let listener = TokioNet::bind(any, false).await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                echo::serve(listener, LIMIT).await.unwrap();
            });
        });
        told.recv().unwrap()
    })
}

/// A frame with a mask, as clients must send it.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    frame_of_length(head, payload.len() as u64, shortest(payload.len()), payload)
}

/// How long a length is written: 7, 16 or 64 bits.
fn shortest(length: usize) -> u8 {
    match length {
        0..126 => 7,
        126..0x1_0000 => 16,
        _ => 64,
    }
}

fn frame_of_length(head: u8, length: u64, bits: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x00, 0xAB, 0xFF];
    let mut bytes = vec![head];
    match bits {
        7 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        16 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

struct Client(TcpStream);

impl Client {
    /// After the handshake, with `more` in the same segment.
    fn connect_with(more: &[u8]) -> Self {
        let stream = TcpStream::connect(server()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Self(stream);
        client.send(&[REQUEST, more].concat());
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read(1)[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(!head.contains("Extensions"), "{head}");
        client
    }

    fn connect() -> Self {
        Self::connect_with(&[])
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut buf = vec![0; bytes];
        self.0.read_exact(&mut buf).unwrap();
        buf
    }

    /// The next frame: its first byte and its payload. Servers send no mask.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let head = self.read(2);
        assert_eq!(head[1] & 0x80, 0, "a server must not mask");
        let length = match head[1] {
            126 => usize::from(u16::from_be_bytes(self.read(2).try_into().unwrap())),
            127 => usize::try_from(u64::from_be_bytes(self.read(8).try_into().unwrap())).unwrap(),
            short => usize::from(short),
        };
        assert_eq!(shortest(length), [7, 16, 64][usize::from(head[1].saturating_sub(125))]);
        (head[0], self.read(length))
    }

    #[track_caller]
    fn expect(&mut self, opcode: u8, payload: &[u8]) {
        let (head, got) = self.frame();
        assert_eq!(head, FIN | opcode);
        assert!(got == payload, "{} bytes came, {} were expected", got.len(), payload.len());
    }

    /// Sees nothing but a close frame with `code`, then the end of the connection.
    #[track_caller]
    fn expect_close(&mut self, code: Option<u16>) {
        let (head, payload) = self.frame();
        assert_eq!(head, FIN | CLOSE);
        let got = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
        assert_eq!(got, code);
        self.expect_end();
    }

    #[track_caller]
    fn expect_end(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b"", "nothing follows a close frame"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

/// Sends `bytes` over a fresh connection and sees it failed with `code`.
#[track_caller]
fn fails_with(code: u16, bytes: &[u8]) {
    let mut client = Client::connect();
    client.send(bytes);
    client.expect_close(Some(code));
}

#[test]
fn messages_of_every_length_class_come_back_whole() {
    let mut client = Client::connect();
    for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
        let text = vec![b'x'; length];
        client.send(&frame(FIN | TEXT, &text));
        client.expect(TEXT, &text);
        let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
        client.send(&frame(FIN | BINARY, &bytes));
        client.expect(BINARY, &bytes);
    }
}

#[test]
fn a_length_may_be_written_longer_than_needed() {
    // RFC 6455 §5.2 asks for the shortest form, but says nothing of one that is not; suites accept
    // both answers. The decoder takes it.
    let mut client = Client::connect();
    client.send(&frame_of_length(FIN | TEXT, 2, 16, b"hi"));
    client.expect(TEXT, b"hi");
    client.send(&frame_of_length(FIN | TEXT, 2, 64, b"hi"));
    client.expect(TEXT, b"hi");
}

#[test]
fn a_message_over_the_limit_is_refused_before_it_is_read() {
    fails_with(1009, &frame_of_length(FIN | TEXT, LIMIT as u64 + 1, 64, b"only the beginning"));
    fails_with(1009, &frame_of_length(FIN | BINARY, u64::MAX >> 1, 64, b""));
    fails_with(1009, &frame_of_length(FIN | BINARY, u64::MAX, 64, b""));
}

#[test]
fn the_limit_holds_for_the_sum_of_fragments() {
    let half = vec![b'x'; LIMIT / 2];
    let mut client = Client::connect();
    client.send(&frame(TEXT, &half));
    client.send(&frame(FIN, &half));
    client.expect(TEXT, &vec![b'x'; LIMIT]);
    client.send(&frame(TEXT, &half));
    client.send(&frame(CONTINUATION, &half));
    client.send(&frame(FIN | CONTINUATION, b"x"));
    client.expect_close(Some(1009));
}

#[test]
fn fragments_are_joined_with_control_frames_between_them() {
    let mut client = Client::connect();
    client.send(&frame(TEXT, b"one "));
    client.send(&frame(FIN | PING, b"between"));
    client.expect(PONG, b"between");
    client.send(&frame(CONTINUATION, b""));
    client.send(&frame(FIN | PONG, b"unasked"));
    client.send(&frame(CONTINUATION, b"two "));
    client.send(&frame(FIN | CONTINUATION, b"three"));
    client.expect(TEXT, b"one two three");
    client.send(&frame(BINARY, b""));
    client.send(&frame(FIN | CONTINUATION, b""));
    client.expect(BINARY, b"");
}

#[test]
fn fragments_out_of_order_are_protocol_errors() {
    fails_with(1002, &frame(FIN | CONTINUATION, b"of nothing"));
    fails_with(1002, &frame(CONTINUATION, b"of nothing"));
    let text_in_text = [frame(TEXT, b"first"), frame(FIN | TEXT, b"second")].concat();
    fails_with(1002, &text_in_text);
    let binary_in_text = [frame(TEXT, b"first"), frame(BINARY, b"second")].concat();
    fails_with(1002, &binary_in_text);
}

#[test]
fn reserved_bits_and_opcodes_are_protocol_errors() {
    for bits in [0x40, 0x20, 0x10, 0x70] {
        fails_with(1002, &frame(FIN | bits | TEXT, b"hi"));
        fails_with(1002, &frame(FIN | bits | PING, b""));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        fails_with(1002, &frame(FIN | opcode, b""));
    }
}

#[test]
fn a_frame_without_a_mask_is_a_protocol_error() {
    fails_with(1002, &[FIN | TEXT, 2, b'h', b'i']);
    fails_with(1002, &[FIN | PING, 0]);
}

#[test]
fn control_frames_are_short_and_whole() {
    let mut client = Client::connect();
    client.send(&frame(FIN | PING, &[7; 125]));
    client.expect(PONG, &[7; 125]);
    for opcode in [PING, PONG, CLOSE] {
        fails_with(1002, &frame(FIN | opcode, &[7; 126]));
        fails_with(1002, &frame(opcode, b""));
    }
}

#[test]
fn pings_are_answered_with_their_payload_in_order() {
    let mut client = Client::connect();
    let pings: Vec<u8> = (0..100).flat_map(|n| frame(FIN | PING, &[n])).collect();
    client.send(&pings);
    for n in 0..100 {
        client.expect(PONG, &[n]);
    }
    client.send(&frame(FIN | PONG, b"nobody asked"));
    client.send(&frame(FIN | TEXT, b"still here"));
    client.expect(TEXT, b"still here");
}

#[test]
fn text_is_utf_8_also_across_fragments() {
    let text = "κόσμε \u{10FFFF} \u{0} \u{FFFE}".as_bytes();
    let mut client = Client::connect();
    client.send(&frame(FIN | TEXT, text));
    client.expect(TEXT, text);
    for at in 0..=text.len() {
        client.send(&frame(TEXT, &text[..at]));
        client.send(&frame(FIN | CONTINUATION, &text[at..]));
        client.expect(TEXT, text);
    }
    client.send(&frame(FIN | BINARY, b"\xFF\xFE"));
    client.expect(BINARY, b"\xFF\xFE");
}

#[test]
fn text_that_is_not_utf_8_fails_the_connection() {
    for bad in [
        &b"\xFF"[..],
        b"\xC0\xAF",
        b"\xED\xA0\x80",
        b"\xF4\x90\x80\x80",
        b"\xCE",
        b"good \xE2\x82",
        b"\x80",
    ] {
        fails_with(1007, &frame(FIN | TEXT, bad));
        let split: Vec<u8> = [frame(TEXT, b"ok"), frame(FIN | CONTINUATION, bad)].concat();
        fails_with(1007, &split);
    }
    let unfinished = [frame(TEXT, b"\xCE"), frame(FIN | CONTINUATION, b"")].concat();
    fails_with(1007, &unfinished);
}

#[test]
fn a_fragment_that_can_never_become_utf_8_fails_at_once() {
    fails_with(1007, &frame(TEXT, b"\xF4\x90"));
}

#[test]
fn a_close_is_answered_with_its_code_and_then_tcp_is_closed() {
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 3000, 4999] {
        let mut client = Client::connect();
        client.send(&frame(FIN | CLOSE, &[&code_bytes(code)[..], b"why"].concat()));
        client.expect_close(Some(code));
    }
    let mut client = Client::connect();
    client.send(&frame(FIN | CLOSE, b""));
    client.expect_close(None);
}

#[test]
fn a_close_that_says_what_can_not_be_said_is_a_protocol_error() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        fails_with(1002, &frame(FIN | CLOSE, &code_bytes(code)));
    }
    fails_with(1002, &frame(FIN | CLOSE, b"\x03"));
    fails_with(1007, &frame(FIN | CLOSE, b"\x03\xE8\xFF"));
}

#[test]
fn a_close_waits_for_the_messages_before_it_and_ends_those_behind_it() {
    let mut client = Client::connect();
    let bytes = [
        frame(FIN | TEXT, b"before"),
        frame(FIN | CLOSE, &code_bytes(1000)),
        frame(FIN | TEXT, b"behind"),
        frame(FIN | PING, b"behind"),
    ];
    client.send(&bytes.concat());
    client.expect(TEXT, b"before");
    client.expect_close(Some(1000));
}

#[test]
fn after_a_failure_the_close_frame_arrives_though_the_client_goes_on_sending() {
    let mut client = Client::connect();
    client.send(&frame(FIN | CONTINUATION, b"wrong"));
    client.send(&vec![0; 300_000]);
    client.expect_close(Some(1002));
}

#[test]
fn a_client_may_send_one_byte_at_a_time() {
    let mut client = Client::connect();
    let text = vec![b'y'; 300];
    let bytes = [frame(FIN | PING, b"p"), frame(TEXT, b"x"), frame(FIN, &text)].concat();
    for byte in bytes {
        client.send(&[byte]);
    }
    client.expect(PONG, b"p");
    client.expect(TEXT, &[b"x", &text[..]].concat());
}

#[test]
fn frames_in_the_segment_of_the_handshake_are_not_lost() {
    let first = frame(FIN | TEXT, b"early");
    let mut client = Client::connect_with(&[&first[..], &frame(FIN | PING, b"bird")].concat());
    client.expect(TEXT, b"early");
    client.expect(PONG, b"bird");
    let (begun, rest) = first.split_at(4);
    let mut client = Client::connect_with(begun);
    client.send(rest);
    client.expect(TEXT, b"early");
}

#[test]
fn many_frames_in_one_segment_are_answered_in_order() {
    let mut client = Client::connect();
    let frames: Vec<u8> =
        (0..1000).flat_map(|n: u32| frame(FIN | TEXT, n.to_string().as_bytes())).collect();
    client.send(&frames);
    for n in 0..1000 {
        client.expect(TEXT, n.to_string().as_bytes());
    }
}

#[test]
fn a_client_that_reads_late_gets_everything_and_holds_nobody_up() {
    let mut late = Client::connect();
    let message = vec![b'z'; 60_000];
    let mut writer = Client(late.0.try_clone().unwrap());
    // Far more than the kernel and the outbox hold: the server has to stop reading.
    let sender = std::thread::spawn(move || {
        for _ in 0..400 {
            writer.send(&frame(FIN | BINARY, &message));
        }
    });
    let mut other = Client::connect();
    for _ in 0..50 {
        other.send(&frame(FIN | TEXT, b"meanwhile"));
        other.expect(TEXT, b"meanwhile");
    }
    for _ in 0..400 {
        late.expect(BINARY, &[b'z'; 60_000]);
    }
    sender.join().unwrap();
}

#[test]
fn a_flood_of_pings_from_a_client_that_does_not_read_is_survived() {
    let mut flood = Client::connect();
    let mut writer = Client(flood.0.try_clone().unwrap());
    let sender = std::thread::spawn(move || {
        let pings: Vec<u8> = (0..1000).flat_map(|_| frame(FIN | PING, &[1; 125])).collect();
        for _ in 0..100 {
            writer.send(&pings);
        }
        writer.send(&frame(FIN | PING, b"last"));
    });
    sender.join().unwrap();
    // RFC 6455 §5.5.3: of the pings that waited, the last one must be answered.
    while flood.frame() != (FIN | PONG, b"last".to_vec()) {}
}

fn code_bytes(code: u16) -> [u8; 2] {
    code.to_be_bytes()
}
