//! Reads single values of the environment.

use std::{fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::parse::VARIABLES;

/// A variable that the service does not start with: one line that names the variable, its value and
/// what is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable.
    pub variable: &'static str,
    /// Its value; none when it is not set. Secrets are left out.
    pub value: Option<String>,
    /// What is accepted, or why the value is not.
    pub accepted: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            // `Debug` keeps it on one line.
            Some(value) => write!(f, "{}={value:?}: {}", self.variable, self.accepted),
            None => write!(f, "{} is not set: {}", self.variable, self.accepted),
        }
    }
}

/// Reads variables by name. One that is set to nothing counts as not set.
pub(super) struct Reader<'a> {
    pub(super) lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Reader<'_> {
    /// What the environment says.
    pub(super) fn given(&self, name: &'static str) -> Option<String> {
        debug_assert!(VARIABLES.iter().any(|(known, _)| *known == name), "{name} is in the list");
        (self.lookup)(name).filter(|value| !value.trim().is_empty())
    }

    /// What the environment says, or the default; none when that is empty.
    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        let default = || VARIABLES.iter().find(|(known, _)| *known == name)?.1.to_owned().into();
        let value = self.given(name).map(|value| value.trim().to_owned()).or_else(default);
        value.filter(|value| !value.is_empty())
    }

    /// A file, if one is named.
    pub(super) fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// Parts between commas, without white space around them and without empty ones.
    pub(super) fn list(&self, name: &'static str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// A whole number.
    pub(super) fn number<T>(
        &self,
        name: &'static str,
        range: RangeInclusive<T>,
    ) -> Result<T, ConfigError>
    where
        T: std::str::FromStr + PartialOrd + fmt::Display + Copy,
    {
        let parse = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<T>().ok())?
        };
        self.parsed(name, &range, parse, || {
            format!("a whole number from {} to {}", range.start(), range.end())
        })
    }

    /// A number of bytes: plain, or with `KiB` or `MiB`.
    pub(super) fn bytes(
        &self,
        name: &'static str,
        range: RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        self.parsed(name, &range, parse_bytes, || {
            let (start, end) = (range.start(), range.end());
            format!("a number of bytes such as 65536, 64KiB or 1MiB, from {start} to {end}")
        })
    }

    /// A duration.
    pub(super) fn duration(
        &self,
        name: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        self.parsed(name, &range, parse_duration, || {
            let (start, end) = (range.start(), range.end());
            format!("a duration such as 500ms, 30s, 2m or 1h, from {start:?} to {end:?}")
        })
    }

    /// Yes or no.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool, ConfigError> {
        let parse = |text: &str| match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        };
        self.parsed(name, &(false..=true), parse, || "true, false, 1 or 0".to_owned())
    }

    /// An error about the present value of a variable.
    pub(super) fn error(&self, name: &'static str, accepted: impl Into<String>) -> ConfigError {
        let hidden = SECRETS.contains(&name);
        let value = self.text(name).map(|value| match hidden {
            true => "(hidden)".to_owned(),
            false => shortened(&value),
        });
        ConfigError { variable: name, value, accepted: accepted.into() }
    }

    fn parsed<T: PartialOrd>(
        &self,
        name: &'static str,
        range: &RangeInclusive<T>,
        parse: impl Fn(&str) -> Option<T>,
        accepted: impl Fn() -> String,
    ) -> Result<T, ConfigError> {
        let value = self.text(name).and_then(|text| parse(&text));
        value
            .filter(|value| range.contains(value))
            .ok_or_else(|| self.error(name, format!("accepted is {}", accepted())))
    }
}

/// A duration: whole numbers with the units `ms`, `s`, `m` or `h`, one or several after another
/// (`1m30s`), or `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            _ => return None,
        };
        total = total.checked_add(one.checked_mul(number)?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

fn parse_bytes(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim_start() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A value as an error shows it.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// Variables whose values are never shown.
const SECRETS: [&str; 2] = ["JWT_SECRET", "REDIS_PASSWORD"];

/// Longest part of a value that an error shows.
const SHOWN_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let ms = |text| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("2m"), Some(120_000));
        assert_eq!(ms("1h"), Some(3_600_000));
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("0"), Some(0));
        assert_eq!(ms("0s"), Some(0));
        for bad in ["", "30", "s", "-1s", "1.5s", "1 s", "1d", "30s1", "5000000000s", "1µs", "1S"]
        {
            assert_eq!(ms(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_plain_or_binary() {
        assert_eq!(parse_bytes("65536"), Some(65_536));
        assert_eq!(parse_bytes("64KiB"), Some(65_536));
        assert_eq!(parse_bytes("2 MiB"), Some(2 << 20));
        for bad in ["", "KiB", "64kb", "1GiB", "-1", "1.5MiB", "99999999999999999999MiB"] {
            assert_eq!(parse_bytes(bad), None, "{bad:?}");
        }
        assert_eq!(parse_bytes("18446744073709551615KiB"), None);
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(shortened("é"), "é");
        assert_eq!(shortened(&"é".repeat(81)), format!("{}…", "é".repeat(80)));
    }
}
