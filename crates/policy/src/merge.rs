//! Merging confs: the later one overrides, member by member.
//!
//! Knows no kind except: lists named `append…` are joined instead of replaced, and the rules of MeshHTTPRoute are
//! merged by what they match.

use serde_json::{Map, Value};
use zonal_model::Kind;

use crate::policy::empty;

/// Merges confs of one kind, lowest precedence first.
pub(crate) fn merge<'a>(kind: Kind, confs: impl IntoIterator<Item = &'a Value>) -> Value {
    if kind == Kind::MeshHTTPRoute {
        return merge_http_rules(confs);
    }
    let mut merged = empty();
    for conf in confs {
        patch(&mut merged, conf);
    }
    merged
}

/// JSON merge patch (RFC 7396), except that `append…` lists grow.
fn patch(target: &mut Value, with: &Value) {
    let Value::Object(with) = with else {
        *target = with.clone();
        return;
    };
    if !target.is_object() {
        *target = empty();
    }
    let Value::Object(members) = target else {
        return;
    };
    for (name, value) in with {
        match value {
            Value::Null => {
                members.remove(name);
            }
            Value::Array(more) if name.starts_with("append") => match members.get_mut(name) {
                Some(Value::Array(list)) => list.extend(more.iter().cloned()),
                _ => {
                    members.insert(name.clone(), value.clone());
                }
            },
            _ => patch(members.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

/// Rules with equal `matches` become one, standing where the highest policy has it; the highest policy's rules come
/// first, each policy's in their written order.
fn merge_http_rules<'a>(confs: impl IntoIterator<Item = &'a Value>) -> Value {
    let mut kept: Vec<(&Value, Vec<&Value>)> = Vec::new();
    for rule in confs.into_iter().flat_map(rules_of) {
        let matches = rule.get("matches").unwrap_or(&Value::Null);
        let mut defaults = match kept.iter().position(|(other, _)| *other == matches) {
            Some(earlier) => kept.remove(earlier).1,
            None => Vec::new(),
        };
        defaults.extend(rule.get("default"));
        kept.push((matches, defaults));
    }
    let rules: Vec<Value> = kept
        .into_iter()
        .rev()
        .map(|(matches, defaults)| {
            let mut default = empty();
            for conf in defaults {
                patch(&mut default, conf);
            }
            let mut rule = Map::new();
            rule.insert("matches".to_owned(), matches.clone());
            rule.insert("default".to_owned(), default);
            Value::Object(rule)
        })
        .collect();
    let mut conf = Map::new();
    conf.insert("rules".to_owned(), Value::Array(rules));
    Value::Object(conf)
}

/// The rules of a MeshHTTPRoute conf.
pub(crate) fn rules_of(conf: &Value) -> impl Iterator<Item = &Value> {
    conf.get("rules")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kind: Kind, confs: &[Value], want: &Value) {
        assert_eq!(&merge(kind, confs), want);
    }

    #[test]
    fn later_members_override_and_lists_are_replaced() {
        check(
            Kind::MeshRetry,
            &[
                json!({"http": {"numRetries": 1, "retryOn": ["5xx"]}, "tcp": {"maxConnectAttempt": 2}}),
                json!({"http": {"numRetries": 3, "retryOn": ["Reset"]}}),
            ],
            &json!({"http": {"numRetries": 3, "retryOn": ["Reset"]}, "tcp": {"maxConnectAttempt": 2}}),
        );
    }

    #[test]
    fn a_disabled_detection_keeps_what_the_lower_policy_says() {
        check(
            Kind::MeshCircuitBreaker,
            &[
                json!({"outlierDetection": {"interval": "5s"}}),
                json!({"outlierDetection": {"disabled": true}}),
            ],
            &json!({"outlierDetection": {"interval": "5s", "disabled": true}}),
        );
    }

    #[test]
    fn append_lists_grow_wherever_they_stand() {
        check(
            Kind::MeshMetric,
            &[
                json!({"sidecar": {"profiles": {"appendProfiles": [{"name": "None"}]}}}),
                json!({"sidecar": {"profiles": {"appendProfiles": [{"name": "All"}]}}}),
            ],
            &json!({"sidecar": {"profiles": {"appendProfiles": [{"name": "None"}, {"name": "All"}]}}}),
        );
    }

    #[test]
    fn http_rules_with_equal_matches_stand_where_the_highest_policy_has_them() {
        let rule = |path: &str, default: Value| json!({"matches": [{"path": {"value": path}}], "default": default});
        // As entries hold them: each policy's rules reversed.
        let low = json!({"rules": [rule("/b", json!({"filters": [1]})), rule("/a", json!({"backendRefs": [1]}))]});
        let high = json!({"rules": [rule("/c", json!({})), rule("/a", json!({"filters": [2]}))]});
        check(
            Kind::MeshHTTPRoute,
            &[low, high],
            &json!({"rules": [
                rule("/a", json!({"backendRefs": [1], "filters": [2]})),
                rule("/c", json!({})),
                rule("/b", json!({"filters": [1]})),
            ]}),
        );
    }
}
