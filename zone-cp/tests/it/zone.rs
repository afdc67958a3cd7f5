//! A zone's control plane for real, on free ports of loopback, with a store in memory.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use zonal_control_plane::Configuration as _;
use zonal_process::net::Dialer;
use zonal_process::tls::{Trust, client_config};
use zonal_process::{CancellationToken, RealClock};
use zone_cp::{Config, Listeners, run};

/// How long a condition may take on a slow machine before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Zone {
    pub proxies: SocketAddr,
    rest: SocketAddr,
    diagnostics: SocketAddr,
    http: reqwest::Client,
    trust: Trust,
    /// Otherwise its proxies need no token: only global could issue one.
    pub is_alone: bool,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
    work_dir: Option<TempDir>,
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Zone {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_at(None, change).await
    }

    /// Joins a global that is reached without TLS.
    pub async fn join(global: SocketAddr) -> Self {
        Self::start_at(Some(global), |_| {}).await
    }

    async fn start_at(global: Option<SocketAddr>, change: impl FnOnce(&mut Config)) -> Self {
        let work_dir = tempfile::tempdir().unwrap();
        let global = global.map(|global| format!("grpc://{global}"));
        let zone = json!({ "name": "east", "globalAddress": global });
        Self::start_in(work_dir, "memory", zone, change)
            .await
            .unwrap()
    }

    /// Starts in a work folder, with a kind of store and `multizone.zone` of the test's own.
    pub async fn start_in(
        work_dir: TempDir,
        store: &str,
        zone: Value,
        change: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        let loopback = json!({ "interface": "127.0.0.1", "port": 0 });
        let is_alone = zone["globalAddress"].is_null() && zone["joinToken"].is_null();
        let authentication = if is_alone { "dpToken" } else { "none" };
        let mut dp_server = loopback.clone();
        dp_server["authn"] = json!({ "dpProxy": { "type": authentication } });
        let raw = json!({
            "general": { "workDir": work_dir.path() },
            "store": { "type": store },
            "apiServer": { "http": loopback, "https": { "enabled": false } },
            "diagnostics": { "interface": "127.0.0.1", "serverPort": 0 },
            "dpServer": dp_server,
            "multizone": { "zone": zone },
        });
        let raw = serde_json::from_value(raw).unwrap();
        let mut config = Config::from_raw(&raw).unwrap();
        change(&mut config);
        let listeners = Listeners::bind(&config).await.unwrap();
        let rest = listeners.rest.http.as_ref().unwrap().local_addr().unwrap();
        let proxies = listeners.proxies.local_addr().unwrap();
        let diagnostics = listeners.diagnostics.local_addr().unwrap();
        config.xds_port = proxies.port();
        let stop = CancellationToken::new();
        let trust = Trust::AuthorityFile(work_dir.path().join("tls.crt"));
        let work = run(
            config,
            json!({}),
            listeners,
            RealClock::shared(),
            stop.clone(),
        );
        let mut running = tokio::spawn(work);
        // The listener is bound already, so a request waits until it is served.
        let plain = reqwest::Client::builder().no_proxy();
        let provider = client_config(&Trust::Anyone, &[]).unwrap();
        let plain = plain.tls_backend_preconfigured(provider).build().unwrap();
        let ready = async {
            let url = format!("http://{diagnostics}/ready");
            // A control plane that ends at its start takes the listener with it: its end says more than that.
            while !matches!(plain.get(&url).send().await, Ok(answer) if answer.status() == StatusCode::OK)
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = &mut running => {
                ended.unwrap()?;
                anyhow::bail!("it ended");
            }
            ready = tokio::time::timeout(PATIENCE, ready) => ready.unwrap(),
        }
        let tls = client_config(&trust, &["h2", "http/1.1"]).unwrap();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(PATIENCE * 2)
            .build()
            .unwrap();
        Ok(Self {
            proxies,
            rest,
            diagnostics,
            http,
            trust,
            is_alone,
            stop,
            running,
            work_dir: Some(work_dir),
        })
    }

    /// Where it keeps what is its own.
    pub fn work_dir(&self) -> &std::path::Path {
        self.work_dir.as_ref().unwrap().path()
    }

    /// Ends it and gives back its work folder.
    pub async fn stop(mut self) -> TempDir {
        self.stop.cancel();
        (&mut self.running).await.unwrap().unwrap();
        self.work_dir.take().unwrap()
    }

    pub fn dialer(&self) -> Dialer {
        Dialer::new(&self.trust).unwrap()
    }

    /// Over REST.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", self.rest);
        let answer = self.http.get(url).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Keeps a resource over REST; the revision that has it.
    pub async fn put(&self, path: &str, resource: &Value) -> u64 {
        let url = format!("http://{}{path}", self.rest);
        let answer = self.http.put(url).json(resource).send().await.unwrap();
        let revision = answer
            .headers()
            .get(zonal_rest::REVISION_HEADER)
            .map(|revision| revision.to_str().unwrap().parse().unwrap());
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{status} {text}");
        revision.unwrap()
    }

    pub async fn token(&self, name: &str) -> String {
        let request = json!({ "name": name, "mesh": "default", "workload": name });
        let url = format!("http://{}/tokens/dataplane", self.rest);
        let answer = self.http.post(url).json(&request).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.text().await.unwrap()
    }

    /// As a proxy's process asks: status and text.
    pub async fn ask(&self, path: &str, token: Option<&str>, body: &Value) -> (StatusCode, String) {
        let url = format!("https://{}{path}", self.proxies);
        let mut request = self.http.post(url).json(body);
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// A receipt, waited for; `wait` as REST has it.
    pub async fn receipt(&self, revision: impl std::fmt::Display, wait: &str) -> Value {
        let path = format!(
            "/_receipts/{revision}?wait={wait}&timeout={}",
            PATIENCE.as_secs()
        );
        let (status, receipt) = self.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{receipt}");
        receipt
    }

    /// Everything that was kept so far is in use.
    pub async fn settled(&self) {
        let receipt = self.receipt("latest", "all").await;
        assert_eq!(receipt["complete"], true, "{receipt}");
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

    /// Reads the metrics until they are as wanted.
    pub async fn until_metrics(&self, check: impl Fn(&str) -> bool) -> String {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let text = self.metrics().await;
                if check(&text) {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the metrics never said it")
    }

    pub async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.diagnostics);
        self.http
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }
}
