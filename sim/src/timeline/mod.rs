//! A trace of either tier as a picture: one page with all that it needs, to be opened in a browser.
//!
//! What has to be known of traces is known here; the page only draws lanes, bands, marks and
//! arrows.

mod faults;
mod line;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;
use serde_json::Value;

pub(crate) use faults::bands;
use line::Line;

/// The page of a trace.
///
/// # Errors
/// When a line is no line of a trace.
pub fn page(trace: &str) -> Result<String, String> {
    let mut picture = Picture::default();
    for (number, line) in trace.lines().enumerate() {
        let entry: Line = serde_json::from_str(line)
            .map_err(|error| format!("line {} of the trace: {error}", number + 1))?;
        picture.add(number, &entry)?;
    }
    picture.finish();
    let data = serde_json::to_string(&picture.page(trace)).expect("plain data");
    // In a script nothing else is special.
    Ok(PAGE.replace("\"PICTURE\"", &data.replace('<', "\\u003c")))
}

/// What the script of the page is given. Times are in nanoseconds, lanes are indices.
#[derive(Debug, Serialize)]
struct Page<'a> {
    title: String,
    verdict: &'a str,
    lanes: Vec<&'a str>,
    kinds: Vec<&'a str>,
    /// The number of the line, the time, the lane, the kind, and how bad it is.
    marks: Vec<(usize, u64, usize, usize, u8)>,
    /// The number of the line; the lane and time where it starts, and where it ends.
    arrows: Vec<(usize, usize, u64, usize, u64)>,
    bands: Vec<PageBand<'a>>,
    quiet: u64,
    lines: Vec<&'a str>,
}

/// A fault; without lanes it hits all of them.
#[derive(Debug, Serialize)]
struct PageBand<'a> {
    name: &'a str,
    lanes: Vec<usize>,
    from: u64,
    to: u64,
}

/// A fault, and whom it hits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Band {
    pub(crate) name: String,
    pub(crate) hosts: Vec<String>,
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Picture {
    title: String,
    verdict: String,
    marks: Vec<Mark>,
    arrows: Vec<Arrow>,
    bands: Vec<Band>,
    quiet_ms: u64,
    /// Hosts by their addresses.
    addresses: BTreeMap<String, String>,
    /// When segments left that are still on their way: by where from, where to, and what.
    segments: BTreeMap<[String; 3], VecDeque<u64>>,
    hosts: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Mark {
    line: usize,
    at: u64,
    host: String,
    kind: String,
    severity: u8,
}

/// A message that went from one host to another.
#[derive(Debug, PartialEq, Eq)]
struct Arrow {
    line: usize,
    from: String,
    left: u64,
    to: String,
    at: u64,
}

impl Picture {
    fn add(&mut self, number: usize, line: &Line) -> Result<(), String> {
        if let Some(plan) = line.get("plan") {
            let tier = line.integer("tier").unwrap_or_default();
            self.title = format!("tier {tier}, seed {}", plan["seed"]);
            self.quiet_ms = plan["quiet_ms"].as_u64().unwrap_or_default();
            self.bands = bands(tier, plan)?;
        } else if let Some(verdict) = line.text("verdict") {
            verdict.clone_into(&mut self.verdict);
        } else if line.get("at").is_some() {
            self.happened(number, line);
        }
        Ok(())
    }

    /// Something happened at a time.
    fn happened(&mut self, number: usize, line: &Line) {
        let at = line.integer("at").unwrap_or_default();
        if let (Some("turmoil"), Some(log)) = (line.text("target"), line.get("log")) {
            return self.network(number, at, log);
        }
        let host = line.text("host").unwrap_or(EVERYWHERE);
        let kind = line.keys().find(|key| !NO_KINDS.contains(key)).unwrap_or_default();
        if kind == "log" && host == EVERYWHERE {
            return; // The simulation's own libraries.
        }
        if let Some(from) = line.text("from") {
            let left = line.integer("left").unwrap_or(at);
            self.arrow(number, (from, left), (host, at));
        }
        if let Some(to) = line.text("to") {
            self.arrow(number, (host, at), (to, at));
        }
        let severity = match (kind, line.text("level")) {
            ("violation", _) | (_, Some("ERROR")) => 2,
            (_, Some("WARN")) => 1,
            _ => 0,
        };
        self.mark(number, at, host, kind, severity);
    }

    /// A segment is sent, arrives, or is lost: what turmoil says in a full trace.
    fn network(&mut self, number: usize, at: u64, log: &Value) {
        let field = |name: &str| log[name].as_str().unwrap_or_default();
        let segment = || ["src", "dst", "protocol"].map(|name| field(name).to_owned());
        match field("message") {
            "New" => {
                let name = field("nodename").to_owned();
                self.addresses.insert(field("addr").to_owned(), name);
            }
            "Send" => self.segments.entry(segment()).or_default().push_back(at),
            "Drop" => {
                // It is dropped as it is sent, so it is the newest.
                self.segments.get_mut(&segment()).and_then(VecDeque::pop_back);
                if let Some(from) = self.host(field("src")) {
                    self.mark(number, at, &from, "dropped", 1);
                }
            }
            "Delivered" => {
                let left = self.segments.get_mut(&segment()).and_then(VecDeque::pop_front);
                let ends = (self.host(field("src")), self.host(field("dst")));
                if let (Some(left), (Some(from), Some(to))) = (left, ends) {
                    self.arrow(number, (&from, left), (&to, at));
                    self.mark(number, at, &to, "segment", 0);
                }
            }
            _ => (),
        }
    }

    fn host(&self, address: &str) -> Option<String> {
        self.addresses.get(address.rsplit_once(':')?.0).cloned()
    }

    fn mark(&mut self, line: usize, at: u64, host: &str, kind: &str, severity: u8) {
        self.hosts.insert(host.to_owned());
        let (host, kind) = (host.to_owned(), kind.to_owned());
        self.marks.push(Mark { line, at, host, kind, severity });
    }

    fn arrow(&mut self, line: usize, (from, left): (&str, u64), (to, at): (&str, u64)) {
        if from != to {
            self.hosts.extend([from.to_owned(), to.to_owned()]);
            let (from, to) = (from.to_owned(), to.to_owned());
            self.arrows.push(Arrow { line, from, left, to, at });
        }
    }

    /// All has been read.
    fn finish(&mut self) {
        self.hosts.extend(self.bands.iter().flat_map(|band| band.hosts.clone()));
    }

    fn page<'a>(&'a self, trace: &'a str) -> Page<'a> {
        let mut lanes: Vec<_> = self.hosts.iter().map(String::as_str).collect();
        lanes.sort_by_cached_key(|name| rank(name));
        let kinds: BTreeSet<_> = self.marks.iter().map(|mark| mark.kind.as_str()).collect();
        let kinds: Vec<_> = kinds.into_iter().collect();
        let lane = |name: &str| find(&lanes, name);
        let mark = |mark: &Mark| {
            (mark.line, mark.at, lane(&mark.host), find(&kinds, &mark.kind), mark.severity)
        };
        let arrow =
            |arrow: &Arrow| (arrow.line, lane(&arrow.from), arrow.left, lane(&arrow.to), arrow.at);
        let band = |band: &'a Band| PageBand {
            name: &band.name,
            lanes: band.hosts.iter().map(|host| lane(host)).collect(),
            from: band.from_ms * 1_000_000,
            to: band.to_ms * 1_000_000,
        };
        Page {
            title: self.title.clone(),
            verdict: &self.verdict,
            marks: self.marks.iter().map(mark).collect(),
            arrows: self.arrows.iter().map(arrow).collect(),
            bands: self.bands.iter().map(band).collect(),
            quiet: self.quiet_ms * 1_000_000,
            lines: trace.lines().collect(),
            lanes,
            kinds,
        }
    }
}

fn find(names: &[&str], name: &str) -> usize {
    names.iter().position(|other| *other == name).expect("all names were collected")
}

/// Lanes in the order in which most messages pass them, hosts of a kind by their number.
fn rank(name: &str) -> (usize, usize) {
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let place = LANES.iter().position(|other| *other == kind).unwrap_or(LANES.len());
    (place, name[kind.len()..].parse().unwrap_or_default())
}

/// The lane of what has no host of its own.
const EVERYWHERE: &str = "cluster";

const LANES: [&str; 6] = [EVERYWHERE, "client", "pod", "redis", "publisher", "probe"];

/// Keys that don't tell what kind of line it is.
const NO_KINDS: [&str; 9] = ["n", "at", "host", "from", "left", "to", "session", "level", "target"];

const PAGE: &str = include_str!("page.html");
