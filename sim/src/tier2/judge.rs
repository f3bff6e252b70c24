//! Judges a run by what was seen. Each rule says what it found wrong, in a sentence.

use std::collections::BTreeMap;

use realtime_core::{id::Position, link::Since, wire::decode};
use serde_json::Value;

use super::{
    journal::{Answer, Call, Journal, Session},
    plan::Plan,
    truth::{Fact, Truth, marker},
};

/// What was wrong; empty when everything was as promised.
pub(super) fn judge(plan: &Plan, journal: &Journal, truth: &Truth) -> Vec<String> {
    let mut wrong = journal.violations.clone();
    for (number, session) in journal.sessions.iter().enumerate() {
        let mut reader = Reader { session, truth, seats: BTreeMap::new() };
        for (us, message) in &session.heard {
            if let Err(error) = reader.read(message) {
                wrong.push(format!("session {number} at {us} us: {error}"));
                break;
            }
        }
        if let Err(error) = at_the_end(plan, journal, session, &reader.seats) {
            wrong.push(format!("session {number}: {error}"));
        }
    }
    wrong.extend(calls(plan, journal, truth));
    wrong.extend(clients_are_back(plan, journal));
    wrong.extend(readiness(plan, journal));
    wrong
}

/// Follows what one client heard.
struct Reader<'a> {
    session: &'a Session,
    truth: &'a Truth,
    seats: BTreeMap<String, Seat>,
}

/// Where a client is in a stream.
#[derive(Debug, Default)]
struct Seat {
    /// None where the service has named none.
    at: Option<Since>,
    /// For each kind of latest value, the newest that came, as its place in the log.
    latest: BTreeMap<String, usize>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, message: &Value) -> Result<(), String> {
        let payload = &message["payload"];
        let room = |value: &Value| value.as_str().map(str::to_owned);
        match message["type"].as_str().ok_or("a message without a type")? {
            "system:connected" => {
                if let Some(user) = &self.session.user {
                    self.sit(format!("user:{user}"), &payload["id"])?;
                }
                self.sit("all".to_owned(), &payload["all"]["id"])
            }
            "room:joined" => {
                self.sit(room(&payload["room"]).ok_or("a join of nothing")?, &payload["id"])
            }
            "room:left" => {
                let room = room(&payload["room"]).ok_or("a leave of nothing")?;
                self.seats.remove(&room);
                Ok(())
            }
            "system:resync" => {
                let stream = match room(&payload["room"]) {
                    Some(room) => room,
                    None => self.own_stream()?,
                };
                let seat = self.seats.get_mut(&stream);
                let seat = seat.ok_or_else(|| format!("a resync of {stream}, not joined"))?;
                seat.at = since(&payload["id"]);
                Ok(())
            }
            kind if ["system:", "room:", "auth:"].iter().any(|own| kind.starts_with(own)) => Ok(()),
            kind => self.publication(kind, message),
        }
    }

    fn own_stream(&self) -> Result<String, String> {
        let user = self.session.user.as_ref().ok_or("anonymous, but told of a user's stream")?;
        Ok(format!("user:{user}"))
    }

    /// It is in a stream from `id` on. Where it has been in it already, nothing may be missing.
    fn sit(&mut self, stream: String, id: &Value) -> Result<(), String> {
        let at = since(id);
        if let (Some(at), Some(known)) =
            (&at, self.seats.get(&stream).and_then(|seat| seat.at.as_ref()))
            && at.epoch == known.epoch
            && at.offset > known.offset
        {
            let fact = self.fact(&stream, id)?;
            if !self.is_excluded(fact) {
                return Err(missing(&stream, at.offset));
            }
            self.complete(&stream, known, fact)?;
        }
        self.seats.entry(stream).or_default().at = at;
        Ok(())
    }

    fn fact(&self, stream: &str, id: &Value) -> Result<&'a Fact, String> {
        let fact = id.as_str().and_then(|id| self.truth.by_id(stream, id));
        fact.ok_or_else(|| format!("{id} of {stream} was never published"))
    }

    fn is_excluded(&self, fact: &Fact) -> bool {
        let excluded = fact.entry.body.exclude_user.as_deref();
        excluded.is_some() && excluded == self.session.user.as_deref()
    }

    /// Between `known` and `fact` there is nothing that this user should have got: each entry names
    /// the one before it.
    fn complete(&self, stream: &str, known: &Since, fact: &Fact) -> Result<(), String> {
        let mut offset = fact.offset();
        let mut before = fact.before();
        while offset > known.offset + 1 {
            offset -= 1;
            let skipped = self.truth.by_mid(stream, before);
            let skipped = skipped.filter(|skipped| self.is_excluded(skipped));
            before = skipped.ok_or_else(|| missing(stream, offset))?.before();
        }
        let check = Position { mid: before, ..Position::default() }.check();
        if known.offset > 0 && check != known.check {
            return Err(format!("{known:?} of {stream} is not what {} follows", fact.offset()));
        }
        Ok(())
    }

    fn publication(&mut self, kind: &str, message: &Value) -> Result<(), String> {
        let stream = match message["room"].as_str() {
            Some(room) => room.to_owned(),
            None => self.own_stream()?,
        };
        let payload = &message["payload"];
        if !self.seats.contains_key(&stream) {
            return Err(format!("a message of {stream}, not joined: {message}"));
        }
        if message["id"].is_null() {
            return self.latest(&stream, kind, payload);
        }
        let fact = self.fact(&stream, &message["id"])?;
        self.intact(fact, kind, payload)?;
        let at = since(&message["id"]).ok_or("an id that can't be read")?;
        self.advance(&stream, at, fact)
    }

    fn intact(&self, fact: &Fact, kind: &str, payload: &Value) -> Result<(), String> {
        if fact.payload != *payload || *fact.entry.body.kind != *kind {
            return Err(format!("{payload} came, {} was published", fact.payload));
        }
        if self.is_excluded(fact) {
            return Err(format!("a message came to its sender: {payload}"));
        }
        Ok(())
    }

    /// The message is the next one, but for those that are not for this user.
    fn advance(&mut self, stream: &str, at: Since, fact: &Fact) -> Result<(), String> {
        if let Some(known) = self.seats.get(stream).and_then(|seat| seat.at.as_ref()) {
            if known.epoch != at.epoch {
                return Err(format!("the epoch of {stream} changed without a word"));
            }
            if at.offset <= known.offset {
                return Err(format!("{} of {stream} came after {}", at.offset, known.offset));
            }
            self.complete(stream, known, fact)?;
        }
        self.seats.entry(stream.to_owned()).or_default().at = Some(at);
        Ok(())
    }

    fn latest(&mut self, stream: &str, kind: &str, payload: &Value) -> Result<(), String> {
        let at = marker(payload).and_then(|marker| self.truth.last_of(stream, marker));
        let at = at.ok_or_else(|| format!("{payload} was never published to {stream}"))?;
        let seat = self.seats.get_mut(stream).ok_or_else(|| format!("{stream} is not joined"))?;
        match seat.latest.insert(kind.to_owned(), at) {
            Some(newer) if newer >= at => Err(format!("an older value came again: {payload}")),
            Some(_) | None => Ok(()),
        }
    }
}

/// Who is connected and joined in the end has got the last messages, or was told.
fn at_the_end(
    plan: &Plan,
    journal: &Journal,
    session: &Session,
    seats: &BTreeMap<String, Seat>,
) -> Result<(), String> {
    if session.closed.is_some() {
        return Ok(());
    }
    let client = &plan.clients[session.client];
    for room in &client.rooms {
        if !seats.contains_key(room) {
            return Err(format!("in the end it is not in {room}"));
        }
    }
    for call in journal.calls.iter().filter(|call| call.last && seats.contains_key(&call.stream)) {
        if hears_of(session, call).is_none() && !is_resynced(plan, session, &call.stream) {
            return Err(format!("it did not hear the last message of {}", call.stream));
        }
    }
    Ok(())
}

/// Whether a session was told at the time of the last messages that some of a stream are missing.
fn is_resynced(plan: &Plan, session: &Session, stream: &str) -> bool {
    session.heard.iter().any(|(us, message)| {
        let room = message["payload"]["room"].as_str();
        let is_it = room.map_or_else(|| stream.starts_with("user:"), |room| room == stream);
        *us >= plan.last_ms * 1_000 && message["type"] == "system:resync" && is_it
    })
}

/// When a session heard of a call.
fn hears_of(session: &Session, call: &Call) -> Option<u64> {
    let own = session.user.as_ref().map(|user| format!("user:{user}"));
    let of_stream = |message: &Value| match message["room"].as_str() {
        Some(room) => room == call.stream,
        None => own.as_deref() == Some(call.stream.as_str()),
    };
    let heard = session.heard.iter().find(|(_, message)| {
        marker(&message["payload"]) == Some(call.marker) && of_stream(message)
    });
    heard.map(|(us, _)| *us)
}

/// What was acknowledged was published, once, and the last ones succeed with true counts.
fn calls(plan: &Plan, journal: &Journal, truth: &Truth) -> Vec<String> {
    let once = plan.recognises_repeats();
    let expected = plan.publishes.len();
    let mut wrong = Vec::new();
    for call in &journal.calls {
        let Call { marker, stream, attempts, .. } = call;
        let count = truth.count(*marker);
        if count > 1 && once {
            wrong.push(format!("{marker} was published {count} times in {attempts} attempts"));
        }
        match &call.outcome {
            Ok(answer) => wrong.extend(acknowledged(call, answer, count, journal, truth)),
            Err(error) if call.last => {
                wrong.push(format!("in the end {stream} can't be published to: {error}"));
            }
            Err(_) => (),
        }
    }
    let planned = journal.calls.iter().filter(|call| !call.last).count();
    if planned < expected {
        wrong.push(format!("only {planned} of {expected} calls have ended"));
    }
    wrong
}

fn acknowledged(
    call: &Call,
    answer: &Answer,
    count: usize,
    journal: &Journal,
    truth: &Truth,
) -> Option<String> {
    let Call { marker, stream, .. } = call;
    if count == 0 {
        return Some(format!("{marker} was acknowledged, but not published"));
    }
    if call.durable
        && truth.by_id(stream, &answer.message_id).and_then(|fact| fact.marker) != Some(*marker)
    {
        return Some(format!("{marker} is not what {} names", answer.message_id));
    }
    // An instance counts its own connections only.
    let heard = journal.sessions.iter().filter(|session| session.pod == call.pod);
    let heard = heard.filter(|session| hears_of(session, call).is_some()).count();
    let counted = if call.durable { heard } else { heard.min(1) };
    let recipients = answer.recipients;
    if call.last && recipients != counted {
        return Some(format!("{marker} of {stream} came to {heard}, {recipients} were counted"));
    }
    None
}

/// Everybody is connected in the end.
fn clients_are_back(plan: &Plan, journal: &Journal) -> Vec<String> {
    let open = |client: usize| {
        journal.sessions.iter().any(|session| session.client == client && session.closed.is_none())
    };
    (0..plan.clients.len())
        .filter(|client| !open(*client))
        .map(|client| format!("client {client} is not connected in the end"))
        .collect()
}

/// When all is well, every instance says so.
fn readiness(plan: &Plan, journal: &Journal) -> Vec<String> {
    let late = journal.probes.iter().filter(|probe| probe.us > plan.last_ms * 1_000);
    late.filter(|probe| probe.status != Some(200))
        .map(|probe| format!("pod {} is not ready at {} us", probe.pod, probe.us))
        .collect()
}

fn missing(stream: &str, offset: u64) -> String {
    format!("{offset} of {stream} is missing without a word")
}

fn since(id: &Value) -> Option<Since> {
    decode::since(id.as_str()?)
}

#[cfg(test)]
mod tests;
