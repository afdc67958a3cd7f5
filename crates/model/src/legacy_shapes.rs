//! The messages of the legacy kinds.

use crate::kind::Kind;
use crate::legacy::Field;
use crate::legacy::Shape::{
    Bool, Duration, Enum, List, Map, Message, Struct, Text, Timestamp, U32, U64, WrappedBool,
    WrappedBytes, WrappedU32,
};

pub(crate) const fn of(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Mesh => &[("skipCreatingInitialPolicies", List(&Text))],
        Kind::Dataplane => DATAPLANE,
        Kind::DataplaneInsight => DATAPLANE_INSIGHT,
        Kind::DataplaneOverview => &[
            ("dataplane", Message(DATAPLANE)),
            ("dataplaneInsight", Message(DATAPLANE_INSIGHT)),
        ],
        Kind::MeshInsight => MESH_INSIGHT,
        Kind::ServiceInsight => &[("services", Map(&Message(SERVICE_STATUS)))],
        Kind::Zone => ZONE,
        Kind::ZoneInsight => ZONE_INSIGHT,
        Kind::ZoneOverview => &[
            ("zone", Message(ZONE)),
            ("zoneInsight", Message(ZONE_INSIGHT)),
        ],
        Kind::Secret | Kind::GlobalSecret => &[("data", WrappedBytes)],
        Kind::Config => &[("config", Text)],
        Kind::HostnameGenerator
        | Kind::MeshService
        | Kind::MeshExternalService
        | Kind::MeshMultiZoneService
        | Kind::MeshZoneAddress
        | Kind::MeshIdentity
        | Kind::MeshTrust
        | Kind::Workload
        | Kind::MeshOpenTelemetryBackend
        | Kind::MeshHTTPRoute
        | Kind::MeshTCPRoute
        | Kind::MeshTLS
        | Kind::MeshLoadBalancingStrategy
        | Kind::MeshPassthrough
        | Kind::MeshAccessLog
        | Kind::MeshTrace
        | Kind::MeshFaultInjection
        | Kind::MeshRateLimit
        | Kind::MeshTimeout
        | Kind::MeshTrafficPermission
        | Kind::MeshHealthCheck
        | Kind::MeshCircuitBreaker
        | Kind::MeshRetry
        | Kind::MeshMetric
        | Kind::MeshProxyPatch => &[],
    }
}

const ZONE: &[Field] = &[("enabled", WrappedBool)];

const DATAPLANE: &[Field] = &[("networking", Message(NETWORKING))];

const NETWORKING: &[Field] = &[
    ("address", Text),
    (
        "gateway",
        Message(&[("tags", Map(&Text)), ("type", Enum(&[("DELEGATED", 0)]))]),
    ),
    ("inbound", List(&Message(INBOUND))),
    ("outbound", List(&Message(OUTBOUND))),
    ("transparentProxying", Message(TRANSPARENT_PROXYING)),
    ("admin", Message(&[("port", U32)])),
    ("listeners", List(&Message(LISTENER))),
];

const INBOUND: &[Field] = &[
    ("port", U32),
    ("servicePort", U32),
    ("serviceAddress", Text),
    ("address", Text),
    ("health", Message(&[("ready", Bool)])),
    ("serviceProbe", Message(SERVICE_PROBE)),
    (
        "state",
        Enum(&[("Ready", 0), ("NotReady", 1), ("Ignored", 2)]),
    ),
    ("name", Text),
    ("protocol", Text),
];

const SERVICE_PROBE: &[Field] = &[
    ("interval", Duration),
    ("timeout", Duration),
    ("unhealthyThreshold", WrappedU32),
    ("healthyThreshold", WrappedU32),
    ("tcp", Message(&[])),
];

const OUTBOUND: &[Field] = &[
    ("address", Text),
    ("port", U32),
    (
        "backendRef",
        Message(&[
            ("kind", Text),
            ("name", Text),
            ("port", U32),
            ("labels", Map(&Text)),
        ]),
    ),
];

const TRANSPARENT_PROXYING: &[Field] = &[
    ("redirectPortInbound", U32),
    ("redirectPortOutbound", U32),
    ("directAccessServices", List(&Text)),
    (
        "ipFamilyMode",
        Enum(&[
            ("UnSpecified", 0),
            ("DualStack", 1),
            ("IPv4", 2),
            ("IPv6", 3),
        ]),
    ),
    (
        "reachableBackends",
        Message(&[("refs", List(&Message(REACHABLE)))]),
    ),
];

const REACHABLE: &[Field] = &[
    ("kind", Text),
    ("name", Text),
    ("namespace", Text),
    ("port", WrappedU32),
    ("labels", Map(&Text)),
];

const LISTENER: &[Field] = &[
    (
        "type",
        Enum(&[("Unspecified", 0), ("ZoneIngress", 1), ("ZoneEgress", 2)]),
    ),
    ("address", Text),
    ("port", U32),
    ("name", Text),
    ("state", Enum(&[("Ready", 0), ("NotReady", 1)])),
];

const COUNTS: &[Field] = &[
    ("responsesSent", U64),
    ("responsesAcknowledged", U64),
    ("responsesRejected", U64),
];

const DATAPLANE_INSIGHT: &[Field] = &[
    (
        "subscriptions",
        List(&Message(&[
            ("id", Text),
            ("controlPlaneInstanceId", Text),
            ("connectTime", Timestamp),
            ("disconnectTime", Timestamp),
            (
                "status",
                Message(&[
                    ("lastUpdateTime", Timestamp),
                    ("total", Message(COUNTS)),
                    ("cds", Message(COUNTS)),
                    ("eds", Message(COUNTS)),
                    ("lds", Message(COUNTS)),
                    ("rds", Message(COUNTS)),
                ]),
            ),
            (
                "version",
                Message(&[
                    (
                        "kumaDp",
                        Message(&[
                            ("version", Text),
                            ("gitTag", Text),
                            ("gitCommit", Text),
                            ("buildDate", Text),
                            ("kumaCpCompatible", Bool),
                        ]),
                    ),
                    (
                        "envoy",
                        Message(&[
                            ("version", Text),
                            ("build", Text),
                            ("kumaDpCompatible", Bool),
                        ]),
                    ),
                    ("dependencies", Map(&Text)),
                ]),
            ),
            ("generation", U32),
        ])),
    ),
    (
        "mTLS",
        Message(&[
            ("certificateExpirationTime", Timestamp),
            ("lastCertificateRegeneration", Timestamp),
            ("certificateRegenerations", U32),
            ("issuedBackend", Text),
            ("supportedBackends", List(&Text)),
        ]),
    ),
    ("metadata", Struct),
    (
        "openTelemetry",
        Message(&[(
            "backends",
            List(&Message(&[
                ("name", Text),
                ("traces", Message(OTEL_SIGNAL)),
                ("logs", Message(OTEL_SIGNAL)),
                ("metrics", Message(OTEL_SIGNAL)),
            ])),
        )]),
    ),
];

const OTEL_SIGNAL: &[Field] = &[
    ("enabled", Bool),
    ("envAllowed", Bool),
    ("envInputPresent", Bool),
    ("state", Text),
    ("overrideKinds", List(&Text)),
    ("missingFields", List(&Text)),
    ("blockedReasons", List(&Text)),
];

const PROXY_COUNTS: &[Field] = &[
    ("total", U32),
    ("online", U32),
    ("offline", U32),
    ("partiallyDegraded", U32),
];

const MESH_INSIGHT: &[Field] = &[
    ("dataplanes", Message(PROXY_COUNTS)),
    (
        "dpVersions",
        Message(&[
            ("kumaDp", Map(&Message(PROXY_COUNTS))),
            ("envoy", Map(&Message(PROXY_COUNTS))),
        ]),
    ),
    (
        "mTLS",
        Message(&[
            ("issuedBackends", Map(&Message(PROXY_COUNTS))),
            ("supportedBackends", Map(&Message(PROXY_COUNTS))),
        ]),
    ),
    (
        "dataplanesByType",
        Message(&[
            ("standard", Message(PROXY_COUNTS)),
            ("gateway", Message(PROXY_COUNTS)),
            ("gatewayDelegated", Message(PROXY_COUNTS)),
        ]),
    ),
    ("resources", Map(&Message(&[("total", U32)]))),
];

const SERVICE_STATUS: &[Field] = &[
    (
        "status",
        Enum(&[
            ("none", 0),
            ("offline", 1),
            ("partially_degraded", 2),
            ("online", 3),
            ("not_available", 4),
        ]),
    ),
    ("dataplanes", Message(PROXY_COUNTS)),
    ("issuedBackends", Map(&U32)),
    (
        "serviceType",
        Enum(&[("internal", 0), ("external", 1), ("gateway_delegated", 2)]),
    ),
    ("addressPort", Text),
    ("zones", List(&Text)),
];

const KDS_STREAM: &[Field] = &[("globalInstanceId", Text), ("connectTime", Timestamp)];

const ZONE_INSIGHT: &[Field] = &[
    (
        "subscriptions",
        List(&Message(&[
            ("id", Text),
            ("globalInstanceId", Text),
            ("connectTime", Timestamp),
            ("disconnectTime", Timestamp),
            (
                "status",
                Message(&[
                    ("lastUpdateTime", Timestamp),
                    ("total", Message(COUNTS)),
                    ("stat", Map(&Message(COUNTS))),
                ]),
            ),
            (
                "version",
                Message(&[(
                    "kumaCp",
                    Message(&[
                        ("version", Text),
                        ("gitTag", Text),
                        ("gitCommit", Text),
                        ("buildDate", Text),
                        ("kumaCpGlobalCompatible", Bool),
                    ]),
                )]),
            ),
            ("generation", U32),
            ("config", Text),
            ("authTokenProvided", Bool),
            ("zoneInstanceId", Text),
        ])),
    ),
    (
        "envoyAdminStreams",
        Message(&[
            ("configDumpGlobalInstanceId", Text),
            ("statsGlobalInstanceId", Text),
            ("clustersGlobalInstanceId", Text),
        ]),
    ),
    ("healthCheck", Message(&[("time", Timestamp)])),
    (
        "kdsStreams",
        Message(&[
            ("globalToZone", Message(KDS_STREAM)),
            ("zoneToGlobal", Message(KDS_STREAM)),
            ("configDump", Message(KDS_STREAM)),
            ("stats", Message(KDS_STREAM)),
            ("clusters", Message(KDS_STREAM)),
        ]),
    ),
];
