//! Where a value comes from, and what can be wrong with it.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The built-in default.
    Default,
    /// A configuration file.
    File {
        path: PathBuf,
        /// Counted from 1. `None`: the file as a whole.
        line: Option<usize>,
    },
    /// An environment variable, by name.
    Environment(String),
    /// A command-line flag.
    Flag(String),
}

/// `default`, `arc.conf:12`, `COMPACTION_MIN_FILES` or `--log-level`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The dotted name of the key or section; the name of an unknown variable; empty for a file as a whole.
    pub key: String,
    /// The value as it was written; masked if it is secret.
    pub value: Option<String>,
    pub source: Source,
    /// What should be instead.
    pub rule: String,
}

impl Problem {
    pub(super) fn with_value(key: &str, value: String, source: Source, rule: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: Some(value), source, rule: rule.into() }
    }

    pub(super) fn new(key: &str, source: Source, rule: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: None, source, rule: rule.into() }
    }
}

/// `arc.conf:12: compaction.min_files = 0: must be a whole number from 1 to 1000000`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        match (&self.value, self.key.as_str()) {
            (Some(value), key) => write!(f, "{key} = {value}: ")?,
            (None, "") => {}
            (None, key) => write!(f, "{key}: ")?,
        }
        f.write_str(&self.rule)
    }
}

/// A configuration that cannot be used, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.render())]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// At least one; those of the file first, by line.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn render(&self) -> String {
        let mut text = match self.problems.len() {
            1 => "the configuration has 1 problem:".to_owned(),
            n => format!("the configuration has {n} problems:"),
        };
        for problem in &self.problems {
            text.push_str("\n  ");
            text.push_str(&problem.to_string());
        }
        text
    }
}
