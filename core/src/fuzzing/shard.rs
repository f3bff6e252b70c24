//! Any sequence of inputs that a runtime may give a shard, with everything that must hold then.

use std::{sync::Arc, time::Duration};

use crate::{
    id::{ConnectionId, DeliveryId},
    limits::ShardLimits,
    link::ToShard,
    shard::{Handshake, Identity, Input, VerifyError},
    stream::StreamName,
    wire::CloseCode,
};

use super::world::{SLOTS, Stage, Transcript, World};

/// Takes `data` for a sequence of inputs and the time between them, gives them to a shard and plays
/// the runtime and the relay to what it asks for. At the end everyone leaves.
///
/// # Panics
/// When an action names a connection that is not there or is not in a state for it, when a member
/// misses a publication or gets one twice, when a publication is not reported as handed over just
/// once, when a deadline does not go away, when something is left at the end, or when the same
/// inputs make something else the second time.
pub fn shard_inputs(data: &[u8]) {
    assert_eq!(run(data), run(data), "the same inputs give the same actions and state");
}

/// One run: everything that was asked for, and the fingerprint of the state before everyone left.
fn run(data: &[u8]) -> (Transcript, u64) {
    let mut source = Source(data);
    let positions = source.below(8) != 0;
    let mut world = World::new(limits(), positions, u64::from(source.next()));
    while !source.0.is_empty() {
        operate(&mut world, &mut source);
    }
    world.finish_walks();
    let hash = world.shard.state_hash();
    assert_eq!(hash, world.shard.state_hash(), "a fingerprint changes nothing");
    world.check_nothing_was_missed();
    world.leave_all();
    (world.transcript, hash)
}

/// Does the next thing that `source` names, if it can happen now.
fn operate(world: &mut World, source: &mut Source<'_>) {
    match source.below(16) {
        0 => arrive(world, source),
        1 => verify(world, source),
        2..=4 => receive(world, source),
        5 => socket_reports(world, source),
        6 => {
            if let Some(conn) = pick(world, source, |_| true) {
                world.close(conn);
            }
        }
        7 | 8 => world.answer_join(source.next().into(), source.below(8) != 0),
        9 | 10 => publish(world, source),
        11 | 12 => {
            let nth = source.below(4);
            let at_most = 1 + source.below(3);
            if let Some(&delivery) = world.walks.keys().nth(nth) {
                walk(world, delivery, at_most);
            }
        }
        13 => advance(world, source),
        14 => refresh(world, source),
        _ => rarely(world, source),
    }
}

fn walk(world: &mut World, delivery: DeliveryId, at_most: usize) {
    if world.walk(delivery, at_most) == 0 {
        world.finish_walk(delivery);
    }
}

fn arrive(world: &mut World, source: &mut Source<'_>) {
    let flags = source.next();
    let since = source.since();
    let Some(conn) = world.free_slot(source.below(SLOTS)) else {
        return;
    };
    let request = Handshake {
        origin: [None, Some("https://a.example"), Some("https://b.example")]
            [usize::from(flags & 3) % 3],
        token: flags & 4 == 0,
        since: (flags & 8 != 0).then_some(&*since),
        since_all: (flags & 16 != 0).then_some(&*since),
        instance_connections: u32::from(flags >> 5),
    };
    world.arrive(conn, request);
}

fn verify(world: &mut World, source: &mut Source<'_>) {
    let outcome = identity(world, source);
    if let Some(conn) = pick(world, source, |stage| stage == Stage::Verifying) {
        world.verified(conn, outcome);
    }
}

/// What comes of verifying a token.
fn identity(world: &World, source: &mut Source<'_>) -> Result<Identity, VerifyError> {
    let user = match source.below(4) {
        3 => return Err(VerifyError("signature")),
        nth => USERS[nth],
    };
    let rooms: Arc<[Box<str>]> = match source.below(2) {
        0 => ["vip:*".into()].into(),
        _ => [].into(),
    };
    let expires = match source.below(4) {
        0 => Some(world.unix().seconds() + u64::from(source.next())),
        _ => None,
    };
    Ok(Identity { user: user.into(), rooms, expires })
}

fn receive(world: &mut World, source: &mut Source<'_>) {
    let room = ROOMS[source.below(ROOMS.len())];
    let reference = source.below(4);
    let text = match source.below(12) {
        0..=4 => {
            let since = if reference == 0 { String::new() } else { source.since() };
            let payload = format!(r#"{{"room":"{room}","since":"{since}"}}"#);
            format!(r#"{{"type":"room:join","payload":{payload},"ref":{reference}}}"#)
        }
        5 | 6 => format!(r#"{{"type":"room:leave","payload":{{"room":"{room}"}}}}"#),
        7 => r#"{"type":"system:ping","ref":"p"}"#.to_owned(),
        8 => {
            let user = USERS[source.below(USERS.len())];
            format!(r#"{{"type":"user:subscribe","payload":{{"user_id":"{user}"}}}}"#)
        }
        9 => r#"{"type":"auth:refresh","payload":{"token":"t"},"ref":"r"}"#.to_owned(),
        10 => format!(r#"{{"type":"system:ack","payload":{{"id":"{}"}}}}"#, source.since()),
        _ => match source.below(4) {
            0 => "[".repeat(9),
            1 => r#"{"type":"chat:message"}"#.to_owned(),
            2 => r#"{"type":"room:join","payload":7}"#.to_owned(),
            _ => r#"{"type":"room:join"}"#.to_owned(),
        },
    };
    // Several in a row, as a hostile client sends them.
    let times = if source.below(8) == 0 { 12 } else { 1 };
    let Some(conn) = pick(world, source, Stage::is_upgraded) else {
        return;
    };
    for _ in 0..times {
        world.heard(conn, Input::Received { conn, text: &text });
    }
}

/// What the socket of a connection notices by itself.
fn socket_reports(world: &mut World, source: &mut Source<'_>) {
    let what = source.below(8);
    let Some(conn) = pick(world, source, Stage::is_upgraded) else {
        return;
    };
    let input = match what {
        0..=2 => return world.heard(conn, Input::Heard { conn }),
        3 => Input::Misbehaved { conn, code: CloseCode::InvalidText },
        4 | 5 => Input::Congested { conn },
        6 => Input::Relieved { conn },
        _ => Input::Overflowed { conn },
    };
    world.feed(input);
}

fn publish(world: &mut World, source: &mut Source<'_>) {
    let stream = source.stream();
    let durable = source.below(4) != 0;
    let exclude = (source.below(4) == 0).then(|| USERS[source.below(USERS.len())]);
    let long = source.below(8) == 0;
    // Several in a row queue up behind the walk of the first.
    for _ in 0..=source.below(3) {
        world.publish(&stream, durable, exclude, long);
    }
}

fn advance(world: &mut World, source: &mut Source<'_>) {
    let milliseconds = [1, 10, 100, 999, 2_500, 6_000, 15_000, 300_000][source.below(8)];
    let late = source.below(4) == 0;
    world.advance(Duration::from_millis(milliseconds), late);
}

fn refresh(world: &mut World, source: &mut Source<'_>) {
    let outcome = identity(world, source);
    if let Some(conn) = pick(world, source, Stage::is_upgraded) {
        world.refreshed(conn, outcome);
    }
}

fn rarely(world: &mut World, source: &mut Source<'_>) {
    match source.below(8) {
        0 => world.drain(Duration::from_secs(source.next().into())),
        1 => {
            let step = Duration::from_secs(source.next().into());
            world.step_wall_clock(step);
        }
        2 => world.feed(Input::TimedOut),
        3 | 4 => world.resync(&source.stream(), source.below(3)),
        // Input for a connection that is gone, or of a slot that never had one.
        5 | 6 => {
            let stale = world.stale(source.below(SLOTS));
            world.feed(Input::Received { conn: stale, text: r#"{"type":"system:ping"}"# });
            world.feed(Input::Congested { conn: stale });
            world.feed(Input::Verified {
                conn: stale,
                outcome: Err(VerifyError("late")),
                user_connections: 0,
            });
        }
        _ => {
            let request = crate::id::RequestId(u64::MAX - u64::from(source.next()));
            world.feed(Input::FromRelay(ToShard::JoinFailed { request }));
        }
    }
}

/// A connection whose stage is `wanted`.
fn pick(
    world: &World,
    source: &mut Source<'_>,
    wanted: impl Fn(Stage) -> bool,
) -> Option<ConnectionId> {
    let conns: Vec<_> = world.peers().filter(|(_, stage)| wanted(*stage)).collect();
    let nth = source.below(SLOTS);
    (!conns.is_empty()).then(|| conns[nth % conns.len()].0)
}

/// Bytes, one choice each; zeros when they are used up.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn next(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    /// A number from 0 to `end` - 1.
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.next()) % end
    }

    /// What a client may send as `since`: mostly right in form and near the heads of this world.
    fn since(&mut self) -> String {
        match self.next() {
            0 => String::new(),
            1 => "x".to_owned(),
            2 => "2-1-00000001".to_owned(),
            offset => format!("1-{}-{:08x}", offset - 3, offset - 3),
        }
    }

    fn stream(&mut self) -> StreamName {
        match self.below(8) {
            0 | 1 => StreamName::all(),
            2 | 3 => StreamName::user(USERS[self.below(USERS.len())]).expect("it is valid"),
            _ => StreamName::room(["event:1", "event:2", "vip:1"][self.below(3)])
                .expect("it is valid"),
        }
    }
}

/// So small that each limit is reached.
fn limits() -> ShardLimits {
    ShardLimits {
        connections_max: 6,
        connections_per_user_max: 3,
        accepts_per_second_max: 5,
        rooms_per_connection_max: 2,
        anonymous_allowed: true,
        origins: vec!["https://a.example".to_owned()],
        public_rooms: vec!["event:*".to_owned()],
        ping_interval: Duration::from_secs(10),
        pong_timeout: Duration::from_secs(25),
        join_timeout: Duration::from_secs(5),
        close_timeout: Duration::from_secs(5),
        slow_timeout: Duration::from_secs(10),
        expiry_notice: Duration::from_secs(60),
        messages_per_second_max: 5,
        message_burst_max: 20,
        rate_grace: Duration::from_secs(3),
        errors_max: 10,
        parked_joins_max: 5,
        waiting_requests_max: 2,
        coalesced_bytes_max: 300,
    }
}

const USERS: [&str; 3] = ["u0", "u1", "u2"];

const ROOMS: [&str; 6] = ["event:1", "event:2", "event:3", "vip:1", "user:u0", "all"];
