//! What the end-to-end tests share: the real binary, a real redis-server, and clients for every
//! port. Everything is on loopback and on ports of its own, so that tests run side by side.

pub mod client;
pub mod grpc;
pub mod http;
pub mod raw;
pub mod redis;
pub mod server;
pub mod token;

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The one deadline of every wait. Far above what is needed, since other tests share the cores.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for `future`, or fails the test saying what did not come.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("timed out waiting for {what}"),
    }
}

/// Waits until `check` gives something, looking again every few milliseconds.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        let mut looks = tokio::time::interval(Duration::from_millis(15));
        loop {
            looks.tick().await;
            if let Some(found) = check().await {
                return found;
            }
        }
    })
    .await
}

/// Unix time in whole seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}

/// A directory that is removed with its owner.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes an empty one.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("the target directory is writable");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it and gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a temporary directory is writable");
        path.to_str().expect("the target directory has a UTF-8 name").to_owned()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok(); // What is left behind is under target/.
    }
}
