//! The settings of authentication, and the type of texts that are never shown.

use std::fmt;

/// A text that is never shown: not in logs, not in errors, not by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Whoever calls this answers for where it goes.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_nothing_that_formats_it() {
        let settings =
            AuthSettings { enabled: true, default_token: Some(Secret::new("hunter2")), allowlist: Vec::new() };
        let secret = settings.default_token.clone().unwrap();
        for shown in [format!("{settings:?}"), format!("{settings:#?}"), format!("{secret} {secret:?} {secret:>40}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert_eq!(secret.reveal(), "hunter2");
    }
}
