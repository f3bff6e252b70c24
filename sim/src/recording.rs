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
