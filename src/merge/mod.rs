//! Merging: many Parquet files become few sorted ones, with proof that they hold the same rows.
//!
//! ```text
//! survey ──> schema ──> slices ──> merge each slice ──────> stitch ──> prove
//! footers    lossless   pure       in lanes: by column,     parquet    rows, nulls, min/max,
//!            union      cuts       or by DuckDB; sorted     bytes      fingerprint by DuckDB
//! ```
//!
//! A [`MergeEngine`] gets local files and a folder of its own, and gives back local files. It never talks to storage,
//! never deletes an input, and knows nothing of partitions, records or locks. [`DuckDbEngine`] does the work in this
//! process; [`SubprocessEngine`] gives the same request to a child process, so that a crash or an out-of-memory kill
//! costs a job and not the server.
//!
//! What must hold: the rows of the outputs are the rows of the consumed inputs, neither more nor fewer (I1), sorted (I8);
//! an input that cannot be read or joined is set aside, named, with the reason, and the others are merged (I9); memory is
//! bounded by the limits of the request and does not grow with the number of rows (I11). The same inputs in the same order
//! give the same bytes.

mod alone;
mod attempt;
mod budget;
mod checked_pages;
mod column_type;
mod columnar;
mod compact_protocol;
mod definition;
mod duckdb;
mod file_schema;
#[cfg(test)]
mod fixtures;
pub mod footer_guard;
mod lanes;
mod order;
mod page_headers;
#[doc(hidden)]
pub mod parts;
mod protocol;
pub mod recheck;
pub mod resources;
mod scan;
mod schema;
mod session;
mod slices;
mod sql;
mod stats;
mod stitch;
pub mod subprocess;
mod survey;
mod survey_room;
mod suspects;
#[cfg(test)]
mod testing;
mod value_range;
mod verify;
mod work_dir;
pub mod worker;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

#[doc(hidden)]
pub use self::alone::{Alone, merge_alone};
pub use self::duckdb::{DuckDbEngine, run as merge_blocking};
#[doc(hidden)]
pub use self::page_headers::count_pages;
pub use self::scan::scan as scan_blocking;
pub use self::subprocess::{SubprocessEngine, SubprocessSettings};
#[doc(hidden)]
pub use self::survey::survey_one;

/// Key of the Parquet key-value metadata under which an output names its inputs, as a JSON array of file names.
pub const LINEAGE_INPUTS_KEY: &str = "arc.inputs";

/// Key under which an output says which part of how many it is: `2/3`.
pub const LINEAGE_PART_KEY: &str = "arc.part";

/// Merges files. Two implementations: in this process, and in a child process.
#[async_trait]
pub trait MergeEngine: Send + Sync + fmt::Debug {
    /// Merges `request.inputs` into sorted files in `request.work_dir`.
    ///
    /// Cancellation is honoured within about a second; whatever was written is left in the work folder, which belongs to
    /// the caller.
    ///
    /// # Errors
    /// See [`MergeError`]. On any error no output may be used.
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError>;
}

/// Everything a merge needs. Sent as JSON to the child process, so it is complete: nothing is read from anywhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeRequest {
    /// For messages, and for the lineage written into the outputs.
    pub job_id: String,
    /// An absolute path of an existing folder, private to this attempt. All temporary files and outputs go here.
    pub work_dir: PathBuf,
    /// In a fixed order (sorted by name): it decides ties between equal rows.
    pub inputs: Vec<MergeInput>,
    /// Outputs are named `{output_stem}[_{part}]_compacted.parquet`.
    pub output_stem: String,
    /// The generation that the outputs belong to, for the lineage.
    pub generation: u64,
    pub options: MergeOptions,
    pub limits: MergeLimits,
}

/// One local file to merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeInput {
    /// The file's name in the partition. Unique within a request.
    pub name: String,
    /// Absolute path of the local file. May contain any character.
    pub path: PathBuf,
    /// The size that storage stated. A local file of another size is an error of the caller's transfer.
    pub size_bytes: u64,
}

/// How the outputs should be written and proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeOptions {
    pub compression: Compression,
    pub parquet_version: ParquetVersion,
    /// Rows per row group.
    pub row_group_size: NonZeroUsize,
    /// Compressed size at which an output is closed and the next one begun.
    pub target_file_size_bytes: u64,
    /// Columns to sort by, most significant first, ascending, nulls last.
    pub sort_by: Vec<String>,
    /// The column whose ranges slice the work and stand in the record.
    pub time_column: String,
    pub verify: Verify,
}

/// Compression codec of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Zstandard, level 1 to 22.
    Zstd(u8),
    Snappy,
    Lz4,
    Gzip,
    None,
}

/// Version of the Parquet encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParquetVersion {
    V1,
    /// Newer encodings, which make smaller files.
    V2,
}

/// How much is proven before an input may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Row counts, null counts, minima and maxima from the footers.
    Footers,
    /// That, and an order-free fingerprint over every value of every row.
    Content,
}

/// What a merge may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeLimits {
    /// Memory of the whole merge, in bytes: decides the number of slices and DuckDB's `memory_limit`; a child process
    /// whose resident memory goes far beyond it is killed.
    pub memory_bytes: u64,
    pub threads: NonZeroUsize,
    /// Bytes that spill files may take. `None`: what the disk has.
    pub temp_bytes: Option<u64>,
    pub means: Means,
}

/// By which means slices are merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// Column by column where that suits the columns, by DuckDB elsewhere.
    #[default]
    All,
    /// By DuckDB alone: it merges everything that the other means can, and what fails in it can be searched for.
    DuckDb,
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergeOutcome {
    /// In ascending time order within a schema group; groups follow each other. Not empty.
    pub outputs: Vec<MergedFile>,
    /// Names of the inputs whose rows are in the outputs, in request order. Only these may ever be retired.
    pub consumed: Vec<String>,
    /// Inputs that were left out. `consumed` and `set_aside` together are exactly the inputs.
    pub set_aside: Vec<SetAside>,
    /// Rows in the outputs, and in the consumed inputs.
    pub rows: u64,
    /// With `verify = content`: the fingerprint that inputs and outputs share, for people and the record.
    pub fingerprint: Option<String>,
    /// Slices merged.
    pub slices: usize,
    /// Peak resident memory of the process that merged, in bytes. For the in-process engine that includes its host.
    pub peak_memory_bytes: u64,
    /// The engine and version that merged and computed the fingerprint.
    pub engine: String,
}

/// One finished output in the work folder, synced to disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergedFile {
    pub name: String,
    pub path: PathBuf,
    pub size_bytes: u64,
    pub rows: u64,
    /// Smallest and largest non-null value of the time column, when there is one.
    pub min_time: Option<TimeBound>,
    pub max_time: Option<TimeBound>,
    /// `blake3:` and 64 hexadecimal digits, over the whole file.
    pub checksum: String,
}

/// A value of the time column: RFC 3339 in UTC for timestamps, the number itself for integer columns, the text for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TimeBound {
    Integer(i64),
    Text(String),
}

/// An input that was left out of the outputs. It stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    pub name: String,
    pub reason: SetAsideReason,
}

/// Why an input was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "kind", content = "detail")]
pub enum SetAsideReason {
    /// Its footer or its data cannot be read.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// It can be read, but a rewrite would change it: an unsupported type, a duplicate column name, encryption.
    #[error("cannot be rewritten without loss: {0}")]
    Unsupported(String),
    /// It has no column of the configured time or sort column's name.
    #[error("no column {0:?} to sort by")]
    NoSortColumn(String),
    /// The only file of its schema: rewriting it alone gains nothing.
    #[error("no other file has a compatible schema: {0}")]
    Alone(String),
    /// It is sound, as far as is known, and alone takes more memory than a merge may use. With a larger limit it can be merged.
    #[error("takes more memory than a merge may use: {0}: raise compaction.memory_limit_mb, or run fewer jobs at once")]
    TooLarge(String),
    /// Nothing is known against it, and the next merge may take it: a search for damaged files ended before it got there, or it
    /// did not fit into what a second attempt may use of the memory, or beside what is kept of other files.
    #[error("left for the next merge: {0}")]
    Unexamined(String),
}

impl SetAsideReason {
    /// Whether the file is damaged, as opposed to sound but left alone.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Unreadable(_))
    }
}

/// Why a merge gave nothing. Variants are named by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The token was cancelled.
    #[error("merge cancelled")]
    Cancelled,
    /// Every input was set aside: there is nothing to merge until something changes.
    #[error("nothing left to merge: all {} input files were set aside", .0.len())]
    NothingToMerge(Vec<SetAside>),
    /// The merge needs more memory than it may use, even in its smallest slices.
    #[error(
        "out of memory: {detail} (limit {limit_bytes} bytes): raise compaction.memory_limit_mb, or run fewer jobs at once"
    )]
    OutOfMemory {
        /// What ran out.
        detail: String,
        /// [`MergeLimits::memory_bytes`].
        limit_bytes: u64,
    },
    /// The work folder's disk, or the spill limit, is full.
    #[error("no space left in {}: {detail}: free space, or set compaction.temp_dir to a larger disk", .path.display())]
    DiskFull {
        /// The work folder.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// Outputs and inputs do not agree. The inputs are untouched; this is a bug or a lying file, never normal.
    #[error("proof failed: {0}")]
    ProofFailed(String),
    /// The child process died or spoke nonsense.
    #[error("merge worker failed: {0}")]
    Worker(String),
    /// A file of the work folder could not be read or written.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// `read`, `write`, `create`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The engine failed for another reason.
    #[error("merge engine: {0}")]
    Engine(String),
}

impl MergeError {
    /// An error of the system about a file of the work folder, as what it means.
    fn of_io(action: &'static str, path: PathBuf, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded => Self::DiskFull { path, detail: source.to_string() },
            _ => Self::Io { action, path, source },
        }
    }
}

/// What a merge is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeStep {
    Survey,
    Scan,
    Merge,
    Stitch,
    Prove,
}

/// A progress message: the step, and how much of it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeProgress {
    pub step: MergeStep,
    /// Units done in this step (files in `Survey`, slices in `Merge`, otherwise 0 or 1).
    pub done: u64,
    pub total: u64,
    /// Bytes of input that the done units stand for.
    pub input_bytes_done: u64,
}

/// Receives progress. Called from any thread; must be quick and must not block.
#[derive(Clone)]
pub struct ProgressSink(Arc<dyn Fn(MergeProgress) + Send + Sync>);

impl ProgressSink {
    pub fn new(receive: impl Fn(MergeProgress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(receive))
    }

    /// For callers that do not care.
    #[must_use]
    pub fn ignore() -> Self {
        Self::new(|_| ())
    }

    pub fn report(&self, progress: MergeProgress) {
        (self.0)(progress);
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressSink")
    }
}
