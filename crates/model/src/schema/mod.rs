//! The schema step of plugin kinds: defaults, required members, types, enums, ranges; unknown members fall away.
//!
//! The tables in the neighbouring files describe every plugin kind. The sentences are those of the validator library
//! that clients already know.

mod core;
mod observability;
mod parts;
mod policies;
mod tables;

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::duration::GoDuration;
use crate::kind::{Form, Kind};
use crate::violations::Violations;

/// What one value may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Schema {
    /// Anything, kept as it is.
    Any,
    /// A number or a text, kept in the form it was given in.
    IntOrText,
    Bool {
        default: Option<bool>,
    },
    Text(Text),
    /// A text in duration syntax; printed again in canonical form.
    Duration,
    Int(Int),
    List {
        items: &'static Schema,
        min: usize,
        max: usize,
    },
    /// Texts by name, e.g. labels.
    TextMap,
    Object(&'static [Field]),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub(crate) one_of: &'static [&'static str],
    pub(crate) default: Option<&'static str>,
    pub(crate) len_min: usize,
    pub(crate) len_max: usize,
    pub(crate) pattern: Option<Pattern>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Int {
    pub(crate) one_of: &'static [i64],
    pub(crate) default: Option<i64>,
    pub(crate) min: i64,
    pub(crate) max: i64,
}

/// A pattern and a function that accepts the same texts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    pub(crate) regex: &'static str,
    pub(crate) accepts: fn(&str) -> bool,
}

/// One member of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    /// Printed as `{}` where it is absent.
    pub(crate) always: bool,
    pub(crate) schema: Schema,
}

/// The schema of a plugin kind's spec; `None` for legacy kinds.
pub(crate) const fn of(kind: Kind) -> Option<&'static Schema> {
    tables::of(kind)
}

/// Applies the schema of a plugin kind to a spec: fills defaults in, drops unknown members, prints durations in
/// canonical form. Paths begin with `spec`. Legacy kinds pass as they are.
///
/// # Errors
/// Every place at which the value is not what the schema wants, sorted by text.
pub fn apply(kind: Kind, spec: &Value) -> Result<Value, Violations> {
    let Some(schema) = of(kind) else {
        return Ok(spec.clone());
    };
    let mut walk = Walk {
        problems: Vec::new(),
        defaults: true,
        strict: true,
    };
    let value = walk.value(schema, spec, "spec");
    let violations = walk.into_violations();
    violations.into_result().map(|()| value)
}

/// Drops the members that the schema of a plugin kind does not know and prints durations in canonical form, without
/// defaults and without judging: what a peer's spec looks like to us. What has an unexpected type stays as it is.
#[must_use]
pub fn tidy(kind: Kind, spec: &Value) -> Value {
    match of(kind) {
        Some(schema) => {
            let mut walk = Walk {
                problems: Vec::new(),
                defaults: false,
                strict: false,
            };
            walk.value(schema, spec, "spec")
        }
        None => spec.clone(),
    }
}

/// Problems of a resource's own members: `type`, `name`, `mesh`, `labels` and that there is a spec.
pub(crate) fn envelope(kind: Kind, body: &Map<String, Value>) -> Violations {
    debug_assert!(
        kind.descriptor().form == Form::Plugin,
        "legacy bodies have no schema"
    );
    let mut walk = Walk {
        problems: Vec::new(),
        defaults: false,
        strict: true,
    };
    match body.get("type") {
        None => walk.problem("type", "in body is required"),
        Some(Value::String(name)) if name == kind.name() => {}
        Some(Value::String(_)) => {
            walk.problem("type", &format!("in body should be one of [{kind}]"));
        }
        Some(other) => walk.wrong_type("type", "string", other),
    }
    for (member, required) in [("name", true), ("mesh", false)] {
        match body.get(member) {
            None if required => walk.problem(member, "in body is required"),
            None | Some(Value::String(_)) => {}
            Some(other) => walk.wrong_type(member, "string", other),
        }
    }
    match body.get("labels") {
        None => {}
        Some(labels) => {
            walk.value(&Schema::TextMap, labels, "labels");
        }
    }
    if !body.contains_key("spec") {
        walk.problem("spec", "in body is required");
    }
    walk.into_violations()
}

struct Walk {
    problems: Vec<(String, String)>,
    defaults: bool,
    strict: bool,
}

impl Walk {
    fn problem(&mut self, path: &str, sentence: &str) {
        if self.strict {
            self.problems.push((path.to_owned(), sentence.to_owned()));
        }
    }

    fn wrong_type(&mut self, path: &str, want: &str, got: &Value) {
        let got = match got {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.problem(path, &format!("in body must be of type {want}: \"{got}\""));
    }

    fn into_violations(mut self) -> Violations {
        self.problems
            .sort_by_cached_key(|(path, sentence)| format!("{path} {sentence}"));
        let mut violations = Violations::new();
        for (path, sentence) in self.problems {
            if path.starts_with("spec.") {
                violations.add(path, sentence);
            } else {
                violations.add("", format!("{path} {sentence}"));
            }
        }
        violations
    }

    /// Checks one value and gives it back as it is kept.
    fn value(&mut self, schema: &Schema, value: &Value, path: &str) -> Value {
        match (schema, value) {
            (Schema::Any, _)
            | (Schema::IntOrText, Value::Number(_) | Value::String(_))
            | (Schema::Bool { .. }, Value::Bool(_)) => {}
            (Schema::Text(text), Value::String(given)) => self.text(text, given, path),
            (Schema::Duration, Value::String(given)) => match given.parse::<GoDuration>() {
                Ok(duration) => return Value::String(duration.to_string()),
                Err(error) => self.problem(path, &error.to_string()),
            },
            (Schema::Int(int), Value::Number(given)) => self.int(int, given, path),
            (Schema::List { items, min, max }, Value::Array(given)) => {
                return self.list(items, (*min, *max), given, path);
            }
            (Schema::TextMap, Value::Object(given)) => {
                for (key, value) in given {
                    if !value.is_string() {
                        self.wrong_type(&format!("{path}.{key}"), "string", value);
                    }
                }
            }
            (Schema::Object(fields), Value::Object(given)) => {
                return self.object(fields, given, path);
            }
            (Schema::IntOrText, _) => self.wrong_type(path, "integer or string", value),
            (Schema::Bool { .. }, _) => self.wrong_type(path, "boolean", value),
            (Schema::Text(_) | Schema::Duration, _) => self.wrong_type(path, "string", value),
            (Schema::Int(_), _) => self.wrong_type(path, "integer", value),
            (Schema::List { .. }, _) => self.wrong_type(path, "array", value),
            (Schema::TextMap | Schema::Object(_), _) => self.wrong_type(path, "object", value),
        }
        value.clone()
    }

    fn text(&mut self, text: &Text, given: &str, path: &str) {
        let length = given.chars().count();
        if !text.one_of.is_empty() && !text.one_of.contains(&given) {
            self.problem(
                path,
                &format!("in body should be one of [{}]", text.one_of.join(" ")),
            );
        }
        if length < text.len_min {
            self.problem(
                path,
                &format!("in body should be at least {} chars long", text.len_min),
            );
        }
        if length > text.len_max {
            self.problem(
                path,
                &format!("in body should be at most {} chars long", text.len_max),
            );
        }
        if let Some(pattern) = text.pattern
            && !(pattern.accepts)(given)
        {
            self.problem(path, &format!("in body should match '{}'", pattern.regex));
        }
    }

    fn int(&mut self, int: &Int, given: &serde_json::Number, path: &str) {
        // A float without a fraction is an integer in JSON.
        let number = given.as_i64().or_else(|| {
            given
                .as_f64()
                .filter(|f| f.fract() == 0.0 && f.abs() < 9e15)
                .map(|f| {
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "checked to be whole and small"
                    )]
                    let whole = f as i64;
                    whole
                })
        });
        let Some(number) = number else {
            self.wrong_type(path, "integer", &Value::Number(given.clone()));
            return;
        };
        if !int.one_of.is_empty() && !int.one_of.contains(&number) {
            let allowed: Vec<String> = int.one_of.iter().map(i64::to_string).collect();
            self.problem(
                path,
                &format!("in body should be one of [{}]", allowed.join(" ")),
            );
        }
        if number < int.min {
            self.problem(
                path,
                &format!("in body should be greater than or equal to {}", int.min),
            );
        }
        if number > int.max {
            self.problem(
                path,
                &format!("in body should be less than or equal to {}", int.max),
            );
        }
    }

    fn list(
        &mut self,
        items: &Schema,
        (min, max): (usize, usize),
        given: &[Value],
        path: &str,
    ) -> Value {
        if given.len() < min {
            self.problem(path, &format!("in body should have at least {min} items"));
        }
        if given.len() > max {
            self.problem(path, &format!("in body should have at most {max} items"));
        }
        let mut at = String::new();
        let mut kept = Vec::with_capacity(given.len());
        for (index, item) in given.iter().enumerate() {
            at.clear();
            // Writing to a string cannot fail.
            let _infallible = write!(at, "{path}[{index}]");
            kept.push(self.value(items, item, &at));
        }
        Value::Array(kept)
    }

    fn object(&mut self, fields: &[Field], given: &Map<String, Value>, path: &str) -> Value {
        let mut kept = Map::new();
        for field in fields {
            match given.get(field.name) {
                Some(value) => {
                    let value = self.value(&field.schema, value, &format!("{path}.{}", field.name));
                    kept.insert(field.name.to_owned(), value);
                }
                None => {
                    if self.defaults
                        && let Some(default) = field.schema.default()
                    {
                        kept.insert(field.name.to_owned(), default);
                    } else if field.required {
                        self.problem(&format!("{path}.{}", field.name), "in body is required");
                    }
                    if field.always && self.defaults && !kept.contains_key(field.name) {
                        kept.insert(field.name.to_owned(), Value::Object(Map::new()));
                    }
                }
            }
        }
        Value::Object(kept)
    }
}

impl Schema {
    fn default(&self) -> Option<Value> {
        match self {
            Self::Bool { default } => default.map(Value::Bool),
            Self::Text(text) => text.default.map(Value::from),
            Self::Int(int) => int.default.map(Value::from),
            Self::Any
            | Self::IntOrText
            | Self::Duration
            | Self::List { .. }
            | Self::TextMap
            | Self::Object(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(kind: Kind, spec: &Value, want: Result<Value, &[(&str, &str)]>) {
        let got = apply(kind, spec).map_err(|violations| {
            violations
                .0
                .into_iter()
                .map(|v| (v.field, v.message))
                .collect::<Vec<_>>()
        });
        let want = want.map_err(|list| {
            list.iter()
                .map(|(f, m)| ((*f).to_owned(), (*m).to_owned()))
                .collect::<Vec<_>>()
        });
        assert_eq!(got, want);
    }

    #[test]
    fn defaults_are_filled_and_unknown_members_dropped() {
        check(
            Kind::MeshService,
            &json!({"ports": [{"port": 1, "bogus": 2}], "bogus": {}}),
            Ok(
                json!({"ports": [{"port": 1, "appProtocol": "tcp"}], "selector": {}, "state": "Unavailable"}),
            ),
        );
    }

    #[test]
    fn durations_are_printed_in_canonical_form() {
        check(
            Kind::MeshTimeout,
            &json!({"rules": [{"default": {"idleTimeout": "60s"}}]}),
            Ok(json!({"rules": [{"default": {"idleTimeout": "1m0s"}}]})),
        );
    }

    #[test]
    fn every_problem_is_reported_sorted_by_text() {
        check(
            Kind::MeshTrafficPermission,
            &json!({"targetRef": {"kind": "MeshService", "sectionName": 2}}),
            Err(&[
                (
                    "spec.targetRef.kind",
                    "in body should be one of [Mesh Dataplane]",
                ),
                (
                    "spec.targetRef.sectionName",
                    "in body must be of type string: \"number\"",
                ),
            ]),
        );
        check(
            Kind::MeshZoneAddress,
            &json!({"port": 99999}),
            Err(&[
                ("spec.address", "in body is required"),
                ("spec.port", "in body should be less than or equal to 65535"),
            ]),
        );
        check(
            Kind::MeshTrust,
            &json!([]),
            Err(&[("", "spec in body must be of type object: \"array\"")]),
        );
    }

    #[test]
    fn every_plugin_kind_has_a_schema() {
        for kind in Kind::ALL {
            assert_eq!(
                of(*kind).is_some(),
                kind.descriptor().form == Form::Plugin,
                "{kind}"
            );
        }
    }
}
