use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use ::duckdb::arrow::array::{ArrayRef, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use ::duckdb::arrow::datatypes::Int32Type;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::*;
use crate::merge::duckdb::{Opened, open, run};
use crate::merge::fixtures::Inputs;
use crate::merge::work_dir::WorkDir;
use crate::merge::{MergeLimits, MergeOptions, MergeOutcome, ProgressSink, Verify, testing};

/// Inputs in a folder, and what a second attempt at their merge may use.
struct Fixture {
    files: Inputs,
    work: tempfile::TempDir,
    limits: MergeLimits,
}

impl Fixture {
    fn new(memory_bytes: u64, temp_bytes: Option<u64>) -> Self {
        let limits = MergeLimits { memory_bytes, temp_bytes, threads: NonZeroUsize::MIN, means: Means::DuckDb };
        Self { files: Inputs::new(), work: tempfile::tempdir().unwrap(), limits }
    }

    /// Rows of the same time and the same long text: next to nothing on disk, and without end when they are sorted.
    fn long(&mut self, rows: usize, text_bytes: usize) {
        let text = StringArray::from_iter_values([" ".repeat(text_bytes)]);
        let texts = DictionaryArray::<Int32Type>::new(Int32Array::from(vec![0; rows]), Arc::new(text));
        let time = Int64Array::from(vec![50; rows]);
        let columns: [(&str, ArrayRef); 2] = [("time", Arc::new(time)), ("text", Arc::new(texts))];
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_page_size_limit(usize::MAX)
            .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
            .build();
        self.files.batch(&RecordBatch::try_from_iter(columns).unwrap(), properties);
    }

    /// Rows at all times from 0 to 99, with short texts.
    fn short(&mut self, rows: usize) {
        let time = Int64Array::from_iter_values((0..100).cycle().take(rows));
        let text = StringArray::from_iter_values((0..rows).map(|i| format!("text {i:>20}")));
        self.files.columns(&[("time", Arc::new(time)), ("text", Arc::new(text))]);
    }

    fn request(&self) -> MergeRequest {
        let work_dir: PathBuf = tempfile::tempdir_in(self.work.path()).unwrap().keep();
        let model = testing::request(&[]);
        // Sorted by a text as well, no group suits the merge by columns, for which such texts are no trouble.
        let sort_by = vec!["time".to_owned(), "text".to_owned()];
        let options = MergeOptions {
            verify: Verify::Footers,
            sort_by,
            row_group_size: NonZeroUsize::new(2048).unwrap(),
            ..model.options
        };
        MergeRequest { work_dir, inputs: self.files.inputs.clone(), options, limits: self.limits, ..model }
    }

    fn merge(&self) -> Result<MergeOutcome, MergeError> {
        run(&self.request(), &ProgressSink::ignore(), &CancellationToken::new())
    }
}

#[test]
fn more_files_than_are_looked_for_at_once_are_too_large_and_the_others_are_merged() {
    let mut fixture = Fixture::new(128 << 20, None);
    for _ in 0..MAX_TOO_LARGE + 2 {
        fixture.long(100, 10 << 20);
    }
    for _ in 0..3 {
        fixture.short(100);
    }
    let outcome = fixture.merge().unwrap();
    assert_eq!((outcome.rows, outcome.consumed.len(), outcome.set_aside.len()), (300, 3, MAX_TOO_LARGE + 2));
    for aside in outcome.set_aside {
        assert!(aside.reason.to_string().contains("sorting it alone does not fit into"), "{}", aside.reason);
    }
}

/// It is not among the first by the size that footers state: those take little memory when they are sorted.
#[test]
fn a_file_that_is_too_large_is_found_behind_larger_ones_that_are_not() {
    let mut fixture = Fixture::new(128 << 20, None);
    for _ in 0..=MAX_TOO_LARGE {
        fixture.short(150_000);
    }
    fixture.long(100, 4 << 20);
    let (groups, _) = fixture.files.groups();
    let bytes: Vec<u64> = groups[0].files().map(|file| file.uncompressed_bytes).collect();
    let (long, short) = bytes.split_last().unwrap();
    assert!(short.iter().all(|bytes| bytes > long), "{bytes:?}");
    let outcome = fixture.merge().unwrap();
    assert_eq!(outcome.rows, 150_000 * (MAX_TOO_LARGE as u64 + 1));
    let [aside] = &outcome.set_aside[..] else { panic!("{:?}", outcome.set_aside) };
    assert_eq!(aside.name, format!("{}.parquet", MAX_TOO_LARGE + 1));
}

/// Each of them can be merged, and not two of them together: a row of each is read before the first is written.
#[test]
fn files_that_fit_alone_and_not_together_are_merged_one_part_after_the_other() {
    let mut fixture = Fixture::new(256 << 20, None);
    for _ in 0..10 {
        fixture.long(1, 20 << 20);
    }
    for _ in 0..3 {
        fixture.short(100);
    }
    fixture.limits.means = Means::All;
    let error = fixture.merge().unwrap_err();
    assert!(matches!(error, MergeError::OutOfMemory { .. }), "a second attempt may do better: {error}");
    fixture.limits.means = Means::DuckDb;
    let outcome = fixture.merge().unwrap();
    assert!(outcome.rows > 300 && outcome.set_aside.len() < 10, "{:?}", outcome.set_aside);
    for aside in outcome.set_aside {
        assert!(matches!(aside.reason, SetAsideReason::Unexamined(_)), "{}", aside.reason);
        let number: usize = aside.name.trim_end_matches(".parquet").parse().unwrap();
        assert!(number < 10, "a small file: {}", aside.name);
    }
}

/// What an attempt with a part of the memory finds too large is no fault of the file.
#[test]
fn a_file_is_too_large_for_all_of_the_memory_and_waits_if_it_is_so_for_a_part() {
    let mut fixture = Fixture::new(128 << 20, None);
    fixture.long(100, 10 << 20);
    fixture.short(100);
    fixture.short(100);
    let mut reason = |means| {
        fixture.limits.means = means;
        fixture.merge().unwrap().set_aside.remove(0).reason
    };
    let all = reason(Means::All);
    assert!(matches!(all, SetAsideReason::TooLarge(_)), "{all}");
    let part = reason(Means::DuckDb);
    assert!(matches!(part, SetAsideReason::Unexamined(_)), "{part}");
}

/// Temporary space that is used up says nothing about a file. (DuckDB reports it as memory that ran out.)
#[test]
fn a_file_that_could_not_be_sorted_for_want_of_temporary_space_is_not_too_large() {
    let mut fixture = Fixture::new(256 << 20, Some(16 << 20));
    fixture.long(100_000, 5_000);
    fixture.short(100);
    let error = fixture.merge().unwrap_err();
    assert!(matches!(error, MergeError::DiskFull { .. }), "{error:?}");

    let request = fixture.request();
    let work = WorkDir::prepare(&request.work_dir, &request.inputs).unwrap();
    let (groups, _) = fixture.files.groups();
    let cancel = CancellationToken::new();
    let Opened { session, budget, files } = open(&request, &work, &groups, &cancel).unwrap();
    let attempt = Attempt {
        request: &request,
        work: &work,
        groups: &groups,
        unsliced: std::collections::BTreeSet::new(),
        session: &session,
        files: &files,
        budget: &budget,
        progress: &ProgressSink::ignore(),
        cancel: &cancel,
    };
    let suspects: Vec<Member<'_>> = members(&groups[0]).collect();
    let found = attempt.find_too_large(&groups[0], Range::Everything, &suspects);
    assert!(matches!(found, Err(MergeError::DiskFull { .. })), "{found:?}");
}
