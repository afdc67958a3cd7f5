//! What a zone's control plane runs with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use zonal_control_plane::Configuration;
use zonal_identity::join::JoinToken;
use zonal_model::{Mode, ZoneName};
use zonal_process::config::Problems;
use zonal_process::control_plane::{Common, MESSAGE_BYTES_MAX, Raw, address, duration};
use zonal_process::tls::Trust;

use crate::kds::GlobalAddress;
use crate::lifecycle::ProxyAuthentication;
use crate::membership::{self, MembershipError};

/// How global is reached.
#[derive(Clone, Debug)]
pub struct GlobalConfig {
    /// Where it is.
    pub address: GlobalAddress,
    /// What makes it believable; of no use without TLS.
    pub trust: Trust,
    /// What is traded for a certificate at the first start.
    pub join: Option<JoinToken>,
    /// The file with the zone's token; a Kuma global wants none.
    pub token_file: Option<PathBuf>,
    /// The largest message, decompressed.
    pub message_bytes_max: usize,
}

/// Complete and possible.
#[derive(Clone, Debug)]
pub struct Config {
    /// What both control planes have.
    pub common: Common,
    /// The zone.
    pub zone: ZoneName,
    /// Whether the configuration names it; otherwise an earlier start may have.
    pub zone_is_named: bool,
    /// Global; a zone on its own has none.
    pub global: Option<GlobalConfig>,
    /// Leaves the federation; then there is no global.
    pub leave: bool,
    /// Where proxies connect.
    pub dp_server: SocketAddr,
    /// What they show.
    pub proxy_authentication: ProxyAuthentication,
    /// Where proxies are told to find us, instead of the host they asked at.
    pub xds_host: Option<String>,
    /// The port there.
    pub xds_port: u16,
    /// How long a Dataplane that came with its proxy outlives the proxy's stream.
    pub deregistration_delay: Duration,
    /// How long a generated service without proxies is kept.
    pub deletion_grace_period: Duration,
    /// Writes need not say that they originate in the zone.
    pub origin_unchecked: bool,
}

impl Configuration for Config {
    fn from_raw(raw: &Raw) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let common = Common::check(raw, "zone-cp", &mut problems);
        let zone_raw = &raw.multizone.zone;
        let join: Option<JoinToken> = zone_raw
            .join_token
            .as_deref()
            .filter(|text| !text.is_empty())
            .and_then(|text| {
                // The text itself is not shown: it may be a token with a slip in it.
                let parsed = text.parse::<JoinToken>();
                parsed
                    .map_err(|error| problems.add("multizone.zone.joinToken", error.to_string()))
                    .ok()
            });
        let zone = name(zone_raw.name.as_deref(), join.as_ref(), &mut problems);
        let zone = problems.parsed("multizone.zone.name", &zone);
        let zone_is_named = zone_raw.name.is_some() || join.is_some();
        let leave = zone_raw.leave.unwrap_or(false);
        if leave && join.is_some() {
            problems.add(
                "multizone.zone.leave",
                "a zone joins or leaves: take out `joinToken`, or `leave`",
            );
        }
        let global = global(raw, join, &mut problems).filter(|_| !leave);
        let dp_server = address(
            raw.dp_server.interface.as_deref(),
            Ipv4Addr::UNSPECIFIED,
            raw.dp_server.port.unwrap_or(5678),
            "dpServer.interface",
            &mut problems,
        );
        let proxy_authentication = match raw.dp_server.authn.dp_proxy.r#type.as_deref() {
            None | Some("dpToken") => ProxyAuthentication::Token,
            Some("none") => ProxyAuthentication::None,
            Some(other) => {
                problems.add(
                    "dpServer.authn.dpProxy.type",
                    format!("`{other}` is neither `dpToken` nor `none`"),
                );
                ProxyAuthentication::Token
            }
        };
        let params = &raw.bootstrap_server.params;
        let deregistration_delay = duration(
            raw.xds.dataplane_deregistration_delay.as_deref(),
            Duration::from_secs(10),
            "xds.dataplaneDeregistrationDelay",
            &mut problems,
        );
        let deletion_grace_period = duration(
            raw.mesh_service.deletion_grace_period.as_deref(),
            Duration::from_secs(3600),
            "meshService.deletionGracePeriod",
            &mut problems,
        );
        match zone {
            Some(zone) if problems.is_empty() => Ok(Self {
                common,
                zone,
                zone_is_named,
                global,
                leave,
                dp_server,
                proxy_authentication,
                xds_host: params.xds_host.clone(),
                xds_port: params.xds_port.unwrap_or(dp_server.port()),
                deregistration_delay,
                deletion_grace_period,
                origin_unchecked: zone_raw.disable_origin_label_validation.unwrap_or(false),
            }),
            _ => Err(problems),
        }
    }

    fn common(&self) -> &Common {
        &self.common
    }
}

impl Config {
    /// Adds what an earlier start kept: the zone that joined goes on as that zone.
    pub(crate) fn with_membership(mut self) -> Result<Self, MembershipError> {
        let work_dir = &self.common.work_dir;
        let file = membership::file(work_dir);
        let Some(kept) = membership::kept(work_dir)? else {
            return Ok(self);
        };
        let told = |reason: String| MembershipError::File {
            file: file.display().to_string(),
            reason,
        };
        if self.zone_is_named && self.zone.as_str() != kept.zone {
            return Err(MembershipError::OtherName {
                file: file.display().to_string(),
                kept: kept.zone,
                named: self.zone.to_string(),
            });
        }
        self.zone = kept
            .zone
            .parse()
            .map_err(|error| told(format!("{error}")))?;
        if self.global.is_none() && !self.leave {
            let address: GlobalAddress = kept
                .global
                .parse()
                .map_err(|error| told(format!("{error}")))?;
            self.global = Some(GlobalConfig {
                address,
                trust: membership::pinned(&kept.fingerprint, &file)?,
                join: None,
                token_file: None,
                message_bytes_max: MESSAGE_BYTES_MAX,
            });
        }
        Ok(self)
    }

    /// Federated, or on its own.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        match self.global {
            Some(_) => Mode::FederatedZone,
            None => Mode::StandaloneZone,
        }
    }
}

/// The name that is written, or the one that the token is for.
fn name(written: Option<&str>, join: Option<&JoinToken>, problems: &mut Problems) -> String {
    match (written, join) {
        (Some(written), Some(join)) if written != join.zone => {
            problems.add(
                "multizone.zone.name",
                format!(
                    "`{written}`, but the join token is for zone `{}`: leave the name out, or take a token for `{written}`",
                    join.zone
                ),
            );
            written.to_owned()
        }
        (Some(written), _) => written.to_owned(),
        (None, Some(join)) => join.zone.clone(),
        (None, None) => "default".to_owned(),
    }
}

fn global(raw: &Raw, join: Option<JoinToken>, problems: &mut Problems) -> Option<GlobalConfig> {
    let zone = &raw.multizone.zone;
    let text = zone
        .global_address
        .as_deref()
        .filter(|text| !text.is_empty())
        .or(join.as_ref().map(|join| join.global.as_str()))?;
    let address: GlobalAddress = problems.parsed("multizone.zone.globalAddress", text)?;
    let with_tls = text.trim().starts_with("grpcs");
    let trust = match (&zone.kds.root_ca_file, zone.kds.tls_skip_verify) {
        (_, Some(true)) => Trust::Anyone,
        (Some(file), _) => Trust::AuthorityFile(file.clone()),
        (None, _) if !with_tls => {
            if join.is_some() {
                problems.add(
                    "multizone.zone.globalAddress",
                    "a join token is traded over TLS: write `grpcs://`, or leave the address to the token",
                );
            }
            Trust::Anyone
        }
        (None, _) => match &join {
            Some(join) => {
                Trust::Pinned(problems.parsed("multizone.zone.joinToken", &join.fingerprint)?)
            }
            None => {
                problems.add(
                "multizone.zone.kds.rootCaFile",
                "join with what `zonal zone join-token` prints, name the file with global's certificate authority (its `tls.crt`, if self-signed), or set `tlsSkipVerify`",
            );
                return None;
            }
        },
    };
    Some(GlobalConfig {
        address,
        trust,
        join,
        token_file: zone.token_file.clone(),
        message_bytes_max: zone.kds.max_msg_size.unwrap_or(MESSAGE_BYTES_MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: serde_json::Value, want: Result<&str, &[&str]>) {
        let raw: Raw = serde_json::from_value(json).unwrap();
        match (Config::from_raw(&raw), want) {
            (Ok(config), Ok(uri)) => {
                assert_eq!(
                    config
                        .global
                        .map(|g| g.address.to_string())
                        .unwrap_or_default(),
                    uri
                );
            }
            (Err(problems), Err(places)) => {
                let got: Vec<&str> = problems.0.iter().map(|p| p.place.as_str()).collect();
                assert_eq!(got, places);
            }
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn a_zone_needs_a_name_that_is_one_label_and_a_global_it_can_believe() {
        let zone = |zone: serde_json::Value| serde_json::json!({ "multizone": { "zone": zone } });
        check(zone(serde_json::json!({ "name": "east" })), Ok(""));
        check(
            zone(serde_json::json!({ "name": "east", "globalAddress": "grpc://127.0.0.1:5685" })),
            Ok("grpc://127.0.0.1:5685"),
        );
        check(
            zone(serde_json::json!({ "name": "East 1", "globalAddress": "grpcs://g:5685" })),
            Err(&["multizone.zone.name", "multizone.zone.kds.rootCaFile"]),
        );
        check(
            zone(serde_json::json!({ "name": "east", "globalAddress": "g:5685" })),
            Err(&["multizone.zone.globalAddress"]),
        );
    }

    #[test]
    fn a_join_token_names_zone_and_global() {
        let pin = format!("sha256:{}", "ab".repeat(32));
        let token = JoinToken::new("east", "grpcs://g:7", &pin)
            .to_text()
            .into_exposed();
        let zone = |more: serde_json::Value| {
            let mut zone = serde_json::json!({ "joinToken": token });
            zone.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            serde_json::json!({ "multizone": { "zone": zone } })
        };
        check(zone(serde_json::json!({})), Ok("grpcs://g:7"));
        check(
            zone(serde_json::json!({ "name": "east" })),
            Ok("grpcs://g:7"),
        );
        check(
            zone(serde_json::json!({ "globalAddress": "grpcs://nearer:7" })),
            Ok("grpcs://nearer:7"),
        );
        check(
            zone(serde_json::json!({ "name": "west" })),
            Err(&["multizone.zone.name"]),
        );
        check(
            zone(serde_json::json!({ "globalAddress": "grpc://g:7" })),
            Err(&["multizone.zone.globalAddress"]),
        );
        check(
            serde_json::json!({ "multizone": { "zone": { "joinToken": "abc" } } }),
            Err(&["multizone.zone.joinToken"]),
        );
        let raw: Raw = serde_json::from_value(zone(serde_json::json!({}))).unwrap();
        let config = Config::from_raw(&raw).unwrap();
        assert_eq!(config.zone.as_str(), "east");
        assert_eq!(
            config.global.unwrap().trust,
            Trust::Pinned(pin.parse().unwrap())
        );
    }
}
