//! Judges a run by what was seen: turns the journal and the simulated Redis' log into what the
//! oracles of both tiers judge by, and adds what only this tier has.

use realtime_core::{id::ConnectionId, time::Instant};

use std::collections::{BTreeMap, BTreeSet};

use super::{
    journal::{Answer, Call, Journal, Probe, Session, Word},
    plan::{CLIENT_HOSTS_MAX, Data, Fault, Plan, client_name},
    truth::{Facts, marker},
};
use crate::{
    frames::Message,
    hearing::{Heard, Hearing, Rules},
    oracle::{Failure, Verdict, answers, liveness, rollback, values},
    session::{self, Asked, Stage},
    truth::StreamId,
};

/// What was wrong; empty when everything was as promised.
pub(super) fn judge(plan: &Plan, journal: &Journal, facts: &mut Facts) -> Vec<String> {
    let mut wrong = journal.violations.clone();
    let rules = plan.rules();
    let mut listeners = Vec::new();
    for (number, session) in journal.sessions.iter().enumerate() {
        let mut listener = Listener::new(session);
        if let Err(error) = listener.listen(session, facts, rules) {
            wrong.push(error.at(format!("session {number}")).to_string());
        } else if let Err(error) = listener.at_the_end(plan, journal, session, facts) {
            wrong.push(error.at(format!("session {number} in the end")).to_string());
        }
        listeners.push(listener);
    }
    wrong.extend(calls(plan, journal, facts, &listeners));
    wrong.extend(rollbacks(plan, journal, facts));
    wrong.extend(clients_are_back(plan, journal));
    wrong.extend(readiness(plan, journal));
    wrong.extend(gauges(plan, journal));
    wrong.extend(drains(plan, journal));
    wrong.extend(interest(plan, journal, facts, &listeners));
    wrong.extend(peers(plan, journal));
    wrong.extend(outboxes(plan, journal));
    wrong.extend(slow(plan, journal));
    wrong
}

impl Plan {
    /// Whether an instance has one life, and nothing that it knows is lost.
    fn stays(&self, of: usize) -> bool {
        !self.faults.iter().any(|(_, fault)| {
            matches!(
                fault,
                Fault::Crash { pod, .. } | Fault::PowerLoss { pod, .. } | Fault::Drain { pod }
                    if *pod == of
            )
        })
    }

    fn rules(&self) -> Rules {
        // A numbering that begins in the place of a lost one comes from anybody's clock.
        let clocks_differ = !self.clocks_ms.is_empty();
        let sets_back = self.faults.iter().any(|(_, fault)| {
            matches!(fault, Fault::CrashRedis { data: Data::Older, .. })
                || (clocks_differ && fault.loses_data())
        });
        let off = |(knob, value): &(String, String)| knob == "HISTORY_SIZE" && value == "0";
        let positions = !self.knobs.iter().any(off);
        Rules { positions, sets_back, is_complete: false, recovers: None, marker }
    }
}

/// What one client knows in the end.
#[derive(Debug)]
struct Listener {
    session: session::Session,
    /// Its connection has ended.
    is_gone: bool,
    /// The publications that it heard.
    heard: Vec<usize>,
    /// When it was told of which stream that something may be missing.
    resyncs: Vec<(u64, StreamId)>,
}

impl Listener {
    fn new(of: &Session) -> Self {
        let conn = ConnectionId { slot: 0, generation: 0 };
        let user = of.user.clone();
        let mut session = session::Session::new(of.client, user, (of.pod, 0), 0, conn);
        session.stage = Stage::Open;
        let is_gone = of.closed.is_some();
        Self { session, is_gone, heard: Vec::new(), resyncs: Vec::new() }
    }

    fn listen(&mut self, of: &Session, facts: &mut Facts, rules: Rules) -> Verdict {
        for (name, id) in &of.since {
            let stream = facts.truth.stream(name);
            self.session.since.extend(facts.since(name, id).map(|node| (stream, node)));
        }
        for (us, word) in &of.words {
            let text = match word {
                Word::Heard(text) => text.as_bytes(),
                Word::Asked(reference, asked, since) => {
                    let asked = match (asked, since) {
                        (Asked::Join(room, _), Some(id)) => {
                            Asked::Join(room.clone(), facts.since(room, id))
                        }
                        _ => asked.clone(),
                    };
                    self.session.asked.insert(*reference, asked);
                    continue;
                }
            };
            let at = |error: Failure| error.at(format!("{us} us"));
            let message = Message::read(text).map_err(|error| Failure::new("payload", error));
            let truth = &mut facts.truth;
            let now = Instant(us * 1_000);
            let mut hearing = Hearing { truth, session: &mut self.session, rules, now };
            match message.and_then(|message| hearing.hear(&message)).map_err(at)? {
                Heard::Publication(number) => self.heard.push(number),
                Heard::Resynced { stream, .. } => self.resyncs.push((*us, stream)),
                Heard::Greeted
                | Heard::Joined
                | Heard::Left { .. }
                | Heard::Refused { .. }
                | Heard::Reconnect { .. }
                | Heard::Other => (),
            }
        }
        Ok(())
    }

    /// Who is connected and joined in the end has got everything, or was told.
    fn at_the_end(&self, plan: &Plan, journal: &Journal, of: &Session, facts: &Facts) -> Verdict {
        if of.closed.is_some() {
            return Ok(());
        }
        let failed = |what: String| Err(Failure::new("liveness", what));
        answers::judge(&self.session)?;
        let member = |name: &str| {
            facts.truth.find(name).filter(|stream| self.session.streams.contains_key(stream))
        };
        for room in &plan.clients[of.client].rooms {
            if member(room).is_none() {
                return failed(format!("it is not in {room}"));
            }
        }
        if plan.faults.is_empty() {
            values::of_each_key(&facts.truth, &self.session, &self.heard)?;
        }
        liveness::judge(&facts.truth, |stream| facts.heads.get(&stream).copied(), &self.session)?;
        for call in journal.calls.iter().filter(|call| call.last && !call.durable) {
            let Some(stream) = member(&call.stream) else { continue };
            let late = plan.last_ms * 1_000;
            let is_told = self.resyncs.iter().any(|(us, of)| *us >= late && *of == stream);
            if !self.hears_of(call, facts) && !is_told {
                return failed(format!("it did not hear the last value of {}", call.stream));
            }
        }
        Ok(())
    }

    /// Whether it heard what a call published.
    fn hears_of(&self, call: &Call, facts: &Facts) -> bool {
        let stream = facts.truth.find(&call.stream);
        self.heard.iter().any(|number| {
            facts.markers[*number] == Some(call.marker)
                && Some(facts.truth.publications[*number].stream) == stream
        })
    }
}

/// What was acknowledged was published, once, and the last ones succeed with true counts.
fn calls(plan: &Plan, journal: &Journal, facts: &Facts, listeners: &[Listener]) -> Vec<String> {
    let once = plan.recognises_repeats();
    let expected = plan.publishes.iter().filter(|publish| !publish.call.is_ingress()).count();
    let mut wrong = Vec::new();
    for call in &journal.calls {
        let Call { marker, stream, attempts, .. } = call;
        let count = facts.count(*marker);
        if count > 1 && once {
            wrong.push(format!("{marker} was published {count} times in {attempts} attempts"));
        }
        match &call.outcome {
            Ok(answer) => {
                let unheard = journal.failed_connects;
                wrong.extend(acknowledged(call, answer, count, unheard, facts, listeners));
            }
            Err(error) if call.last => {
                wrong.push(format!("in the end {stream} can't be published to: {error}"));
            }
            Err(error) if error.starts_with(CERTAIN) && *attempts == 1 && count > 0 => {
                wrong.push(format!("{marker} was published, though its publisher heard: {error}"));
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
    unheard: usize,
    facts: &Facts,
    listeners: &[Listener],
) -> Option<String> {
    let Call { marker, stream, .. } = call;
    if count == 0 {
        return Some(format!("{marker} was acknowledged, but not published"));
    }
    let is_kept = facts.is_durable(*marker);
    if is_kept != call.durable {
        return Some(format!("{marker} is in the history: {is_kept}"));
    }
    if call.durable && facts.call(stream, &answer.message_id) != Some(*marker) {
        return Some(format!("{marker} is not what {} names", answer.message_id));
    }
    let heard = listeners.iter().filter(|listener| listener.hears_of(call, facts)).count();
    let counted = if call.durable { heard } else { heard.min(1) };
    let recipients = answer.recipients;
    // Whoever is gone, or never knew that it was let in, may have been sent it unread. A value may
    // have left an outbox for a newer one.
    let gone = unheard + listeners.iter().filter(|listener| listener.is_gone).count();
    if call.durable && recipients > heard + gone {
        let what = format!("{heard} heard it, and {gone} are gone");
        return Some(format!("{marker} of {stream}: {recipients} were counted, {what}"));
    }
    if call.last && recipients != counted {
        return Some(format!("{marker} of {stream} came to {heard}, {recipients} were counted"));
    }
    None
}

/// What was acknowledged by an instance that lives on is there in the end, or its numbering is not;
/// also what it has only called a duplicate.
fn rollbacks(plan: &Plan, journal: &Journal, facts: &Facts) -> Vec<String> {
    let is_vouched_for = |call: &&Call| call.durable && plan.stays(call.pod);
    let places = journal.calls.iter().filter(is_vouched_for).filter_map(|call| {
        let answer = call.outcome.as_ref().ok()?;
        facts.truth.place(facts.truth.find(&call.stream)?, &answer.message_id)
    });
    let is_older =
        |(_, fault): &&(u64, Fault)| matches!(fault, Fault::CrashRedis { data: Data::Older, .. });
    let often = plan.faults.iter().filter(is_older).count() > 1;
    let head = |stream| facts.heads.get(&stream).copied();
    let kept = rollback::kept(&facts.truth, head, places, often);
    // A numbering that begins in the place of one that was evicted is taken for an older one if its
    // epoch was drawn earlier; one that was drawn by a clock that is behind, in any case, by
    // whoever knows a later one.
    let is_end = |(_, fault): &&(u64, Fault)| {
        matches!(fault, Fault::CrashRedis { .. } | Fault::Evict { .. })
    };
    let ends = u32::try_from(plan.faults.iter().filter(is_end).count()).unwrap_or(u32::MAX);
    let ends = if plan.clocks_ms.is_empty() { ends } else { 2 * ends };
    let rollovers = facts.rollovers.iter().map(|(stream, count)| (*stream, *count));
    let once = rollback::once(&facts.truth, rollovers, ends);
    [kept, once].into_iter().filter_map(Result::err).map(|error| error.to_string()).collect()
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

/// What instances say of themselves and of all in the end is what clients know.
fn gauges(plan: &Plan, journal: &Journal) -> Vec<String> {
    let count = |is_it: &dyn Fn(&Session) -> bool| {
        let open = |of: &&Session| of.closed.is_none() && is_it(of);
        i32::try_from(journal.sessions.iter().filter(open).count()).unwrap_or(i32::MAX)
    };
    let all = [count(&|of| of.user.is_some()), count(&|of| of.user.is_none())];
    let mut wrong = Vec::new();
    for pod in 0..plan.workers.len() {
        let own = [
            count(&|of| of.pod == pod && of.user.is_some()),
            count(&|of| of.pod == pod && of.user.is_none()),
        ];
        let Some(told) = journal.stats.get(pod) else {
            wrong.push(format!("gauges: pod {pod} says nothing of itself"));
            continue;
        };
        for (told, there) in told.iter().zip([own, all]) {
            let told = [told.authenticated_connections, told.anonymous_connections];
            if told != there {
                wrong.push(format!("gauges: pod {pod} tells of {told:?} connections of {there:?}"));
            }
        }
    }
    wrong
}

/// An instance that is told to stop is not ready from then on, and whoever hears that it goes is
/// told before when to come back.
fn drains(plan: &Plan, journal: &Journal) -> Vec<String> {
    // Another life of it has not been told.
    let has_crashed = |from_us: u64, probe: &Probe| {
        plan.faults.iter().any(|(at_ms, fault)| {
            matches!(
                fault,
                Fault::Crash { pod, .. } | Fault::PowerLoss { pod, .. } if *pod == probe.pod
            ) && (from_us..probe.us + TICK_US).contains(&(at_ms * 1_000 + TICK_US))
        })
    };
    let is_draining = |probe: &&Probe| {
        let mut stops = journal.stops.iter().filter(|(_, pod)| *pod == probe.pod);
        stops.any(|(us, _)| {
            (us + NOTICED_US..us + DRAIN_US).contains(&probe.asked_us) && !has_crashed(*us, probe)
        })
    };
    let probes = journal.probes.iter().filter(is_draining);
    let ready = probes.filter(|probe| probe.status == Some(200)).map(|probe| {
        format!("drain: pod {} is told to stop, and still ready at {} us", probe.pod, probe.us)
    });
    let untold = journal.sessions.iter().enumerate().filter(|(_, session)| {
        let last = session.words.iter().rev().find_map(|(_, word)| match word {
            Word::Heard(text) => Some(text.as_str()),
            Word::Asked(..) => None,
        });
        session.code == Some(1012) && !last.is_some_and(|last| last.contains("system:reconnect"))
    });
    let untold = untold.map(|(number, _)| format!("drain: session {number} goes without a word"));
    ready.chain(untold).collect()
}

/// In the end Redis has a subscription for each instance with members, and none for one that never
/// had any: those of members that have left linger for longer than a run lasts.
fn interest(plan: &Plan, journal: &Journal, facts: &Facts, listeners: &[Listener]) -> Vec<String> {
    // Redis does not find out that a connection is gone whose other end can't tell.
    let strands = |(_, fault): &(u64, Fault)| {
        matches!(fault, Fault::Cut { a, b, .. } if a == "redis" || b == "redis")
            || matches!(fault, Fault::CutOneWay { .. } | Fault::PowerLoss { .. })
    };
    if plan.faults.iter().any(strands) {
        return Vec::new();
    }
    let mut members: BTreeMap<String, [BTreeSet<usize>; 2]> = BTreeMap::new();
    for (listener, session) in listeners.iter().zip(&journal.sessions) {
        let client = &plan.clients[session.client];
        let own = session.user.as_ref().map(|user| format!("user:{user}"));
        let names = own.into_iter().chain(["all".to_owned()]).chain(client.rooms.clone());
        for name in names {
            let stream = facts.truth.find(&name);
            let [now, ever] = members.entry(name).or_default();
            ever.insert(session.pod);
            let is_in = stream.is_some_and(|of| listener.session.streams.contains_key(&of));
            if session.closed.is_none() && is_in {
                now.insert(session.pod);
            }
        }
    }
    let mut wrong = Vec::new();
    for (stream, subscribed) in &facts.audiences {
        let name = facts.truth.name(*stream);
        let [now, mut ever] = members.remove(name).unwrap_or_default().map(|pods| pods.len());
        if journal.failed_connects > 0 {
            ever = plan.workers.len(); // Nobody knows where those were let in.
        }
        if !(now..=ever).contains(subscribed) {
            let what = format!("{now} instances have members, {ever} had, {subscribed} subscribe");
            wrong.push(format!("interest: {name}: {what}"));
        }
    }
    let lacking = members.into_iter().filter(|(_, [now, _])| !now.is_empty());
    wrong.extend(lacking.map(|(name, _)| format!("interest: nobody subscribes to {name}")));
    wrong
}

impl Plan {
    /// Whether something stands between a client and the instance that it is connected to, or
    /// nobody tells it of the end of its connection: of a power loss.
    fn is_cut(&self, session: &Session) -> bool {
        let host = client_name(session.client % CLIENT_HOSTS_MAX);
        self.faults.iter().any(|(_, fault)| {
            matches!(fault, Fault::Cut { a, .. } | Fault::Hold { a, .. } if *a == host)
                || matches!(fault, Fault::PowerLoss { pod, .. } if *pod == session.pod)
        })
    }
}

/// No more waits for the connections of an instance than may.
fn outboxes(plan: &Plan, journal: &Journal) -> Vec<String> {
    let Some(bytes_max) = plan.outbox_bytes() else { return Vec::new() };
    let mut wrong = Vec::new();
    for seen in &journal.outboxes {
        let is_there = |of: &&Session| {
            let has_ended = of.closed.is_some_and(|us| us + LINGERING_US < seen.asked_us);
            of.pod == seen.pod && of.opened <= seen.us && (!has_ended || plan.is_cut(of))
        };
        let there = journal.sessions.iter().filter(is_there).count() + journal.failed_connects;
        let most = bytes_max * u64::try_from(there).unwrap_or(u64::MAX);
        if seen.bytes > most {
            wrong.push(format!(
                "outboxes: {} bytes wait for {there} connections of pod {} at {} us",
                seen.bytes, seen.pod, seen.us
            ));
        }
    }
    wrong
}

/// Who reads at once is not closed for being slow, unless hardly anything may wait, or much that
/// was missed comes at once.
fn slow(plan: &Plan, journal: &Journal) -> Vec<String> {
    let has_slept = |number| journal.naps.iter().any(|(of, _, _)| *of == number);
    let sessions = journal.sessions.iter().enumerate();
    let is_roomy = plan.outbox_bytes().is_none() && plan.faults.is_empty();
    let slow = sessions.filter(|(_, session)| is_roomy && session.code == Some(SLOW));
    let wrong = slow.filter(|(number, _)| !has_slept(*number));
    wrong
        .map(|(number, _)| format!("slow: session {number} was closed, and read at once"))
        .collect()
}

/// Who is silent for too long is closed, and nobody else is for that.
fn peers(plan: &Plan, journal: &Journal) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, session) in journal.sessions.iter().enumerate() {
        if plan.is_cut(session) {
            continue;
        }
        let mut naps = journal.naps.iter().filter(|(of, _, _)| *of == number).peekable();
        if session.code == Some(SILENT) && naps.peek().is_none() {
            wrong.push(format!(
                "peers: session {number} was closed for silence, and was not silent"
            ));
        }
        for (_, from_us, until_us) in naps {
            let noticed_us = until_us + NOTICED_LATE_US;
            let has_crashed = plan.faults.iter().any(|(at_ms, fault)| {
                // It may not hear of the end behind what it has not read.
                matches!(fault, Fault::Crash { pod, .. } if *pod == session.pod)
                    && (*from_us..noticed_us).contains(&(at_ms * 1_000))
            });
            let is_long = until_us - from_us >= SILENCE_US && !has_crashed;
            let is_closed = session.closed.is_some_and(|at_us| at_us < noticed_us);
            if is_long && !is_closed && noticed_us < plan.end_ms * 1_000 {
                wrong.push(format!("peers: session {number} was silent from {from_us} us on"));
            }
        }
    }
    wrong
}

/// The code for peers that read too slowly.
const SLOW: u16 = 4508;

/// An instance has nothing left for a connection that has ended, so much later.
const LINGERING_US: u64 = 6_000_000;

/// The code for peers that say nothing.
const SILENT: u16 = 4408;

/// Nobody may be silent for so long: the pong timeout, and what timers and the network add.
const SILENCE_US: u64 = 5_400_000;

/// By then a client that reads again has found out that it was closed.
const NOTICED_LATE_US: u64 = 2_000_000;

/// What publishers hear of what was certainly not published.
const CERTAIN: &str = "Unavailable: not published";

/// An instance hears of its end no later than this.
const NOTICED_US: u64 = 20_000;

/// Faults come no later than this.
const TICK_US: u64 = 10_000;

/// It closes nothing before this, and is there to be asked.
const DRAIN_US: u64 = 450_000;

#[cfg(test)]
mod tests;
