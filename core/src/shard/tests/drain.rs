use super::*;

fn drain(bed: &mut Bed, seconds: u64) -> Vec<String> {
    bed.step(Input::Draining { period: Duration::from_secs(seconds) })
}

#[test]
fn a_drain_without_connections_is_over_at_once() {
    let mut bed = bed();
    assert_eq!(drain(&mut bed, 10), ["drained"]);
    assert_eq!(drain(&mut bed, 10), [""; 0]);
    assert_eq!(bed.shard.next_deadline(), None);
}

#[test]
fn a_drain_closes_everyone_evenly_over_its_period() {
    let mut bed = bed();
    for slot in 0..5 {
        bed.open(slot, u64::from(slot));
    }
    let mut closes = vec![(0, drain(&mut bed, 20))];
    assert_eq!(bed.shard.stats().draining, 4);
    for second in 1..=21 {
        let mut done = bed.pass(1);
        done.retain(|done| !done.contains("ping") && !done.contains("reset"));
        if !done.is_empty() {
            closes.push((second, done));
        }
    }
    assert_eq!(closes.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 5, 10, 15, 20]);
    for ((_, done), slot) in closes.iter().zip(0..) {
        assert!(done[0].contains(&format!(r#"send {slot} {{"type":"system:reconnect""#)));
        assert!(done[0].contains(r#""reason":"restarting","after_ms":"#));
        assert!(done[1].ends_with(&format!("close {slot} Restarting")));
    }
    for slot in 0..4 {
        assert_eq!(bed.step(Input::Closed { conn: conn(slot) }), [""; 0]);
    }
    assert_eq!(bed.step(Input::Closed { conn: conn(4) }), ["drained"]);
}

#[test]
fn a_drain_refuses_those_in_their_handshake() {
    let mut bed = bed();
    bed.arrive(0, Handshake { token: true, ..Handshake::default() });
    bed.arrive(1, Handshake::default());
    assert_eq!(
        drain(&mut bed, 10),
        ["refuse 0 Draining", "refuse 1 Draining", "vacated all", "drained"]
    );
}

#[test]
fn the_table_of_connections_ends_with_the_last_one_and_late_words_of_others_are_ignored() {
    let mut bed = bed();
    for slot in 0..9 {
        bed.open(slot, u64::from(slot));
    }
    for slot in 1..9 {
        bed.step(Input::Closed { conn: conn(slot) });
    }
    assert_eq!(bed.shard.connections.len(), 1);
    assert!(bed.shard.connections.capacity() <= 4);
    assert_eq!(bed.step(Input::Heard { conn: conn(8) }), [""; 0]);
    bed.arrive(1, Handshake::default());
    bed.arrive(2, Handshake::default());
    assert_eq!(drain(&mut bed, 10)[..2], ["refuse 1 Draining", "refuse 2 Draining"]);
}

#[test]
fn a_drain_of_no_time_closes_everyone_at_once() {
    let mut bed = bed();
    bed.open(0, 0);
    bed.open(1, 1);
    let done = drain(&mut bed, 0);
    assert_eq!(done.iter().filter(|done| done.starts_with("close")).count(), 2);
}

#[test]
fn a_second_drain_sets_a_new_pace() {
    let mut bed = bed();
    for slot in 0..3 {
        bed.open(slot, u64::from(slot));
    }
    drain(&mut bed, 1_000);
    let done = drain(&mut bed, 0);
    assert_eq!(done.iter().filter(|done| done.starts_with("close")).count(), 2);
}
