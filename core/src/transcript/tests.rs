use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    id::{Generation, WorkerId},
    link::{ToRelay, ToShard},
    relay::{self, Channel},
    shard::{self, Actions, Handshake, Shard, VerifyError},
    stream::StreamName,
    wire::CloseCode,
};

/// Lines, as text.
#[derive(Debug, Default)]
struct Lines(String);

impl Sink for &mut Lines {
    fn line(&mut self, line: &[u8]) {
        self.0.push_str(str::from_utf8(line).unwrap());
        self.0.push('\n');
    }
}

fn shard_limits() -> ShardLimits {
    ShardLimits {
        connections_max: 10,
        connections_per_user_max: 2,
        accepts_per_second_max: 0,
        rooms_per_connection_max: 3,
        anonymous_allowed: true,
        origins: vec!["*".into()],
        public_rooms: vec!["event:*".into()],
        ping_interval: Duration::from_secs(30),
        pong_timeout: Duration::from_secs(60),
        join_timeout: Duration::from_secs(5),
        close_timeout: Duration::from_secs(5),
        slow_timeout: Duration::from_secs(10),
        expiry_notice: Duration::from_secs(60),
        messages_per_second_max: 0,
        message_burst_max: 200,
        rate_grace: Duration::from_secs(10),
        errors_max: 50,
        parked_joins_max: 100,
        waiting_requests_max: 3,
        coalesced_bytes_max: 8,
    }
}

/// A client without a token joins a room under a name that has to be escaped, and is sent what is
/// published there: binary frames, names and a long life of pongs are in the transcript.
fn life_of_a_shard() -> String {
    let mut lines = Lines::default();
    let (now, unix) = (Instant(0), UnixMillis(1_000));
    let mut shard = Recorded::shard(shard_limits(), 7, u64::MAX, now, unix, Some(&mut lines));
    let mut actions = Actions::default();
    let mut give = |shard: &mut Recorded<Shard, &mut Lines>, input: shard::Input<'_>| {
        shard.handle(Instant(5), input, &mut actions);
        let wanted: Vec<_> = actions.list().to_vec();
        actions.clear();
        wanted
    };
    let bad = ConnectionId { slot: 1, generation: 0 };
    give(&mut shard, shard::Input::Arrived { conn: bad, request: with_token("https://\"a\"") });
    let outcome = Err(VerifyError("expired"));
    give(&mut shard, shard::Input::Verified { conn: bad, outcome, user_connections: 0 });

    let conn = ConnectionId { slot: 0, generation: 0 };
    let joins = give(&mut shard, shard::Input::Arrived { conn, request: Handshake::default() });
    answer(&mut shard, &mut give, &joins);
    let text = r#"{"type":"room:join","payload":{"room":"event:\"é\""}}"#;
    let joins = give(&mut shard, shard::Input::Received { conn, text });
    answer(&mut shard, &mut give, &joins);
    let publication = crate::link::Publication {
        dispatch: crate::id::DispatchId(1),
        stream: StreamName::room("event:\"é\"").unwrap(),
        frame: crate::wire::Frame(Bytes::from_static(b"\x81\x7e\x00\xffx")),
        kind: "x".into(),
        exclude_user: None,
        acks_to: None,
        position: None,
        published: None,
        value_of: None,
    };
    let message = ToShard::Publication(publication.into());
    let wanted = give(&mut shard, shard::Input::FromRelay(message));
    let [shard::Action::Deliver { delivery, .. }] = wanted[..] else { panic!("{wanted:?}") };
    let mut members = Vec::new();
    shard.next_members(delivery, 10, &mut members);
    assert_eq!(members, [conn]);
    shard.next_members(delivery, 10, &mut Vec::new());
    give(&mut shard, shard::Input::Delivered { delivery, accepted: 1 });
    for _ in 0..STATE_EVERY {
        give(&mut shard, shard::Input::Heard { conn });
    }
    give(&mut shard, shard::Input::Misbehaved { conn, code: CloseCode::TooBig });
    lines.0
}

fn with_token(origin: &str) -> Handshake<'_> {
    Handshake { origin: Some(origin), token: true, ..Handshake::default() }
}

/// Plays the relay that answers each join.
fn answer<M>(
    shard: &mut M,
    give: &mut impl FnMut(&mut M, shard::Input<'_>) -> Vec<shard::Action>,
    wanted: &[shard::Action],
) {
    for action in wanted {
        if let shard::Action::ToRelay(ToRelay::Join { request, .. }) = action {
            let message = ToShard::Joined {
                request: *request,
                position: None,
                recovered: false,
                suffix: Default::default(),
            };
            give(shard, shard::Input::FromRelay(message));
        }
    }
}

fn life_of_a_relay() -> String {
    let mut lines = Lines::default();
    let limits = RelayLimits {
        workers: 1,
        positions: true,
        in_flight_max: 10,
        in_flight_bytes_max: 1_000,
        linger: Duration::from_secs(30),
        held_bytes_max: 1_000,
        repair_timeout: Duration::from_secs(2),
        expected_max: 10,
        head_reads_max: 3,
        position_check: Duration::from_secs(300),
        subscribe_timeout: Duration::from_secs(5),
        ingress_bytes_max: 1_000,
    };
    let mut relay = Recorded::relay(limits, BootId(1), 7, Instant(0), Some(&mut lines));
    let mut actions = Vec::new();
    let stream = StreamName::room("event:1").unwrap();
    let generation = Generation(1);
    let request = crate::id::RequestId(1);
    let join = ToRelay::Join { request, stream: stream.clone(), since: None };
    for input in [
        relay::Input::LinkUp { generation, run_id: 1 },
        relay::Input::FromShard { worker: WorkerId(0), message: join },
        relay::Input::Subscribed { generation, stream: stream.clone() },
        relay::Input::Received {
            generation,
            channel: Channel::Stream(stream),
            bytes: Bytes::from_static(b"no \xff text"),
        },
        relay::Input::TimedOut,
    ] {
        relay.handle(Instant(1), input, &mut actions);
        actions.clear();
    }
    lines.0
}

fn replay(transcript: &str) -> Result<u64, ReplayError> {
    let mut replay = Replay::default();
    transcript.lines().try_for_each(|line| replay.line(line))?;
    replay.finish()
}

#[test]
fn a_bare_machine_wants_what_the_transcript_says() {
    let shard = life_of_a_shard();
    assert!(shard.contains("{\"state\":"), "so long a life has a fingerprint: {shard}");
    assert!(shard.contains("\\\"é\\\"") && shard.contains("\"frame\":\"\u{81}~\\u0000ÿx\""));
    assert!(replay(&shard).unwrap() > STATE_EVERY);
    assert_eq!(replay(&life_of_a_relay()), Ok(5));
}

#[test]
fn an_answer_that_differs_in_one_byte_is_found_in_its_line() {
    for transcript in [life_of_a_shard(), life_of_a_relay()] {
        let lines: Vec<_> = transcript.lines().collect();
        let is_checked = |(number, line): &(usize, &&str)| {
            !line.starts_with("{\"input\"")
                && !line.starts_with("{\"walk\"")
                && (*number < 30 || line.starts_with("{\"state\""))
        };
        for (number, line) in lines.iter().enumerate().skip(1).filter(is_checked) {
            let at = line.rfind(|c: char| c.is_ascii_alphanumeric()).unwrap();
            let mut changed = (*line).to_owned();
            changed.replace_range(at..=at, if &line[at..=at] == "0" { "1" } else { "0" });
            let mut lines = lines.clone();
            lines[number] = &changed;
            let expected = ReplayError::Differs {
                line: number as u64 + 1,
                recorded: changed.clone(),
                replayed: (*line).to_owned(),
            };
            assert_eq!(replay(&lines.join("\n")), Err(expected));
        }
    }
}

#[test]
fn a_transcript_of_another_form_is_refused() {
    let other = life_of_a_relay().replace("{\"transcript\":1,", "{\"transcript\":2,");
    let error = replay(&other).unwrap_err();
    assert_eq!(error.to_string(), "line 1: form 2; only form 1 can be read");
}
