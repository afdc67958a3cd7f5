//! Everything that decides one proxy's configuration.

use bytes::Bytes;
use zonal_catalogue::{MeshCatalogue, Outbound};
use zonal_policy::{DataplanePolicies, Targets};

use crate::dataplane::Dataplane;
use crate::node::{Node, Redirect, feature};

/// One proxy with everything it is configured from. The same view gives the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct ProxyView<'a> {
    /// The mesh.
    pub mesh: &'a str,
    /// The zone of the control plane.
    pub zone: &'a str,
    /// The proxy's record.
    pub dataplane: &'a Dataplane,
    /// What the proxy says about itself.
    pub node: &'a Node,
    /// The services of the mesh as this zone sees them.
    pub catalogue: &'a MeshCatalogue,
    /// Where the proxy can send traffic, and under which address.
    pub outbounds: &'a [Outbound],
    /// What the policies say to it.
    pub policies: &'a DataplanePolicies,
    /// What references in policies can mean.
    pub targets: &'a Targets,
    /// Its identity; without one it neither offers nor expects TLS.
    pub identity: Option<Identity<'a>>,
    /// Whom the mesh trusts, one entry per trust domain.
    pub trust: &'a [TrustDomain],
    /// The SPIFFE ids of this zone's egresses, sorted.
    pub egress_identities: &'a [String],
    /// Whether the mesh has a MeshFaultInjection, even one that does not touch this proxy.
    pub faults_exist: bool,
    /// What secures the admin listener; without it only `/ready` is answered there.
    pub admin_tls: Option<&'a AdminTls>,
}

/// The identity a proxy was given. Its certificate travels apart from the rest: see
/// [`identity_secret`](crate::identity_secret).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The secret's name: the KRI of the MeshIdentity.
    pub secret: &'a str,
    /// The SPIFFE id in the certificate.
    pub spiffe_id: &'a str,
}

/// A trust domain and the authorities that speak for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrustDomain {
    /// Its name, e.g. `default.east.mesh.local`.
    pub name: String,
    /// Certificates of its authorities, PEM.
    pub authorities_pem: Vec<String>,
}

impl TrustDomain {
    /// All authorities in one text; the same certificate given twice occurs once.
    pub(crate) fn bundle(&self) -> Bytes {
        let mut seen = Vec::new();
        for pem in self.authorities_pem.iter().map(|pem| pem.trim_end()) {
            if !seen.contains(&pem) {
                seen.push(pem);
            }
        }
        let mut text = seen.join("\n");
        text.push('\n');
        text.into()
    }
}

/// What secures a proxy's admin listener.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AdminTls {
    /// The proxy's certificate for its address, PEM.
    pub certificate_pem: Bytes,
    /// Its key, PEM.
    pub key_pem: Bytes,
    /// The authority of those that may connect, PEM.
    pub client_ca_pem: Bytes,
}

impl std::fmt::Debug for AdminTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminTls(<hidden>)")
    }
}

impl ProxyView<'_> {
    /// Redirection, where the proxy gets redirected traffic and does not bind its outbounds instead.
    pub(crate) fn transparent_proxy(&self) -> Option<Redirect> {
        if self.node.has(feature::BIND_OUTBOUNDS) {
            None
        } else {
            self.redirect()
        }
    }

    /// Redirection, whatever happens to outbounds.
    pub(crate) fn redirect(&self) -> Option<Redirect> {
        let redirect = if self.node.has(feature::TRANSPARENT_PROXY_IN_METADATA) {
            self.node.redirect
        } else {
            self.dataplane.redirect
        }?;
        let usable = redirect.ipv6 || !self.dataplane.address.contains(':');
        usable.then_some(redirect)
    }
}
