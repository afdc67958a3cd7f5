//! Words of the schema tables, and the shapes that several kinds share.

use super::{Field, Int, Pattern, Schema, Text};

pub(super) const ANY: Schema = Schema::Any;
pub(super) const INT_OR_TEXT: Schema = Schema::IntOrText;
pub(super) const BOOL: Schema = Schema::Bool { default: None };
pub(super) const DURATION: Schema = Schema::Duration;
pub(super) const TEXT_MAP: Schema = Schema::TextMap;
pub(super) const INT: Schema = int(i64::MIN, i64::MAX);
const PLAIN: Text = Text {
    one_of: &[],
    default: None,
    len_min: 0,
    len_max: usize::MAX,
    pattern: None,
};
pub(super) const TEXT: Schema = Schema::Text(PLAIN);
pub(super) const NON_EMPTY: Schema = Schema::Text(Text {
    len_min: 1,
    ..PLAIN
});
pub(super) const PORT: Schema = int(1, 65535);

pub(super) const fn bool_or(default: bool) -> Schema {
    Schema::Bool {
        default: Some(default),
    }
}

pub(super) const fn int(min: i64, max: i64) -> Schema {
    Schema::Int(Int {
        one_of: &[],
        default: None,
        min,
        max,
    })
}

pub(super) const fn int_or(default: i64) -> Schema {
    Schema::Int(Int {
        one_of: &[],
        default: Some(default),
        min: i64::MIN,
        max: i64::MAX,
    })
}

pub(super) const fn int_of(one_of: &'static [i64], default: i64) -> Schema {
    Schema::Int(Int {
        one_of,
        default: Some(default),
        min: i64::MIN,
        max: i64::MAX,
    })
}

pub(super) const fn text_or(default: &'static str) -> Schema {
    Schema::Text(Text {
        default: Some(default),
        ..PLAIN
    })
}

pub(super) const fn text_max(len_max: usize) -> Schema {
    Schema::Text(Text { len_max, ..PLAIN })
}

pub(super) const fn one_of(one_of: &'static [&'static str]) -> Schema {
    Schema::Text(Text { one_of, ..PLAIN })
}

pub(super) const fn one_of_or(one_of: &'static [&'static str], default: &'static str) -> Schema {
    Schema::Text(Text {
        one_of,
        default: Some(default),
        ..PLAIN
    })
}

pub(super) const fn matching(len_min: usize, len_max: usize, pattern: Pattern) -> Schema {
    Schema::Text(Text {
        len_min,
        len_max,
        pattern: Some(pattern),
        ..PLAIN
    })
}

pub(super) const fn list(items: &'static Schema) -> Schema {
    Schema::List {
        items,
        min: 0,
        max: usize::MAX,
    }
}

pub(super) const fn list_of(items: &'static Schema, min: usize, max: usize) -> Schema {
    Schema::List { items, min, max }
}

pub(super) const fn object(fields: &'static [Field]) -> Schema {
    Schema::Object(fields)
}

/// An optional member.
pub(super) const fn opt(name: &'static str, schema: Schema) -> Field {
    Field {
        name,
        required: false,
        always: false,
        schema,
    }
}

/// A required member.
pub(super) const fn req(name: &'static str, schema: Schema) -> Field {
    Field {
        name,
        required: true,
        always: false,
        schema,
    }
}

/// An optional member that is printed as `{}` where it is absent.
pub(super) const fn plain(name: &'static str, schema: Schema) -> Field {
    Field {
        name,
        required: false,
        always: true,
        schema,
    }
}

const HEADER_NAME_PATTERN: Pattern = Pattern {
    regex: r"^[a-z0-9!#$%&'*+\-.^_\x60|~]+$",
    accepts: |text| {
        !text.is_empty()
            && text.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b)
            })
    },
};

pub(super) const HEADER_NAME: Schema = matching(1, 256, HEADER_NAME_PATTERN);

pub(super) const HOSTNAME: Schema = matching(
    1,
    253,
    Pattern {
        regex: r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        accepts: crate::names::is_dns_1123_subdomain,
    },
);

pub(super) const ATTRIBUTE_KEY: Schema = matching(
    0,
    usize::MAX,
    Pattern {
        regex: r"^[a-z]([a-z0-9]|[._][a-z0-9])*$",
        accepts: |text| {
            let bytes = text.as_bytes();
            let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            bytes.first().is_some_and(u8::is_ascii_lowercase)
                && bytes.last().is_some_and(alnum)
                && bytes.iter().all(|b| alnum(b) || b"._".contains(b))
                && bytes.windows(2).all(|pair| pair.iter().any(alnum))
        },
    },
);

pub(super) const LABEL_SELECTOR: Schema = object(&[opt("matchLabels", TEXT_MAP)]);

pub(super) const TOP_TARGET_REF: Schema = object(&[
    req("kind", one_of(&["Mesh", "Dataplane"])),
    opt("labels", TEXT_MAP),
    opt("sectionName", TEXT),
]);

pub(super) const TO_TARGET_REF: Schema = object(&[
    req(
        "kind",
        one_of(&[
            "Mesh",
            "MeshService",
            "MeshExternalService",
            "MeshMultiZoneService",
            "MeshHTTPRoute",
        ]),
    ),
    opt("labels", TEXT_MAP),
    opt("sectionName", TEXT),
]);

pub(super) const BACKEND_REF: Schema = object(&[
    req(
        "kind",
        one_of(&[
            "Mesh",
            "Dataplane",
            "MeshService",
            "MeshExternalService",
            "MeshMultiZoneService",
            "MeshHTTPRoute",
        ]),
    ),
    opt("labels", TEXT_MAP),
    opt("sectionName", TEXT),
    opt(
        "weight",
        Schema::Int(Int {
            one_of: &[],
            default: Some(1),
            min: 0,
            max: 4_294_967_295,
        }),
    ),
    opt("port", INT),
]);

pub(super) const BACKEND_RESOURCE_REF: Schema = object(&[
    req("kind", one_of(&["MeshOpenTelemetryBackend"])),
    opt("labels", TEXT_MAP),
]);

pub(super) const MATCH: Schema = object(&[
    opt(
        "spiffeID",
        object(&[
            req("type", one_of(&["Exact", "Prefix"])),
            req("value", TEXT),
        ]),
    ),
    opt(
        "sni",
        object(&[req("type", one_of(&["Exact"])), req("value", TEXT)]),
    ),
]);

pub(super) const SECURE_DATA_SOURCE: Schema = object(&[
    req(
        "type",
        one_of(&["File", "Secret", "EnvVar", "InsecureInline"]),
    ),
    opt("file", object(&[opt("path", TEXT)])),
    opt("envVar", object(&[opt("name", TEXT)])),
    opt("insecureInline", object(&[opt("value", TEXT)])),
    opt(
        "secretRef",
        object(&[opt("kind", one_of(&["Secret"])), opt("name", TEXT)]),
    ),
]);

const TLS_VERSIONS: &[&str] = &["TLSAuto", "TLS10", "TLS11", "TLS12", "TLS13"];

pub(super) const TLS_VERSION: Schema = object(&[
    opt("min", one_of_or(TLS_VERSIONS, "TLSAuto")),
    opt("max", one_of_or(TLS_VERSIONS, "TLSAuto")),
]);

pub(super) const HEADER_MATCH: Schema = object(&[
    opt(
        "type",
        one_of_or(
            &["Exact", "Present", "RegularExpression", "Absent", "Prefix"],
            "Exact",
        ),
    ),
    req("name", HEADER_NAME),
    opt("value", TEXT),
]);

pub(super) const HEADER_KEY_VALUE: Schema = object(&[req("name", HEADER_NAME), req("value", TEXT)]);

pub(super) const HEADER_MODIFIER: Schema = object(&[
    opt("set", list_of(&HEADER_KEY_VALUE, 0, 16)),
    opt("add", list_of(&HEADER_KEY_VALUE, 0, 16)),
    opt("remove", list_of(&TEXT, 0, 16)),
]);

pub(super) const HEADERS_TO_SET_OR_ADD: Schema = object(&[
    opt("set", list_of(&HEADER_KEY_VALUE, 0, 16)),
    opt("add", list_of(&HEADER_KEY_VALUE, 0, 16)),
]);

pub(super) const PATH_REWRITE: Schema = object(&[
    req("type", one_of(&["ReplaceFullPath", "ReplacePrefixMatch"])),
    opt("replaceFullPath", TEXT),
    opt("replacePrefixMatch", TEXT),
]);

pub(super) const LOG_FORMAT: Schema = object(&[
    req("type", one_of(&["Plain", "Json"])),
    opt("plain", TEXT),
    opt(
        "json",
        list(&object(&[req("key", TEXT), req("value", TEXT)])),
    ),
    opt("omitEmptyValues", bool_or(false)),
]);

pub(super) const RATE: Schema = object(&[req("num", INT), req("interval", DURATION)]);

pub(super) const JSON_PATCHES: Schema = list(&object(&[
    req("op", one_of(&["add", "remove", "replace", "move", "copy"])),
    req("path", TEXT),
    opt("value", ANY),
    opt("from", TEXT),
]));
