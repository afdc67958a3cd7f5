use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use zonal_process::{CancellationToken, RealClock};
use zone_ingress::config::{Args, Config};
use zone_ingress::run::{Drained, Listeners, run};

use crate::fake_control_plane::ControlPlane;
use crate::harness::{Service, eventually, expect_reset, hello, nobody, read_exactly, within};

const API: &str = "sni.msvc.default.west.api.http";
const WEB: &str = "sni.msvc.default.west.web.http";

/// The whole program in this process.
pub(crate) struct Program {
    callers: SocketAddr,
    admin: SocketAddr,
    stop: CancellationToken,
    running: Option<JoinHandle<anyhow::Result<Drained>>>,
}

pub(crate) fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

pub(crate) fn args(folder: &Path, control_plane: &ControlPlane, more: &[&str]) -> Vec<String> {
    let dataplane = write(
        folder,
        "dataplane.yaml",
        "type: Dataplane\nmesh: default\nname: zi\nnetworking:\n  address: 127.0.0.1\n  \
         listeners:\n  - {type: ZoneIngress, name: main, port: 0}\n",
    );
    let token = folder.join("token");
    if !token.exists() {
        std::fs::write(&token, "secret\n").unwrap();
    }
    let mut args = vec![
        "zone-ingress".to_owned(),
        format!("--cp-address=https://{}", control_plane.address),
        format!("--cp-fingerprint={}", control_plane.fingerprint()),
        format!("--dataplane-file={}", dataplane.display()),
        format!("--dataplane-token-file={}", token.display()),
        format!("--work-dir={}", folder.display()),
        "--admin-address=127.0.0.1:0".to_owned(),
        "--workers=2".to_owned(),
    ];
    args.extend(more.iter().map(|more| (*more).to_owned()));
    args
}

impl Program {
    pub(crate) async fn start(folder: &Path, control_plane: &ControlPlane, more: &[&str]) -> Self {
        let program = Self::begin(folder, control_plane, more);
        program.ready(true).await;
        program
    }

    fn begin(folder: &Path, control_plane: &ControlPlane, more: &[&str]) -> Self {
        let args = Args::try_parse_from(args(folder, control_plane, more)).unwrap();
        let config = Config::from_args(args).unwrap();
        let listeners = Listeners::bind(&config).unwrap();
        let callers = listeners.addresses()[0];
        let admin = listeners.admin.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = run(config, listeners, RealClock::shared(), stop.clone());
        Self {
            callers,
            admin,
            stop,
            running: Some(tokio::spawn(running)),
        }
    }

    async fn page(&self, path: &str) -> (u16, String) {
        let mut stream = within("the admin page", TcpStream::connect(self.admin))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        within("the admin page", stream.read_to_string(&mut text))
            .await
            .unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let (status, body) = self.page(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path} is no JSON: {body}"))
    }

    async fn ready(&self, want: bool) {
        within("readiness", async {
            while (self.page("/ready").await.0 == 200) != want {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until a field of `/status` has a value.
    pub(crate) async fn status(&self, field: &str, want: &str) {
        within("a status", async {
            while self.json("/status").await[field] != want {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    pub(crate) async fn hail(&self, name: &str) -> TcpStream {
        let mut caller = within("a connect", TcpStream::connect(self.callers))
            .await
            .unwrap();
        caller.write_all(&hello(name)).await.unwrap();
        caller
    }

    /// Calls until the name is routed, or not any more.
    pub(crate) async fn routed(&self, name: &str, want: bool) {
        within("a route", async {
            loop {
                let mut caller = self.hail(name).await;
                let mut first = [0; 1];
                if caller.read_exact(&mut first).await.is_ok() == want {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn stop(mut self) -> Drained {
        self.stop.cancel();
        let running = self.running.take().unwrap();
        within("the end of the program", running)
            .await
            .unwrap()
            .unwrap()
    }

    /// Ends without any goodbye, like a killed process.
    fn kill(mut self) {
        self.running.take().unwrap().abort();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn routes_come_from_the_control_plane_and_go_with_it() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let program = Program::start(folder.path(), &control_plane, &[]).await;
    assert_eq!(control_plane.told.tokens.lock().as_slice(), ["secret"]);
    let node = control_plane.told.nodes.lock()[0].clone();
    assert_eq!(node.id, "default.zi");
    let metadata = serde_json::to_value(node.metadata).unwrap();
    let dataplane: Value =
        serde_json::from_str(metadata["dataplane.resource"].as_str().unwrap()).unwrap();
    assert_eq!(
        dataplane["networking"]["listeners"][0]["type"],
        "ZoneIngress"
    );

    expect_reset(&mut program.hail(API).await).await;
    let echo = Service::start().await.echo();
    control_plane.route(API, &[echo]);
    program.routed(API, true).await;
    let mut open = program.hail(API).await;
    assert_eq!(read_exactly(&mut open, hello(API).len()).await, hello(API));
    control_plane.unroute(API);
    program.routed(API, false).await;
    open.write_all(b"still").await.unwrap();
    assert_eq!(read_exactly(&mut open, 5).await, b"still");
}

#[tokio::test]
async fn moved_service_is_reachable_at_every_moment() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let program = Program::start(folder.path(), &control_plane, &[]).await;
    let services = [Service::start().await.echo(), Service::start().await.echo()];
    control_plane.route(API, &services[..1]);
    program.routed(API, true).await;
    for turn in 0..30 {
        control_plane.route(API, &services[turn % 2..=turn % 2]);
        let mut caller = program.hail(API).await;
        assert_eq!(
            read_exactly(&mut caller, hello(API).len()).await,
            hello(API)
        );
    }
}

#[tokio::test]
async fn bad_resource_is_refused_by_name_and_the_others_are_used() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let program = Program::start(folder.path(), &control_plane, &[]).await;
    control_plane.offer_rubbish("rubbish");
    control_plane.route(API, &[Service::start().await.echo()]);
    program.routed(API, true).await;
    let told = &control_plane.told;
    eventually("a NACK", true, || !told.nacks.lock().is_empty()).await;
    assert!(
        told.nacks.lock()[0].contains("rubbish"),
        "{:?}",
        told.nacks.lock()
    );
    let status = program.json("/status").await;
    assert!(
        status["lastRefusal"]
            .as_str()
            .unwrap()
            .starts_with("rubbish: "),
        "{status}"
    );
}

#[tokio::test]
async fn lost_control_plane_changes_nothing_and_only_differences_come_back() {
    let folder = TempDir::new().unwrap();
    let mut control_plane = ControlPlane::start(folder.path()).await;
    let echo = Service::start().await.echo();
    control_plane.route(API, &[echo]);
    let program = Program::start(folder.path(), &control_plane, &[]).await;
    program.routed(API, true).await;
    control_plane.stop();
    program.status("controlPlane", "away").await;
    program.routed(API, true).await;
    program.ready(true).await;
    let summary = program.json("/status").await["summary"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        summary.contains("control plane unreachable since"),
        "{summary}"
    );

    control_plane.told.sent.lock().clear();
    control_plane.route(WEB, &[echo]);
    control_plane.run().await;
    program.routed(WEB, true).await;
    program.status("controlPlane", "live").await;
    let sent = control_plane.told.sent.lock().clone();
    assert_eq!(sent.len(), 2, "the new route and its endpoints: {sent:?}");
    assert_eq!(
        program.json("/status").await["summary"],
        "routes are current"
    );
}

#[tokio::test]
async fn restart_without_a_control_plane_serves_at_once() {
    let folder = TempDir::new().unwrap();
    let mut control_plane = ControlPlane::start(folder.path()).await;
    let echo = Service::start().await.echo();
    control_plane.route(API, &[echo]);
    let program = Program::start(folder.path(), &control_plane, &[]).await;
    program.routed(API, true).await;
    let file = folder.path().join("zone-ingress.default.zi.json");
    eventually(
        "a state file with the route and its endpoints",
        true,
        || {
            std::fs::read_to_string(&file)
                .is_ok_and(|text| text.contains(API) && text.contains(&echo.to_string()))
        },
    )
    .await;
    control_plane.stop();
    program.kill();

    let program = Program::start(folder.path(), &control_plane, &[]).await;
    let mut caller = program.hail(API).await;
    assert_eq!(
        read_exactly(&mut caller, hello(API).len()).await,
        hello(API)
    );
    let status = program.json("/status").await;
    assert_eq!(status["fromStateFile"], true);
    assert!(status["ageSeconds"].as_f64().is_some());

    control_plane.told.sent.lock().clear();
    control_plane.run().await;
    program.status("controlPlane", "live").await;
    assert_eq!(
        control_plane.told.sent.lock().as_slice(),
        [""; 0],
        "everything was held already"
    );
    assert_eq!(program.json("/status").await["fromStateFile"], false);
}

#[tokio::test]
async fn broken_state_file_is_put_aside() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let file = write(
        folder.path(),
        "zone-ingress.default.zi.json",
        "{\"format\": 1, ",
    );
    control_plane.route(API, &[Service::start().await.echo()]);
    let program = Program::start(folder.path(), &control_plane, &[]).await;
    program.routed(API, true).await;
    let aside = file.with_extension("broken");
    assert_eq!(std::fs::read_to_string(aside).unwrap(), "{\"format\": 1, ");
    eventually("a new state file", true, || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains(API))
    })
    .await;
}

#[tokio::test]
async fn refused_token_is_told_and_a_new_one_is_taken() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let token = write(folder.path(), "token", "wrong");
    let program = Program::begin(folder.path(), &control_plane, &[]);
    program.status("controlPlane", "away").await;
    let status = program.json("/status").await;
    assert!(
        status["reason"]
            .as_str()
            .unwrap()
            .contains("token is for zone ingress `other`"),
        "{status}"
    );
    program.ready(false).await;
    std::fs::write(token, "right").unwrap();
    program.ready(true).await;
    assert_eq!(control_plane.told.tokens.lock().as_slice(), ["right"]);
}

#[tokio::test]
async fn pages_and_metrics_tell_what_happened() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let echo = Service::start().await.echo();
    control_plane.route(API, &[echo]);
    let program = Program::start(folder.path(), &control_plane, &[]).await;
    program.routed(API, true).await;
    let mut caller = program.hail(API).await;
    assert_eq!(
        read_exactly(&mut caller, hello(API).len()).await,
        hello(API)
    );
    let bytes = hello(API).len() as u64;

    let routes = program.json("/routes").await;
    let route = &routes["routes"][0];
    assert_eq!(route["sni"], API);
    assert_eq!(route["endpoints"][0]["address"], echo.to_string());
    let connections = program.json("/connections").await;
    let open = connections["connections"].as_array().unwrap();
    let open = open
        .iter()
        .find(|open| open["caller"] == caller.local_addr().unwrap().to_string());
    assert_eq!(open.unwrap()["bytesToService"], bytes);
    assert_eq!(
        program.json("/config").await["limits"]["helloTimeout"],
        10.0
    );
    assert_eq!(
        program.json("/tasks").await["control plane"]["running"],
        true
    );

    let (_, metrics) = program.page("/metrics").await;
    let line = |start: &str| {
        metrics
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap_or("")
    };
    let traffic: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("zonal_ingress_bytes_total{"))
        .collect();
    assert_eq!(traffic.len(), 2, "{metrics}");
    assert!(
        traffic
            .iter()
            .all(|line| line.contains(API) && !line.ends_with(" 0")),
        "{traffic:?}"
    );
    assert_eq!(line("zonal_ingress_routes "), "zonal_ingress_routes 1");
    assert_eq!(
        line("zonal_ingress_control_plane_live"),
        "zonal_ingress_control_plane_live 1"
    );
    assert!(
        line("zonal_ingress_connections_total{result=\"refused\",reason=\"no_route\"")
            .ends_with(" 0")
    );
}

#[tokio::test]
async fn stopping_waits_for_connections_and_counts_what_it_cuts() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let service = Service::start().await;
    control_plane.route(API, &[service.address]);
    let program = Program::start(folder.path(), &control_plane, &["--drain-time=200ms"]).await;
    within("a route", async {
        while program.json("/routes").await["routes"][0]["endpoints"].is_null() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut caller = program.hail(API).await;
    let mut stream = service.greeted(API).await;
    assert_eq!(program.stop().await, Drained { cut: 1 });
    expect_reset(&mut caller).await;
    expect_reset(&mut stream).await;
}

#[tokio::test]
async fn drain_ends_with_the_last_connection() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let service = Service::start().await;
    control_plane.route(API, &[service.address]);
    let program = Program::start(folder.path(), &control_plane, &["--drain-time=10m"]).await;
    within("a route", async {
        while program.json("/routes").await["routes"][0]["endpoints"].is_null() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let caller = program.hail(API).await;
    let stream = service.greeted(API).await;
    program.stop.cancel();
    program.ready(false).await;
    drop((caller, stream));
    assert_eq!(program.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn wrong_arguments_are_all_told_at_once() {
    let folder = TempDir::new().unwrap();
    let dataplane = write(folder.path(), "bad.yaml", "type: Dataplane\nname: a\n");
    let port = nobody().await.port();
    let args = Args::try_parse_from([
        "zone-ingress".to_owned(),
        format!("--cp-address=localhost:{port}"),
        format!("--dataplane-file={}", dataplane.display()),
        "--dataplane-token-file=/does/not/exist".to_owned(),
        "--idle-timeout=0s".to_owned(),
        "--connections-max=0".to_owned(),
    ]);
    let problems = Config::from_args(args.unwrap()).unwrap_err().to_string();
    for part in [
        "--cp-address",
        "--ca-cert-file",
        "--dataplane-token-file",
        "--idle-timeout",
        "--connections-max",
        "networking.listeners",
    ] {
        assert!(problems.contains(part), "{part} is missing in: {problems}");
    }
}
