//! The catalogue kept up to date change by change.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use support::load;
use zonal_catalogue::{Change, MeshCatalogue, OutboundMode, ProxyReach};
use zonal_model::{Key, Kri, Resource};

fn dataplane(name: &str, workload: &str, address: &str, inbound: &Value) -> Resource {
    load(&json!({
        "type": "Dataplane", "mesh": "default", "name": name,
        "labels": {"kuma.io/workload": workload, "kuma.io/zone": "east"},
        "networking": {"address": address, "inbound": [inbound]},
    }))
}

fn service(name: &str, zone: &str, workload: &str, state: &str, identity: &str) -> Resource {
    let local = zone == "east";
    load(&json!({
        "type": "MeshService", "mesh": "default",
        "name": if local { name.to_owned() } else { format!("{name}-{zone}") },
        "labels": {
            "kuma.io/display-name": name, "kuma.io/zone": zone,
            "kuma.io/origin": if local { "zone" } else { "global" },
        },
        "spec": {
            "state": state,
            "selector": {"dataplaneLabels": {"matchLabels": {"kuma.io/workload": workload}}},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}],
            "identities": [{"type": "SpiffeID", "value": identity}],
        },
        "status": {"vips": [{"ip": "241.0.0.1"}], "tls": {"status": "Ready"}},
    }))
}

fn multi_zone(name: &str) -> Resource {
    load(&json!({
        "type": "MeshMultiZoneService", "mesh": "default", "name": name,
        "labels": {"kuma.io/display-name": name, "kuma.io/origin": "global"},
        "spec": {
            "selector": {"meshService": {"matchLabels": {"kuma.io/display-name": name}}},
            "ports": [{"name": "http", "port": 80, "appProtocol": "http"}],
        },
        "status": {"vips": [{"ip": "243.0.0.1"}]},
    }))
}

fn zone_address(zone: &str, address: &str) -> Resource {
    load(&json!({
        "type": "MeshZoneAddress", "mesh": "default", "name": format!("ingress-{zone}-{address}"),
        "labels": {"kuma.io/zone": zone},
        "spec": {"address": address, "port": 10001},
    }))
}

fn identity() -> Resource {
    load(&json!({"type": "MeshIdentity", "mesh": "default", "name": "identity", "spec": {}}))
}

fn ready() -> Value {
    json!({"port": 8080, "name": "main", "protocol": "http"})
}

fn addresses(catalogue: &MeshCatalogue, kri: &str) -> Vec<String> {
    let kri: Kri = kri.parse().unwrap();
    catalogue
        .endpoints(&kri)
        .port("http")
        .iter()
        .map(|endpoint| format!("{}/{}", endpoint.address, endpoint.priority))
        .collect()
}

const API_EAST: &str = "kri_msvc_default_east__api_";
const API_WEST: &str = "kri_msvc_default_west__api_";
const API: &str = "kri_mzsvc_default___api_";

#[test]
fn an_inbound_that_cannot_answer_is_offered_to_nobody() {
    let check = |state: &str, want: &[&str]| {
        let inbound = json!({"port": 8080, "protocol": "http", "state": state});
        let resources = [
            service("api", "east", "api", "Available", "a"),
            dataplane("api-1", "api", "10.0.0.1", &inbound),
        ];
        let catalogue = MeshCatalogue::of("default", "east", &resources);
        assert_eq!(addresses(&catalogue, API_EAST), want, "{state}");
    };
    check("Ready", &["10.0.0.1/0"]);
    check("NotReady", &[]);
    check("Draining", &[]);
    check("Ignored", &[]);
}

#[test]
fn near_proxies_come_before_far_ingresses() {
    let resources = [
        service("api", "east", "api", "Available", "a"),
        service("api", "west", "api", "Available", "b"),
        service("api", "north", "api", "Unavailable", "c"),
        multi_zone("api"),
        dataplane("api-1", "api", "10.0.0.1", &ready()),
        zone_address("west", "10.2.0.1"),
        zone_address("west", "10.2.0.2"),
        zone_address("north", "10.3.0.1"),
        zone_address("east", "10.1.0.1"),
        identity(),
    ];
    let catalogue = MeshCatalogue::of("default", "east", &resources);
    assert_eq!(addresses(&catalogue, API_EAST), ["10.0.0.1/0"]);
    assert_eq!(
        addresses(&catalogue, API_WEST),
        ["10.2.0.1/1", "10.2.0.2/1"]
    );
    assert_eq!(
        addresses(&catalogue, API),
        ["10.0.0.1/0", "10.2.0.1/1", "10.2.0.2/1"]
    );
    let service = catalogue.service(&API.parse().unwrap()).unwrap();
    assert_eq!(service.members.len(), 3);
    assert_eq!(
        service
            .identities
            .iter()
            .map(|id| &**id)
            .collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    assert_eq!(&*service.ports[0].sni, "sni.mzsvc.default.api.http");
    let direct = catalogue.endpoints(&API.parse().unwrap()).direct("http");
    assert_eq!(direct.len(), 1, "an ingress forwards to its own zone only");
}

#[test]
fn a_far_service_without_identities_or_in_a_mesh_without_any_is_offered_to_nobody() {
    let mut nameless = service("api", "west", "api", "Available", "b");
    nameless.spec =
        zonal_model::Json::parse(r#"{"ports":[{"name":"http","port":80}],"state":"Available"}"#)
            .unwrap();
    let with = |resources: &[Resource]| {
        addresses(&MeshCatalogue::of("default", "east", resources), API_WEST)
    };
    let address = zone_address("west", "10.2.0.1");
    let named = service("api", "west", "api", "Available", "b");
    assert_eq!(with(&[nameless, address.clone(), identity()]), [""; 0]);
    assert_eq!(with(&[named.clone(), address.clone()]), [""; 0]);
    assert_eq!(with(&[named, address, identity()]), ["10.2.0.1/1"]);
}

#[test]
fn names_wait_until_they_are_resolved() {
    let resources = [
        service("api", "east", "api", "Available", "a"),
        dataplane("api-1", "api", "api.internal", &ready()),
    ];
    let mut catalogue = MeshCatalogue::of("default", "east", &resources);
    assert_eq!(addresses(&catalogue, API_EAST), [""; 0]);
    assert_eq!(
        catalogue.unresolved_names(),
        BTreeSet::from(["api.internal".into()])
    );
    let changes = catalogue.resolve("api.internal", Some("10.9.9.9".parse().unwrap()));
    assert_eq!(
        changes.endpoints,
        BTreeSet::from([API_EAST.parse().unwrap()])
    );
    assert_eq!(addresses(&catalogue, API_EAST), ["10.9.9.9/0"]);
}

#[test]
fn a_change_touches_only_what_it_can_affect() {
    let resources = [
        service("api", "east", "api", "Available", "a"),
        service("web", "east", "web", "Available", "w"),
        multi_zone("api"),
        dataplane("api-1", "api", "10.0.0.1", &ready()),
    ];
    let mut catalogue = MeshCatalogue::of("default", "east", &resources);
    let changes = catalogue.apply([Change::Put(&resources[3])]);
    assert!(changes.is_empty(), "nothing differs: {changes:?}");
    let second = dataplane("api-2", "api", "10.0.0.2", &ready());
    let changes = catalogue.apply([Change::Put(&second)]);
    assert_eq!(changes.services, BTreeSet::new());
    let kris: BTreeSet<Kri> = [API_EAST, API]
        .iter()
        .map(|kri| kri.parse().unwrap())
        .collect();
    assert_eq!(changes.endpoints, kris);
    let stranger = dataplane("batch", "batch", "10.0.0.3", &ready());
    assert!(catalogue.apply([Change::Put(&stranger)]).is_empty());
}

#[test]
fn a_proxy_reaches_what_it_lists_or_everything() {
    let resources = [
        service("api", "east", "api", "Available", "a"),
        service("api", "west", "api", "Available", "b"),
        multi_zone("api"),
    ];
    let catalogue = MeshCatalogue::of("default", "east", &resources);
    let outbounds = |networking: Value, mode: OutboundMode| {
        let client = load(&json!({
            "type": "Dataplane", "mesh": "default", "name": "web", "networking": networking,
        }));
        let mut names: Vec<String> = ProxyReach::read(&client)
            .unwrap()
            .outbounds(&catalogue, mode)
            .iter()
            .map(|outbound| format!("{}:{} {}", outbound.address, outbound.port, outbound.kri))
            .collect();
        names.sort();
        names
    };
    let listed = json!({
        "address": "10.0.0.9",
        "outbound": [
            {"port": 1, "backendRef": {"kind": "MeshService", "port": 80,
                "labels": {"kuma.io/display-name": "api", "kuma.io/zone": "west"}}},
            {"port": 2, "backendRef": {"kind": "MeshMultiZoneService", "name": "api", "port": 80}},
            {"port": 3, "backendRef": {"kind": "MeshService", "name": "absent", "port": 80}},
            {"port": 4, "backendRef": {"kind": "MeshService", "name": "api", "port": 81}},
        ],
    });
    assert_eq!(
        outbounds(listed, OutboundMode::Listed),
        [
            "127.0.0.1:1 kri_msvc_default_west__api_80",
            "127.0.0.1:2 kri_mzsvc_default___api_80"
        ]
    );
    let everything = json!({"address": "10.0.0.9", "transparentProxying": {}});
    assert_eq!(outbounds(everything, OutboundMode::Virtual).len(), 3);
    let some = json!({"address": "10.0.0.9", "transparentProxying": {"reachableBackends": {
        "refs": [{"kind": "MeshMultiZoneService", "name": "api", "port": 80}],
    }}});
    assert_eq!(
        outbounds(some, OutboundMode::Virtual),
        ["243.0.0.1:80 kri_mzsvc_default___api_http"]
    );
    let none = json!({"address": "10.0.0.9", "transparentProxying": {"reachableBackends": {}}});
    assert_eq!(outbounds(none, OutboundMode::Virtual), [""; 0]);
}

#[test]
fn a_resource_that_cannot_be_read_is_named_until_it_can() {
    let mut broken = service("api", "east", "api", "Available", "a");
    let good = broken.clone();
    broken.spec = zonal_model::Json::parse(r#"{"ports":[{"port":"http"}]}"#).unwrap();
    let mut catalogue = MeshCatalogue::of("default", "east", &[broken.clone(), multi_zone("api")]);
    assert_eq!(catalogue.unreadable().collect::<Vec<_>>(), [&broken.key]);
    assert_eq!(catalogue.services().count(), 1);
    catalogue.apply([Change::Put(&good)]);
    assert_eq!(catalogue.unreadable().count(), 0);
    assert_eq!(catalogue.services().count(), 2);
}

fn contents(catalogue: &MeshCatalogue) -> BTreeMap<Kri, String> {
    catalogue
        .services()
        .map(|service| {
            (
                service.kri.clone(),
                format!("{service:?} {:?}", catalogue.endpoints(&service.kri)),
            )
        })
        .collect()
}

#[test]
fn changes_lead_to_the_same_catalogue_as_starting_anew() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut catalogue = MeshCatalogue::new("default", "east");
        let mut kept: BTreeMap<Key, Resource> = BTreeMap::new();
        for step in 0..60 {
            let resource = any_resource(&mut random);
            let before = contents(&catalogue);
            let changes = if random.u8(..4) == 0 {
                kept.remove(&resource.key);
                catalogue.apply([Change::Removed(&resource.key)])
            } else {
                kept.insert(resource.key.clone(), resource.clone());
                catalogue.apply([Change::Put(&resource)])
            };
            let after = contents(&catalogue);
            let anew = MeshCatalogue::of("default", "east", kept.values());
            assert_eq!(
                after,
                contents(&anew),
                "seed {seed}, step {step}: {}",
                resource.key
            );
            let touched: BTreeSet<&Kri> = changes.services.union(&changes.endpoints).collect();
            for kri in before.keys().chain(after.keys()) {
                if before.get(kri) != after.get(kri) {
                    assert!(
                        touched.contains(kri),
                        "seed {seed}, step {step}: {kri} was not named"
                    );
                }
            }
        }
    }
}

fn any_resource(random: &mut fastrand::Rng) -> Resource {
    let names = ["api", "web"];
    let name = names[random.usize(..2)];
    let zone = ["east", "west", "north"][random.usize(..3)];
    match random.u8(..7) {
        0 | 1 => {
            let state = ["Ready", "NotReady"][random.usize(..2)];
            let inbound = json!({"port": 8080, "protocol": "http", "state": state});
            let number = random.u8(..4);
            dataplane(
                &format!("dp-{number}"),
                name,
                &format!("10.0.0.{number}"),
                &inbound,
            )
        }
        2 | 3 => {
            let state = ["Available", "Unavailable"][random.usize(..2)];
            service(name, zone, names[random.usize(..2)], state, zone)
        }
        4 => multi_zone(name),
        5 => zone_address(zone, &format!("10.1.0.{}", random.u8(..2))),
        _ => identity(),
    }
}
