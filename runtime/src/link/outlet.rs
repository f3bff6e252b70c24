//! The ordered way to one worker.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use realtime_core::link::ToShard;
use tokio::sync::mpsc::{self, error::TrySendError};

/// A worker's queue, and what does not fit into it yet. The relay bounds how many publications are
/// on their way to a worker, and a shard how many joins it has asked for: so this is bounded, too,
/// and a worker that lags holds nobody else up.
pub(super) struct Outlet {
    sender: mpsc::Sender<ToShard>,
    spill: VecDeque<ToShard>,
    /// Waits for room, while there is a spill.
    room: Option<Room>,
}

type Room = Pin<Box<dyn Future<Output = Option<mpsc::OwnedPermit<ToShard>>> + Send>>;

impl Outlet {
    pub(super) fn new(sender: mpsc::Sender<ToShard>) -> Self {
        Self { sender, spill: VecDeque::new(), room: None }
    }

    /// Sends behind everything that was sent before.
    pub(super) fn send(&mut self, message: ToShard) {
        if !self.spill.is_empty() {
            self.spill.push_back(message);
            return;
        }
        match self.sender.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => {
                self.spill.push_back(message);
                let sender = self.sender.clone();
                self.room = Some(Box::pin(async move { sender.reserve_owned().await.ok() }));
            }
            // The worker has ended; there is nobody to tell.
            Err(TrySendError::Closed(_)) => {}
        }
    }

    /// Moves what was spilt, as far as there is room. Never ready: there is nothing to report.
    pub(super) fn poll_spill(&mut self, cx: &mut Context<'_>) {
        while let Some(room) = &mut self.room {
            let Poll::Ready(permit) = room.as_mut().poll(cx) else {
                return;
            };
            self.room = None;
            let Some(permit) = permit else {
                self.spill.clear(); // The worker has ended.
                return;
            };
            if let Some(first) = self.spill.pop_front() {
                permit.send(first);
            }
            for message in std::mem::take(&mut self.spill) {
                self.send(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use realtime_core::id::RequestId;

    use super::*;

    fn answer(request: u64) -> ToShard {
        ToShard::JoinFailed { request: RequestId(request) }
    }

    #[tokio::test]
    async fn a_full_queue_delays_and_neither_loses_nor_reorders() {
        let (sender, mut receiver) = mpsc::channel(3);
        let mut outlet = Outlet::new(sender);
        (0..10).for_each(|request| outlet.send(answer(request)));
        let mut received = Vec::new();
        while received.len() < 10 {
            std::future::poll_fn(|cx| {
                outlet.poll_spill(cx);
                receiver.poll_recv(cx)
            })
            .await
            .into_iter()
            .for_each(|message| received.push(message));
            outlet.send(answer(10 + received.len() as u64));
        }
        assert_eq!(received, (0..10).map(answer).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_worker_that_has_ended_is_sent_nothing() {
        let (sender, receiver) = mpsc::channel(1);
        let mut outlet = Outlet::new(sender);
        (0..3).for_each(|request| outlet.send(answer(request)));
        drop(receiver);
        std::future::poll_fn(|cx| {
            outlet.poll_spill(cx);
            Poll::Ready(())
        })
        .await;
        outlet.send(answer(3));
        assert!(outlet.spill.is_empty());
    }
}
