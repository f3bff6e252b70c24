use super::*;

#[test]
fn every_promise_is_kept_under_faults() {
    let mut received = 0;
    for seed in 0..200 {
        let outcome = run(&Plan::from_seed(seed));
        assert_eq!(outcome.verdict, Ok(()), "sim run --seed {seed}");
        received += outcome.received;
    }
    assert!(received > 20_000, "only {received} frames: the workload does not reach clients");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(&Plan::from_seed(seed)), run(&Plan::from_seed(seed)));
    }
}
