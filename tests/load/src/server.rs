//! What the server process costs, as the kernel counts it.

use std::{fs, io};

use serde::Serialize;

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Usage {
    /// CPU time in user mode, in microseconds.
    pub(crate) user_us: u64,
    /// CPU time in the kernel, in microseconds.
    pub(crate) system_us: u64,
    /// Resident memory, in bytes.
    pub(crate) rss: u64,
}

impl Usage {
    /// Reads `/proc/<pid>`.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may contain spaces; the fields behind it do not.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        // Ticks of 10 ms: USER_HZ is 100 on every Linux architecture in use.
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
        let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
            return Err(io::Error::other("an unknown form of /proc/<pid>/stat"));
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .ok_or_else(|| io::Error::other("no VmRSS in /proc/<pid>/status"))?;
        Ok(Self { user_us: user * 10_000, system_us: system * 10_000, rss: rss * 1_024 })
    }
}
