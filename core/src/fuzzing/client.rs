//! A client that believes nothing.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    stream::{self, StreamName},
    wire::decode,
};

/// Publications, by stream and offset, that skip a user.
pub(super) type Exclusions = BTreeMap<(StreamName, u64), Arc<str>>;

/// What a client knows.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// Who it is; none for an anonymous one.
    pub(super) user: Option<Arc<str>>,
    /// Up to which offset it has seen everything of each stream it is in; none where it was told
    /// of none, and a resync is to come.
    seen: BTreeMap<StreamName, Option<u64>>,
}

impl Client {
    /// The streams it is in.
    pub(super) fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.seen.keys()
    }

    /// Takes the first message.
    pub(super) fn greeted(&mut self, text: &str) {
        let message = read(text);
        let payload = &message["payload"];
        assert_eq!(kind(&message), "system:connected");
        assert!(self.seen.is_empty(), "there is one greeting");
        self.seen.insert(StreamName::all(), offset(&payload["all"]["id"]));
        if let Some(own) = self.own_stream() {
            self.seen.insert(own, offset(&payload["id"]));
        }
    }

    /// Takes a message behind the first.
    pub(super) fn saw(&mut self, text: &str, exclusions: &Exclusions) {
        let message = read(text);
        let payload = &message["payload"];
        match kind(&message) {
            "room:joined" => {
                let (stream, head) = (self.named(&payload["room"]), offset(&payload["id"]));
                if let Some(Some(seen)) = self.seen.get(&stream) {
                    // It was a member, and has seen what is said to be behind it.
                    let head = head.expect("a position is not lost");
                    assert!(head >= *seen, "{head} of {stream:?} is behind {seen}");
                    self.check_seen(&stream, head, exclusions);
                }
                self.seen.insert(stream, head);
            }
            "system:resync" => {
                let (stream, head) = (self.named(&payload["room"]), offset(&payload["id"]));
                let seen = self.seen.get_mut(&stream).expect("only members are told");
                assert!(head >= *seen, "{head:?} of {stream:?} is behind {seen:?}");
                *seen = head;
            }
            "room:left" => {
                let stream = self.named(&payload["room"]);
                // These are left by going away only.
                if stream.as_str() != stream::ALL && Some(&stream) != self.own_stream().as_ref() {
                    self.seen.remove(&stream);
                }
            }
            PUBLISHED => self.saw_publication(&message, exclusions),
            kind => assert_ne!(kind, "system:connected", "there is one greeting"),
        }
    }

    fn saw_publication(&mut self, message: &Value, exclusions: &Exclusions) {
        let stream = self.named(&message["room"]);
        let Some(&seen) = self.seen.get(&stream) else {
            panic!("a publication of {stream:?}, which was never joined or was left");
        };
        let Some(offset) = offset(&message["id"]) else {
            return;
        };
        assert!(!self.is_excluded(&stream, offset, exclusions), "its user is excluded");
        if let Some(seen) = seen {
            assert!(offset > seen, "{offset} of {stream:?} comes after {seen}");
            self.check_seen(&stream, offset - 1, exclusions);
            self.seen.insert(stream, Some(offset));
        }
    }

    /// Checks that no publication of `stream` up to `head` is missing.
    pub(super) fn check_seen(&self, stream: &StreamName, head: u64, exclusions: &Exclusions) {
        let Some(&Some(seen)) = self.seen.get(stream) else {
            return;
        };
        for missing in seen + 1..=head {
            let excluded = self.is_excluded(stream, missing, exclusions);
            assert!(excluded, "{missing} of {stream:?} is missing behind {seen}");
        }
    }

    fn is_excluded(&self, stream: &StreamName, offset: u64, exclusions: &Exclusions) -> bool {
        self.user.is_some() && exclusions.get(&(stream.clone(), offset)) == self.user.as_ref()
    }

    fn own_stream(&self) -> Option<StreamName> {
        self.user.as_ref().map(|user| StreamName::user(user).expect("it was verified"))
    }

    /// The stream that a message names; its user's own if it names none.
    fn named(&self, room: &Value) -> StreamName {
        match room.as_str() {
            Some(room) => StreamName::room(room).expect("rooms have valid names"),
            None => self.own_stream().expect("anonymous clients have no stream"),
        }
    }
}

fn read(text: &str) -> Value {
    let message: Value = serde_json::from_str(text).expect("messages are JSON");
    assert!(!message["payload"].is_null(), "a payload is never absent");
    message
}

fn kind(message: &Value) -> &str {
    message["type"].as_str().expect("messages have a type")
}

/// The offset of an `id`; none for null.
fn offset(id: &Value) -> Option<u64> {
    let id = id.as_str()?;
    Some(decode::since(id).expect("ids have their form").offset)
}

/// The type of all publications.
pub(super) const PUBLISHED: &str = "ticket:reserved";
