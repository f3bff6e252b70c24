//! What clients, publishers and probes saw. The run is judged by it.

use std::{cell::RefCell, rc::Rc};

use realtime_proto::GetConnectionStatsResponse;
use serde_json::Value;

use super::{
    plan::{client_name, pod_name},
    trace,
};
use crate::session::Asked;

/// What all of them write into.
pub(super) type SharedJournal = Rc<RefCell<Journal>>;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) sessions: Vec<Session>,
    /// Attempts to connect that came to nothing for the client; an instance may know better.
    pub(super) failed_connects: usize,
    pub(super) calls: Vec<Call>,
    pub(super) probes: Vec<Probe>,
    pub(super) outboxes: Vec<Outboxes>,
    /// What each instance said in the end of itself, and what of all.
    pub(super) stats: Vec<[GetConnectionStatsResponse; 2]>,
    /// When clients read nothing: which connection, from when, until when.
    pub(super) naps: Vec<(usize, u64, u64)>,
    /// When which instance was told to stop.
    pub(super) stops: Vec<(u64, usize)>,
    /// What must not be, whatever else happens.
    pub(super) violations: Vec<String>,
}

/// One WebSocket as its client saw it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: usize,
    pub(super) user: Option<String>,
    pub(super) pod: usize,
    /// Where its client said that it was, by the names of the streams.
    pub(super) since: Vec<(String, String)>,
    /// What was said and what came, with the time.
    pub(super) words: Vec<(u64, Word)>,
    pub(super) opened: u64,
    pub(super) closed: Option<u64>,
    /// What it was closed with, if that came.
    pub(super) code: Option<u16>,
}

/// Something that goes over a WebSocket.
#[derive(Debug)]
pub(super) enum Word {
    /// The client asks for something, and numbers it; a join may tell where it was.
    Asked(u32, Asked, Option<String>),
    /// A message.
    Heard(String),
}

/// One publication as its publisher saw it.
#[derive(Debug)]
pub(super) struct Call {
    /// Found again in the message.
    pub(super) marker: u64,
    pub(super) stream: String,
    pub(super) durable: bool,
    pub(super) attempts: u32,
    /// Which instance was asked last.
    pub(super) pod: usize,
    /// One of those that everybody must get.
    pub(super) last: bool,
    pub(super) outcome: Result<Answer, String>,
}

/// What the service answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) message_id: String,
    pub(super) recipients: usize,
}

/// One look at `/ready`.
#[derive(Debug)]
pub(super) struct Probe {
    /// When it was asked.
    pub(super) asked_us: u64,
    /// When the answer came.
    pub(super) us: u64,
    pub(super) pod: usize,
    /// None without an answer.
    pub(super) status: Option<u16>,
}

/// One look at what waits in the outboxes of an instance.
#[derive(Debug)]
pub(super) struct Outboxes {
    /// When it was asked.
    pub(super) asked_us: u64,
    /// When the answer came.
    pub(super) us: u64,
    pub(super) pod: usize,
    pub(super) bytes: u64,
}

impl Session {
    /// Messages that came.
    pub(super) fn heard(&self) -> usize {
        self.words.iter().filter(|(_, word)| matches!(word, Word::Heard(_))).count()
    }
}

impl Journal {
    /// A WebSocket is open.
    pub(super) fn open(
        &mut self,
        client: usize,
        user: Option<String>,
        pod: usize,
        since: Vec<(String, String)>,
    ) -> usize {
        let session = self.sessions.len();
        let from = pod_name(pod);
        let told = Value::from(format!("{since:?}"));
        let what = format_args!(
            "\"from\":\"{from}\",\"session\":{session},\"opened\":{pod},\"since\":{told}"
        );
        trace::note(&client_name(client), what);
        self.sessions.push(Session {
            client,
            user,
            pod,
            since,
            words: Vec::new(),
            opened: trace::now_us(),
            closed: None,
            code: None,
        });
        session
    }

    /// A message came.
    pub(super) fn hear(&mut self, session: usize, text: &str) -> Value {
        let Session { client, pod, .. } = self.sessions[session];
        let (from, heard) = (pod_name(pod), Value::from(text));
        let what = format_args!("\"from\":\"{from}\",\"session\":{session},\"heard\":{heard}");
        trace::note(&client_name(client), what);
        let message: Value = serde_json::from_str(text).unwrap_or_else(|error| {
            self.violations.push(format!("session {session} heard no JSON: {error}: {text}"));
            Value::Null
        });
        let word = Word::Heard(text.to_owned());
        self.sessions[session].words.push((trace::now_us(), word));
        message
    }

    /// A client asks for something; gives the number of the request.
    pub(super) fn ask(&mut self, session: usize, asked: Asked, since: Option<String>) -> u32 {
        let Session { client, pod, ref mut words, .. } = self.sessions[session];
        let (to, text) = (pod_name(pod), Value::from(format!("{asked:?} {since:?}")));
        let what = format_args!("\"to\":\"{to}\",\"session\":{session},\"asked\":{text}");
        trace::note(&client_name(client), what);
        let reference = u32::try_from(words.len()).unwrap_or(u32::MAX);
        words.push((trace::now_us(), Word::Asked(reference, asked, since)));
        reference
    }

    /// The WebSocket is gone.
    pub(super) fn close(&mut self, session: usize, why: &str) {
        let host = client_name(self.sessions[session].client);
        let why = Value::from(why);
        trace::note(&host, format_args!("\"session\":{session},\"closed\":{why}"));
        self.sessions[session].closed = Some(trace::now_us());
    }

    /// A publication has succeeded or failed.
    pub(super) fn call(&mut self, call: Call) {
        let Call { marker, stream, .. } = &call;
        match &call.outcome {
            Ok(Answer { recipients, message_id, .. }) => trace::note(
                "publisher",
                format_args!(
                    "\"published\":{marker},\"stream\":\"{stream}\",\"id\":\"{message_id}\",\
                     \"recipients\":{recipients}"
                ),
            ),
            Err(error) => trace::note(
                "publisher",
                format_args!(
                    "\"unpublished\":{marker},\"stream\":\"{stream}\",\"why\":{}",
                    Value::from(error.as_str())
                ),
            ),
        }
        self.calls.push(call);
    }

    /// What must not be.
    pub(super) fn violate(&mut self, text: String) {
        trace::note("", format_args!("\"violation\":{}", Value::from(text.as_str())));
        self.violations.push(text);
    }
}
