//! The program as the system runs it: signals, crashes, descriptor limits.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::control::args;
use crate::fake_control_plane::ControlPlane;
use crate::harness::{Service, expect_through, hello, read_exactly, within};

const API: &str = "sni.msvc.default.west.api.http";

/// A running program; killed when the test ends, however it ends.
struct Process {
    child: Child,
    callers: SocketAddr,
    admin: SocketAddr,
}

impl Process {
    /// Starts the program with at most `descriptors` of them.
    async fn start(
        folder: &Path,
        control_plane: &ControlPlane,
        descriptors: u32,
        more: &[&str],
    ) -> Self {
        let mut args = args(folder, control_plane, more);
        args.push("--log-json".to_owned());
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -n {descriptors} && exec \"$@\""))
            .arg("sh")
            .arg(env!("CARGO_BIN_EXE_zone-ingress"))
            .args(&args[1..])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The first lines say where it listens; the others are read so that it never waits for us.
        let log = BufReader::new(child.stderr.take().unwrap());
        let (found, addresses) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut found = Some(found);
            for line in log.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                if line["message"] == "zone ingress starts"
                    && let Some(found) = found.take()
                {
                    let address = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
                    let _test_may_be_over = found.send((address("listen"), address("admin")));
                }
            }
        });
        let (callers, admin) = within("the first log line", addresses).await.unwrap();
        let callers = callers.trim_matches(['[', ']']).parse().unwrap();
        Self {
            child,
            callers,
            admin: admin.parse().unwrap(),
        }
    }

    async fn ready(&self) {
        within("readiness", async {
            while !self
                .page("/ready")
                .await
                .is_some_and(|page| page.contains(" 200 "))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    /// Waits until a page contains a text.
    async fn shows(&self, path: &str, want: &str) {
        within(want, async {
            while !self
                .page(path)
                .await
                .is_some_and(|page| page.contains(want))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn hail(&self) -> TcpStream {
        let mut caller = within("a connect", TcpStream::connect(self.callers))
            .await
            .unwrap();
        caller.write_all(&hello(API)).await.unwrap();
        caller
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; gives the exit status.
    async fn ended(&mut self) -> std::process::ExitStatus {
        within("the end of the program", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

#[tokio::test]
async fn termination_drains_and_ends_with_success() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let service = Service::start().await;
    control_plane.route(API, &[service.address]);
    let mut program = Process::start(folder.path(), &control_plane, 1024, &[]).await;
    program.ready().await;
    program.shows("/routes", &service.address.to_string()).await;
    let mut caller = program.hail().await;
    let mut stream = service.greeted(API).await;
    program.signal(Signal::TERM);
    program.shows("/ready", "draining").await;
    expect_through(&mut caller, &mut stream, b"still here").await;
    expect_through(&mut stream, &mut caller, b"indeed").await;
    drop((caller, stream));
    assert!(program.ended().await.success());
    let file = folder.path().join("zone-ingress.default.zi.json");
    let state: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(state["currentAt"].is_string(), "{state}");
}

#[tokio::test]
async fn killed_ingress_comes_back_without_a_control_plane() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let echo = Service::start().await.echo();
    control_plane.route(API, &[echo]);
    let mut program = Process::start(folder.path(), &control_plane, 1024, &[]).await;
    program.ready().await;
    let file = folder.path().join("zone-ingress.default.zi.json");
    within("a state file", async {
        while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&echo.to_string())) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    program.signal(Signal::KILL);
    assert!(!program.ended().await.success());
    control_plane.stop();

    let program = Process::start(folder.path(), &control_plane, 1024, &[]).await;
    program.ready().await;
    let mut caller = program.hail().await;
    assert_eq!(
        read_exactly(&mut caller, hello(API).len()).await,
        hello(API)
    );
    program.shows("/status", "\"fromStateFile\":true").await;
}

#[tokio::test]
async fn used_up_descriptors_harm_only_those_beyond() {
    let folder = TempDir::new().unwrap();
    let control_plane = ControlPlane::start(folder.path()).await;
    let echo = Service::start().await.echo();
    control_plane.route(API, &[echo]);
    // Our own bound is set far above what the system gives, so that it is the system that refuses.
    let more = [
        "--connections-max=1000",
        "--hellos-max=500",
        "--hellos-per-source-max=500",
    ];
    let program = Process::start(folder.path(), &control_plane, 64, &more).await;
    program.ready().await;
    program.shows("/routes", &echo.to_string()).await;
    let mut caller = program.hail().await;
    assert_eq!(
        read_exactly(&mut caller, hello(API).len()).await,
        hello(API)
    );
    let mut crowd = Vec::new();
    for _ in 0..100 {
        // Some are reset before they know that they were connected.
        crowd.extend(TcpStream::connect(program.callers).await.ok());
    }
    // Those inside are not disturbed.
    caller.write_all(b"still here").await.unwrap();
    assert_eq!(read_exactly(&mut caller, 10).await, b"still here");
    drop(crowd);
    within("a caller after the crowd", async {
        loop {
            // Descriptors come back as the program notices who has gone.
            let Ok(mut late) = TcpStream::connect(program.callers).await else {
                continue;
            };
            let mut answer = vec![0; hello(API).len()];
            if late.write_all(&hello(API)).await.is_ok()
                && late.read_exact(&mut answer).await.is_ok()
            {
                return;
            }
        }
    })
    .await;
    let metrics = program.page("/metrics").await.unwrap();
    let reached = metrics
        .lines()
        .find(|line| line.contains("limit=\"descriptors\""))
        .unwrap();
    assert!(!reached.ends_with(" 0"), "{reached}");
}
