//! Storage that fails, lies or loses answers: no input goes without proof, and an unknown outcome is found out.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc as Shared;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc::compaction::{CycleReport, Scope};
use arc::lock::{Acquired, CompactionLock, LockManager};
use arc::merge::{MergeEngine, MergeError, MergeOutcome, MergeRequest, ProgressSink};
use async_trait::async_trait;
use object_store::path::Path as Key;
use object_store::{Error, Result};
use tokio_util::sync::CancellationToken;

use crate::support::stores::{Hook, manager, manager_with};
use crate::support::{Arc, PARTITION, block_on};

fn cycle(arc: &Arc, hook: impl Hook) -> CycleReport {
    let manager = manager(&arc.config_file(), Shared::new(hook));
    block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap()
}

fn failure() -> Error {
    Error::Generic { store: "test", source: "the connection was reset".into() }
}

fn is_output(path: &Key) -> bool {
    path.as_ref().starts_with(PARTITION) && path.as_ref().ends_with("_compacted.parquet")
}

fn is_record(path: &Key) -> bool {
    path.as_ref().starts_with(PARTITION) && path.as_ref().contains("/_compaction/")
}

/// Changes one byte of every output right after it was published.
#[derive(Debug)]
struct Corrupts(PathBuf);

impl Hook for Corrupts {
    fn before(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn after(&self, _: usize, effect: &str, path: &Key) -> Result<()> {
        if effect == "copy" && is_output(path) {
            let file = self.0.join(path.as_ref());
            let mut bytes = fs::read(&file).unwrap();
            bytes[10] ^= 1;
            fs::write(file, bytes).unwrap();
        }
        Ok(())
    }
}

/// T1, T6, T62, T64, T67, I2.
#[test]
fn an_output_that_reads_back_differently_keeps_every_input() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let (rows, files) = (arc.rows(PARTITION), arc.live(PARTITION));
    let report = cycle(&arc, Corrupts(arc.data()));
    assert_eq!((report.jobs_completed, report.jobs_failed), (0, 1), "{report:#?}");
    let job = &report.jobs[0];
    assert_eq!(job.step.as_str(), "read_back");
    assert!(job.error.as_ref().unwrap().contains("reads back as"), "{job:#?}");
    assert_eq!((job.files_compacted, job.files_written, job.rows, job.bytes_after), (0, 0, 0, 0), "nothing was done");
    assert_eq!((report.files_compacted, report.rows), (0, 0));
    assert_eq!(arc.live(PARTITION), files);
    assert_eq!(arc.rows(PARTITION), rows);
    arc.assert_nothing_left_over(PARTITION);
    arc.compact_well();
    assert_eq!(arc.rows(PARTITION), rows);
}

/// T1, I2: an upload that fails is no output.
#[test]
fn an_output_that_could_not_be_published_keeps_every_input() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let (rows, files) = (arc.rows(PARTITION), arc.live(PARTITION));
    let report = cycle(&arc, Refuses(|_, path| is_output(path)));
    assert_eq!((report.jobs_completed, report.jobs_failed), (0, 1), "{report:#?}");
    assert_eq!(report.jobs[0].step.as_str(), "publish");
    assert_eq!(arc.live(PARTITION), files);
    assert_eq!(arc.rows(PARTITION), rows);
    assert_eq!(arc.compact_well()["jobs_completed"], 1);
    assert_eq!(arc.rows(PARTITION), rows);
    arc.assert_nothing_left_over(PARTITION);
}

/// Outputs cannot be looked at, nor listed, once they are published.
#[derive(Debug, Default)]
struct CannotLookAtOutputs(AtomicBool);

impl Hook for CannotLookAtOutputs {
    fn before(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn after(&self, _: usize, effect: &str, path: &Key) -> Result<()> {
        self.0.fetch_or(effect == "copy" && is_output(path), Ordering::SeqCst);
        Ok(())
    }

    fn reading(&self, path: &Key) -> Result<()> {
        if is_output(path) { Err(failure()) } else { Ok(()) }
    }

    fn listing(&self, _: Option<&Key>) -> Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(failure()) } else { Ok(()) }
    }
}

/// T6, I2, I12: a check that cannot be made has not been passed.
#[test]
fn an_output_that_cannot_be_looked_at_keeps_every_input() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let (rows, files) = (arc.rows(PARTITION), arc.live(PARTITION));
    let report = cycle(&arc, CannotLookAtOutputs::default());
    assert_eq!((report.jobs_completed, report.jobs_failed), (0, 1), "{report:#?}");
    assert_eq!(report.jobs[0].step.as_str(), "read_back");
    assert_eq!(arc.live(PARTITION), files);
    assert_eq!(arc.rows(PARTITION), rows);
    assert_eq!(arc.compact_well()["jobs_completed"], 1);
    assert_eq!(arc.rows(PARTITION), rows);
    arc.assert_nothing_left_over(PARTITION);
}

/// Replaces a file by another one as soon as an output is there.
#[derive(Debug)]
struct Replaces {
    data: PathBuf,
    file: PathBuf,
    by: PathBuf,
}

impl Hook for Replaces {
    fn before(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn after(&self, _: usize, effect: &str, path: &Key) -> Result<()> {
        if effect == "copy" && is_output(path) && self.by.exists() {
            assert!(self.data.join(path.as_ref()).exists());
            fs::rename(&self.by, &self.file).unwrap();
        }
        Ok(())
    }
}

/// J4: the look at the inputs that counts is the one after publishing. What was merged is no longer what is there, so a record
/// would make the old rows count, and the new ones as well or not at all.
#[test]
fn an_input_that_is_replaced_while_the_outputs_are_published_stops_the_job() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let by = arc.dir().join("new.parquet");
    crate::support::copy(&crate::support::telemetry(90_000, 90_700), &by, "FORMAT parquet");
    let file = arc.folder(PARTITION).join("cpu_0000.parquet");
    let others = (1..4).map(|i| arc.folder(PARTITION).join(format!("cpu_{i:04}.parquet")));
    let wanted = crate::support::rows_of(&others.chain([by.clone()]).collect::<Vec<_>>());

    let report = cycle(&arc, Replaces { data: arc.data(), file, by });

    assert_eq!((report.jobs_completed, report.jobs_failed), (0, 1), "{report:#?}");
    let job = &report.jobs[0];
    assert_eq!(job.step.as_str(), "read_back");
    assert!(job.error.as_ref().unwrap().contains("cpu_0000.parquet changed while it was being merged"), "{job:#?}");
    assert_eq!(arc.rows(PARTITION), wanted);
    crate::support::age(&arc.folder(PARTITION).join("cpu_0000.parquet"));
    assert_eq!(arc.compact_well()["jobs_completed"], 1);
    assert_eq!(arc.rows(PARTITION), wanted);
    arc.assert_nothing_left_over(PARTITION);
}

/// J4: neither its name nor its size says that a file is the one that was merged.
#[test]
fn an_input_replaced_by_one_of_the_same_size_stops_the_job() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let file = arc.folder(PARTITION).join("cpu_0000.parquet");
    let by = arc.dir().join("new.parquet");
    let other = vec![b'x'; usize::try_from(fs::metadata(&file).unwrap().len()).unwrap()];
    fs::write(&by, &other).unwrap();

    let report = cycle(&arc, Replaces { data: arc.data(), file: file.clone(), by });

    assert_eq!((report.jobs_completed, report.jobs_failed), (0, 1), "{report:#?}");
    let error = report.jobs[0].error.as_deref().unwrap();
    assert!(error.contains("cpu_0000.parquet changed while it was being merged"), "{error}");
    assert_eq!(fs::read(file).unwrap(), other);
}

/// Carries every commit out and answers the first with an error.
#[derive(Debug, Default)]
struct LosesTheAnswer(AtomicUsize);

impl Hook for LosesTheAnswer {
    fn before(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn after(&self, _: usize, _: &str, path: &Key) -> Result<()> {
        if is_record(path) && self.0.fetch_add(1, Ordering::SeqCst) == 0 { Err(failure()) } else { Ok(()) }
    }
}

/// T19, T20: the record is there, so the job has won, whatever was answered.
#[test]
fn a_lost_answer_to_the_commit_is_found_out_and_the_job_has_won() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let rows = arc.rows(PARTITION);
    let report = cycle(&arc, LosesTheAnswer::default());
    assert_eq!((report.jobs_completed, report.jobs_failed), (1, 0), "{report:#?}");
    assert_eq!(arc.rows(PARTITION), rows);
    assert_eq!(arc.live(PARTITION).len(), 1);
    arc.assert_nothing_left_over(PARTITION);
}

/// Refuses effects on what `matches`, always.
#[derive(Debug)]
struct Refuses(fn(&str, &Key) -> bool);

impl Hook for Refuses {
    fn before(&self, _: usize, effect: &str, path: &Key) -> Result<()> {
        if (self.0)(effect, path) { Err(failure()) } else { Ok(()) }
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_commit_that_never_answers_deletes_nothing_and_the_next_cycle_starts_anew() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let rows = arc.rows(PARTITION);
    let report = cycle(&arc, Refuses(|_, path| is_record(path)));
    assert_eq!(report.jobs_failed, 1, "{report:#?}");
    assert!(report.jobs[0].error.as_ref().unwrap().contains("unknown whether the record was created"), "{report:#?}");
    assert_eq!(arc.rows(PARTITION), rows);
    assert_eq!(arc.live(PARTITION).len(), 4, "the inputs still count");
    assert_eq!(arc.compact_well()["jobs_completed"], 1);
    assert_eq!(arc.rows(PARTITION), rows);
    arc.assert_nothing_left_over(PARTITION);
}

/// T18: deletions that fail change nothing about what counts; a later cycle makes up for them.
#[test]
fn deletions_that_fail_are_made_up_for_by_the_next_cycle() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let rows = arc.rows(PARTITION);
    let report = cycle(&arc, Refuses(|effect, path| effect == "delete" && path.as_ref().starts_with(PARTITION)));
    assert_eq!(report.jobs_completed, 1, "it has happened: {report:#?}");
    assert_eq!(arc.rows(PARTITION), rows, "retired files do not count");
    assert!(arc.folder(PARTITION).join("cpu_0000.parquet").exists());
    let again = arc.compact_well();
    assert_eq!(again["partitions_tidied"], 1);
    assert_eq!(arc.rows(PARTITION), rows);
    arc.assert_nothing_left_over(PARTITION);
}

/// Lists of the partition fail.
#[derive(Debug)]
struct CannotList;

impl Hook for CannotList {
    fn before(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn listing(&self, _: Option<&Key>) -> Result<()> {
        Err(failure())
    }
}

/// T24, I12.
#[test]
fn a_listing_error_stops_the_partition_and_is_reported() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let state = arc.storage_state();
    let report = cycle(&arc, CannotList);
    assert_eq!(report.jobs_completed, 0);
    assert!(report.problems.iter().any(|p| p.error.contains("the connection was reset")), "{report:#?}");
    assert!(report.needs_attention());
    assert_eq!(arc.storage_state(), state);
}

/// An engine with a bug.
#[derive(Debug)]
struct Panics;

#[async_trait]
impl MergeEngine for Panics {
    async fn merge(
        &self,
        _: MergeRequest,
        _: ProgressSink,
        _: CancellationToken,
    ) -> std::result::Result<MergeOutcome, MergeError> {
        panic!("index out of bounds")
    }
}

/// I10: a panic fails its job, gives the lease and the temp folder back, and the next cycle works.
#[test]
fn a_panic_costs_its_job_and_nothing_else() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let rows = arc.rows(PARTITION);
    let nothing = Shared::new(Refuses(|_, _| false));
    let manager = manager_with(&arc.config_file(), nothing, Shared::new(Panics));
    let report = block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap();
    assert_eq!(report.jobs_failed, 1, "{report:#?}");
    assert!(report.problems[0].error.contains("index out of bounds"), "{report:#?}");
    assert!(manager.active_jobs().is_empty());
    drop(manager);
    assert_eq!(arc.compact_well()["jobs_completed"], 1, "the lease was given back");
    assert_eq!(arc.rows(PARTITION), rows);
    arc.assert_nothing_left_over(PARTITION);
}

/// T26: what looks like an open attempt belongs to somebody who holds the lease.
#[test]
fn a_live_jobs_attempt_is_left_alone() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let folder = arc.folder(PARTITION);
    fs::copy(folder.join("cpu_0000.parquet"), folder.join("cpu_20251008_14_g1_0123456789ab_compacted.parquet"))
        .unwrap();
    let locks = CompactionLock::open(&arc.dir().join("arc.db")).unwrap();
    let hour = std::time::Duration::from_hours(1);
    let held = block_on(locks.acquire_lock(&PARTITION.parse().unwrap(), hour)).unwrap();
    assert!(matches!(held, Acquired::Yes(_)));
    let state = arc.storage_state();
    let report = arc.compact_well();
    assert_eq!(
        (&report["jobs_completed"], &report["skipped"][0]["reason"]),
        (&0.into(), &"locked".into()),
        "{report:#}"
    );
    assert_eq!(arc.storage_state(), state);
}

/// V2, fail closed: the only copy may be in the file that nobody can place.
#[test]
fn a_compacted_file_that_nobody_can_place_is_kept_and_reported() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 500);
    let folder = arc.folder(PARTITION);
    for generation in [1, 5] {
        let stray = folder.join(format!("cpu_20251008_14_g{generation}_0123456789ab_compacted.parquet"));
        fs::copy(folder.join("cpu_0000.parquet"), &stray).unwrap();
        let state = arc.storage_state();
        let run = arc.compact();
        assert_eq!(run.code, 1, "{run:#?}");
        assert_eq!(arc.storage_state(), state, "generation {generation}");
        fs::remove_file(stray).unwrap();
    }
}
