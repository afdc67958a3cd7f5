//! What a believed token permits.

use zonal_model::{Labels, labels};

use super::claims::{DataplaneClaims, ZoneClaims};

/// Why a good token does not permit what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    #[error("proxy name from requestor: {asked} is different than in token: {token}")]
    Name { asked: String, token: String },
    #[error("proxy mesh from requestor: {asked} is different than in token: {token}")]
    Mesh { asked: String, token: String },
    #[error("dataplane has no tag \"{tag}\" required by the token")]
    NoTag { tag: String },
    #[error(
        "dataplane contains tag \"{tag}\" with value \"{value}\" which is not allowed with this token. Allowed values \
         in token are {allowed:?}"
    )]
    TagValue {
        tag: String,
        value: String,
        allowed: Vec<String>,
    },
    #[error("dataplane has no workload label required by the token")]
    NoWorkload,
    #[error(
        "dataplane workload \"{asked}\" is not allowed with this token. Allowed workload in token is \"{token}\""
    )]
    Workload { asked: String, token: String },
    #[error(
        "dataplane with \"kuma.io/workload\" label \"{workload}\" derives its identity from the workload, so it requires \
         a workload-bound token"
    )]
    Unbound { workload: String },
    #[error("token is for zone `{token}`, this is zone `{asked}`")]
    Zone { asked: String, token: String },
    #[error("token has scope {scope:?}, which does not allow `{asked}`")]
    Scope { asked: String, scope: Vec<String> },
}

impl DataplaneClaims {
    /// Whether the proxy `mesh`/`name` with these labels may use the token. `identity_of_workload` says that the
    /// proxy's SPIFFE id comes from its workload label, which then has to be vouched for.
    ///
    /// # Errors
    /// The first claim that does not fit.
    pub fn permits(
        &self,
        mesh: &str,
        name: &str,
        proxy_labels: &Labels,
        identity_of_workload: bool,
    ) -> Result<(), NotPermitted> {
        if !self.name.is_empty() && self.name != name {
            return Err(NotPermitted::Name {
                asked: name.to_owned(),
                token: self.name.clone(),
            });
        }
        if !self.mesh.is_empty() && self.mesh != mesh {
            return Err(NotPermitted::Mesh {
                asked: mesh.to_owned(),
                token: self.mesh.clone(),
            });
        }
        for (tag, allowed) in &self.tags {
            match proxy_labels.get(tag) {
                None => return Err(NotPermitted::NoTag { tag: tag.clone() }),
                Some(value) if !allowed.contains(value) => {
                    return Err(NotPermitted::TagValue {
                        tag: tag.clone(),
                        value: value.clone(),
                        allowed: allowed.clone(),
                    });
                }
                Some(_) => {}
            }
        }
        match (self.workload.as_str(), proxy_labels.get(labels::WORKLOAD)) {
            ("", Some(workload)) if identity_of_workload => Err(NotPermitted::Unbound {
                workload: workload.clone(),
            }),
            ("", _) => Ok(()),
            (_, None) => Err(NotPermitted::NoWorkload),
            (token, Some(asked)) if asked != token => Err(NotPermitted::Workload {
                asked: asked.clone(),
                token: token.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// The scope of a zone's control plane.
const SCOPE_CONTROL_PLANE: &str = "cp";

impl ZoneClaims {
    /// Whether the control plane of `zone` may use the token. A token without scope, or with scope `cp`, is for
    /// control planes.
    ///
    /// # Errors
    /// When it is for another zone or another use.
    pub fn permits(&self, zone: &str) -> Result<(), NotPermitted> {
        if self.zone != zone {
            return Err(NotPermitted::Zone {
                asked: zone.to_owned(),
                token: self.zone.clone(),
            });
        }
        if self.scope.is_empty() || self.scope.iter().any(|scope| scope == SCOPE_CONTROL_PLANE) {
            return Ok(());
        }
        Err(NotPermitted::Scope {
            asked: SCOPE_CONTROL_PLANE.to_owned(),
            scope: self.scope.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> DataplaneClaims {
        DataplaneClaims {
            name: "web-1".to_owned(),
            mesh: "default".to_owned(),
            tags: [("team".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into(),
            proxy_type: String::new(),
            workload: "web".to_owned(),
        }
    }

    fn proxy(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[track_caller]
    fn check(
        claims: &DataplaneClaims,
        mesh: &str,
        name: &str,
        labels: &[(&str, &str)],
        want: &str,
    ) {
        let got = claims.permits(mesh, name, &proxy(labels), true);
        assert_eq!(
            got.err().map(|error| error.to_string()).unwrap_or_default(),
            want
        );
    }

    #[test]
    fn every_claim_of_a_dataplane_token_restricts() {
        let good = [("team", "b"), ("kuma.io/workload", "web")];
        check(&claims(), "default", "web-1", &good, "");
        check(
            &claims(),
            "default",
            "x",
            &good,
            "proxy name from requestor: x is different than in token: web-1",
        );
        check(
            &claims(),
            "m",
            "web-1",
            &good,
            "proxy mesh from requestor: m is different than in token: default",
        );
        check(
            &claims(),
            "default",
            "web-1",
            &good[1..],
            "dataplane has no tag \"team\" required by the token",
        );
        check(
            &claims(),
            "default",
            "web-1",
            &[("team", "c")],
            "dataplane contains tag \"team\" with value \"c\" which is not allowed with this token. Allowed values in token are [\"a\", \"b\"]",
        );
        check(
            &claims(),
            "default",
            "web-1",
            &good[..1],
            "dataplane has no workload label required by the token",
        );
        check(
            &claims(),
            "default",
            "web-1",
            &[("team", "a"), ("kuma.io/workload", "api")],
            "dataplane workload \"api\" is not allowed with this token. Allowed workload in token is \"web\"",
        );
    }

    #[test]
    fn unbound_token_does_not_vouch_for_a_workload_identity() {
        let open = DataplaneClaims::default();
        check(&open, "m", "n", &[], "");
        check(
            &open,
            "m",
            "n",
            &[("kuma.io/workload", "web")],
            "dataplane with \"kuma.io/workload\" label \"web\" derives its identity from the workload, so it requires a workload-bound token",
        );
        assert_eq!(
            open.permits("m", "n", &proxy(&[("kuma.io/workload", "web")]), false),
            Ok(())
        );
    }

    #[test]
    fn zone_token_is_for_its_zone_only() {
        let east = ZoneClaims {
            zone: "east".to_owned(),
            scope: vec!["cp".to_owned()],
        };
        assert_eq!(east.permits("east"), Ok(()));
        let refusal = east.permits("west").unwrap_err().to_string();
        assert_eq!(refusal, "token is for zone `east`, this is zone `west`");
        let egress = ZoneClaims {
            zone: "east".to_owned(),
            scope: vec!["egress".to_owned()],
        };
        assert!(egress.permits("east").is_err());
    }
}
