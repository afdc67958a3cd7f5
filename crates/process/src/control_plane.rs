//! The configuration that global and zones have in common: the keys and variables that Kuma's users know, and ours.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Loaded, Loader, Problems, Shape, Variable, parse_duration};
use crate::logs::Format;

/// What the operator wrote: everything optional, nothing checked. Key names are Kuma's where Kuma has the same.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Raw {
    /// `general`.
    pub general: RawGeneral,
    /// `store`.
    pub store: RawStore,
    /// `apiServer`.
    pub api_server: RawApiServer,
    /// `diagnostics`.
    pub diagnostics: RawDiagnostics,
    /// `dpServer`, zones only.
    pub dp_server: RawDpServer,
    /// `bootstrapServer`, zones only.
    pub bootstrap_server: RawBootstrapServer,
    /// `multizone`.
    pub multizone: RawMultizone,
    /// `defaults`.
    pub defaults: RawDefaults,
    /// `xds`, zones only.
    pub xds: RawXds,
    /// `meshService`, zones only.
    pub mesh_service: RawMeshService,
    /// `log`.
    pub log: RawLog,
    /// How long a stop may take.
    pub drain_time: Option<String>,
}

macro_rules! raw {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize, Serialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

raw! {
    /// See [`Raw::general`].
    RawGeneral {
        /// Where certificates and the store are kept.
        work_dir: Option<PathBuf>,
        /// A certificate of the operator's, instead of a self-signed one.
        tls_cert_file: Option<PathBuf>,
        /// Its key.
        tls_key_file: Option<PathBuf>,
    }
}
raw! {
    /// See [`Raw::store`].
    RawStore {
        /// `file` (the default), `memory` or `etcd`.
        r#type: Option<String>,
        /// Of type `file`.
        file: RawFileStore,
        /// Of type `etcd`.
        etcd: RawEtcdStore,
        /// Removes what others still need without asking.
        unsafe_delete: Option<bool>,
    }
}
raw! {
    /// `store.file`.
    RawFileStore {
        /// The file; `store.redb` in the work folder unless given.
        path: Option<PathBuf>,
    }
}
raw! {
    /// `store.etcd`.
    RawEtcdStore {
        /// `host:port` of each member.
        endpoints: Option<Vec<String>>,
        /// Under which all keys are.
        prefix: Option<String>,
    }
}
raw! {
    /// See [`Raw::api_server`].
    RawApiServer {
        /// Without TLS; on this machine only unless told otherwise.
        http: RawListener,
        /// With TLS.
        https: RawListener,
        /// Who is who.
        authn: RawAuthn,
        /// Nothing may be written over REST.
        read_only: Option<bool>,
    }
}
raw! {
    /// A listener.
    RawListener {
        /// Whether to listen at all.
        enabled: Option<bool>,
        /// The address.
        interface: Option<String>,
        /// The port.
        port: Option<u16>,
    }
}
raw! {
    /// `apiServer.authn`.
    RawAuthn {
        /// Whoever calls from this machine is the administrator.
        localhost_is_admin: Option<bool>,
    }
}
raw! {
    /// See [`Raw::diagnostics`].
    RawDiagnostics {
        /// The address.
        interface: Option<String>,
        /// The port.
        server_port: Option<u16>,
    }
}
raw! {
    /// See [`Raw::dp_server`].
    RawDpServer {
        /// The address.
        interface: Option<String>,
        /// The port.
        port: Option<u16>,
        /// What proxies show.
        authn: RawDpAuthn,
    }
}
raw! {
    /// `dpServer.authn`.
    RawDpAuthn {
        /// Of sidecars and zone proxies.
        dp_proxy: RawDpProxyAuthn,
    }
}
raw! {
    /// `dpServer.authn.dpProxy`.
    RawDpProxyAuthn {
        /// `dpToken` (the default) or `none`.
        r#type: Option<String>,
    }
}
raw! {
    /// See [`Raw::bootstrap_server`].
    RawBootstrapServer {
        /// What proxies are told.
        params: RawBootstrapParams,
    }
}
raw! {
    /// `bootstrapServer.params`.
    RawBootstrapParams {
        /// Where proxies find this control plane; the host of their request unless given.
        xds_host: Option<String>,
        /// The port there.
        xds_port: Option<u16>,
    }
}
raw! {
    /// See [`Raw::multizone`].
    RawMultizone {
        /// At global.
        global: RawGlobal,
        /// In a zone.
        zone: RawZone,
    }
}
raw! {
    /// `multizone.global`.
    RawGlobal {
        /// The server for zones.
        kds: RawGlobalKds,
    }
}
raw! {
    /// `multizone.global.kds`.
    RawGlobalKds {
        /// The address.
        interface: Option<String>,
        /// The port.
        grpc_port: Option<u16>,
        /// Whether with TLS.
        tls_enabled: Option<bool>,
        /// A certificate of its own.
        tls_cert_file: Option<PathBuf>,
        /// Its key.
        tls_key_file: Option<PathBuf>,
        /// The largest message, decompressed.
        max_msg_size: Option<usize>,
        /// Zones that may join without a token, because they cannot send one.
        zones_without_token: Option<Vec<String>>,
        /// Whether zones are told the trust bundles of the others.
        distribute_trust: Option<bool>,
        /// How long the certificates are good that zones get for a join token.
        zone_certificate_lifetime: Option<String>,
    }
}
raw! {
    /// `multizone.zone`.
    RawZone {
        /// The zone's name.
        name: Option<String>,
        /// `grpcs://host:port` of global; a zone on its own has none.
        global_address: Option<String>,
        /// What `zonal zone join-token` printed; names the zone and global too.
        join_token: Option<String>,
        /// Leaves the federation: what came from global becomes the zone's own.
        leave: Option<bool>,
        /// The file with the zone's token.
        token_file: Option<PathBuf>,
        /// How global is reached.
        kds: RawZoneKds,
        /// Writes need not say that they originate in the zone.
        disable_origin_label_validation: Option<bool>,
    }
}
raw! {
    /// `multizone.zone.kds`.
    RawZoneKds {
        /// Whom to believe to be global.
        root_ca_file: Option<PathBuf>,
        /// Believe anyone.
        tls_skip_verify: Option<bool>,
        /// The largest message, decompressed.
        max_msg_size: Option<usize>,
    }
}
raw! {
    /// See [`Raw::defaults`].
    RawDefaults {
        /// Makes no mesh `default`.
        skip_mesh_creation: Option<bool>,
        /// Makes no hostname generators.
        skip_hostname_generators: Option<bool>,
    }
}
raw! {
    /// See [`Raw::xds`].
    RawXds {
        /// How long a Dataplane that came with its proxy outlives the proxy's stream.
        dataplane_deregistration_delay: Option<String>,
    }
}
raw! {
    /// See [`Raw::mesh_service`].
    RawMeshService {
        /// How long a generated service without proxies is kept.
        deletion_grace_period: Option<String>,
    }
}
raw! {
    /// See [`Raw::log`].
    RawLog {
        /// A filter, e.g. `info` or `info,zone_cp=debug`.
        level: Option<String>,
        /// `text` or `json`.
        format: Option<String>,
    }
}

const fn variable(path: &'static str, names: &'static [&'static str], shape: Shape) -> Variable {
    Variable { path, names, shape }
}

/// The environment, name by name: ours, then Kuma's.
pub const ENVIRONMENT: &[Variable] = &[
    variable(
        "general.workDir",
        &["ZONAL_WORK_DIR", "KUMA_GENERAL_WORK_DIR"],
        Shape::Text,
    ),
    variable(
        "general.tlsCertFile",
        &["ZONAL_TLS_CERT_FILE", "KUMA_GENERAL_TLS_CERT_FILE"],
        Shape::Text,
    ),
    variable(
        "general.tlsKeyFile",
        &["ZONAL_TLS_KEY_FILE", "KUMA_GENERAL_TLS_KEY_FILE"],
        Shape::Text,
    ),
    variable(
        "store.type",
        &["ZONAL_STORE_TYPE", "KUMA_STORE_TYPE"],
        Shape::Text,
    ),
    variable("store.file.path", &["ZONAL_STORE_FILE_PATH"], Shape::Text),
    variable(
        "store.etcd.endpoints",
        &["ZONAL_STORE_ETCD_ENDPOINTS"],
        Shape::List,
    ),
    variable(
        "store.etcd.prefix",
        &["ZONAL_STORE_ETCD_PREFIX"],
        Shape::Text,
    ),
    variable(
        "store.unsafeDelete",
        &["ZONAL_STORE_UNSAFE_DELETE", "KUMA_STORE_UNSAFE_DELETE"],
        Shape::Bool,
    ),
    variable(
        "apiServer.http.enabled",
        &[
            "ZONAL_API_SERVER_HTTP_ENABLED",
            "KUMA_API_SERVER_HTTP_ENABLED",
        ],
        Shape::Bool,
    ),
    variable(
        "apiServer.http.interface",
        &[
            "ZONAL_API_SERVER_HTTP_INTERFACE",
            "KUMA_API_SERVER_HTTP_INTERFACE",
        ],
        Shape::Text,
    ),
    variable(
        "apiServer.http.port",
        &["ZONAL_API_SERVER_HTTP_PORT", "KUMA_API_SERVER_HTTP_PORT"],
        Shape::Number,
    ),
    variable(
        "apiServer.https.enabled",
        &[
            "ZONAL_API_SERVER_HTTPS_ENABLED",
            "KUMA_API_SERVER_HTTPS_ENABLED",
        ],
        Shape::Bool,
    ),
    variable(
        "apiServer.https.interface",
        &[
            "ZONAL_API_SERVER_HTTPS_INTERFACE",
            "KUMA_API_SERVER_HTTPS_INTERFACE",
        ],
        Shape::Text,
    ),
    variable(
        "apiServer.https.port",
        &["ZONAL_API_SERVER_HTTPS_PORT", "KUMA_API_SERVER_HTTPS_PORT"],
        Shape::Number,
    ),
    variable(
        "apiServer.authn.localhostIsAdmin",
        &[
            "ZONAL_API_SERVER_AUTHN_LOCALHOST_IS_ADMIN",
            "KUMA_API_SERVER_AUTHN_LOCALHOST_IS_ADMIN",
        ],
        Shape::Bool,
    ),
    variable(
        "apiServer.readOnly",
        &["ZONAL_API_SERVER_READ_ONLY", "KUMA_API_SERVER_READ_ONLY"],
        Shape::Bool,
    ),
    variable(
        "diagnostics.interface",
        &["ZONAL_DIAGNOSTICS_INTERFACE"],
        Shape::Text,
    ),
    variable(
        "diagnostics.serverPort",
        &[
            "ZONAL_DIAGNOSTICS_SERVER_PORT",
            "KUMA_DIAGNOSTICS_SERVER_PORT",
        ],
        Shape::Number,
    ),
    variable(
        "dpServer.interface",
        &["ZONAL_DP_SERVER_INTERFACE"],
        Shape::Text,
    ),
    variable(
        "dpServer.port",
        &["ZONAL_DP_SERVER_PORT", "KUMA_DP_SERVER_PORT"],
        Shape::Number,
    ),
    variable(
        "dpServer.authn.dpProxy.type",
        &[
            "ZONAL_DP_SERVER_AUTHN_DP_PROXY_TYPE",
            "KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE",
        ],
        Shape::Text,
    ),
    variable(
        "bootstrapServer.params.xdsHost",
        &[
            "ZONAL_BOOTSTRAP_SERVER_PARAMS_XDS_HOST",
            "KUMA_BOOTSTRAP_SERVER_PARAMS_XDS_HOST",
        ],
        Shape::Text,
    ),
    variable(
        "bootstrapServer.params.xdsPort",
        &[
            "ZONAL_BOOTSTRAP_SERVER_PARAMS_XDS_PORT",
            "KUMA_BOOTSTRAP_SERVER_PARAMS_XDS_PORT",
        ],
        Shape::Number,
    ),
    variable(
        "multizone.global.kds.interface",
        &["ZONAL_MULTIZONE_GLOBAL_KDS_INTERFACE"],
        Shape::Text,
    ),
    variable(
        "multizone.global.kds.grpcPort",
        &[
            "ZONAL_MULTIZONE_GLOBAL_KDS_GRPC_PORT",
            "KUMA_MULTIZONE_GLOBAL_KDS_GRPC_PORT",
        ],
        Shape::Number,
    ),
    variable(
        "multizone.global.kds.tlsEnabled",
        &[
            "ZONAL_MULTIZONE_GLOBAL_KDS_TLS_ENABLED",
            "KUMA_MULTIZONE_GLOBAL_KDS_TLS_ENABLED",
        ],
        Shape::Bool,
    ),
    variable(
        "multizone.global.kds.tlsCertFile",
        &[
            "ZONAL_MULTIZONE_GLOBAL_KDS_TLS_CERT_FILE",
            "KUMA_MULTIZONE_GLOBAL_KDS_TLS_CERT_FILE",
        ],
        Shape::Text,
    ),
    variable(
        "multizone.global.kds.tlsKeyFile",
        &[
            "ZONAL_MULTIZONE_GLOBAL_KDS_TLS_KEY_FILE",
            "KUMA_MULTIZONE_GLOBAL_KDS_TLS_KEY_FILE",
        ],
        Shape::Text,
    ),
    variable(
        "multizone.global.kds.maxMsgSize",
        &[
            "ZONAL_MULTIZONE_GLOBAL_KDS_MAX_MSG_SIZE",
            "KUMA_MULTIZONE_GLOBAL_KDS_MAX_MSG_SIZE",
        ],
        Shape::Number,
    ),
    variable(
        "multizone.global.kds.zonesWithoutToken",
        &["ZONAL_MULTIZONE_GLOBAL_KDS_ZONES_WITHOUT_TOKEN"],
        Shape::List,
    ),
    variable(
        "multizone.global.kds.distributeTrust",
        &["ZONAL_MULTIZONE_GLOBAL_KDS_DISTRIBUTE_TRUST"],
        Shape::Bool,
    ),
    variable(
        "multizone.global.kds.zoneCertificateLifetime",
        &["ZONAL_MULTIZONE_GLOBAL_KDS_ZONE_CERTIFICATE_LIFETIME"],
        Shape::Text,
    ),
    variable(
        "multizone.zone.leave",
        &["ZONAL_MULTIZONE_ZONE_LEAVE"],
        Shape::Bool,
    ),
    variable(
        "multizone.zone.joinToken",
        &["ZONAL_MULTIZONE_ZONE_JOIN_TOKEN"],
        Shape::Text,
    ),
    variable(
        "multizone.zone.name",
        &["ZONAL_MULTIZONE_ZONE_NAME", "KUMA_MULTIZONE_ZONE_NAME"],
        Shape::Text,
    ),
    variable(
        "multizone.zone.globalAddress",
        &[
            "ZONAL_MULTIZONE_ZONE_GLOBAL_ADDRESS",
            "KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS",
        ],
        Shape::Text,
    ),
    variable(
        "multizone.zone.tokenFile",
        &["ZONAL_MULTIZONE_ZONE_TOKEN_FILE"],
        Shape::Text,
    ),
    variable(
        "multizone.zone.kds.rootCaFile",
        &[
            "ZONAL_MULTIZONE_ZONE_KDS_ROOT_CA_FILE",
            "KUMA_MULTIZONE_ZONE_KDS_ROOT_CA_FILE",
        ],
        Shape::Text,
    ),
    variable(
        "multizone.zone.kds.tlsSkipVerify",
        &[
            "ZONAL_MULTIZONE_ZONE_KDS_TLS_SKIP_VERIFY",
            "KUMA_MULTIZONE_ZONE_KDS_TLS_SKIP_VERIFY",
        ],
        Shape::Bool,
    ),
    variable(
        "multizone.zone.kds.maxMsgSize",
        &[
            "ZONAL_MULTIZONE_ZONE_KDS_MAX_MSG_SIZE",
            "KUMA_MULTIZONE_ZONE_KDS_MAX_MSG_SIZE",
        ],
        Shape::Number,
    ),
    variable(
        "multizone.zone.disableOriginLabelValidation",
        &[
            "ZONAL_MULTIZONE_ZONE_DISABLE_ORIGIN_LABEL_VALIDATION",
            "KUMA_MULTIZONE_ZONE_DISABLE_ORIGIN_LABEL_VALIDATION",
        ],
        Shape::Bool,
    ),
    variable(
        "defaults.skipMeshCreation",
        &[
            "ZONAL_DEFAULTS_SKIP_MESH_CREATION",
            "KUMA_DEFAULTS_SKIP_MESH_CREATION",
        ],
        Shape::Bool,
    ),
    variable(
        "defaults.skipHostnameGenerators",
        &[
            "ZONAL_DEFAULTS_SKIP_HOSTNAME_GENERATORS",
            "KUMA_DEFAULTS_SKIP_HOSTNAME_GENERATORS",
        ],
        Shape::Bool,
    ),
    variable(
        "xds.dataplaneDeregistrationDelay",
        &[
            "ZONAL_XDS_DATAPLANE_DEREGISTRATION_DELAY",
            "KUMA_XDS_DATAPLANE_DEREGISTRATION_DELAY",
        ],
        Shape::Text,
    ),
    variable(
        "meshService.deletionGracePeriod",
        &[
            "ZONAL_MESH_SERVICE_DELETION_GRACE_PERIOD",
            "KUMA_MESH_SERVICE_DELETION_GRACE_PERIOD",
        ],
        Shape::Text,
    ),
    variable("log.level", &["ZONAL_LOG_LEVEL"], Shape::Text),
    variable("log.format", &["ZONAL_LOG_FORMAT"], Shape::Text),
    variable("drainTime", &["ZONAL_DRAIN_TIME"], Shape::Text),
];

/// Where resources are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// Nowhere: everything is gone with the process.
    Memory,
    /// In one file.
    File(PathBuf),
    /// In etcd.
    Etcd {
        /// Its members.
        endpoints: Vec<String>,
        /// Under which all keys are.
        prefix: String,
    },
}

/// The parts that both control planes run with: complete and possible.
#[derive(Clone, Debug)]
pub struct Common {
    /// Where certificates and the store are kept.
    pub work_dir: PathBuf,
    /// Certificate and key of the operator's.
    pub tls_files: Option<(PathBuf, PathBuf)>,
    /// Where resources are kept.
    pub store: StoreChoice,
    /// Removes what others still need without asking.
    pub unsafe_delete: bool,
    /// REST without TLS.
    pub http: Option<SocketAddr>,
    /// REST with TLS.
    pub https: Option<SocketAddr>,
    /// The diagnostics page.
    pub diagnostics: SocketAddr,
    /// Whoever calls from this machine is the administrator.
    pub localhost_is_admin: bool,
    /// Nothing may be written over REST.
    pub read_only: bool,
    /// Makes no mesh `default`.
    pub skip_mesh_creation: bool,
    /// Makes no hostname generators.
    pub skip_hostname_generators: bool,
    /// The filter of the log.
    pub log_level: String,
    /// Its form.
    pub log_format: Format,
    /// How long a stop may take.
    pub drain: Duration,
}

/// Reads file and environment.
///
/// # Errors
/// Every problem of both.
pub fn load(file: Option<&Path>) -> Result<Loaded<Raw>, Problems> {
    Loader::new()
        .file(file)
        .process_environment(ENVIRONMENT)
        .load()
}

/// The largest message of a peer, decompressed, unless configured.
pub const MESSAGE_BYTES_MAX: usize = 10 << 20;

impl Common {
    /// Checks the common parts; problems are added to `problems` and a stand-in takes the place of what is wrong.
    #[must_use]
    pub fn check(raw: &Raw, program: &str, problems: &mut Problems) -> Self {
        let work_dir = raw
            .general
            .work_dir
            .clone()
            .unwrap_or_else(|| default_work_dir(program));
        let tls_files = match (&raw.general.tls_cert_file, &raw.general.tls_key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => {
                problems.add(
                    "general.tlsCertFile",
                    "give both `tlsCertFile` and `tlsKeyFile`, or neither",
                );
                None
            }
        };
        let store = match raw.store.r#type.as_deref() {
            None | Some("file") => StoreChoice::File(
                raw.store
                    .file
                    .path
                    .clone()
                    .unwrap_or_else(|| work_dir.join("store.redb")),
            ),
            Some("memory") => StoreChoice::Memory,
            Some("etcd") => StoreChoice::Etcd {
                endpoints: raw
                    .store
                    .etcd
                    .endpoints
                    .clone()
                    .unwrap_or_else(|| vec!["127.0.0.1:2379".to_owned()]),
                prefix: raw
                    .store
                    .etcd
                    .prefix
                    .clone()
                    .unwrap_or_else(|| "/zonal".to_owned()),
            },
            Some(other) => {
                problems.add(
                    "store.type",
                    format!("`{other}` is not a store; there are `file`, `memory` and `etcd`"),
                );
                StoreChoice::Memory
            }
        };
        // Anybody may write ordinary resources over REST, so without TLS only this machine gets in by default.
        let http = listener(
            &raw.api_server.http,
            Ipv4Addr::LOCALHOST,
            5681,
            "apiServer.http",
            problems,
        );
        let https = listener(
            &raw.api_server.https,
            Ipv4Addr::UNSPECIFIED,
            5682,
            "apiServer.https",
            problems,
        );
        let diagnostics = address(
            raw.diagnostics.interface.as_deref(),
            Ipv4Addr::LOCALHOST,
            raw.diagnostics.server_port.unwrap_or(5680),
            "diagnostics.interface",
            problems,
        );
        let log_format = match raw.log.format.as_deref() {
            None | Some("text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => {
                problems.add(
                    "log.format",
                    format!("`{other}` is neither `text` nor `json`"),
                );
                Format::Text
            }
        };
        Self {
            work_dir,
            tls_files,
            store,
            unsafe_delete: raw.store.unsafe_delete.unwrap_or(false),
            http,
            https,
            diagnostics,
            localhost_is_admin: raw.api_server.authn.localhost_is_admin.unwrap_or(true),
            read_only: raw.api_server.read_only.unwrap_or(false),
            skip_mesh_creation: raw.defaults.skip_mesh_creation.unwrap_or(false),
            skip_hostname_generators: raw.defaults.skip_hostname_generators.unwrap_or(false),
            log_level: raw.log.level.clone().unwrap_or_else(|| "info".to_owned()),
            log_format,
            drain: duration(
                raw.drain_time.as_deref(),
                Duration::from_secs(10),
                "drainTime",
                problems,
            ),
        }
    }

    /// The addresses that a self-signed certificate has to name beside the machine's own.
    #[must_use]
    pub fn extra_names(&self, more: &[SocketAddr]) -> Vec<String> {
        let mut names: Vec<String> = self
            .http
            .iter()
            .chain(&self.https)
            .chain(more)
            .map(SocketAddr::ip)
            .filter(|ip| !ip.is_unspecified())
            .map(|ip| ip.to_string())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

fn default_work_dir(program: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    home.join(".zonal").join(program)
}

fn listener(
    raw: &RawListener,
    interface: Ipv4Addr,
    port: u16,
    path: &str,
    problems: &mut Problems,
) -> Option<SocketAddr> {
    if raw.enabled == Some(false) {
        return None;
    }
    let place = format!("{path}.interface");
    Some(address(
        raw.interface.as_deref(),
        interface,
        raw.port.unwrap_or(port),
        &place,
        problems,
    ))
}

/// An address from its parts, with a default for the interface.
pub fn address(
    interface: Option<&str>,
    default: Ipv4Addr,
    port: u16,
    place: &str,
    problems: &mut Problems,
) -> SocketAddr {
    let ip = match interface.map(str::parse::<IpAddr>) {
        None => IpAddr::V4(default),
        Some(Ok(ip)) => ip,
        Some(Err(_)) => {
            problems.add(
                place,
                format!("`{}` is not an IP address", interface.unwrap_or_default()),
            );
            IpAddr::V4(default)
        }
    };
    SocketAddr::new(ip, port)
}

/// A duration such as `10s`, with a default.
pub fn duration(
    text: Option<&str>,
    default: Duration,
    place: &str,
    problems: &mut Problems,
) -> Duration {
    match text.map(parse_duration) {
        None => default,
        Some(Ok(duration)) => duration,
        Some(Err(error)) => {
            problems.add(place, error.to_string());
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_sets_a_key_that_exists() {
        let known = serde_json::to_value(Raw::default()).unwrap();
        for variable in ENVIRONMENT {
            let pointer = format!("/{}", variable.path.replace('.', "/"));
            assert!(known.pointer(&pointer).is_some(), "{}", variable.path);
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let raw: Raw = serde_json::from_value(serde_json::json!({
            "store": { "type": "paper" },
            "apiServer": { "https": { "interface": "here" } },
            "drainTime": "soon",
        }))
        .unwrap();
        let mut problems = Problems::default();
        let _common = Common::check(&raw, "global-cp", &mut problems);
        let places: Vec<&str> = problems
            .0
            .iter()
            .map(|problem| problem.place.as_str())
            .collect();
        assert_eq!(
            places,
            ["store.type", "apiServer.https.interface", "drainTime"]
        );
    }

    #[test]
    fn without_configuration_plain_rest_is_for_this_machine_only() {
        let mut problems = Problems::default();
        let common = Common::check(&Raw::default(), "global-cp", &mut problems);
        assert!(problems.is_empty());
        assert_eq!(common.http.unwrap().to_string(), "127.0.0.1:5681");
        assert_eq!(common.https.unwrap().to_string(), "0.0.0.0:5682");
    }
}
