//! What people ask about a running proxy, answered by the zone.
//!
//! The configuration is what the proxy is offered, in the shape of Envoy's own `/config_dump`. Counters are known only to
//! Envoy, whose admin interface is a socket on the workload's machine: the answer says where.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::StatusCode;
use kds_proto::Any;
use kds_proto::reflect::{FieldNames, any_to_json};
use serde_json::{Map, Value, json};
use zonal_control_plane::{AdminQuestion, AskProxies, admin_problem};
use zonal_delta::{Offered, TypeUrl};
use zonal_model::{Key, Kind, Resource};
use zonal_rest::Problem;
use zonal_store::Store;
use zonal_xds::type_url;

use crate::kds::{AdminTarget, EnvoyAdmin};
use crate::proxy::ProxyId;
use crate::views::{EngineHandle, ProxyConfig, Stopped};

/// What stands in place of a secret's text.
const REDACTED: &str = "[redacted]";
/// The same, where the member is base64.
const REDACTED_BYTES: &str = "W3JlZGFjdGVkXQ==";
/// Members that hold secrets, wherever they are.
const SECRET_MEMBERS: [&str; 5] = [
    "private_key",
    "password",
    "session_ticket_keys",
    "generic_secret",
    "private_key_provider",
];

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    /// It has no stream.
    #[error("`{0}` is not connected to this zone's control plane: is its proxy running?")]
    NotConnected(ProxyId),
    /// Only Envoy knows.
    #[error(
        "only Envoy itself knows `{what}`, and its admin interface is a socket on the workload's machine. Ask there: `curl --unix-socket {socket} 'http://localhost/{what}'`"
    )]
    AskThere { what: &'static str, socket: String },
    /// A resource has no JSON form.
    #[error("the configuration cannot be shown: {0}")]
    Shown(#[from] kds_proto::reflect::ReflectError),
    /// The process ends.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Unanswered {
    const fn status(&self) -> StatusCode {
        match self {
            Self::NotConnected(_) => StatusCode::NOT_FOUND,
            Self::AskThere { .. } => StatusCode::NOT_IMPLEMENTED,
            Self::Shown(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Stopped(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Answers for the zone's proxies: to people at the zone, and to global's.
#[derive(Clone)]
pub(crate) struct Inspect {
    engine: EngineHandle,
    store: Arc<dyn Store>,
}

impl Inspect {
    pub(crate) fn new(engine: EngineHandle, store: Arc<dyn Store>) -> Self {
        Self { engine, store }
    }

    async fn answer(&self, question: AdminQuestion, id: ProxyId) -> Result<Bytes, Unanswered> {
        match question {
            AdminQuestion::Config { endpoints } => {
                let config = self.engine.inspect(&id).await?;
                let config = config.ok_or(Unanswered::NotConnected(id))?;
                Ok(config_dump(&config, endpoints)?.to_string().into())
            }
            AdminQuestion::Stats { .. } => Err(self.ask_there("stats", &id)),
            AdminQuestion::Clusters { .. } => Err(self.ask_there("clusters", &id)),
        }
    }

    fn ask_there(&self, what: &'static str, id: &ProxyId) -> Unanswered {
        let insight = Key::new(Kind::DataplaneInsight, &id.mesh, &id.name);
        let socket = self.store.snapshot().get(&insight).and_then(|stored| {
            let spec = stored.resource.spec.to_value();
            let metadata = spec.get("metadata")?;
            let path = metadata.get("dataplane.admin.socketPath")?.as_str()?;
            (!path.is_empty()).then(|| path.to_owned())
        });
        Unanswered::AskThere {
            what,
            socket: socket.unwrap_or_else(|| "WORKDIR/kuma-envoy-admin.sock".to_owned()),
        }
    }
}

impl AskProxies for Inspect {
    fn ask<'a>(
        &'a self,
        question: AdminQuestion,
        dataplane: &'a Resource,
    ) -> BoxFuture<'a, Result<Bytes, Problem>> {
        let id = ProxyId::new(&dataplane.key.mesh, &dataplane.key.name);
        Box::pin(async move {
            self.answer(question, id)
                .await
                .map_err(|why| admin_problem(why.status(), why.to_string()))
        })
    }
}

impl EnvoyAdmin for Inspect {
    fn answer(
        &self,
        question: AdminQuestion,
        target: AdminTarget,
    ) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let id = ProxyId::new(&target.mesh, &target.name);
            let known = self
                .store
                .snapshot()
                .get(&Key::new(Kind::Dataplane, &id.mesh, &id.name))
                .is_some();
            if target.kind != Kind::Dataplane.name() || !known {
                return Err(format!(
                    "this zone has no {} `{}` in mesh `{}`",
                    target.kind, target.name, target.mesh
                ));
            }
            Self::answer(self, question, id)
                .await
                .map_err(|why| why.to_string())
        })
    }
}

/// How Envoy's own dump shows one type.
struct Section {
    /// The message around the resources.
    dump: &'static str,
    /// The list in it.
    list: &'static str,
    /// The member of an entry that is the resource.
    resource: &'static str,
    /// The member of an entry with version and resource; Envoy has one for listeners only.
    state: Option<&'static str>,
    /// Whether an entry has the resource's name.
    is_named: bool,
}

fn section(type_url: &str) -> Section {
    let section = |dump, list, resource| Section {
        dump,
        list,
        resource,
        state: None,
        is_named: false,
    };
    match type_url {
        type_url::CLUSTER => section(
            "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "dynamic_active_clusters",
            "cluster",
        ),
        type_url::ENDPOINTS => section(
            "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "dynamic_endpoint_configs",
            "endpoint_config",
        ),
        type_url::LISTENER => Section {
            state: Some("active_state"),
            is_named: true,
            ..section(
                "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
                "dynamic_listeners",
                "listener",
            )
        },
        type_url::SECRET => Section {
            is_named: true,
            ..section(
                "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
                "dynamic_active_secrets",
                "secret",
            )
        },
        // Ours, which no Envoy knows.
        _ => Section {
            is_named: true,
            ..section("", "resources", "resource")
        },
    }
}

/// What a proxy is offered, in the shape of Envoy's `/config_dump`, without secrets.
fn config_dump(
    config: &ProxyConfig,
    endpoints: bool,
) -> Result<Value, kds_proto::reflect::ReflectError> {
    let mut sections = Vec::new();
    for (type_url, offered) in &config.types {
        let left_out = type_url.as_str() == type_url::ENDPOINTS && !endpoints;
        let is_ours = type_url.as_str() == type_url::INGRESS_ROUTE && offered.is_empty();
        if !left_out && !is_ours {
            sections.push(show(type_url, offered)?);
        }
    }
    Ok(json!({ "configs": sections }))
}

fn show(type_url: &TypeUrl, offered: &Offered) -> Result<Value, kds_proto::reflect::ReflectError> {
    let section = section(type_url.as_str());
    let mut entries = Vec::new();
    for (name, entry) in offered {
        let any = Any {
            type_url: type_url.to_string(),
            value: entry.body.clone(),
        };
        let mut resource = any_to_json(&any, FieldNames::Proto)?;
        redact(&mut resource);
        let mut shown = Map::new();
        shown.insert("version_info".to_owned(), entry.version.as_str().into());
        shown.insert(section.resource.to_owned(), resource);
        if let Some(state) = section.state {
            shown = Map::from_iter([(state.to_owned(), Value::Object(shown))]);
        }
        if section.is_named {
            shown.insert("name".to_owned(), name.as_str().into());
        }
        entries.push(Value::Object(shown));
    }
    let dump = if section.dump.is_empty() {
        type_url.as_str()
    } else {
        section.dump
    };
    let mut members = Map::from_iter([("@type".to_owned(), Value::from(dump))]);
    if !entries.is_empty() {
        members.insert(section.list.to_owned(), Value::Array(entries));
    }
    Ok(Value::Object(members))
}

/// Blanks what must not be seen.
fn redact(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if SECRET_MEMBERS.contains(&name.as_str()) {
                    blank(member);
                } else {
                    redact(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

/// Blanks the content of a secret; where it comes from stays.
fn blank(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match name.as_str() {
                    "inline_bytes" => *member = REDACTED_BYTES.into(),
                    "inline_string" => *member = REDACTED.into(),
                    _ => blank(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use zonal_delta::{Entry, Name, Version};
    use zonal_store::Revision;

    use super::*;

    fn offered(name: &str, message: &Any) -> Offered {
        Offered::unit(
            Name::from(name),
            Entry {
                version: Version::from("v1"),
                body: message.value.clone(),
            },
        )
    }

    #[test]
    fn a_dump_has_envoys_shape_and_no_private_key() {
        let secret = zonal_xds::identity_secret(
            "identity",
            &Bytes::from_static(b"the chain"),
            &Bytes::from_static(b"the key"),
        );
        let secret: Any = prost::Message::decode(secret.body).unwrap();
        let config = ProxyConfig {
            reflects: Revision(7),
            types: vec![
                (TypeUrl::from(type_url::CLUSTER), Offered::new()),
                (TypeUrl::from(type_url::ENDPOINTS), Offered::new()),
                (
                    TypeUrl::from(type_url::SECRET),
                    offered("identity", &secret),
                ),
                (TypeUrl::from(type_url::INGRESS_ROUTE), Offered::new()),
            ],
        };
        let dump = config_dump(&config, false).unwrap();
        let types: Vec<&str> = dump["configs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|section| section["@type"].as_str().unwrap())
            .collect();
        assert_eq!(
            types,
            [
                "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
                "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            ]
        );
        let shown = &dump["configs"][1]["dynamic_active_secrets"][0];
        assert_eq!(shown["name"], "identity");
        assert_eq!(shown["version_info"], "v1");
        let certificate = &shown["secret"]["tls_certificate"];
        assert_eq!(certificate["private_key"]["inline_bytes"], REDACTED_BYTES);
        // base64 of `the key`
        assert!(!dump.to_string().contains("dGhlIGtleQ"), "{dump}");
        assert_eq!(
            config_dump(&config, true).unwrap()["configs"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
    }
}
