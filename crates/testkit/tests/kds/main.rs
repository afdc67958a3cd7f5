//! Global and zones, for real, over loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(clippy::print_stdout, reason = "suites print their counts")]

mod kuma;
mod life;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use zonal_federation::Border;
use zonal_identity::{Authority, KeyType};
use zonal_model::{Json, Key, Kind, Resource, labels};
use zonal_process::{Clock as _, RealClock};
use zonal_rest::ZoneReceiptState;
use zonal_store::{Revision, Snapshot, Store};
use zonal_testkit::conformance::{kds_full_sync::kds_full_sync, wire::wire_suite};
use zonal_testkit::federation::{Global, Zone, put, remove, store, until, until_published};
use zone_cp::kds::{AdminQuestion, AdminTarget, EnvoyAdmin, ProxyReceipts};

fn mesh() -> Resource {
    Resource::new(Key::global(Kind::Mesh, "default"), Json::empty_object())
}

fn timeout(name: &str, idle: &str) -> Resource {
    let spec = json!({"to": [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": idle}}]});
    Resource::new(
        Key::new(Kind::MeshTimeout, "default", name),
        Json::from_value(&spec),
    )
}

fn service(name: &str) -> Resource {
    let spec = json!({
        "selector": {"dataplaneLabels": {"matchLabels": {"app": name}}},
        "ports": [{"port": 80, "targetPort": 8080, "appProtocol": "http"}],
        "state": "Available",
    });
    Resource::new(
        Key::new(Kind::MeshService, "default", name),
        Json::from_value(&spec),
    )
}

fn find<'a>(snapshot: &'a Snapshot, kind: Kind, display: &str) -> Option<&'a Resource> {
    snapshot
        .list(kind)
        .map(|stored| &stored.resource)
        .find(|r| r.display_name() == display)
}

fn there(snapshot: &Snapshot, kind: Kind, display: &str) -> Result<(), String> {
    find(snapshot, kind, display)
        .map(|_| ())
        .ok_or_else(|| format!("no {kind} `{display}`"))
}

fn gone(snapshot: &Snapshot, kind: Kind, display: &str) -> Result<(), String> {
    match find(snapshot, kind, display) {
        None => Ok(()),
        Some(_) => Err(format!("{kind} `{display}` is still there")),
    }
}

#[test]
fn the_full_sync_suite_passes() {
    let Some(result) = kds_full_sync() else {
        println!("skipped: the conformance folder is absent");
        return;
    };
    println!("{result}");
    assert!(result.failed.is_empty(), "{result}");
}

#[test]
fn the_wire_suite_passes() {
    let Some(result) = wire_suite() else {
        println!("skipped: the conformance folder is absent");
        return;
    };
    println!("{result}");
    assert!(result.failed.is_empty(), "{result}");
}

#[tokio::test]
async fn a_policy_reaches_every_zone_and_changes_and_goes() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh(), timeout("slow", "20s")]);
    let east = Zone::join("east", store(), global.addr).await;
    let west = Zone::join("west", store(), global.addr).await;
    for zone in [&east, &west] {
        until(&zone.store, |s| there(s, Kind::MeshTimeout, "slow")).await;
    }
    put(
        &global.store,
        [timeout("slow", "30s"), timeout("fast", "1s")],
    );
    for zone in [&east, &west] {
        until(&zone.store, |s| {
            there(s, Kind::MeshTimeout, "fast")?;
            let slow = find(s, Kind::MeshTimeout, "slow").ok_or("no slow")?;
            slow.spec
                .as_str()
                .contains("30s")
                .then_some(())
                .ok_or_else(|| "still 20s".to_owned())
        })
        .await;
    }
    remove(
        &global.store,
        Key::new(Kind::MeshTimeout, "default", "slow"),
    );
    for zone in [&east, &west] {
        until(&zone.store, |s| gone(s, Kind::MeshTimeout, "slow")).await;
        assert!(there(&zone.store.snapshot(), Kind::MeshTimeout, "fast").is_ok());
    }
    // The zones are on record, and so is that they are connected.
    until(&global.store, |s| {
        for zone in ["east", "west"] {
            let key = Key::global(Kind::ZoneInsight, zone);
            let insight = s.get(&key).ok_or_else(|| format!("no insight of {zone}"))?;
            let spec = insight.resource.spec.to_value();
            let connected = spec["subscriptions"][0]["connectTime"].is_string()
                && spec["kdsStreams"]["globalToZone"].is_object();
            if !connected {
                return Err(format!("{zone}: {spec}"));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_service_goes_to_the_other_zone_and_not_back() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let east = Zone::join("east", store(), global.addr).await;
    let west = Zone::join("west", store(), global.addr).await;
    put(&east.store, [service("web")]);
    let got = until(&west.store, |s| {
        find(s, Kind::MeshService, "web")
            .cloned()
            .ok_or_else(|| "no web".to_owned())
    })
    .await;
    assert_eq!(
        (got.zone(), got.label(labels::ORIGIN)),
        (Some("east"), Some("global"))
    );
    let at_global = global.store.snapshot();
    let kept = find(&at_global, Kind::MeshService, "web").unwrap();
    assert_eq!(kept.key.name, got.key.name, "one name everywhere");
    assert_eq!(kept.owner, Some(Key::global(Kind::Zone, "east")));
    assert_eq!(east.store.snapshot().count(Kind::MeshService), 1);

    // Switched off, its services leave the others; switched on, they come back.
    let zone = |enabled: bool| {
        let spec = Json::from_value(&json!({ "enabled": enabled }));
        Resource::new(Key::global(Kind::Zone, "east"), spec)
    };
    put(&global.store, [zone(false)]);
    until(&west.store, |s| gone(s, Kind::MeshService, "web")).await;
    put(&global.store, [zone(true)]);
    until(&west.store, |s| there(s, Kind::MeshService, "web")).await;

    remove(&east.store, Key::new(Kind::MeshService, "default", "web"));
    until(&west.store, |s| gone(s, Kind::MeshService, "web")).await;
}

#[tokio::test]
async fn trust_of_a_zone_reaches_the_others_by_itself() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let east = Zone::join("east", store(), global.addr).await;
    let west = Zone::join("west", store(), global.addr).await;
    let domain = "default.east.mesh.local";
    let authority = Authority::generate(
        &domain.parse().unwrap(),
        KeyType::EcdsaP256,
        RealClock.wall(),
    )
    .unwrap();
    let pem = authority.certificate_pem();
    let spec = json!({
        "trustDomain": domain,
        "caBundles": [{"type": "Pem", "pem": {"value": pem}}],
    });
    let trust = Resource::new(
        Key::new(Kind::MeshTrust, "default", "ca"),
        Json::from_value(&spec),
    );
    put(&east.store, [trust]);
    until(&west.store, |s| there(s, Kind::MeshTrust, "ca")).await;
    assert_eq!(east.store.snapshot().count(Kind::MeshTrust), 1);
}

#[tokio::test]
async fn a_bad_resource_harms_itself_only_and_the_receipt_names_it() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let mut east = Zone::join("east", store(), global.addr).await;
    east.connected().await;
    until(&east.store, |s| {
        s.get(&Key::global(Kind::Mesh, "default"))
            .map(|_| ())
            .ok_or_else(|| "no mesh".to_owned())
    })
    .await;
    // One bad service among good policies, put past the rules of the API.
    let bad = Resource::new(
        Key::new(Kind::MeshZoneAddress, "default", "bad"),
        Json::from_value(&json!({"address": "", "port": 0})),
    );
    let mut bad = bad;
    bad.meta
        .labels
        .insert(labels::ORIGIN.to_owned(), "zone".to_owned());
    bad.meta
        .labels
        .insert(labels::ZONE.to_owned(), "west".to_owned());
    put(&global.store, [bad, timeout("good", "5s")]);
    let revision = global.store.snapshot().revision();
    until(&east.store, |s| there(s, Kind::MeshTimeout, "good")).await;
    let receipts = global.kds.receipts();
    let mut changed = receipts.changed();
    let receipt = until_published(&mut changed, |_| {
        let receipt = receipts.receipt(revision);
        let zone = receipt.zones.get("east").cloned().ok_or("no east")?;
        match zone.state {
            ZoneReceiptState::Refused => Ok(zone),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(
        receipt.nacks[0].reason.contains("address"),
        "{:?}",
        receipt.nacks
    );
    assert_eq!(east.store.snapshot().count(Kind::MeshZoneAddress), 0);
}

#[tokio::test]
async fn a_receipt_is_complete_when_the_zones_proxies_have_answered() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let mut east = Zone::join("east", store(), global.addr).await;
    until(&east.store, |s| {
        s.get(&Key::global(Kind::Mesh, "default"))
            .map(|_| ())
            .ok_or_else(|| "no mesh".to_owned())
    })
    .await;
    put(&global.store, [timeout("slow", "5s")]);
    let revision = global.store.snapshot().revision();
    let held = until_published(&mut east.progress, |progress| {
        let held = progress.held.clone().ok_or("nothing held")?;
        (held.revision >= revision)
            .then_some(held)
            .ok_or_else(|| "older".to_owned())
    })
    .await;
    // What global told was kept before it was told.
    let local = east.store.snapshot();
    assert!(there(&local, Kind::MeshTimeout, "slow").is_ok());
    assert!(held.local <= local.revision());
    let receipts = global.kds.receipts();
    assert!(!receipts.receipt(revision).complete);
    let answer = |acked| ProxyReceipts {
        revision: held.revision.0,
        epoch: held.epoch.to_string(),
        proxies_total: 2,
        proxies_affected: 2,
        acked,
        all_acked_at: (acked == 2).then_some(kds_proto::Timestamp {
            seconds: 1,
            nanos: 0,
        }),
        ..ProxyReceipts::default()
    };
    east.receipts.send(answer(1)).await.unwrap();
    east.receipts.send(answer(2)).await.unwrap();
    let mut changed = receipts.changed();
    until_published(&mut changed, |_| {
        let receipt = receipts.receipt(revision);
        receipt
            .complete
            .then_some(())
            .ok_or_else(|| format!("{receipt:?}"))
    })
    .await;
    // What concerns no zone is complete without anybody's word.
    let config = Resource::new(
        Key::global(Kind::Config, "only-here"),
        Json::from_value(&json!({"config": "x"})),
    );
    put(&global.store, [config]);
    let revision = global.store.snapshot().revision();
    until_published(&mut changed, |_| {
        let receipt = receipts.receipt(revision);
        receipt
            .complete
            .then_some(())
            .ok_or_else(|| format!("{receipt:?}"))
    })
    .await;
    // After a cut the zone tells what it knows again; meanwhile it counts as offline and holds nobody up.
    east.relay.cut();
    until_published(&mut changed, |_| {
        let receipt = receipts.receipt(revision);
        let zone = &receipt.zones["east"];
        let back = zone.state == ZoneReceiptState::Complete;
        back.then_some(()).ok_or_else(|| format!("{receipt:?}"))
    })
    .await;
}

fn synced(snapshot: &Snapshot) -> Vec<(String, Revision)> {
    snapshot
        .list(Kind::MeshTimeout)
        .map(|stored| (stored.resource.key.to_string(), stored.revision))
        .collect()
}

#[tokio::test]
async fn a_reconnect_brings_the_difference_and_a_cut_deletes_nothing() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    put(
        &global.store,
        (0..200).map(|n| timeout(&format!("t{n}"), "20s")),
    );
    let concerned = global.store.snapshot().revision();
    let mut east = Zone::join("east", store(), global.addr).await;
    put(&east.store, (0..50).map(|n| service(&format!("s{n}"))));
    let all_there = |s: &Snapshot| match s.count(Kind::MeshTimeout) {
        200 => Ok(()),
        n => Err(format!("{n} of 200")),
    };
    until(&east.store, all_there).await;
    until(&global.store, |s| match s.count(Kind::MeshService) {
        50 => Ok(()),
        n => Err(format!("{n} of 50")),
    })
    .await;
    let at = |revision: Revision| {
        move |progress: &zone_cp::kds::GlobalProgress| {
            let held = progress.held.as_ref().map(|held| held.revision);
            (held >= Some(revision))
                .then_some(())
                .ok_or_else(|| format!("{held:?}"))
        }
    };
    until_published(&mut east.progress, at(concerned)).await;
    let (before, first_bytes) = (synced(&east.store.snapshot()), east.relay.bytes());
    let services: Vec<_> = global
        .store
        .snapshot()
        .list(Kind::MeshService)
        .map(|stored| stored.revision)
        .collect();

    east.relay.sever();
    until_published(&mut east.progress, |progress| {
        (!progress.connected)
            .then_some(())
            .ok_or_else(|| "connected".to_owned())
    })
    .await;
    assert_eq!(
        synced(&east.store.snapshot()),
        before,
        "a broken stream is no statement"
    );
    // Something changes while it is away.
    remove(&global.store, Key::new(Kind::MeshTimeout, "default", "t7"));
    put(&global.store, [timeout("t8", "99s")]);
    let revision = global.store.snapshot().revision();
    east.relay.mend();
    east.connected().await;
    until_published(&mut east.progress, at(revision)).await;
    let after = east.store.snapshot();
    assert!(gone(&after, Kind::MeshTimeout, "t7").is_ok());
    let changed = synced(&after)
        .into_iter()
        .filter(|entry| !before.contains(entry))
        .count();
    assert_eq!(changed, 1, "only what changed was written");
    let again: Vec<_> = global
        .store
        .snapshot()
        .list(Kind::MeshService)
        .map(|stored| stored.revision)
        .collect();
    assert_eq!(again, services, "global wrote nothing");
    println!(
        "first sync {first_bytes} bytes, reconnect {}",
        east.relay.bytes() - first_bytes
    );
}

#[tokio::test]
async fn a_zone_that_starts_again_with_its_store_resumes() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    put(
        &global.store,
        (0..50).map(|n| timeout(&format!("t{n}"), "20s")),
    );
    let east = Zone::join("east", store(), global.addr).await;
    let all_there = |s: &Snapshot| match s.count(Kind::MeshTimeout) {
        50 => Ok(()),
        n => Err(format!("{n} of 50")),
    };
    until(&east.store, all_there).await;
    let kept = Arc::clone(&east.store);
    let before = synced(&kept.snapshot());
    east.stop();
    drop(east);
    put(&global.store, [timeout("t50", "20s")]);
    let mut east = Zone::join("east", Arc::clone(&kept), global.addr).await;
    east.connected().await;
    until(&kept, |s| there(s, Kind::MeshTimeout, "t50")).await;
    let changed = synced(&kept.snapshot())
        .into_iter()
        .filter(|e| !before.contains(e))
        .count();
    assert_eq!(changed, 1);
}

#[tokio::test]
async fn a_global_that_starts_again_finds_its_zones() {
    let kept = store();
    let global = Global::start(Arc::clone(&kept), Border::default()).await;
    put(&kept, [mesh(), timeout("slow", "20s")]);
    let mut east = Zone::join("east", store(), global.addr).await;
    until(&east.store, |s| there(s, Kind::MeshTimeout, "slow")).await;
    let addr = global.addr;
    global.stop();
    until_published(&mut east.progress, |progress| {
        (!progress.connected)
            .then_some(())
            .ok_or_else(|| "connected".to_owned())
    })
    .await;
    drop(global);
    put(&east.store, [service("web")]);
    let _global = Global::start_at(Arc::clone(&kept), Border::default(), addr).await;
    until(&kept, |s| there(s, Kind::MeshService, "web")).await;
    assert!(there(&east.store.snapshot(), Kind::MeshTimeout, "slow").is_ok());
}

#[tokio::test]
async fn a_newer_stream_of_a_zone_keeps_getting_changes_when_the_older_ends() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let first = Zone::join("east", store(), global.addr).await;
    until(&first.store, |s| {
        s.get(&Key::global(Kind::Mesh, "default"))
            .map(|_| ())
            .ok_or_else(|| "no mesh".to_owned())
    })
    .await;
    // A replica: another control plane over the same store.
    let second = Zone::join("east", Arc::clone(&first.store), global.addr).await;
    until(&second.store, |s| {
        s.get(&Key::global(Kind::Mesh, "default"))
            .map(|_| ())
            .ok_or_else(|| "no mesh".to_owned())
    })
    .await;
    drop(first);
    put(&global.store, [timeout("late", "5s")]);
    until(&second.store, |s| there(s, Kind::MeshTimeout, "late")).await;
}

/// Answers with what it was asked.
struct Echo;

impl EnvoyAdmin for Echo {
    fn answer(
        &self,
        question: AdminQuestion,
        target: AdminTarget,
    ) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            match target.name.as_str() {
                "deaf" => Err("connection refused".to_owned()),
                name => Ok(Bytes::from(format!("{question:?} of {name}"))),
            }
        })
    }
}

#[tokio::test]
async fn global_asks_a_proxy_of_a_zone() {
    use global_cp::kds::{AdminError, AdminQuestion as Ask, AdminTarget as Target};
    let global = Global::start(store(), Border::default()).await;
    let _east = Zone::join_with(
        "east",
        store(),
        global.addr,
        Border::default(),
        Arc::new(Echo),
    )
    .await;
    until(&global.store, |s| {
        let insight = s
            .get(&Key::global(Kind::ZoneInsight, "east"))
            .ok_or("no insight")?;
        let spec: Value = insight.resource.spec.to_value();
        ["stats", "clusters", "configDump"]
            .iter()
            .all(|stream| spec["kdsStreams"][stream].is_object())
            .then_some(())
            .ok_or_else(|| spec.to_string())
    })
    .await;
    let target = |name: &str| Target {
        kind: "Dataplane".to_owned(),
        mesh: "default".to_owned(),
        name: name.to_owned(),
    };
    let stats = Ask::Stats {
        json: true,
        used_only: true,
    };
    let got = global.kds.ask("east", stats, target("web")).await.unwrap();
    assert_eq!(&got[..], b"Stats { json: true, used_only: true } of web");
    let got = global
        .kds
        .ask("east", Ask::Config { endpoints: true }, target("web"))
        .await
        .unwrap();
    assert_eq!(&got[..], b"Config { endpoints: true } of web");
    let refused = global
        .kds
        .ask("east", Ask::Clusters { json: false }, target("deaf"))
        .await;
    assert_eq!(
        refused,
        Err(AdminError::Refused("connection refused".to_owned()))
    );
    let nobody = global.kds.ask("north", stats, target("web")).await;
    assert_eq!(nobody, Err(AdminError::NotConnected("north".to_owned())));
}

#[tokio::test]
async fn a_zone_that_is_deleted_while_connected_comes_back_whole() {
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [mesh()]);
    let east = Zone::join("east", store(), global.addr).await;
    put(&east.store, [service("web")]);
    until(&global.store, |s| there(s, Kind::MeshService, "web")).await;
    let before = find(&global.store.snapshot(), Kind::MeshService, "web")
        .unwrap()
        .clone();
    let mut watch = global.store.watch();
    remove(&global.store, Key::global(Kind::Zone, "east"));
    let changes = watch.next().await.unwrap();
    assert!(
        gone(&changes.to, Kind::MeshService, "web").is_ok(),
        "it goes with its zone"
    );
    until(&global.store, |s| {
        there(s, Kind::MeshService, "web")?;
        let zone = s.get(&Key::global(Kind::Zone, "east"));
        zone.map(|_| ()).ok_or_else(|| "no zone".to_owned())
    })
    .await;
    let after = find(&global.store.snapshot(), Kind::MeshService, "web")
        .unwrap()
        .clone();
    assert_eq!(after.key, before.key);
}
