//! Plans in words.

use std::collections::BTreeMap;

use crate::{
    plan::{Class, Knobs, Plan},
    tier2,
    timeline::{self, Band},
};

/// A plan of tier 1.
pub(crate) fn tier1(plan: &Plan) -> String {
    let shards = plan.knobs.workers;
    let mut text = format!(
        "seed {}: {} of {shards} shards each, with a model broker; quiet from {} on, over at {}\n",
        plan.seed,
        count(plan.instances.len(), "instance"),
        seconds(plan.quiet_ms),
        seconds(plan.end_ms),
    );
    for (number, start) in plan.instances.iter().enumerate().filter(|(_, start)| **start > 0) {
        text.push_str(&format!("instance {number} starts at {}\n", seconds(*start)));
    }
    let usual = serde_json::to_value(Knobs::usual()).expect("knobs are plain data");
    let knobs = serde_json::to_value(&plan.knobs).expect("knobs are plain data");
    let knobs = knobs.as_object().into_iter().flatten();
    let odd = knobs.filter(|(name, value)| usual.get(name.as_str()) != Some(*value));
    text.push_str(&limits(odd.map(|(name, value)| format!("{name} {value}"))));
    text.push_str(&format!("\n{}\n", count(plan.clients.len(), "client")));
    for (number, client) in plan.clients.iter().enumerate() {
        let token = client.token_ms.map(|ms| format!(", with tokens for {}", seconds(ms)));
        text.push_str(&format!(
            "  client {number}, {}, connects at {} to worker {} of instance {}{}: {}\n",
            whom(client.user.as_ref()),
            seconds(client.at_ms),
            client.worker,
            client.instance,
            token.unwrap_or_default(),
            often(client.steps.iter().map(|(_, step)| kind(step))),
        ));
    }
    let classes = plan.publishes.iter().map(|publish| match publish.class {
        Class::Durable => format!("durable to {}", publish.stream),
        Class::Latest(_) => format!("latest to {}", publish.stream),
        Class::Ingress => format!("by ingress to {}", publish.stream),
    });
    text.push_str(&format!("\n{}: ", count(plan.publishes.len(), "publication")));
    text.push_str(&format!("{}\n\n", often(classes)));
    text + &faults(1, plan)
}

/// A plan of tier 2.
pub(crate) fn tier2(plan: &tier2::plan::Plan) -> String {
    let workers: Vec<_> = plan.workers.iter().map(ToString::to_string).collect();
    let (low, high) = plan.latency_ms;
    let mut text = format!(
        "seed {}: {} with {} workers, Redis, a publisher; {low} to {high} ms from host to host; \
         quiet from {} on, over at {}\n",
        plan.seed,
        count(plan.workers.len(), "instance"),
        workers.join(" and "),
        seconds(plan.quiet_ms),
        seconds(plan.end_ms),
    );
    text.push_str(&limits(plan.knobs.iter().map(|(name, value)| format!("{name}={value}"))));
    let ahead = plan.clocks_ms.iter().map(|(host, ms)| format!("{host} by {ms} ms"));
    let ahead: Vec<_> = ahead.collect();
    text.push_str(&format!("clocks that are ahead: {}\n", some(&ahead.join(", "))));
    text.push_str(&format!("\n{}\n", count(plan.clients.len(), "client")));
    for (number, client) in plan.clients.iter().enumerate() {
        text.push_str(&format!(
            "  client {number}, {}, {}, connects at {} and joins {}\n",
            whom(client.user.as_ref()),
            kind(&client.habit).to_lowercase(),
            seconds(client.at_ms),
            some(&client.rooms.join(", ")),
        ));
    }
    let calls = plan.publishes.iter().map(|publish| {
        format!("{} to {}", kind(&publish.call).to_lowercase(), publish.call.stream())
    });
    text.push_str(&format!("\n{}: ", count(plan.publishes.len(), "call")));
    text.push_str(&format!("{}\n\n", often(calls)));
    text + &faults(2, plan)
}

/// What goes wrong, in the order of time.
fn faults(tier: u64, plan: &impl serde::Serialize) -> String {
    let plan = serde_json::to_value(plan).expect("a plan is plain data");
    let mut bands = timeline::bands(tier, &plan).expect("it is a plan of this tier");
    bands.sort_by_key(|band| band.from_ms);
    let mut text = format!("{}\n", count(bands.len(), "fault"));
    for Band { name, hosts, from_ms, to_ms } in bands {
        let (from, lasts) = (seconds(from_ms), to_ms - from_ms);
        let lasts = if lasts == 0 { String::new() } else { format!(", for {}", seconds(lasts)) };
        // `Cut { a: "pod0", ms: 50 }` becomes `Cut a: pod0, ms: 50`.
        let name = name.replace(" { ", " ").replace(" }", "").replace('"', "");
        text.push_str(&format!("  at {from}{lasts}: {name}; hits {}\n", hosts.join(" and ")));
    }
    text
}

fn limits(limits: impl Iterator<Item = String>) -> String {
    let limits: Vec<_> = limits.collect();
    format!("other limits than usual: {}\n", some(&limits.join(", ")))
}

fn whom(user: Option<&String>) -> String {
    user.map_or_else(|| "anonymous".to_owned(), |user| format!("user {user}"))
}

/// The name of a variant.
fn kind(variant: &impl std::fmt::Debug) -> String {
    let text = format!("{variant:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// Each once, with how often it is there.
fn often(things: impl Iterator<Item = String>) -> String {
    let mut times = BTreeMap::<String, u32>::new();
    things.for_each(|thing| *times.entry(thing).or_default() += 1);
    let times: Vec<_> = times.iter().map(|(thing, times)| format!("{times} {thing}")).collect();
    some(&times.join(", ")).to_owned()
}

fn some(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn count(number: usize, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1_000, ms % 1_000)
}
