//! The names of Envoy resources that are not a resource's KRI.

/// The secret that holds every trust domain's bundle.
pub const TRUST_BUNDLE: &str = "system_trust_bundle";
/// Listener and cluster of Envoy's own admin interface.
pub const ADMIN: &str = "system_envoy_admin";
/// The cluster that answers `/ready`.
pub const READINESS: &str = "system_probe_readiness";
/// The route that takes every request where no policy says otherwise: the hash of its match.
pub const CATCH_ALL_ROUTE: &str = "9Zuf5Tg79OuZcQITwBbQykxAk2u4fRKrwYn3//AL4Yo=";
/// The cluster without hosts to which strict inbound ports send everything else.
pub const NO_DESTINATION: &str = "self_transparentproxy_no_destination_inbound";
/// The cluster of listeners for direct access to other workloads.
pub const DIRECT_ACCESS: &str = "direct_access";
/// The inbound port of a proxy without services: nothing listens there.
pub const SERVICELESS_PORT: u16 = 49_151;

/// Listener and cluster of one inbound.
#[must_use]
pub fn inbound(section: &str) -> String {
    format!("self_inbound_dp_{section}")
}

/// The listener of a zone ingress.
#[must_use]
pub fn zone_ingress(section: &str) -> String {
    format!("self_zoneingress_dp_{section}")
}

/// The listener of a zone egress.
#[must_use]
pub fn zone_egress(section: &str) -> String {
    format!("self_zoneegress_dp_{section}")
}

/// Listener and cluster for connections that no other listener knows, e.g. direction `outbound`, family 4.
#[must_use]
pub fn passthrough(direction: &str, family: u8) -> String {
    format!("self_transparentproxy_passthrough_{direction}_ipv{family}")
}

/// A name as a part of statistic names: every character outside letters, digits, `_` and `-` becomes `_`.
///
/// ```
/// assert_eq!(zonal_xds::names::stat("kri_msvc_default_east__a.b_80"), "kri_msvc_default_east__a_b_80");
/// ```
#[must_use]
pub fn stat(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistic_names_have_no_dots() {
        assert_eq!(
            stat("kri_msvc_default_east__a.b_80"),
            "kri_msvc_default_east__a_b_80"
        );
        assert_eq!(
            stat("direct_access_10.0.0.1:80"),
            "direct_access_10_0_0_1_80"
        );
    }
}
