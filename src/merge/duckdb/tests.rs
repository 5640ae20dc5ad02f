use std::collections::HashSet;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use ::duckdb::Connection;
use tempfile::TempDir;

use super::*;
use crate::merge::{
    Compression, Means, MergeInput, MergeLimits, MergeOptions, MergedFile, ParquetVersion, TimeBound, Verify, sql,
};

/// A folder of inputs, and the merges of them.
struct Fixture {
    dir: TempDir,
    connection: Connection,
    inputs: Vec<MergeInput>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let connection = Connection::open_in_memory().expect("opens");
        Self { dir, connection, inputs: Vec::new() }
    }

    /// Adds an input with the rows of a query.
    fn file(&mut self, name: &str, query: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let to = sql::literal(path.to_str().expect("a UTF-8 path"));
        let copy = format!("COPY ({query}) TO {to} (FORMAT parquet, COMPRESSION snappy)");
        self.connection.execute_batch(&copy).expect("written");
        self.add(name, &path);
        path
    }

    fn add(&mut self, name: &str, path: &Path) {
        let size_bytes = fs::metadata(path).expect("exists").len();
        self.inputs.push(MergeInput { name: name.to_owned(), path: path.to_owned(), size_bytes });
    }

    /// A request over all inputs with small slices: outputs of about a third of the data.
    fn request(&self) -> MergeRequest {
        let total: u64 = self.inputs.iter().map(|i| i.size_bytes).sum();
        let work_dir = tempfile::tempdir_in(self.dir.path()).expect("a folder").keep();
        MergeRequest {
            job_id: "job-1".to_owned(),
            work_dir,
            inputs: self.inputs.clone(),
            output_stem: "cpu_20260101_00_g1".to_owned(),
            generation: 1,
            options: MergeOptions {
                compression: Compression::Zstd(3),
                parquet_version: ParquetVersion::V2,
                row_group_size: NonZeroUsize::new(2048).expect("not zero"),
                target_file_size_bytes: (total / 3).max(1),
                sort_by: vec!["time".to_owned()],
                time_column: "time".to_owned(),
                verify: Verify::Content,
            },
            limits: MergeLimits {
                memory_bytes: 512 << 20,
                threads: NonZeroUsize::new(2).expect("not zero"),
                temp_bytes: None,
                means: Means::All,
            },
        }
    }

    fn merge(&self, request: &MergeRequest) -> Result<MergeOutcome, MergeError> {
        self.merge_by(Means::All, request)
    }

    fn merge_by(&self, means: Means, request: &MergeRequest) -> Result<MergeOutcome, MergeError> {
        assert_eq!(request.inputs.len(), self.inputs.len());
        let request = MergeRequest { limits: MergeLimits { means, ..request.limits }, ..request.clone() };
        run(&request, &ProgressSink::ignore(), &CancellationToken::new())
    }

    /// Merges, and checks what holds for every merge: the same rows, sorted, in ascending disjoint outputs.
    fn check(&self, request: &MergeRequest) -> MergeOutcome {
        let by_duckdb = self.check_by(Means::DuckDb, request);
        let outcome = self.check_by(Means::All, request);
        let aside = |outcome: &MergeOutcome| -> Vec<(String, bool)> {
            outcome.set_aside.iter().map(|s| (s.name.clone(), s.reason.is_damage())).collect()
        };
        assert_eq!(
            (outcome.rows, &outcome.consumed, aside(&outcome), &outcome.fingerprint),
            (by_duckdb.rows, &by_duckdb.consumed, aside(&by_duckdb), &by_duckdb.fingerprint),
            "the two means disagree"
        );
        outcome
    }

    fn check_by(&self, means: Means, request: &MergeRequest) -> MergeOutcome {
        let outcome = self.merge_by(means, request).expect("merged");
        let consumed: HashSet<&String> = outcome.consumed.iter().collect();
        let inputs: Vec<&Path> =
            self.inputs.iter().filter(|i| consumed.contains(&i.name)).map(|i| i.path.as_path()).collect();
        let outputs: Vec<&Path> = outcome.outputs.iter().map(|o| o.path.as_path()).collect();
        let (before, after) = (self.rows(&inputs, "ORDER BY ALL"), self.rows(&outputs, "ORDER BY ALL"));
        assert_eq!(before.len() as u64, outcome.rows);
        assert_eq!(before, after);
        let times = self.column(&outputs, "time");
        let mut sorted = times.clone();
        sorted.sort_by(|a, b| a.is_none().cmp(&b.is_none()).then_with(|| a.cmp(b)));
        assert_eq!(times, sorted, "rows are not in order");
        outcome
    }

    /// Every row as text.
    fn rows(&self, paths: &[&Path], order: &str) -> Vec<String> {
        let query = format!("SELECT CAST(t AS VARCHAR) FROM (SELECT * FROM {} {order}) t", source(paths));
        self.texts(&query).into_iter().flatten().collect()
    }

    /// A column as text, in the order of the files and their rows.
    fn column(&self, paths: &[&Path], column: &str) -> Vec<Option<String>> {
        self.texts(&format!("SELECT CAST({} AS VARCHAR) FROM {}", sql::identifier(column), source(paths)))
    }

    fn texts(&self, query: &str) -> Vec<Option<String>> {
        let mut statement = self.connection.prepare(query).expect("prepared");
        let rows = statement.query_map([], |row| row.get::<_, Option<String>>(0)).expect("run");
        rows.map(|row| row.expect("a row")).collect()
    }

    /// `SELECT DISTINCT value FROM parquet_metadata(output)`.
    fn metadata(&self, output: &MergedFile, value: &str) -> Vec<String> {
        let path = literal(&output.path);
        let query = format!("SELECT DISTINCT CAST({value} AS VARCHAR) AS v FROM parquet_metadata({path}) ORDER BY v");
        self.texts(&query).into_iter().flatten().collect()
    }
}

fn literal(path: &Path) -> String {
    sql::literal(&sql::without_glob(path.to_str().expect("a UTF-8 path")))
}

fn source(paths: &[&Path]) -> String {
    let list: Vec<String> = paths.iter().map(|p| literal(p)).collect();
    format!("read_parquet([{}], union_by_name = true, hive_partitioning = false)", list.join(", "))
}

/// `rows` rows, `step` microseconds apart from `from`, with a value that is unique per row and `file`.
fn series(file: u32, from: i64, step: i64, rows: u32) -> String {
    format!(
        "SELECT make_timestamp(1767225600000000 + {from} + r * {step}) AS time, 'host_' || (r % 7) AS host, \
         {file} * 1000000 + r AS value, random() AS load FROM range({rows}) t(r)"
    )
}

fn names(outcome: &MergeOutcome) -> Vec<&str> {
    outcome.set_aside.iter().map(|s| s.name.as_str()).collect()
}

#[test]
fn consecutive_sorted_files_become_few_sorted_files_of_about_the_target_size() {
    let mut fixture = Fixture::new();
    for i in 0..12 {
        fixture.file(&format!("{i:02}.parquet"), &series(i, i64::from(i) * 3_000_000, 1000, 3000));
    }
    let mut request = fixture.request();
    request.options.target_file_size_bytes /= 3;
    let outcome = fixture.check(&request);
    assert_eq!(outcome.rows, 36_000);
    assert!(outcome.slices > outcome.outputs.len());
    assert!((2..=4).contains(&outcome.outputs.len()), "{} outputs", outcome.outputs.len());
    let target = request.options.target_file_size_bytes;
    assert!(outcome.outputs.iter().all(|o| o.size_bytes < target * 3 / 2 && o.size_bytes > target / 2));
    for pair in outcome.outputs.windows(2) {
        let (TimeBound::Text(end), TimeBound::Text(start)) =
            (pair[0].max_time.clone().expect("known"), pair[1].min_time.clone().expect("known"))
        else {
            panic!("timestamps are texts");
        };
        assert!(end < start, "{end} {start}");
    }
    let parts: Vec<&str> = outcome.outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(parts[..2], ["cpu_20260101_00_g1_1_compacted.parquet", "cpu_20260101_00_g1_2_compacted.parquet"]);
    assert!(outcome.engine.starts_with("duckdb v1."));
    assert!(outcome.fingerprint.is_some_and(|f| f.starts_with("36000-")));
}

#[test]
fn unsorted_overlapping_files_are_sorted() {
    let mut fixture = Fixture::new();
    for i in 0..6 {
        let rows = series(i, i64::from(i) * 500_000, 700, 4000);
        fixture.file(&format!("{i}.parquet"), &format!("SELECT * FROM ({rows}) ORDER BY hash(value)"));
    }
    fixture.check(&fixture.request());
}

#[test]
fn rows_of_one_instant_all_stay() {
    let mut fixture = Fixture::new();
    for i in 0..3 {
        fixture.file(&format!("{i}.parquet"), &series(i, 0, 0, 5000));
    }
    let outcome = fixture.check(&fixture.request());
    assert_eq!(outcome.outputs.len(), 1);
}

#[test]
fn rows_without_a_time_come_last() {
    let mut fixture = Fixture::new();
    for i in 0..4 {
        let rows = series(i, i64::from(i) * 4_000_000, 1000, 4000);
        let query =
            format!("SELECT * REPLACE (CASE WHEN value % 10 = 3 THEN NULL ELSE time END AS time) FROM ({rows})");
        fixture.file(&format!("{i}.parquet"), &query);
    }
    fixture.file(
        "only_nulls.parquet",
        "SELECT NULL::TIMESTAMP AS time, 'x' AS host, 1::INTEGER AS value, 0.5::DOUBLE AS load",
    );
    let outcome = fixture.check(&fixture.request());
    assert!(outcome.slices > 2);
    assert_eq!(outcome.rows, 16_001);
}

#[test]
fn empty_and_single_row_files_merge() {
    let mut fixture = Fixture::new();
    fixture.file("a.parquet", &series(0, 0, 1, 0));
    fixture.file("b.parquet", &series(1, 5, 1, 1));
    fixture.file("c.parquet", &series(2, 3, 1, 1));
    let outcome = fixture.check(&fixture.request());
    assert_eq!((outcome.rows, outcome.consumed.len()), (2, 3));
}

#[test]
fn files_without_rows_become_one_file_without_rows() {
    let mut fixture = Fixture::new();
    for i in 0..3 {
        fixture.file(&format!("{i}.parquet"), &series(i, 0, 1, 0));
    }
    let outcome = fixture.check(&fixture.request());
    assert_eq!((outcome.rows, outcome.outputs.len()), (0, 1));
    assert_eq!(outcome.outputs[0].min_time, None);
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let mut fixture = Fixture::new();
    for i in 0..6 {
        // Many rows of equal time, in and across files.
        fixture.file(
            &format!("{i}.parquet"),
            &format!(
                "SELECT * REPLACE (time_bucket(INTERVAL 1 second, time) AS time) FROM ({})",
                series(i, 0, 1000, 20_000)
            ),
        );
    }
    let checksums =
        || -> Vec<String> { fixture.check(&fixture.request()).outputs.into_iter().map(|o| o.checksum).collect() };
    let first = checksums();
    assert_eq!(first, checksums());
    assert_eq!(first, checksums());
}

#[test]
fn every_option_shows_in_the_outputs() {
    let mut fixture = Fixture::new();
    for i in 0..3 {
        fixture.file(&format!("{i}.parquet"), &series(i, 0, 1000, 10_000));
    }
    let with = |change: &dyn Fn(&mut MergeOptions)| {
        let mut request = fixture.request();
        request.options.target_file_size_bytes = 1 << 30;
        change(&mut request.options);
        fixture.check(&request).outputs.remove(0)
    };
    for (compression, shown) in [
        (Compression::Zstd(3), "ZSTD"),
        (Compression::Snappy, "SNAPPY"),
        (Compression::Lz4, "LZ4_RAW"),
        (Compression::Gzip, "GZIP"),
        (Compression::None, "UNCOMPRESSED"),
    ] {
        let output = with(&|o| o.compression = compression);
        assert_eq!(fixture.metadata(&output, "compression"), [shown]);
    }
    let size = |level| with(&|o| o.compression = Compression::Zstd(level)).size_bytes;
    assert!(size(15) < size(1), "the level has no effect");
    let encodings = |version| fixture.metadata(&with(&|o| o.parquet_version = version), "encodings").join(" ");
    assert!(encodings(ParquetVersion::V2).contains("DELTA"));
    assert!(!encodings(ParquetVersion::V1).contains("DELTA"));
    let groups = |rows: usize| {
        let output = with(&|o| o.row_group_size = NonZeroUsize::new(rows).expect("not zero"));
        fixture.metadata(&output, "row_group_num_rows")
    };
    assert_eq!(groups(30_720), ["30000"]);
    assert_eq!(groups(10_240), ["10240", "9520"]);
}

#[test]
fn rows_are_sorted_by_every_column_of_the_key() {
    let mut fixture = Fixture::new();
    for i in 0..4 {
        let rows = series(i, 0, 1000, 5000);
        fixture.file(
            &format!("{i}.parquet"),
            &format!("SELECT * REPLACE (time_bucket(INTERVAL 1 second, time) AS time) FROM ({rows})"),
        );
    }
    let mut request = fixture.request();
    request.options.sort_by = vec!["time".to_owned(), "host".to_owned(), "value".to_owned()];
    let outcome = fixture.check(&request);
    let paths: Vec<&Path> = outcome.outputs.iter().map(|o| o.path.as_path()).collect();
    assert_eq!(fixture.rows(&paths, ""), fixture.rows(&paths, "ORDER BY time, host, value"));
}

#[test]
fn sorted_by_another_column_each_output_is_sorted_and_covers_its_own_time() {
    let mut fixture = Fixture::new();
    for i in 0..6 {
        fixture.file(&format!("{i}.parquet"), &series(i, i64::from(i) * 4_000_000, 1000, 4000));
    }
    let mut request = fixture.request();
    request.options.sort_by = vec!["host".to_owned(), "time".to_owned()];
    let outcome = fixture.merge(&request).expect("merged");
    assert_eq!((outcome.rows, outcome.slices), (24_000, outcome.outputs.len()));
    assert!(outcome.outputs.len() > 1);
    for output in &outcome.outputs {
        let path = [output.path.as_path()];
        assert_eq!(fixture.rows(&path, ""), fixture.rows(&path, "ORDER BY host, time"));
    }
}

#[test]
fn names_and_paths_may_hold_anything() {
    let mut fixture = Fixture::new();
    for (i, name) in ["it's [1]*.parquet", "key=value é %20?.parquet", "a\"b\n.parquet"].iter().enumerate() {
        let query = format!(
            "SELECT time, host AS \"ho\"\"st * é%\", value AS \"file_row_number\", load AS \"c0\" FROM ({})",
            series(u32::try_from(i).expect("small"), 0, 1000, 3000)
        );
        fixture.file(name, &query);
    }
    let mut request = fixture.request();
    request.work_dir = request.work_dir.join("key=value [w]*'?");
    fs::create_dir(&request.work_dir).expect("created");
    fixture.check(&request);
}

/// Two reasons for one file would be two accounts of it, and the second look knows less.
#[test]
fn what_was_found_out_about_a_file_says_more_than_another_look_at_its_footer() {
    let mut fixture = Fixture::new();
    let path = fixture.file("a.parquet", "SELECT range AS time FROM range(10)");
    fixture.file("b.parquet", "SELECT range AS time FROM range(10)");
    fs::write(&path, b"no longer what it was").unwrap();
    let request = fixture.request();
    let found = SetAsideReason::Unreadable("found out with effort".to_owned());
    let left_out = BTreeMap::from([(0, found.clone())]);
    let (progress, cancel) = (ProgressSink::ignore(), CancellationToken::new());
    let (_, set_aside) = survey_sound(&request, &left_out, &progress, &cancel).unwrap();
    let of_a: Vec<_> = set_aside.iter().filter(|aside| aside.name == "a.parquet").map(|aside| &aside.reason).collect();
    assert_eq!(of_a, [&found]);
}

#[test]
fn a_file_with_damaged_data_is_set_aside_and_the_others_are_merged() {
    for verify in [Verify::Content, Verify::Footers] {
        let mut fixture = Fixture::new();
        for i in 0..9 {
            let path = fixture.file(&format!("{i}.parquet"), &series(i, i64::from(i) * 3_000_000, 1000, 3000));
            if i == 2 || i == 7 {
                // The first page header becomes nonsense; the footer is sound.
                let mut bytes = fs::read(&path).expect("read");
                bytes[4..64].fill(0xff);
                fs::write(&path, bytes).expect("written");
            }
        }
        let mut request = fixture.request();
        request.options.verify = verify;
        let outcome = fixture.check(&request);
        assert_eq!(names(&outcome), ["2.parquet", "7.parquet"]);
        assert!(outcome.set_aside.iter().all(|s| s.reason.is_damage()));
        assert_eq!(outcome.rows, 7 * 3000);
    }
}

#[test]
fn when_all_files_are_damaged_nothing_is_merged() {
    let mut fixture = Fixture::new();
    for i in 0..3 {
        let path = fixture.file(&format!("{i}.parquet"), &series(i, 0, 1000, 100));
        fs::write(&path, vec![0; fs::metadata(&path).expect("exists").len().try_into().expect("small")])
            .expect("written");
    }
    let error = fixture.merge(&fixture.request()).expect_err("nothing is left");
    assert!(matches!(error, MergeError::NothingToMerge(aside) if aside.len() == 3));
}

/// Interleaved files; the footer of the one with the last row states a largest time that is far too small.
fn with_lying_footer() -> Fixture {
    let mut fixture = Fixture::new();
    for i in 0..4 {
        fixture.file(&format!("{i}.parquet"), &series(i, i64::from(i), 4000, 4000));
    }
    let path = fixture.inputs[3].path.clone();
    let mut bytes = fs::read(&path).expect("read");
    let first = 1_767_225_600_000_000_i64 + 3;
    let (truth, lie) = ((first + 3999 * 4000).to_le_bytes(), (first + 4000).to_le_bytes());
    let length = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().expect("four bytes"));
    let footer = bytes.len() - 8 - length as usize;
    let mut changed = 0;
    for at in footer..bytes.len() - 8 {
        if bytes[at..at + 8] == truth {
            bytes[at..at + 8].copy_from_slice(&lie);
            changed += 1;
        }
    }
    assert!(changed > 0, "the footer states the largest time");
    fs::write(&path, bytes).expect("written");
    fixture
}

#[test]
fn a_footer_that_lies_about_times_loses_no_row() {
    let fixture = with_lying_footer();
    let outcome = fixture.check(&fixture.request());
    assert_eq!((outcome.rows, outcome.slices), (16_000, 1));
}

#[test]
fn with_footers_alone_a_lying_footer_fails_the_proof() {
    let fixture = with_lying_footer();
    let mut request = fixture.request();
    request.options.verify = Verify::Footers;
    let error = fixture.merge(&request).expect_err("the footers contradict each other");
    assert!(
        matches!(&error, MergeError::ProofFailed(detail) if detail.contains("maximum of column \"time\"")),
        "{error}"
    );
}

#[test]
fn rows_without_a_time_come_last_however_slices_are_merged() {
    let mut fixture = Fixture::new();
    for i in 0..4 {
        let rows = series(i, i64::from(i) * 20_000_000, 1000, 20_000);
        let gaps =
            format!("SELECT * REPLACE (CASE WHEN hash(time) % 50 = 0 THEN NULL ELSE time END AS time) FROM ({rows})");
        fixture.file(&format!("{i}.parquet"), &gaps);
    }
    assert!(fixture.check(&fixture.request()).slices > 2);
}

#[test]
fn a_slice_that_does_not_fit_into_memory_is_cut() {
    let mut fixture = Fixture::new();
    for i in 0..2 {
        // Few different long texts: tiny in the file, hundreds of megabytes when sorted.
        let rows = series(i, i64::from(i) * 60_000_000, 1000, 60_000);
        fixture.file(&format!("{i}.parquet"), &format!("SELECT *, repeat(host, 700) AS text FROM ({rows})"));
    }
    let mut request = fixture.request();
    request.options.target_file_size_bytes = 1 << 30;
    request.options.row_group_size = NonZeroUsize::new(4096).expect("not zero");
    request.options.verify = Verify::Footers;
    // No spilling, so that the sort itself has to fit.
    request.limits =
        MergeLimits { memory_bytes: 128 << 20, threads: NonZeroUsize::MIN, temp_bytes: Some(1), means: Means::All };
    let outcome = fixture.merge_by(Means::DuckDb, &request).expect("merged");
    assert_eq!((outcome.rows, outcome.outputs.len()), (120_000, 1));
    assert!(outcome.slices > 1, "one slice was enough");
}

#[test]
fn a_cancelled_merge_stops_in_every_step() {
    let mut fixture = Fixture::new();
    for i in 0..4 {
        fixture.file(&format!("{i}.parquet"), &series(i, i64::from(i) * 4_000_000, 1000, 4000));
    }
    for step in [MergeStep::Survey, MergeStep::Scan, MergeStep::Merge, MergeStep::Stitch, MergeStep::Prove] {
        let cancel = CancellationToken::new();
        let trigger = cancel.clone();
        let progress = ProgressSink::new(move |progress| {
            if progress.step == step {
                trigger.cancel();
            }
        });
        let error = run(&fixture.request(), &progress, &cancel).expect_err("cancelled");
        assert!(matches!(error, MergeError::Cancelled), "{step:?}: {error}");
    }
}

#[test]
fn the_outputs_name_their_origin() {
    let mut fixture = Fixture::new();
    for i in 0..3 {
        fixture.file(&format!("{i}.parquet"), &series(i, i64::from(i) * 3_000_000, 1000, 3000));
    }
    let outcome = fixture.check(&fixture.request());
    let path = literal(&outcome.outputs[0].path);
    let pairs = fixture.texts(&format!(
        "SELECT decode(key) || '=' || decode(value) AS v FROM parquet_kv_metadata({path}) WHERE starts_with(decode(key), 'arc.') ORDER BY v"
    ));
    let engine = format!("arc.engine={}", outcome.engine);
    let part = format!("arc.part=1/{}", outcome.outputs.len());
    let expected = [
        engine.as_str(),
        "arc.generation=1",
        "arc.inputs=[\"0.parquet\",\"1.parquet\",\"2.parquet\"]",
        "arc.job_id=job-1",
        part.as_str(),
    ];
    assert_eq!(pairs.iter().flatten().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn added_missing_reordered_and_widened_columns_become_one_schema() {
    let mut fixture = Fixture::new();
    let rows = |i: u32| series(i, i64::from(i) * 1_000_000, 1000, 3000);
    for i in 0..3 {
        fixture.file(&format!("plain{i}.parquet"), &rows(i));
    }
    fixture.file("added.parquet", &format!("SELECT *, value % 3 = 0 AS flag FROM ({})", rows(3)));
    fixture.file("missing.parquet", &format!("SELECT time, host, value FROM ({})", rows(4)));
    fixture.file("reordered.parquet", &format!("SELECT load, value, host, time FROM ({})", rows(5)));
    fixture
        .file("widened.parquet", &format!("SELECT * REPLACE (value::BIGINT + 5000000000 AS value) FROM ({})", rows(6)));
    fixture.file("all_null.parquet", &format!("SELECT * REPLACE (NULL::VARCHAR AS value) FROM ({})", rows(7)));
    for i in 8..10 {
        let query = format!("SELECT * REPLACE ('text ' || value AS value) FROM ({})", rows(i));
        fixture.file(&format!("conflict{i}.parquet"), &query);
    }
    let mut request = fixture.request();
    request.options.sort_by = vec!["time".to_owned(), "host".to_owned()];
    let outcome = fixture.merge(&request).expect("merged");
    assert_eq!((outcome.rows, names(&outcome)), (30_000, vec![]));
    let outputs: Vec<&Path> = outcome.outputs.iter().map(|o| o.path.as_path()).collect();
    let types = fixture.texts(&format!(
        "SELECT DISTINCT type AS t FROM parquet_schema([{}]) WHERE name = 'value' ORDER BY t",
        outputs.iter().map(|p| literal(p)).collect::<Vec<_>>().join(", ")
    ));
    assert_eq!(types.iter().flatten().map(String::as_str).collect::<Vec<_>>(), ["BYTE_ARRAY", "INT64"]);
    let all: Vec<&Path> = fixture.inputs.iter().map(|i| i.path.as_path()).collect();
    let table = |paths: &[&Path]| {
        let query = "SELECT CAST((time, host, value, load, flag) AS VARCHAR) AS r FROM";
        fixture.texts(&format!("{query} {} ORDER BY r", source(paths)))
    };
    assert_eq!(table(&all), table(&outputs));
}

/// I8, and the same bytes however the lanes race: slices of sorted files are written as read, a slice with a file that is
/// not sorted inside is sorted after all, and the first and last files do not give it away.
#[test]
fn a_file_that_is_not_sorted_inside_is_found_among_sorted_ones_and_its_slice_is_sorted() {
    let mut fixture = Fixture::new();
    for i in 0..40_u32 {
        let rows = series(i, i64::from(i) * 1_000_000, 1000, 1_000);
        let order = if i == 7 { "ORDER BY hash(time)" } else { "ORDER BY time" };
        fixture.file(&format!("{i:02}.parquet"), &format!("SELECT * FROM ({rows}) {order}"));
    }
    let merged = || {
        let mut request = fixture.request();
        request.options.row_group_size = NonZeroUsize::new(2048).expect("not zero");
        request.options.target_file_size_bytes = 20_000;
        request.limits.threads = NonZeroUsize::new(2).expect("not zero");
        let outcome = fixture.merge(&request).expect("merged");
        assert!(outcome.slices > 4, "{} slices", outcome.slices);
        for output in &outcome.outputs {
            assert!(crate::merge::order::column_ascends(&output.path, "time").expect("read"), "{}", output.name);
        }
        outcome.outputs.iter().map(|o| o.checksum.clone()).collect::<Vec<_>>()
    };
    assert_eq!(merged(), merged());
}
