//! Counts the instructions of what a shard does all the time, with valgrind: they hold from run to
//! run and from machine to machine, which times don't.
//!
//! Each case runs twice, the second time with twice as many repetitions; the difference is what
//! these cost, without anything that comes before.

#[path = "../tests/bed/mod.rs"]
mod bed;

use std::{
    env,
    error::Error,
    hint::black_box,
    io::{self, Write as _},
    process::Command,
    sync::Arc,
};

use bed::{Bed, conn, position};
use realtime_core::{
    id::RequestId,
    link::{Missed, Suffix, ToRelay, ToShard},
    shard::{Action, Input},
    wire::{decode, encode},
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [case, repetitions] = &arguments[..] {
        let (_, _, run) = CASES.iter().find(|(name, ..)| name == case).ok_or("an unknown case")?;
        run(repetitions.parse()?);
        return Ok(());
    }
    for (case, repetitions, _) in CASES {
        let (once, twice) =
            (instructions(case, *repetitions)?, instructions(case, 2 * repetitions)?);
        writeln!(io::stdout(), "{case:<40} {:>10}", (twice - once) / u64::from(*repetitions))?;
    }
    Ok(())
}

/// Of a whole run.
fn instructions(case: &str, repetitions: u32) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args([case, &repetitions.to_string()])
        .output()
        .map_err(|error| format!("valgrind is needed: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().find_map(|line| line.split("Collected : ").nth(1));
    let count = count.and_then(|count| count.split_whitespace().next()?.parse().ok());
    count.ok_or_else(|| format!("valgrind did not count:\n{text}").into())
}

/// What is repeated, and how often.
type Case = (&'static str, u32, fn(u32));

const CASES: &[Case] = &[
    ("a publication to 1 member", 100, |n| publish(1, n)),
    ("a publication to 1,000 members", 20, |n| publish(1_000, n)),
    ("the same without a history", 20, publish_plain),
    ("a publication to 100,000 members", 5, |n| publish(100_000, n)),
    ("encoding a publication", 100, encode_publication),
    ("leaving and joining a room", 100, leave_and_join),
    ("leaving, and resuming with 10 messages", 100, resume),
    ("a heartbeat: due, pinged, heard", 2_000, heartbeat),
    ("decoding system:ping", 100, |n| decode(r#"{"type":"system:ping"}"#, n)),
    ("decoding room:join", 100, |n| {
        decode(r#"{"type":"room:join","payload":{"room":"event:1"}}"#, n);
    }),
    ("decoding room:leave", 100, |n| {
        decode(r#"{"type":"room:leave","payload":{"room":"event:1"}}"#, n);
    }),
    ("decoding auth:refresh", 100, |n| {
        decode(r#"{"type":"auth:refresh","payload":{"token":"aaaaaaaa.bbbbbbbb.cccccccc"}}"#, n);
    }),
    ("decoding system:ack", 100, |n| {
        decode(r#"{"type":"system:ack","payload":{"id":"0000000000000001-1-00000001"}}"#, n);
    }),
];

const JOIN: &str = r#"{"type":"room:join","payload":{"room":"event:1"}}"#;
const LEAVE: &str = r#"{"type":"room:leave","payload":{"room":"event:1"}}"#;

fn publish(members: u32, repetitions: u32) {
    let mut bed = Bed::new(members);
    let publication = bed.publication("event:1", None);
    for _ in 0..repetitions {
        assert_eq!(bed.publish(publication.clone()), members);
    }
}

/// As with `HISTORY_SIZE=0`: nothing has a place.
fn publish_plain(repetitions: u32) {
    let mut bed = Bed::new(1_000);
    let mut publication = bed.publication("event:1", None);
    Arc::get_mut(&mut publication).expect("nobody else has it").position = None;
    for _ in 0..repetitions {
        assert_eq!(bed.publish(publication.clone()), 1_000);
    }
}

fn encode_publication(repetitions: u32) {
    let mut bed = Bed::new(1);
    for _ in 0..repetitions {
        black_box(bed.publication("event:1", None));
    }
}

fn leave_and_join(repetitions: u32) {
    let mut bed = Bed::new(1_000);
    for slot in (0..1_000).cycle().take(repetitions as usize) {
        bed.feed(Input::Received { conn: conn(slot), text: LEAVE });
        bed.feed(Input::Received { conn: conn(slot), text: JOIN });
    }
}

fn heartbeat(repetitions: u32) {
    Bed::new(1_000).heartbeat(repetitions);
}

fn decode(text: &str, repetitions: u32) {
    for _ in 0..repetitions {
        // A refused one would be cheaper.
        assert!(black_box(decode::request(black_box(text))).command.is_ok());
    }
}

fn resume(repetitions: u32) {
    let mut bed = Bed::new(1_000);
    let missed = (1..=10).map(|offset| Missed {
        frame: bed.publication("event:1", None).frame.clone(),
        kind: "ticket:released".into(),
        exclude_user: None,
        acks_to: None,
        position: position(offset),
    });
    let suffix = Suffix::new(missed.collect(), 0);
    let mut id = Vec::new();
    encode::id(&mut id, position(0).expect("it is given"));
    let id = String::from_utf8(id).expect("ids are ASCII");
    let join = format!(r#"{{"type":"room:join","payload":{{"room":"event:1","since":"{id}"}}}}"#);
    for slot in (0..1_000).cycle().take(repetitions as usize) {
        bed.feed(Input::Received { conn: conn(slot), text: LEAVE });
        let mut request = None;
        bed.look(Input::Received { conn: conn(slot), text: &join }, |action| {
            if let Action::ToRelay(ToRelay::Join { request: asked, .. }) = action {
                request = Some(*asked);
            }
        });
        let request: RequestId = request.expect("a join asks the relay");
        let (position, suffix) = (position(10), suffix.clone());
        let joined = ToShard::Joined { request, position, recovered: true, suffix };
        let mut fed = false;
        bed.look(Input::FromRelay(joined), |action| {
            fed |= matches!(action, Action::Feed { .. });
        });
        assert!(fed, "what was missed is sent");
    }
}
