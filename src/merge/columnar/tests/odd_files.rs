//! Files of writers that take some numbers less seriously than others: what is not needed to read them is no damage, and nothing
//! of them is believed.

use std::num::NonZeroUsize;

use super::*;
use crate::merge::fixtures::{set_in_page_header, with_unknown_page_field};
use crate::merge::{MergeLimits, MergeOutcome, MergeRequest, ProgressSink, duckdb as engine, testing};

/// Numbers in the header of a data page of version 2, by their place in Parquet's definition.
const HEADER: i64 = 8;
const NUM_VALUES: i64 = 1;
const NUM_NULLS: i64 = 2;
const NUM_ROWS: i64 = 3;
const LEVELS_BYTES: [i64; 2] = [5, 6];

const ROWS: usize = 1000;

/// Rows of a sound file with such pages: the first is that of the time, which has no nulls; the other column has some.
fn version_2() -> RecordBatch {
    let gaps: Int64Array = (0..1000).map(|i| (i % 3 > 0).then_some(i * 7)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("time", times(0, ROWS), true),
        ("gaps", Arc::new(gaps) as ArrayRef, true),
    ])
    .unwrap()
}

/// Two sound files around one that `change` has been at: it is given the offsets of the pages of both columns.
fn with_odd_one(change: impl Fn(&mut Vec<u8>, [usize; 2])) -> Inputs {
    let mut inputs = Inputs::new();
    let properties = || {
        let builder = WriterProperties::builder().set_writer_version(WriterVersion::PARQUET_2_0);
        builder.set_dictionary_enabled(false).build()
    };
    for _ in 0..3 {
        inputs.batch(&version_2(), properties());
    }
    let odd = &mut inputs.inputs[1];
    let mut bytes = std::fs::read(&odd.path).unwrap();
    let reader = SerializedFileReader::new(File::open(&odd.path).unwrap()).unwrap();
    let pages = [0, 1].map(|column| {
        let offset = reader.metadata().row_group(0).column(column).data_page_offset();
        usize::try_from(offset).unwrap()
    });
    change(&mut bytes, pages);
    std::fs::write(&odd.path, &bytes).unwrap();
    odd.size_bytes = bytes.len() as u64;
    inputs
}

/// A whole merge, proven as asked, and its only output.
fn merged(inputs: &Inputs, verify: Verify) -> (MergeOutcome, RecordBatch) {
    let work = tempfile::tempdir().unwrap();
    let model = testing::request(&[]);
    let limits = MergeLimits { threads: NonZeroUsize::MIN, ..model.limits };
    let options = MergeOptions { verify, ..model.options };
    let work_dir = work.path().join("job");
    std::fs::create_dir(&work_dir).unwrap();
    let request = MergeRequest { work_dir, inputs: inputs.inputs.clone(), options, limits, ..model };
    let outcome = engine::run(&request, &ProgressSink::ignore(), &CancellationToken::new()).unwrap();
    let [output] = &outcome.outputs[..] else { panic!("{:?}", outcome.outputs) };
    let merged = read(&output.path);
    (outcome, merged)
}

/// What the header of a page of the odd file says in `field` of either column, and what becomes of the file.
fn check(field: i64, number: i64, is_merged: bool) {
    for column in [0, 1] {
        let inputs = with_odd_one(|bytes, pages| set_in_page_header(bytes, pages[column], (HEADER, field), number));
        for verify in [Verify::Content, Verify::Footers] {
            let what = format!("{number} in field {field}, column {column}, {verify:?}");
            let (outcome, merged) = merged(&inputs, verify);
            let aside: Vec<&str> = outcome.set_aside.iter().map(|aside| aside.name.as_str()).collect();
            assert_eq!(aside, if is_merged { vec![] } else { vec!["1.parquet"] }, "{what}: {:?}", outcome.set_aside);
            assert!(outcome.set_aside.iter().all(|aside| aside.reason.is_damage()), "{what}: {:?}", outcome.set_aside);
            let times = if is_merged { 3 } else { 2 };
            let wanted: Vec<RecordBatch> = (0..ROWS)
                .flat_map(|row| std::iter::repeat_with(move || version_2().slice(row, 1)).take(times))
                .collect();
            assert_same(&merged, &concat_batches(&version_2().schema(), &wanted).unwrap());
        }
    }
}

/// Some writers leave the number of nulls at -1. It is not needed: the levels say which values are missing.
#[test]
fn a_page_that_states_no_number_of_nulls_is_left_to_duckdb_and_loses_no_row() {
    let inputs = with_odd_one(|bytes, pages| set_in_page_header(bytes, pages[1], (HEADER, NUM_NULLS), -1));
    let refusal = merge_all(&inputs, Range::Everything, &options(1000)).unwrap_err();
    assert!(matches!(&refusal, Refusal::Unsuited(why) if why.contains("Integer overflow")), "{refusal:?}");
    check(NUM_NULLS, -1, true);
}

#[test]
fn numbers_in_a_page_header_that_nobody_needs_cost_no_row_whatever_they_are() {
    for (field, number) in [(NUM_NULLS, 50), (NUM_ROWS, -1), (NUM_ROWS, 0), (NUM_ROWS, 1), (NUM_ROWS, 8000)] {
        check(field, number, true);
    }
}

#[test]
fn numbers_in_a_page_header_that_contradict_the_footer_or_the_page_cost_the_file_only() {
    for number in [-1, -4000, 0, 999, 1001, 8000] {
        check(NUM_VALUES, number, false);
    }
    for field in LEVELS_BYTES {
        for number in [-1, 63] {
            check(field, number, false);
        }
    }
}

/// Nobody has looked at what such a page claims, so none of it is decoded here.
#[test]
fn a_file_with_a_page_header_too_long_to_be_walked_is_merged_by_duckdb() {
    let mut sound = Inputs::new();
    sound.columns(&[("time", times(0, ROWS))]);
    let sound = std::fs::read(&sound.inputs[0].path).unwrap();
    for (field_bytes, is_merged_here) in [(1000, true), (1 << 21, false)] {
        let mut inputs = Inputs::new();
        inputs.bytes(&sound);
        inputs.bytes(&with_unknown_page_field(&sound, field_bytes));
        match merge_all(&inputs, Range::Everything, &options(100)) {
            Ok((rows, _)) if is_merged_here => assert_eq!(rows, 2 * ROWS as u64),
            Err(Refusal::Unsuited(why)) if !is_merged_here => assert!(why.contains("page headers"), "{why}"),
            other => panic!("{other:?}"),
        }
        let (outcome, rows) = merged(&inputs, Verify::Content);
        assert!(outcome.set_aside.is_empty(), "{:?}", outcome.set_aside);
        assert_eq!(rows.num_rows(), 2 * ROWS);
    }
}
