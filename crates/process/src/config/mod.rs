//! Configuration: a YAML file, then the environment, then flags, read once at the edge.
//!
//! ```text
//! file ─┐
//! env ──┼─▶ one JSON tree ─▶ raw struct (all optional) ─▶ the program's own checked `Config`
//! flags ┘         └─▶ effective configuration, secrets hidden
//! ```
//!
//! Start at [`Loader`]. A wrong value is a [`Problem`] and stops the start; an unknown key is a [`Warning`].

mod duration;
mod keys;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use duration::{HumanDuration, InvalidDuration, parse_duration};
pub use keys::hide_secrets;

/// One reason not to start: what is wrong, where, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The configuration path, a file, or a variable.
    pub place: String,
    pub message: String,
}

impl Problem {
    pub fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.place, self.message)
    }
}

/// All reasons not to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn add(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem::new(place, message));
    }

    /// Takes a value that must be there.
    pub fn required<T>(&mut self, place: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(place, "is required");
        }
        value
    }

    /// Takes a value that must parse.
    pub fn parsed<T: std::str::FromStr<Err: fmt::Display>>(
        &mut self,
        place: &str,
        text: &str,
    ) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(place, format!("`{text}`: {error}"));
                None
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Ok` when nothing was found.
    ///
    /// # Errors
    /// All problems at once.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.0.len() == 1 {
            "problem"
        } else {
            "problems"
        };
        write!(f, "{} {word} in the configuration", self.0.len())?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Something odd that does not stop the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a variable's text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Text,
    Number,
    Bool,
    /// Comma-separated texts.
    List,
}

/// Which variables set one configuration path; the first that is set wins.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Dotted path in camelCase, e.g. `multizone.zone.name`.
    pub path: &'static str,
    pub names: &'static [&'static str],
    pub shape: Shape,
}

/// What was loaded.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    pub raw: T,
    pub warnings: Vec<Warning>,
    /// The merged configuration with secrets hidden, for the start-up log and the admin page.
    pub effective: Value,
}

/// Merges the layers, lowest first: file, environment, flags.
#[derive(Debug, Default)]
pub struct Loader {
    tree: Map<String, Value>,
    problems: Problems,
    file: Option<PathBuf>,
}

impl Loader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a YAML (or JSON) file. `None` reads nothing; a file that is named must exist.
    #[must_use]
    pub fn file(mut self, path: Option<&Path>) -> Self {
        let Some(path) = path else { return self };
        self.file = Some(path.to_owned());
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(&path.display().to_string(), &text),
            Err(error) => {
                self.problems
                    .add(path.display().to_string(), format!("cannot read: {error}"));
                self
            }
        }
    }

    /// Takes configuration text; `place` names it in messages.
    #[must_use]
    pub fn text(mut self, place: &str, text: &str) -> Self {
        if text.trim().is_empty() {
            return self;
        }
        match serde_saphyr::from_str::<Value>(text) {
            Ok(Value::Object(layer)) => merge(&mut self.tree, layer),
            Ok(Value::Null) => {}
            Ok(_) => self
                .problems
                .add(place, "is not a mapping of keys to values"),
            Err(error) => self.problems.add(place, error.to_string()),
        }
        self
    }

    /// Takes the variables of `table` from `environment`.
    #[must_use]
    pub fn environment(
        mut self,
        table: &[Variable],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        for variable in table {
            let found = variable
                .names
                .iter()
                .find_map(|name| Some((*name, environment(name)?)));
            let Some((name, text)) = found else { continue };
            match parse_shape(variable.shape, &text) {
                Ok(value) => set(&mut self.tree, variable.path, value),
                Err(message) => self.problems.add(name, message),
            }
        }
        self
    }

    /// Takes the process's own environment.
    #[must_use]
    pub fn process_environment(self, table: &[Variable]) -> Self {
        self.environment(table, &|name| {
            std::env::var(name).ok().filter(|text| !text.is_empty())
        })
    }

    /// Sets one path when the flag was given.
    #[must_use]
    pub fn flag(mut self, path: &str, value: Option<impl Serialize>) -> Self {
        if let Some(value) = value {
            match serde_json::to_value(value) {
                Ok(value) => set(&mut self.tree, path, value),
                Err(error) => self.problems.add(path, error.to_string()),
            }
        }
        self
    }

    /// Turns the merged layers into the program's raw struct. Known keys are those of `T::default()`, so a raw
    /// struct serialises its unset fields (as `null`) and skips none.
    ///
    /// # Errors
    /// Every problem of every layer.
    pub fn load<T>(mut self) -> Result<Loaded<T>, Problems>
    where
        T: Default + Serialize + DeserializeOwned,
    {
        let tree = Value::Object(self.tree);
        let known = serde_json::to_value(T::default()).unwrap_or_default();
        let warnings = keys::unknown(&tree, &known)
            .into_iter()
            .map(|unknown| {
                let at = self
                    .file
                    .as_ref()
                    .map(|path| format!(" in `{}`", path.display()));
                let hint = unknown
                    .nearest
                    .map(|near| format!("; did you mean `{near}`?"));
                Warning(format!(
                    "unknown key `{}`{}{}",
                    unknown.path,
                    at.unwrap_or_default(),
                    hint.unwrap_or_default()
                ))
            })
            .collect();
        match serde_path_to_error::deserialize::<_, T>(&tree) {
            Ok(raw) if self.problems.is_empty() => Ok(Loaded {
                raw,
                warnings,
                effective: hide_secrets(&tree),
            }),
            Ok(_) => Err(self.problems),
            Err(error) => {
                let path = error.path().to_string();
                self.problems.add(path, error.into_inner().to_string());
                Err(self.problems)
            }
        }
    }
}

fn parse_shape(shape: Shape, text: &str) -> Result<Value, String> {
    match shape {
        Shape::Text => Ok(Value::String(text.to_owned())),
        Shape::Number => serde_json::from_str::<serde_json::Number>(text.trim())
            .map(Value::Number)
            .map_err(|_not_a_number| format!("`{text}` is not a number")),
        Shape::Bool => match text.trim() {
            "true" | "1" => Ok(Value::Bool(true)),
            "false" | "0" => Ok(Value::Bool(false)),
            _ => Err(format!("`{text}` is neither `true` nor `false`")),
        },
        Shape::List => Ok(text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| Value::String(item.to_owned()))
            .collect()),
    }
}

/// Later layers win, key by key; lists are replaced as a whole.
fn merge(tree: &mut Map<String, Value>, layer: Map<String, Value>) {
    for (key, value) in layer {
        match (tree.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (_, value) => {
                tree.insert(key, value);
            }
        }
    }
}

fn set(tree: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            tree.insert(path.to_owned(), value);
        }
        Some((head, rest)) => {
            let below = tree
                .entry(head.to_owned())
                .or_insert_with(|| Value::Object(Map::new()));
            if !below.is_object() {
                *below = Value::Object(Map::new());
            }
            if let Value::Object(below) = below {
                set(below, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Raw {
        zone: RawZone,
        drain: Option<HumanDuration>,
        ports: Option<Vec<String>>,
    }

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct RawZone {
        name: Option<String>,
        global_address: Option<String>,
        token: Option<String>,
        token_file: Option<String>,
    }

    const TABLE: &[Variable] = &[
        Variable {
            path: "zone.name",
            names: &["ZONAL_ZONE", "KUMA_ZONE"],
            shape: Shape::Text,
        },
        Variable {
            path: "ports",
            names: &["ZONAL_PORTS"],
            shape: Shape::List,
        },
    ];

    #[test]
    fn later_layers_win_key_by_key() {
        let loaded = Loader::new()
            .text(
                "a.yaml",
                "zone: {name: east, globalAddress: a, token: t0p}\ndrain: 1m30s\n",
            )
            .environment(TABLE, &|name| match name {
                "KUMA_ZONE" => Some("west".to_owned()),
                "ZONAL_PORTS" => Some("1, 2".to_owned()),
                _ => None,
            })
            .flag("zone.globalAddress", Some("b"))
            .flag("zone.tokenFile", None::<String>)
            .load::<Raw>()
            .unwrap();
        assert_eq!(loaded.raw.zone.name.as_deref(), Some("west"));
        assert_eq!(loaded.raw.zone.global_address.as_deref(), Some("b"));
        assert_eq!(loaded.raw.zone.token.as_deref(), Some("t0p"));
        assert_eq!(loaded.raw.zone.token_file, None);
        assert_eq!(loaded.raw.drain.unwrap().0.as_secs(), 90);
        assert_eq!(loaded.raw.ports.unwrap(), ["1", "2"]);
        assert_eq!(loaded.effective["zone"]["token"], "<hidden>");
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn unknown_key_is_a_warning_with_the_nearest_known_one() {
        let loaded = Loader::new()
            .text("a.yaml", "zone: {globalAdress: x}\n")
            .load::<Raw>()
            .unwrap();
        assert_eq!(
            loaded.warnings,
            [Warning(
                "unknown key `zone.globalAdress`; did you mean `zone.globalAddress`?".to_owned()
            )]
        );
    }

    #[test]
    fn wrong_values_stop_the_start_with_their_path() {
        let problems = Loader::new()
            .text("a.yaml", "drain: soon\n")
            .load::<Raw>()
            .unwrap_err();
        assert_eq!(
            problems.to_string(),
            "1 problem in the configuration\n  `drain`: `soon` is not a duration, e.g. `30s` or `1m30s`"
        );
        let problems = Loader::new()
            .text("a.yaml", "zone: [\n")
            .load::<Raw>()
            .unwrap_err();
        assert_eq!(problems.0[0].place, "a.yaml");
        let problems = Loader::new()
            .file(Some(Path::new("/nowhere/x.yaml")))
            .load::<Raw>()
            .unwrap_err();
        assert!(problems.to_string().contains("cannot read"), "{problems}");
    }
}
