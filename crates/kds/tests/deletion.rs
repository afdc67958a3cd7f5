//! A zone is deleted while something of it is on its way into global's store.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at once")]

use std::sync::Arc;
use std::time::Instant;

use zonal_federation::{Border, Encodings, Features};
use zonal_kds::{Direction, From, Publisher, Subscriber, note_of_deletion, zone_record};
use zonal_model::{Json, Key, Kind, Resource};
use zonal_store::{Batch, MemoryStore, Store, StoreError};

fn store() -> MemoryStore {
    MemoryStore::new(Arc::new(|| jiff::Timestamp::UNIX_EPOCH))
}

#[test]
fn what_was_planned_before_the_deletion_is_not_kept_after_it() {
    #[expect(clippy::disallowed_methods, reason = "only differences matter")]
    let now = Instant::now();
    let zone = store();
    let spec = Json::from_value(&serde_json::json!({"address": "10.0.0.1", "port": 1}));
    let address = Resource::new(Key::new(Kind::MeshZoneAddress, "default", "ingress"), spec);
    zone.commit_now(Batch::new().put(address)).unwrap();
    let direction = Direction::Up {
        zone: "east".into(),
        features: Features::ALL,
    };
    let mut publisher = Publisher::new(direction, Arc::new(Encodings::new(Border::default())));
    publisher.handle_snapshot(&zone.snapshot());
    let mut subscriber = Subscriber::new(From::Zone {
        name: "east".into(),
        prefix_names: false,
    });
    while let Some(request) = subscriber.poll_request() {
        drop(publisher.handle_request(now, request));
    }
    let global = store();
    global
        .commit_now(Batch::new().put(zone_record("east")))
        .unwrap();
    let mut pending = None;
    while let Some(response) = publisher.poll_response(now) {
        let brings = !response.upserts.is_empty();
        let taken = subscriber.handle_response(response);
        if brings {
            pending = taken;
        }
    }
    let pending = pending.unwrap();
    let planned = subscriber.plan(&pending, &global.snapshot());
    assert_eq!(planned.puts, 1);

    let mut deletion = Batch {
        ops: vec![note_of_deletion("east")],
    };
    deletion = deletion.remove(Key::global(Kind::Zone, "east"));
    global.commit_now(deletion).unwrap();
    let kept = global.commit_now(planned.batch);
    assert!(matches!(kept, Err(StoreError::Conflict { .. })), "{kept:?}");
    let again = subscriber.plan(&pending, &global.snapshot());
    assert!(again.batch.is_empty());
    let reasons: Vec<&str> = again.refused.iter().map(|r| r.reason.as_str()).collect();
    assert!(
        matches!(reasons.as_slice(), [reason] if reason.contains("zone `east` was deleted at global")),
        "{reasons:?}"
    );
    assert_eq!(global.snapshot().count(Kind::MeshZoneAddress), 0);
}
