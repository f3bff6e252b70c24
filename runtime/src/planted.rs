//! Bugs that are planted on purpose in the runtime, as `realtime_core::planted` has them in the
//! machines, by which they are turned on. Only the builds of the simulation have them.

/// Every planted bug of the runtime.
pub const NAMES: &[&str] = &[
    "reuse an epoch",
    "drain without readiness",
    "let a value take the place of a message",
    "conflate across events",
    "keep a latest value in the history",
    "forget idempotency keys",
    "let an outbox grow without bounds",
    "look for nothing at another server",
    "give a numbering up once per instance",
];
