use std::num::NonZeroUsize;
use std::sync::Arc;

use duckdb::arrow::array::{ArrayRef, Float64Array, Int64Array};
use parquet::file::properties::WriterProperties;

use super::*;
use crate::merge::fixtures::Inputs;
use crate::merge::slices::FileSpan;
use crate::merge::survey::RowGroups;
use crate::merge::{Compression, ParquetVersion, Verify};

const MIB: u64 = 1 << 20;

fn options() -> MergeOptions {
    MergeOptions {
        compression: Compression::Zstd(3),
        parquet_version: ParquetVersion::V2,
        row_group_size: NonZeroUsize::new(122_880).unwrap(),
        target_file_size_bytes: 1 << 40,
        sort_by: vec!["time".to_owned()],
        time_column: "time".to_owned(),
        verify: Verify::Content,
    }
}

/// What the footers say of `count` files: each spans the whole hour, or they follow each other.
struct Files {
    count: u64,
    rows: u64,
    bytes: u64,
    row_group_rows: u64,
    /// Whether each row group spans the whole file.
    unsorted: bool,
    consecutive: bool,
}

const SMALL: Files =
    Files { count: 100, rows: 100_000, bytes: MIB, row_group_rows: 122_880, unsorted: false, consecutive: true };

/// A plan for these files of a time and `columns` numbers: how many slices, or that it is left to DuckDB.
fn slices(files: &Files, columns: usize, memory_bytes: u64) -> Option<usize> {
    let mut inputs = Inputs::new();
    for _ in 0..2 {
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![0.5; 2]));
        let mut all: Vec<(String, ArrayRef)> = vec![("time".to_owned(), Arc::new(Int64Array::from(vec![1, 2])))];
        all.extend((0..columns).map(|i| (format!("c{i}"), Arc::clone(&numbers))));
        inputs.columns(&all.iter().map(|(name, array)| (name.as_str(), Arc::clone(array))).collect::<Vec<_>>());
    }
    let (mut groups, _) = inputs.groups();
    let group = &mut groups[0];
    let class = &mut group.classes[0];
    let model = class.files.remove(0);
    let mut spans = Vec::new();
    class.files.clear();
    for i in 0..files.count {
        let count = files.rows.div_ceil(files.row_group_rows);
        let touched = if files.unsorted { files.rows } else { files.rows / count };
        let start = if files.consecutive { i64::try_from(i).unwrap() * 1_000_000 } else { 0 };
        spans.push(FileSpan { rows: files.rows, range: Some((start, start + 999_999)), nulls: Some(0), touched });
        class.files.push(ClassFile {
            rows: files.rows,
            size_bytes: files.bytes,
            row_groups: RowGroups { count, largest_rows: files.row_group_rows.min(files.rows) },
            touched,
            columns: Vec::new(),
            ..model_of(&model)
        });
    }
    let lane = Budget { threads: 1, duckdb_bytes: memory_bytes };
    plan(group, &TimeLine::new(&spans), &lane, &options()).map(|slices| slices.len())
}

fn model_of(file: &ClassFile) -> ClassFile {
    ClassFile { columns: Vec::new(), ..*file }
}

#[test]
fn files_that_follow_each_other_are_cut_into_slices_of_a_good_size() {
    assert_eq!(slices(&SMALL, 8, 448 * MIB), Some(11));
}

#[test]
fn less_memory_means_smaller_slices() {
    assert_eq!(slices(&SMALL, 8, 40 * MIB), Some(14));
}

/// Two thousand files that all overlap, of a thousand columns: every slice has all footers.
#[test]
fn footers_that_fit_into_no_slice_leave_the_group_to_duckdb() {
    let wide = Files { count: 2000, rows: 500, bytes: 100_000, consecutive: false, ..SMALL };
    assert_eq!(slices(&wide, 1000, 60 * MIB), None);
    assert_eq!(slices(&wide, 1000, 448 * MIB), Some(1));
    // Where they do not overlap, a slice has the footers of its files only.
    assert!(slices(&Files { consecutive: true, ..wide }, 1000, 60 * MIB).is_some_and(|count| count > 1));
}

/// Two files of six million rows in no order, in one row group each or in many.
#[test]
fn row_groups_that_would_be_decoded_for_every_slice_are_left_to_duckdb() {
    for row_group_rows in [6_000_000, 122_880] {
        let large =
            Files { count: 2, rows: 6_000_000, bytes: 130 * MIB, row_group_rows, unsorted: true, consecutive: false };
        assert_eq!(slices(&large, 8, 100 * MIB), None, "{row_group_rows}");
        assert_eq!(
            slices(&Files { unsorted: false, row_group_rows: 122_880, ..large }, 8, 100 * MIB).map(|n| n > 2),
            Some(true)
        );
    }
}

#[test]
fn a_file_of_one_row_group_is_touched_as_a_whole_and_a_sorted_one_in_part() {
    let touched = |values: Vec<i64>| {
        let mut inputs = Inputs::new();
        let time: ArrayRef = Arc::new(Int64Array::from(values));
        let schema = duckdb::arrow::datatypes::Schema::new(vec![duckdb::arrow::datatypes::Field::new(
            "time",
            duckdb::arrow::datatypes::DataType::Int64,
            true,
        )]);
        let batch = duckdb::arrow::array::RecordBatch::try_new(Arc::new(schema), vec![time]).unwrap();
        let properties = || WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
        inputs.batch(&batch, properties());
        inputs.batch(&batch, properties());
        let (groups, _) = inputs.groups();
        let file = &groups[0].classes[0].files[0];
        (file.row_groups, file.touched)
    };
    let four = RowGroups { count: 4, largest_rows: 100 };
    assert_eq!(touched((0..400).collect()), (four, 100));
    assert_eq!(touched((0..400).map(|i| i * 7 % 400).collect()), (four, 394));
    assert_eq!(touched((0..50).collect()), (RowGroups { count: 1, largest_rows: 50 }, 50));
}
