//! Under which names keys and revocations are kept as resources.

/// The kinds of tokens, each with its own keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenKind {
    User,
    Zone,
    /// The keys of a mesh's proxies live in that mesh.
    Dataplane {
        mesh: String,
    },
}

impl TokenKind {
    /// The mesh whose Secrets hold the keys; `None` means GlobalSecrets.
    pub fn mesh(&self) -> Option<&str> {
        match self {
            Self::User | Self::Zone => None,
            Self::Dataplane { mesh } => Some(mesh),
        }
    }

    fn prefix(&self) -> String {
        match self {
            Self::User => "user-token-signing-key".to_owned(),
            Self::Zone => "zone-token-signing-key".to_owned(),
            Self::Dataplane { mesh } => format!("dataplane-token-signing-key-{mesh}"),
        }
    }

    /// The name of the resource that holds the key `kid`.
    pub fn key_name(&self, kid: &str) -> String {
        format!("{}-{kid}", self.prefix())
    }

    /// The name of the public half that zones hold, where there is one.
    pub fn public_key_name(&self, kid: &str) -> Option<String> {
        match self {
            Self::Zone => Some(format!("{ZONE_PUBLIC}-{kid}")),
            Self::User | Self::Dataplane { .. } => None,
        }
    }

    /// The key id in a resource's name: `0` without a suffix, `None` for names of other things.
    pub fn kid_of(&self, name: &str) -> Option<String> {
        kid_after(&self.prefix(), name)
    }

    /// The key id in the name of a public half.
    pub fn public_kid_of(&self, name: &str) -> Option<String> {
        match self {
            Self::Zone => kid_after(ZONE_PUBLIC, name),
            Self::User | Self::Dataplane { .. } => None,
        }
    }

    /// The name of the resource with the list of revoked tokens.
    pub fn revocations_name(&self) -> String {
        match self {
            Self::User => "user-token-revocations".to_owned(),
            Self::Zone => "zone-token-revocations".to_owned(),
            Self::Dataplane { mesh } => format!("dataplane-token-revocations-{mesh}"),
        }
    }
}

const ZONE_PUBLIC: &str = "zone-token-signing-public-key";

fn kid_after(prefix: &str, name: &str) -> Option<String> {
    match name.strip_prefix(prefix)? {
        "" => Some("0".to_owned()),
        rest => rest
            .strip_prefix('-')
            .filter(|kid| !kid.is_empty())
            .map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_carry_their_id() {
        let mesh = TokenKind::Dataplane {
            mesh: "default".to_owned(),
        };
        assert_eq!(mesh.key_name("1"), "dataplane-token-signing-key-default-1");
        assert_eq!(
            mesh.kid_of("dataplane-token-signing-key-default-12")
                .as_deref(),
            Some("12")
        );
        assert_eq!(
            mesh.kid_of("dataplane-token-signing-key-default")
                .as_deref(),
            Some("0")
        );
        assert_eq!(mesh.kid_of("dataplane-token-signing-key-defaults"), None);
        assert_eq!(TokenKind::User.kid_of("zone-token-signing-key-1"), None);
        assert_eq!(
            TokenKind::Zone
                .public_kid_of("zone-token-signing-public-key-2")
                .as_deref(),
            Some("2")
        );
        assert_eq!(
            TokenKind::Zone.kid_of("zone-token-signing-public-key-2"),
            None
        );
    }
}
