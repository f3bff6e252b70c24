//! Which streams are wanted, and how they come to be subscribed: joins, vacates, the subscription
//! connection, and what is done when nothing is heard.

use crate::{
    id::{Generation, RequestId, WorkerId},
    link::{Since, ToShard},
    stream::StreamName,
    time::Instant,
};

use super::{
    Action, Relay, Turn,
    stream::{Head, Subscription, Waiting},
    streams::StreamIndex,
    values::Values,
};

impl Relay {
    /// A worker wants a member to be seated.
    pub(super) fn join(
        &mut self,
        worker: WorkerId,
        request: RequestId,
        name: StreamName,
        since: Option<Since>,
        turn: &mut Turn<'_>,
    ) {
        let index = match self.streams.find(&name) {
            Some(index) => index,
            None => self.streams.insert(name),
        };
        let stream = &mut self.streams[index];
        let was_vacated = stream.seats.is_empty();
        let behind = stream.seat(worker).behind;
        if was_vacated && stream.subscription == Subscription::Confirmed {
            self.set_timer(index, None);
        }
        let stream = &mut self.streams[index];
        let join = Waiting { worker, request, since };
        let is_live =
            stream.head == Head::Live || planted!("answer a join before its stream is live");
        // Values are read for each who joins.
        let is_complete = !stream.valued && !join.needs_more(stream.last, None);
        if is_live && !behind && is_complete {
            return self.answer(index, &join, None, None, turn);
        }
        let away = self.link.is_none() || stream.awaits_retry();
        if away || self.waiting >= WAITING_MAX {
            self.refuse(index, &join, turn);
        } else {
            self.waiting += 1;
            stream.busy().waiting.push(join);
        }
        if self.link.is_some() {
            self.advance(index, turn);
        }
    }

    /// Brings a stream that somebody has joined nearer to being live.
    fn advance(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let stream = &self.streams[index];
        match (stream.subscription, stream.head) {
            (Subscription::Idle, _) => {
                // Its turn may be long in coming when the broker is slow.
                self.set_patience(index, turn);
                self.enqueue(index);
                self.pump(turn);
            }
            (Subscription::Leaving, _) => self.set_patience(index, turn),
            (Subscription::Confirmed, Head::Unknown) => self.begin(index, turn),
            (Subscription::Confirmed, Head::Live) => self.catch_up(index, turn),
            (Subscription::Asked, _) if planted!("let joins put off a subscription") => {
                self.set_timer(index, Some(turn.now + self.limits.subscribe_timeout));
            }
            // It is asked again in its time, however often members come and go meanwhile.
            (Subscription::Asked, _) | (Subscription::Confirmed, Head::Reading) => {}
        }
    }

    /// A worker has no members of a stream any more.
    pub(super) fn vacated(&mut self, worker: WorkerId, name: &StreamName, turn: &mut Turn<'_>) {
        let Some(index) = self.streams.find(name) else { return };
        let stream = &mut self.streams[index];
        if planted!("forward to a vacated room") {
            return;
        }
        let Some(seat) = stream.unseat(worker) else { return };
        if let Some(busy) = &mut stream.busy {
            let before = busy.waiting.len();
            busy.waiting.retain(|waiting| waiting.worker != worker);
            busy.behind.retain(|behind| behind.worker != worker);
            self.waiting -= before - busy.waiting.len();
        }
        if seat.behind {
            self.outlet.forget_behind(worker, index);
        }
        if self.streams[index].seats.is_empty() {
            self.deserted(index, turn);
            self.pump(turn);
        } else {
            self.streams[index].trim();
        }
    }

    /// The last worker has lost its interest.
    fn deserted(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        match self.streams[index].subscription {
            Subscription::Idle => self.forget(index),
            // The answer is awaited all the same: without one the stream would be lost sight of.
            Subscription::Asked if planted!("lose sight of an unconfirmed subscription") => {
                self.set_timer(index, None);
            }
            Subscription::Asked => {}
            Subscription::Confirmed => {
                if self.streams[index].head == Head::Reading {
                    self.lose_head(index, turn);
                }
                self.set_timer(index, Some(turn.now + self.limits.linger));
            }
            Subscription::Leaving => self.set_timer(index, None),
        }
    }

    /// A new subscription connection is up: what is wanted is subscribed on it.
    pub(super) fn link_up(&mut self, generation: Generation, turn: &mut Turn<'_>) {
        if self.newest.is_some_and(|newest| generation <= newest) {
            return;
        }
        self.link_down(turn);
        self.newest = Some(generation);
        self.link = Some(generation);
        self.outlet.receipts.connect();
        self.pulse.start(turn.now);
        self.start_checks(turn);
        for index in self.streams.indices() {
            if !planted!("skip resubscribe after reconnect") {
                self.enqueue(index);
            }
        }
        self.pump(turn);
    }

    /// The subscription connection is gone, and with it every subscription.
    pub(super) fn link_down(&mut self, turn: &mut Turn<'_>) {
        if self.link.take().is_none() {
            return;
        }
        self.outlet.receipts.disconnect(turn);
        self.pulse.stop();
        self.checks.stop();
        for index in self.streams.indices() {
            if self.streams[index].seats.is_empty() {
                self.forget(index);
            } else {
                self.disconnect(index, turn);
            }
        }
    }

    /// Takes a wanted stream back to where it was before it was subscribed, but for its last
    /// position, which tells later whether anything was missed.
    fn disconnect(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        self.stop_reading(index, turn);
        self.set_timer(index, None);
        self.dequeue(index);
        self.set_subscription(index, Subscription::Idle);
        self.refuse_all(index, turn);
        let stream = &mut self.streams[index];
        stream.head = Head::Unknown;
        if !self.limits.positions {
            // Nothing will tell whether something was missed.
            stream.seats.iter_mut().for_each(|seat| seat.owed = true);
        }
    }

    /// The broker has confirmed a SUBSCRIBE.
    pub(super) fn subscribed(
        &mut self,
        generation: Generation,
        name: &StreamName,
        turn: &mut Turn<'_>,
    ) {
        let Some(index) = self.on_link(generation, name) else { return };
        if self.streams[index].subscription != Subscription::Asked {
            return;
        }
        self.set_subscription(index, Subscription::Confirmed);
        if self.streams[index].seats.is_empty() {
            self.set_timer(index, Some(turn.now + self.limits.linger));
        } else {
            self.set_timer(index, None);
            self.begin(index, turn);
        }
        self.pump(turn);
    }

    /// The broker has confirmed an UNSUBSCRIBE.
    pub(super) fn unsubscribed(
        &mut self,
        generation: Generation,
        name: &StreamName,
        turn: &mut Turn<'_>,
    ) {
        let Some(index) = self.on_link(generation, name) else { return };
        if self.streams[index].subscription != Subscription::Leaving {
            return;
        }
        self.set_subscription(index, Subscription::Idle);
        if self.streams[index].seats.is_empty() {
            self.forget(index);
        } else {
            turn.actions.push(Action::Reach("relay_joined_while_unsubscribing"));
            self.enqueue(index);
            self.pump(turn);
        }
    }

    /// The time of a stream has come.
    pub(super) fn stream_timed_out(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let vacant = self.streams[index].seats.is_empty();
        match self.streams[index].subscription {
            Subscription::Idle => self.refuse_all(index, turn),
            // Also when nobody wants it any more: no UNSUBSCRIBE can be sent before the SUBSCRIBE
            // is confirmed.
            Subscription::Asked => {
                turn.actions.push(Action::Reach("relay_subscribe_unanswered"));
                self.refuse_all(index, turn);
                self.subscribe(index, turn);
            }
            Subscription::Confirmed if vacant && planted!("forget to unsubscribe") => {}
            Subscription::Confirmed if vacant => {
                self.lose_head(index, turn);
                self.set_subscription(index, Subscription::Leaving);
                let stream = self.streams[index].name.clone();
                turn.actions.push(Action::Unsubscribe { stream });
            }
            Subscription::Confirmed => self.head_timed_out(index, turn),
            // It is not repeated: on a connection that lives the answer comes, and a second one
            // could overtake a SUBSCRIBE.
            Subscription::Leaving => {
                turn.actions.push(Action::Reach("relay_unsubscribe_unanswered"));
                self.refuse_all(index, turn);
            }
        }
    }

    /// Subscribes streams that wait for it, as many as the broker is to be troubled with at once.
    pub(super) fn pump(&mut self, turn: &mut Turn<'_>) {
        while self.asked + self.reads.len() < OUTSTANDING_MAX
            && let Some(&(_, index)) = self.queue.first()
        {
            self.dequeue(index);
            self.subscribe(index, turn);
        }
    }

    fn subscribe(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        self.set_subscription(index, Subscription::Asked);
        self.set_timer(index, Some(turn.now + self.limits.subscribe_timeout));
        turn.actions.push(Action::Subscribe { stream: self.streams[index].name.clone() });
        if planted!("read the head before the subscription is confirmed") {
            self.set_subscription(index, Subscription::Confirmed);
            self.set_timer(index, None);
            self.begin(index, turn);
        }
    }

    /// A subscription holds: the stream is live once its head is known.
    fn begin(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        self.streams[index].busy().restoring = true;
        if self.limits.positions {
            self.read_head(index, turn);
        } else {
            self.go_live(index, None, None, Some(Values::default()), turn);
        }
    }

    /// Tells a worker that the stream can't be made live for it now. Its interest stays, and its
    /// members are told when the stream is.
    fn refuse(&mut self, index: StreamIndex, join: &Waiting, turn: &mut Turn<'_>) {
        self.streams[index].seat(join.worker).blind = !planted!("forget whom a resync is owed");
        let message = ToShard::JoinFailed { request: join.request };
        turn.actions.push(Action::ToShard { worker: join.worker, message });
    }

    /// Refuses everyone who waits for a stream.
    pub(super) fn refuse_all(&mut self, index: StreamIndex, turn: &mut Turn<'_>) {
        let Some(busy) = &mut self.streams[index].busy else { return };
        let joins = std::mem::take(&mut busy.waiting);
        self.waiting -= joins.len();
        for join in &joins {
            self.refuse(index, join, turn);
        }
        self.streams[index].trim();
    }

    /// The stream of that name, if `generation` is that of the present connection.
    pub(super) fn on_link(&self, generation: Generation, name: &StreamName) -> Option<StreamIndex> {
        (self.link == Some(generation)).then(|| self.streams.find(name)).flatten()
    }

    fn set_subscription(&mut self, index: StreamIndex, to: Subscription) {
        let subscription = &mut self.streams[index].subscription;
        self.asked -= usize::from(*subscription == Subscription::Asked);
        self.asked += usize::from(to == Subscription::Asked);
        *subscription = to;
    }

    /// Puts a stream in line to be subscribed, or further to the front.
    fn enqueue(&mut self, index: StreamIndex) {
        self.dequeue(index);
        let class = self.streams[index].class();
        self.streams[index].queued = Some(class);
        self.queue.insert((class, index));
    }

    fn dequeue(&mut self, index: StreamIndex) {
        if let Some(class) = self.streams[index].queued.take() {
            self.queue.remove(&(class, index));
        }
    }

    /// Bounds how long joins wait while nothing is done for their stream.
    fn set_patience(&mut self, index: StreamIndex, turn: &Turn<'_>) {
        let stream = &self.streams[index];
        let waited_for = stream.busy.as_ref().is_some_and(|busy| !busy.waiting.is_empty());
        if waited_for && stream.timer().is_none() {
            self.set_timer(index, Some(turn.now + self.limits.subscribe_timeout));
        }
    }

    /// Sets the one timer of a stream: what it is for follows from the state of the stream.
    pub(super) fn set_timer(&mut self, index: StreamIndex, at: Option<Instant>) {
        let stream = &mut self.streams[index];
        let old = match (&mut stream.busy, at) {
            (None, None) => None,
            (Some(busy), _) => std::mem::replace(&mut busy.timer, at),
            (None, Some(_)) => std::mem::replace(&mut stream.busy().timer, at),
        };
        stream.trim();
        if let Some(old) = old {
            self.timers.remove(&(old, index));
        }
        if let Some(at) = at {
            self.timers.insert((at, index));
        }
    }

    /// Forgets a stream that nobody wants and that is not subscribed.
    fn forget(&mut self, index: StreamIndex) {
        drop(self.stop(index)); // What is read for nobody.
        self.set_timer(index, None);
        self.dequeue(index);
        self.set_subscription(index, Subscription::Idle);
        self.streams.remove(index);
    }
}

/// Streams that may be between SUBSCRIBE and a known head: few enough that publishing goes on while
/// a million of them are restored.
const OUTSTANDING_MAX: usize = 1_000;

/// Joins that may wait for an answer, of all streams. Shards park fewer; the rest are joins that
/// shards have given up but that are not refused yet.
const WAITING_MAX: usize = 1 << 18;
