//! Bodies and files to resources, with every violation at once.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::json::Json;
use crate::kind::{Form, Kind, Scope, UnknownKind};
use crate::resource::{Key, Labels, Resource};
use crate::violations::Violations;
use crate::{legacy, schema, validate};

/// Why a body is not a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The body does not have the shape of its kind; one sentence says where.
    #[error("{0}")]
    Shape(String),
    /// The body has the shape of its kind and breaks rules.
    #[error("{0}")]
    Invalid(Violations),
    /// The body is of no kind that exists.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
}

/// A body that was read, with what it says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The resource. Its kind is the one that was asked for.
    pub resource: Resource,
    /// What the body says its type is; may differ from the kind that was asked for.
    pub type_name: String,
    /// What the body says its mesh is.
    pub mesh: String,
    /// What the body says its name is.
    pub name: String,
}

/// Reads a body that should be of this kind: shape, schema, then the rules of the kind. Status, times and computed
/// members in it are ignored.
///
/// # Errors
/// See [`ParseError`].
///
/// ```
/// use zonal_model::{Kind, parse};
/// let body = serde_json::json!({"type": "MeshZoneAddress", "name": "east",
///     "spec": {"address": "10.0.0.1", "port": 10001}});
/// let document = parse::body(Kind::MeshZoneAddress, &body).unwrap();
/// assert_eq!(document.resource.key.to_string(), "MeshZoneAddress default/east");
/// ```
pub fn body(kind: Kind, value: &Value) -> Result<Document, ParseError> {
    let document = shape(kind, value)?;
    validate(&document.resource)
        .into_result()
        .map_err(ParseError::Invalid)?;
    Ok(document)
}

/// Reads a document of a file; its kind is what its `type` says. Otherwise as [`body`].
///
/// # Errors
/// See [`ParseError`].
pub fn document(value: &Value) -> Result<Document, ParseError> {
    body(kind_of(value)?, value)
}

/// Reads a resource as a store holds it: status and times are kept, rules of the kind are not checked.
///
/// # Errors
/// See [`ParseError`].
pub fn stored(value: &Value) -> Result<Resource, ParseError> {
    let kind = kind_of(value)?;
    let mut resource = shape(kind, value)?.resource;
    if kind.descriptor().has_status
        && let Some(status @ Value::Object(_)) = value.get("status")
    {
        resource.status = Some(Json::from_value(status));
    }
    let time = |member: &str| {
        let text = value
            .get(member)
            .and_then(Value::as_str)
            .unwrap_or_default();
        let time: Option<Timestamp> = text.parse().ok();
        time.filter(|_| !text.starts_with("0001-"))
            .unwrap_or(Timestamp::UNIX_EPOCH)
    };
    resource.meta.creation_time = time("creationTime");
    resource.meta.modification_time = time("modificationTime");
    Ok(resource)
}

/// The kind a document says it is of.
///
/// # Errors
/// It says none, or one that does not exist.
pub fn kind_of(value: &Value) -> Result<Kind, ParseError> {
    match value.get("type") {
        Some(Value::String(name)) => Ok(name.parse::<Kind>()?),
        Some(_) => Err(ParseError::Shape("`type` is not a text".to_owned())),
        None if value.is_object() => Err(ParseError::Shape("`type` is missing".to_owned())),
        None => Err(ParseError::Shape(
            "the document is not an object".to_owned(),
        )),
    }
}

fn shape(kind: Kind, value: &Value) -> Result<Document, ParseError> {
    let Value::Object(members) = value else {
        let what = type_word(value);
        let structure = match kind.descriptor().form {
            Form::Legacy => "unversioned.Resource",
            Form::Plugin => "map[string]interface {}",
        };
        let message = format!("json: cannot unmarshal {what} into Go value of type {structure}");
        return Err(ParseError::Shape(shape_message(kind, &message)));
    };
    let (spec, default_mesh) = match kind.descriptor().form {
        Form::Plugin => {
            let mut violations = schema::envelope(kind, members);
            let mut spec = Value::Object(Map::new());
            if let Some(given) = members.get("spec") {
                match schema::apply(kind, given) {
                    Ok(value) => spec = value,
                    Err(found) => violations.extend(found),
                }
            }
            let sentence = |v: &crate::Violation| format!("{} {}", v.field, v.message);
            violations
                .0
                .sort_by_cached_key(|v| sentence(v).trim_start().to_owned());
            violations.into_result().map_err(ParseError::Invalid)?;
            (spec, "default")
        }
        Form::Legacy => {
            check_meta(kind, members)?;
            let spec = legacy::normalise(kind, value)
                .map_err(|message| ParseError::Shape(shape_message(kind, &message)))?;
            (spec, "")
        }
    };
    let text = |member: &str| {
        members
            .get(member)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let name = text("name").unwrap_or_default();
    let mesh = match kind.descriptor().scope {
        Scope::Mesh => text("mesh").unwrap_or_else(|| default_mesh.to_owned()),
        Scope::Global => text("mesh").unwrap_or_default(),
    };
    let mut resource = Resource::new(Key::new(kind, &mesh, &name), Json::from_value(&spec));
    resource.meta.labels = labels_of(members);
    Ok(Document {
        resource,
        type_name: text("type").unwrap_or_default(),
        mesh,
        name,
    })
}

fn labels_of(members: &Map<String, Value>) -> Labels {
    let Some(Value::Object(labels)) = members.get("labels") else {
        return Labels::new();
    };
    labels
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// The meta members of a legacy body.
fn check_meta(kind: Kind, members: &Map<String, Value>) -> Result<(), ParseError> {
    let wrong = |member: &str, value: &Value, want: &str| {
        let what = type_word(value);
        let message = format!(
            "json: cannot unmarshal {what} into Go struct field ResourceMeta.{member} of type {want}"
        );
        ParseError::Shape(shape_message(kind, &message))
    };
    for member in ["type", "mesh", "name"] {
        match members.get(member) {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => return Err(wrong(member, other, "string")),
        }
    }
    match members.get("labels") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(labels)) => {
            match labels
                .values()
                .find(|value| !value.is_string() && !value.is_null())
            {
                Some(value) => Err(wrong("labels", value, "string")),
                None => Ok(()),
            }
        }
        Some(other) => Err(wrong("labels", other, "map[string]string")),
    }
}

/// The sentence about a body that does not have the shape of its kind.
#[must_use]
pub fn shape_message(kind: Kind, message: &str) -> String {
    format!("invalid {kind} object: {message:?}")
}

fn type_word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(kind: Kind, value: &Value, want: Result<&str, &str>) {
        let got = body(kind, value)
            .map(|document| format!("{} {}", document.resource.key, document.resource.spec))
            .map_err(|error| error.to_string());
        assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn bodies_become_resources() {
        check(
            Kind::Zone,
            &json!({"type": "Zone", "name": "east", "enabled": true, "labels": {"a": "b"}}),
            Ok(r#"Zone east {"enabled":true}"#),
        );
        check(
            Kind::MeshService,
            &json!({"type": "MeshService", "name": "web", "status": {"vips": []}, "kri": "x",
                "spec": {"ports": [{"port": 80}]}}),
            Ok(
                r#"MeshService default/web {"ports":[{"appProtocol":"tcp","port":80}],"selector":{},"state":"Unavailable"}"#,
            ),
        );
    }

    #[test]
    fn shapes_are_checked_before_rules() {
        check(
            Kind::Dataplane,
            &json!({"type": "Dataplane", "mesh": "default", "name": 4}),
            Err(
                "invalid Dataplane object: \"json: cannot unmarshal number into Go struct field ResourceMeta.name of type string\"",
            ),
        );
        check(
            Kind::MeshTimeout,
            &json!({"type": "MeshRetry", "spec": {"to": {}}}),
            Err(
                "name in body is required; spec.to: in body must be of type array: \"object\"; type in body should be one of [MeshTimeout]",
            ),
        );
        check(
            Kind::MeshTimeout,
            &json!([]),
            Err(
                "invalid MeshTimeout object: \"json: cannot unmarshal array into Go value of type map[string]interface {}\"",
            ),
        );
    }

    #[test]
    fn a_stored_resource_keeps_status_and_times() {
        let resource = stored(&json!({
            "type": "MeshService", "mesh": "m", "name": "web", "creationTime": "2026-01-01T00:00:00Z",
            "modificationTime": "0001-01-01T00:00:00Z", "spec": {}, "status": {"vips": [{"ip": "241.0.0.0"}]},
        }))
        .unwrap();
        assert_eq!(
            resource.status.unwrap().as_str(),
            r#"{"vips":[{"ip":"241.0.0.0"}]}"#
        );
        assert_eq!(
            resource.meta.creation_time.to_string(),
            "2026-01-01T00:00:00Z"
        );
        assert_eq!(resource.meta.modification_time, Timestamp::UNIX_EPOCH);
    }
}
