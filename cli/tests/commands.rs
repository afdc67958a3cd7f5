//! Whole command lines against the real resource API, on loopback and over TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zonal_cli::{Environment, Exit, Terminal};
use zonal_model::Mode;
use zonal_process::tls::{self, ServerIdentity};
use zonal_process::{CancellationToken, RealClock, net};
use zonal_rest::{Receipt, Receipts, RestState, ZoneReceipt, ZoneReceiptState, router_with};
use zonal_store::{MemoryStore, RedbStore, Revision, Store};

/// Receipts that the test makes up.
struct MadeUp {
    zones: Mutex<BTreeMap<String, ZoneReceipt>>,
    changed: watch::Sender<u64>,
}

impl MadeUp {
    fn set(&self, zone: &str, state: ZoneReceiptState, affected: u64, acked: u64) {
        let refused = state == ZoneReceiptState::Refused;
        let nacks = match refused {
            true => json!([{"proxy": "default/web", "reason": "no such cluster"}]),
            false => json!([]),
        };
        let receipt = json!({
            "keptAt": "2026-01-01T00:00:00.010Z",
            "convergedAt": (state == ZoneReceiptState::Complete).then_some("2026-01-01T00:00:00.030Z"),
            "proxies": {
                "total": affected, "affected": affected, "acked": acked, "nacked": u8::from(refused), "offline": 0,
            },
            "nacks": nacks,
            "state": state,
        });
        let receipt = serde_json::from_value(receipt).unwrap();
        self.zones.lock().unwrap().insert(zone.to_owned(), receipt);
        self.changed.send_modify(|changes| *changes += 1);
    }
}

fn committed() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

impl Receipts for MadeUp {
    fn receipt(&self, revision: Revision) -> Receipt {
        let zones = self.zones.lock().unwrap().clone();
        let done = |zone: &ZoneReceipt| {
            matches!(
                zone.state,
                ZoneReceiptState::Complete | ZoneReceiptState::Offline
            )
        };
        let complete = zones.values().all(done);
        Receipt {
            revision,
            committed_at: Some(committed()),
            zones,
            complete,
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Answers what was asked for a join token, as global does.
fn for_zones() -> axum::Router {
    let issue = axum::routing::post(async |axum::Json(asked): axum::Json<Value>| {
        axum::Json(json!({
            "zone": asked["zone"], "token": "zonal-join-abc", "expires": "2026-01-01T01:00:00Z",
            "global": format!("grpcs://{}:5685", asked["global"].as_str().unwrap()),
            "fingerprint": "sha256:00", "validFor": asked["validFor"],
        }))
    });
    axum::Router::new().route("/tokens/zone-join", issue)
}

/// A control plane of the test's own.
struct Server {
    folder: TempDir,
    environment: Environment,
    receipts: Arc<MadeUp>,
    fingerprint: String,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::now();
        let identity = ServerIdentity::load_or_create(folder.path(), &[], now).unwrap();
        let receipts = Arc::new(MadeUp {
            zones: Mutex::new(BTreeMap::new()),
            changed: watch::Sender::new(0),
        });
        let store = Arc::new(MemoryStore::new(Arc::new(jiff::Timestamp::now)));
        let mut state = RestState::new(store, Mode::Global, None);
        state.receipts = Arc::<MadeUp>::clone(&receipts);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serve = net::serve(
            listener,
            Some(identity.server_config().unwrap()),
            router_with(state, for_zones()),
            net::Limits::default(),
            stop.clone(),
        );
        let serving = tokio::spawn(async move { serve.await.unwrap() });
        let environment = Environment {
            address: Some(format!("https://{address}")),
            ca_file: Some(identity.certificate_file().to_owned()),
            config: Some(folder.path().join("config/config.yaml")),
            ..Environment::default()
        };
        let fingerprint = identity.fingerprint().to_string();
        Self {
            folder,
            environment,
            receipts,
            fingerprint,
            stop,
            serving,
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    async fn run(&self, line: &str) -> Said {
        run(line, &self.environment, "").await
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
struct Said {
    exit: Exit,
    output: String,
    errors: String,
}

impl Said {
    #[track_caller]
    fn is(self, exit: Exit) -> Self {
        assert_eq!(self.exit, exit, "{}{}", self.output, self.errors);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

async fn run(line: &str, environment: &Environment, input: &'static str) -> Said {
    let (output, errors) = (Paper::default(), Paper::default());
    let mut terminal = Terminal::new(
        Box::new(input.as_bytes()),
        Box::new(output.clone()),
        Box::new(errors.clone()),
        RealClock::shared(),
    );
    let words = format!("zonal {line}");
    let words = words.split_whitespace().map(Into::into);
    let exit = zonal_cli::run(words, environment, &mut terminal).await;
    Said {
        exit,
        output: output.text(),
        errors: errors.text(),
    }
}

const MESH: &str = "type: Mesh\nname: default\nskipCreatingInitialPolicies: ['*']\n";

fn timeout(name: &str, value: &str) -> String {
    format!(
        "type: MeshTimeout\nmesh: default\nname: {name}\nlabels: {{team: a}}\nspec:\n  to:\n    - targetRef: {{kind: \
         Mesh}}\n      default: {{http: {{requestTimeout: {value}}}}}\n"
    )
}

#[tokio::test]
async fn resources_go_in_come_out_and_are_removed() {
    let server = Server::start().await;
    server.file("10-mesh.yaml", MESH);
    server.file(
        "20-timeouts.yaml",
        &format!("{}---\n{}", timeout("a", "5s"), timeout("b", "6s")),
    );
    let folder = server.folder.path().display().to_string();

    let tried = server
        .run(&format!("apply -f {folder} --dry-run"))
        .await
        .is(Exit::Done);
    assert!(
        tried
            .output
            .contains("would be created   MeshTimeout default/a"),
        "{tried:?}"
    );
    server.run("get mesh default").await.is(Exit::Failed);

    let applied = server
        .run(&format!("apply -f {folder} -o json"))
        .await
        .is(Exit::Done)
        .json();
    assert_eq!(applied["receipt"], Value::Null);
    assert_eq!(applied["resources"][2]["outcome"], "created", "{applied}");
    assert_eq!(applied["resources"][2]["name"], "b");
    let revision = applied["revision"].as_u64().unwrap();

    let again = server
        .run(&format!("apply -f {folder}"))
        .await
        .is(Exit::Done);
    assert!(
        again.output.contains("unchanged   MeshTimeout default/a\n"),
        "{again:?}"
    );
    assert!(
        again.output.contains(&format!("revision {revision}\n")),
        "{again:?}"
    );

    let table = server.run("get mt").await.is(Exit::Done).output;
    assert!(table.starts_with("MESH      NAME   TARGET"), "{table}");
    assert_eq!(
        server.run("get meshtimeouts -o json").await.json()["total"],
        2
    );
    assert_eq!(
        server
            .run("get meshtimeouts -o json -l team=b")
            .await
            .json()["total"],
        0
    );
    assert_eq!(
        server
            .run("get meshtimeouts -A -o json -l team=a")
            .await
            .json()["total"],
        2
    );
    let one = server
        .run("get meshtimeout a -o yaml")
        .await
        .is(Exit::Done)
        .output;
    assert!(
        one.starts_with("type: MeshTimeout\nmesh: default\nname: a\n"),
        "{one}"
    );
    let by_identifier = server
        .run("get mt kri_mt_default___a_ -o json")
        .await
        .is(Exit::Done);
    assert_eq!(by_identifier.json()["name"], "a");

    let back = server.file("back.yaml", &one.replace("5s", "7s"));
    let applied = server.run(&format!("apply -f {back}")).await.is(Exit::Done);
    assert!(
        applied.output.contains("updated     MeshTimeout default/a"),
        "{applied:?}"
    );

    let removed = server
        .run("delete meshtimeout a --mesh default")
        .await
        .is(Exit::Done);
    assert!(
        removed.output.contains("removed     MeshTimeout default/a"),
        "{removed:?}"
    );
    let missing = server.run("delete meshtimeout a").await.is(Exit::Failed);
    assert!(
        missing
            .errors
            .contains("MeshTimeout default/a does not exist"),
        "{missing:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn one_bad_document_keeps_all_out_and_every_violation_is_told() {
    let server = Server::start().await;
    let mesh = server.file("mesh.yaml", MESH);
    server.run(&format!("apply -f {mesh}")).await.is(Exit::Done);
    let bad = timeout("bad", "1s").replace("kind: Mesh}", "kind: Nobody}");
    let texts = [timeout("good", "1s"), bad, timeout("worse", "-1s")];
    let file = server.file("three.yaml", &texts.join("---\n"));
    let said = server
        .run(&format!("apply -f {file}"))
        .await
        .is(Exit::Failed);
    assert!(
        said.errors
            .contains("2 of 3 resources were refused; nothing was changed"),
        "{said:?}"
    );
    for part in [
        "three.yaml, document 2`: MeshTimeout default/bad: spec.to[0].targetRef.kind: ",
        "three.yaml, document 3`: MeshTimeout default/worse: spec.to[0].default.http.requestTimeout: ",
    ] {
        assert!(said.errors.contains(part), "{part} is not in {said:?}");
    }
    server.run("get meshtimeout good").await.is(Exit::Failed);
    server.stop().await;
}

#[tokio::test]
async fn a_wait_ends_with_the_receipt() {
    let server = Server::start().await;
    let file = server.file("mesh.yaml", MESH);
    server
        .receipts
        .set("east", ZoneReceiptState::Complete, 2, 2);
    server.receipts.set("west", ZoneReceiptState::Pending, 0, 0);
    let line = format!("apply -f {file} --wait -o json");
    let (applied, ()) = tokio::join!(server.run(&line), async {
        // Comes before or while the command waits: both must do.
        tokio::task::yield_now().await;
        server
            .receipts
            .set("west", ZoneReceiptState::Complete, 1, 1);
    });
    let applied = applied.is(Exit::Done).json();
    let receipt = &applied["receipt"];
    assert_eq!(receipt["complete"], true, "{applied}");
    assert_eq!(receipt["zones"]["west"]["keptAfterMillis"], 10);
    assert_eq!(receipt["zones"]["west"]["convergedAfterMillis"], 30);
    assert_eq!(receipt["zones"]["east"]["proxies"]["acked"], 2);
    let revision = applied["revision"].as_u64().unwrap();

    server.receipts.set("west", ZoneReceiptState::Kept, 3, 1);
    let late = server
        .run(&format!("wait {revision} --timeout 1ms"))
        .await
        .is(Exit::TimedOut);
    assert!(
        late.errors
            .contains("zone `west` keeps it; 2 of 3 proxies have not answered"),
        "{late:?}"
    );
    assert!(late.output.contains("west   kept"), "{late:?}");
    server
        .run(&format!("wait {revision} --for zone:east"))
        .await
        .is(Exit::Done);
    server
        .run(&format!("wait {revision} --for 50%"))
        .await
        .is(Exit::Done);
    let nobody = server
        .run(&format!("wait {revision} --for zone:nowhere --timeout 1ms"))
        .await;
    assert!(
        nobody
            .is(Exit::Failed)
            .errors
            .contains("there are: east, west")
    );

    server.receipts.set("west", ZoneReceiptState::Refused, 1, 0);
    let refused = server
        .run(&format!("wait {revision}"))
        .await
        .is(Exit::Failed);
    let reason = "proxy `default/web` in zone `west` refuses: no such cluster";
    assert!(refused.errors.contains(reason), "{refused:?}");

    server.receipts.set("west", ZoneReceiptState::Offline, 0, 0);
    let away = server.run(&format!("wait {revision}")).await.is(Exit::Done);
    assert!(away.errors.contains("zone `west` is away"), "{away:?}");
    server
        .run(&format!("wait {}", revision + 100))
        .await
        .is(Exit::Failed);
    server.stop().await;
}

#[tokio::test]
async fn overviews_become_rows() {
    let server = Server::start().await;
    let mesh = server.file("mesh.yaml", MESH);
    let zone = server.file("zone.yaml", "type: Zone\nname: east\nenabled: true\n");
    server
        .run(&format!("apply -f {mesh} -f {zone}"))
        .await
        .is(Exit::Done);
    let zones = server
        .run("inspect zones -o json")
        .await
        .is(Exit::Done)
        .json();
    assert_eq!(zones["items"][0]["name"], "east");
    assert_eq!(zones["items"][0]["proxies"], 0);
    let table = server.run("inspect zones").await.is(Exit::Done).output;
    assert!(table.contains("east   offline"), "{table}");
    assert_eq!(
        server.run("inspect dataplanes -o json").await.json(),
        json!({"items": []})
    );
    let none = server
        .run("inspect services -m default")
        .await
        .is(Exit::Done);
    assert!(none.errors.contains("there are no services"), "{none:?}");
    let unknown = server
        .run("inspect dataplanes -m nowhere")
        .await
        .is(Exit::Failed);
    assert!(unknown.errors.contains("Not found"), "{unknown:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_control_plane_that_cannot_be_used_is_named() {
    let server = Server::start().await;
    let strange = Environment {
        ca_file: None,
        ..server.environment.clone()
    };
    let said = run("get meshes", &strange, "").await.is(Exit::Failed);
    assert!(said.errors.contains("hint: "), "{said:?}");
    let wrong = format!("--fingerprint sha256:{}", "0".repeat(64));
    let said = run(&format!("get meshes {wrong}"), &strange, "")
        .await
        .is(Exit::Failed);
    assert!(
        said.errors
            .contains("cannot trust the control plane at `https://127.0.0.1:"),
        "{said:?}"
    );
    let right = format!("get meshes --fingerprint {}", server.fingerprint);
    run(&right, &strange, "").await.is(Exit::Done);
    run("get meshes --insecure-skip-verify", &strange, "")
        .await
        .is(Exit::Done);

    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let said = run(
        &format!("get meshes --address http://{closed}"),
        &strange,
        "",
    )
    .await;
    let said = said.is(Exit::Failed);
    assert!(
        said.errors
            .contains(&format!("`http://{closed}`: nobody listens there")),
        "{said:?}"
    );
    assert!(said.errors.contains("ZONAL_ADDRESS"), "{said:?}");
    server.stop().await;
}

#[tokio::test]
async fn contexts_are_kept_and_used() {
    let server = Server::start().await;
    let address = server.environment.address.clone().unwrap();
    let ca = server
        .environment
        .ca_file
        .clone()
        .unwrap()
        .display()
        .to_string();
    let bare = Environment {
        config: server.environment.config.clone(),
        ..Environment::default()
    };
    run("context current", &bare, "").await.is(Exit::Failed);
    run(
        &format!("context add global --address {address} --ca-file {ca}"),
        &bare,
        "",
    )
    .await
    .is(Exit::Done);
    assert_eq!(run("context current", &bare, "").await.output, "global\n");
    run("get meshes", &bare, "").await.is(Exit::Done);
    let version = run("version -o json", &bare, "")
        .await
        .is(Exit::Done)
        .json();
    assert_eq!(version["server"]["product"], "Kuma");
    let twice = format!("context add global --address {address}");
    run(&twice, &bare, "").await.is(Exit::Failed);
    run(
        "context add other --address http://localhost:1 --mesh m",
        &bare,
        "",
    )
    .await
    .is(Exit::Done);
    run("context use other", &bare, "").await.is(Exit::Done);
    let list = run("context list", &bare, "").await.output;
    assert!(
        list.contains("*         other    http://localhost:1"),
        "{list}"
    );
    run("get meshes", &bare, "").await.is(Exit::Failed);
    run("get meshes --context global", &bare, "")
        .await
        .is(Exit::Done);
    run("context remove other", &bare, "").await.is(Exit::Done);
    let missing = run("get meshes --context other", &bare, "")
        .await
        .is(Exit::Failed);
    assert!(missing.errors.contains("there are: global"), "{missing:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_needs_no_control_plane_needs_none() {
    let bare = Environment::default();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&format!("completion {shell}"), &bare, "")
            .await
            .is(Exit::Done)
            .output;
        assert!(script.contains("zonal"), "{shell}");
    }
    let help = run("--help", &bare, "").await.is(Exit::Done).output;
    assert!(help.contains("3  a wait ran out of time"), "{help}");
    run("aply", &bare, "").await.is(Exit::Usage);
    let file = PathBuf::from("no-such-file.yaml");
    let said = run(&format!("apply -f {}", file.display()), &bare, "")
        .await
        .is(Exit::Failed);
    assert!(said.errors.contains("nothing was sent"), "{said:?}");
    let said = run("apply -f -", &bare, "name: x\n").await.is(Exit::Failed);
    assert!(
        said.errors.contains("`standard input`: `type` missing"),
        "{said:?}"
    );
    tokio::time::timeout(Duration::from_secs(60), async {
        let elsewhere = "version --address http://127.0.0.1:1";
        let said = run(elsewhere, &bare, "").await.is(Exit::Done);
        assert!(said.output.starts_with("client   zonal "), "{said:?}");
    })
    .await
    .unwrap();
}

/// A control plane of another make: single resources only, no revisions.
#[tokio::test]
async fn another_makes_control_plane_takes_one_resource_at_a_time() {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::put;

    let plain = || async { (StatusCode::NOT_FOUND, "404: Page Not Found") };
    let keep = || async { (StatusCode::CREATED, "{\"warnings\": [\"old form\"]}") };
    let app = Router::new()
        .route("/meshes/{name}", put(keep))
        .route("/meshes/{mesh}/meshtimeouts/{name}", put(keep))
        .fallback(plain);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serve = net::serve(listener, None, app, net::Limits::default(), stop.clone());
    let serving = tokio::spawn(async move { serve.await.unwrap() });

    tls::install_provider();
    let bare = Environment {
        address: Some(format!("http://{address}")),
        ..Environment::default()
    };
    let input = "type: Mesh\nname: default\n---\ntype: MeshTimeout\nname: a\nspec: {}\n";
    let said = run("apply -f -", &bare, input).await.is(Exit::Done);
    assert!(
        said.output.contains("created     MeshTimeout a"),
        "{said:?}"
    );
    assert!(
        said.errors.contains("warning: Mesh default: old form"),
        "{said:?}"
    );
    let tried = run("apply -f - --dry-run", &bare, input)
        .await
        .is(Exit::Failed);
    assert!(tried.errors.contains("cannot try a change"), "{tried:?}");
    let waited = run("apply -f - --wait", &bare, input)
        .await
        .is(Exit::Failed);
    assert!(waited.errors.contains("has no receipts"), "{waited:?}");
    run("wait 7", &bare, "").await.is(Exit::Failed);
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_zone_is_made_switched_off_and_on_drained_and_removed() {
    let server = Server::start().await;
    let said = server.run("zone create east").await.is(Exit::Done);
    assert!(
        said.output.starts_with("created     Zone east\n"),
        "{said:?}"
    );
    let again = server.run("zone create east").await.is(Exit::Failed);
    assert!(
        again.errors.contains("zone `east` exists already"),
        "{again:?}"
    );

    let record = async || {
        server
            .run("get zone east -o json")
            .await
            .is(Exit::Done)
            .json()
    };
    server.run("zone disable east").await.is(Exit::Done);
    assert_eq!(record().await["enabled"], false);
    let same = server.run("zone disable east -o json").await.is(Exit::Done);
    assert_eq!(same.json()["resources"][0]["outcome"], "unchanged");
    let shown = server.run("inspect zones").await.is(Exit::Done).output;
    assert!(shown.contains("offline, disabled"), "{shown}");
    server.run("zone enable east").await.is(Exit::Done);
    assert_eq!(record().await["enabled"], true);

    let drained = server.run("zone drain east -o json").await.is(Exit::Done);
    assert_eq!(drained.json()["resources"][0]["outcome"], "drained");
    assert!(drained.json()["revision"].is_u64(), "{drained:?}");
    assert_eq!(record().await["labels"]["zonal.io/drained"], "true");
    let shown = server.run("inspect zones").await.is(Exit::Done).output;
    assert!(shown.contains("offline, drained"), "{shown}");
    server.run("zone undrain east").await.is(Exit::Done);
    assert_eq!(record().await["labels"]["zonal.io/drained"], Value::Null);

    server.run("zone delete east").await.is(Exit::Done);
    for action in ["delete", "disable", "drain"] {
        let said = server.run(&format!("zone {action} east")).await;
        let said = said.is(Exit::Failed);
        assert!(said.errors.contains("there is no zone `east`"), "{said:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_join_token_is_one_command() {
    let server = Server::start().await;
    let said = server.run("zone join-token east").await.is(Exit::Done);
    assert_eq!(
        said.output,
        "ZONAL_MULTIZONE_ZONE_JOIN_TOKEN=zonal-join-abc zone-cp\n"
    );
    // The server of this test is on loopback, where no other machine finds it.
    for part in [
        "good once, until 2026-01-01T01:00:00Z; zone `east` will look for global at grpcs://127.0.0.1:5685",
        "that is this machine only",
    ] {
        assert!(said.errors.contains(part), "{said:?}");
    }
    let line = "zone join-token east --ttl 30m --global global.example -o json";
    let said = server.run(line).await.is(Exit::Done).json();
    assert_eq!(said["global"], "grpcs://global.example:5685");
    assert_eq!(said["validFor"], "1800s");
    assert_eq!(
        said["command"],
        "ZONAL_MULTIZONE_ZONE_JOIN_TOKEN=zonal-join-abc zone-cp"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_backup_becomes_a_store_with_everything_in_it() {
    let server = Server::start().await;
    server.file("10-mesh.yaml", MESH);
    server.file("20-timeout.yaml", &timeout("a", "5s"));
    let folder = server.folder.path().display().to_string();
    server
        .run(&format!("apply -f {folder}"))
        .await
        .is(Exit::Done);

    let taken = server
        .run(&format!("backup {folder}/kept.backup -o json"))
        .await
        .is(Exit::Done)
        .json();
    assert_eq!(taken["revision"], 1, "{taken}");
    let kept = server.folder.path().join("kept.backup");
    let mode = std::fs::metadata(&kept).unwrap().permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o600
    );
    let again = server
        .run(&format!("backup {folder}/kept.backup"))
        .await
        .is(Exit::Failed);
    assert!(again.errors.contains("exists already"), "{again:?}");

    // What came after the backup is not in it.
    server.file("20-timeout.yaml", &timeout("b", "5s"));
    server
        .run(&format!("apply -f {folder}"))
        .await
        .is(Exit::Done);
    let restore = format!("restore {folder}/kept.backup --store {folder}/store.redb");
    let restored = server
        .run(&format!("{restore} -o json"))
        .await
        .is(Exit::Done)
        .json();
    assert_ne!(restored["epoch"], taken["epoch"]);
    {
        let path = server.folder.path().join("store.redb");
        let store = RedbStore::open(path, Arc::new(jiff::Timestamp::now)).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.revision(), Revision(1));
        assert_eq!(snapshot.epoch().as_str(), restored["epoch"]);
        let names: Vec<_> = snapshot
            .list(zonal_model::Kind::MeshTimeout)
            .map(|stored| stored.resource.key.name.to_string())
            .collect();
        assert_eq!(names, ["a"]);
        let in_use = server
            .run(&format!("{restore} --force"))
            .await
            .is(Exit::Failed);
        assert!(in_use.errors.contains("has it open"), "{in_use:?}");
    }
    let refused = server.run(&restore).await.is(Exit::Failed);
    assert!(refused.errors.contains("--force"), "{refused:?}");
    server
        .run(&format!("{restore} --force"))
        .await
        .is(Exit::Done);

    let whole = std::fs::read(&kept).unwrap();
    std::fs::write(&kept, &whole[..whole.len() - 20]).unwrap();
    let before = std::fs::read(server.folder.path().join("store.redb")).unwrap();
    let refused = server
        .run(&format!("{restore} --force"))
        .await
        .is(Exit::Failed);
    assert!(refused.errors.contains("was not touched"), "{refused:?}");
    let after = std::fs::read(server.folder.path().join("store.redb")).unwrap();
    assert!(before == after, "a bad backup changes nothing");
    server.stop().await;
}
