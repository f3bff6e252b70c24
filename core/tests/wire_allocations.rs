//! Holds what the wire's functions allocate.

#![allow(unsafe_code, reason = "an allocator that counts is unsafe to declare")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
};

use realtime_core::{
    entry::Body,
    id::{BootId, Epoch, Mid, Position},
    stream::StreamName,
    time::UnixMillis,
    wire::{decode, encode},
};

struct Counting;

thread_local! {
    /// Of this thread only: tests run side by side.
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
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

/// How often `work` allocates. `GlobalAlloc::realloc` counts too: it allocates anew by default.
fn allocations<T>(work: impl FnOnce() -> T) -> u32 {
    let before = ALLOCATIONS.get();
    let result = work();
    let after = ALLOCATIONS.get();
    black_box(result);
    after - before
}

#[test]
fn a_ping_and_its_pong_allocate_nothing() {
    let mut out = Vec::with_capacity(256);
    for text in [r#"{"type":"system:ping"}"#, r#"{"type":"system:ping","payload":{"n":1}}"#] {
        assert_eq!(allocations(|| decode::request(text)), 0, "{text}");
    }
    assert_eq!(allocations(|| encode::pong(&mut out, UnixMillis(1), None)), 0);
    assert!(allocations(|| out.reserve(1_000)) > 0, "the count counts");
}

#[test]
fn a_publication_is_allocated_once() {
    let stream = StreamName::room("event:1").unwrap();
    let body = Body {
        kind: "ticket:reserved".into(),
        payload: r#"{"seat":"A1"}"#.into(),
        exclude_user: None,
        key: "".into(),
        ack: false,
        origin: BootId(1),
        published: UnixMillis(1),
    };
    let position = Some(Position { epoch: Epoch(1), offset: 2, mid: Mid(3) });
    assert_eq!(allocations(|| encode::publication(&stream, &body, position)), 1);
}

#[test]
fn reading_ids_patterns_and_payloads_allocates_nothing() {
    assert_eq!(allocations(|| decode::since("1f-41-0abcdef0")), 0);
    assert_eq!(allocations(|| decode::pattern_matches("event:*:staff", "event:9:staff")), 0);
    assert_eq!(allocations(|| decode::payload(r#" {"seats":"A1"} "#)), 0);
}
