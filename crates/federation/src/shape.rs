//! How a resource is changed on its way: labels, name, status, and what must not leave.

use std::sync::Arc;

use serde_json::Value;
use zonal_model::{Json, Key, Kind, Labels, Resource, hashed_name, labels};
use zonal_mutants::mutant;

use crate::public_half;
use crate::wire::EncodeError;

/// The forms in which one resource crosses. All peers that see it in the same shape share its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// From global to a zone.
    Down {
        /// The zone takes names with a hash suffix.
        hash_suffix: bool,
    },
    /// From this zone to global.
    Up {
        /// The zone's name.
        zone: Arc<str>,
    },
}

/// A resource as it is about to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaped {
    /// Kind, mesh and the name on the far side.
    pub key: Key,
    /// The labels on the far side.
    pub labels: Labels,
    /// The spec.
    pub spec: Json,
    /// The status; `None` for kinds without one.
    pub status: Option<Json>,
}

/// What a secret with the private half of a zone-token signing key is called.
const SIGNING_KEY: &str = "zone-token-signing-key";
/// What its public half is called in a zone.
const PUBLIC_KEY: &str = "zone-token-signing-public-key";

impl Shape {
    /// Gives a resource this shape.
    ///
    /// # Errors
    /// It holds a signing key of which no public half can be made.
    pub fn apply(
        &self,
        resource: &Resource,
        skip_prefixes: &[String],
    ) -> Result<Shaped, EncodeError> {
        let (key, labels) = self.key_and_labels(resource, skip_prefixes);
        let mut shaped = Shaped {
            key,
            labels,
            spec: resource.spec.clone(),
            status: None,
        };
        let has_status = resource.key.kind.descriptor().has_status;
        match self {
            Self::Down { .. } => {
                // A status is what each control plane found out for itself.
                shaped.status = has_status.then(Json::empty_object);
                if is_signing_key(resource) {
                    shaped.keep_public_half(&resource.key)?;
                }
            }
            Self::Up { .. } => {
                if has_status {
                    shaped.status = Some(resource.status.clone().unwrap_or_default());
                }
                if resource.key.kind == Kind::DataplaneInsight {
                    shaped.drop_generations();
                }
            }
        }
        Ok(shaped)
    }

    /// The key that a resource has on the far side.
    #[must_use]
    pub fn far_key(&self, resource: &Resource, skip_prefixes: &[String]) -> Key {
        self.key_and_labels(resource, skip_prefixes).0
    }

    fn key_and_labels(&self, resource: &Resource, skip_prefixes: &[String]) -> (Key, Labels) {
        let mut key = resource.key.clone();
        let mut members = resource.meta.labels.clone();
        let mut set = |key: &str, value: &str| members.insert(key.to_owned(), value.to_owned());
        match self {
            Self::Down { .. } => {
                set(labels::ORIGIN, "global");
                if is_signing_key(resource) {
                    if resource
                        .label(labels::DISPLAY_NAME)
                        .is_none_or(str::is_empty)
                    {
                        set(labels::DISPLAY_NAME, &resource.key.name);
                    }
                    key.name = key.name.replacen(SIGNING_KEY, PUBLIC_KEY, 1).into();
                }
            }
            Self::Up { zone } => {
                set(labels::ORIGIN, "zone");
                set(labels::ZONE, zone);
                members.remove(labels::DELETION_GRACE_PERIOD_STARTED_AT);
            }
        }
        if !skip_prefixes.is_empty() {
            members.retain(|key, _| !skip_prefixes.iter().any(|p| key.starts_with(p.as_str())));
        }
        let renames = match self {
            Self::Down { hash_suffix } => {
                *hash_suffix && !resource.key.kind.descriptor().skip_kds_hash
            }
            Self::Up { .. } => true,
        };
        if renames {
            rename(&mut key, &mut members);
        }
        (key, members)
    }
}

fn is_signing_key(resource: &Resource) -> bool {
    resource.key.kind == Kind::GlobalSecret && resource.key.name.starts_with(SIGNING_KEY)
}

/// Gives a resource the name under which it cannot collide with another of its kind and mesh. The hash is made from the
/// original name, so whoever passes the resource on comes to the same name again.
fn rename(key: &mut Key, members: &mut Labels) {
    let display = match members.get(labels::DISPLAY_NAME) {
        Some(name) if !name.is_empty() => name.clone(),
        _ => key.name.to_string(),
    };
    let extra: Vec<&str> = [labels::ZONE, labels::NAMESPACE]
        .iter()
        .filter(|key| !(mutant!(NamesCollide) && **key == labels::ZONE))
        .filter_map(|key| members.get(*key).map(String::as_str))
        .collect();
    key.name = hashed_name(&key.mesh, &display, &extra).into();
    members.insert(labels::DISPLAY_NAME.to_owned(), display);
}

impl Shaped {
    /// A zone needs to check zone tokens, never to make one.
    fn keep_public_half(&mut self, key: &Key) -> Result<(), EncodeError> {
        let spec = self.spec.to_value();
        let data = spec.get("data").and_then(Value::as_str).unwrap_or_default();
        let half = public_half::of_base64_pem(data).map_err(|cause| EncodeError::SigningKey {
            key: key.clone(),
            cause,
        })?;
        self.spec = Json::from_value(&serde_json::json!({ "data": half }));
        Ok(())
    }

    /// The generation counts heartbeats of a stream; sent, it would be a change every few minutes for nobody.
    fn drop_generations(&mut self) {
        let mut spec = self.spec.to_value();
        let Some(subscriptions) = spec.get_mut("subscriptions").and_then(Value::as_array_mut)
        else {
            return;
        };
        for subscription in subscriptions {
            if let Some(members) = subscription.as_object_mut() {
                members.remove("generation");
            }
        }
        self.spec = Json::from_value(&spec);
    }
}
