//! A global control plane for real, on free ports of loopback, with a store in memory.

use std::net::SocketAddr;

use global_cp::{Config, Listeners, run};
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use zonal_control_plane::Configuration as _;
use zonal_process::tls::{Trust, client_config};
use zonal_process::{CancellationToken, RealClock, Spawner};

use crate::zone::PATIENCE;

pub struct Global {
    pub kds: SocketAddr,
    rest: SocketAddr,
    http: reqwest::Client,
    stop: CancellationToken,
    _work_dir: TempDir,
}

impl Drop for Global {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Global {
    /// The zone `east` joins without a token.
    pub async fn start() -> Self {
        Self::start_with(false, |_| {}).await
    }

    pub async fn start_with(tls: bool, change: impl FnOnce(&mut Config)) -> Self {
        let work_dir = tempfile::tempdir().unwrap();
        let raw = json!({
            "general": { "workDir": work_dir.path() },
            "store": { "type": "memory" },
            "apiServer": {
                "http": { "interface": "127.0.0.1", "port": 0 },
                "https": { "enabled": false },
            },
            "diagnostics": { "interface": "127.0.0.1", "serverPort": 0 },
            "multizone": { "global": { "kds": {
                "interface": "127.0.0.1",
                "grpcPort": 0,
                "tlsEnabled": tls,
                "zonesWithoutToken": ["east"],
            }}},
        });
        let raw = serde_json::from_value(raw).unwrap();
        let mut config = Config::from_raw(&raw).unwrap();
        change(&mut config);
        let listeners = Listeners::bind(&config).await.unwrap();
        let rest = listeners.rest.http.as_ref().unwrap().local_addr().unwrap();
        let kds = listeners.kds.local_addr().unwrap();
        let stop = CancellationToken::new();
        let work = run(
            config,
            json!({}),
            listeners,
            RealClock::shared(),
            stop.clone(),
        );
        Spawner::detached(stop.clone()).spawn("global", async move { work.await.unwrap() });
        let tls = client_config(&Trust::Anyone, &[]).unwrap();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .build()
            .unwrap();
        Self {
            kds,
            rest,
            http,
            stop,
            _work_dir: work_dir,
        }
    }

    /// Asks something else than `GET`.
    pub async fn ask(&self, method: http::Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", self.rest);
        let answer = self
            .http
            .request(method, url)
            .json(body)
            .send()
            .await
            .unwrap();
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Asks at the port for zones, over TLS and without a certificate.
    pub async fn ask_as_stranger(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let url = format!("https://{}{path}", self.kds);
        let answer = self.http.post(url).json(body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", self.rest);
        let answer = self.http.get(url).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Asks over REST until the answer is as wanted.
    pub async fn until(&self, path: &str, check: impl Fn(StatusCode, &Value) -> bool) -> Value {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let (status, body) = self.get(path).await;
                if check(status, &body) {
                    return body;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {path}"))
    }
}
