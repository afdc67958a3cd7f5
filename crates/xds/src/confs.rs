//! Merged policy confs as resolved settings: every default filled in.

use std::time::Duration;

use zonal_policy::conf::{PermissionConf, TimeoutConf};

/// MeshTimeout with its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Timeouts {
    /// To establish a connection.
    pub(crate) connect: Duration,
    /// A connection without traffic.
    pub(crate) idle: Duration,
    /// A connection's whole life; zero means no end.
    pub(crate) connection_max: Duration,
    /// A stream's whole life; zero means no end.
    pub(crate) stream_max: Duration,
    /// A request.
    pub(crate) request: Duration,
    /// A stream without traffic.
    pub(crate) stream_idle: Duration,
    /// The headers of a request; zero means no end.
    pub(crate) request_headers: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::of(&TimeoutConf::default())
    }
}

impl Timeouts {
    /// Fills in what the conf leaves open.
    pub(crate) fn of(conf: &TimeoutConf) -> Self {
        let http = conf.http.clone().unwrap_or_default();
        Self {
            connect: conf.connection_timeout.unwrap_or(Duration::from_secs(5)),
            idle: conf.idle_timeout.unwrap_or(Duration::from_secs(3600)),
            connection_max: http.max_connection_duration.unwrap_or_default(),
            stream_max: http.max_stream_duration.unwrap_or_default(),
            request: http.request_timeout.unwrap_or(Duration::from_secs(15)),
            stream_idle: http.stream_idle_timeout.unwrap_or(Duration::from_secs(1800)),
            request_headers: http.request_headers_timeout.unwrap_or_default(),
        }
    }
}

/// The permissions of one inbound, highest precedence last. Without any, nobody is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) rules: Vec<PermissionRule>,
}

/// One policy's rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PermissionRule {
    /// The policy's KRI.
    pub(crate) origin: String,
    /// What it says.
    pub(crate) conf: PermissionConf,
}

impl PermissionRule {
    /// Whether some match asks for a server name, which a listener has to look for.
    pub(crate) fn mentions_sni(&self) -> bool {
        [&self.conf.deny, &self.conf.allow, &self.conf.allow_with_shadow_deny]
            .into_iter()
            .flatten()
            .flatten()
            .any(|caller| caller.sni.is_some())
    }
}
