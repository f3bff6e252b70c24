//! Bare machines beside those of the instances. They are given the same, and must want the same:
//! proof that an instance decides nothing itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use realtime_core::{
    time::Instant,
    transcript::{Replay, ReplayError, Sink},
};
use realtime_runtime::record::Recorder;

use super::trace;
use crate::{at::Seen, oracle::work::Work};

/// All of them. Machines live in threads elsewhere, so it can be sent, too.
#[derive(Clone, Debug, Default)]
pub(super) struct Twins(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    made: u64,
    /// Those of living machines, by when they were made.
    living: BTreeMap<u64, (String, Replay)>,
    work: Work,
    played: Played,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Played {
    /// What they have been given altogether.
    pub(super) inputs: u64,
    /// Rare situations that the machines reached.
    pub(super) reached: BTreeSet<String>,
    /// Where twins differed.
    pub(super) wrong: Vec<String>,
}

impl Twins {
    /// A twin for a machine of this name.
    pub(super) fn recorder(&self, name: String) -> Recorder {
        let mut inner = self.lock();
        inner.made += 1;
        let number = inner.made;
        inner.living.insert(number, (name, Replay::default()));
        Some(Box::new(Twin { number, twins: self.clone() }))
    }

    /// Fingerprints of those of living machines.
    pub(super) fn states(&self) -> Vec<(String, u64)> {
        let mut states = Vec::new();
        self.show(|machines| {
            let state = |seen: &Seen<'_>| (seen.name.clone(), seen.machine.state_hash());
            states.extend(machines.iter().map(state));
        });
        states
    }

    /// Shows those of living machines.
    pub(super) fn show(&self, show: impl FnOnce(&[Seen<'_>])) {
        let inner = self.lock();
        let machines = inner.living.values();
        let machines = machines.filter_map(|(name, replay)| {
            let (name, now) = (name.clone(), replay.now());
            Some(Seen { name, now, machine: replay.machine()? })
        });
        show(&machines.collect::<Vec<_>>());
    }

    /// The run is over.
    pub(super) fn end(&self) -> Played {
        let mut inner = self.lock();
        while let Some((number, _)) = inner.living.first_key_value() {
            let number = *number;
            inner.bury(number);
        }
        inner.played.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The machine is gone.
    fn bury(&mut self, number: u64) {
        let Some((name, replay)) = self.living.remove(&number) else { return };
        match replay.finish() {
            Ok(inputs) => self.played.inputs += inputs,
            Err(error) => self.differs(&name, &error),
        }
    }

    fn differs(&mut self, name: &str, error: &ReplayError) {
        self.played.wrong.push(format!("replay: the twin of {name} differs: {error}"));
    }
}

/// Plays a transcript to one of them.
#[derive(Debug)]
struct Twin {
    number: u64,
    twins: Twins,
}

impl Sink for Twin {
    fn line(&mut self, line: &[u8]) {
        let mut inner = self.twins.lock();
        if let Err(error) = inner.work.happened(Instant(trace::now_us() * 1_000)) {
            inner.played.wrong.push(error.to_string());
        }
        // One that has differed is gone.
        let Some((_, replay)) = inner.living.get_mut(&self.number) else { return };
        let line = String::from_utf8_lossy(line);
        let error = replay.line(&line).err();
        // Within a text the quotes would be escaped.
        for rest in line.split("{\"Reach\":\"").skip(1) {
            let name = rest.split('"').next().unwrap_or_default();
            if !inner.played.reached.contains(name) {
                inner.played.reached.insert(name.to_owned());
            }
        }
        if let Some(error) = error
            && let Some((name, _)) = inner.living.remove(&self.number)
        {
            inner.differs(&name, &error);
        }
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        self.twins.lock().bury(self.number);
    }
}
