//! What a subscriber says it can do.

/// Optional behaviours that a subscriber announced in the metadata of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features {
    /// Names may carry a hash suffix.
    pub hash_suffix: bool,
    /// Understands hostname generators that select multi-zone services.
    pub multi_zone_selectors: bool,
    /// Takes producer policies of other zones.
    pub producer_policies: bool,
    /// A control plane of ours: sets may be cut, refusals are named.
    pub ours: bool,
}

const HASH_SUFFIX: &str = "hash-suffix";
const MULTI_ZONE_SELECTORS: &str = "hg-mz-selector";
const PRODUCER_POLICIES: &str = "producer-policy-flow";
const OURS: &str = "zonal-v1";

impl Features {
    /// What our own subscribers announce. `optional-top-level-target-ref` is read by older globals alone, which withhold
    /// policies from whoever does not say it.
    pub const ANNOUNCED: [&'static str; 6] = [
        "zone-token",
        HASH_SUFFIX,
        MULTI_ZONE_SELECTORS,
        PRODUCER_POLICIES,
        "optional-top-level-target-ref",
        OURS,
    ];

    /// Everything that a current peer of Kuma announces.
    pub const KUMA: Self = Self {
        hash_suffix: true,
        multi_zone_selectors: true,
        producer_policies: true,
        ours: false,
    };

    /// Everything that a peer of ours announces.
    pub const ALL: Self = Self {
        ours: true,
        ..Self::KUMA
    };

    /// Reads a peer's list; what is not known is skipped.
    #[must_use]
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut features = Self::default();
        for name in names {
            match name {
                HASH_SUFFIX => features.hash_suffix = true,
                MULTI_ZONE_SELECTORS => features.multi_zone_selectors = true,
                PRODUCER_POLICIES => features.producer_policies = true,
                OURS => features.ours = true,
                _ => {}
            }
        }
        features
    }
}
