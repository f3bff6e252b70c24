//! What the fuzz targets run. Ordinary tests run it too, over the committed corpora.

mod client;
mod shard;
mod wire;
mod world;

pub use shard::shard_inputs;
pub use wire::wire_decode;
#[cfg(test)]
pub(crate) use wire::{only_text, pattern_matches_naively};
