//! The HTTP resource API that both control planes serve.
//!
//! ```text
//! PUT /meshes/default/meshtimeouts/slow ──parse──admit──▶ store ──▶ 201, zonal-revision: 1207
//! GET /_receipts/1207?wait=all          ──────────────────────────▶ who keeps it, whose proxies use it
//! ```
//!
//! Start at [`router`] and [`RestState`]. What differs between the control planes comes in through traits: who may
//! log in ([`Authenticator`]), what else a write must bring along or must not do ([`WriteRules`]), and how far a
//! revision got ([`Receipts`]).
//!
//! Always true: a write is whole or not at all; every violation is told at once; an answer to a write names the
//! revision that has it; the paths, bodies and errors that clients of the dialect know stay as they are, and what is
//! added beside them is in headers and under paths that begin with `_`.
//!
//! Deliberately absent: rules of kinds (see `model`), what a token is (see `identity`), sockets (see `process`).

mod access;
mod apply;
mod backup;
mod batch;
mod body;
mod call;
mod commit_times;
mod dialect;
mod gojson;
mod index;
mod insight;
mod layers;
mod overview;
mod problem;
mod query;
mod receipts;
mod reply;
mod resources;
mod routes;
mod state;
pub mod tokens;
mod watch;

pub use access::{Access, Action, Allowed, Authenticator, NoTokens, Peer, TokenRefused, User};
pub use commit_times::CommitTimes;
pub use problem::{DocumentProblem, Problem, Title};
pub use receipts::{
    Nack, NoReceipts, ProxyCounts, Receipt, Receipts, WaitFor, ZoneReceipt, ZoneReceiptState,
};
pub use reply::REVISION_HEADER;
pub use routes::{router, router_with};
pub use state::{Info, Limits, NoRules, RestState, WriteRules, ZoneSync};
