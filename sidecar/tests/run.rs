//! The real sidecar with a control plane and an Envoy that are made up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use serde_json::{Value, json};
use sidecar::args::Args;
use sidecar::config::Config;
use sidecar::{Parts, RunError, run};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zonal_process::net::{self, Limits};
use zonal_process::{CancellationToken, RealClock};

/// Generous: the machine may be slow, and a passing test does not wait.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "a.b.c";

/// What the made-up control plane and Envoy admin interface heard, in order.
#[derive(Clone)]
struct World {
    heard: watch::Sender<Vec<(String, Value)>>,
    /// What `/bootstrap` answers instead of a bootstrap.
    refusal: watch::Sender<Option<(StatusCode, String)>>,
    /// Whether `/bootstrap` answers at all yet.
    answers: watch::Sender<bool>,
    admin: SocketAddr,
}

async fn control_plane(
    State(world): State<World>,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> impl IntoResponse {
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(headers.get("authorization").unwrap(), TOKEN);
    world
        .heard
        .send_modify(|heard| heard.push((uri.path().to_owned(), body)));
    if uri.path() != "/bootstrap" {
        return (StatusCode::OK, "{}".to_owned());
    }
    let mut answers = world.answers.subscribe();
    answers.wait_for(|answers| *answers).await.unwrap();
    if let Some(refusal) = world.refusal.borrow().clone() {
        return refusal;
    }
    let bootstrap = json!({"admin": {"address": {"socketAddress": {
        "address": world.admin.ip().to_string(), "portValue": world.admin.port(),
    }}}});
    let answer = json!({"bootstrap": STANDARD.encode(bootstrap.to_string())});
    (StatusCode::OK, answer.to_string())
}

async fn admin(State(world): State<World>, uri: Uri) -> String {
    if uri.path() != "/ready" {
        let path = uri.path_and_query().unwrap().to_string();
        world
            .heard
            .send_modify(|heard| heard.push((format!("admin {path}"), Value::Null)));
    }
    "listener.self_inbound_dp_80.downstream_cx_active: 0\n".to_owned()
}

struct Run {
    world: World,
    home: tempfile::TempDir,
    workload: SocketAddr,
    page: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), RunError>>,
    servers: CancellationToken,
}

impl Run {
    /// Starts everything; the workload listens only when the caller holds its listener.
    async fn start(workload: SocketAddr, refusal: Option<(StatusCode, String)>) -> Self {
        zonal_process::tls::install_provider();
        let servers = CancellationToken::new();
        let admin_listener = net::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let world = World {
            heard: watch::Sender::new(Vec::new()),
            refusal: watch::Sender::new(refusal),
            answers: watch::Sender::new(true),
            admin: admin_listener.local_addr().unwrap(),
        };
        let listener = net::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        for (listener, router) in [
            (
                admin_listener,
                Router::new().fallback(admin).with_state(world.clone()),
            ),
            (
                listener,
                Router::new()
                    .fallback(control_plane)
                    .with_state(world.clone()),
            ),
        ] {
            drop(tokio::spawn(net::serve(
                listener,
                None,
                router,
                Limits::default(),
                servers.clone(),
            )));
        }
        let home = tempfile::tempdir().unwrap();
        let dataplane = home.path().join("dataplane.yaml");
        let text = format!(
            "{{type: Dataplane, mesh: default, name: '{{{{ name }}}}', networking: {{address: 127.0.0.1, inbound: [\
             {{port: 80, serviceAddress: {}, servicePort: {}}}]}}}}",
            workload.ip(),
            workload.port()
        );
        std::fs::write(&dataplane, text).unwrap();
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-envoy.sh");
        let args = Args::parse_from(
            [
                "sidecar",
                "--cp-address",
                &address,
                "--dataplane-token",
                TOKEN,
                "--dataplane-file",
                &dataplane.display().to_string(),
                "--dataplane-var",
                "name=web-1",
                "--binary-path",
                &fake.display().to_string(),
                "--work-dir",
                &home.path().join("work").display().to_string(),
                "--probe-interval",
                "20ms",
                "--drain-time",
                "30s",
            ]
            .iter(),
        );
        let config = Config::from_raw(args.load(&|_| None).unwrap().raw).unwrap();
        let readiness = net::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let page = readiness.local_addr().unwrap();
        let parts = Parts {
            readiness: Some(readiness),
            clock: RealClock::shared(),
            guard: None,
            seed: 7,
        };
        let stop = CancellationToken::new();
        let ended = tokio::spawn(run(config, parts, stop.clone()));
        Self {
            world,
            home,
            workload,
            page,
            stop,
            ended,
            servers,
        }
    }

    /// Waits until what was heard satisfies `enough`.
    async fn heard(&self, what: &str, enough: impl Fn(&[(String, Value)]) -> bool) {
        let mut heard = self.world.heard.subscribe();
        let waited = tokio::time::timeout(PATIENCE, heard.wait_for(|heard| enough(heard))).await;
        assert!(waited.is_ok(), "{what}: {:#?}", self.world.heard.borrow());
    }

    /// Waits until the newest health report says this of the inbound.
    async fn reported(&self, state: &str) {
        self.heard(state, |heard| {
            let newest = heard
                .iter()
                .rev()
                .find(|(path, _)| path == "/zonal/v1/health");
            newest.is_some_and(|(_, body)| body["inbounds"]["80"] == state)
        })
        .await;
    }

    fn events(&self) -> String {
        std::fs::read_to_string(self.home.path().join("work/events")).unwrap_or_default()
    }

    /// Asks the page until the answer satisfies `enough`.
    async fn page(&self, path: &str, enough: impl Fn(StatusCode, &str) -> bool) -> String {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let url = format!("http://{}{path}", self.page);
        loop {
            let answer = reqwest::get(&url).await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            if enough(status, &text) {
                return text;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{path}: {status} {text}"
            );
            tokio::task::yield_now().await;
        }
    }

    async fn finish(&mut self) -> Result<(), RunError> {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, &mut self.ended)
            .await
            .expect("ends in time");
        self.servers.cancel();
        ended.unwrap()
    }
}

/// An address where nothing listens, and the means to change that.
async fn workload() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecar_registers_serves_and_leaves_in_order() {
    let (addr, _listening) = workload().await;
    let mut run = Run::start(addr, None).await;
    run.page("/ready", |status, text| {
        status.is_success() && text == "READY"
    })
    .await;
    run.reported("Ready").await;

    let heard = run.world.heard.borrow().clone();
    let (path, request) = &heard[0];
    assert_eq!(path, "/bootstrap");
    assert_eq!(
        (&request["mesh"], &request["name"]),
        (&json!("default"), &json!("web-1"))
    );
    assert_eq!(request["dataplaneToken"], TOKEN);
    assert_eq!(request["version"]["envoy"]["version"], "1.40.0");
    let features = request["features"].as_array().unwrap();
    assert!(
        features.contains(&json!("feature-workload-health")),
        "{features:?}"
    );
    let registered: Value =
        serde_json::from_str(request["dataplaneResource"].as_str().unwrap()).unwrap();
    assert_eq!(registered["networking"]["inbound"][0]["port"], 80);
    let bootstrap = run.home.path().join("work/bootstrap.yaml");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(bootstrap).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "it holds the token");

    run.finish().await.unwrap();
    let after: Vec<String> = run
        .world
        .heard
        .borrow()
        .iter()
        .map(|(path, _)| path.clone())
        .skip_while(|path| path != "/zonal/v1/drain")
        .filter(|path| !path.starts_with("admin /stats"))
        .collect();
    assert_eq!(
        after,
        [
            "/zonal/v1/drain",
            "admin /healthcheck/fail",
            "admin /drain_listeners?inboundonly&graceful&skip_exit",
            "/zonal/v1/gone",
        ]
    );
    assert!(run.events().ends_with("term\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_envoy_is_started_again() {
    let (addr, _listening) = workload().await;
    let mut run = Run::start(addr, None).await;
    run.page("/ready", |status, _| status.is_success()).await;
    let status = run
        .page("/status", |_, text| text.contains("\"phase\":\"running\""))
        .await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let pid = i32::try_from(status["envoyPid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    run.reported("Ready").await;
    run.world.answers.send_replace(false);
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // While it is gone nobody may count on the workload behind it, however well that does.
    run.reported("NotReady").await;
    run.page("/ready", |status, _| !status.is_success()).await;
    run.world.answers.send_replace(true);
    let again = |status: &str| {
        let status: Value = serde_json::from_str(status).unwrap();
        status["envoyRestarts"] == 1 && status["phase"] == "running"
    };
    run.page("/status", |_, text| again(text)).await;
    run.reported("Ready").await;
    run.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn workload_that_refuses_is_not_ready_at_once_and_returns() {
    let (addr, listening) = workload().await;
    let mut run = Run::start(addr, None).await;
    run.reported("Ready").await;
    drop(listening);
    run.reported("NotReady").await;
    let status = run.page("/ready", |_, _| true).await;
    assert_eq!(status, "READY", "readiness is about the proxy");
    let listening = TcpListener::bind(run.workload).await.unwrap();
    run.reported("Ready").await;
    run.finish().await.unwrap();
    drop(listening);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_plane_that_is_away_is_awaited() {
    let (addr, _listening) = workload().await;
    let away = (StatusCode::SERVICE_UNAVAILABLE, "starting".to_owned());
    let mut run = Run::start(addr, Some(away)).await;
    run.heard("asked again", |heard| heard.len() >= 3).await;
    let status = run
        .page("/status", |_, text| text.contains("starting"))
        .await;
    assert!(status.contains("\"envoyReady\":false"), "{status}");
    assert_eq!(run.events(), "", "no Envoy without a bootstrap");
    run.world.refusal.send_replace(None);
    run.page("/ready", |status, _| status.is_success()).await;
    run.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_ends_the_sidecar_with_the_reason() {
    let (addr, _listening) = workload().await;
    let refusal = (
        StatusCode::UNPROCESSABLE_ENTITY,
        "mesh \"x\" does not exist".to_owned(),
    );
    let run = Run::start(addr, Some(refusal)).await;
    let ended = tokio::time::timeout(PATIENCE, run.ended)
        .await
        .expect("ends by itself")
        .unwrap();
    let error = ended.unwrap_err().to_string();
    assert!(
        error.contains("422") && error.contains("mesh \"x\" does not exist"),
        "{error}"
    );
    run.servers.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_at_the_start_is_survived() {
    let (addr, _listening) = workload().await;
    let away = (StatusCode::SERVICE_UNAVAILABLE, "starting".to_owned());
    let mut run = Run::start(addr, Some(away)).await;
    run.heard("asked", |heard| !heard.is_empty()).await;
    std::fs::write(run.home.path().join("work/crash"), "").unwrap();
    run.world.refusal.send_replace(None);
    run.page("/status", |_, text| {
        text.contains("\"envoyRestarts\":1") && text.contains("\"phase\":\"running\"")
    })
    .await;
    run.finish().await.unwrap();
}
