//! Names on the far side: what a publisher withdraws is what it offered.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at once")]

use std::sync::Arc;
use std::time::Instant;

use zonal_delta::{Name, Request, Response, TypeUrl};
use zonal_federation::{Border, Encodings, Features};
use zonal_kds::{Direction, Publisher};
use zonal_model::{Json, Key, Kind, Resource, labels};
use zonal_store::{Batch, Epoch, MemoryStore, Store};

const KIND: Kind = Kind::MeshZoneAddress;

fn address(name: &str, origin: &str, zone: &str, port: u16) -> Resource {
    let spec = Json::from_value(&serde_json::json!({"address": "10.0.0.1", "port": port}));
    let mut resource = Resource::new(Key::new(KIND, "default", name), spec);
    let labels_of = [
        (labels::ORIGIN, origin),
        (labels::ZONE, zone),
        (labels::DISPLAY_NAME, "ingress"),
    ];
    for (key, value) in labels_of {
        resource
            .meta
            .labels
            .insert(key.to_owned(), value.to_owned());
    }
    resource
}

fn flush(publisher: &mut Publisher, store: &MemoryStore, now: Instant) -> Vec<Response> {
    publisher.handle_snapshot(&store.snapshot());
    let mut said = Vec::new();
    while let Some(response) = publisher.poll_response(now) {
        let mut ack = Request::new(response.type_url.clone());
        ack.answer = Some(zonal_delta::Answer {
            nonce: response.nonce.clone(),
            nack: None,
        });
        drop(publisher.handle_request(now, ack));
        said.push(response);
    }
    said
}

/// Two zones have a resource of the same name. In `east`, the copy of `west`'s has another name than `east`'s own, but
/// both would have the same name at global if both went there.
#[test]
fn a_changed_copy_does_not_withdraw_the_own_resource_of_its_name() {
    #[expect(clippy::disallowed_methods, reason = "only differences matter")]
    let now = Instant::now();
    let epoch = Epoch::named("east");
    let store = MemoryStore::with_epoch(epoch, Arc::new(|| jiff::Timestamp::UNIX_EPOCH));
    let direction = Direction::Up {
        zone: "east".into(),
        features: Features::ALL,
    };
    let mut publisher = Publisher::new(direction, Arc::new(Encodings::new(Border::default())));
    let mut subscribe = Request::new(TypeUrl::from(KIND.name()));
    subscribe.subscribe = vec![Name::from("*")];
    drop(publisher.handle_request(now, subscribe));

    let both = Batch::new()
        .put(address("ingress", "zone", "east", 1))
        .put(address("ingress-of-west", "global", "west", 1));
    store.commit_now(both).unwrap();
    let first = flush(&mut publisher, &store, now);
    assert_eq!(
        first.iter().map(|said| said.upserts.len()).sum::<usize>(),
        1
    );

    let change = Batch::new().put(address("ingress-of-west", "global", "west", 2));
    store.commit_now(change).unwrap();
    assert_eq!(flush(&mut publisher, &store, now), []);

    let removal = Batch::new().remove(Key::new(KIND, "default", "ingress-of-west"));
    store.commit_now(removal).unwrap();
    assert_eq!(flush(&mut publisher, &store, now), []);
    assert_eq!(publisher.offered_count(KIND), 1);
}
