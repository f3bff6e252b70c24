//! Bugs that are planted on purpose, one at a time, to prove that the simulation sees them. Only
//! its own builds have them, and none is on unless it is selected.

use std::cell::Cell;

thread_local! {
    static SELECTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Every planted bug.
pub const NAMES: &[&str] = &[
    "lose sight of an unconfirmed subscription",
    "let joins put off a subscription",
    "skip resubscribe after reconnect",
    "answer a join before its stream is live",
    "forget to unsubscribe",
    "forward to a vacated room",
    "read the head before the subscription is confirmed",
    "forget whom a resync is owed",
    "accept an item of an older connection",
    "say nothing of a gap",
    "drop what was held",
    "let an old latest value follow a newer message",
    "send no latest values after a join",
    "send latest values behind what was missed",
    "let a latest value that was read come again",
    "forget the values that came while others were read",
    "catch up without a resync",
    "take any order for the right one",
    "drop on a full hand-off without a mark",
    "deliver twice to a user's other worker",
    "fill no gap",
    "overhear that a stream is rolled over",
    "compare no stream with the broker",
    "compare only what is ahead",
    "compare no values",
    "leave out the first missed one",
    "call a trimmed history whole",
    "resume what is excluded",
    "wait for receipts for ever",
    "count a receipt twice",
    "report each worker",
    "take anybody's acknowledgement",
    "let nobody acknowledge what is resumed",
    "wait for no acknowledgement",
    "keep acknowledgements for other instances",
    "forget a seat that was moved",
    "ignore generations of slots",
    "ping in bursts",
    "lose the heartbeat of a slot that is used again",
    "reconnect without jitter",
    "drain all at once",
    "let slow peers stay",
    "let expired tokens stay",
    "let newcomers in during a drain",
    "let an outbox overflow",
    "count a delivery before it is handed over",
    "deliver to the excluded user",
    "coalesce across exclusions",
    "let a leave overtake the join",
    "forget what waited for a failed join",
    "let a failed join overtake a fan-out",
    "seat a member in the middle of a fan-out",
    "skip a member after one has left",
    "walk past the end after one has left",
];

/// Turns one bug on in this thread, and the others off.
pub fn select(name: Option<&'static str>) {
    SELECTED.set(name);
}

/// Whether a bug is on.
pub fn on(name: &'static str) -> bool {
    SELECTED.get() == Some(name)
}
