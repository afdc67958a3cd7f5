//! What a control plane makes by itself at its first start.

use std::sync::Arc;

use tracing::info;
use zonal_identity::token::{InvalidKey, TokenKind};
use zonal_model::admission::Place;
use zonal_model::{Key, Kind, Resource, defaults};
use zonal_rest::tokens::first_key;
use zonal_store::{Batch, Expect, Snapshot, Store, StoreError};

use crate::mesh_rules::mesh_belongings;

/// What is to be there.
#[derive(Clone, Copy, Debug)]
pub struct FirstStart<'a> {
    /// Global, or a zone of either sort.
    pub place: Place<'a>,
    /// The mesh `default`; a federated zone gets it from global.
    pub mesh: bool,
    /// The default hostname generators.
    pub hostname_generators: bool,
    /// A key for zone tokens; a federated zone gets the public half from global.
    pub zone_tokens: bool,
}

/// Why the first start cannot be completed.
#[derive(Debug, thiserror::Error)]
pub enum FirstStartError {
    /// The machine makes no keys.
    #[error("cannot make a signing key")]
    Key(#[from] InvalidKey),
    /// The store keeps nothing.
    #[error("cannot keep what a control plane starts with")]
    Store(#[from] StoreError),
}

/// Makes what is missing, in one commit; `more` is looked after in the same way.
///
/// # Errors
/// A key cannot be made, or nothing can be kept.
pub async fn first_start(
    store: &Arc<dyn Store>,
    wanted: &FirstStart<'_>,
    more: Vec<Resource>,
) -> Result<(), FirstStartError> {
    loop {
        let snapshot = store.snapshot();
        let missing = missing(&snapshot, wanted, &more)?;
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = missing
            .iter()
            .map(|resource| resource.key.to_string())
            .collect();
        let batch = missing.into_iter().fold(Batch::new(), |batch, resource| {
            batch.put_if(resource, Expect::Absent)
        });
        match store.commit(batch).await {
            Ok(_) => {
                info!(?names, "made what was missing");
                return Ok(());
            }
            // Another replica is at it too: look again.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn missing(
    snapshot: &Snapshot,
    wanted: &FirstStart<'_>,
    more: &[Resource],
) -> Result<Vec<Resource>, InvalidKey> {
    let absent = |resource: &Resource| snapshot.get(&resource.key).is_none();
    let mut missing: Vec<Resource> = more.iter().filter(|r| absent(r)).cloned().collect();
    missing.extend(first_key(snapshot, &TokenKind::User)?);
    if wanted.zone_tokens {
        missing.extend(first_key(snapshot, &TokenKind::Zone)?);
    }
    if wanted.hostname_generators {
        missing.extend(
            defaults::hostname_generators(wanted.place.mode)
                .into_iter()
                .filter(&absent),
        );
    }
    let no_mesh_at_all = snapshot.count(Kind::Mesh) == 0;
    if wanted.mesh && no_mesh_at_all {
        let mesh = defaults::mesh(&wanted.place);
        missing.extend(mesh_belongings(snapshot, &mesh, &wanted.place)?);
        missing.insert(0, mesh);
    }
    Ok(missing)
}

/// The key under which a control plane keeps the name of the federation.
#[must_use]
pub(crate) fn cluster_id_key() -> Key {
    Key::global(Kind::Config, "kuma-cluster-id")
}
