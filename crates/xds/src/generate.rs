//! All parts of a proxy's configuration together.

use bytes::Bytes;

use zonal_model::Kind;

use crate::cache::Cache;
use crate::dynamic_config::DynamicConfig;
use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::tls;
use crate::names;
use crate::view::{ProxyView, TrustDomain};
use crate::{
    access_log, admin, dynamic_config, egress, inbound, ingress, metric, outbound, patch, trace,
    transparent,
};

/// The policies that change configuration.
const SUPPORTED: [Kind; 16] = [
    Kind::MeshHTTPRoute,
    Kind::MeshTCPRoute,
    Kind::MeshTLS,
    Kind::MeshLoadBalancingStrategy,
    Kind::MeshTimeout,
    Kind::MeshTrafficPermission,
    Kind::MeshCircuitBreaker,
    Kind::MeshRetry,
    Kind::MeshRateLimit,
    Kind::MeshFaultInjection,
    Kind::MeshHealthCheck,
    Kind::MeshAccessLog,
    Kind::MeshTrace,
    Kind::MeshMetric,
    Kind::MeshPassthrough,
    Kind::MeshProxyPatch,
];

/// Everything an Envoy should hold, except the certificate of its identity.
#[must_use]
pub fn generate(view: &ProxyView<'_>, cache: &Cache) -> Generated {
    let mut out = Generated::default();
    // Of two listeners at one place the first stays: what the user asked for before what we add.
    inbound::generate(view, &mut out);
    ingress::generate(view, cache, &mut out);
    egress::generate(view, &mut out);
    admin::generate(view, &mut out);
    transparent::generate(view, &mut out);
    outbound::generate(view, cache, &mut out);
    trace::generate(view, &mut out);
    access_log::name_unsupported(view, &mut out);
    let mut dynamic = DynamicConfig::default();
    dynamic_config::add_names(view, &mut dynamic);
    metric::generate(view, &mut dynamic, &mut out);
    dynamic.put(view, &mut out);
    patch::generate(view, &mut out);
    name_unsupported(view, &mut out);
    if !view.trust.is_empty() {
        out.put(
            type_url::SECRET,
            names::TRUST_BUNDLE,
            cache.get_or_build("trust", &view.trust, || trust_secret(view.trust)),
        );
    }
    out
}

/// Says which policies touch the proxy without having an effect yet.
fn name_unsupported(view: &ProxyView<'_>, out: &mut Generated) {
    for (kind, said) in view.policies.kinds() {
        if SUPPORTED.contains(&kind) {
            continue;
        }
        for policy in &said.matched {
            out.problem(
                policy.kri.to_string(),
                format!(
                    "{kind} is matched and merged, but has no effect on proxies in this version"
                ),
            );
        }
    }
}

/// Everything a zone ingress of ours should hold: a route per server name, and hosts.
#[must_use]
pub fn generate_native_ingress(view: &ProxyView<'_>, cache: &Cache) -> Generated {
    let mut out = Generated::default();
    ingress::generate_native(view, cache, &mut out);
    out
}

/// The secret with a proxy's certificate and key, under the identity's name.
///
/// ```
/// let (chain, key) = (bytes::Bytes::from("chain"), bytes::Bytes::from("key"));
/// let once = zonal_xds::identity_secret("kri_mid_default___identity_", &chain, &key);
/// let again = zonal_xds::identity_secret("kri_mid_default___identity_", &chain, &key);
/// assert_eq!(once.version, again.version);
/// ```
#[must_use]
pub fn identity_secret(name: &str, chain_pem: &Bytes, key_pem: &Bytes) -> Encoded {
    Encoded::new(&tls::identity_secret(name, chain_pem, key_pem))
}

/// The secret with the bundles of all trust domains.
#[must_use]
pub fn trust_secret(domains: &[TrustDomain]) -> Encoded {
    Encoded::new(&tls::trust_secret(domains))
}
