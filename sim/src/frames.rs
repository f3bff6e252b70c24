//! What a client reads from its socket.

use serde::Deserialize;
use serde_json::value::RawValue;

/// A server message. None of the names used in plans needs an escape.
#[derive(Debug, Deserialize)]
pub struct Message<'a> {
    /// Its type.
    #[serde(borrow, rename = "type")]
    pub kind: &'a str,
    /// Its position.
    #[serde(borrow)]
    pub id: Option<&'a str>,
    /// Its room.
    #[serde(borrow)]
    pub room: Option<&'a str>,
    /// Whether it asks to be acknowledged.
    pub ack: Option<bool>,
    /// What it answers.
    #[serde(rename = "ref")]
    pub reference: Option<u32>,
    /// What it says.
    #[serde(borrow)]
    pub payload: &'a RawValue,
}

/// The fields that payloads of the service's own messages have.
#[derive(Debug, Default, Deserialize)]
pub struct Payload<'a> {
    /// A publication's number.
    pub n: Option<usize>,
    /// Of `system:connected`.
    #[serde(borrow)]
    pub user_id: Option<&'a str>,
    /// A position.
    #[serde(borrow)]
    pub id: Option<&'a str>,
    /// Of `system:connected`.
    #[serde(borrow)]
    pub all: Option<All<'a>>,
    /// A room.
    #[serde(borrow)]
    pub room: Option<&'a str>,
    /// Whether nothing was missed.
    pub recovered: Option<bool>,
    /// Of `system:error`.
    #[serde(borrow)]
    pub code: Option<&'a str>,
    /// How long to wait.
    pub after_ms: Option<u64>,
}

/// The stream `all` in `system:connected`.
#[derive(Debug, Default, Deserialize)]
pub struct All<'a> {
    /// A position.
    #[serde(borrow)]
    pub id: Option<&'a str>,
    /// Whether nothing was missed.
    pub recovered: Option<bool>,
}

/// Takes the frames of one write apart. Simulated writes hold whole frames.
pub fn texts(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (header, length) = match *bytes.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => {
                let length = bytes[2..10].try_into().expect("eight bytes");
                (10, usize::try_from(u64::from_be_bytes(length)).expect("it is in memory"))
            }
            short => (2, usize::from(short)),
        };
        let text = &bytes[header..header + length];
        bytes = &bytes[header + length..];
        Some(text)
    })
}

impl<'a> Message<'a> {
    /// Reads a message.
    pub fn read(text: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| {
            format!("a message that can't be read: {error}: {}", String::from_utf8_lossy(text))
        })
    }

    /// Reads its payload.
    pub fn payload(&self) -> Result<Payload<'a>, String> {
        serde_json::from_str(self.payload.get())
            .map_err(|error| format!("a payload that can't be read: {error}: {}", self.payload))
    }
}
