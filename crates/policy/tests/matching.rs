//! Whom a policy touches, and what is found for a destination or an inbound.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::load;
use zonal_model::{Kind, Kri, Resource};
use zonal_policy::{DataplanePolicies, Inbound, InboundKey, Matcher, Policies, Subject, Targets};

fn timeout(name: &str, labels: &Value, spec: &Value) -> Resource {
    load(&json!({
        "type": "MeshTimeout", "mesh": "default", "name": name, "labels": labels, "spec": spec,
    }))
}

fn to(target: &Value, seconds: u32) -> Value {
    json!({"targetRef": target, "default": {"idleTimeout": format!("{seconds}s")}})
}

fn service(name: &str) -> Resource {
    load(&json!({
        "type": "MeshService", "mesh": "default", "name": name,
        "labels": {"kuma.io/display-name": name, "kuma.io/zone": "east"},
        "spec": {"ports": [{"name": "http", "port": 80, "appProtocol": "http"}, {"port": 81}]},
    }))
}

fn subject(labels: &Value) -> Subject {
    Subject::from_dataplane(&load(&json!({
        "type": "Dataplane", "mesh": "default", "name": "web", "labels": labels,
        "networking": {"address": "10.0.0.1", "inbound": [{"name": "http", "port": 80}]},
    })))
    .unwrap()
}

fn answer(policies: &[Resource], subject: &Subject) -> DataplanePolicies {
    let targets = Targets::new("default", &[service("api"), service("web")]);
    DataplanePolicies::new(&Policies::new(policies), &targets, subject, false)
}

#[test]
fn a_policy_reaches_the_proxies_of_its_zone_namespace_or_all() {
    let check = |policy: Value, proxy: Value, want: bool| {
        let spec = json!({"to": [to(&json!({"kind": "Mesh"}), 1)]});
        let answer = answer(&[timeout("slow", &policy, &spec)], &subject(&proxy));
        let got = !answer.kind(Kind::MeshTimeout).matched.is_empty();
        assert_eq!(got, want, "{policy} {proxy}");
    };
    let east = json!({"kuma.io/origin": "zone", "kuma.io/zone": "east"});
    let west = json!({"kuma.io/origin": "zone", "kuma.io/zone": "west"});
    let global = json!({"kuma.io/origin": "global"});
    check(global.clone(), east.clone(), true);
    check(east.clone(), east.clone(), true);
    check(west.clone(), east.clone(), false);
    check(west.clone(), global, true);
    check(west, json!({}), true);
    check(
        json!({"kuma.io/origin": "zone", "kuma.io/zone": "west", "kuma.io/policy-role": "producer"}),
        east.clone(),
        true,
    );
    check(json!({"kuma.io/effect": "shadow"}), east, false);
    let consumer = json!({"kuma.io/policy-role": "consumer", "k8s.kuma.io/namespace": "demo"});
    check(
        consumer.clone(),
        json!({"k8s.kuma.io/namespace": "demo"}),
        true,
    );
    check(consumer, json!({"k8s.kuma.io/namespace": "other"}), false);
    check(
        json!({"kuma.io/policy-role": "workload-owner"}),
        json!({}),
        false,
    );
}

#[test]
fn the_most_precise_rule_holds_for_a_destination() {
    let api = json!({"kind": "MeshService", "labels": {"kuma.io/display-name": "api"}});
    let port = json!({
        "kind": "MeshService", "labels": {"kuma.io/display-name": "api"}, "sectionName": "http",
    });
    let policies = [
        timeout(
            "a",
            &json!({}),
            &json!({"to": [to(&port, 3), to(&api, 2), to(&json!({"kind": "Mesh"}), 1)]}),
        ),
        timeout(
            "broken",
            &json!({}),
            &json!({"to": "nothing that can be read"}),
        ),
    ];
    let answer = answer(&policies, &subject(&json!({})));
    let check = |kri: &str, want: u64| {
        let conf = answer.timeout(&kri.parse().unwrap(), None);
        assert_eq!(conf.idle_timeout, Some(Duration::from_secs(want)), "{kri}");
    };
    check("kri_msvc_default_east__api_http", 3);
    check("kri_msvc_default_east__api_80", 3);
    check("kri_msvc_default_east__api_81", 2);
    check("kri_msvc_default_east__api_", 2);
    check("kri_msvc_default_east__web_http", 1);
    check("kri_mzsvc_default___api_http", 1);
}

#[test]
fn a_rule_of_a_route_hides_that_of_its_service() {
    let route = load(&json!({
        "type": "MeshHTTPRoute", "mesh": "default", "name": "split",
        "labels": {"kuma.io/display-name": "split"}, "spec": {"to": []},
    }));
    let on_route = json!({"kind": "MeshHTTPRoute", "labels": {"kuma.io/display-name": "split"}});
    let policy = timeout(
        "a",
        &json!({}),
        &json!({"to": [to(&on_route, 5), to(&json!({"kind": "Mesh"}), 1)]}),
    );
    let resources = [policy, route, service("api")];
    let targets = Targets::new("default", &resources);
    let answer = DataplanePolicies::new(
        &Policies::new(&resources),
        &targets,
        &subject(&json!({})),
        false,
    );
    let api: Kri = "kri_msvc_default_east__api_http".parse().unwrap();
    let route: Kri = "kri_mhttpr_default___split_rule_0".parse().unwrap();
    let other: Kri = "kri_mhttpr_default___other_rule_0".parse().unwrap();
    let seconds = |route: Option<&Kri>| answer.timeout(&api, route).idle_timeout.unwrap().as_secs();
    assert_eq!(
        (seconds(Some(&route)), seconds(Some(&other)), seconds(None)),
        (5, 1, 1)
    );
}

#[test]
fn rules_without_matches_are_the_base_of_an_inbound() {
    let spiffe = json!([{"spiffeID": {"type": "Exact", "value": "spiffe://a/b"}}]);
    let policy = timeout(
        "a",
        &json!({}),
        &json!({"rules": [
            {"matches": spiffe, "default": {"http": {"requestTimeout": "9s"}}},
            {"default": {"idleTimeout": "1s"}},
            {"default": {"connectionTimeout": "2s"}},
        ]}),
    );
    let answer = answer(&[policy], &subject(&json!({})));
    let inbound = InboundKey {
        address: "10.0.0.1".into(),
        port: 80,
    };
    let base = answer.inbound_timeout(&inbound).unwrap();
    assert_eq!(base.idle_timeout, Some(Duration::from_secs(1)));
    assert_eq!(base.connection_timeout, Some(Duration::from_secs(2)));
    assert_eq!(base.http, None);
    let rules = answer.kind(Kind::MeshTimeout).inbound_rules(&inbound);
    assert!(
        rules[0].matches.is_some(),
        "those about a caller come first"
    );
    let other = InboundKey {
        address: "10.0.0.1".into(),
        port: 81,
    };
    assert_eq!(answer.inbound_timeout(&other), None);
}

#[test]
fn permissions_keep_their_policies() {
    let policy = load(&json!({
        "type": "MeshTrafficPermission", "mesh": "default", "name": "only-web",
        "spec": {"rules": [{"default": {"allow": [{"spiffeID": {"type": "Prefix", "value": "spiffe://a"}}]}}]},
    }));
    let answer = answer(&[policy], &subject(&json!({})));
    let inbound = InboundKey {
        address: "10.0.0.1".into(),
        port: 80,
    };
    let [(kri, conf)] = &answer.permissions(&inbound)[..] else {
        panic!("one rule")
    };
    assert_eq!(kri.to_string(), "kri_mtp_default___only-web_");
    assert_eq!(conf.allow.as_ref().map(Vec::len), Some(1));
    assert_eq!(conf.deny, None);
}

#[test]
fn what_cannot_be_read_is_named_and_harms_nobody() {
    let broken = timeout(
        "broken",
        &json!({}),
        &json!({"to": [{"targetRef": {"kind": 7}}]}),
    );
    let good = timeout(
        "good",
        &json!({}),
        &json!({"to": [to(&json!({"kind": "Mesh"}), 1)]}),
    );
    let policies = Policies::new([&broken, &good]);
    let problems: Vec<String> = policies.problems().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("policy MeshTimeout default/broken has no effect: spec."),
        "{problems:?}"
    );
    assert!(problems[0].contains("to[0].targetRef.kind"), "{problems:?}");
    assert_eq!(policies.of_kind(Kind::MeshTimeout).count(), 1);

    // A conf that would make the merged one unreadable for all.
    let odd = json!({"to": [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "soon"}}]});
    let answer = answer(
        &[timeout("odd", &json!({}), &odd), good],
        &subject(&json!({})),
    );
    let api: Kri = "kri_msvc_default_east__api_http".parse().unwrap();
    assert_eq!(
        answer.timeout(&api, None).idle_timeout,
        Some(Duration::from_secs(1))
    );
}

#[test]
fn proxies_that_the_same_policies_touch_share_what_is_merged() {
    let spec = json!({"to": [to(&json!({"kind": "Mesh"}), 1)]});
    let only_x = json!({
        "targetRef": {"kind": "Dataplane", "labels": {"team": "x"}},
        "to": [to(&json!({"kind": "Mesh"}), 2)],
    });
    let policies = Policies::new(&[
        timeout("a", &json!({}), &spec),
        timeout("b", &json!({}), &only_x),
    ]);
    let targets = Targets::new("default", &[service("api")]);
    let matcher = Matcher::new(&policies, &targets, false);
    let rules = |team: &str| {
        let answer = matcher.answer(&subject(&json!({ "team": team })));
        Arc::clone(&answer.kind(Kind::MeshTimeout).to)
    };
    assert!(Arc::ptr_eq(&rules("x"), &rules("x")));
    assert!(Arc::ptr_eq(&rules("y"), &rules("z")));
    assert!(!Arc::ptr_eq(&rules("x"), &rules("y")));
}

#[test]
fn a_section_is_selected_by_name_or_number() {
    let subject = Subject {
        mesh: "default".into(),
        display_name: "web".into(),
        labels: BTreeMap::new(),
        inbounds: ["http", "8081"]
            .iter()
            .zip([8080, 8081])
            .map(|(section, port)| Inbound {
                section: (*section).into(),
                key: InboundKey {
                    address: "10.0.0.1".into(),
                    port,
                },
            })
            .collect(),
        delegated_gateway: false,
    };
    let check = |section: &str, want: &[u16]| {
        let policy = load(&json!({
            "type": "MeshTimeout", "mesh": "default", "name": "slow",
            "spec": {
                "targetRef": {"kind": "Dataplane", "sectionName": section},
                "rules": [{"default": {"idleTimeout": "1s"}}],
            },
        }));
        let policies = Policies::new([&policy]);
        let targets = Targets::new("default", []);
        let said = DataplanePolicies::new(&policies, &targets, &subject, false);
        let ports: Vec<u16> = said
            .kind(Kind::MeshTimeout)
            .inbound
            .keys()
            .map(|key| key.port)
            .collect();
        assert_eq!(ports, want, "{section}");
    };
    check("http", &[8080]);
    check("8080", &[]);
    check("8081", &[8081]);
}
