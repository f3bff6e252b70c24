//! The command connections of instances, as the runtime keeps them: when they lead to another
//! server, what was acknowledged of late is looked for before anything else is asked.

use std::{collections::BTreeMap, time::Duration};

use realtime_core::{
    entry::Rollover,
    id::Generation,
    relay::{Channel, Input},
    time::Instant,
};

use crate::{plan::Class, truth::StreamId};

use super::{Event, World, instance::LifeId};

/// A publication that a server has taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    pub(super) at: Instant,
    /// Which one.
    pub(super) number: usize,
    /// The newest server that has shown that it has it.
    pub(super) server: u32,
}

impl World<'_, '_> {
    /// Whether an instance's commands reach the broker.
    pub(super) fn is_connected(&self, id: LifeId) -> bool {
        let mut lives = self.instances.iter().filter_map(|instance| instance.life.as_ref());
        let life = lives.find(|life| life.id == id);
        self.broker_down == 0 && life.is_none_or(|life| life.server == self.server)
    }

    /// The broker ends: what was acknowledged long before is not looked for at the next one.
    pub(super) fn server_is_gone(&mut self) {
        let now = self.now;
        for life in self.instances.iter_mut().filter_map(|instance| instance.life.as_mut()) {
            life.acknowledged.retain(|one| now.saturating_since(one.at) <= REMEMBERED);
        }
    }

    /// An instance hears that a publication was taken.
    pub(super) fn was_taken(&mut self, id: LifeId, taken: Acknowledged) {
        let is_placed = self.truth.publications[taken.number].class == Class::Durable;
        if !is_placed || !self.plan.knobs.positions {
            return;
        }
        let life = self.live_mut(id);
        life.acknowledged.push(taken);
        if taken.server != life.server {
            // By one that has ended meanwhile: the present connection is given up.
            life.server = taken.server;
            self.after(RECONNECT, Event::Reconnected(id));
        }
    }

    /// The command connections of an instance are up again.
    pub(super) fn reconnected(&mut self, id: LifeId) {
        let server = self.server;
        let Some(life) = self.instances[id.0].life.as_mut().filter(|life| life.id == id) else {
            return;
        };
        if life.frozen {
            return self.after(RECONNECT, Event::Reconnected(id));
        }
        if self.broker_down > 0 {
            return; // It comes again.
        }
        life.server = server;
        let mut wanted = BTreeMap::new();
        for one in life.acknowledged.iter_mut().filter(|one| one.server != server) {
            let publication = &self.truth.publications[one.number];
            let node = publication.taken.and_then(|taken| taken.node);
            let known = self.truth.node(node.expect("it has one")).position;
            // What another server has at the same epoch may be something else.
            wanted.insert((publication.stream, known.epoch, one.server), known);
            (one.server, one.at) = (server, self.now);
        }
        for ((stream, ..), known) in wanted {
            let epoch = self.next_epoch();
            let rollover = self.broker.verify(&mut self.truth, stream, epoch, known);
            rollover.inspect(|rollover| self.rolled_over(stream, *rollover));
        }
    }

    /// Who listens to a stream is told that its numbering was given up.
    pub(super) fn rolled_over(&mut self, stream: StreamId, rollover: Rollover) {
        self.reach("sim_rolled_over");
        for link in self.broker.subscribers(stream) {
            if self.is_lost(link.0) {
                continue;
            }
            let (generation, channel) = (Generation(link.2), Channel::Stream(self.name(stream)));
            self.bring(link, Input::Received { generation, channel, bytes: rollover.encode() });
        }
    }
}

/// How long publications are remembered.
const REMEMBERED: Duration = Duration::from_secs(40);

/// How soon a connection that was given up is followed by another one.
const RECONNECT: Duration = Duration::from_millis(100);
