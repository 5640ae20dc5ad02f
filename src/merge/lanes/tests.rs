use std::num::NonZeroUsize;
use std::sync::Arc;

use ::duckdb::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaDataBuilder;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use tokio_util::sync::CancellationToken;

use crate::merge::fixtures::{Inputs, times, with_chunks};
use crate::merge::page_headers::Pages;
use crate::merge::{MergeLimits, MergeOptions, MergeRequest, ProgressSink, SetAsideReason, Verify, duckdb, testing};

/// Rows without a time beside others are not merged by columns, for which all rows would have been one slice. DuckDB sorts
/// rows of 840 bytes, of which its share of the memory holds less than 20,000.
#[test]
fn a_slice_that_turns_out_unsuited_is_cut_to_the_size_that_duckdb_can_sort() {
    let mut inputs = Inputs::new();
    for file in 0..2_i64 {
        let time: Int64Array = (0..30_000).map(|i| (i > 0).then_some(2 * i + file)).collect();
        let number: ArrayRef = Arc::new(Float64Array::from(vec![1.5; 30_000]));
        let mut columns: Vec<(String, ArrayRef)> = vec![("time".to_owned(), Arc::new(time))];
        columns.extend((0..100).map(|i| (format!("c{i}"), Arc::clone(&number))));
        inputs.columns(&columns.iter().map(|(name, array)| (name.as_str(), Arc::clone(array))).collect::<Vec<_>>());
    }
    let work = tempfile::tempdir().unwrap();
    let model = testing::request(&[]);
    let limits = MergeLimits { memory_bytes: 128 << 20, threads: NonZeroUsize::MIN, ..model.limits };
    let request = MergeRequest { work_dir: work.path().join("job"), inputs: inputs.inputs.clone(), limits, ..model };
    std::fs::create_dir(&request.work_dir).unwrap();
    let outcome = duckdb::run(&request, &ProgressSink::ignore(), &CancellationToken::new()).unwrap();
    assert_eq!((outcome.rows, outcome.slices), (60_000, 5));
}

/// Of the files of a slice, which is neither the first of its group nor alone in it, one is damaged in the middle. Only the
/// lane can say which: nobody has read the data before, and the search afterwards leaves out chunks that claim to take a third
/// of the memory.
#[test]
fn the_file_in_which_a_lane_meets_damage_is_named_and_the_others_are_merged() {
    let mut inputs = Inputs::new();
    // Alone in its schema, so that the group's files are not counted as the inputs are.
    inputs.columns(&[("time", times(0, 10)), ("value", Arc::new(StringArray::from(vec!["x"; 10])))]);
    for file in 0..6 {
        let columns = [("time", times(file * 20_000, 20_000)), ("value", times(7, 20_000))];
        let snappy = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        inputs.batch(&RecordBatch::try_from_iter(columns).unwrap(), snappy);
    }
    let bad = &mut inputs.inputs[5];
    let mut bytes = std::fs::read(&bad.path).unwrap();
    let reader = SerializedFileReader::new(Bytes::from(bytes.clone())).unwrap();
    let page = Pages::of(&&bytes[..], reader.metadata().row_group(0).column(1)).last().unwrap();
    let data = usize::try_from(page.start).unwrap();
    bytes[data..data + 16].fill(0xff);
    let claims = |(_, column), chunk: ColumnChunkMetaDataBuilder| {
        if column == 1 { chunk.set_total_uncompressed_size(200 << 20) } else { chunk }
    };
    let bytes = with_chunks(&bytes, claims);
    std::fs::write(&bad.path, &bytes).unwrap();
    bad.size_bytes = bytes.len() as u64;

    let work = tempfile::tempdir().unwrap();
    let model = testing::request(&[]);
    let size_bytes: u64 = inputs.inputs.iter().map(|input| input.size_bytes).sum();
    let options = MergeOptions {
        target_file_size_bytes: size_bytes / 3,
        row_group_size: NonZeroUsize::new(2048).unwrap(),
        verify: Verify::Footers,
        ..model.options
    };
    let limits = MergeLimits { memory_bytes: 512 << 20, threads: NonZeroUsize::MIN, ..model.limits };
    let work_dir = work.path().join("job");
    let request = MergeRequest { work_dir, inputs: inputs.inputs.clone(), options, limits, ..model };
    std::fs::create_dir(&request.work_dir).unwrap();
    let outcome = duckdb::run(&request, &ProgressSink::ignore(), &CancellationToken::new()).unwrap();

    let aside: Vec<(&str, &SetAsideReason)> =
        outcome.set_aside.iter().map(|aside| (aside.name.as_str(), &aside.reason)).collect();
    let [("0.parquet", SetAsideReason::Alone(_)), ("5.parquet", SetAsideReason::Unreadable(why))] = &aside[..] else {
        panic!("{aside:?}");
    };
    assert!(why.starts_with("column \"value\", row group 0: "), "{why}");
    assert_eq!(outcome.rows, 5 * 20_000);
    assert!(outcome.slices > 2, "{} slices", outcome.slices);
}
