use std::num::NonZeroUsize;
use std::sync::Arc;

use ::duckdb::arrow::array::{ArrayRef, Float64Array, Int64Array};
use tokio_util::sync::CancellationToken;

use crate::merge::fixtures::Inputs;
use crate::merge::{MergeLimits, MergeRequest, ProgressSink, duckdb, testing};

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
