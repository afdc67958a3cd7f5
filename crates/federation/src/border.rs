//! Whether a resource crosses.

use std::sync::Arc;

use bytes::Bytes;
use zonal_model::{KdsFlags, Kind, Resource, labels};
use zonal_mutants::mutant;

use crate::features::Features;
use crate::role;
use crate::shape::Shape;
use crate::wire::{self, EncodeError};

/// One resource as a peer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its name on the wire: `<name>.<mesh>`.
    pub name: Arc<str>,
    /// The fingerprint of `body`.
    pub version: Arc<str>,
    /// The encoded envelope.
    pub body: Bytes,
}

/// The zone to which something is offered.
#[derive(Clone, Copy)]
pub struct Receiver<'a> {
    /// Its name.
    pub zone: &'a str,
    /// What it announced.
    pub features: Features,
    /// Whether a zone's resources are given to others; a zone that is not known counts as enabled.
    pub is_enabled: &'a dyn Fn(&str) -> bool,
}

impl std::fmt::Debug for Receiver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("zone", &self.zone)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

/// What crosses, and how it is changed on the way.
///
/// ```
/// use zonal_federation::{Border, Features, Receiver};
/// use zonal_model::{Json, Key, Kind, Resource};
/// let key = Key::new(Kind::MeshTimeout, "default", "default-timeout-global");
/// let policy = Resource::new(key, Json::empty_object());
/// let east = Receiver { zone: "east", features: Features::ALL, is_enabled: &|_| true };
/// let offer = Border::default().offer_down(&policy, &east).unwrap().unwrap();
/// assert_eq!(&*offer.name, "default-timeout-global-54dbd4c66zwbcf9c.default");
/// ```
#[derive(Clone, Debug)]
pub struct Border {
    /// Labels whose keys begin with one of these stay behind.
    pub skip_prefixes: Vec<String>,
    /// Each zone's trust bundles go to the other zones of the mesh, so that traffic between zones needs no copying of
    /// certificates by hand. Kuma does not do this; a Kuma zone takes them all the same.
    pub trust_spreads: bool,
}

impl Default for Border {
    fn default() -> Self {
        Self {
            skip_prefixes: Vec::new(),
            trust_spreads: true,
        }
    }
}

/// The one entry of kind `Config` that goes down.
const CLUSTER_ID: &str = "kuma-cluster-id";
/// Global secrets that stay at global.
const SECRETS_KEPT: [&str; 4] = [
    "envoy-admin-ca",
    "admin-user-token",
    "inter-cp-ca",
    "user-token-revocations",
];
/// Global secrets that stay at global, by prefix: keys of user tokens, and what lets zones join.
const SECRET_PREFIXES_KEPT: [&str; 2] = ["user-token-signing-key", "zonal-zone-"];

impl Border {
    /// What a zone sees of a resource of global's store; `None` when it does not cross.
    ///
    /// # Errors
    /// It should cross and cannot be written.
    pub fn offer_down(
        &self,
        resource: &Resource,
        to: &Receiver<'_>,
    ) -> Result<Option<Offered>, EncodeError> {
        if !self.crosses_down(resource, to) {
            return Ok(None);
        }
        let shape = Shape::Down {
            hash_suffix: to.features.hash_suffix,
        };
        wire::encode(&shape.apply(resource, &self.skip_prefixes)?).map(Some)
    }

    /// What global sees of a resource of a zone's store; `None` when it does not cross.
    ///
    /// # Errors
    /// It should cross and cannot be written.
    pub fn offer_up(
        &self,
        resource: &Resource,
        zone: &str,
    ) -> Result<Option<Offered>, EncodeError> {
        if !self.crosses_up(resource) {
            return Ok(None);
        }
        wire::encode(&Shape::Up { zone: zone.into() }.apply(resource, &self.skip_prefixes)?)
            .map(Some)
    }

    /// Whether a zone should see a resource of global's store.
    #[must_use]
    pub fn crosses_down(&self, resource: &Resource, to: &Receiver<'_>) -> bool {
        let kind = resource.key.kind;
        let name = &*resource.key.name;
        let descriptor = kind.descriptor();
        if sync_is_off(resource) {
            return false;
        }
        match kind {
            Kind::Config => return name == CLUSTER_ID,
            Kind::GlobalSecret
                if SECRETS_KEPT.contains(&name)
                    || SECRET_PREFIXES_KEPT
                        .iter()
                        .any(|kept| name.starts_with(kept)) =>
            {
                return false;
            }
            Kind::HostnameGenerator
                if !to.features.multi_zone_selectors && selects_multi_zone(resource) =>
            {
                return false;
            }
            _ => {}
        }
        if originates(resource, "global") {
            return descriptor.own_goes_down();
        }
        if !self.spreads(kind) {
            return false;
        }
        if descriptor.policy.is_some()
            && !(to.features.producer_policies && role::is_producer(resource))
        {
            return false;
        }
        let source = source_zone(resource);
        source != to.zone && (to.is_enabled)(source)
    }

    /// Whether global should see a resource of a zone's store.
    #[must_use]
    pub fn crosses_up(&self, resource: &Resource) -> bool {
        resource.key.kind.descriptor().goes_up()
            && !sync_is_off(resource)
            && (originates(resource, "zone") || mutant!(CopiesGoUp))
    }

    /// Whether global passes one zone's resources of this kind on to the others.
    #[must_use]
    pub fn spreads(&self, kind: Kind) -> bool {
        kind.descriptor().crosses_zones() || (kind == Kind::MeshTrust && self.trust_spreads)
    }

    /// The kinds that global offers, in the order in which a zone best receives them: what others refer to first.
    pub fn kinds_down() -> impl Iterator<Item = Kind> {
        Kind::ALL
            .iter()
            .copied()
            .filter(|kind| kind.descriptor().goes_down())
    }

    /// The kinds that a zone offers.
    pub fn kinds_up() -> impl Iterator<Item = Kind> {
        Kind::ALL
            .iter()
            .copied()
            .filter(|kind| kind.descriptor().goes_up())
    }
}

/// The zone that a resource at global came from. Without a label it is the part of the name before the first dot, which
/// is where zones without hashed names leave it.
#[must_use]
pub(crate) fn source_zone(resource: &Resource) -> &str {
    resource
        .zone()
        .or_else(|| resource.key.name.split('.').next())
        .unwrap_or_default()
}

/// Whether the original is at a place of this sort; a resource that says nothing is local.
pub(crate) fn originates(resource: &Resource, place: &str) -> bool {
    resource
        .label(labels::ORIGIN)
        .is_none_or(|origin| origin.is_empty() || origin == place)
}

/// Whether a zone may hold resources of its own of this kind.
pub(crate) fn zone_provides(kind: Kind) -> bool {
    kind.descriptor().kds.contains(KdsFlags::PROVIDED_BY_ZONE)
}

fn sync_is_off(resource: &Resource) -> bool {
    resource.label(labels::KDS_SYNC) == Some("disabled") && !mutant!(PrivateCrosses)
}

fn selects_multi_zone(resource: &Resource) -> bool {
    resource
        .spec
        .to_value()
        .pointer("/selector/meshMultiZoneService")
        .is_some_and(|selector| !selector.is_null())
}
