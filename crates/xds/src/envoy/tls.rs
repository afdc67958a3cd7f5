//! TLS between proxies: contexts, who is accepted, and the secrets they name.

use kds_proto::envoy::config::core::v3::{
    DataSource, TransportSocket, TypedExtensionConfig, data_source::Specifier,
};
use kds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use kds_proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain as TrustDomainMessage;
use kds_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use kds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
    SpiffeCertValidatorConfig, SubjectAltNameMatcher, TlsCertificate, TlsParameters,
    UpstreamTlsContext, secret, tls_parameters::TlsProtocol,
};
use kds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use serde::Deserialize;

use super::{ads, any, boolean, transport_socket};
use crate::names;
use crate::view::TrustDomain;

pub(crate) const TLS: &str = "envoy.transport_sockets.tls";
const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
/// What a sidecar offers as application protocol, so that a permissive server can tell mesh traffic from the
/// application's own TLS.
pub(crate) const MESH_ALPN: &str = "kuma";

/// Versions and ciphers, where a policy limits them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Parameters {
    tls_version: Option<Versions>,
    tls_ciphers: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
struct Versions {
    min: Option<String>,
    max: Option<String>,
}

impl Parameters {
    fn message(&self) -> Option<TlsParameters> {
        if self.tls_version.is_none() && self.tls_ciphers.is_none() {
            return None;
        }
        let version = |text: Option<&String>| match text.map(String::as_str) {
            Some("TLS10") => TlsProtocol::TlSv10,
            Some("TLS11") => TlsProtocol::TlSv11,
            Some("TLS12") => TlsProtocol::TlSv12,
            Some("TLS13") => TlsProtocol::TlSv13,
            _ => TlsProtocol::TlsAuto,
        };
        let versions = self.tls_version.as_ref();
        Some(TlsParameters {
            tls_minimum_protocol_version: version(versions.and_then(|v| v.min.as_ref())).into(),
            tls_maximum_protocol_version: version(versions.and_then(|v| v.max.as_ref())).into(),
            cipher_suites: self.tls_ciphers.clone().unwrap_or_default(),
            ..TlsParameters::default()
        })
    }
}

pub(crate) fn inline(bytes: impl Into<bytes::Bytes>) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.into())),
        ..DataSource::default()
    }
}

pub(crate) fn san(kind: SanType, pattern: MatchPattern) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(pattern),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    }
}

fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

/// Own certificate by SDS, the peer's checked against the trust bundle by SDS and against `accepted`.
fn mutual(identity: &str, accepted: Vec<SubjectAltNameMatcher>) -> CommonTlsContext {
    CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![sds(identity)],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(CertificateValidationContext {
                    match_typed_subject_alt_names: accepted,
                    ..CertificateValidationContext::default()
                }),
                validation_context_sds_secret_config: Some(sds(names::TRUST_BUNDLE)),
                ..CombinedCertificateValidationContext::default()
            },
        )),
        ..CommonTlsContext::default()
    }
}

/// The caller's side: server name, and exactly the identities of the destination.
pub(crate) fn upstream<'a>(
    identity: &str,
    sni: &str,
    spiffe_ids: impl IntoIterator<Item = &'a str>,
    parameters: &Parameters,
) -> TransportSocket {
    let accepted = spiffe_ids
        .into_iter()
        .map(|id| san(SanType::Uri, MatchPattern::Exact(id.to_owned())))
        .collect();
    let context = UpstreamTlsContext {
        sni: sni.to_owned(),
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec![MESH_ALPN.to_owned()],
            tls_params: parameters.message(),
            ..mutual(identity, accepted)
        }),
        ..UpstreamTlsContext::default()
    };
    transport_socket(TLS, any(&context))
}

/// The server's side: any identity of a trust domain we hold a bundle for.
pub(crate) fn downstream<'a>(
    identity: &str,
    trust_domains: impl IntoIterator<Item = &'a str>,
    parameters: &Parameters,
) -> TransportSocket {
    let mut domains: Vec<&str> = trust_domains.into_iter().collect();
    domains.sort_unstable();
    domains.dedup();
    let accepted = domains
        .into_iter()
        .map(|domain| {
            san(
                SanType::Uri,
                MatchPattern::Prefix(format!("spiffe://{domain}/")),
            )
        })
        .collect();
    let context = DownstreamTlsContext {
        require_client_certificate: Some(boolean(true)),
        common_tls_context: Some(CommonTlsContext {
            tls_params: parameters.message(),
            ..mutual(identity, accepted)
        }),
        ..DownstreamTlsContext::default()
    };
    transport_socket(TLS, any(&context))
}

/// The server's side with a certificate in place, for one client DNS name.
pub(crate) fn downstream_inline(
    chain_pem: &bytes::Bytes,
    key_pem: &bytes::Bytes,
    client_ca_pem: &bytes::Bytes,
    client_dns_name: &str,
) -> TransportSocket {
    let context = DownstreamTlsContext {
        require_client_certificate: Some(boolean(true)),
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: vec![certificate(chain_pem, key_pem)],
            validation_context_type: Some(ValidationContextType::ValidationContext(
                CertificateValidationContext {
                    trusted_ca: Some(inline(client_ca_pem.clone())),
                    match_typed_subject_alt_names: vec![san(
                        SanType::Dns,
                        MatchPattern::Exact(client_dns_name.to_owned()),
                    )],
                    ..CertificateValidationContext::default()
                },
            )),
            ..CommonTlsContext::default()
        }),
        ..DownstreamTlsContext::default()
    };
    transport_socket(TLS, any(&context))
}

fn certificate(chain_pem: &bytes::Bytes, key_pem: &bytes::Bytes) -> TlsCertificate {
    TlsCertificate {
        certificate_chain: Some(inline(chain_pem.clone())),
        private_key: Some(inline(key_pem.clone())),
        ..TlsCertificate::default()
    }
}

/// The secret with a proxy's certificate and key.
pub(crate) fn identity_secret(
    name: &str,
    chain_pem: &bytes::Bytes,
    key_pem: &bytes::Bytes,
) -> Secret {
    Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::TlsCertificate(certificate(
            chain_pem, key_pem,
        ))),
    }
}

/// The secret with the bundle of each trust domain; sorted by domain, the PEMs of one domain joined.
pub(crate) fn trust_secret(domains: &[TrustDomain]) -> Secret {
    let mut sorted: Vec<&TrustDomain> = domains.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let config = SpiffeCertValidatorConfig {
        trust_domains: sorted
            .into_iter()
            .map(|domain| TrustDomainMessage {
                name: domain.name.clone(),
                trust_bundle: Some(inline(domain.bundle())),
                ..TrustDomainMessage::default()
            })
            .collect(),
        ..SpiffeCertValidatorConfig::default()
    };
    Secret {
        name: names::TRUST_BUNDLE.to_owned(),
        r#type: Some(secret::Type::ValidationContext(
            CertificateValidationContext {
                custom_validator_config: Some(TypedExtensionConfig {
                    name: SPIFFE_VALIDATOR.to_owned(),
                    typed_config: Some(any(&config)),
                }),
                ..CertificateValidationContext::default()
            },
        )),
    }
}
