//! Durations as people write them in plugin specs: `1h30m`, `250ms`, `0s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A signed number of nanoseconds, parsed from and printed as Go writes durations.
///
/// ```
/// let hour: zonal_model::GoDuration = "60m".parse().unwrap();
/// assert_eq!(hour.to_string(), "1h0m0s");
/// assert_eq!(hour.to_std(), std::time::Duration::from_secs(3600));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

/// A text that is no duration; the sentences are those clients know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a sequence of numbers and units, or too long.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit that is none of ns, us, µs, ms, s, m, h.
    #[error("time: unknown unit {0:?} in duration {1:?}")]
    UnknownUnit(String, String),
}

const SECOND: i64 = 1_000_000_000;

impl GoDuration {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// So many nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// So many seconds; the longest representable duration where that is too many.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(SECOND))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// The number of nanoseconds.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whether it is 0.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// As the standard library's type; a negative one becomes 0.
    #[must_use]
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// As protobuf's JSON writes it: `5s`, `0.100s`, with 0, 3, 6 or 9 decimals.
    #[must_use]
    pub fn to_proto_text(self) -> String {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (seconds, nanos) = (
            self.0.unsigned_abs() / 1_000_000_000,
            self.0.unsigned_abs() % 1_000_000_000,
        );
        if nanos == 0 {
            format!("{sign}{seconds}s")
        } else if nanos % 1_000_000 == 0 {
            format!("{sign}{seconds}.{:03}s", nanos / 1_000_000)
        } else if nanos % 1_000 == 0 {
            format!("{sign}{seconds}.{:06}s", nanos / 1_000)
        } else {
            format!("{sign}{seconds}.{nanos:09}s")
        }
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or_default()),
            Some(b'+') => (false, text.get(1..).unwrap_or_default()),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let (number, after) = rest.split_at(end);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(invalid());
            }
            let unit_end = after
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_end);
            let scale: i128 = match unit {
                "" => return Err(DurationError::MissingUnit(text.to_owned())),
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                other => {
                    return Err(DurationError::UnknownUnit(
                        other.to_owned(),
                        text.to_owned(),
                    ));
                }
            };
            if !whole.is_empty() {
                let whole: i128 = whole
                    .parse::<i64>()
                    .map(i128::from)
                    .map_err(|_overflow| invalid())?;
                total += whole * scale;
            }
            let mut place = scale;
            for digit in fraction.bytes().take(18) {
                // Digits below a nanosecond fall away.
                total += i128::from(digit - b'0') * place / 10;
                place /= 10;
            }
            if total > i128::from(i64::MAX) {
                return Err(invalid());
            }
            rest = next;
        }
        let total = i64::try_from(total).map_err(|_overflow| invalid())?;
        Ok(Self(if negative { -total } else { total }))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if nanos == 0 {
            return f.write_str("0s");
        }
        let below_second = match nanos {
            1..1_000 => Some((1, 0, "ns")),
            1_000..1_000_000 => Some((1_000, 3, "µs")),
            1_000_000..1_000_000_000 => Some((1_000_000, 6, "ms")),
            _ => None,
        };
        if let Some((unit, places, name)) = below_second {
            write!(f, "{}", nanos / unit)?;
            write_fraction(f, nanos % unit, places)?;
            return f.write_str(name);
        }
        let seconds = nanos / 1_000_000_000;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{seconds}")?;
        write_fraction(f, nanos % 1_000_000_000, 9)?;
        f.write_str("s")
    }
}

fn write_fraction(f: &mut fmt::Formatter<'_>, value: u64, places: usize) -> fmt::Result {
    if value == 0 {
        return Ok(());
    }
    let digits = format!("{value:0places$}");
    write!(f, ".{}", digits.trim_end_matches('0'))
}

impl serde::Serialize for GoDuration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for GoDuration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_in_canonical_form() {
        #[track_caller]
        fn check(input: &str, want: Result<&str, &str>) {
            let got = input
                .parse::<GoDuration>()
                .map(|d| d.to_string())
                .map_err(|e| e.to_string());
            assert_eq!(
                got,
                want.map(str::to_owned).map_err(str::to_owned),
                "input {input:?}"
            );
        }
        check("0", Ok("0s"));
        check("0s", Ok("0s"));
        check("60s", Ok("1m0s"));
        check("1h", Ok("1h0m0s"));
        check("1.5h", Ok("1h30m0s"));
        check("250ms", Ok("250ms"));
        check("1500ms", Ok("1.5s"));
        check("0.0005s", Ok("500µs"));
        check("-5s", Ok("-5s"));
        check("1h30m5s", Ok("1h30m5s"));
        check("5x", Err("time: unknown unit \"x\" in duration \"5x\""));
        check("5", Err("time: missing unit in duration \"5\""));
        check("", Err("time: invalid duration \"\""));
        check("s", Err("time: invalid duration \"s\""));
        check(
            "99999999999h",
            Err("time: invalid duration \"99999999999h\""),
        );
    }

    #[test]
    fn protobuf_text_has_three_decimals_at_a_time() {
        assert_eq!(GoDuration::from_secs(5).to_proto_text(), "5s");
        assert_eq!(GoDuration::from_millis(100).to_proto_text(), "0.100s");
        assert_eq!(GoDuration::from_nanos(1).to_proto_text(), "0.000000001s");
    }
}
