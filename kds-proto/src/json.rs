//! JSON as other writers of protobuf JSON produce it, brought into the form that our reader takes.

use serde_json::{Number, Value};

/// Removes what the typed reader refuses although it means nothing: members that are `null` go away, and numbers
/// like `80.0` become `80`. Lists keep their `null`s, which are errors.
///
/// A `google.protobuf.Struct` may hold a `null` that counts; a message that has one goes through
/// [`normalise_except`].
pub fn normalise(value: &mut Value) {
    normalise_except(value, &[]);
}

/// Like [`normalise`], and leaves the named members of the outermost object as they are.
pub fn normalise_except(value: &mut Value, keep: &[&str]) {
    match value {
        Value::Object(members) => {
            members.retain(|name, member| keep.contains(&name.as_str()) || !member.is_null());
            members
                .iter_mut()
                .filter(|(name, _)| !keep.contains(&name.as_str()))
                .for_each(|(_, member)| normalise_except(member, &[]));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| normalise_except(item, &[])),
        Value::Number(number) => {
            if let Some(integer) = number
                .as_f64()
                .filter(|_| number.is_f64())
                .and_then(integral)
            {
                *number = Number::from(integer);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The integer that a float is, where it is one and an `i64` holds it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "integral and within the range of i64"
)]
pub(crate) fn integral(float: f64) -> Option<i64> {
    // 2^63 is the first float too large; -2^63 still fits.
    const END: f64 = 9_223_372_036_854_775_808.0;
    (float.fract() == 0.0 && (-END..END).contains(&float)).then_some(float as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(mut input: Value, keep: &[&str], want: &Value) {
        normalise_except(&mut input, keep);
        assert_eq!(input.to_string(), want.to_string());
    }

    #[test]
    fn null_members_go_away() {
        check(
            json!({"a": null, "b": {"c": null, "d": 1}}),
            &[],
            &json!({"b": {"d": 1}}),
        );
        check(json!([{"a": null}, null]), &[], &json!([{}, null]));
    }

    #[test]
    fn integral_floats_become_integers() {
        check(
            json!({"port": 80.0, "weight": 0.5}),
            &[],
            &json!({"port": 80, "weight": 0.5}),
        );
        check(json!(-3.0), &[], &json!(-3));
        check(json!(1e300), &[], &json!(1e300));
    }

    #[test]
    fn kept_members_stay() {
        check(
            json!({"metadata": {"a": null}, "b": null}),
            &["metadata"],
            &json!({"metadata": {"a": null}}),
        );
    }
}
