//! The certificate of one proxy: issued when it has none, renewed when its time has come.

use jiff::Timestamp;
use tracing::warn;
use zonal_identity::Leaf;
use zonal_model::{Key, Kind, Resource};
use zonal_store::Snapshot;

use crate::authorities::Authorities;

/// A certificate a proxy was given, with what it was given for.
pub(super) struct Certificate {
    pub(super) identity: Key,
    pub(super) issuer: String,
    pub(super) authority_pem: String,
    pub(super) leaf: Leaf,
    pub(super) secret: zonal_xds::Encoded,
}

/// The Secrets that an identity's authority is kept in.
pub(super) fn dependencies(
    identity: &Key,
    snapshot: &Snapshot,
) -> Vec<zonal_catalogue::Dependency> {
    let Some(stored) = snapshot.get(identity) else {
        return Vec::new();
    };
    let name = stored.resource.display_name();
    ["root-ca", "private-key"]
        .into_iter()
        .map(|part| {
            let key = Key::new(Kind::Secret, &identity.mesh, format!("{name}-{part}"));
            zonal_catalogue::Dependency::Resource(key)
        })
        .collect()
}

/// Issues a certificate where the proxy has none, its identity or authority is another, or its time has come; whether
/// it did.
pub(super) fn refresh(
    certificate: &mut Option<Certificate>,
    authorities: &Authorities,
    snapshot: &Snapshot,
    dataplane: &Resource,
    zone: &str,
    now: Timestamp,
) -> bool {
    let wanted = crate::identify::identify(snapshot, authorities, dataplane, zone);
    let wanted = match wanted {
        Ok(Some(wanted)) => wanted,
        Ok(None) => {
            *certificate = None;
            return false;
        }
        Err(reason) => {
            warn!(proxy = %dataplane.key, reason, "no certificate can be issued: the proxy keeps the one it has");
            return false;
        }
    };
    let authority = wanted.issuer.authority();
    let still_good = certificate.as_ref().is_some_and(|held| {
        held.identity == wanted.identity
            && held.leaf.id == wanted.spiffe_id
            && held.issuer == wanted.issuer.kri.to_string()
            && !held.leaf.needs_renewal(now)
            && held.authority_pem == authority.certificate_pem()
    });
    if still_good {
        return false;
    }
    match authority.issue(&wanted.spiffe_id, wanted.issuer.lifetime, now) {
        Ok(leaf) => {
            let issuer = wanted.issuer.kri.to_string();
            let secret = zonal_xds::identity_secret(
                &issuer,
                &bytes::Bytes::from(leaf.chain_pem.clone()),
                &bytes::Bytes::from(leaf.key_pem.expose().clone()),
            );
            let authority_pem = authority.certificate_pem();
            *certificate = Some(Certificate {
                identity: wanted.identity,
                issuer,
                authority_pem,
                leaf,
                secret,
            });
            true
        }
        Err(error) => {
            warn!(proxy = %dataplane.key, %error, "cannot issue a certificate: the proxy keeps the one it has");
            false
        }
    }
}
