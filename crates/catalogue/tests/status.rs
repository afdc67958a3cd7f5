//! What is written beside services.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use support::load;
use zonal_catalogue::DataplaneRecord;
use zonal_catalogue::identities::IdentityRecord;
use zonal_catalogue::status::{Surroundings, mesh_service};
use zonal_model::Resource;

fn proxy(name: &str, team: &str, state: &str) -> Arc<DataplaneRecord> {
    let resource = load(&json!({
        "type": "Dataplane", "mesh": "default", "name": name,
        "labels": {"kuma.io/workload": "api", "team": team},
        "networking": {"address": "10.0.0.1", "inbound": [{"port": 80, "state": state}]},
    }));
    Arc::new(DataplaneRecord::read(&resource).unwrap())
}

fn identity(team: &str, state: &str) -> IdentityRecord {
    IdentityRecord::read(&load(&json!({
        "type": "MeshIdentity", "mesh": "default", "name": format!("of-{team}"),
        "spec": {
            "selector": {"dataplane": {"matchLabels": {"team": team}}},
            "spiffeID": {"path": format!("/{team}")},
            "provider": {"type": "Bundled"},
        },
        "status": {"conditions": [{"type": "Ready", "status": state, "reason": "Ready"}]},
    })))
    .unwrap()
}

fn service() -> Resource {
    load(&json!({
        "type": "MeshService", "mesh": "default", "name": "api", "labels": {"kuma.io/origin": "zone"},
        "spec": {"state": "Unavailable", "ports": [{"port": 80}]},
    }))
}

struct World {
    identities: Vec<IdentityRecord>,
    trusted: BTreeSet<String>,
}

impl World {
    fn new(identities: Vec<IdentityRecord>) -> Self {
        Self {
            identities,
            trusted: BTreeSet::from(["default.east.mesh.local".to_owned()]),
        }
    }

    fn update(&self, service: &Resource, proxies: &[Arc<DataplaneRecord>]) -> Resource {
        let around = Surroundings {
            zone: "east",
            identities: &self.identities,
            trusted: &self.trusted,
            online: &BTreeSet::from(["a".into()]),
        };
        mesh_service(service, proxies, &around).unwrap_or_else(|| service.clone())
    }
}

fn tls(service: &Resource) -> Value {
    service.status.as_ref().unwrap().to_value()["tls"]["status"].clone()
}

fn ids(service: &Resource) -> Vec<String> {
    service.spec.to_value()["identities"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|id| id["value"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn callers_use_mtls_once_all_proxies_can_and_until_nobody_has_an_identity() {
    let (x, y) = (proxy("a", "x", "Ready"), proxy("b", "y", "Ready"));
    let one = World::new(vec![identity("x", "True")]);
    let both = World::new(vec![identity("x", "True"), identity("y", "True")]);
    let none = World::new(vec![]);

    let first = one.update(&service(), &[Arc::clone(&x), Arc::clone(&y)]);
    assert_eq!(tls(&first), "NotReady", "y shows no certificate");
    assert_eq!(ids(&first), ["spiffe://default.east.mesh.local/x"]);
    let second = both.update(&first, &[Arc::clone(&x), Arc::clone(&y)]);
    assert_eq!(tls(&second), "Ready");
    assert_eq!(ids(&second).len(), 2);
    assert_eq!(
        tls(&one.update(&second, &[Arc::clone(&x), y])),
        "Ready",
        "it stays"
    );
    assert_eq!(tls(&none.update(&second, &[x])), "NotReady");

    let untrusted = World {
        trusted: BTreeSet::new(),
        ..World::new(vec![identity("x", "True")])
    };
    let third = untrusted.update(&service(), &[proxy("a", "x", "Ready")]);
    assert_eq!(
        tls(&third),
        "NotReady",
        "nobody would accept the certificate"
    );
}

#[test]
fn a_service_without_proxies_keeps_its_identities() {
    let world = World::new(vec![identity("x", "True")]);
    let with = world.update(&service(), &[proxy("a", "x", "Ready")]);
    assert_eq!(with.spec.to_value()["state"], "Available");
    let without = world.update(&with, &[]);
    assert_eq!(without.spec.to_value()["state"], "Unavailable");
    assert_eq!(ids(&without), ["spiffe://default.east.mesh.local/x"]);
    assert_eq!(tls(&without), "Ready");
    assert_eq!(
        without.status.unwrap().to_value()["dataplaneProxies"],
        json!({})
    );
}

#[test]
fn only_a_proxy_that_can_answer_makes_a_service_available() {
    let check = |state: &str, want: &str, counts: Value| {
        let got = World::new(vec![]).update(&service(), &[proxy("a", "x", state)]);
        assert_eq!(got.spec.to_value()["state"], want, "{state}");
        assert_eq!(
            got.status.unwrap().to_value()["dataplaneProxies"],
            counts,
            "{state}"
        );
    };
    check(
        "Ready",
        "Available",
        json!({"connected": 1, "healthy": 1, "total": 1}),
    );
    check(
        "NotReady",
        "Unavailable",
        json!({"connected": 1, "total": 1}),
    );
    check(
        "Draining",
        "Unavailable",
        json!({"connected": 1, "total": 1}),
    );
}

#[test]
fn services_of_other_zones_are_left_alone() {
    let mut far = service();
    far.meta
        .labels
        .insert("kuma.io/origin".to_owned(), "global".to_owned());
    let world = World::new(vec![identity("x", "True")]);
    assert_eq!(world.update(&far, &[proxy("a", "x", "Ready")]), far);
}
