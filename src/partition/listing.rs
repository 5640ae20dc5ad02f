//! What a LIST of a partition showed.

use chrono::{DateTime, Utc};

use super::{DataFile, Generation};

/// One object in a partition's record folder whose name has the form of a record's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordEntry {
    pub generation: Generation,
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
    pub last_modified: DateTime<Utc>,
}

/// The objects of one partition, each list sorted by name (records by generation). Storage lists in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// `*.parquet` directly in the partition's folder.
    pub data: Vec<DataFile>,
    /// Records, lowest generation first.
    pub records: Vec<RecordEntry>,
    /// Everything else, as keys relative to the partition. Never read, never touched, only counted and shown.
    pub foreign: Vec<String>,
}
