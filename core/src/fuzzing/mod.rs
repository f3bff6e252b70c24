//! What the fuzz targets run. Ordinary tests run it too, over the committed corpora.

mod wire;

pub use wire::wire_decode;
#[cfg(test)]
pub(crate) use wire::{only_text, pattern_matches_naively};
