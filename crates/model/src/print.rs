//! A resource as the REST API and files show it, its members in the customary order.

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use crate::json::Json;
use crate::kind::{Form, Kind, Scope};
use crate::kri::Kri;
use crate::labels;
use crate::resource::Resource;
use crate::sni::snis_of;

/// A resource in the form of the REST API; made by [`Resource::to_rest`].
#[derive(Clone, Copy, Debug)]
pub struct RestJson<'a>(&'a Resource);

/// A proxy or zone with what it reported, in the form of the REST API; made by [`Resource::to_overview`].
#[derive(Clone, Copy, Debug)]
pub struct OverviewJson<'a> {
    base: &'a Resource,
    insight: Option<&'a Resource>,
}

impl Resource {
    /// The form in which the REST API and files show it.
    ///
    /// ```
    /// use zonal_model::{Json, Key, Kind, Resource, to_pretty};
    /// let zone = Resource::new(Key::global(Kind::Zone, "east"), Json::parse(r#"{"enabled":false}"#).unwrap());
    /// assert!(to_pretty(&zone.to_rest()).starts_with("{\n \"type\": \"Zone\",\n \"name\": \"east\""));
    /// ```
    #[must_use]
    pub const fn to_rest(&self) -> RestJson<'_> {
        RestJson(self)
    }

    /// A Dataplane or Zone together with its insight.
    #[must_use]
    pub const fn to_overview<'a>(&'a self, insight: Option<&'a Self>) -> OverviewJson<'a> {
        OverviewJson {
            base: self,
            insight,
        }
    }

    /// The form in which Kubernetes would hold it. Labels other than the mesh are not part of it.
    #[must_use]
    pub fn to_kubernetes(&self, namespace: &str) -> Value {
        let kind = self.key.kind;
        let (name, mesh) = (&*self.key.name, &*self.key.mesh);
        let mut metadata =
            json!({"name": name, "creationTimestamp": time_text(self.meta.creation_time)});
        let in_namespace = kind.descriptor().scope == Scope::Mesh
            || matches!(kind, Kind::GlobalSecret | Kind::HostnameGenerator);
        if in_namespace && !namespace.is_empty() {
            set(&mut metadata, "namespace", json!(namespace));
        }
        if !mesh.is_empty() && kind.descriptor().form == Form::Plugin || kind == Kind::Secret {
            let mut mesh_label = serde_json::Map::new();
            mesh_label.insert(labels::MESH.to_owned(), json!(mesh));
            set(&mut metadata, "labels", Value::Object(mesh_label));
        }
        if matches!(kind, Kind::Secret | Kind::GlobalSecret) {
            let secret_type = if kind == Kind::Secret {
                "secret"
            } else {
                "global-secret"
            };
            let value = self
                .spec
                .to_value()
                .get("data")
                .cloned()
                .unwrap_or_else(|| json!(""));
            return json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": metadata,
                "type": format!("system.kuma.io/{secret_type}"), "data": {"value": value},
            });
        }
        let mut whole = json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": kind.name(), "metadata": metadata,
            "spec": self.spec.to_value(),
        });
        if kind.descriptor().form == Form::Legacy && !mesh.is_empty() {
            set(&mut whole, "mesh", json!(mesh));
        }
        if kind.descriptor().has_status {
            set(&mut whole, "status", status_value(self));
        }
        whole
    }
}

fn set(object: &mut Value, member: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(member.to_owned(), value);
    }
}

impl Serialize for RestJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let resource = self.0;
        let descriptor = resource.key.kind.descriptor();
        let mut members = serializer.serialize_map(None)?;
        meta(&mut members, resource, descriptor.name)?;
        match descriptor.form {
            Form::Legacy => flatten(&mut members, &resource.spec)?,
            Form::Plugin => {
                members.serialize_entry("spec", &resource.spec.to_value())?;
                if descriptor.has_status {
                    members.serialize_entry("status", &status_value(resource))?;
                }
            }
        }
        members.end()
    }
}

impl Serialize for OverviewJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (type_name, base, insight) = match self.base.key.kind {
            Kind::Zone => ("ZoneOverview", "zone", "zoneInsight"),
            _ => ("DataplaneOverview", "dataplane", "dataplaneInsight"),
        };
        let mut members = serializer.serialize_map(None)?;
        meta(&mut members, self.base, type_name)?;
        members.serialize_entry(base, &self.base.spec.to_value())?;
        if let Some(found) = self.insight {
            members.serialize_entry(insight, &found.spec.to_value())?;
        }
        members.end()
    }
}

fn meta<M: SerializeMap>(
    members: &mut M,
    resource: &Resource,
    type_name: &str,
) -> Result<(), M::Error> {
    members.serialize_entry("type", type_name)?;
    if !resource.key.mesh.is_empty() {
        members.serialize_entry("mesh", &*resource.key.mesh)?;
    }
    members.serialize_entry("name", &*resource.key.name)?;
    members.serialize_entry("creationTime", &time_text(resource.meta.creation_time))?;
    members.serialize_entry(
        "modificationTime",
        &time_text(resource.meta.modification_time),
    )?;
    if !resource.meta.labels.is_empty() {
        members.serialize_entry("labels", &resource.meta.labels)?;
    }
    if let Some(kri) = Kri::of(resource) {
        members.serialize_entry("kri", &kri)?;
    }
    let snis = snis_of(resource);
    if !snis.is_empty() {
        let snis: Vec<Value> = snis
            .into_iter()
            .map(|(port, sni)| json!({"port": port, "sni": sni}))
            .collect();
        members.serialize_entry("snis", &snis)?;
    }
    Ok(())
}

fn flatten<M: SerializeMap>(members: &mut M, spec: &Json) -> Result<(), M::Error> {
    if let Value::Object(fields) = spec.to_value() {
        for (name, value) in &fields {
            members.serialize_entry(name, value)?;
        }
    }
    Ok(())
}

/// The status with the members that are always printed.
fn status_value(resource: &Resource) -> Value {
    let mut status = resource
        .status
        .as_ref()
        .map_or_else(|| json!({}), Json::to_value);
    let always: &[&str] = match resource.key.kind {
        Kind::MeshService => &["tls", "dataplaneProxies"],
        Kind::MeshExternalService => &["vip"],
        Kind::Workload => &["dataplaneProxies"],
        _ => &[],
    };
    if let Value::Object(members) = &mut status {
        for member in always {
            members.entry(*member).or_insert_with(|| json!({}));
        }
        if resource.key.kind == Kind::Workload
            && let Some(Value::Object(counts)) = members.get_mut("dataplaneProxies")
        {
            for count in ["connected", "healthy", "total"] {
                counts.entry(count).or_insert_with(|| json!(0));
            }
        }
    }
    status
}

/// RFC 3339; the time of a resource that no store stamped is the year 1.
#[must_use]
pub fn time_text(time: Timestamp) -> String {
    if time == Timestamp::UNIX_EPOCH {
        "0001-01-01T00:00:00Z".to_owned()
    } else {
        time.to_string()
    }
}

/// JSON with one space per level and a newline at the end, as the REST API answers.
#[must_use]
pub fn to_pretty<T: Serialize>(value: &T) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Writing to memory cannot fail, and no type of ours has keys that are no texts.
    let _infallible = value.serialize(&mut serializer);
    bytes.push(b'\n');
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Key;

    #[track_caller]
    fn check(resource: &Resource, want: &str) {
        assert_eq!(serde_json::to_string(&resource.to_rest()).unwrap(), want);
    }

    #[test]
    fn members_stand_in_the_customary_order() {
        let mut service = Resource::new(
            Key::new(Kind::MeshService, "default", "web"),
            Json::parse(r#"{"ports":[{"port":80}]}"#).unwrap(),
        );
        service
            .meta
            .labels
            .insert(labels::ZONE.into(), "east".into());
        check(
            &service,
            r#"{"type":"MeshService","mesh":"default","name":"web","creationTime":"0001-01-01T00:00:00Z","modificationTime":"0001-01-01T00:00:00Z","labels":{"kuma.io/zone":"east"},"kri":"kri_msvc_default_east__web_","snis":[{"port":80,"sni":"sni.msvc.default.east.web.80"}],"spec":{"ports":[{"port":80}]},"status":{"dataplaneProxies":{},"tls":{}}}"#,
        );
        let mesh = Resource::new(
            Key::global(Kind::Mesh, "default"),
            Json::parse(r#"{"skipCreatingInitialPolicies":["*"]}"#).unwrap(),
        );
        check(
            &mesh,
            r#"{"type":"Mesh","name":"default","creationTime":"0001-01-01T00:00:00Z","modificationTime":"0001-01-01T00:00:00Z","kri":"kri_m____default_","skipCreatingInitialPolicies":["*"]}"#,
        );
        let secret = Resource::new(Key::new(Kind::Secret, "default", "s"), Json::empty_object());
        check(
            &secret,
            r#"{"type":"Secret","mesh":"default","name":"s","creationTime":"0001-01-01T00:00:00Z","modificationTime":"0001-01-01T00:00:00Z"}"#,
        );
    }

    #[test]
    fn a_workload_prints_all_its_counts() {
        let workload = Resource::new(
            Key::new(Kind::Workload, "default", "w"),
            Json::empty_object(),
        );
        let text = serde_json::to_string(&workload.to_rest()).unwrap();
        assert!(
            text.ends_with(
                r#""spec":{},"status":{"dataplaneProxies":{"connected":0,"healthy":0,"total":0}}}"#
            ),
            "{text}"
        );
    }
}
