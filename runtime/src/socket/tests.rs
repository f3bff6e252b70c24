use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::net::memory::{MemoryStream, pair};

const TEXT: [u8; 8] = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
const BYE: [u8; 4] = [0x88, 2, 3, 232];

/// A socket and its peer, with room for `pipe_bytes` between them.
fn socket(pipe_bytes: usize, outbox_bytes: usize) -> (Socket<MemoryStream>, DuplexStream) {
    let (stream, peer) = pair(pipe_bytes);
    let budget = Budget::new(outbox_bytes, 10 * outbox_bytes);
    let bounds = Rc::new(Bounds { budget, message_bytes_max: 1000 });
    (Socket::new(stream, &[], bounds), peer)
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
}

async fn next(socket: &mut Socket<MemoryStream>) -> Event {
    poll_fn(|cx| socket.poll(cx)).await
}

/// Polls once: nothing is to happen.
async fn quiet(socket: &mut Socket<MemoryStream>) {
    let event = poll_fn(|cx| Poll::Ready(socket.poll(cx))).await;
    assert_eq!(event, Poll::Pending);
}

async fn read(peer: &mut DuplexStream, bytes: usize) -> Vec<u8> {
    let mut buf = vec![0; bytes];
    peer.read_exact(&mut buf).await.unwrap();
    buf
}

#[test]
fn an_idle_connection_owns_no_decoder_and_an_unfinished_message_does() {
    run(async {
        let (mut socket, mut peer) = socket(100, 1000);
        peer.write_all(&TEXT).await.unwrap();
        assert_eq!(next(&mut socket).await, Event::Text("hi".into()));
        quiet(&mut socket).await;
        assert!(socket.decoder.is_none());
        peer.write_all(&TEXT[..7]).await.unwrap();
        quiet(&mut socket).await;
        assert!(socket.decoder.is_some());
        peer.write_all(&TEXT[7..]).await.unwrap();
        assert_eq!(next(&mut socket).await, Event::Text("hi".into()));
    });
}

#[test]
fn frames_leave_in_order_whether_written_or_queued() {
    run(async {
        let (mut socket, mut peer) = socket(10, 1000);
        assert_eq!(socket.send_copy(b"0123456"), Sent::Accepted);
        assert_eq!(socket.send(&Bytes::from_static(b"789abcd"), None), Sent::Accepted);
        assert_eq!(socket.send_copy(b"efghijk"), Sent::Accepted);
        socket.close(&BYE);
        assert_eq!(socket.send_copy(b"too late"), Sent::Refused);
        let mut out = Vec::new();
        while out.len() < 25 {
            quiet(&mut socket).await;
            out.push(peer.read_u8().await.unwrap());
        }
        assert_eq!(out, [b"0123456789abcdefghijk", &BYE[..]].concat());
    });
}

#[test]
fn a_congested_connection_is_not_read_from_until_it_is_relieved() {
    run(async {
        let (mut socket, mut peer) = socket(10, 1000);
        assert_eq!(socket.send_copy(&[1; 510]), Sent::Congested);
        peer.write_all(&TEXT).await.unwrap();
        quiet(&mut socket).await;
        let mut left = 510;
        while left > 440 {
            read(&mut peer, 10).await;
            left -= 10;
            if left > 440 {
                quiet(&mut socket).await;
            }
        }
        assert_eq!(next(&mut socket).await, Event::Relieved);
        assert_eq!(next(&mut socket).await, Event::Text("hi".into()));
    });
}

#[test]
fn an_overflow_is_told_once_and_the_close_frame_still_goes_out() {
    run(async {
        let (mut socket, mut peer) = socket(10, 1000);
        assert_eq!(socket.send_copy(&[1; 10]), Sent::Accepted);
        assert_eq!(socket.send_copy(&[2; 2000]), Sent::Overflowed);
        assert_eq!(socket.send_copy(b"small"), Sent::Refused);
        socket.close(&BYE);
        quiet(&mut socket).await;
        assert_eq!(read(&mut peer, 10).await, [1; 10]);
        quiet(&mut socket).await;
        assert_eq!(read(&mut peer, 4).await, BYE);
    });
}

#[test]
fn an_overflow_in_the_middle_of_a_frame_ends_the_connection() {
    run(async {
        let (mut socket, mut peer) = socket(10, 1000);
        assert_eq!(socket.send_copy(&[2; 2000]), Sent::Overflowed);
        socket.close(&BYE);
        assert_eq!(next(&mut socket).await, Event::Gone);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [2; 10]);
    });
}

#[test]
fn a_pong_goes_between_queued_frames_and_only_the_last_one_waits() {
    run(async {
        let (mut socket, mut peer) = socket(10, 1000);
        socket.send_copy(b"0123456789ab");
        socket.send_copy(b"cd");
        for n in [1, 2] {
            peer.write_all(&[0x89, 0x81, 0, 0, 0, 0, n]).await.unwrap();
            assert_eq!(next(&mut socket).await, Event::Heard);
        }
        let mut out = read(&mut peer, 10).await;
        while out.len() < 17 {
            quiet(&mut socket).await;
            out.push(peer.read_u8().await.unwrap());
        }
        assert_eq!(out, b"0123456789ab\x8A\x01\x02cd");
    });
}

#[test]
fn a_reset_ends_the_task() {
    run(async {
        let (mut socket, peer) = socket(10, 1000);
        socket.reset();
        assert_eq!(next(&mut socket).await, Event::Gone);
        assert_eq!(socket.send_copy(b"x"), Sent::Refused);
        drop(peer);
    });
}

#[test]
fn both_close_frames_end_the_connection_in_either_order() {
    run(async {
        let answer = [0x88, 0x82, 0, 0, 0, 0, 3, 232];
        let (mut socket, mut peer) = socket(100, 1000);
        socket.close(&BYE);
        quiet(&mut socket).await;
        peer.write_all(&answer).await.unwrap();
        assert_eq!(next(&mut socket).await, Event::Gone);
        let mut all = Vec::new();
        peer.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, BYE, "one close frame, not two");
    });
    run(async {
        let (mut socket, mut peer) = socket(100, 1000);
        peer.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 232]).await.unwrap();
        assert_eq!(next(&mut socket).await, Event::Gone);
        let mut all = Vec::new();
        peer.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, BYE);
    });
}

#[test]
fn what_a_dropped_socket_had_queued_is_given_back_to_the_budget() {
    run(async {
        let (mut socket, _peer) = socket(10, 1000);
        socket.send_copy(&[1; 100]);
        let bounds = socket.bounds.clone();
        assert!(bounds.budget.used_bytes() > 0);
        drop(socket);
        assert_eq!(bounds.budget.used_bytes(), 0);
    });
}
