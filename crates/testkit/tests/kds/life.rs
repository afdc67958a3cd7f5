//! The life of a zone: switched off and on, drained, deleted, and who may speak for it.

use std::sync::Arc;

use serde_json::{Value, json};
use zonal_control_plane::MeshRules;
use zonal_federation::Border;
use zonal_model::{Json, Key, Kind, Mode, Resource, labels};
use zonal_rest::WriteRules as _;
use zonal_store::{Batch, MemoryStore, Snapshot, Store as _};
use zonal_testkit::federation::{Global, Zone, put, store, until, until_published};

use super::{gone, mesh, service, there};

fn zone_key(name: &str) -> Key {
    Key::global(Kind::Zone, name)
}

/// The record of a zone as people write it.
fn record(name: &str, enabled: bool, drained: bool) -> Resource {
    let spec = Json::from_value(&json!({ "enabled": enabled }));
    let mut zone = Resource::new(zone_key(name), spec);
    if drained {
        zone.meta
            .labels
            .insert(labels::DRAINED.to_owned(), "true".to_owned());
    }
    zone
}

fn address(name: &str) -> Resource {
    let spec = json!({"address": "10.0.0.1", "port": 10001});
    Resource::new(
        Key::new(Kind::MeshZoneAddress, "default", name),
        Json::from_value(&spec),
    )
}

fn rules() -> MeshRules {
    MeshRules::new(Mode::Global, None)
}

/// Deletes a zone as the API does.
fn delete(store: &MemoryStore, zone: &str) {
    let snapshot = store.snapshot();
    let existing = snapshot.get(&zone_key(zone)).unwrap();
    let ops = rules().before_remove(&snapshot, existing).unwrap();
    let batch = Batch { ops }.remove(zone_key(zone));
    store.commit_now(batch).unwrap();
}

/// Makes a zone as the API does.
fn create(store: &MemoryStore, zone: &str) {
    let zone = record(zone, true, false);
    let ops = rules().before_put(&store.snapshot(), &zone, None).unwrap();
    store.commit_now(Batch { ops }.put(zone)).unwrap();
}

/// What a store has of a zone, its record and notes about it aside.
fn of_zone(snapshot: &Snapshot, zone: &str) -> Vec<String> {
    snapshot
        .all()
        .map(|stored| &stored.resource)
        .filter(|r| {
            r.label(labels::ZONE) == Some(zone)
                || r.owner == Some(zone_key(zone))
                || (&*r.key.name == zone && r.key.kind != Kind::Zone)
        })
        .map(|resource| resource.key.to_string())
        .collect()
}

#[tokio::test]
async fn a_zone_that_is_switched_off_goes_on_alone_and_its_return_deletes_nothing() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let mut east = Zone::join("east", store(), global.addr).await;
    let west = Zone::join("west", store(), global.addr).await;
    put(&east.store, [service("web"), address("ingress")]);
    until(&west.store, |s| there(s, Kind::MeshService, "web")).await;
    until(&west.store, |s| there(s, Kind::MeshZoneAddress, "ingress")).await;

    put(&global.store, [record("east", false, false)]);
    until(&west.store, |s| gone(s, Kind::MeshService, "web")).await;
    until(&west.store, |s| gone(s, Kind::MeshZoneAddress, "ingress")).await;
    // It stays connected: it gets what is new and is heard, as in Kuma.
    assert!(east.progress.borrow().connected);
    put(&global.store, [super::timeout("late", "5s")]);
    until(&east.store, |s| there(s, Kind::MeshTimeout, "late")).await;
    put(&east.store, [service("api")]);
    until(&global.store, |s| there(s, Kind::MeshService, "api")).await;
    assert!(gone(&west.store.snapshot(), Kind::MeshService, "api").is_ok());

    let before = global.store.snapshot();
    let own = east.store.snapshot();
    put(&global.store, [record("east", true, false)]);
    for name in ["web", "api"] {
        until(&west.store, |s| there(s, Kind::MeshService, name)).await;
    }
    let after = global.store.snapshot();
    assert!(after.same_kind(Kind::MeshService, &before));
    assert!(
        east.store.snapshot().same_kind(Kind::MeshService, &own),
        "the zone itself noticed nothing"
    );
    until_published(&mut east.progress, |progress| {
        progress
            .connected
            .then_some(())
            .ok_or_else(|| "connected anew".to_owned())
    })
    .await;
}

#[tokio::test]
async fn a_drained_zone_is_known_and_not_reachable() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let east = Zone::join("east", store(), global.addr).await;
    let west = Zone::join("west", store(), global.addr).await;
    put(&east.store, [service("web"), address("ingress")]);
    until(&west.store, |s| there(s, Kind::MeshZoneAddress, "ingress")).await;
    until(&west.store, |s| there(s, Kind::MeshService, "web")).await;

    put(&global.store, [record("east", true, true)]);
    until(&west.store, |s| gone(s, Kind::MeshZoneAddress, "ingress")).await;
    there(&west.store.snapshot(), Kind::MeshService, "web").unwrap();
    // One that joins now is not told either.
    let south = Zone::join("south", store(), global.addr).await;
    until(&south.store, |s| there(s, Kind::MeshService, "web")).await;
    put(&global.store, [super::timeout("late", "5s")]);
    until(&south.store, |s| there(s, Kind::MeshTimeout, "late")).await;
    gone(&south.store.snapshot(), Kind::MeshZoneAddress, "ingress").unwrap();

    put(&global.store, [record("east", true, false)]);
    until(&west.store, |s| there(s, Kind::MeshZoneAddress, "ingress")).await;
    until(&south.store, |s| there(s, Kind::MeshZoneAddress, "ingress")).await;
}

#[tokio::test]
async fn a_deleted_zone_leaves_nothing_is_told_so_and_stays_out_until_it_is_made_again() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let mut east = Zone::join("east", store(), global.addr).await;
    let west = Zone::join("west", store(), global.addr).await;
    put(&east.store, [service("web"), address("ingress")]);
    until(&west.store, |s| there(s, Kind::MeshService, "web")).await;
    let insight = Key::global(Kind::ZoneInsight, "east");
    until(&global.store, |s| {
        s.get(&insight).map(|_| ()).ok_or("no insight".to_owned())
    })
    .await;

    delete(&global.store, "east");
    until(&west.store, |s| gone(s, Kind::MeshService, "web")).await;
    until_published(&mut east.progress, |progress| {
        let told = progress.refused.clone().ok_or("not told")?;
        let right = told.contains("zone `east` was deleted at global at ")
            && told.contains("`zonal zone create east`");
        right.then_some(()).ok_or(told)
    })
    .await;
    let nothing: Vec<String> = Vec::new();
    assert_eq!(of_zone(&global.store.snapshot(), "east"), nothing);
    assert_eq!(of_zone(&west.store.snapshot(), "east"), nothing);
    assert!(global.store.snapshot().get(&zone_key("east")).is_none());
    // What is known in memory goes too.
    let receipts = global.kds.receipts();
    let mut changed = receipts.changed();
    until_published(&mut changed, |_| {
        let standing = global.kds.standing("east");
        let state = serde_json::to_value(&standing).unwrap();
        (state["state"] == "unknown" && state["since"] == Value::Null)
            .then_some(())
            .ok_or_else(|| state.to_string())
    })
    .await;
    // The zone itself keeps what it has, and works.
    there(&east.store.snapshot(), Kind::MeshService, "web").unwrap();
    put(&east.store, [service("api")]);

    create(&global.store, "east");
    for name in ["web", "api"] {
        until(&west.store, |s| there(s, Kind::MeshService, name)).await;
    }
    assert_eq!(
        global
            .store
            .snapshot()
            .list(Kind::Config)
            .filter(|stored| stored.resource.key.name.contains("deleted"))
            .count(),
        0
    );
}

#[tokio::test]
async fn a_zone_is_deleted_while_it_sends() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let mut east = Zone::join("east", store(), global.addr).await;
    put(&east.store, [service("s0")]);
    until(&global.store, |s| there(s, Kind::MeshService, "s0")).await;
    // Many small messages are on the way when the zone is deleted.
    for n in 1..200 {
        put(&east.store, [service(&format!("s{n}"))]);
        if n == 100 {
            delete(&global.store, "east");
        }
        tokio::task::yield_now().await;
    }
    until_published(&mut east.progress, |progress| {
        let told = progress.refused.as_deref();
        told.is_some_and(|told| told.contains("was deleted"))
            .then_some(())
            .ok_or_else(|| format!("{told:?}"))
    })
    .await;
    assert_eq!(
        of_zone(&global.store.snapshot(), "east"),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn another_store_does_not_speak_for_a_zone_that_is_connected() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let mut first = Zone::join("east", store(), global.addr).await;
    first.connected().await;
    put(&first.store, [service("web")]);
    until(&global.store, |s| there(s, Kind::MeshService, "web")).await;

    let mut second = Zone::join("east", store(), global.addr).await;
    until_published(&mut second.progress, |progress| {
        let told = progress.refused.clone().ok_or("not told")?;
        let right = told
            .contains("zone `east` is connected already, by control plane `zone` at 127.0.0.1:")
            && told.contains("another store");
        right.then_some(()).ok_or(told)
    })
    .await;
    assert!(
        first.progress.borrow().connected,
        "the first is not disturbed"
    );
    there(&global.store.snapshot(), Kind::MeshService, "web").unwrap();
    // A restart over the same store comes in at once, beside what is left of the earlier one.
    let mut again = Zone::join("east", Arc::clone(&first.store), global.addr).await;
    again.connected().await;
    // When nobody is left, the other one may: then it is the zone.
    first.stop();
    again.stop();
    second.connected().await;
    until(&global.store, |s| gone(s, Kind::MeshService, "web")).await;
}

/// A resource as a zone on its own keeps it.
fn own(mut resource: Resource) -> Resource {
    let members = &mut resource.meta.labels;
    members.insert(labels::ORIGIN.to_owned(), "zone".to_owned());
    members.insert(labels::ZONE.to_owned(), "east".to_owned());
    resource
}

#[tokio::test]
async fn a_zone_that_was_alone_brings_what_it_has_and_loses_nothing() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh(), super::timeout("of-global", "5s")]);
    let alone = store();
    let shop = Resource::new(Key::global(Kind::Mesh, "shop"), Json::empty_object());
    let cart = Resource::new(
        Key::new(Kind::MeshService, "shop", "cart"),
        service("cart").spec,
    );
    let policy = own(super::timeout("own-policy", "7s"));
    let key = Resource::new(
        Key::new(
            Kind::Secret,
            "default",
            "dataplane-token-signing-key-default-1",
        ),
        Json::from_value(&json!({"data": "b3du"})),
    );
    let things = [mesh(), own(shop), service("web"), cart, policy, key];
    put(&alone, things.clone());
    // Global has a key of the same name.
    let mut theirs = things.last().unwrap().clone();
    theirs.spec = Json::from_value(&json!({"data": "dGhlaXJz"}));
    put(&global.store, [theirs]);

    let mut east = Zone::join("east", Arc::clone(&alone), global.addr).await;
    east.connected().await;
    until(&alone, |s| there(s, Kind::MeshTimeout, "of-global")).await;
    for name in ["web", "cart"] {
        until(&global.store, |s| there(s, Kind::MeshService, name)).await;
    }
    until(&global.store, |s| there(s, Kind::MeshTimeout, "own-policy")).await;
    // Everything is there under its name, as it was.
    let after = alone.snapshot();
    for thing in &things {
        let kept = after.get(&thing.key).map(|stored| &stored.resource.spec);
        assert_eq!(kept, Some(&thing.spec), "{}", thing.key);
    }
    // It stays so over a reconnect.
    east.relay.cut();
    put(&global.store, [super::timeout("later", "5s")]);
    until(&alone, |s| there(s, Kind::MeshTimeout, "later")).await;
    for thing in &things {
        assert!(alone.snapshot().get(&thing.key).is_some(), "{}", thing.key);
    }
}
