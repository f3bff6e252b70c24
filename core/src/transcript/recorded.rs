//! Machines whose transcripts are taken.

use std::{io, ops::Deref};

use serde::Serialize;
use serde_json::ser::Formatter;

use super::{Answer, FORMAT, First, Given, Origin, STATE_EVERY, Sink};
use crate::{
    id::{BootId, ConnectionId, DeliveryId},
    limits::{RelayLimits, ShardLimits},
    relay::{self, Relay},
    shard::{self, Shard},
    time::{Instant, UnixMillis},
};

/// A machine, and where its transcript goes. Nothing changes the machine but what is taken down.
#[derive(Debug)]
pub struct Recorded<M, S> {
    machine: M,
    scribe: Option<Scribe<S>>,
}

impl<S: Sink> Recorded<Shard, S> {
    /// A shard as [`Shard::new`] makes it. Without a sink nothing is taken down.
    pub fn shard(
        limits: ShardLimits,
        seed: u64,
        instance: u64,
        now: Instant,
        unix: UnixMillis,
        sink: Option<S>,
    ) -> Self {
        let scribe = sink.map(|sink| {
            Scribe::new(sink, Origin::Shard { limits: limits.clone(), seed, instance, now, unix })
        });
        Self { machine: Shard::new(limits, seed, instance, now, unix), scribe }
    }

    /// See [`Shard::handle`].
    ///
    /// # Panics
    /// As that does.
    pub fn handle(&mut self, now: Instant, input: shard::Input<'_>, actions: &mut shard::Actions) {
        let Self { machine, scribe } = self;
        let Some(scribe) = scribe else { return machine.handle(now, input, actions) };
        scribe.write(&Given::Input { at: now, input: &input });
        machine.handle(now, input, actions);
        scribe.write(&Answer::Wants(&*actions));
        scribe.state(|| machine.state_hash());
    }

    /// See [`Shard::next_members`]. `out` must be empty.
    ///
    /// # Panics
    /// As that does.
    pub fn next_members(
        &mut self,
        delivery: DeliveryId,
        at_most: usize,
        out: &mut Vec<ConnectionId>,
    ) {
        let Self { machine, scribe } = self;
        let Some(scribe) = scribe else { return machine.next_members(delivery, at_most, out) };
        scribe.write(&Given::<()>::Walk { delivery, at_most });
        machine.next_members(delivery, at_most, out);
        scribe.write(&Answer::<()>::Members(out));
    }
}

impl<S: Sink> Recorded<Relay, S> {
    /// A relay as [`Relay::new`] makes it. Without a sink nothing is taken down.
    pub fn relay(
        limits: RelayLimits,
        boot: BootId,
        seed: u64,
        now: Instant,
        sink: Option<S>,
    ) -> Self {
        let scribe = sink.map(|sink| {
            Scribe::new(sink, Origin::Relay { limits: limits.clone(), boot, seed, now })
        });
        Self { machine: Relay::new(limits, boot, seed, now), scribe }
    }

    /// See [`Relay::handle`].
    ///
    /// # Panics
    /// As that does.
    pub fn handle(&mut self, now: Instant, input: relay::Input, actions: &mut Vec<relay::Action>) {
        let Self { machine, scribe } = self;
        let Some(scribe) = scribe else { return machine.handle(now, input, actions) };
        scribe.write(&Given::Input { at: now, input: &input });
        machine.handle(now, input, actions);
        scribe.write(&Answer::Wants(&*actions));
        scribe.state(|| machine.state_hash());
    }
}

impl<M, S> Recorded<M, S> {
    /// Where the transcript goes.
    pub(super) fn sink(&mut self) -> Option<&mut S> {
        self.scribe.as_mut().map(|scribe| &mut scribe.sink)
    }
}

/// What can be asked without changing anything.
impl<M, S> Deref for Recorded<M, S> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.machine
    }
}

/// Takes down.
#[derive(Debug)]
struct Scribe<S> {
    sink: S,
    line: Vec<u8>,
    inputs: u64,
}

impl<S: Sink> Scribe<S> {
    fn new(sink: S, machine: Origin) -> Self {
        let mut scribe = Self { sink, line: Vec::new(), inputs: 0 };
        scribe.write(&First { transcript: FORMAT, machine });
        scribe
    }

    fn write(&mut self, line: &impl Serialize) {
        self.line.clear();
        let mut serializer = serde_json::Serializer::with_formatter(&mut self.line, Texts);
        line.serialize(&mut serializer).expect("it is plain data, and memory does not fail");
        self.sink.line(&self.line);
        self.line.shrink_to(LINE_BYTES_KEPT_MAX);
    }

    /// An input was taken down; from time to time the state is.
    fn state(&mut self, hash: impl FnOnce() -> u64) {
        self.inputs += 1;
        if self.inputs.is_multiple_of(STATE_EVERY) {
            self.write(&Answer::<()>::State(format!("{:016x}", hash())));
        }
    }
}

/// Writes bytes as a text where they are one.
struct Texts;

impl Formatter for Texts {
    fn write_byte_array<W>(&mut self, writer: &mut W, value: &[u8]) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        match str::from_utf8(value) {
            Ok(text) => serde_json::to_writer(writer, text).map_err(io::Error::from),
            Err(_) => serde_json::to_writer(writer, value).map_err(io::Error::from),
        }
    }
}

/// What is kept of the memory that a long line has needed.
const LINE_BYTES_KEPT_MAX: usize = 1 << 16;
