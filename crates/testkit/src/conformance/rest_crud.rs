//! The suites `rest-crud` and `rest-validation`: requests against the resource API, answers compared as data.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::Request;
use serde_json::Value;
use tower::ServiceExt;
use zonal_model::{Mode, parse, yaml};
use zonal_rest::{Access, Allowed, RestState, router};
use zonal_store::{Batch, MemoryStore, Store};

use super::{SuiteResult, cases_dir};

/// One request of a case and what is expected.
#[derive(Debug)]
struct Step {
    method: String,
    path: String,
    status: u16,
}

/// Runs every step of `rest-crud`; a step is a case. `None` where the folder is absent.
#[must_use]
pub fn rest_crud() -> Option<SuiteResult> {
    let folder = cases_dir()?.join("rest-crud");
    let runtime = runtime()?;
    let mut result = SuiteResult {
        name: "rest-crud".to_owned(),
        ..SuiteResult::default()
    };
    for name in inputs(&folder)? {
        runtime.block_on(run_case(&folder, &name, &mut result));
    }
    Some(result)
}

/// Runs every case of `rest-validation`. `None` where the folder is absent.
#[must_use]
pub fn rest_validation() -> Option<SuiteResult> {
    let folder = cases_dir()?.join("rest-validation");
    let runtime = runtime()?;
    let mut result = SuiteResult {
        name: "rest-validation".to_owned(),
        ..SuiteResult::default()
    };
    for name in inputs(&folder)? {
        match runtime.block_on(run_validation(&folder, &name)) {
            Ok(()) => result.passed += 1,
            Err(problem) => result.failed.push((name, problem)),
        }
    }
    Some(result)
}

fn inputs(folder: &Path) -> Option<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".input.yaml")?.to_owned()))
        .collect();
    names.sort();
    Some(names)
}

fn runtime() -> Option<tokio::runtime::Runtime> {
    // The API has deadlines, so it needs a timer.
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .ok()
}

/// A control plane whose everybody is an administrator, with this content.
fn serve(mode: Mode, zone: Option<&str>, content: &str) -> Result<Router, String> {
    let store = Arc::new(MemoryStore::new(Arc::new(|| jiff::Timestamp::UNIX_EPOCH)));
    let mut batch = Batch::new();
    for document in yaml::documents(content).map_err(|error| error.to_string())? {
        batch = batch.put(parse::stored(&document).map_err(|error| error.to_string())?);
    }
    store.commit_now(batch).map_err(|error| error.to_string())?;
    let mut state = RestState::new(store as Arc<dyn Store>, mode, zone);
    let everybody = Allowed {
        users: Vec::new(),
        groups: vec!["mesh-system:unauthenticated".to_owned()],
    };
    state.access = Arc::new(Access {
        admin_resources: everybody,
        ..Access::default()
    });
    Ok(router(state))
}

async fn call(router: &Router, step: &Step, body: Option<String>) -> Result<(u16, String), String> {
    // The cases write paths as people do; a URI has no brackets.
    let uri = step.path.replace('[', "%5B").replace(']', "%5D");
    let request = Request::builder()
        .method(step.method.as_str())
        .uri(uri)
        .header("host", "localhost:5681")
        .header("content-type", "application/json")
        .body(body.map_or_else(Body::empty, Body::from))
        .map_err(|error| error.to_string())?;
    let response = match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX)
        .await
        .map_err(|error| error.to_string())?;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

async fn run_case(folder: &Path, name: &str, result: &mut SuiteResult) {
    let input = fs::read_to_string(folder.join(format!("{name}.input.yaml"))).unwrap_or_default();
    let steps: Vec<Step> = input.lines().filter_map(step).collect();
    let router = match serve(Mode::StandaloneZone, Some("default"), &input) {
        Ok(router) => router,
        Err(problem) => {
            result.failed.push((name.to_owned(), problem));
            return;
        }
    };
    // What a withheld request would have written is not there for later steps.
    let mut withheld: Vec<&str> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let suffix = if steps.len() == 1 {
            String::new()
        } else {
            format!("_{index:02}")
        };
        let file = |what: &str| {
            let numbered = folder.join(format!("{name}_{index:02}.{what}.json"));
            let plain = folder.join(format!("{name}{suffix}.{what}.json"));
            fs::read_to_string(numbered)
                .or_else(|_| fs::read_to_string(plain))
                .ok()
        };
        let case = format!("{name}{suffix}");
        let body = file("request").or_else(|| stand_in(folder, name, &steps, index));
        if step.method == "PUT" && body.is_none() {
            withheld.push(&step.path);
            result.skipped += 1;
            continue;
        }
        if withheld.contains(&step.path.as_str()) {
            if let Some(body) = body {
                // Whatever it answers without its forerunner, later steps may need what it writes.
                drop(call(&router, step, Some(body)).await);
            }
            result.skipped += 1;
            continue;
        }
        let golden = file("golden");
        let outcome = match call(&router, step, body).await {
            Ok((status, text)) => compare(step.status, golden.as_deref(), status, &text),
            Err(problem) => Err(problem),
        };
        match outcome {
            Ok(()) => result.passed += 1,
            Err(problem) => result.failed.push((case, problem)),
        }
    }
}

/// For a withheld request: what a later GET of the same path answers, without what a server adds.
fn stand_in(folder: &Path, name: &str, steps: &[Step], index: usize) -> Option<String> {
    let step = steps
        .get(index)
        .filter(|step| step.method == "PUT" && step.status < 300)?;
    let later = (index + 1..steps.len()).find(|later| {
        steps
            .get(*later)
            .is_some_and(|later| later.method == "GET" && later.path == step.path)
    })?;
    let answer = fs::read_to_string(folder.join(format!("{name}_{later:02}.golden.json"))).ok()?;
    let mut body: Value = serde_json::from_str(&answer).ok()?;
    for added in [
        "creationTime",
        "modificationTime",
        "kri",
        "snis",
        "labels",
        "status",
    ] {
        body.as_object_mut()?.remove(added);
    }
    Some(body.to_string())
}

/// `#/path CODE method=PUT`.
fn step(line: &str) -> Option<Step> {
    let mut words = line.strip_prefix('#')?.split_whitespace();
    let path = words
        .next()
        .filter(|path| path.starts_with('/'))?
        .to_owned();
    let status = words.next()?.parse().ok()?;
    let method = words
        .find_map(|word| word.strip_prefix("method="))
        .unwrap_or("GET")
        .to_owned();
    Some(Step {
        method,
        path,
        status,
    })
}

fn compare(want_status: u16, golden: Option<&str>, status: u16, text: &str) -> Result<(), String> {
    if status != want_status {
        return Err(format!(
            "status {status} instead of {want_status}: {}",
            text.trim()
        ));
    }
    let Some(golden) = golden else { return Ok(()) };
    let read = |text: &str| serde_json::from_str::<Value>(text);
    match (read(golden), read(text)) {
        (Ok(want), Ok(got)) if want == got => Ok(()),
        (Ok(want), Ok(got)) => Err(format!("wanted {want:#}\ngot {got:#}")),
        _ if golden.trim() == text.trim() => Ok(()),
        _ => Err(format!("wanted {}\ngot {}", golden.trim(), text.trim())),
    }
}

/// `WHERE.TYPE.WHAT.input.yaml` is a PUT; the golden is the status line, an empty line and the body.
async fn run_validation(folder: &Path, name: &str) -> Result<(), String> {
    let read = |what: &str| {
        fs::read_to_string(folder.join(format!("{name}.{what}.yaml"))).map_err(|e| e.to_string())
    };
    let (input, golden) = (read("input")?, read("golden")?);
    let (mode, zone) = match name.split('.').next() {
        Some("global") => (Mode::Global, None),
        Some("zone-uni") => (Mode::FederatedZone, Some("kuma-4")),
        _ => return Err("made for another control plane".to_owned()),
    };
    let documents = yaml::documents(&input).map_err(|error| error.to_string())?;
    let document = documents.into_iter().next().ok_or("no document")?;
    let text = |member: &str| {
        document
            .get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let kind = parse::kind_of(&document).map_err(|error| error.to_string())?;
    let (mesh, resource) = (text("mesh"), text("name"));
    let path = format!("/meshes/{mesh}/{}/{resource}", kind.descriptor().path);
    let router = serve(mode, zone, &format!("type: Mesh\nname: {mesh}\n"))?;
    let (first, rest) = golden.split_once("\n").unwrap_or((golden.as_str(), ""));
    let status = first
        .split_whitespace()
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or("no status")?;
    let step = Step {
        method: "PUT".to_owned(),
        path,
        status,
    };
    let (got, body) = call(&router, &step, Some(document.to_string())).await?;
    compare(status, Some(rest.trim()), got, &body)
}
