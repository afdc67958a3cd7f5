//! The closed set of kinds, and what each is: scope, names, where it may be written, which way it is synced.
//!
//! The facts of the table (names, paths, short names, sync flags, policy order) are those of Kuma 3.0's type registry.

use std::fmt;
use std::str::FromStr;

/// Whether a kind's resources live inside a mesh or beside all meshes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The key has no mesh; on the wire and in a [`Key`](crate::Key) it is the empty string.
    Global,
    /// The key names a mesh.
    Mesh,
}

/// How a kind's spec is written by people and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `spec` (and `status`) are members of their own; on the wire the spec is JSON.
    Plugin,
    /// The fields stand beside the meta members; on the wire the spec is a protobuf message.
    Legacy,
}

/// Which way a kind is synced and therefore where it may be written; the bits are Kuma's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KdsFlags(u8);

impl KdsFlags {
    /// Zones receive it.
    pub const CONSUMED_BY_ZONE: Self = Self(1);
    /// Global receives it.
    pub const CONSUMED_BY_GLOBAL: Self = Self(4);
    /// A zone may create it.
    pub const PROVIDED_BY_ZONE: Self = Self(8);
    /// Global may create it.
    pub const PROVIDED_BY_GLOBAL: Self = Self(16);
    /// Global forwards one zone's copy to the other zones.
    pub const SYNCED_ACROSS_ZONES: Self = Self(32);

    const ZONE_TO_GLOBAL: Self = Self(4 | 8);
    const GLOBAL_TO_ZONE: Self = Self(16 | 1);
    const NONE: Self = Self(0);

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How a policy kind takes part in matching and merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyTraits {
    /// The place in the sequence in which policies are applied to a proxy's configuration.
    pub order: u16,
    /// Has a `to` list.
    pub to: bool,
    /// Has a `rules` list.
    pub rules: bool,
}

/// Everything the registry knows about one kind.
#[derive(Debug)]
pub struct Descriptor {
    /// The kind described.
    pub kind: Kind,
    /// The type name in files, on the wire and in messages, e.g. `MeshTimeout`.
    pub name: &'static str,
    /// The last part of the REST collection path, e.g. `meshtimeouts`; empty where there is no REST access.
    pub path: &'static str,
    /// Short name inside a KRI, e.g. `mt`; `None` where the kind has no KRI.
    pub short: Option<&'static str>,
    /// Inside a mesh or global.
    pub scope: Scope,
    /// JSON or protobuf spec.
    pub form: Form,
    /// Direction of sync and permission to write.
    pub kds: KdsFlags,
    /// REST never writes it (insights).
    pub read_only: bool,
    /// All REST access needs the admin role.
    pub admin_only: bool,
    /// Keeps its name when global sends it to a zone.
    pub skip_kds_hash: bool,
    /// A `status` is kept and served.
    pub has_status: bool,
    /// Has ports, SNIs, VIPs and hostnames.
    pub destination: bool,
    /// Computed from others and never stored.
    pub computed: bool,
    /// Set for policies.
    pub policy: Option<PolicyTraits>,
}

impl Descriptor {
    /// Whether global sends its own resources of this kind to zones, or forwards zones' ones.
    #[must_use]
    pub const fn goes_down(&self) -> bool {
        self.own_goes_down() || self.crosses_zones()
    }

    /// Whether global sends resources that originate at global to the zones.
    #[must_use]
    pub const fn own_goes_down(&self) -> bool {
        self.kds.contains(KdsFlags::PROVIDED_BY_GLOBAL)
            && self.kds.contains(KdsFlags::CONSUMED_BY_ZONE)
    }

    /// Whether global forwards one zone's resources to the others (policies: producer ones only).
    #[must_use]
    pub const fn crosses_zones(&self) -> bool {
        self.kds.contains(KdsFlags::SYNCED_ACROSS_ZONES)
    }

    /// Whether a zone sends its own resources of this kind to global.
    #[must_use]
    pub const fn goes_up(&self) -> bool {
        self.kds.contains(KdsFlags::PROVIDED_BY_ZONE)
            && self.kds.contains(KdsFlags::CONSUMED_BY_GLOBAL)
    }

    /// Whether a person may write this kind at a control plane of `mode`.
    #[must_use]
    pub const fn writable(&self, mode: Mode) -> bool {
        if self.read_only || self.computed {
            return false;
        }
        match mode {
            Mode::Global => self.kds.contains(KdsFlags::PROVIDED_BY_GLOBAL),
            Mode::FederatedZone => self.kds.contains(KdsFlags::PROVIDED_BY_ZONE),
            Mode::StandaloneZone => true,
        }
    }
}

/// What a control plane is, as far as write permissions and computed labels go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The global control plane.
    Global,
    /// A zone that has a global control plane.
    FederatedZone,
    /// A zone on its own.
    StandaloneZone,
}

impl Mode {
    /// The value of `kuma.io/origin` for what is created here.
    #[must_use]
    pub const fn origin(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::FederatedZone | Self::StandaloneZone => "zone",
        }
    }

    /// Whether this is a zone of either sort.
    #[must_use]
    pub const fn is_zone(self) -> bool {
        !matches!(self, Self::Global)
    }
}

/// A name that is no kind's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown resource type `{0}`")]
pub struct UnknownKind(pub String);

macro_rules! kinds {
    ($($kind:ident $path:literal $short:tt $scope:ident $form:ident $kds:expr, [$($flag:ident),*] $(policy($order:literal $($list:ident)*))? ;)*) => {
        /// One kind of resource. Ordered as registered, which is the order of `/_resources`' groups.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(
            #[doc = concat!("`", stringify!($kind), "`.")]
            $kind,
        )* }

        impl Kind {
            /// Every kind, in order of registration.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// What the registry knows about this kind.
            #[must_use]
            pub const fn descriptor(self) -> &'static Descriptor {
                match self { $(
                    Self::$kind => {
                        const D: Descriptor = {
                            #[allow(unused_mut, reason = "not every kind has flags")]
                            let mut d = Descriptor {
                                kind: Kind::$kind,
                                name: stringify!($kind),
                                path: $path,
                                short: kinds!(@short $short),
                                scope: Scope::$scope,
                                form: Form::$form,
                                kds: $kds,
                                read_only: false,
                                admin_only: false,
                                skip_kds_hash: false,
                                has_status: false,
                                destination: false,
                                computed: false,
                                policy: None,
                            };
                            $( d.$flag = true; )*
                            $( d.policy = Some(kinds!(@policy $order $($list)*)); )?
                            d
                        };
                        &D
                    }
                )* }
            }
        }
    };
    (@short -) => { None };
    (@short $short:literal) => { Some($short) };
    (@policy $order:literal) => { PolicyTraits { order: $order, to: false, rules: false } };
    (@policy $order:literal to) => { PolicyTraits { order: $order, to: true, rules: false } };
    (@policy $order:literal rules) => { PolicyTraits { order: $order, to: false, rules: true } };
    (@policy $order:literal to rules) => { PolicyTraits { order: $order, to: true, rules: true } };
}

const G2Z: KdsFlags = KdsFlags::GLOBAL_TO_ZONE;
const Z2G: KdsFlags = KdsFlags::ZONE_TO_GLOBAL;
const BOTH: KdsFlags = G2Z.with(Z2G);
const UP_AND_ACROSS: KdsFlags = Z2G.with(KdsFlags::SYNCED_ACROSS_ZONES);
const POLICY: KdsFlags = BOTH.with(KdsFlags::SYNCED_ACROSS_ZONES);
const LOCAL: KdsFlags = KdsFlags::PROVIDED_BY_GLOBAL.with(KdsFlags::PROVIDED_BY_ZONE);
const DOWN_AND_LOCAL: KdsFlags = G2Z.with(KdsFlags::PROVIDED_BY_ZONE);

kinds! {
    Mesh "meshes" "m" Global Legacy G2Z, [skip_kds_hash];
    Dataplane "dataplanes" "dp" Mesh Legacy Z2G, [];
    DataplaneInsight "dataplane-insights" - Mesh Legacy Z2G, [read_only];
    DataplaneOverview "" - Mesh Legacy KdsFlags::NONE, [read_only, computed];
    MeshInsight "mesh-insights" - Global Legacy KdsFlags::PROVIDED_BY_GLOBAL, [read_only];
    ServiceInsight "service-insights" - Mesh Legacy G2Z, [read_only];
    Zone "zones" "z" Global Legacy LOCAL, [];
    ZoneInsight "zone-insights" - Global Legacy LOCAL, [read_only];
    ZoneOverview "" - Global Legacy KdsFlags::NONE, [read_only, computed];
    Secret "secrets" - Mesh Legacy DOWN_AND_LOCAL, [admin_only, skip_kds_hash];
    GlobalSecret "globalsecrets" - Global Legacy DOWN_AND_LOCAL, [admin_only, skip_kds_hash];
    Config "" - Global Legacy DOWN_AND_LOCAL, [skip_kds_hash];
    HostnameGenerator "hostnamegenerators" "hg" Global Plugin BOTH, [];
    MeshService "meshservices" "msvc" Mesh Plugin UP_AND_ACROSS, [destination, has_status];
    MeshExternalService "meshexternalservices" "extsvc" Mesh Plugin BOTH, [destination, has_status];
    MeshMultiZoneService "meshmultizoneservices" "mzsvc" Mesh Plugin G2Z, [destination, has_status];
    MeshZoneAddress "meshzoneaddresses" "mza" Mesh Plugin UP_AND_ACROSS, [];
    MeshIdentity "meshidentities" "mid" Mesh Plugin BOTH, [has_status];
    MeshTrust "meshtrusts" "mtrust" Mesh Plugin BOTH, [has_status];
    Workload "workloads" "wl" Mesh Plugin Z2G, [has_status];
    MeshOpenTelemetryBackend "meshopentelemetrybackends" "motb" Mesh Plugin BOTH, [has_status];
    MeshHTTPRoute "meshhttproutes" "mhttpr" Mesh Plugin POLICY, [] policy(100 to);
    MeshTCPRoute "meshtcproutes" "mtcpr" Mesh Plugin POLICY, [] policy(200 to);
    MeshTLS "meshtlses" "mtls" Mesh Plugin POLICY, [] policy(300 rules);
    MeshLoadBalancingStrategy "meshloadbalancingstrategies" "mlbs" Mesh Plugin POLICY, [] policy(400 to);
    MeshPassthrough "meshpassthroughs" "mp" Mesh Plugin POLICY, [] policy(500);
    MeshAccessLog "meshaccesslogs" "mal" Mesh Plugin POLICY, [has_status] policy(600 to rules);
    MeshTrace "meshtraces" "mtr" Mesh Plugin POLICY, [has_status] policy(700);
    MeshFaultInjection "meshfaultinjections" "mfi" Mesh Plugin POLICY, [] policy(800 to rules);
    MeshRateLimit "meshratelimits" "mrl" Mesh Plugin POLICY, [] policy(900 to rules);
    MeshTimeout "meshtimeouts" "mt" Mesh Plugin POLICY, [] policy(1000 to rules);
    MeshTrafficPermission "meshtrafficpermissions" "mtp" Mesh Plugin POLICY, [] policy(1100 rules);
    MeshHealthCheck "meshhealthchecks" "mhc" Mesh Plugin POLICY, [] policy(1200 to);
    MeshCircuitBreaker "meshcircuitbreakers" "mcb" Mesh Plugin POLICY, [] policy(1300 to rules);
    MeshRetry "meshretries" "mr" Mesh Plugin POLICY, [] policy(1400 to);
    MeshMetric "meshmetrics" "mm" Mesh Plugin POLICY, [has_status] policy(1500);
    MeshProxyPatch "meshproxypatches" "mpp" Mesh Plugin POLICY, [] policy(9999);
}

impl Kind {
    /// The type name, e.g. `MeshTimeout`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.descriptor().name
    }

    /// The number of kinds; `kind as usize` is below it, so that a kind can index an array.
    pub const COUNT: usize = Self::ALL.len();

    /// The kind whose REST collection has this path part; knows the alias `global-secrets`.
    #[must_use]
    pub fn by_path(path: &str) -> Option<Self> {
        let path = if path == "global-secrets" {
            "globalsecrets"
        } else {
            path
        };
        Self::ALL
            .iter()
            .copied()
            .find(|kind| !path.is_empty() && kind.descriptor().path == path)
    }

    /// The kind with this KRI short name.
    #[must_use]
    pub fn by_short(short: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.descriptor().short == Some(short))
    }

    /// The record of what a proxy or zone of this kind reported, where there is one.
    #[must_use]
    pub const fn insight(self) -> Option<Self> {
        match self {
            Self::Dataplane => Some(Self::DataplaneInsight),
            Self::Zone => Some(Self::ZoneInsight),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

impl serde::Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_zone_takes_29_kinds_and_global_takes_26() {
        let down = Kind::ALL
            .iter()
            .filter(|k| k.descriptor().goes_down())
            .count();
        let up = Kind::ALL
            .iter()
            .filter(|k| k.descriptor().goes_up())
            .count();
        assert_eq!((down, up), (29, 26));
    }

    #[test]
    fn names_paths_and_short_names_are_unique() {
        let mut seen = BTreeSet::new();
        for kind in Kind::ALL {
            let d = kind.descriptor();
            assert!(seen.insert(d.name.to_owned()), "{}", d.name);
            assert!(
                d.path.is_empty() || seen.insert(format!("/{}", d.path)),
                "{}",
                d.path
            );
            if let Some(short) = d.short {
                assert!(seen.insert(format!("short {short}")), "{short}");
            }
            assert_eq!(d.name.parse::<Kind>(), Ok(*kind));
        }
    }

    #[test]
    fn writes_are_allowed_where_the_kind_originates() {
        let check = |kind: Kind, want: (bool, bool, bool)| {
            let d = kind.descriptor();
            let got = (
                d.writable(Mode::Global),
                d.writable(Mode::FederatedZone),
                d.writable(Mode::StandaloneZone),
            );
            assert_eq!(got, want, "{kind}");
        };
        check(Kind::Mesh, (true, false, true));
        check(Kind::MeshMultiZoneService, (true, false, true));
        check(Kind::Dataplane, (false, true, true));
        check(Kind::MeshZoneAddress, (false, true, true));
        check(Kind::MeshTimeout, (true, true, true));
        check(Kind::Secret, (true, true, true));
        check(Kind::DataplaneInsight, (false, false, false));
    }
}
