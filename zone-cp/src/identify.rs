//! Which identity a proxy has, and who issues its certificate.

use zonal_catalogue::identities::{IdentityRecord, best as best_of};
use zonal_identity::SpiffeId;
use zonal_model::{Key, Kind, Resource};
use zonal_store::Snapshot;

use crate::authorities::{Authorities, Issuer};

/// What a proxy's certificate is to say, and who issues it.
#[derive(Debug)]
pub(crate) struct Identified<'a> {
    /// The MeshIdentity.
    pub identity: Key,
    /// Its issuer.
    pub issuer: &'a Issuer,
    /// The id.
    pub spiffe_id: SpiffeId,
}

/// The MeshIdentity that selects a Dataplane.
#[must_use]
pub(crate) fn best(snapshot: &Snapshot, dataplane: &Resource) -> Option<IdentityRecord> {
    let records: Vec<IdentityRecord> = snapshot
        .list_in_mesh(Kind::MeshIdentity, &dataplane.key.mesh)
        .filter_map(|stored| IdentityRecord::read(&stored.resource))
        .collect();
    best_of(&records, &dataplane.meta.labels).cloned()
}

/// Whether the ids of an identity are made from the workload label.
#[must_use]
pub(crate) fn uses_workload(identity: &IdentityRecord) -> bool {
    identity
        .path
        .as_ref()
        .is_none_or(|path| path.contains(".Workload"))
}

/// The identity of a Dataplane; `None` when no MeshIdentity selects it, or the one that does issues nothing here.
///
/// # Errors
/// The id cannot be made, e.g. because the Dataplane lacks the label that the template names.
pub(crate) fn identify<'a>(
    snapshot: &Snapshot,
    authorities: &'a Authorities,
    dataplane: &Resource,
    zone: &str,
) -> Result<Option<Identified<'a>>, String> {
    let Some(identity) = best(snapshot, dataplane) else {
        return Ok(None);
    };
    let Some(issuer) = authorities.issuer(&identity.key) else {
        return Ok(None);
    };
    let name = identity
        .spiffe_name(&dataplane.meta.labels, zone)
        .map_err(|problem| problem.to_string())?;
    let spiffe_id = issuer
        .domain
        .with_path(&name.path)
        .map_err(|error| format!("MeshIdentity '{}': {error}", identity.kri.name))?;
    Ok(Some(Identified {
        identity: identity.key,
        issuer,
        spiffe_id,
    }))
}
