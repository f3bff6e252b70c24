//! The end: everything must be as it should.

use std::{collections::BTreeSet, fmt::Debug};

use realtime_core::transcript::Machine;

use crate::{
    at::Seen,
    oracle::{Failure, Verdict, answers, gauges, interest, liveness, peers, rollback, values},
    plan::{Class, Data, Fault, Knobs, Plan, Trouble},
    session::Stage,
    truth::{Publication, StreamId},
};

use super::{World, instance::LifeId};

impl Plan {
    /// Whether clocks are never set, and no instance ever stands still.
    pub(super) fn is_steady(&self) -> bool {
        !self.has(|what| matches!(what, Trouble::Freeze | Trouble::Clock(_)))
    }

    /// Whether nothing keeps instances from hearing that a numbering is given up.
    pub(super) fn tells(&self) -> bool {
        let is_harmless = |fault: &Fault| {
            matches!(
                fault.what,
                Trouble::LinkCut(_)
                    | Trouble::Restart(_)
                    | Trouble::Crash
                    | Trouble::Twice
                    | Trouble::Drain(_)
                    | Trouble::Clock(_)
                    | Trouble::ItemsSlow(_)
                    | Trouble::ReadsSlow(_)
                    | Trouble::RepliesLost
                    | Trouble::SlowWorker(..)
            )
        };
        self.knobs.positions && self.settles() && self.faults.iter().all(is_harmless)
    }

    /// Whether every client must be connected in the end, and stays so.
    fn settles(&self) -> bool {
        let usual = Knobs::usual();
        let knobs = &self.knobs;
        // There and back: the subscription, the head, and the queues to and from the relay.
        let join_us = 5 * knobs.network_us + 2 * knobs.to_worker_us + 5_000;
        knobs.per_user >= usual.per_user
            && knobs.join_timeout_ms * 1_000 > join_us
            && (knobs.messages_per_s == 0 || knobs.messages_per_s >= 5)
    }
}

impl World<'_, '_> {
    pub(super) fn judge(&self) -> Verdict {
        let settles = self.plan.settles();
        for client in 0..self.clients.len() {
            self.judge_client(client, settles)
                .map_err(|error| error.at(format!("client {client} in the end")))?;
        }
        for session in self.sessions.iter().filter(|session| session.stage == Stage::Open) {
            peers::open(session, self.moment(session.life, session.worker))?;
        }
        for life in self.instances.iter().filter_map(|instance| instance.life.as_ref()) {
            self.judge_life(life.id, settles)
                .map_err(|error| error.at(format!("instance {:?} in the end", life.id)))?;
        }
        // A broker that is set back and forth brings some publications twice.
        let is_steady = self.is_steady && !self.sets_back;
        let is_fast = self.plan.knobs.network_us <= Knobs::usual().network_us;
        self.receipts.judge(&self.truth, self.is_calm, is_steady, is_fast)?;
        rollback::once(&self.truth, self.broker.rollovers(), self.server)?;
        self.drains.judge()?;
        self.first_pings.judge("first pings")?;
        self.reconnects.judge("reconnects")?;
        self.refetches.judge("refetches")
    }

    /// Clients know of every numbering that was given up.
    pub(super) fn judge_rollovers(&self) -> Verdict {
        for session in self.sessions.iter().filter(|session| session.is_well()) {
            rollback::told(&self.truth, |stream| self.broker.place(stream), session)?;
        }
        Ok(())
    }

    fn judge_client(&self, client: usize, settles: bool) -> Verdict {
        let failed = |what: &dyn Debug| Err(Failure::new("liveness", format!("{what:?}")));
        let session = self.clients[client].session.map(|session| &self.sessions[session]);
        let Some(session) = session.filter(|session| session.is_well()) else {
            return if settles { failed(&("not connected", session)) } else { Ok(()) };
        };
        if !settles {
            return Ok(());
        }
        answers::judge(session)?;
        let member = |room: &&String| {
            let stream = self.truth.find(room);
            !stream.is_some_and(|stream| session.streams.contains_key(&stream))
        };
        let lacking: Vec<_> = self.clients[client].wants.iter().filter(member).collect();
        if !lacking.is_empty() {
            return failed(&("not joined", lacking));
        }
        if self.plan.knobs.positions {
            liveness::judge(&self.truth, |stream| self.broker.place(stream), session)?;
            if self.is_lossless {
                values::judge(&self.truth, |stream| self.broker.versions(stream), session)?;
            } else if self.is_repaired && self.plan.knobs.check_ms > 0 {
                values::judge(
                    &self.truth,
                    |stream| self.last_version(stream).into_iter(),
                    session,
                )?;
            }
        }
        Ok(())
    }

    /// The version of a value that nothing was published after; others hide that it was lost.
    fn last_version(&self, stream: StreamId) -> Option<u64> {
        let newest = self.broker.versions(stream).max()?;
        let place = self.broker.place(stream);
        let mut taken = self.truth.publications.iter().filter(|of| of.stream == stream);
        let is_last = |of: &Publication| {
            let is_value = matches!(of.class, Class::Latest(_));
            is_value && of.taken.is_some_and(|of| of.version == newest && of.node == place)
        };
        taken.any(is_last).then_some(newest)
    }

    fn judge_life(&self, id: LifeId, settles: bool) -> Verdict {
        let life = self.live(id);
        let places = life.acknowledged.iter().map(|one| {
            let taken = self.truth.publications[one.number].taken;
            taken.and_then(|taken| taken.node).expect("durable ones have a place")
        });
        let is_older = |fault: &&Fault| matches!(fault.what, Trouble::Restart(Data::Older(_)));
        let often = self.plan.faults.iter().filter(is_older).count() > 1;
        rollback::kept(&self.truth, |stream| self.broker.place(stream), places, often)?;
        let sessions = self.sessions.iter().filter(|session| session.life == id);
        let busy =
            sessions.clone().any(|session| !matches!(session.stage, Stage::Open | Stage::Gone));
        if !settles || busy {
            return Ok(());
        }
        let open = sessions.filter(|session| session.stage == Stage::Open);
        let wanted: BTreeSet<StreamId> =
            open.flat_map(|session| session.streams.keys().copied()).collect();
        let subscribed = self.broker.subscriptions((id.0, id.1, life.generation));
        interest::judge(&self.truth, &subscribed, &wanted)?;
        let streams = life.relay.stats().streams;
        if streams != wanted.len() as u64 {
            let what = format!("the relay knows {streams} streams of {}", wanted.len());
            return Err(Failure::new("interest", what));
        }
        for host in &life.hosts {
            gauges::judge(&host.shard.stats(), &host.counts)?;
        }
        Ok(())
    }

    /// All machines, by name.
    pub(super) fn machines(&self) -> Vec<Seen<'_>> {
        let lives = self.instances.iter().filter_map(|instance| instance.life.as_ref());
        let (now, mut machines) = (self.now, Vec::new());
        for life in lives {
            let (instance, boot) = life.id;
            let (name, machine) = (format!("relay {instance}.{boot}"), Machine::Relay(&life.relay));
            machines.push(Seen { name, now, machine });
            for (worker, host) in life.hosts.iter().enumerate() {
                let name = format!("shard {instance}.{boot}.{worker}");
                machines.push(Seen { name, now, machine: Machine::Shard(&host.shard) });
            }
        }
        machines
    }

    /// Fingerprints of all machines.
    pub(super) fn states(&self) -> Vec<(String, u64)> {
        let state = |seen: Seen<'_>| (seen.name, seen.machine.state_hash());
        self.machines().into_iter().map(state).collect()
    }

    /// A fingerprint of the whole run.
    pub(super) fn fingerprint(&mut self) -> u64 {
        for (_, state) in self.states() {
            self.mix(state);
        }
        self.hash
    }
}
