//! The naive broker and the naive workers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use realtime_core::{
    entry::{Body, Entry, Place},
    id::{BootId, DispatchId, Epoch, Generation, Mid, Position, ReadId, RequestId, WorkerId},
    limits::RelayLimits,
    link::{Since, Suffix, ToRelay, ToShard},
    relay::{Action, Channel, Destination, History, Input, Relay, StreamHead},
    stream::StreamName,
    time::{Instant, UnixMillis},
};

pub(crate) const STREAMS: usize = 3;
pub(crate) const WORKERS: u16 = 2;

const NAMES: [&str; STREAMS] = ["event:1", "user:u1", "all"];
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Entries of a history.
const KEPT_MAX: usize = 4;
const LINGER: Duration = Duration::from_secs(30);

/// Everything around the relay.
pub(crate) struct World {
    relay: Relay,
    now: Instant,
    streams: [Stream; STREAMS],
    workers: Vec<Worker>,
    link: Option<Link>,
    generation: u64,
    /// What connections that are gone still carry.
    stale: VecDeque<(Generation, Item)>,
    reads: VecDeque<Read>,
    expected: BTreeSet<Mid>,
    /// Members that each publication was handed to.
    handed: BTreeMap<Mid, u32>,
    next_mid: u64,
    next_request: u64,
}

/// A stream as the broker has it.
struct Stream {
    epoch: u64,
    /// Every place of the epoch.
    log: Vec<Position>,
    /// The entries that are kept, the newest ones.
    kept: VecDeque<Bytes>,
    /// The predecessor of every publication there ever was.
    before: BTreeMap<Position, Position>,
    /// The latest value, of which there is only one key.
    value: Option<Bytes>,
}

/// A read under way.
struct Read {
    id: ReadId,
    stream: usize,
    after: Option<u64>,
    answer: Option<History>,
}

/// A subscription connection.
#[derive(Default)]
struct Link {
    requests: VecDeque<(usize, bool)>,
    subscribed: BTreeSet<usize>,
    /// Confirmed on this connection, and told to the relay.
    confirmed: BTreeSet<usize>,
    asked_at: BTreeMap<usize, Instant>,
    /// Asked for a second time, since the answer was overdue.
    repeated: BTreeSet<usize>,
    pipe: VecDeque<Item>,
}

#[derive(Clone)]
enum Item {
    Subscribed(usize),
    Unsubscribed(usize),
    Message(usize, Bytes),
}

#[derive(Default)]
struct Worker {
    /// What it is interested in.
    wanted: BTreeMap<usize, Members>,
    queue: VecDeque<(DispatchId, Mid)>,
}

/// The members of one stream on one worker.
#[derive(Default)]
struct Members {
    pending: BTreeMap<RequestId, Option<Since>>,
    /// Where those that are seated are.
    at: Option<Position>,
    /// Some are seated without a position, and wait for a resync.
    blind: bool,
}

impl Stream {
    fn head(&self) -> Position {
        let start = Position { epoch: Epoch(self.epoch), ..Position::default() };
        self.log.last().copied().unwrap_or(start)
    }

    /// Of a stream that was set back, a value is lost with what was published before it.
    fn compared(&self) -> StreamHead {
        let position = self.head();
        let value = self.value.as_ref().and_then(|bytes| Entry::decode(bytes).ok());
        let version = value.map_or(0, |entry| match entry.place {
            Place::Latest { epoch, at, version, .. }
                if epoch != position.epoch || at <= position.offset =>
            {
                version
            }
            Place::Latest { .. } | Place::Durable { .. } => 0,
        });
        StreamHead { position, version }
    }

    fn history(&self, after: Option<u64>) -> History {
        let head = self.head();
        let count = after.map_or(0, |after| head.offset.saturating_sub(after));
        let skip = self.kept.len().saturating_sub(usize::try_from(count).expect("it is small"));
        let entries = self.kept.iter().skip(skip).cloned().collect();
        History { head, entries, latest: self.value.iter().cloned().collect() }
    }

    /// A suffix begins right after `since`, and ends at `position` without a break.
    fn check_suffix(
        &self,
        since: Option<Since>,
        position: Position,
        recovered: bool,
        suffix: &Suffix,
    ) {
        let named =
            |at: Position| Since { epoch: at.epoch.0, offset: at.offset, check: at.check() };
        assert!(recovered || since != Some(named(position)), "who is there misses nothing");
        let durable: Vec<_> = suffix.entries().iter().filter_map(|m| m.position).collect();
        assert!(recovered || durable.is_empty());
        let values = suffix.entries().len() - durable.len();
        assert!(values <= self.value.iter().len(), "there is no more than one value");
        let mut at = position;
        for missed in durable.into_iter().rev() {
            assert_eq!(missed, at, "a suffix has no gap");
            at = self.before[&at];
        }
        assert!(!recovered || since == Some(named(at)), "a suffix is all that was missed");
    }
}

impl World {
    pub(crate) fn new(seed: u64, held_bytes_max: usize) -> Self {
        let limits = RelayLimits {
            workers: WORKERS,
            positions: true,
            in_flight_max: 3,
            in_flight_bytes_max: 1 << 20,
            linger: LINGER,
            held_bytes_max,
            repair_timeout: Duration::from_secs(2),
            expected_max: 4,
            head_reads_max: 3,
            position_check: Duration::from_secs(30),
            subscribe_timeout: SUBSCRIBE_TIMEOUT,
            ingress_bytes_max: 1 << 16,
        };
        Self {
            relay: Relay::new(limits, BootId(1), seed, Instant(0)),
            now: Instant(0),
            streams: std::array::from_fn(|_| Stream {
                epoch: 1,
                log: Vec::new(),
                kept: VecDeque::new(),
                before: BTreeMap::new(),
                value: None,
            }),
            workers: (0..WORKERS).map(|_| Worker::default()).collect(),
            link: None,
            generation: 0,
            stale: VecDeque::new(),
            reads: VecDeque::new(),
            expected: BTreeSet::new(),
            handed: BTreeMap::new(),
            next_mid: 1,
            next_request: 0,
        }
    }

    pub(crate) fn join(&mut self, worker: u16, stream: usize, resumes: bool) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        // Where it was some publications ago.
        let log = &self.streams[stream].log;
        let back = usize::try_from(self.next_request % 7).expect("it is small");
        let at = log.iter().nth_back(back).copied();
        let at = at.unwrap_or_else(|| self.streams[stream].head());
        let since = Since { epoch: at.epoch.0, offset: at.offset, check: at.check() };
        let since = resumes.then_some(since);
        let members = self.workers[usize::from(worker)].wanted.entry(stream).or_default();
        members.pending.insert(request, since);
        self.tell(worker, ToRelay::Join { request, stream: name(stream), since });
    }

    pub(crate) fn vacate(&mut self, worker: u16, stream: usize) {
        if self.workers[usize::from(worker)].wanted.remove(&stream).is_some() {
            self.tell(worker, ToRelay::Vacated { stream: name(stream) });
        }
    }

    pub(crate) fn publish(&mut self, stream: usize, latest: bool, expected: bool) {
        let mid = Mid(self.next_mid << 32);
        self.next_mid += 1;
        if expected {
            self.expected.insert(mid);
            let deadline = self.now + Duration::from_millis(250);
            self.input(Input::Expected { mid, stream: name(stream), deadline });
        }
        let of = &mut self.streams[stream];
        let head = of.head();
        let place = if latest {
            Place::Latest { epoch: head.epoch, at: head.offset, version: mid.0, mid }
        } else {
            let position = Position { offset: head.offset + 1, mid, ..head };
            of.log.push(position);
            of.before.insert(position, head);
            Place::Durable { position, prev: head.mid }
        };
        let body = Body {
            kind: "ticket:reserved".into(),
            payload: Bytes::from_static(b"{}"),
            exclude_user: None,
            key: "".into(),
            ack: false,
            origin: BootId(1),
            published: UnixMillis(mid.0 >> 32),
        };
        let bytes = Entry { place, body }.encode();
        if latest {
            of.value = Some(bytes.clone());
        } else {
            of.kept.push_back(bytes.clone());
            if of.kept.len() > KEPT_MAX {
                of.kept.pop_front();
            }
        }
        if let Some(link) = &mut self.link
            && link.subscribed.contains(&stream)
        {
            link.pipe.push_back(Item::Message(stream, bytes));
        }
        if expected {
            let subscribers =
                self.link.as_ref().map_or(0, |link| link.subscribed.contains(&stream).into());
            let deadline = self.now + Duration::from_millis(250);
            self.input(Input::Published { mid, subscribers, deadline, ack_by: None });
        }
    }

    pub(crate) fn serve(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some((stream, wanted)) = link.requests.pop_front() else { return };
        if wanted {
            link.subscribed.insert(stream);
            link.pipe.push_back(Item::Subscribed(stream));
        } else {
            link.subscribed.remove(&stream);
            link.pipe.push_back(Item::Unsubscribed(stream));
        }
    }

    pub(crate) fn deliver(&mut self) {
        let Some(item) = self.link.as_mut().and_then(|link| link.pipe.pop_front()) else { return };
        let link = self.link.as_mut().expect("it carried the item");
        match item {
            Item::Subscribed(stream) => link.confirmed.insert(stream),
            Item::Unsubscribed(stream) => link.confirmed.remove(&stream),
            Item::Message(..) => false,
        };
        self.bring(Generation(self.generation), item);
    }

    pub(crate) fn lose(&mut self) {
        if self.front_is_message() {
            self.link.as_mut().and_then(|link| link.pipe.pop_front());
        }
    }

    pub(crate) fn repeat(&mut self) {
        if self.front_is_message() {
            let link = self.link.as_mut().expect("it has a front");
            let item = link.pipe.front().expect("it has a front").clone();
            self.bring(Generation(self.generation), item);
        }
    }

    pub(crate) fn garble(&mut self) {
        if let Some(Item::Message(_, bytes)) = self.link.as_mut().and_then(|l| l.pipe.front_mut()) {
            bytes.truncate(bytes.len() / 2);
        }
    }

    pub(crate) fn deliver_stale(&mut self) {
        if let Some((generation, item)) = self.stale.pop_front() {
            self.bring(generation, item);
        }
    }

    pub(crate) fn read(&mut self) {
        if let Some(read) = self.reads.iter_mut().find(|read| read.answer.is_none()) {
            read.answer = Some(self.streams[read.stream].history(read.after));
        }
    }

    pub(crate) fn answer_read(&mut self) {
        if let Some(at) = self.reads.iter().position(|read| read.answer.is_some()) {
            let Read { id, answer, .. } = self.reads.remove(at).expect("it was found there");
            self.input(Input::Read { read: id, history: answer });
        }
    }

    pub(crate) fn fail_read(&mut self) {
        if let Some(Read { id, .. }) = self.reads.pop_front() {
            self.input(Input::Read { read: id, history: None });
        }
    }

    pub(crate) fn hand_over(&mut self, worker: u16, last: bool, recipients: u32) {
        let queue = &mut self.workers[usize::from(worker)].queue;
        let next = if last { queue.pop_back() } else { queue.pop_front() };
        let Some((dispatch, mid)) = next else { return };
        *self.handed.entry(mid).or_default() += recipients;
        self.tell(worker, ToRelay::HandedOver { dispatch, recipients });
    }

    pub(crate) fn link_down(&mut self) {
        let Some(link) = self.link.take() else { return };
        let generation = Generation(self.generation);
        self.stale.extend(link.pipe.into_iter().map(|item| (generation, item)));
        self.input(Input::LinkDown);
    }

    pub(crate) fn link_up(&mut self) {
        if self.link.is_none() {
            self.generation += 1;
            self.link = Some(Link::default());
            self.input(Input::LinkUp { generation: Generation(self.generation), run_id: 1 });
        }
    }

    pub(crate) fn set_back(&mut self, stream: usize, by: usize) {
        let log = &mut self.streams[stream].log;
        log.truncate(log.len().saturating_sub(by));
    }

    pub(crate) fn evict(&mut self, stream: usize) {
        self.streams[stream].epoch += 1;
        self.streams[stream].log.clear();
        self.streams[stream].kept.clear();
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.relay.next_deadline()
            && at <= end
        {
            self.now = self.now.max(at);
            self.input(Input::TimedOut);
            let next = self.relay.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "a deadline that stays is a loop");
        }
        self.now = end;
    }

    /// Faults end, and everything that is on its way arrives. Nothing is published any more.
    pub(crate) fn settle(&mut self) {
        self.link_up();
        self.drain();
        for _ in 0..3 {
            self.pass(40_000);
            self.drain();
        }
    }

    pub(crate) fn check_settled(&mut self) {
        let wanted = self.workers.iter().flat_map(|worker| worker.wanted.keys().copied());
        let wanted: BTreeSet<usize> = wanted.collect();
        let link = self.link.as_ref().expect("it is up");
        assert_eq!(link.subscribed, wanted, "subscribed is what is wanted");
        assert_eq!(self.relay.stats().streams, wanted.len() as u64);
        for (stream, members) in self.workers.iter().flat_map(|worker| &worker.wanted) {
            assert!(members.pending.is_empty(), "every join is answered");
            assert!(!members.blind, "everybody knows where they are");
            assert_eq!(members.at, Some(self.streams[*stream].head()), "nothing is lacking");
        }
        assert!(self.expected.is_empty(), "every receipt is given");
        self.check_idle();
    }

    /// Nothing is left to be done but beats and comparisons.
    fn check_idle(&mut self) {
        for _ in 0..3 {
            let due = self.relay.next_deadline().expect("the next beat is due");
            self.now = self.now.max(due);
            let mut actions = Vec::new();
            self.relay.handle(self.now, Input::TimedOut, &mut actions);
            for action in actions {
                if let Action::ToShard { worker, message: ToShard::Count } = action {
                    self.tell(worker.0, ToRelay::Counted(Box::default()));
                } else if let Action::Compare { check, streams } = action {
                    let heads = streams.iter().map(|it| Some(self.streams[index(it)].compared()));
                    let heads = Some(heads.collect());
                    self.input(Input::Compared { check, heads });
                } else {
                    let is_beat = matches!(action, Action::Tell { to: Destination::Everyone, .. });
                    assert!(is_beat, "only beats are left, not {action:?}");
                }
            }
        }
    }

    /// Carries out and delivers all there is.
    fn drain(&mut self) {
        for _ in 0..1_000 {
            self.serve();
            self.deliver();
            self.deliver_stale();
            self.read();
            self.answer_read();
            (0..WORKERS).for_each(|worker| self.hand_over(worker, false, 1));
            let link = self.link.as_ref().expect("it is up");
            let busy = !link.requests.is_empty()
                || !link.pipe.is_empty()
                || !self.reads.is_empty()
                || self.workers.iter().any(|worker| !worker.queue.is_empty());
            if !busy {
                return;
            }
        }
        panic!("the relay never comes to rest");
    }

    fn front_is_message(&self) -> bool {
        let front = self.link.as_ref().and_then(|link| link.pipe.front());
        matches!(front, Some(Item::Message(..)))
    }

    fn bring(&mut self, generation: Generation, item: Item) {
        self.input(match item {
            Item::Subscribed(stream) => Input::Subscribed { generation, stream: name(stream) },
            Item::Unsubscribed(stream) => Input::Unsubscribed { generation, stream: name(stream) },
            Item::Message(stream, bytes) => {
                Input::Received { generation, channel: Channel::Stream(name(stream)), bytes }
            }
        });
    }

    fn tell(&mut self, worker: u16, message: ToRelay) {
        self.input(Input::FromShard { worker: WorkerId(worker), message });
    }

    fn input(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.relay.handle(self.now, input, &mut actions);
        for action in actions {
            self.check(action);
        }
    }

    fn check(&mut self, action: Action) {
        match action {
            Action::ToShard { worker, message } => self.check_message(worker, message),
            Action::Subscribe { stream } => self.check_request(index(&stream), true),
            Action::Unsubscribe { stream } => self.check_request(index(&stream), false),
            Action::Read { read, stream, after, .. } => {
                let stream = index(&stream);
                let link = self.link.as_ref().expect("heads are read while the link is up");
                assert!(link.confirmed.contains(&stream), "a head is read after the confirmation");
                self.reads.push_back(Read { id: read, stream, after, answer: None });
            }
            Action::Compare { check, streams } => {
                assert!(self.link.is_some(), "streams are compared while the link is up");
                let heads =
                    streams.iter().map(|stream| Some(self.streams[index(stream)].compared()));
                let heads = Some(heads.collect());
                self.input(Input::Compared { check, heads });
            }
            Action::Receipt { mid, recipients, instances, .. } => {
                assert_eq!(instances, u32::from(recipients > 0), "there is no other instance");
                assert!(self.expected.remove(&mid), "a receipt is given once");
                let handed = self.handed.get(&mid).copied().unwrap_or(0);
                assert!(recipients <= handed, "nobody is counted who got nothing");
            }
            Action::Unexpected { mid } => assert!(self.expected.remove(&mid)),
            Action::Tell { to, .. } => assert_eq!(to, Destination::Everyone, "all is its own"),
            Action::Reach(_) => {}
        }
    }

    fn check_request(&mut self, stream: usize, subscribe: bool) {
        let link = self.link.as_mut().expect("requests are made while the link is up");
        let in_flight = link.requests.iter().any(|(asked, _)| *asked == stream)
            || link.pipe.iter().any(|item| match item {
                Item::Subscribed(asked) | Item::Unsubscribed(asked) => *asked == stream,
                Item::Message(..) => false,
            });
        let asked_at = link.asked_at.insert(stream, self.now).unwrap_or_default();
        let overdue = self.now.saturating_since(asked_at) >= SUBSCRIBE_TIMEOUT;
        if in_flight && subscribe && overdue {
            link.repeated.insert(stream);
        }
        let alone = !in_flight || link.repeated.contains(&stream);
        assert!(alone, "one request is in flight for one stream");
        link.requests.push_back((stream, subscribe));
    }

    fn check_message(&mut self, worker: WorkerId, message: ToShard) {
        let Worker { wanted, queue } = &mut self.workers[usize::from(worker.0)];
        match message {
            ToShard::Joined { request, position, recovered, suffix } => {
                let mut members = wanted.iter_mut();
                let members = members.find(|(_, members)| members.pending.contains_key(&request));
                let (&stream, members) = members.expect("only joins that wait are answered");
                let since = members.pending.remove(&request).expect("it was found there");
                let position = position.expect("there are positions");
                assert!(members.at.is_none_or(|at| at == position), "members are in one place");
                self.streams[stream].check_suffix(since, position, recovered, &suffix);
                members.at = Some(position);
            }
            ToShard::JoinFailed { request } => {
                let mut members = wanted.values_mut();
                let members = members.find(|members| members.pending.contains_key(&request));
                let members = members.expect("only joins that wait are answered");
                members.pending.remove(&request);
                members.blind = true;
            }
            ToShard::Publication(publication) => {
                let stream = index(&publication.stream);
                let members = wanted.get_mut(&stream).expect("only the interested get any");
                assert!(!members.blind, "a resync comes first");
                // Who waits for the history is no member yet.
                assert!(members.at.is_some() || !members.pending.is_empty(), "an answer is first");
                if let (Some(at), Some(position)) = (members.at, publication.position) {
                    let before = self.streams[stream].before[&position];
                    assert_eq!(before, at, "nothing is left out without a word");
                    members.at = Some(position);
                }
                let published = publication.published.expect("it came by a stream");
                queue.push_back((publication.dispatch, Mid(published.0 << 32)));
                assert!(queue.len() <= 3, "what is in flight is bounded");
            }
            ToShard::Count => {}
            ToShard::Resync { stream, by_all, position, .. } => {
                let members = wanted.get_mut(&index(&stream)).expect("only the interested");
                let missed = members.at.is_some_and(|at| Some(at) != position);
                assert!(by_all || !missed, "whoever misses something is told");
                members.at = Some(position.expect("there are positions"));
                members.blind = false;
            }
        }
    }
}

fn name(stream: usize) -> StreamName {
    StreamName::room(NAMES[stream]).expect("the names are valid")
}

fn index(name: &StreamName) -> usize {
    NAMES.iter().position(|known| *known == name.as_str()).expect("there are no others")
}
