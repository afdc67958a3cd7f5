//! `zonal delete`.

use reqwest::Method;
use serde_json::{Value, json};
use zonal_model::Scope;

use crate::address::Address;
use crate::arguments::Delete;
use crate::client::Call;
use crate::documents::Naming;
use crate::failure::{Exit, Failure};
use crate::kinds;
use crate::output::Terminal;
use crate::wait::{self, Written};

pub(crate) async fn run(
    options: &Delete,
    address: &Address,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let started = terminal.clock().now();
    let kind = kinds::parse(&options.kind)?;
    let client = address.client()?;
    let mesh = match kind.descriptor().scope {
        Scope::Global => "",
        Scope::Mesh => address.mesh(options.mesh.as_deref()),
    };
    let naming = Naming(kind.name(), mesh, &options.name);
    let mut path = kinds::collection(kind, Some(mesh));
    path.push(options.name.clone());
    let answer = client
        .send(Call::new(Method::DELETE, path.iter().map(String::as_str)))
        .await?;
    if answer.status == 404 && answer.value().is_some() {
        return Err(Failure::new(format!("{naming} does not exist")));
    }
    if !answer.is_success() {
        return Err(client.refused(&answer));
    }
    let resource =
        json!({"type": kind.name(), "mesh": mesh, "name": options.name, "outcome": "removed"});
    let written = Written {
        started,
        revision: answer.revision,
        epoch: Value::Null,
        resources: vec![resource],
        lines: vec![format!("removed     {naming}")],
    };
    wait::finish(
        written,
        &options.waiting,
        options.output.format,
        &client,
        terminal,
    )
    .await
}
