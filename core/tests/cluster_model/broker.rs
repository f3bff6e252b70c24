//! A broker that is nothing but lists.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use realtime_core::{
    entry::{Body, Entry, Place},
    id::{BootId, Epoch, Mid, Position, ReadId},
    relay::History,
    stream::StreamName,
    time::UnixMillis,
    wire::encode,
};

pub(crate) const STREAMS: usize = 3;

/// Entries of a history.
const KEPT_MAX: usize = 4;

/// The room that clients join, the stream of the one user, and everybody's.
pub(crate) const NAMES: [&str; STREAMS] = ["event:1", "user:ann", "all"];

/// Streams, the subscription connection, and the reads under way.
pub(crate) struct Broker {
    heads: [Position; STREAMS],
    epochs: u64,
    /// Each publication, with what came before it and whether the user was excluded.
    before: BTreeMap<(usize, Position), (Position, bool)>,
    /// Every place that an id can name.
    ids: BTreeMap<(usize, String), Position>,
    pub(crate) link: Option<Link>,
    pub(crate) reads: VecDeque<Read>,
    /// The entries of each stream that are kept, the newest ones.
    kept: [VecDeque<Bytes>; STREAMS],
    published: u64,
    /// What connections that are gone still carry, with their numbers.
    pub(crate) stale: VecDeque<(u64, Item)>,
}

/// A read under way.
pub(crate) struct Read {
    pub(crate) id: ReadId,
    pub(crate) stream: usize,
    pub(crate) after: Option<u64>,
    pub(crate) answer: Option<History>,
}

/// A subscription connection.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) requests: VecDeque<(usize, bool)>,
    pub(crate) subscribed: BTreeSet<usize>,
    pub(crate) pipe: VecDeque<Item>,
}

/// What it carries.
pub(crate) enum Item {
    Subscribed(usize),
    Unsubscribed(usize),
    Message(usize, Bytes),
}

impl Broker {
    pub(crate) fn new() -> Self {
        let mut broker = Self {
            heads: [Position::default(); STREAMS],
            epochs: 0,
            before: BTreeMap::new(),
            ids: BTreeMap::new(),
            link: None,
            reads: VecDeque::new(),
            kept: Default::default(),
            published: 0,
            stale: VecDeque::new(),
        };
        (0..STREAMS).for_each(|stream| broker.evict(stream));
        broker
    }

    /// A new epoch.
    pub(crate) fn evict(&mut self, stream: usize) {
        self.epochs += 1;
        self.kept[stream].clear();
        self.go_on(stream, Position { epoch: Epoch(self.epochs), ..Position::default() });
    }

    fn go_on(&mut self, stream: usize, position: Position) {
        let mut id = Vec::new();
        encode::id(&mut id, position);
        let id = String::from_utf8(id).expect("ids are text");
        self.ids.insert((stream, id), position);
        self.heads[stream] = position;
    }

    /// The mid of the next publication.
    pub(crate) fn next_mid(&mut self) -> Mid {
        self.published += 1;
        Mid(self.published << 32)
    }

    /// Takes a publication, which its mid numbers.
    pub(crate) fn publish(&mut self, stream: usize, mid: Mid, excluding: bool) {
        let head = self.heads[stream];
        let position = Position { offset: head.offset + 1, mid, ..head };
        self.before.insert((stream, position), (head, excluding));
        self.go_on(stream, position);
        let body = Body {
            kind: "ticket:reserved".into(),
            payload: format!(r#"{{"n":{}}}"#, mid.0 >> 32).into(),
            exclude_user: excluding.then(|| "ann".into()),
            key: "".into(),
            ack: false,
            origin: BootId(1),
            published: UnixMillis(0),
        };
        let bytes = Entry { place: Place::Durable { position, prev: head.mid }, body }.encode();
        self.kept[stream].push_back(bytes.clone());
        if self.kept[stream].len() > KEPT_MAX {
            self.kept[stream].pop_front();
        }
        if let Some(link) = &mut self.link
            && link.subscribed.contains(&stream)
        {
            link.pipe.push_back(Item::Message(stream, bytes));
        }
    }

    /// Carries out the next (UN)SUBSCRIBE.
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

    /// The next request is lost, if it is a SUBSCRIBE.
    pub(crate) fn lose_subscribe(&mut self) {
        let next = self.link.as_mut().and_then(|link| link.requests.front_mut());
        if let Some((_, true)) = next {
            self.link.as_mut().and_then(|link| link.requests.pop_front());
        }
    }

    /// What the connection with this number carries is stale from now on.
    pub(crate) fn cut(&mut self, number: u64) -> bool {
        let Some(link) = self.link.take() else { return false };
        self.stale.extend(link.pipe.into_iter().map(|item| (number, item)));
        true
    }

    pub(crate) fn lose(&mut self) {
        if let Some(link) = &mut self.link
            && matches!(link.pipe.front(), Some(Item::Message(..)))
        {
            link.pipe.pop_front();
        }
    }

    /// Carries out the next read.
    pub(crate) fn read(&mut self) {
        if let Some(read) = self.reads.iter_mut().find(|read| read.answer.is_none()) {
            let (head, kept) = (self.heads[read.stream], &self.kept[read.stream]);
            let count = read.after.map_or(0, |after| head.offset.saturating_sub(after));
            let count = usize::try_from(count).expect("it is small");
            let entries = kept.iter().skip(kept.len().saturating_sub(count)).cloned().collect();
            read.answer = Some(History { head, entries, latest: Vec::new() });
        }
    }

    /// Whether there is nothing on its way.
    pub(crate) fn is_idle(&self) -> bool {
        let link = self.link.as_ref().is_none_or(|l| l.requests.is_empty() && l.pipe.is_empty());
        link && self.reads.is_empty()
    }

    pub(crate) fn head(&self, stream: usize) -> Position {
        self.heads[stream]
    }

    /// The place that an id names.
    #[track_caller]
    pub(crate) fn place(&self, stream: usize, id: &str) -> Position {
        let place = self.ids.get(&(stream, id.to_owned()));
        *place.unwrap_or_else(|| panic!("{} never was at {id}", NAMES[stream]))
    }

    /// Whether the user was excluded from a publication.
    pub(crate) fn excludes(&self, stream: usize, position: Position) -> bool {
        self.before[&(stream, position)].1
    }

    /// What was published before.
    pub(crate) fn before(&self, stream: usize, position: Position) -> Position {
        self.before[&(stream, position)].0
    }

    /// Whether from `at` to `to` there is nothing that somebody should have got.
    pub(crate) fn is_complete(&self, stream: usize, at: Position, to: Position, ann: bool) -> bool {
        let mut place = to;
        while place != at {
            match self.before.get(&(stream, place)) {
                Some((before, excluding)) if *excluding && ann => place = *before,
                Some(_) | None => return false,
            }
        }
        true
    }
}

pub(crate) fn name(stream: usize) -> StreamName {
    StreamName::room(NAMES[stream]).expect("the names are valid")
}

pub(crate) fn index(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).expect("there are no others")
}
