//! Which policies touch a proxy, merged into one answer.
//!
//! ```text
//! policies of a mesh ──Policies──┐
//! services and routes ─Targets───┼─Matcher──▶ DataplanePolicies: conf per destination, rules per inbound, proxy-wide conf
//! one dataplane ───────Subject───┘
//! ```
//!
//! Start at [`Matcher`] and [`DataplanePolicies`]; [`conf`] has the typed forms of what it answers and [`routes`] turns the merged
//! routing policies of one destination into the ordered list of routes that a proxy needs.
//!
//! Always true: the answer depends on the values given and on nothing else; lists are in a stable order; a policy that
//! cannot be read is left out and named in [`Policies::problems`], and harms nobody else; merging knows no kind but the
//! three exceptions written in `merge`.
//!
//! Deliberately absent: the store, Envoy, what a conf makes a proxy do.

mod build;
pub mod conf;
mod dataplane;
mod merge;
mod order;
mod policy;
pub mod routes;
mod rules;
mod select;
mod subject;
mod targets;

pub use dataplane::{DataplanePolicies, Matcher};
pub use policy::{Policies, Policy, Problem, TargetRef};
pub use routes::matches_hash;
pub use rules::{InboundRule, KindPolicies, Origin, ProxyRule, ToRule};
pub use subject::{Inbound, InboundKey, Subject};
pub use targets::{BackendRef, ResolvedBackend, Target, TargetPort, Targets};
