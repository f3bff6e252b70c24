//! Transcripts, played to a bare machine.

use std::{collections::VecDeque, error::Error, fmt};

use serde::Deserialize;
use serde_json::Value;

use super::{FORMAT, First, Given, Origin, Recorded, Sink};
use crate::{
    relay::{self, Relay},
    shard::{self, Shard},
    time::Instant,
};

/// A bare machine that is given what a transcript says, and must write the same transcript, byte
/// for byte. Takes the lines as they come, so that it can run beside the machine that writes them.
#[derive(Debug, Default)]
pub struct Replay {
    twin: Option<Twin>,
    /// What it is to be given next: kept until the answer is there, so that the other machine is
    /// the first to panic.
    given: Option<String>,
    lines: u64,
    inputs: u64,
    now: Instant,
}

#[derive(Debug)]
enum Twin {
    Shard(Box<Recorded<Shard, Written>>),
    Relay(Box<Recorded<Relay, Written>>),
}

/// A machine of either kind.
#[derive(Clone, Copy, Debug)]
pub enum Machine<'a> {
    /// The client side of a worker.
    Shard(&'a Shard),
    /// The cluster side of an instance.
    Relay(&'a Relay),
}

impl Machine<'_> {
    /// A fingerprint of its whole state.
    pub fn state_hash(self) -> u64 {
        match self {
            Self::Shard(shard) => shard.state_hash(),
            Self::Relay(relay) => relay.state_hash(),
        }
    }
}

/// What the twin has written, and the transcript does not have yet.
#[derive(Debug, Default)]
struct Written(VecDeque<Vec<u8>>);

/// Why a replay has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// A line is not one of a transcript.
    Malformed {
        /// Which one, from 1 on.
        line: u64,
        /// Why.
        reason: String,
    },
    /// The bare machine says something else.
    Differs {
        /// In which line, from 1 on.
        line: u64,
        /// What the transcript says.
        recorded: String,
        /// What the bare machine says.
        replayed: String,
    },
}

impl Replay {
    /// Takes the next line of a transcript, without its line feed. After an error it is over.
    ///
    /// # Errors
    /// The bare machine differs, or this is no transcript.
    ///
    /// # Panics
    /// As the machine does.
    pub fn line(&mut self, line: &str) -> Result<(), ReplayError> {
        self.lines += 1;
        let number = self.lines;
        let malformed = |reason| ReplayError::Malformed { line: number, reason };
        if self.twin.is_none() {
            self.twin = Some(Twin::made(line).map_err(malformed)?);
            let echo = self.written().and_then(VecDeque::pop_front).unwrap_or_default();
            return same(number, line, &echo);
        }
        if let Some(given) = self.given.take() {
            self.give(&given, number - 1)?;
        }
        match self.written().and_then(VecDeque::pop_front) {
            Some(written) => same(number, line, &written),
            None => {
                self.given = Some(line.to_owned());
                Ok(())
            }
        }
    }

    /// The transcript ends here. Gives the number of inputs, those without an answer included.
    ///
    /// # Errors
    /// The bare machine differs, or this is no transcript.
    ///
    /// # Panics
    /// As the machine does: then the transcript is of a machine that panicked.
    pub fn finish(mut self) -> Result<u64, ReplayError> {
        if let Some(given) = self.given.take() {
            self.give(&given, self.lines)?;
        }
        Ok(self.inputs)
    }

    /// The bare machine, to be looked at; none before the first line. It has not been given what it
    /// was not seen to answer.
    pub fn machine(&self) -> Option<Machine<'_>> {
        Some(match self.twin.as_ref()? {
            Twin::Shard(shard) => Machine::Shard(shard),
            Twin::Relay(relay) => Machine::Relay(relay),
        })
    }

    /// When it was given something last, by its own clock.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Gives the machine what is in line `number`.
    fn give(&mut self, given: &str, number: u64) -> Result<(), ReplayError> {
        let Some(twin) = &mut self.twin else { return Ok(()) };
        self.inputs += 1;
        let malformed = |reason| ReplayError::Malformed { line: number, reason };
        let at = twin.give(given).map_err(|error| malformed(error.to_string()))?;
        self.now = at.unwrap_or(self.now);
        // What was read must be what was written.
        let echo = self.written().and_then(VecDeque::pop_front).unwrap_or_default();
        same(number, given, &echo)
    }

    fn written(&mut self) -> Option<&mut VecDeque<Vec<u8>>> {
        let sink = match self.twin.as_mut()? {
            Twin::Shard(shard) => shard.sink(),
            Twin::Relay(relay) => relay.sink(),
        };
        Some(&mut sink?.0)
    }
}

impl Twin {
    /// The machine of the first line.
    fn made(line: &str) -> Result<Self, String> {
        let First { transcript, machine } =
            serde_json::from_str(line).map_err(|error| error.to_string())?;
        if transcript != FORMAT {
            return Err(format!("form {transcript}; only form {FORMAT} can be read"));
        }
        let sink = Some(Written::default());
        Ok(match machine {
            Origin::Shard { limits, seed, instance, now, unix } => {
                Self::Shard(Box::new(Recorded::shard(limits, seed, instance, now, unix, sink)))
            }
            Origin::Relay { limits, boot, seed, now } => {
                Self::Relay(Box::new(Recorded::relay(limits, boot, seed, now, sink)))
            }
        })
    }

    /// Gives the time of an input.
    fn give(&mut self, given: &str) -> serde_json::Result<Option<Instant>> {
        // Read in two steps, since an input borrows its texts, which are escaped in the line.
        let value: Value = serde_json::from_str(given)?;
        match self {
            Self::Shard(shard) => match Given::<shard::Input<'_>>::deserialize(&value)? {
                Given::Input { at, input } => {
                    shard.handle(at, input, &mut shard::Actions::default());
                    Ok(Some(at))
                }
                Given::Walk { delivery, at_most } => {
                    shard.next_members(delivery, at_most, &mut Vec::new());
                    Ok(None)
                }
            },
            Self::Relay(relay) => match Given::<relay::Input>::deserialize(&value)? {
                Given::Input { at, input } => {
                    relay.handle(at, input, &mut Vec::new());
                    Ok(Some(at))
                }
                Given::Walk { .. } => Ok(None),
            },
        }
    }
}

impl Sink for Written {
    fn line(&mut self, line: &[u8]) {
        self.0.push_back(line.to_vec());
    }
}

fn same(line: u64, recorded: &str, replayed: &[u8]) -> Result<(), ReplayError> {
    if recorded.as_bytes() == replayed {
        return Ok(());
    }
    let replayed = String::from_utf8_lossy(replayed).into_owned();
    Err(ReplayError::Differs { line, recorded: recorded.to_owned(), replayed })
}

impl Error for ReplayError {}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { line, reason } => write!(f, "line {line}: {reason}"),
            Self::Differs { line, recorded, replayed } => {
                let pairs = recorded.chars().zip(replayed.chars());
                let same = pairs.take_while(|(one, other)| one == other).count();
                let part = |text: &str| {
                    let from = same.saturating_sub(CONTEXT_CHARS);
                    text.chars().skip(from).take(2 * CONTEXT_CHARS).collect::<String>()
                };
                let (recorded, replayed) = (part(recorded), part(replayed));
                write!(f, "line {line}, at {same}: recorded …{recorded}… replayed …{replayed}…")
            }
        }
    }
}

/// Characters that are shown before and behind the place where lines begin to differ.
const CONTEXT_CHARS: usize = 60;
