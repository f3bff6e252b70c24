//! What a simulated client saw, and the judgement of it.

use std::collections::BTreeMap;

use serde_json::Value;

/// A client, as far as it can tell by itself.
#[derive(Debug, Default)]
pub struct Client {
    /// Streams that it is a member of, with what it knows of each.
    pub streams: BTreeMap<String, Seen>,
    /// The user's stream that `room`-less messages belong to.
    pub own: Option<String>,
}

/// What a client knows of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Everything up to here was received, or was before the join, or was said to be missed.
    pub offset: u64,
}

/// Takes the frames of one write apart. Simulated writes hold whole frames.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (header, length) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => {
                let length = bytes[2..10].try_into().expect("eight bytes");
                (10, usize::try_from(u64::from_be_bytes(length)).expect("it is in memory"))
            }
            short => (2, usize::from(short)),
        };
        frames.push((bytes[0] & 0x0f, &bytes[header..header + length]));
        bytes = &bytes[header + length..];
    }
    frames
}

impl Client {
    /// Takes one text message. An error is a broken promise of the service.
    pub fn received(&mut self, text: &[u8]) -> Result<(), String> {
        let message: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let payload = &message["payload"];
        match message["type"].as_str().ok_or("a message without a type")? {
            "system:connected" => {
                if let Some(user) = payload["user_id"].as_str() {
                    let own = format!("user:{user}");
                    self.start(&own, &payload["id"])?;
                    self.own = Some(own);
                }
                self.start("all", &payload["all"]["id"])?;
            }
            "room:joined" => {
                let room = payload["room"].as_str().ok_or("room:joined without a room")?;
                if !self.streams.contains_key(room) {
                    self.start(room, &payload["id"])?;
                }
            }
            "room:left" => {
                let room = payload["room"].as_str().ok_or("room:left without a room")?;
                self.streams.remove(room);
            }
            "system:resync" => {
                let stream = self.stream(&payload["room"])?;
                let offset = offset(&payload["id"]).unwrap_or(0);
                self.streams.entry(stream).and_modify(|seen| seen.offset = offset);
            }
            // A join while the broker is away; the room is not joined.
            "system:error" if payload["code"] == "UNAVAILABLE" => {}
            "system:error" => return Err(format!("an error: {payload}")),
            "ticket:availability" => self.published(&message)?,
            _ => {}
        }
        Ok(())
    }

    fn published(&mut self, message: &Value) -> Result<(), String> {
        let stream = self.stream(&message["room"])?;
        let offset = offset(&message["id"]).ok_or("a durable message without an id")?;
        let seen = self
            .streams
            .get_mut(&stream)
            .ok_or_else(|| format!("a message of {stream}, of which it is no member"))?;
        if offset != seen.offset + 1 {
            return Err(format!("{stream}: {offset} came after {}", seen.offset));
        }
        seen.offset = offset;
        Ok(())
    }

    fn start(&mut self, stream: &str, id: &Value) -> Result<(), String> {
        // Without a broker the stream starts with the resync that was promised.
        let offset = if id.is_null() { 0 } else { offset(id).ok_or("an id that can't be read")? };
        self.streams.insert(stream.to_owned(), Seen { offset });
        Ok(())
    }

    fn stream(&self, room: &Value) -> Result<String, String> {
        match room.as_str() {
            Some(room) => Ok(room.to_owned()),
            None => Ok(self.own.clone().ok_or("a user's message for an anonymous client")?),
        }
    }

    /// Compares with the heads of the streams, at the end.
    pub fn judge(&self, heads: &BTreeMap<String, u64>) -> Result<(), String> {
        let late: BTreeMap<_, _> = self
            .streams
            .iter()
            .filter(|(stream, seen)| heads.get(*stream).copied().unwrap_or(0) != seen.offset)
            .collect();
        if late.is_empty() { Ok(()) } else { Err(format!("it is behind: {late:?}, {heads:?}")) }
    }
}

/// The offset in an `id`. Clients of the service treat ids as opaque; the judge does not.
fn offset(id: &Value) -> Option<u64> {
    id.as_str()?.split('-').nth(1)?.parse().ok()
}
