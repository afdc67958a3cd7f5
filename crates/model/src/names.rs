//! Names: what may be one, and the name a synced resource gets on the other side.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest stored name.
pub const NAME_LEN_MAX: usize = 253;
/// The longest DNS label, label value and name part of a label key.
pub const LABEL_LEN_MAX: usize = 63;

const DNS_1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const DNS_1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// A text that cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A zone name that is not one DNS label.
    #[error("`{0}` is not one DNS label")]
    NotOneLabel(String),
    /// A mesh name with characters that a mesh name cannot have, or of a length that it cannot have.
    #[error("`{0}` is not a mesh name: {1}")]
    NotAMesh(String, &'static str),
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, shared.
            #[must_use]
            pub fn to_shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type! {
    /// The name of a zone: one DNS label that begins with a letter.
    ///
    /// ```
    /// let zone: zonal_model::ZoneName = "east-1".parse().unwrap();
    /// assert_eq!(zone.as_str(), "east-1");
    /// assert!("East".parse::<zonal_model::ZoneName>().is_err());
    /// ```
    ZoneName
}

name_type! {
    /// The name of a mesh as a key may hold it: lower-case letters, digits, `-`, `_` and `.`.
    MeshName
}

impl FromStr for ZoneName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_dns_1035_label(text) && text.len() <= LABEL_LEN_MAX {
            Ok(Self(text.into()))
        } else {
            Err(NameError::NotOneLabel(text.to_owned()))
        }
    }
}

impl FromStr for MeshName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match mesh_problem(text) {
            None => Ok(Self(text.into())),
            Some(problem) => Err(NameError::NotAMesh(text.to_owned(), problem)),
        }
    }
}

/// What is wrong with a stored name, if anything.
#[must_use]
pub fn name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("cannot be empty")
    } else if name.len() > NAME_LEN_MAX {
        Some("value length must less or equal 253")
    } else if !is_dns_1123_subdomain(name) {
        Some(
            "invalid characters. A lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        )
    } else {
        None
    }
}

/// What is wrong with the mesh of a key, if anything.
#[must_use]
pub fn mesh_problem(mesh: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if mesh.is_empty() {
        Some("cannot be empty")
    } else if mesh.len() > NAME_LEN_MAX {
        Some("value length must less or equal 253")
    } else if !mesh.bytes().all(allowed) {
        Some(
            "invalid characters. Valid characters are numbers, lowercase latin letters and '-', '_', '.' symbols.",
        )
    } else {
        None
    }
}

/// What is wrong with a text as a DNS-1035 label; empty when nothing is.
#[must_use]
pub fn dns_1035_label_problems(text: &str) -> Vec<&'static str> {
    let mut problems = Vec::new();
    if text.len() > LABEL_LEN_MAX {
        problems.push("must be no more than 63 characters");
    }
    if !is_dns_1035_label(text) {
        problems.push(DNS_1035_LABEL);
    }
    problems
}

/// What is wrong with a text as a DNS-1123 label; empty when nothing is.
#[must_use]
pub fn dns_1123_label_problems(text: &str) -> Vec<&'static str> {
    let mut problems = Vec::new();
    if text.len() > LABEL_LEN_MAX {
        problems.push("must be no more than 63 characters");
    }
    if !is_dns_1123_label(text) {
        problems.push(DNS_1123_LABEL);
    }
    problems
}

/// What is wrong with a text as a DNS-1123 subdomain, e.g. a host name; empty when nothing is.
#[must_use]
pub fn dns_1123_subdomain_problems(text: &str) -> Vec<&'static str> {
    let mut problems = Vec::new();
    if text.len() > NAME_LEN_MAX {
        problems.push("must be no more than 253 characters");
    }
    if !is_dns_1123_subdomain(text) {
        problems.push(DNS_1123_SUBDOMAIN);
    }
    problems
}

/// What is wrong with a label's key; empty when nothing is.
#[must_use]
pub fn label_key_problems(key: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut parts = key.split('/');
    let (prefix, name) = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => (None, name),
        (Some(prefix), Some(name), None) => (Some(prefix), name),
        _ => {
            return vec![format!(
                "a valid label key {QUALIFIED_NAME} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    match prefix {
        Some("") => problems.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => problems.extend(
            dns_1123_subdomain_problems(prefix)
                .iter()
                .map(|text| format!("prefix part {text}")),
        ),
        None => {}
    }
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LEN_MAX {
        problems.push("name part must be no more than 63 characters".to_owned());
    }
    if !is_qualified(name) {
        problems.push(format!("name part {QUALIFIED_NAME}"));
    }
    problems
}

/// What is wrong with a label's value; empty when nothing is.
#[must_use]
pub fn label_value_problems(value: &str) -> Vec<&'static str> {
    let mut problems = Vec::new();
    if value.len() > LABEL_LEN_MAX {
        problems.push("must be no more than 63 characters");
    }
    if !value.is_empty() && !is_qualified(value) {
        problems.push(LABEL_VALUE);
    }
    problems
}

fn is_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_dns_1123_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(is_alnum)
        && bytes.last().copied().is_some_and(is_alnum)
        && bytes.iter().all(|&b| is_alnum(b) || b == b'-')
}

pub(crate) fn is_dns_1035_label(text: &str) -> bool {
    is_dns_1123_label(text) && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}

pub(crate) fn is_dns_1123_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_1123_label)
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`.
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// Whether the text is a host name in the loose sense peers accept: labels of letters, digits, `-` and `_`, at most 63
/// long, joined by dots, at most 255 in all.
#[must_use]
pub fn is_dns_name(text: &str) -> bool {
    let trimmed = text.strip_suffix('.').unwrap_or(text);
    let label = |part: &str| {
        let bytes = part.as_bytes();
        bytes.len() <= LABEL_LEN_MAX
            && bytes
                .first()
                .is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_')
    };
    !trimmed.is_empty()
        && trimmed.len() <= 255
        && trimmed.split('.').all(label)
        && text.parse::<std::net::IpAddr>().is_err()
}

/// What is wrong with a text as a SPIFFE id, if anything.
///
/// ```
/// use zonal_model::names::spiffe_id_problem;
/// assert_eq!(spiffe_id_problem("spiffe://east/workload/web"), None);
/// assert_eq!(spiffe_id_problem("spiffe://east/"), Some("path cannot have a trailing slash"));
/// ```
#[must_use]
pub fn spiffe_id_problem(text: &str) -> Option<&'static str> {
    let word = |b: u8| b.is_ascii_digit() || b"-._".contains(&b);
    if text.is_empty() {
        return Some("cannot be empty");
    }
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return Some("scheme is missing or invalid");
    };
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if domain.is_empty() {
        return Some("trust domain is missing");
    }
    if !domain.bytes().all(|b| b.is_ascii_lowercase() || word(b)) {
        return Some(
            "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores",
        );
    }
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            return Some(if segments.peek().is_none() {
                "path cannot have a trailing slash"
            } else {
                "path cannot contain empty segments"
            });
        }
        if !segment.bytes().all(|b| b.is_ascii_alphabetic() || word(b)) {
            return Some(
                "path segment characters are limited to letters, numbers, dots, dashes, and underscores",
            );
        }
        if segment == "." || segment == ".." {
            return Some("path cannot contain dot segments");
        }
    }
    None
}

/// The name under which a resource is stored once it crossed a border: display name, `-`, and a suffix made of mesh,
/// display name and the extra values (the zone label, then the namespace label, each only when present).
///
/// ```
/// use zonal_model::hashed_name;
/// assert_eq!(hashed_name("", "foo", &[]), "foo-zxw6c95d42zfz9cc");
/// assert_eq!(hashed_name("", "foo", &["zone-1", "custom-ns"]), "foo-696vzv497z4cv4f4");
/// ```
#[must_use]
pub fn hashed_name(mesh: &str, display_name: &str, extra: &[&str]) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    const SUFFIX_LEN: usize = 17;
    let parts = [mesh, display_name]
        .into_iter()
        .chain(extra.iter().copied());
    // FNV-1a, 64 bits, over the parts without separators.
    let sum = parts
        .flat_map(str::bytes)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let mut kept = display_name;
    if display_name.len() + SUFFIX_LEN > NAME_LEN_MAX {
        let mut end = NAME_LEN_MAX - SUFFIX_LEN;
        while !display_name.is_char_boundary(end) {
            end -= 1;
        }
        kept = display_name.get(..end).unwrap_or(display_name);
    }
    let mut name = String::with_capacity(kept.len() + SUFFIX_LEN);
    name.push_str(kept);
    name.push('-');
    for digit in format!("{sum:016x}").bytes() {
        let letter = ALPHABET
            .get(usize::from(digit) % ALPHABET.len())
            .copied()
            .unwrap_or(b'b');
        name.push(char::from(letter));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_name_is_one_dns_label() {
        #[track_caller]
        fn check(input: &str, want: Result<&str, &str>) {
            let got = input
                .parse::<ZoneName>()
                .map(|z| z.to_string())
                .map_err(|e| e.to_string());
            assert_eq!(
                got,
                want.map(str::to_owned).map_err(str::to_owned),
                "input {input:?}"
            );
        }
        check("east-1", Ok("east-1"));
        check("East", Err("`East` is not one DNS label"));
        check("a.b", Err("`a.b` is not one DNS label"));
        check("1a", Err("`1a` is not one DNS label"));
        check("", Err("`` is not one DNS label"));
    }

    #[test]
    fn hashed_names_follow_the_known_vectors() {
        assert_eq!(hashed_name("", "foo", &[]), "foo-zxw6c95d42zfz9cc");
        assert_eq!(
            hashed_name("", "foo", &["zone-1", "custom-ns"]),
            "foo-696vzv497z4cv4f4"
        );
        assert_eq!(
            hashed_name("default", "without-namespace", &[]),
            "without-namespace-c5v4498z5w4x9bcx"
        );
        let long = hashed_name("default", &"a".repeat(250), &[]);
        assert_eq!(long.len(), 253);
        assert!(long.starts_with(&"a".repeat(236)));
    }

    #[test]
    fn label_keys_report_every_problem() {
        #[track_caller]
        fn check(key: &str, want: &[&str]) {
            let got = label_key_problems(key);
            assert_eq!(got.len(), want.len(), "{key:?}: {got:?}");
            for (got, want) in got.iter().zip(want) {
                assert!(got.starts_with(want), "{key:?}: {got}");
            }
        }
        check("kuma.io/zone", &[]);
        check("app", &[]);
        check(
            "",
            &["name part must be non-empty", "name part must consist of"],
        );
        check("foo/bar/baz", &["a valid label key must consist of"]);
        check("/a", &["prefix part must be non-empty"]);
        check("Q.io/a", &["prefix part a lowercase RFC 1123 subdomain"]);
        check(
            "kuma.io/Not Valid!",
            &["name part must consist of alphanumeric characters"],
        );
        check(
            &"a".repeat(64),
            &["name part must be no more than 63 characters"],
        );
    }

    #[test]
    fn names_are_lower_case_subdomains() {
        assert_eq!(name_problem("a.b-c"), None);
        assert_eq!(name_problem(""), Some("cannot be empty"));
        assert!(name_problem("A").is_some_and(|p| p.starts_with("invalid characters")));
        assert_eq!(
            name_problem(&"a".repeat(254)),
            Some("value length must less or equal 253")
        );
        assert_eq!(mesh_problem("a_b"), None);
        assert!(mesh_problem("a b").is_some());
    }
}
