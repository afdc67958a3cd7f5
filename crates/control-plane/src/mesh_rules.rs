//! What comes with a mesh, and what stays of a zone that was deleted.

use std::sync::Arc;

use zonal_identity::token::{InvalidKey, TokenKind};
use zonal_kds::{forget_deletion, note_of_deletion};
use zonal_model::admission::Place;
use zonal_model::specs::MeshSpec;
use zonal_model::{Kind, Mode, Resource, Violations, defaults};
use zonal_rest::WriteRules;
use zonal_rest::tokens::first_key;
use zonal_store::{Expect, Op, Snapshot, Stored};

/// Adds to a new mesh what belongs to it: its default policies and a key for its proxies' tokens. At global, a zone that
/// is deleted leaves a note, so that it stays out until it is made again.
#[derive(Clone, Debug)]
pub struct MeshRules {
    mode: Mode,
    zone: Option<Arc<str>>,
}

impl MeshRules {
    /// The rules of global, or of a zone.
    #[must_use]
    pub fn new(mode: Mode, zone: Option<Arc<str>>) -> Self {
        Self { mode, zone }
    }
}

/// What comes with a new mesh and is not there yet.
///
/// # Errors
/// The machine cannot make a key.
pub(crate) fn mesh_belongings(
    snapshot: &Snapshot,
    mesh: &Resource,
    place: &Place<'_>,
) -> Result<Vec<Resource>, InvalidKey> {
    let name = &mesh.key.name;
    let kind = TokenKind::Dataplane {
        mesh: name.to_string(),
    };
    let spec: MeshSpec = mesh.spec.typed().unwrap_or_default();
    let policies = defaults::mesh_policies(name, &spec, place);
    let policies = policies
        .into_iter()
        .filter(|policy| snapshot.get(&policy.key).is_none());
    Ok(first_key(snapshot, &kind)?
        .into_iter()
        .chain(policies)
        .collect())
}

impl WriteRules for MeshRules {
    fn before_put(
        &self,
        snapshot: &Snapshot,
        resource: &Resource,
        existing: Option<&Stored>,
    ) -> Result<Vec<Op>, Violations> {
        if resource.key.kind == Kind::Zone && existing.is_none() && self.mode == Mode::Global {
            return Ok(vec![forget_deletion(&resource.key.name)]);
        }
        // A federated zone gets meshes with all that belongs to them from global.
        if resource.key.kind != Kind::Mesh || existing.is_some() || self.mode == Mode::FederatedZone
        {
            return Ok(Vec::new());
        }
        let place = Place {
            mode: self.mode,
            zone: self.zone.as_deref(),
            check_origin: false,
        };
        let belongings = mesh_belongings(snapshot, resource, &place).map_err(|error| {
            let mut violations = Violations::new();
            violations.add(
                "",
                format!("cannot make a key for the mesh's tokens: {error}"),
            );
            violations
        })?;
        Ok(belongings
            .into_iter()
            .map(|resource| Op::Put {
                resource,
                expect: Expect::Absent,
            })
            .collect())
    }

    fn before_remove(
        &self,
        _snapshot: &Snapshot,
        existing: &Stored,
    ) -> Result<Vec<Op>, Violations> {
        // Meshes with dataplanes and zones that are connected are looked after by the API itself.
        let key = &existing.resource.key;
        if key.kind == Kind::Zone && self.mode == Mode::Global {
            return Ok(vec![note_of_deletion(&key.name)]);
        }
        Ok(Vec::new())
    }
}
