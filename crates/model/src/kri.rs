//! The identifier of a resource that is the same on every control plane.

use std::fmt;
use std::str::FromStr;

use crate::kind::{Kind, Scope};
use crate::labels;
use crate::names::hashed_name;
use crate::resource::{Key, Resource};

/// Kind, mesh, zone, namespace, display name and section of a resource, printed as `kri_mt_default_east__slow_`.
///
/// ```
/// let kri: zonal_model::Kri = "kri_msvc_default_east_demo_backend_http".parse().unwrap();
/// assert_eq!((&*kri.zone, &*kri.name, &*kri.section), ("east", "backend", "http"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kri {
    /// The kind; it has a short name.
    pub kind: Kind,
    /// Empty for kinds of global scope.
    pub mesh: String,
    /// Empty for what was made at global.
    pub zone: String,
    /// The Kubernetes namespace, or empty.
    pub namespace: String,
    /// The display name.
    pub name: String,
    /// A port's or inbound's name or number, or empty for the whole resource.
    pub section: String,
}

/// A text that is no identifier; the sentences are those clients know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KriError {
    /// Fewer than seven parts.
    #[error("invalid identifier string: \"{0}\"")]
    Parts(String),
    /// The first part is another word.
    #[error("identifier must start with 'kri': \"{0}\"")]
    Prefix(String),
    /// The second part is no kind's short name.
    #[error("unknown short name of resource type: \"{0}\"")]
    ShortName(String),
}

impl Kri {
    /// The identifier of a resource; `None` for a kind without a short name.
    #[must_use]
    pub fn of(resource: &Resource) -> Option<Self> {
        let kind = resource.key.kind;
        kind.descriptor().short?;
        Some(Self {
            kind,
            mesh: resource.key.mesh.to_string(),
            zone: resource.label(labels::ZONE).unwrap_or_default().to_owned(),
            namespace: resource
                .label(labels::NAMESPACE)
                .unwrap_or_default()
                .to_owned(),
            name: resource.display_name().to_owned(),
            section: String::new(),
        })
    }

    /// The same with another section.
    #[must_use]
    pub fn with_section(mut self, section: impl Into<String>) -> Self {
        self.section = section.into();
        self
    }

    /// The same without a section.
    #[must_use]
    pub fn without_section(mut self) -> Self {
        self.section.clear();
        self
    }

    /// The key under which a control plane stores it: its plain name where it was made (or where names are never
    /// hashed), else the hashed one. `here` is the zone of the control plane, or `None` at global.
    #[must_use]
    pub fn stored_key(&self, here: Option<&str>) -> Key {
        let local = self.zone == here.unwrap_or_default();
        let name = if local || self.kind.descriptor().skip_kds_hash {
            self.name.clone()
        } else {
            let extra: Vec<&str> = [&*self.zone, &*self.namespace]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect();
            hashed_name(&self.mesh, &self.name, &extra)
        };
        match self.kind.descriptor().scope {
            Scope::Mesh => Key::new(self.kind, &self.mesh, name),
            Scope::Global => Key::global(self.kind, name),
        }
    }
}

impl fmt::Display for Kri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.kind.descriptor().short.unwrap_or_default();
        let Self {
            mesh,
            zone,
            namespace,
            name,
            section,
            ..
        } = self;
        write!(f, "kri_{short}_{mesh}_{zone}_{namespace}_{name}_{section}")
    }
}

impl FromStr for Kri {
    type Err = KriError;

    fn from_str(text: &str) -> Result<Self, KriError> {
        let mut parts = text.split('_');
        let mut next = || parts.next().ok_or_else(|| KriError::Parts(text.to_owned()));
        let (prefix, short, mesh, zone, namespace, name) =
            (next()?, next()?, next()?, next()?, next()?, next()?);
        // What follows the sixth underscore is joined without the underscores it had.
        let section = next()?.to_owned() + &parts.collect::<String>();
        if prefix != "kri" {
            return Err(KriError::Prefix(text.to_owned()));
        }
        let kind = Kind::by_short(short).ok_or_else(|| KriError::ShortName(short.to_owned()))?;
        Ok(Self {
            kind,
            mesh: mesh.to_owned(),
            zone: zone.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            section,
        })
    }
}

impl serde::Serialize for Kri {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;

    #[test]
    fn identifiers_print_as_they_were_read() {
        for text in [
            "kri_m____default_",
            "kri_mtp_default___allow-all_",
            "kri_msvc_default_east_demo_backend_http",
            "kri_dp_default_east__dp-1_8080",
        ] {
            assert_eq!(text.parse::<Kri>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_broken_identifier_says_what_is_wrong() {
        #[track_caller]
        fn check(text: &str, want: &str) {
            assert_eq!(text.parse::<Kri>().unwrap_err().to_string(), want);
        }
        check("foo", "invalid identifier string: \"foo\"");
        check(
            "abc_m____x_",
            "identifier must start with 'kri': \"abc_m____x_\"",
        );
        check(
            "kri_zz____x_",
            "unknown short name of resource type: \"zz\"",
        );
    }

    #[test]
    fn a_resource_is_found_where_it_is_stored() {
        let mut service = Resource::new(
            Key::new(Kind::MeshService, "default", "b-hash"),
            Json::empty_object(),
        );
        service
            .meta
            .labels
            .insert(labels::ZONE.into(), "east".into());
        service
            .meta
            .labels
            .insert(labels::DISPLAY_NAME.into(), "b".into());
        let kri = Kri::of(&service).unwrap();
        assert_eq!(kri.to_string(), "kri_msvc_default_east__b_");
        assert_eq!(&*kri.stored_key(Some("east")).name, "b");
        assert_eq!(
            *kri.stored_key(None).name,
            hashed_name("default", "b", &["east"])
        );
        let mesh: Kri = "kri_m____default_".parse().unwrap();
        assert_eq!(&*mesh.stored_key(Some("east")).name, "default");
    }
}
