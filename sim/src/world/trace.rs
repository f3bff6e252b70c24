//! What happened, a JSON object a line: integers and texts only, and no wall clock, so that two
//! runs of one plan write the same bytes.

use std::io::Write;

use realtime_core::time::Instant;

use crate::{
    oracle::Verdict,
    plan::Plan,
    trace::{self, Header, STATES_EVERY},
};

use super::{Event, route::Route};

/// Where to write it; nowhere in most runs.
pub(super) struct Trace<'a> {
    out: Option<&'a mut dyn Write>,
    lines: u64,
    /// From how many on the states of the machines are due.
    due: u64,
}

impl<'a> Trace<'a> {
    pub(super) fn new(out: Option<&'a mut dyn Write>) -> Self {
        Self { out, lines: 0, due: STATES_EVERY }
    }

    pub(super) fn begin(&mut self, plan: &Plan) {
        if self.out.is_some() {
            self.line(&Header::new(1, plan.seed, true, plan).line());
        }
    }

    pub(super) fn event(&mut self, at: Instant, event: &Event, route: impl FnOnce() -> Route) {
        if self.out.is_some() {
            let Route { host, from } = route();
            let host = host.map(|host| format!(r#","host":"{host}""#)).unwrap_or_default();
            let from = from.map(|(from, left)| format!(r#","from":"{from}","left":{}"#, left.0));
            let way = format!("{host}{}", from.unwrap_or_default());
            self.write(at, &way, "event", &format!("{event:?}"));
        }
    }

    /// Says something that a host does, if anybody listens: the host, where it sends that, what it
    /// is.
    pub(super) fn say(
        &mut self,
        what: &str,
        at: Instant,
        text: impl FnOnce() -> (String, Option<String>, String),
    ) {
        if self.out.is_some() {
            let (host, to, text) = text();
            let to = to.map(|to| format!(r#","to":"{to}""#)).unwrap_or_default();
            self.write(at, &format!(r#","host":"{host}"{to}"#), what, &text);
        }
    }

    fn write(&mut self, at: Instant, way: &str, what: &str, text: &str) {
        let text = serde_json::to_string(text).expect("a text");
        let n = self.lines;
        self.line(&format!(r#"{{"n":{n},"at":{}{way},"{what}":{text}}}"#, at.0));
    }

    /// How many there are.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Whether it is time to write down the states of the machines.
    pub(super) fn is_due(&self) -> bool {
        self.out.is_some() && self.lines >= self.due
    }

    pub(super) fn states(&mut self, hash: u64, states: &[(String, u64)]) {
        self.due = self.lines + STATES_EVERY;
        self.line(&trace::states(self.lines, hash, states));
    }

    pub(super) fn end(&mut self, hash: u64, verdict: &Verdict) {
        let verdict = verdict.as_ref().map_or_else(ToString::to_string, |()| "passed".to_owned());
        self.line(&trace::verdict(hash, &verdict));
    }

    fn line(&mut self, text: &str) {
        self.lines += 1;
        if let Some(out) = &mut self.out {
            // Nobody reads further: nothing can be told any more.
            _ = writeln!(out, "{text}");
        }
    }
}
