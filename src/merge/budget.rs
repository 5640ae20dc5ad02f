//! How a merge divides its memory. Pure arithmetic over the request's limits and the shape of the rows.
//!
//! ```text
//! memory_bytes ── overhead ──> DuckDB's memory_limit ── row groups in the making, per thread ──> one slice's sort
//! ```
//!
//! The estimates come from measurements with DuckDB 1.5.6: a sort and its output hold a row about [`SORT_FACTOR`] times. They
//! are meant to be wrong by some tens of percent; DuckDB spills what does not fit, and a slice that still fails is cut.

use super::column_type::ColumnType;
use super::schema::{GroupColumn, SchemaGroup};
use super::slices::SliceAim;
use super::{MergeLimits, MergeOptions};

/// What the process needs besides DuckDB's own account: code, footers, allocator slack.
const OVERHEAD_BYTES: u64 = 128 << 20;

/// Below this DuckDB fails instead of spilling.
const DUCKDB_FLOOR_BYTES: u64 = 96 << 20;

/// Times that a row is held while it is sorted and encoded.
const SORT_FACTOR: u64 = 3;

/// Decoded bytes of a slice beyond which larger slices are no faster.
const GOOD_SLICE_BYTES: u64 = 128 << 20;

/// Row groups in a slice below which dictionaries are rebuilt too often.
const MIN_ROW_GROUPS: u64 = 2;

/// Slices per expected output: the closer an output can come to its target size.
const SLICES_PER_OUTPUT: usize = 4;

/// A string in a DuckDB vector, and a guess at what it points to.
const STRING_BYTES: u64 = 24;

/// A nested value: its offsets and a few elements.
const NESTED_BYTES: u64 = 64;

/// The sort key and the tie-breaker.
const KEY_BYTES: u64 = 32;

/// What the merge of one or more groups may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) threads: u64,
    /// DuckDB's `memory_limit`.
    pub(super) duckdb_bytes: u64,
}

impl Budget {
    /// Threads and memory for rows of at most `row_bytes` (see [`row_bytes`]).
    pub(super) fn new(limits: &MergeLimits, options: &MergeOptions, row_bytes: u64) -> Self {
        let overhead = OVERHEAD_BYTES.min(limits.memory_bytes / 4);
        let duckdb_bytes = (limits.memory_bytes - overhead).max(DUCKDB_FLOOR_BYTES);
        let per_thread = row_bytes.saturating_mul(row_group_rows(options));
        // Each thread collects and encodes a row group of its own. Half of the memory is left to the sort.
        let fitting = (duckdb_bytes / 2) / per_thread.max(1);
        // Each lane is an instance of its own, and none works below the floor.
        let lanes = fitting.min(duckdb_bytes / DUCKDB_FLOOR_BYTES);
        Self { threads: lanes.clamp(1, limits.threads.get() as u64), duckdb_bytes }
    }

    /// The share of one of `lanes`, each of which merges slices of its own with one thread.
    pub(super) fn lane(&self, lanes: u64) -> Self {
        Self { threads: 1, duckdb_bytes: (self.duckdb_bytes / lanes.max(1)).max(DUCKDB_FLOOR_BYTES) }
    }

    /// How large the slices of a group should be.
    pub(super) fn aim(&self, group: &SchemaGroup, options: &MergeOptions) -> SliceAim {
        let row_bytes = row_bytes(group);
        let row_group = row_group_rows(options);
        let encoding = row_bytes.saturating_mul(row_group).saturating_mul(self.threads).min(self.duckdb_bytes / 2);
        let outputs = expected_outputs(group, options);
        let at_least = if outputs > 1 { outputs.saturating_mul(SLICES_PER_OUTPUT) } else { 1 };
        SliceAim {
            max_rows: ((self.duckdb_bytes - encoding) / SORT_FACTOR / row_bytes).max(1),
            good_rows: (GOOD_SLICE_BYTES / row_bytes).max(1),
            min_rows: MIN_ROW_GROUPS * row_group,
            at_least,
        }
    }
}

/// Outputs of about the target size that the inputs would fill if they were not compressed any better.
pub(super) fn expected_outputs(group: &SchemaGroup, options: &MergeOptions) -> usize {
    let bytes: u64 = group.files().map(|f| f.size_bytes).sum();
    let target = options.target_file_size_bytes.max(1);
    usize::try_from((bytes.saturating_add(target / 2) / target).max(1)).unwrap_or(usize::MAX)
}

pub(super) fn row_group_rows(options: &MergeOptions) -> u64 {
    options.row_group_size.get() as u64
}

/// Bytes of a decoded row: what its types need, or what the files state, whichever is more.
pub(super) fn row_bytes(group: &SchemaGroup) -> u64 {
    let fixed: u64 = group.columns.iter().map(column_bytes).sum::<u64>() + KEY_BYTES;
    let rows: u64 = group.files().map(|f| f.rows).sum();
    let stated: u64 = group.files().map(|f| f.uncompressed_bytes).sum();
    fixed.max(stated / rows.max(1) + KEY_BYTES)
}

/// Bytes of a decoded value.
pub(super) fn column_bytes(column: &GroupColumn) -> u64 {
    match column.ty {
        ColumnType::Boolean => 1,
        ColumnType::Null | ColumnType::Float | ColumnType::Date => 4,
        ColumnType::Integer { bits, .. } => u64::from(bits / 8),
        ColumnType::ArrowInt64(_)
        | ColumnType::Double
        | ColumnType::TimeMicros { .. }
        | ColumnType::TimeNanos
        | ColumnType::TimestampMicros { .. }
        | ColumnType::TimestampNanos => 8,
        ColumnType::Decimal { .. } | ColumnType::Uuid => 16,
        ColumnType::Text(_) | ColumnType::Binary => STRING_BYTES,
        ColumnType::Struct(_) | ColumnType::List { .. } | ColumnType::Map { .. } => NESTED_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::merge::{Compression, ParquetVersion, Verify};

    fn options() -> MergeOptions {
        MergeOptions {
            compression: Compression::Zstd(3),
            parquet_version: ParquetVersion::V2,
            row_group_size: NonZeroUsize::new(122_880).expect("not zero"),
            target_file_size_bytes: 512 << 20,
            sort_by: vec!["time".to_owned()],
            time_column: "time".to_owned(),
            verify: Verify::Content,
        }
    }

    fn limits(memory_mib: u64, threads: usize) -> MergeLimits {
        let threads = NonZeroUsize::new(threads).expect("not zero");
        MergeLimits { memory_bytes: memory_mib << 20, threads, temp_bytes: None, means: crate::merge::Means::All }
    }

    #[test]
    fn duckdb_gets_what_the_process_does_not_need_itself() {
        assert_eq!(Budget::new(&limits(1024, 2), &options(), 64).duckdb_bytes, 896 << 20);
        assert_eq!(Budget::new(&limits(200, 2), &options(), 64).duckdb_bytes, 150 << 20);
        assert_eq!(Budget::new(&limits(1, 2), &options(), 64).duckdb_bytes, 96 << 20);
    }

    #[test]
    fn wide_rows_cost_threads_before_they_cost_slices() {
        let threads = |row_bytes| Budget::new(&limits(1024, 8), &options(), row_bytes).threads;
        assert_eq!((threads(100), threads(1000), threads(100_000)), (8, 3, 1));
    }

    /// I11: lanes share the memory, each above DuckDB's floor; a merge that has less than one floor uses one.
    #[test]
    fn all_lanes_together_stay_within_the_memory_of_the_merge() {
        for memory_mib in [1, 64, 128, 200, 256, 512, 1024, 8192] {
            for threads in [1, 2, 3, 8, 64] {
                let budget = Budget::new(&limits(memory_mib, threads), &options(), 64);
                for lanes in 1..=budget.threads {
                    let lane = budget.lane(lanes);
                    assert!(lane.duckdb_bytes >= DUCKDB_FLOOR_BYTES);
                    let together = lane.duckdb_bytes * lanes;
                    assert!(together <= budget.duckdb_bytes, "{memory_mib} MiB, {threads} threads, {lanes} lanes");
                }
            }
        }
    }
}
