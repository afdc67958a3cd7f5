//! Schemas of access logs, traces, metrics and patches of proxies.

use super::Schema;
use super::parts::{
    ANY, ATTRIBUTE_KEY, BACKEND_RESOURCE_REF, BOOL, DURATION, INT, INT_OR_TEXT, JSON_PATCHES,
    LOG_FORMAT, MATCH, NON_EMPTY, TEXT, TEXT_MAP, TO_TARGET_REF, TOP_TARGET_REF, bool_or, int_or,
    list, list_of, object, one_of, one_of_or, opt, plain, req, text_or,
};

const ACCESS_LOG: Schema = object(&[opt(
    "backends",
    list(&object(&[
        req("type", one_of(&["Tcp", "File", "OpenTelemetry"])),
        opt(
            "tcp",
            object(&[opt("format", LOG_FORMAT), req("address", NON_EMPTY)]),
        ),
        opt(
            "file",
            object(&[opt("format", LOG_FORMAT), req("path", NON_EMPTY)]),
        ),
        opt(
            "openTelemetry",
            object(&[
                opt(
                    "attributes",
                    list(&object(&[req("key", ATTRIBUTE_KEY), req("value", TEXT)])),
                ),
                opt("backendRef", BACKEND_RESOURCE_REF),
                opt("body", ANY),
            ]),
        ),
    ])),
)]);

pub(super) const MESH_ACCESS_LOG: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    opt(
        "to",
        list(&object(&[
            req("targetRef", TO_TARGET_REF),
            req("default", ACCESS_LOG),
        ])),
    ),
    opt(
        "rules",
        list(&object(&[
            opt("matches", list(&MATCH)),
            req("default", ACCESS_LOG),
        ])),
    ),
]);

pub(super) const MESH_TRACE: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    plain(
        "default",
        object(&[
            opt(
                "backends",
                list_of(
                    &object(&[
                        req("type", one_of(&["Zipkin", "Datadog", "OpenTelemetry"])),
                        opt(
                            "zipkin",
                            object(&[
                                req("url", TEXT),
                                opt("traceId128bit", bool_or(false)),
                                opt(
                                    "apiVersion",
                                    one_of_or(&["httpJson", "httpProto"], "httpJson"),
                                ),
                                opt("sharedSpanContext", bool_or(true)),
                            ]),
                        ),
                        opt(
                            "datadog",
                            object(&[req("url", TEXT), opt("splitService", bool_or(false))]),
                        ),
                        opt(
                            "openTelemetry",
                            object(&[opt("backendRef", BACKEND_RESOURCE_REF)]),
                        ),
                    ]),
                    0,
                    1,
                ),
            ),
            opt(
                "sampling",
                object(&[
                    opt("overall", INT_OR_TEXT),
                    opt("client", INT_OR_TEXT),
                    opt("random", INT_OR_TEXT),
                ]),
            ),
            opt(
                "tags",
                list(&object(&[
                    req("name", TEXT),
                    opt("literal", TEXT),
                    opt("header", object(&[req("name", TEXT), opt("default", TEXT)])),
                ])),
            ),
        ]),
    ),
]);

const METRIC_SELECTORS: Schema = list(&object(&[
    req("type", one_of(&["Prefix", "Regex", "Exact", "Contains"])),
    req("match", TEXT),
]));

pub(super) const MESH_METRIC: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    plain(
        "default",
        object(&[
            opt(
                "sidecar",
                object(&[
                    opt(
                        "profiles",
                        object(&[
                            opt(
                                "appendProfiles",
                                list(&object(&[req("name", one_of(&["All", "Basic", "None"]))])),
                            ),
                            opt("exclude", METRIC_SELECTORS),
                            opt("include", METRIC_SELECTORS),
                        ]),
                    ),
                    opt("includeUnused", BOOL),
                ]),
            ),
            opt(
                "applications",
                list(&object(&[
                    opt("name", TEXT),
                    opt("path", text_or("/metrics")),
                    req("port", INT),
                    opt("address", TEXT),
                ])),
            ),
            opt(
                "backends",
                list(&object(&[
                    req("type", one_of(&["Prometheus", "OpenTelemetry"])),
                    opt(
                        "prometheus",
                        object(&[
                            opt("clientId", TEXT),
                            opt("port", int_or(5670)),
                            opt("path", text_or("/metrics")),
                            opt(
                                "tls",
                                object(&[opt(
                                    "mode",
                                    one_of_or(
                                        &["Disabled", "ProvidedTLS", "ActiveMTLSBackend"],
                                        "Disabled",
                                    ),
                                )]),
                            ),
                        ]),
                    ),
                    opt(
                        "openTelemetry",
                        object(&[
                            opt("backendRef", BACKEND_RESOURCE_REF),
                            opt("refreshInterval", DURATION),
                        ]),
                    ),
                ])),
            ),
        ]),
    ),
]);

const fn modification(match_: Schema, operations: &'static [&'static str]) -> [super::Field; 4] {
    [
        req("operation", one_of(operations)),
        opt("match", match_),
        opt("value", TEXT),
        opt("jsonPatches", JSON_PATCHES),
    ]
}

const ADD_REMOVE_PATCH: &[&str] = &["Add", "Remove", "Patch"];
const FILTER_OPERATIONS: &[&str] = &[
    "Remove",
    "Patch",
    "AddFirst",
    "AddBefore",
    "AddAfter",
    "AddLast",
];
const FILTER_MATCH: Schema = object(&[
    opt("name", TEXT),
    opt("origin", TEXT),
    opt("listenerName", TEXT),
    opt("listenerTags", TEXT_MAP),
]);
const CLUSTER_PATCH: &[super::Field] = &modification(
    object(&[opt("name", TEXT), opt("origin", TEXT)]),
    ADD_REMOVE_PATCH,
);
const LISTENER_PATCH: &[super::Field] = &modification(
    object(&[
        opt("name", TEXT),
        opt("origin", TEXT),
        opt("tags", TEXT_MAP),
    ]),
    ADD_REMOVE_PATCH,
);
const FILTER_PATCH: &[super::Field] = &modification(FILTER_MATCH, FILTER_OPERATIONS);
const VIRTUAL_HOST_PATCH: &[super::Field] = &[
    req("operation", one_of(ADD_REMOVE_PATCH)),
    req(
        "match",
        object(&[
            opt("name", TEXT),
            opt("origin", TEXT),
            opt("routeConfigurationName", TEXT),
        ]),
    ),
    opt("value", TEXT),
    opt("jsonPatches", JSON_PATCHES),
];

pub(super) const MESH_PROXY_PATCH: Schema = object(&[
    opt("targetRef", TOP_TARGET_REF),
    req(
        "default",
        object(&[opt(
            "appendModifications",
            list(&object(&[
                opt("cluster", object(CLUSTER_PATCH)),
                opt("listener", object(LISTENER_PATCH)),
                opt("networkFilter", object(FILTER_PATCH)),
                opt("httpFilter", object(FILTER_PATCH)),
                opt("virtualHost", object(VIRTUAL_HOST_PATCH)),
            ])),
        )]),
    ),
]);
