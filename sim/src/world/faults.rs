//! What goes wrong, from its start to its end.

use std::time::Duration;

use crate::{
    oracle::Verdict,
    plan::{Data, Fault, Trouble, moment},
};

use super::{
    Event, World,
    instance::{HostEvent, ShardEvent},
};

impl World<'_, '_> {
    pub(super) fn schedule_faults(&mut self) {
        for (n, fault) in self.plan.faults.iter().enumerate() {
            if let Trouble::Restart(Data::Older(age)) = fault.what {
                self.at(moment(fault.at_ms.saturating_sub(age)), Event::Copy);
            }
            self.at(moment(fault.at_ms), Event::Fault(n));
            self.at(moment(fault.at_ms + fault.lasts_ms), Event::Heal(n));
        }
    }

    pub(super) fn strike(&mut self, fault: usize) {
        self.active.insert(fault);
        let Fault { instance, at_ms, ref what, .. } = self.plan.faults[fault];
        match what {
            Trouble::LinkCut(ghost) => {
                self.cut[instance] += 1;
                self.unlink(instance, Duration::from_millis(*ghost));
            }
            Trouble::Restart(data) => {
                self.broker_down += 1;
                self.server += 1;
                self.server_is_gone();
                for instance in 0..self.instances.len() {
                    self.unlink(instance, Duration::ZERO);
                }
                for link in self.broker.links() {
                    self.broker.disconnect(link);
                }
                match data {
                    Data::Kept => {}
                    Data::Lost => self.broker.lose(),
                    Data::Older(age) => self.broker.set_back(moment(at_ms.saturating_sub(*age))),
                }
            }
            Trouble::Evict(stream) => {
                let stream = self.truth.stream(stream);
                self.broker.evict(stream);
            }
            Trouble::Freeze => {
                if let Some(life) = &mut self.instances[instance].life {
                    life.frozen = true;
                }
            }
            Trouble::Crash => {
                if self.instances[instance].life.is_some() {
                    self.end_life(instance);
                }
            }
            Trouble::Drain(period) => self.drain(fault, instance, *period),
            Trouble::Clock(step) => self.step_clock(instance, *step),
            Trouble::Lossy(_)
            | Trouble::Twice
            | Trouble::Unconfirmed(_)
            | Trouble::Unsubscribable(_)
            | Trouble::ReadsFail
            | Trouble::ReadsSlow(_)
            | Trouble::ItemsSlow(_)
            | Trouble::RepliesLost
            | Trouble::SlowWorker(..) => {}
        }
    }

    fn drain(&mut self, fault: usize, instance: usize, period: u64) {
        let back = moment(self.plan.faults[fault].at_ms + self.plan.faults[fault].lasts_ms);
        let Some(life) = &mut self.instances[instance].life else { return };
        if life.drained.is_some() {
            return;
        }
        life.drained = Some(0);
        life.back = back;
        let (id, workers) = (life.id, life.hosts.len());
        for worker in 0..workers {
            let event =
                HostEvent::Shard(ShardEvent::Draining(worker, Duration::from_millis(period)));
            self.pending.push_back((id, event));
        }
    }

    fn step_clock(&mut self, instance: usize, step: i64) {
        let Some(life) = &mut self.instances[instance].life else { return };
        life.skew_ms += step;
        let (id, workers) = (life.id, life.hosts.len());
        for worker in 0..workers {
            self.pending.push_back((id, HostEvent::Shard(ShardEvent::WallClock(worker))));
        }
    }

    pub(super) fn heal(&mut self, fault: usize) -> Verdict {
        self.active.remove(&fault);
        let Fault { instance, ref what, .. } = self.plan.faults[fault];
        match what {
            Trouble::LinkCut(_) => {
                self.cut[instance] -= 1;
                self.try_link(instance);
            }
            Trouble::Restart(_) => {
                self.broker_down -= 1;
                for instance in 0..self.instances.len() {
                    // One may be late, and find out last what is lost.
                    let is_late = self.people.below(4) == 0;
                    let longest = Duration::from_millis(if is_late { 5_000 } else { 500 });
                    let wait = self.some(longest);
                    let life = self.instances[instance].life.as_ref().map(|life| life.id);
                    life.inspect(|life| self.after(wait, Event::Reconnected(*life)));
                    let wait = self.some(Duration::from_millis(1_500));
                    self.after(wait, Event::TryLink(instance));
                }
            }
            Trouble::Freeze => self.thaw(instance)?,
            Trouble::Crash => {
                if self.plan.instances[instance] <= self.now.0 / 1_000_000 {
                    self.boot(instance);
                }
            }
            Trouble::Evict(_)
            | Trouble::Drain(_)
            | Trouble::Clock(_)
            | Trouble::Lossy(_)
            | Trouble::Twice
            | Trouble::Unconfirmed(_)
            | Trouble::Unsubscribable(_)
            | Trouble::ReadsFail
            | Trouble::ReadsSlow(_)
            | Trouble::ItemsSlow(_)
            | Trouble::RepliesLost
            | Trouble::SlowWorker(..) => {}
        }
        Ok(())
    }

    /// An instance goes on with what came while it stood still.
    fn thaw(&mut self, instance: usize) -> Verdict {
        if self.has_trouble(instance, |what| matches!(what, Trouble::Freeze)) {
            return Ok(()); // Another one lasts longer.
        }
        let Some(life) = &mut self.instances[instance].life else { return Ok(()) };
        life.frozen = false;
        let id = life.id;
        for event in std::mem::take(&mut life.deferred) {
            self.host(id, event)?;
            self.carry_on()?;
        }
        Ok(())
    }
}
