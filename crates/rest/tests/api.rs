//! The API as a client sees it, without a socket.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use futures::StreamExt;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;
use zonal_model::{Mode, Resource};
use zonal_rest::{
    Authenticator, Limits, Peer, Receipt, Receipts, RestState, TokenRefused, User, WriteRules,
    ZoneReceipt, ZoneReceiptState, router,
};
use zonal_store::{MemoryStore, Op, Revision, Snapshot, Store, Stored};

const DEADLINE: Duration = Duration::from_secs(60);

struct Tokens;

impl Authenticator for Tokens {
    fn verify(&self, token: &str) -> Result<User, TokenRefused> {
        match token {
            "admin" => Ok(User::of_token(
                "ann".into(),
                vec!["mesh-system:admin".into()],
            )),
            "ben" => Ok(User::of_token("ben".into(), vec!["team".into()])),
            _ => Err(TokenRefused("made up".into())),
        }
    }
}

struct Api {
    store: Arc<MemoryStore>,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
    fn revision(&self) -> u64 {
        self.headers["zonal-revision"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
    }
    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }
}

impl Api {
    fn global() -> Self {
        Self::with(Mode::Global, |_| {})
    }

    fn with(mode: Mode, change: impl FnOnce(&mut RestState)) -> Self {
        let store = Arc::new(MemoryStore::new(Arc::new(|| jiff::Timestamp::UNIX_EPOCH)));
        let zone = mode.is_zone().then_some("east");
        let mut state = RestState::new(Arc::clone(&store) as Arc<dyn Store>, mode, zone);
        state.tokens = Arc::new(Tokens);
        change(&mut state);
        Self {
            store,
            router: router(state),
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.call_with(method, path, &[], body.map(|body| body.to_string()))
            .await
    }

    async fn call_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cp:5681");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, Body::from);
        self.send(request.body(body).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, Some(body)).await
    }

    async fn mesh(&self) {
        self.put(
            "/meshes/default",
            json!({"type": "Mesh", "name": "default"}),
        )
        .await
        .is(201);
    }
}

const SLOW: &str = "/meshes/default/meshtimeouts/slow";

fn slow(seconds: u32) -> Value {
    timeout("slow", seconds)
}

fn timeout(name: &str, seconds: u32) -> Value {
    json!({
        "type": "MeshTimeout", "mesh": "default", "name": name,
        "spec": {
            "targetRef": {"kind": "Mesh"},
            "to": [{
                "targetRef": {"kind": "Mesh"},
                "default": {"connectionTimeout": format!("{seconds}s")},
            }],
        },
    })
}

#[tokio::test]
async fn a_resource_is_made_read_changed_listed_and_removed() {
    let api = Api::global();
    api.mesh().await;
    let made = api.put(SLOW, slow(5)).await.is(201);
    assert_eq!(made.text, "{}\n");
    assert_eq!(made.revision(), 2);
    let read = api.get(SLOW).await.is(200);
    assert_eq!(
        read.json()["spec"]["to"][0]["default"]["connectionTimeout"],
        "5s"
    );
    assert_eq!(read.json()["labels"]["kuma.io/origin"], "global");
    assert_eq!(read.headers["content-type"], "application/json");
    assert!(
        read.text
            .starts_with("{\n \"type\": \"MeshTimeout\",\n \"mesh\": \"default\""),
        "{}",
        read.text
    );
    assert_eq!(api.put(SLOW, slow(6)).await.is(200).revision(), 3);
    assert_eq!(
        api.put(SLOW, slow(6)).await.is(200).revision(),
        3,
        "no change, no revision"
    );
    let list = api.get("/meshtimeouts").await.is(200).json();
    assert_eq!(
        (list["total"].as_u64(), &list["next"]),
        (Some(1), &Value::Null)
    );
    api.call("DELETE", SLOW, None).await.is(200);
    api.get(SLOW).await.is(404);
    assert_eq!(
        api.get("/meshes/default/meshtimeouts").await.json()["items"],
        json!([])
    );
    api.get("/nowhere").await.is(404);
    api.call("POST", SLOW, None).await.is(405);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let api = Api::global();
    api.mesh().await;
    for name in ["a", "b", "c"] {
        api.put(
            &format!("/meshes/default/meshtimeouts/{name}"),
            timeout(name, 1),
        )
        .await
        .is(201);
    }
    let page = api.get("/meshes/default/meshtimeouts?size=2").await.json();
    assert_eq!(page["total"], 3);
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        page["next"],
        "http://cp:5681/meshes/default/meshtimeouts?offset=2&size=2"
    );
    let page = api
        .get("/meshes/default/meshtimeouts?size=2&offset=2")
        .await
        .json();
    assert_eq!(
        (&page["items"][0]["name"], &page["next"]),
        (&json!("c"), &Value::Null)
    );
    let filtered = api.get("/meshtimeouts?name=b").await.json();
    assert_eq!(
        (&filtered["total"], &filtered["items"][0]["name"]),
        (&json!(1), &json!("b"))
    );
    let path = "/meshtimeouts?filter%5Blabels.kuma.io%2Fdisplay-name%5D=c";
    assert_eq!(api.get(path).await.json()["total"], 1);
}

#[tokio::test]
async fn conditions_protect_from_lost_updates() {
    let api = Api::global();
    api.mesh().await;
    let put = async |condition: (&str, &str), seconds| {
        api.call_with("PUT", SLOW, &[condition], Some(slow(seconds).to_string()))
            .await
    };
    put(("if-match", "*"), 1).await.is(412);
    let made = put(("if-none-match", "*"), 1).await.is(201);
    put(("if-none-match", "*"), 2).await.is(412);
    let tag = made.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(api.get(SLOW).await.headers["etag"], tag.as_str());
    let changed = put(("if-match", &tag), 3).await.is(200);
    assert_ne!(changed.headers["etag"], tag.as_str());
    let late = put(("if-match", &tag), 4).await.is(412);
    assert!(
        late.text
            .contains("MeshTimeout default/slow is at revision 3"),
        "{}",
        late.text
    );
    api.call_with("DELETE", SLOW, &[("if-match", &tag)], None)
        .await
        .is(412);
    put(("if-match", "x"), 4).await.is(400);
    let known = changed.headers["etag"].to_str().unwrap();
    api.call_with("GET", SLOW, &[("if-none-match", known)], None)
        .await
        .is(304);
    api.call_with("DELETE", SLOW, &[("if-match", known)], None)
        .await
        .is(200);
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_keeps_nothing() {
    let api = Api::global();
    api.mesh().await;
    let path = format!("{SLOW}?dryRun=true");
    let tried = api.put(&path, slow(1)).await.is(201);
    assert_eq!(tried.headers["zonal-dry-run"], "true");
    api.get(SLOW).await.is(404);
    api.put(
        &path,
        json!({"type": "MeshTimeout", "mesh": "default", "name": "other"}),
    )
    .await
    .is(400);
    assert_eq!(api.store.snapshot().revision(), Revision(1));
    api.call("DELETE", "/meshes/default?dryRun=true", None)
        .await
        .is(200);
    api.get("/meshes/default").await.is(200);
}

#[tokio::test]
async fn yaml_is_as_good_as_json() {
    let api = Api::global();
    let body = "# a mesh\ntype: Mesh\nname: default\n".to_owned();
    let yaml = [("content-type", "application/yaml")];
    api.call_with("PUT", "/meshes/default", &yaml, Some(body))
        .await
        .is(201);
    let two = "type: Mesh\nname: a\n---\ntype: Mesh\nname: b\n".to_owned();
    api.call_with("PUT", "/meshes/a", &yaml, Some(two))
        .await
        .is(400);
    api.call_with(
        "PUT",
        "/meshes/a",
        &[("content-type", "text/html")],
        Some("x".into()),
    )
    .await
    .is(415);
    api.call_with("GET", "/meshes", &[("accept", "text/html")], None)
        .await
        .is(406);
}

#[tokio::test]
async fn several_documents_are_kept_in_one_revision() {
    let api = Api::global();
    let yaml = "type: Mesh\nname: default\n---\n".to_owned()
        + &serde_json::to_string(&slow(5)).unwrap()
        + "\n---\n"
        + &serde_json::to_string(&timeout("fast", 1)).unwrap();
    let kind = [("content-type", "application/yaml")];
    let tried = api
        .call_with("POST", "/_batch?dryRun", &kind, Some(yaml.clone()))
        .await
        .is(200);
    assert_eq!(tried.json()["dryRun"], true);
    assert_eq!(api.store.snapshot().revision(), Revision::ZERO);
    let answer = api
        .call_with("POST", "/_batch", &kind, Some(yaml))
        .await
        .is(200);
    assert_eq!(answer.revision(), 1);
    let epoch = api.store.snapshot().epoch().to_string();
    assert_eq!(answer.json()["epoch"], epoch.as_str());
    let outcomes = answer.json()["outcomes"].clone();
    let told: Vec<_> = outcomes
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["outcome"].clone())
        .collect();
    assert_eq!(told, ["created", "created", "created"]);
    assert_eq!(
        outcomes[1],
        json!({"index": 1, "type": "MeshTimeout", "mesh": "default", "name": "slow", "outcome": "created"})
    );

    let body = json!({
        "apply": [slow(5), timeout("fast", 2)],
        "delete": [{"type": "MeshTimeout", "mesh": "default", "name": "slow2"}],
    });
    let refused = api.call("POST", "/_batch", Some(body)).await.is(400);
    assert_eq!(
        refused.json()["documents"][0]["index"],
        2,
        "{}",
        refused.text
    );
    let body = json!({
        "apply": [timeout("fast", 2), {"type": "Mesh", "name": "default"}],
        "delete": [{"type": "MeshTimeout", "mesh": "default", "name": "slow"}],
    });
    let answer = api.call("POST", "/_batch", Some(body)).await.is(200).json();
    assert_eq!(answer["revision"], 2);
    let told: Vec<_> = answer["outcomes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["outcome"].clone())
        .collect();
    assert_eq!(told, ["updated", "unchanged", "removed"]);
}

#[tokio::test]
async fn every_violation_of_every_document_is_told_and_nothing_is_kept() {
    let api = Api::global();
    api.mesh().await;
    let mut bad = slow(5);
    bad["spec"]["to"][0]["default"]["connectionTimeout"] = json!("5x");
    bad["labels"] = json!({"kuma.io/origin": "moon"});
    let body = json!([
        timeout("good", 1),
        bad,
        {"type": "Nothing", "name": "x"},
        {"type": "MeshTimeout", "mesh": "nowhere", "name": "x", "spec": {}},
        timeout("good", 2),
    ]);
    let answer = api.call("POST", "/_batch", Some(body)).await.is(400).json();
    let indices: Vec<_> = answer["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["index"].clone())
        .collect();
    assert_eq!(indices, [1, 2, 3, 4], "{answer:#}");
    assert_eq!(answer["documents"][0]["name"], "slow");
    let fields: Vec<_> = answer["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert!(
        fields.iter().any(|f| f.starts_with("[1].spec.to")),
        "{fields:?}"
    );
    assert!(fields.contains(&"[3].mesh"), "{fields:?}");
    assert_eq!(api.store.snapshot().revision(), Revision(1));
}

#[tokio::test]
async fn secrets_are_for_administrators() {
    let api = Api::global();
    api.mesh().await;
    let path = "/meshes/default/secrets/s";
    let body =
        json!({"type": "Secret", "mesh": "default", "name": "s", "data": "YQ=="}).to_string();
    let with = |token: &'static str| [("authorization", token)];
    let refused = api
        .call_with("PUT", path, &[], Some(body.clone()))
        .await
        .is(403);
    let want = "user \"mesh-system:anonymous/mesh-system:unauthenticated\" cannot access the resource of type \"Secret\"";
    assert_eq!(refused.json()["detail"], want);
    api.call_with("PUT", path, &with("Bearer ben"), Some(body.clone()))
        .await
        .is(403);
    api.call_with("PUT", path, &with("Bearer nobody"), Some(body.clone()))
        .await
        .is(401);
    api.call_with("PUT", path, &with("Bearer admin"), Some(body))
        .await
        .is(201);
    api.call_with("GET", "/secrets", &[], None).await.is(403);
    api.call_with("GET", "/_watch?kinds=Secret", &[], None)
        .await
        .is(403);
    let me = api
        .call_with("GET", "/who-am-i", &with("Bearer ben"), None)
        .await
        .json();
    assert_eq!(
        me,
        json!({"name": "ben", "groups": ["team", "mesh-system:authenticated"]})
    );

    let mut request = Request::get("/secrets")
        .header("host", "localhost:5681")
        .body(Body::empty())
        .unwrap();
    request.extensions_mut().insert(Peer {
        address: "127.0.0.1:4000".parse().unwrap(),
        tls: false,
    });
    assert_eq!(
        api.send(request).await.is(200).json()["total"],
        1,
        "this machine is the administrator"
    );
}

#[tokio::test]
async fn what_originates_elsewhere_is_not_written_here() {
    let api = Api::global();
    api.mesh().await;
    let path = "/meshes/default/dataplanes/dp";
    let refused = api.put(path, json!({})).await.is(405);
    assert_eq!(refused.json()["title"], "Method not allowed");
    let zone = Api::with(Mode::FederatedZone, |_| {});
    zone.put(
        "/meshes/default",
        json!({"type": "Mesh", "name": "default"}),
    )
    .await
    .is(405);
    let closed = Api::with(Mode::Global, |state| state.read_only = true);
    closed
        .put(
            "/meshes/default",
            json!({"type": "Mesh", "name": "default"}),
        )
        .await
        .is(405);
}

#[tokio::test]
async fn the_control_plane_tells_about_itself() {
    let api = Api::global();
    assert_eq!(api.get("/").await.is(200).json()["product"], "Kuma");
    api.get("/config").await.is(200);
    let kinds = api.get("/_resources").await.is(200).json();
    let kinds = kinds["resources"].as_array().unwrap().clone();
    let timeout = kinds
        .iter()
        .find(|kind| kind["name"] == "MeshTimeout")
        .unwrap();
    assert_eq!(timeout["path"], "meshtimeouts");
    assert_eq!(timeout["policy"]["hasToTargetRef"], true);
    let dataplane = kinds
        .iter()
        .find(|kind| kind["name"] == "Dataplane")
        .unwrap();
    assert_eq!(
        (&dataplane["readOnly"], &dataplane["includeInFederation"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        api.get("/policies").await.json()["policies"]
            .as_array()
            .unwrap()
            .len(),
        16
    );
    assert_eq!(
        api.get("/global-insight").await.is(200).json()["meshes"]["total"],
        0
    );
    api.get("/global-insights").await.is(200);
}

#[tokio::test]
async fn a_proxy_is_shown_with_what_it_reported() {
    let api = Api::with(Mode::StandaloneZone, |_| {});
    api.mesh().await;
    let dataplane = json!({
        "type": "Dataplane", "mesh": "default", "name": "dp",
        "networking": {"address": "10.0.0.1", "inbound": [{"port": 80}]},
    });
    api.put("/meshes/default/dataplanes/dp", dataplane)
        .await
        .is(201);
    for path in [
        "/meshes/default/dataplanes/dp/_overview",
        "/meshes/default/dataplanes+insights/dp",
    ] {
        let overview = api.get(path).await.is(200).json();
        assert_eq!(overview["type"], "DataplaneOverview");
        assert_eq!(overview["dataplane"]["networking"]["address"], "10.0.0.1");
    }
    for path in [
        "/meshes/default/dataplanes/_overview",
        "/dataplanes/_overview",
        "/dataplanes+insights",
    ] {
        assert_eq!(api.get(path).await.is(200).json()["total"], 1, "{path}");
    }
    api.get("/zones/_overview").await.is(200);
    let used = api.call("DELETE", "/meshes/default", None).await.is(400);
    assert!(
        used.text
            .contains("unable to delete mesh, there are still some dataplanes attached")
    );
}

async fn lines(body: &mut axum::body::BodyDataStream) -> Vec<Value> {
    let chunk = tokio::time::timeout(DEADLINE, body.next())
        .await
        .expect("lines in time");
    let chunk = chunk.expect("the stream goes on").unwrap();
    let text = String::from_utf8(chunk.to_vec()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_watcher_sees_the_present_then_every_change() {
    let api = Api::global();
    api.mesh().await;
    api.put(SLOW, slow(1)).await.is(201);
    let watch = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = api.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().into_data_stream()
    };
    let mut stream = watch("/_watch?kinds=MeshTimeout,meshes").await;
    let first = lines(&mut stream).await;
    let events: Vec<_> = first.iter().map(|line| line["event"].clone()).collect();
    assert_eq!(events, ["put", "put", "synced"]);
    assert_eq!(first[1]["resource"]["name"], "slow");
    api.put(SLOW, slow(2)).await.is(200);
    let changed = lines(&mut stream).await;
    assert_eq!(
        (&changed[0]["event"], &changed[0]["revision"]),
        (&json!("put"), &json!(3))
    );
    assert_eq!(changed[1]["event"], "synced");
    api.call("DELETE", SLOW, None).await.is(200);
    let removed = lines(&mut stream).await;
    assert_eq!(
        removed[0]["key"],
        json!({"type": "MeshTimeout", "mesh": "default", "name": "slow"})
    );
    let epoch = removed[1]["epoch"].as_str().unwrap();
    let mut resumed = watch(&format!("/_watch?kinds=MeshTimeout&since=2&epoch={epoch}")).await;
    let resumed = lines(&mut resumed).await;
    assert_eq!(resumed.len(), 2, "{resumed:?}");
    assert_eq!(resumed[0]["event"], "removed");
    api.get("/_watch?since=2&epoch=another").await.is(410);
    api.get("/_watch?kinds=Nothing").await.is(400);
}

struct OneZone(tokio::sync::watch::Sender<u64>);

impl Receipts for OneZone {
    fn receipt(&self, revision: Revision) -> Receipt {
        let done = *self.0.borrow() > 0;
        let state = if done {
            ZoneReceiptState::Complete
        } else {
            ZoneReceiptState::Pending
        };
        let zone = ZoneReceipt {
            kept_at: None,
            converged_at: None,
            proxies: Default::default(),
            nacks: Vec::new(),
            state,
        };
        let zones = [("east".to_owned(), zone)].into();
        Receipt {
            revision,
            committed_at: None,
            zones,
            complete: done,
        }
    }
    fn changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.subscribe()
    }
}

#[tokio::test]
async fn a_receipt_can_be_waited_for() {
    let receipts = Arc::new(OneZone(tokio::sync::watch::Sender::new(0)));
    let shared = Arc::clone(&receipts);
    let api = Api::with(Mode::Global, |state| state.receipts = shared);
    api.mesh().await;
    let now = api.get("/_receipts/1").await.is(200).json();
    let want = json!({
        "revision": 1, "complete": false,
        "zones": {"east": {
            "proxies": {"total": 0, "affected": 0, "acked": 0, "nacked": 0, "offline": 0},
            "nacks": [], "state": "pending",
        }},
    });
    assert_eq!(now, want);
    assert_eq!(
        api.get("/_receipts/1?wait=all&timeout=1ms")
            .await
            .is(200)
            .json()["complete"],
        false
    );
    let waiting = api.get("/_receipts/1?wait=zone:east");
    let moving = async {
        tokio::task::yield_now().await;
        receipts.0.send_replace(1);
    };
    let (waited, ()) = tokio::join!(waiting, moving);
    assert_eq!(waited.is(200).json()["complete"], true);
    api.get("/_receipts/99").await.is(404);
    api.get("/_receipts/x").await.is(400);
    api.get("/_receipts/latest?wait=whenever").await.is(400);
    assert_eq!(api.get("/_receipts/latest").await.json()["revision"], 1);
}

struct Strict;

impl WriteRules for Strict {
    fn before_put(
        &self,
        _snapshot: &Snapshot,
        resource: &Resource,
        existing: Option<&Stored>,
    ) -> Result<Vec<Op>, zonal_model::Violations> {
        assert_ne!(&*resource.key.name, "panic", "a rule with a fault");
        let mut violations = zonal_model::Violations::new();
        if &*resource.key.name == "forbidden" {
            violations.add("name", "is not to our taste");
        }
        violations.into_result()?;
        let mut companion = Resource::new(
            zonal_model::Key::new(zonal_model::Kind::MeshRetry, &*resource.key.name, "along"),
            zonal_model::Json::empty_object(),
        );
        companion.owner = None;
        let wanted = existing.is_none() && resource.key.kind == zonal_model::Kind::Mesh;
        Ok(wanted
            .then_some(Op::Put {
                resource: companion,
                expect: zonal_store::Expect::Absent,
            })
            .into_iter()
            .collect())
    }

    fn before_remove(
        &self,
        _snapshot: &Snapshot,
        _existing: &Stored,
    ) -> Result<Vec<Op>, zonal_model::Violations> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn the_control_plane_adds_rules_and_companions() {
    let api = Api::with(Mode::Global, |state| state.rules = Arc::new(Strict));
    api.mesh().await;
    assert_eq!(
        api.store.snapshot().revision(),
        Revision(1),
        "a mesh and its companion at once"
    );
    api.get("/meshes/default/meshretries/along").await.is(200);
    let refused = api
        .put(
            "/meshes/forbidden",
            json!({"type": "Mesh", "name": "forbidden"}),
        )
        .await
        .is(400);
    assert_eq!(refused.json()["title"], "Failed to create a resource");
    let crashed = api
        .put("/meshes/panic", json!({"type": "Mesh", "name": "panic"}))
        .await
        .is(500);
    assert_eq!(crashed.json()["detail"], "Internal Server Error");
    api.get("/meshes").await.is(200);
}

#[tokio::test]
async fn a_body_has_a_limit() {
    let limits = Limits {
        body_bytes_max: 100,
        ..Limits::default()
    };
    let api = Api::with(Mode::Global, |state| {
        *state = state.clone().with_limits(limits);
    });
    let body = json!({"type": "Mesh", "name": "default", "x": "y".repeat(200)});
    api.put("/meshes/default", body).await.is(413);
}

#[tokio::test]
async fn strange_requests_get_answers() {
    let api = Api::global();
    api.mesh().await;
    for (method, path, body, want) in [
        ("PUT", "/meshes/x", "", 400),
        ("PUT", "/meshes/x", "{", 400),
        ("PUT", "/meshes/x", "null", 400),
        ("PUT", "/meshes/x", "[]", 400),
        ("PUT", "/meshes/%00", "{}", 400),
        ("PUT", "/meshes/%ff%fe", "{}", 400),
        ("GET", "/meshes/%2e%2e%2f", "", 404),
        ("GET", "/meshes?size=-1", "", 400),
        ("GET", "/meshes?offset=x", "", 400),
        ("GET", "/meshes?filter[", "", 400),
        ("GET", "/meshes?%%%=%", "", 200),
        ("GET", "/_kri/kri_", "", 400),
        ("GET", "/_kri/kri_mt_default___nothing_", "", 404),
        ("POST", "/_batch", "7", 400),
        ("POST", "/_batch", "[7, null, {}]", 400),
        ("POST", "/_batch", "[]", 200),
        ("POST", "/_batch", "{\"apply\": 7}", 400),
        ("GET", "/meshes/default?format=xml", "", 400),
        ("GET", "/meshes/default?format=k8s", "", 200),
    ] {
        let answer = api
            .call_with(method, path, &[], Some(body.to_owned()))
            .await;
        assert_eq!(
            answer.status.as_u16(),
            want,
            "{method} {path} {body}: {}",
            answer.text
        );
    }
    let deep = "[".repeat(100_000);
    api.call_with("PUT", "/meshes/x", &[], Some(deep))
        .await
        .is(400);
}

#[tokio::test]
async fn a_backup_is_all_that_is_kept_and_only_for_administrators() {
    let api = Api::global();
    api.mesh().await;
    api.put(SLOW, slow(5)).await.is(201);
    let get = |headers: &'static [(&str, &str)]| api.call_with("GET", "/_backup", headers, None);
    get(&[]).await.is(403);
    let refused = get(&[("authorization", "Bearer ben")]).await.is(403);
    assert!(
        refused.text.contains("cannot access a backup of the store"),
        "{}",
        refused.text
    );
    let answer = get(&[("authorization", "Bearer admin")]).await.is(200);
    assert_eq!(answer.revision(), 2);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let backup = zonal_store::Backup::read(answer.text.as_bytes()).unwrap();
    assert_eq!(backup.head.revision, Revision(2));
    let all = |snapshot: &Snapshot| -> Vec<Stored> {
        snapshot.all().map(|stored| Stored::clone(stored)).collect()
    };
    assert_eq!(all(&backup.snapshot), all(&api.store.snapshot()));
}
