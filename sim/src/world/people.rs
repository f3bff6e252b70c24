//! Clients: what they do, and what they make of what they receive.

use std::{sync::Arc, time::Duration};

use realtime_core::{
    id::ConnectionId,
    shard::{Identity, Reference, VerifyError},
};

use crate::{
    frames::Message,
    hearing::{Heard, Hearing, Rules},
    oracle::{Failure, Verdict, acks},
    plan::{Step, moment},
    session::{Asked, Session, Stage},
};

use super::{
    Event, Queue, World,
    instance::{HostEvent, LifeId, ShardEvent},
};

impl World<'_, '_> {
    pub(super) fn connect(&mut self, client: usize) {
        if self.clients[client].session.is_some() {
            return;
        }
        let plan = &self.plan.clients[client];
        let alive: Vec<LifeId> =
            self.instances.iter().filter_map(|i| Some(i.life.as_ref()?.id)).collect();
        let attempt = self.clients[client].attempts;
        self.clients[client].attempts += 1;
        if alive.is_empty() {
            return self.after(Duration::from_millis(500), Event::Connect(client));
        }
        let life = alive[(plan.instance + attempt) % alive.len()];
        let worker = (usize::from(plan.worker) + attempt) % usize::from(self.plan.knobs.workers);
        let conn = ConnectionId { slot: u32::MAX, generation: u32::MAX };
        let session = Session::new(client, plan.user.clone(), life, worker, conn);
        self.sessions.push(session);
        let session = self.sessions.len() - 1;
        self.clients[client].session = Some(session);
        let event = Event::Host(life, HostEvent::Shard(ShardEvent::Arrive(session)));
        self.queue(Queue::Socket(session), event);
    }

    /// The client of a connection that is over connects again, after a while.
    pub(super) fn come_back(&mut self, session: usize, at_most: Duration) {
        let client = self.sessions[session].client;
        if self.clients[client].session == Some(session) {
            self.clients[client].session = None;
            self.remember(session);
            let is_hasty = self.people.below(2) == 0;
            let least = Duration::from_millis(if is_hasty { 1 } else { 100 });
            let most = if is_hasty { Duration::from_millis(10) } else { at_most };
            let wait = least + self.some(most);
            self.after(wait, Event::Connect(client));
        }
    }

    /// The client keeps where it was in its streams.
    fn remember(&mut self, session: usize) {
        let client = self.sessions[session].client;
        for (stream, seen) in &self.sessions[session].streams {
            if let Some(at) = seen.at {
                self.clients[client].last.insert(*stream, at);
            }
        }
    }

    /// A token of the session's client, for the user `user`.
    fn token(&self, session: usize, user: &str, rooms: &[&str]) -> Identity {
        let client = &self.plan.clients[self.sessions[session].client];
        let now_ms = super::EPOCH_MS + self.now.0 / 1_000_000;
        let is_quiet = self.now >= moment(self.plan.quiet_ms);
        Identity {
            user: user.into(),
            rooms: rooms.iter().map(|room| Box::from(*room)).collect::<Vec<_>>().into(),
            expires: client.token_ms.filter(|_| !is_quiet).map(|ms| (now_ms + ms) / 1_000),
        }
    }

    /// How long the verification of a token takes.
    fn verification(&mut self) -> Duration {
        let is_slow = self.net.below(2) == 0;
        Duration::from_micros(self.net.below(if is_slow { 400_000 } else { 2_000 }))
    }

    pub(super) fn verify(&mut self, session: usize) {
        let user = self.sessions[session].user.clone().expect("it has a token");
        let identity = self.token(session, &user, &["vip:*"]);
        self.sessions[session].expires_ms = identity.expires.map(|seconds| seconds * 1_000);
        let life = self.sessions[session].life;
        let wait = self.verification();
        self.after(
            wait,
            Event::Host(life, HostEvent::Shard(ShardEvent::Verified(session, Ok(identity)))),
        );
    }

    pub(super) fn verify_refresh(
        &mut self,
        session: usize,
        token: &str,
        reference: Option<Reference>,
    ) {
        let user = self.sessions[session].user.clone().unwrap_or_default();
        let outcome = match token {
            "0" => Ok(self.token(session, &user, &["vip:*"])),
            "2" => {
                Ok(Identity { user: "somebody else".into(), rooms: Arc::from([]), expires: None })
            }
            "3" => Ok(self.token(session, &user, &[])),
            _ => Err(VerifyError("no token at all")),
        };
        let life = self.sessions[session].life;
        let wait = self.verification();
        self.after(
            wait,
            Event::Host(life, HostEvent::Shard(ShardEvent::Refreshed(session, reference, outcome))),
        );
    }

    /// A client does what its plan says; what it can't do while it is not connected is left out,
    /// but for the rooms that it wants to be in.
    pub(super) fn step(&mut self, client: usize, step: usize) {
        let step = &self.plan.clients[client].steps[step].1;
        match step {
            Step::Join(room) => _ = self.clients[client].wants.insert(room.clone()),
            Step::Leave(room) => _ = self.clients[client].wants.remove(room),
            Step::Ping
            | Step::Garbage(_)
            | Step::Subscribe
            | Step::Refresh(_)
            | Step::Misbehave
            | Step::Quit
            | Step::Vanish
            | Step::Stall(_) => {}
        }
        let Some(session) = self.clients[client].session else { return };
        let is_leaving = matches!(step, Step::Quit | Step::Vanish)
            && self.sessions[session].stage == Stage::Arriving;
        if !self.sessions[session].is_well() && !is_leaving {
            return;
        }
        match step {
            Step::Join(room) => self.ask(session, Asked::Join(room.clone(), None), ""),
            Step::Leave(room) => self.ask(session, Asked::Leave(room.clone()), ""),
            Step::Ping => self.ask(session, Asked::Ping, ""),
            Step::Garbage(which) => self.talk_garbage(session, *which),
            Step::Subscribe => {
                let user = self.sessions[session].user.as_deref().unwrap_or("user-0");
                let text =
                    format!(r#"{{"type":"user:subscribe","payload":{{"user_id":"{user}"}}}}"#);
                self.say(session, text);
            }
            Step::Refresh(token) => {
                let is_good = matches!(token, 0 | 3) && self.sessions[session].user.is_some();
                self.ask(session, Asked::Refresh(is_good), &token.to_string());
            }
            Step::Misbehave => {
                let life = self.sessions[session].life;
                let event = Event::Host(life, HostEvent::Shard(ShardEvent::Misbehaved(session)));
                self.queue(Queue::Socket(session), event);
            }
            Step::Quit => {
                let life = self.sessions[session].life;
                self.sessions[session].vanished = true;
                let event = Event::Host(life, HostEvent::Shard(ShardEvent::Closed(session)));
                self.queue(Queue::Socket(session), event);
                self.come_back(session, Duration::from_secs(2));
            }
            Step::Vanish => {
                self.sessions[session].vanished = true;
                self.come_back(session, Duration::from_secs(2));
            }
            Step::Stall(ms) => {
                let until = self.now + Duration::from_millis(*ms);
                self.sessions[session].stalled_until = Some(until);
                self.at(until, Event::Unstall(session));
            }
        }
    }

    pub(super) fn unstall(&mut self, session: usize) {
        let now = self.now;
        let life = self.sessions[session].life;
        let stalled = &mut self.sessions[session];
        stalled.stalled_until = None;
        stalled.stalled = now;
        stalled.queued = 0;
        let pings = stalled.pings;
        match stalled.stage {
            Stage::Open => {
                if stalled.congested.is_some() {
                    let relieved = HostEvent::Shard(ShardEvent::Relieved(session));
                    self.pending.push_back((life, relieved));
                }
                if pings > 0 && !self.sessions[session].vanished {
                    let event = Event::Host(life, HostEvent::Shard(ShardEvent::Heard(session)));
                    self.queue(Queue::Socket(session), event);
                }
                let client = self.sessions[session].client;
                for room in self.clients[client].wants.clone() {
                    self.retry(session, &room);
                }
            }
            Stage::Closing if !stalled.vanished => {
                let event = Event::Host(life, HostEvent::Shard(ShardEvent::Closed(session)));
                self.queue(Queue::Socket(session), event);
            }
            Stage::Arriving | Stage::Closing | Stage::Reset | Stage::Gone => {}
        }
    }

    /// Asks again for a room that could not be joined.
    pub(super) fn retry(&mut self, session: usize, room: &str) {
        let client = self.sessions[session].client;
        let stream = self.truth.find(room);
        let is_member =
            stream.is_some_and(|stream| self.sessions[session].streams.contains_key(&stream));
        let waits = self.sessions[session].asked.values().any(|asked| asked.room() == Some(room));
        let is_wanted = self.clients[client].wants.contains(room);
        if self.sessions[session].is_well() && is_wanted && !is_member && !waits {
            self.ask(session, Asked::Join(room.to_owned(), None), "");
        }
    }

    fn ask(&mut self, session: usize, asked: Asked, token: &str) {
        let client = self.sessions[session].client;
        let mut asked = asked;
        if let Asked::Join(room, since) = &mut asked
            && self.plan.clients[client].since
        {
            let stream = self.truth.stream(room);
            *since = self.clients[client].last.get(&stream).copied();
        }
        let reference = self.sessions[session].next_ref;
        self.sessions[session].next_ref += 1;
        let (kind, payload) = match &asked {
            Asked::Join(room, None) => ("room:join", format!(r#"{{"room":"{room}"}}"#)),
            Asked::Join(room, Some(since)) => {
                let id = self.truth.id(*since);
                ("room:join", format!(r#"{{"room":"{room}","since":"{id}"}}"#))
            }
            Asked::Leave(room) => ("room:leave", format!(r#"{{"room":"{room}"}}"#)),
            Asked::Ping => ("system:ping", String::from("{}")),
            Asked::Refresh(_) => ("auth:refresh", format!(r#"{{"token":"{token}"}}"#)),
            Asked::Garbage => unreachable!("garbage is not asked for"),
        };
        self.sessions[session].asked.insert(reference, asked);
        let text = format!(r#"{{"type":"{kind}","ref":{reference},"payload":{payload}}}"#);
        self.say(session, text);
    }

    fn talk_garbage(&mut self, session: usize, which: u8) {
        let reference = self.sessions[session].next_ref;
        let text = match which {
            0 => return self.say(session, "not json".to_owned()),
            1 => format!(r#"{{"type":"nope","ref":{reference}}}"#),
            2 => format!(r#"{{"type":"room:join","ref":{reference},"payload":{{}}}}"#),
            3 => format!(r#"{{"type":"room:join","ref":{reference},"payload":{{"room":"all"}}}}"#),
            4 => format!(
                r#"{{"type":"room:join","ref":{reference},"payload":{{"room":"user:nobody"}}}}"#
            ),
            5 => format!(r#"{{"ref":{reference}}}"#),
            6 => format!(r#"{{"type":"room:leave","ref":{reference},"payload":{{"room":"all"}}}}"#),
            _ => format!(
                r#"{{"type":"user:subscribe","ref":{reference},"payload":{{"user_id":"nobody"}}}}"#
            ),
        };
        self.sessions[session].next_ref += 1;
        self.sessions[session].asked.insert(reference, Asked::Garbage);
        self.say(session, text);
    }

    fn say(&mut self, session: usize, text: String) {
        let life = self.sessions[session].life;
        let event = Event::Host(life, HostEvent::Shard(ShardEvent::Message(session, text)));
        self.queue(Queue::Socket(session), event);
    }

    /// A client receives a message.
    pub(super) fn receive(&mut self, session: usize, message: &Message<'_>) -> Verdict {
        let client = self.sessions[session].client;
        match self.hearing(session).hear(message)? {
            // It was held for the greeting, and is counted by nobody.
            Heard::Publication(number) => self.maybe_acknowledge(session, number),
            Heard::Joined | Heard::Other => {}
            Heard::Greeted => {
                self.maybe_forge(session);
                for room in self.clients[client].wants.clone() {
                    self.ask(session, Asked::Join(room, None), "");
                }
            }
            Heard::Left { room, at, was_asked } => {
                self.clients[client].last.extend(at);
                if was_asked {
                    // Maybe it has changed its mind meanwhile.
                    self.retry(session, &room);
                } else {
                    self.clients[client].wants.remove(&room);
                }
            }
            Heard::Resynced { stream, knew, after_ms } => {
                self.refetches.saw(after_ms);
                // A stream that is read again and again, and loses more meanwhile, is given up;
                // and one that is read for too long.
                let is_lossy = self.reached.contains("relay_head_never_joins_up");
                let is_late = self.reached.contains("relay_repair_timed_out");
                let is_repaired = !is_late && (self.is_lossless || (self.is_repaired && !is_lossy));
                if is_repaired && knew {
                    let name = self.truth.name(stream);
                    let what = format!("{name}: nothing can have been missed");
                    return Err(Failure::new("resync", what));
                }
                let newest = self.broker.versions(stream).max().unwrap_or(0);
                // Values are not known either when what is held is given.
                if let Some(seen) = self.sessions[session].streams.get_mut(&stream)
                    && (!knew || is_late)
                {
                    seen.fetched = newest;
                }
            }
            Heard::Refused { code, asked: Some(Asked::Join(room, _)) } => {
                self.refused(session, &code, room);
            }
            Heard::Refused { .. } => {}
            Heard::Reconnect { after_ms } => self.reconnects.saw(after_ms),
        }
        Ok(())
    }

    /// Acknowledges a message that asks for it, at once or later, as clients do; or not at all.
    pub(super) fn maybe_acknowledge(&mut self, session: usize, number: usize) {
        if !self.truth.publications[number].ack {
            return;
        }
        let wait = match self.people.below(4) {
            0 => return,
            1 => self.some(Duration::from_secs(4)),
            _ => Duration::ZERO,
        };
        self.after(wait, Event::Acknowledge(session, number));
    }

    pub(super) fn acknowledge(&mut self, session: usize, number: usize) {
        let taken = self.truth.publications[number].taken;
        if let Some(node) = taken.and_then(|taken| taken.node)
            && self.sessions[session].is_well()
        {
            let id = self.truth.id(node);
            self.acks.said(number);
            self.after(acks::WAY, Event::Acknowledged(session, number));
            self.say(session, format!(r#"{{"type":"system:ack","payload":{{"id":"{id}"}}}}"#));
        }
    }

    /// An acknowledgement must have been heard if its connection is well.
    pub(super) fn acknowledged(&mut self, session: usize, number: usize) {
        if self.sessions[session].is_well() && !self.sessions[session].limited {
            self.acks.heard(number);
        }
    }

    /// Acknowledges the last message of its user, which it was not sent.
    fn maybe_forge(&mut self, session: usize) {
        if !self.plan.asks_for_acks() {
            return;
        }
        let Some(user) = &self.sessions[session].user else { return };
        let Some(stream) = self.truth.find(&format!("user:{user}")) else { return };
        let is_new = !self.sessions[session].since.contains_key(&stream);
        let at = self.sessions[session].streams.get(&stream).and_then(|seen| seen.at);
        if let Some(at) = at.filter(|_| is_new && self.people.below(2) == 0) {
            let id = self.truth.id(at);
            self.say(session, format!(r#"{{"type":"system:ack","payload":{{"id":"{id}"}}}}"#));
        }
    }

    /// How the client of a session hears.
    pub(super) fn hearing(&mut self, session: usize) -> Hearing<'_> {
        let (positions, sets_back) = (self.plan.knobs.positions, self.sets_back);
        // In peace nothing else is forgotten.
        let recovers =
            (self.is_calm && self.plan.knobs.head_reads >= 3).then_some(self.plan.knobs.history);
        let rules = Rules { positions, sets_back, is_complete: true, recovers, marker };
        let session = &mut self.sessions[session];
        Hearing { truth: &mut self.truth, session, rules, now: self.now }
    }

    /// A join was refused; it is tried again unless that is of no use.
    fn refused(&mut self, session: usize, code: &str, room: String) {
        let client = self.sessions[session].client;
        if matches!(code, "FORBIDDEN" | "TOO_MANY_ROOMS") {
            self.clients[client].wants.remove(&room);
        } else {
            let wait = Duration::from_secs(1) + self.some(Duration::from_secs(2));
            self.after(wait, Event::Retry(session, room));
        }
    }
}

/// The number that every payload of this tier has.
fn marker(payload: &str) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        n: u64,
    }
    serde_json::from_str(payload).ok().map(|Numbered { n }| n)
}
