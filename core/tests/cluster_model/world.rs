//! The relay, its shards, and the queues between them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use realtime_core::{
    id::{BootId, ConnectionId, DeliveryId, Generation, Mid, WorkerId},
    limits::{RelayLimits, ShardLimits},
    link::{ToRelay, ToShard},
    relay::{self, Channel, Relay},
    shard::{Action, Actions, Handshake, Identity, Input, Shard},
    time::{Instant, UnixMillis},
};

use super::{
    broker::{Broker, Item, Link, Read, index, name},
    clients::Client,
};

pub(crate) const WORKERS: usize = 2;
pub(crate) const CLIENTS: usize = 6;

/// Everything around the machines.
pub(crate) struct World {
    now: Instant,
    relay: Relay,
    hosts: Vec<Host>,
    pub(crate) broker: Broker,
    clients: Vec<Client>,
    generation: u64,
    expected: BTreeSet<Mid>,
    /// Clients that each publication was handed to.
    handed: BTreeMap<u64, u32>,
}

/// A worker.
struct Host {
    shard: Shard,
    to_shard: VecDeque<ToShard>,
    to_relay: VecDeque<ToRelay>,
    walks: BTreeMap<DeliveryId, Walk>,
    generation: u32,
}

/// A fan-out under way.
struct Walk {
    frame: Vec<u8>,
    accepted: u32,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let host = |worker| Host {
            shard: Shard::new(shard_limits(), seed ^ worker, 7, Instant(0), UnixMillis(0)),
            to_shard: VecDeque::new(),
            to_relay: VecDeque::new(),
            walks: BTreeMap::new(),
            generation: 0,
        };
        Self {
            now: Instant(0),
            relay: Relay::new(relay_limits(), BootId(1), seed, Instant(0)),
            hosts: (0..WORKERS as u64).map(host).collect(),
            broker: Broker::new(),
            clients: (0..CLIENTS)
                .map(|client| Client { is_ann: client % 2 == 0, ..Client::default() })
                .collect(),
            generation: 0,
            expected: BTreeSet::new(),
            handed: BTreeMap::new(),
        }
    }

    pub(crate) fn connect(&mut self, client: usize, worker: usize) {
        if self.clients[client].place.is_some() {
            return;
        }
        let host = &mut self.hosts[worker];
        host.generation += 1;
        let slot = u32::try_from(client).expect("a few clients");
        let conn = ConnectionId { slot, generation: host.generation };
        let is_ann = self.clients[client].is_ann;
        self.clients[client] = Client { is_ann, place: Some((worker, conn)), ..Client::default() };
        let request = Handshake { token: is_ann, ..Handshake::default() };
        self.shard(worker, Input::Arrived { conn, request });
    }

    pub(crate) fn disconnect(&mut self, client: usize) {
        if let Some((worker, conn)) = self.clients[client].place.take() {
            self.clients[client].open = false;
            self.shard(worker, Input::Closed { conn });
        }
    }

    pub(crate) fn ask(&mut self, client: usize, joins: bool) {
        let Some((worker, conn)) = self.clients[client].place else { return };
        if !self.clients[client].open {
            return;
        }
        self.clients[client].asked.push_back(joins);
        let what = if joins { "join" } else { "leave" };
        let text = format!(r#"{{"type":"room:{what}","payload":{{"room":"event:1"}}}}"#);
        self.shard(worker, Input::Received { conn, text: &text });
    }

    pub(crate) fn publish(&mut self, stream: usize, excluding: bool, expected: bool) {
        let mid = self.broker.next_mid();
        if expected {
            self.expected.insert(mid);
            let deadline = self.now + Duration::from_millis(250);
            self.relay(relay::Input::Expected { mid, stream: name(stream), deadline });
        }
        self.broker.publish(stream, mid, excluding);
        if expected {
            let link = self.broker.link.as_ref();
            let subscribers = link.is_some_and(|link| link.subscribed.contains(&stream)).into();
            let deadline = self.now + Duration::from_millis(250);
            self.relay(relay::Input::Published { mid, subscribers, deadline, ack_by: None });
        }
    }

    pub(crate) fn hear(&mut self, worker: usize) {
        if let Some(message) = self.hosts[worker].to_relay.pop_front() {
            let from = WorkerId(u16::try_from(worker).expect("a few workers"));
            self.relay(relay::Input::FromShard { worker: from, message });
        }
    }

    pub(crate) fn tell(&mut self, worker: usize) {
        if let Some(message) = self.hosts[worker].to_shard.pop_front() {
            self.shard(worker, Input::FromRelay(message));
        }
    }

    pub(crate) fn walk(&mut self, worker: usize, at_most: usize) {
        let host = &mut self.hosts[worker];
        let Some((&delivery, walk)) = host.walks.iter_mut().next() else { return };
        let mut members = Vec::new();
        host.shard.next_members(delivery, at_most, &mut members);
        for conn in &members {
            let client = &mut self.clients[conn.slot as usize];
            assert!(client.open && client.place == Some((worker, *conn)), "{conn:?} is a member");
            walk.accepted += 1;
            for text in texts(&walk.frame) {
                let number = client.read(text, &self.broker).expect("a publication is walked");
                *self.handed.entry(number).or_default() += 1;
            }
        }
        if members.len() < at_most {
            let accepted = walk.accepted;
            host.walks.remove(&delivery);
            self.shard(worker, Input::Delivered { delivery, accepted });
        }
    }

    pub(crate) fn deliver(&mut self) {
        if let Some(item) = self.broker.link.as_mut().and_then(|link| link.pipe.pop_front()) {
            self.bring(self.generation, item);
        }
    }

    pub(crate) fn deliver_stale(&mut self) {
        if let Some((generation, item)) = self.broker.stale.pop_front() {
            self.bring(generation, item);
        }
    }

    fn bring(&mut self, generation: u64, item: Item) {
        let generation = Generation(generation);
        self.relay(match item {
            Item::Subscribed(stream) => {
                relay::Input::Subscribed { generation, stream: name(stream) }
            }
            Item::Unsubscribed(stream) => {
                relay::Input::Unsubscribed { generation, stream: name(stream) }
            }
            Item::Message(stream, bytes) => {
                let channel = Channel::Stream(name(stream));
                relay::Input::Received { generation, channel, bytes }
            }
        });
    }

    pub(crate) fn answer_read(&mut self) {
        if let Some(at) = self.broker.reads.iter().position(|read| read.answer.is_some()) {
            let read = self.broker.reads.remove(at).expect("it was found there");
            self.relay(relay::Input::Read { read: read.id, history: read.answer });
        }
    }

    pub(crate) fn fail_read(&mut self) {
        if let Some(read) = self.broker.reads.pop_front() {
            self.relay(relay::Input::Read { read: read.id, history: None });
        }
    }

    pub(crate) fn link_down(&mut self) {
        if self.broker.cut(self.generation) {
            self.relay(relay::Input::LinkDown);
        }
    }

    pub(crate) fn link_up(&mut self) {
        if self.broker.link.is_none() {
            self.generation += 1;
            self.broker.link = Some(Link::default());
            let generation = Generation(self.generation);
            self.relay(relay::Input::LinkUp { generation, run_id: 1 });
        }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        for _ in 0..10_000 {
            let of_relay = self.relay.next_deadline();
            let of_shards = self.hosts.iter().map(|host| host.shard.next_deadline());
            let of_shards: Vec<_> = of_shards.map(|next| next.map(|(at, _)| at)).collect();
            let next = of_shards.iter().copied().chain([of_relay]).flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            match of_shards.iter().position(|of_shard| *of_shard == Some(at)) {
                Some(worker) => self.shard(worker, Input::TimedOut),
                None => self.relay(relay::Input::TimedOut),
            }
        }
        panic!("a deadline that stays is a loop");
    }

    /// Faults end, and everything that is on its way arrives. Nothing is published any more.
    pub(crate) fn settle(&mut self) {
        self.link_up();
        for _ in 0..3 {
            self.drain();
            self.pass(40_000);
        }
        self.drain();
    }

    /// Carries out and delivers all there is.
    fn drain(&mut self) {
        for _ in 0..2_000 {
            self.broker.serve();
            self.deliver();
            self.broker.read();
            self.answer_read();
            for worker in 0..WORKERS {
                self.hear(worker);
                self.tell(worker);
                self.walk(worker, CLIENTS);
            }
            let is_idle = |host: &Host| {
                host.to_shard.is_empty() && host.to_relay.is_empty() && host.walks.is_empty()
            };
            if self.broker.is_idle() && self.hosts.iter().all(is_idle) {
                return;
            }
        }
        panic!("the machines never come to rest");
    }

    pub(crate) fn check_settled(&self) {
        let mut wanted = BTreeSet::new();
        for client in self.clients.iter().filter(|client| client.place.is_some()) {
            assert!(client.open, "everybody is let in, or refused: {client:?}");
            assert!(client.asked.is_empty(), "every request is answered: {client:?}");
            for (stream, at) in &client.streams {
                wanted.insert(*stream);
                let at = at.expect("everybody knows where they are");
                let head = self.broker.head(*stream);
                let complete = self.broker.is_complete(*stream, at, head, client.is_ann);
                assert!(complete, "nothing is lacking: {client:?}, {head:?}");
            }
        }
        let link = self.broker.link.as_ref().expect("it is up");
        assert_eq!(link.subscribed, wanted, "subscribed is what has members");
        assert_eq!(self.relay.stats().streams, wanted.len() as u64);
        assert!(self.expected.is_empty(), "every receipt is given");
        for host in &self.hosts {
            let stats = host.shard.stats();
            assert_eq!((stats.parked_joins, stats.handshaking), (0, 0), "nothing is left over");
        }
    }

    fn shard(&mut self, worker: usize, input: Input<'_>) {
        let mut actions = Actions::default();
        self.hosts[worker].shard.handle(self.now, input, &mut actions);
        let (list, bytes) = actions.drain();
        let list: Vec<_> = list.collect();
        for action in list {
            self.shard_action(worker, action, bytes);
        }
    }

    fn shard_action(&mut self, worker: usize, action: Action, bytes: &[u8]) {
        match action {
            Action::Verify { conn } => {
                let outcome = Ok(Identity { user: "ann".into(), rooms: [].into(), expires: None });
                self.shard(worker, Input::Verified { conn, outcome, user_connections: 0 });
            }
            Action::Accept { conn, greeting } => {
                self.client(worker, conn).open = true;
                self.receive(worker, conn, greeting.of(bytes));
            }
            Action::Send { conn, frame } => self.receive(worker, conn, frame.of(bytes)),
            Action::Feed { .. } => panic!("no client says where it was"),
            Action::Deliver { delivery, frame, .. } => {
                let walk = Walk { frame: frame.0.to_vec(), accepted: 0 };
                let other = self.hosts[worker].walks.insert(delivery, walk);
                assert!(other.is_none(), "fan-outs have their own ids");
            }
            Action::ToRelay(message) => self.hosts[worker].to_relay.push_back(message),
            Action::Refuse { conn, .. } => self.client(worker, conn).place = None,
            // Only for requests too far ahead of their answers.
            Action::Close { conn, .. } => {
                let client = self.client(worker, conn);
                client.open = false;
                client.place = None;
                self.shard(worker, Input::Closed { conn });
            }
            Action::Ping { .. } | Action::Reach(_) => {}
            Action::Reset { .. } | Action::VerifyRefresh { .. } | Action::Drained => {
                panic!("nobody gives cause for {action:?}")
            }
        }
    }

    fn client(&mut self, worker: usize, conn: ConnectionId) -> &mut Client {
        let client = &mut self.clients[conn.slot as usize];
        assert_eq!(client.place, Some((worker, conn)), "only who is there is served");
        client
    }

    fn receive(&mut self, worker: usize, conn: ConnectionId, frame: &[u8]) {
        assert!(self.client(worker, conn).open, "only who is open is sent anything");
        for text in texts(frame) {
            let number = self.clients[conn.slot as usize].read(text, &self.broker);
            // It was held for the greeting, and is counted by nobody.
            assert!(number.is_none_or(|number| number > 0));
        }
    }

    fn relay(&mut self, input: relay::Input) {
        let mut actions = Vec::new();
        self.relay.handle(self.now, input, &mut actions);
        for action in actions {
            match action {
                relay::Action::ToShard { worker, message } => {
                    self.hosts[usize::from(worker.0)].to_shard.push_back(message);
                }
                relay::Action::Subscribe { stream } => self.request(index(stream.as_str()), true),
                relay::Action::Unsubscribe { stream } => {
                    self.request(index(stream.as_str()), false);
                }
                relay::Action::Read { read: id, stream, after, .. } => {
                    let stream = index(stream.as_str());
                    self.broker.reads.push_back(Read { id, stream, after, answer: None });
                }
                relay::Action::Compare { check, streams } => {
                    let heads = streams.iter().map(|it| {
                        let position = self.broker.head(index(it.as_str()));
                        Some(relay::StreamHead { position, version: 0 })
                    });
                    let heads = Some(heads.collect());
                    self.relay(relay::Input::Compared { check, heads });
                }
                relay::Action::Tell { .. } => {} // Nobody else is there.
                relay::Action::Receipt { mid, recipients, .. } => {
                    assert!(self.expected.remove(&mid), "a receipt is given once");
                    let handed = self.handed.get(&(mid.0 >> 32)).copied().unwrap_or(0);
                    assert!(recipients <= handed, "nobody is counted who got nothing");
                }
                relay::Action::Unexpected { mid } => assert!(self.expected.remove(&mid)),
                relay::Action::Reach(_) => {}
            }
        }
    }

    fn request(&mut self, stream: usize, wanted: bool) {
        let link = self.broker.link.as_mut().expect("requests are made while the link is up");
        link.requests.push_back((stream, wanted));
    }
}

/// Takes the frames of one write apart; none is longer than 64 KiB.
fn texts(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (header, length) = match *bytes.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            short => (2, usize::from(short)),
        };
        let text = &bytes[header..header + length];
        bytes = &bytes[header + length..];
        Some(text)
    })
}

fn relay_limits() -> RelayLimits {
    RelayLimits {
        workers: u16::try_from(WORKERS).expect("a few workers"),
        positions: true,
        in_flight_max: 3,
        in_flight_bytes_max: 1 << 20,
        linger: Duration::from_secs(30),
        held_bytes_max: 700,
        repair_timeout: Duration::from_secs(2),
        expected_max: 4,
        head_reads_max: 3,
        position_check: Duration::from_secs(30),
        subscribe_timeout: Duration::from_secs(2),
        ingress_bytes_max: 1 << 16,
    }
}

fn shard_limits() -> ShardLimits {
    ShardLimits {
        connections_max: 100,
        connections_per_user_max: 100,
        accepts_per_second_max: 0,
        rooms_per_connection_max: 10,
        anonymous_allowed: true,
        origins: vec!["*".to_owned()],
        public_rooms: vec!["event:*".to_owned()],
        // Longer than any of the runs: what time does to clients has its own tests.
        ping_interval: Duration::from_secs(1 << 20),
        pong_timeout: Duration::from_secs(1 << 21),
        join_timeout: Duration::from_secs(5),
        close_timeout: Duration::from_secs(5),
        slow_timeout: Duration::from_secs(10),
        expiry_notice: Duration::from_secs(60),
        messages_per_second_max: 0,
        message_burst_max: 1,
        rate_grace: Duration::from_secs(3),
        errors_max: 10,
        parked_joins_max: 100,
        waiting_requests_max: 3,
        coalesced_bytes_max: 300,
    }
}
