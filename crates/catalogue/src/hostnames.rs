//! Host names: each generator names the services that it selects.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use zonal_model::template::{Template, TemplateError, Values};
use zonal_model::{Key, Kind, Labels, Resource, labels};

use crate::form::{MatchLabelsForm, SelectorForm};
use crate::status::{changed, object};

/// A HostnameGenerator, read.
#[derive(Clone, Debug)]
pub struct Generator {
    name: String,
    zone_made: bool,
    created: Timestamp,
    selectors: BTreeMap<Kind, Labels>,
    template: Result<Template, TemplateError>,
}

#[derive(Deserialize)]
struct GeneratorForm {
    #[serde(default)]
    selector: SelectorForm,
    #[serde(default)]
    template: String,
    #[serde(default)]
    extension: Option<Value>,
}

impl Generator {
    /// Reads one; `None` for anything else, and for one whose names an extension makes.
    #[must_use]
    pub fn read(resource: &Resource) -> Option<Self> {
        if resource.key.kind != Kind::HostnameGenerator {
            return None;
        }
        let spec: GeneratorForm = resource.spec.typed().ok()?;
        if spec.extension.is_some_and(|extension| !extension.is_null()) {
            return None;
        }
        let mut selectors = BTreeMap::new();
        let mut add = |kind: Kind, selector: Option<MatchLabelsForm>| {
            if let Some(selector) = selector {
                selectors.insert(kind, selector.match_labels.unwrap_or_default());
            }
        };
        add(Kind::MeshService, spec.selector.mesh_service);
        add(
            Kind::MeshExternalService,
            spec.selector.mesh_external_service,
        );
        add(
            Kind::MeshMultiZoneService,
            spec.selector.mesh_multi_zone_service,
        );
        Some(Self {
            name: resource.key.name.to_string(),
            zone_made: resource.label(labels::ORIGIN) == Some("zone"),
            created: resource.meta.creation_time,
            selectors,
            template: Template::parse(&spec.template),
        })
    }

    fn selects(&self, service: &Resource) -> bool {
        self.selectors.get(&service.key.kind).is_some_and(|wanted| {
            wanted
                .iter()
                .all(|(key, value)| service.label(key) == Some(value))
        })
    }

    fn render(&self, service: &Resource, here: &str) -> Result<String, String> {
        let template = self.template.as_ref().map_err(ToString::to_string)?;
        let field = |name: &str| {
            let value = match name {
                "Name" => &*service.key.name,
                "DisplayName" => service.display_name(),
                "Namespace" => service.label(labels::NAMESPACE).unwrap_or_default(),
                "Mesh" => &*service.key.mesh,
                "Zone" => service.zone().unwrap_or(here),
                _ => return None,
            };
            Some(value.to_owned())
        };
        let label = |key: &str| service.label(key).map(str::to_owned);
        let values = Values {
            field: &field,
            label: &label,
        };
        let name = template
            .render(&values)
            .map_err(|error| error.to_string())?;
        if is_host_name(&name) {
            Ok(name)
        } else {
            Err(format!(
                "template renders to \"{name}\" which is not a valid DNS name"
            ))
        }
    }
}

/// One host name of a service, or why a generator gave none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The generator's stored name.
    pub generator: String,
    /// The name.
    pub outcome: Result<String, Refused>,
}

/// Why there is no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The template gives none.
    Template(String),
    /// Another service has it.
    Taken {
        /// The name.
        hostname: String,
        /// The stored name of the service that has it.
        by: String,
        /// Its kind.
        kind: Kind,
    },
}

/// What each service of **one kind** is called in the zone `here`: of two with one name the older has it, and a zone's
/// own generators come before those of global.
#[must_use]
pub fn evaluate(
    generators: &[Generator],
    services: &[&Resource],
    here: &str,
) -> BTreeMap<Key, Vec<Named>> {
    let mut generators: Vec<&Generator> = generators.iter().collect();
    generators.sort_by_key(|generator| (!generator.zone_made, generator.created, &generator.name));
    let mut services = services.to_vec();
    services.sort_by_key(|service| (service.meta.creation_time, &service.key.name));

    let mut taken: BTreeMap<(&str, String), &Resource> = BTreeMap::new();
    let mut named: BTreeMap<Key, Vec<Named>> = services
        .iter()
        .map(|service| (service.key.clone(), Vec::new()))
        .collect();
    for generator in generators {
        for service in services.iter().filter(|service| generator.selects(service)) {
            let outcome = generator
                .render(service, here)
                .map_err(Refused::Template)
                .and_then(|hostname| {
                    let owner = taken
                        .entry((&service.key.mesh, hostname.clone()))
                        .or_insert(service);
                    if owner.key == service.key {
                        Ok(hostname)
                    } else {
                        Err(Refused::Taken {
                            hostname,
                            by: owner.key.name.to_string(),
                            kind: owner.key.kind,
                        })
                    }
                });
            named.entry(service.key.clone()).or_default().push(Named {
                generator: generator.name.clone(),
                outcome,
            });
        }
    }
    named
}

/// The service with its host names written into its status; `None` where nothing differs. Addresses that something
/// other than a generator gave are kept.
#[must_use]
pub fn with_hostnames(service: &Resource, named: &[Named]) -> Option<Resource> {
    let mut status = object(service.status.as_ref());
    let mut named = named.to_vec();
    named.sort_by(|a, b| a.generator.cmp(&b.generator));
    let kept = match status.remove("addresses") {
        Some(Value::Array(addresses)) => addresses,
        _ => Vec::new(),
    };
    let mut addresses: Vec<Value> = kept
        .into_iter()
        .filter(|address| {
            address.get("origin").and_then(Value::as_str) != Some("HostnameGenerator")
        })
        .collect();
    addresses.extend(named.iter().filter_map(|named| {
        let hostname = named.outcome.as_ref().ok()?;
        Some(json!({
            "hostname": hostname,
            "origin": "HostnameGenerator",
            "hostnameGeneratorRef": { "coreName": named.generator },
        }))
    }));
    let said: Vec<Value> = named
        .iter()
        .map(|named| {
            let (status, reason, message) = match &named.outcome {
                Ok(_) => ("True", "Generated", String::new()),
                Err(Refused::Template(error)) => ("False", "TemplateError", error.clone()),
                Err(Refused::Taken { by, kind, .. }) => (
                    "False",
                    "Collision",
                    format!("Hostname collision with {kind}: {by}"),
                ),
            };
            json!({
                "hostnameGeneratorRef": { "coreName": named.generator },
                "conditions": [
                    { "type": "Generated", "status": status, "reason": reason, "message": message },
                ],
            })
        })
        .collect();
    for (member, list) in [("addresses", addresses), ("hostnameGenerators", said)] {
        if list.is_empty() {
            status.remove(member);
        } else {
            status.insert(member.to_owned(), Value::Array(list));
        }
    }
    if status.is_empty() && service.status.is_none() {
        return None;
    }
    changed(service, None, status)
}

/// Whether a text is a DNS-1123 subdomain.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal_model::Json;

    fn generator(name: &str, origin: &str, template: &str) -> Generator {
        let spec = json!({
            "selector": {"meshService": {"matchLabels": {"kuma.io/origin": "zone"}}},
            "template": template,
        });
        let mut resource = Resource::new(
            Key::global(Kind::HostnameGenerator, name),
            Json::from_value(&spec),
        );
        resource
            .meta
            .labels
            .insert(labels::ORIGIN.to_owned(), origin.to_owned());
        Generator::read(&resource).unwrap()
    }

    fn service(name: &str, created: i64) -> Resource {
        let mut resource = Resource::new(
            Key::new(Kind::MeshService, "default", name),
            Json::empty_object(),
        );
        resource
            .meta
            .labels
            .insert(labels::ORIGIN.to_owned(), "zone".to_owned());
        resource.meta.creation_time = Timestamp::from_second(created).unwrap();
        resource
    }

    #[test]
    fn the_older_service_keeps_a_name_and_the_zones_own_generators_come_first() {
        let generators = [
            generator("by-global", "global", "same.mesh"),
            generator("by-zone", "zone", "{{ .DisplayName }}.svc.mesh.local"),
            generator("broken", "zone", "{{ label \"absent\" }}"),
        ];
        let (old, young) = (service("old", 1), service("young", 2));
        let named = evaluate(&generators, &[&young, &old], "east");
        let of = |service: &Resource| {
            named
                .get(&service.key)
                .map(|named| with_hostnames(service, named).unwrap())
                .unwrap()
        };
        let status = of(&old).status.unwrap().to_value();
        let names: Vec<&Value> = status["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| &a["hostname"])
            .collect();
        assert_eq!(names, ["same.mesh", "old.svc.mesh.local"]);
        assert_eq!(
            status["hostnameGenerators"][0]["conditions"][0]["reason"],
            "TemplateError"
        );

        let after = of(&young);
        let status = after.status.as_ref().unwrap().to_value();
        assert_eq!(
            status["hostnameGenerators"][1]["conditions"][0]["message"],
            "Hostname collision with MeshService: old"
        );
        let again = evaluate(&generators, &[&old, &after], "east");
        assert_eq!(
            with_hostnames(&after, &again[&after.key]),
            None,
            "nothing differs any more"
        );
    }
}
