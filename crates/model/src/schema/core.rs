//! Schemas of the kinds that are not policies.

use super::Schema;
use super::parts::{
    ANY, BOOL, DURATION, INT, INT_OR_TEXT, LABEL_SELECTOR, NON_EMPTY, PORT, SECURE_DATA_SOURCE,
    TEXT, TLS_VERSION, bool_or, int, list, list_of, object, one_of, one_of_or, opt, plain, req,
    text_max, text_or,
};

const EXTENSION: Schema = object(&[req("type", TEXT), opt("config", ANY)]);

pub(super) const HOSTNAME_GENERATOR: Schema = object(&[
    plain(
        "selector",
        object(&[
            opt("meshService", LABEL_SELECTOR),
            opt("meshExternalService", LABEL_SELECTOR),
            opt("meshMultiZoneService", LABEL_SELECTOR),
        ]),
    ),
    req("template", TEXT),
    opt("extension", EXTENSION),
]);

pub(super) const MESH_SERVICE: Schema = object(&[
    opt(
        "state",
        one_of_or(&["Available", "Unavailable"], "Unavailable"),
    ),
    plain(
        "selector",
        object(&[
            opt("dataplaneRef", object(&[opt("name", TEXT)])),
            opt("dataplaneLabels", LABEL_SELECTOR),
        ]),
    ),
    opt(
        "ports",
        list(&object(&[
            opt("name", TEXT),
            req("port", INT),
            opt("targetPort", INT_OR_TEXT),
            opt("appProtocol", text_or("tcp")),
        ])),
    ),
    opt(
        "identities",
        list(&object(&[
            req("type", one_of(&["SpiffeID"])),
            req("value", TEXT),
        ])),
    ),
]);

pub(super) const MESH_EXTERNAL_SERVICE: Schema = object(&[
    req(
        "match",
        object(&[
            opt(
                "type",
                one_of_or(&["HostnameGenerator"], "HostnameGenerator"),
            ),
            req("port", PORT),
            opt(
                "protocol",
                one_of_or(&["tcp", "grpc", "http", "http2"], "tcp"),
            ),
        ]),
    ),
    opt("extension", EXTENSION),
    opt(
        "endpoints",
        list(&object(&[
            req("address", NON_EMPTY),
            req("port", PORT),
            opt("priority", int(0, 128)),
        ])),
    ),
    opt(
        "tls",
        object(&[
            opt("version", TLS_VERSION),
            opt("enabled", bool_or(false)),
            opt("allowRenegotiation", bool_or(false)),
            opt(
                "verification",
                object(&[
                    opt(
                        "mode",
                        one_of_or(&["SkipSAN", "SkipCA", "Secured", "SkipAll"], "Secured"),
                    ),
                    opt("serverName", TEXT),
                    opt(
                        "subjectAltNames",
                        list(&object(&[
                            opt("type", one_of_or(&["Exact", "Prefix"], "Exact")),
                            req("value", TEXT),
                        ])),
                    ),
                    opt("caCert", SECURE_DATA_SOURCE),
                    opt("clientCert", SECURE_DATA_SOURCE),
                    opt("clientKey", SECURE_DATA_SOURCE),
                ]),
            ),
        ]),
    ),
]);

pub(super) const MESH_MULTI_ZONE_SERVICE: Schema = object(&[
    req("selector", object(&[req("meshService", LABEL_SELECTOR)])),
    req(
        "ports",
        list_of(
            &object(&[
                opt("name", TEXT),
                req("port", INT),
                opt("appProtocol", text_or("tcp")),
            ]),
            1,
            usize::MAX,
        ),
    ),
]);

pub(super) const MESH_ZONE_ADDRESS: Schema =
    object(&[req("address", NON_EMPTY), req("port", PORT)]);

pub(super) const MESH_IDENTITY: Schema = object(&[
    opt("selector", object(&[opt("dataplane", LABEL_SELECTOR)])),
    opt(
        "spiffeID",
        object(&[opt("trustDomain", TEXT), opt("path", TEXT)]),
    ),
    opt(
        "provider",
        object(&[
            req("type", one_of(&["Bundled", "Spire", "Extension"])),
            opt(
                "bundled",
                object(&[
                    opt("meshTrustCreation", one_of(&["Enabled", "Disabled"])),
                    opt("insecureAllowSelfSigned", BOOL),
                    opt("certificateParameters", object(&[opt("expiry", DURATION)])),
                    opt("autogenerate", object(&[opt("enabled", BOOL)])),
                    opt(
                        "ca",
                        object(&[
                            opt("certificate", SECURE_DATA_SOURCE),
                            opt("privateKey", SECURE_DATA_SOURCE),
                        ]),
                    ),
                ]),
            ),
            opt(
                "spire",
                object(&[opt("agent", object(&[opt("timeout", DURATION)]))]),
            ),
            opt(
                "extension",
                object(&[req("name", TEXT), opt("config", ANY)]),
            ),
        ]),
    ),
]);

pub(super) const MESH_TRUST: Schema = object(&[
    req("trustDomain", text_max(253)),
    req(
        "caBundles",
        list_of(
            &object(&[
                req("type", one_of(&["Pem"])),
                opt("pem", object(&[req("value", TEXT)])),
            ]),
            1,
            usize::MAX,
        ),
    ),
]);

pub(super) const WORKLOAD: Schema = object(&[]);

pub(super) const MESH_OPEN_TELEMETRY_BACKEND: Schema = object(&[
    opt(
        "endpoint",
        object(&[opt("address", TEXT), opt("port", INT), opt("path", TEXT)]),
    ),
    opt("protocol", one_of(&["grpc", "http"])),
    opt(
        "env",
        object(&[
            opt(
                "mode",
                one_of_or(&["Disabled", "Optional", "Required"], "Optional"),
            ),
            opt(
                "precedence",
                one_of_or(&["ExplicitFirst", "EnvFirst"], "EnvFirst"),
            ),
            opt("allowSignalOverrides", BOOL),
        ]),
    ),
]);
