//! Schemas of the policies on traffic.

use super::Schema;
use super::parts::{
    BACKEND_REF, BOOL, DURATION, HEADER_MATCH, HEADER_MODIFIER, HEADER_NAME, HEADERS_TO_SET_OR_ADD,
    HOSTNAME, INT, INT_OR_TEXT, MATCH, NON_EMPTY, PATH_REWRITE, PORT, RATE, TEXT, TEXT_MAP,
    TLS_VERSION, TO_TARGET_REF, TOP_TARGET_REF, int, int_of, int_or, list, list_of, object, one_of,
    one_of_or, opt, plain, req,
};

/// `targetRef`, `to` and `rules` (with matches) around one conf that may be left out.
macro_rules! to_and_rules {
    ($conf:expr) => {
        object(&[
            opt("targetRef", TOP_TARGET_REF),
            opt(
                "to",
                list(&object(&[
                    req("targetRef", TO_TARGET_REF),
                    plain("default", $conf),
                ])),
            ),
            opt(
                "rules",
                list(&object(&[
                    opt("matches", list(&MATCH)),
                    plain("default", $conf),
                ])),
            ),
        ])
    };
}

/// `targetRef` and `to` around one conf.
macro_rules! to_only {
    ($conf:expr) => {
        object(&[
            opt("targetRef", TOP_TARGET_REF),
            opt(
                "to",
                list(&object(&[
                    req("targetRef", TO_TARGET_REF),
                    plain("default", $conf),
                ])),
            ),
        ])
    };
}

pub(super) const MESH_TIMEOUT: Schema = to_and_rules!(object(&[
    opt("connectionTimeout", DURATION),
    opt("idleTimeout", DURATION),
    opt(
        "http",
        object(&[
            opt("requestTimeout", DURATION),
            opt("streamIdleTimeout", DURATION),
            opt("maxStreamDuration", DURATION),
            opt("maxConnectionDuration", DURATION),
            opt("requestHeadersTimeout", DURATION),
        ]),
    ),
]));

const CONSECUTIVE: Schema = object(&[opt("consecutive", INT)]);

const CIRCUIT_BREAKER: Schema = object(&[
    opt(
        "connectionLimits",
        object(&[
            opt("maxConnections", INT),
            opt("maxConnectionPools", INT),
            opt("maxPendingRequests", INT),
            opt("maxRetries", INT),
            opt("maxRequests", INT),
        ]),
    ),
    opt(
        "outlierDetection",
        object(&[
            opt("disabled", BOOL),
            opt("interval", DURATION),
            opt("baseEjectionTime", DURATION),
            opt("maxEjectionPercent", INT),
            opt("splitExternalAndLocalErrors", BOOL),
            opt("healthyPanicThreshold", INT_OR_TEXT),
            opt(
                "detectors",
                object(&[
                    opt("totalFailures", CONSECUTIVE),
                    opt("gatewayFailures", CONSECUTIVE),
                    opt("localOriginFailures", CONSECUTIVE),
                    opt(
                        "successRate",
                        object(&[
                            opt("minimumHosts", INT),
                            opt("requestVolume", INT),
                            opt("standardDeviationFactor", INT_OR_TEXT),
                        ]),
                    ),
                    opt(
                        "failurePercentage",
                        object(&[
                            opt("minimumHosts", INT),
                            opt("requestVolume", INT),
                            opt("threshold", INT),
                        ]),
                    ),
                ]),
            ),
        ]),
    ),
]);

/// The rules of a circuit breaker have no matches.
pub(super) const MESH_CIRCUIT_BREAKER: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    opt(
        "to",
        list(&object(&[
            req("targetRef", TO_TARGET_REF),
            plain("default", CIRCUIT_BREAKER),
        ])),
    ),
    opt("rules", list(&object(&[plain("default", CIRCUIT_BREAKER)]))),
]);

const BACK_OFF: Schema = object(&[opt("baseInterval", DURATION), opt("maxInterval", DURATION)]);
const RATE_LIMITED_BACK_OFF: Schema = object(&[
    opt(
        "resetHeaders",
        list(&object(&[
            req("name", HEADER_NAME),
            req("format", one_of(&["Seconds", "UnixTimestamp"])),
        ])),
    ),
    opt("maxInterval", DURATION),
]);

pub(super) const MESH_RETRY: Schema = to_only!(object(&[
    opt("tcp", object(&[opt("maxConnectAttempt", INT)])),
    opt(
        "http",
        object(&[
            opt("numRetries", INT),
            opt("perTryTimeout", DURATION),
            opt("backOff", BACK_OFF),
            opt("rateLimitedBackOff", RATE_LIMITED_BACK_OFF),
            opt("retryOn", list(&TEXT)),
            opt("retriableResponseHeaders", list(&HEADER_MATCH)),
            opt("retriableRequestHeaders", list(&HEADER_MATCH)),
            opt(
                "hostSelection",
                list(&object(&[
                    req(
                        "predicate",
                        one_of(&[
                            "OmitPreviousHosts",
                            "OmitHostsWithTags",
                            "OmitPreviousPriorities"
                        ]),
                    ),
                    opt("tags", TEXT_MAP),
                    opt("updateFrequency", int_or(2)),
                ])),
            ),
            opt("hostSelectionMaxAttempts", INT),
        ]),
    ),
    opt(
        "grpc",
        object(&[
            opt("numRetries", INT),
            opt("perTryTimeout", DURATION),
            opt("backOff", BACK_OFF),
            opt("rateLimitedBackOff", RATE_LIMITED_BACK_OFF),
            opt(
                "retryOn",
                list(&one_of(&[
                    "Canceled",
                    "DeadlineExceeded",
                    "Internal",
                    "ResourceExhausted",
                    "Unavailable",
                ])),
            ),
        ]),
    ),
]));

pub(super) const MESH_TRAFFIC_PERMISSION: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    opt(
        "rules",
        list(&object(&[req(
            "default",
            object(&[
                opt("deny", list(&MATCH)),
                opt("allowWithShadowDeny", list(&MATCH)),
                opt("allow", list(&MATCH)),
            ]),
        )])),
    ),
]);

const HTTP_FILTER: Schema = object(&[
    req(
        "type",
        one_of(&[
            "RequestHeaderModifier",
            "ResponseHeaderModifier",
            "RequestRedirect",
            "URLRewrite",
            "RequestMirror",
        ]),
    ),
    opt("requestHeaderModifier", HEADER_MODIFIER),
    opt("responseHeaderModifier", HEADER_MODIFIER),
    opt(
        "requestRedirect",
        object(&[
            opt("scheme", one_of(&["http", "https"])),
            opt("hostname", HOSTNAME),
            opt("path", PATH_REWRITE),
            opt("port", PORT),
            opt("statusCode", int_of(&[301, 302, 303, 307, 308], 302)),
        ]),
    ),
    opt(
        "urlRewrite",
        object(&[
            opt("hostname", HOSTNAME),
            opt("path", PATH_REWRITE),
            opt("hostToBackendHostname", BOOL),
        ]),
    ),
    opt(
        "requestMirror",
        object(&[
            opt("percentage", INT_OR_TEXT),
            req("backendRef", BACKEND_REF),
        ]),
    ),
]);

const HTTP_MATCH: Schema = object(&[
    opt(
        "path",
        object(&[
            req(
                "type",
                one_of(&["Exact", "PathPrefix", "RegularExpression"]),
            ),
            req("value", NON_EMPTY),
        ]),
    ),
    opt(
        "method",
        one_of(&[
            "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
        ]),
    ),
    opt(
        "queryParams",
        list(&object(&[
            req("type", one_of(&["Exact", "RegularExpression"])),
            req("name", NON_EMPTY),
            req("value", TEXT),
        ])),
    ),
    opt("headers", list(&HEADER_MATCH)),
]);

pub(super) const MESH_HTTP_ROUTE: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    opt(
        "to",
        list(&object(&[
            req("targetRef", TO_TARGET_REF),
            opt("hostnames", list(&TEXT)),
            req(
                "rules",
                list(&object(&[
                    req("matches", list_of(&HTTP_MATCH, 1, usize::MAX)),
                    req(
                        "default",
                        object(&[
                            opt("filters", list(&HTTP_FILTER)),
                            opt("backendRefs", list(&BACKEND_REF)),
                        ]),
                    ),
                ])),
            ),
        ])),
    ),
]);

pub(super) const MESH_TCP_ROUTE: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    opt(
        "to",
        list_of(
            &object(&[
                req("targetRef", TO_TARGET_REF),
                req(
                    "rules",
                    list_of(
                        &object(&[req(
                            "default",
                            object(&[opt("backendRefs", list(&BACKEND_REF))]),
                        )]),
                        0,
                        1,
                    ),
                ),
            ]),
            1,
            usize::MAX,
        ),
    ),
]);

pub(super) const MESH_TLS: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    opt(
        "rules",
        list(&object(&[plain(
            "default",
            object(&[
                opt("mode", one_of(&["Permissive", "Strict"])),
                opt("tlsVersion", TLS_VERSION),
                opt(
                    "tlsCiphers",
                    list(&one_of(&[
                        "ECDHE-ECDSA-AES128-GCM-SHA256",
                        "ECDHE-ECDSA-AES256-GCM-SHA384",
                        "ECDHE-ECDSA-CHACHA20-POLY1305",
                        "ECDHE-RSA-AES128-GCM-SHA256",
                        "ECDHE-RSA-AES256-GCM-SHA384",
                        "ECDHE-RSA-CHACHA20-POLY1305",
                    ])),
                ),
            ]),
        )])),
    ),
]);

pub(super) const MESH_LOAD_BALANCING_STRATEGY: Schema = to_only!(object(&[
    opt(
        "localityAwareness",
        object(&[
            opt("disabled", BOOL),
            opt(
                "localZone",
                object(&[opt(
                    "affinityTags",
                    list(&object(&[req("key", TEXT), opt("weight", INT)])),
                )]),
            ),
            opt(
                "crossZone",
                object(&[
                    opt(
                        "failover",
                        list(&object(&[
                            opt("from", object(&[req("zones", list(&TEXT))])),
                            req(
                                "to",
                                object(&[
                                    req("type", one_of(&["None", "Only", "Any", "AnyExcept"])),
                                    opt("zones", list(&TEXT)),
                                ]),
                            ),
                        ])),
                    ),
                    opt(
                        "failoverThreshold",
                        object(&[req("percentage", INT_OR_TEXT)])
                    ),
                ]),
            ),
        ]),
    ),
    opt(
        "loadBalancer",
        object(&[
            req(
                "type",
                one_of(&["RoundRobin", "LeastRequest", "RingHash", "Random", "Maglev"]),
            ),
            opt("roundRobin", object(&[])),
            opt(
                "leastRequest",
                object(&[
                    opt("choiceCount", int(2, i64::MAX)),
                    opt("activeRequestBias", INT_OR_TEXT),
                ]),
            ),
            opt(
                "ringHash",
                object(&[
                    opt("hashFunction", one_of(&["XXHash", "MurmurHash2"])),
                    opt("minRingSize", int(1, 8_000_000)),
                    opt("maxRingSize", int(1, 8_000_000)),
                ]),
            ),
            opt("random", object(&[])),
            opt("maglev", object(&[opt("tableSize", int(1, 5_000_011))])),
        ]),
    ),
    opt(
        "hashPolicies",
        list(&object(&[
            req(
                "type",
                one_of(&[
                    "Header",
                    "Cookie",
                    "Connection",
                    "QueryParameter",
                    "FilterState"
                ]),
            ),
            opt("terminal", BOOL),
            opt("header", object(&[req("name", NON_EMPTY)])),
            opt(
                "cookie",
                object(&[
                    req("name", NON_EMPTY),
                    opt("ttl", DURATION),
                    opt("path", TEXT)
                ]),
            ),
            opt("connection", object(&[opt("sourceIP", BOOL)])),
            opt("queryParameter", object(&[req("name", NON_EMPTY)])),
            opt("filterState", object(&[req("key", NON_EMPTY)])),
        ])),
    ),
]));

pub(super) const MESH_PASSTHROUGH: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    plain(
        "default",
        object(&[
            opt("passthroughMode", one_of(&["All", "Matched", "None"])),
            opt(
                "appendMatch",
                list(&object(&[
                    req("type", one_of(&["Domain", "IP", "CIDR"])),
                    req("value", TEXT),
                    opt("port", INT),
                    opt(
                        "protocol",
                        one_of_or(&["tcp", "tls", "grpc", "http", "http2", "mysql"], "tcp"),
                    ),
                ])),
            ),
        ]),
    ),
]);

const FAULT_INJECTION: Schema = object(&[opt(
    "http",
    list(&object(&[
        opt(
            "abort",
            object(&[req("httpStatus", INT), req("percentage", INT_OR_TEXT)]),
        ),
        opt(
            "delay",
            object(&[req("value", DURATION), req("percentage", INT_OR_TEXT)]),
        ),
        opt(
            "responseBandwidth",
            object(&[req("limit", TEXT), req("percentage", INT_OR_TEXT)]),
        ),
    ])),
)]);

pub(super) const MESH_FAULT_INJECTION: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    opt(
        "to",
        list(&object(&[
            req("targetRef", TO_TARGET_REF),
            plain("default", FAULT_INJECTION),
        ])),
    ),
    opt(
        "rules",
        list(&object(&[
            opt("matches", list(&MATCH)),
            req("default", FAULT_INJECTION),
        ])),
    ),
]);

pub(super) const MESH_RATE_LIMIT: Schema = to_and_rules!(object(&[opt(
    "local",
    object(&[
        opt(
            "http",
            object(&[
                opt("disabled", BOOL),
                opt("requestRate", RATE),
                opt(
                    "onRateLimit",
                    object(&[opt("status", INT), opt("headers", HEADERS_TO_SET_OR_ADD)]),
                ),
            ]),
        ),
        opt(
            "tcp",
            object(&[opt("disabled", BOOL), opt("connectionRate", RATE)])
        ),
    ]),
)]));

pub(super) const MESH_HEALTH_CHECK: Schema = to_only!(object(&[
    opt("interval", DURATION),
    opt("timeout", DURATION),
    opt("unhealthyThreshold", INT),
    opt("healthyThreshold", INT),
    opt("initialJitter", DURATION),
    opt("intervalJitter", DURATION),
    opt("intervalJitterPercent", INT),
    opt("failTrafficOnPanic", BOOL),
    opt("eventLogPath", TEXT),
    opt("alwaysLogHealthCheckFailures", BOOL),
    opt("noTrafficInterval", DURATION),
    opt("reuseConnection", BOOL),
    opt(
        "tcp",
        object(&[
            opt("disabled", BOOL),
            opt("send", TEXT),
            opt("receive", list(&TEXT))
        ])
    ),
    opt(
        "http",
        object(&[
            opt("disabled", BOOL),
            opt("path", TEXT),
            opt("requestHeadersToAdd", HEADERS_TO_SET_OR_ADD),
            opt("expectedStatuses", list(&INT)),
        ]),
    ),
    opt(
        "grpc",
        object(&[
            opt("disabled", BOOL),
            opt("serviceName", TEXT),
            opt("authority", TEXT)
        ]),
    ),
]));
