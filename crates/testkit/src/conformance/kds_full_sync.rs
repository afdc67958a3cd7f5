//! Suite `kds-full-sync`: a global and two zones, loaded with a case's resources and connected, end up with what a
//! federation of Kuma ends up with.
//!
//! Our own extension, trust that spreads by itself, is off here. Times, versions and the details of connections are not
//! compared, and neither is the difference between an empty object and an absent one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use zonal_federation::Border;
use zonal_model::{Kind, Resource, parse, yaml};
use zonal_store::{MemoryStore, Snapshot};
use zone_cp::kds::NoEnvoyAdmin;

use super::{SuiteResult, cases_dir};
use crate::federation::{Global, Zone, put, store, until};

/// Runs the suite; `None` where the cases or a runtime are not to be had.
#[must_use]
pub fn kds_full_sync() -> Option<SuiteResult> {
    let folder = cases_dir()?.join("kds-full-sync");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let mut result = SuiteResult::new("kds-full-sync");
    let mut cases: Vec<_> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    cases.sort();
    for case in cases.into_iter().filter(|path| path.is_dir()) {
        let name = case
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        result.count(name, runtime.block_on(run(&case)));
    }
    Some(result)
}

async fn run(case: &Path) -> Result<(), String> {
    let border = || Border {
        trust_spreads: false,
        ..Border::default()
    };
    let loaded = |place: &str| load(&case.join(format!("{place}.input.yaml")));
    let (at_global, in_east, in_west) = (loaded("global")?, loaded("zone-1")?, loaded("zone-2")?);
    let global = Global::start(at_global, border()).await;
    let admin = Arc::new(NoEnvoyAdmin);
    let east = Zone::join_with("zone-1", in_east, global.addr, border(), admin.clone()).await;
    let west = Zone::join_with("zone-2", in_west, global.addr, border(), admin).await;
    let places = [
        ("global", &global.store),
        ("zone-1", &east.store),
        ("zone-2", &west.store),
    ];
    for (place, store) in places {
        compare(place, store, &case.join(format!("{place}.golden.yaml"))).await?;
    }
    Ok(())
}

fn load(path: &Path) -> Result<Arc<MemoryStore>, String> {
    let store = store();
    put(
        &store,
        documents(path)?
            .iter()
            .map(read)
            .collect::<Result<Vec<_>, _>>()?,
    );
    Ok(store)
}

fn documents(path: &Path) -> Result<Vec<Value>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let documents = yaml::documents(&text).map_err(|error| error.to_string())?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

fn read(document: &Value) -> Result<Resource, String> {
    parse::stored(document).map_err(|error| error.to_string())
}

async fn compare(place: &str, store: &MemoryStore, golden: &Path) -> Result<(), String> {
    let wanted: BTreeMap<String, Value> = documents(golden)?
        .into_iter()
        .map(|document| entry(&document))
        .collect();
    let mut last = String::new();
    let agreed = until(store, |snapshot| {
        last = differences(place, &wanted, &dump(snapshot));
        if last.is_empty() {
            Ok(())
        } else {
            Err(last.clone())
        }
    });
    let patience = std::time::Duration::from_secs(30);
    match tokio::time::timeout(patience, agreed).await {
        Ok(()) => Ok(()),
        Err(_) => Err(last),
    }
}

fn dump(snapshot: &Snapshot) -> BTreeMap<String, Value> {
    snapshot
        .all()
        .filter_map(|stored| serde_json::to_value(stored.resource.to_rest()).ok())
        .map(|document| entry(&document))
        .collect()
}

/// What is compared of a resource, under what it is.
fn entry(document: &Value) -> (String, Value) {
    let text = |member: &str| {
        document
            .get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let key = format!("{} {}/{}", text("type"), text("mesh"), text("name"));
    let mut document = document.clone();
    if let Some(members) = document.as_object_mut() {
        for time in ["creationTime", "modificationTime"] {
            members.remove(time);
        }
        if text_is(members.get("type"), Kind::ZoneInsight.name()) {
            members.remove("subscriptions");
            members.remove("kdsStreams");
            if let Some(check) = members.get_mut("healthCheck") {
                *check = json!({"time": "some time"});
            }
        }
    }
    drop_empty(&mut document);
    (key, document)
}

fn text_is(value: Option<&Value>, text: &str) -> bool {
    value.and_then(Value::as_str) == Some(text)
}

fn drop_empty(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(drop_empty);
            members.retain(|_, member| !matches!(member, Value::Object(inner) if inner.is_empty()));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

fn differences(
    place: &str,
    wanted: &BTreeMap<String, Value>,
    found: &BTreeMap<String, Value>,
) -> String {
    let mut lines = Vec::new();
    for (key, want) in wanted {
        match found.get(key) {
            None => lines.push(format!("{place}: {key} is missing")),
            Some(got) if got != want => {
                lines.push(format!("{place}: {key}\n  want {want}\n  got  {got}"));
            }
            Some(_) => {}
        }
    }
    for key in found.keys().filter(|key| !wanted.contains_key(*key)) {
        lines.push(format!("{place}: {key} should not be there"));
    }
    lines.join("\n")
}
