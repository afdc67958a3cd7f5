//! Which MeshIdentity a dataplane has, and the SPIFFE identity that follows from it.

use serde::Deserialize;
use zonal_model::template::{Template, TemplateError, Values};
use zonal_model::{Key, Kind, Kri, Labels, Resource, labels};

use crate::form::SelectorForm;

/// How far the zone has come with a MeshIdentity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityState {
    /// Certificates are issued.
    Ready,
    /// It only names identities; nobody issues certificates for them here.
    NamingOnly,
    /// Not yet, or it failed.
    Pending,
}

impl IdentityState {
    /// Whether its identities are those that proxies show, or will show.
    #[must_use]
    pub const fn names_identities(self) -> bool {
        matches!(self, Self::Ready | Self::NamingOnly)
    }
}

/// A MeshIdentity, as far as selecting and naming go.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentityRecord {
    /// Under which it is stored here.
    pub key: Key,
    /// Its identifier: the name of the certificate that proxies ask for.
    pub kri: Kri,
    /// Its labels.
    pub labels: Labels,
    /// Whom it is for; `None` for nobody.
    pub match_labels: Option<Labels>,
    /// The template of the trust domain.
    pub trust_domain: String,
    /// The template of the path; `None` for the default.
    pub path: Option<String>,
    /// `Bundled`, `Spire` or `Extension`; `None` where it only names.
    pub provider: Option<String>,
    /// What its status says.
    pub state: IdentityState,
}

/// A SPIFFE identity in two parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpiffeName {
    /// Who vouches for it.
    pub trust_domain: String,
    /// Who it is; begins with `/`.
    pub path: String,
}

impl std::fmt::Display for SpiffeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

/// The trust domain unless the identity says another.
pub const DEFAULT_TRUST_DOMAIN: &str = "{{ .Mesh }}.{{ .Zone }}.mesh.local";
/// The path unless the identity says another.
pub const DEFAULT_PATH: &str = "/workload/{{ .Workload }}";
/// The path of what runs on Kubernetes, unless the identity says another.
pub const DEFAULT_KUBERNETES_PATH: &str = "/ns/{{ .Namespace }}/sa/{{ .ServiceAccount }}";

/// Why a dataplane has no SPIFFE identity though one is meant for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// The path needs the workload and there is none.
    #[error(
        "missing required label 'kuma.io/workload' - dataplane is selected by MeshIdentity '{identity}' with path template '{path}'"
    )]
    NoWorkload {
        /// The identity's name.
        identity: String,
        /// Its template.
        path: String,
    },
    /// A template does not render.
    #[error("MeshIdentity '{identity}': {cause}")]
    Template {
        /// The identity's name.
        identity: String,
        /// Why.
        cause: TemplateError,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdentityForm {
    #[serde(default)]
    selector: SelectorForm,
    #[serde(default, rename = "spiffeID")]
    spiffe_id: SpiffeForm,
    #[serde(default)]
    provider: Option<ProviderForm>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpiffeForm {
    trust_domain: Option<String>,
    path: Option<String>,
}

#[derive(Deserialize)]
struct ProviderForm {
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConditionsForm {
    conditions: Vec<ConditionForm>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConditionForm {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
}

impl IdentityRecord {
    /// Reads a MeshIdentity; `None` for anything else.
    #[must_use]
    pub fn read(resource: &Resource) -> Option<Self> {
        if resource.key.kind != Kind::MeshIdentity {
            return None;
        }
        let spec: IdentityForm = resource.spec.typed().ok()?;
        let status: ConditionsForm = resource
            .status
            .as_ref()
            .and_then(|status| status.typed().ok())
            .unwrap_or_default();
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.kind == "Ready");
        let state = match ready {
            Some(ready) if ready.status == "True" => IdentityState::Ready,
            Some(ready) if ready.reason == "PartiallyReady" => IdentityState::NamingOnly,
            _ => IdentityState::Pending,
        };
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Some(Self {
            key: resource.key.clone(),
            kri: Kri::of(resource)?,
            labels: resource.meta.labels.clone(),
            match_labels: spec
                .selector
                .dataplane
                .map(|selector| selector.match_labels.unwrap_or_default()),
            trust_domain: given(spec.spiffe_id.trust_domain)
                .unwrap_or_else(|| DEFAULT_TRUST_DOMAIN.to_owned()),
            path: given(spec.spiffe_id.path),
            provider: spec.provider.map(|provider| provider.kind),
            state,
        })
    }

    /// Whether it is for a dataplane with these labels.
    #[must_use]
    pub fn matches(&self, dataplane: &Labels) -> bool {
        self.match_labels.as_ref().is_some_and(|wanted| {
            wanted
                .iter()
                .all(|(key, value)| dataplane.get(key) == Some(value))
        })
    }

    /// Its trust domain in the zone `here`.
    ///
    /// # Errors
    /// The template does not render.
    pub fn trust_domain(&self, here: &str) -> Result<String, NameProblem> {
        let zone = self.labels.get(labels::ZONE).map_or(here, String::as_str);
        let field = |name: &str| match name {
            "Mesh" => Some(self.key.mesh.to_string()),
            "Zone" => Some(zone.to_owned()),
            _ => None,
        };
        self.render(&self.trust_domain, &field, &self.labels)
    }

    /// The SPIFFE identity of a dataplane with these labels in the zone `here`.
    ///
    /// # Errors
    /// A template does not render, or needs a workload that the dataplane does not have.
    pub fn spiffe_name(&self, dataplane: &Labels, here: &str) -> Result<SpiffeName, NameProblem> {
        let trust_domain = self.trust_domain(here)?;
        let label = |key: &str| dataplane.get(key).map_or("", String::as_str);
        let template = self.path.as_deref().unwrap_or_else(|| {
            if label(labels::ENV) == "kubernetes" {
                DEFAULT_KUBERNETES_PATH
            } else {
                DEFAULT_PATH
            }
        });
        let workload = label(labels::WORKLOAD);
        let uses_workload =
            Template::parse(template).is_ok_and(|template| template.uses_field("Workload"));
        if workload.is_empty() && uses_workload {
            return Err(NameProblem::NoWorkload {
                identity: self.kri.name.clone(),
                path: template.to_owned(),
            });
        }
        let field = |name: &str| match name {
            "TrustDomain" => Some(trust_domain.clone()),
            "Namespace" => Some(label(labels::NAMESPACE).to_owned()),
            "ServiceAccount" => Some(label(labels::SERVICE_ACCOUNT).to_owned()),
            "Workload" => Some(workload.to_owned()),
            _ => None,
        };
        let path = self.render(template, &field, dataplane)?;
        Ok(SpiffeName { trust_domain, path })
    }

    fn render(
        &self,
        template: &str,
        field: &dyn Fn(&str) -> Option<String>,
        labels: &Labels,
    ) -> Result<String, NameProblem> {
        let label = |key: &str| labels.get(key).cloned();
        Template::parse(template)
            .and_then(|template| {
                template.render(&Values {
                    field,
                    label: &label,
                })
            })
            .map_err(|cause| self.problem(cause))
    }

    fn problem(&self, cause: TemplateError) -> NameProblem {
        NameProblem::Template {
            identity: self.kri.name.clone(),
            cause,
        }
    }
}

/// The identity that a dataplane shows: the one that names most of its labels, then the smallest name.
#[must_use]
pub fn best<'a>(
    identities: impl IntoIterator<Item = &'a IdentityRecord>,
    dataplane: &Labels,
) -> Option<&'a IdentityRecord> {
    identities
        .into_iter()
        .filter(|identity| identity.matches(dataplane))
        .min_by(|a, b| {
            let count =
                |identity: &IdentityRecord| identity.match_labels.as_ref().map_or(0, Labels::len);
            count(b)
                .cmp(&count(a))
                .then_with(|| a.key.name.cmp(&b.key.name))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal_model::Json;

    fn identity(name: &str, spec: &str) -> IdentityRecord {
        let key = Key::new(Kind::MeshIdentity, "default", name);
        IdentityRecord::read(&Resource::new(key, Json::parse(spec).unwrap())).unwrap()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_most_specific_identity_wins() {
        let nobody = identity("a-nobody", "{}");
        let all = identity("b-all", r#"{"selector":{"dataplane":{"matchLabels":{}}}}"#);
        let team = identity(
            "c-team",
            r#"{"selector":{"dataplane":{"matchLabels":{"team":"x"}}}}"#,
        );
        let identities = [nobody, all, team];
        let check = |labels: &[(&str, &str)], want: &str| {
            let best = best(&identities, &pairs(labels)).unwrap();
            assert_eq!(&*best.key.name, want);
        };
        check(&[], "b-all");
        check(&[("team", "x")], "c-team");
        check(&[("team", "y")], "b-all");
    }

    #[test]
    fn names_follow_the_templates() {
        let all = identity("all", r#"{"selector":{"dataplane":{}}}"#);
        let name = all
            .spiffe_name(&pairs(&[("kuma.io/workload", "my-app")]), "test-zone")
            .unwrap();
        assert_eq!(
            name.to_string(),
            "spiffe://default.test-zone.mesh.local/workload/my-app"
        );
        let error = all.spiffe_name(&pairs(&[]), "z").unwrap_err().to_string();
        assert_eq!(
            error,
            "missing required label 'kuma.io/workload' - dataplane is selected by MeshIdentity 'all' with path template '/workload/{{ .Workload }}'"
        );
    }
}
