//! What a client makes of what it hears, in both tiers. Every word is judged.

use realtime_core::time::Instant;

use crate::{
    frames::{Message, Payload},
    oracle::{Failure, Verdict, answers, audience, order},
    plan::Class,
    session::{Asked, Seen, Session},
    truth::{NodeId, StreamId, Truth},
};

/// One client that listens, and what its words are judged by.
#[derive(Debug)]
pub struct Hearing<'a> {
    /// What was really published.
    pub truth: &'a mut Truth,
    /// The connection.
    pub session: &'a mut Session,
    /// What holds in this run.
    pub rules: Rules,
    /// When it hears.
    pub now: Instant,
}

/// What holds in a run.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether streams have positions.
    pub positions: bool,
    /// Whether the broker may forget what it acknowledged.
    pub sets_back: bool,
    /// Whether the truth has every numbering, also those in which nothing was published.
    pub is_complete: bool,
    /// How far back every client that returns must be given what it missed.
    pub recovers: Option<usize>,
    /// Which publication a payload comes from.
    pub marker: fn(&str) -> Option<u64>,
}

/// What a message was.
#[derive(Debug)]
pub enum Heard {
    /// A publication of a stream.
    Publication(usize),
    /// The first message.
    Greeted,
    /// The client is in a room.
    Joined,
    /// The client is in a room no more.
    Left {
        /// The room.
        room: String,
        /// Where the client was.
        at: Option<(StreamId, NodeId)>,
        /// Whether it wanted to leave.
        was_asked: bool,
    },
    /// Something may be missing.
    Resynced {
        /// Of which stream.
        stream: StreamId,
        /// Whether the client knew where it was.
        knew: bool,
        /// When to fetch it.
        after_ms: u64,
    },
    /// A request was refused, or a message was no request.
    Refused {
        /// Why.
        code: String,
        /// What was refused.
        asked: Option<Asked>,
    },
    /// The instance goes down.
    Reconnect {
        /// When to reconnect.
        after_ms: u64,
    },
    /// Nothing that matters here.
    Other,
}

impl Hearing<'_> {
    /// Hears one message.
    pub fn hear(&mut self, message: &Message<'_>) -> Result<Heard, Failure> {
        if !["system:", "room:", "auth:"].iter().any(|own| message.kind.starts_with(own)) {
            let number = self.number(message)?;
            let node = audience::intact(self.truth, message, number, self.rules.positions)?;
            self.publication(number, node)?;
            return Ok(Heard::Publication(number));
        }
        let payload = message.payload().map_err(|error| Failure::new("payload", error))?;
        let code = payload.code.unwrap_or("");
        let asked = match message.reference {
            Some(reference) => {
                Some(answers::answered(self.session, message.kind, reference, code)?)
            }
            None => None,
        };
        Ok(match message.kind {
            "system:connected" => self.greeted(&payload)?,
            "room:joined" => self.joined(&payload, asked)?,
            "room:left" => self.left(&payload, asked.is_some()),
            "system:resync" => self.resynced(&payload)?,
            "system:error" => self.refused(code, asked)?,
            "system:reconnect" => Heard::Reconnect { after_ms: payload.after_ms.unwrap_or(0) },
            _ => Heard::Other,
        })
    }

    /// Which publication a message is.
    fn number(&mut self, message: &Message<'_>) -> Result<usize, Failure> {
        let stream = self.stream_of(message.room)?;
        let number = match message.id.and_then(|id| self.truth.place(stream, id)) {
            Some(node) => self.truth.node(node).publication,
            None => (self.rules.marker)(message.payload.get())
                .and_then(|marker| self.truth.newest(stream, marker)),
        };
        number.ok_or_else(|| Failure::new("payload", format!("never published: {message:?}")))
    }

    /// The stream that a message names; that of its user if it names none.
    fn stream_of(&mut self, room: Option<&str>) -> Result<StreamId, Failure> {
        if let Some(room) = room {
            return Ok(self.truth.stream(room));
        }
        let user = self.session.user.as_ref();
        let user = user.ok_or_else(|| Failure::new("audience", "an anonymous client's own"))?;
        Ok(self.truth.stream(&format!("user:{user}")))
    }

    /// Hears a publication, whose content has been judged.
    pub fn publication(&mut self, number: usize, node: Option<NodeId>) -> Verdict {
        let publication = &self.truth.publications[number];
        audience::entitled(self.truth, self.session, publication)?;
        let taken = publication.taken.expect("it was judged");
        let (class, stream) = (publication.class, publication.stream);
        let Session { user, streams, epochs, .. } = &mut *self.session;
        let seen = streams.get_mut(&stream).expect("it was judged");
        let sets_back = self.rules.sets_back;
        match (class, node) {
            (Class::Durable, Some(node)) => {
                order::durable(self.truth, user.as_deref(), seen, node)?;
                if sets_back { Ok(()) } else { epochs.saw(self.truth, node) }
            }
            (Class::Durable, None) => order::numberless(seen, taken),
            (Class::Latest(_), _) => order::latest(self.truth, seen, taken, sets_back),
            (Class::Ingress, _) => order::best_effort(seen, taken),
        }
    }

    fn place(&mut self, stream: StreamId, id: Option<&str>) -> Result<Option<NodeId>, Failure> {
        let Some(id) = id else { return Ok(None) };
        let mut node = self.truth.place(stream, id);
        if node.is_none() && !self.rules.is_complete {
            node = self.truth.beginning(stream, id);
        }
        let name = self.truth.name(stream);
        node.map(Some).ok_or_else(|| Failure::new("order", format!("{name} never was at {id}")))
    }

    /// The client is told where a stream is that it joins. Who has recovered goes on from where it
    /// was: what it missed comes next.
    fn enter(
        &mut self,
        stream: StreamId,
        id: Option<&str>,
        since: Option<NodeId>,
        recovered: Option<bool>,
    ) -> Verdict {
        let node = self.place(stream, id)?;
        let lacking = since.zip(node).and_then(|(since, node)| self.truth.distance(since, node));
        let name = self.truth.name(stream);
        if recovered == Some(true) && lacking.is_none() {
            return Err(Failure::new("missed", format!("{name} is not recovered")));
        }
        let is_kept = lacking.zip(self.rules.recovers).is_some_and(|(n, kept)| n <= kept);
        if recovered == Some(false) && is_kept {
            return Err(Failure::new("missed", format!("{name} could have been recovered")));
        }
        self.start(stream, id)?;
        if recovered == Some(true) {
            self.session.streams.get_mut(&stream).expect("it has started").at = since;
        }
        Ok(())
    }

    fn start(&mut self, stream: StreamId, id: Option<&str>) -> Verdict {
        let node = self.place(stream, id)?;
        if let Some(node) = node
            && !self.rules.sets_back
        {
            self.session.epochs.saw(self.truth, node)?;
        }
        let joined = self.now;
        let seen = self.session.streams.entry(stream);
        let seen = seen.or_insert_with(|| Seen { joined, ..Seen::default() });
        order::started(self.truth, seen, node, self.rules.sets_back)
    }

    fn greeted(&mut self, payload: &Payload<'_>) -> Result<Heard, Failure> {
        if payload.user_id != self.session.user.as_deref() {
            return Err(Failure::new("audience", "greeted as somebody else"));
        }
        if let Some(user) = payload.user_id {
            let own = self.truth.stream(&format!("user:{user}"));
            let since = self.session.since.get(&own).copied();
            self.enter(own, payload.id, since, payload.recovered)?;
        }
        let all = self.truth.stream("all");
        let since = self.session.since.get(&all).copied();
        let (id, recovered) =
            payload.all.as_ref().map_or((None, None), |all| (all.id, all.recovered));
        self.enter(all, id, since, recovered)?;
        Ok(Heard::Greeted)
    }

    fn joined(&mut self, payload: &Payload<'_>, asked: Option<Asked>) -> Result<Heard, Failure> {
        let room = payload.room.unwrap_or("");
        let Some(Asked::Join(wanted, since)) = asked.filter(|asked| asked.room() == Some(room))
        else {
            return Err(Failure::new("answers", format!("{room} was not asked for")));
        };
        let stream = self.truth.stream(&wanted);
        let node = self.place(stream, payload.id)?;
        if let Some(node) = node
            && self.session.streams.contains_key(&stream)
        {
            // It is a member already, and misses nothing.
            order::repeated(self.truth, self.session, stream, node)?;
            self.start(stream, payload.id)?;
        } else {
            self.enter(stream, payload.id, since, payload.recovered)?;
        }
        Ok(Heard::Joined)
    }

    fn left(&mut self, payload: &Payload<'_>, was_asked: bool) -> Heard {
        let room = payload.room.unwrap_or("");
        let stream = self.truth.stream(room);
        let seen = self.session.streams.remove(&stream);
        let at = seen.and_then(|seen| Some((stream, seen.at?)));
        Heard::Left { room: room.to_owned(), at, was_asked }
    }

    fn resynced(&mut self, payload: &Payload<'_>) -> Result<Heard, Failure> {
        let stream = self.stream_of(payload.room)?;
        let Some(seen) = self.session.streams.get(&stream) else {
            let name = self.truth.name(stream);
            let what = format!("a resync of {name}, of which the client is no member");
            return Err(Failure::new("audience", what));
        };
        let knew = seen.at.is_some();
        self.start(stream, payload.id)?;
        Ok(Heard::Resynced { stream, knew, after_ms: payload.after_ms.unwrap_or(0) })
    }

    fn refused(&mut self, code: &str, asked: Option<Asked>) -> Result<Heard, Failure> {
        match code {
            "RATE_LIMITED" => self.session.limited = true,
            "UNAVAILABLE" => {}
            "INTERNAL" => return Err(Failure::new("answers", "an internal error")),
            _ => self.session.errors += 1,
        }
        Ok(Heard::Refused { code: code.to_owned(), asked })
    }
}
