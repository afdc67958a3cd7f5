//! Envoy configuration from a proxy's view: a view in, Envoy messages out.
//!
//! ```text
//! catalogue ─┐
//! policies ──┼─▶ ProxyView ──generate──▶ Generated: type URL ─▶ name ─▶ bytes and version
//! dataplane, │                 ▲
//! node ──────┘               Cache: what replicas share is built once
//!
//! request ──bootstrap::generate──▶ what an Envoy starts with
//! ```
//!
//! Start at [`generate`] and [`ProxyView`]; each module below makes one part of a proxy: `inbound`, `outbound` with
//! `routing`, `retry` and `balance`, `rate_limit`,
//! `fault`, `health`, `access_log`, `trace`, `metric` and `patch`; `ingress`, `egress`, `transparent` with `passthrough`,
//! `dynamic_config`, `admin`. Modules in `envoy` make single messages from
//! plain parameters.
//!
//! Always true: the same view gives the same bytes, whatever order its parts were learned in; a resource's version
//! changes exactly when its bytes do; every cluster whose hosts come by EDS has its assignment in the same result; a
//! part that cannot be configured is left out and named in [`Generated::problems`], and the rest is complete.
//!
//! Deliberately absent: streams and subscriptions (see `delta`), the store, the issuing of certificates, the clock.

mod access_log;
mod admin;
mod balance;
pub mod bootstrap;
mod cache;
mod callers;
mod confs;
mod dataplane;
mod dynamic_config;
mod egress;
mod encoded;
mod envoy;
mod external_tls;
mod fault;
mod generate;
mod health;
mod inbound;
mod ingress;
mod metric;
pub mod names;
mod node;
mod outbound;
mod passthrough;
mod patch;
mod rate_limit;
mod retry;
mod routing;
mod trace;
mod transparent;
mod view;

pub use cache::{Cache, InputHash};
pub use dataplane::{Dataplane, Inbound, ZoneListener, ZoneRole};
pub use encoded::{Encoded, Generated, Problem, type_url};
pub use generate::{generate, generate_native_ingress, identity_secret, trust_secret};
pub use node::{InvalidNode, Node, Redirect, feature};
pub use view::{AdminTls, Identity, ProxyView, TrustDomain};
