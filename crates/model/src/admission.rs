//! Whether a person may write or delete a resource here, and the labels it gets.
//!
//! Resources from peers do not pass here: their labels are the business of their origin.

use serde_json::{Value, json};

use crate::json::Json;
use crate::kind::{Form, KdsFlags, Kind, Mode, Scope};
use crate::labels;
use crate::names::{
    LABEL_LEN_MAX, NAME_LEN_MAX, dns_1035_label_problems, is_dns_1035_label, label_key_problems,
    label_value_problems, mesh_problem, name_problem,
};
use crate::parse::Document;
use crate::resource::{Key, Labels, Resource};
use crate::violations::Violations;

/// What a control plane is and how strict it is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Global, or a zone of either sort.
    pub mode: Mode,
    /// The name of the zone; `None` at global.
    pub zone: Option<&'a str>,
    /// Whether `kuma.io/origin` has to say where the resource is written.
    pub check_origin: bool,
}

impl<'a> Place<'a> {
    /// The global control plane.
    #[must_use]
    pub const fn global() -> Self {
        Self {
            mode: Mode::Global,
            zone: None,
            check_origin: true,
        }
    }

    /// A zone that has a global control plane.
    #[must_use]
    pub const fn federated_zone(zone: &'a str) -> Self {
        Self {
            mode: Mode::FederatedZone,
            zone: Some(zone),
            check_origin: true,
        }
    }

    /// A zone on its own.
    #[must_use]
    pub const fn standalone_zone(zone: &'a str) -> Self {
        Self {
            mode: Mode::StandaloneZone,
            zone: Some(zone),
            check_origin: true,
        }
    }
}

/// Why a resource was not taken. The sentence of each variant is the title of the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The resource breaks rules.
    #[error("Could not process a resource")]
    Invalid(Violations),
    /// The request as a whole cannot be served; the text is the detail of the answer.
    #[error("Bad Request")]
    Request(String),
    /// It changes what cannot be changed.
    #[error("Could not update a resource")]
    Update(Violations),
    /// It cannot be made.
    #[error("Failed to create a resource")]
    Create(Violations),
}

impl Refusal {
    /// All that is wrong, as violations.
    #[must_use]
    pub fn into_violations(self) -> Violations {
        match self {
            Self::Invalid(violations) | Self::Update(violations) | Self::Create(violations) => {
                violations
            }
            Self::Request(detail) => {
                let mut violations = Violations::new();
                violations.add("", detail);
                violations
            }
        }
    }
}

/// Whether a person may write what the document says at the address `addressed` (of the URL), and the resource that is
/// then kept: labels computed, owner and status as before. The document has passed [`parse`](crate::parse).
///
/// # Errors
/// See [`Refusal`].
///
/// ```
/// use zonal_model::{Json, Key, Kind, Resource, labels};
/// use zonal_model::admission::{Place, admit};
/// let mut address = Resource::new(Key::new(Kind::MeshZoneAddress, "default", "east"), Json::empty_object());
/// let place = Place::federated_zone("east");
/// assert!(admit(&address.clone().into(), None, &place, None).is_err(), "the origin label is missing");
/// address.meta.labels.insert(labels::ORIGIN.into(), "zone".into());
/// let kept = admit(&address.into(), None, &place, None).unwrap();
/// assert_eq!(kept.zone(), Some("east"));
/// ```
pub fn admit(
    document: &Document,
    addressed: Option<&Key>,
    place: &Place<'_>,
    existing: Option<&Resource>,
) -> Result<Resource, Refusal> {
    check_write(document, addressed, place)
        .into_result()
        .map_err(Refusal::Invalid)?;
    let mut resource = document.resource.clone();
    match existing {
        None => check_create(&resource, place.mode)?,
        Some(existing) => {
            resource.status.clone_from(&existing.status);
            resource.owner.clone_from(&existing.owner);
            resource.meta.creation_time = existing.meta.creation_time;
        }
    }
    if resource.key.kind == Kind::Dataplane {
        resource.spec = prepared_dataplane(&resource.spec, place, existing.is_none());
    }
    resource.meta.labels = compute_labels(&resource, place);
    if let Some(existing) = existing {
        check_zone_kept(existing, &resource)
            .into_result()
            .map_err(Refusal::Update)?;
    }
    Ok(resource)
}

/// What is wrong with writing the document here: it differs from its address, its labels claim another origin, zone or
/// mesh, a label or name has a wrong form.
#[must_use]
pub fn check_write(document: &Document, addressed: Option<&Key>, place: &Place<'_>) -> Violations {
    let mut violations = Violations::new();
    let kind = document.resource.key.kind;
    let in_mesh = kind.descriptor().scope == Scope::Mesh;
    let differs = |member: &str| format!("{member} from the URL has to be the same as in body");
    if addressed.is_some_and(|key| *key.name != *document.name) {
        violations.add("name", differs("name"));
    }
    if place.mode == Mode::FederatedZone
        && place
            .zone
            .is_some_and(|zone| zone.len() + 1 + document.name.len() >= NAME_LEN_MAX)
        && document.name.len() <= NAME_LEN_MAX
    {
        violations.add("name", "the length of the name must be shorter");
    }
    if addressed.is_some_and(|key| key.kind.name() != document.type_name) {
        violations.add("type", differs("type"));
    }
    if in_mesh && addressed.is_some_and(|key| *key.mesh != *document.mesh) {
        violations.add("mesh", differs("mesh"));
    }
    check_labels(document, place, &mut violations);
    if let Some(problem) = name_problem(&document.name) {
        violations.add("name", problem);
    }
    if in_mesh && let Some(problem) = mesh_problem(&document.mesh) {
        violations.add("mesh", problem);
    }
    violations
}

fn check_labels(document: &Document, place: &Place<'_>, violations: &mut Violations) {
    let resource = &document.resource;
    let descriptor = resource.key.kind.descriptor();
    let origin = resource.label(labels::ORIGIN);
    if let Some(origin) = origin
        && origin != "global"
        && origin != "zone"
    {
        let message = format!("unknown resource origin \"{origin}\"");
        violations.add(label_path(labels::ORIGIN), message);
    }
    if let Some(message) = origin_problem(resource, place) {
        violations.add(label_path(labels::ORIGIN), message);
    }
    if place.mode.is_zone() && origin != Some("global") {
        if let (Some(zone), Some(here)) = (resource.label(labels::ZONE), place.zone)
            && zone != here
        {
            let message = format!("{} label should have {here} value", labels::ZONE);
            violations.add(label_path(labels::ZONE), message);
        }
        if let Some(mesh) = resource.label(labels::MESH)
            && descriptor.scope == Scope::Mesh
            && mesh != document.mesh
        {
            let message = format!(
                "{} label must not differ from mesh set on resource",
                labels::MESH
            );
            violations.add(label_path(labels::MESH), message);
        }
    }
    if let Some(role) = resource.label(labels::POLICY_ROLE)
        && descriptor.policy.is_some()
        && role != "system"
    {
        let message = format!(
            "{} label should have system value, got {role}",
            labels::POLICY_ROLE
        );
        violations.add(label_path(labels::POLICY_ROLE), message);
    }
    for (key, value) in &resource.meta.labels {
        for problem in label_key_problems(key) {
            violations.add(label_path(key), problem);
        }
        for problem in label_value_problems(value) {
            violations.add(label_path(key), problem);
        }
    }
}

/// What is wrong with deleting a stored resource here: it belongs to the other side.
#[must_use]
pub fn check_delete(stored: &Resource, place: &Place<'_>) -> Violations {
    let mut violations = Violations::new();
    if let Some(message) = origin_problem(stored, place) {
        // Clients know this path without `labels`.
        violations.add(format!("[\"{}\"]", labels::ORIGIN), message);
    }
    violations
}

/// The answer to deleting a mesh that has proxies.
#[must_use]
pub fn mesh_in_use() -> Violations {
    let mut violations = Violations::new();
    violations.add(
        "mesh",
        "unable to delete mesh, there are still some dataplanes attached",
    );
    violations
}

/// The answer to deleting a zone that is connected.
#[must_use]
pub fn zone_in_use() -> Violations {
    let mut violations = Violations::new();
    violations.add(
        "zone",
        "unable to delete Zone, Zone CP is still connected, please shut it down first",
    );
    violations
}

fn origin_problem(resource: &Resource, place: &Place<'_>) -> Option<&'static str> {
    if !place.check_origin {
        return None;
    }
    let origin = resource.label(labels::ORIGIN);
    let plugin = resource.key.kind.descriptor().form == Form::Plugin;
    match place.mode {
        Mode::Global if origin.is_some_and(|origin| origin != "global") => {
            Some("the origin label must be set to 'global'")
        }
        Mode::FederatedZone if plugin && origin != Some("zone") => {
            Some("the origin label must be set to 'zone'")
        }
        Mode::Global | Mode::FederatedZone | Mode::StandaloneZone => None,
    }
}

fn label_path(key: &str) -> String {
    format!("labels[\"{key}\"]")
}

/// Rules for making a resource that do not hold for changing it.
fn check_create(resource: &Resource, mode: Mode) -> Result<(), Refusal> {
    match resource.key.kind {
        Kind::Dataplane => {
            let workload = resource.label(labels::WORKLOAD).unwrap_or_default();
            let path = label_path(labels::WORKLOAD);
            if workload.is_empty() {
                return Ok(());
            }
            if mode == Mode::Global {
                return Err(Refusal::Request(format!(
                    "bad request: {path}: not allowed on Global control plane"
                )));
            }
            let problems = dns_1035_label_problems(workload);
            if problems.is_empty() {
                return Ok(());
            }
            Err(Refusal::Request(format!(
                "bad request: {path}: must be a valid DNS-1035 label (at most 63 characters, matching regex [a-z]([-a-z0-9]*[a-z0-9])?): {}",
                problems.join("; ")
            )))
        }
        Kind::Mesh => {
            let mut violations = Violations::new();
            let name = &resource.key.name;
            if !is_dns_1035_label(name)
                && let Some(problem) = dns_1035_label_problems(name).last()
            {
                violations.add("name", *problem);
            }
            if name.len() > LABEL_LEN_MAX {
                violations.add("name", "cannot be longer than 63 characters");
            }
            violations.into_result().map_err(Refusal::Create)
        }
        _ => Ok(()),
    }
}

fn check_zone_kept(existing: &Resource, new: &Resource) -> Violations {
    let mut violations = Violations::new();
    let message = match (existing.label(labels::ZONE), new.label(labels::ZONE)) {
        (Some(old), None) => format!("is immutable, cannot be removed (was \"{old}\")"),
        (Some(old), Some(new)) if old != new => {
            format!("is immutable, cannot be changed from \"{old}\" to \"{new}\"")
        }
        _ => return violations,
    };
    violations.add(label_path(labels::ZONE), message);
    violations
}

/// The labels under which a resource is kept that is written at this place.
#[must_use]
pub fn compute_labels(resource: &Resource, place: &Place<'_>) -> Labels {
    let key = &resource.key;
    let descriptor = key.kind.descriptor();
    let mut computed = resource.meta.labels.clone();
    let mut set = |label: &str, value: &str| computed.insert(label.to_owned(), value.to_owned());
    set(labels::DISPLAY_NAME, &key.name);
    set(labels::ORIGIN, place.mode.origin());
    let mut default = |label: &str, value: &str| {
        computed
            .entry(label.to_owned())
            .or_insert_with(|| value.to_owned());
    };
    if !key.mesh.is_empty() {
        default(labels::MESH, &key.mesh);
    }
    if place.mode.is_zone() && descriptor.kds.contains(KdsFlags::PROVIDED_BY_ZONE) {
        if let Some(zone) = place.zone {
            default(labels::ZONE, zone);
        }
        default(labels::ENV, "universal");
    }
    if key.kind == Kind::Dataplane {
        computed.remove(labels::PROXY_TYPE);
        let spec = resource.spec.to_value();
        let listeners = spec
            .pointer("/networking/listeners")
            .and_then(Value::as_array);
        let has = |wanted: &str| {
            listeners
                .into_iter()
                .flatten()
                .any(|listener| listener.get("type") == Some(&json!(wanted)))
        };
        for (label, listener_type) in [
            (labels::LISTENER_ZONE_INGRESS, "ZoneIngress"),
            (labels::LISTENER_ZONE_EGRESS, "ZoneEgress"),
        ] {
            if has(listener_type) {
                computed.insert(label.to_owned(), "enabled".to_owned());
            } else {
                computed.remove(label);
            }
        }
    }
    computed
}

/// A Dataplane as it is kept: a gateway knows its zone; an inbound with a probe is not ready before the probe said so.
fn prepared_dataplane(spec: &Json, place: &Place<'_>, is_new: bool) -> Json {
    let mut value = spec.to_value();
    if let (Some(Value::Object(gateway)), Some(zone)) =
        (value.pointer_mut("/networking/gateway"), place.zone)
        && let Value::Object(tags) = gateway.entry("tags").or_insert_with(|| json!({}))
    {
        tags.insert(labels::ZONE.to_owned(), json!(zone));
    }
    if is_new && let Some(Value::Array(inbounds)) = value.pointer_mut("/networking/inbound") {
        for inbound in inbounds.iter_mut().filter_map(Value::as_object_mut) {
            if inbound.contains_key("serviceProbe") {
                inbound.insert("state".to_owned(), json!("NotReady"));
                inbound.insert("health".to_owned(), json!({}));
            }
        }
    }
    Json::from_value(&value)
}

impl From<Resource> for Document {
    /// A document that says what the resource is.
    fn from(resource: Resource) -> Self {
        Self {
            type_name: resource.key.kind.name().to_owned(),
            mesh: resource.key.mesh.to_string(),
            name: resource.key.name.to_string(),
            resource,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(kind: Kind, given: &[(&str, &str)]) -> Resource {
        let mut resource = Resource::new(Key::new(kind, "default", "one"), Json::empty_object());
        for (key, value) in given {
            resource
                .meta
                .labels
                .insert((*key).to_owned(), (*value).to_owned());
        }
        resource
    }

    #[track_caller]
    fn check(place: &Place<'_>, kind: Kind, given: &[(&str, &str)], want: &str) {
        let got = match admit(&resource(kind, given).into(), None, place, None) {
            Ok(kept) => kept
                .meta
                .labels
                .iter()
                .map(|(key, value)| format!("{}={value}", key.trim_start_matches("kuma.io/")))
                .collect::<Vec<_>>()
                .join(" "),
            Err(refusal) => refusal.into_violations().to_string(),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn labels_are_computed_by_place() {
        check(
            &Place::global(),
            Kind::MeshTimeout,
            &[("kuma.io/display-name", "x"), ("kuma.io/zone", "z")],
            "display-name=one mesh=default origin=global zone=z",
        );
        check(
            &Place::federated_zone("east"),
            Kind::MeshTimeout,
            &[("kuma.io/origin", "zone")],
            "display-name=one env=universal mesh=default origin=zone zone=east",
        );
        check(
            &Place::standalone_zone("east"),
            Kind::Mesh,
            &[],
            "display-name=one origin=zone",
        );
    }

    #[test]
    fn labels_must_not_claim_another_place() {
        check(
            &Place::global(),
            Kind::MeshTimeout,
            &[("kuma.io/origin", "bogus")],
            "labels[\"kuma.io/origin\"]: unknown resource origin \"bogus\"; labels[\"kuma.io/origin\"]: the origin label must be set to 'global'",
        );
        let east = Place::federated_zone("east");
        check(
            &east,
            Kind::MeshTimeout,
            &[
                ("kuma.io/zone", "west"),
                ("kuma.io/mesh", "other"),
                ("kuma.io/policy-role", "producer"),
            ],
            "labels[\"kuma.io/origin\"]: the origin label must be set to 'zone'; labels[\"kuma.io/zone\"]: kuma.io/zone label should have east value; labels[\"kuma.io/mesh\"]: kuma.io/mesh label must not differ from mesh set on resource; labels[\"kuma.io/policy-role\"]: kuma.io/policy-role label should have system value, got producer",
        );
        check(
            &east,
            Kind::Dataplane,
            &[("kuma.io/workload", "A")],
            "bad request: labels[\"kuma.io/workload\"]: must be a valid DNS-1035 label (at most 63 characters, matching regex [a-z]([-a-z0-9]*[a-z0-9])?): a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        );
    }

    #[test]
    fn the_body_agrees_with_its_address() {
        let document: Document = resource(Kind::MeshTimeout, &[]).into();
        let other = Key::new(Kind::MeshRetry, "m", "two");
        let violations = check_write(&document, Some(&other), &Place::standalone_zone("east"));
        assert_eq!(
            violations.to_string(),
            "name: name from the URL has to be the same as in body; type: type from the URL has to be the same as in body; mesh: mesh from the URL has to be the same as in body"
        );
    }

    #[test]
    fn the_zone_of_a_resource_stays() {
        let existing = resource(Kind::MeshTimeout, &[("kuma.io/zone", "a")]);
        let refusal = admit(
            &resource(Kind::MeshTimeout, &[]).into(),
            None,
            &Place::global(),
            Some(&existing),
        )
        .unwrap_err();
        assert_eq!(refusal.to_string(), "Could not update a resource");
        assert_eq!(
            refusal.into_violations().to_string(),
            "labels[\"kuma.io/zone\"]: is immutable, cannot be removed (was \"a\")"
        );
    }

    #[test]
    fn only_the_origin_deletes() {
        let stored = resource(Kind::MeshTimeout, &[("kuma.io/origin", "global")]);
        assert!(check_delete(&stored, &Place::global()).is_empty());
        assert_eq!(
            check_delete(&stored, &Place::federated_zone("east")).to_string(),
            "[\"kuma.io/origin\"]: the origin label must be set to 'zone'"
        );
    }

    #[test]
    fn a_probed_inbound_waits_for_its_probe() {
        let spec = json!({"networking": {"inbound": [{"port": 1, "serviceProbe": {"tcp": {}}}, {"port": 2}]}});
        let kept = prepared_dataplane(&Json::from_value(&spec), &Place::standalone_zone("e"), true);
        assert_eq!(
            kept.as_str(),
            r#"{"networking":{"inbound":[{"health":{},"port":1,"serviceProbe":{"tcp":{}},"state":"NotReady"},{"port":2}]}}"#
        );
    }
}
