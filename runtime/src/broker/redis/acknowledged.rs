//! What publishers were told of late, and that a server which is in the place of another still has
//! it.
//!
//! Redis may lose what it has acknowledged: its machine fails before the disk or a replica has it.
//! Whoever was away then, or had not heard it yet, has nothing to tell that by, if the lost
//! publication was the last of its stream, or if others took its place. The instance that published
//! it knows, and looks for it before it publishes anything else.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use realtime_core::{id::Position, relay::RunId, stream::StreamName, time::Instant};
use redis::{Cmd, cmd};

use super::{hex, millis, names::Names, place, scripts::Scripts};
use crate::{clock::Clock, entropy};

/// The acknowledged publications of one lane.
#[derive(Debug)]
pub(super) struct Acknowledged {
    names: Names,
    position_ttl: Duration,
    scripts: Arc<Scripts>,
    clock: Clock,
    publications_max: usize,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    /// In the order in which they were acknowledged.
    publications: VecDeque<Publication>,
    /// How many have left the list.
    forgotten: u64,
    /// Too many have come at once for all of them to be remembered.
    overflowed: bool,
}

#[derive(Debug)]
struct Publication {
    acknowledged: Instant,
    stream: StreamName,
    position: Position,
    /// The server that has it.
    run_id: RunId,
}

/// What is to be looked for: the last publication of each numbering of a stream. One that was given
/// up may be back.
#[derive(Debug)]
pub(super) struct Wanted {
    places: Vec<(StreamName, Position)>,
    /// The number of the first publication that it says nothing of.
    end: u64,
}

impl Acknowledged {
    /// Remembers up to `publications_max`.
    pub(super) fn new(
        names: Names,
        position_ttl: Duration,
        scripts: Arc<Scripts>,
        publications_max: usize,
    ) -> Self {
        let (clock, list) = (Clock::new(), Mutex::default());
        Self { names, position_ttl, scripts, clock, publications_max, list }
    }

    /// The server `run_id` has acknowledged a publication.
    pub(super) fn add(&self, stream: StreamName, position: Position, run_id: RunId) {
        let acknowledged = self.clock.now();
        let mut list = self.list();
        list.forget_before(acknowledged);
        if list.publications.len() >= self.publications_max {
            list.forget_first();
            if !std::mem::replace(&mut list.overflowed, true) {
                let most = self.publications_max;
                tracing::warn!(most, "more was published than can be looked for if redis loses it");
            }
        }
        list.publications.push_back(Publication { acknowledged, stream, position, run_id });
    }

    /// The server is gone: what is old now is not looked for at the next one, whenever that comes.
    pub(super) fn server_is_gone(&self) {
        let now = self.clock.now();
        self.list().forget_before(now);
    }

    /// What the server `run_id` has not shown to have.
    pub(super) fn wanted(&self, run_id: RunId) -> Wanted {
        let list = self.list();
        let is_unseen = |one: &&Publication| {
            one.run_id != run_id && !planted!("look for nothing at another server")
        };
        let unseen = list.publications.iter().filter(is_unseen);
        let mut last: BTreeMap<_, Position> = BTreeMap::new();
        for Publication { stream, position, .. } in unseen {
            let known = last.entry((stream, position.epoch)).or_insert(*position);
            if position.offset > known.offset {
                *known = *position;
            }
        }
        let places = last.into_iter().map(|((stream, _), position)| (stream.clone(), position));
        Wanted { places: places.collect(), end: list.forgotten + list.publications.len() as u64 }
    }

    /// The server `run_id` has all of `wanted`, or has given numberings up.
    pub(super) fn settled(&self, wanted: &Wanted, run_id: RunId) {
        let mut list = self.list();
        let count = wanted.end.saturating_sub(list.forgotten);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        list.publications.iter_mut().take(count).for_each(|one| one.run_id = run_id);
    }

    /// The commands that look for it. Each answers in how many streams something is lost.
    pub(super) fn commands<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = Cmd> + 'a {
        wanted.places.chunks(STREAMS_PER_COMMAND).map(|places| {
            let mut command = cmd("EVAL"); // Too rarely for a server to know it.
            command.arg(self.scripts.verify.code).arg(places.len() * 2);
            for (stream, _) in places {
                command.arg(self.names.key(stream, "meta")).arg(self.names.key(stream, "log"));
            }
            let epochs = places.iter().map(|(_, position)| position.epoch);
            let newest = epochs.max().unwrap_or_default();
            let epoch = entropy::epoch_after(newest, entropy::fresh_epoch(self.clock));
            command.arg(millis(self.position_ttl)).arg(hex(epoch.0));
            for (stream, mut position) in places.iter().cloned() {
                if planted!("give a numbering up once per instance") {
                    position.epoch.0 |= 0xF << 60; // Later than any other.
                }
                command.arg(self.names.channel(&stream)).arg(&place(position));
            }
            command
        })
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn forget_before(&mut self, now: Instant) {
        let is_old = |one: &Publication| now.saturating_since(one.acknowledged) > REMEMBERED;
        while self.publications.front().is_some_and(is_old) {
            self.forget_first();
            self.overflowed = false;
        }
    }

    fn forget_first(&mut self) {
        self.forgotten += u64::from(self.publications.pop_front().is_some());
    }
}

impl Wanted {
    /// Of how many numberings.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}

/// How long a publication is remembered. The promise is half a minute; that the server is gone may
/// be found out a few seconds late.
const REMEMBERED: Duration = Duration::from_secs(40);

/// Streams that are looked at in one command: less than a millisecond of Redis' time.
const STREAMS_PER_COMMAND: usize = 256;

#[cfg(test)]
mod tests {
    use realtime_core::id::{BootId, Epoch, Mid};

    use super::*;

    fn acknowledged(publications_max: usize) -> Acknowledged {
        let names = Names::new("p:", BootId(1), true);
        let ttl = Duration::from_secs(60);
        Acknowledged::new(names, ttl, Arc::new(Scripts::new()), publications_max)
    }

    fn stream(name: &str) -> StreamName {
        StreamName::room(name).unwrap()
    }

    fn position(epoch: u64, offset: u64) -> Position {
        Position { epoch: Epoch(epoch), offset, mid: Mid(offset) }
    }

    /// What is looked for at a server, as its streams and their places.
    fn wanted(acknowledged: &Acknowledged, run_id: RunId) -> Vec<(String, u64, u64)> {
        let Wanted { places, .. } = acknowledged.wanted(run_id);
        let place =
            |(name, at): (StreamName, Position)| (name.as_str().to_owned(), at.epoch.0, at.offset);
        places.into_iter().map(place).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_each_numbering_is_looked_for_at_another_server() {
        let acknowledged = acknowledged(10);
        for (name, place) in [
            ("event:1", position(1, 1)),
            ("event:2", position(1, 1)),
            ("event:1", position(1, 2)),
            ("event:1", position(2, 3)),
        ] {
            acknowledged.add(stream(name), place, 1);
        }
        assert_eq!(wanted(&acknowledged, 1), []);
        let all = ["event:1", "event:1", "event:2"].map(str::to_owned);
        let [first, second, third] = all;
        let expected = [(first, 1, 2), (second, 2, 3), (third, 1, 1)];
        assert_eq!(wanted(&acknowledged, 2), expected);
        assert_eq!(wanted(&acknowledged, 3), expected, "it has not been found yet");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_others_are_looked_for_is_not_taken_for_found() {
        let acknowledged = acknowledged(2);
        acknowledged.add(stream("event:1"), position(1, 1), 1);
        acknowledged.add(stream("event:2"), position(1, 1), 1);
        let asked = acknowledged.wanted(2);
        acknowledged.add(stream("event:3"), position(1, 1), 1); // The first one is forgotten.
        acknowledged.settled(&asked, 2);
        assert_eq!(wanted(&acknowledged, 2), [("event:3".to_owned(), 1, 1)]);
        assert_eq!(wanted(&acknowledged, 3).len(), 2, "a third one is asked for both");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_acknowledged_long_before_the_end_of_a_server_is_not_looked_for() {
        let acknowledged = acknowledged(10);
        acknowledged.add(stream("event:1"), position(1, 1), 1);
        tokio::time::advance(REMEMBERED / 2).await;
        acknowledged.add(stream("event:2"), position(1, 1), 1);
        tokio::time::advance(REMEMBERED / 2 + Duration::from_millis(1)).await;
        acknowledged.server_is_gone();
        tokio::time::advance(REMEMBERED * 10).await; // Until another one comes.
        assert_eq!(wanted(&acknowledged, 2), [("event:2".to_owned(), 1, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn many_streams_are_looked_at_in_commands_of_256() {
        let acknowledged = acknowledged(1_000);
        for number in 0..600 {
            acknowledged.add(stream(&format!("event:{number}")), position(1, 1), 1);
        }
        let wanted = acknowledged.wanted(2);
        let sizes = acknowledged.commands(&wanted).map(|command| command.args_iter().count());
        let size = |streams: usize| 3 + 2 * streams + 2 + 4 * streams;
        assert_eq!(sizes.collect::<Vec<_>>(), [size(256), size(256), size(88)]);
    }
}
