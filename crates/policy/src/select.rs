//! Whether a policy touches a proxy, and which of its inbounds.

use zonal_model::{Kind, Labels, labels};

use crate::order::Role;
use crate::policy::{Policies, Policy, TargetRef};
use crate::subject::{InboundKey, Subject};

/// What of one proxy a policy touches.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    pub(crate) inbounds: Vec<InboundKey>,
    pub(crate) gateway: bool,
}

impl Selected {
    pub(crate) const fn is_empty(&self) -> bool {
        self.inbounds.is_empty() && !self.gateway
    }
}

impl Policy {
    /// Whether it has an effect on the proxy: the question behind "who has to be rebuilt when this policy changes".
    ///
    /// Shadow policies answer as if they were in force.
    #[must_use]
    pub fn touches(&self, policies: &Policies, subject: &Subject) -> bool {
        self.select(policies, subject)
            .is_ok_and(|selected| !selected.is_empty())
    }

    /// # Errors
    /// A reference that no longer exists or cannot be resolved; the sentence becomes a warning.
    pub(crate) fn select(
        &self,
        policies: &Policies,
        subject: &Subject,
    ) -> Result<Selected, String> {
        if *self.resource.key.mesh != *subject.mesh
            || !self.zone_allows(subject)
            || !self.namespace_allows(subject)
        {
            return Ok(Selected::default());
        }
        match self.target_ref.kind.as_str() {
            "Mesh" | "Dataplane" => Ok(select_inbounds(&self.target_ref, subject)),
            "MeshHTTPRoute" => self.select_by_routes(policies, subject),
            other => Err(format!("unsupported targetRef kind '{other}'")),
        }
    }

    /// The stored routes that a stored top-level `MeshHTTPRoute` reference means.
    pub(crate) fn referenced_routes<'a>(
        &'a self,
        policies: &'a Policies,
    ) -> impl Iterator<Item = &'a std::sync::Arc<Self>> {
        let wanted = self.target_ref.labels.as_ref();
        let own_namespace = match self.role {
            Role::Consumer | Role::WorkloadOwner => Some(self.resource.label(labels::NAMESPACE)),
            Role::System | Role::Producer => None,
        };
        policies.of_kind(Kind::MeshHTTPRoute).filter(move |route| {
            wanted.is_some_and(|wanted| is_subset(wanted, &route.resource.meta.labels))
                && own_namespace
                    .is_none_or(|namespace| route.resource.label(labels::NAMESPACE) == namespace)
        })
    }

    fn select_by_routes(&self, policies: &Policies, subject: &Subject) -> Result<Selected, String> {
        let mut selected = Selected::default();
        let mut found = false;
        for route in self.referenced_routes(policies) {
            found = true;
            let by_route = select_inbounds(&route.target_ref, subject);
            selected.gateway |= by_route.gateway;
            for key in by_route.inbounds {
                if !selected.inbounds.contains(&key) {
                    selected.inbounds.push(key);
                }
            }
        }
        if found {
            return Ok(selected);
        }
        let labels = self.target_ref.labels.clone().unwrap_or_default();
        let pairs: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}:{value}"))
            .collect();
        Err(format!(
            "couldn't resolve MeshHTTPRoute targetRef with labels map[{}]",
            pairs.join(" ")
        ))
    }

    /// A zone's policy stays in its zone unless a producer wrote it for the callers of all zones.
    fn zone_allows(&self, subject: &Subject) -> bool {
        if self.role == Role::Producer {
            return true;
        }
        let subject_origin = match subject.label(labels::ORIGIN) {
            None | Some("global") => return true,
            Some(origin) => origin,
        };
        match (self.resource.label(labels::ORIGIN), self.resource.zone()) {
            (Some("zone"), Some(zone)) => {
                subject_origin == "zone"
                    && subject
                        .label(labels::ZONE)
                        .is_none_or(|own| own.is_empty() || own == zone)
            }
            _ => true,
        }
    }

    fn namespace_allows(&self, subject: &Subject) -> bool {
        match self.role {
            Role::System | Role::Producer => true,
            Role::Consumer | Role::WorkloadOwner => {
                let namespace = self.resource.label(labels::NAMESPACE);
                namespace.is_some() && namespace == subject.label(labels::NAMESPACE)
            }
        }
    }
}

fn select_inbounds(target_ref: &TargetRef, subject: &Subject) -> Selected {
    if target_ref.kind == "Dataplane" {
        let all_match = target_ref
            .labels
            .iter()
            .flatten()
            .all(|(key, value)| subject.selectable(key) == Some(value.as_str()));
        if !all_match {
            return Selected::default();
        }
    }
    let section = target_ref.section();
    Selected {
        inbounds: subject
            .inbounds
            .iter()
            .filter(|inbound| section.is_none_or(|section| *inbound.section == *section))
            .map(|inbound| inbound.key.clone())
            .collect(),
        gateway: subject.delegated_gateway,
    }
}

/// Whether every wanted pair is among `have`.
pub(crate) fn is_subset(wanted: &Labels, have: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| have.get(key) == Some(value))
}
