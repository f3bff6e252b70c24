//! What happened, as JSON lines with integers only, and a hash over them.

use std::{cell::RefCell, fmt, io};

use tracing::Dispatch;
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
};

use super::seam;

/// How much a trace contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// What the service logs at DEBUG, and what clients and publishers see.
    Normal,
    /// Every log line there is, each segment of the network included.
    Full,
}

/// The trace of a run.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// The lines.
    pub(super) text: Vec<u8>,
    /// Lines at ERROR, which no run may have.
    pub(super) errors: Vec<String>,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Adds a line of the simulation itself: a JSON object without its braces.
pub(super) fn note(fields: fmt::Arguments<'_>) {
    let line = format!("{{\"us\":{},{fields}}}\n", now_us());
    TRACE.with_borrow_mut(|trace| trace.text.extend(line.bytes()));
}

/// Microseconds since the beginning of the run.
pub(super) fn now_us() -> u64 {
    let elapsed = seam::unix().unwrap_or_default().saturating_sub(seam::UNIX_START);
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

/// The trace so far, which begins anew.
pub(super) fn take() -> Trace {
    TRACE.take()
}

/// The lines so far, after a panic: none when it happened while a line was written.
pub(super) fn salvage() -> Vec<u8> {
    TRACE.with(|trace| trace.try_borrow().map(|trace| trace.text.clone()).unwrap_or_default())
}

/// Names the bytes of a trace.
pub(super) fn hash(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What collects log lines.
pub(super) fn collector(detail: Detail) -> Dispatch {
    let filter = match detail {
        Detail::Normal => "warn,realtime_runtime=debug",
        Detail::Full => "trace",
    };
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_timer(SimulatedTime)
        .with_env_filter(EnvFilter::builder().parse_lossy(filter))
        .with_writer(Lines)
        .finish()
        .into()
}

struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", now_us())
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
            trace.text.extend_from_slice(line);
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
