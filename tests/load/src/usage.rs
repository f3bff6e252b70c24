//! What server processes cost, as the kernel counts it.

use std::{fs, io, ops};

/// CPU time and memory of processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time, exactly.
    pub(crate) cpu_ns: u64,
    /// The part of it in user mode, as sampled by the kernel's tick.
    pub(crate) user_ns: u64,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
}

impl Usage {
    /// Of all these processes together.
    pub(crate) fn of(pids: &[u32]) -> io::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            sum.cpu_ns += cpu_ns(*pid)?;
            sum.user_ns += user_ns(*pid)?;
            sum.rss_bytes += rss_bytes(*pid)?;
        }
        Ok(sum)
    }
}

/// What has been used between the two. Memory that has shrunk counts as 0.
impl ops::Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            user_ns: self.user_ns.saturating_sub(before.user_ns),
            rss_bytes: self.rss_bytes.saturating_sub(before.rss_bytes),
        }
    }
}

/// Time on a CPU of all threads. A thread that has ended is not counted: servers keep theirs.
fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

fn user_ns(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain spaces; the fields behind it do not.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks = fields.split_whitespace().nth(11).and_then(|text| text.parse::<u64>().ok());
    // Ticks of 10 ms: USER_HZ is 100 on every Linux architecture in use.
    ticks
        .map(|ticks| ticks * 10_000_000)
        .ok_or_else(|| io::Error::other("an unknown form of /proc/<pid>/stat"))
}

/// Counted page by page. `VmRSS` of `/proc/<pid>/status` may be off by some hundred KiB.
fn rss_bytes(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:"))
        .and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kib| kib * 1_024)
        .ok_or_else(|| io::Error::other("no Rss in /proc/<pid>/smaps_rollup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_of_this_process_are_seen() {
        let pids = [std::process::id()];
        let before = Usage::of(&pids).unwrap();
        let block = vec![1_u8; 64 << 20];
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let used = Usage::of(&pids).unwrap() - before;
        assert_eq!(sum, 64 << 20);
        assert!(used.cpu_ns > 0 && used.rss_bytes >= 60 << 20, "{used:?}");
    }
}
