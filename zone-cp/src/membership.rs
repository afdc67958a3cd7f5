//! The zone's place in the federation: the join token it was started with, and the certificate it got for it.
//!
//! ```text
//! token ─join─▶ certificate ─renewed after two thirds of its life─▶ certificate …
//!                    └── shown on every connection with global
//! ```
//!
//! Start at [`Membership`]. The key is made here and never leaves the work folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};
use zonal_identity::join::{JoinToken, ZoneKey};
use zonal_model::{Kind, ZoneName, labels};
use zonal_process::tls::{ClientCertificate, Fingerprint, Trust, client_config_showing};
use zonal_process::{Backoff, BackoffPolicy, CancellationToken, Clock, files};
use zonal_store::Snapshot;

use crate::kds::GlobalAddress;

/// The certificate, its key, and whose global it is for.
const FILE: &str = "federation.json";
/// The key for which a certificate is being asked.
const PENDING_FILE: &str = "federation-joining.json";
/// How long global may take to answer; it may have to dial the zone's ingresses.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A wait that is no longer than this notices a clock that was set, or a machine that slept.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_secs(1),
    growth: 2.0,
    ceiling: Duration::from_secs(300),
    healthy_after: Duration::from_secs(600),
};

/// What is kept in the work folder.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    pub(crate) zone: String,
    /// `grpcs://host:port`.
    pub(crate) global: String,
    pub(crate) fingerprint: String,
    token_id: String,
    key: String,
    certificate: String,
    issued: Timestamp,
    expires: Timestamp,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pending {
    token_id: String,
    key: String,
}

/// What global answers.
#[derive(Deserialize)]
struct Issued {
    certificate: String,
    issued: Timestamp,
    expires: Timestamp,
    #[serde(default)]
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    check: String,
    verdict: String,
    text: String,
}

/// Why the zone has no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("`{file}`: {reason}; put it back, or delete it and join with a new token")]
    File { file: String, reason: String },
    #[error("cannot ask global at `{global}`: {reason}")]
    Unreachable { global: String, reason: String },
    #[error("global does not let the zone in: {0}")]
    Refused(String),
    #[error("cannot make a key: {0}")]
    Key(#[from] zonal_identity::AuthorityError),
    #[error(
        "`{file}` says that this is zone `{kept}`, and `multizone.zone.name` says `{named}`; leave the name out, or delete \
         the file and join as `{named}` with a store of its own"
    )]
    OtherName {
        file: String,
        kept: String,
        named: String,
    },
}

/// Reads what an earlier start kept; `None` where nothing is.
pub(crate) fn kept(work_dir: &Path) -> Result<Option<Kept>, MembershipError> {
    read(&work_dir.join(FILE))
}

/// Where the file with the certificate is.
pub(crate) fn file(work_dir: &Path) -> PathBuf {
    work_dir.join(FILE)
}

/// Gives the certificate up.
pub(crate) fn give_up(work_dir: &Path) -> Result<(), MembershipError> {
    let file = file(work_dir);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(MembershipError::File {
            file: file.display().to_string(),
            reason: format!("it cannot be removed: {error}"),
        }),
        _ => Ok(()),
    }
}

/// The zone's place in the federation.
#[derive(Clone)]
pub(crate) struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    work_dir: PathBuf,
    zone: ZoneName,
    global: GlobalAddress,
    trust: Trust,
    token: Option<JoinToken>,
    clock: Arc<dyn Clock>,
    kept: watch::Sender<Option<Kept>>,
}

/// What the zone says about itself when it joins.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) store: String,
    pub(crate) instance: String,
    pub(crate) ingress_addresses: Vec<String>,
}

impl Introduction {
    pub(crate) fn of(snapshot: &Snapshot, instance: &str) -> Self {
        let ingresses = snapshot.list(Kind::MeshZoneAddress).filter(|stored| {
            let origin = stored.resource.label(labels::ORIGIN);
            origin.is_none_or(|origin| origin == "zone")
        });
        let addresses = ingresses.filter_map(|stored| {
            let spec = stored.resource.spec.to_value();
            let (address, port) = (spec.get("address")?.as_str()?, spec.get("port")?.as_u64()?);
            Some(match address.contains(':') {
                true => format!("[{address}]:{port}"),
                false => format!("{address}:{port}"),
            })
        });
        Self {
            store: snapshot.epoch().to_string(),
            instance: instance.to_owned(),
            ingress_addresses: addresses.collect(),
        }
    }
}

impl Membership {
    /// Takes what an earlier start kept, unless the zone is started with another token.
    pub(crate) fn open(
        work_dir: &Path,
        zone: ZoneName,
        global: GlobalAddress,
        trust: Trust,
        token: Option<JoinToken>,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>, MembershipError> {
        let kept = kept(work_dir)?.filter(|kept| kept.zone == zone.as_str());
        let kept = kept.filter(|kept| token.as_ref().is_none_or(|token| token.id == kept.token_id));
        if kept.is_none() && token.is_none() {
            return Ok(None);
        }
        let inner = Inner {
            work_dir: work_dir.to_owned(),
            zone,
            global,
            trust,
            token,
            clock,
            kept: watch::Sender::new(kept),
        };
        Ok(Some(Self {
            inner: Arc::new(inner),
        }))
    }

    /// What is shown to global.
    pub(crate) fn certificate(&self) -> Option<ClientCertificate> {
        let kept = self.inner.kept.borrow();
        kept.as_ref().map(|kept| ClientCertificate {
            chain: kept.certificate.clone(),
            key: kept.key.clone(),
        })
    }

    /// Waits until there is a certificate.
    pub(crate) async fn joined(&self) {
        let mut kept = self.inner.kept.subscribe();
        // Fails only when nobody can bring one any more, and we can.
        kept.wait_for(Option::is_some).await.ok();
    }

    /// Trades the token, if that was not done.
    pub(crate) async fn join(&self, about: &Introduction) -> Result<(), MembershipError> {
        let Some(token) = self.unused_token() else {
            return Ok(());
        };
        let key = self.pending_key(token)?;
        let body = json!({
            "zone": self.inner.zone.as_str(),
            "tokenId": token.id,
            "tokenSecret": token.secret.expose(),
            "request": key.request()?,
            "store": about.store,
            "instance": about.instance,
            "softwareVersion": env!("CARGO_PKG_VERSION"),
            "time": self.inner.clock.wall().to_string(),
            "ingressAddresses": about.ingress_addresses,
        });
        let issued = self.ask("join", &body, None).await?;
        for Finding {
            check,
            verdict,
            text,
        } in &issued.findings
        {
            if verdict == "ok" {
                info!(check, "{text}");
            } else {
                warn!(check, "{text}");
            }
        }
        info!(zone = %self.inner.zone, expires = %issued.expires, "joined the federation");
        self.keep(Kept {
            zone: self.inner.zone.to_string(),
            global: token.global.clone(),
            fingerprint: token.fingerprint.clone(),
            token_id: token.id.clone(),
            key: key.pem().expose().clone(),
            certificate: issued.certificate,
            issued: issued.issued,
            expires: issued.expires,
        })?;
        // What is left of it is of no use to anybody.
        std::fs::remove_file(self.inner.work_dir.join(PENDING_FILE)).ok();
        Ok(())
    }

    /// Joins if that was not possible at the start, and renews the certificate, until `stop`.
    pub(crate) async fn run(self, about: Introduction, stop: CancellationToken) {
        let mut backoff = Backoff::new(RETRY);
        loop {
            let wait = match self.step(&about).await {
                Ok(wait) => wait,
                Err(error) => {
                    let wait = backoff.next_delay(Duration::ZERO);
                    let expires = self.inner.kept.borrow().as_ref().map(|kept| kept.expires);
                    let expires = expires.map_or_else(String::new, |at| at.to_string());
                    warn!(%error, expires, retry_in_ms = wait.as_millis(), "the zone's certificate is not renewed");
                    wait
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.clock.sleep_until(Some(self.inner.clock.now() + wait)) => {}
            }
        }
    }

    /// Does what is due; how long nothing is afterwards.
    async fn step(&self, about: &Introduction) -> Result<Duration, MembershipError> {
        self.join(about).await?;
        let now = self.inner.clock.wall();
        let due = |kept: &Kept| renew_at(kept.issued, kept.expires);
        let kept = self.inner.kept.borrow().clone();
        let Some(kept) = kept else {
            return Ok(LOOK_AGAIN);
        };
        if now < due(&kept) {
            return Ok(until(now, due(&kept)));
        }
        let renewed = self.renew(kept).await?;
        Ok(until(self.inner.clock.wall(), due(&renewed)))
    }

    async fn renew(&self, kept: Kept) -> Result<Kept, MembershipError> {
        let key = ZoneKey::generate()?;
        let body = json!({ "zone": kept.zone, "request": key.request()? });
        let shown = ClientCertificate {
            chain: kept.certificate.clone(),
            key: kept.key.clone(),
        };
        let issued = self.ask("renew", &body, Some(&shown)).await?;
        let renewed = Kept {
            key: key.pem().expose().clone(),
            certificate: issued.certificate,
            issued: issued.issued,
            expires: issued.expires,
            ..kept
        };
        self.keep(renewed.clone())?;
        info!(zone = renewed.zone, expires = %renewed.expires, "renewed the zone's certificate");
        Ok(renewed)
    }

    fn unused_token(&self) -> Option<&JoinToken> {
        let token = self.inner.token.as_ref()?;
        let kept = self.inner.kept.borrow();
        let used = kept.as_ref().is_some_and(|kept| kept.token_id == token.id);
        (!used).then_some(token)
    }

    /// The key for this token: the same one after a crash, so that a trade whose answer was lost can be asked again.
    fn pending_key(&self, token: &JoinToken) -> Result<ZoneKey, MembershipError> {
        let file = self.inner.work_dir.join(PENDING_FILE);
        let pending: Option<Pending> = read(&file)?;
        if let Some(pending) = pending.filter(|pending| pending.token_id == token.id) {
            return Ok(ZoneKey::from_pem(pending.key));
        }
        let key = ZoneKey::generate()?;
        let pending = Pending {
            token_id: token.id.clone(),
            key: key.pem().expose().clone(),
        };
        write(&file, &pending)?;
        Ok(key)
    }

    fn keep(&self, kept: Kept) -> Result<(), MembershipError> {
        write(&file(&self.inner.work_dir), &kept)?;
        self.inner.kept.send_replace(Some(kept));
        Ok(())
    }

    async fn ask(
        &self,
        what: &str,
        body: &Value,
        shown: Option<&ClientCertificate>,
    ) -> Result<Issued, MembershipError> {
        let global = self.inner.global.https();
        let unreachable = |reason: String| MembershipError::Unreachable {
            global: global.clone(),
            reason,
        };
        let tls = client_config_showing(&self.inner.trust, &["h2", "http/1.1"], shown)
            .map_err(|error| unreachable(error.to_string()))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|error| unreachable(last_cause(&error)))?;
        let asked = client
            .post(format!("{global}/zonal/v1/{what}"))
            .json(body)
            .send();
        let answer = asked
            .await
            .map_err(|error| unreachable(last_cause(&error)))?;
        let status = answer.status();
        let text = answer
            .text()
            .await
            .map_err(|error| unreachable(last_cause(&error)))?;
        if status == StatusCode::OK {
            return serde_json::from_str(&text).map_err(|error| {
                unreachable(format!("it answers what is no certificate: {error}"))
            });
        }
        let told = told(&text).unwrap_or_else(|| format!("it answers {status}"));
        if status.is_client_error() {
            return Err(MembershipError::Refused(told));
        }
        Err(unreachable(told))
    }
}

/// After two thirds of its life a certificate is renewed.
fn renew_at(issued: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(issued);
    issued.checked_add(life / 3 * 2).unwrap_or(expires)
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    let wait = then.duration_since(now).max(SignedDuration::ZERO);
    Duration::try_from(wait)
        .unwrap_or(LOOK_AGAIN)
        .min(LOOK_AGAIN)
}

/// The sentences of an error body.
fn told(text: &str) -> Option<String> {
    let body: Value = serde_json::from_str(text).ok()?;
    let mut told = body.get("detail")?.as_str()?.trim().to_owned();
    let causes = body.get("invalid_parameters").and_then(Value::as_array);
    for cause in causes.into_iter().flatten() {
        let part = |name| cause.get(name).and_then(Value::as_str).unwrap_or_default();
        told.push_str(&format!("\n  {}: {}", part("field"), part("reason")));
    }
    Some(told)
}

/// What really happened, without the layers that passed it on.
fn last_cause(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

fn read<T: for<'a> Deserialize<'a>>(file: &Path) -> Result<Option<T>, MembershipError> {
    let problem = |reason: String| MembershipError::File {
        file: file.display().to_string(),
        reason,
    };
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| problem(format!("it is damaged: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(problem(error.to_string())),
    }
}

/// Writes a file for its owner only, whole or not at all.
fn write<T: Serialize>(file: &Path, value: &T) -> Result<(), MembershipError> {
    let written = || -> std::io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        files::write_private(file, &serde_json::to_vec_pretty(value)?)
    };
    written().map_err(|error| MembershipError::File {
        file: file.display().to_string(),
        reason: format!("it cannot be written: {error}"),
    })
}

/// Whom to believe to be global, as the token said.
pub(crate) fn pinned(fingerprint: &str, file: &Path) -> Result<Trust, MembershipError> {
    let parsed: Result<Fingerprint, _> = fingerprint.parse();
    parsed
        .map(Trust::Pinned)
        .map_err(|error| MembershipError::File {
            file: file.display().to_string(),
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use zonal_process::RealClock;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        assert_eq!(renew_at(at(0), at(90)), at(60));
        assert_eq!(until(at(0), at(60)), Duration::from_secs(60));
        assert_eq!(until(at(61), at(60)), Duration::ZERO);
        assert_eq!(until(at(0), at(1_000_000)), LOOK_AGAIN);
    }

    fn kept_as(zone: &str, token_id: &str) -> Kept {
        Kept {
            zone: zone.to_owned(),
            global: "grpcs://g:5685".to_owned(),
            fingerprint: "sha256:00".to_owned(),
            token_id: token_id.to_owned(),
            key: "key".to_owned(),
            certificate: "certificate".to_owned(),
            issued: at(0),
            expires: at(90),
        }
    }

    #[test]
    fn what_is_kept_is_for_its_owner_and_a_damaged_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(kept(folder.path()).unwrap().is_none());
        write(&file(folder.path()), &kept_as("east", "1")).unwrap();
        let mode = std::fs::metadata(file(folder.path()))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        assert!(kept(folder.path()).unwrap() == Some(kept_as("east", "1")));
        std::fs::write(file(folder.path()), "{").unwrap();
        let told = kept(folder.path()).err().unwrap().to_string();
        assert!(told.contains("federation.json`: it is damaged"), "{told}");
    }

    #[test]
    fn a_used_token_stays_in_the_configuration_without_harm() {
        let folder = tempfile::tempdir().unwrap();
        let token = JoinToken::new("east", "grpcs://g:5685", "sha256:00");
        let open = |token: Option<&JoinToken>| {
            Membership::open(
                folder.path(),
                "east".parse().unwrap(),
                "grpcs://g:5685".parse().unwrap(),
                Trust::Anyone,
                token.cloned(),
                RealClock::shared(),
            )
            .unwrap()
        };
        assert!(open(None).is_none(), "nothing to join with");
        assert!(open(Some(&token)).unwrap().unused_token().is_some());
        write(&file(folder.path()), &kept_as("east", &token.id)).unwrap();
        let again = open(Some(&token)).unwrap();
        assert!(again.unused_token().is_none() && again.certificate().is_some());
        assert!(open(None).unwrap().certificate().is_some());
        // Another token is traded, with a key of its own that survives a crash.
        let newer = JoinToken::new("east", "grpcs://g:5685", "sha256:00");
        let joining = open(Some(&newer)).unwrap();
        assert!(joining.certificate().is_none());
        let key = joining.pending_key(&newer).unwrap();
        let again = open(Some(&newer)).unwrap().pending_key(&newer).unwrap();
        assert!(key.pem() == again.pem());
    }

    #[test]
    fn a_refusal_is_told_in_full() {
        let body = json!({
            "detail": "it does not pass the checks",
            "invalid_parameters": [{"field": "clock", "reason": "the zone's clock is wrong"}],
        });
        assert_eq!(
            told(&body.to_string()).as_deref(),
            Some("it does not pass the checks\n  clock: the zone's clock is wrong")
        );
        assert_eq!(told("<html>"), None);
    }
}
