//! The documented log lines, word for word, from the real program: existing greps and alerts rest on them.

use std::fs;

use arc::lock::{Acquired, CompactionLock, LockManager};
use serde_json::Value;

use crate::support::{Arc, PARTITION, Run, block_on};

const LOG: &str = "storage.compaction";

/// The structured log on stderr. Every line must be one.
fn log(run: &Run) -> Vec<Value> {
    run.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("{field} of {line}"))
}

fn messages(log: &[Value]) -> Vec<&str> {
    log.iter().map(|line| text(line, "message")).collect()
}

/// The one line with this message; checks its level and logger.
fn line<'a>(log: &'a [Value], level: &str, message: &str) -> &'a Value {
    let found: Vec<&Value> = log.iter().filter(|line| line["message"] == message).collect();
    let [line] = found[..] else { panic!("{message:?} is there {} times in {log:#?}", found.len()) };
    assert_eq!((text(line, "level"), text(line, "logger")), (level, LOG), "{line}");
    line
}

#[test]
#[allow(clippy::cast_precision_loss, reason = "megabytes for people")]
fn a_cycle_and_its_job_say_what_is_documented_and_nothing_else_at_info() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 40_000);
    let run = arc.compact();
    assert_eq!(run.code, 0, "{run:#?}");
    let (report, log) = (run.json(), log(&run));
    let job = &report["jobs"][0];
    let mb = |bytes: &Value| format!("{:.1} MB", bytes.as_u64().unwrap() as f64 / 1024.0 / 1024.0);
    let (before, after) = (mb(&job["bytes_before"]), mb(&job["bytes_after"]));
    assert_ne!(before, "0.0 MB");
    let output = job["outputs"][0].as_str().unwrap();
    let percent = job["compression_ratio"].as_f64().unwrap() * 100.0;
    let (job_seconds, cycle_seconds) =
        (job["duration_seconds"].as_f64().unwrap(), report["duration_seconds"].as_f64().unwrap());
    let expected = [
        "Found 1 compaction candidates".to_owned(),
        "Starting compaction job cpu_2025_10_08_14: 3 files in cpu/2025/10/08/14".to_owned(),
        format!("Downloaded 3 files ({before})"),
        format!("Compacted to {output} ({after})"),
        format!(
            "Compaction job completed: 3 files → 1 file, {before} → {after} ({percent:.1}% compression), \
             duration: {job_seconds:.1}s"
        ),
        format!("Compaction cycle completed in {cycle_seconds:.1}s"),
    ];
    let of_the_work: Vec<&str> =
        messages(&log).into_iter().filter(|m| !m.starts_with("Deleted 3 files that are no longer needed")).collect();
    assert_eq!(of_the_work, expected);

    // The same facts stand in fields.
    assert_eq!(line(&log, "INFO", &expected[0])["candidates"], 1);
    let started = line(&log, "INFO", &expected[1]);
    assert_eq!((&started["files"], &started["bytes"]), (&3.into(), &job["bytes_before"]));
    let downloaded = line(&log, "INFO", &expected[2]);
    assert_eq!((&downloaded["files"], &downloaded["bytes"]), (&3.into(), &job["bytes_before"]));
    assert_eq!(downloaded["in_place"], true);
    let written = line(&log, "INFO", &expected[3]);
    assert_eq!((&written["file"], &written["bytes"]), (&job["outputs"][0], &job["bytes_after"]));
    let completed = line(&log, "INFO", &expected[4]);
    for field in [
        "files_compacted",
        "files_written",
        "rows",
        "bytes_before",
        "bytes_after",
        "duration_seconds",
        "peak_memory_bytes",
    ] {
        assert_eq!(completed[field], job[field], "{field}");
    }
    for of_job in [started, downloaded, written, completed] {
        assert_eq!(of_job["job_id"], job["job_id"], "{of_job}");
    }
    for of_partition in [started, written, completed] {
        assert_eq!(of_partition["partition"], PARTITION, "{of_partition}");
    }
    let cycle = line(&log, "INFO", &expected[5]);
    for field in [
        "cycle_id",
        "partitions_scanned",
        "jobs_completed",
        "jobs_failed",
        "jobs_skipped",
        "bytes_before",
        "bytes_after",
    ] {
        assert_eq!(cycle[field], report[field], "{field}");
    }
}

#[test]
fn several_outputs_are_each_named_with_their_own_size() {
    let arc = Arc::with("min_files = 2\ntarget_file_size_mb = 1");
    arc.write_telemetry(PARTITION, 4, 400_000);
    let run = arc.compact();
    assert_eq!(run.code, 0, "{run:#?}");
    let outputs: Vec<String> = serde_json::from_value(run.json()["jobs"][0]["outputs"].clone()).unwrap();
    assert!(outputs.len() > 1, "the test wants several outputs: {outputs:?}");
    let log = log(&run);
    for output in outputs {
        let bytes = fs::metadata(arc.folder(PARTITION).join(&output)).unwrap().len();
        let line = log.iter().find(|line| line["file"] == *output).unwrap();
        assert_eq!(line["bytes"], bytes);
    }
}

#[test]
fn an_idle_cycle_has_two_lines() {
    let arc = Arc::new();
    let run = arc.compact();
    let log = log(&run);
    assert_eq!(log.len(), 2, "{log:#?}");
    line(&log, "INFO", "Found 0 compaction candidates");
    assert!(text(&log[1], "message").starts_with("Compaction cycle completed in 0."));
}

#[test]
fn a_partition_that_another_worker_holds_is_reported_with_holder_and_end() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 2, 10);
    let locks = CompactionLock::open(&arc.dir().join("arc.db")).unwrap();
    let partition = PARTITION.parse().unwrap();
    let acquired = block_on(locks.acquire_lock(&partition, std::time::Duration::from_hours(1))).unwrap();
    let Acquired::Yes(lease) = acquired else { panic!("nobody else is there") };
    let run = arc.compact();
    let log = log(&run);
    let locked = line(&log, "INFO", "partition already locked");
    assert_eq!(locked["partition"], PARTITION);
    assert_eq!(locked["holder"], lease.worker_id.to_string());
    assert_eq!(locked["until"], lease.expires_at.to_string());
}

#[test]
fn a_failed_job_is_one_error_with_its_step_and_partition() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 2, 10);
    // The job cannot have its folder: a file is in its place.
    fs::write(arc.temp(), "not a folder").unwrap();
    let run = arc.compact();
    assert_eq!(run.code, 1, "{run:#?}");
    let log = log(&run);
    assert!(!log.iter().any(|line| text(line, "message").starts_with("Compacted to")), "T67");
    let errors: Vec<&Value> = log.iter().filter(|line| line["level"] == "ERROR").collect();
    assert!(!errors.is_empty(), "{log:#?}");
}

/// T67: what the child says keeps its level, and its debug lines do not become the parent's INFO.
#[test]
fn the_merge_workers_lines_keep_their_own_levels() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 2, 100_000);
    let run = Run::of(&mut arc.command(&["compact", "--json", "--log-level", "debug"]));
    assert_eq!(run.code, 0, "{run:#?}");
    let log = log(&run);
    let of_worker: Vec<&Value> = log.iter().filter(|line| !line["worker_pid"].is_null()).collect();
    assert!(!of_worker.is_empty(), "the merge says at least how it cuts the work: {log:#?}");
    for line in of_worker {
        assert_eq!((text(line, "level"), text(line, "logger")), ("DEBUG", LOG), "{line}");
        assert_eq!(line["job_id"], run.json()["jobs"][0]["job_id"]);
    }
    let quiet = {
        arc.write_telemetry("db/mem/2025/10/08/15", 2, 100_000);
        arc.compact()
    };
    assert!(!quiet.stderr.contains("worker_pid"), "{}", quiet.stderr);
}
