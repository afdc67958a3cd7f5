//! What a running Kuma said on the wire, read and written by us.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(clippy::print_stderr, reason = "a skipped suite says so")]

mod reader;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kds_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use kds_proto::kuma::mesh::v1alpha1::KumaResource;
use prost::Message as _;
use zonal_federation::{
    Border, Features, Holdings, Incoming, Offered, Plan, Received, Receiver, Shaped, Side, plan,
    wire,
};
use zonal_model::{Json, Key, Kind, Resource, labels};

use reader::{Recording, recordings};

fn incoming(message: &DeltaDiscoveryResponse, first: bool) -> Incoming {
    let upserts: Vec<_> = message
        .resources
        .iter()
        .map(|resource| {
            let any = resource.resource.clone().unwrap();
            Received {
                name: resource.name.clone(),
                body_type: Some(any.type_url),
                body: any.value,
            }
        })
        .collect();
    let complete: BTreeSet<_> = upserts
        .iter()
        .map(|received| received.name.clone())
        .collect();
    Incoming {
        kind: wire::parse_type_url(&message.type_url).unwrap(),
        upserts,
        removals: message.removed_resources.clone(),
        complete: first.then_some(complete),
    }
}

/// A store for tests: what a plan says, done.
#[derive(Default)]
struct Kept(BTreeMap<Key, Resource>);

impl Kept {
    fn plan(&self, side: Side<'_>, incoming: Incoming) -> Plan {
        let get = |key: &Key| self.0.get(key);
        let list = |kind| self.0.values().filter(|r| r.key.kind == kind).collect();
        plan(
            side,
            incoming,
            &Holdings {
                get: &get,
                list: &list,
            },
            &|_| None,
        )
    }

    fn apply(&mut self, side: Side<'_>, incoming: Incoming) -> Plan {
        let plan = self.plan(side, incoming);
        for put in &plan.puts {
            self.0
                .insert(put.resource.key.clone(), put.resource.clone());
        }
        for key in &plan.removes {
            self.0.remove(key);
        }
        plan
    }
}

/// Every response on the sync streams of a recording, with its zone and direction.
fn responses(recording: &Recording) -> Vec<(String, bool, DeltaDiscoveryResponse)> {
    recording
        .messages()
        .filter(|m| match m.method.as_str() {
            "GlobalToZoneSync" => !m.up,
            "ZoneToGlobalSync" => m.up,
            _ => false,
        })
        .map(|m| {
            let message = DeltaDiscoveryResponse::decode(m.body.clone()).unwrap();
            (m.zone.clone(), m.up, message)
        })
        .collect()
}

#[test]
fn every_recorded_resource_survives_reading_and_writing() {
    let mut count = 0;
    for recording in recordings() {
        for (_, _, message) in responses(&recording) {
            let kind = wire::parse_type_url(&message.type_url).unwrap();
            for resource in &message.resources {
                let any = resource.resource.clone().unwrap();
                let decoded = wire::decode(kind, Some(&any.type_url), any.value.clone()).unwrap();
                assert_eq!(wire::wire_name(&decoded.key), resource.name);
                let shaped = Shaped {
                    key: decoded.key.clone(),
                    labels: decoded.meta.labels.clone(),
                    spec: decoded.spec.clone(),
                    status: decoded.status.clone(),
                };
                let encoded = wire::encode(&shaped).unwrap();
                same_envelope(&any.value, &encoded.body);
                count += 1;
            }
        }
    }
    eprintln!("wire: {count} recorded resources read and written");
}

/// The same fields; JSON may differ in the order of its members.
fn same_envelope(theirs: &Bytes, ours: &Bytes) {
    let mut theirs = KumaResource::decode(theirs.clone()).unwrap();
    let mut ours = KumaResource::decode(ours.clone()).unwrap();
    let spec = |r: &mut KumaResource| r.spec.take().unwrap();
    let (a, b) = (spec(&mut theirs), spec(&mut ours));
    assert_eq!(a.type_url, b.type_url);
    if a.type_url.is_empty() {
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(json(&a.value), json(&b.value));
    } else {
        assert_eq!(a.value, b.value, "{:?}", theirs.meta);
    }
    let status = |r: &mut KumaResource| {
        let any = r.status.take();
        any.map(|any| Json::parse(std::str::from_utf8(&any.value).unwrap()).unwrap())
    };
    assert_eq!(status(&mut theirs), status(&mut ours));
    assert_eq!(theirs, ours);
}

#[test]
fn a_fresh_zone_holds_thirteen_resources_after_the_recorded_first_sync() {
    let Some(recording) = recordings().into_iter().find(|r| r.name == "first-sync") else {
        return;
    };
    let mut kept = Kept::default();
    for (_, up, message) in responses(&recording) {
        if !up {
            let first = message.nonce.parse::<u32>().unwrap() <= 29;
            let plan = kept.apply(Side::Zone, incoming(&message, first));
            assert_eq!(plan.refused, []);
            assert_eq!(plan.removes, []);
        }
    }
    assert_eq!(kept.0.len(), 13);
    // The same again changes nothing.
    for (_, up, message) in responses(&recording) {
        if !up {
            let plan = kept.plan(Side::Zone, incoming(&message, false));
            assert_eq!(
                (plan.puts.len(), plan.unchanged),
                (0, message.resources.len())
            );
        }
    }
    assert!(
        kept.0
            .values()
            .all(|r| r.label(labels::ORIGIN) == Some("global"))
    );
}

#[test]
fn global_passes_a_recorded_inventory_on_as_kuma_does() {
    let Some(recording) = recordings().into_iter().find(|r| r.name == "inventory") else {
        return;
    };
    let border = Border {
        trust_spreads: false,
        ..Border::default()
    };
    let mut global = Kept::default();
    let side = Side::Global {
        zone: "zone-1",
        prefix_names: false,
    };
    // What global offered zone-2 of each resource of zone-1, over time.
    let mut offered: BTreeMap<String, Vec<Offered>> = BTreeMap::new();
    for (zone, up, message) in responses(&recording) {
        if !(up && zone == "zone-1") {
            continue;
        }
        let plan = global.apply(side, incoming(&message, false));
        assert_eq!(plan.refused, []);
        for put in &plan.puts {
            let to = |zone| Receiver {
                zone,
                features: Features::KUMA,
                is_enabled: &|_| true,
            };
            assert_eq!(
                border.offer_down(&put.resource, &to("zone-1")).unwrap(),
                None
            );
            if let Some(offer) = border.offer_down(&put.resource, &to("zone-2")).unwrap() {
                offered
                    .entry(offer.name.to_string())
                    .or_default()
                    .push(offer);
            }
        }
    }
    let mut compared = 0;
    for (zone, up, message) in responses(&recording) {
        if up || zone != "zone-2" {
            continue;
        }
        for resource in &message.resources {
            let theirs = resource.resource.clone().unwrap().value;
            let ours = offered
                .get(&resource.name)
                .unwrap_or_else(|| panic!("{}", resource.name));
            let meaning = |body: &Bytes| {
                wire::decode(
                    wire::parse_type_url(&message.type_url).unwrap(),
                    None,
                    body.clone(),
                )
                .map(|r| (r.key, r.meta.labels, r.spec))
                .unwrap()
            };
            let wanted = meaning(&theirs);
            assert!(
                ours.iter().any(|offer| meaning(&offer.body) == wanted),
                "{}",
                resource.name
            );
            compared += 1;
        }
    }
    eprintln!("wire: {compared} resources passed on as recorded");
    assert!(recording.is_empty() || compared > 0);
}

#[test]
fn a_zones_own_resources_go_up_as_recorded() {
    let mut compared = 0;
    for recording in recordings() {
        for (zone, up, message) in responses(&recording) {
            if !up || zone == "zone-9" {
                continue;
            }
            let kind: Kind = message.type_url.parse().unwrap();
            for resource in &message.resources {
                let theirs =
                    wire::decode(kind, None, resource.resource.clone().unwrap().value).unwrap();
                // In the zone it has its own name.
                let mut local = theirs.clone();
                local.key = Key::new(kind, &theirs.key.mesh, theirs.display_name());
                let offer = Border::default().offer_up(&local, &zone).unwrap().unwrap();
                assert_eq!(&*offer.name, resource.name);
                let ours = wire::decode(kind, None, offer.body).unwrap();
                assert_eq!(ours, theirs);
                compared += 1;
            }
        }
    }
    eprintln!("wire: {compared} resources of zones go up as recorded");
}
