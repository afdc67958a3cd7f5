//! Keys of a configuration tree: which are unknown, which hold secrets.

use serde_json::{Map, Value};

/// A key nobody reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) path: String,
    pub(super) nearest: Option<String>,
}

/// Compares what was written with the keys that exist. Below a known `null` or list anything goes.
pub(super) fn unknown(written: &Value, known: &Value) -> Vec<Unknown> {
    let mut found = Vec::new();
    if let (Value::Object(written), Value::Object(known)) = (written, known) {
        walk("", written, known, &mut found);
    }
    found
}

fn walk(
    prefix: &str,
    written: &Map<String, Value>,
    known: &Map<String, Value>,
    found: &mut Vec<Unknown>,
) {
    for (key, value) in written {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match (known.get(key), value) {
            (Some(Value::Object(known)), Value::Object(value)) if !known.is_empty() => {
                walk(&path, value, known, found);
            }
            (Some(_), _) => {}
            (None, _) => {
                let nearest = nearest(key, known.keys()).map(|near| {
                    if prefix.is_empty() {
                        near.to_owned()
                    } else {
                        format!("{prefix}.{near}")
                    }
                });
                found.push(Unknown { path, nearest });
            }
        }
    }
}

/// The candidate that differs least, when it differs little enough to be meant.
fn nearest<'a>(key: &str, candidates: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    candidates
        .map(|candidate| {
            (
                distance(&key.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate.as_str())
}

/// Edits (insert, delete, replace) that turn one word into the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        let mut next = vec![before];
        for (r, above) in right.iter().zip(row.iter().skip(1)) {
            let replace = diagonal + usize::from(l != *r);
            before = replace.min(above + 1).min(before + 1);
            diagonal = *above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

const HIDDEN: &str = "<hidden>";

/// A copy in which every value under a key that names a secret is hidden. Paths to secrets are shown.
pub fn hide_secrets(tree: &Value) -> Value {
    match tree {
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| {
                let secret = is_secret(key) && !matches!(value, Value::Null | Value::Bool(_));
                let shown = if secret && !value.is_object() {
                    Value::String(HIDDEN.to_owned())
                } else {
                    hide_secrets(value)
                };
                (key.clone(), shown)
            })
            .collect(),
        Value::Array(items) => items.iter().map(hide_secrets).collect(),
        other => other.clone(),
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let place = ["file", "path", "dir", "name", "public", "enable", "use"];
    ["password", "token", "secret", "key"]
        .iter()
        .any(|word| key.contains(word))
        && !place.iter().any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (left, right, want) in [
            ("", "", 0),
            ("a", "", 1),
            ("adress", "address", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(left, right), want, "{left} {right}");
        }
    }

    #[test]
    fn secrets_are_hidden_and_paths_are_shown() {
        let shown = hide_secrets(&json!({
            "token": "a", "tokenFile": "/x", "tls": {"keyFile": "/k", "privateKey": "b"},
            "users": [{"password": "c", "name": "n"}], "enableToken": true,
        }));
        assert_eq!(
            shown,
            json!({
                "token": "<hidden>", "tokenFile": "/x",
                "tls": {"keyFile": "/k", "privateKey": "<hidden>"},
                "users": [{"password": "<hidden>", "name": "n"}], "enableToken": true,
            })
        );
    }
}
