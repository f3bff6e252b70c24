//! The command line, as it is typed.

use std::process::Command;

#[test]
fn a_wrong_argument_is_refused_in_one_line() {
    for arguments in [
        "",
        "run",
        "run --seed",
        "run --seed x",
        "run --seed 1 --line 3",
        "run --seed 1 --tier 3",
        "run 1",
        "walk",
        "sweep --seeds 3",
        "sweep --seeds 1..x",
        "bench --tier 2",
        "diff one",
        "at no-such-trace --line 1",
        "at trace",
        "replay no-such-plan",
        "replay-recording no-such-recording",
        "shrink --seed 1",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_sim"))
            .args(arguments.split_whitespace())
            .output()
            .expect("the program was built with this test");
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("sim: ") && said.lines().count() == 1, "{arguments}: {said}");
    }
}
