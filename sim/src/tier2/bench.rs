//! How much processor time the whole service takes in simulation.

use super::{
    cli,
    plan::{CallPlan, ClientPlan, Habit, Plan, PublishPlan, USERS},
};
use crate::{cli::Powers, tier1::Answer};

/// Runs two plans without faults, of a usual size and a large one.
pub(crate) fn run(powers: Powers) -> Result<Answer, String> {
    let mut text = String::new();
    for (pods, clients, seconds) in [(3, 6, 20), (5, 1_000, 60)] {
        let plan = plan(pods, clients, seconds);
        let from = (powers.cpu_seconds)();
        let outcome = cli::run(plan, false, None, powers.forbid_raw_entropy)?;
        let took = (powers.cpu_seconds)() - from;
        text.push_str(&format!(
            "{pods} instances, {clients} clients, {seconds} s: {took:.2} s of processor time, {} \
             inputs, {} messages heard\n",
            outcome.inputs, outcome.heard,
        ));
        if let Some(wrong) = outcome.wrong.first() {
            return Ok((1, format!("{text}{wrong}\n")));
        }
    }
    Ok((0, text))
}

/// Everybody is in one of three rooms, and hears of each of them once in a while.
fn plan(pods: usize, clients: usize, seconds: u64) -> Plan {
    let end_ms = 1_000 * seconds;
    let client = |number: usize| ClientPlan {
        // A user may not have more than some connections.
        user: (number < 2 * USERS.len()).then(|| USERS[number % USERS.len()].to_owned()),
        at_ms: 500 + number as u64 % 2_000,
        rooms: vec![room(number)],
        habit: Habit::Steady,
        since: false,
    };
    let publish = |number: usize| PublishPlan {
        at_ms: 3_000 + 200 * number as u64,
        pod: number % pods,
        call: CallPlan::Broadcast { room: room(number), exclude: None },
        keyed: false,
        padding: 100,
    };
    let count = usize::try_from((end_ms - 8_000) / 200).unwrap_or_default();
    Plan {
        seed: 0,
        workers: vec![2; pods],
        latency_ms: (2, 10),
        knobs: Vec::new(),
        clients: (0..clients).map(client).collect(),
        publishes: (0..count).map(publish).collect(),
        clocks_ms: Vec::new(),
        faults: Vec::new(),
        quiet_ms: end_ms - 5_000,
        last_ms: end_ms - 2_000,
        end_ms,
    }
}

fn room(number: usize) -> String {
    format!("event:{}", 1 + number % 3)
}
