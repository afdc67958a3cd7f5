//! The suite `resource-validation`: one spec, and the violations it has.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use zonal_model::{Json, Key, Kind, Resource, parse, validate, yaml};

use super::{SuiteResult, cases_dir, files_below};

/// Runs every case; `None` where the folder is absent.
#[must_use]
pub fn run() -> Option<SuiteResult> {
    let folder = cases_dir()?.join("resource-validation");
    if !folder.is_dir() {
        return None;
    }
    let mut result = SuiteResult::new("resource-validation");
    for input in files_below(&folder, ".input.yaml") {
        let case = input
            .strip_prefix(&folder)
            .unwrap_or(&input)
            .display()
            .to_string();
        match kind_of(&case) {
            Some(kind) => result.count(&case, check(kind, &input)),
            None => result.skipped += 1,
        }
    }
    Some(result)
}

/// The kind is the first folder of a case, in lower case.
fn kind_of(case: &str) -> Option<Kind> {
    let folder = case.split(['/', '\\']).next()?;
    Kind::ALL
        .iter()
        .copied()
        .find(|kind| kind.name().eq_ignore_ascii_case(folder))
}

fn check(kind: Kind, input: &Path) -> Result<(), String> {
    let spec = document(input)?;
    let want = ["output", "golden"]
        .iter()
        .map(|suffix| {
            input
                .with_extension("")
                .with_extension(format!("{suffix}.yaml"))
        })
        .find(|path| path.is_file())
        .map_or_else(|| Ok(json!({})), |path| document(&path))?;
    let name = name_of(input);
    let violations = if spec.get("type").and_then(Value::as_str) == Some(kind.name()) {
        parse::stored(&spec)
            .map(|resource| validate(&resource))
            .map_err(|e| e.to_string())?
    } else {
        validate(&Resource::new(
            Key::new(kind, "default", &name),
            Json::from_value(&spec),
        ))
    };
    let got: Vec<Value> = violations
        .0
        .iter()
        .map(|violation| json!({"field": violation.field, "message": violation.message}))
        .collect();
    let got = Value::Array(got);
    let want = want.get("violations").cloned().unwrap_or_else(|| json!([]));
    if got == want {
        Ok(())
    } else {
        Err(format!("want {want:#}\ngot  {got:#}"))
    }
}

/// Some cases are about the length of the name, which their own name tells.
fn name_of(input: &Path) -> String {
    let file = input
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let length = match file.as_deref().unwrap_or_default() {
        name if name.starts_with("name-too-long") => 64,
        name if name.starts_with("name-length-") => name
            .trim_start_matches("name-length-")
            .split('.')
            .next()
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(4),
        _ => return "name".to_owned(),
    };
    "a".repeat(length)
}

fn document(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let documents = yaml::documents(&text).map_err(|error| error.to_string())?;
    Ok(documents.into_iter().next().unwrap_or_else(|| json!({})))
}
