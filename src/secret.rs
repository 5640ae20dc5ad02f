//! A text that is never shown.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_nothing_that_formats_it() {
        let secret = Some(Secret::new("hunter2"));
        let inner = secret.clone().unwrap();
        for shown in [format!("{secret:?}"), format!("{secret:#?}"), format!("{inner} {inner:?} {inner:>40}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        assert_eq!(inner.reveal(), "hunter2");
    }
}
