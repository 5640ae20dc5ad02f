//! Partitions: one hour of one measurement of one database, and the files in it.
//!
//! ```text
//! {database}/{measurement}/{YYYY}/{MM}/{DD}/{HH}/        a partition (UTC)
//!     cpu_20251008_140001_a1.parquet                     a raw data file, written by ingestion
//!     cpu_20251008_14_g1_9f3a51c2b7d0_compacted.parquet  a compacted data file, written by us
//!     _compaction/00000001.json                          a record
//! ```
//!
//! Everything here is plain data: parse, format, classify. Nothing here touches storage, and this module imports
//! nothing of the crate. Formatting and parsing are exact inverses, and two different partitions never share a path.

mod file;
mod id;
mod listing;

pub(crate) use file::short;
pub use file::{CompactedName, DataFile, FileKind, Generation, is_plain_file_name};
pub use id::{Hour, NameError, PartitionId, PartitionPathError, RESERVED_PREFIX};
pub use listing::{Listing, RecordEntry};

/// The folder inside a partition that holds its records.
pub const RECORD_DIR: &str = "_compaction";
