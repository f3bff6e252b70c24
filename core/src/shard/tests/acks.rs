//! Who may acknowledge what.

use super::*;
use crate::{id::BootId, link::Missed};

const ORIGIN: BootId = BootId(3);

/// A message to the user `a` that asks to be acknowledged.
fn asking(offset: u64) -> Publication {
    let stream = StreamName::user("a").unwrap();
    Publication { stream, acks_to: Some(ORIGIN), ..publication("event:1", offset, "{}") }
}

fn ack(bed: &mut Bed, slot: u32, offset: u64) -> Vec<String> {
    let id = id(offset);
    bed.say(slot, &format!(r#"{{"type":"system:ack","payload":{{"id":"{id}"}}}}"#))
}

#[test]
fn the_first_acknowledgement_of_whoever_was_sent_a_message_is_passed_on() {
    let mut bed = bed();
    bed.open_as(0, identity("a", &[], None), 0);
    bed.open_as(1, identity("a", &[], None), 2);
    bed.open_as(2, identity("b", &[], None), 4);
    bed.publish_this(asking(1));
    bed.walk(0, 10);
    bed.delivered(0, 2);
    assert_eq!(ack(&mut bed, 0, 2), [""; 0], "there is no such message");
    assert_eq!(ack(&mut bed, 2, 1), [""; 0], "it was not sent to this user");
    assert_eq!(ack(&mut bed, 1, 1), ["acknowledged 1 for 3"]);
    assert_eq!(ack(&mut bed, 0, 1), [""; 0], "it was acknowledged");
    assert_eq!(bed.shard.stats().received[Kind::SystemAck.index()], 4);
}

#[test]
fn a_connection_that_came_later_can_not_acknowledge_what_it_was_not_sent() {
    let mut bed = bed();
    bed.open_as(0, identity("a", &[], None), 0);
    bed.publish_this(asking(1));
    bed.walk(0, 10);
    bed.delivered(0, 1);
    bed.open_as(1, identity("a", &[], None), 2);
    assert_eq!(ack(&mut bed, 1, 1), [""; 0]);
}

#[test]
fn only_those_that_ask_are_acknowledged_even_if_they_go_out_together() {
    let mut bed = bed();
    bed.open_as(0, identity("a", &[], None), 0);
    bed.publish_this(asking(1));
    for offset in [2, 3] {
        bed.publish_this(Publication {
            acks_to: (offset == 3).then_some(ORIGIN),
            ..asking(offset)
        });
    }
    bed.walk(0, 10);
    assert_eq!(bed.delivered(0, 1), ["handed over 1 to 1", "deliver 0 {}{}"]);
    bed.walk(0, 10);
    bed.delivered(0, 1);
    assert_eq!(ack(&mut bed, 0, 2), [""; 0]);
    assert_eq!(ack(&mut bed, 0, 3), ["acknowledged 3 for 3"]);
}

#[test]
fn what_was_held_for_the_greeting_can_be_acknowledged() {
    let mut bed = bed();
    bed.arrive(0, Handshake { token: true, ..Handshake::default() });
    let outcome = Ok(identity("a", &[], None));
    bed.step(Input::Verified { conn: conn(0), outcome, user_connections: 0 });
    bed.joined(0, 0);
    bed.publish_this(asking(1));
    assert_eq!(bed.walk(0, 10), [0; 0]);
    bed.delivered(0, 0);
    assert_eq!(bed.joined(1, 0).len(), 2, "the greeting and the message");
    assert_eq!(ack(&mut bed, 0, 1), ["acknowledged 1 for 3"]);
}

#[test]
fn a_message_that_is_resumed_asks_again() {
    let mut bed = bed();
    bed.arrive(0, Handshake { token: true, ..Handshake::default() });
    let outcome = Ok(identity("a", &[], None));
    bed.step(Input::Verified { conn: conn(0), outcome, user_connections: 0 });
    let missed = [(1, None), (2, Some(ORIGIN))].map(|(offset, acks_to)| Missed {
        frame: Frame(Bytes::from_static(b"{}")),
        kind: "x".into(),
        exclude_user: None,
        acks_to,
        position: position(offset),
    });
    let suffix = Suffix::new(missed.into(), 0);
    let (position, recovered) = (position(2), true);
    bed.relayed(ToShard::Joined { request: RequestId(0), position, recovered, suffix });
    assert_eq!(bed.joined(1, 0).len(), 2, "the greeting and what was missed");
    assert_eq!(ack(&mut bed, 0, 1), [""; 0]);
    assert_eq!(ack(&mut bed, 0, 2), ["acknowledged 2 for 3"]);
}

#[test]
fn who_was_sent_a_message_may_be_gone_with_its_slot_when_another_is_sent_it() {
    let mut bed = bed();
    bed.open_as(5, identity("a", &[], None), 0);
    bed.publish_this(asking(1));
    bed.walk(0, 10);
    bed.delivered(0, 1);
    bed.step(Input::Closed { conn: conn(5) });
    // It comes back to the first slot, and resumes.
    bed.arrive(0, Handshake { token: true, ..Handshake::default() });
    let outcome = Ok(identity("a", &[], None));
    bed.step(Input::Verified { conn: conn(0), outcome, user_connections: 0 });
    let missed = Missed {
        frame: Frame(Bytes::from_static(b"{}")),
        kind: "x".into(),
        exclude_user: None,
        acks_to: Some(ORIGIN),
        position: position(1),
    };
    let suffix = Suffix::new([missed].into(), 0);
    let (position, recovered) = (position(1), true);
    bed.relayed(ToShard::Joined { request: RequestId(2), position, recovered, suffix });
    assert_eq!(bed.joined(3, 0).len(), 2, "the greeting and what was missed");
    assert_eq!(ack(&mut bed, 0, 1), ["acknowledged 1 for 3"]);
}
