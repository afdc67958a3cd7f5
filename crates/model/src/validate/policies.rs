//! Rules of timeouts, permissions, circuit breakers and retries.

use super::common::{
    TO_KINDS, TO_KINDS_WITHOUT_ROUTES, decimal, inbound_match, target_ref, top_target_ref,
};
use super::traffic::NOT_BY_IDENTITY;
use crate::node::Node;
use crate::violations::Violations;

const TO_OR_RULES: &str = "at least one of 'to' or 'rules' has to be defined";

pub(super) fn mesh_timeout(spec: &Node<'_>, violations: &mut Violations) {
    let (to, rules) = (spec.at("to"), spec.at("rules"));
    top_target_ref(&spec.at("targetRef"), !rules.is_empty(), violations);
    if !to.is_empty() && !rules.is_empty() {
        spec.report(
            violations,
            "fields 'to' must be empty when 'rules' is defined",
        );
    }
    if to.is_empty() && rules.is_empty() {
        spec.report(violations, TO_OR_RULES);
    }
    for entry in to.items() {
        target_ref(&entry.at("targetRef"), TO_KINDS, violations);
        timeouts(&entry.at("default"), violations);
    }
    for rule in rules.items() {
        let default = rule.at("default");
        timeouts(&default, violations);
        for matching in rule.at("matches").items() {
            inbound_match(&matching, true, violations);
        }
        if rule
            .at("matches")
            .items()
            .any(|matching| matching.at("spiffeID").is_set())
        {
            for member in [
                "connectionTimeout",
                "idleTimeout",
                "http.requestHeadersTimeout",
                "http.maxStreamDuration",
                "http.maxConnectionDuration",
            ] {
                let timeout = default.down(member);
                if timeout.is_set() {
                    timeout.report(violations, NOT_BY_IDENTITY);
                }
            }
        }
    }
}

fn timeouts(default: &Node<'_>, violations: &mut Violations) {
    let (connection, idle, http) = (
        default.at("connectionTimeout"),
        default.at("idleTimeout"),
        default.at("http"),
    );
    if !connection.is_set() && !idle.is_set() && !http.is_set() {
        default.report(violations, "at least one timeout should be configured");
    }
    connection.must_be_positive_when_set(violations);
    idle.must_not_be_negative_when_set(violations);
    if http.is_set() {
        // The timeout of headers alone has never counted.
        let counted = [
            "requestTimeout",
            "streamIdleTimeout",
            "maxStreamDuration",
            "maxConnectionDuration",
        ];
        if counted.iter().all(|member| !http.at(member).is_set()) {
            http.report(
                violations,
                "at least one timeout in this section should be configured",
            );
        }
        for member in counted.into_iter().chain(["requestHeadersTimeout"]) {
            http.at(member).must_not_be_negative_when_set(violations);
        }
    }
}

pub(super) fn mesh_traffic_permission(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), true, violations);
    let rules = spec.at("rules");
    if rules.is_empty() {
        spec.report(violations, "policy must define rules");
    }
    for rule in rules.items() {
        let lists = ["deny", "allowWithShadowDeny", "allow"];
        let default = rule.at("default");
        if lists.iter().all(|list| !default.at(list).is_set()) {
            rule.report(
                violations,
                "at least one of 'allow', 'allowWithShadowDeny', 'deny' has to be defined",
            );
        }
        for list in lists {
            // Clients know these paths without `default`.
            let matches = default.at(list).renamed(format!("{}.{list}", rule.path()));
            for matching in matches.items() {
                inbound_match(&matching, false, violations);
            }
        }
    }
}

pub(super) fn mesh_circuit_breaker(spec: &Node<'_>, violations: &mut Violations) {
    let (to, rules) = (spec.at("to"), spec.at("rules"));
    top_target_ref(&spec.at("targetRef"), !rules.is_empty(), violations);
    if to.is_empty() && rules.is_empty() {
        spec.report(violations, TO_OR_RULES);
    }
    // Clients know the paths of `rules` under its former name.
    for rule in rules.renamed(format!("{}.from", spec.path())).items() {
        circuit_breaker(&rule.at("default"), violations);
    }
    for entry in to.items() {
        target_ref(&entry.at("targetRef"), TO_KINDS_WITHOUT_ROUTES, violations);
        circuit_breaker(&entry.at("default"), violations);
    }
}

fn circuit_breaker(default: &Node<'_>, violations: &mut Violations) {
    let (limits, outliers) = (
        default.at("connectionLimits"),
        default.at("outlierDetection"),
    );
    if !limits.is_set() && !outliers.is_set() {
        default.report(
            violations,
            "at least one of: 'connectionLimits' or 'outlierDetection' should be configured",
        );
    }
    for member in [
        "maxConnections",
        "maxConnectionPools",
        "maxPendingRequests",
        "maxRetries",
        "maxRequests",
    ] {
        limits.at(member).must_be_above_zero_when_set(violations);
    }
    if outliers.is_set() {
        outlier_detection(&outliers, violations);
    }
}

fn outlier_detection(outliers: &Node<'_>, violations: &mut Violations) {
    outliers
        .at("interval")
        .must_be_positive_when_set(violations);
    outliers
        .at("baseEjectionTime")
        .must_be_positive_when_set(violations);
    percentage(&outliers.at("maxEjectionPercent"), violations);
    let panic = outliers.at("healthyPanicThreshold");
    if panic.is_set() {
        match decimal(&panic) {
            Err(()) => panic.report(violations, "string must be a valid number"),
            Ok(number) if !(0.0..=100.0).contains(&number) => {
                panic.report(violations, "must be in inclusive range [0.0, 100.0]");
            }
            Ok(_) => {}
        }
    }
    let detectors = outliers.at("detectors");
    if !detectors.is_set() {
        detectors.report(violations, "must be defined");
        return;
    }
    let known = [
        "totalFailures",
        "gatewayFailures",
        "localOriginFailures",
        "successRate",
        "failurePercentage",
    ];
    if known
        .iter()
        .all(|detector| !detectors.at(detector).is_set())
    {
        let message = format!("must have at least one defined: {}", known.join(", "));
        detectors.report(violations, message);
    }
    for detector in known {
        let detector = detectors.at(detector);
        for member in ["consecutive", "minimumHosts", "requestVolume"] {
            detector.at(member).must_be_above_zero_when_set(violations);
        }
        let factor = detector.at("standardDeviationFactor");
        if factor.is_set() {
            match decimal(&factor) {
                Err(()) => factor.report(violations, "invalid number"),
                Ok(number) if number <= 0.0 => {
                    factor.report(violations, "must be greater than 0");
                }
                Ok(_) => {}
            }
        }
        percentage(&detector.at("threshold"), violations);
    }
}

fn percentage(node: &Node<'_>, violations: &mut Violations) {
    if node.is_set() && !(0.0..=100.0).contains(&node.number()) {
        node.report(violations, "must be in inclusive range [0, 100]");
    }
}

pub(super) fn mesh_retry(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), false, violations);
    for entry in spec.at("to").items() {
        target_ref(&entry.at("targetRef"), TO_KINDS, violations);
        // Clients know these paths with `conf`.
        let default = entry.at("default");
        let conf = default.renamed(format!("{}.conf", default.path()));
        retry(&conf, violations);
    }
}

fn retry(conf: &Node<'_>, violations: &mut Violations) {
    let (tcp, http, grpc) = (conf.at("tcp"), conf.at("http"), conf.at("grpc"));
    if !tcp.is_set() && !http.is_set() && !grpc.is_set() {
        conf.report(
            violations,
            "at least one of the 'tcp', 'http', 'grpc' must be specified",
        );
    }
    for section in [&tcp, &http, &grpc] {
        if section.is_set() && section.is_empty() {
            section.report(violations, "must not be empty");
        }
    }
    tcp.at("maxConnectAttempt")
        .must_be_above_zero_when_set(violations);
    for (section, known) in [
        (&http, is_http_retry as fn(&str) -> bool),
        (&grpc, |item| {
            let known = [
                "Canceled",
                "DeadlineExceeded",
                "Internal",
                "ResourceExhausted",
                "Unavailable",
            ];
            known.contains(&item)
        }),
    ] {
        let back_off = section.at("backOff");
        if back_off.is_set() && back_off.is_empty() {
            back_off.report(violations, "must not be empty");
        }
        rate_limited_back_off(&section.at("rateLimitedBackOff"), violations);
        for item in section.at("retryOn").items() {
            if !known(item.text()) {
                item.report(violations, format!("unknown item '{}'", item.text()));
            }
        }
    }
    host_selection(&http.at("hostSelection"), violations);
}

fn rate_limited_back_off(back_off: &Node<'_>, violations: &mut Violations) {
    if !back_off.is_set() {
        return;
    }
    back_off
        .at("maxInterval")
        .must_be_positive_when_set(violations);
    let headers = back_off.at("resetHeaders");
    if headers.is_empty() {
        headers.report(violations, "must be defined");
    }
    for header in headers.items() {
        let name = header.at("name");
        if name.is_empty() {
            name.report(violations, "must be defined");
        }
    }
}

fn host_selection(list: &Node<'_>, violations: &mut Violations) {
    let mut priorities = 0;
    for selection in list.items() {
        let predicate = selection.at("predicate");
        match predicate.text() {
            "OmitPreviousHosts" => {}
            "OmitHostsWithTags" => {
                if selection.at("tags").is_empty() {
                    selection.at("tags").report(violations, "must be defined");
                }
            }
            "OmitPreviousPriorities" => {
                priorities += 1;
                if priorities == 2 {
                    predicate.report(
                        violations,
                        "OmitPreviousPriorities must only be specified once",
                    );
                }
                let frequency = selection.at("updateFrequency");
                if frequency.is_set() && frequency.number() <= 0.0 {
                    frequency.report(violations, "must be defined and greater than zero");
                }
            }
            other => {
                predicate.report(violations, format!("unknown predicate type '{other}'"));
            }
        }
    }
}

/// What HTTP requests may be retried on: a condition, a method, or a status code.
fn is_http_retry(item: &str) -> bool {
    const CONDITIONS: &[&str] = &[
        "5xx",
        "GatewayError",
        "Reset",
        "Retriable4xx",
        "ConnectFailure",
        "EnvoyRatelimited",
        "RefusedStream",
        "Http3PostConnectFailure",
        "HttpMethodConnect",
        "HttpMethodDelete",
        "HttpMethodGet",
        "HttpMethodHead",
        "HttpMethodOptions",
        "HttpMethodPatch",
        "HttpMethodPost",
        "HttpMethodPut",
        "HttpMethodTrace",
    ];
    CONDITIONS.contains(&item) || item.parse().is_ok_and(is_known_status)
}

fn is_known_status(code: u16) -> bool {
    matches!(
        code,
        100..=103
            | 200..=208
            | 226
            | 300..=308
            | 400..=418
            | 421..=426
            | 428
            | 429
            | 431
            | 451
            | 500..=508
            | 510
            | 511
    )
}
