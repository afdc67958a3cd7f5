//! A mesh that goes and comes again takes what zones have in it out of global's store.
#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::sync::Arc;
use std::time::Instant;

use zonal_delta::Response;
use zonal_federation::{Border, Encodings, Features};
use zonal_kds::{Direction, From, Publisher, Subscriber};
use zonal_model::{Json, Key, Kind, Resource, labels};
use zonal_store::{Batch, Epoch, MemoryStore, Store};

fn store(name: &str) -> MemoryStore {
    MemoryStore::with_epoch(Epoch::named(name), Arc::new(|| jiff::Timestamp::UNIX_EPOCH))
}

fn mesh() -> Resource {
    Resource::new(Key::global(Kind::Mesh, "extra"), Json::empty_object())
}

fn at_global() -> From {
    From::Zone {
        name: "east".into(),
        prefix_names: false,
    }
}

/// What a zone says about its addresses when it has one in the mesh.
fn said() -> Response {
    let zone = store("east");
    let spec = Json::from_value(&serde_json::json!({"address": "10.0.0.1", "port": 80}));
    let mut address = Resource::new(Key::new(Kind::MeshZoneAddress, "extra", "ingress"), spec);
    for (key, value) in [(labels::ORIGIN, "zone"), (labels::ZONE, "east")] {
        let members = &mut address.meta.labels;
        members.insert(key.to_owned(), value.to_owned());
    }
    zone.commit_now(Batch::new().put(mesh()).put(address))
        .unwrap();
    let direction = Direction::Up {
        zone: "east".into(),
        features: Features::ALL,
    };
    let mut publisher = Publisher::new(direction, Arc::new(Encodings::new(Border::default())));
    publisher.handle_snapshot(&zone.snapshot());
    #[expect(clippy::disallowed_methods, reason = "only differences matter")]
    let now = Instant::now();
    let mut asks = Subscriber::new(at_global());
    while let Some(request) = asks.poll_request() {
        drop(publisher.handle_request(now, request));
    }
    std::iter::from_fn(|| publisher.poll_response(now))
        .find(|response| !response.upserts.is_empty())
        .unwrap()
}

#[test]
fn a_mesh_that_comes_again_shows_what_was_lost_with_it() {
    let global = store("global");
    global.commit_now(Batch::new().put(mesh())).unwrap();
    let mut subscriber = Subscriber::new(at_global());
    while subscriber.poll_request().is_some() {}
    let pending = subscriber.handle_response(said()).unwrap();
    let planned = subscriber.plan(&pending, &global.snapshot());
    assert!(planned.refused.is_empty());
    global.commit_now(planned.batch).unwrap();
    subscriber.applied(&pending, planned.refused);
    assert!(!subscriber.has_lost(&global.snapshot()), "all is there");

    let removal = Batch::new().remove(mesh().key);
    global.commit_now(removal).unwrap();
    let gone = global.snapshot();
    assert!(!subscriber.has_lost(&gone), "the zone removes it too");
    global.commit_now(Batch::new().put(mesh())).unwrap();
    assert!(subscriber.has_lost(&global.snapshot()));

    let resumed = Subscriber::resuming(at_global(), &global.snapshot(), Some(&subscriber));
    assert!(
        !resumed.has_lost(&global.snapshot()),
        "it is asked for anew"
    );
}
