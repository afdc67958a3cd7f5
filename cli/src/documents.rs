//! Files, folders and standard input as a list of documents.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::Failure;
use crate::output::Terminal;

/// One resource as somebody wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// The file, and which document of it if it has several.
    pub place: String,
    pub value: Value,
}

impl Document {
    pub(crate) fn text(&self, member: &str) -> &str {
        self.value
            .get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

/// `MeshTimeout default/slow`.
impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}",
            Naming(self.text("type"), self.text("mesh"), self.text("name"))
        )
    }
}

/// A resource's type, mesh and name in words.
pub(crate) struct Naming<'a>(pub &'a str, pub &'a str, pub &'a str);

impl fmt::Display for Naming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(kind, "", name) => write!(f, "{kind} {name}"),
            Self(kind, mesh, name) => write!(f, "{kind} {mesh}/{name}"),
        }
    }
}

/// Reads everything that is named, in the order of the command line; a folder's files in the order of their names.
///
/// What cannot be read, and every document that is no resource, is reported together, before anything is sent.
pub(crate) fn collect(
    sources: &[PathBuf],
    vars: &[(String, String)],
    terminal: &mut Terminal,
) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for source in sources {
        if source.as_os_str() == "-" {
            match terminal.read() {
                Ok(text) => parse("standard input", &text, vars, &mut documents, &mut problems),
                Err(error) => problems.push(format!("cannot read standard input: {error}")),
            }
            continue;
        }
        let files = match files(source) {
            Ok(files) => files,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        for file in files {
            let place = file.display().to_string();
            match std::fs::read_to_string(&file) {
                Ok(text) => parse(&place, &text, vars, &mut documents, &mut problems),
                Err(error) => problems.push(format!("cannot read `{place}`: {error}")),
            }
        }
    }
    problems.extend(twice(&documents));
    if !problems.is_empty() {
        let what = "the files cannot be applied; nothing was sent";
        return Err(Failure::new(what).details(problems));
    }
    if documents.is_empty() {
        return Err(Failure::new(
            "there is no resource in the files; nothing was sent",
        ));
    }
    Ok(documents)
}

/// The file itself, or the files of a folder.
fn files(source: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |error: std::io::Error| format!("cannot read `{}`: {error}", source.display());
    if !std::fs::metadata(source).map_err(cannot)?.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(source).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(format!(
            "folder `{}` has no *.yaml, *.yml or *.json (folders below it are not looked into)",
            source.display()
        ));
    }
    files.sort();
    Ok(files)
}

fn parse(
    file: &str,
    text: &str,
    vars: &[(String, String)],
    documents: &mut Vec<Document>,
    problems: &mut Vec<String>,
) {
    let text = match substitute(text, vars) {
        Ok(text) => text,
        Err(problem) => return problems.push(format!("`{file}`: {problem}")),
    };
    let values = match zonal_model::yaml::documents(&text) {
        Ok(values) => values,
        Err(error) => return problems.push(format!("`{file}`: {error}")),
    };
    // A list of resources, or what `zonal get -o json` printed, is as good as its items.
    let values: Vec<Value> = values.into_iter().flat_map(items).collect();
    let several = values.len() > 1;
    for (at, value) in values.into_iter().enumerate() {
        let place = match several {
            true => format!("{file}, document {}", at + 1),
            false => file.to_owned(),
        };
        match complaint(&value) {
            Some(complaint) => problems.push(format!("`{place}`: {complaint}")),
            None => documents.push(Document { place, value }),
        }
    }
}

fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        Value::Object(mut members) if !members.contains_key("type") => {
            match members.get_mut("items").map(Value::take) {
                Some(Value::Array(items)) => items,
                other => {
                    if let Some(other) = other {
                        members.insert("items".to_owned(), other);
                    }
                    vec![Value::Object(members)]
                }
            }
        }
        other => vec![other],
    }
}

/// Why a document is no resource; everything else about it is the control plane's to say.
fn complaint(value: &Value) -> Option<String> {
    if !value.is_object() {
        return Some("not a resource: it has no members".to_owned());
    }
    let given = |member: &str| {
        value
            .get(member)
            .is_some_and(|text| text.as_str() != Some("") && !text.is_null())
    };
    for member in ["type", "name", "mesh"] {
        if given(member) && !value.get(member).is_some_and(Value::is_string) {
            return Some(format!("`{member}` is no text: put it in quotes"));
        }
    }
    let missing: Vec<String> = ["type", "name"]
        .into_iter()
        .filter(|member| !given(member))
        .map(|member| format!("`{member}`"))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let missing = missing.join(" and ");
    if value.get("apiVersion").is_some() && value.get("kind").is_some() {
        return Some(format!(
            "{missing} missing: this is the Kubernetes form; write `type`, `mesh`, `name` and `spec` instead"
        ));
    }
    Some(format!("{missing} missing"))
}

/// Two documents of one resource: one of them must be a mistake.
fn twice(documents: &[Document]) -> Vec<String> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for document in documents {
        let name = document.to_string();
        match seen.get(&name) {
            Some(first) => {
                problems.push(format!(
                    "`{}`: {name} is in `{first}` already",
                    document.place
                ));
            }
            None => {
                seen.insert(name, &document.place);
            }
        }
    }
    problems
}

/// Replaces `{{ name }}` by the variable's value.
///
/// Templates of resources look alike (`{{ .DisplayName }}`), so only what is a plain name counts, and without any
/// variable the text stays as it is.
fn substitute(text: &str, vars: &[(String, String)]) -> Result<String, String> {
    if vars.is_empty() {
        return Ok(text.to_owned());
    }
    let mut result = String::with_capacity(text.len());
    let mut unknown = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        result.push_str(before);
        let Some((inside, tail)) = after.split_once("}}") else {
            result.push_str("{{");
            rest = after;
            continue;
        };
        let name = inside.trim();
        match vars.iter().rev().find(|(known, _)| known == name) {
            Some((_, value)) => result.push_str(value),
            None => {
                if is_variable(name) && !unknown.contains(&name) {
                    unknown.push(name);
                }
                result.push_str(&format!("{{{{{inside}}}}}"));
            }
        }
        rest = tail;
    }
    result.push_str(rest);
    if unknown.is_empty() {
        return Ok(result);
    }
    Err(format!("no `--var` for {}", unknown.join(", ")))
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal_process::RealClock;

    fn run(sources: &[PathBuf], input: &'static str) -> Result<Vec<Document>, String> {
        let mut terminal = Terminal::new(
            Box::new(input.as_bytes()),
            Box::new(std::io::sink()),
            Box::new(std::io::sink()),
            RealClock::shared(),
        );
        collect(sources, &[], &mut terminal).map_err(|failure| failure.to_string())
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_names() {
        let folder = folder(&[
            ("20.yml", "type: B\nname: b\n"),
            (
                "10.yaml",
                "type: A\nname: a\n---\n# nothing\n---\ntype: A\nmesh: m\nname: a\n",
            ),
            (
                "30.json",
                r#"{"items": [{"type": "C", "name": "c"}], "total": 1}"#,
            ),
            ("README.md", "not a resource"),
        ]);
        let documents = run(
            &[folder.path().to_owned(), "-".into()],
            "{type: D, name: d}",
        )
        .unwrap();
        let names: Vec<String> = documents.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["A a", "A m/a", "B b", "C c", "D d"]);
        assert!(
            documents[1].place.ends_with("10.yaml, document 2"),
            "{}",
            documents[1].place
        );
        assert!(documents[2].place.ends_with("20.yml"));
        assert_eq!(documents[4].place, "standard input");
    }

    #[test]
    fn every_problem_is_named_before_anything_is_sent() {
        let folder = folder(&[
            ("a.yaml", "name: x\n---\ntype: T\n---\n- 1\n"),
            ("b.yaml", "a: [\n"),
            (
                "c.yaml",
                "apiVersion: v1\nkind: Mesh\nmetadata: {name: default}\n",
            ),
            ("d.yaml", "type: T\nname: twin\n---\ntype: T\nname: twin\n"),
            ("e.yaml", "type: T\nname: 5\n"),
        ]);
        let said = run(&[folder.path().to_owned(), "no-such-file.yaml".into()], "").unwrap_err();
        for part in [
            "a.yaml, document 1`: `type` missing",
            "a.yaml, document 2`: `name` missing",
            "a.yaml, document 3`: not a resource",
            "b.yaml`: line ",
            "c.yaml`: `type` and `name` missing: this is the Kubernetes form",
            "d.yaml, document 2`: T twin is in `",
            "e.yaml`: `name` is no text",
            "cannot read `no-such-file.yaml`",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }

    #[test]
    fn no_resources_is_an_error() {
        let empty = tempfile::tempdir().unwrap();
        assert!(
            run(&[empty.path().to_owned()], "")
                .unwrap_err()
                .contains("has no *.yaml")
        );
        assert!(
            run(&["-".into()], "# nothing\n")
                .unwrap_err()
                .contains("no resource")
        );
    }

    #[track_caller]
    fn check(text: &str, want: Result<&str, &str>) {
        let vars = [
            ("zone".to_owned(), "east".to_owned()),
            ("x".to_owned(), String::new()),
        ];
        let got = substitute(text, &vars);
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{text}");
    }

    #[test]
    fn variables_are_replaced_and_templates_left_alone() {
        check("a {{ zone }}-{{zone}} {{x}}", Ok("a east-east "));
        check(
            "{{ .DisplayName }}.{{ label \"a\" }}",
            Ok("{{ .DisplayName }}.{{ label \"a\" }}"),
        );
        check(
            "{{ port }} {{ port }} {{ host }}",
            Err("no `--var` for port, host"),
        );
        check("{{ zone", Ok("{{ zone"));
        assert_eq!(substitute("{{ zone }}", &[]).as_deref(), Ok("{{ zone }}"));
    }
}
