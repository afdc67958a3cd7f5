//! Rules of TLS, load balancing, health checks, faults, rate limits and passthrough.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::common::{
    TO_KINDS, TO_KINDS_WITHOUT_ROUTES, decimal, inbound_match, target_ref, tls_version,
    top_target_ref,
};
use crate::names::is_dns_name;
use crate::node::{Node, is_port, one_of_quoted};
use crate::violations::Violations;

const CIPHERS: &[&str] = &[
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
];
pub(super) const NOT_BY_IDENTITY: &str = "can't be specified when matches contain spiffeID because this field cannot be conditioned on source identity";

/// Whether the policy is about the whole mesh.
fn is_mesh_wide(spec: &Node<'_>) -> bool {
    matches!(spec.down("targetRef.kind").text(), "" | "Mesh")
}

pub(super) fn mesh_tls(spec: &Node<'_>, violations: &mut Violations) {
    let rules = spec.at("rules");
    top_target_ref(&spec.at("targetRef"), !rules.is_empty(), violations);
    let mesh_wide = is_mesh_wide(spec);
    for rule in rules.items() {
        let default = rule.at("default");
        let (mode, ciphers, version) = (
            default.at("mode"),
            default.at("tlsCiphers"),
            default.at("tlsVersion"),
        );
        if mode.is_set() {
            mode.must_be_one_of("mode", &["Strict", "Permissive"], violations);
        }
        for member in [&ciphers, &version] {
            if member.is_set() && !mesh_wide {
                let name = member.path().rsplit('.').next().unwrap_or_default();
                let message =
                    format!("{name} can only be defined with top level targetRef kind: Mesh");
                member.report(violations, message);
            }
        }
        if ciphers
            .items()
            .any(|cipher| !CIPHERS.contains(&cipher.text()))
        {
            ciphers.report(violations, one_of_quoted("tlsCiphers", CIPHERS));
        }
        tls_version(&version, violations);
    }
}

pub(super) fn mesh_health_check(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), false, violations);
    for entry in spec.at("to").items() {
        target_ref(&entry.at("targetRef"), TO_KINDS_WITHOUT_ROUTES, violations);
        let default = entry.at("default");
        for member in [
            "interval",
            "timeout",
            "initialJitter",
            "intervalJitter",
            "noTrafficInterval",
        ] {
            default.at(member).must_be_positive_when_set(violations);
        }
        for member in ["unhealthyThreshold", "healthyThreshold"] {
            let threshold = default.at(member);
            if threshold.is_set() && threshold.number() <= 0.0 {
                threshold.report(violations, "must be greater than zero when defined");
            }
        }
        in_range(
            &default.at("intervalJitterPercent"),
            (0.0, 100.0),
            "[0, 100]",
            violations,
        );
        let log = default.at("eventLogPath");
        if log.is_set() && !log.text().starts_with('/') {
            log.report(violations, "must be a valid path when defined");
        }
        if ["http", "tcp", "grpc"]
            .iter()
            .all(|checker| !default.at(checker).is_set())
        {
            default.report(
                violations,
                "must have at least one defined: http, tcp, grpc",
            );
        }
        let path = default.down("http.path");
        if path.is_set() && path.is_empty() {
            path.report(violations, "must be defined");
        }
        for status in default.down("http.expectedStatuses").items() {
            in_range(&status, (100.0, 599.0), "[100, 599]", violations);
        }
    }
}

fn in_range(node: &Node<'_>, (min, max): (f64, f64), shown: &str, violations: &mut Violations) {
    if node.is_set() && !(min..=max).contains(&node.number()) {
        node.report(violations, format!("must be in inclusive range {shown}"));
    }
}

fn decimal_percentage(node: &Node<'_>, zero_allowed: bool, violations: &mut Violations) {
    if !node.is_set() {
        return;
    }
    match decimal(node) {
        Err(()) => node.report(violations, "string must be a valid number"),
        Ok(number) if !(0.0..=100.0).contains(&number) => {
            node.report(violations, "must be in inclusive range [0.0, 100.0]");
        }
        Ok(number) if number <= 0.0 && !zero_allowed => {
            node.report(violations, "must be greater than 0");
        }
        Ok(_) => {}
    }
}

pub(super) fn mesh_load_balancing_strategy(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), false, violations);
    for entry in spec.at("to").items() {
        target_ref(&entry.at("targetRef"), TO_KINDS, violations);
        let kind = entry.down("targetRef.kind").text();
        let default = entry.at("default");
        let (balancer, locality) = (default.at("loadBalancer"), default.at("localityAwareness"));
        if kind == "MeshHTTPRoute" {
            for member in [&balancer, &locality] {
                if member.is_set() {
                    member.report(violations, "field is not allowed when targetRef.kind is MeshHTTPRoute, only hashPolicies is supported");
                }
            }
        }
        locality_awareness(&locality, kind, violations);
        let bias = balancer.down("leastRequest.activeRequestBias");
        if bias.is_set() {
            match decimal(&bias) {
                Err(()) => bias.report(violations, "string must be a valid number"),
                Ok(number) if number < 0.0 => {
                    bias.report(violations, "must be greater or equal then: 0");
                }
                Ok(_) => {}
            }
        }
        for policy in default.at("hashPolicies").items() {
            hash_policy(&policy, violations);
        }
    }
}

fn locality_awareness(locality: &Node<'_>, kind: &str, violations: &mut Violations) {
    let tags = locality.down("localZone.affinityTags");
    for tag in tags.items() {
        if tag.at("key").is_empty() {
            tag.at("key").report(violations, "must not be empty");
        }
        tag.at("weight").must_be_above_zero_when_set(violations);
    }
    let weighted = tags.items().filter(|tag| tag.at("weight").is_set()).count();
    if weighted != 0 && weighted != tags.items().count() {
        tags.report(violations, "all or none affinity tags should have weight");
    }
    let cross_zone = locality.at("crossZone");
    if !cross_zone.is_set() {
        return;
    }
    if kind == "MeshService" {
        cross_zone.report(violations, "must not be set: MeshService traffic is local");
    }
    for rule in cross_zone.at("failover").items() {
        let from = rule.down("from.zones");
        if rule.at("from").is_set() && from.is_empty() {
            from.report(violations, "must not be empty");
        }
        for zone in from.items().filter(Node::is_empty) {
            zone.report(violations, "must not be empty");
        }
        let (to, zones) = (rule.down("to.type"), rule.down("to.zones"));
        match to.text() {
            name @ ("None" | "Any") if !zones.is_empty() => {
                zones.report(violations, format!("must be empty when type is {name}"));
            }
            name @ ("Only" | "AnyExcept") if zones.is_empty() => {
                zones.report(violations, format!("must not be empty when type is {name}"));
            }
            "None" | "Any" | "Only" | "AnyExcept" => {}
            _ => to.report(violations, "unrecognized type"),
        }
    }
    decimal_percentage(
        &cross_zone.down("failoverThreshold.percentage"),
        false,
        violations,
    );
}

fn hash_policy(policy: &Node<'_>, violations: &mut Violations) {
    let hash_type = policy.at("type");
    let member = match hash_type.text() {
        "Header" => policy.at("header"),
        "Cookie" => policy.at("cookie"),
        "Connection" => policy.at("connection"),
        "QueryParameter" => policy.at("queryParameter"),
        "FilterState" => policy.at("filterState"),
        _ => {
            hash_type.report(violations, "unrecognized type");
            return;
        }
    };
    if !member.is_set() {
        member.report(violations, "must be defined");
    }
    let path = policy.down("cookie.path");
    if path.is_set() && !path.text().starts_with('/') {
        path.report(violations, "must be an absolute path");
    }
}

pub(super) fn mesh_fault_injection(spec: &Node<'_>, violations: &mut Violations) {
    let (to, rules) = (spec.at("to"), spec.at("rules"));
    top_target_ref(&spec.at("targetRef"), !rules.is_empty(), violations);
    if !to.is_empty() && !is_mesh_wide(spec) {
        to.report(violations, "must not be defined");
    }
    for rule in rules.items() {
        for matching in rule.at("matches").items() {
            inbound_match(&matching, false, violations);
        }
        faults(&rule.down("default.http"), violations);
    }
    for entry in to.items() {
        target_ref(&entry.at("targetRef"), &["Mesh"], violations);
        faults(&entry.down("default.http"), violations);
    }
}

fn faults(http: &Node<'_>, violations: &mut Violations) {
    for (index, fault) in http.items().enumerate() {
        // Clients know these paths with the index behind the kind of the fault.
        let named = |kind: &str| {
            let node = fault.at(kind);
            node.is_set()
                .then(|| node.renamed(format!("{}.{kind}[{index}]", http.path())))
        };
        if let Some(abort) = named("abort") {
            in_range(
                &abort.at("httpStatus"),
                (100.0, 599.0),
                "[100, 599]",
                violations,
            );
            decimal_percentage(&abort.at("percentage"), true, violations);
        }
        if let Some(delay) = named("delay") {
            delay.at("value").must_not_be_negative_when_set(violations);
            decimal_percentage(&delay.at("percentage"), true, violations);
        }
        if let Some(bandwidth) = named("responseBandwidth") {
            let limit = bandwidth.at("limit");
            if limit.is_empty() {
                limit.report(violations, "must be defined");
            } else if !is_bandwidth(limit.text()) {
                limit.report(violations, "must be in kbps/Mbps/Gbps units");
            }
            decimal_percentage(&bandwidth.at("percentage"), true, violations);
        }
    }
}

/// `^(\d*)\s?([GMk]+bps)$`.
fn is_bandwidth(text: &str) -> bool {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest
        .strip_prefix(|c: char| c.is_ascii_whitespace())
        .unwrap_or(rest);
    let Some(unit) = rest.strip_suffix("bps") else {
        return false;
    };
    !unit.is_empty() && unit.bytes().all(|b| b"GMk".contains(&b))
}

pub(super) fn mesh_rate_limit(spec: &Node<'_>, violations: &mut Violations) {
    let (to, rules) = (spec.at("to"), spec.at("rules"));
    top_target_ref(&spec.at("targetRef"), !rules.is_empty(), violations);
    if !to.is_empty() && !rules.is_empty() {
        spec.report(
            violations,
            "field 'to' must be empty when 'rules' is defined",
        );
    }
    if to.is_empty() && rules.is_empty() {
        spec.report(
            violations,
            "at least one of 'to' or 'rules' has to be defined",
        );
    }
    let mesh_wide = is_mesh_wide(spec);
    if !rules.is_empty() && mesh_wide {
        rules.report(violations, "must not be defined");
    }
    if !to.is_empty() && !mesh_wide {
        to.report(violations, "must not be defined");
    }
    for rule in rules.items() {
        let local = rule.down("default.local");
        rate_limit(&local, violations);
        for matching in rule.at("matches").items() {
            inbound_match(&matching, true, violations);
        }
        let by_identity = rule
            .at("matches")
            .items()
            .any(|matching| matching.at("spiffeID").is_set());
        if by_identity && local.at("tcp").is_set() {
            local.at("tcp").report(violations, NOT_BY_IDENTITY);
        }
    }
    for entry in to.items() {
        target_ref(&entry.at("targetRef"), &["Mesh"], violations);
        rate_limit(&entry.down("default.local"), violations);
    }
}

fn rate_limit(local: &Node<'_>, violations: &mut Violations) {
    if !local.is_set() {
        local.report(violations, "must be defined");
        return;
    }
    let at_least_one = |node: &Node<'_>, members: &[&str], violations: &mut Violations| {
        if members.iter().all(|member| !node.at(member).is_set()) {
            let message = format!("must have at least one defined: {}", members.join(", "));
            node.report(violations, message);
        }
    };
    let (tcp, http) = (local.at("tcp"), local.at("http"));
    at_least_one(local, &["tcp", "http"], violations);
    if http.is_set() {
        at_least_one(
            &http,
            &["disabled", "requestRate", "onRateLimit"],
            violations,
        );
        let status = http.down("onRateLimit.status");
        status.must_be_above_zero_when_set(violations);
    }
    if tcp.is_set() {
        at_least_one(&tcp, &["disabled", "connectionRate"], violations);
    }
    for rate in [http.at("requestRate"), tcp.at("connectionRate")] {
        if !rate.is_set() {
            continue;
        }
        if rate.at("num").number() <= 0.0 {
            rate.at("num").report(violations, "must be greater than 0");
        }
        let interval = rate.at("interval");
        if interval
            .duration()
            .is_none_or(|duration| duration.nanos() <= 50_000_000)
        {
            interval.report(violations, "must be greater than: 50ms");
        }
    }
}

pub(super) fn mesh_passthrough(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), false, violations);
    let mut protocols: BTreeMap<u64, &str> = BTreeMap::new();
    let mut values = BTreeSet::new();
    for matching in spec.down("default.appendMatch").items() {
        let (port, protocol, value) = (
            matching.at("port"),
            matching.at("protocol"),
            matching.at("value"),
        );
        let name = if protocol.is_empty() {
            "tcp"
        } else {
            protocol.text()
        };
        let layer_7 = matches!(name, "grpc" | "http" | "http2");
        let number = port
            .value()
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        if name == "mysql" && !port.is_set() {
            port.report(violations, "port must be defined for Mysql protocol");
        }
        if port.is_set() && !is_port(port.number()) {
            port.report(violations, "port must be a valid (1-65535)");
        }
        if layer_7 && *protocols.entry(number).or_insert(name) != name {
            port.report(violations, "using the same port in multiple matches requires the same protocol for the following protocols: [grpc http http2]");
        }
        if !values.insert((number, name, value.text())) {
            let message = format!(
                "value {} is already defiend for this port and protocol",
                value.text()
            );
            value.report(violations, message);
        }
        let known = ["tcp", "tls", "grpc", "http", "http2", "mysql"];
        if !known.contains(&name) {
            protocol.report(violations, one_of_quoted("protocol", &known));
        }
        passthrough_value(&matching, name, layer_7, violations);
    }
}

fn passthrough_value(
    matching: &Node<'_>,
    protocol: &str,
    layer_7: bool,
    violations: &mut Violations,
) {
    let value = matching.at("value");
    let text = value.text();
    match matching.at("type").text() {
        "CIDR" => {
            if text.parse::<ipnet::IpNet>().is_err() {
                value.report(violations, "provided CIDR has incorrect value");
            }
        }
        "IP" => {
            if text.parse::<IpAddr>().is_err() {
                value.report(violations, "provided IP has incorrect value");
            }
        }
        "Domain" => {
            if matches!(protocol, "tcp" | "mysql") {
                let message = format!("protocol {protocol} is not supported for a domain");
                matching.at("protocol").report(violations, message);
            }
            let name = match text.strip_prefix('*') {
                Some(rest) => match rest.strip_prefix('.') {
                    Some(rest) => {
                        if layer_7 && !matching.at("port").is_set() {
                            matching.at("port").report(
                                violations,
                                "wildcard domains doesn't work for all ports and layer 7 protocol",
                            );
                        }
                        rest
                    }
                    None => {
                        value.report(violations, "provided DNS has incorrect value, partial wildcard is currently not supported");
                        return;
                    }
                },
                None => text,
            };
            if !is_dns_name(name) {
                value.report(violations, "provided DNS has incorrect value");
            }
        }
        other => {
            let message = format!(
                "provided type {other} is not supported, one of Domain, IP, or CIDR is supported"
            );
            matching.at("type").report(violations, message);
        }
    }
}
