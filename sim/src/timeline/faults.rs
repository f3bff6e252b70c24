//! The faults of a plan, with whom they hit.

use serde_json::Value;

use crate::{
    plan::{self, Trouble},
    tier2::plan::{self as tier2, Fault, pod_name},
};

use super::Band;

/// The faults of a plan, as it is written in the first line of a trace.
pub(crate) fn bands(tier: u64, plan: &Value) -> Result<Vec<Band>, String> {
    let read = if tier == 1 { of_tier_1 } else { of_tier_2 };
    read(plan.clone()).map_err(|error| format!("the plan of the trace: {error}"))
}

fn of_tier_1(plan: Value) -> serde_json::Result<Vec<Band>> {
    let plan: plan::Plan = serde_json::from_value(plan)?;
    let bands = plan.faults.into_iter().map(|fault| {
        let host = if is_about_an_instance(&fault.what) {
            pod_name(fault.instance)
        } else {
            REDIS.to_owned()
        };
        Band {
            name: format!("{:?}", fault.what),
            hosts: vec![host],
            from_ms: fault.at_ms,
            to_ms: fault.at_ms + fault.lasts_ms,
        }
    });
    Ok(bands.collect())
}

fn is_about_an_instance(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::LinkCut(_)
        | Trouble::Freeze
        | Trouble::SlowWorker(..)
        | Trouble::Crash
        | Trouble::Drain(_)
        | Trouble::Clock(_) => true,
        Trouble::Lossy(_)
        | Trouble::Twice
        | Trouble::Unconfirmed(_)
        | Trouble::Unsubscribable(_)
        | Trouble::ReadsFail
        | Trouble::ReadsSlow(_)
        | Trouble::ItemsSlow(_)
        | Trouble::RepliesLost
        | Trouble::Restart(_)
        | Trouble::Evict(_) => false,
    }
}

fn of_tier_2(plan: Value) -> serde_json::Result<Vec<Band>> {
    let plan: tier2::Plan = serde_json::from_value(plan)?;
    let bands = plan.faults.into_iter().map(|(from_ms, fault)| {
        let name = format!("{fault:?}");
        let (hosts, ms) = match fault {
            Fault::Cut { a, b, ms } | Fault::Hold { a, b, ms } => (vec![a, b], ms),
            Fault::CutOneWay { from, to, ms } => (vec![from, to], ms),
            Fault::Crash { pod, ms } | Fault::PowerLoss { pod, ms } => (vec![pod_name(pod)], ms),
            Fault::Drain { pod } => (vec![pod_name(pod)], 0),
            Fault::CrashRedis { ms, .. } | Fault::Refuse { ms, .. } => (vec![REDIS.to_owned()], ms),
            Fault::Keep | Fault::KillSubscribers | Fault::Deafen | Fault::Evict { .. } => {
                (vec![REDIS.to_owned()], 0)
            }
        };
        // Nothing is still broken in the quiet.
        Band { name, hosts, from_ms, to_ms: (from_ms + ms).min(plan.quiet_ms.max(from_ms)) }
    });
    Ok(bands.collect())
}

const REDIS: &str = "redis";
