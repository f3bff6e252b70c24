//! What all workers report, summed up.

use std::{collections::BTreeMap, time::Duration};

use realtime_core::{shard::Stats, stream::StreamName};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

use crate::worker::{LATENCY_BUCKETS_S, Snapshot, WorkerCommand};

/// The sum of the workers' snapshots.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// What the shards counted.
    pub stats: Stats,
    /// Members of each room, when asked for.
    pub rooms: BTreeMap<StreamName, u64>,
    /// Bytes in all outboxes.
    pub queued_bytes: u64,
    /// `latest` values that newer ones took the place of in an outbox, ever.
    pub values_replaced: u64,
    /// Times that accepting a connection failed.
    pub accept_failures: u64,
    /// Publish-to-write times since the start, by bucket.
    pub latency: [u64; LATENCY_BUCKETS_S.len() + 1],
    /// Sum of those times, in seconds.
    pub latency_sum_s: f64,
}

/// Asks the workers.
#[derive(Debug)]
pub struct Workers {
    queues: Vec<mpsc::Sender<WorkerCommand>>,
    /// The last snapshot of each, for one that does not answer in time. Held while workers are
    /// asked: snapshots are put away in the order in which they were made, so that no total ever
    /// goes back.
    known: Mutex<Vec<Snapshot>>,
}

impl Workers {
    /// All workers of the instance.
    pub fn new(queues: Vec<mpsc::Sender<WorkerCommand>>) -> Self {
        let known = Mutex::new(vec![Snapshot::default(); queues.len()]);
        Self { queues, known }
    }

    /// Asks every worker for a snapshot, with the members of its rooms if `rooms`. One that does
    /// not answer within 250 ms counts with what it said last.
    pub async fn collect(&self, rooms: bool) -> Overview {
        let mut known = self.known.lock().await;
        let asked: Vec<_> = self.queues.iter().map(|queue| ask(queue, rooms)).collect();
        // The answers are waited for one by one: all share the time, and are put away as they come.
        let answers = async {
            for (worker, answer) in asked.into_iter().enumerate() {
                if let Some(snapshot) = answer
                    && let Ok(snapshot) = snapshot.await
                {
                    known[worker] = snapshot;
                }
            }
        };
        let _late = timeout(SNAPSHOT_TIMEOUT, answers).await;
        sum(&known)
    }
}

fn ask(queue: &mpsc::Sender<WorkerCommand>, rooms: bool) -> Option<oneshot::Receiver<Snapshot>> {
    let (reply, answer) = oneshot::channel();
    queue.try_send(WorkerCommand::Snapshot { rooms, reply }).ok()?;
    Some(answer)
}

fn sum(snapshots: &[Snapshot]) -> Overview {
    let mut sum = Overview::default();
    for snapshot in snapshots {
        add(&mut sum.stats, &snapshot.stats);
        for (room, members) in &snapshot.rooms {
            *sum.rooms.entry(room.clone()).or_default() += u64::from(*members);
        }
        sum.queued_bytes += snapshot.queued_bytes;
        sum.values_replaced += snapshot.values_replaced;
        sum.accept_failures += snapshot.accept_failures;
        add_each(&mut sum.latency, &snapshot.latency);
        sum.latency_sum_s += snapshot.latency_sum_s;
    }
    sum
}

/// Adds `b` to `a`. Every field is named, so that a new one is not forgotten.
fn add(a: &mut Stats, b: &Stats) {
    let Stats {
        authenticated,
        anonymous,
        handshaking,
        congested,
        parked_joins,
        draining,
        sent,
        received,
        errors,
        closes,
        refusals,
        accepted,
        recovered,
        unrecovered,
        resyncs,
    } = b;
    a.authenticated += authenticated;
    a.anonymous += anonymous;
    a.handshaking += handshaking;
    a.congested += congested;
    a.parked_joins += parked_joins;
    a.draining += draining;
    add_each(&mut a.sent, sent);
    add_each(&mut a.received, received);
    add_each(&mut a.errors, errors);
    add_each(&mut a.closes, closes);
    add_each(&mut a.refusals, refusals);
    a.accepted += accepted;
    a.recovered += recovered;
    a.unrecovered += unrecovered;
    a.resyncs += resyncs;
}

fn add_each(a: &mut [u64], b: &[u64]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

/// How long a scrape or a call waits for the workers.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(authenticated: u32, observed: u64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.stats.authenticated = authenticated;
        snapshot.stats.sent[3] = 10;
        snapshot.rooms = vec![(StreamName::room("event:1").unwrap(), authenticated)];
        snapshot.latency[2] = observed;
        snapshot
    }

    fn answer(command: Option<WorkerCommand>, snapshot: Snapshot) {
        match command {
            Some(WorkerCommand::Snapshot { reply, .. }) => reply.send(snapshot).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_worker_that_does_not_answer_counts_with_what_it_said_last() {
        let (first, mut first_queue) = mpsc::channel(1);
        let (second, mut second_queue) = mpsc::channel(1);
        let workers = Workers::new(vec![first, second]);
        let both = async {
            answer(first_queue.recv().await, snapshot(1, 5));
            answer(second_queue.recv().await, snapshot(2, 0));
        };
        let (overview, ()) = tokio::join!(workers.collect(true), both);
        assert_eq!(overview.stats.authenticated, 3);
        assert_eq!(overview.stats.sent[3], 20);
        assert_eq!(overview.rooms.values().collect::<Vec<_>>(), [&3]);

        let only_second = async {
            drop(first_queue.recv().await);
            answer(second_queue.recv().await, snapshot(4, 1));
        };
        let (overview, ()) = tokio::join!(workers.collect(true), only_second);
        assert_eq!(overview.stats.authenticated, 5);
        assert_eq!(overview.latency[2], 6);

        drop(first_queue);
        drop(second_queue);
        assert_eq!(workers.collect(true).await.stats.authenticated, 5);
    }
}
