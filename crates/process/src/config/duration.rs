//! Durations as people write them: `30s`, `1m30s`, `250ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration in text form, e.g. `1h30m`, `500ms`, `0s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// Text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a duration, e.g. `30s` or `1m30s`")]
pub struct InvalidDuration {
    pub got: String,
}

/// Reads a non-negative duration: numbers with a unit (`h`, `m`, `s`, `ms`, `us`, `ns`), one after another.
///
/// # Errors
/// When the text is anything else.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration {
        got: text.to_owned(),
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let unit_at = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let number: f64 = number.parse().ok().ok_or_else(invalid)?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(invalid()),
        };
        let part = Duration::try_from_secs_f64(number * seconds)
            .ok()
            .ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = next;
    }
    Ok(total)
}

impl FromStr for HumanDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        parse_duration(text).map(Self)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        if nanos != 0 {
            if nanos % 1_000_000 == 0 {
                return write!(f, "{}ms", self.0.as_millis());
            }
            return write!(f, "{}ns", self.0.as_nanos());
        }
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, s) => write!(f, "{s}s"),
            (0, m, s) => write!(f, "{m}m{s}s"),
            (h, m, s) => write!(f, "{h}h{m}m{s}s"),
        }
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<u64>) {
        let got = parse_duration(text)
            .ok()
            .map(|duration| duration.as_millis());
        assert_eq!(got, want.map(u128::from), "input {text:?}");
    }

    #[test]
    fn durations_have_numbers_and_units() {
        check("30s", Some(30_000));
        check("1m30s", Some(90_000));
        check("1h0m0s", Some(3_600_000));
        check("250ms", Some(250));
        check("1.5s", Some(1_500));
        check("0", Some(0));
        check("", None);
        check("30", None);
        check("s", None);
        check("-1s", None);
        check("5x", None);
        check("99999999999999999999h", None);
    }

    #[test]
    fn durations_survive_their_text() {
        for text in ["30s", "1m30s", "250ms", "1h0m5s"] {
            assert_eq!(
                parse_duration(text)
                    .map(|d| HumanDuration(d).to_string())
                    .unwrap(),
                text
            );
        }
    }
}
