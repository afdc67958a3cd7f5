//! MeshProxyPatch: clusters as the user writes them, in Envoy's own words.

use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::reflect::message_from_json;
use prost::Message as _;
use serde::Deserialize;
use serde_json::Value;
use zonal_model::{Kind, yaml};

use crate::encoded::{Encoded, Generated, type_url};
use crate::view::ProxyView;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conf {
    append_modifications: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterChange {
    operation: String,
    #[serde(default)]
    r#match: Option<ClusterMatch>,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    json_patches: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ClusterMatch {
    name: Option<String>,
    origin: Option<String>,
}

pub(crate) fn generate(view: &ProxyView<'_>, out: &mut Generated) {
    let said = view.policies.kind(Kind::MeshProxyPatch);
    let Some(rule) = &said.proxy else { return };
    let Ok(conf) = Conf::deserialize(&rule.conf) else {
        out.problem(
            "MeshProxyPatch",
            "the merged conf cannot be read; nothing is patched",
        );
        return;
    };
    for modification in &conf.append_modifications {
        let Some(change) = modification.get("cluster") else {
            out.problem(
                "MeshProxyPatch",
                "only clusters can be patched in this version; other modifications have no effect",
            );
            continue;
        };
        let outcome = ClusterChange::deserialize(change)
            .map_err(|error| error.to_string())
            .and_then(|change| change.apply(out));
        if let Err(reason) = outcome {
            out.problem(
                "MeshProxyPatch",
                format!("{reason}; the modification has no effect"),
            );
        }
    }
}

impl ClusterChange {
    fn apply(&self, out: &mut Generated) -> Result<(), String> {
        if self.json_patches.is_some() {
            return Err("jsonPatches of clusters are not supported in this version".to_owned());
        }
        match self.operation.as_str() {
            "Add" => {
                let cluster = self.cluster()?;
                if cluster.name.is_empty() {
                    return Err("the cluster to add has no name".to_owned());
                }
                out.put(type_url::CLUSTER, &*cluster.name, Encoded::new(&cluster));
                Ok(())
            }
            "Remove" => {
                for name in self.matching(out)? {
                    out.remove(type_url::CLUSTER, &name);
                    // Hosts of a cluster that is not there would be refused.
                    out.remove(type_url::ENDPOINTS, &name);
                }
                Ok(())
            }
            "Patch" => {
                let with = self.cluster()?.encode_to_vec();
                for name in self.matching(out)? {
                    let Some(encoded) = out.get(type_url::CLUSTER, &name) else {
                        continue;
                    };
                    let mut cluster: Cluster =
                        encoded.decode().map_err(|error| error.to_string())?;
                    // Members that are set overwrite, messages merge, lists grow.
                    cluster
                        .merge(with.as_slice())
                        .map_err(|error| error.to_string())?;
                    out.put(type_url::CLUSTER, name, Encoded::new(&cluster));
                }
                Ok(())
            }
            other => Err(format!("unknown operation `{other}`")),
        }
    }

    /// The value as a message. Decoding it into the generated type makes its bytes the same every time.
    fn cluster(&self) -> Result<Cluster, String> {
        let text = self
            .value
            .as_deref()
            .ok_or("the modification has no value")?;
        let document = yaml::documents(text)
            .map_err(|error| error.to_string())?
            .into_iter()
            .next()
            .ok_or("the value is empty")?;
        let any = message_from_json(type_url::CLUSTER, &document)
            .map_err(|error| format!("the value is no cluster: {error}"))?;
        Cluster::decode(any.value).map_err(|error| error.to_string())
    }

    fn matching(&self, out: &Generated) -> Result<Vec<String>, String> {
        let clusters = out.of_type(type_url::CLUSTER);
        let Some(wanted) = &self.r#match else {
            return Ok(clusters.keys().map(ToString::to_string).collect());
        };
        let mut names = Vec::new();
        for name in clusters.keys() {
            let by_name = wanted.name.as_ref().is_none_or(|wanted| **wanted == **name);
            let by_origin = match wanted.origin.as_deref() {
                None => true,
                Some(origin) => origin_of(name) == origin,
            };
            if by_name && by_origin {
                names.push(name.to_string());
            }
        }
        Ok(names)
    }
}

/// Which part of the configuration a cluster belongs to, told by its name.
fn origin_of(name: &str) -> &'static str {
    if name.starts_with("self_inbound_") {
        "inbound"
    } else if name.starts_with("self_transparentproxy_") {
        "transparent"
    } else if name.starts_with("kri_") {
        "outbound"
    } else if name.starts_with("system_meshtrace_") {
        "mesh-trace"
    } else if name.starts_with("system_meshmetric_") {
        "prometheus"
    } else if name == crate::names::ADMIN || name == crate::names::READINESS {
        "admin"
    } else {
        ""
    }
}
