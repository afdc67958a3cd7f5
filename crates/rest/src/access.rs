//! Who the caller is, and what they may do.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use zonal_model::Kind;

use crate::problem::Problem;

/// Somebody who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// E.g. `mesh-system:admin`.
    pub name: String,
    /// E.g. `mesh-system:authenticated`.
    pub groups: Vec<String>,
}

const ADMIN: &str = "mesh-system:admin";
const AUTHENTICATED: &str = "mesh-system:authenticated";
const UNAUTHENTICATED: &str = "mesh-system:unauthenticated";

impl User {
    /// The administrator.
    #[must_use]
    pub fn admin() -> Self {
        Self {
            name: ADMIN.to_owned(),
            groups: vec![ADMIN.to_owned(), AUTHENTICATED.to_owned()],
        }
    }

    /// Whoever shows nothing.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            name: "mesh-system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
        }
    }

    /// The bearer of a user token with these claims.
    #[must_use]
    pub fn of_token(name: String, mut groups: Vec<String>) -> Self {
        groups.push(AUTHENTICATED.to_owned());
        Self { name, groups }
    }
}

/// A user token was refused. The reason goes to the log, not to the caller.
#[derive(Clone, Debug, thiserror::Error)]
#[error("user token refused: {0}")]
pub struct TokenRefused(pub String);

/// Checks user tokens.
pub trait Authenticator: Send + Sync {
    /// Whose token this is.
    ///
    /// # Errors
    /// The token is not valid here and now.
    fn verify(&self, token: &str) -> Result<User, TokenRefused>;
}

/// Refuses every token: a control plane without signing keys.
#[derive(Clone, Copy, Debug)]
pub struct NoTokens;

impl Authenticator for NoTokens {
    fn verify(&self, _token: &str) -> Result<User, TokenRefused> {
        Err(TokenRefused(
            "this control plane takes no user tokens".to_owned(),
        ))
    }
}

/// Where a request comes from. Whoever accepts connections puts it into the request's extensions; without it nobody
/// is taken for local.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The far end's address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Who may do one thing: the named users, and members of the named groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Users by name.
    pub users: Vec<String>,
    /// Groups by name.
    pub groups: Vec<String>,
}

impl Allowed {
    fn admins() -> Self {
        Self {
            users: vec![ADMIN.to_owned()],
            groups: vec![ADMIN.to_owned()],
        }
    }

    fn everybody() -> Self {
        Self {
            users: Vec::new(),
            groups: vec![UNAUTHENTICATED.to_owned(), AUTHENTICATED.to_owned()],
        }
    }

    fn has(&self, user: &User) -> bool {
        self.users.contains(&user.name)
            || user.groups.iter().any(|group| self.groups.contains(group))
    }
}

/// A guarded thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read or write a kind that only administrators see.
    AdminResource(Kind),
    /// Issue a dataplane token.
    GenerateDataplaneToken,
    /// Issue a zone token.
    GenerateZoneToken {
        /// For which zone.
        zone: String,
    },
    /// Issue a user token.
    GenerateUserToken,
    /// See Envoy's configuration.
    ViewConfigDump,
    /// See Envoy's statistics.
    ViewStats,
    /// See Envoy's clusters.
    ViewClusters,
    /// See the control plane's configuration.
    ControlPlaneMetadata,
    /// Take along everything that is kept, secrets too.
    Backup,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// See [`Action::AdminResource`].
    pub admin_resources: Allowed,
    /// See [`Action::GenerateDataplaneToken`].
    pub generate_dp_token: Allowed,
    /// See [`Action::GenerateZoneToken`].
    pub generate_zone_token: Allowed,
    /// See [`Action::GenerateUserToken`].
    pub generate_user_token: Allowed,
    /// See [`Action::ViewConfigDump`].
    pub view_config_dump: Allowed,
    /// See [`Action::ViewStats`].
    pub view_stats: Allowed,
    /// See [`Action::ViewClusters`].
    pub view_clusters: Allowed,
    /// See [`Action::ControlPlaneMetadata`].
    pub control_plane_metadata: Allowed,
    /// Whoever calls from this machine is the administrator.
    pub localhost_is_admin: bool,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            admin_resources: Allowed::admins(),
            generate_dp_token: Allowed::admins(),
            generate_zone_token: Allowed::admins(),
            generate_user_token: Allowed::admins(),
            view_config_dump: Allowed::everybody(),
            view_stats: Allowed::everybody(),
            view_clusters: Allowed::everybody(),
            control_plane_metadata: Allowed::everybody(),
            localhost_is_admin: true,
        }
    }
}

impl Access {
    /// Lets the caller through, or says why not.
    ///
    /// # Errors
    /// The caller may not; the answer is a 403.
    pub fn check(&self, user: &User, action: &Action) -> Result<(), Problem> {
        let allowed = match action {
            Action::AdminResource(_) | Action::Backup => &self.admin_resources,
            Action::GenerateDataplaneToken => &self.generate_dp_token,
            Action::GenerateZoneToken { .. } => &self.generate_zone_token,
            Action::GenerateUserToken => &self.generate_user_token,
            Action::ViewConfigDump => &self.view_config_dump,
            Action::ViewStats => &self.view_stats,
            Action::ViewClusters => &self.view_clusters,
            Action::ControlPlaneMetadata => &self.control_plane_metadata,
        };
        if allowed.has(user) {
            return Ok(());
        }
        let what = match action {
            Action::AdminResource(kind) => format!("the resource of type \"{kind}\""),
            Action::GenerateDataplaneToken => "generate dataplane token".to_owned(),
            Action::GenerateZoneToken { zone } => format!("generate zone token for zone '{zone}'"),
            Action::GenerateUserToken => return Err(Problem::denied("action not allowed")),
            Action::ViewConfigDump | Action::ViewStats | Action::ViewClusters => {
                "envoy proxy info".to_owned()
            }
            Action::ControlPlaneMetadata => "control-plane metadata".to_owned(),
            Action::Backup => "a backup of the store".to_owned(),
        };
        let who = format!("{}/{}", user.name, user.groups.join(","));
        Err(Problem::denied(format!(
            "user \"{who}\" cannot access {what}"
        )))
    }

    /// As [`Access::check`], for one resource of a kind.
    pub(crate) fn check_kind(&self, user: &User, kind: Kind) -> Result<(), Problem> {
        if kind.descriptor().admin_only {
            self.check(user, &Action::AdminResource(kind))
        } else {
            Ok(())
        }
    }

    /// Finds out who calls.
    pub(crate) fn caller(
        &self,
        headers: &HeaderMap,
        authority: Option<&str>,
        peer: Option<Peer>,
        tokens: &dyn Authenticator,
    ) -> Result<User, Problem> {
        if self.localhost_is_admin && is_local(headers, authority, peer) {
            return Ok(User::admin());
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(User::anonymous());
        };
        let token = value
            .to_str()
            .ok()
            .and_then(|value| value.strip_prefix("Bearer "));
        let Some(token) = token else {
            return Ok(User::anonymous());
        };
        tokens.verify(token.trim()).map_err(|refused| {
            tracing::info!(peer = ?peer.map(|peer| peer.address), %refused, "a caller is not let in");
            Problem::unauthenticated()
        })
    }
}

/// Whether a request was made on this machine, for this machine, and not by a web page of somebody else.
fn is_local(headers: &HeaderMap, authority: Option<&str>, peer: Option<Peer>) -> bool {
    let Some(peer) = peer else { return false };
    if !peer.address.ip().to_canonical().is_loopback() {
        return false;
    }
    if ["forwarded", "x-forwarded-for", "x-real-ip"]
        .iter()
        .any(|name| headers.contains_key(*name))
    {
        return false;
    }
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let Some(host) = authority.or_else(|| text("host")) else {
        return false;
    };
    if !is_loopback_host(host) {
        return false;
    }
    if !matches!(text("sec-fetch-site"), None | Some("same-origin" | "none")) {
        return false;
    }
    match text("origin") {
        None => true,
        Some(origin) => {
            let scheme = if peer.tls { "https" } else { "http" };
            origin == format!("{scheme}://{host}")
        }
    }
}

fn is_loopback_host(host: &str) -> bool {
    let name = if let Some(rest) = host.strip_prefix('[') {
        rest.split(']').next().unwrap_or_default()
    } else if host.matches(':').count() > 1 {
        host
    } else {
        host.split(':').next().unwrap_or_default()
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(peer: &str, headers: &[(&'static str, &str)], want: bool) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let peer = Peer {
            address: peer.parse().unwrap(),
            tls: false,
        };
        assert_eq!(is_local(&map, None, Some(peer)), want, "{headers:?}");
    }

    #[test]
    fn only_this_machine_speaking_to_itself_is_local() {
        let local = "127.0.0.1:999";
        check(local, &[("host", "localhost:5681")], true);
        check("[::1]:9", &[("host", "[::1]:5681")], true);
        check("[::ffff:127.0.0.1]:9", &[("host", "127.0.0.1")], true);
        check("10.0.0.1:9", &[("host", "localhost:5681")], false);
        check(local, &[("host", "cp.example")], false);
        check(local, &[], false);
        check(
            local,
            &[("host", "localhost"), ("x-forwarded-for", "1.2.3.4")],
            false,
        );
        check(
            local,
            &[("host", "localhost"), ("sec-fetch-site", "cross-site")],
            false,
        );
        check(
            local,
            &[("host", "localhost"), ("sec-fetch-site", "none")],
            true,
        );
        check(
            local,
            &[("host", "localhost:1"), ("origin", "http://localhost:1")],
            true,
        );
        check(
            local,
            &[("host", "localhost:1"), ("origin", "http://evil.example")],
            false,
        );
    }
}
