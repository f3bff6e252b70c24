//! Bugs that are planted on purpose, one at a time, to prove that the simulation sees them. Only
//! its own builds have them, and none is on unless it is selected.

use std::cell::Cell;

thread_local! {
    static SELECTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Every planted bug.
pub const NAMES: &[&str] = &[];

/// Turns one bug on in this thread, and the others off.
pub fn select(name: Option<&'static str>) {
    SELECTED.set(name);
}

/// Whether a bug is on.
pub fn on(name: &'static str) -> bool {
    SELECTED.get() == Some(name)
}
