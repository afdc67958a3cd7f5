//! Whether a policy speaks for the service it is about.

use serde_json::Value;
use zonal_model::{Resource, labels};

/// Whether other zones should see a zone's policy: it says it is a producer's, and what it says is so.
///
/// Without a namespace every policy is the system's, so policies of zones without namespaces stay at home.
pub(crate) fn is_producer(policy: &Resource) -> bool {
    policy.label(labels::POLICY_ROLE) == Some("producer")
        && policy
            .label(labels::NAMESPACE)
            .is_some_and(|namespace| targets_own_services(&policy.spec.to_value(), namespace))
}

/// Every item of `to` selects one resource by its display name, in the policy's own namespace.
fn targets_own_services(spec: &Value, namespace: &str) -> bool {
    let Some(items) = spec
        .get("to")
        .and_then(Value::as_array)
        .filter(|items| !items.is_empty())
    else {
        return false;
    };
    items
        .iter()
        .all(|item| is_own_service(item.get("targetRef"), namespace))
}

fn is_own_service(target: Option<&Value>, namespace: &str) -> bool {
    let text = |name: &str| target.and_then(|t| t.get(name)).and_then(Value::as_str);
    if !matches!(text("kind"), Some("MeshService" | "MeshHTTPRoute")) {
        return false;
    }
    let in_namespace = |value: Option<&str>| value.is_none_or(|v| v.is_empty() || v == namespace);
    match target
        .and_then(|t| t.get("labels"))
        .and_then(Value::as_object)
    {
        Some(selector) if !selector.is_empty() => {
            selector
                .get(labels::DISPLAY_NAME)
                .is_some_and(Value::is_string)
                && selector.iter().all(|(key, value)| match key.as_str() {
                    labels::DISPLAY_NAME => true,
                    labels::NAMESPACE => value.as_str() == Some(namespace),
                    _ => false,
                })
        }
        _ => text("name").is_some_and(|name| !name.is_empty()) && in_namespace(text("namespace")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use zonal_model::{Json, Key, Kind};

    #[track_caller]
    fn check(target: &Value, want: bool) {
        let spec = json!({"to": [{"targetRef": target}]});
        let mut policy = Resource::new(
            Key::new(Kind::MeshTimeout, "default", "t"),
            Json::from_value(&spec),
        );
        policy
            .meta
            .labels
            .insert(labels::POLICY_ROLE.to_owned(), "producer".to_owned());
        assert!(!is_producer(&policy), "no namespace, no producer");
        policy
            .meta
            .labels
            .insert(labels::NAMESPACE.to_owned(), "shop".to_owned());
        assert_eq!(is_producer(&policy), want, "{target}");
    }

    #[test]
    fn a_producer_speaks_for_its_own_services_alone() {
        let by = |labels: Value| json!({"kind": "MeshService", "labels": labels});
        check(&by(json!({"kuma.io/display-name": "web"})), true);
        let own = json!({"kuma.io/display-name": "web", "k8s.kuma.io/namespace": "shop"});
        check(&by(own), true);
        let other = json!({"kuma.io/display-name": "web", "k8s.kuma.io/namespace": "bank"});
        check(&by(other), false);
        check(&by(json!({"app": "web"})), false);
        check(&json!({"kind": "MeshService", "name": "web"}), true);
        check(
            &json!({"kind": "MeshService", "name": "web", "namespace": "bank"}),
            false,
        );
        check(&json!({"kind": "Mesh"}), false);
    }
}
