//! Every plan that once failed passes.

use std::path::Path;

use realtime_sim::tier1;

#[test]
fn plans_that_once_failed_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let (code, text) = tier1::corpus(&folder);
    assert_eq!(code, 0, "{text}");
}
