//! Replays the corpora that fuzzing has left behind.

use std::{fs, path::Path};

use realtime_core::fuzzing;

/// Runs `target` over the files of its corpus, in the order of their names.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).expect("the corpus is committed");
    let mut files: Vec<_> =
        entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    files.sort();
    assert!(files.len() >= 20, "{} has {} files", folder.display(), files.len());
    for file in files {
        eprintln!("{}", file.display()); // Shown when the target panics.
        target(&fs::read(&file).expect("the file can be read"));
    }
}

#[test]
fn the_wire_corpus_breaks_no_decoder() {
    replay("wire_decode", fuzzing::wire_decode);
}

#[test]
fn the_shard_corpus_breaks_no_shard() {
    replay("shard_inputs", fuzzing::shard_inputs);
}
