//! The authority that vouches for zones, and whom its certificates are believed to be.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::json;
use zonal_identity::join::{zone_authority, zone_of};
use zonal_identity::{Authority, AuthorityError, summarize};
use zonal_model::{Json, Key, Kind, Resource};
use zonal_process::tls::verify_client;
use zonal_store::Snapshot;

/// Where it is kept. It never goes to a zone.
fn key() -> Key {
    Key::global(Kind::GlobalSecret, "zonal-zone-authority")
}

/// A new authority, to be kept where there is none.
pub(crate) fn new_authority(now: Timestamp) -> Result<Resource, AuthorityError> {
    let authority = zone_authority(now)?;
    let text = authority.certificate_pem() + authority.key_pem().expose();
    let spec = json!({ "data": STANDARD.encode(text) });
    Ok(Resource::new(key(), Json::from_value(&spec)))
}

/// Certificate and key, PEM.
fn kept(snapshot: &Snapshot) -> Option<(String, String)> {
    const END: &str = "-----END CERTIFICATE-----\n";
    let spec = snapshot.get(&key())?.resource.spec.to_value();
    let bytes = STANDARD.decode(spec.get("data")?.as_str()?).ok()?;
    let text = String::from_utf8(bytes).ok()?.replace("\r\n", "\n");
    let at = text.find(END)? + END.len();
    let (certificate, key) = text.split_at_checked(at)?;
    Some((certificate.to_owned(), key.to_owned()))
}

/// The authority, for issuing.
pub(super) fn authority(snapshot: &Snapshot, now: Timestamp) -> Result<Authority, String> {
    let (certificate, key) = kept(snapshot).ok_or_else(|| {
        "the GlobalSecret `zonal-zone-authority` is missing or holds no authority; restart global after deleting it"
            .to_owned()
    })?;
    Authority::from_pem(&certificate, &key, now).map_err(|error| error.to_string())
}

/// What a zone's certificate says, once it is known to be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vouched {
    pub(crate) zone: String,
    pub(crate) expires: Timestamp,
}

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotVouched {
    #[error("the certificate that is shown is not one of a zone of this federation: {0}")]
    Foreign(String),
    #[error("the certificate is for zone `{certificate}`, this is zone `{caller}`")]
    OtherName { certificate: String, caller: String },
    #[error(
        "the certificate of zone `{zone}` expired at {at:.0}; a control plane that runs renews it, and `zonal zone \
         join-token {zone}` at global lets it in again"
    )]
    Expired { zone: String, at: Timestamp },
}

/// Who vouched for the certificate and for which zone; its end is the caller's to judge.
pub(crate) fn vouched(
    snapshot: &Snapshot,
    certificate: &[u8],
    caller: &str,
    now: Timestamp,
) -> Result<Vouched, NotVouched> {
    let summary = summarize(certificate).map_err(NotVouched::Foreign)?;
    let (authority, _) = kept(snapshot)
        .ok_or_else(|| NotVouched::Foreign("no authority is kept here".to_owned()))?;
    // Of one that has ended it is asked whether it was good.
    let then = now.min(summary.not_after);
    verify_client(certificate, &authority, then).map_err(NotVouched::Foreign)?;
    let zone = summary.spiffe_ids.iter().find_map(zone_of);
    let zone = zone.ok_or_else(|| NotVouched::Foreign("it names no zone".to_owned()))?;
    if zone != caller {
        return Err(NotVouched::OtherName {
            certificate: zone.to_owned(),
            caller: caller.to_owned(),
        });
    }
    Ok(Vouched {
        zone: zone.to_owned(),
        expires: summary.not_after,
    })
}

impl Vouched {
    /// Whether it is good for so long beyond its end.
    pub(crate) fn check(
        &self,
        now: Timestamp,
        grace: jiff::SignedDuration,
    ) -> Result<(), NotVouched> {
        if now.duration_since(self.expires) <= grace {
            return Ok(());
        }
        Err(NotVouched::Expired {
            zone: self.zone.clone(),
            at: self.expires,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use jiff::SignedDuration;
    use zonal_identity::Bundle;
    use zonal_identity::join::{CertificateRequest, ZoneKey, zone_identity};
    use zonal_store::{Batch, MemoryStore, Store as _};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn with_authority() -> Arc<Snapshot> {
        let store = MemoryStore::new(Arc::new(|| at(0)));
        store
            .commit_now(Batch::new().put(new_authority(at(0)).unwrap()))
            .unwrap();
        store.snapshot()
    }

    fn certificate(snapshot: &Snapshot, zone: &str) -> Vec<u8> {
        let request = ZoneKey::generate().unwrap().request().unwrap();
        let request = CertificateRequest::parse(&request).unwrap();
        let id = zone_identity(zone).unwrap();
        let hour = Duration::from_secs(3600);
        let issued = authority(snapshot, at(0))
            .unwrap()
            .certify(&id, &request, hour, at(0));
        let bundle = Bundle::parse(&issued.unwrap().pem).unwrap();
        bundle.certificates().next().unwrap().to_vec()
    }

    #[test]
    fn a_certificate_speaks_for_its_zone_and_for_its_time() {
        let snapshot = with_authority();
        let shown = certificate(&snapshot, "east");
        let check = |certificate: &[u8], caller: &str, second: i64, grace: i64| {
            vouched(&snapshot, certificate, caller, at(second))
                .and_then(|vouched| vouched.check(at(second), SignedDuration::from_secs(grace)))
                .map_err(|refused| refused.to_string())
        };
        assert_eq!(check(&shown, "east", 1, 0), Ok(()));
        assert_eq!(
            check(&shown, "west", 1, 0).unwrap_err(),
            "the certificate is for zone `east`, this is zone `west`"
        );
        let late = check(&shown, "east", 3700, 0).unwrap_err();
        assert!(
            late.starts_with("the certificate of zone `east` expired at 2023-11-14T23:13:20Z"),
            "{late}"
        );
        assert_eq!(check(&shown, "east", 3700, 3600), Ok(()), "for renewal");
        // Another authority of the same name vouches for nobody here.
        let foreign = certificate(&with_authority(), "east");
        let refused = check(&foreign, "east", 1, 0).unwrap_err();
        assert!(
            refused.starts_with(
                "the certificate that is shown is not one of a zone of this federation"
            ),
            "{refused}"
        );
        assert!(check(b"nonsense", "east", 1, 0).is_err());
        // A workload's certificate is none of a zone's, whoever issued it.
        let workload = authority(&snapshot, at(0)).unwrap();
        let id = "spiffe://default.east.mesh.local/workload/web"
            .parse()
            .unwrap();
        let leaf = workload.issue(&id, Duration::from_secs(60), at(0)).unwrap();
        let bundle = Bundle::parse(&leaf.chain_pem).unwrap();
        let refused = check(bundle.certificates().next().unwrap(), "east", 1, 0).unwrap_err();
        assert!(refused.ends_with("it names no zone"), "{refused}");
    }
}
