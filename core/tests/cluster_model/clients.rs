//! Clients that believe nothing.

use std::collections::{BTreeMap, VecDeque};

use realtime_core::id::{ConnectionId, Position};
use serde_json::Value;

use super::broker::{Broker, index};

/// A client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// Whether it is the user's.
    pub(crate) is_ann: bool,
    /// Its worker and its connection there.
    pub(crate) place: Option<(usize, ConnectionId)>,
    /// Whether it was greeted, and not closed.
    pub(crate) open: bool,
    /// Where it is in its streams; none where it is yet to be told.
    pub(crate) streams: BTreeMap<usize, Option<Position>>,
    /// Joins (true) and leaves of the room that are not answered yet.
    pub(crate) asked: VecDeque<bool>,
}

impl Client {
    /// Reads a message; gives the number of the publication that it is.
    pub(crate) fn read(&mut self, text: &[u8], broker: &Broker) -> Option<u64> {
        let message: Value = serde_json::from_slice(text).expect("messages are JSON");
        let payload = &message["payload"];
        match message["type"].as_str().expect("messages have types") {
            "system:connected" => {
                assert!(self.streams.is_empty() && self.open, "there is one greeting");
                if self.is_ann {
                    self.start(1, &payload["id"], broker);
                }
                self.start(2, &payload["all"]["id"], broker);
            }
            "room:joined" => {
                assert_eq!(self.asked.pop_front(), Some(true), "answers come in order");
                let stream = index(payload["room"].as_str().expect("it names the room"));
                if let Some(at) = self.streams.get(&stream).copied().flatten() {
                    let here = broker.place(stream, payload["id"].as_str().expect("it is known"));
                    assert!(broker.is_complete(stream, at, here, self.is_ann), "nothing is missed");
                }
                self.start(stream, &payload["id"], broker);
            }
            "room:left" => {
                assert_eq!(self.asked.pop_front(), Some(false), "answers come in order");
                self.streams.remove(&0);
            }
            "system:error" => {
                assert_eq!(payload["code"], "UNAVAILABLE", "no client makes mistakes");
                assert_eq!(self.asked.pop_front(), Some(true), "only a join can fail");
            }
            "system:resync" => {
                let stream = payload["room"].as_str().map_or(1, index);
                assert!(self.streams.contains_key(&stream), "only members are told");
                self.start(stream, &payload["id"], broker);
            }
            "ticket:reserved" => return Some(self.publication(&message, broker)),
            kind => panic!("{kind} is not expected"),
        }
        None
    }

    fn start(&mut self, stream: usize, id: &Value, broker: &Broker) {
        let at = id.as_str().map(|id| broker.place(stream, id));
        self.streams.insert(stream, at);
    }

    fn publication(&mut self, message: &Value, broker: &Broker) -> u64 {
        let stream = message["room"].as_str().map_or(1, index);
        let place = broker.place(stream, message["id"].as_str().expect("it has an id"));
        let number = message["payload"]["n"].as_u64().expect("it has a number");
        assert_eq!(place.mid.0 >> 32, number, "the payload is what was published");
        assert!(!(self.is_ann && broker.excludes(stream, place)), "she was excluded");
        let at = self.streams.get(&stream).expect("only members get it");
        let at = at.expect("a client is told where it is first");
        let before = broker.before(stream, place);
        assert!(broker.is_complete(stream, at, before, self.is_ann), "nothing is missed");
        self.streams.insert(stream, Some(place));
        number
    }
}
