//! The plan that a seed stands for. Each seed enables a random subset of what clients do and of
//! what goes wrong: what is rare when everything happens is common in some of the seeds.

mod scenes;

use realtime_core::rng::Rng;

use crate::{
    plan::{Class, ClientPlan, Data, Fault, Knobs, Plan, PublishPlan, Step, Trouble},
    random::labelled,
    tier2,
};

/// Publications and faults end here; what follows is the quiet tail.
const BUSY_MS: u64 = 20_000;

/// How much there is of everything, and how much of it at once.
#[derive(Clone, Copy, Debug)]
struct Scale {
    instances: usize,
    users: u64,
    rooms: u64,
    /// Everybody is on one shard, and most of it happens in one room.
    is_crowded: bool,
    /// Much happens in the same moments.
    is_burst: bool,
    /// Nothing is lost, at most delayed.
    is_calm: bool,
}

impl Plan {
    /// The plan that a seed stands for: one of 16 is the plan of that seed in tier 2.
    pub fn from_seed(seed: u64) -> Self {
        if seed % 16 == 15 {
            return tier2::plan::Plan::from_seed(seed).lowered();
        }
        let mut rng = labelled(seed, "plan");
        let mut knobs = knobs(&mut labelled(seed, "knobs"));
        let mut histories = labelled(seed, "knobs/history");
        if histories.below(4) == 0 {
            knobs.history = [1, 3, 10][index(histories.below(3))];
        }
        let mut checks = labelled(seed, "knobs/checks");
        if checks.below(2) == 0 {
            knobs.check_ms = [500, 2_000, 10_000][index(checks.below(3))];
        }
        let is_calm = rng.below(4) == 0;
        if is_calm {
            knobs.calm();
            if rng.below(2) == 0 {
                knobs.network_us = 50_000; // More happens at once.
            }
        }
        let is_crowded = rng.below(4) == 0;
        if is_crowded {
            knobs.workers = 1;
            if !is_calm {
                knobs.to_worker_us = [1_000, 20_000, 200_000][index(rng.below(3))];
            }
            knobs.walk_chunk = 1 + index(rng.below(3));
        }
        let many = rng.below(8) == 0;
        let instances = match is_crowded {
            true => 1,
            false => 1 + rng.below(if many { 8 } else { 3 }),
        };
        let scale = Scale {
            instances: index(instances),
            users: 1 + rng.below(4),
            rooms: 1 + rng.below(if many { 12 } else { 3 }),
            is_crowded,
            is_burst: is_crowded || rng.below(3) == 0,
            is_calm,
        };
        let starts = (0..instances)
            .map(|n| if n > 0 && rng.below(4) == 0 { rng.below(BUSY_MS) } else { 0 })
            .collect();
        let mut steps = subset(&mut labelled(seed, "swarm/steps"), STEP_KINDS);
        steps.retain(|kind| !is_calm || *kind != STALL);
        let fewest = if is_crowded { 5 } else { 2 };
        let mut clients: Vec<_> = (0..fewest + rng.below(if many { 40 } else { 7 }))
            .map(|n| client(&mut labelled(seed, &format!("client/{n}")), &knobs, scale, &steps))
            .collect();
        if scale.is_burst {
            clients.iter_mut().for_each(|client| align(client, is_crowded));
        }
        let tail = 2 * knobs.ping_ms + knobs.linger_ms + 45_000;
        let mut plan = Self {
            seed,
            clients,
            publishes: publishes(&mut labelled(seed, "publish"), scale, knobs.check_ms > 0),
            faults: Vec::new(),
            instances: starts,
            knobs,
            quiet_ms: BUSY_MS,
            end_ms: BUSY_MS + tail,
        };
        plan.go_wrong(&mut rng, scale);
        plan.add_scenes(scale);
        plan.outlast_tokens();
        plan
    }

    /// A clock that is slow keeps tokens alive for longer: the last must be long gone in the end.
    fn outlast_tokens(&mut self) {
        if self.faults.iter().any(|fault| matches!(fault.what, Trouble::Clock(_))) {
            self.end_ms += 20_000;
        }
    }

    /// Adds what goes wrong.
    fn go_wrong(&mut self, rng: &mut Rng, scale: Scale) {
        let Scale { is_calm, is_crowded, is_burst, .. } = scale;
        if !is_calm || rng.below(2) == 0 {
            let kinds = if is_calm { HARMLESS } else { TROUBLES };
            self.faults = faults(self.seed, self, scale, kinds);
        }
        if is_crowded && !is_calm {
            let cuts = rng.below(9);
            self.faults.extend((1..=cuts).map(|burst| cut_in_burst(rng, burst)));
        }
        let is_impatient = rng.below(2) == 0;
        if is_impatient && self.has(|what| matches!(what, Trouble::Unsubscribable(_))) {
            self.knobs.join_timeout_ms = 500;
        }
        if is_burst && !is_crowded && rng.below(2) == 0 {
            // While much is on its way.
            for fault in &mut self.faults {
                fault.at_ms = fault.at_ms / BURST_MS * BURST_MS + fault.at_ms % 64;
            }
        }
    }
}

fn knobs(rng: &mut Rng) -> Knobs {
    let usual = Knobs::usual();
    let mut odd = |usual: u64, odd: &[u64]| {
        if rng.below(5) == 0 { odd[index(rng.below(odd.len() as u64))] } else { usual }
    };
    let small = |n: u64| u32::try_from(n).expect("knobs are small");
    Knobs {
        in_flight: small(odd(usual.in_flight.into(), &[1, 2, 5, 16])),
        linger_ms: odd(usual.linger_ms, &[1, 50, 1_000]),
        held_bytes: index(odd(usual.held_bytes as u64, &[1, 500, 2_000])),
        coalesced_bytes: index(odd(usual.coalesced_bytes as u64, &[0, 200])),
        expected: small(odd(usual.expected.into(), &[0, 2])),
        head_reads: small(odd(usual.head_reads.into(), &[1])),
        history: usual.history,
        check_ms: usual.check_ms,
        ping_ms: odd(usual.ping_ms, &[500, 2_000, 5_000]),
        join_timeout_ms: odd(usual.join_timeout_ms, &[3, 100, 500, 500]),
        per_user: small(odd(usual.per_user.into(), &[1, 2])),
        rooms: small(odd(usual.rooms.into(), &[1, 2])),
        messages_per_s: small(odd(usual.messages_per_s.into(), &[1, 5])),
        errors: small(odd(usual.errors.into(), &[1, 3])),
        outbox_bytes: index(odd(usual.outbox_bytes as u64, &[300, 1_000, 4_000])),
        walk_chunk: index(odd(usual.walk_chunk as u64, &[1, 1, 2, 3])),
        to_worker_us: odd(usual.to_worker_us, &[0, 20_000, 200_000]),
        network_us: odd(usual.network_us, &[0, 100, 50_000]),
        positions: odd(1, &[0, 1]) == 1,
        workers: u16::try_from(1 + rng.below(4)).expect("at most 4"),
    }
}

fn client(rng: &mut Rng, knobs: &Knobs, scale: Scale, kinds: &[u64]) -> ClientPlan {
    let at_ms = if rng.below(3) == 0 { 1_000 } else { rng.below(6_000) };
    let count = if rng.below(4) == 0 { rng.below(30) } else { rng.below(8) };
    let count = if scale.is_crowded { 10 + count } else { count };
    let mut steps: Vec<_> = (0..count)
        .map(|_| {
            let at = at_ms + rng.below(BUSY_MS - 1_000 - at_ms);
            (at, step(rng, at, scale, kinds))
        })
        .collect();
    if rng.below(2) == 0 {
        steps.push((at_ms + 1, Step::Join(room(rng, scale))));
    }
    if (scale.is_crowded || kinds.contains(&QUIT)) && rng.below(2) == 0 {
        steps.push((at_ms + rng.below(50), Step::Quit)); // Maybe in the handshake.
    }
    steps.sort_by_key(|(at, _)| *at);
    let anonymous_of_4 = if scale.is_crowded { 2 } else { 1 };
    let user = (rng.below(4) >= anonymous_of_4).then(|| format!("user-{}", rng.below(scale.users)));
    ClientPlan {
        token_ms: (user.is_some() && rng.below(5) == 0).then(|| 1_000 + rng.below(40_000)),
        user,
        instance: index(rng.below(scale.instances as u64)),
        worker: u16::try_from(rng.below(knobs.workers.into())).expect("below a u16"),
        at_ms,
        since: rng.below(2) == 0,
        steps,
    }
}

/// Lets a client do everything when most is published.
fn align(client: &mut ClientPlan, is_crowded: bool) {
    for (n, (at, _)) in (0..).zip(&mut client.steps) {
        *at = *at / BURST_MS * BURST_MS + n % 8;
    }
    // Not all in the same moment: one may get the slot of another that did not stay.
    let wave = if is_crowded { client.at_ms % 3 } else { client.at_ms / BURST_MS };
    let at_ms = wave * BURST_MS + client.at_ms % 64;
    for (at, _) in client.steps.iter_mut().filter(|(at, _)| *at < client.at_ms + 50) {
        *at = at_ms + *at % 50;
    }
    client.at_ms = at_ms;
    client.steps.sort_by_key(|(at, _)| *at);
}

/// When something happens in a burst: with the first, or a little later.
fn burst(at_ms: u64) -> u64 {
    let later = if at_ms.is_multiple_of(2) { 0 } else { at_ms % 64 };
    at_ms / BURST_MS * BURST_MS + later
}

/// From one burst of publications to the next, where there are bursts.
const BURST_MS: u64 = 700;

const STEP_KINDS: u64 = 9;

/// The kind of step with which a client goes.
const QUIT: u64 = 6;

/// The kind of step after which a client reads nothing.
const STALL: u64 = 8;

fn step(rng: &mut Rng, at: u64, scale: Scale, kinds: &[u64]) -> Step {
    let kind = match rng.below(3) {
        0 if !kinds.is_empty() => kinds[index(rng.below(kinds.len() as u64))],
        _ => 0,
    };
    match kind {
        1 => Step::Ping,
        2 => Step::Garbage(byte(rng.below(8))),
        3 => Step::Subscribe,
        4 => Step::Refresh(byte(rng.below(4))),
        5 => Step::Misbehave,
        QUIT => Step::Quit,
        7 => Step::Vanish,
        STALL => Step::Stall(1 + rng.below((BUSY_MS - at).min(15_000))),
        _ if rng.below(3) == 0 => Step::Leave(room(rng, scale)),
        _ => Step::Join(room(rng, scale)),
    }
}

fn publishes(rng: &mut Rng, scale: Scale, is_compared: bool) -> Vec<PublishPlan> {
    let classes = rng.below(4);
    let excludes = rng.below(2) == 0;
    let durable_of_4 = 1 + rng.below(2);
    let fewest = if scale.is_crowded { 100 } else { 20 };
    let mut publishes: Vec<_> = (0..fewest + rng.below(200))
        .map(|_| {
            let at_ms = rng.below(BUSY_MS);
            let mut publish = PublishPlan {
                at_ms: if scale.is_burst { burst(at_ms) } else { at_ms },
                instance: index(rng.below(scale.instances as u64)),
                stream: stream(rng, scale),
                class: match rng.below(4) {
                    n if n < durable_of_4 => Class::Durable,
                    3 if classes & 2 != 0 => Class::Ingress,
                    _ if classes & 1 != 0 => Class::Latest(byte(rng.below(3))),
                    _ => Class::Durable,
                },
                exclude: (excludes && rng.below(4) == 0)
                    .then(|| format!("user-{}", rng.below(scale.users))),
                bytes: if rng.below(20) == 0 { 2_000 } else { index(rng.below(40)) },
                ack: false,
            };
            let is_for_one = publish.stream.starts_with("user:");
            publish.ack = is_for_one && publish.class == Class::Durable && rng.below(2) == 0;
            publish
        })
        .collect();
    publishes.sort_by_key(|publish| publish.at_ms);
    if is_compared {
        return publishes;
    }
    let users = (0..scale.users).map(|n| format!("user:user-{n}"));
    let streams: Vec<String> = (0..scale.rooms)
        .map(|n| format!("event:{n}"))
        .chain(users)
        .chain([String::from("all"), String::from("vip:1")])
        .collect();
    // What is lost last is only seen when something follows, if streams are not compared.
    for at_ms in [BUSY_MS + 30_000, BUSY_MS + 35_000] {
        for (n, stream) in (0..).zip(&streams) {
            publishes.push(PublishPlan {
                at_ms: at_ms + n * 7,
                instance: index(n) % scale.instances,
                stream: stream.clone(),
                class: Class::Durable,
                exclude: None,
                bytes: 0,
                ack: false,
            });
        }
    }
    publishes
}

const TROUBLES: u64 = 25;

/// Kinds of trouble with which everything goes on, and that may last all the time.
const DEGRADING: [u64; 11] = [0, 1, 2, 3, 4, 8, 9, 10, 11, 23, 24];

/// Kinds of trouble below this one make nothing be missed.
const HARMLESS: u64 = 6;

fn faults(seed: u64, plan: &Plan, scale: Scale, kinds: u64) -> Vec<Fault> {
    let mut rng = labelled(seed, "faults");
    let kinds = subset(&mut labelled(seed, "swarm/faults"), kinds);
    if kinds.is_empty() {
        return Vec::new();
    }
    let count = 1 + rng.below(12);
    (0..count)
        .map(|n| {
            let mut rng = labelled(seed, &format!("fault/{n}"));
            let kind = kinds[index(rng.below(kinds.len() as u64))];
            // Nothing much happens while an instance or the broker is away.
            let duration = if DEGRADING.contains(&kind) { rng.below(4) } else { 1 + rng.below(3) };
            let (at_ms, lasts_ms) = match duration {
                0 => (0, BUSY_MS),
                // Often early, when everybody comes.
                1 => (rng.below(2_000), 1 + rng.below(8_000)),
                2 => (rng.below(BUSY_MS - 8_000), 1 + rng.below(8_000)),
                _ => (rng.below(BUSY_MS - 500), 1 + rng.below(500)),
            };
            Fault {
                at_ms,
                lasts_ms,
                instance: index(rng.below(scale.instances as u64)),
                what: trouble(&mut rng, kind, plan, scale, lasts_ms),
            }
        })
        .collect()
}

fn trouble(rng: &mut Rng, kind: u64, plan: &Plan, scale: Scale, lasts_ms: u64) -> Trouble {
    match kind {
        0 => Trouble::Twice,
        1 | 2 => Trouble::ReadsSlow(1 + rng.below(3_000)),
        3 => Trouble::RepliesLost,
        4 => Trouble::SlowWorker(
            u16::try_from(rng.below(plan.knobs.workers.into())).expect("below a u16"),
            1 + rng.below(2_000),
        ),
        5 => {
            let step = i64::try_from(rng.below(10_000)).expect("below 10,000");
            Trouble::Clock(step - 5_000)
        }
        6 => Trouble::LinkCut(0),
        // The broker still sends to the old connection when the new one is up.
        7 => Trouble::LinkCut(lasts_ms + rng.below(4_000)),
        8 | 9 => Trouble::Lossy(50 + rng.below(950)),
        10 | 11 => Trouble::Unconfirmed(200 + rng.below(800)),
        12 | 13 => Trouble::Unsubscribable(200 + rng.below(800)),
        14 => Trouble::ReadsFail,
        15 => Trouble::Restart(Data::Kept),
        16 => Trouble::Restart(Data::Lost),
        17 => Trouble::Restart(Data::Older(rng.below(5_000))),
        18 => Trouble::Evict(stream(rng, scale)),
        19 => Trouble::Freeze,
        20 => Trouble::Crash,
        21 | 22 => Trouble::Drain(rng.below(6_000)),
        // Now and then for longer than anybody waits for an answer.
        _ if rng.below(8) == 0 => Trouble::ItemsSlow(1_000 + rng.below(9_000)),
        _ => Trouble::ItemsSlow(1 + rng.below(1_000)),
    }
}

/// The connection is cut when much is on its way and some are about to join.
fn cut_in_burst(rng: &mut Rng, burst: u64) -> Fault {
    let lasts_ms = 1 + rng.below(500);
    let ghost = if rng.below(2) == 0 { 0 } else { lasts_ms + rng.below(1_000) };
    let at_ms = burst * BURST_MS + 4 + rng.below(32);
    Fault { at_ms, lasts_ms, instance: 0, what: Trouble::LinkCut(ghost) }
}

/// A random subset of the numbers from 0 to `count` - 1, small or large: sometimes one of them.
fn subset(rng: &mut Rng, count: u64) -> Vec<u64> {
    let density = rng.below(4);
    if density == 0 {
        return vec![rng.below(count)];
    }
    (0..count).filter(|_| rng.below(4) < density).collect()
}

fn stream(rng: &mut Rng, scale: Scale) -> String {
    match rng.below(if scale.is_crowded { 12 } else { 8 }) {
        0..4 => room(rng, scale),
        4..7 => format!("user:user-{}", rng.below(scale.users)),
        _ => String::from("all"),
    }
}

/// The first room is the largest: it takes more than its share.
fn room(rng: &mut Rng, scale: Scale) -> String {
    let crowds = if scale.is_crowded { 3 } else { 1 };
    let n = if rng.below(4) < crowds { 0 } else { rng.below(scale.rooms + 1) };
    // One that needs a grant.
    if n == scale.rooms { String::from("vip:1") } else { format!("event:{n}") }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("plans are small")
}

fn byte(n: u64) -> u8 {
    u8::try_from(n).expect("a small choice")
}
