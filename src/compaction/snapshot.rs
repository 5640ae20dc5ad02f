//! The reader's rule: which files of a partition to read, so that every row is seen exactly once (I4).
//!
//! ```text
//! S1 read head ── S2 LIST data ── S3 LIST records again: same head? ── S4 live files
//!        ^                                   │ no
//!        └───────────────────────────────────┘
//! ```
//!
//! A reader that opens a file and finds it gone starts again at S1: it was consumed, and its rows are in a newer live
//! file. A plain `*.parquet` glob does not follow this rule: between the publishing of the outputs and the deletion of the
//! inputs it sees rows twice.

use serde::Serialize;

use super::observe::{ObserveError, View, observe, read_head};
use crate::partition::{Generation, PartitionId};
use crate::storage::Storage;

/// How often a reader starts again before it reports that the partition does not come to rest.
const MAX_ATTEMPTS: usize = 8;

/// The files that count, at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The head's generation, 0 without records.
    pub generation: Generation,
    /// Sorted by name.
    pub files: Vec<SnapshotFile>,
}

/// One file that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotFile {
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
}

/// R1, S4: the files of a consistent view that count.
#[must_use]
pub fn live_in(view: &View) -> Snapshot {
    Snapshot {
        generation: view.head.generation(),
        files: view
            .listing
            .data
            .iter()
            .filter(|f| view.head.counts(f))
            .map(|f| SnapshotFile { name: f.name.clone(), size_bytes: f.size_bytes, etag: f.etag.clone() })
            .collect(),
    }
}

/// The live files of a partition, by the reader's rule. For whoever queries the files.
///
/// # Errors
/// Storage errors, and partitions that fail closed: see [`ObserveError`].
pub async fn live_files(storage: &Storage, partition: &PartitionId) -> Result<Snapshot, ObserveError> {
    for _ in 0..MAX_ATTEMPTS {
        let view = observe(storage, partition).await?;
        if read_head(storage, partition).await? == view.head {
            return Ok(live_in(&view));
        }
    }
    Err(ObserveError::Unsettled { partition: partition.clone() })
}
