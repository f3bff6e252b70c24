//! Bare machines beside those of the instances. They are given the same, and must want the same:
//! proof that an instance decides nothing itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use realtime_core::transcript::{Replay, ReplayError, Sink};
use realtime_runtime::record::Recorder;

/// All of them. Machines live in threads elsewhere, so it can be sent, too.
#[derive(Clone, Debug, Default)]
pub(super) struct Twins(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    made: u64,
    /// Those of living machines, by when they were made.
    living: BTreeMap<u64, (String, Replay)>,
    wrong: Vec<String>,
    inputs: u64,
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

    /// What they have been given altogether, and where they differed.
    pub(super) fn end(&self) -> (u64, Vec<String>) {
        let mut inner = self.lock();
        while let Some((number, _)) = inner.living.first_key_value() {
            let number = *number;
            inner.bury(number);
        }
        (inner.inputs, inner.wrong.clone())
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
            Ok(inputs) => self.inputs += inputs,
            Err(error) => self.differs(&name, &error),
        }
    }

    fn differs(&mut self, name: &str, error: &ReplayError) {
        self.wrong.push(format!("replay: the twin of {name} differs: {error}"));
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
        // One that has differed is gone.
        let Some((_, replay)) = inner.living.get_mut(&self.number) else { return };
        let error = match str::from_utf8(line) {
            Ok(line) => replay.line(line).err(),
            Err(error) => Some(ReplayError::Malformed { line: 0, reason: error.to_string() }),
        };
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
