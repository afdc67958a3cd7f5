//! `zonal apply`: documents in, one revision out.

use reqwest::Method;
use serde_json::{Value, json};
use zonal_model::Kind;

use crate::arguments::Apply;
use crate::client::{Answer, Call, Client, violations};
use crate::documents::{Document, Naming};
use crate::failure::{Exit, Failure};
use crate::kinds;
use crate::output::Terminal;
use crate::wait::{self, Written};

pub(crate) async fn run(
    options: &Apply,
    documents: &[Document],
    client: &Client,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let started = terminal.clock().now();
    let body = documents
        .iter()
        .map(|document| document.value.clone())
        .collect();
    let mut call = Call::new(Method::POST, ["_batch"]).body(&body);
    if options.dry_run {
        call = call.query("dryRun", "true");
    }
    let answer = client.send(call).await?;
    let outcomes = if answer.is_success() {
        outcomes(&answer)
    } else if takes_no_batches(&answer) {
        check_possible(options, client)?;
        one_by_one(documents, client, terminal).await?
    } else {
        return Err(refusal(&answer, documents, client));
    };
    for outcome in &outcomes {
        for warning in &outcome.warnings {
            terminal.note(&format!("warning: {}: {warning}", outcome.naming()));
        }
    }
    let written = Written {
        started,
        revision: answer.revision.filter(|_| answer.is_success()),
        epoch: answer
            .value()
            .and_then(|mut body| body.get_mut("epoch").map(Value::take))
            .into(),
        resources: outcomes.iter().map(Outcome::value).collect(),
        lines: outcomes
            .iter()
            .map(|outcome| outcome.line(options.dry_run))
            .collect(),
    };
    wait::finish(
        written,
        &options.waiting,
        options.output.format,
        client,
        terminal,
    )
    .await
}

/// What became of one document.
#[derive(Debug)]
struct Outcome {
    kind: String,
    mesh: String,
    name: String,
    outcome: String,
    warnings: Vec<String>,
}

impl Outcome {
    fn naming(&self) -> Naming<'_> {
        Naming(&self.kind, &self.mesh, &self.name)
    }

    fn value(&self) -> Value {
        json!({
            "type": self.kind,
            "mesh": self.mesh,
            "name": self.name,
            "outcome": self.outcome,
            "warnings": self.warnings,
        })
    }

    fn line(&self, dry_run: bool) -> String {
        match (dry_run, self.outcome.as_str()) {
            (false, outcome) => format!("{outcome:9}   {}", self.naming()),
            (true, "unchanged") => format!("{:16}   {}", "unchanged", self.naming()),
            (true, outcome) => format!("{:16}   {}", format!("would be {outcome}"), self.naming()),
        }
    }
}

fn outcomes(answer: &Answer) -> Vec<Outcome> {
    let body = answer.value().unwrap_or_default();
    let outcomes = body
        .get("outcomes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    outcomes
        .map(|outcome| {
            let text = |member: &str| {
                outcome
                    .get(member)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            Outcome {
                kind: text("type"),
                mesh: text("mesh"),
                name: text("name"),
                outcome: text("outcome"),
                warnings: warnings(outcome),
            }
        })
        .collect()
}

fn warnings(value: &Value) -> Vec<String> {
    let warnings = value
        .get("warnings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    warnings
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Every violation with its document, its resource and its field.
fn refusal(answer: &Answer, documents: &[Document], client: &Client) -> Failure {
    let body = answer.value().unwrap_or_default();
    let Some(problems) = body.get("documents").and_then(Value::as_array) else {
        return client.refused(answer);
    };
    let mut details = Vec::new();
    for problem in problems {
        let index = problem
            .get("index")
            .and_then(Value::as_u64)
            .and_then(|at| usize::try_from(at).ok());
        let at = index.and_then(|at| documents.get(at)).map_or_else(
            || "a document".to_owned(),
            |document| format!("`{}`: {document}", document.place),
        );
        let lines = violations(problem);
        if lines.is_empty() {
            let detail = problem
                .get("detail")
                .and_then(Value::as_str)
                .unwrap_or("not valid");
            details.push(format!("{at}: {}", detail.trim()));
        }
        details.extend(lines.into_iter().map(|line| format!("{at}: {line}")));
    }
    let many = if documents.len() == 1 {
        "the resource was refused".to_owned()
    } else {
        format!(
            "{} of {} resources were refused",
            problems.len(),
            documents.len()
        )
    };
    Failure::new(format!("{many}; nothing was changed")).details(details)
}

/// Whether this is a control plane of another make, which has no such page.
fn takes_no_batches(answer: &Answer) -> bool {
    matches!(answer.status, 404 | 405) && !answer.value().is_some_and(|body| body.is_object())
}

/// What such a control plane cannot do is said before anything is changed.
fn check_possible(options: &Apply, client: &Client) -> Result<(), Failure> {
    if options.dry_run {
        return Err(Failure::new(format!(
            "the control plane at `{}` cannot try a change; nothing was sent",
            client.url()
        )));
    }
    if options.waiting.wait.is_some() {
        return Err(wait::without_revisions(client));
    }
    Ok(())
}

/// Without batches each document is a request, and the first refusal leaves those before it in place.
async fn one_by_one(
    documents: &[Document],
    client: &Client,
    terminal: &mut Terminal,
) -> Result<Vec<Outcome>, Failure> {
    if documents.len() > 1 {
        terminal.note("note: this control plane takes one resource at a time");
    }
    let mut places = Vec::new();
    for document in documents {
        let kind: Kind = document
            .text("type")
            .parse()
            .map_err(|error| Failure::new(format!("`{}`: {error}", document.place)))?;
        let mesh = Some(document.text("mesh")).filter(|mesh| !mesh.is_empty());
        let mut path = kinds::collection(kind, mesh.or(Some("default")));
        path.push(document.text("name").to_owned());
        places.push(path);
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (document, path) in documents.iter().zip(&places) {
        let call = Call::new(Method::PUT, path.iter().map(String::as_str)).body(&document.value);
        let answer = client.send(call).await?;
        if !answer.is_success() {
            let mut failure = client.refused(&answer);
            failure.sentence = format!("`{}`: {document}: {}", document.place, failure.sentence);
            let kept = outcomes
                .iter()
                .map(|kept| format!("kept before it: {}", kept.naming()));
            failure.details.extend(kept);
            return Err(failure);
        }
        outcomes.push(Outcome {
            kind: document.text("type").to_owned(),
            mesh: document.text("mesh").to_owned(),
            name: document.text("name").to_owned(),
            outcome: if answer.status == 201 {
                "created"
            } else {
                "updated"
            }
            .to_owned(),
            warnings: warnings(&answer.value().unwrap_or_default()),
        });
    }
    Ok(outcomes)
}
