//! Rules of MeshProxyPatch. Whether a value is an Envoy message is found out where messages are known.

use super::common::top_target_ref;
use crate::node::{Node, one_of_quoted};
use crate::violations::Violations;

const MEMBERS: &[&str] = &[
    "cluster",
    "listener",
    "networkFilter",
    "httpFilter",
    "virtualHost",
];

pub(super) fn mesh_proxy_patch(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), false, violations);
    let list = spec.down("default.appendModifications");
    if list.is_empty() {
        list.report(violations, "must not be empty");
    }
    for modification in list.items() {
        let set: Vec<&str> = MEMBERS
            .iter()
            .copied()
            .filter(|member| modification.at(member).is_set())
            .collect();
        match set.as_slice() {
            [member] => self::modification(&modification.at(member), member, violations),
            _ => modification.report(
                violations,
                format!(
                    "exactly one modification can be defined at a time. Currently, {} modifications are defined",
                    set.len()
                ),
            ),
        }
    }
}

fn modification(node: &Node<'_>, member: &str, violations: &mut Violations) {
    let is_filter = matches!(member, "networkFilter" | "httpFilter");
    let (operation, value) = (node.at("operation"), node.at("value"));
    let (matching, name) = (node.at("match"), node.down("match.name"));
    match operation.text() {
        "Add" if !is_filter => {
            let forbidden = if member == "virtualHost" {
                &name
            } else {
                &matching
            };
            if forbidden.is_set() {
                forbidden.report(violations, "must not be defined");
            }
            native_value(&value, violations);
        }
        "AddFirst" | "AddLast" if is_filter => native_value(&value, violations),
        place @ ("AddBefore" | "AddAfter") if is_filter => {
            if name.is_empty() {
                let place = if place == "AddBefore" {
                    "before"
                } else {
                    "after"
                };
                name.report(
                    violations,
                    format!("must be defined. You need to pick a filter {place} which this one will be added"),
                );
            }
            native_value(&value, violations);
        }
        "Patch" => {
            if is_filter && name.is_empty() {
                name.report(violations, "must be defined");
            }
            let patches = node.at("jsonPatches");
            match (value.is_set(), patches.is_empty()) {
                (false, true) => node.report(
                    violations,
                    format!("{member} must have exactly one defined: value, jsonPatches"),
                ),
                (true, false) => node.report(
                    violations,
                    format!("{member} must have only one type defined: value, jsonPatches"),
                ),
                (true, true) => native_value(&value, violations),
                (false, false) => {
                    for patch in patches.items() {
                        json_patch(&patch, violations);
                    }
                }
            }
        }
        "Remove" => {
            if value.is_set() {
                value.report(violations, "must not be defined");
            }
        }
        _ => {
            let available = if is_filter {
                r#""AddFirst", "AddLast", "AddBefore", "AddAfter", "Patch", "Remove""#
            } else {
                r#""Add", "Patch", "Remove""#
            };
            let message = format!("invalid operation. Available operations: {available}");
            operation.report(violations, message);
        }
    }
}

fn native_value(value: &Node<'_>, violations: &mut Violations) {
    if value.is_empty() {
        value.report(violations, "must be defined");
    } else if let Err(error) = crate::yaml::documents(value.text()) {
        value.report(
            violations,
            format!("native Envoy resource is not valid: {error}"),
        );
    }
}

fn json_patch(patch: &Node<'_>, violations: &mut Violations) {
    let (op, from, value, path) = (
        patch.at("op"),
        patch.at("from"),
        patch.at("value"),
        patch.at("path"),
    );
    let known = ["add", "remove", "replace", "move", "copy"];
    if !known.contains(&op.text()) {
        op.report(violations, one_of_quoted("op", &known));
        return;
    }
    for (node, name, ops) in [
        (&from, "from", ["move", "copy"]),
        (&value, "value", ["add", "replace"]),
    ] {
        let wanted = ops.contains(&op.text());
        let list = format!("\"op\" is one of [\"{}\", \"{}\"]", ops[0], ops[1]);
        if wanted && !node.is_set() {
            node.report(
                violations,
                format!("\"{name}\" must not be empty when {list}"),
            );
        } else if !wanted && node.is_set() {
            node.report(
                violations,
                format!("\"{name}\" is allowed only when {list}"),
            );
        }
    }
    if path.is_empty() {
        path.report(violations, "must be defined");
    } else if path.text() == "/" && op.text() == "remove" {
        path.report(violations, "root path cannot be removed");
    }
}
