//! Who may do what over HTTP: tokens, their two roles, and the check of every request.
//!
//! ```text
//! request ─> public path? ──no──> a token? ─> known? ──yes─> role enough? ─> handler
//!                 │ yes             │ 401      │ no              │ 403          ^
//!                 │                 v          v                 v              │
//!                 │                       401, or 429 after ten of them         │
//!                 └──────────────── no token is looked at ──────────────────────┘
//! ```
//!
//! A right token is let in, whatever came from its address before: behind a proxy all clients are one address, and one of them
//! with a wrong token must not lock out the others. Counting wrong tokens is no protection for a token of ours, and need not
//! be: it has 256 random bits. It is one for a configured token that is short enough to be guessed, which therefore counts as
//! wrong while its address has to wait.
//!
//! What must hold: a path is public exactly when the allowlist names it, or when it is `/`, the shell of the dashboard,
//! which has no data in it. A token is stored as a hash, shown once, compared in constant time, and never part of a log
//! line, an error or `Debug` output. A revoked token stops working with the next request, whichever process revoked it, and
//! streams that it opened end within five seconds.
//!
//! Deliberately not here: what the routes do, and TLS, which is the business of the proxy in front.

pub mod layer;
mod refusal;
pub mod settings;
pub mod throttle;
mod tokens;

pub use layer::Guard;
pub use settings::{AuthSettings, Secret};
pub use throttle::Throttle;
pub use tokens::{Guesses, NewToken, SHORT_BYTES, TokenError, TokenInfo, Tokens, is_short};

use std::fmt;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything: GET and HEAD.
    Read,
    /// Everything.
    Admin,
}

impl Role {
    /// The word for it, in the database, in answers and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Read, Self::Admin].into_iter().find(|role| role.as_str() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose token came with a request. The guard puts it among the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of the token.
    pub name: String,
    pub role: Role,
}
