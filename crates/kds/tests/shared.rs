//! However the store changes, each zone is offered what the border says of each resource alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test may make up its own start of time"
)]
#![allow(clippy::print_stdout, reason = "a failing run names its seed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::json;
use zonal_delta::{Answer, Request};
use zonal_federation::{Border, Encodings, Features, Receiver, wire};
use zonal_kds::{Direction, Publisher, Shelf, zone_record};
use zonal_model::{Json, Key, Kind, Resource, labels};
use zonal_store::{Batch, MemoryStore, Snapshot, Store};

const ZONES: [&str; 3] = ["east", "west", "north"];
const KINDS: [Kind; 4] = [
    Kind::MeshService,
    Kind::MeshTimeout,
    Kind::MeshTrust,
    Kind::HostnameGenerator,
];

type Seen = BTreeMap<(String, String), String>;

/// One zone's stream, and what it holds by now.
struct Peer {
    zone: &'static str,
    features: Features,
    publisher: Publisher,
    holds: Seen,
}

impl Peer {
    fn new(zone: &'static str, features: Features, shelf: &Arc<Shelf>) -> Self {
        let direction = Direction::Down {
            zone: zone.into(),
            features,
        };
        let mut publisher = Publisher::sharing(direction, Arc::clone(shelf));
        for kind in KINDS {
            let subscribe = vec!["*".into()];
            let request = Request {
                subscribe,
                ..Request::new(wire::type_url(kind).into())
            };
            publisher.handle_request(Instant::now(), request);
        }
        Self {
            zone,
            features,
            publisher,
            holds: Seen::new(),
        }
    }

    fn take_all(&mut self, snapshot: &Arc<Snapshot>) {
        let now = Instant::now();
        self.publisher.handle_snapshot(snapshot);
        while let Some(response) = self.publisher.poll_response(now) {
            let kind = response.type_url.to_string();
            for name in response.removals {
                self.holds.remove(&(kind.clone(), name.to_string()));
            }
            for upsert in response.upserts {
                let key = (kind.clone(), upsert.name.to_string());
                self.holds.insert(key, upsert.version.to_string());
            }
            let answer = Some(Answer {
                nonce: response.nonce,
                nack: None,
            });
            let ack = Request {
                answer,
                ..Request::new(response.type_url)
            };
            self.publisher.handle_request(now, ack);
        }
        assert_eq!(self.publisher.reached(), Some(snapshot.revision()));
        assert!(self.publisher.take_problems().is_empty());
    }

    /// What the border says, resource by resource.
    fn should_hold(&self, snapshot: &Snapshot) -> Seen {
        let is_enabled = |zone: &str| {
            let record = snapshot.get(&Key::global(Kind::Zone, zone));
            record.is_none_or(|record| !record.resource.spec.as_str().contains("false"))
        };
        let to = Receiver {
            zone: self.zone,
            features: self.features,
            is_enabled: &is_enabled,
        };
        let mut seen = Seen::new();
        for kind in KINDS {
            for stored in snapshot.list(kind) {
                if let Some(offer) = Border::default().offer_down(&stored.resource, &to).unwrap() {
                    let key = (kind.to_string(), offer.name.to_string());
                    seen.insert(key, offer.version.to_string());
                }
            }
        }
        seen
    }
}

fn change(random: &mut fastrand::Rng, version: u64) -> Batch {
    let zone = ZONES[random.usize(0..ZONES.len())];
    if random.u8(0..12) == 0 {
        let mut record = zone_record(zone);
        record.spec = Json::from_value(&json!({"enabled": random.bool()}));
        return Batch::new().put(record);
    }
    let kind = KINDS[random.usize(0..KINDS.len())];
    let name = format!("{zone}-n{}", random.u8(0..12));
    let key = Key::new(kind, "default", name);
    if random.u8(0..4) == 0 {
        return Batch::new().remove(key);
    }
    let mut resource = Resource::new(key, Json::from_value(&json!({"version": version})));
    if random.bool() {
        let members = &mut resource.meta.labels;
        members.insert(labels::ORIGIN.to_owned(), "zone".to_owned());
        members.insert(labels::ZONE.to_owned(), zone.to_owned());
    }
    Batch::new().put(resource)
}

#[test]
fn every_zone_is_offered_what_the_border_says() {
    for seed in 0..5 {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let store = MemoryStore::new(Arc::new(|| Timestamp::UNIX_EPOCH));
        let shelf = Arc::new(Shelf::new(Arc::new(Encodings::new(Border::default()))));
        let older = Features {
            hash_suffix: false,
            ..Features::KUMA
        };
        let mut peers = vec![
            Peer::new("east", Features::ALL, &shelf),
            Peer::new("west", Features::ALL, &shelf),
            Peer::new("north", Features::KUMA, &shelf),
            Peer::new("east", older, &shelf),
        ];
        for version in 0..200 {
            store.commit_now(change(&mut random, version)).unwrap();
            if random.u8(0..50) == 0 {
                peers.push(Peer::new("west", Features::ALL, &shelf));
            }
            let snapshot = store.snapshot();
            for peer in &mut peers {
                // Some are slow and skip what was between.
                if random.u8(0..3) > 0 {
                    peer.take_all(&snapshot);
                    assert_eq!(peer.holds, peer.should_hold(&snapshot), "{}", peer.zone);
                }
            }
        }
    }
}
