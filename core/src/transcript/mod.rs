//! Transcripts: what a machine was made of, what it was given and what it wanted, a JSON object a
//! line, and the proof that a bare machine wants the same once it is given the same.
//!
//! ```text
//! {"transcript":1,"machine":{"shard":{"limits":{…},"seed":7,"instance":9,"now":0,"unix":0}}}
//! {"input":{"at":5000,"input":{"Heard":{"conn":{"slot":0,"generation":1}}}}}
//! {"wants":{"list":[],"bytes":""}}
//! {"walk":{"delivery":0,"at_most":128}}
//! {"members":[{"slot":0,"generation":1}]}
//! {"state":"00c0ffee00c0ffee"}
//! ```
//!
//! The first line says what the machine was made of. Then each thing that it was given is followed
//! by its answer, and every so often by a fingerprint of its state. All of it is derived from the
//! types themselves, so that a new input or action is in transcripts without further ado.

pub(crate) mod latin1;
mod recorded;
mod replay;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use recorded::Recorded;
pub use replay::{Machine, Replay, ReplayError};

use crate::{
    id::{BootId, ConnectionId, DeliveryId},
    limits::{RelayLimits, ShardLimits},
    time::{Instant, UnixMillis},
};

/// Takes a transcript.
pub trait Sink: fmt::Debug {
    /// Takes the next line, without a line feed. What a machine is given comes before the machine
    /// sees it, so that a panic is in the transcript too.
    fn line(&mut self, line: &[u8]);
}

impl<S: Sink + ?Sized> Sink for Box<S> {
    fn line(&mut self, line: &[u8]) {
        (**self).line(line);
    }
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct First {
    transcript: u8,
    machine: Origin,
}

/// What a machine was made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Origin {
    Shard { limits: ShardLimits, seed: u64, instance: u64, now: Instant, unix: UnixMillis },
    Relay { limits: RelayLimits, boot: BootId, seed: u64, now: Instant },
}

/// What a machine was given.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Given<I> {
    Input { at: Instant, input: I },
    Walk { delivery: DeliveryId, at_most: usize },
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer<'a, A> {
    Wants(&'a A),
    Members(&'a [ConnectionId]),
    State(String),
}

/// The form of transcripts that is written and read. There is no telling what a machine of another
/// version would want, so an older form is of no use.
const FORMAT: u8 = 1;

/// Inputs from one fingerprint of the state to the next: one takes as long as some ten inputs a
/// connection.
const STATE_EVERY: u64 = 1_000;
