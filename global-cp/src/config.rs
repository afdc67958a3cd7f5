//! What the global control plane runs with.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use zonal_control_plane::Configuration;
use zonal_process::config::Problems;
use zonal_process::control_plane::{Common, Raw, address, duration};

/// The shortest life of a zone's certificate.
const ZONE_CERTIFICATE_LIFETIME_MIN: Duration = Duration::from_secs(60);

/// Complete and possible.
#[derive(Clone, Debug)]
pub struct Config {
    /// What both control planes have.
    pub common: Common,
    /// Where zones connect.
    pub kds: SocketAddr,
    /// Whether they do so over TLS.
    pub kds_tls: bool,
    /// A certificate of its own for zones.
    pub kds_tls_files: Option<(PathBuf, PathBuf)>,
    /// Zones that may join without a token, because they cannot send one.
    pub zones_without_token: BTreeSet<String>,
    /// Whether zones are told the trust bundles of the others.
    pub distribute_trust: bool,
    /// How long the certificates are good that zones get for a join token.
    pub zone_certificate_lifetime: Duration,
}

impl Configuration for Config {
    fn from_raw(raw: &Raw) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let common = Common::check(raw, "global-cp", &mut problems);
        let kds_raw = &raw.multizone.global.kds;
        let kds = address(
            kds_raw.interface.as_deref(),
            Ipv4Addr::UNSPECIFIED,
            kds_raw.grpc_port.unwrap_or(5685),
            "multizone.global.kds.interface",
            &mut problems,
        );
        let kds_tls_files = match (&kds_raw.tls_cert_file, &kds_raw.tls_key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => {
                problems.add(
                    "multizone.global.kds.tlsCertFile",
                    "give both `tlsCertFile` and `tlsKeyFile`, or neither",
                );
                None
            }
        };
        let zone_certificate_lifetime = duration(
            kds_raw.zone_certificate_lifetime.as_deref(),
            Duration::from_hours(24),
            "multizone.global.kds.zoneCertificateLifetime",
            &mut problems,
        );
        if zone_certificate_lifetime < ZONE_CERTIFICATE_LIFETIME_MIN {
            problems.add(
                "multizone.global.kds.zoneCertificateLifetime",
                "zones could not renew in time; give at least `60s`",
            );
        }
        let config = Self {
            common,
            kds,
            kds_tls: kds_raw.tls_enabled.unwrap_or(true),
            kds_tls_files,
            zones_without_token: kds_raw
                .zones_without_token
                .iter()
                .flatten()
                .filter(|zone| !zone.is_empty())
                .cloned()
                .collect(),
            distribute_trust: kds_raw.distribute_trust.unwrap_or(true),
            zone_certificate_lifetime,
        };
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems)
        }
    }

    fn common(&self) -> &Common {
        &self.common
    }
}
