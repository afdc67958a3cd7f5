//! Several documents in one request: all are kept in one revision, or none.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::response::Response;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;
use zonal_model::{Form, Key, Kind, Scope, Violation};
use zonal_store::{Batch, Op, Outcome, Revision, Snapshot, StoreError};

use crate::apply::{self, Admitted, Wanted};
use crate::body::{self, BodyError};
use crate::call::Call;
use crate::problem::{DocumentProblem, Problem};
use crate::reply::{self, DRY_RUN_HEADER};
use crate::resources::{Condition, Place, need_writable};
use crate::state::RestState;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    revision: Revision,
    /// Which life of the store counts it.
    epoch: String,
    dry_run: bool,
    outcomes: Vec<DocumentOutcome>,
}

#[derive(Serialize)]
struct DocumentOutcome {
    index: usize,
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(skip_serializing_if = "String::is_empty")]
    mesh: String,
    name: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// One document and what to do with it.
enum Task {
    Put(Value),
    Delete(Value),
}

impl Task {
    const fn document(&self) -> &Value {
        match self {
            Self::Put(document) | Self::Delete(document) => document,
        }
    }
}

/// What became of a document that may be kept.
enum Step {
    Put(Box<Admitted>),
    Delete(Batch),
}

pub(crate) async fn post(state: Arc<RestState>, call: Call) -> Result<Response, Problem> {
    let documents = body::documents(&call.headers, call.body, &state.limits).await;
    let documents = documents.map_err(|error| match error {
        BodyError::Problem(problem) => problem,
        BodyError::Syntax(text) => Problem::bad_request(format!("bad request: {text}")),
    })?;
    let tasks = tasks(documents)?;
    if tasks.len() > state.limits.documents_max {
        return Err(Problem::bad_request(format!(
            "bad request: {} documents in one request, at most {} are taken",
            tasks.len(),
            state.limits.documents_max
        )));
    }
    let dry_run = call.query.flag("dryRun");
    let snapshot = state.store.snapshot();
    let mut problems = Vec::new();
    let places = places(&state, &snapshot, &tasks, &mut problems);
    let mut steps = Vec::new();
    for (index, (task, place)) in tasks.iter().zip(&places).enumerate() {
        let Some(place) = place else { continue };
        let step = match task {
            Task::Put(document) => {
                let wanted = Wanted {
                    place,
                    document,
                    condition: Condition::None,
                };
                apply::admit(&state, &snapshot, &call.user, &wanted)
                    .map(|admitted| Step::Put(Box::new(admitted)))
            }
            Task::Delete(_) => {
                apply::removal(&state, &snapshot, &call.user, place, Condition::None, false)
                    .map(Step::Delete)
            }
        };
        match step {
            Ok(step) => steps.push((index, place.clone(), step)),
            Err(problem) => problems.push(document_problem(index, task, problem)),
        }
    }
    if !problems.is_empty() {
        return Err(refused(problems));
    }
    let revision = keep(&state, &snapshot, &mut steps, dry_run).await?;
    let mut outcomes: Vec<DocumentOutcome> = steps.into_iter().map(outcome).collect();
    outcomes.sort_by_key(|outcome| outcome.index);
    let mut response = reply::json(
        StatusCode::OK,
        &Answer {
            revision,
            epoch: snapshot.epoch().to_string(),
            dry_run,
            outcomes,
        },
    );
    if dry_run {
        response
            .headers_mut()
            .insert(DRY_RUN_HEADER, HeaderValue::from_static("true"));
    }
    Ok(reply::with_revision(response, revision))
}

/// Takes the request apart: a list of resources, one resource, or `{apply, delete}`.
fn tasks(documents: Vec<Value>) -> Result<Vec<Task>, Problem> {
    let mut tasks = Vec::new();
    for document in documents {
        match document {
            Value::Array(many) => tasks.extend(many.into_iter().map(Task::Put)),
            Value::Object(mut members) if !members.contains_key("type") => {
                let many = |value: Option<Value>| match value {
                    None | Some(Value::Null) => Ok(Vec::new()),
                    Some(Value::Array(many)) => Ok(many),
                    Some(_) => Err(Problem::bad_request(
                        "bad request: `apply` and `delete` are lists of resources",
                    )),
                };
                if !members.contains_key("apply") && !members.contains_key("delete") {
                    return Err(Problem::bad_request(
                        "bad request: send resources, a list of them, or `{apply: [...], delete: [...]}`",
                    ));
                }
                tasks.extend(many(members.remove("apply"))?.into_iter().map(Task::Put));
                tasks.extend(
                    many(members.remove("delete"))?
                        .into_iter()
                        .map(Task::Delete),
                );
            }
            Value::Null => {}
            other => tasks.push(Task::Put(other)),
        }
    }
    Ok(tasks)
}

/// Where each document goes; says what is wrong with those that do not say it.
fn places(
    state: &RestState,
    snapshot: &Snapshot,
    tasks: &[Task],
    problems: &mut Vec<DocumentProblem>,
) -> Vec<Option<Place>> {
    let new_meshes: BTreeSet<&str> = tasks
        .iter()
        .filter(|task| matches!(task, Task::Put(_)) && text(task.document(), "type") == "Mesh")
        .map(|task| text(task.document(), "name"))
        .collect();
    let mut seen: BTreeSet<Key> = BTreeSet::new();
    let mut places = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let place = place_of(state, task.document()).and_then(|place| {
            let mesh_is_there = place.kind.descriptor().scope == Scope::Global
                || new_meshes.contains(place.mesh.as_str())
                || snapshot
                    .get(&Key::global(Kind::Mesh, &place.mesh))
                    .is_some();
            if !mesh_is_there {
                return Err(single(
                    "mesh",
                    format!("mesh of name {} is not found", place.mesh),
                ));
            }
            if seen.contains(&place.key()) {
                return Err(single(
                    "name",
                    format!("{} is in this request twice", place.key()),
                ));
            }
            Ok(place)
        });
        match place {
            Ok(place) => {
                seen.insert(place.key());
                places.push(Some(place));
            }
            Err(problem) => {
                problems.push(document_problem(index, task, problem));
                places.push(None);
            }
        }
    }
    places
}

fn place_of(state: &RestState, document: &Value) -> Result<Place, Problem> {
    let kind = text(document, "type");
    let kind: Kind = kind.parse().map_err(|error: zonal_model::UnknownKind| {
        let reason = if kind.is_empty() {
            "cannot be empty".to_owned()
        } else {
            error.to_string()
        };
        single("type", reason)
    })?;
    if kind.descriptor().path.is_empty() {
        return Err(single("type", format!("{kind} has no REST access")));
    }
    need_writable(state, kind)?;
    let mesh = match kind.descriptor().scope {
        Scope::Global => String::new(),
        Scope::Mesh => match text(document, "mesh") {
            // As on the paths of the dialect: only kinds with a schema have a default for it.
            "" if kind.descriptor().form == Form::Plugin => "default".to_owned(),
            "" => return Err(single("mesh", "cannot be empty".to_owned())),
            mesh => mesh.to_owned(),
        },
    };
    let name = text(document, "name");
    if name.is_empty() {
        return Err(single("name", "cannot be empty".to_owned()));
    }
    Ok(Place {
        kind,
        mesh,
        name: name.to_owned(),
    })
}

fn text<'a>(document: &'a Value, member: &str) -> &'a str {
    document
        .get(member)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn single(field: &str, reason: String) -> Problem {
    Problem::invalid_field(crate::problem::Title::Process, field, reason)
}

fn document_problem(index: usize, task: &Task, problem: Problem) -> DocumentProblem {
    let document = task.document();
    DocumentProblem {
        index,
        kind: text(document, "type").to_owned(),
        mesh: text(document, "mesh").to_owned(),
        name: text(document, "name").to_owned(),
        detail: problem.detail.trim_end().to_owned(),
        violations: problem.violations,
    }
}

/// The answer when anything is wrong: each document's problems, and all of them in one list for clients that know
/// only that.
fn refused(mut documents: Vec<DocumentProblem>) -> Problem {
    documents.sort_by_key(|document| document.index);
    let mut violations = Vec::new();
    for document in &documents {
        let at = format!("[{}]", document.index);
        if document.violations.is_empty() {
            violations.push(Violation {
                field: at,
                message: document.detail.clone(),
            });
        } else {
            violations.extend(document.violations.iter().map(|violation| Violation {
                field: if violation.field.is_empty() {
                    at.clone()
                } else {
                    format!("{at}.{}", violation.field)
                },
                message: violation.message.clone(),
            }));
        }
    }
    let detail = format!(
        "{} of the documents are not valid; nothing was kept",
        documents.len()
    );
    Problem {
        violations,
        documents,
        ..Problem::new(
            StatusCode::BAD_REQUEST,
            "Could not process a resource",
            detail,
        )
    }
}

/// Keeps everything in one commit. Meshes go first, so that what goes along with a new mesh finds it.
async fn keep(
    state: &RestState,
    snapshot: &Snapshot,
    steps: &mut [(usize, Place, Step)],
    dry_run: bool,
) -> Result<Revision, Problem> {
    steps.sort_by_key(|(index, place, step)| {
        (
            matches!(step, Step::Delete(_)),
            place.kind != Kind::Mesh,
            *index,
        )
    });
    let own: BTreeSet<Key> = steps.iter().map(|(_, place, _)| place.key()).collect();
    let put = steps.iter().filter_map(|(_, _, step)| match step {
        Step::Put(admitted) => Some(&admitted.resource.key),
        Step::Delete(_) => None,
    });
    let mut ops: Vec<Op> = apply::mesh_guards(snapshot, put, &own);
    for (_, _, step) in steps.iter() {
        match step {
            Step::Put(admitted) => {
                ops.extend(apply::add_along(snapshot, admitted.along.clone(), &own));
                ops.push(Op::Put {
                    resource: admitted.resource.clone(),
                    expect: admitted.expect,
                });
            }
            Step::Delete(batch) => ops.extend(batch.ops.iter().cloned()),
        }
    }
    if dry_run {
        return Ok(snapshot.revision());
    }
    let committed = state.store.commit(Batch { ops }).await;
    committed
        .map(|committed| committed.revision)
        .map_err(|error: StoreError| Problem::store(&error, false))
}

fn outcome((index, place, step): (usize, Place, Step)) -> DocumentOutcome {
    let (outcome, warnings) = match step {
        Step::Put(admitted) => {
            let outcome = match &admitted.existing {
                None => Outcome::Created,
                Some(existing) if admitted.resource.differs(&existing.resource) => Outcome::Updated,
                Some(_) => Outcome::Unchanged,
            };
            (outcome, admitted.warnings)
        }
        Step::Delete(_) => (Outcome::Removed, Vec::new()),
    };
    let outcome = match outcome {
        Outcome::Created => "created",
        Outcome::Updated => "updated",
        Outcome::Unchanged => "unchanged",
        Outcome::Removed => "removed",
    };
    DocumentOutcome {
        index,
        kind: place.kind,
        mesh: place.mesh,
        name: place.name,
        outcome,
        warnings,
    }
}
