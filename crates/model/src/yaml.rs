//! YAML files in, YAML files out.

use serde_json::Value;

/// A file that is not YAML, or more of it than anybody needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct YamlError {
    /// Counted from 1; 0 where it is not known.
    pub line: u64,
    /// Counted from 1; 0 where it is not known.
    pub column: u64,
    /// What is wrong there.
    pub message: String,
}

/// Reads every document of a file; empty documents are left out. JSON is read too.
///
/// # Errors
/// The text is not YAML, or exceeds the limits on depth, nodes and aliases that keep a small file from becoming a
/// large value.
///
/// ```
/// let documents = zonal_model::yaml::documents("a: 1\n---\n# nothing\n---\nb: 0644\n").unwrap();
/// assert_eq!(documents, [serde_json::json!({"a": 1}), serde_json::json!({"b": 420})]);
/// ```
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 200,
            max_nodes: 1_000_000,
            max_events: 4_000_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 50_000 },
        // The last one wins, as with the tools people know.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options::<Option<Value>>(text, options)
        .map(|documents| {
            documents
                .into_iter()
                .flatten()
                .filter(|value| !value.is_null())
                .collect()
        })
        .map_err(|error| YamlError::new(&error))
}

/// Writes one value, its members in the order of the value's serialiser.
///
/// # Errors
/// The value has no YAML form.
pub fn to_string<T: serde::Serialize>(value: &T) -> Result<String, YamlError> {
    serde_saphyr::to_string(value).map_err(|error| YamlError {
        line: 0,
        column: 0,
        message: error.to_string(),
    })
}

impl YamlError {
    fn new(error: &serde_saphyr::Error) -> Self {
        let (line, column) = error
            .location()
            .map_or((0, 0), |location| (location.line(), location.column()));
        let message = error.without_snippet().to_string();
        let sentence = message
            .split_once(" at line ")
            .map_or(&*message, |(sentence, _)| sentence);
        Self {
            line,
            column,
            message: sentence.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_read_one_by_one() {
        let text = "# a comment\ntype: Mesh\nname: default\n---\ntype: Zone\nlabels: {a: \"1\"}\n";
        assert_eq!(
            documents(text).unwrap(),
            [
                json!({"type": "Mesh", "name": "default"}),
                json!({"type": "Zone", "labels": {"a": "1"}})
            ]
        );
        assert_eq!(documents("").unwrap(), Vec::<Value>::new());
        assert_eq!(
            documents("# only a comment\n").unwrap(),
            Vec::<Value>::new()
        );
    }

    #[test]
    fn an_error_names_its_line() {
        let error = documents("a: 1\nb: [\n").unwrap_err();
        assert!(error.line >= 2, "{error}");
        assert!(!error.message.contains("line"), "{error}");
    }

    #[test]
    fn the_last_of_two_equal_keys_wins() {
        assert_eq!(documents("a: 1\na: 2\n").unwrap(), [json!({"a": 2})]);
    }

    #[test]
    fn many_aliases_do_not_become_a_large_value() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let previous = level - 1;
            let items = vec![format!("*a{previous}"); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(documents(&text).is_err());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({"a": [1, "true", null, {"b": "1s"}], "c": "x: y\nz"});
        assert_eq!(documents(&to_string(&value).unwrap()).unwrap(), [value]);
    }
}
