//! A shard with many connections, for tests and benches.

use std::{sync::Arc, time::Duration};

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

/// A shard with connections, each of its own user, all in one room.
pub(crate) struct Bed {
    shard: Shard,
    now: Instant,
    actions: Actions,
    members: Vec<ConnectionId>,
    published: u64,
}

fn limits(users: u32) -> ShardLimits {
    ShardLimits {
        connections_max: users,
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

pub(crate) fn conn(slot: u32) -> ConnectionId {
    ConnectionId { slot, generation: 0 }
}

pub(crate) fn position(offset: u64) -> Option<Position> {
    Some(Position { epoch: Epoch(1), offset, mid: Mid(offset) })
}

impl Bed {
    pub(crate) fn new(users: u32) -> Self {
        let now = Instant(0);
        let shard = Shard::new(limits(users), 1, 2, now, UnixMillis(0));
        let members = Vec::with_capacity(128);
        let mut bed = Self { shard, now, actions: Actions::default(), members, published: 0 };
        for slot in 0..users {
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
    pub(crate) fn feed(&mut self, input: Input<'_>) {
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

    /// Gives an input, and shows what is to be done.
    #[allow(dead_code, reason = "not every user of this file looks closely")]
    pub(crate) fn look(&mut self, input: Input<'_>, mut see: impl FnMut(&Action)) {
        self.shard.handle(self.now, input, &mut self.actions);
        self.actions.list().iter().for_each(&mut see);
        self.actions.clear();
    }

    /// Lets time pass until so many pings were sent, each answered.
    pub(crate) fn heartbeat(&mut self, pings: u32) {
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

    pub(crate) fn publication(
        &mut self,
        stream: &str,
        exclude_user: Option<&str>,
    ) -> Arc<Publication> {
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
            value_of: None,
        })
    }

    /// Publishes and walks to the end; gives how many members there were.
    pub(crate) fn publish(&mut self, publication: Arc<Publication>) -> u32 {
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
