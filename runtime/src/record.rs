//! Recordings: the transcripts of an instance's machines, in files. What an instance did can then
//! be done again, step by step, by bare machines.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use realtime_core::{id::BootId, transcript::Sink};

use crate::config::RecordConfig;

/// Where the transcript of a machine goes; none when nobody wants it.
pub type Recorder = Option<Box<dyn Sink + Send>>;

/// Gives each machine its recorder, by the life of the instance and the machine's name.
pub type Recorders<'a> = &'a dyn Fn(BootId, &str) -> Recorder;

/// Gives each machine a file of its own, as configured. Without a configuration there are none.
///
/// # Errors
/// There is no such directory, and it can't be made.
pub fn to_files(config: Option<RecordConfig>) -> io::Result<impl Fn(BootId, &str) -> Recorder> {
    if let Some(config) = &config {
        DirBuilder::new().recursive(true).mode(0o700).create(&config.dir)?;
    }
    Ok(move |boot: BootId, machine: &str| {
        let config = config.as_ref()?;
        let path = config.dir.join(format!("{:016x}-{machine}.jsonl", boot.0));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let warn = |error| tracing::warn!(path = %path.display(), %error, "nothing is recorded");
        let file = Some(file.map_err(warn).ok()?);
        tracing::info!(path = %path.display(), "recording");
        let bytes_left = config.file_bytes_max;
        Some(Box::new(Recording { path, file, bytes_left, line: Vec::new() }) as Box<_>)
    })
}

/// The file of one machine.
#[derive(Debug)]
struct Recording {
    path: PathBuf,
    /// None when no more is recorded.
    file: Option<File>,
    bytes_left: usize,
    line: Vec<u8>,
}

impl Sink for Recording {
    /// Writes whole lines, each at once: what is given to a machine is there even if the process
    /// ends over it. A transcript is of use from its beginning only, so that the file can't be
    /// continued in another one.
    fn line(&mut self, line: &[u8]) {
        let Some(file) = &mut self.file else { return };
        self.line.clear();
        self.line.extend_from_slice(line);
        self.line.push(b'\n');
        let path = self.path.display();
        if self.line.len() > self.bytes_left {
            tracing::warn!(%path, "RECORD_BYTES are full: nothing more is recorded");
        } else if let Err(error) = file.write_all(&self.line) {
            tracing::warn!(%path, %error, "nothing more is recorded");
        } else {
            self.bytes_left -= self.line.len();
            return;
        }
        self.file = None;
    }
}
