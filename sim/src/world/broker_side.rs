//! Services that publish, the broker, and what it sends to instances.

use std::time::Duration;

use bytes::Bytes;
use realtime_core::{
    entry::Body,
    id::{CheckId, Epoch, Generation, Mid, Position, ReadId},
    relay::{Channel, Destination, Ingress, Input, StreamHead},
    stream::StreamName,
    time::UnixMillis,
};

use crate::{
    broker::Link,
    plan::{Class, Trouble},
    truth::StreamId,
};

use super::{
    Event, Queue, World,
    instance::{HostEvent, LifeId, boot_of},
    lanes::Acknowledged,
};

impl World<'_, '_> {
    /// A service publishes through an instance, or straight to an ingress channel.
    pub(super) fn publish(&mut self, publish: usize) {
        let plan = &self.plan.publishes[publish];
        let lives = self.instances.iter().filter_map(|instance| instance.life.as_ref());
        let serving = lives.filter(|life| life.born + START <= self.now);
        let alive: Vec<LifeId> = serving.map(|life| life.id).collect();
        let Some(&life) = alive.get(plan.instance % alive.len().max(1)) else { return };
        let number = self.truth.announce(plan, self.now);
        self.truth.publications[number].ack &= self.plan.knobs.positions;
        if plan.class == Class::Ingress {
            return self.publish_ingress(number);
        }
        // A random mid, of which no two begin with the same 32 bits.
        let mid = Mid((number as u64 + 1) << 32 | self.ids.below(1 << 32));
        let deadline = self.now + RECEIPT_TIMEOUT;
        let stream = self.name(self.truth.publications[number].stream);
        let ack_by = self.truth.publications[number].ack.then_some(deadline + ACK_TIMEOUT);
        self.receipts.expect(mid, number, life, deadline, ack_by);
        let expected = HostEvent::Relay(Input::Expected { mid, stream, deadline });
        // The relay hears of it before the broker does.
        self.pending.push_back((life, expected));
        let stream = self.truth.publications[number].stream;
        self.queue(Queue::Commands(life, stream % 2), Event::Take(life, number, mid));
    }

    pub(super) fn name(&self, stream: StreamId) -> StreamName {
        StreamName::room(self.truth.name(stream)).expect("plans name valid streams")
    }

    fn publish_ingress(&mut self, number: usize) {
        if self.broker_down > 0 {
            return;
        }
        self.broker.ingress(&mut self.truth, number);
        let publication = &self.truth.publications[number];
        let name = self.truth.name(publication.stream);
        let target = match name.strip_prefix("user:") {
            Some(user) => format!(r#""user_id":"{user}""#),
            None => format!(r#""room":"{name}""#),
        };
        let (kind, payload) = (&publication.kind, &publication.payload);
        let text = format!(r#"{{"type":"{kind}",{target},"payload":{payload}}}"#);
        for link in self.broker.links() {
            let channel = Channel::Ingress(Ingress::Ticket);
            let (generation, bytes) = (Generation(link.2), text.clone().into());
            self.bring(link, Input::Received { generation, channel, bytes });
        }
    }

    /// Something comes over a subscription connection.
    pub(super) fn bring(&mut self, link: Link, input: Input) {
        let life = (link.0, link.1);
        let slow =
            self.longest(
                link.0,
                |what| {
                    if let Trouble::ItemsSlow(ms) = what { Some(*ms) } else { None }
                },
            );
        let event = Event::Host(life, HostEvent::Relay(input));
        self.queue_slowly(Queue::Items(link), slow, event);
    }

    /// The broker is asked to publish.
    pub(super) fn take(&mut self, life: LifeId, number: usize, mid: Mid) {
        let stream = self.truth.publications[number].stream;
        let reply = if self.is_connected(life) {
            let subscribers = self.send_out(life, number, mid);
            let (deadline, ack_by) = self.receipts.deadlines(mid).unwrap_or((self.now, None));
            let taken = Acknowledged { at: self.now, number, server: self.server };
            HostEvent::Taken(taken, Input::Published { mid, subscribers, deadline, ack_by })
        } else {
            HostEvent::Relay(Input::Unpublished { mid })
        };
        if self.has_trouble(life.0, |what| matches!(what, Trouble::RepliesLost)) {
            let given_up = Event::Host(life, HostEvent::Relay(Input::Unpublished { mid }));
            return self.after(RECEIPT_TIMEOUT * 2, given_up);
        }
        self.queue(Queue::Replies(life, stream % 2), Event::Host(life, reply));
    }

    /// Gives the number of subscribers.
    fn send_out(&mut self, life: LifeId, number: usize, mid: Mid) -> u32 {
        let epoch = self.next_epoch();
        let publication = &self.truth.publications[number];
        let stream = publication.stream;
        let is_durable = publication.class == Class::Durable;
        let key = match publication.class {
            Class::Latest(key) => key.to_string(),
            Class::Durable | Class::Ingress => String::new(),
        };
        let body = Body {
            kind: publication.kind.clone().into(),
            payload: publication.payload.clone().into(),
            exclude_user: publication.exclude.as_deref().map(Into::into),
            key: key.into(),
            ack: publication.ack,
            origin: boot_of(life),
            published: UnixMillis(0),
        };
        let bytes = self.broker.publish(&mut self.truth, number, (mid, epoch), body);
        let name = self.name(stream);
        let subscribers = self.broker.subscribers(stream);
        let count = u32::try_from(subscribers.len()).expect("a handful");
        let lives = subscribers.iter().map(|link| (link.0, link.1));
        self.truth.publications[number].subscribers = lives.collect();
        for link in subscribers {
            if self.is_lost(link.0) {
                self.reach("sim_publication_lost");
                continue;
            }
            let is_known = is_durable && self.plan.knobs.positions;
            let twice = is_known && self.has_trouble(link.0, |w| matches!(w, Trouble::Twice));
            for _ in 0..1 + u32::from(twice) {
                let channel = Channel::Stream(name.clone());
                let (generation, bytes) = (Generation(link.2), bytes.clone());
                self.bring(link, Input::Received { generation, channel, bytes });
            }
        }
        count
    }

    /// An instance tells others something, if nothing is in the way.
    pub(super) fn tell(&mut self, to: Destination, bytes: &Bytes) {
        if self.broker_down > 0 {
            return;
        }
        for link in self.broker.links() {
            let channel = match to {
                Destination::Everyone => Channel::Control,
                Destination::Instance(boot) if boot == boot_of((link.0, link.1)) => {
                    Channel::Receipts
                }
                Destination::Instance(_) => continue,
            };
            if self.is_lost(link.0) {
                continue;
            }
            let twice = self.has_trouble(link.0, |what| matches!(what, Trouble::Twice));
            for _ in 0..1 + u32::from(twice) {
                let (generation, channel) = (Generation(link.2), channel.clone());
                let bytes = bytes.clone();
                self.bring(link, Input::Received { generation, channel, bytes });
            }
        }
    }

    /// Epochs grow with time, as their upper bits are the time.
    pub(super) fn next_epoch(&mut self) -> Epoch {
        self.epochs_made += 1;
        Epoch((super::EPOCH_MS + self.now.0 / 1_000_000) << 22 | self.epochs_made)
    }

    pub(super) fn is_lost(&mut self, instance: usize) -> bool {
        self.is_struck(instance, |what| {
            if let Trouble::Lossy(permille) = what { Some(*permille) } else { None }
        })
    }

    /// Whether this time a trouble hits that hits so many of a thousand.
    fn is_struck(&mut self, instance: usize, permille: impl Fn(&Trouble) -> Option<u64>) -> bool {
        let active = self.active.iter().map(|fault| &self.plan.faults[*fault]);
        let permille = active
            .filter(|fault| fault.instance == instance)
            .filter_map(|fault| permille(&fault.what))
            .max();
        permille.is_some_and(|permille| self.net.below(1_000) < permille)
    }

    /// The longest of the delays, in milliseconds, that an instance suffers.
    pub(super) fn longest(
        &self,
        instance: usize,
        delay: impl Fn(&Trouble) -> Option<u64>,
    ) -> Duration {
        let active = self.active.iter().map(|fault| &self.plan.faults[*fault]);
        let delays = active.filter(|fault| fault.instance == instance);
        let longest = delays.filter_map(|fault| delay(&fault.what)).max();
        Duration::from_millis(longest.unwrap_or(0))
    }

    pub(super) fn has_trouble(&self, instance: usize, is_it: impl Fn(&Trouble) -> bool) -> bool {
        let mut active = self.active.iter().map(|fault| &self.plan.faults[*fault]);
        active.any(|fault| fault.instance == instance && is_it(&fault.what))
    }

    /// The broker is asked to subscribe or unsubscribe a connection.
    pub(super) fn interest(&mut self, link: Link, stream: StreamId, on: bool) {
        let name = self.name(stream);
        if !on {
            self.broker.unsubscribe(link, stream);
            return self
                .bring(link, Input::Unsubscribed { generation: Generation(link.2), stream: name });
        }
        let refused = self.is_struck(link.0, |what| {
            if let Trouble::Unsubscribable(permille) = what { Some(*permille) } else { None }
        });
        if refused {
            return;
        }
        self.broker.subscribe(link, stream);
        let unconfirmed = self.is_struck(link.0, |what| {
            if let Trouble::Unconfirmed(permille) = what { Some(*permille) } else { None }
        });
        if !unconfirmed {
            self.bring(link, Input::Subscribed { generation: Generation(link.2), stream: name });
        }
    }

    /// The broker is asked for a head, and for what comes after an offset.
    pub(super) fn read(
        &mut self,
        life: LifeId,
        read: ReadId,
        stream: StreamId,
        after: Option<u64>,
        known: Option<Position>,
    ) {
        let epoch = self.next_epoch();
        let known = known.filter(|_| self.plan.knobs.positions);
        let history = if self.can_tell(life) {
            let read = self.broker.read(&mut self.truth, stream, epoch, after, known);
            let (history, rollover) = read;
            rollover.inspect(|rollover| self.rolled_over(stream, *rollover));
            Some(history)
        } else {
            None
        };
        self.answer_read(life, stream % 2, Input::Read { read, history });
    }

    /// The broker is asked where streams are.
    pub(super) fn compare(&mut self, life: LifeId, check: CheckId, streams: &[StreamId]) {
        let place = |stream: &StreamId| {
            let position = self.truth.node(self.broker.place(*stream)?).position;
            let version = self.broker.versions(*stream).max().unwrap_or(0);
            Some(StreamHead { position, version })
        };
        let heads = self.can_tell(life).then(|| streams.iter().map(place).collect());
        self.answer_read(life, 0, Input::Compared { check, heads });
    }

    /// Whether an instance gets what it reads.
    fn can_tell(&self, life: LifeId) -> bool {
        let fails = self.has_trouble(life.0, |what| matches!(what, Trouble::ReadsFail));
        self.is_connected(life) && !fails
    }

    fn answer_read(&mut self, life: LifeId, lane: usize, answer: Input) {
        let delay =
            |what: &Trouble| if let Trouble::ReadsSlow(ms) = what { Some(*ms) } else { None };
        let slow = self.longest(life.0, delay);
        let event = Event::Host(life, HostEvent::Relay(answer));
        self.queue_slowly(Queue::Replies(life, lane), slow, event);
    }

    /// An instance connects to the broker, if nothing keeps it from that.
    pub(super) fn try_link(&mut self, instance: usize) {
        if self.broker_down > 0 || self.cut[instance] > 0 {
            return;
        }
        let Some(life) = self.instances[instance].life.as_mut().filter(|life| !life.up) else {
            return;
        };
        life.up = true;
        life.generation += 1;
        let link = (life.id.0, life.id.1, life.generation);
        self.broker.connect(link);
        self.bring(
            link,
            Input::LinkUp { generation: Generation(link.2), run_id: self.server.into() },
        );
    }

    /// An instance loses its connection; the broker notices after `ghost`.
    pub(super) fn unlink(&mut self, instance: usize, ghost: Duration) {
        let Some(life) = self.instances[instance].life.as_mut().filter(|life| life.up) else {
            return;
        };
        life.up = false;
        let (id, generation) = (life.id, life.generation);
        self.after(ghost, Event::Ghost((id.0, id.1, generation)));
        self.pending.push_back((id, HostEvent::Relay(Input::LinkDown)));
    }
}

/// An instance takes no calls before it had time to connect to the broker.
const START: Duration = Duration::from_millis(200);

/// How long a service waits for receipts.
const RECEIPT_TIMEOUT: Duration = Duration::from_millis(250);

/// How much longer it waits for an acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
