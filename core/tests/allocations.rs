//! Holds what a shard with many idle connections allocates: nothing to publish, ping, pong and
//! watch the clock, and little to hold a connection.

#![allow(unsafe_code, reason = "an allocator that counts is unsafe to declare")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
    time::Duration,
};

use realtime_core::{
    entry::Body,
    id::{BootId, ConnectionId, DispatchId, Epoch, Mid, Position, RequestId},
    limits::ShardLimits,
    link::{Publication, Suffix, ToRelay, ToShard},
    shard::{Action, Actions, Handshake, Identity, Input, Shard},
    stream::StreamName,
    time::{Instant, UnixMillis},
    wire::encode,
};

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

/// A shard with `USERS` connections, each of its own user, all in one room.
struct Bed {
    shard: Shard,
    now: Instant,
    actions: Actions,
    members: Vec<ConnectionId>,
    published: u64,
}

const USERS: u32 = 2_000;

fn limits() -> ShardLimits {
    ShardLimits {
        connections_max: USERS,
        connections_per_user_max: 1,
        accepts_per_second_max: 0,
        rooms_per_connection_max: 1,
        anonymous_allowed: false,
        origins: vec!["*".into()],
        public_rooms: vec!["event:*".into()],
        ping_interval: Duration::from_secs(30),
        pong_timeout: Duration::from_secs(60),
        join_timeout: Duration::from_secs(5),
        close_timeout: Duration::from_secs(5),
        slow_timeout: Duration::from_secs(10),
        expiry_notice: Duration::from_secs(60),
        messages_per_second_max: 1_000,
        message_burst_max: 1_000,
        rate_grace: Duration::from_secs(10),
        errors_max: 50,
        parked_joins_max: 1_000,
        waiting_requests_max: 10,
        coalesced_bytes_max: 10_000,
    }
}

fn conn(slot: u32) -> ConnectionId {
    ConnectionId { slot, generation: 0 }
}

fn position(offset: u64) -> Option<Position> {
    Some(Position { epoch: Epoch(1), offset, mid: Mid(offset) })
}

impl Bed {
    fn new() -> Self {
        let now = Instant(0);
        let shard = Shard::new(limits(), 1, 2, now, UnixMillis(0));
        let members = Vec::with_capacity(128);
        let mut bed = Self { shard, now, actions: Actions::default(), members, published: 0 };
        for slot in 0..USERS {
            let request = Handshake { token: true, ..Handshake::default() };
            bed.feed(Input::Arrived { conn: conn(slot), request });
            let user = format!("user-{slot:06}").into();
            let identity = Identity { user, rooms: [].into(), expires: Some(1 << 40) };
            bed.feed(Input::Verified {
                conn: conn(slot),
                outcome: Ok(identity),
                user_connections: 0,
            });
            let text = r#"{"type":"room:join","payload":{"room":"event:1"}}"#;
            bed.feed(Input::Received { conn: conn(slot), text });
        }
        bed
    }

    /// Gives an input, and answers joins at once.
    fn feed(&mut self, input: Input<'_>) {
        self.shard.handle(self.now, input, &mut self.actions);
        let mut joins: [Option<RequestId>; 2] = [None; 2];
        for (action, join) in self.actions.list().iter().zip(&mut joins) {
            if let Action::ToRelay(ToRelay::Join { request, .. }) = action {
                *join = Some(*request);
            }
        }
        self.actions.clear();
        for request in joins.into_iter().flatten() {
            let position = position(0);
            self.feed(Input::FromRelay(ToShard::Joined {
                request,
                position,
                recovered: false,
                suffix: Suffix::default(),
            }));
        }
    }

    /// Lets time pass until so many pings were sent, each answered.
    fn heartbeat(&mut self, pings: u32) {
        let mut sent = 0;
        while sent < pings {
            (self.now, _) = self.shard.next_deadline().expect("heartbeats go on");
            self.members.clear();
            self.shard.handle(self.now, Input::TimedOut, &mut self.actions);
            for action in self.actions.list() {
                if let Action::Ping { conn } = action {
                    self.members.push(*conn);
                    sent += 1;
                }
            }
            self.actions.clear();
            while let Some(conn) = self.members.pop() {
                self.feed(Input::Heard { conn });
            }
        }
    }

    fn publication(&mut self, stream: &str, exclude_user: Option<&str>) -> Arc<Publication> {
        self.published += 1;
        let stream = StreamName::room(stream).expect("it is valid");
        let body = Body {
            kind: "ticket:released".into(),
            payload: r#"{"seat":"A1"}"#.into(),
            exclude_user: exclude_user.map(Into::into),
            key: "".into(),
            ack: false,
            origin: BootId(0),
            published: UnixMillis(0),
        };
        Arc::new(Publication {
            dispatch: DispatchId(self.published),
            frame: encode::publication(&stream, &body, position(self.published)),
            stream,
            kind: body.kind,
            exclude_user: body.exclude_user,
            acks_to: None,
            position: position(self.published),
            published: None,
        })
    }

    /// Publishes and walks to the end; gives how many members there were.
    fn publish(&mut self, publication: Arc<Publication>) -> u32 {
        self.shard.handle(
            self.now,
            Input::FromRelay(ToShard::Publication(publication)),
            &mut self.actions,
        );
        let Some(Action::Deliver { delivery, .. }) = self.actions.list().first() else {
            self.actions.clear();
            return 0;
        };
        let delivery = *delivery;
        self.actions.clear();
        let mut accepted = 0;
        loop {
            self.members.clear();
            self.shard.next_members(delivery, 128, &mut self.members);
            if self.members.is_empty() {
                break;
            }
            accepted += u32::try_from(self.members.len()).expect("there are few");
        }
        self.feed(Input::Delivered { delivery, accepted });
        accepted
    }
}

/// How often `work` allocates.
fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.get();
    let result = work();
    (result, ALLOCATIONS.get() - before)
}

#[test]
fn a_publication_allocates_nothing() {
    let mut bed = Bed::new();
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
    let mut bed = Bed::new();
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
    let bed = Bed::new();
    let bytes = (BYTES.get() - before) / i64::from(USERS);
    // Itself, its place in the wheel, three seats and three memberships, and the record, the name
    // and the member list of its user's stream. Lists that double are between half and all full.
    assert!(bytes <= 330, "{bytes} bytes");
    let shared = BYTES.get() - before;
    drop(bed);
    assert!(BYTES.get() - before < shared / 100, "a shard that goes leaves nothing behind");
}
