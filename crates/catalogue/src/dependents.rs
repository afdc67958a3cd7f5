//! Who depends on what: the index that keeps a change from rebuilding everybody.

use std::collections::{BTreeMap, BTreeSet};

use zonal_model::{Key, Kind, Kri};

/// Something a proxy's configuration was made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependency {
    /// A service with its endpoints, without section.
    Service(Kri),
    /// Every service of a mesh.
    AllServices(String),
    /// One stored resource, e.g. a policy, an identity or the proxy's own dataplane.
    Resource(Key),
    /// Any resource of a kind in a mesh, by their coming and going too.
    Kind(Kind, String),
}

/// Dependents by what they depend on, and back.
#[derive(Clone, Debug)]
pub struct Dependents<P> {
    by_dependency: BTreeMap<Dependency, BTreeSet<P>>,
    by_dependent: BTreeMap<P, BTreeSet<Dependency>>,
}

impl<P> Default for Dependents<P> {
    fn default() -> Self {
        Self {
            by_dependency: BTreeMap::new(),
            by_dependent: BTreeMap::new(),
        }
    }
}

impl<P: Ord + Clone> Dependents<P> {
    /// Says all that `dependent` depends on from now on, instead of what it did before.
    pub fn set(&mut self, dependent: &P, dependencies: BTreeSet<Dependency>) {
        let before = self.by_dependent.remove(dependent).unwrap_or_default();
        for gone in before.difference(&dependencies) {
            if let Some(dependents) = self.by_dependency.get_mut(gone) {
                dependents.remove(dependent);
                if dependents.is_empty() {
                    self.by_dependency.remove(gone);
                }
            }
        }
        for new in dependencies.difference(&before) {
            self.by_dependency
                .entry(new.clone())
                .or_default()
                .insert(dependent.clone());
        }
        if !dependencies.is_empty() {
            self.by_dependent.insert(dependent.clone(), dependencies);
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, dependent: &P) {
        self.set(dependent, BTreeSet::new());
    }

    /// Everyone who depends on at least one of `changed`.
    pub fn of<'a>(&self, changed: impl IntoIterator<Item = &'a Dependency>) -> BTreeSet<P> {
        changed
            .into_iter()
            .filter_map(|dependency| self.by_dependency.get(dependency))
            .flatten()
            .cloned()
            .collect()
    }

    /// Everyone who depends on a service, by name or because of depending on all of its mesh.
    #[must_use]
    pub fn of_service(&self, kri: &Kri) -> BTreeSet<P> {
        self.of(&[
            Dependency::Service(kri.clone().without_section()),
            Dependency::AllServices(kri.mesh.clone()),
        ])
    }

    /// Everyone who depends on a resource, by key or by kind.
    #[must_use]
    pub fn of_resource(&self, key: &Key) -> BTreeSet<P> {
        self.of(&[
            Dependency::Resource(key.clone()),
            Dependency::Kind(key.kind, key.mesh.to_string()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_finds_those_who_depend_on_it_now() {
        let key = |name: &str| Key::new(Kind::MeshTimeout, "default", name);
        let mut dependents = Dependents::default();
        dependents.set(&"web", BTreeSet::from([Dependency::Resource(key("slow"))]));
        dependents.set(
            &"api",
            BTreeSet::from([Dependency::Kind(Kind::MeshTimeout, "default".to_owned())]),
        );
        assert_eq!(
            dependents.of_resource(&key("slow")),
            BTreeSet::from(["api", "web"])
        );

        dependents.set(&"web", BTreeSet::from([Dependency::Resource(key("fast"))]));
        assert_eq!(
            dependents.of_resource(&key("slow")),
            BTreeSet::from(["api"])
        );
        dependents.remove(&"api");
        assert_eq!(dependents.of_resource(&key("slow")), BTreeSet::new());
    }
}
