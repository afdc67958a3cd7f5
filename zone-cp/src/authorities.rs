//! The zone's certificate authorities: one per MeshIdentity that this zone issues for.
//!
//! Keys are kept as Secrets beside the identity and never leave the zone; what others need in order to believe our
//! certificates goes into a MeshTrust, which global hands to the other zones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use zonal_catalogue::identities::IdentityRecord;
use zonal_identity::{Authority, Bundle, TrustDomain};
use zonal_model::{Json, Key, Kind, Kri, Resource};
use zonal_store::{Batch, Expect, Revision, Snapshot};

use crate::generated_authority::{self, Generated};

/// Five days, as Kuma's.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(5 * 24 * 3600);

/// An authority that is ready to issue.
#[derive(Clone)]
pub(crate) struct Issuer {
    /// The MeshIdentity's identifier: the name of the secret that proxies ask for.
    pub kri: Kri,
    /// The trust domain it speaks for.
    pub domain: TrustDomain,
    /// How long its certificates are good.
    pub lifetime: Duration,
    authority: Arc<Authority>,
    /// Of the secrets it was read from.
    revisions: (Revision, Revision),
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("kri", &self.kri)
            .field("domain", &self.domain)
            .finish()
    }
}

impl Issuer {
    /// The authority that signs.
    #[must_use]
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// The issuers of a zone, by the key of their MeshIdentity.
///
/// Reading a key from PEM is not free, so an issuer is kept until its secrets change.
#[derive(Debug, Default)]
pub(crate) struct Authorities {
    issuers: BTreeMap<Key, Issuer>,
}

/// What to write so that every MeshIdentity of the zone is served.
#[derive(Debug, Default)]
pub(crate) struct Reconciled {
    /// Secrets, MeshTrusts and statuses that are missing or differ.
    pub batch: Batch,
    /// When to look again if nothing changes.
    pub due: Option<Timestamp>,
}

/// An issuer, and what is to be known about its authority.
#[derive(Debug)]
struct Issuing {
    issuer: Issuer,
    /// It may sign.
    kept: bool,
    /// The certificate of the authority that follows, to be trusted already.
    next: Option<String>,
    due: Option<Timestamp>,
}

/// How one identity is doing, as its conditions say.
#[derive(Debug)]
enum Standing {
    /// It issues certificates.
    Issues(Issuing),
    /// It names ids but issues nothing: it has no provider.
    NamesOnly,
    /// Somebody else issues (SPIRE).
    Elsewhere,
    /// It cannot issue; the reason in Kuma's word and in a sentence.
    Broken(&'static str, String),
}

impl Authorities {
    /// The issuer of an identity, when it can issue.
    #[must_use]
    pub(crate) fn issuer(&self, identity: &Key) -> Option<&Issuer> {
        self.issuers.get(identity)
    }

    /// Looks at every MeshIdentity and says what has to be written. Issuers whose secrets are in the snapshot are ready
    /// afterwards; new ones are after the batch was kept and this was called again.
    pub(crate) fn reconcile(
        &mut self,
        snapshot: &Snapshot,
        zone: &str,
        now: Timestamp,
    ) -> Reconciled {
        let mut out = Reconciled::default();
        let mut issuers = BTreeMap::new();
        for stored in snapshot.list(Kind::MeshIdentity) {
            let identity = &stored.resource;
            let spec = identity.spec.to_value();
            let mut trust = None;
            let standing = self.standing(snapshot, identity, &spec, zone, now, &mut out.batch);
            if let Standing::Issues(issuing) = &standing {
                if text(&spec, "/provider/bundled/meshTrustCreation") != Some("Disabled") {
                    trust = Some(write_trust(
                        snapshot,
                        identity,
                        issuing,
                        now,
                        &mut out.batch,
                    ));
                }
                if issuing.kept {
                    issuers.insert(identity.key.clone(), issuing.issuer.clone());
                }
                out.due = [out.due, issuing.due].into_iter().flatten().min();
            }
            write_conditions(stored.revision, identity, &standing, trust, &mut out.batch);
        }
        self.issuers = issuers;
        out
    }

    fn standing(
        &self,
        snapshot: &Snapshot,
        identity: &Resource,
        spec: &Value,
        zone: &str,
        now: Timestamp,
        batch: &mut Batch,
    ) -> Standing {
        let bundled = match text(spec, "/provider/type") {
            None => return Standing::NamesOnly,
            Some("Bundled") => spec.pointer("/provider/bundled").unwrap_or(&Value::Null),
            Some("Spire") => return Standing::Elsewhere,
            Some(other) => {
                let reason = format!("there is no provider of type `{other}` here");
                return Standing::Broken("ProviderNotFoundError", reason);
            }
        };
        let domain = match trust_domain(identity, zone) {
            Ok(domain) => domain,
            Err(reason) => return Standing::Broken("ProviderValidationError", reason),
        };
        let generated = bundled.pointer("/autogenerate/enabled") == Some(&Value::Bool(true));
        let allowed = bundled.pointer("/insecureAllowSelfSigned") == Some(&Value::Bool(true));
        if generated && !allowed {
            let reason =
                "a generated authority is self-signed: set `insecureAllowSelfSigned: true`";
            return Standing::Broken("ProviderValidationError", reason.to_owned());
        }
        let pair = if generated {
            generated_authority::generated(snapshot, identity, &domain, now, batch)
        } else {
            given(snapshot, identity, bundled)
        };
        let pair = match pair {
            Ok(pair) => pair,
            Err(reason) => return Standing::Broken("ProviderInitializationError", reason),
        };
        let Some(kri) = Kri::of(identity) else {
            return Standing::Broken(
                "ProviderInitializationError",
                "it has no identifier".to_owned(),
            );
        };
        let lifetime = text(bundled, "/certificateParameters/expiry")
            .and_then(|expiry| expiry.parse::<zonal_model::GoDuration>().ok())
            .map(zonal_model::GoDuration::to_std)
            .filter(|expiry| !expiry.is_zero())
            .unwrap_or(DEFAULT_LIFETIME);
        if let Some(known) = self.issuers.get(&identity.key)
            && known.revisions == pair.revisions
            && pair.revisions.0 != Revision::ZERO
            && known.authority.not_after() > now
        {
            let issuer = Issuer {
                kri,
                domain,
                lifetime,
                ..known.clone()
            };
            return issues(issuer, pair);
        }
        match Authority::from_pem(&pair.certificate, &pair.key, now) {
            Ok(authority) => {
                let issuer = Issuer {
                    kri,
                    domain,
                    lifetime,
                    authority: Arc::new(authority),
                    revisions: pair.revisions,
                };
                issues(issuer, pair)
            }
            Err(error) => Standing::Broken("ProviderInitializationError", error.to_string()),
        }
    }
}

fn issues(issuer: Issuer, pair: Generated) -> Standing {
    Standing::Issues(Issuing {
        issuer,
        kept: pair.kept,
        next: pair.next,
        due: pair.due,
    })
}

/// The authority that the operator gives. What is kept is kept by the operator.
fn given(snapshot: &Snapshot, identity: &Resource, bundled: &Value) -> Result<Generated, String> {
    let read = |member: &str| {
        let source = bundled
            .pointer(&format!("/ca/{member}"))
            .ok_or_else(|| format!("`provider.bundled.ca.{member}` is missing"))?;
        data_source(snapshot, &identity.key.mesh, source)
            .map_err(|reason| format!("`provider.bundled.ca.{member}`: {reason}"))
    };
    let (certificate, first) = read("certificate")?;
    let (key, second) = read("privateKey")?;
    Ok(Generated {
        certificate,
        key,
        revisions: (first, second),
        kept: true,
        next: None,
        due: None,
    })
}

fn data_source(
    snapshot: &Snapshot,
    mesh: &str,
    source: &Value,
) -> Result<(String, Revision), String> {
    match text(source, "/type") {
        Some("InsecureInline") => text(source, "/insecureInline/value")
            .map(|value| (value.to_owned(), Revision::ZERO))
            .ok_or_else(|| "`insecureInline.value` is missing".to_owned()),
        Some("Secret") => {
            let name = text(source, "/secretRef/name").ok_or("`secretRef.name` is missing")?;
            let stored = snapshot
                .get(&Key::new(Kind::Secret, mesh, name))
                .ok_or_else(|| format!("there is no Secret `{name}` in mesh `{mesh}`"))?;
            Ok((secret_text(&stored.resource)?, stored.revision))
        }
        Some("File") => {
            let path = text(source, "/file/path").ok_or("`file.path` is missing")?;
            let content = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read `{path}`: {error}"))?;
            Ok((content, Revision::ZERO))
        }
        Some(other) => Err(format!("a source of type `{other}` is not supported here")),
        None => Err("it has no `type`".to_owned()),
    }
}

/// The text inside a Secret.
///
/// # Errors
/// The data is not base64, or not text.
pub(crate) fn secret_text(secret: &Resource) -> Result<String, String> {
    let spec = secret.spec.to_value();
    let data = text(&spec, "/data").unwrap_or_default();
    let bytes = STANDARD
        .decode(data)
        .map_err(|error| format!("the data of {} is not base64: {error}", secret.key))?;
    String::from_utf8(bytes).map_err(|_not_text| format!("the data of {} is not text", secret.key))
}

/// The spec of a Secret that holds `text`.
#[must_use]
pub(crate) fn secret_spec(text: &str) -> Json {
    Json::from_value(&json!({ "data": STANDARD.encode(text) }))
}

fn trust_domain(identity: &Resource, zone: &str) -> Result<TrustDomain, String> {
    let record = IdentityRecord::read(identity).ok_or("it cannot be read")?;
    let domain = record
        .trust_domain(zone)
        .map_err(|problem| problem.to_string())?;
    domain
        .parse()
        .map_err(|error| format!("`spiffeID.trustDomain`: {error}"))
}

/// Puts the authority's certificate, and that of the one that follows, into the zone's MeshTrust for the identity. Older
/// ones stay until they end, so that what they signed is still believed.
fn write_trust(
    snapshot: &Snapshot,
    identity: &Resource,
    issuing: &Issuing,
    now: Timestamp,
    batch: &mut Batch,
) -> Result<(), String> {
    let issuer = &issuing.issuer;
    let key = Key::new(Kind::MeshTrust, &identity.key.mesh, &identity.key.name);
    let existing = snapshot.get(&key);
    let mut bundles: Vec<Value> = existing
        .filter(|stored| {
            text(&stored.resource.spec.to_value(), "/trustDomain") == Some(issuer.domain.as_str())
        })
        .and_then(|stored| stored.resource.spec.to_value().get("caBundles").cloned())
        .and_then(|bundles| bundles.as_array().cloned())
        .unwrap_or_default();
    bundles.retain(|bundle| {
        !text(bundle, "/pem/value").is_some_and(|pem| generated_authority::is_over(pem, now))
    });
    let present = issuer.authority.certificate_pem();
    for pem in std::iter::once(&present).chain(&issuing.next) {
        let ours = Bundle::parse(pem).map_err(|error| error.to_string())?;
        let known = bundles.iter().any(|bundle| {
            text(bundle, "/pem/value")
                .and_then(|pem| Bundle::parse(pem).ok())
                .is_some_and(|bundle| ours.fingerprints().is_subset(&bundle.fingerprints()))
        });
        if !known {
            bundles.push(json!({ "type": "Pem", "pem": { "value": pem } }));
        }
    }
    let spec = json!({ "trustDomain": issuer.domain.as_str(), "caBundles": bundles });
    let mut trust = existing.map_or_else(
        || Resource::new(key, Json::empty_object()),
        |stored| stored.resource.clone(),
    );
    trust.spec = Json::from_value(&spec);
    trust.status = Some(Json::from_value(
        &json!({ "origin": { "kri": issuer.kri.to_string() } }),
    ));
    trust.owner = Some(identity.key.clone());
    let expect = existing.map_or(Expect::Absent, |stored| Expect::Revision(stored.revision));
    if existing.is_none_or(|stored| stored.resource.differs(&trust)) {
        batch.ops.push(zonal_store::Op::Put {
            resource: trust,
            expect,
        });
    }
    Ok(())
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> Value {
    let status = if status { "True" } else { "False" };
    json!({ "type": kind, "status": status, "reason": reason, "message": message })
}

fn write_conditions(
    revision: Revision,
    identity: &Resource,
    standing: &Standing,
    trust: Option<Result<(), String>>,
    batch: &mut Batch,
) {
    let mut conditions = Vec::new();
    let mut ready = true;
    match standing {
        Standing::Issues(_) => conditions.push(condition(
            "Provider",
            true,
            "ProviderInitialized",
            "Provider successfully initialized",
        )),
        Standing::NamesOnly => {
            conditions.push(condition(
                "SpiffeIDProvider",
                true,
                "SpiffeIDProvider",
                "SpiffeID provider is in use",
            ));
            conditions.push(condition(
                "Ready",
                false,
                "PartiallyReady",
                "Running in SpiffeID providing only mode.",
            ));
        }
        Standing::Elsewhere => conditions.push(condition(
            "Provider",
            true,
            "ProviderInitialized",
            "Provider successfully initialized",
        )),
        Standing::Broken(reason, message) => {
            ready = false;
            conditions.push(condition("Provider", false, reason, message));
        }
    }
    match trust {
        Some(Ok(())) => conditions.push(condition(
            "MeshTrustCreated",
            true,
            "MeshTrustCreated",
            "MeshTrust has been successfully created",
        )),
        Some(Err(message)) => {
            ready = false;
            conditions.push(condition(
                "MeshTrustCreated",
                false,
                "MeshTrustCreationError",
                &message,
            ));
        }
        None => {}
    }
    if !matches!(standing, Standing::NamesOnly) {
        conditions.push(if ready {
            condition("Ready", true, "Ready", "Successfully initialized")
        } else {
            condition(
                "Ready",
                false,
                "Failure",
                "One of initialization steps failed",
            )
        });
    }
    let status = Json::from_value(&json!({ "conditions": conditions }));
    if identity.status.as_ref() != Some(&status) {
        let mut changed = identity.clone();
        changed.status = Some(status);
        batch.ops.push(zonal_store::Op::Put {
            resource: changed,
            expect: Expect::Revision(revision),
        });
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use zonal_model::labels;

    use super::*;
    use zonal_store::{MemoryStore, Store as _};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn identity(spec: &Value) -> Resource {
        let mut identity = Resource::new(
            Key::new(Kind::MeshIdentity, "default", "identity-fx89fx8cww447z7x"),
            Json::from_value(spec),
        );
        identity
            .meta
            .labels
            .insert(labels::DISPLAY_NAME.to_owned(), "identity".to_owned());
        identity
            .meta
            .labels
            .insert(labels::ORIGIN.to_owned(), "global".to_owned());
        identity
    }

    fn generated() -> Value {
        json!({
            "selector": { "dataplane": { "matchLabels": {} } },
            "provider": { "type": "Bundled", "bundled": {
                "insecureAllowSelfSigned": true, "autogenerate": { "enabled": true } } },
        })
    }

    #[tokio::test]
    async fn a_generated_authority_is_kept_trusted_and_ready_after_two_looks() {
        let store = MemoryStore::new(Arc::new(|| at(0)));
        store
            .commit(Batch::new().put(identity(&generated())))
            .await
            .unwrap();
        let mut authorities = Authorities::default();
        let first = authorities.reconcile(&store.snapshot(), "east", at(1));
        store.commit(first.batch).await.unwrap();
        let second = authorities.reconcile(&store.snapshot(), "east", at(2));
        assert!(
            second.batch.is_empty(),
            "nothing is left to do: {:?}",
            second.batch
        );

        let snapshot = store.snapshot();
        let names: Vec<_> = snapshot
            .list(Kind::Secret)
            .map(|s| s.resource.key.name.to_string())
            .collect();
        assert_eq!(names, ["identity-private-key", "identity-root-ca"]);
        let trust = snapshot.list(Kind::MeshTrust).next().unwrap();
        let spec = trust.resource.spec.to_value();
        assert_eq!(text(&spec, "/trustDomain"), Some("default.east.mesh.local"));
        let key = Key::new(Kind::MeshIdentity, "default", "identity-fx89fx8cww447z7x");
        let issuer = authorities.issuer(&key).unwrap();
        assert_eq!(issuer.domain.as_str(), "default.east.mesh.local");
        assert_eq!(issuer.kri.to_string(), "kri_mid_default___identity_");
    }

    #[tokio::test]
    async fn a_restart_takes_the_authority_that_is_kept() {
        let store = MemoryStore::new(Arc::new(|| at(0)));
        store
            .commit(Batch::new().put(identity(&generated())))
            .await
            .unwrap();
        let batch = Authorities::default()
            .reconcile(&store.snapshot(), "east", at(1))
            .batch;
        store.commit(batch).await.unwrap();
        let key = Key::new(Kind::MeshIdentity, "default", "identity-fx89fx8cww447z7x");
        let pem = |authorities: &Authorities| {
            authorities
                .issuer(&key)
                .unwrap()
                .authority()
                .certificate_pem()
        };
        let (mut one, mut two) = (Authorities::default(), Authorities::default());
        one.reconcile(&store.snapshot(), "east", at(2));
        two.reconcile(&store.snapshot(), "east", at(3));
        assert_eq!(pem(&one), pem(&two));
    }

    #[tokio::test]
    async fn an_identity_that_cannot_issue_says_why_and_harms_no_other() {
        let store = MemoryStore::new(Arc::new(|| at(0)));
        let mut broken = identity(&json!({ "provider": { "type": "Bundled", "bundled": {
            "ca": { "certificate": { "type": "Secret", "secretRef": { "kind": "Secret", "name": "gone" } },
                    "privateKey": { "type": "InsecureInline", "insecureInline": { "value": "x" } } } } } }));
        broken.key = Key::new(Kind::MeshIdentity, "default", "broken");
        let batch = Batch::new().put(identity(&generated())).put(broken);
        store.commit(batch).await.unwrap();
        let mut authorities = Authorities::default();
        let out = authorities.reconcile(&store.snapshot(), "east", at(1));
        store.commit(out.batch).await.unwrap();
        let snapshot = store.snapshot();
        let broken = snapshot
            .get(&Key::new(Kind::MeshIdentity, "default", "broken"))
            .unwrap();
        let status = broken.resource.status.clone().unwrap().to_value();
        assert_eq!(
            text(&status, "/conditions/0/reason"),
            Some("ProviderInitializationError")
        );
        assert!(
            text(&status, "/conditions/0/message")
                .unwrap()
                .contains("no Secret `gone`")
        );
        drop(authorities.reconcile(&snapshot, "east", at(2)));
        assert_eq!(authorities.issuers.len(), 1);
    }
}
