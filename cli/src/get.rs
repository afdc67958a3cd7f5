//! `zonal get`: resources as they are kept.

use jiff::Timestamp;
use serde_json::{Value, json};
use zonal_model::{Kind, Kri, Scope};

use crate::address::Address;
use crate::arguments::{Format, Get};
use crate::client::Call;
use crate::documents::Naming;
use crate::failure::{Exit, Failure};
use crate::kinds;
use crate::output::Terminal;
use crate::table::{Table, ago};

pub(crate) async fn run(
    options: &Get,
    address: &Address,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let kind = kinds::parse(&options.kind)?;
    let client = address.client()?;
    let mesh = (!options.all_meshes).then(|| address.mesh(options.mesh.as_deref()));
    let path = kinds::collection(kind, mesh);
    if let Some(name) = &options.name {
        let path = match name.starts_with("kri_") {
            true => by_identifier(kind, name)?,
            false => path.into_iter().chain([name.clone()]).collect(),
        };
        let answer = client
            .send(Call::get(path.iter().map(String::as_str)))
            .await?;
        if answer.status == 404 && answer.value().is_some() {
            let mesh = match kind.descriptor().scope {
                Scope::Mesh if !name.starts_with("kri_") => mesh.unwrap_or_default(),
                Scope::Mesh | Scope::Global => "",
            };
            return Err(Failure::new(format!(
                "{} does not exist",
                Naming(kind.name(), mesh, name)
            ))
            .hint(format!(
                "`zonal get {}` lists what there is",
                kind.descriptor().path
            )));
        }
        let resource = answer.value().filter(|_| answer.is_success());
        let resource = resource.ok_or_else(|| client.refused(&answer))?;
        print(kind, &[resource], true, options.output.format, terminal)?;
        return Ok(Exit::Done);
    }
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let query: Vec<(String, String)> = options
        .labels
        .iter()
        .map(|(key, value)| (format!("filter[labels.{key}]"), value.clone()))
        .collect();
    let items = client.list(&path, &query).await?;
    print(kind, &items, false, options.output.format, terminal)?;
    Ok(Exit::Done)
}

fn by_identifier(kind: Kind, name: &str) -> Result<Vec<String>, Failure> {
    let kri: Kri = name
        .parse()
        .map_err(|error| Failure::new(format!("`{name}` is no identifier: {error}")))?;
    if kri.kind != kind {
        return Err(Failure::new(format!(
            "`{name}` is a {}, not a {kind}",
            kri.kind
        )));
    }
    Ok(vec!["_kri".to_owned(), name.to_owned()])
}

fn print(
    kind: Kind,
    items: &[Value],
    single: bool,
    format: Format,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    match (format, items) {
        (Format::Json, [item]) if single => terminal.print_json(item),
        (Format::Json, items) => {
            terminal.print_json(&json!({"total": items.len(), "items": items, "next": null}))
        }
        (Format::Yaml, items) => terminal.print_yaml(&items.iter().collect::<Vec<_>>()),
        (Format::Table | Format::Wide, []) => {
            terminal.note(&format!("there are no {}", kind.descriptor().path));
            Ok(())
        }
        (Format::Table | Format::Wide, items) => {
            let now = terminal.clock().wall();
            let table = table(kind, items, format == Format::Wide, now);
            terminal.print(table.render().trim_end())
        }
    }
}

fn table(kind: Kind, items: &[Value], wide: bool, now: Timestamp) -> Table {
    let text = |item: &Value, member: &str| {
        item.get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let in_mesh = kind.descriptor().scope == Scope::Mesh;
    let before = columns(kind);
    let after: Vec<Column> = if wide {
        let all: [Column; 4] = [
            ("DISPLAY NAME", display_name),
            ("ZONE", zone),
            ("ORIGIN", origin),
            ("LABELS", other_labels),
        ];
        let is_new = |column: &Column| before.iter().all(|known| known.0 != column.0);
        all.into_iter().filter(is_new).collect()
    } else {
        Vec::new()
    };
    let mut head = if in_mesh {
        vec!["MESH", "NAME"]
    } else {
        vec!["NAME"]
    };
    head.extend(before.iter().map(|(name, _)| *name));
    head.push("AGE");
    head.extend(after.iter().map(|(name, _)| *name));
    let mut table = Table::with_head(head.into_iter().map(str::to_owned).collect());
    for item in items {
        let mut row = if in_mesh {
            vec![text(item, "mesh")]
        } else {
            Vec::new()
        };
        row.push(text(item, "name"));
        row.extend(before.iter().map(|(_, cell)| cell(item)));
        row.push(ago(
            item.get("modificationTime").and_then(Value::as_str),
            now,
        ));
        row.extend(after.iter().map(|(_, cell)| cell(item)));
        table.row(row);
    }
    table
}

type Column = (&'static str, fn(&Value) -> String);

/// What is worth a column beside name and age.
fn columns(kind: Kind) -> Vec<Column> {
    match kind {
        Kind::Dataplane => vec![("ADDRESS", dataplane_address), ("WORKLOAD", workload)],
        Kind::Zone => vec![("ENABLED", enabled)],
        Kind::MeshService => vec![("ZONE", zone), ("PORTS", spec_ports)],
        Kind::MeshMultiZoneService => vec![("PORTS", spec_ports)],
        Kind::MeshZoneAddress => vec![("ZONE", zone), ("ADDRESS", zone_address)],
        _ if kind.descriptor().policy.is_some() => vec![("TARGET", target), ("ORIGIN", origin)],
        _ => Vec::new(),
    }
}

pub(crate) fn label(item: &Value, name: &str) -> String {
    let label = item
        .get("labels")
        .and_then(|labels| labels.get(name))
        .and_then(Value::as_str);
    label.unwrap_or_default().to_owned()
}

pub(crate) fn zone(item: &Value) -> String {
    label(item, "kuma.io/zone")
}

fn display_name(item: &Value) -> String {
    label(item, "kuma.io/display-name")
}

fn workload(item: &Value) -> String {
    label(item, "kuma.io/workload")
}

/// `global`, or the zone.
fn origin(item: &Value) -> String {
    match label(item, "kuma.io/origin").as_str() {
        "zone" => Some(zone(item))
            .filter(|zone| !zone.is_empty())
            .unwrap_or("zone".to_owned()),
        other => other.to_owned(),
    }
}

fn dataplane_address(item: &Value) -> String {
    let address = item.pointer("/networking/address").and_then(Value::as_str);
    address.unwrap_or_default().to_owned()
}

/// Zones are enabled unless they say otherwise.
fn enabled(item: &Value) -> String {
    let off = item.get("enabled").and_then(Value::as_bool) == Some(false);
    if off { "no" } else { "yes" }.to_owned()
}

fn zone_address(item: &Value) -> String {
    let text = |pointer: &str| match item.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    format!("{}:{}", text("/spec/address"), text("/spec/port"))
}

/// Whom a policy touches, e.g. `Dataplane kuma.io/workload=api`.
fn target(item: &Value) -> String {
    let Some(target) = item.pointer("/spec/targetRef") else {
        return "Mesh".to_owned();
    };
    let kind = target.get("kind").and_then(Value::as_str).unwrap_or("Mesh");
    let name = target.get("name").and_then(Value::as_str);
    let labels = target
        .get("labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let labels = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let words: Vec<String> = name.map(str::to_owned).into_iter().chain(labels).collect();
    format!("{kind} {}", words.join(",")).trim_end().to_owned()
}

fn spec_ports(item: &Value) -> String {
    ports(item.pointer("/spec/ports"))
}

/// `8080/http,5432/tcp`.
pub(crate) fn ports(ports: Option<&Value>) -> String {
    let ports = ports.and_then(Value::as_array).into_iter().flatten();
    let words: Vec<String> = ports
        .map(|port| {
            let number = port.get("port").map(Value::to_string).unwrap_or_default();
            let protocol = port
                .get("appProtocol")
                .and_then(Value::as_str)
                .unwrap_or("tcp");
            format!("{number}/{protocol}")
        })
        .collect();
    words.join(",")
}

fn other_labels(item: &Value) -> String {
    const SHOWN: [&str; 3] = ["kuma.io/display-name", "kuma.io/zone", "kuma.io/origin"];
    let labels = item
        .get("labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let words: Vec<String> = labels
        .filter(|(key, _)| !SHOWN.contains(&key.as_str()))
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, item: &Value, wide: bool, want: &str) {
        let now = "2026-01-10T00:00:00Z".parse().unwrap();
        assert_eq!(
            table(kind, std::slice::from_ref(item), wide, now).render(),
            want
        );
    }

    #[test]
    fn tables_show_what_people_look_for() {
        let item = json!({
            "type": "MeshTimeout", "mesh": "default", "name": "slow", "modificationTime": "2026-01-09T23:00:00Z",
            "labels": {"kuma.io/origin": "zone", "kuma.io/zone": "east", "kuma.io/display-name": "slow", "a": "b"},
            "spec": {"targetRef": {"kind": "Dataplane", "labels": {"kuma.io/workload": "api"}}},
        });
        check(
            Kind::MeshTimeout,
            &item,
            false,
            "MESH      NAME   TARGET                           ORIGIN   AGE\n\
             default   slow   Dataplane kuma.io/workload=api   east     1h\n",
        );
        check(
            Kind::MeshTimeout,
            &json!({"mesh": "m", "name": "n"}),
            true,
            "MESH   NAME   TARGET   ORIGIN   AGE     DISPLAY NAME   ZONE   LABELS\n\
             m      n      Mesh     -        never   -              -      -\n",
        );
        let zone =
            json!({"name": "east", "enabled": false, "modificationTime": "2026-01-10T00:00:00Z"});
        check(
            Kind::Zone,
            &zone,
            false,
            "NAME   ENABLED   AGE\neast   no        0s\n",
        );
        let service = json!({
            "mesh": "m", "name": "api", "labels": {"kuma.io/zone": "east"},
            "spec": {"ports": [{"port": 8080, "appProtocol": "http"}, {"port": 5432}]},
        });
        check(
            Kind::MeshService,
            &service,
            false,
            "MESH   NAME   ZONE   PORTS                AGE\n\
             m      api    east   8080/http,5432/tcp   never\n",
        );
    }
}
