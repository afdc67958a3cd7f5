//! The zones of the suite `crosszone`: what a zone makes of its dataplanes, and where its clients are sent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use support::load;
use zonal_catalogue::derive::{self, Op};
use zonal_catalogue::hostnames::{self, Generator};
use zonal_catalogue::identities::IdentityRecord;
use zonal_catalogue::status::{self, Surroundings};
use zonal_catalogue::{Endpoint, MeshCatalogue, OutboundMode, ProxyReach, Selector};
use zonal_model::{Json, Kind, Resource, labels};

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("ZONAL_CONFORMANCE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
        PathBuf::from,
    );
    let folder = folder.join("crosszone");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: crosszone: no folder {}", folder.display());
    None
}

fn json_file(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Everything a control plane of a scenario had stored.
fn stored(path: &Path) -> Vec<Resource> {
    let file = json_file(path);
    let mut resources = Vec::new();
    for (name, list) in file.as_object().unwrap() {
        if matches!(name.as_str(), "secretNames" | "zones" | "policies") {
            continue;
        }
        for value in list.as_array().unwrap() {
            resources.push(load(value));
        }
    }
    resources
}

fn of_kind(resources: &[Resource], kind: Kind) -> Vec<&Resource> {
    resources
        .iter()
        .filter(|resource| resource.key.kind == kind)
        .collect()
}

const SCENARIOS: [&str; 4] = ["baseline", "permission", "failover", "failover-outlier"];

#[test]
fn zones_make_the_services_that_were_stored() {
    let Some(folder) = folder() else { return };
    let mut checked = 0;
    for scenario in SCENARIOS {
        for zone in ["east", "west"] {
            let path = folder.join(scenario).join(format!("stored.{zone}.json"));
            checked += check_derived(&stored(&path), zone, &format!("{scenario}/{zone}"));
        }
    }
    println!("crosszone, derived resources: {checked} agree");
    assert!(checked >= 8 * 5, "{checked}");
}

fn check_derived(resources: &[Resource], zone: &str, label: &str) -> usize {
    let settings = derive::Settings {
        zone: zone.to_owned(),
        deletion_grace_period: Duration::from_secs(3600),
    };
    let dataplanes = of_kind(resources, Kind::Dataplane);
    let mut catalogue = MeshCatalogue::of("default", zone, resources);
    let online: BTreeSet<Arc<str>> = dataplanes
        .iter()
        .map(|dataplane| Arc::clone(&dataplane.key.name))
        .collect();
    let identities: Vec<IdentityRecord> = of_kind(resources, Kind::MeshIdentity)
        .into_iter()
        .filter_map(IdentityRecord::read)
        .collect();
    let trusted: BTreeSet<String> = of_kind(resources, Kind::MeshTrust)
        .into_iter()
        .map(|trust| {
            trust.spec.to_value()["trustDomain"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let around = Surroundings {
        zone,
        identities: &identities,
        trusted: &trusted,
        online: &online,
    };
    let generators: Vec<Generator> = of_kind(resources, Kind::HostnameGenerator)
        .into_iter()
        .filter_map(Generator::read)
        .collect();

    // From nothing, as on the first start.
    let made = derive::mesh_services(
        "default",
        &dataplanes,
        &[],
        Timestamp::UNIX_EPOCH,
        &settings,
    )
    .into_iter()
    .map(|op| match op {
        Op::Put(service) => service,
        Op::Remove(key) => panic!("{key} was never there"),
    })
    .collect::<Vec<Resource>>();
    let want: BTreeMap<&str, &Resource> = of_kind(resources, Kind::MeshService)
        .into_iter()
        .filter(|service| service.label(labels::ORIGIN) == Some("zone"))
        .map(|service| (&*service.key.name, service))
        .collect();
    assert_eq!(
        made.iter()
            .map(|service| &*service.key.name)
            .collect::<BTreeSet<_>>(),
        want.keys().copied().collect(),
        "{label}"
    );
    let mut checked = 0;
    for service in &made {
        catalogue.apply([zonal_catalogue::Change::Put(service)]);
        let members = catalogue.members(catalogue.service_of_key(&service.key).unwrap());
        let service = status::mesh_service(service, &members, &around).unwrap();
        let named = hostnames::evaluate(&generators, &[&service], zone);
        let service = hostnames::with_hostnames(&service, &named[&service.key]).unwrap();
        let want = want[&*service.key.name];
        assert_eq!(service.spec, want.spec, "{label} {}", service.key);
        assert_eq!(
            service.meta.labels, want.meta.labels,
            "{label} {}",
            service.key
        );
        let mut status = want.status.as_ref().unwrap().to_value();
        status.as_object_mut().unwrap().remove("vips");
        assert_eq!(
            service.status,
            Some(Json::from_value(&status)),
            "{label} {}",
            service.key
        );
        checked += 1;
    }
    for service in of_kind(resources, Kind::MeshMultiZoneService) {
        let mut empty = service.clone();
        empty.status = None;
        let made = status::multi_zone_service(&empty, resources)
            .unwrap()
            .status
            .unwrap()
            .to_value();
        let want = service.status.as_ref().unwrap().to_value();
        for member in ["meshServices", "conditions"] {
            assert_eq!(
                made[member], want[member],
                "{label} {} {member}",
                service.key
            );
        }
        checked += 1;
    }
    for op in derive::workloads("default", &dataplanes, &[], &settings) {
        let Op::Put(workload) = op else {
            panic!("{op:?}")
        };
        let want = resources
            .iter()
            .find(|other| other.key == workload.key)
            .unwrap();
        let selector =
            Selector::Labels([(labels::WORKLOAD.to_owned(), workload.key.name.to_string())].into());
        let members: Vec<_> = catalogue
            .dataplanes()
            .filter(|dataplane| selector.matches(&dataplane.name, &dataplane.labels))
            .cloned()
            .collect();
        let workload = status::workload(&workload, &members, &online).unwrap();
        assert_eq!(
            workload.meta.labels, want.meta.labels,
            "{label} {}",
            workload.key
        );
        assert_eq!(workload.status, want.status, "{label} {}", workload.key);
        checked += 1;
    }
    checked
}

#[test]
fn clients_are_sent_where_they_were_sent() {
    let Some(folder) = folder() else { return };
    let mut checked = 0;
    for scenario in ["baseline", "permission"] {
        for (stored_file, envoy_file) in [
            ("stored.east.json", "envoy.web.json"),
            ("stored.east.json", "envoy.batch.json"),
            (
                "stored.east.after-api-east-stopped.json",
                "envoy.web.after-api-east-stopped.json",
            ),
        ] {
            let folder = folder.join(scenario);
            let envoy = folder.join(envoy_file);
            if envoy.exists() {
                let mut resources = stored(&folder.join(stored_file));
                if of_kind(&resources, Kind::MeshIdentity).is_empty() {
                    // The later state lists only what changes.
                    let before = stored(&folder.join("stored.east.json"));
                    let given: BTreeSet<Kind> =
                        resources.iter().map(|resource| resource.key.kind).collect();
                    resources.extend(
                        before
                            .into_iter()
                            .filter(|other| !given.contains(&other.key.kind)),
                    );
                }
                checked += check_endpoints(&resources, &json_file(&envoy), envoy_file);
            }
        }
    }
    println!("crosszone, endpoints: {checked} clusters agree");
    assert!(checked >= 12, "{checked}");
}

fn check_endpoints(resources: &[Resource], envoy: &Value, file: &str) -> usize {
    let catalogue = MeshCatalogue::of("default", "east", resources);
    let client = file.split('.').nth(1).unwrap();
    let client = of_kind(resources, Kind::Dataplane)
        .into_iter()
        .find(|dataplane| &*dataplane.key.name == client)
        .unwrap();
    let reach = ProxyReach::read(client).unwrap();
    let mut got = BTreeMap::new();
    for outbound in reach.outbounds(&catalogue, OutboundMode::Listed) {
        let endpoints = catalogue
            .endpoints(&outbound.service.kri)
            .port(&outbound.service_port.name);
        got.insert(outbound.kri.to_string(), render(&endpoints));
    }
    let mut want = BTreeMap::new();
    for assignment in envoy["endpoints"].as_array().unwrap() {
        let name = assignment["cluster_name"].as_str().unwrap();
        let mut endpoints = Vec::new();
        for group in assignment["endpoints"].as_array().into_iter().flatten() {
            for endpoint in group["lb_endpoints"].as_array().unwrap() {
                let address = &endpoint["endpoint"]["address"]["socket_address"];
                endpoints.push(json!({
                    "address": address["address"],
                    "port": address["port_value"],
                    "zone": group["locality"]["zone"],
                    "priority": group["priority"].as_u64().unwrap_or(0),
                    "metadata": endpoint["metadata"]["filter_metadata"]["envoy.lb"],
                }));
            }
        }
        want.insert(name.to_owned(), Value::Array(endpoints));
    }
    assert_eq!(got, want, "{file}");
    got.len()
}

fn render(endpoints: &[Endpoint]) -> Value {
    endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "address": endpoint.address,
                "port": endpoint.port,
                "zone": endpoint.zone,
                "priority": endpoint.priority,
                "metadata": *endpoint.metadata,
            })
        })
        .collect()
}
