//! From what was generated to the maps that streams offer from.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use zonal_delta::{Entry, Name, Offered, TypeUrl, Version};
use zonal_store::Revision;
use zonal_xds::{Encoded, Generated, type_url};

use super::handle::ProxyConfig;

/// Puts what was generated into the maps that streams offer from, sharing every entry and map that did not change.
pub(super) fn to_config(
    reflects: Revision,
    generated: &Generated,
    secret: Option<(&str, &Encoded)>,
    before: Option<&ProxyConfig>,
) -> ProxyConfig {
    let types = type_url::IN_ORDER
        .iter()
        .map(|url| {
            let url_held = TypeUrl::from(*url);
            let old = before
                .and_then(|config| config.types.iter().find(|(held, _)| *held == url_held))
                .map(|(_, offered)| offered.clone())
                .unwrap_or_default();
            let secret = secret.filter(|_| *url == type_url::SECRET);
            let wanted: BTreeMap<&str, Wanted<'_>> = generated
                .of_type(url)
                .iter()
                .map(|(name, encoded)| (&**name, encoded))
                .chain(secret)
                .map(|(name, encoded)| {
                    let version = match generated.get(type_url::CLUSTER, name) {
                        Some(cluster) if *url == type_url::ENDPOINTS => {
                            Arc::from(format!("{}+{}", encoded.version, cluster.version))
                        }
                        _ => Arc::clone(&encoded.version),
                    };
                    (name, Wanted { version, encoded })
                })
                .collect();
            (url_held, merge(old, &wanted))
        })
        .collect();
    ProxyConfig { reflects, types }
}

/// A resource with the version it is offered under.
///
/// That of a cluster's hosts changes with the cluster too: an Envoy that gets a cluster anew waits for its hosts to be
/// sent again, and without them takes 15 s to go on with those it knows.
struct Wanted<'a> {
    version: Arc<str>,
    encoded: &'a Encoded,
}

/// The message alone: the stream puts an `Any` around it. Shares the bytes.
fn unpacked(encoded: &Encoded) -> bytes::Bytes {
    // What we packed ourselves unpacks; were it otherwise, the proxy would refuse the empty message by name.
    kds_proto::Any::decode(encoded.body.clone())
        .map(|any| any.value)
        .unwrap_or_default()
}

fn merge(mut offered: Offered, wanted: &BTreeMap<&str, Wanted<'_>>) -> Offered {
    let gone: Vec<Name> = offered
        .keys()
        .filter(|name| !wanted.contains_key(name.as_str()))
        .cloned()
        .collect();
    for name in gone {
        offered.remove(&name);
    }
    for (name, Wanted { version, encoded }) in wanted {
        let same = offered
            .get(*name)
            .is_some_and(|held| held.version.as_str() == &**version);
        if !same {
            let version = Version::from(Arc::clone(version));
            let entry = Entry {
                version,
                body: unpacked(encoded),
            };
            offered.insert(Name::from(*name), entry);
        }
    }
    offered
}
