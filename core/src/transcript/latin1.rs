//! Bytes as a text in which each character stands for one byte: what is ASCII can be read, and the
//! header of a frame is no obstacle.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(crate) fn serialize<S: Serializer>(
    bytes: &impl AsRef<[u8]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text: String = bytes.as_ref().iter().map(|byte| char::from(*byte)).collect();
    serializer.serialize_str(&text)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: From<Vec<u8>>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
    bytes.map(T::from).map_err(|_| D::Error::custom("a character that stands for no byte"))
}
