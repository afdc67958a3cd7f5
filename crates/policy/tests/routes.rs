//! The routes made of MeshHTTPRoute and MeshTCPRoute.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use serde_json::{Value, json};
use support::load;
use zonal_model::{Kri, Resource};
use zonal_policy::routes::{HttpRoute, http_routes, tcp_backends};
use zonal_policy::{DataplanePolicies, Policies, Subject, Targets};

const API: &str = "kri_msvc_default_east__api_http";

fn service(name: &str, protocol: &str) -> Resource {
    load(&json!({
        "type": "MeshService", "mesh": "default", "name": name,
        "labels": {"kuma.io/display-name": name, "kuma.io/zone": "east"},
        "spec": {"ports": [{"name": "http", "port": 80, "appProtocol": protocol}]},
    }))
}

fn route(kind: &str, name: &str, rules: &Value) -> Resource {
    load(&json!({
        "type": kind, "mesh": "default", "name": name,
        "spec": {"to": [{
            "targetRef": {"kind": "MeshService", "labels": {"kuma.io/display-name": "api"}},
            "rules": rules,
        }]},
    }))
}

fn to(name: &str, weight: u32) -> Value {
    json!({"kind": "MeshService", "labels": {"kuma.io/display-name": name}, "weight": weight})
}

fn world(routes: &[Resource]) -> (DataplanePolicies, Targets) {
    let mut resources = vec![
        service("api", "http"),
        service("canary", "http"),
        service("redis", "tcp"),
    ];
    resources.extend_from_slice(routes);
    let proxy = load(&json!({
        "type": "Dataplane", "mesh": "default", "name": "web",
        "networking": {"address": "10.0.0.1", "inbound": [{"port": 80}]},
    }));
    let targets = Targets::new("default", &resources);
    let subject = Subject::from_dataplane(&proxy).unwrap();
    (
        DataplanePolicies::new(&Policies::new(&resources), &targets, &subject, false),
        targets,
    )
}

fn http(routes: &[Resource]) -> Vec<HttpRoute> {
    let (policies, targets) = world(routes);
    http_routes(&policies, &targets, &API.parse().unwrap(), true).unwrap()
}

fn line(route: &HttpRoute) -> String {
    let path = route.matches.path.as_ref().map_or("-", |path| &path.value);
    let backends: Vec<String> = route
        .backends
        .iter()
        .map(|backend| format!("{}={}", backend.kri.name, backend.weight))
        .collect();
    format!(
        "{} {path} {} lost={}",
        route.name,
        backends.join(","),
        route.unresolved_weight
    )
}

const EVERYTHING: &str = "9Zuf5Tg79OuZcQITwBbQykxAk2u4fRKrwYn3//AL4Yo= / api=100 lost=0";

#[test]
fn without_a_policy_everything_goes_to_the_service_itself() {
    assert_eq!(http(&[]).iter().map(line).collect::<Vec<_>>(), [EVERYTHING]);
    let (policies, targets) = world(&[]);
    let destination: Kri = API.parse().unwrap();
    assert_eq!(http_routes(&policies, &targets, &destination, false), None);
}

#[test]
fn a_split_is_named_by_its_policy_and_the_rest_goes_on() {
    let rules = json!([{
        "matches": [{"path": {"type": "PathPrefix", "value": "/v2"}}],
        "default": {"backendRefs": [to("api", 90), to("canary", 10), to("api", 0)]},
    }]);
    let routes = http(&[route("MeshHTTPRoute", "split", &rules)]);
    assert_eq!(
        routes.iter().map(line).collect::<Vec<_>>(),
        [
            "kri_mhttpr_default___split_rule_0 /v2 api=90,canary=10 lost=0",
            EVERYTHING
        ]
    );
}

#[test]
fn what_leads_nowhere_is_counted() {
    let check = |refs: Value, want: &str, all: bool| {
        let rules = json!([{
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "default": {"backendRefs": refs},
        }]);
        let routes = http(&[route("MeshHTTPRoute", "split", &rules)]);
        assert_eq!(routes.len(), 1, "it covers everything");
        assert_eq!(
            line(&routes[0]),
            format!("kri_mhttpr_default___split_rule_0 / {want}")
        );
        assert_eq!(routes[0].all_unresolved, all);
    };
    check(
        json!([to("api", 1), to("absent", 3)]),
        "api=1 lost=3",
        false,
    );
    check(json!([to("absent", 3), to("redis", 2)]), " lost=5", true);
    check(json!([]), "api=100 lost=0", false);
}

#[test]
fn the_more_specific_route_comes_first_whatever_policy_it_is_of() {
    let rule = |matches: Value| json!([{"matches": [matches], "default": {"backendRefs": [to("canary", 1)]}}]);
    let routes = http(&[
        route("MeshHTTPRoute", "a", &rule(json!({"method": "POST"}))),
        route(
            "MeshHTTPRoute",
            "b",
            &rule(json!({"path": {"type": "PathPrefix", "value": "/long/path"}})),
        ),
        route(
            "MeshHTTPRoute",
            "c",
            &rule(json!({"path": {"type": "Exact", "value": "/"}})),
        ),
    ]);
    let names: Vec<&str> = routes
        .iter()
        .map(|route| route.origin.as_ref().map_or("-", |origin| &origin.name))
        .collect();
    assert_eq!(names, ["c", "b", "a", "-"]);
    assert!(routes.iter().all(|route| route.matches.path.is_some()));
}

#[test]
fn connections_are_split_too() {
    let check = |refs: Option<Value>, want: &[(&str, u32)]| {
        let routes: Vec<Resource> = refs
            .map(|refs| {
                route(
                    "MeshTCPRoute",
                    "split",
                    &json!([{"default": {"backendRefs": refs}}]),
                )
            })
            .into_iter()
            .collect();
        let (policies, targets) = world(&routes);
        let got = tcp_backends(&policies, &targets, &API.parse().unwrap());
        let got: Vec<(&str, u32)> = got
            .iter()
            .map(|backend| (backend.kri.name.as_str(), backend.weight))
            .collect();
        assert_eq!(got, want);
    };
    check(None, &[("api", 100)]);
    check(
        Some(json!([to("redis", 9), to("api", 1)])),
        &[("redis", 9), ("api", 1)],
    );
    check(Some(json!([to("absent", 1)])), &[]);
}
