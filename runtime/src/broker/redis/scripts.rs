//! The Lua scripts, by which every step on a stream is atomic. Each says at its head what it takes
//! and gives.

use redis::Script;

/// The scripts, each with the hash that Redis knows it by.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) publish: LoadedScript,
    pub(super) latest: LoadedScript,
    pub(super) plain: LoadedScript,
    pub(super) read: LoadedScript,
    pub(super) heads: LoadedScript,
    pub(super) verify: LoadedScript,
}

/// One script.
#[derive(Debug)]
pub(super) struct LoadedScript {
    /// Its text.
    pub(super) code: &'static str,
    /// The SHA-1 of its text, in hex.
    pub(super) hash: String,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            publish: script(PUBLISH),
            latest: script(LATEST),
            plain: script(PLAIN),
            read: script(READ),
            heads: script(HEADS),
            verify: script(VERIFY),
        }
    }

    /// Those that are asked for by their hash, for loading.
    pub(super) fn by_hash(&self) -> [&LoadedScript; 5] {
        [&self.publish, &self.latest, &self.plain, &self.read, &self.heads]
    }
}

/// The name and the text of each script, for whoever has to know that a server runs them as Redis
/// does.
pub const SCRIPTS: [(&str, &str); 6] = [
    ("publish", PUBLISH),
    ("latest", LATEST),
    ("plain", PLAIN),
    ("read", READ),
    ("heads", HEADS),
    ("verify", VERIFY),
];

fn script(code: &'static str) -> LoadedScript {
    LoadedScript { code, hash: Script::new(code).get_hash().to_owned() }
}

const PUBLISH: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/publish.lua"));
const LATEST: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/latest.lua"));
const PLAIN: &str = concat!(include_str!("lua/common.lua"), include_str!("lua/plain.lua"));
const READ: &str = concat!(include_str!("lua/rollover.lua"), include_str!("lua/read.lua"));
const VERIFY: &str = concat!(include_str!("lua/rollover.lua"), include_str!("lua/verify.lua"));
const HEADS: &str = include_str!("lua/heads.lua");
