//! What really happened: every publication that the broker took, and what came before it. Oracles
//! judge by this, and never by what a machine says of itself.

use std::collections::BTreeMap;

use realtime_core::{
    id::{Epoch, Mid, Position},
    time::Instant,
    wire::encode,
};

use crate::plan::{Class, PublishPlan};

/// Index of a stream.
pub type StreamId = usize;

/// A place in the history of a stream. Places form a tree: when the broker is set back, what
/// follows grows from an earlier place.
pub type NodeId = usize;

/// Everything that was published.
#[derive(Debug, Default)]
pub struct Truth {
    names: Vec<String>,
    ids: BTreeMap<String, StreamId>,
    nodes: Vec<Node>,
    places: BTreeMap<(StreamId, u64, u64, u32), NodeId>,
    /// The newest publication of each marker.
    newest: BTreeMap<(StreamId, u64), usize>,
    /// By their number.
    pub publications: Vec<Publication>,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Its stream.
    pub stream: StreamId,
    /// Where the service says that it is.
    pub position: Position,
    /// The place before.
    pub prev: Option<NodeId>,
    /// None for the beginning of an epoch.
    pub publication: Option<usize>,
}

/// A publication.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Its stream.
    pub stream: StreamId,
    /// What is promised.
    pub class: Class,
    /// Whose connections skip it.
    pub exclude: Option<String>,
    /// Whether it asks to be acknowledged.
    pub ack: bool,
    /// Its type.
    pub kind: Box<str>,
    /// Its payload.
    pub payload: String,
    /// What the broker made of it; none as long as it has not taken it.
    pub taken: Option<Taken>,
    /// When a service published it.
    pub announced: Instant,
    /// Connections that its frame was handed to.
    pub all: u32,
    /// Lives of instances that were subscribed when it was published.
    pub subscribers: Vec<(usize, u32)>,
    /// Those of the connections that were members of one of these before it was published: who is
    /// given it later is not counted for its publisher.
    pub members: u32,
    /// When that was last.
    pub last_handed: Option<Instant>,
}

/// What the broker made of a publication.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The place of a durable one; of another, the place of its stream at that time.
    pub node: Option<NodeId>,
    /// Counts all publications that the broker took.
    pub order: u64,
    /// The version of a latest value.
    pub version: u64,
}

impl Truth {
    /// The index of a stream.
    pub fn stream(&mut self, name: &str) -> StreamId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        self.names.push(name.to_owned());
        self.ids.insert(name.to_owned(), self.names.len() - 1);
        self.names.len() - 1
    }

    /// The index of a stream that is known.
    pub fn find(&self, name: &str) -> Option<StreamId> {
        self.ids.get(name).copied()
    }

    /// The name of a stream.
    pub fn name(&self, stream: StreamId) -> &str {
        &self.names[stream]
    }

    /// Adds a publication that is about to be sent to the broker.
    pub fn announce(&mut self, plan: &PublishPlan, announced: Instant) -> usize {
        let number = self.publications.len();
        let (kind, key) = match plan.class {
            Class::Durable => ("ticket:availability", 0),
            Class::Latest(key) => ("booking:queue_position", key),
            Class::Ingress => ("ticket:released", 0),
        };
        let filling = "x".repeat(plan.bytes);
        let stream = self.stream(&plan.stream);
        let payload = format!(r#"{{"n":{number},"key":{key},"x":"{filling}"}}"#);
        let publication = Publication {
            exclude: plan.exclude.clone().filter(|_| plan.class != Class::Ingress),
            ack: plan.ack && plan.class == Class::Durable,
            announced,
            ..Publication::new(stream, plan.class, kind, payload)
        };
        self.add(publication, number as u64)
    }

    /// Adds a publication that is found again by what its payload says.
    pub fn add(&mut self, publication: Publication, marker: u64) -> usize {
        let number = self.publications.len();
        self.newest.insert((publication.stream, marker), number);
        self.publications.push(publication);
        number
    }

    /// The newest publication of a marker.
    pub fn newest(&self, stream: StreamId, marker: u64) -> Option<usize> {
        self.newest.get(&(stream, marker)).copied()
    }

    /// Adds a place.
    pub fn grow(&mut self, node: Node) -> NodeId {
        let Position { epoch, offset, .. } = node.position;
        let place = (node.stream, epoch.0, offset, node.position.check());
        self.nodes.push(node);
        self.places.insert(place, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// The place that an id names.
    pub fn place(&self, stream: StreamId, id: &str) -> Option<NodeId> {
        let mut parts = id.split('-');
        let epoch = u64::from_str_radix(parts.next()?, 16).ok()?;
        let offset = parts.next()?.parse().ok()?;
        let check = u32::from_str_radix(parts.next()?, 16).ok()?;
        self.places.get(&(stream, epoch, offset, check)).copied()
    }

    /// Takes an id for the beginning of an epoch that was not known, if it may name one.
    pub fn beginning(&mut self, stream: StreamId, id: &str) -> Option<NodeId> {
        let (epoch, offset) = id.strip_suffix("-00000000")?.split_once('-')?;
        let epoch = Epoch(u64::from_str_radix(epoch, 16).ok()?);
        Some(self.grow(behind(stream, epoch, offset.parse().ok()?)))
    }

    /// A place.
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node]
    }

    /// The id of a place, as clients see it.
    pub fn id(&self, node: NodeId) -> String {
        let mut id = Vec::new();
        encode::id(&mut id, self.node(node).position);
        String::from_utf8(id).expect("ids are text")
    }

    /// Where the numbering of a place began. Places are counted in the order in which they came to
    /// be.
    pub fn beginning_of(&self, node: NodeId) -> NodeId {
        let mut at = node;
        while let Some(prev) = self.node(at).prev {
            at = prev;
        }
        at
    }

    /// How many publications lead from one place to another; none when none do.
    pub fn distance(&self, from: NodeId, to: NodeId) -> Option<usize> {
        let mut at = to;
        let mut distance = 0;
        while at != from {
            at = self.node(at).prev?;
            distance += 1;
        }
        Some(distance)
    }

    /// Whether everything after `from` up to `to` is nothing that `user` is to get.
    pub fn nothing_between(&self, from: NodeId, to: NodeId, user: Option<&str>) -> bool {
        let mut at = to;
        while at != from {
            let node = self.node(at);
            let Some(publication) = node.publication else { return false };
            if !self.publications[publication].skips(user) {
                return false;
            }
            let Some(prev) = node.prev else { return false };
            at = prev;
        }
        true
    }
}

impl Publication {
    /// One that nobody has taken or heard.
    pub fn new(stream: StreamId, class: Class, kind: &str, payload: String) -> Self {
        Self {
            stream,
            class,
            exclude: None,
            ack: false,
            kind: kind.into(),
            payload,
            taken: None,
            announced: Instant(0),
            all: 0,
            subscribers: Vec::new(),
            members: 0,
            last_handed: None,
        }
    }

    /// Whether the connections of `user` skip it.
    pub fn skips(&self, user: Option<&str>) -> bool {
        user.is_some() && self.exclude.as_deref() == user
    }

    /// Notes that its frame was handed to a connection, which was a member before the publication
    /// was or not.
    pub fn hand(&mut self, life: (usize, u32), was_member: bool, now: Instant) {
        self.all += 1;
        self.members += u32::from(was_member && self.subscribers.contains(&life));
        self.last_handed = Some(now);
    }

    /// To how many connections its frame was handed: all, and those that were members before the
    /// publication was.
    pub fn handed(&self) -> (u32, u32) {
        (self.all, self.members)
    }
}

/// The beginning of an epoch.
pub fn origin(stream: StreamId, epoch: Epoch) -> Node {
    behind(stream, epoch, 0)
}

/// The beginning of an epoch whose first publication comes behind an offset.
pub fn behind(stream: StreamId, epoch: Epoch, offset: u64) -> Node {
    let position = Position { epoch, offset, mid: Mid(0) };
    Node { stream, position, prev: None, publication: None }
}
