//! What `to` entries and backend references can name: services, external services and routes of a mesh.

use std::cmp::Ordering;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::Deserialize;
use zonal_model::{Key, Kind, Kri, Labels, Resource, labels};

use crate::policy::TargetRef;
use crate::select::is_subset;

/// One thing that can be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its identifier, without section.
    pub kri: Kri,
    /// Its own labels.
    pub labels: Labels,
    /// The name of its maker's choice, also where the label is missing.
    pub display_name: Arc<str>,
    /// Its ports; routes have none.
    pub ports: Vec<TargetPort>,
    created: i128,
}

impl Target {
    fn read(resource: &Resource) -> Option<Self> {
        Some(Self {
            ports: ports_of(resource)?,
            kri: Kri::of(resource)?,
            labels: resource.meta.labels.clone(),
            display_name: resource.display_name().into(),
            created: resource.meta.creation_time.as_nanosecond(),
        })
    }

    /// The port of that name or number.
    #[must_use]
    pub fn port(&self, section: &str) -> Option<&TargetPort> {
        self.ports
            .iter()
            .find(|port| *port.name == *section)
            .or_else(|| {
                self.ports
                    .iter()
                    .find(|port| port.number.to_string() == section)
            })
    }
}

/// One port of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPort {
    /// Its name, or its number as text.
    pub name: Arc<str>,
    /// Its number.
    pub number: u16,
    /// `http`, `http2`, `grpc` or `tcp`.
    pub protocol: Arc<str>,
}

impl TargetPort {
    /// Whether requests can be told apart on it.
    #[must_use]
    pub fn is_http(&self) -> bool {
        matches!(&*self.protocol, "http" | "http2" | "grpc")
    }
}

/// Where a route sends requests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// `MeshService`, `MeshExternalService` or `MeshMultiZoneService`.
    pub kind: String,
    /// Which of that kind.
    #[serde(default)]
    pub labels: Labels,
    /// The port by name.
    #[serde(default)]
    pub section_name: Option<String>,
    /// The port by number.
    #[serde(default)]
    pub port: Option<u32>,
    /// The share among the references of one rule; 1 unless given.
    #[serde(default)]
    pub weight: Option<u32>,
}

/// What a backend reference turned out to mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedBackend {
    /// The destination, with the port as the reference wrote it as section.
    pub kri: Kri,
    /// The share.
    pub weight: u32,
}

/// All targets of a mesh. A clone shares everything that does not change.
#[derive(Clone, Debug)]
pub struct Targets {
    mesh: Arc<str>,
    by_kri: OrdMap<Kri, Arc<Target>>,
    by_key: OrdMap<Key, Kri>,
    by_display_name: OrdMap<(Kind, Arc<str>), OrdSet<Kri>>,
}

impl Targets {
    /// Collects the targets among `resources`; other kinds, other meshes and unreadable ones are passed over.
    pub fn new<'a>(mesh: &str, resources: impl IntoIterator<Item = &'a Resource>) -> Self {
        let mut targets = Self {
            mesh: mesh.into(),
            by_kri: OrdMap::new(),
            by_key: OrdMap::new(),
            by_display_name: OrdMap::new(),
        };
        for resource in resources {
            targets.put(resource);
        }
        targets
    }

    /// Adds a target or replaces the one of that key; whether references can mean something else now. Resources that
    /// are no targets of this mesh change nothing.
    pub fn put(&mut self, resource: &Resource) -> bool {
        let new = (*resource.key.mesh == *self.mesh)
            .then(|| Target::read(resource))
            .flatten();
        let Some(new) = new else {
            return self.remove(&resource.key);
        };
        let old = self
            .by_key
            .get(&resource.key)
            .and_then(|kri| self.by_kri.get(kri));
        if old.is_some_and(|old| **old == new) {
            return false;
        }
        self.remove(&resource.key);
        let name = (new.kri.kind, Arc::clone(&new.display_name));
        self.by_display_name
            .entry(name)
            .or_default()
            .insert(new.kri.clone());
        self.by_key.insert(resource.key.clone(), new.kri.clone());
        self.by_kri.insert(new.kri.clone(), Arc::new(new));
        true
    }

    /// Takes a target out; whether it was there.
    pub fn remove(&mut self, key: &Key) -> bool {
        let Some(kri) = self.by_key.remove(key) else {
            return false;
        };
        let Some(target) = self.by_kri.remove(&kri) else {
            return false;
        };
        let name = (kri.kind, Arc::clone(&target.display_name));
        if let Some(kris) = self.by_display_name.get_mut(&name) {
            kris.remove(&kri);
            if kris.is_empty() {
                self.by_display_name.remove(&name);
            }
        }
        true
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> &Arc<str> {
        &self.mesh
    }

    /// The target of that identifier, whatever its section.
    #[must_use]
    pub fn get(&self, kri: &Kri) -> Option<&Arc<Target>> {
        self.by_kri.get(&kri.clone().without_section())
    }

    /// What a `to` reference names: identifiers with the port's name as section where it names a port.
    pub(crate) fn resolve(&self, target_ref: &TargetRef) -> Vec<Kri> {
        if target_ref.kind == "Mesh" {
            return vec![mesh_kri(&self.mesh)];
        }
        let Some(kind) = target_kind(&target_ref.kind) else {
            return Vec::new();
        };
        let Some(wanted) = &target_ref.labels else {
            return Vec::new();
        };
        let matching = self
            .candidates(kind, wanted)
            .filter(|target| is_subset(wanted, &target.labels));
        match target_ref.section().filter(|_| kind != Kind::MeshHTTPRoute) {
            None => matching.map(|target| target.kri.clone()).collect(),
            Some(section) => matching
                .filter(|target| target.ports.iter().any(|port| *port.name == *section))
                .map(|target| target.kri.clone().with_section(section))
                .collect(),
        }
    }

    /// The destination that a backend reference of the route `origin` means; the oldest one where several match.
    #[must_use]
    pub fn resolve_backend(&self, backend: &BackendRef, origin: &Kri) -> Option<ResolvedBackend> {
        let kind = target_kind(&backend.kind).filter(|kind| *kind != Kind::MeshHTTPRoute)?;
        if backend.labels.is_empty() {
            return None;
        }
        let mut wanted = backend.labels.clone();
        let named = wanted
            .get(labels::DISPLAY_NAME)
            .is_some_and(|name| !name.is_empty());
        if named && !wanted.contains_key(labels::NAMESPACE) && !origin.namespace.is_empty() {
            wanted.insert(labels::NAMESPACE.to_owned(), origin.namespace.clone());
        }
        let target = self
            .candidates(kind, &wanted)
            .filter(|target| {
                wanted
                    .iter()
                    .all(|(key, value)| match target.labels.get(key) {
                        Some(have) => have == value,
                        None => key == labels::DISPLAY_NAME && **value == *target.display_name,
                    })
            })
            .min_by(|a, b| older_first(a, b))?;
        let section = match (&backend.section_name, backend.port) {
            (Some(section), _) if !section.is_empty() => section.clone(),
            (_, Some(port)) if port > 0 => port.to_string(),
            _ => String::new(),
        };
        Some(ResolvedBackend {
            kri: target.kri.clone().with_section(section),
            weight: backend.weight.unwrap_or(1),
        })
    }

    fn candidates<'a>(
        &'a self,
        kind: Kind,
        wanted: &Labels,
    ) -> impl Iterator<Item = &'a Arc<Target>> + use<'a> {
        let named = wanted.get(labels::DISPLAY_NAME).map(|name| {
            self.by_display_name
                .get(&(kind, name.as_str().into()))
                .into_iter()
                .flatten()
                .filter_map(|kri| self.by_kri.get(kri))
        });
        let all = named.is_none().then(|| {
            self.by_kri
                .values()
                .filter(move |target| target.kri.kind == kind)
        });
        named.into_iter().flatten().chain(all.into_iter().flatten())
    }
}

/// The identifier of a mesh.
pub(crate) fn mesh_kri(mesh: &str) -> Kri {
    Kri {
        kind: Kind::Mesh,
        mesh: String::new(),
        zone: String::new(),
        namespace: String::new(),
        name: mesh.to_owned(),
        section: String::new(),
    }
}

/// Equal ages are decided by the identifier, so that every replica decides alike.
fn older_first(a: &Target, b: &Target) -> Ordering {
    a.created.cmp(&b.created).then_with(|| a.kri.cmp(&b.kri))
}

fn target_kind(name: &str) -> Option<Kind> {
    match name {
        "MeshService" => Some(Kind::MeshService),
        "MeshExternalService" => Some(Kind::MeshExternalService),
        "MeshMultiZoneService" => Some(Kind::MeshMultiZoneService),
        "MeshHTTPRoute" => Some(Kind::MeshHTTPRoute),
        _ => None,
    }
}

fn ports_of(resource: &Resource) -> Option<Vec<TargetPort>> {
    match resource.key.kind {
        Kind::MeshHTTPRoute => Some(Vec::new()),
        Kind::MeshService | Kind::MeshMultiZoneService => {
            let spec: PortsForm = resource.spec.typed().ok()?;
            Some(spec.ports.into_iter().map(PortForm::into_port).collect())
        }
        Kind::MeshExternalService => {
            let spec: ExternalForm = resource.spec.typed().ok()?;
            Some(vec![TargetPort {
                name: spec.r#match.port.to_string().into(),
                number: spec.r#match.port,
                protocol: spec.r#match.protocol.as_deref().unwrap_or("tcp").into(),
            }])
        }
        _ => None,
    }
}

#[derive(Deserialize)]
struct PortsForm {
    #[serde(default)]
    ports: Vec<PortForm>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortForm {
    #[serde(default)]
    name: Option<String>,
    port: u16,
    #[serde(default)]
    app_protocol: Option<String>,
}

impl PortForm {
    fn into_port(self) -> TargetPort {
        TargetPort {
            name: match self.name {
                Some(name) if !name.is_empty() => name.into(),
                _ => self.port.to_string().into(),
            },
            number: self.port,
            protocol: match self.app_protocol {
                Some(protocol) if !protocol.is_empty() => protocol.to_ascii_lowercase().into(),
                _ => "tcp".into(),
            },
        }
    }
}

#[derive(Deserialize)]
struct ExternalForm {
    r#match: ExternalMatch,
}

#[derive(Deserialize)]
struct ExternalMatch {
    port: u16,
    #[serde(default)]
    protocol: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal_model::Json;

    #[test]
    fn only_what_references_can_tell_apart_is_a_change() {
        let key = Key::new(Kind::MeshService, "default", "api");
        let mut api = Resource::new(
            key.clone(),
            Json::parse(r#"{"ports":[{"port":80}]}"#).unwrap(),
        );
        let mut targets = Targets::new("default", [&api]);
        api.status = Some(Json::empty_object());
        assert!(!targets.put(&api), "the status is no part of it");
        api.meta.labels.insert("team".to_owned(), "x".to_owned());
        assert!(targets.put(&api));
        let by_team = TargetRef {
            kind: "MeshService".to_owned(),
            labels: Some([("team".to_owned(), "x".to_owned())].into()),
            section_name: None,
        };
        assert_eq!(targets.resolve(&by_team).len(), 1);
        assert!(targets.remove(&key));
        assert!(!targets.remove(&key));
        assert_eq!(targets.resolve(&by_team).len(), 0);
    }
}
