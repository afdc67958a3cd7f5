//! Calls as a workload makes them: plain HTTP or TCP to its own sidecar.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// What one HTTP call brought.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The `service` that answered, empty where the proxy itself did.
    pub service: String,
    /// The zone of who answered.
    pub zone: String,
    /// The version of who answered.
    pub version: String,
    /// The `x-forwarded-client-cert` that the application saw.
    pub client_certificate: String,
    /// The path that the application saw.
    pub path: String,
    /// The body as text.
    pub body: String,
    /// From sending to the whole body.
    pub took: Duration,
}

/// A client that makes a new connection for each call.
#[must_use]
pub fn client() -> reqwest::Client {
    // Without any setting that can be wrong, building cannot fail.
    reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .no_proxy()
        .build()
        .unwrap_or_default()
}

/// Calls `http://<address><path>`.
///
/// # Errors
/// No answer within 5 s, or none that is HTTP.
pub async fn http(
    client: &reqwest::Client,
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<Answer> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a story on a real machine has real time"
    )]
    let started = Instant::now();
    let response = client
        .get(format!("http://{address}{path}"))
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .with_context(|| format!("no answer from `{address}`"))?;
    let status = response.status().as_u16();
    let body = response.text().await.context("the answer broke off")?;
    let json: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
    let text = |member: &str| {
        json.get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Answer {
        status,
        service: text("service"),
        zone: text("zone"),
        version: text("version"),
        client_certificate: text("clientCertificate"),
        path: text("path"),
        body,
        took: started.elapsed(),
    })
}

/// Sends one line over TCP and returns the line that comes back.
///
/// # Errors
/// The connection ends before a line came, or nothing comes within 5 s.
pub async fn tcp_line(address: SocketAddr, line: &str) -> anyhow::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to `{address}`"))?;
        stream
            .write_all(format!("{line}\n").as_bytes())
            .await
            .context("cannot send")?;
        let mut answer = String::new();
        let count = BufReader::new(&mut stream)
            .read_line(&mut answer)
            .await
            .context("cannot read")?;
        anyhow::ensure!(count > 0, "the connection was closed without an answer");
        Ok(answer.trim_end().to_owned())
    };
    tokio::time::timeout(Duration::from_secs(5), talk)
        .await
        .with_context(|| format!("no line from `{address}` within 5 s"))?
}

/// One call of a [`Caller`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// 200, by whom: `zone/version`.
    Answered(String),
    /// Another status, and the beginning of the body.
    Refused(u16, String),
    /// No answer at all.
    Failed(String),
}

/// How often each outcome came.
#[derive(Clone, Debug, Default)]
pub struct Tally(pub BTreeMap<Outcome, u32>);

impl Tally {
    /// Calls that were not answered with 200.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.0
            .iter()
            .filter(|(outcome, _)| !matches!(outcome, Outcome::Answered(_)))
            .map(|(_, count)| count)
            .sum()
    }

    /// All calls.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.0.values().sum()
    }

    /// Calls answered by someone whose `zone/version` begins with `prefix`.
    #[must_use]
    pub fn answered_by(&self, prefix: &str) -> u32 {
        self.0
            .iter()
            .filter(
                |(outcome, _)| matches!(outcome, Outcome::Answered(by) if by.starts_with(prefix)),
            )
            .map(|(_, count)| count)
            .sum()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (outcome, count)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            match outcome {
                Outcome::Answered(by) => write!(f, "{count} × {by}")?,
                Outcome::Refused(status, why) => write!(f, "{count} × {status} ({why})")?,
                Outcome::Failed(why) => write!(f, "{count} × no answer ({why})")?,
            }
        }
        Ok(())
    }
}

/// Calls one address over and over in the background, and keeps count.
#[derive(Debug)]
pub struct Caller {
    tally: Arc<Mutex<Tally>>,
    latest: Arc<Mutex<Option<Outcome>>>,
    task: JoinHandle<()>,
}

impl Caller {
    /// Starts calling about a hundred times a second, one call at a time, each on a connection of its own.
    #[must_use]
    pub fn start(address: SocketAddr) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let latest = Arc::new(Mutex::new(None));
        let (into, newest) = (tally.clone(), latest.clone());
        let task = tokio::spawn(async move {
            let client = client();
            loop {
                let outcome = match http(&client, address, "/").await {
                    Ok(answer) if answer.status == 200 => {
                        Outcome::Answered(format!("{}/{}", answer.zone, answer.version))
                    }
                    Ok(answer) => {
                        Outcome::Refused(answer.status, answer.body.chars().take(60).collect())
                    }
                    Err(error) => Outcome::Failed(format!("{error:#}")),
                };
                *into
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
                    .entry(outcome.clone())
                    .or_default() += 1;
                *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                tokio::time::sleep(Duration::from_millis(8)).await;
            }
        });
        Self {
            tally,
            latest,
            task,
        }
    }

    /// The last outcome.
    #[must_use]
    pub fn latest(&self) -> Option<Outcome> {
        self.latest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The counts so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The counts so far, which start again from zero.
    #[must_use]
    pub fn take(&self) -> Tally {
        std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.task.abort();
    }
}
