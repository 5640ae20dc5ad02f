//! Why a job failed, and what that means for the next attempt.

use super::observe::ObserveError;
use super::recovery::Fault;
use crate::lock::LockError;
use crate::merge::{MergeError, SetAsideReason};
use crate::partition::PartitionId;
use crate::state::StateError;
use crate::storage::{StorageError, WriteError};

/// Why a job stopped. In every case the inputs still count: a job that has committed does not fail.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Somebody asked for it.
    #[error("cancelled before {step}")]
    Cancelled { step: &'static str },
    /// The lease was lost: another worker may be at the partition.
    #[error("the lease was lost before {step}: another worker may have the partition")]
    LeaseLost { step: &'static str },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{step}: {source}")]
    Storage { step: &'static str, source: StorageError },
    /// An object could not be written, or it is not known whether it was.
    #[error("{step}: {source}")]
    Write { step: &'static str, source: WriteError },
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The partition is left alone until a person has looked.
    #[error("{partition} is left alone: {fault}")]
    FailClosed { partition: PartitionId, fault: Fault },
    /// An output read back from storage is not what was written, or an input changed. Nothing was deleted.
    #[error("{what}; every input was kept")]
    Doubt { what: String },
    /// Another worker created the record of this generation first. Its work counts, ours does not.
    #[error("another worker compacted the partition first (record {record} is by job {by})")]
    Overtaken { record: String, by: String },
    /// The create of the record was repeated and never answered. It may count or not; the next cycle finds out.
    #[error("it is unknown whether the record was created: {source}; the next cycle finds out")]
    CommitUnknown { source: WriteError },
    /// Files that the head retires could not be deleted. They do not count, and the next cycle tries again.
    #[error(
        "{count} files that are no longer needed could not be deleted, first {first}: {source}; the next cycle tries again"
    )]
    Undeleted { count: usize, first: String, source: StorageError },
    /// The job's own folder could not be made, read or removed.
    #[error("{action} {path}: {detail}: free space, correct the rights, or set compaction.temp_dir to another folder")]
    TempFolder { action: &'static str, path: String, detail: String },
    /// A bug: the job's task panicked.
    #[error("internal error: {0}")]
    Panicked(String),
}

/// What an error means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Not an error: somebody wanted it, or somebody else did the work.
    Yield,
    /// Circumstances: try again in a later cycle.
    Retry,
    /// Will fail in the same way until data or settings change.
    UntilChanged,
    /// A person must look.
    Operator,
}

impl JobError {
    /// The message for the history and for clients: without the words of the store, which may hold a secret. The whole
    /// message stands in the log.
    ///
    /// Exhaustive on purpose: a new variant must decide.
    #[must_use]
    pub fn without_store_words(&self) -> String {
        match self {
            Self::Storage { step, source } => format!("{step}: {}", source.without_store_words()),
            Self::Write { step, source } => format!("{step}: {}", source.without_store_words()),
            Self::Observe(ObserveError::Storage(source)) => source.without_store_words(),
            Self::CommitUnknown { source } => format!(
                "it is unknown whether the record was created: {}; the next cycle finds out",
                source.without_store_words()
            ),
            Self::Lock(error) => error.without_store_words(),
            Self::Undeleted { count, first, source } => format!(
                "{count} files that are no longer needed could not be deleted, first {first}: {}; the next cycle tries again",
                source.without_store_words()
            ),
            // Files, numbers and words of ours, of DuckDB, of SQLite and of the operating system: none of them talks to a
            // store, merges have local files only.
            Self::Cancelled { .. }
            | Self::LeaseLost { .. }
            | Self::Observe(
                ObserveError::BadRecord { .. } | ObserveError::LiveFileMissing { .. } | ObserveError::Unsettled { .. },
            )
            | Self::Merge(_)
            | Self::FailClosed { .. }
            | Self::Doubt { .. }
            | Self::Overtaken { .. }
            | Self::TempFolder { .. }
            | Self::Panicked(_) => self.to_string(),
        }
    }

    /// Exhaustive on purpose: a new variant must decide.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Cancelled { .. } | Self::LeaseLost { .. } | Self::Overtaken { .. } => Disposition::Yield,
            // Storage, locks and disks come back; what was read or written is checked again next time.
            Self::Lock(
                LockError::Lost { .. } | LockError::Store { .. } | LockError::State(StateError::Unavailable { .. }),
            )
            | Self::Storage { .. }
            | Self::Write { .. }
            | Self::CommitUnknown { .. }
            | Self::Undeleted { .. }
            | Self::TempFolder { .. }
            | Self::Doubt { .. }
            | Self::Observe(ObserveError::Storage(_) | ObserveError::Unsettled { .. }) => Disposition::Retry,
            Self::Merge(error) => match error {
                MergeError::Cancelled => Disposition::Yield,
                // Memory as well: how much a merge needs depends on the order in which its threads get on.
                MergeError::DiskFull { .. }
                | MergeError::Io { .. }
                | MergeError::Worker(_)
                | MergeError::OutOfMemory { .. } => Disposition::Retry,
                // Of some nothing is known yet.
                MergeError::NothingToMerge(set_aside)
                    if set_aside.iter().any(|aside| matches!(aside.reason, SetAsideReason::Unexamined(_))) =>
                {
                    Disposition::Retry
                }
                // The same files give the same result.
                MergeError::NothingToMerge(_) | MergeError::Engine(_) => Disposition::UntilChanged,
                MergeError::ProofFailed(_) => Disposition::Operator,
            },
            // A damaged lock database or lease, and partitions whose records and files contradict each other.
            Self::Lock(LockError::BadLease { .. } | LockError::State(StateError::Unusable { .. }))
            | Self::Observe(ObserveError::BadRecord { .. } | ObserveError::LiveFileMissing { .. })
            | Self::FailClosed { .. }
            | Self::Panicked(_) => Disposition::Operator,
        }
    }
}
