//! Who is who: authorities and workload certificates, SPIFFE ids, tokens and the keys that sign them.
//!
//! ```text
//! Authority ──issue(SpiffeId, lifetime, now)──▶ Leaf            certificates between workloads
//! SigningKey ──issue_zone / issue_dataplane / issue_user──▶ token   credentials towards control planes
//! token + KeyRing + now ──verify_…──▶ claims, or the reason why not
//! ```
//!
//! Start at [`Authority`] for certificates, at [`token`] for tokens, at [`join`] for how a zone comes to its certificate.
//!
//! Always true: a private key or token never shows in `Debug` ([`Secret`]); every check takes the time from its
//! caller; a token is believed only after its signature, its times and its revocation were looked at.
//!
//! Deliberately absent: where keys are stored, who may ask for a token, the clock.

mod authority;
mod bundle;
pub mod join;
mod pem;
mod secret;
mod spiffe;
mod template;
pub mod token;

pub use authority::{Authority, AuthorityError, KeyType, Leaf};
pub use bundle::{Bundle, CertificateSummary, InvalidBundle, summarize};
pub use secret::Secret;
pub use spiffe::{InvalidSpiffe, SpiffeId, TrustDomain};
pub use template::{TemplateError, render_template};
