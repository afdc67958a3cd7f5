//! Values in the Dataplane file: `{{ name }}`, also written `{{.name}}`.

use std::collections::{BTreeMap, BTreeSet};

/// Why a file could not be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("line {line}: `{{{{` is never closed")]
    Unclosed { line: usize },
    #[error("no value for {}: give it with `--dataplane-var NAME=VALUE`", list(.names))]
    Missing { names: BTreeSet<String> },
}

/// Fills in every value; all that are missing are reported together.
///
/// # Errors
/// When a value is missing or an expression is never closed.
///
/// ```
/// let values = [("ip".to_owned(), "10.0.0.7".to_owned())].into();
/// let text = sidecar::template::render("address: {{ ip }}", &values);
/// assert_eq!(text.as_deref(), Ok("address: 10.0.0.7"));
/// ```
pub fn render(text: &str, values: &BTreeMap<String, String>) -> Result<String, TemplateError> {
    let mut filled = String::with_capacity(text.len());
    let mut missing = BTreeSet::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let Some((expression, tail)) = after.split_once("}}") else {
            let done = text.len() - after.len();
            let line = text.get(..done).unwrap_or_default().lines().count();
            return Err(TemplateError::Unclosed { line });
        };
        let name = expression.trim().trim_start_matches('.');
        match values.get(name) {
            Some(value) => filled.push_str(value),
            None => {
                missing.insert(name.to_owned());
            }
        }
        rest = tail;
    }
    filled.push_str(rest);
    if missing.is_empty() {
        Ok(filled)
    } else {
        Err(TemplateError::Missing { names: missing })
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Result<&str, &str>) {
        let values = [("name", "web-1"), ("ip", "10.0.0.7")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let got = render(text, &values).map_err(|error| error.to_string());
        assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn values_are_filled_in() {
        check(
            "a: {{ name }}-{{.ip}}-{{ip}}",
            Ok("a: web-1-10.0.0.7-10.0.0.7"),
        );
        check("no values", Ok("no values"));
        check("{a: {b: 1}}", Ok("{a: {b: 1}}"));
        check(
            "{{ b }} {{ a }} {{ name }} {{ b }}",
            Err("no value for `a`, `b`: give it with `--dataplane-var NAME=VALUE`"),
        );
        check("a\nb: {{ name", Err("line 2: `{{` is never closed"));
    }
}
