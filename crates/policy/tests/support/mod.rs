//! Resources for tests, read from JSON as the REST API writes it.

use serde_json::{Value, json};
use zonal_model::{Form, Json, Key, Kind, Resource};

pub(crate) fn load(value: &Value) -> Resource {
    let text = |member: &str| value[member].as_str().unwrap_or_default();
    let kind: Kind = text("type").parse().unwrap();
    let spec = match kind.descriptor().form {
        Form::Plugin => value.get("spec").cloned().unwrap_or_else(|| json!({})),
        Form::Legacy => {
            let mut members = value.as_object().unwrap().clone();
            members.retain(|name, _| !matches!(name.as_str(), "type" | "mesh" | "name" | "labels"));
            Value::Object(members)
        }
    };
    let mut resource = Resource::new(
        Key::new(kind, text("mesh"), text("name")),
        Json::from_value(&spec),
    );
    for (key, value) in value["labels"].as_object().into_iter().flatten() {
        resource
            .meta
            .labels
            .insert(key.clone(), value.as_str().unwrap().to_owned());
    }
    resource
}
