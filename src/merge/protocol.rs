//! What the two sides of a merge in a child process say to each other: one JSON object per line.
//!
//! ```text
//! parent ── stdin ──>  {"start":{"parent_pid":4711,"log_level":"INFO","task":{"merge":{…}}}}     first
//!                      {"cancel":true}                                                            at most once
//! parent <─ stdout ──  {"progress":{…}}                                                           any number
//!                      {"outcome":{…}}  |  {"scanned":{…}}  |  {"error":{…}}                      one, the last
//! ```
//!
//! The parent keeps stdin open for as long as it lives, so end of file there means that it is gone.
//!
//! What must hold: everything the child needs is in `start`; a [`MergeError`] arrives as the variant that was sent.
//! Both sides are the same program, so the messages carry no version.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{MergeError, MergeOutcome, MergeProgress, MergeRequest, SetAside};

/// A line from the parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToWorker {
    Start(Box<Start>),
    /// Stop soon and answer with [`WireError::Cancelled`]. Always true.
    Cancel(bool),
}

/// The one thing that a child is started for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// A child with another parent than this has been orphaned.
    pub(crate) parent_pid: u32,
    /// The most detailed level that the parent will log: `OFF`, `ERROR`, …
    pub(crate) log_level: String,
    pub(crate) task: Task,
}

/// What the child should do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Task {
    /// Merge the inputs.
    Merge(MergeRequest),
    /// Read every row of the inputs and write nothing: does that crash?
    Scan(MergeRequest),
}

/// A line from the child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FromWorker {
    Progress(MergeProgress),
    Outcome(Box<MergeOutcome>),
    Scanned {},
    Error(WireError),
}

/// [`MergeError`] in transit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum WireError {
    Cancelled,
    NothingToMerge { set_aside: Vec<SetAside> },
    OutOfMemory { detail: String, limit_bytes: u64 },
    DiskFull { path: PathBuf, detail: String },
    ProofFailed { detail: String },
    Worker { detail: String },
    Io { action: String, path: PathBuf, os_error: Option<i32>, message: String },
    Engine { detail: String },
}

impl From<MergeError> for WireError {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::Cancelled => Self::Cancelled,
            MergeError::NothingToMerge(set_aside) => Self::NothingToMerge { set_aside },
            MergeError::OutOfMemory { detail, limit_bytes } => Self::OutOfMemory { detail, limit_bytes },
            MergeError::DiskFull { path, detail } => Self::DiskFull { path, detail },
            MergeError::ProofFailed(detail) => Self::ProofFailed { detail },
            MergeError::Worker(detail) => Self::Worker { detail },
            MergeError::Io { action, path, source } => Self::Io {
                action: action.to_owned(),
                path,
                os_error: source.raw_os_error(),
                message: source.to_string(),
            },
            MergeError::Engine(detail) => Self::Engine { detail },
        }
    }
}

impl From<WireError> for MergeError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Cancelled => Self::Cancelled,
            WireError::NothingToMerge { set_aside } => Self::NothingToMerge(set_aside),
            WireError::OutOfMemory { detail, limit_bytes } => Self::OutOfMemory { detail, limit_bytes },
            WireError::DiskFull { path, detail } => Self::DiskFull { path, detail },
            WireError::ProofFailed { detail } => Self::ProofFailed(detail),
            WireError::Worker { detail } => Self::Worker(detail),
            WireError::Io { action, path, os_error, message } => Self::Io {
                action: known_action(&action),
                path,
                source: os_error.map_or_else(|| io::Error::other(message), io::Error::from_raw_os_error),
            },
            WireError::Engine { detail } => Self::Engine(detail),
        }
    }
}

/// [`MergeError::Io`] names its action by a constant, so a received one is looked up.
fn known_action(action: &str) -> &'static str {
    const ACTIONS: [&str; 12] =
        ["create", "delete", "list", "lock", "measure", "open", "read", "remove", "rename", "seek", "sync", "write"];
    ACTIONS.into_iter().find(|known| *known == action).unwrap_or("use")
}

impl Task {
    pub(crate) fn request(&self) -> &MergeRequest {
        match self {
            Self::Merge(request) | Self::Scan(request) => request,
        }
    }
}

/// A message as it is written: its JSON and a line feed.
///
/// # Errors
/// When a path is not UTF-8, which JSON cannot carry.
pub(crate) fn to_line(message: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::SetAsideReason;

    fn across_the_wire(error: MergeError) -> MergeError {
        let line = to_line(&FromWorker::Error(error.into())).unwrap();
        match serde_json::from_slice(&line).unwrap() {
            FromWorker::Error(error) => error.into(),
            other => panic!("sent an error, got {other:?}"),
        }
    }

    #[test]
    fn every_error_arrives_as_the_variant_and_text_that_was_sent() {
        let path = PathBuf::from("/tmp/it's \"here\"\n");
        let set_aside =
            vec![SetAside { name: "a".into(), reason: SetAsideReason::Unreadable("truncated \u{1f4a5}".into()) }];
        for error in [
            MergeError::Cancelled,
            MergeError::NothingToMerge(set_aside),
            MergeError::OutOfMemory { detail: "sort".into(), limit_bytes: u64::MAX },
            MergeError::DiskFull { path: path.clone(), detail: "quota".into() },
            MergeError::ProofFailed("rows 1 != 2".into()),
            MergeError::Worker("w".into()),
            MergeError::Io { action: "read", path: path.clone(), source: io::Error::from_raw_os_error(5) },
            MergeError::Io { action: "write", path, source: io::Error::other("short") },
            MergeError::Engine("e".into()),
        ] {
            let sent = format!("{error:?}");
            let text = error.to_string();
            let received = across_the_wire(error);
            assert_eq!(received.to_string(), text);
            assert_eq!(WireError::from(received).kind_name(), WireError::kind_name_of(&sent));
        }
    }

    impl WireError {
        fn kind_name(&self) -> String {
            Self::kind_name_of(&format!("{self:?}"))
        }

        fn kind_name_of(debug: &str) -> String {
            debug.chars().take_while(char::is_ascii_alphabetic).collect()
        }
    }

    #[test]
    fn an_operating_system_error_keeps_its_kind() {
        let error = MergeError::Io {
            action: "open",
            path: "/x".into(),
            source: io::Error::from(io::ErrorKind::PermissionDenied),
        };
        assert!(matches!(across_the_wire(error), MergeError::Io { action: "open", .. }));
        let error = MergeError::Io { action: "open", path: "/x".into(), source: io::Error::from_raw_os_error(13) };
        let MergeError::Io { source, .. } = across_the_wire(error) else { panic!("another variant") };
        assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn the_cancel_line_is_the_documented_one() {
        assert_eq!(to_line(&ToWorker::Cancel(true)).unwrap(), b"{\"cancel\":true}\n");
    }
}
