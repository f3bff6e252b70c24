//! The commands of tier 2 in whatever way this was built.

use std::process::Command;

#[test]
fn tier_2_runs_a_seed_or_says_what_the_build_lacks() {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["run", "--tier", "2", "--seed", "1"])
        .output()
        .expect("the program was built with this test");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if cfg!(tokio_unstable) {
        assert!(output.status.success(), "{err}");
        assert!(out.contains("all as promised"), "{out}");
    } else {
        assert_eq!(output.status.code(), Some(2), "{out}");
        assert!(err.contains("cargo sim"), "{err}");
    }
}
