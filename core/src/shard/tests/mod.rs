//! Every rule of the shard, by its inputs and the complete list of its actions, as text.

mod acks;
mod drain;
mod fanout;
mod handshake;
mod rooms;
mod timers;
mod tokens;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::*;
use crate::{
    id::{DispatchId, Epoch, Mid, Position},
    link::{Publication, Suffix, ToShard},
    wire::Frame,
};

/// A shard, a clock, and numbers for what is made up.
struct Bed {
    shard: Shard,
    now: Instant,
    reached: Vec<&'static str>,
}

/// Wall-clock seconds at the start.
const UNIX_S: u64 = 1_000;

fn limits() -> ShardLimits {
    ShardLimits {
        connections_max: 10,
        connections_per_user_max: 2,
        accepts_per_second_max: 0,
        rooms_per_connection_max: 3,
        anonymous_allowed: true,
        origins: vec!["*".into()],
        public_rooms: vec!["event:*".into()],
        ping_interval: Duration::from_secs(30),
        pong_timeout: Duration::from_secs(60),
        join_timeout: Duration::from_secs(5),
        close_timeout: Duration::from_secs(5),
        slow_timeout: Duration::from_secs(10),
        expiry_notice: Duration::from_secs(60),
        messages_per_second_max: 0,
        message_burst_max: 200,
        rate_grace: Duration::from_secs(10),
        errors_max: 50,
        parked_joins_max: 100,
        waiting_requests_max: 3,
        coalesced_bytes_max: 8,
    }
}

fn bed() -> Bed {
    bed_with(|_| {})
}

fn bed_with(change: impl FnOnce(&mut ShardLimits)) -> Bed {
    let mut limits = limits();
    change(&mut limits);
    let unix = UnixMillis(UNIX_S * 1_000);
    let shard = Shard::new(limits, 1, 0xabc, Instant(0), unix);
    Bed { shard, now: Instant(0), reached: Vec::new() }
}

fn conn(slot: u32) -> ConnectionId {
    ConnectionId { slot, generation: 7 }
}

fn position(offset: u64) -> Option<Position> {
    Some(Position { epoch: Epoch(1), offset, mid: Mid(offset << 32) })
}

/// As a client writes it.
fn id(offset: u64) -> String {
    format!("1-{offset}-{offset:08x}")
}

fn identity(user: &str, rooms: &[&str], expires: Option<u64>) -> Identity {
    let rooms = rooms.iter().map(|room| Box::from(*room)).collect();
    Identity { user: user.into(), rooms, expires }
}

fn publication(stream: &str, offset: u64, text: &'static str) -> Publication {
    Publication {
        dispatch: DispatchId(offset),
        stream: StreamName::room(stream).unwrap(),
        frame: Frame(Bytes::from_static(text.as_bytes())),
        kind: "ticket:released".into(),
        exclude_user: None,
        acks_to: None,
        position: position(offset),
        published: None,
        value_of: None,
    }
}

impl Bed {
    /// Gives one input; the actions come back as text, without the rare situations.
    fn step(&mut self, input: Input<'_>) -> Vec<String> {
        let mut actions = Actions::default();
        self.shard.handle(self.now, input, &mut actions);
        let done: Vec<&Action> = actions
            .list()
            .iter()
            .filter(|action| {
                if let Action::Reach(name) = action {
                    self.reached.push(name);
                }
                !matches!(action, Action::Reach(_))
            })
            .collect();
        done.into_iter().map(|action| text(action, &actions)).collect()
    }

    fn arrive(&mut self, slot: u32, request: Handshake<'_>) -> Vec<String> {
        self.step(Input::Arrived { conn: conn(slot), request })
    }

    fn joined(&mut self, request: u64, offset: u64) -> Vec<String> {
        self.relayed(ToShard::Joined {
            request: RequestId(request),
            position: position(offset),
            recovered: false,
            suffix: Suffix::default(),
        })
    }

    fn recovered(&mut self, request: u64, offset: u64) -> Vec<String> {
        self.relayed(ToShard::Joined {
            request: RequestId(request),
            position: position(offset),
            recovered: true,
            suffix: Suffix::default(),
        })
    }

    fn failed(&mut self, request: u64) -> Vec<String> {
        self.relayed(ToShard::JoinFailed { request: RequestId(request) })
    }

    fn relayed(&mut self, message: ToShard) -> Vec<String> {
        self.step(Input::FromRelay(message))
    }

    fn publish(&mut self, stream: &str, offset: u64, text: &'static str) -> Vec<String> {
        self.publish_this(publication(stream, offset, text))
    }

    fn publish_this(&mut self, publication: Publication) -> Vec<String> {
        self.relayed(ToShard::Publication(Arc::new(publication)))
    }

    fn say(&mut self, slot: u32, text: &str) -> Vec<String> {
        self.step(Input::Received { conn: conn(slot), text })
    }

    /// Joins `room`, whose join is request `request`.
    fn join(&mut self, slot: u32, room: &str, request: u64) {
        let text = format!(r#"{{"type":"room:join","payload":{{"room":"{room}"}}}}"#);
        assert_eq!(self.say(slot, &text), [format!("join {request} {room}")]);
        assert_eq!(self.joined(request, 0).len(), 1);
    }

    /// Lets an anonymous connection in, whose join of `all` is request `request`.
    fn open(&mut self, slot: u32, request: u64) {
        assert_eq!(self.arrive(slot, Handshake::default()), [format!("join {request} all")]);
        assert!(self.joined(request, 0)[0].starts_with(&format!("accept {slot}")));
    }

    /// Lets a user in, whose joins are `request` and the next one.
    fn open_as(&mut self, slot: u32, identity: Identity, request: u64) {
        let token = Handshake { token: true, ..Handshake::default() };
        assert_eq!(self.arrive(slot, token), [format!("verify {slot}")]);
        let joins =
            [format!("join {request} user:{}", identity.user), format!("join {} all", request + 1)];
        let verified =
            Input::Verified { conn: conn(slot), outcome: Ok(identity), user_connections: 0 };
        assert_eq!(self.step(verified), joins);
        assert_eq!(self.joined(request, 0), [""; 0]);
        assert!(self.joined(request + 1, 0)[0].starts_with(&format!("accept {slot}")));
    }

    /// Walks a fan-out; gives the slots that are sent to.
    fn walk(&mut self, delivery: u32, at_most: usize) -> Vec<u32> {
        let mut members = Vec::new();
        self.shard.next_members(DeliveryId(delivery), at_most, &mut members);
        members.into_iter().map(|conn| conn.slot).collect()
    }

    fn delivered(&mut self, delivery: u32, accepted: u32) -> Vec<String> {
        self.step(Input::Delivered { delivery: DeliveryId(delivery), accepted })
    }

    /// Lets time pass, as the runtime does: each deadline is met. Gives what was done, with the
    /// second in which it was.
    fn pass(&mut self, seconds: u64) -> Vec<String> {
        let end = self.now + Duration::from_secs(seconds);
        let mut done = Vec::new();
        while let Some((at, _)) = self.shard.next_deadline()
            && at <= end
        {
            self.now = self.now.max(at);
            let second = self.now.0 / 1_000_000_000;
            let actions = self.step(Input::TimedOut);
            done.extend(actions.into_iter().map(|action| format!("{second} {action}")));
        }
        self.now = end;
        done
    }
}

fn text(action: &Action, actions: &Actions) -> String {
    let frame = |slice: &Slice| {
        let bytes = actions.frame(*slice);
        let header = match bytes {
            [0x81, 126, ..] => 4,
            [0x81, ..] => 2,
            _ => 0,
        };
        String::from_utf8_lossy(&bytes[header..]).into_owned()
    };
    match action {
        Action::Verify { conn } => format!("verify {}", conn.slot),
        Action::Refuse { conn, refusal } => {
            let refusal = format!("{refusal:?}");
            format!("refuse {} {}", conn.slot, refusal.split(' ').next().unwrap())
        }
        Action::Accept { conn, greeting } => format!("accept {} {}", conn.slot, frame(greeting)),
        Action::Send { conn, frame: slice } => format!("send {} {}", conn.slot, frame(slice)),
        Action::Deliver { delivery, frame, .. } => {
            format!("deliver {} {}", delivery.0, String::from_utf8_lossy(&frame.0))
        }
        Action::Ping { conn } => format!("ping {}", conn.slot),
        Action::Close { conn, code } => format!("close {} {code:?}", conn.slot),
        Action::Reset { conn } => format!("reset {}", conn.slot),
        Action::VerifyRefresh { conn, token, .. } => format!("refresh {} {token}", conn.slot),
        Action::ToRelay(ToRelay::Join { request, stream, since }) => {
            let since = since.map(|since| format!(" since {}", since.offset)).unwrap_or_default();
            format!("join {} {}{since}", request.0, stream.as_str())
        }
        Action::ToRelay(ToRelay::Vacated { stream }) => format!("vacated {}", stream.as_str()),
        Action::ToRelay(ToRelay::HandedOver { dispatch, recipients }) => {
            format!("handed over {} to {recipients}", dispatch.0)
        }
        Action::ToRelay(ToRelay::Acknowledged { mid, origin }) => {
            format!("acknowledged {} for {}", mid.0 >> 32, origin.0)
        }
        Action::Drained => "drained".into(),
        Action::ToRelay(ToRelay::Counted(census)) => format!("counted {census:?}"),
        Action::Feed { conn, suffix, skip_user } => {
            let skip = skip_user.as_ref().map_or_else(String::new, |user| format!(" but {user}'s"));
            let missed =
                suffix.entries().iter().map(|missed| missed.position.unwrap().offset.to_string());
            format!("{}: missed {}{skip}", conn.slot, missed.collect::<Vec<_>>().join(" "))
        }
        Action::Reach(name) => format!("reach {name}"),
    }
}
