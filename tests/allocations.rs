//! Holds what the socket path allocates: nothing for a delivery, a ping and a pong.

#![allow(unsafe_code, reason = "an allocator that counts is unsafe to declare")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::{Cell, RefCell},
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use realtime_core::wire::encode;
use realtime_runtime::{
    net::Stream,
    outbox::Budget,
    socket::{Bounds, Connection, Event, Owner, Sent, Socket},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

struct Counting;

thread_local! {
    /// Of this thread only: tests run side by side.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// A peer that has sent `incoming`, and takes everything.
#[derive(Clone, Default)]
struct Wire {
    incoming: Arc<Mutex<&'static [u8]>>,
    writes: Arc<AtomicUsize>,
    written: Arc<AtomicUsize>,
}

impl Stream for Wire {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.written.fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(bytes.len())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut incoming = self.incoming.lock().expect("nobody panics");
        let incoming = std::mem::take(&mut *incoming);
        if incoming.is_empty() {
            return Poll::Pending;
        }
        buf.put_slice(incoming);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.try_write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Counts what a connection tells.
#[derive(Clone, Default)]
struct Ear(Rc<Cell<u32>>);

impl Owner for Ear {
    fn on(&mut self, event: Event) {
        assert_eq!(event, Event::Heard);
        self.0.set(self.0.get() + 1);
    }
}

fn socket() -> (Socket<Wire>, Wire) {
    let wire = Wire::default();
    let budget = Budget::new(1_000, 10_000);
    let bounds = Rc::new(Bounds { budget, message_bytes_max: 1_000 });
    (Socket::new(wire.clone(), &[], bounds), wire)
}

#[test]
fn a_delivery_is_one_write_and_allocates_nothing() {
    let (mut socket, wire) = socket();
    let frame = Bytes::from(vec![b'x'; 128]);
    // The first clone of the bytes makes a counter for them.
    let kept = frame.clone();
    let count = allocations(|| {
        for _ in 0..1_000 {
            assert_eq!(socket.send(&frame, None), Sent::Accepted);
        }
        assert_eq!(socket.send_copy(encode::PING), Sent::Accepted);
    });
    assert_eq!(count, 0);
    assert_eq!(wire.writes.load(Ordering::Relaxed), 1_001);
    assert_eq!(kept.len(), 128);
    assert!(allocations(|| drop(Vec::<u8>::with_capacity(1))) > 0, "the count counts");
}

#[test]
fn a_pong_is_heard_and_a_ping_answered_without_an_allocation() {
    let (socket, wire) = socket();
    let ear = Ear::default();
    let mut task = pin!(Connection::new(Rc::new(RefCell::new(socket)), ear.clone()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(task.as_mut().poll(&mut cx).is_pending());
    let pong = &[0x8A, 0x80, 1, 2, 3, 4][..];
    let ping = &[0x89, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2][..];
    for (incoming, answer_bytes) in [(pong, 0), (ping, 4)] {
        let (heard, written) = (ear.0.get(), wire.written.load(Ordering::Relaxed));
        let count = allocations(|| {
            for _ in 0..100 {
                *wire.incoming.lock().unwrap() = incoming;
                assert!(task.as_mut().poll(&mut cx).is_pending());
            }
        });
        assert_eq!((count, ear.0.get() - heard), (0, 100));
        assert_eq!(wire.written.load(Ordering::Relaxed) - written, 100 * answer_bytes);
    }
}
