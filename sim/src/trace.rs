//! What the traces of both tiers have in common: JSON lines of integers and texts, with simulated
//! time only. The first line says what makes the same run again; from time to time one has the
//! fingerprints of all machines; the last one is the verdict.

use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    version: String,
    pub(crate) tier: u8,
    seed: u64,
    /// Whether it has every detail there is.
    pub(crate) full: bool,
    /// What was checked out when it was written. It differs from run to run, as does all else in
    /// here, only when the program does.
    commit: String,
    rustc: String,
    /// Names the versions of all that is used.
    lock: String,
    plan_hash: String,
    /// In the form of the tier.
    pub(crate) plan: Box<RawValue>,
}

impl Header {
    /// Of the trace of a plan.
    pub(crate) fn new(tier: u8, seed: u64, full: bool, plan: &impl Serialize) -> Self {
        let plan = serde_json::value::to_raw_value(plan).expect("a plan is plain data");
        let lock = include_bytes!("../../Cargo.lock");
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tier,
            seed,
            full,
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            rustc: env!("COMPILER").to_owned(),
            lock: format!("{:016x}", fnv1a(FNV_BASIS, lock)),
            plan_hash: format!("{:016x}", fnv1a(FNV_BASIS, plan.get().as_bytes())),
            plan,
        }
    }

    /// Without a line feed.
    pub(crate) fn line(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }
}

/// What is checked out, with a mark when that was changed. Asked when a trace is written and not
/// when the program is built: it would have to be built again with each commit.
fn commit() -> Option<String> {
    let folder = env!("CARGO_MANIFEST_DIR");
    let arguments = ["-C", folder, "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"];
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// A line with the fingerprints of all machines and of all that has happened so far.
pub(crate) fn states(n: u64, hash: u64, states: &[(String, u64)]) -> String {
    let states: Vec<_> =
        states.iter().map(|(name, hash)| format!(r#""{name}":"{hash:016x}""#)).collect();
    format!(r#"{{"n":{n},"hash":"{hash:016x}","states":{{{}}}}}"#, states.join(","))
}

/// The last line.
pub(crate) fn verdict(hash: u64, verdict: &str) -> String {
    format!(r#"{{"hash":"{hash:016x}","verdict":{}}}"#, Value::from(verdict))
}

/// Continues the hash of what came before by `bytes`.
pub(crate) fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The hash of nothing.
pub(crate) const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// Lines from one with the machines' states to the next.
pub(crate) const STATES_EVERY: u64 = 1_000;
