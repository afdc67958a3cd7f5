//! The JSON form of legacy kinds: protobuf messages in the old JSON mapping, flattened beside the meta members.
//!
//! Reading accepts what that mapping accepts (both spellings of a member, quoted numbers, names or numbers of enum
//! values), writing gives one form: unknown members and zero values fall away, 64-bit numbers are texts, durations
//! have 0, 3, 6 or 9 decimals.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::duration::GoDuration;
use crate::kind::Kind;
use crate::legacy_shapes as shapes;

/// What one field of a message may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Bool,
    Text,
    U32,
    U64,
    /// A wrapped value: absent and zero differ.
    WrappedBool,
    /// Wrapped bytes, base64.
    WrappedBytes,
    /// A wrapped 32-bit number.
    WrappedU32,
    Enum(&'static [(&'static str, i64)]),
    Duration,
    Timestamp,
    /// Any JSON object.
    Struct,
    List(&'static Shape),
    Map(&'static Shape),
    Message(&'static [Field]),
}

/// A field's lowerCamelCase name and shape.
pub(crate) type Field = (&'static str, Shape);

/// Brings the body of a legacy kind into the one form in which it is kept. Members that are no fields fall away, meta
/// members among them. Plugin kinds give an empty object.
///
/// # Errors
/// A sentence about the first member that cannot be read.
///
/// ```
/// use zonal_model::{Kind, legacy};
/// let body = serde_json::json!({"type": "Zone", "name": "east", "enabled": false, "ingress": {}});
/// assert_eq!(legacy::normalise(Kind::Zone, &body).unwrap(), serde_json::json!({"enabled": false}));
/// ```
pub fn normalise(kind: Kind, body: &Value) -> Result<Value, String> {
    let Value::Object(members) = body else {
        return Err(format!("the {kind} is not an object"));
    };
    message(shapes::of(kind), members, "").map(Value::Object)
}

fn message(
    fields: &[Field],
    given: &Map<String, Value>,
    path: &str,
) -> Result<Map<String, Value>, String> {
    let mut kept = Map::new();
    for (name, shape) in fields {
        let found = given.get(*name).or_else(|| given.get(&snake_case(name)));
        let Some(found) = found.filter(|value| !value.is_null()) else {
            continue;
        };
        let at = if path.is_empty() {
            (*name).to_owned()
        } else {
            format!("{path}.{name}")
        };
        if let Some(value) = read(shape, found, &at)? {
            kept.insert((*name).to_owned(), value);
        }
    }
    Ok(kept)
}

/// The value as it is kept, or `None` for a zero value.
fn read(shape: &Shape, value: &Value, path: &str) -> Result<Option<Value>, String> {
    let wrong = |want: &str| format!("{path}: {value} is not {want}");
    Ok(match (shape, value) {
        (Shape::Bool, Value::Bool(given)) => given.then_some(Value::Bool(true)),
        (Shape::WrappedBool, Value::Bool(_))
        | (Shape::WrappedBytes, Value::String(_))
        | (Shape::Struct, Value::Object(_)) => Some(value.clone()),
        (Shape::Text, Value::String(given)) => (!given.is_empty()).then(|| value.clone()),
        (Shape::U32 | Shape::WrappedU32, _) => {
            let number = number(value)
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| wrong("a 32-bit number"))?;
            (number != 0 || matches!(shape, Shape::WrappedU32)).then(|| Value::from(number))
        }
        (Shape::U64, _) => {
            let number = number(value).ok_or_else(|| wrong("a 64-bit number"))?;
            (number != 0).then(|| Value::from(number.to_string()))
        }
        (Shape::Enum(names), _) => {
            let entry = match value {
                Value::String(name) => names.iter().find(|(known, _)| known == name),
                _ => names
                    .iter()
                    .find(|(_, number)| value.as_i64() == Some(*number)),
            };
            let allowed = || {
                names
                    .iter()
                    .map(|(name, _)| *name)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let (name, number) = entry.ok_or_else(|| wrong(&format!("one of {}", allowed())))?;
            (*number != 0).then(|| Value::from(*name))
        }
        (Shape::Duration, Value::String(given)) => {
            let duration: GoDuration = given.parse().map_err(|error| format!("{path}: {error}"))?;
            Some(Value::from(duration.to_proto_text()))
        }
        (Shape::Timestamp, Value::String(given)) => Some(Value::from(timestamp_text(
            given.parse().map_err(|_error| wrong("an RFC 3339 time"))?,
        ))),
        (Shape::List(items), Value::Array(given)) => {
            let mut kept = Vec::with_capacity(given.len());
            for (index, item) in given.iter().enumerate() {
                let at = format!("{path}[{index}]");
                // Inside a list a zero value keeps its place.
                kept.push(read(items, item, &at)?.unwrap_or_else(|| item.clone()));
            }
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        (Shape::Map(items), Value::Object(given)) => {
            let mut kept = Map::new();
            for (key, item) in given {
                let value = read(items, item, &format!("{path}[{key:?}]"))?;
                kept.insert(key.clone(), value.unwrap_or_else(|| item.clone()));
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        (Shape::Message(fields), Value::Object(given)) => {
            Some(Value::Object(message(fields, given, path)?))
        }
        (Shape::Bool | Shape::WrappedBool, _) => return Err(wrong("true or false")),
        (Shape::Text | Shape::WrappedBytes | Shape::Duration | Shape::Timestamp, _) => {
            return Err(wrong("a text"));
        }
        (Shape::List(_), _) => return Err(wrong("a list")),
        (Shape::Struct | Shape::Map(_) | Shape::Message(_), _) => return Err(wrong("an object")),
    })
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        _ => value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f))
                .map(|f| {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "checked to be whole, positive and small"
                    )]
                    let whole = f as u64;
                    whole
                })
        }),
    }
}

/// RFC 3339 in UTC with 0, 3, 6 or 9 decimals, as protobuf's JSON writes times.
///
/// ```
/// let time = "2026-01-02T03:04:05.1Z".parse().unwrap();
/// assert_eq!(zonal_model::legacy::timestamp_text(time), "2026-01-02T03:04:05.100Z");
/// ```
#[must_use]
pub fn timestamp_text(time: Timestamp) -> String {
    let nanos = time.subsec_nanosecond();
    let decimals = if nanos == 0 {
        0
    } else if nanos % 1_000_000 == 0 {
        3
    } else if nanos % 1_000 == 0 {
        6
    } else {
        9
    };
    format!("{time:.decimals$}")
}

/// `transparentProxying` → `transparent_proxying`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
            snake.push(letter.to_ascii_lowercase());
        } else {
            snake.push(letter);
        }
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(kind: Kind, body: &Value, want: Result<Value, &str>) {
        assert_eq!(normalise(kind, body), want.map_err(str::to_owned));
    }

    #[test]
    fn unknown_members_and_zero_values_fall_away() {
        check(
            Kind::Dataplane,
            &json!({"type": "Dataplane", "networking": {
                "address": "10.0.0.1", "advertisedAddress": "1.1.1.1",
                "inbound": [{"port": "8080", "servicePort": 0, "tags": {"a": "b"}, "state": "Ready"}],
                "outbound": [],
                "transparent_proxying": {"redirect_port_inbound": 1, "ipFamilyMode": 2},
            }}),
            Ok(json!({"networking": {
                "address": "10.0.0.1",
                "inbound": [{"port": 8080}],
                "transparentProxying": {"redirectPortInbound": 1, "ipFamilyMode": "IPv4"},
            }})),
        );
        check(
            Kind::Mesh,
            &json!({"name": "default", "mtls": {}}),
            Ok(json!({})),
        );
    }

    #[test]
    fn numbers_durations_and_times_have_one_form() {
        check(
            Kind::DataplaneInsight,
            &json!({"subscriptions": [{
                "connectTime": "2026-01-02T03:04:05.123456Z",
                "status": {"total": {"responsesSent": 12, "responsesRejected": "0"}},
            }], "mTLS": {"certificateRegenerations": 3}}),
            Ok(json!({"subscriptions": [{
                "connectTime": "2026-01-02T03:04:05.123456Z",
                "status": {"total": {"responsesSent": "12"}},
            }], "mTLS": {"certificateRegenerations": 3}})),
        );
        check(
            Kind::Dataplane,
            &json!({"networking": {"inbound": [{"serviceProbe": {"interval": "100ms", "tcp": {}}}]}}),
            Ok(
                json!({"networking": {"inbound": [{"serviceProbe": {"interval": "0.100s", "tcp": {}}}]}}),
            ),
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        check(
            Kind::Dataplane,
            &json!({"networking": {"gateway": {"type": "BUILTIN"}}}),
            Err("networking.gateway.type: \"BUILTIN\" is not one of DELEGATED"),
        );
        check(
            Kind::Dataplane,
            &json!({"networking": {"inbound": {}}}),
            Err("networking.inbound: {} is not a list"),
        );
    }
}
