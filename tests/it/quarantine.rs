//! Damaged files and failing jobs, over several runs of the real program: found once, left alone, and tried again when
//! something has changed.

use std::fs;
use std::path::Path;
use std::sync::Arc as Shared;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc::clock::{Clock, ManualClock, SystemClock};
use arc::compaction::{CompactionManager, CycleReport, JobStatus, Scope};
use arc::merge::{
    DuckDbEngine, MergeEngine, MergeError, MergeInput, MergeOutcome, MergeRequest, ProgressSink, SetAside,
    SetAsideReason,
};
use async_trait::async_trait;
use chrono::TimeDelta;
use object_store::Result as StoreResult;
use object_store::path::Path as Key;
use rusqlite::Connection;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::stores::{Hook, manager_at};
use crate::support::{Arc, PARTITION, Run, block_on, telemetry};

const OTHER: &str = "db/mem/2025/10/08/14";
const BAD: &[u8] = b"these are no columns at all, and nobody can read them";

fn quarantined(arc: &Arc) -> Vec<Value> {
    let run = Run::of(&mut arc.command(&["quarantine", "list", "--json"]));
    assert_eq!(run.code, 0, "{run:#?}");
    run.json()["files"].as_array().unwrap().clone()
}

fn sql(arc: &Arc, statement: &str) {
    Connection::open(arc.dir().join("arc.db")).unwrap().execute(statement, []).unwrap();
}

/// Merges in this process, counts the merges, and fails while it is told to.
#[derive(Debug, Default)]
struct Counting {
    merges: AtomicUsize,
    /// Inputs of the last merge.
    inputs: AtomicUsize,
    fails: Option<fn(&MergeRequest) -> Option<MergeError>>,
}

#[async_trait]
impl MergeEngine for Counting {
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        self.merges.fetch_add(1, Ordering::SeqCst);
        self.inputs.store(request.inputs.len(), Ordering::SeqCst);
        match self.fails.and_then(|fails| fails(&request)) {
            Some(error) => Err(error),
            None => DuckDbEngine.merge(request, progress, cancel).await,
        }
    }
}

#[derive(Debug)]
struct Nothing;

impl Hook for Nothing {
    fn before(&self, _: usize, _: &str, _: &Key) -> StoreResult<()> {
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> StoreResult<()> {
        Ok(())
    }
}

/// A manager over an Arc's folders, with a clock that can be moved and an engine that counts.
struct Service {
    manager: CompactionManager,
    clock: Shared<ManualClock>,
    engine: Shared<Counting>,
}

impl Service {
    fn over(arc: &Arc, fails: Option<fn(&MergeRequest) -> Option<MergeError>>) -> Self {
        let clock = Shared::new(ManualClock::at(SystemClock.now()));
        let engine = Shared::new(Counting { fails, ..Counting::default() });
        let config = arc.config_file();
        let manager = manager_at(&config, Shared::new(Nothing), engine.clone(), clock.clone());
        Self { manager, clock, engine }
    }

    fn cycle(&self) -> CycleReport {
        self.cycle_in(Scope::default())
    }

    fn cycle_in(&self, scope: Scope) -> CycleReport {
        block_on(self.manager.run_compaction_cycle(scope, CancellationToken::new())).unwrap()
    }

    fn merges(&self) -> usize {
        self.engine.merges.load(Ordering::SeqCst)
    }
}

/// What was skipped and why, in short.
fn skipped(report: &CycleReport) -> Vec<&'static str> {
    report.skipped.iter().map(|s| s.reason.kind()).collect()
}

/// T30, T33: 31 files, one of them bad.
#[test]
fn a_damaged_file_is_named_once_and_then_costs_nothing_while_it_stays_where_it_is() {
    let arc = Arc::with("min_files = 10");
    arc.write_telemetry(PARTITION, 30, 20);
    let rows = arc.rows(PARTITION);
    let bad = arc.put(PARTITION, "bad.parquet", BAD);

    let first = arc.compact();
    assert_eq!(first.code, 1, "{first:#?}");
    let job = &first.json()["jobs"][0];
    assert_eq!(job["files_compacted"], 30, "{job:#}");
    let named = &job["inputs_quarantined"][0];
    assert_eq!((&named["name"], &named["size_bytes"]), (&"bad.parquet".into(), &BAD.len().into()));
    assert!(named["etag"].is_string() && named["retry_at"].as_str().unwrap().ends_with('Z'), "{named:#}");
    assert_eq!(named["reason"]["kind"], "unreadable");
    assert_eq!(job["inputs_set_aside"], Value::Array(vec![]), "each file is in one of the lists");

    let state = arc.storage_state();
    let second = Run::of(&mut arc.command(&["compact", "--json", "--log-level", "debug"]));
    assert_eq!(second.code, 0, "{second:#?}");
    let report = second.json();
    assert_eq!(report["jobs"], Value::Array(vec![]), "{report:#}");
    assert_eq!(report["skipped"][0]["reason"], "quarantined", "{report:#}");
    assert_eq!(report["skipped"][0]["detail"]["files"], 1);
    assert!(!second.stderr.contains("Starting compaction job"), "{second:#?}");
    assert_eq!(arc.storage_state(), state);
    assert_eq!(fs::read(&bad).unwrap(), BAD);

    let plan = Run::of(&mut arc.command(&["plan", "--explain"]));
    assert!(plan.stdout.contains("1 file in quarantine until 20"), "{plan:#?}");
    let listed = quarantined(&arc);
    assert_eq!((listed.len(), &listed[0]["partition_path"]), (1, &"cpu/2025/10/08/14".into()));
    let table = Run::of(&mut arc.command(&["quarantine", "list"]));
    for part in ["ID", "TRIED AGAIN", "db/cpu/2025/10/08/14/bad.parquet", "unreadable: "] {
        assert!(table.stdout.contains(part), "{part}: {table:#?}");
    }

    // Late files are compacted without it, and a good file in its place is taken up.
    for i in 0..10 {
        arc.write(PARTITION, &format!("late_{i}.parquet"), &telemetry(1000 + i, 1001 + i));
    }
    let report = arc.compact_well();
    assert!(report["jobs"][0]["files_compacted"].as_u64().unwrap() >= 10, "{report:#}");
    assert_eq!(report["jobs"][0]["inputs_quarantined"], Value::Array(vec![]));
    fs::remove_file(&bad).unwrap();
    assert_eq!(arc.rows(PARTITION).len(), rows.len() + 10);
    arc.compact_well();
    assert_eq!(quarantined(&arc), Vec::<Value>::new(), "an entry goes with its file");
}

#[test]
fn a_replaced_file_is_taken_up() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 2, 20);
    arc.put(PARTITION, "bad.parquet", BAD);
    assert_eq!(arc.compact().code, 1);
    arc.write(PARTITION, "bad.parquet", &telemetry(1000, 1010));
    arc.write(PARTITION, "late.parquet", &telemetry(2000, 2010));
    let report = arc.compact_well();
    assert_eq!(report["jobs_completed"], 1, "{report:#}");
    assert_eq!(arc.rows(PARTITION).len(), 60);
    assert!(!arc.folder(PARTITION).join("bad.parquet").exists());
    assert!(quarantined(&arc).is_empty());
}

#[test]
fn files_that_are_cleared_or_were_found_by_another_version_are_tried_again() {
    let arc = Arc::new();
    for name in ["bad_1.parquet", "bad_2.parquet"] {
        arc.put(PARTITION, name, BAD);
    }
    let tries = |arc: &Arc| arc.compact().json()["skipped"][0]["reason"].as_str().unwrap() == "nothing_to_merge";
    assert!(tries(&arc));
    assert!(!tries(&arc));
    assert_eq!(quarantined(&arc).len(), 2);
    for arguments in [&["quarantine", "clear", "--all"][..], &["quarantine", "clear", "--database", "db"]] {
        let run = Run::of(&mut arc.command(arguments));
        assert!(run.code == 0 && run.stdout.contains("2 files cleared"), "{run:#?}");
        let empty = Run::of(&mut arc.command(&["quarantine", "list"]));
        assert_eq!(empty.stdout, "no files are in quarantine\n");
        assert!(tries(&arc), "{arguments:?}");
        assert!(!tries(&arc));
    }
    let ids: Vec<String> = quarantined(&arc).iter().map(|f| f["id"].to_string()).collect();
    let run = Run::of(&mut arc.command(&["quarantine", "clear", "--json", &ids[0], &ids[1], "999"]));
    assert_eq!((run.code, &run.json()["cleared"], &run.json()["unknown"][0]), (1, &2.into(), &999.into()));
    assert_eq!(Run::of(&mut arc.command(&["quarantine", "clear"])).code, 2, "what to clear must be said");
    assert!(tries(&arc));
    assert!(!tries(&arc));
    sql(&arc, "UPDATE compaction_quarantine SET version = 'arc 0.0.0'");
    assert!(tries(&arc));
    assert!(!tries(&arc));
}

/// `quarantine_retry_hours`.
#[test]
fn a_damaged_file_is_tried_again_when_its_time_is_over() {
    let arc = Arc::with("min_files = 2\nquarantine_retry_hours = 3");
    arc.write_telemetry(PARTITION, 2, 20);
    for name in ["bad_1.parquet", "bad_2.parquet"] {
        arc.put(PARTITION, name, BAD);
    }
    let service = Service::over(&arc, None);
    assert_eq!(service.cycle().jobs_completed, 1);
    assert_eq!((service.merges(), service.engine.inputs.load(Ordering::SeqCst)), (1, 4));
    service.clock.advance(TimeDelta::minutes(179));
    assert_eq!(skipped(&service.cycle()), ["quarantined"]);
    assert_eq!(service.merges(), 1);
    service.clock.advance(TimeDelta::minutes(1));
    let report = service.cycle();
    assert_eq!((service.merges(), skipped(&report)), (2, vec!["nothing_to_merge"]));
    assert!(report.needs_attention(), "it is damaged still");
    assert_eq!(skipped(&service.cycle()), ["quarantined"]);
    assert_eq!(service.merges(), 2);
}

/// T31, T40: the wait grows, and other partitions go on.
#[test]
fn a_partition_that_runs_out_of_memory_backs_off_while_others_go_on() {
    let arc = Arc::with("min_files = 2\nmax_attempts = 3");
    arc.write_telemetry(PARTITION, 3, 10);
    let service = Service::over(
        &arc,
        Some(|request| {
            let heavy = request.inputs[0].path.to_string_lossy().contains(PARTITION);
            heavy.then(|| MergeError::OutOfMemory { detail: "sorting".into(), limit_bytes: 1 })
        }),
    );
    let failed = |report: &CycleReport| report.jobs.iter().filter(|job| job.status == JobStatus::Failed).count();
    assert_eq!(failed(&service.cycle()), 1);
    assert_eq!(failed(&service.cycle()), 1, "one failure proves nothing");
    arc.write_telemetry(OTHER, 3, 10);
    let report = service.cycle();
    assert_eq!((report.jobs_completed, failed(&report), skipped(&report)), (1, 0, vec!["backing_off"]));
    assert!(report.skipped[0].reason.to_string().contains("out of memory"), "{report:#?}");
    service.clock.advance(TimeDelta::minutes(5));
    assert_eq!(failed(&service.cycle()), 1, "the third and last for a day");
    service.clock.advance(TimeDelta::minutes(24 * 60 - 1));
    assert_eq!(skipped(&service.cycle()), ["backing_off"]);
    // Somebody who names the partition has it tried at once.
    let named = Scope { partition: Some(PARTITION.parse().unwrap()), ..Scope::default() };
    assert_eq!(failed(&service.cycle_in(named)), 1);
    arc.write(PARTITION, "more.parquet", &telemetry(1000, 1010));
    assert_eq!(skipped(&service.cycle()), ["backing_off"], "a new file does not undo the doubling wait");
    service.clock.advance(TimeDelta::minutes(20));
    assert_eq!(failed(&service.cycle()), 1, "it does end the wait of a day");
}

/// T40, T39.
#[test]
fn a_deterministic_failure_is_not_repeated_until_a_file_is_added() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 10);
    let service = Service::over(&arc, Some(|_| Some(MergeError::Engine("binder error".into()))));
    assert_eq!(service.cycle().jobs_failed, 1);
    service.clock.advance(TimeDelta::days(30));
    let report = service.cycle();
    assert_eq!((report.jobs_failed, skipped(&report)), (0, vec!["until_changed"]));
    assert!(report.skipped[0].reason.to_string().contains("binder error"));
    assert_eq!(service.merges(), 1);
    arc.write(PARTITION, "more.parquet", &telemetry(1000, 1010));
    assert_eq!(service.cycle().jobs_failed, 1);
    assert_eq!(skipped(&service.cycle()), ["until_changed"]);
    assert_eq!(service.merges(), 2);
    // Another program, or other settings, may do better.
    arc.configure("min_files = 2\ncompression = \"snappy\"");
    assert_eq!(arc.compact_well()["jobs_completed"], 1);
    drop(service);
    let rows: i64 = Connection::open(arc.dir().join("arc.db"))
        .unwrap()
        .query_row("SELECT count(*) FROM compaction_attempts", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0, "success forgets the failures");
}

/// Files that cannot be merged with each other are not merged again in vain in every cycle (T39).
#[test]
fn files_that_have_nobody_to_be_merged_with_are_tried_once() {
    let arc = Arc::new();
    arc.write(PARTITION, "a.parquet", "SELECT TIMESTAMP '2025-10-08 14:00:00' AS time, 1 AS a");
    arc.write(PARTITION, "b.parquet", "SELECT '2025-10-08 14:00:00' AS time, 1 AS a");
    let service = Service::over(&arc, None);
    assert_eq!(skipped(&service.cycle()), ["nothing_to_merge"]);
    assert_eq!(skipped(&service.cycle()), ["until_changed"]);
    assert_eq!(service.merges(), 1);
    arc.write(PARTITION, "c.parquet", "SELECT TIMESTAMP '2025-10-08 14:00:01' AS time, 1 AS a");
    assert_eq!(service.cycle().jobs_completed, 1);
}

/// A cancelled job is no failure.
#[test]
fn a_job_that_was_stopped_does_not_count() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 10);
    let service = Service::over(&arc, Some(|_| Some(MergeError::Cancelled)));
    for _ in 0..4 {
        assert_eq!(service.cycle().jobs[0].status, JobStatus::Cancelled);
    }
    assert_eq!(service.merges(), 4);
}

#[cfg(target_os = "linux")]
mod killed {
    use std::process::{Command, Stdio};

    use super::*;

    /// The job takes its whole program down, as the out-of-memory killer would: killed as soon as the job has begun.
    fn dies_in_a_job(config: &Path) -> String {
        use std::io::{BufRead, BufReader, Read};
        let mut child = Command::new(assert_cmd::cargo::cargo_bin("arc"))
            .arg("--config")
            .arg(config)
            .arg("compact")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        while !seen.contains("Starting compaction job") && log.read_line(&mut seen).unwrap() > 0 {}
        // A child that has ended by itself cannot be killed, and the assertions of the caller say so.
        let _ = child.kill();
        child.wait().unwrap();
        // The worker of the dead program holds the log open until it is gone, too.
        log.read_to_string(&mut seen).unwrap();
        seen
    }

    /// T31.
    #[test]
    fn a_job_that_kills_its_whole_program_is_counted_and_waits() {
        let arc = Arc::new();
        for i in 0..4 {
            let query = format!("{} ORDER BY hash(i)", telemetry(i * 1000, 400_000 + i * 1000));
            arc.write(PARTITION, &format!("{i}.parquet"), &query);
        }
        let before = arc.rows(PARTITION);
        for _ in 0..2 {
            assert!(dies_in_a_job(&arc.config_file()).contains("Starting compaction job"));
        }
        let third = dies_in_a_job(&arc.config_file());
        assert!(!third.contains("Starting compaction job"), "{third}");
        let plan = Run::of(&mut arc.command(&["plan", "--json"])).json();
        let skipped = &plan["skipped"][0];
        assert_eq!(
            (&skipped["reason"], &skipped["detail"]["attempts"]),
            (&"backing_off".into(), &2.into()),
            "{plan:#}"
        );
        assert!(skipped["detail"]["last_error"].as_str().unwrap().contains("the program ended"), "{plan:#}");

        let named = Run::of(&mut arc.command(&["compact", "--json", "--partition", PARTITION]));
        assert_eq!(named.json()["jobs_completed"], 1, "somebody insists: {named:#?}");
        assert_eq!(arc.rows(PARTITION), before);
        arc.assert_nothing_left_over(PARTITION);
    }
}

#[test]
fn locks_are_listed_with_their_holder() {
    use arc::lock::{CompactionLock, LockManager};
    let arc = Arc::new();
    let run = Run::of(&mut arc.command(&["locks"]));
    assert_eq!((run.code, run.stdout.as_str()), (0, "no partition is locked\n"));
    let locks = CompactionLock::open(&arc.dir().join("arc.db")).unwrap();
    let hour = std::time::Duration::from_hours(1);
    block_on(locks.acquire_lock(&PARTITION.parse().unwrap(), hour)).unwrap();
    let run = Run::of(&mut arc.command(&["locks", "--json"])).json();
    assert_eq!((&run["count"], &run["locks"][0]["partition_path"]), (&1.into(), &"cpu/2025/10/08/14".into()));
    assert_eq!(run["locks"][0]["worker_id"], locks.worker_id().to_string());
    let table = Run::of(&mut arc.command(&["locks"])).stdout;
    assert!(table.contains(PARTITION) && table.contains(&locks.worker_id().to_string()), "{table}");
}

#[test]
fn jobs_shows_the_past_and_what_is_running() {
    use arc::lock::{CompactionLock, LockManager};
    let arc = Arc::new();
    let jobs = |arguments: &[&str]| Run::of(&mut arc.command(&[&["jobs"], arguments].concat()));
    assert_eq!((jobs(&[]).code, jobs(&[]).stdout.as_str()), (0, "no jobs\n"));
    arc.write_telemetry(PARTITION, 3, 10);
    arc.compact_well();
    arc.write_telemetry("db2/cpu/2025/10/08/14", 2, 10);
    arc.put("db2/cpu/2025/10/08/14", "bad.parquet", BAD);
    arc.compact();
    let json = jobs(&["--json"]).json();
    assert_eq!((&json["total_jobs"], &json["active_jobs"]), (&2.into(), &0.into()), "{json:#}");
    assert_eq!(json["recent_jobs"][0]["database"], "db2", "the newest first");
    assert_eq!(json["recent_jobs"][0]["inputs_quarantined"][0]["name"], "bad.parquet");
    assert_eq!(jobs(&["--json", "--database", "db"]).json()["total_jobs"], 1);
    assert_eq!(jobs(&["--json", "--status", "failed"]).json()["recent_jobs"], Value::Array(vec![]));
    let table = jobs(&["--limit", "1"]).stdout;
    for part in
        ["PARTITION", "db2/cpu/2025/10/08/14", "completed", "2 -> 1", "1 file left out", "1 older job not shown"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(!table.contains(PARTITION), "{table}");
    let locks = CompactionLock::open(&arc.dir().join("arc.db")).unwrap();
    block_on(locks.acquire_lock(&PARTITION.parse().unwrap(), std::time::Duration::from_hours(1))).unwrap();
    let running = jobs(&["--json", "--status", "running"]).json();
    assert_eq!((&running["active_jobs"], &running["recent_jobs"]), (&1.into(), &Value::Array(vec![])));
    assert!(jobs(&[]).stdout.contains("running"));
    assert_eq!(jobs(&["--limit", "0"]).code, 2);
}

/// A second attempt at a merge has less memory than the job: what it leaves out for that is tried again with all of it by the
/// next job, as it is after other failures, and not only when something has changed.
#[test]
fn files_that_did_not_fit_into_a_second_attempt_are_named_and_tried_again_by_the_next_job() {
    fn leaves_out(request: &MergeRequest, reason: fn(String) -> SetAsideReason) -> MergeError {
        let aside = |input: &MergeInput| SetAside { name: input.name.clone(), reason: reason("it is long".to_owned()) };
        MergeError::NothingToMerge(request.inputs.iter().map(aside).collect())
    }
    let arc = Arc::with("min_files = 2");
    arc.write_telemetry(PARTITION, 3, 10);
    let service = Service::over(&arc, Some(|request| Some(leaves_out(request, SetAsideReason::Unexamined))));
    for merges in 1..=2 {
        let report = service.cycle();
        assert_eq!((skipped(&report), service.merges()), (vec!["nothing_to_merge"], merges));
        assert!(format!("{:?}", report.skipped[0].reason).contains("it is long"), "{report:#?}");
    }
    assert_eq!(skipped(&service.cycle()), ["backing_off"]);
    assert_eq!(quarantined(&arc), [Value::Null; 0]);
    let only = Scope { partition: Some(PARTITION.parse().unwrap()), ..Scope::default() };
    service.cycle_in(only);
    assert_eq!(service.merges(), 3, "somebody insisted");

    let arc = Arc::with("min_files = 2");
    arc.write_telemetry(PARTITION, 3, 10);
    let service = Service::over(&arc, Some(|request| Some(leaves_out(request, SetAsideReason::TooLarge))));
    service.cycle();
    service.cycle();
    assert_eq!(service.merges(), 1, "with all of its memory: a merge of the same files would end alike");
}
