//! How a group is cut for the merge by columns, and whether it should be merged so at all. Pure.
//!
//! ```text
//! one slice:  files, if small │ footers │ order of rows, or one column and a copy │ encoded columns │ pages in the making
//!             by files                    by rows                                                     by row groups
//! ```
//!
//! What grows with the files of a slice does not shrink with its rows where files overlap: then no cut helps, and DuckDB,
//! which closes a file when it is done with it, merges the group. So it does where row groups would be decoded too often: it
//! decodes them once for each of its slices, too, but filters the other columns by what it found in the first.

use super::super::MergeOptions;
use super::super::budget::{Budget, column_bytes, row_group_rows};
use super::super::schema::{ClassFile, Projection, SchemaGroup};
use super::super::slices::{Slice, SliceAim, TimeLine};
use super::column::COLUMN_COPIES;
use super::encode::ENCODE_COPIES;
use super::footers::footer_bytes;
use super::read_whole;
use super::rows::ORDERING_BYTES;

/// Rows of a slice beyond which larger ones are no faster: a few row groups, of which only the last is not full.
const GOOD_ROWS: u64 = 8 * 122_880;

/// No slice has more, however much memory there is: it takes about a tenth of a second to merge so many sorted keys, in
/// which nobody looks whether the merge is still wanted.
const MAX_ROWS: u64 = 1 << 24;

/// Times that a row may be decoded on average. Measured at three, on two files of 6 million shuffled rows in one row group each
/// in 500 MB: 13.8 s of CPU here, 10.6 s by DuckDB. Where the two cost the same was not measured; this only lies below that.
const MAX_DECODES: f64 = 2.5;

/// What the place of a row takes once the order is known.
const ROW_NUMBER_BYTES: u64 = 4;

/// What a slice of a group needs.
struct Needs {
    /// Of each row in the slice.
    row_bytes: u64,
    /// For one chunk that is read and one that is written.
    chunk_bytes: u64,
}

impl Needs {
    fn new(group: &SchemaGroup, options: &MergeOptions) -> Self {
        let widest = group.columns.iter().map(column_bytes).max().unwrap_or_default();
        let rows: u64 = group.files().map(|f| f.rows).sum();
        let encoded: u64 = group.files().map(|f| f.size_bytes).sum::<u64>().div_ceil(rows.max(1));
        let largest = group.files().map(|f| f.row_groups.largest_rows).max().unwrap_or_default();
        let column = ROW_NUMBER_BYTES + COLUMN_COPIES * widest;
        let chunk = (COLUMN_COPIES * largest).saturating_add(ENCODE_COPIES * row_group_rows(options).min(rows));
        Self { row_bytes: ORDERING_BYTES.max(column) + encoded, chunk_bytes: chunk.saturating_mul(widest) }
    }

    /// What a slice with these files is expected to need at its peak.
    fn bytes<'a>(&self, slice: &Slice, files: impl Iterator<Item = (&'a ClassFile, u64)>) -> u64 {
        let (mut whole, mut footers) = (0, 0_u64);
        for (file, columns) in files {
            whole += file.size_bytes;
            footers = footers.saturating_add(footer_bytes(file.row_groups.count, columns));
        }
        let whole = if read_whole(whole) { whole } else { 0 };
        whole
            .saturating_add(footers)
            .saturating_add(self.chunk_bytes)
            .saturating_add(self.row_bytes.saturating_mul(slice.rows))
    }
}

/// Cuts a group of files (`line` is theirs) for lanes with this `budget` each. `None`: it is better left to DuckDB.
pub(in super::super) fn plan(
    group: &SchemaGroup,
    line: &TimeLine<'_>,
    budget: &Budget,
    options: &MergeOptions,
) -> Option<Vec<Slice>> {
    let needs = Needs::new(group, options);
    let files: Vec<(&ClassFile, u64)> = group
        .classes
        .iter()
        .flat_map(|class| {
            let columns = class.projection.iter().filter(|p| !matches!(p, Projection::Null)).count() as u64;
            class.files.iter().map(move |file| (file, columns))
        })
        .collect();
    let aim = budget.aim(group, options);
    let mut max_rows = (budget.duckdb_bytes / needs.row_bytes.max(1)).clamp(1, MAX_ROWS);
    loop {
        let slices = line.plan(&SliceAim { max_rows, good_rows: GOOD_ROWS.min(max_rows), ..aim });
        let fits = slices
            .iter()
            .all(|slice| needs.bytes(slice, slice.files.iter().map(|&at| files[at])) <= budget.duckdb_bytes);
        if line.decodes(&slices) > MAX_DECODES {
            return None;
        }
        if fits {
            return Some(slices);
        }
        // Slices of a fraction of a row group are not worth it; and what is left is what no cut makes smaller.
        max_rows = max_rows.min(slices.iter().map(|slice| slice.rows).max().unwrap_or_default()) / 4 * 3;
        if max_rows < aim.min_rows / 4 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests;
