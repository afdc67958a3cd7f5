//! SPIFFE ids: `spiffe://<trust domain>/<path>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a trust domain, e.g. `default.east.mesh.local`: lower-case letters, digits, `.`, `-` and `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// The identity of a workload, or of an authority when the path is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Empty, or starts with `/`.
    path: Arc<str>,
}

/// Why text is no SPIFFE id or trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffe {
    #[error("`{got}` is no SPIFFE id: it does not start with `spiffe://`")]
    Scheme { got: String },
    #[error("`{got}` is no trust domain: up to 255 lower-case letters, digits, `.`, `-` and `_`")]
    TrustDomain { got: String },
    #[error("`{got}` is no SPIFFE path: segments after `/` have letters, digits, `.`, `-` and `_`")]
    Path { got: String },
    #[error("the SPIFFE id has {bytes} bytes; at most 2048 are allowed")]
    TooLong { bytes: usize },
}

const ID_BYTES_MAX: usize = 2048;

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the domain itself, as an authority carries it.
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            trust_domain: self.clone(),
            path: "".into(),
        }
    }

    /// The id of a workload of this domain; `path` starts with `/`.
    ///
    /// # Errors
    /// When the path is malformed or the id too long.
    pub fn with_path(&self, path: &str) -> Result<SpiffeId, InvalidSpiffe> {
        let segments_are_good = path
            .strip_prefix('/')
            .is_some_and(|segments| segments.split('/').all(is_segment));
        if !segments_are_good {
            return Err(InvalidSpiffe::Path {
                got: path.to_owned(),
            });
        }
        let bytes = PREFIX.len() + self.0.len() + path.len();
        if bytes > ID_BYTES_MAX {
            return Err(InvalidSpiffe::TooLong { bytes });
        }
        Ok(SpiffeId {
            trust_domain: self.clone(),
            path: path.into(),
        })
    }
}

impl SpiffeId {
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Empty, or starts with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

const PREFIX: &str = "spiffe://";

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffe;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffe> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSpiffe::TrustDomain {
                got: text.to_owned(),
            })
        }
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffe;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffe> {
        let Some(rest) = text.strip_prefix(PREFIX) else {
            return Err(InvalidSpiffe::Scheme {
                got: text.to_owned(),
            });
        };
        match rest.find('/') {
            None => rest.parse::<TrustDomain>().map(|domain| domain.id()),
            Some(at) => {
                let (domain, path) = rest.split_at(at);
                domain.parse::<TrustDomain>()?.with_path(path)
            }
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<(&str, &str)>) {
        let got = text.parse::<SpiffeId>().ok();
        let parts = got
            .as_ref()
            .map(|id| (id.trust_domain().as_str(), id.path()));
        assert_eq!(parts, want, "input {text:?}");
        if let Some(id) = got {
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn ids_have_a_domain_and_maybe_a_path() {
        check(
            "spiffe://default.east.mesh.local/workload/web",
            Some(("default.east.mesh.local", "/workload/web")),
        );
        check(
            "spiffe://default.east.mesh.local",
            Some(("default.east.mesh.local", "")),
        );
        check("spiffe://a/b/C_d.e-f", Some(("a", "/b/C_d.e-f")));
        check("spiffe://A/b", None);
        check("spiffe://a/", None);
        check("spiffe://a//b", None);
        check("spiffe://a/../b", None);
        check("spiffe://a/b?c", None);
        check("spiffe:///b", None);
        check("https://a/b", None);
        check(&format!("spiffe://a/{}", "b".repeat(2048)), None);
    }
}
