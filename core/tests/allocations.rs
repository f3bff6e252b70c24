//! Holds what a shard with many idle connections allocates: nothing to publish, ping, pong and
//! watch the clock, and little to hold a connection.

#![allow(unsafe_code, reason = "an allocator that counts is unsafe to declare")]

mod bed;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bed::{Bed, conn};
use realtime_core::shard::Input;

struct Counting;

thread_local! {
    /// Of this thread only: tests run side by side.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: usize, sign: i64) {
    BYTES.set(BYTES.get() + sign * i64::try_from(bytes).expect("blocks are small"));
}

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        count(layout.size(), 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const USERS: u32 = 2_000;

/// How often `work` allocates.
fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.get();
    let result = work();
    (result, ALLOCATIONS.get() - before)
}

#[test]
fn a_publication_allocates_nothing() {
    let mut bed = Bed::new(USERS);
    for (stream, excluded, members) in [
        ("event:1", None, USERS),
        ("all", Some("user-000007"), USERS - 1),
        ("user:user-000003", None, 1),
        ("event:2", None, 0),
    ] {
        let warm = bed.publication(stream, excluded);
        bed.publish(warm);
        let publication = bed.publication(stream, excluded);
        // The first clone of the bytes makes a counter for them: one allocation a publication,
        // however many workers and members there are. The relay's end keeps the publication.
        let kept = (publication.clone(), publication.frame.clone());
        assert_eq!(allocations(|| bed.publish(publication)), (members, 0), "{stream}");
        drop(kept);
    }
}

#[test]
fn pings_pongs_and_timeouts_allocate_nothing() {
    let mut bed = Bed::new(USERS);
    bed.feed(Input::Received { conn: conn(0), text: r#"{"type":"system:ping"}"# });
    let (_, count) = allocations(|| {
        for slot in 0..USERS {
            bed.feed(Input::Received { conn: conn(slot), text: r#"{"type":"system:ping"}"# });
            bed.feed(Input::Heard { conn: conn(slot) });
        }
    });
    assert_eq!(count, 0);
    // A whole interval first, so that the list of actions is as long as it gets.
    bed.heartbeat(USERS);
    let ((), count) = allocations(|| bed.heartbeat(USERS));
    assert_eq!(count, 0);
}

#[test]
fn an_idle_connection_costs_few_bytes() {
    let before = BYTES.get();
    let bed = Bed::new(USERS);
    let bytes = (BYTES.get() - before) / i64::from(USERS);
    // Itself, its place in the wheel, three seats and three memberships, and the record, the name
    // and the member list of its user's stream. Lists that double are between half and all full.
    assert!(bytes <= 330, "{bytes} bytes");
    let shared = BYTES.get() - before;
    drop(bed);
    assert!(BYTES.get() - before < shared / 100, "a shard that goes leaves nothing behind");
}
