//! What the formatter and the linter do not hold: lengths, and words that do not belong.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A line longer than this does not fit beside another one in a review.
const LINE_COLUMNS_MAX: usize = 100;
/// A function longer than this does not fit on a screen.
const FUNCTION_LINES_MAX: usize = 70;
/// A file longer than this is about more than one thing.
const FILE_LINES_MAX: usize = 600;

#[test]
fn no_line_is_longer_than_a_screen_is_wide() {
    check(&["rs", "sh", "proto"], |text| {
        let too_long = |line: &str| line.chars().count() > LINE_COLUMNS_MAX;
        lines(text).filter(|(_, line)| too_long(line)).map(|(at, _)| at).collect()
    });
}

#[test]
fn no_function_is_longer_than_a_screen_is_high() {
    check(&["rs"], |text| {
        let is_long = |(_, length): &(usize, usize)| *length > FUNCTION_LINES_MAX;
        functions(text).into_iter().filter(is_long).map(|(start, _)| start).collect()
    });
}

#[test]
fn no_file_is_about_more_than_one_thing() {
    check(&["rs"], |text| {
        let count = text.lines().count();
        if count > FILE_LINES_MAX { vec![count] } else { Vec::new() }
    });
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in two parts, so that this file does not find itself.
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["todo", "!("], ["dbg", "!("]];
    let words = words.map(|parts| parts.concat());
    check(&["rs", "md", "toml", "proto", "sh"], |text| {
        let has_one = |line: &str| words.iter().any(|word| line.contains(word.as_str()));
        lines(text).filter(|(_, line)| has_one(line)).map(|(at, _)| at).collect()
    });
}

#[test]
fn functions_are_measured_from_their_name_to_their_brace() {
    let text = "fn a() {\n    1\n}\n\nimpl X {\n    pub async fn b(\n        x: u8,\n    ) {\n    \
                }\n}\nfn declared();\nfn one_line() {}\n";
    assert_eq!(functions(text), [(1, 3), (6, 4), (12, 1)]);
}

/// Fails with every place that `find` gives, as `path:line`.
#[track_caller]
fn check(extensions: &[&str], find: impl Fn(&str) -> Vec<usize>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("runtime/ is in the root");
    let mut files = Vec::new();
    collect(root, extensions, &mut files);
    assert!(files.len() >= 10, "the sources are not where they were");
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("sources are UTF-8");
        let path = file.strip_prefix(root).expect("it is below the root").display().to_string();
        found.extend(find(&text).into_iter().map(|line| format!("{path}:{line}")));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Source files below a directory, without what is built or hidden.
fn collect(directory: &Path, extensions: &[&str], files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).expect("the sources can be read");
    for entry in entries {
        let path = entry.expect("the sources can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != "corpus" && !name.starts_with('.') {
                collect(&path, extensions, files);
            }
        } else if extensions.iter().any(|extension| name.ends_with(&format!(".{extension}"))) {
            files.push(path);
        }
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// First line and number of lines of each function. The formatter puts the closing brace of one
/// under its first letter, or on the same line.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in lines(text) {
        if let Some((start, end)) = &open {
            if line == end {
                found.push((*start, at - start + 1));
                open = None;
            } else if at == *start + 1 && line.trim().is_empty() {
                open = None; // A declaration.
            }
        } else if is_function(line.trim_start()) {
            let indent = line.len() - line.trim_start().len();
            if line.ends_with('}') {
                found.push((at, 1));
            } else if !line.ends_with(';') {
                open = Some((at, " ".repeat(indent) + "}"));
            }
        }
    }
    found
}

fn is_function(line: &str) -> bool {
    let before = line.split("fn ").next().unwrap_or_default();
    let qualifiers = ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe", "extern"];
    line.contains("fn ") && before.split_whitespace().all(|word| qualifiers.contains(&word))
}
