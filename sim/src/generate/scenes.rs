//! What hardly ever happens by itself, put together on purpose: in some plans, besides all else.

use realtime_core::rng::Rng;

use super::{BUSY_MS, Scale, index};
use crate::{
    plan::{Class, ClientPlan, Data, Fault, Knobs, Plan, PublishPlan, Step, Trouble},
    random::labelled,
};

impl Plan {
    pub(super) fn add_scenes(&mut self, scale: Scale) {
        let label = |name| labelled(self.seed, name);
        let [word, numbering, hasty] = ["lost word", "lost numbering", "hasty return"].map(label);
        let [stampede, joins] = ["stampede", "failing joins"].map(label);
        let [value, lost] = ["last value", "lost value"].map(label);
        let acknowledgement = label("late acknowledgement");
        match scale.is_calm {
            true if self.is_calm() => self.late_acknowledgement(acknowledgement),
            true => {
                self.last_value(value);
                self.lost_value(lost);
            }
            false => {
                self.stampede(stampede);
                self.lost_word(word);
                self.lost_numbering(numbering);
                self.hasty_return(hasty);
                if scale.is_crowded {
                    self.failing_joins(joins);
                }
            }
        }
        self.publishes.sort_by_key(|publish| publish.at_ms);
    }

    /// Adds, to some plans, what comes to `all` in a moment in which newcomers wait for their own
    /// streams: more than is held for them.
    fn stampede(&mut self, mut rng: Rng) {
        if rng.below(16) > 0 {
            return;
        }
        let begin_ms = 2_000 + rng.below(BUSY_MS - 6_000);
        let instance = index(rng.below(self.instances.len() as u64));
        self.faults.push(Fault {
            at_ms: begin_ms,
            lasts_ms: 1_000,
            instance,
            what: Trouble::ReadsSlow(2_000),
        });
        self.clients.extend((0..3).map(|n| ClientPlan {
            user: Some(format!("late-{n}")),
            instance,
            worker: 0,
            at_ms: begin_ms + 100 * n,
            ..ClientPlan::default()
        }));
        self.publishes.extend((0..200).map(|n| publish(begin_ms + 400 + 5 * n, instance, "all")));
    }

    /// Adds, to some plans, a user whose last message the broker loses, and who comes when it is
    /// back: maybe before the instance that published it.
    fn lost_word(&mut self, mut rng: Rng) {
        let instances = self.instances.len() as u64;
        if instances < 2 || rng.below(2) > 0 {
            return;
        }
        let (user, at_ms) = (String::from("quiet"), 3_000 + rng.below(BUSY_MS - 8_000));
        let other = index(rng.below(instances));
        let publisher = (other + 1) % self.instances.len();
        // A rollover may be lost, too; then only what follows shows it, or a comparison.
        let loses_words = self.has(|what| {
            matches!(
                what,
                Trouble::Lossy(_)
                    | Trouble::Evict(_)
                    | Trouble::Unconfirmed(_)
                    | Trouble::Unsubscribable(_)
            )
        });
        let last_ms = [BUSY_MS + 30_000, BUSY_MS + 35_000];
        let last_ms = last_ms.into_iter().filter(|_| loses_words && self.knobs.check_ms == 0);
        let times_ms = [at_ms - 2_000, at_ms].into_iter().chain(last_ms);
        let stream = format!("user:{user}");
        self.publishes.extend(times_ms.map(|at_ms| publish(at_ms, publisher, &stream)));
        let (end_ms, lasts_ms) = (at_ms + 100 + rng.below(500), 100 + rng.below(300));
        let what = Trouble::Restart(Data::Older(1_000));
        self.faults.push(Fault { at_ms: end_ms, lasts_ms, instance: other, what });
        if rng.below(2) == 0 {
            // Who comes is there before anybody looks for what is lost.
            let what = Trouble::Freeze;
            self.faults.push(Fault { at_ms: end_ms, lasts_ms: 3_000, instance: publisher, what });
        }
        self.clients.push(ClientPlan {
            user: Some(user),
            instance: other,
            worker: 0,
            at_ms: end_ms + lasts_ms + rng.below(1_500),
            ..ClientPlan::default()
        });
    }

    /// Adds, to some plans in which nothing goes wrong, somebody who is away when asked to
    /// acknowledge something, and comes back in time.
    fn late_acknowledgement(&mut self, mut rng: Rng) {
        if rng.below(2) > 0 {
            return;
        }
        let instance = index(rng.below(self.instances.len() as u64));
        let at_ms = 4_000 + rng.below(BUSY_MS - 10_000);
        self.clients.push(ClientPlan {
            user: Some(String::from("returning")),
            instance,
            at_ms: at_ms - 2_000,
            since: true,
            steps: vec![(at_ms, Step::Quit)],
            ..ClientPlan::default()
        });
        self.publishes.push(publish(at_ms - 500, instance, "user:returning"));
        self.publishes.extend((0..4).map(|n| PublishPlan {
            ack: true,
            ..publish(at_ms + 500 + 100 * n, instance, "user:returning")
        }));
    }

    /// Adds, to some plans, somebody's second device, which comes when there are values, and for
    /// which the last one comes while the others are read.
    fn last_value(&mut self, mut rng: Rng) {
        if rng.below(3) > 0 {
            return;
        }
        let instance = index(rng.below(self.instances.len() as u64));
        let at_ms = 4_000 + rng.below(BUSY_MS - 8_000);
        self.clients.extend([at_ms - 1_500, at_ms].map(|at_ms| ClientPlan {
            user: Some(String::from("waiting")),
            instance,
            at_ms,
            ..ClientPlan::default()
        }));
        let what = Trouble::ReadsSlow(1_500);
        self.faults.push(Fault { at_ms: at_ms - 200, lasts_ms: 1_500, instance, what });
        let last_ms = at_ms + 500 + rng.below(700);
        self.publishes.extend([at_ms - 500, last_ms].map(|at_ms| {
            let value = publish(at_ms, instance, "user:waiting");
            PublishPlan { class: Class::Latest(0), ..value }
        }));
    }

    /// Adds, to some plans in which streams are compared, a member that loses the last value of its
    /// stream.
    fn lost_value(&mut self, mut rng: Rng) {
        if self.knobs.check_ms == 0 || rng.below(2) > 0 {
            return;
        }
        let instance = index(rng.below(self.instances.len() as u64));
        let at_ms = 6_000 + rng.below(BUSY_MS - 8_000);
        self.clients.push(ClientPlan {
            user: Some(String::from("idle")),
            instance,
            at_ms: at_ms - 2_000,
            ..ClientPlan::default()
        });
        let what = Trouble::Lossy(1_000);
        self.faults.push(Fault { at_ms: at_ms - 50, lasts_ms: 400, instance, what });
        let value = publish(at_ms, instance, "user:idle");
        self.publishes.push(PublishPlan { class: Class::Latest(0), ..value });
    }

    /// Adds, to some plans in which streams are compared, a member that does not hear of the first
    /// message of a new numbering, which is the last one of its stream.
    fn lost_numbering(&mut self, mut rng: Rng) {
        if self.knobs.check_ms == 0 || rng.below(3) > 0 {
            return;
        }
        self.let_everybody_in();
        let instance = index(rng.below(self.instances.len() as u64));
        // At last: what is read again after a cut is not lost.
        let at_ms = BUSY_MS - 1_500 - rng.below(1_000);
        let (user, stream) = (String::from("silent"), String::from("user:silent"));
        self.clients.push(ClientPlan {
            user: Some(user),
            instance,
            at_ms: at_ms - 2_000,
            ..ClientPlan::default()
        });
        self.publishes.push(publish(at_ms - 500, instance, &stream));
        self.publishes.push(publish(at_ms + 300, instance, &stream));
        let evicted = Trouble::Evict(stream);
        self.faults.push(Fault { at_ms, lasts_ms: 1, instance, what: evicted });
        let what = Trouble::Lossy(1_000);
        self.faults.push(Fault { at_ms: at_ms + 100, lasts_ms: 400, instance, what });
    }

    /// Adds, to some plans, somebody who is back before the broker has said that the stream is
    /// unsubscribed.
    fn hasty_return(&mut self, mut rng: Rng) {
        if rng.below(16) > 0 {
            return;
        }
        self.let_everybody_in();
        self.knobs.linger_ms = 50;
        let instance = index(rng.below(self.instances.len() as u64));
        let at_ms = 4_000 + rng.below(BUSY_MS - 12_000);
        self.clients.push(ClientPlan {
            user: Some(String::from("hasty")),
            instance,
            at_ms: at_ms - 1_000,
            steps: vec![(at_ms, Step::Quit)],
            ..ClientPlan::default()
        });
        let what = Trouble::ItemsSlow(5_000 + rng.below(2_000));
        self.faults.push(Fault { at_ms: at_ms - 20, lasts_ms: 1_000, instance, what });
    }

    /// Adds, to some plans, newcomers whose joins of `all` fail while something is on its way to
    /// those who are there.
    fn failing_joins(&mut self, mut rng: Rng) {
        // Many take a worker so long that it is not done in the end.
        if rng.below(2) > 0 || self.clients.len() > 15 {
            return;
        }
        self.let_everybody_in();
        self.knobs.walk_chunk = 1;
        let network_ms = self.knobs.network_us / 1_000;
        for round in 0..4 {
            let at_ms = 3_000 + 4_000 * round + rng.below(1_000);
            // A stream with values is read for each who joins.
            let value = publish(at_ms - 500, 0, "all");
            self.publishes.push(PublishPlan { class: Class::Latest(0), ..value });
            let what = Trouble::ReadsSlow(1_000);
            self.faults.push(Fault { at_ms: at_ms - 300, lasts_ms: 1_000, instance: 0, what });
            self.clients.extend((0..3).map(|n| ClientPlan {
                user: Some(format!("late-{round}-{n}")),
                at_ms: at_ms + 50 * n,
                ..ClientPlan::default()
            }));
            self.publishes.extend((0..10).map(|n| publish(at_ms + 300 + 4 * n, 0, "all")));
            let cut_ms = at_ms + 310 + 2 * network_ms + rng.below(30);
            let what = Trouble::LinkCut(0);
            self.faults.push(Fault { at_ms: cut_ms, lasts_ms: 100, instance: 0, what });
        }
    }

    /// Nobody is refused for what others do.
    fn let_everybody_in(&mut self) {
        let usual = Knobs::usual();
        self.knobs.join_timeout_ms = usual.join_timeout_ms;
        self.knobs.per_user = usual.per_user;
        self.knobs.messages_per_s = usual.messages_per_s;
    }
}

/// A short message for everybody in a stream.
fn publish(at_ms: u64, instance: usize, stream: &str) -> PublishPlan {
    PublishPlan {
        at_ms,
        instance,
        stream: String::from(stream),
        class: Class::Durable,
        exclude: None,
        bytes: 0,
        ack: false,
    }
}
