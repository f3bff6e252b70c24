//! The machines as they are at a line of a trace: its plan is run again up to there.

use std::{fs, path::Path};

use realtime_core::{relay::Relay, shard::Shard, time::Instant, transcript::Machine};

use crate::{plan::Plan, tier2, trace::Header, world};

/// What a trace was made by.
#[derive(Debug)]
pub enum Made {
    /// Shards and relays alone.
    Tier1(Plan),
    /// The whole service; with full logs or without.
    Tier2(tier2::plan::Plan, bool),
}

/// Reads the first line of a trace.
///
/// # Errors
/// It can't be read, or is none.
pub fn made(path: &Path) -> Result<Made, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    let line = text.lines().next().unwrap_or_default();
    let header: Header = serde_json::from_str(line).map_err(|error| failed(&error))?;
    let plan = header.plan.get();
    match header.tier {
        1 => serde_json::from_str(plan).map(Made::Tier1),
        _ => serde_json::from_str(plan).map(|plan| Made::Tier2(plan, header.full)),
    }
    .map_err(|error| failed(&error))
}

/// A machine to be looked at.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Of which instance it is, and which of its machines.
    pub name: String,
    /// The time by its own clock.
    pub now: Instant,
    /// Itself.
    pub machine: Machine<'a>,
}

/// The machines of a run of tier 1 when its trace has `line` lines.
pub fn tier1(plan: &Plan, line: u64, is_full: bool) -> String {
    let mut text = String::new();
    world::look(plan, line, &mut |now, machines| {
        text = describe(now, machines, is_full);
    });
    text
}

/// Machines at a moment, in words; with all that is in them, if that is wanted.
pub(crate) fn describe(now: Instant, machines: &[Seen<'_>], is_full: bool) -> String {
    let mut text = format!("at {}\n", seconds(now));
    for Seen { name, now, machine } in machines {
        let hash = machine.state_hash();
        text.push_str(&format!("\n{name}, state {hash:016x}, its clock {}\n", seconds(*now)));
        text.push_str(&match machine {
            Machine::Shard(shard) => of_shard(shard),
            Machine::Relay(relay) => of_relay(relay, *now),
        });
        if is_full {
            text.push_str(&match machine {
                Machine::Shard(shard) => format!("{shard:#?}\n"),
                Machine::Relay(relay) => format!("{relay:#?}\n"),
            });
        }
    }
    text
}

fn of_shard(shard: &Shard) -> String {
    let stats = shard.stats();
    let mut rooms = Vec::new();
    shard.rooms(&mut |room, members| rooms.push(format!("{} {members}", room.as_str())));
    let next = shard.next_deadline();
    let next = next.map(|(at, reason)| format!("{reason:?} at {}", seconds(at)));
    format!(
        "  connections: {} of users, {} anonymous, {} in their handshake, {} congested, {} to be \
         drained\n  joins that wait: {}\n  members: {}\n  next deadline: {}\n",
        stats.authenticated,
        stats.anonymous,
        stats.handshaking,
        stats.congested,
        stats.draining,
        stats.parked_joins,
        some(&rooms.join(", ")),
        some(&next.unwrap_or_default()),
    )
}

fn of_relay(relay: &Relay, now: Instant) -> String {
    let peers = relay.peers(now);
    let peers: Vec<_> = peers.iter().map(|peer| format!("{:016x}", peer.beat.boot.0)).collect();
    let next = relay.next_deadline().map(seconds).unwrap_or_default();
    format!(
        "  counted: {:?}\n  other instances: {}\n  next deadline: {}\n",
        relay.stats(),
        some(&peers.join(", ")),
        some(&next),
    )
}

fn some(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn seconds(at: Instant) -> String {
    format!("{}.{:06} s", at.0 / 1_000_000_000, at.0 % 1_000_000_000 / 1_000)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_machines_at_a_line_are_those_whose_fingerprints_the_trace_has_there() {
        let plan = Plan::from_seed(7);
        let mut trace = Vec::new();
        world::run_traced(&plan, Some(&mut trace)).verdict.unwrap();
        let trace = String::from_utf8(trace).unwrap();
        let mut checked = 0;
        for line in trace.lines().skip(1).filter(|line| line.contains("\"states\"")) {
            let line: Value = serde_json::from_str(line).unwrap();
            let seen = tier1(&plan, line["n"].as_u64().unwrap(), false);
            for (name, hash) in line["states"].as_object().unwrap() {
                let machine = format!("{name}, state {}", hash.as_str().unwrap());
                assert!(seen.contains(&machine), "{machine} in {seen}");
                checked += 1;
            }
        }
        assert!(checked > 3);
    }

    #[test]
    fn a_trace_says_what_it_was_made_by() {
        let plan = Plan::from_seed(7);
        let folder = std::env::temp_dir();
        let path = folder.join(format!("realtime-sim-made-{}.jsonl", std::process::id()));
        let written = Header::new(1, plan.seed, true, &plan).line();
        fs::write(&path, format!("{written}\n{{}}\n")).unwrap();
        let read = made(&path);
        fs::remove_file(&path).unwrap();
        assert!(matches!(read.unwrap(), Made::Tier1(other) if other == plan));
        assert_eq!(written, Header::new(1, plan.seed, true, &plan).line(), "the same bytes");
        assert!(written.contains("\"rustc\":\"rustc 1."), "{written}");
    }
}
