//! What happened, a JSON object a line as in tier 1, and a hash over the lines.

use std::{cell::RefCell, fmt, io};

use serde_json::Value;
use tracing::{
    Dispatch, Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormattedFields, MakeWriter,
        format::{JsonFields, Writer},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
};

use super::{clocks::Clocks, seam};
use crate::trace::{self, FNV_BASIS, STATES_EVERY, fnv1a};

/// How much a trace contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// What the service logs at DEBUG, and what clients and publishers see.
    Normal,
    /// Every log line there is, each segment of the network included.
    Full,
}

/// The trace of a run, without its first line.
#[derive(Debug)]
pub(super) struct Trace {
    /// The lines.
    pub(super) text: Vec<u8>,
    /// How many there are, with the first one.
    lines: u64,
    /// Names all of them.
    hash: u64,
    /// From how many on the states of the machines are due.
    due: u64,
    /// Lines at ERROR, which no run may have.
    pub(super) errors: Vec<String>,
}

impl Default for Trace {
    fn default() -> Self {
        let (text, errors) = (Vec::new(), Vec::new());
        Self { text, lines: 1, hash: FNV_BASIS, due: STATES_EVERY, errors }
    }
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

impl Trace {
    /// Adds a line.
    fn push(&mut self, line: &str) {
        self.add(format!("{line}\n").as_bytes());
    }

    /// Adds a line that ends with a line feed.
    fn add(&mut self, line: &[u8]) {
        self.hash = fnv1a(self.hash, line);
        self.text.extend_from_slice(line);
        self.lines += 1;
    }

    /// Adds what came of the run. Gives the hash of all before that.
    pub(super) fn end(&mut self, wrong: &[String]) -> u64 {
        let hash = self.hash;
        for wrong in wrong {
            self.push(&format!(r#"{{"wrong":{}}}"#, Value::from(wrong.as_str())));
        }
        self.push(&trace::verdict(hash, wrong.first().map_or("passed", String::as_str)));
        hash
    }
}

/// Adds the states of all machines, if they are due.
pub(super) fn add_states(states: impl FnOnce() -> Vec<(String, u64)>) {
    TRACE.with_borrow_mut(|trace| {
        if trace.lines >= trace.due {
            trace.due = trace.lines + STATES_EVERY;
            let line = trace::states(trace.lines, trace.hash, &states());
            trace.push(&line);
        }
    });
}

/// How many lines there are.
pub(super) fn lines() -> u64 {
    TRACE.with_borrow(|trace| trace.lines)
}

/// Adds a line about a host, or about all of them when it has no name: the fields of a JSON object.
/// Of the fields, `from` names the host from which something came, and `to` where it goes.
pub(super) fn note(host: &str, fields: fmt::Arguments<'_>) {
    let host = if host.is_empty() { String::new() } else { format!(r#""host":"{host}","#) };
    let at = now_us() * 1_000;
    TRACE.with_borrow_mut(|trace| {
        let n = trace.lines;
        trace.push(&format!(r#"{{"n":{n},"at":{at},{host}{fields}}}"#));
    });
}

/// Microseconds since the beginning of the run.
pub(super) fn now_us() -> u64 {
    let elapsed = seam::elapsed().unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

/// The trace so far, which begins anew.
pub(super) fn take() -> Trace {
    TRACE.take()
}

/// The trace so far, after a panic, which is its verdict: nothing when that happened while a line
/// was written.
pub(super) fn salvage(panic: &str) -> Vec<u8> {
    TRACE.with(|trace| {
        let Ok(mut trace) = trace.try_borrow_mut() else { return Vec::new() };
        trace.end(&[format!("panic: {panic}")]);
        std::mem::take(&mut trace.text)
    })
}

/// What collects log lines, and keeps the clocks of hosts.
pub(super) fn collector(detail: Detail, clocks: Clocks) -> Dispatch {
    let filter = match detail {
        // Turmoil's spans tell on which host a line is written.
        Detail::Normal => "warn,realtime_runtime=debug,turmoil::sim=info",
        Detail::Full => "trace",
    };
    tracing_subscriber::fmt()
        .fmt_fields(JsonFields::new())
        .event_format(Line)
        .with_env_filter(EnvFilter::builder().parse_lossy(filter))
        .with_writer(Lines)
        .finish()
        .with(clocks)
        .into()
}

/// A log line as a line of the trace.
struct Line;

impl<S> FormatEvent<S, JsonFields> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let n = TRACE.with_borrow(|trace| trace.lines);
        write!(writer, r#"{{"n":{n},"at":{}"#, now_us() * 1_000)?;
        let spans = context.event_scope().into_iter().flatten();
        if let Some(host) = spans.filter(|span| span.name() == "node").find_map(|span| {
            let fields = span.extensions();
            let fields = fields.get::<FormattedFields<JsonFields>>()?;
            Some(serde_json::from_str::<Value>(fields).ok()?["name"].to_string())
        }) {
            write!(writer, r#","host":{host}"#)?;
        }
        let metadata = event.metadata();
        let (level, target) = (metadata.level(), metadata.target());
        write!(writer, r#","level":"{level}","target":"{target}","log":{{"#)?;
        let mut fields = Fields { writer, separator: "", result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        writeln!(fields.writer, "}}}}")
    }
}

/// Writes the fields of a log line, in their order: integers stay, all else is a text.
struct Fields<'a> {
    writer: Writer<'a>,
    separator: &'static str,
    result: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: &Value) {
        let (separator, name) = (self.separator, Value::from(field.name()));
        self.separator = ",";
        self.result = self.result.and_then(|()| write!(self.writer, "{separator}{name}:{value}"));
    }
}

impl Visit for Fields<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, &value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, &value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, &value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, &format!("{value:?}").into());
    }
}

/// Writes log lines into the trace.
#[derive(Clone, Copy)]
struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl io::Write for Lines {
    /// Is given one line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        TRACE.with_borrow_mut(|trace| {
            trace.add(line);
            if line.windows(ERROR.len()).any(|window| window == ERROR) {
                trace.errors.push(String::from_utf8_lossy(line).trim_end().to_owned());
            }
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const ERROR: &[u8] = br#""level":"ERROR""#;
