//! TLS towards services outside of the mesh.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kds_proto::envoy::config::core::v3::{DataSource, TransportSocket, data_source::Specifier};
use kds_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use kds_proto::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use kds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
};
use kds_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use serde::Deserialize;
use serde_json::Value;

use crate::envoy::tls::{TLS, inline, san};
use crate::envoy::{any, transport_socket};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conf {
    enabled: bool,
    allow_renegotiation: bool,
    verification: Verification,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Verification {
    mode: Option<String>,
    server_name: Option<String>,
    subject_alt_names: Vec<Name>,
    ca_cert: Option<Source>,
    client_cert: Option<Value>,
}

#[derive(Deserialize)]
struct Name {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    #[serde(default)]
    inline: Option<String>,
    #[serde(default)]
    inline_string: Option<String>,
}

impl Source {
    fn read(&self) -> Option<Vec<u8>> {
        if let Some(text) = &self.inline_string {
            return Some(text.clone().into_bytes());
        }
        STANDARD.decode(self.inline.as_ref()?).ok()
    }
}

/// The transport socket of a service's `spec.tls`; `None` where it has none.
pub(crate) fn socket(
    tls: &Value,
    default_name: &str,
    system_ca_path: &str,
) -> Result<Option<TransportSocket>, String> {
    if tls.is_null() {
        return Ok(None);
    }
    let conf =
        Conf::deserialize(tls).map_err(|error| format!("spec.tls cannot be read: {error}"))?;
    if !conf.enabled {
        return Ok(None);
    }
    if conf.verification.client_cert.is_some() {
        return Err(
            "spec.tls.verification.clientCert is not supported; the service is left out".to_owned(),
        );
    }
    let verification = conf.verification;
    let mode = verification.mode.as_deref().unwrap_or("Secured");
    let name = verification.server_name.as_deref().unwrap_or(default_name);
    let sni = if matches!(mode, "SkipSAN" | "SkipAll") {
        default_name
    } else {
        name
    };
    let validation = match mode {
        "SkipCA" | "SkipAll" => None,
        _ => Some(validation(&verification, mode, name, system_ca_path)?),
    };
    // An address is no server name.
    let sni = if sni.parse::<std::net::IpAddr>().is_ok() {
        ""
    } else {
        sni
    };
    let context = UpstreamTlsContext {
        sni: sni.to_owned(),
        allow_renegotiation: conf.allow_renegotiation,
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: validation.map(ValidationContextType::ValidationContext),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    Ok(Some(transport_socket(TLS, any(&context))))
}

/// TLS without checking who answers.
pub(crate) fn unverified(host: &str) -> TransportSocket {
    let sni = if host.parse::<std::net::IpAddr>().is_ok() {
        ""
    } else {
        host
    };
    let context = UpstreamTlsContext {
        sni: sni.to_owned(),
        allow_renegotiation: true,
        common_tls_context: Some(CommonTlsContext::default()),
        ..UpstreamTlsContext::default()
    };
    transport_socket(TLS, any(&context))
}

fn validation(
    verification: &Verification,
    mode: &str,
    name: &str,
    system_ca_path: &str,
) -> Result<CertificateValidationContext, String> {
    let trusted_ca = match &verification.ca_cert {
        Some(source) => inline(source.read().ok_or(
            "spec.tls.verification.caCert is no inline certificate; other sources are not supported, and the service is left out",
        )?),
        None if system_ca_path.is_empty() => {
            return Err("the egress knows no bundle of authorities; the service is left out. Set spec.tls.verification.caCert".to_owned());
        }
        None => DataSource {
            specifier: Some(Specifier::Filename(system_ca_path.to_owned())),
            ..DataSource::default()
        },
    };
    let mut accepted = Vec::new();
    if mode != "SkipSAN" {
        for kind in [SanType::Dns, SanType::IpAddress] {
            accepted.push(san(kind, MatchPattern::Exact(name.to_owned())));
        }
        for kind in [SanType::Dns, SanType::IpAddress] {
            accepted.extend(verification.subject_alt_names.iter().map(|name| {
                let pattern = match name.kind.as_deref() {
                    Some("Prefix") => MatchPattern::Prefix(name.value.clone()),
                    _ => MatchPattern::Exact(name.value.clone()),
                };
                san(kind, pattern)
            }));
        }
    }
    Ok(CertificateValidationContext {
        trusted_ca: Some(trusted_ca),
        match_typed_subject_alt_names: accepted,
        ..CertificateValidationContext::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn verification_needs_an_authority() {
        assert!(socket(&json!(null), "x.example", "").unwrap().is_none());
        assert!(socket(&json!({"enabled": true}), "x.example", "").is_err());
        assert!(
            socket(&json!({"enabled": true}), "x.example", "/etc/ca.pem")
                .unwrap()
                .is_some()
        );
        let skip = json!({"enabled": true, "verification": {"mode": "SkipAll"}});
        assert!(socket(&skip, "x.example", "").unwrap().is_some());
    }
}
