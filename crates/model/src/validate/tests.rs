use super::*;
use crate::json::Json;
use crate::resource::Key;
use serde_json::json;

#[track_caller]
fn check(kind: Kind, spec: &Value, want: &[&str]) {
    let resource = Resource::new(Key::new(kind, "default", "one"), Json::from_value(spec));
    let got: Vec<String> = validate(&resource)
        .0
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(got, want, "{spec}");
}

#[test]
fn dataplanes() {
    check(
        Kind::Dataplane,
        &json!({}),
        &["networking: must be defined"],
    );
    check(
        Kind::Dataplane,
        &json!({"networking": {"address": "10.0.0.1", "inbound": [{"port": 80, "protocol": "http"}]}}),
        &[],
    );
    check(
        Kind::Dataplane,
        &json!({"networking": {
            "address": "0.0.0.0",
            "admin": {"port": 80},
            "inbound": [
                {"port": 80, "name": "a"},
                {"servicePort": 70000, "serviceAddress": "x", "address": "y", "protocol": "z"},
            ],
            "outbound": [{"backendRef": {"kind": "Mesh"}}],
            "listeners": [{"address": "0.0.0.0", "port": 80, "name": "a"}],
        }}),
        &[
            "networking.address: must not be 0.0.0.0 or ::",
            "networking.admin.port: must differ from inbound",
            "networking.inbound[1].port: port must be in the range [1, 65535]",
            "networking.inbound[1].servicePort: port must be in the range [1, 65535]",
            "networking.inbound[1].serviceAddress: serviceAddress has to be valid IP address",
            "networking.inbound[1].address: address has to be valid IP address",
            "networking.inbound[1].protocol: has an invalid value \"z\". Allowed values: grpc, http, http2, tcp",
            "networking.outbound[0].port: port must be in the range [1, 65535]",
            "networking.outbound[0].backendRef.kind: invalid value. Available values are: MeshExternalService,MeshMultiZoneService,MeshService",
            "networking.outbound[0].backendRef: either 'name' or 'labels' should be specified",
            "networking.outbound[0].backendRef.port: port must be in the range [1, 65535]",
            "networking.listeners[0].type: type must be ZoneIngress or ZoneEgress",
            "networking.listeners[0].address: must not be 0.0.0.0 or ::",
            "networking.listeners[0].name: name \"a\" must be unique across inbounds and listeners",
            "networking.listeners[0]: address:port 0.0.0.0:80 collides with an inbound listener",
        ],
    );
    check(
        Kind::Dataplane,
        &json!({"networking": {"address": "10.0.0.1", "gateway": {"tags": {"kuma.io/protocol": "http"}},
            "inbound": [{"port": 1}]}}),
        &[
            "networking.inbound: inbound cannot be defined for delegated gateways",
            "networking.gateway.tags: mandatory tag \"kuma.io/service\" is missing",
            "networking.gateway.tags[\"kuma.io/protocol\"]: other values than tcp are not allowed, provided value \"http\"",
        ],
    );
    check(
        Kind::Dataplane,
        &json!({"networking": {"address": "10.0.0.1", "listeners": [
            {"type": "ZoneIngress", "address": "10.0.0.1", "port": 10001},
            {"type": "ZoneEgress", "address": "10.0.0.1", "port": 10001},
        ]}}),
        &[
            "networking.listeners[1]: address:port 10.0.0.1:10001 is used by listeners of different types",
        ],
    );
}

#[test]
fn services() {
    check(
        Kind::MeshService,
        &json!({"selector": {"dataplaneRef": {"name": "a"}, "dataplaneLabels": {}}, "ports": [{"port": 1, "appProtocol": "x"}]}),
        &[
            "spec.selector: must specify only one of: dataplaneRef or dataplaneLabels",
            "spec.ports[0].appProtocol: appProtocol must be one of: grpc, http, http2, tcp",
        ],
    );
    check(
        Kind::MeshMultiZoneService,
        &json!({}),
        &[
            "spec.selector.meshService.matchLabels: cannot be empty",
            "spec.ports: cannot be empty",
        ],
    );
    let long = Key::new(Kind::MeshService, "default", "a".repeat(64));
    assert_eq!(
        validate(&Resource::new(long, Json::empty_object())).to_string(),
        "name: must be no more than 63 characters"
    );
}

#[test]
fn generators_render_to_names() {
    let check_template = |template: &str, want: &[&str]| {
        let spec = json!({"selector": {"meshService": {}}, "template": template});
        check(Kind::HostnameGenerator, &spec, want);
    };
    check_template("{{ .DisplayName }}.{{ label \"app\" }}.mesh", &[]);
    check_template("", &["spec.template: must not be empty"]);
    check_template(
        "{{ .Nothing }}",
        &[
            "spec.template: couldn't render template with stub values: template: :1: can't evaluate field Nothing",
        ],
    );
    check_template(
        "{{ .Name",
        &["spec.template: couldn't parse template: template: :1: unclosed action"],
    );
    check(
        Kind::HostnameGenerator,
        &json!({"selector": {}, "template": "a", "extension": {}}),
        &[
            "spec.selector: exact one selector (meshService, meshExternalService) must be defined",
            "spec.extension.type: must not be empty",
        ],
    );
}

#[test]
fn timeouts() {
    check(
        Kind::MeshTimeout,
        &json!({}),
        &["spec: at least one of 'to' or 'rules' has to be defined"],
    );
    check(
        Kind::MeshTimeout,
        &json!({
            "targetRef": {"kind": "Mesh", "labels": {"a": "b"}},
            "to": [{"targetRef": {"kind": "MeshService"}, "default": {"connectionTimeout": "0s", "http": {"requestHeadersTimeout": "1s"}}}],
            "rules": [{"matches": [{}, {"spiffeID": {"type": "Exact", "value": "spiffe://a/"}}], "default": {"idleTimeout": "-1s"}}],
        }),
        &[
            "spec.targetRef.labels: must not be set with kind Mesh",
            "spec: fields 'to' must be empty when 'rules' is defined",
            "spec.to[0].targetRef.labels: must be set when kind is MeshService",
            "spec.to[0].default.connectionTimeout: must be greater than zero when defined",
            "spec.to[0].default.http: at least one timeout in this section should be configured",
            "spec.rules[0].default.idleTimeout: must not be negative when defined",
            "spec.rules[0].matches[0]: must specify at least one of 'spiffeID' or 'sni'",
            "spec.rules[0].matches[1].spiffeID: must be a valid Spiffe ID: path cannot have a trailing slash",
            "spec.rules[0].default.idleTimeout: can't be specified when matches contain spiffeID because this field cannot be conditioned on source identity",
        ],
    );
    check(
        Kind::MeshTimeout,
        &json!({"rules": [{"default": {"idleTimeout": "5x"}}]}),
        &["spec.rules[0].default.idleTimeout: time: unknown unit \"x\" in duration \"5x\""],
    );
}

#[test]
fn permissions_circuit_breakers_and_retries() {
    check(
        Kind::MeshTrafficPermission,
        &json!({}),
        &["spec: policy must define rules"],
    );
    check(
        Kind::MeshTrafficPermission,
        &json!({"rules": [{"default": {}}, {"default": {"allow": [{"sni": {"type": "Prefix"}}]}}]}),
        &[
            "spec.rules[0]: at least one of 'allow', 'allowWithShadowDeny', 'deny' has to be defined",
            "spec.rules[1].allow[0].sni.type: unrecognized type \"Prefix\", supported values are: Exact",
            "spec.rules[1].allow[0].sni.value: must be set",
        ],
    );
    check(
        Kind::MeshCircuitBreaker,
        &json!({"rules": [{"default": {"connectionLimits": {"maxRetries": 0}, "outlierDetection": {"healthyPanicThreshold": "x"}}}]}),
        &[
            "spec.from[0].default.connectionLimits.maxRetries: must be greater than 0",
            "spec.from[0].default.outlierDetection.healthyPanicThreshold: string must be a valid number",
            "spec.from[0].default.outlierDetection.detectors: must be defined",
        ],
    );
    check(
        Kind::MeshRetry,
        &json!({"to": [{"targetRef": {"kind": "Mesh"}, "default": {"tcp": {}, "http": {"retryOn": ["5XX", "5xx", "503"]}}}]}),
        &[
            "spec.to[0].default.conf.tcp: must not be empty",
            "spec.to[0].default.conf.http.retryOn[0]: unknown item '5XX'",
        ],
    );
}

#[test]
fn routes() {
    let route = |rule: Value| json!({"to": [{"targetRef": {"kind": "MeshService", "labels": {"a": "b"}}, "rules": [rule]}]});
    check(
        Kind::MeshHTTPRoute,
        &route(json!({
            "matches": [
                {"path": {"type": "PathPrefix", "value": "/a/"}},
                {"path": {"type": "Exact", "value": "b"}, "queryParams": [
                    {"type": "Exact", "name": "q", "value": ""}, {"type": "Exact", "name": "q", "value": ""}]},
            ],
            "default": {
                "filters": [
                    {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}}},
                    {"type": "RequestHeaderModifier"},
                ],
                "backendRefs": [{"kind": "MeshMultiZoneService", "labels": {"a": "b"}}, {"kind": "Mesh"}],
            },
        })),
        &[
            "spec.to[0].rules[0].matches[0].path.value: does not need a trailing slash because only a `/`-separated prefix or an entire path is matched",
            "spec.to[0].rules[0].matches[1].path.value: must be an absolute path",
            "spec.to[0].rules[0].matches[1].queryParams[1].name: multiple entries for name q",
            "spec.to[0].rules[0].default.filters[0].urlRewrite.path.replacePrefixMatch: can only appear if all matches match a path prefix",
            "spec.to[0].rules[0].default.filters[1].requestHeaderModifier: must be defined",
            "spec.to[0].rules[0].default.backendRefs[0].port: must be defined with kind MeshMultiZoneService",
            "spec.to[0].rules[0].default.backendRefs[1].kind: value 'Mesh' is not supported",
        ],
    );
    check(
        Kind::MeshTCPRoute,
        &route(json!({"default": {}})),
        &["spec.to[0].rules[0].default.backendRefs: must be defined"],
    );
}

#[test]
fn identities_and_trust() {
    check(
        Kind::MeshIdentity,
        &json!({"provider": {"type": "Other"}}),
        &["spec.provider.type: \"Other\" must be one of [\"Bundled\", \"Spire\", \"Extension\"]"],
    );
    check(
        Kind::MeshIdentity,
        &json!({"provider": {"type": "Spire", "spire": {"agent": {"timeout": "-1s"}}}}),
        &["spec.provider.spire.agent.spire.agent.timeout: must not be negative when defined"],
    );
    check(
        Kind::MeshTrust,
        &json!({"caBundles": [{"type": "Pem", "pem": {"value": "x"}}, {"type": "Jwks"}]}),
        &[
            "spec.trustDomain: trustDomain needs to be defined",
            "spec.caBundles[0].pem.value: provided certificate has incorrect format",
            "spec.caBundles[1].type: Jwks must be one of: Pem",
        ],
    );
}

#[test]
fn a_value_of_another_type_is_named() {
    check(
        Kind::MeshZoneAddress,
        &json!({"address": "10.0.0.1", "port": 10001.5}),
        &["spec.port: port must be a valid (1-65535)"],
    );
    check(
        Kind::MeshMultiZoneService,
        &json!({"selector": {"meshService": {"matchLabels": {"a": "b"}}}, "ports": [{"port": "80"}]}),
        &["spec.ports[0].port: invalid type: string \"80\", expected u32"],
    );
}

#[test]
fn tls_and_load_balancing() {
    check(
        Kind::MeshTLS,
        &json!({"targetRef": {"kind": "Dataplane", "sectionName": "a"}, "rules": [{"default": {
            "mode": "Off", "tlsVersion": {"min": "TLS13", "max": "TLS12"}, "tlsCiphers": ["x"]}}]}),
        &[
            "spec.rules[0].default.mode: \"mode\" must be one of [\"Strict\", \"Permissive\"]",
            "spec.rules[0].default.tlsCiphers: tlsCiphers can only be defined with top level targetRef kind: Mesh",
            "spec.rules[0].default.tlsVersion: tlsVersion can only be defined with top level targetRef kind: Mesh",
            "spec.rules[0].default.tlsCiphers: \"tlsCiphers\" must be one of [\"ECDHE-ECDSA-AES128-GCM-SHA256\", \"ECDHE-ECDSA-AES256-GCM-SHA384\", \"ECDHE-ECDSA-CHACHA20-POLY1305\", \"ECDHE-RSA-AES128-GCM-SHA256\", \"ECDHE-RSA-AES256-GCM-SHA384\", \"ECDHE-RSA-CHACHA20-POLY1305\"]",
            "spec.rules[0].default.tlsVersion.min: min version must be lower than max",
        ],
    );
    check(
        Kind::MeshLoadBalancingStrategy,
        &json!({"to": [{"targetRef": {"kind": "MeshService", "labels": {"a": "b"}}, "default": {
            "localityAwareness": {
                "localZone": {"affinityTags": [{"key": "", "weight": 1}, {"key": "a"}]},
                "crossZone": {"failover": [{"to": {"type": "Any", "zones": ["a"]}}, {"to": {"type": "Only"}}],
                    "failoverThreshold": {"percentage": 0}},
            },
            "hashPolicies": [{"type": "Header"}],
        }}]}),
        &[
            "spec.to[0].default.localityAwareness.localZone.affinityTags[0].key: must not be empty",
            "spec.to[0].default.localityAwareness.localZone.affinityTags: all or none affinity tags should have weight",
            "spec.to[0].default.localityAwareness.crossZone: must not be set: MeshService traffic is local",
            "spec.to[0].default.localityAwareness.crossZone.failover[0].to.zones: must be empty when type is Any",
            "spec.to[0].default.localityAwareness.crossZone.failover[1].to.zones: must not be empty when type is Only",
            "spec.to[0].default.localityAwareness.crossZone.failoverThreshold.percentage: must be greater than 0",
            "spec.to[0].default.hashPolicies[0].header: must be defined",
        ],
    );
}

#[test]
fn faults_limits_and_checks() {
    check(
        Kind::MeshFaultInjection,
        &json!({"targetRef": {"kind": "Dataplane"}, "rules": [{"default": {"http": [
            {"abort": {"httpStatus": 99, "percentage": 101}},
            {"responseBandwidth": {"limit": "5 bps", "percentage": "x"}}]}}],
            "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": [{"responseBandwidth": {"limit": "5 Mbps", "percentage": 1}}]}}]}),
        &[
            "spec.to: must not be defined",
            "spec.rules[0].default.http.abort[0].httpStatus: must be in inclusive range [100, 599]",
            "spec.rules[0].default.http.abort[0].percentage: must be in inclusive range [0.0, 100.0]",
            "spec.rules[0].default.http.responseBandwidth[1].limit: must be in kbps/Mbps/Gbps units",
            "spec.rules[0].default.http.responseBandwidth[1].percentage: string must be a valid number",
        ],
    );
    check(
        Kind::MeshRateLimit,
        &json!({"rules": [{"default": {"local": {"http": {"requestRate": {"num": 0, "interval": "50ms"}}, "tcp": {}}}}]}),
        &[
            "spec.rules: must not be defined",
            "spec.rules[0].default.local.tcp: must have at least one defined: disabled, connectionRate",
            "spec.rules[0].default.local.http.requestRate.num: must be greater than 0",
            "spec.rules[0].default.local.http.requestRate.interval: must be greater than: 50ms",
        ],
    );
    check(
        Kind::MeshHealthCheck,
        &json!({"to": [{"targetRef": {"kind": "Mesh"}, "default": {"interval": "0s", "eventLogPath": "x"}}]}),
        &[
            "spec.to[0].default.interval: must be greater than zero when defined",
            "spec.to[0].default.eventLogPath: must be a valid path when defined",
            "spec.to[0].default: must have at least one defined: http, tcp, grpc",
        ],
    );
}

#[test]
fn passthrough() {
    let one = |matching: Value, want: &[&str]| {
        check(
            Kind::MeshPassthrough,
            &json!({"default": {"appendMatch": [matching]}}),
            want,
        );
    };
    one(
        json!({"type": "Domain", "value": "*.example.com", "protocol": "tls"}),
        &[],
    );
    one(json!({"type": "CIDR", "value": "10.0.0.0/8"}), &[]);
    one(
        json!({"type": "IP", "value": "x", "protocol": "mysql"}),
        &[
            "spec.default.appendMatch[0].port: port must be defined for Mysql protocol",
            "spec.default.appendMatch[0].value: provided IP has incorrect value",
        ],
    );
    one(
        json!({"type": "Domain", "value": "*example.com", "protocol": "http"}),
        &[
            "spec.default.appendMatch[0].value: provided DNS has incorrect value, partial wildcard is currently not supported",
        ],
    );
}

#[test]
fn observability() {
    check(
        Kind::MeshAccessLog,
        &json!({"rules": [{"default": {"backends": [
            {"type": "Tcp"},
            {"type": "File", "file": {"path": "x", "format": {"type": "Json", "json": []}}},
            {"type": "OpenTelemetry", "openTelemetry": {"attributes": [{"key": "otel.a", "value": "x"}]}},
        ]}}]}),
        &[
            "spec.rules[0].default.backends[0].tcp: must be defined",
            "spec.rules[0].default.backends[1].file.format.json: must not be empty",
            "spec.rules[0].default.backends[1].file.path: file backend requires a valid path",
            "spec.rules[0].default.backends[2].openTelemetry.backendRef: must be defined",
            "spec.rules[0].default.backends[2].openTelemetry.attributes[0].key: must not use the reserved OpenTelemetry prefix 'otel.'",
        ],
    );
    check(
        Kind::MeshTrace,
        &json!({"default": {"backends": [{"type": "Datadog", "datadog": {"url": "https://host/path"}}],
            "sampling": {"overall": 101}, "tags": [{"name": "a"}]}}),
        &[
            "spec.default.backends[0].datadog.url: scheme must be http",
            "spec.default.backends[0].datadog.url: port must be defined",
            "spec.default.backends[0].datadog.url: path must not be defined",
            "spec.default.tags[0]: tag must have only one type defined: header, literal",
            "spec.default.sampling.overall: must be between 0 and 100",
        ],
    );
    check(
        Kind::MeshMetric,
        &json!({"default": {"applications": [{"port": 0}], "sidecar": {"profiles": {"exclude": [{"type": "Regex", "match": "("}]}},
            "backends": [{"type": "Prometheus"}]}}),
        &[
            "spec.default.sidecar.profiles.exclude[0].match: invalid regex",
            "spec.default.applications.application[0]: port must be a valid (1-65535)",
            "spec.default.backends.backend[0].prometheus: must be defined",
        ],
    );
}

#[test]
fn proxy_patches() {
    check(
        Kind::MeshProxyPatch,
        &json!({"default": {"appendModifications": [
            {},
            {"cluster": {"operation": "Add", "match": {"name": "a"}}},
            {"httpFilter": {"operation": "AddBefore", "value": "name: a"}},
            {"listener": {"operation": "Patch", "jsonPatches": [{"op": "move", "path": "/a", "value": 1}]}},
        ]}}),
        &[
            "spec.default.appendModifications[0]: exactly one modification can be defined at a time. Currently, 0 modifications are defined",
            "spec.default.appendModifications[1].cluster.match: must not be defined",
            "spec.default.appendModifications[1].cluster.value: must be defined",
            "spec.default.appendModifications[2].httpFilter.match.name: must be defined. You need to pick a filter before which this one will be added",
            "spec.default.appendModifications[3].listener.jsonPatches[0].from: \"from\" must not be empty when \"op\" is one of [\"move\", \"copy\"]",
            "spec.default.appendModifications[3].listener.jsonPatches[0].value: \"value\" is allowed only when \"op\" is one of [\"add\", \"replace\"]",
        ],
    );
}
