//! A plan of this tier for the machines alone: the same people, calls and faults, as far as tier 1
//! knows them. What it does not: publishers that are cut off, since there they are in the instance;
//! clocks that differ by more than it judges; what a configuration has that no machine hears of.

use super::plan::{self, CallPlan, Habit, pod_name};
use crate::{
    plan::{Class, ClientPlan, Data, Fault, Knobs, Plan, PublishPlan, Step, Trouble},
    random::labelled,
};

impl plan::Plan {
    /// The same for tier 1.
    pub(crate) fn lowered(&self) -> Plan {
        let knobs = self.lowered_knobs();
        let mut clients: Vec<_> =
            (0..self.clients.len()).map(|number| self.lowered_client(number, &knobs)).collect();
        let mut faults = Vec::new();
        for (number, (at_ms, fault)) in self.faults.iter().enumerate() {
            self.lower(*at_ms, fault, &self.faults[..number], &mut faults);
            cut_off(*at_ms, fault, &mut clients);
        }
        faults.extend(self.clocks());
        clients.iter_mut().for_each(|client| client.steps.sort_by_key(|(at_ms, _)| *at_ms));
        let instances = self.workers.len();
        let publishes = self.publishes.iter().map(|publish| lowered(publish, instances));
        let mut publishes: Vec<_> = publishes.collect();
        // What is lost last is only seen when something follows.
        for at_ms in [self.quiet_ms + 30_000, self.quiet_ms + 35_000] {
            let streams = self.streams().into_iter().enumerate();
            publishes.extend(streams.map(|(number, stream)| PublishPlan {
                at_ms,
                instance: number % self.workers.len(),
                stream,
                class: Class::Durable,
                exclude: None,
                bytes: 0,
                ack: false,
            }));
        }
        publishes.sort_by_key(|publish| publish.at_ms);
        let tail_ms = 2 * knobs.ping_ms + knobs.linger_ms + 65_000;
        Plan {
            seed: self.seed,
            instances: vec![0; self.workers.len()],
            clients,
            publishes,
            faults,
            quiet_ms: self.quiet_ms,
            end_ms: self.quiet_ms + tail_ms,
            knobs,
        }
    }

    fn lowered_knobs(&self) -> Knobs {
        let knob = |name: &str| {
            let (_, value) = self.knobs.iter().find(|(knob, _)| knob == name)?;
            let digits = value.trim_end_matches(|c: char| !c.is_ascii_digit());
            let number: u64 = digits.parse().ok()?;
            Some(if value.ends_with('s') && !value.ends_with("ms") {
                1_000 * number
            } else {
                number
            })
        };
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let usual = Knobs::usual();
        let histories = ["HISTORY_SIZE", "HISTORY_SIZE_ROOM"].into_iter().filter_map(knob);
        Knobs {
            workers: self.workers.iter().copied().max().unwrap_or(1),
            history: histories.min().map_or(usual.history, size),
            check_ms: knob("POSITION_CHECK").unwrap_or(usual.check_ms),
            join_timeout_ms: knob("WS_JOIN_TIMEOUT").unwrap_or(2_000),
            per_user: knob("WS_MAX_CONNECTIONS_PER_USER")
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or(usual.per_user),
            outbox_bytes: knob("WS_OUTBOX_BYTES").map_or(usual.outbox_bytes, size),
            ping_ms: 2_500,
            network_us: 1_000 * self.latency_ms.1,
            ..usual
        }
    }

    fn lowered_client(&self, number: usize, knobs: &Knobs) -> ClientPlan {
        let client = &self.clients[number];
        let mut rng = labelled(self.seed, &format!("lowered/client/{number}"));
        let joins = client.rooms.iter().map(|room| (client.at_ms + 1, Step::Join(room.clone())));
        let mut steps: Vec<_> = joins.collect();
        let mut at_ms = client.at_ms;
        loop {
            at_ms += 200 + rng.below(2_500);
            if at_ms >= self.quiet_ms {
                break;
            }
            let room = client.rooms.first().cloned();
            match (client.habit, room) {
                (Habit::Flapping, _) => steps.push((at_ms, Step::Vanish)),
                (Habit::Sleepy, _) => {
                    steps.push((at_ms, Step::Stall(200 + rng.below(2_500))));
                }
                (Habit::Deaf, _) => steps.push((at_ms, Step::Stall(5_500 + rng.below(2_500)))),
                (Habit::Clumsy, _) => {
                    steps.push((at_ms, Step::Garbage(u8::try_from(rng.below(8)).unwrap_or(0))));
                }
                (Habit::Renewing, _) => steps.push((at_ms, Step::Refresh(0))),
                (Habit::Wandering, Some(room)) => {
                    steps.push((at_ms, Step::Leave(room.clone())));
                    steps.push((at_ms + rng.below(50), Step::Join(room)));
                }
                (Habit::Steady | Habit::Expiring | Habit::Wandering, _) => {}
            }
        }
        let is_short_lived = matches!(client.habit, Habit::Expiring | Habit::Renewing);
        ClientPlan {
            instance: number % self.workers.len(),
            worker: u16::try_from(rng.below(knobs.workers.into())).unwrap_or(0),
            token_ms: (is_short_lived && client.user.is_some()).then_some(4_000),
            user: client.user.clone(),
            at_ms: client.at_ms,
            since: client.since,
            steps,
        }
    }

    /// Adds what corresponds to a fault. `earlier` are those before it.
    fn lower(
        &self,
        at_ms: u64,
        fault: &plan::Fault,
        earlier: &[(u64, plan::Fault)],
        faults: &mut Vec<Fault>,
    ) {
        let mut add = |instance, lasts_ms: u64, what| {
            let lasts_ms = lasts_ms.min(self.quiet_ms.saturating_sub(at_ms)).max(1);
            faults.push(Fault { at_ms, lasts_ms, instance, what });
        };
        let pod = |host: &str| (0..self.workers.len()).find(|pod| pod_name(*pod) == host);
        match fault {
            plan::Fault::Cut { a, b, ms } if b == "redis" => {
                let Some(pod) = pod(a) else { return };
                add(pod, *ms, Trouble::LinkCut(*ms));
                add(pod, *ms, Trouble::ReadsFail);
                add(pod, *ms, Trouble::RepliesLost);
            }
            plan::Fault::CutOneWay { from, to, ms } => match (pod(from), pod(to)) {
                (Some(pod), _) => add(pod, *ms, Trouble::ReadsFail),
                (None, Some(pod)) => {
                    add(pod, *ms, Trouble::LinkCut(*ms));
                    add(pod, *ms, Trouble::ReadsFail);
                    add(pod, *ms, Trouble::RepliesLost);
                }
                (None, None) => {}
            },
            plan::Fault::Hold { a, b, ms } if b == "redis" => {
                let Some(pod) = pod(a) else { return };
                add(pod, *ms, Trouble::ItemsSlow(*ms));
                add(pod, *ms, Trouble::ReadsSlow(*ms));
            }
            plan::Fault::Crash { pod, ms } | plan::Fault::PowerLoss { pod, ms } => {
                add(*pod, *ms, Trouble::Crash);
            }
            plan::Fault::Drain { pod } => add(*pod, 3_000, Trouble::Drain(1_500)),
            plan::Fault::CrashRedis { ms, data } => {
                let mut kept = earlier.iter().rev();
                let kept = kept.find(|(_, fault)| *fault == plan::Fault::Keep);
                let data = match (data, kept) {
                    (plan::Data::All, _) => Data::Kept,
                    (plan::Data::Older, Some((kept_ms, _))) => Data::Older(at_ms - kept_ms),
                    (plan::Data::Nothing | plan::Data::Older, _) => Data::Lost,
                };
                add(0, *ms, Trouble::Restart(data));
            }
            plan::Fault::KillSubscribers => {
                (0..self.workers.len()).for_each(|pod| add(pod, 1, Trouble::LinkCut(0)));
            }
            plan::Fault::Deafen => {
                (0..self.workers.len()).for_each(|pod| add(pod, 3_000, Trouble::Lossy(1_000)));
            }
            plan::Fault::Refuse { ms, .. } => {
                (0..self.workers.len()).for_each(|pod| add(pod, *ms, Trouble::ReadsFail));
            }
            plan::Fault::Evict { stream, what } if what == "meta" => {
                add(0, 1, Trouble::Evict(stream.clone()));
            }
            plan::Fault::Evict { .. }
            | plan::Fault::Keep
            | plan::Fault::Cut { .. }
            | plan::Fault::Hold { .. } => {}
        }
    }

    /// Clocks of instances that differ by no more than tier 1 judges.
    fn clocks(&self) -> impl Iterator<Item = Fault> {
        (0..self.workers.len()).filter_map(|instance| {
            let (_, ms) = self.clocks_ms.iter().find(|(host, _)| *host == pod_name(instance))?;
            let what = Trouble::Clock(*ms);
            (ms.abs() <= 5_000).then_some(Fault { at_ms: 0, lasts_ms: 1, instance, what })
        })
    }
}

/// Who is cut off comes again; who is held up reads nothing.
fn cut_off(at_ms: u64, fault: &plan::Fault, clients: &mut [ClientPlan]) {
    let (host, step) = if let plan::Fault::Cut { a, .. } = fault {
        (a, Step::Vanish)
    } else if let plan::Fault::Hold { a, ms, .. } = fault {
        (a, Step::Stall(*ms))
    } else {
        return;
    };
    for (number, client) in clients.iter_mut().enumerate() {
        if plan::client_name(number % plan::CLIENT_HOSTS_MAX) == *host {
            client.steps.push((at_ms, step.clone()));
        }
    }
}

fn lowered(publish: &plan::PublishPlan, instances: usize) -> PublishPlan {
    let (class, exclude) = match &publish.call {
        CallPlan::Queue { event, .. } => (Class::Latest(*event), None),
        CallPlan::Ingress { .. } => (Class::Ingress, None),
        CallPlan::Broadcast { exclude, .. } => (Class::Durable, exclude.clone()),
        CallPlan::Send { .. } | CallPlan::Booking { .. } => (Class::Durable, None),
    };
    PublishPlan {
        at_ms: publish.at_ms,
        instance: publish.pod % instances,
        stream: publish.call.stream(),
        class,
        exclude,
        bytes: publish.padding,
        ack: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world;

    #[test]
    fn every_plan_is_one_of_tier_1_that_can_be_carried_out() {
        for seed in 0..60 {
            let plan = plan::Plan::from_seed(seed);
            let lowered = plan.lowered();
            assert_eq!(lowered.clients.len(), plan.clients.len());
            assert!(lowered.publishes.len() > plan.publishes.len());
            let is_over = |fault: &Fault| fault.at_ms + fault.lasts_ms <= lowered.quiet_ms + 1;
            assert!(lowered.faults.iter().all(is_over), "seed {seed}");
            assert_eq!(world::run(&lowered).verdict, Ok(()), "seed {seed}");
        }
    }

    #[test]
    fn what_goes_wrong_is_the_same() {
        let redis = || "redis".to_owned();
        let faults = vec![
            (1_000, plan::Fault::Keep),
            (1_200, plan::Fault::Cut { a: "pod1".to_owned(), b: redis(), ms: 300 }),
            (1_300, plan::Fault::Hold { a: "client0".to_owned(), b: "pod0".to_owned(), ms: 400 }),
            (1_500, plan::Fault::CrashRedis { ms: 50, data: plan::Data::Older }),
            (8_400, plan::Fault::Crash { pod: 0, ms: 500 }),
        ];
        let plan = plan::Plan {
            workers: vec![1, 1],
            faults,
            clocks_ms: vec![("pod1".to_owned(), -700), ("pod0".to_owned(), 90_000)],
            ..plan::Plan::from_seed(1)
        };
        let lowered = plan.lowered();
        let told = lowered.faults.iter().map(|fault| {
            let Fault { at_ms, lasts_ms, instance, what } = fault;
            format!("{at_ms} {lasts_ms} {instance} {what:?}")
        });
        let expected = [
            "1200 300 1 LinkCut(300)",
            "1200 300 1 ReadsFail",
            "1200 300 1 RepliesLost",
            "1500 50 0 Restart(Older(500))",
            "8400 100 0 Crash",
            "0 1 1 Clock(-700)",
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert!(lowered.clients[0].steps.contains(&(1_300, Step::Stall(400))));
    }

    #[test]
    fn who_publishes_what_to_whom_is_the_same() {
        let call = |call| plan::PublishPlan { at_ms: 5, pod: 3, call, keyed: true, padding: 9 };
        let exclude = Some("ann".to_owned());
        let calls = vec![
            call(CallPlan::Broadcast { room: "event:1".to_owned(), exclude }),
            call(CallPlan::Queue { user: "bob".to_owned(), event: 4 }),
            call(CallPlan::Ingress { stream: "all".to_owned() }),
        ];
        let plan = plan::Plan { workers: vec![1, 1], publishes: calls, ..plan::Plan::from_seed(1) };
        let lowered = plan.lowered();
        let told = lowered.publishes.iter().take(3).map(|publish| {
            let PublishPlan { instance, stream, class, exclude, bytes, .. } = publish;
            format!("{instance} {stream} {class:?} {exclude:?} {bytes}")
        });
        let expected = [
            "1 event:1 Durable Some(\"ann\") 9",
            "1 user:bob Latest(4) None 9",
            "1 all Ingress None 9",
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
