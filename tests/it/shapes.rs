//! I1, I6, I8: whatever the inputs look like, the rows come out once each, sorted, and a second run does nothing.

use std::fs;

use duckdb::Connection;

use crate::support::{Arc, PARTITION, again, rows_of, strings, table, telemetry, value};

/// Writes the inputs, compacts, and checks everything that must hold of any compaction. Returns the outputs' names.
fn check(arc: &Arc, inputs: &[(&str, &str)]) -> Vec<String> {
    for (name, query) in inputs {
        arc.write(PARTITION, name, query);
    }
    check_written(arc)
}

fn check_written(arc: &Arc) -> Vec<String> {
    let before = arc.rows(PARTITION);
    let report = arc.compact_well();
    assert_eq!(report["jobs_completed"], 1, "{report:#}");
    assert_eq!(report["jobs"][0]["rows"], before.len());
    assert_eq!(arc.rows(PARTITION), before, "I1: every row once");
    arc.assert_nothing_left_over(PARTITION);
    assert_sorted_and_disjoint(arc);
    let state = arc.storage_state();
    let again = arc.compact_well();
    assert_eq!((&again["jobs_completed"], &again["jobs_failed"]), (&0.into(), &0.into()));
    assert_eq!(arc.storage_state(), state, "I6: a second run writes and deletes nothing");
    arc.live(PARTITION)
}

/// I8, for outputs sorted by `time`.
fn assert_sorted_and_disjoint(arc: &Arc) {
    let db = Connection::open_in_memory().unwrap();
    let mut ranges = Vec::new();
    for file in arc.live_paths(PARTITION) {
        let table = table(std::slice::from_ref(&file));
        let disorder: i64 = db
            .query_row(
                &format!(
                    "SELECT count(*) FROM (SELECT time, lag(time) OVER (ORDER BY file_row_number) AS previous, \
                     file_row_number FROM {}) WHERE time < previous OR (previous IS NULL AND time IS NOT NULL AND file_row_number > 0)",
                    table.replace("hive_partitioning", "file_row_number = true, hive_partitioning")
                ),
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(disorder, 0, "{} is not sorted", file.display());
        let range: (Option<i64>, Option<i64>) = db
            .query_row(&format!("SELECT epoch_us(min(time)), epoch_us(max(time)) FROM {table}"), [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        ranges.extend(range.0.zip(range.1));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "ranges overlap: {ranges:?}");
}

const LATER: &str = "TIMESTAMP '2025-10-08 14:30:00'";

#[test]
fn consecutive_sorted_files() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 10, 1000);
    assert_eq!(check_written(&arc).len(), 1);
}

#[test]
fn unsorted_and_overlapping_files() {
    let shuffled = |seed: u32| format!("{} ORDER BY hash(i + {seed})", telemetry(0, 3000));
    check(
        &Arc::new(),
        &[("a.parquet", &shuffled(1)), ("b.parquet", &shuffled(2)), ("c.parquet", &telemetry(1500, 4500))],
    );
}

#[test]
fn identical_timestamps_and_identical_rows() {
    let same = format!("SELECT {LATER} AS time, 1 AS v FROM range(500)");
    check(&Arc::new(), &[("a.parquet", &same), ("b.parquet", &same), ("c.parquet", &same)]);
}

#[test]
fn null_times_come_last() {
    let some_null = format!(
        "SELECT CASE WHEN i % 3 = 0 THEN NULL ELSE {LATER} + to_milliseconds(i) END AS time, i FROM range(300) r(i)"
    );
    let all_null = "SELECT NULL::TIMESTAMP AS time, i FROM range(20) r(i)";
    check(&Arc::new(), &[("a.parquet", &some_null), ("b.parquet", &some_null), ("c.parquet", all_null)]);
}

#[test]
fn only_null_times() {
    let all_null = "SELECT NULL::TIMESTAMP AS time, i FROM range(20) r(i)";
    check(&Arc::new(), &[("a.parquet", all_null), ("b.parquet", all_null)]);
}

#[test]
fn empty_files_and_files_of_one_row() {
    let empty = format!("SELECT {LATER} AS time, 1 AS v WHERE false");
    let one = format!("SELECT {LATER} AS time, 1 AS v");
    check(&Arc::new(), &[("a.parquet", &empty), ("b.parquet", &one), ("c.parquet", &one), ("d.parquet", &empty)]);
}

#[test]
fn nothing_but_empty_files_leaves_one_empty_file() {
    let empty = format!("SELECT {LATER} AS time, 1 AS v WHERE false");
    let live = check(&Arc::new(), &[("a.parquet", &empty), ("b.parquet", &empty)]);
    assert_eq!(live.len(), 1);
}

#[test]
fn a_thousand_files() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 1000, 20);
    assert_eq!(check_written(&arc).len(), 1);
}

/// T12, and DuckDB's own widening is not asked: columns are matched by exact name.
#[test]
fn added_missing_reordered_and_all_null_columns() {
    let live = check(
        &Arc::new(),
        &[
            ("a.parquet", &format!("SELECT {LATER} AS time, 1 AS a, 'x' AS b")),
            ("b.parquet", &format!("SELECT 'y' AS b, 2 AS a, {LATER} AS time")),
            ("c.parquet", &format!("SELECT {LATER} AS time, 3.5::DOUBLE AS added")),
            ("d.parquet", &format!("SELECT {LATER} AS time, NULL::INTEGER AS always_null, 4 AS a")),
        ],
    );
    assert_eq!(live.len(), 1);
}

#[test]
fn columns_that_widen_without_loss() {
    let arc = Arc::new();
    let live = check(
        &arc,
        &[
            ("a.parquet", &format!("SELECT {LATER} AS time, 1::TINYINT AS i, 1.5::FLOAT AS f, NULL::INTEGER AS n")),
            (
                "b.parquet",
                &format!("SELECT {LATER} AS time, 9007199254740993::BIGINT AS i, 1e300::DOUBLE AS f, 'text' AS n"),
            ),
            (
                "c.parquet",
                &format!("SELECT {LATER}::TIMESTAMP_MS AS time, 200::UTINYINT AS i, 2.5::FLOAT AS f, 'more' AS n"),
            ),
        ],
    );
    assert_eq!(live.len(), 1);
    let file = table(&arc.live_paths(PARTITION));
    let types = value(&format!(
        "SELECT string_agg(column_type, ',' ORDER BY column_name) FROM (DESCRIBE SELECT * FROM {file})"
    ));
    assert_eq!(types, "DOUBLE,BIGINT,VARCHAR,TIMESTAMP");
}

/// T10, T39: what cannot be joined without loss stays apart, each kind in an output of its own, nothing cast to text.
#[test]
fn conflicting_columns_stay_apart_without_any_loss() {
    let arc = Arc::new();
    for (name, query) in [
        ("a.parquet", format!("SELECT {LATER} AS time, 1::BIGINT AS v")),
        ("b.parquet", format!("SELECT {LATER} AS time, 2::BIGINT AS v")),
        ("c.parquet", format!("SELECT {LATER} AS time, 'text' AS v")),
        ("d.parquet", format!("SELECT {LATER} AS time, 'more text' AS v")),
        ("e.parquet", "SELECT '2025-10-08 14:00:00' AS time, 5::BIGINT AS v".to_owned()),
        ("f.parquet", "SELECT '2025-10-08 14:00:01' AS time, 6::BIGINT AS v".to_owned()),
    ] {
        arc.write(PARTITION, name, &query);
    }
    let each = |arc: &Arc| -> Vec<String> {
        let mut rows: Vec<String> =
            arc.live_paths(PARTITION).iter().flat_map(|f| rows_of(std::slice::from_ref(f))).collect();
        rows.sort();
        rows
    };
    let before = each(&arc);
    let report = arc.compact_well();
    assert_eq!(report["files_written"], 3, "{report:#}");
    assert_eq!(each(&arc), before);
    let db = Connection::open_in_memory().unwrap();
    let mut types: Vec<String> = arc
        .live_paths(PARTITION)
        .iter()
        .flat_map(|f| {
            let table = table(std::slice::from_ref(f));
            strings(
                &db,
                &format!(
                    "SELECT string_agg(column_type, ',' ORDER BY column_name) FROM (DESCRIBE SELECT * FROM {table})"
                ),
            )
            .unwrap()
        })
        .collect();
    types.sort();
    assert_eq!(types, ["TIMESTAMP,BIGINT", "TIMESTAMP,VARCHAR", "VARCHAR,BIGINT"]);
}

#[test]
fn six_hundred_columns() {
    let columns: Vec<String> = (0..600).map(|c| format!("(i * {c})::DOUBLE AS column_{c}")).collect();
    let query = format!("SELECT {LATER} + to_seconds(i) AS time, {} FROM range(200) r(i)", columns.join(", "));
    let arc = Arc::new();
    for name in ["a.parquet", "b.parquet", "c.parquet"] {
        arc.write(PARTITION, name, &query);
    }
    let sum = |arc: &Arc| {
        value(&format!("SELECT printf('%d %f', count(*), sum(column_599)) FROM {}", table(&arc.live_paths(PARTITION))))
    };
    let before = sum(&arc);
    arc.compact_well();
    assert_eq!(sum(&arc), before);
    assert_eq!(arc.live(PARTITION).len(), 1);
}

/// T56: names that mean something to SQL, globs, URLs or paths.
#[test]
fn odd_names_of_databases_measurements_files_and_columns() {
    let names =
        ["it's", "a b", "50%", "%41", "a*b?", "x[1]{2}", "größe", "\"q\"", "a;DROP TABLE x", "k=v", "-- x", "日本"];
    for odd in again::each(names, ToString::to_string) {
        let arc = Arc::new();
        let partition = format!("{odd}/m {odd}/2025/10/08/14");
        let column = odd.replace('"', "\"\"");
        for i in 0..3 {
            let query = format!("SELECT {LATER} AS time, {i} AS \"{column}\", {i} AS filename, {i} AS file_row_number");
            arc.write(&partition, &format!("{odd} {i}.parquet"), &query);
        }
        let before = arc.rows(&partition);
        let report = arc.compact_well();
        assert_eq!(report["jobs_completed"], 1, "{odd}: {report:#}");
        assert_eq!(arc.rows(&partition), before, "{odd}");
        assert_eq!(arc.live(&partition).len(), 1, "{odd}");
        arc.assert_nothing_left_over(&partition);
    }
}

/// Columns whose names differ in case only are two columns.
#[test]
fn names_that_differ_in_case_only() {
    let arc = Arc::new();
    arc.write(PARTITION, "a.parquet", &format!("SELECT {LATER} AS time, 1 AS host"));
    arc.write(PARTITION, "b.parquet", &format!("SELECT {LATER} AS time, 'x' AS \"Host\""));
    arc.compact_well();
    let file = &arc.live_paths(PARTITION)[0];
    let schema = value(&format!(
        "SELECT string_agg(name, ',' ORDER BY name) FROM parquet_schema('{}') WHERE num_children IS NULL",
        file.display()
    ));
    assert_eq!(schema, "Host,host,time");
}

/// T14: a folder named `key=value` is a folder.
#[test]
fn a_hive_style_folder_adds_no_column() {
    let arc = Arc::new();
    let partition = "region=eu/v=9/2025/10/08/14";
    for i in 0..2 {
        arc.write(partition, &format!("{i}.parquet"), &format!("SELECT {LATER} AS time, {i} AS v"));
    }
    let before = arc.rows(partition);
    arc.compact_well();
    assert_eq!(arc.rows(partition), before);
}

/// T15: rows outside the partition's hour stay with it.
#[test]
fn rows_outside_the_hour_are_kept() {
    let far = "SELECT TIMESTAMP '1969-12-31 23:59:59' + to_days((i * 400)::INTEGER) AS time, i FROM range(50) r(i)";
    check(
        &Arc::new(),
        &[("a.parquet", far), ("b.parquet", far), ("c.parquet", &telemetry(0, 100).replace("usage_idle", "i2"))],
    );
}

/// Two databases with measurements and files of the same names do not mix (T3, T8).
#[test]
fn partitions_of_the_same_name_in_different_databases_stay_apart() {
    let arc = Arc::new();
    let partitions = ["a/cpu/2025/10/08/14", "a_a/cpu/2025/10/08/14", "a/a_cpu/2025/10/08/14", "a/cpu/2025/10/08/15"];
    for (n, partition) in partitions.iter().enumerate() {
        for i in 0..3 {
            arc.write(partition, &format!("{i}.parquet"), &format!("SELECT {LATER} AS time, {n} AS who, {i} AS i"));
        }
    }
    let before: Vec<_> = partitions.iter().map(|p| arc.rows(p)).collect();
    assert_eq!(arc.compact_well()["jobs_completed"], 4);
    let after: Vec<_> = partitions.iter().map(|p| arc.rows(p)).collect();
    assert_eq!(after, before);
}

/// T32, and the record keeps what is retired apart from what is new.
#[test]
fn late_files_are_compacted_beside_what_is_there_and_nothing_is_doubled() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 5, 2000);
    arc.compact_well();
    for round in 0..7 {
        for i in 0..2 {
            arc.write(PARTITION, &format!("late_{round}_{i}.parquet"), &telemetry(round * 100 + i, round * 100 + 50));
        }
        let before = arc.rows(PARTITION);
        arc.compact_well();
        assert_eq!(arc.rows(PARTITION), before, "round {round}");
        let files = arc.live(PARTITION).len();
        assert!(files <= 6, "{files} files after round {round}: side files pile up");
        arc.assert_nothing_left_over(PARTITION);
    }
}

/// The same inputs give the same bytes.
#[test]
fn the_same_inputs_give_the_same_bytes() {
    let bytes = || {
        let arc = Arc::new();
        for (name, from) in [("a.parquet", 0), ("b.parquet", 500), ("c.parquet", 500)] {
            arc.write(
                PARTITION,
                name,
                &format!("SELECT * REPLACE (date_trunc('second', time) AS time) FROM ({})", telemetry(from, 20_000)),
            );
        }
        let report = arc.compact_well();
        let bytes = fs::read(&arc.live_paths(PARTITION)[0]).unwrap();
        // Only the job id in the lineage differs.
        let id = report["jobs"][0]["job_id"].as_str().unwrap().to_owned();
        (bytes.len(), blake3::hash(&replace(&bytes, id.as_bytes())))
    };
    assert_eq!(bytes(), bytes());
}

/// Blanks out every occurrence of `needle`.
fn replace(bytes: &[u8], needle: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(needle.len()).position(|w| w == needle) {
        bytes[at + found..at + found + needle.len()].fill(b'_');
        at += found + needle.len();
    }
    bytes
}
