//! What publishers were told of late, and that a server which is in the place of another still has
//! it.
//!
//! Redis may lose what it has acknowledged: its machine fails before the disk or a replica has it.
//! Whoever was away then, or had not heard it yet, has nothing to tell that by, if the lost
//! publication was the last of its stream, or if others took its place. The instance that published
//! it knows, and looks for it before it publishes anything else.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lru::LruCache;
use realtime_core::{
    id::{Epoch, Position},
    relay::RunId,
    stream::StreamName,
    time::Instant,
};
use redis::{Cmd, cmd};

use super::{hex, millis, names::Names, place, scripts::Scripts};
use crate::{clock::Clock, entropy};

/// What servers have acknowledged on one lane.
#[derive(Debug)]
pub(super) struct Acknowledged {
    names: Names,
    position_ttl: Duration,
    scripts: Arc<Scripts>,
    clock: Clock,
    numberings_max: usize,
    list: Mutex<List>,
}

/// The last publication of each numbering: whoever has that one has those before it. The numbering
/// that was published in last comes first.
#[derive(Debug)]
struct List {
    numberings: LruCache<Numbering, Last>,
    /// Too many have come at once for all of them to be remembered.
    overflowed: bool,
    /// Something was acknowledged, or looked for, since a server was gone.
    is_fresh: bool,
}

/// A numbering of a stream, at a server that has shown that it has it. One that was given up is
/// kept apart from the one in its place: it may be back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Numbering {
    stream: StreamName,
    epoch: Epoch,
    run_id: RunId,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    position: Position,
    at: Instant,
}

/// What is to be looked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    of: Numbering,
    position: Position,
}

impl Acknowledged {
    /// Remembers up to `numberings_max`.
    pub(super) fn new(
        names: Names,
        position_ttl: Duration,
        scripts: Arc<Scripts>,
        numberings_max: usize,
    ) -> Self {
        let numberings = LruCache::unbounded();
        let list = List { numberings, overflowed: false, is_fresh: false };
        let (clock, list) = (Clock::new(), Mutex::new(list));
        Self { names, position_ttl, scripts, clock, numberings_max, list }
    }

    /// The server `run_id` has acknowledged a publication.
    pub(super) fn add(&self, stream: StreamName, position: Position, run_id: RunId) {
        let at = self.clock.now();
        let mut list = self.list();
        list.forget(at, REMEMBERED);
        list.put(Numbering { stream, epoch: position.epoch, run_id }, Last { position, at });
        if list.numberings.len() > self.numberings_max {
            list.numberings.pop_lru();
            if !std::mem::replace(&mut list.overflowed, true) {
                let most = self.numberings_max;
                tracing::warn!(most, "more streams are in use than can be looked for");
            }
        }
    }

    /// The server is gone: what is old now is not looked for at the next one, whenever that comes.
    /// Should the same one come back for a while and take nothing, as a replica, its end is the
    /// first one.
    pub(super) fn server_is_gone(&self) {
        let now = self.clock.now();
        let mut list = self.list();
        let is_first = std::mem::take(&mut list.is_fresh);
        list.forget(now, if is_first { REMEMBERED } else { REMEMBERED_WITHOUT_ANSWERS });
    }

    /// What the server `run_id` has not shown to have; of each stream the newest numbering first,
    /// which mostly has the highest offsets.
    pub(super) fn wanted(&self, run_id: RunId) -> Vec<Wanted> {
        if planted!("look for nothing at another server") {
            return Vec::new();
        }
        let list = self.list();
        let unseen = list.numberings.iter().filter(|(of, _)| of.run_id != run_id);
        let unseen = unseen.map(|(of, last)| Wanted { of: of.clone(), position: last.position });
        let mut wanted: Vec<_> = unseen.collect();
        wanted.sort_by(|one, other| {
            let by_stream = one.of.stream.cmp(&other.of.stream);
            by_stream.then_with(|| other.of.epoch.cmp(&one.of.epoch))
        });
        wanted
    }

    /// The server `run_id` has all of `wanted`, or has given numberings up. A server after it is to
    /// have that, too, also what began only now.
    pub(super) fn settled(&self, wanted: &[Wanted], run_id: RunId) {
        let at = self.clock.now();
        let mut list = self.list();
        for Wanted { of, position } in wanted {
            let is_last = |last: &Last| last.position == *position;
            if list.numberings.peek(of).is_some_and(is_last) {
                list.numberings.pop(of);
                list.put(Numbering { run_id, ..of.clone() }, Last { position: *position, at });
            }
        }
    }

    /// The commands that look for it, each with what it looks for. A command answers how many
    /// numberings were given up.
    pub(super) fn commands<'a>(
        &'a self,
        wanted: &'a [Wanted],
    ) -> impl Iterator<Item = (&'a [Wanted], Cmd)> + 'a {
        wanted.chunks(NUMBERINGS_PER_COMMAND).map(|wanted| (wanted, self.command(wanted)))
    }

    fn command(&self, wanted: &[Wanted]) -> Cmd {
        let mut command = cmd("EVAL"); // Too rarely for a server to know it.
        command.arg(self.scripts.verify.code).arg(wanted.len() * 2);
        for Wanted { of, .. } in wanted {
            command.arg(self.names.key(&of.stream, "meta")).arg(self.names.key(&of.stream, "log"));
        }
        let newest = wanted.iter().map(|one| one.of.epoch).max().unwrap_or_default();
        let epoch = entropy::epoch_after(newest, entropy::fresh_epoch(self.clock));
        command.arg(millis(self.position_ttl)).arg(hex(epoch.0));
        for Wanted { of, mut position } in wanted.iter().cloned() {
            if planted!("give a numbering up once per instance") {
                position.epoch.0 |= 0xF << 60; // Later than any other.
            }
            command.arg(self.names.channel(&of.stream)).arg(&place(position));
        }
        command
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    /// Answers come in any order.
    fn put(&mut self, of: Numbering, mut last: Last) {
        if let Some(known) = self.numberings.peek(&of)
            && known.position.offset > last.position.offset
        {
            last.position = known.position;
        }
        self.numberings.put(of, last);
        self.is_fresh = true;
    }

    fn forget(&mut self, now: Instant, remembered: Duration) {
        let is_old = |last: &Last| now.saturating_since(last.at) > remembered;
        while self.numberings.peek_lru().is_some_and(|(_, last)| is_old(last)) {
            self.numberings.pop_lru();
            self.overflowed = false;
        }
    }
}

/// How long a publication is remembered. The promise is half a minute; that the server is gone may
/// be found out a few seconds late.
const REMEMBERED: Duration = Duration::from_secs(40);

/// The same while servers come and go that take nothing: by then somebody has seen to it. Longer,
/// and others might have published more than the history has.
const REMEMBERED_WITHOUT_ANSWERS: Duration = Duration::from_secs(300);

/// Numberings that are looked for in one command, and may have to be given up in it.
const NUMBERINGS_PER_COMMAND: usize = 256;

#[cfg(test)]
mod tests {
    use realtime_core::id::{BootId, Mid};

    use super::*;

    fn acknowledged(numberings_max: usize) -> Acknowledged {
        let names = Names::new("p:", BootId(1), true);
        let ttl = Duration::from_secs(60);
        Acknowledged::new(names, ttl, Arc::new(Scripts::new()), numberings_max)
    }

    fn stream(name: &str) -> StreamName {
        StreamName::room(name).unwrap()
    }

    fn position(epoch: u64, offset: u64) -> Position {
        Position { epoch: Epoch(epoch), offset, mid: Mid(offset) }
    }

    /// What is looked for at a server: streams, epochs and offsets.
    fn wanted(acknowledged: &Acknowledged, run_id: RunId) -> Vec<(String, u64, u64)> {
        let place = |Wanted { of, position }: Wanted| {
            (of.stream.as_str().to_owned(), position.epoch.0, position.offset)
        };
        acknowledged.wanted(run_id).into_iter().map(place).collect()
    }

    fn at(name: &str, epoch: u64, offset: u64) -> (String, u64, u64) {
        (name.to_owned(), epoch, offset)
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_each_numbering_is_looked_for_at_another_server_the_newest_first() {
        let acknowledged = acknowledged(10);
        for (name, place) in [
            ("event:1", position(1, 2)),
            ("event:2", position(1, 1)),
            ("event:1", position(1, 1)), // Its answer was late.
            ("event:1", position(2, 3)),
        ] {
            acknowledged.add(stream(name), place, 1);
        }
        assert_eq!(wanted(&acknowledged, 1), []);
        let expected = [at("event:1", 2, 3), at("event:1", 1, 2), at("event:2", 1, 1)];
        assert_eq!(wanted(&acknowledged, 2), expected);
        assert_eq!(wanted(&acknowledged, 3), expected, "it has not been found yet");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_stream_crowds_nobody_out() {
        let acknowledged = acknowledged(2);
        acknowledged.add(stream("event:1"), position(1, 1), 1);
        for offset in 1..=1_000 {
            acknowledged.add(stream("event:2"), position(1, offset), 1);
        }
        let both = [at("event:1", 1, 1), at("event:2", 1, 1_000)];
        assert_eq!(wanted(&acknowledged, 2), both);
        acknowledged.add(stream("event:3"), position(1, 1), 1);
        assert_eq!(wanted(&acknowledged, 2), [at("event:2", 1, 1_000), at("event:3", 1, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_others_are_looked_for_is_not_taken_for_found() {
        let acknowledged = acknowledged(10);
        acknowledged.add(stream("event:1"), position(1, 1), 1);
        acknowledged.add(stream("event:2"), position(1, 1), 1);
        let asked = acknowledged.wanted(2);
        acknowledged.add(stream("event:2"), position(1, 2), 1);
        acknowledged.add(stream("event:3"), position(1, 1), 1);
        acknowledged.settled(&asked, 2);
        assert_eq!(wanted(&acknowledged, 2), [at("event:2", 1, 2), at("event:3", 1, 1)]);
        assert_eq!(wanted(&acknowledged, 3).len(), 3, "a third one is asked for all");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_a_server_that_is_gone_does_not_hide_what_its_successor_has() {
        let acknowledged = acknowledged(10);
        acknowledged.add(stream("event:1"), position(1, 7), 2);
        acknowledged.add(stream("event:1"), position(1, 6), 1);
        assert_eq!(wanted(&acknowledged, 2), [at("event:1", 1, 6)]);
        acknowledged.settled(&acknowledged.wanted(2), 2);
        assert_eq!(wanted(&acknowledged, 2), []);
        assert_eq!(wanted(&acknowledged, 3), [at("event:1", 1, 7)]);
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
        assert_eq!(wanted(&acknowledged, 2), [at("event:2", 1, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_comes_back_and_takes_nothing_makes_nobody_forget() {
        let acknowledged = acknowledged(10);
        acknowledged.add(stream("event:1"), position(1, 1), 1);
        for _ in 0..10 {
            acknowledged.server_is_gone();
            assert_eq!(wanted(&acknowledged, 1), []);
            tokio::time::advance(REMEMBERED / 4).await;
        }
        assert_eq!(wanted(&acknowledged, 2), [at("event:1", 1, 1)]);
        tokio::time::advance(REMEMBERED_WITHOUT_ANSWERS).await;
        acknowledged.server_is_gone();
        assert_eq!(wanted(&acknowledged, 2), [], "it may have left the history");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_looked_for_of_late_is_looked_for_again() {
        let acknowledged = acknowledged(10);
        acknowledged.add(stream("event:1"), position(1, 1), 1);
        tokio::time::advance(REMEMBERED).await;
        acknowledged.server_is_gone();
        acknowledged.settled(&acknowledged.wanted(2), 2);
        tokio::time::advance(REMEMBERED).await;
        acknowledged.server_is_gone(); // With it the numbering that it may have begun.
        assert_eq!(wanted(&acknowledged, 3), [at("event:1", 1, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn many_streams_are_looked_at_in_commands_of_256() {
        let acknowledged = acknowledged(1_000);
        for number in 0..600 {
            acknowledged.add(stream(&format!("event:{number}")), position(1, 1), 1);
        }
        let wanted = acknowledged.wanted(2);
        let commands = acknowledged.commands(&wanted);
        let sizes = commands.map(|(of, command)| (of.len(), command.args_iter().count()));
        let size = |streams: usize| (streams, 3 + 2 * streams + 2 + 4 * streams);
        assert_eq!(sizes.collect::<Vec<_>>(), [size(256), size(256), size(88)]);
    }
}
