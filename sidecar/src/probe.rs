//! Asking the workload whether it serves.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tracing::info;
use zonal_process::CancellationToken;

use crate::dataplane::{Check, Inbound};

/// Whether an inbound takes traffic, in the words of the Dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    Ready,
    NotReady,
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Good,
    /// Nothing listens there: no doubt is possible.
    Refused,
    Bad(String),
}

/// Turns findings into a state: several may be needed to change it, a refusal changes it at once.
#[derive(Clone, Debug)]
pub struct Judge {
    healthy_threshold: u32,
    unhealthy_threshold: u32,
    state: Option<State>,
    good: u32,
    bad: u32,
}

impl Judge {
    pub const fn new(check: &Check) -> Self {
        Self {
            healthy_threshold: check.healthy_threshold,
            unhealthy_threshold: check.unhealthy_threshold,
            state: None,
            good: 0,
            bad: 0,
        }
    }

    /// Takes a finding; returns the state when it changed. The first finding always decides.
    pub fn handle(&mut self, finding: &Finding) -> Option<State> {
        let wanted = match finding {
            Finding::Good => {
                (self.good, self.bad) = (self.good.saturating_add(1), 0);
                (self.state.is_none() || self.good >= self.healthy_threshold)
                    .then_some(State::Ready)
            }
            Finding::Refused => {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
                Some(State::NotReady)
            }
            Finding::Bad(_) => {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
                (self.state.is_none() || self.bad >= self.unhealthy_threshold)
                    .then_some(State::NotReady)
            }
        };
        let changed = wanted.filter(|wanted| self.state != Some(*wanted));
        self.state = changed.or(self.state);
        changed
    }
}

/// Probes one workload once.
pub async fn probe(workload: SocketAddr, check: &Check) -> Finding {
    match tokio::time::timeout(check.timeout, ask(workload, check)).await {
        Ok(finding) => finding,
        Err(_elapsed) => Finding::Bad(format!("no answer within {:?}", check.timeout)),
    }
}

async fn ask(workload: SocketAddr, check: &Check) -> Finding {
    let mut stream = match TcpStream::connect(workload).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Finding::Refused,
        Err(error) => return Finding::Bad(error.to_string()),
    };
    let Some(path) = &check.http_path else {
        return Finding::Good;
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {workload}\r\nuser-agent: zonal-sidecar\r\nconnection: close\r\n\r\n"
    );
    if let Err(error) = stream.write_all(request.as_bytes()).await {
        return Finding::Bad(error.to_string());
    }
    // Enough for the status line; the rest does not matter.
    let mut head = [0; 32];
    let mut filled = 0;
    while filled < STATUS_BYTES {
        let Some(free) = head.get_mut(filled..) else {
            break;
        };
        match stream.read(free).await {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) => return Finding::Bad(error.to_string()),
        }
    }
    judge_status(head.get(..filled).unwrap_or_default())
}

/// `HTTP/1.1 200`.
const STATUS_BYTES: usize = 12;

fn judge_status(head: &[u8]) -> Finding {
    let status = head
        .get(..STATUS_BYTES)
        .and_then(|line| std::str::from_utf8(line).ok())
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|rest| rest.get(2..))
        .and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..=399) => Finding::Good,
        Some(code) => Finding::Bad(format!("it answers {code}")),
        None => Finding::Bad("it does not answer in HTTP".to_owned()),
    }
}

/// The state of each inbound by the proxy's port; `None` until the first probe.
pub type States = BTreeMap<u16, Option<State>>;

/// The states before anything was probed: inbounds without a workload to probe count as ready.
pub fn initial(inbounds: &[Inbound], probing: bool) -> States {
    inbounds
        .iter()
        .map(|inbound| {
            let probed = probing && inbound.workload.is_some();
            (inbound.port, (!probed).then_some(State::Ready))
        })
        .collect()
}

/// Probes one inbound's workload until `stop`.
pub async fn watch_inbound(
    inbound: Inbound,
    interval: Duration,
    states: watch::Sender<States>,
    stop: CancellationToken,
) {
    let Some(workload) = inbound.workload else {
        return;
    };
    let interval = inbound.check.interval.unwrap_or(interval);
    let mut judge = Judge::new(&inbound.check);
    loop {
        let finding = tokio::select! {
            () = stop.cancelled() => return,
            finding = probe(workload, &inbound.check) => finding,
        };
        if let Some(state) = judge.handle(&finding) {
            info!(port = inbound.port, %workload, ?state, ?finding, "workload changed");
            states.send_modify(|states| {
                states.insert(inbound.port, Some(state));
            });
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn bad() -> Finding {
        Finding::Bad(String::new())
    }

    #[test]
    fn refusal_counts_at_once_and_other_failures_need_their_number() {
        let check = Check {
            unhealthy_threshold: 3,
            healthy_threshold: 2,
            ..Check::default()
        };
        let mut judge = Judge::new(&check);
        assert_eq!(
            judge.handle(&Finding::Good),
            Some(State::Ready),
            "the first decides"
        );
        assert_eq!(judge.handle(&bad()), None);
        assert_eq!(judge.handle(&bad()), None);
        assert_eq!(judge.handle(&bad()), Some(State::NotReady));
        assert_eq!(judge.handle(&Finding::Good), None);
        assert_eq!(judge.handle(&Finding::Good), Some(State::Ready));
        assert_eq!(judge.handle(&Finding::Refused), Some(State::NotReady));
        assert_eq!(judge.handle(&Finding::Refused), None);
    }

    #[test]
    fn status_lines_are_judged() {
        assert_eq!(judge_status(b"HTTP/1.1 200 OK\r\n"), Finding::Good);
        assert_eq!(judge_status(b"HTTP/1.0 302 Found"), Finding::Good);
        assert_eq!(
            judge_status(b"HTTP/1.1 503 x"),
            Finding::Bad("it answers 503".to_owned())
        );
        for rubbish in [
            &b""[..],
            b"HTTP/1.1",
            b"SSH-2.0-OpenSSH",
            b"HTTP/1.1 2\xc3\xb60",
        ] {
            assert!(matches!(judge_status(rubbish), Finding::Bad(_)));
        }
    }

    #[tokio::test]
    async fn workloads_are_probed_over_tcp_and_http() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tcp = Check::default();
        assert_eq!(probe(addr, &tcp).await, Finding::Good);
        let http = Check {
            http_path: Some("/healthz".to_owned()),
            ..Check::default()
        };
        let serve = async {
            // The first connection is the TCP probe's.
            drop(listener.accept().await.unwrap());
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            assert!(request[..count].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream
                .write_all(b"HTTP/1.1 500 broken\r\n\r\n")
                .await
                .unwrap();
        };
        let (finding, ()) = tokio::join!(probe(addr, &http), serve);
        assert_eq!(finding, Finding::Bad("it answers 500".to_owned()));
        drop(listener);
        assert_eq!(probe(addr, &tcp).await, Finding::Refused);
    }
}
