//! Recordings of an instance in operation, replayed through bare machines.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use realtime_core::transcript::Replay;

use crate::tier1::Answer;

/// Replays a recording, or all of those in a folder.
pub fn replay(path: &Path) -> Answer {
    let files = match files(path) {
        Ok(files) => files,
        Err(error) => return (2, format!("sim: {}: {error}\n", path.display())),
    };
    let (mut code, mut text) = (0, String::new());
    for path in files {
        let outcome = replay_file(&path).unwrap_or_else(|error| Err(error.to_string()));
        let came = match outcome {
            Ok(inputs) => format!("{inputs} inputs, the same actions"),
            Err(error) => {
                code = 1;
                error
            }
        };
        text.push_str(&format!("{}: {came}\n", path.display()));
    }
    (code, text)
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
    let mut files: Vec<_> = entries.collect::<io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    if files.is_empty() { Err(io::Error::other("there is no recording")) } else { Ok(files) }
}

/// Gives the number of inputs, or how the bare machine differs.
fn replay_file(path: &Path) -> io::Result<Result<u64, String>> {
    let mut file = BufReader::new(File::open(path)?);
    let (mut replay, mut line, mut number) = (Replay::default(), String::new(), 0_u64);
    let panicked = |number| format!("line {number}: the machine panics over what it is given");
    loop {
        line.clear();
        file.read_line(&mut line)?;
        // A process that was killed may have left a part of a line.
        let Some(text) = line.strip_suffix('\n') else { break };
        number += 1;
        // A machine that panicked is not asked again.
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| replay.line(text))) else {
            return Ok(Err(panicked(number - 1)));
        };
        if let Err(error) = outcome {
            return Ok(Err(error.to_string()));
        }
    }
    Ok(match catch_unwind(AssertUnwindSafe(|| replay.finish())) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(panicked(number)),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use realtime_core::{
        id::{BootId, Generation},
        limits::RelayLimits,
        relay::{Input, Relay},
        time::Instant,
        transcript::{Recorded, Sink},
    };

    use super::*;

    #[derive(Debug, Default)]
    struct Lines(String);

    impl Sink for &mut Lines {
        fn line(&mut self, line: &[u8]) {
            self.0.push_str(str::from_utf8(line).unwrap());
            self.0.push('\n');
        }
    }

    fn transcript() -> String {
        let limits = RelayLimits {
            workers: 1,
            positions: true,
            in_flight_max: 10,
            in_flight_bytes_max: 1_000,
            linger: Duration::from_secs(30),
            held_bytes_max: 1_000,
            repair_timeout: Duration::from_secs(2),
            expected_max: 10,
            head_reads_max: 3,
            subscribe_timeout: Duration::from_secs(5),
            ingress_bytes_max: 1_000,
            position_check: Duration::from_secs(300),
        };
        let mut lines = Lines::default();
        let mut relay: Recorded<Relay, _> =
            Recorded::relay(limits, BootId(1), 7, Instant(0), Some(&mut lines));
        let up = Input::LinkUp { generation: Generation(1), run_id: 1 };
        for (second, input) in [(1, up), (2, Input::TimedOut), (3, Input::TimedOut)] {
            relay.handle(Instant(second * 1_000_000_000), input, &mut Vec::new());
        }
        lines.0
    }

    /// What comes of the replay of a file with this text.
    fn replayed(name: &str, text: &str) -> (u8, String) {
        let name = format!("realtime-sim-{name}-{}.jsonl", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        let (code, text) = replay(&path);
        fs::remove_file(&path).unwrap();
        (code, text.replace(&path.display().to_string(), "FILE"))
    }

    #[test]
    fn a_recording_that_was_cut_off_is_replayed_up_to_there() {
        let whole = transcript();
        let (code, text) = replayed("whole", &whole);
        assert_eq!((code, &*text), (0, "FILE: 3 inputs, the same actions\n"));
        let (code, text) = replayed("cut", &whole[..whole.len() - 5]);
        assert_eq!((code, &*text), (0, "FILE: 3 inputs, the same actions\n"));
    }

    #[test]
    fn a_recording_that_differs_or_of_a_machine_that_panicked_is_a_finding() {
        let whole = transcript();
        let (code, text) = replayed("other", &whole.replacen("\"Count\"", "\"Amount\"", 1));
        assert_eq!(code, 1);
        assert!(text.contains("\"Amount\"") && text.contains("\"Count\""), "{text}");
        // There is no such worker.
        let message = r#"{"worker":9,"message":{"Vacated":{"stream":"a"}}}"#;
        let last = format!(r#"{{"input":{{"at":9,"input":{{"FromShard":{message}}}}}}}"#);
        let (code, text) = replayed("panic", &format!("{whole}{last}\n"));
        assert_eq!(code, 1);
        assert_eq!(text, "FILE: line 8: the machine panics over what it is given\n");
    }
}
