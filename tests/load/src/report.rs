//! What was measured: a table for people, JSON for programs.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{client::Tally, histogram::Histogram, usage::Usage};

/// Named values, in the order in which they were put.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<(String, Value)>,
}

impl Report {
    pub(crate) fn new(scenario: &str) -> Self {
        Self { rows: vec![("scenario".to_owned(), json!(scenario))] }
    }

    /// Adds a value. Fractions are cut to what can be meant.
    pub(crate) fn put(&mut self, name: &str, value: impl Serialize) {
        let mut value = json!(value);
        if let Some(number) = value.as_f64().filter(|_| value.is_f64()) {
            value = json!((number * 1e4).round() / 1e4);
        }
        self.rows.push((name.to_owned(), value));
    }

    /// What servers used for so many `things`, such as `connect` and `delivery`.
    pub(crate) fn put_cpu(&mut self, thing: &str, used: Usage, things: u64) {
        let per = |ns: u64| ns as f64 / 1e3 / things.max(1) as f64;
        self.put(&format!("cpu_us_per_{thing}"), per(used.cpu_ns));
        self.put(&format!("user_us_per_{thing}"), per(used.user_ns));
        self.put(&format!("system_us_per_{thing}"), per(used.cpu_ns.saturating_sub(used.user_ns)));
    }

    /// Percentiles of a histogram; nothing when it is empty.
    pub(crate) fn put_latency(&mut self, what: &str, latency: &Histogram) {
        let Some(percentiles) = latency.percentiles() else { return };
        self.put(&format!("{what}_p50_us"), percentiles.p50_us);
        self.put(&format!("{what}_p90_us"), percentiles.p90_us);
        self.put(&format!("{what}_p99_us"), percentiles.p99_us);
        self.put(&format!("{what}_max_us"), percentiles.max_us);
    }

    /// What clients got, and what they did not.
    pub(crate) fn put_tally(&mut self, tally: &Tally) {
        self.put("messages_of_the_room", tally.room);
        self.put("messages_of_users", tally.user);
        self.put("latest_values", tally.latest);
        self.put("lost", tally.lost);
        self.put("repeated", tally.repeated);
        self.put("said_to_be_missed", tally.missed);
        self.put_latency("delivery", &tally.latency);
    }

    /// A value that was put.
    pub(crate) fn number(&self, name: &str) -> io::Result<f64> {
        let row = self.rows.iter().find(|(row, _)| row == name);
        row.and_then(|(_, value)| value.as_f64())
            .ok_or_else(|| io::Error::other(format!("{name} was not measured")))
    }

    /// As one object.
    pub(crate) fn to_json(&self) -> Value {
        Value::Object(self.rows.iter().cloned().collect::<Map<_, _>>())
    }

    /// Writes the table to standard output.
    pub(crate) fn print(&self) -> io::Result<()> {
        let mut table = String::new();
        for (name, value) in &self.rows {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(table, "{:<48} {value}", name.replace('_', " ")).map_err(io::Error::other)?;
        }
        writeln!(io::stdout(), "{table}")
    }

    /// Writes the JSON to a file.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(&self.to_json())? + "\n")
    }
}

/// Fails unless everybody got everything once, in order.
pub(crate) fn check(tally: &Tally) -> io::Result<()> {
    let Tally { lost, repeated, missed, ended, .. } = tally;
    if lost + repeated + missed + ended == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{lost} messages lost, {repeated} repeated, {missed} times told to be missed, {ended} \
         connections ended"
    )))
}

/// Says now and then how far a long run is.
#[derive(Debug)]
pub(crate) struct Progress {
    said: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { said: Instant::now() }
    }

    /// Says it if nothing was said for five seconds.
    pub(crate) fn at(&mut self, done: u64, of: u64, what: &str) -> io::Result<()> {
        if self.said.elapsed() < Duration::from_secs(5) {
            return Ok(());
        }
        self.said = Instant::now();
        writeln!(io::stderr(), "{done} of {of} {what}")
    }
}

/// Says what is being done.
pub(crate) fn say(what: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{what}")
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_four_places_and_their_order() {
        let mut report = Report::new("idle");
        report.put("share", 1.0 / 3.0);
        report.put("count", 3_u32);
        assert_eq!(report.number("share").ok(), Some(0.3333));
        assert_eq!(report.rows.last().map(|(name, _)| name.as_str()), Some("count"));
    }

    #[test]
    fn one_repeated_message_is_not_all_right() {
        assert!(check(&Tally::default()).is_ok());
        assert!(check(&Tally { repeated: 1, ..Tally::default() }).is_err());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
