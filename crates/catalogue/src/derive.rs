//! The resources that a zone makes out of its dataplanes: one MeshService and one Workload per workload label.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use zonal_model::{Json, Key, Kind, Labels, Resource, labels};

use crate::dataplane::DataplaneRecord;
use crate::service::is_local;

/// One write to the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Keep this.
    Put(Resource),
    /// Remove that.
    Remove(Key),
}

/// How services are made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The zone that makes them.
    pub zone: String,
    /// How long a service without proxies is kept, so that a restart of all of them does not lose its address.
    pub deletion_grace_period: Duration,
}

/// Who makes services.
pub const SERVICE_GENERATOR: &str = "meshservice-generator";
/// Who makes workloads.
pub const WORKLOAD_GENERATOR: &str = "workload-generator";

/// What has to be written so that each workload of a mesh has its MeshService.
///
/// Given all dataplanes and stored MeshServices of the mesh it looks after everything; given those of some workloads it
/// looks after these. Where ports change, state, identities, status and with them the virtual address stay.
#[must_use]
pub fn mesh_services(
    mesh: &str,
    dataplanes: &[&Resource],
    stored: &[&Resource],
    now: Timestamp,
    settings: &Settings,
) -> Vec<Op> {
    let mut wanted: BTreeMap<&str, Vec<(&Resource, Vec<Value>)>> = BTreeMap::new();
    for dataplane in dataplanes {
        let Some(workload) = workload_of(dataplane, mesh) else {
            continue;
        };
        let ports = ports_of(dataplane);
        if !ports.is_empty() {
            wanted.entry(workload).or_default().push((dataplane, ports));
        }
    }
    let stored: BTreeMap<&str, &Resource> = stored
        .iter()
        .filter(|service| *service.key.mesh == *mesh && service.key.kind == Kind::MeshService)
        .map(|service| (&*service.key.name, *service))
        .collect();

    let mut ops = Vec::new();
    for (workload, group) in &mut wanted {
        group.sort_by(|(a, _), (b, _)| {
            (a.meta.creation_time, &a.key.name).cmp(&(b.meta.creation_time, &b.key.name))
        });
        let before = stored.get(workload).copied();
        if before.is_some_and(|service| !is_ours(service)) {
            continue;
        }
        let Some(after) = wanted_service(mesh, workload, group, before, settings) else {
            continue;
        };
        if before.is_none_or(|before| before.differs(&after)) {
            ops.push(Op::Put(after));
        }
    }
    for (name, service) in stored {
        if !wanted.contains_key(name) && is_ours(service) {
            ops.extend(without_proxies(
                service,
                now,
                settings.deletion_grace_period,
            ));
        }
    }
    ops
}

/// When the next service without proxies has to be removed: when to ask [`mesh_services`] again if nothing changes.
#[must_use]
pub fn next_removal(stored: &[&Resource], settings: &Settings) -> Option<Timestamp> {
    stored
        .iter()
        .filter(|service| is_ours(service))
        .filter_map(|service| removal_of(service, settings.deletion_grace_period))
        .min()
}

/// What has to be written so that each workload label of a mesh has its Workload, and no other has one.
///
/// Given all dataplanes and stored Workloads it looks after everything; given those of some workloads after these.
#[must_use]
pub fn workloads(
    mesh: &str,
    dataplanes: &[&Resource],
    stored: &[&Resource],
    settings: &Settings,
) -> Vec<Op> {
    let wanted: BTreeSet<&str> = dataplanes
        .iter()
        .filter_map(|dataplane| workload_of(dataplane, mesh))
        .collect();
    let stored: BTreeMap<&str, &Resource> = stored
        .iter()
        .filter(|workload| *workload.key.mesh == *mesh && workload.key.kind == Kind::Workload)
        .map(|workload| (&*workload.key.name, *workload))
        .collect();
    let mut ops = Vec::new();
    for workload in &wanted {
        if !stored.contains_key(workload) {
            let mut resource = Resource::new(
                Key::new(Kind::Workload, mesh, workload),
                Json::empty_object(),
            );
            resource.meta.labels = own_labels(mesh, WORKLOAD_GENERATOR, settings);
            ops.push(Op::Put(resource));
        }
    }
    for (name, workload) in stored {
        if !wanted.contains(name) && is_local(workload) {
            ops.push(Op::Remove(workload.key.clone()));
        }
    }
    ops
}

/// The workload a dataplane belongs to, where it is one label that a service can be named by.
#[must_use]
pub fn workload_of<'a>(dataplane: &'a Resource, mesh: &str) -> Option<&'a str> {
    if *dataplane.key.mesh != *mesh || dataplane.key.kind != Kind::Dataplane {
        return None;
    }
    dataplane
        .label(labels::WORKLOAD)
        .filter(|name| is_service_name(name))
}

/// Whether a text is an RFC 1035 label.
#[must_use]
pub fn is_service_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_ours(service: &Resource) -> bool {
    is_local(service) && service.label(labels::MANAGED_BY) == Some(SERVICE_GENERATOR)
}

fn own_labels(mesh: &str, generator: &str, settings: &Settings) -> Labels {
    [
        (labels::MESH, mesh),
        (labels::MANAGED_BY, generator),
        (labels::ENV, "universal"),
        (labels::ZONE, &settings.zone),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn ports_of(dataplane: &Resource) -> Vec<Value> {
    let Some(record) = DataplaneRecord::read(dataplane) else {
        return Vec::new();
    };
    record
        .inbounds
        .iter()
        .map(|inbound| {
            json!({
                "name": inbound.section,
                "port": inbound.port,
                "targetPort": inbound.port,
                "appProtocol": inbound.protocol.as_str(),
            })
        })
        .collect()
}

fn wanted_service(
    mesh: &str,
    workload: &str,
    group: &[(&Resource, Vec<Value>)],
    before: Option<&Resource>,
    settings: &Settings,
) -> Option<Resource> {
    let mut spec = match before {
        Some(before) => crate::status::object(Some(&before.spec)),
        None => Map::from_iter([("state".to_owned(), json!("Unavailable"))]),
    };
    let kept = spec.get("ports").and_then(Value::as_array);
    // What is stored holds as long as one proxy agrees with it; else the oldest proxy decides.
    let agreed = kept.filter(|kept| group.iter().any(|(_, ports)| ports == *kept));
    let ports = match agreed {
        Some(kept) => kept.clone(),
        None => group.first()?.1.clone(),
    };
    spec.insert("ports".to_owned(), Value::Array(ports));
    let mut wanted_labels = Map::new();
    wanted_labels.insert(labels::WORKLOAD.to_owned(), workload.into());
    spec.insert(
        "selector".to_owned(),
        json!({ "dataplaneLabels": { "matchLabels": wanted_labels } }),
    );
    let key = Key::new(Kind::MeshService, mesh, workload);
    let mut service = match before {
        Some(before) => before.clone(),
        None => Resource::new(key, Json::empty_object()),
    };
    service.spec = Json::from_value(&Value::Object(spec));
    let own = &mut service.meta.labels;
    own.extend(own_labels(mesh, SERVICE_GENERATOR, settings));
    own.insert(labels::DISPLAY_NAME.to_owned(), workload.to_owned());
    own.insert(labels::ORIGIN.to_owned(), "zone".to_owned());
    own.remove(labels::DELETION_GRACE_PERIOD_STARTED_AT);
    Some(service)
}

fn removal_of(service: &Resource, grace: Duration) -> Option<Timestamp> {
    let started: Timestamp = service
        .label(labels::DELETION_GRACE_PERIOD_STARTED_AT)?
        .parse()
        .ok()?;
    started.checked_add(grace).ok()
}

fn without_proxies(service: &Resource, now: Timestamp, grace: Duration) -> Option<Op> {
    match removal_of(service, grace) {
        Some(removal) if removal <= now => Some(Op::Remove(service.key.clone())),
        Some(_) => None,
        None => {
            let mut marked = service.clone();
            // Whole seconds, as everybody writes them.
            let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
            marked.meta.labels.insert(
                labels::DELETION_GRACE_PERIOD_STARTED_AT.to_owned(),
                second.to_string(),
            );
            Some(Op::Put(marked))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            zone: "east".to_owned(),
            deletion_grace_period: Duration::from_secs(3600),
        }
    }

    fn dataplane(name: &str, workload: &str, inbounds: &Value, created: i64) -> Resource {
        let spec = json!({"networking": {"address": "10.0.0.1", "inbound": inbounds}});
        let mut resource = Resource::new(
            Key::new(Kind::Dataplane, "default", name),
            Json::from_value(&spec),
        );
        resource
            .meta
            .labels
            .insert(labels::WORKLOAD.to_owned(), workload.to_owned());
        resource.meta.creation_time = Timestamp::from_second(created).unwrap();
        resource
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn one_put(ops: &[Op]) -> &Resource {
        match ops {
            [Op::Put(resource)] => resource,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_workload_becomes_a_service() {
        let web = dataplane(
            "web-1",
            "web",
            &json!([{"name": "http", "port": 80, "protocol": "http"}, {"port": 90}]),
            1,
        );
        let odd = dataplane("odd", "Not_A_Label", &json!([{"port": 1}]), 1);
        let idle = dataplane("idle", "idle", &json!([]), 1);
        let ops = mesh_services("default", &[&web, &odd, &idle], &[], at(0), &settings());
        let service = one_put(&ops);
        assert_eq!(
            service.spec.to_value(),
            json!({
                "state": "Unavailable",
                "selector": {"dataplaneLabels": {"matchLabels": {"kuma.io/workload": "web"}}},
                "ports": [
                    {"name": "http", "port": 80, "targetPort": 80, "appProtocol": "http"},
                    {"name": "90", "port": 90, "targetPort": 90, "appProtocol": "tcp"},
                ],
            })
        );
        assert_eq!(service.label(labels::MANAGED_BY), Some(SERVICE_GENERATOR));
        assert!(mesh_services("default", &[&web], &[service], at(9), &settings()).is_empty());
    }

    #[test]
    fn changed_ports_keep_status_and_identities() {
        let old = dataplane("web-1", "web", &json!([{"port": 80}]), 1);
        let mut stored =
            one_put(&mesh_services("default", &[&old], &[], at(0), &settings())).clone();
        let mut spec = crate::status::object(Some(&stored.spec));
        spec.insert(
            "identities".to_owned(),
            json!([{"type": "SpiffeID", "value": "spiffe://a/b"}]),
        );
        stored.spec = Json::from_value(&Value::Object(spec));
        stored.status = Some(Json::parse(r#"{"vips":[{"ip":"241.0.0.7"}]}"#).unwrap());
        stored
            .meta
            .labels
            .insert("theirs".to_owned(), "kept".to_owned());

        let new = dataplane("web-2", "web", &json!([{"port": 81}]), 2);
        assert!(
            mesh_services("default", &[&old, &new], &[&stored], at(0), &settings()).is_empty(),
            "one proxy agrees with what is stored"
        );
        let ops = mesh_services("default", &[&new], &[&stored], at(0), &settings());
        let service = one_put(&ops);
        assert_eq!(service.status, stored.status);
        assert_eq!(service.label("theirs"), Some("kept"));
        let spec = service.spec.to_value();
        assert_eq!(spec["ports"][0]["port"], 81);
        assert_eq!(spec["identities"][0]["value"], "spiffe://a/b");
    }

    #[test]
    fn a_service_without_proxies_is_removed_after_its_grace() {
        let web = dataplane("web-1", "web", &json!([{"port": 80}]), 1);
        let stored = one_put(&mesh_services("default", &[&web], &[], at(0), &settings())).clone();
        let ops = mesh_services("default", &[], &[&stored], at(100), &settings());
        let marked = one_put(&ops);
        assert_eq!(
            marked.label(labels::DELETION_GRACE_PERIOD_STARTED_AT),
            Some("1970-01-01T00:01:40Z")
        );
        assert_eq!(next_removal(&[marked], &settings()), Some(at(3700)));
        assert!(mesh_services("default", &[], &[marked], at(3699), &settings()).is_empty());
        let gone = mesh_services("default", &[], &[marked], at(3700), &settings());
        assert_eq!(gone, [Op::Remove(marked.key.clone())]);
        let back = mesh_services("default", &[&web], &[marked], at(200), &settings());
        assert_eq!(
            one_put(&back).label(labels::DELETION_GRACE_PERIOD_STARTED_AT),
            None
        );
    }

    #[test]
    fn services_of_others_are_left_alone() {
        let web = dataplane("web-1", "web", &json!([{"port": 80}]), 1);
        let by_hand = Resource::new(
            Key::new(Kind::MeshService, "default", "web"),
            Json::parse(r#"{"ports":[]}"#).unwrap(),
        );
        assert!(mesh_services("default", &[&web], &[&by_hand], at(0), &settings()).is_empty());
        assert!(mesh_services("default", &[], &[&by_hand], at(0), &settings()).is_empty());
    }

    #[test]
    fn workloads_follow_their_dataplanes() {
        let web = dataplane("web-1", "web", &json!([]), 1);
        let ops = workloads("default", &[&web], &[], &settings());
        let made = one_put(&ops);
        assert_eq!(made.meta.labels.len(), 4);
        assert!(workloads("default", &[&web], &[made], &settings()).is_empty());
        assert_eq!(
            workloads("default", &[], &[made], &settings()),
            [Op::Remove(made.key.clone())]
        );
    }
}
