//! `zonal zone`: the life of a zone, as its record at global says it.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::address::Address;
use crate::arguments::{Format, Zone, ZoneAction, ZoneChange, ZoneJoinToken};
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::output::Terminal;
use crate::token::validity;
use crate::wait::{self, Written};

/// The label of a zone that the others are not told how to reach.
const DRAINED: &str = zonal_model::labels::DRAINED;

/// How often a change is tried again because somebody else changed the record meanwhile.
const TRIES_MAX: usize = 8;

pub(crate) async fn run(
    options: &Zone,
    address: &Address,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let started = terminal.clock().now();
    let client = address.client()?;
    let (change, done) = match &options.action {
        ZoneAction::JoinToken(options) => return join_token(options, &client, terminal).await,
        ZoneAction::Create(change) => (change, create(&client, &change.name).await?),
        ZoneAction::Delete(change) => (change, delete(&client, &change.name).await?),
        ZoneAction::Disable(change) => {
            let done = alter(&client, &change.name, "disabled", |zone| {
                zone.insert("enabled".to_owned(), Value::Bool(false));
            });
            (change, done.await?)
        }
        ZoneAction::Enable(change) => {
            let done = alter(&client, &change.name, "enabled", |zone| {
                zone.insert("enabled".to_owned(), Value::Bool(true));
            });
            (change, done.await?)
        }
        ZoneAction::Drain(change) => {
            let done = alter(&client, &change.name, "drained", |zone| {
                labels(zone, |labels| {
                    labels.insert(DRAINED.to_owned(), Value::from("true"));
                });
            });
            (change, done.await?)
        }
        ZoneAction::Undrain(change) => {
            let done = alter(&client, &change.name, "undrained", |zone| {
                labels(zone, |labels| {
                    labels.remove(DRAINED);
                });
            });
            (change, done.await?)
        }
    };
    let Done { outcome, revision } = done;
    let ZoneChange {
        name,
        waiting,
        output,
    } = change;
    let written = Written {
        started,
        revision,
        epoch: Value::Null,
        resources: vec![json!({"type": "Zone", "mesh": "", "name": name, "outcome": outcome})],
        lines: vec![format!("{outcome:<11} Zone {name}")],
    };
    wait::finish(written, waiting, output.format, &client, terminal).await
}

/// The variable by which a zone's control plane takes the token: a command line would show it to the whole machine.
const VARIABLE: &str = "ZONAL_MULTIZONE_ZONE_JOIN_TOKEN";

async fn join_token(
    options: &ZoneJoinToken,
    client: &Client,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let ZoneJoinToken {
        name,
        valid_for,
        global,
        output,
    } = options;
    let global = global.clone().unwrap_or_else(|| host(client.url()));
    let body = json!({"zone": name, "validFor": validity(*valid_for), "global": global});
    let call = Call::new(Method::POST, ["tokens", "zone-join"]).body(&body);
    let (mut answer, _) = client.json(call).await?;
    let text = |answer: &Value, member: &str| {
        let text = answer.get(member).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let command = format!("{VARIABLE}={} zone-cp", text(&answer, "token"));
    let (found, expires) = (text(&answer, "global"), text(&answer, "expires"));
    if let Some(members) = answer.as_object_mut() {
        members.insert("command".to_owned(), Value::from(command.clone()));
    }
    terminal.print_as(output.format, &answer, || command)?;
    if matches!(output.format, Format::Table | Format::Wide) {
        terminal.note(&format!(
            "good once, until {expires}; zone `{name}` will look for global at {found}"
        ));
        if is_loopback(&global) {
            terminal
                .note("that is this machine only: from another one, name a host with `--global`");
        }
    }
    Ok(Exit::Done)
}

/// The host of an address, without scheme, port and path.
fn host(url: &str) -> String {
    let host = reqwest::Url::parse(url).ok();
    let host = host.as_ref().and_then(reqwest::Url::host_str);
    host.unwrap_or_default().trim_matches(['[', ']']).to_owned()
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// What became of the record.
struct Done {
    outcome: &'static str,
    revision: Option<u64>,
}

async fn create(client: &Client, name: &str) -> Result<Done, Failure> {
    let body = json!({"type": "Zone", "name": name, "enabled": true});
    let call = Call::new(Method::PUT, ["zones", name])
        .body(&body)
        .only_if_absent();
    let answer = client.send(call).await?;
    match answer.status {
        412 => Err(Failure::new(format!("zone `{name}` exists already"))
            .hint(format!("`zonal get zone {name}` shows it"))),
        _ if answer.is_success() => Ok(Done {
            outcome: "created",
            revision: answer.revision,
        }),
        _ => Err(client.refused(&answer)),
    }
}

/// As `zonal delete zone`, but for zones that are connected too.
async fn delete(client: &Client, name: &str) -> Result<Done, Failure> {
    let call = Call::new(Method::DELETE, ["zones", name]).query("force", "true");
    let answer = client.send(call).await?;
    if answer.status == 404 && answer.value().is_some() {
        return Err(unknown(name));
    }
    if !answer.is_success() {
        return Err(client.refused(&answer));
    }
    Ok(Done {
        outcome: "removed",
        revision: answer.revision,
    })
}

/// Reads the record, changes it, and writes it if nobody else did meanwhile.
async fn alter(
    client: &Client,
    name: &str,
    outcome: &'static str,
    change: impl Fn(&mut Map<String, Value>),
) -> Result<Done, Failure> {
    for _ in 0..TRIES_MAX {
        let found = client.send(Call::get(["zones", name])).await?;
        if found.status == 404 && found.value().is_some() {
            return Err(unknown(name));
        }
        if !found.is_success() {
            return Err(client.refused(&found));
        }
        let Some(Value::Object(before)) = found.value() else {
            return Err(Failure::new(format!(
                "`{}` does not answer in JSON",
                client.url()
            )));
        };
        let mut zone = before.clone();
        change(&mut zone);
        if zone == before {
            return Ok(Done {
                outcome: "unchanged",
                revision: found.revision,
            });
        }
        let body = Value::Object(zone);
        let mut call = Call::new(Method::PUT, ["zones", name]).body(&body);
        if let Some(etag) = &found.etag {
            call = call.only_if(etag);
        }
        let answer = client.send(call).await?;
        match answer.status {
            409 | 412 => {}
            _ if answer.is_success() => {
                return Ok(Done {
                    outcome,
                    revision: answer.revision,
                });
            }
            _ => return Err(client.refused(&answer)),
        }
    }
    Err(Failure::new(format!(
        "zone `{name}` is changed by somebody else all the time; nothing was changed"
    ))
    .hint("try again"))
}

fn labels(zone: &mut Map<String, Value>, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut labels = match zone.remove("labels") {
        Some(Value::Object(labels)) => labels,
        _ => Map::new(),
    };
    change(&mut labels);
    if !labels.is_empty() {
        zone.insert("labels".to_owned(), Value::Object(labels));
    }
}

fn unknown(name: &str) -> Failure {
    Failure::new(format!("there is no zone `{name}`")).hint("`zonal inspect zones` lists them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_is_looked_for_at_the_host_that_answers_here() {
        assert_eq!(host("https://global.example:5682"), "global.example");
        assert_eq!(host("http://[::1]:5681"), "::1");
        assert_eq!(host("http://10.0.0.1:5681/"), "10.0.0.1");
        assert!(is_loopback("localhost") && is_loopback("::1") && is_loopback("127.0.0.1"));
        assert!(!is_loopback("global.example") && !is_loopback("10.0.0.1"));
    }
}
