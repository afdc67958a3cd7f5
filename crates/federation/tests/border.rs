//! What crosses, in which shape, and what a received batch does, rule by rule.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use zonal_federation::{
    Border, Features, Holdings, Incoming, Offered, Plan, Received, Receiver, Side, plan, wire,
};
use zonal_model::{Json, Key, Kind, Resource, labels};

fn resource(kind: Kind, name: &str, spec: &Value, labels: &[(&str, &str)]) -> Resource {
    let mut resource = Resource::new(Key::new(kind, "default", name), Json::from_value(spec));
    let owned = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    resource.meta.labels.extend(owned);
    resource
}

fn down(resource: &Resource, zone: &str) -> Option<Resource> {
    let to = Receiver {
        zone,
        features: Features::KUMA,
        is_enabled: &|zone| zone != "off",
    };
    offered(
        resource.key.kind,
        Border::default().offer_down(resource, &to).unwrap(),
    )
}

fn up(resource: &Resource) -> Option<Resource> {
    offered(
        resource.key.kind,
        Border::default().offer_up(resource, "east").unwrap(),
    )
}

fn offered(kind: Kind, offer: Option<Offered>) -> Option<Resource> {
    let offer = offer?;
    let decoded = wire::decode(kind, Some(wire::ENVELOPE), offer.body).unwrap();
    assert_eq!(wire::wire_name(&decoded.key), &*offer.name);
    Some(decoded)
}

const OF_EAST: [(&str, &str); 3] = [
    (labels::ORIGIN, "zone"),
    (labels::ZONE, "east"),
    (labels::DISPLAY_NAME, "web"),
];

#[test]
fn a_policy_of_global_goes_down_with_a_hashed_name() {
    let policy = resource(Kind::MeshTimeout, "default-timeout-global", &json!({}), &[]);
    let got = down(&policy, "east").unwrap();
    assert_eq!(&*got.key.name, "default-timeout-global-54dbd4c66zwbcf9c");
    assert_eq!(
        got.label(labels::DISPLAY_NAME),
        Some("default-timeout-global")
    );
    assert_eq!(got.label(labels::ORIGIN), Some("global"));
}

#[test]
fn a_mesh_keeps_its_name_and_gets_no_display_name() {
    let mesh = resource(Kind::Mesh, "default", &json!({}), &[]);
    let to = Receiver {
        zone: "east",
        features: Features::KUMA,
        is_enabled: &|_| true,
    };
    let offer = Border::default().offer_down(&mesh, &to).unwrap().unwrap();
    assert_eq!(&*offer.name, "default.");
    // The bytes that a global of Kuma sends for the same mesh, and the first half of its version.
    let want = [
        "0a230a0764656661756c7432180a0e6b756d612e696f2f6f726967696e1206676c6f62616c",
        "122d0a2b747970652e676f6f676c65617069732e636f6d2f6b756d612e6d6573682e7631616c706861312e4d657368",
    ];
    let hex: String = offer
        .body
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, want.concat());
    assert_eq!(&*offer.version, "ee3ed1993ca3721e6609c0fb78bb711a");
}

#[test]
fn a_service_goes_to_the_other_zones_alone_without_its_status() {
    let mut service = resource(Kind::MeshService, "web-x", &json!({"ports": []}), &OF_EAST);
    service.status = Some(Json::from_value(&json!({"vips": [{"ip": "10.0.0.1"}]})));
    assert_eq!(down(&service, "east"), None);
    let got = down(&service, "west").unwrap();
    assert_eq!(got.status, Some(Json::empty_object()));
    assert_eq!(got.zone(), Some("east"));
    service
        .meta
        .labels
        .insert(labels::ZONE.to_owned(), "off".to_owned());
    assert_eq!(
        down(&service, "west"),
        None,
        "a disabled zone's services are not given to others"
    );
}

#[test]
fn names_are_the_same_on_global_and_in_every_zone() {
    let local = resource(Kind::MeshService, "redis-zone-1", &json!({}), &[]);
    let border = Border::default();
    let offer = border.offer_up(&local, "zone-1").unwrap().unwrap();
    assert_eq!(&*offer.name, "redis-zone-1-2v6wfvvcvbc9f55d.default");
    let at_global = wire::decode(Kind::MeshService, None, offer.body).unwrap();
    let to = Receiver {
        zone: "zone-2",
        features: Features::KUMA,
        is_enabled: &|_| true,
    };
    let again = border.offer_down(&at_global, &to).unwrap().unwrap();
    assert_eq!(&*again.name, "redis-zone-1-2v6wfvvcvbc9f55d.default");
}

#[test]
fn what_came_from_global_never_goes_back() {
    let copy = resource(
        Kind::MeshTimeout,
        "t",
        &json!({}),
        &[(labels::ORIGIN, "global")],
    );
    assert_eq!(up(&copy), None);
    assert!(up(&resource(Kind::MeshTimeout, "t", &json!({}), &[])).is_some());
    assert_eq!(
        up(&resource(Kind::Secret, "s", &json!({"data": ""}), &[])),
        None
    );
}

#[test]
fn sync_can_be_switched_off_per_resource() {
    let off = [(labels::KDS_SYNC, "disabled")];
    let policy = resource(Kind::MeshTimeout, "t", &json!({}), &off);
    assert_eq!((down(&policy, "east"), up(&policy)), (None, None));
}

#[test]
fn secrets_of_global_alone_stay_there() {
    #[track_caller]
    fn check(name: &str, want: bool) {
        let secret = resource(Kind::GlobalSecret, name, &json!({"data": "eA=="}), &[]);
        assert_eq!(down(&secret, "east").is_some(), want, "{name}");
    }
    check("envoy-admin-ca", false);
    check("admin-user-token", false);
    check("inter-cp-ca", false);
    check("zonal-zone-authority", false);
    check("zonal-zone-join-0123", false);
    check("user-token-revocations", false);
    check("user-token-signing-key-1", false);
    check("zone-token-revocations", true);
    check("mine", true);
    let config = |name| {
        down(
            &resource(Kind::Config, name, &json!({"config": "x"}), &[]),
            "east",
        )
    };
    assert!(config("kuma-cluster-id").is_some());
    assert!(config("cp-catalog").is_none());
}

#[test]
fn a_signing_key_that_is_none_harms_itself_only() {
    let key = resource(
        Kind::GlobalSecret,
        "zone-token-signing-key-1",
        &json!({"data": "eA=="}),
        &[],
    );
    let to = Receiver {
        zone: "east",
        features: Features::KUMA,
        is_enabled: &|_| true,
    };
    let error = Border::default().offer_down(&key, &to).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot write GlobalSecret zone-token-signing-key-1 for a zone"
    );
}

#[test]
fn trust_of_a_zone_spreads_unless_switched_off() {
    let trust = resource(
        Kind::MeshTrust,
        "ca",
        &json!({"trustDomain": "x"}),
        &OF_EAST,
    );
    assert!(down(&trust, "west").is_some());
    assert_eq!(
        down(&trust, "east"),
        None,
        "its own trust does not come back"
    );
    let kuma = Border {
        trust_spreads: false,
        ..Border::default()
    };
    let to = Receiver {
        zone: "west",
        features: Features::KUMA,
        is_enabled: &|_| true,
    };
    assert_eq!(kuma.offer_down(&trust, &to).unwrap(), None);
}

#[test]
fn a_policy_of_a_zone_without_namespaces_stays_in_its_zone() {
    let policy = resource(Kind::MeshTimeout, "t", &json!({}), &OF_EAST);
    assert_eq!(down(&policy, "west"), None);
}

#[test]
fn an_older_zone_gets_what_it_understands() {
    let spec = json!({"selector": {"meshMultiZoneService": {}}, "template": "x"});
    let generator = resource(Kind::HostnameGenerator, "g", &spec, &[]);
    let older = Features {
        multi_zone_selectors: false,
        hash_suffix: false,
        ..Features::KUMA
    };
    let to = Receiver {
        zone: "east",
        features: older,
        is_enabled: &|_| true,
    };
    assert_eq!(Border::default().offer_down(&generator, &to).unwrap(), None);
    let policy = resource(Kind::MeshTimeout, "t", &json!({}), &[]);
    let offer = Border::default().offer_down(&policy, &to).unwrap().unwrap();
    assert_eq!(&*offer.name, "t.default");
}

#[test]
fn what_means_nothing_outside_stays_behind() {
    let grace = [(
        labels::DELETION_GRACE_PERIOD_STARTED_AT,
        "2026-01-01T00:00:00Z",
    )];
    let service = resource(Kind::MeshService, "web", &json!({}), &grace);
    assert_eq!(
        up(&service)
            .unwrap()
            .label(labels::DELETION_GRACE_PERIOD_STARTED_AT),
        None
    );
    let spec = json!({"subscriptions": [{"id": "1", "generation": 10}, {"generation": 15}]});
    let insight = resource(Kind::DataplaneInsight, "web", &spec, &[]);
    assert_eq!(
        up(&insight).unwrap().spec.as_str(),
        r#"{"subscriptions":[{"id":"1"},{}]}"#
    );
}

/// A store and what arrives at it.
struct Stage(BTreeMap<Key, Resource>);

impl Stage {
    fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        Self(resources.into_iter().map(|r| (r.key.clone(), r)).collect())
    }

    fn plan(&self, side: Side<'_>, incoming: Incoming) -> Plan {
        let get = |key: &Key| self.0.get(key);
        let list = |kind| self.0.values().filter(|r| r.key.kind == kind).collect();
        let validate = |r: &Resource| {
            r.spec
                .as_str()
                .contains("bad")
                .then(|| "spec: bad".to_owned())
        };
        plan(
            side,
            incoming,
            &Holdings {
                get: &get,
                list: &list,
            },
            &validate,
        )
    }
}

fn sent(resource: &Resource) -> Received {
    let shaped = zonal_federation::Shaped {
        key: resource.key.clone(),
        labels: resource.meta.labels.clone(),
        spec: resource.spec.clone(),
        status: resource.status.clone(),
    };
    let offer = wire::encode(&shaped).unwrap();
    Received {
        name: offer.name.to_string(),
        body_type: None,
        body: offer.body,
    }
}

fn batch(kind: Kind, upserts: &[&Resource], removals: &[&str], complete: bool) -> Incoming {
    let upserts: Vec<_> = upserts.iter().map(|r| sent(r)).collect();
    let names: BTreeSet<_> = upserts
        .iter()
        .map(|received| received.name.clone())
        .collect();
    Incoming {
        kind,
        upserts,
        removals: removals.iter().map(|name| (*name).to_owned()).collect(),
        complete: complete.then_some(names),
    }
}

const GLOBAL: [(&str, &str); 1] = [(labels::ORIGIN, "global")];

fn put_names(plan: &Plan) -> Vec<&str> {
    plan.puts
        .iter()
        .map(|put| &*put.resource.key.name)
        .collect()
}

fn removed_names(plan: &Plan) -> Vec<&str> {
    plan.removes.iter().map(|key| &*key.name).collect()
}

#[test]
fn a_first_set_removes_what_it_lacks_and_a_later_one_does_not() {
    let old = resource(Kind::MeshTimeout, "old", &json!({}), &GLOBAL);
    let own = resource(Kind::MeshTimeout, "own", &json!({}), &[]);
    let new = resource(Kind::MeshTimeout, "new", &json!({}), &GLOBAL);
    let stage = Stage::new([old, own]);
    let plan = stage.plan(Side::Zone, batch(Kind::MeshTimeout, &[&new], &[], true));
    assert_eq!(
        (put_names(&plan), removed_names(&plan)),
        (vec!["new"], vec!["old"])
    );
    let plan = stage.plan(Side::Zone, batch(Kind::MeshTimeout, &[&new], &[], false));
    assert_eq!(
        (put_names(&plan), removed_names(&plan)),
        (vec!["new"], vec![])
    );
}

#[test]
fn a_first_set_without_a_zones_own_mesh_does_not_remove_it() {
    // Of a zone that was on its own: with a mesh would go everything in it.
    let own = resource(
        Kind::Mesh,
        "shop",
        &json!({}),
        &[("kuma.io/origin", "zone")],
    );
    let older = resource(Kind::Mesh, "unlabelled", &json!({}), &[]);
    let copy = resource(Kind::Mesh, "copy", &json!({}), &GLOBAL);
    let stage = Stage::new([own, older, copy]);
    let plan = stage.plan(Side::Zone, batch(Kind::Mesh, &[], &[], true));
    assert_eq!(removed_names(&plan), ["copy"]);
}

#[test]
fn a_name_both_removed_and_added_is_an_update() {
    let old = resource(Kind::MeshTimeout, "t", &json!({}), &GLOBAL);
    let new = resource(Kind::MeshTimeout, "t", &json!({"to": []}), &GLOBAL);
    let stage = Stage::new([old]);
    let plan = stage.plan(
        Side::Zone,
        batch(Kind::MeshTimeout, &[&new], &["t.default"], false),
    );
    assert_eq!(
        (put_names(&plan), removed_names(&plan)),
        (vec!["t"], vec![])
    );
    assert!(plan.puts[0].replaces);
}

#[test]
fn a_bad_resource_is_refused_by_name_and_what_was_there_stays() {
    let held = resource(Kind::MeshTimeout, "b", &json!({}), &GLOBAL);
    let good = resource(Kind::MeshTimeout, "a", &json!({}), &GLOBAL);
    let bad = resource(Kind::MeshTimeout, "b", &json!({"x": "bad"}), &GLOBAL);
    let stage = Stage::new([held]);
    let mut incoming = batch(Kind::MeshTimeout, &[&good, &bad], &[], true);
    incoming.upserts.push(Received {
        name: "c.default".into(),
        body_type: None,
        body: vec![0xff].into(),
    });
    let plan = stage.plan(Side::Zone, incoming);
    assert_eq!(
        (put_names(&plan), removed_names(&plan)),
        (vec!["a"], vec![])
    );
    let refused: Vec<_> = plan
        .refused
        .iter()
        .map(|refusal| refusal.name.as_str())
        .collect();
    assert_eq!(refused, ["b.default", "c.default"]);
    assert_eq!(plan.refused[0].reason, "spec: bad");
}

#[test]
fn a_zone_keeps_its_own_secret_and_says_so() {
    let own = resource(Kind::Secret, "secret", &json!({"data": "b3du"}), &[]);
    let theirs = resource(
        Kind::Secret,
        "secret",
        &json!({"data": "dGhlaXJz"}),
        &GLOBAL,
    );
    let more = resource(
        Kind::Secret,
        "secret-global",
        &json!({"data": "eA=="}),
        &GLOBAL,
    );
    let zone = resource(Kind::Secret, "secret-zone", &json!({"data": "eA=="}), &[]);
    let stage = Stage::new([own, zone]);
    let plan = stage.plan(
        Side::Zone,
        batch(Kind::Secret, &[&theirs, &more], &[], true),
    );
    assert_eq!(
        (put_names(&plan), removed_names(&plan)),
        (vec!["secret-global"], vec![])
    );
    assert_eq!(
        plan.refused[0].reason,
        "the zone has Secret default/secret of its own"
    );
}

#[test]
fn a_zones_mesh_is_globals() {
    let own = resource(Kind::Mesh, "mesh-1", &json!({}), &[]);
    let theirs = resource(Kind::Mesh, "mesh-1", &json!({}), &GLOBAL);
    let plan = Stage::new([own]).plan(Side::Zone, batch(Kind::Mesh, &[&theirs], &[], true));
    assert_eq!(put_names(&plan), ["mesh-1"]);
    assert_eq!(plan.puts[0].resource.label(labels::ORIGIN), Some("global"));
}

#[test]
fn a_zone_keeps_its_own_status_of_a_synced_service() {
    let remote = [(labels::ORIGIN, "global"), (labels::ZONE, "west")];
    let mut held = resource(Kind::MeshService, "web", &json!({}), &remote);
    held.status = Some(Json::from_value(&json!({"vips": [{"ip": "10.0.1.2"}]})));
    let mut same = held.clone();
    same.status = Some(Json::empty_object());
    let changed = resource(
        Kind::MeshService,
        "web",
        &json!({"state": "Available"}),
        &remote,
    );
    let stage = Stage::new([held.clone()]);
    let plan = stage.plan(Side::Zone, batch(Kind::MeshService, &[&same], &[], true));
    assert_eq!((plan.puts.len(), plan.unchanged), (0, 1));
    let plan = stage.plan(Side::Zone, batch(Kind::MeshService, &[&changed], &[], true));
    assert_eq!(plan.puts[0].resource.status, held.status);
}

#[test]
fn global_believes_the_connection_and_not_the_message() {
    let claims = [(labels::ZONE, "west"), (labels::ORIGIN, "global")];
    let spec = json!({"networking": {"address": "1.1.1.1", "gateway": {"tags": {"kuma.io/zone": "west", "kuma.io/service": "g"}}}});
    let gateway = resource(Kind::Dataplane, "g", &spec, &claims);
    let side = Side::Global {
        zone: "east",
        prefix_names: false,
    };
    let plan = Stage::new([]).plan(side, batch(Kind::Dataplane, &[&gateway], &[], false));
    let kept = &plan.puts[0].resource;
    assert_eq!(
        (kept.zone(), kept.label(labels::ORIGIN)),
        (Some("east"), Some("zone"))
    );
    assert_eq!(kept.owner, Some(Key::global(Kind::Zone, "east")));
    assert_eq!(
        kept.spec.to_value()["networking"]["gateway"]["tags"]["kuma.io/zone"],
        json!("east")
    );
    assert_eq!(plan.rewritten, 1);
}

#[test]
fn a_zone_cannot_touch_what_is_not_its_own() {
    let west = [(labels::ORIGIN, "zone"), (labels::ZONE, "west")];
    let theirs = resource(Kind::MeshService, "web", &json!({}), &west);
    let global = resource(Kind::MeshTimeout, "t", &json!({}), &[]);
    let mine = resource(Kind::MeshService, "old", &json!({}), &OF_EAST);
    let stage = Stage::new([theirs.clone(), global, mine]);
    let side = Side::Global {
        zone: "east",
        prefix_names: false,
    };
    let plan = stage.plan(
        side,
        batch(Kind::MeshService, &[&theirs], &["web.default"], true),
    );
    assert_eq!(
        (put_names(&plan), removed_names(&plan)),
        (vec![], vec!["old"])
    );
    assert_eq!(
        plan.refused[0].reason,
        "MeshService default/web exists already and belongs to `west`"
    );
    let plan = stage.plan(side, batch(Kind::MeshTimeout, &[], &["t.default"], true));
    assert_eq!(removed_names(&plan), [""; 0]);
}

#[test]
fn a_zone_without_hashed_names_gets_its_name_in_front() {
    let service = resource(Kind::MeshService, "web", &json!({}), &[]);
    let side = Side::Global {
        zone: "east",
        prefix_names: true,
    };
    let plan = Stage::new([]).plan(side, batch(Kind::MeshService, &[&service], &[], true));
    assert_eq!(put_names(&plan), ["east.web"]);
}
