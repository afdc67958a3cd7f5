//! The sentences that clients of the dialect know.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use futures::future::BoxFuture;
use http::Request;
use serde_json::Value;
use tower::ServiceExt;
use zonal_model::{Json, Key, Kind, Mode, Resource};
use zonal_rest::{RestState, router};
use zonal_store::{Batch, Committed, MemoryStore, Snapshot, Store, StoreError, Watch};

fn api(mode: Mode, resources: &[Resource]) -> Router {
    let store = Arc::new(MemoryStore::new(Arc::new(|| jiff::Timestamp::UNIX_EPOCH)));
    let mesh = Resource::new(Key::global(Kind::Mesh, "default"), Json::empty_object());
    let batch = resources
        .iter()
        .cloned()
        .fold(Batch::new().put(mesh), Batch::put);
    store.commit_now(batch).unwrap();
    let zone = mode.is_zone().then_some("east");
    router(RestState::new(store as Arc<dyn Store>, mode, zone))
}

async fn call(api: &Router, method: &str, path: &str, body: &str) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap();
    let response = api.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

/// `want`: the title, then the detail or the violations, one per line.
#[track_caller]
fn check((status, body): (u16, Value), want_status: u16, want: &[&str]) {
    assert_eq!(status, want_status, "{body:#}");
    let mut got = vec![body["title"].as_str().unwrap_or_default().to_owned()];
    match body["causes"].as_array() {
        Some(causes) => {
            for cause in causes {
                let text = |member: &str| cause[member].as_str().unwrap();
                got.push(format!("{}: {}", text("field"), text("message")));
            }
        }
        None => got.push(body["detail"].as_str().unwrap_or_default().to_owned()),
    }
    assert_eq!(got, want);
    assert_eq!(
        body["detail"], body["details"],
        "old clients read the second one"
    );
}

const DATAPLANE: &str = "/meshes/default/dataplanes/dp";

#[tokio::test]
async fn a_body_that_does_not_fit_its_path() {
    let api = api(Mode::StandaloneZone, &[]);
    let body = r#"{"type":"Dataplane","mesh":"In valid","name":"In valid",
        "networking":{"address":"10.0.0.1","inbound":[{"port":80}]}}"#;
    let want = [
        "Could not process a resource",
        "name: name from the URL has to be the same as in body",
        "mesh: mesh from the URL has to be the same as in body",
        "name: invalid characters. A lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        "mesh: invalid characters. Valid characters are numbers, lowercase latin letters and '-', '_', '.' symbols.",
    ];
    check(call(&api, "PUT", DATAPLANE, body).await, 400, &want);
}

#[tokio::test]
async fn a_body_that_is_no_json() {
    let api = api(Mode::StandaloneZone, &[]);
    let want = [
        "Bad Request",
        "invalid Dataplane object: \"invalid character ',' looking for beginning of object key string\"",
    ];
    check(call(&api, "PUT", DATAPLANE, "{,}").await, 400, &want);
}

#[tokio::test]
async fn a_name_that_is_too_long_for_a_destination() {
    let api = api(Mode::StandaloneZone, &[]);
    let name = "a".repeat(64);
    let body = format!(
        r#"{{"type":"MeshMultiZoneService","mesh":"default","name":"{name}",
        "spec":{{"selector":{{"meshService":{{"matchLabels":{{"a":"b"}}}}}},"ports":[{{"port":80,"appProtocol":"http"}}]}}}}"#
    );
    let path = format!("/meshes/default/meshmultizoneservices/{name}");
    let want = [
        "Failed to create a resource",
        "name: must be no more than 63 characters",
    ];
    check(call(&api, "PUT", &path, &body).await, 400, &want);
}

#[tokio::test]
async fn what_is_missing() {
    let api = api(Mode::Global, &[]);
    let not_found = "Not found";
    let mesh = ["Failed to retrieve Mesh", not_found];
    check(
        call(&api, "GET", "/meshes/no/meshtimeouts", "").await,
        404,
        &mesh,
    );
    check(
        call(&api, "PUT", "/meshes/no/meshtimeouts/a", "{").await,
        404,
        &mesh,
    );
    check(
        call(&api, "DELETE", "/meshes/no/meshtimeouts/a", "").await,
        404,
        &mesh,
    );
    let one = ["Could not retrieve a resource", not_found];
    check(
        call(&api, "GET", "/meshes/default/meshtimeouts/a", "").await,
        404,
        &one,
    );
    let gone = ["Could not delete a resource", not_found];
    check(
        call(&api, "DELETE", "/meshes/default/meshtimeouts/a", "").await,
        404,
        &gone,
    );
}

#[tokio::test]
async fn what_belongs_to_another_place_stays() {
    let mut foreign = Resource::new(
        Key::new(Kind::MeshTimeout, "default", "a"),
        Json::empty_object(),
    );
    foreign
        .meta
        .labels
        .insert("kuma.io/origin".into(), "global".into());
    let api = api(Mode::FederatedZone, &[foreign]);
    let want = [
        "Could not delete a resource",
        "[\"kuma.io/origin\"]: the origin label must be set to 'zone'",
    ];
    check(
        call(&api, "DELETE", "/meshes/default/meshtimeouts/a", "").await,
        400,
        &want,
    );
}

#[tokio::test]
async fn a_zone_that_is_connected_stays() {
    let zone = Resource::new(Key::global(Kind::Zone, "east"), Json::empty_object());
    let insight = |text: &str| {
        Resource::new(
            Key::global(Kind::ZoneInsight, "east"),
            Json::parse(text).unwrap(),
        )
    };
    let online = r#"{"subscriptions":[{"connectTime":"2026-01-01T00:00:00Z"}]}"#;
    let connected = api(Mode::Global, &[zone.clone(), insight(online)]);
    let want = [
        "Could not delete a resource",
        "zone: unable to delete Zone, Zone CP is still connected, please shut it down first",
    ];
    check(
        call(&connected, "DELETE", "/zones/east", "").await,
        400,
        &want,
    );
    let gone = r#"{"subscriptions":[{"connectTime":"2026-01-01T00:00:00Z","disconnectTime":"2026-01-01T00:01:00Z"}]}"#;
    let left = api(Mode::Global, &[zone, insight(gone)]);
    assert_eq!(call(&left, "DELETE", "/zones/east", "").await.0, 200);
    assert_eq!(
        call(&left, "GET", "/zone-insights/east", "").await.0,
        404,
        "it goes along"
    );
}

/// Writes into a mesh while somebody removes and makes it: nothing is left outside of a mesh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_in_a_mesh_that_goes_meanwhile() {
    let store = Arc::new(MemoryStore::new(Arc::new(|| jiff::Timestamp::UNIX_EPOCH)));
    let api = router(RestState::new(
        Arc::clone(&store) as Arc<dyn Store>,
        Mode::Global,
        None,
    ));
    let put = |api: Router, path: String, body: String| {
        tokio::spawn(async move {
            for _ in 0..100 {
                let (status, body) = call(&api, "PUT", &path, &body).await;
                assert!(matches!(status, 200 | 201 | 404 | 409), "{body:#}");
            }
        })
    };
    let retries: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let path = format!("/meshes/default/meshtimeouts/{name}");
            let body = format!(
                r#"{{"type":"MeshTimeout","mesh":"default","name":"{name}","spec":{{"targetRef":{{"kind":"Mesh"}},
                "to":[{{"targetRef":{{"kind":"Mesh"}},"default":{{"connectionTimeout":"5s"}}}}]}}}}"#
            );
            put(api.clone(), path, body)
        })
        .collect();
    for _ in 0..50 {
        let mesh = r#"{"type":"Mesh","name":"default"}"#;
        call(&api, "PUT", "/meshes/default", mesh).await;
        tokio::task::yield_now().await;
        call(&api, "DELETE", "/meshes/default", "").await;
        let snapshot = store.snapshot();
        if snapshot.count(Kind::Mesh) == 0 {
            assert_eq!(snapshot.count(Kind::MeshTimeout), 0);
        }
    }
    for retry in retries {
        retry.await.unwrap();
    }
    let snapshot = store.snapshot();
    assert_eq!(snapshot.count(Kind::Mesh), 0);
    assert_eq!(snapshot.count(Kind::MeshTimeout), 0);
}

/// Shows what a store in memory has, and takes no more.
struct Refusing(MemoryStore, StoreError);

impl Store for Refusing {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot()
    }
    fn commit(&self, _batch: Batch) -> BoxFuture<'_, Result<Committed, StoreError>> {
        let error = self.1.clone();
        Box::pin(async move { Err(error) })
    }
    fn watch(&self) -> Watch {
        self.0.watch()
    }
}

/// `want`: what the detail has in it.
async fn check_refused(error: StoreError, want_status: u16, want_title: &str, want: &[&str]) {
    let memory = MemoryStore::new(Arc::new(|| jiff::Timestamp::UNIX_EPOCH));
    let mesh = Resource::new(Key::global(Kind::Mesh, "default"), Json::empty_object());
    memory.commit_now(Batch::new().put(mesh)).unwrap();
    let store: Arc<dyn Store> = Arc::new(Refusing(memory, error));
    let api = router(RestState::new(store, Mode::Global, None));
    let body = r#"{"type":"Mesh","name":"other"}"#;
    let (status, answer) = call(&api, "PUT", "/meshes/other", body).await;
    let detail = answer["detail"].as_str().unwrap().to_owned();
    for part in want {
        assert!(detail.contains(part), "{detail}");
    }
    assert!(!detail.contains("somewhere"), "no path is told: {detail}");
    check((status, answer), want_status, &[want_title, &detail]);
    let (status, _) = call(&api, "GET", "/meshes/default", "").await;
    assert_eq!(status, 200, "reading goes on");
}

#[tokio::test]
async fn a_store_that_refuses_says_why_and_what_to_do() {
    let place = || "`/somewhere/store.redb`".to_owned();
    let full = StoreError::Full {
        place: place(),
        problem: "No space left on device (os error 28)".to_owned(),
    };
    let want = ["no space left", "nothing was changed", "free some"];
    check_refused(full, 503, "Service unavailable", &want).await;
    let unsure = StoreError::Unsure {
        place: place(),
        problem: "the connection was lost".to_owned(),
    };
    let want = ["whether the change was kept is not known", "look before"];
    check_refused(unsure, 503, "Service unavailable", &want).await;
    let large = StoreError::TooLarge {
        place: place(),
        problem: "too many operations".to_owned(),
        hint: "start it with larger limits",
    };
    let want = [
        "too many operations",
        "nothing was changed",
        "smaller parts",
    ];
    check_refused(large, 413, "Too large", &want).await;
}
