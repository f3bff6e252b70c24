//! What instances tell each other through the broker, beside publications: beats on a channel that
//! all of them read, and reports on the one channel of an instance.
//!
//! Both are JSON objects that begin with a format version. A reader takes no other one: what can't
//! be read is as if it had been lost, which beats and reports may be.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    id::{BootId, Mid},
    stream::StreamName,
};

/// A sign of life of an instance, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Beat {
    /// The instance.
    pub boot: BootId,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// It stops, and there will be no other beat.
    pub leaving: bool,
    /// What its workers hold, summed up.
    pub census: Census,
}

/// What one worker, or all workers of an instance, hold and have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Census {
    /// Open connections whose user is known.
    pub authenticated: u32,
    /// Open connections without a user.
    pub anonymous: u32,
    /// Total of messages sent.
    pub sent: u64,
    /// Total of messages received.
    pub received: u64,
    /// Members of the largest rooms, at most [`CENSUS_ROOMS_MAX`], by name.
    pub rooms: Vec<(StreamName, u32)>,
}

/// What an instance counted for the publications of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The instance that counted.
    pub from: BootId,
    /// At most [`REPORT_RECEIPTS_MAX`].
    pub receipts: Vec<Receipt>,
    /// Messages that a client has acknowledged, at most [`REPORT_ACKS_MAX`].
    pub acks: Vec<Mid>,
}

/// What an instance counted for one publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The publication.
    pub mid: Mid,
    /// Connections that it was handed to.
    pub recipients: u32,
    /// Some worker was too busy to take it, and may hand it over later.
    pub partial: bool,
}

impl Census {
    /// Adds what another worker holds.
    pub fn add(&mut self, other: &Self) {
        self.authenticated = self.authenticated.saturating_add(other.authenticated);
        self.anonymous = self.anonymous.saturating_add(other.anonymous);
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
        for (room, members) in &other.rooms {
            match self.rooms.binary_search_by(|(known, _)| known.cmp(room)) {
                Ok(at) => self.rooms[at].1 = self.rooms[at].1.saturating_add(*members),
                Err(at) => self.rooms.insert(at, (room.clone(), *members)),
            }
        }
    }

    /// Keeps the largest rooms only, in order of their names.
    pub fn keep_largest_rooms(&mut self) {
        if self.rooms.len() > CENSUS_ROOMS_MAX {
            self.rooms.select_nth_unstable_by(CENSUS_ROOMS_MAX, |a, b| {
                b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0))
            });
            self.rooms.truncate(CENSUS_ROOMS_MAX);
        }
        self.rooms.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    }
}

impl Beat {
    /// As it goes over the channel.
    pub fn encode(&self) -> Bytes {
        let Census { authenticated, anonymous, sent, received, rooms } = &self.census;
        text(&BeatText {
            v: FORMAT,
            boot: self.boot.0,
            uptime_s: self.uptime_s,
            leaving: self.leaving,
            authenticated: *authenticated,
            anonymous: *anonymous,
            sent: *sent,
            received: *received,
            rooms: rooms.iter().map(|(room, members)| (room.as_str().into(), *members)).collect(),
        })
    }

    /// Reads what [`Self::encode`] wrote; none for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let beat: BeatText = read(bytes)?;
        if beat.v != FORMAT || beat.rooms.len() > CENSUS_ROOMS_MAX {
            return None;
        }
        let room =
            |(name, members): &(Box<str>, u32)| Some((StreamName::room(name).ok()?, *members));
        let mut rooms: Vec<_> = beat.rooms.iter().map(room).collect::<Option<_>>()?;
        rooms.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Some(Self {
            boot: BootId(beat.boot),
            uptime_s: beat.uptime_s,
            leaving: beat.leaving,
            census: Census {
                authenticated: beat.authenticated,
                anonymous: beat.anonymous,
                sent: beat.sent,
                received: beat.received,
                rooms,
            },
        })
    }
}

impl Report {
    /// As it goes over the channel.
    pub fn encode(&self) -> Bytes {
        let receipt = |receipt: &Receipt| (receipt.mid.0, receipt.recipients, receipt.partial);
        let receipts = self.receipts.iter().map(receipt).collect();
        let acks = self.acks.iter().map(|mid| mid.0).collect();
        text(&ReportText { v: FORMAT, from: self.from.0, receipts, acks })
    }

    /// Reads what [`Self::encode`] wrote; none for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let report: ReportText = read(bytes)?;
        let is_long = report.receipts.len() > REPORT_RECEIPTS_MAX;
        if report.v != FORMAT || is_long || report.acks.len() > REPORT_ACKS_MAX {
            return None;
        }
        let receipt = |(mid, recipients, partial)| Receipt { mid: Mid(mid), recipients, partial };
        let receipts = report.receipts.into_iter().map(receipt).collect();
        let acks = report.acks.into_iter().map(Mid).collect();
        Some(Self { from: BootId(report.from), receipts, acks })
    }
}

#[derive(Serialize, Deserialize)]
struct BeatText {
    v: u8,
    boot: u64,
    uptime_s: u64,
    leaving: bool,
    authenticated: u32,
    anonymous: u32,
    sent: u64,
    received: u64,
    rooms: Vec<(Box<str>, u32)>,
}

#[derive(Serialize, Deserialize)]
struct ReportText {
    v: u8,
    from: u64,
    receipts: Vec<(u64, u32, bool)>,
    #[serde(default)]
    acks: Vec<u64>,
}

fn text(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("numbers and texts can be written").into()
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    (bytes.len() <= TEXT_BYTES_MAX).then(|| serde_json::from_slice(bytes).ok()).flatten()
}

/// Rooms in one census: with names of 200 bytes about 20 KB in a beat, once a second.
pub const CENSUS_ROOMS_MAX: usize = 100;

/// Receipts in one report: about 18 KB.
pub const REPORT_RECEIPTS_MAX: usize = 512;

/// Acknowledgements in one report: about 10 KB.
pub const REPORT_ACKS_MAX: usize = 512;

/// Longest text that is looked at: twice as much as can be written, names being escaped.
const TEXT_BYTES_MAX: usize = 1 << 16;

/// The version that is written and read.
const FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> StreamName {
        StreamName::room(name).unwrap()
    }

    fn beat() -> Beat {
        Beat {
            boot: BootId(u64::MAX),
            uptime_s: 7,
            leaving: false,
            census: Census {
                authenticated: 1,
                anonymous: 2,
                sent: 3,
                received: u64::MAX,
                rooms: vec![(room("event:\"1\""), 4), (room("vip:käse"), 5)],
            },
        }
    }

    #[test]
    fn beats_and_reports_are_read_as_they_were_written() {
        assert_eq!(Beat::decode(&beat().encode()), Some(beat()));
        let receipts = vec![
            Receipt { mid: Mid(u64::MAX), recipients: 0, partial: true },
            Receipt { mid: Mid(1), recipients: u32::MAX, partial: false },
        ];
        let report = Report { from: BootId(3), receipts, acks: vec![Mid(u64::MAX), Mid(0)] };
        assert_eq!(Report::decode(&report.encode()), Some(report));
    }

    #[test]
    fn what_is_of_another_form_or_too_large_is_not_read() {
        let text = String::from_utf8(beat().encode().to_vec()).unwrap();
        for bad in [
            "",
            "{}",
            "[1]",
            &text[1..],
            &text.replace("\"v\":1", "\"v\":2"),
            &text.replace("vip:käse", "\\u0000"),
            &(text.clone() + &" ".repeat(TEXT_BYTES_MAX)),
        ] {
            assert_eq!(Beat::decode(bad.as_bytes()), None, "{bad:.80}");
        }
        let receipt = Receipt { mid: Mid(1), recipients: 1, partial: false };
        let receipts = vec![receipt; REPORT_RECEIPTS_MAX + 1];
        let long = Report { from: BootId(1), receipts, acks: Vec::new() };
        assert_eq!(Report::decode(&long.encode()), None);
        let acks = vec![Mid(1); REPORT_ACKS_MAX + 1];
        let long = Report { from: BootId(1), receipts: Vec::new(), acks };
        assert_eq!(Report::decode(&long.encode()), None);
        let old = r#"{"v":1,"from":7,"receipts":[]}"#.as_bytes();
        assert!(Report::decode(old).is_some(), "it has nothing of acknowledgements");
    }

    #[test]
    fn a_census_adds_up_and_keeps_the_largest_rooms() {
        let mut sum = Census::default();
        for worker in 0..2 {
            let rooms = (0..80).map(|n| (room(&format!("event:{:03}", n + 40 * worker)), n + 1));
            let rooms = rooms.collect();
            sum.add(&Census { authenticated: 1, sent: 2, rooms, ..Census::default() });
        }
        sum.keep_largest_rooms();
        assert_eq!((sum.authenticated, sum.sent, sum.rooms.len()), (2, 4, CENSUS_ROOMS_MAX));
        assert!(sum.rooms.is_sorted());
        assert!(sum.rooms.contains(&(room("event:079"), 80 + 40)), "one of both workers");
        assert!(!sum.rooms.contains(&(room("event:000"), 1)), "the smallest one");
    }
}
