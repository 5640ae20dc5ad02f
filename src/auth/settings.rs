//! The settings of authentication.

pub use crate::secret::Secret;

/// Who is asked for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    /// `false`: everyone may do everything.
    pub enabled: bool,
    /// An admin token that holds while it is configured. It is not stored.
    pub default_token: Option<Secret>,
    /// Paths that need no token, exactly as they stand in a request.
    pub allowlist: Vec<String>,
}
