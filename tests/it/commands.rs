//! The command line: what people and scripts see.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Arc, PARTITION, Run, rows_of, table, telemetry, value};

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn compact_json_has_the_documented_fields_and_types() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 5, 100);
    let report = arc.compact_well();
    for (key, expected) in [
        ("partitions_scanned", 1),
        ("jobs_completed", 1),
        ("jobs_failed", 0),
        ("jobs_skipped", 0),
        ("files_compacted", 5),
        ("files_written", 1),
        ("rows", 500),
    ] {
        assert_eq!(report[key], expected, "{key}");
    }
    assert!(report["cycle_id"].is_string() && report["started_at"].as_str().unwrap().ends_with('Z'));
    assert!(report["duration_seconds"].is_f64());
    assert!(report["bytes_before"].as_u64() > report["bytes_after"].as_u64());
    let job = &report["jobs"][0];
    for key in [
        "job_id",
        "database",
        "measurement",
        "partition_path",
        "status",
        "step",
        "files_compacted",
        "files_written",
        "rows",
        "bytes_before",
        "bytes_after",
        "compression_ratio",
        "duration_seconds",
        "peak_memory_bytes",
        "started_at",
        "completed_at",
        "error",
        "worker_id",
    ] {
        assert!(keys(job).contains(&key), "{key} is missing in {job:#}");
    }
    assert_eq!(job["partition_path"], "cpu/2025/10/08/14");
    assert_eq!(job["status"], "completed");
    assert_eq!(job["error"], Value::Null);
    assert!(job["job_id"].as_str().unwrap().starts_with("cpu_2025_10_08_14_"));
    assert!(job["peak_memory_bytes"].as_u64().unwrap() > 1_000_000);
}

/// The record tells a person what happened, in plain fields.
#[test]
fn the_record_names_live_and_retired_files_and_what_was_proven() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 100);
    let job = arc.compact_well()["jobs"][0].clone();
    let path = arc.folder(PARTITION).join("_compaction/00000001.json");
    let record: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!((&record["format"], &record["generation"], &record["kind"]), (&1.into(), &1.into(), &"commit".into()));
    assert_eq!(record["job_id"], job["job_id"]);
    assert_eq!(record["live"][0]["name"], job["outputs"][0]);
    assert_eq!(record["live"][0]["rows"], 300);
    assert_eq!(record["live"][0]["min_time"], "2025-10-08T14:00:00Z");
    assert!(record["live"][0]["checksum"].as_str().unwrap().starts_with("blake3:"));
    assert_eq!(record["retired"].as_array().unwrap().len(), 3);
    assert_eq!(record["fingerprint"], job["fingerprint"]);
    assert!(record["fingerprint"].is_string());
    assert!(record["engine"].as_str().unwrap().contains("v1.5"));
}

#[test]
fn plan_says_what_would_be_done_and_what_not_and_changes_nothing() {
    let arc = Arc::with("min_files = 3");
    arc.write_telemetry(PARTITION, 5, 10);
    arc.write_telemetry("db/mem/2025/10/08/14", 2, 10);
    arc.write("db/cpu/notes/x", "a.parquet", "SELECT 1 AS a");
    let state = arc.storage_state();
    let plan = Run::of(&mut arc.command(&["plan", "--json"]));
    assert_eq!(plan.code, 0, "{plan:#?}");
    let plan = plan.json();
    let candidate = &plan["candidates"][0];
    assert_eq!(candidate["partition_path"], "cpu/2025/10/08/14");
    assert_eq!((&candidate["database"], &candidate["file_count"]), (&"db".into(), &5.into()));
    assert_eq!(candidate["files"].as_array().unwrap().len(), 5);
    assert!(candidate["bytes"].as_u64().unwrap() > 0);
    let skipped = &plan["skipped"][0];
    assert_eq!(skipped["partition_path"], "db/mem/2025/10/08/14");
    assert_eq!(
        (&skipped["reason"], &skipped["detail"]["have"], &skipped["detail"]["need"]),
        (&"too_few_files".into(), &2.into(), &3.into())
    );
    assert_eq!(plan["unrecognised"].as_array().unwrap().len(), 1);
    assert!(plan["next_run"].as_str().unwrap().ends_with('Z'));

    let text = Run::of(&mut arc.command(&["plan", "--explain"]));
    for part in
        ["db/cpu/2025/10/08/14: merge 5 files", "db/mem/2025/10/08/14: skip, too few files: have 2, need 3", "next run"]
    {
        assert!(text.stdout.contains(part), "{part}: {text:#?}");
    }
    let one = Run::of(&mut arc.command(&["plan", "--explain", PARTITION]));
    assert!(one.stdout.contains("  cpu_0003.parquet") && !one.stdout.contains("mem"), "{one:#?}");
    let dry = Run::of(&mut arc.command(&["compact", "--dry-run", "--json"]));
    assert_eq!(dry.json()["candidates"], plan["candidates"]);
    assert_eq!(arc.storage_state(), state);
}

#[test]
fn scope_flags_limit_the_work() {
    let arc = Arc::new();
    let partitions = ["a/cpu/2025/10/08/14", "a/mem/2025/10/08/14", "b/cpu/2025/10/08/14", "b/cpu/2025/10/08/15"];
    for partition in partitions {
        arc.write_telemetry(partition, 2, 10);
    }
    let done = |arguments: &[&str]| {
        let arguments = [&["compact", "--json"], arguments].concat();
        Run::of(&mut arc.command(&arguments)).json()["jobs_completed"].as_u64().unwrap()
    };
    assert_eq!(done(&["--partition", "b/cpu/2025/10/08/15"]), 1);
    assert_eq!(done(&["--database", "a", "--measurement", "mem"]), 1);
    assert_eq!(done(&["--database", "none"]), 0);
    assert_eq!(done(&["--measurement", "cpu"]), 2);
    assert_eq!(done(&[]), 0);
}

#[test]
fn wrong_usage_and_configuration_end_with_code_2() {
    let arc = Arc::new();
    for arguments in [
        &["compact", "--partition", "nonsense"][..],
        &["frobnicate"],
        &["compact", "--partition", "a/b/2025/10/08/14", "--database", "a"],
    ] {
        assert_eq!(Run::of(&mut arc.command(arguments)).code, 2, "{arguments:?}");
    }
    arc.configure("min_files = 2\nmin_flies = 3");
    let run = arc.compact();
    assert_eq!(run.code, 2, "{run:#?}");
    assert!(run.stderr.contains("min_flies") && run.stderr.contains("min_files"), "{run:#?}");
    arc.configure("enabled = false");
    let run = arc.compact();
    assert_eq!(run.code, 2, "{run:#?}");
    assert!(run.stderr.contains("disabled"), "{run:#?}");
}

/// The documented messages keep their wording.
#[test]
fn the_log_has_the_documented_messages() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 100);
    let run = Run::of(&mut arc.command(&["compact"]));
    let messages: Vec<String> = run
        .stderr
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .inspect(|event| {
            assert!(event["timestamp"].is_string() && event["level"].is_string() && event["logger"].is_string());
        })
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect();
    for documented in [
        "Found 1 compaction candidates",
        "Starting compaction job cpu_2025_10_08_14: 4 files in cpu/2025/10/08/14",
        "Downloaded 4 files (0.0 MB)",
        "Compacted to cpu_20251008_14_g1_",
        "Compaction job completed: 4 files → 1 file, ",
        "Compaction cycle completed in ",
    ] {
        assert!(messages.iter().any(|m| m.starts_with(documented)), "{documented}: {messages:#?}");
    }
}

/// Every merge setting changes what comes out (T59).
#[test]
fn every_merge_setting_has_a_visible_effect() {
    let metadata = |settings: &str, sql: &str| {
        let arc = Arc::with(&format!("min_files = 2\n{settings}"));
        arc.write_telemetry(PARTITION, 3, 20_000);
        let rows = arc.rows(PARTITION);
        arc.compact_well();
        assert_eq!(arc.rows(PARTITION), rows, "{settings}");
        let files: Vec<String> = arc.live_paths(PARTITION).iter().map(|p| format!("'{}'", p.display())).collect();
        value(&sql.replace("FILES", &format!("[{}]", files.join(", "))))
    };
    let codec = "SELECT min(compression) FROM parquet_metadata(FILES)";
    for (name, expected) in
        [("zstd", "ZSTD"), ("snappy", "SNAPPY"), ("gzip", "GZIP"), ("lz4", "LZ4_RAW"), ("none", "UNCOMPRESSED")]
    {
        assert_eq!(metadata(&format!("compression = \"{name}\""), codec), expected);
    }
    let bytes = "SELECT sum(total_compressed_size)::VARCHAR FROM parquet_metadata(FILES)";
    let size = |settings: &str| metadata(settings, bytes).parse::<u64>().unwrap();
    assert!(size("compression_level = 9") < size("compression_level = 1"));
    assert!(size("parquet_version = \"v2\"") != size("parquet_version = \"v1\""));
    let groups = "SELECT count(DISTINCT row_group_id)::VARCHAR FROM parquet_metadata(FILES)";
    assert_eq!(metadata("row_group_size = 122880", groups), "1");
    assert_eq!(metadata("row_group_size = 20480", groups), "3");
    let first_host = "SELECT first(host) || '/' || last(host) FROM read_parquet(FILES)";
    assert_eq!(metadata("sort_by = [\"host\", \"time\"]", first_host), "server-000/server-099");
}

#[test]
fn target_file_size_splits_the_output_at_time_borders() {
    let arc = Arc::with("min_files = 2\ntarget_file_size_mb = 1\nrow_group_size = 10240");
    for i in 0..6 {
        let (first, end) = (i * 50_000, (i + 1) * 50_000);
        arc.write(
            PARTITION,
            &format!("{i}.parquet"),
            &format!("SELECT *, hash(counter) AS h FROM ({})", telemetry(first, end)),
        );
    }
    let rows = arc.rows(PARTITION);
    arc.compact_well();
    let sizes: Vec<u64> = arc.snapshot(PARTITION).files.iter().map(|f| f.size_bytes).collect();
    assert!(sizes.len() > 1, "{sizes:?}");
    assert!(sizes.iter().all(|s| (500_000..2_000_000).contains(s)), "{sizes:?}");
    assert_eq!(arc.rows(PARTITION), rows);
}

#[test]
fn time_column_temp_dir_memory_and_threads_are_used() {
    let arc = Arc::with("min_files = 2\ntime_column = \"ts\"\nsort_by = [\"ts\"]\nthreads = 1\nmemory_limit_mb = 300");
    for i in 0..3 {
        arc.write(
            PARTITION,
            &format!("{i}.parquet"),
            &format!("SELECT time AS ts, counter FROM ({}) ORDER BY hash(counter)", telemetry(0, 1000)),
        );
    }
    arc.compact_well();
    let sorted = value(&format!(
        "SELECT count(*)::VARCHAR FROM (SELECT ts < lag(ts) OVER (ORDER BY file_row_number) AS wrong FROM {}) WHERE wrong",
        table(&arc.live_paths(PARTITION)).replace("hive_partitioning", "file_row_number = true, hive_partitioning")
    ));
    assert_eq!(sorted, "0");
    assert!(arc.temp().exists(), "the job's folder was made in temp_dir");
}

/// What a merge is given reaches it, and decides how it works (T47, T59).
#[test]
fn memory_and_threads_decide_how_many_slices_are_merged_at_once() {
    let merging = |settings: &str, order: &str| {
        let arc = Arc::with(&format!("min_files = 2\nmax_concurrent_jobs = 1\nrow_group_size = 2048\n{settings}"));
        for i in 0..2 {
            let query = format!("SELECT *, {i} AS part FROM ({}) ORDER BY {order}", telemetry(0, 1_200_000));
            arc.write(PARTITION, &format!("{i}.parquet"), &query);
        }
        let run = Run::of(&mut arc.command(&["compact", "--json", "--log-level", "debug"]));
        assert_eq!(run.code, 0, "{run:#?}");
        let line = run.stderr.lines().find(|l| l.contains("Merging slices")).unwrap_or_else(|| panic!("{run:#?}"));
        let number = |key: &str| {
            let at = line.find(&format!("{key}\\\":")).or_else(|| line.find(&format!("{key}\":"))).unwrap();
            let digits: String =
                line[at..].chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().unwrap()
        };
        (number("slices"), number("lanes"), number("memory_bytes"))
    };
    // Files that are sorted are cut into slices of a good size.
    let (slices, lanes, memory) = merging("threads = 2\nmemory_limit_mb = 1024", "time");
    assert!(slices > 1);
    assert_eq!((lanes, memory), (2, 1 << 30));
    let (_, one_lane, _) = merging("threads = 1\nmemory_limit_mb = 1024", "time");
    assert_eq!(one_lane, 1);
    // Every slice of files that are not sorted decodes them anew: only memory that does not suffice is a reason for more.
    let (slices, ..) = merging("threads = 2\nmemory_limit_mb = 1024", "hash(counter)");
    let (more_slices, _, less_memory) = merging("threads = 2\nmemory_limit_mb = 128", "hash(counter)");
    assert!(more_slices > slices, "{more_slices} slices with {less_memory} bytes, {slices} with {memory}");
}

/// Ctrl-C stops at a safe point: nothing is half done, the exit is orderly, and the next run finishes.
#[test]
fn an_interrupt_stops_at_a_safe_point_and_the_next_run_finishes() {
    let arc = Arc::new();
    for hour in 0..24 {
        arc.write_telemetry(&format!("db/cpu/2025/10/08/{hour:02}"), 4, 2000);
    }
    let partitions: Vec<String> = (0..24).map(|h| format!("db/cpu/2025/10/08/{h:02}")).collect();
    let before: Vec<_> = partitions.iter().map(|p| arc.rows(p)).collect();
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("arc"))
        .arg("--config")
        .arg(arc.config_file())
        .args(["compact"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The log says when the first job starts.
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("Starting compaction job") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut log, &mut line).unwrap() > 0, "no job was started");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let rest = std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    let output = child.wait_with_output().unwrap();
    rest.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("left for the next run"), "{text}");
    for partition in &partitions {
        arc.assert_nothing_left_over(partition);
    }
    arc.compact_well();
    for (partition, before) in partitions.iter().zip(&before) {
        assert_eq!(&arc.rows(partition), before);
        assert_eq!(arc.live(partition).len(), 1);
    }
}

#[test]
fn demo_writes_compacts_and_shows_the_same_rows_before_and_after() {
    let arc = Arc::new();
    let run = Run::of(
        arc.command(&["demo", "--dir", "d", "--files", "20", "--rows", "4000", "--json", "--keep"])
            .timeout(Duration::from_mins(2)),
    );
    assert_eq!(run.code, 0, "{run:#?}");
    let report = run.json();
    assert_eq!((&report["before"]["files"], &report["after"]["files"]), (&60.into(), &3.into()));
    assert_eq!(report["before"]["fingerprint"], report["after"]["fingerprint"]);
    assert_eq!(report["cycle"]["rows"], 12_000);
    assert!(arc.dir().join("d/data/demo/cpu").exists());
    let again = Run::of(&mut arc.command(&["demo", "--dir", "d"]));
    assert_eq!(again.code, 1, "an existing folder is not touched: {again:#?}");
    assert!(again.stderr.contains("--dir"), "{again:#?}");
}

/// Databases on the exclude list are looked at by nobody.
#[test]
fn excluded_databases_are_left_alone_and_listed_as_such() {
    let arc = Arc::with("min_files = 2\nexclude_databases = [\"db\"]");
    arc.write_telemetry(PARTITION, 3, 10);
    let files = arc.live_paths(PARTITION);
    let rows = rows_of(&files);
    assert_eq!(arc.compact_well()["jobs_completed"], 0);
    assert_eq!(rows_of(&files), rows);
    let plan = Run::of(&mut arc.command(&["plan", "--json"])).json();
    assert_eq!(plan["skipped"][0]["reason"], "excluded");
}
