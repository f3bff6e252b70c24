//! The judges. Each looks at what clients and publishers saw, and at what the broker really did;
//! none believes what a machine says of itself, except to compare it with that.

pub mod acks;
pub mod answers;
pub mod audience;
pub mod drain;
pub mod epochs;
pub mod gauges;
pub mod interest;
pub mod jitter;
pub mod liveness;
pub mod order;
pub mod peers;
pub mod receipts;
pub mod rollback;
pub mod values;
pub mod work;

use std::fmt;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which judge says so: shrinking keeps to it.
    pub oracle: &'static str,
    /// What happened.
    pub what: String,
}

impl Failure {
    /// A broken promise.
    pub fn new(oracle: &'static str, what: impl Into<String>) -> Self {
        Self { oracle, what: what.into() }
    }

    /// The same, with who saw it.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oracle, self.what)
    }
}

/// What a judge says.
pub type Verdict = Result<(), Failure>;
