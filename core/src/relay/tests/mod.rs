//! The rules of the relay, one by one.

mod check;
mod history;
mod interest;
mod order;
mod outlet;
mod peers;
mod receipts;
mod retry;
mod rollover;
mod values;

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    entry::{Body, Entry, Place},
    id::{BootId, DispatchId, Epoch, Mid, Position, RequestId},
    link::{Missed, Since, ToShard},
    stream::StreamName,
    time::UnixMillis,
};

const ROOM: &str = "event:1";

/// The instance itself.
const BOOT: BootId = BootId(1);

fn limits() -> RelayLimits {
    RelayLimits {
        workers: 3,
        positions: true,
        in_flight_max: 4,
        in_flight_bytes_max: 1 << 20,
        linger: Duration::from_secs(30),
        held_bytes_max: 1 << 20,
        repair_timeout: Duration::from_secs(2),
        expected_max: 4,
        head_reads_max: 3,
        position_check: Duration::from_secs(300),
        subscribe_timeout: Duration::from_secs(2),
        ingress_bytes_max: 1 << 16,
    }
}

fn relay() -> Relay {
    Relay::new(limits(), BOOT, 7, Instant(0))
}

/// A relay whose room `ROOM` is live at `position(5)` for worker 0, by its join 0.
fn live() -> Relay {
    let mut relay = relay();
    step(&mut relay, 0, link_up(1));
    step(&mut relay, 0, join(0, 0, ROOM));
    step(&mut relay, 0, subscribed(1, ROOM));
    assert_eq!(step(&mut relay, 0, head(0, 5)), ["0: joined 0 at 5"]);
    relay
}

/// Hands one input over at `at` milliseconds; what is to be done, in words, beats apart.
#[track_caller]
fn step(relay: &mut Relay, at: u64, input: Input) -> Vec<String> {
    let mut actions = Vec::new();
    relay.handle(millis(at), input, &mut actions);
    actions.iter().filter(|action| !is_pulse(action)).map(words).collect()
}

/// Whether it is part of the beat, which goes on whatever else happens.
fn is_pulse(action: &Action) -> bool {
    matches!(
        action,
        Action::Tell { to: Destination::Everyone, .. }
            | Action::ToShard { message: ToShard::Count, .. }
    )
}

fn words(action: &Action) -> String {
    let at = |position: &Option<Position>| match position {
        Some(Position { epoch: Epoch(1), offset, .. }) => offset.to_string(),
        Some(Position { epoch, offset, .. }) => format!("{}/{offset}", epoch.0),
        None => "nowhere".to_owned(),
    };
    match action {
        Action::ToShard { worker, message } => {
            let what = match message {
                ToShard::Joined { request, position, recovered, suffix } => {
                    let recovered = if *recovered { ", recovered" } else { "" };
                    let missed = suffix.entries().iter();
                    let missed: String =
                        missed.map(|missed| format!(" +{}", what_is(missed))).collect();
                    format!("joined {} at {}{recovered}{missed}", request.0, at(position))
                }
                ToShard::JoinFailed { request } => format!("join {} failed", request.0),
                ToShard::Publication(publication) => {
                    format!("{} at {}", publication.dispatch.0, at(&publication.position))
                }
                ToShard::Count => "count".to_owned(),
                ToShard::Resync { stream, by_all, position, .. } => {
                    let whom = if *by_all { "" } else { " newcomers of" };
                    format!("resync{whom} {} at {}", stream.as_str(), at(position))
                }
            };
            format!("{}: {what}", worker.0)
        }
        Action::Subscribe { stream } => format!("subscribe {}", stream.as_str()),
        Action::Unsubscribe { stream } => format!("unsubscribe {}", stream.as_str()),
        Action::Read { read, stream, after, .. } => {
            let after = after.map_or_else(String::new, |after| format!(" after {after}"));
            format!("read {} of {}{after}", read.0, stream.as_str())
        }
        Action::Receipt { mid, recipients, instances, complete, acknowledged, awaits_ack } => {
            let complete = if *complete { "" } else { ", or more" };
            let acked = match (acknowledged, awaits_ack) {
                (true, _) => ", acknowledged",
                (false, true) => ", not yet acknowledged",
                (false, false) => "",
            };
            format!("receipt {}: {recipients} on {instances}{complete}{acked}", mid.0 >> 32)
        }
        Action::Compare { check, streams } => {
            let streams: Vec<_> = streams.iter().map(|stream| stream.as_str()).collect();
            format!("compare {} of {}", check.0, streams.join(", "))
        }
        Action::Tell { to: Destination::Instance(BootId(boot)), bytes } => {
            let report = Report::decode(bytes).unwrap();
            let receipts = report.receipts.iter();
            let receipts: Vec<_> =
                receipts.map(|one| format!("{}: {}", one.mid.0 >> 32, one.recipients)).collect();
            let acks = report.acks.iter().map(|mid| format!("acked {}", mid.0 >> 32));
            let what: Vec<_> = receipts.into_iter().chain(acks).collect();
            format!("tell {boot} {}", what.join(", "))
        }
        Action::Tell { to: Destination::Everyone, .. } => "beat".to_owned(),
        Action::Unexpected { mid } => format!("unexpected {}", mid.0 >> 32),
        Action::Reach(what) => format!("reach {what}"),
    }
}

fn millis(at: u64) -> Instant {
    Instant(at * 1_000_000)
}

fn name(name: &str) -> StreamName {
    StreamName::room(name).unwrap()
}

fn link_up(generation: u64) -> Input {
    Input::LinkUp { generation: Generation(generation), run_id: 1 }
}

fn join(worker: u16, request: u64, room: &str) -> Input {
    join_since(worker, request, room, None)
}

fn join_since(worker: u16, request: u64, room: &str, since: Option<Since>) -> Input {
    let message = ToRelay::Join { request: RequestId(request), stream: name(room), since };
    Input::FromShard { worker: WorkerId(worker), message }
}

fn since(position: Position) -> Option<Since> {
    let Position { epoch, offset, .. } = position;
    Some(Since { epoch: epoch.0, offset, check: position.check() })
}

fn vacated(worker: u16, room: &str) -> Input {
    let message = ToRelay::Vacated { stream: name(room) };
    Input::FromShard { worker: WorkerId(worker), message }
}

fn handed_over(worker: u16, dispatch: u64, recipients: u32) -> Input {
    let message = ToRelay::HandedOver { dispatch: DispatchId(dispatch), recipients };
    Input::FromShard { worker: WorkerId(worker), message }
}

fn subscribed(generation: u64, room: &str) -> Input {
    Input::Subscribed { generation: Generation(generation), stream: name(room) }
}

fn unsubscribed(generation: u64, room: &str) -> Input {
    Input::Unsubscribed { generation: Generation(generation), stream: name(room) }
}

/// The place of the publication number `offset` in epoch 1, whose mid follows from it.
fn position(offset: u64) -> Position {
    Position { epoch: Epoch(1), offset, mid: Mid(offset << 32) }
}

fn head(read: u64, offset: u64) -> Input {
    head_at(read, Some(position(offset)))
}

fn head_at(read: u64, head: Option<Position>) -> Input {
    let history = head.map(|head| History { head, ..History::default() });
    Input::Read { read: ReadId(read), history }
}

/// The durable entry number `offset`, as the history has it.
fn kept(offset: u64) -> Bytes {
    let place = Place::Durable { position: position(offset), prev: position(offset - 1).mid };
    Entry { place, body: body() }.encode()
}

/// The answer to a read: the head and the newest entries that are kept.
fn history(read: u64, offsets: std::ops::RangeInclusive<u64>) -> Input {
    let head = position(*offsets.end());
    let history = History { head, entries: offsets.map(kept).collect(), latest: Vec::new() };
    Input::Read { read: ReadId(read), history: Some(history) }
}

fn body() -> Body {
    Body {
        kind: "ticket:reserved".into(),
        payload: Bytes::from_static(b"{}"),
        exclude_user: None,
        key: "".into(),
        ack: false,
        origin: BOOT,
        published: UnixMillis(1),
    }
}

fn received(generation: u64, room: &str, place: Place) -> Input {
    let bytes = Entry { place, body: body() }.encode();
    let channel = Channel::Stream(name(room));
    Input::Received { generation: Generation(generation), channel, bytes }
}

/// The publication number `offset` comes in on the channel of `ROOM`.
fn came(offset: u64) -> Input {
    let place = Place::Durable { position: position(offset), prev: position(offset - 1).mid };
    received(1, ROOM, place)
}

/// A latest value that was published when the stream was at `at`.
fn came_latest(at: u64) -> Input {
    received(1, ROOM, Place::Latest { epoch: Epoch(1), at, version: at, mid: Mid(99 << 32) })
}

/// The offset of a durable message, or the payload of a latest value.
fn what_is(missed: &Missed) -> String {
    let text = String::from_utf8_lossy(&missed.frame.0);
    let payload = text.split("\"payload\":").nth(1).and_then(|rest| rest.split(['}', ',']).next());
    let payload = || payload.expect("it has one").to_owned();
    missed.position.map_or_else(payload, |position| position.offset.to_string())
}

#[test]
fn an_idle_stream_takes_less_than_256_bytes() {
    // Beside the record: its name with the counts before it, one worker, 16 checks, and 16 bytes
    // of the table.
    let name = 16 + "user:".len() + 36;
    let boxed = size_of::<stream::Seat>() + size_of::<stream::Recent>();
    assert!(size_of::<stream::Stream>() + name + boxed + 16 <= 256);
}

#[test]
fn equal_histories_have_equal_fingerprints_and_others_do_not() {
    let (mut one, mut other) = (live(), live());
    assert_eq!(one.state_hash(), other.state_hash());
    step(&mut one, 0, came(6));
    assert_ne!(one.state_hash(), other.state_hash());
    step(&mut other, 0, came(6));
    assert_eq!(one.state_hash(), other.state_hash());
}
