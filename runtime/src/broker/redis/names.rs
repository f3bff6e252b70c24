//! What channels and keys are called in Redis.
//!
//! Of the stream `<name>`, under the prefix: the channel `{<name>}` and the keys `{<name>}:meta`,
//! `{<name>}:log` (the history), `{<name>}:latest` and `{<name>}:idem:<key>`. The braces make the
//! whole name the hash tag, so that all of a stream is in one place; braces and `%` in the name
//! itself are percent-encoded.

use realtime_core::{
    id::BootId,
    relay::{Channel, Destination, Ingress},
    stream::StreamName,
};

/// The names under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
    control: String,
    receipts: String,
    probe: String,
    ingress: bool,
}

/// What a channel carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// What the relay wants to see.
    For(Channel),
    /// Our own probes.
    Probes,
}

impl Names {
    pub(super) fn new(prefix: &str, boot: BootId, ingress: bool) -> Self {
        Self {
            prefix: prefix.to_owned(),
            control: format!("{prefix}control"),
            receipts: receipts(prefix, boot),
            probe: format!("{prefix}probe:{:016x}", boot.0),
            ingress,
        }
    }

    /// The channel of a stream.
    pub(super) fn channel(&self, stream: &StreamName) -> String {
        let mut name = String::with_capacity(self.prefix.len() + stream.as_str().len() + 2);
        name.push_str(&self.prefix);
        name.push('{');
        for char in stream.as_str().chars() {
            match ESCAPES.iter().find(|(escaped, _)| *escaped == char) {
                Some((_, escape)) => name.push_str(escape),
                None => name.push(char),
            }
        }
        name.push('}');
        name
    }

    /// The key of a stream for `what`.
    pub(super) fn key(&self, stream: &StreamName, what: &str) -> String {
        let mut name = self.channel(stream);
        name.push(':');
        name.push_str(what);
        name
    }

    /// The channel of this instance's own probes.
    pub(super) fn probe(&self) -> &str {
        &self.probe
    }

    /// The channel on which `to` hears.
    pub(super) fn destination(&self, to: Destination) -> String {
        match to {
            Destination::Everyone => self.control.clone(),
            Destination::Instance(boot) => receipts(&self.prefix, boot),
        }
    }

    /// The channels that every instance reads.
    pub(super) fn fixed(&self) -> Vec<&str> {
        let ingress = if self.ingress { &Ingress::ALL[..] } else { &[] };
        let own = [self.control.as_str(), &self.receipts, &self.probe];
        ingress.iter().map(|ingress| ingress.channel()).chain(own).collect()
    }

    /// What the channel `name` carries; none when it is not one of ours.
    pub(super) fn carries(&self, name: &[u8]) -> Option<Carries> {
        let name = str::from_utf8(name).ok()?;
        if name == self.probe {
            return Some(Carries::Probes);
        }
        if name == self.control {
            return Some(Carries::For(Channel::Control));
        }
        if name == self.receipts {
            return Some(Carries::For(Channel::Receipts));
        }
        if let Some(ingress) = Ingress::ALL.into_iter().find(|ingress| ingress.channel() == name) {
            return Some(Carries::For(Channel::Ingress(ingress)));
        }
        let escaped = name.strip_prefix(&self.prefix)?.strip_prefix('{')?.strip_suffix('}')?;
        let stream = StreamName::room(&unescape(escaped)?).ok()?;
        Some(Carries::For(Channel::Stream(stream)))
    }
}

/// The channel of an instance's receipts.
fn receipts(prefix: &str, boot: BootId) -> String {
    format!("{prefix}receipts:{:016x}", boot.0)
}

/// None for anything that escaping does not write.
fn unescape(escaped: &str) -> Option<String> {
    let mut name = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find(['%', '{', '}']) {
        name.push_str(&rest[..at]);
        rest = &rest[at..];
        let (char, escape) = ESCAPES.iter().find(|(_, escape)| rest.starts_with(escape))?;
        name.push(*char);
        rest = &rest[escape.len()..];
    }
    name.push_str(rest);
    Some(name)
}

const ESCAPES: [(char, &str); 3] = [('%', "%25"), ('{', "%7B"), ('}', "%7D")];

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("realtime:", BootId(0xAB), true)
    }

    #[test]
    fn a_channel_names_its_stream_whatever_is_in_the_name() {
        for name in ["all", "event:1", "a{b}c%d", "}{", "%7B", "%", "vip:käse 🎫", "user:{x}"] {
            let stream = StreamName::room(name).unwrap();
            let channel = names().channel(&stream);
            let expected = Some(Carries::For(Channel::Stream(stream)));
            assert_eq!(names().carries(channel.as_bytes()), expected, "{channel}");
        }
    }

    #[test]
    fn the_hash_tag_of_every_key_is_the_whole_escaped_name() {
        let stream = StreamName::room("a{b}").unwrap();
        assert_eq!(names().channel(&stream), "realtime:{a%7Bb%7D}");
        assert_eq!(names().key(&stream, "idem:{x}"), "realtime:{a%7Bb%7D}:idem:{x}");
    }

    #[test]
    fn the_fixed_channels_are_known_and_foreign_ones_are_not() {
        let probes = Some(Carries::Probes);
        assert_eq!(names().carries(b"realtime:probe:00000000000000ab"), probes);
        let booking = Some(Carries::For(Channel::Ingress(Ingress::Booking)));
        assert_eq!(names().carries(b"booking:events"), booking);
        let control = Some(Carries::For(Channel::Control));
        assert_eq!(names().carries(b"realtime:control"), control);
        let own = Destination::Instance(BootId(0xAB));
        let receipts = names().destination(own);
        assert_eq!(receipts, "realtime:receipts:00000000000000ab");
        assert_eq!(names().carries(receipts.as_bytes()), Some(Carries::For(Channel::Receipts)));
        let foreign: [&[u8]; 8] = [
            b"realtime:receipts:00000000000000ac",
            b"realtime:probe:00000000000000ac",
            b"other:{all}",
            b"realtime:{}",
            b"realtime:{a%41}",
            b"realtime:{a{b}}",
            b"realtime:{all",
            b"realtime:{\xff}",
        ];
        for name in foreign {
            assert_eq!(names().carries(name), None, "{}", name.escape_ascii());
        }
        let own = ["p:control", "p:receipts:0000000000000001", "p:probe:0000000000000001"];
        assert_eq!(Names::new("p:", BootId(1), false).fixed(), own);
        assert_eq!(names().fixed().len(), 7);
    }
}
