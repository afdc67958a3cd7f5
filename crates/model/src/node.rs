//! A place in a JSON value together with its path, for validation.

use serde_json::Value;

use crate::duration::GoDuration;
use crate::violations::Violations;

/// A value, or its absence, at a path. `null` counts as absent.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    value: Option<&'a Value>,
    path: String,
}

impl<'a> Node<'a> {
    pub(crate) fn root(value: &'a Value, path: &str) -> Self {
        Self {
            value: Some(value),
            path: path.to_owned(),
        }
    }

    pub(crate) fn at(&self, member: &str) -> Self {
        let value = self
            .value
            .and_then(|value| value.get(member))
            .filter(|v| !v.is_null());
        Self {
            value,
            path: self.path_of(member),
        }
    }

    /// A place further down: members joined with dots.
    pub(crate) fn down(&self, members: &str) -> Self {
        members
            .split('.')
            .fold(self.clone(), |node, member| node.at(member))
    }

    /// The same value under another path, for paths that clients know under another name.
    pub(crate) fn renamed(&self, path: String) -> Self {
        Self {
            value: self.value,
            path,
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn path_of(&self, member: &str) -> String {
        if self.path.is_empty() {
            member.to_owned()
        } else {
            format!("{}.{member}", self.path)
        }
    }

    pub(crate) fn items(&self) -> impl Iterator<Item = Self> {
        let items = self
            .value
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        items.iter().enumerate().map(|(index, value)| Self {
            value: Some(value).filter(|value| !value.is_null()),
            path: format!("{}[{index}]", self.path),
        })
    }

    /// Members of an object of texts, e.g. labels.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.value
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.value.is_some()
    }

    /// Absent, or without any item or member.
    pub(crate) fn is_empty(&self) -> bool {
        match self.value {
            None => true,
            Some(Value::Object(members)) => members.values().all(Value::is_null),
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        }
    }

    /// The text, or the empty one.
    pub(crate) fn text(&self) -> &'a str {
        self.value.and_then(Value::as_str).unwrap_or_default()
    }

    /// The number; 0 where it is absent or no number.
    pub(crate) fn number(&self) -> f64 {
        self.value.and_then(Value::as_f64).unwrap_or(0.0)
    }

    pub(crate) fn is_true(&self) -> bool {
        self.value.and_then(Value::as_bool).unwrap_or(false)
    }

    pub(crate) fn value(&self) -> Option<&'a Value> {
        self.value
    }

    /// The duration, where it is one.
    pub(crate) fn duration(&self) -> Option<GoDuration> {
        self.text().parse().ok()
    }

    pub(crate) fn report(&self, violations: &mut Violations, message: impl Into<String>) {
        violations.add(self.path.clone(), message);
    }

    // --- rules that many kinds share

    pub(crate) fn must_be_positive_when_set(&self, violations: &mut Violations) {
        if self
            .duration()
            .is_some_and(|duration| duration.nanos() <= 0)
        {
            self.report(violations, "must be greater than zero when defined");
        }
    }

    pub(crate) fn must_not_be_negative_when_set(&self, violations: &mut Violations) {
        if self.duration().is_some_and(|duration| duration.nanos() < 0) {
            self.report(violations, "must not be negative when defined");
        }
    }

    pub(crate) fn must_be_above_zero_when_set(&self, violations: &mut Violations) {
        if self.is_set() && self.number() <= 0.0 {
            self.report(violations, "must be greater than 0");
        }
    }

    pub(crate) fn must_be_port(&self, violations: &mut Violations) {
        if !is_port(self.number()) {
            self.report(violations, "port must be a valid (1-65535)");
        }
    }

    /// `"mode" must be one of ["a", "b"]`.
    pub(crate) fn must_be_one_of(&self, name: &str, allowed: &[&str], violations: &mut Violations) {
        if !allowed.contains(&self.text()) {
            self.report(violations, one_of_quoted(name, allowed));
        }
    }
}

pub(crate) fn is_port(number: f64) -> bool {
    (1.0..=65535.0).contains(&number) && number.fract() == 0.0
}

/// `"mode" must be one of ["a", "b"]`.
pub(crate) fn one_of_quoted(name: &str, allowed: &[&str]) -> String {
    let quoted: Vec<String> = allowed.iter().map(|one| format!("\"{one}\"")).collect();
    format!("\"{name}\" must be one of [{}]", quoted.join(", "))
}
