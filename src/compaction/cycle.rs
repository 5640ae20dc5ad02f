//! A running cycle: what it has to report so far, and how its jobs' ends become that report.
//!
//! What must hold (T62): everything is counted after the fact, by outcome. Deliberately not here: what runs when, which is
//! the manager's business.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use tracing::{error, info};

use super::error::{Disposition, JobError};
use super::job::{Attempt, AttemptReport, LOG};
use super::plan::SkipReason;
use super::queue::Queued;
use super::report::{CycleReport, JobStatus, Problem, Skipped, duration_seconds};
use super::settings::CompactionSettings;
use super::sweep::{Extent, Place};
use crate::partition::PartitionId;
use crate::storage::Traffic;

/// A running cycle and what it has to report so far.
pub(super) struct Cycle {
    started: Instant,
    pub(super) report: CycleReport,
    /// What it looks at.
    pub(super) extent: Arc<Extent>,
    /// Measurements where something is left to do that the next cycle would not find in the recent hours.
    unfinished: HashSet<Place>,
    /// Something is left, and nobody knows where.
    pub(super) overflowed: bool,
}

/// Whether an attempt left nothing for the next cycle.
pub(super) fn is_done(result: &Result<AttemptReport, JobError>) -> bool {
    match result {
        Ok(AttemptReport { untidied: Some(_), .. }) | Err(_) => false,
        Ok(AttemptReport { attempt: Attempt::Ran(job), .. }) => job.status == JobStatus::Completed,
        // It was a candidate, and then there was nothing to do: another worker has done it, or it must wait.
        Ok(AttemptReport { attempt: Attempt::Skipped(reason), .. }) => {
            matches!(reason, SkipReason::NothingToGain { .. } | SkipReason::TooFewFiles { settling: 0, .. })
        }
    }
}

impl Cycle {
    pub(super) fn begin(cycle_id: String, now: DateTime<Utc>, extent: Extent) -> Self {
        let report = CycleReport {
            cycle_id,
            started_at: now,
            duration_seconds: 0.0,
            partitions_scanned: 0,
            jobs_completed: 0,
            jobs_failed: 0,
            jobs_skipped: 0,
            partitions_tidied: 0,
            files_compacted: 0,
            files_written: 0,
            rows: 0,
            bytes_before: 0,
            bytes_after: 0,
            candidates_left: 0,
            storage: Traffic::default(),
            jobs: Vec::new(),
            skipped: Vec::new(),
            problems: Vec::new(),
        };
        let (extent, unfinished) = (Arc::new(extent), HashSet::new());
        Self { started: Instant::now(), report, extent, unfinished, overflowed: false }
    }

    /// Candidates whose turn did not come.
    pub(super) fn leave(&mut self, settings: &CompactionSettings, queue: VecDeque<Queued>) {
        self.report.candidates_left += queue.len() as u64;
        for left in queue {
            self.unfinished_at(settings, &left.partition.to_string());
        }
    }

    /// Something is left to do at a partition.
    pub(super) fn unfinished_at(&mut self, settings: &CompactionSettings, path: &str) {
        if let Ok(partition) = path.parse::<PartitionId>()
            && self.extent.would_hide(settings, &partition)
        {
            self.unfinished.insert((partition.database().to_owned(), partition.measurement().to_owned()));
        }
    }

    /// The measurements that need not be looked at as a whole for a while.
    pub(super) fn swept(&self) -> Vec<Place> {
        if self.overflowed { Vec::new() } else { self.extent.swept(&self.unfinished) }
    }

    pub(super) fn out_of_time(&self, settings: &CompactionSettings) -> bool {
        settings.cycle_timeout.is_some_and(|limit| self.started.elapsed() >= limit)
    }

    pub(super) fn problem(&mut self, place: &impl ToString, error: &dyn std::error::Error) {
        let problem = Problem { place: place.to_string(), error: error.to_string() };
        error!(target: LOG, place = problem.place, error = problem.error, "{}: {}", problem.place, problem.error);
        self.report.problems.push(problem);
    }

    /// Counts what happened, after the fact, by outcome (T62).
    pub(super) fn add(&mut self, partition: &PartitionId, result: Result<AttemptReport, JobError>) {
        let report = &mut self.report;
        match result {
            Ok(AttemptReport { attempt, settled, untidied }) => {
                if let Some(error) = untidied.filter(|e| e.disposition() != Disposition::Yield) {
                    report.problems.push(Problem { place: partition.to_string(), error: error.to_string() });
                }
                if settled.anything() {
                    report.partitions_tidied += 1;
                }
                match attempt {
                    Attempt::Ran(job) => {
                        match job.status {
                            JobStatus::Completed => report.jobs_completed += 1,
                            JobStatus::Failed => report.jobs_failed += 1,
                            JobStatus::Cancelled => report.jobs_skipped += 1,
                        }
                        report.files_compacted += job.files_compacted;
                        report.files_written += job.files_written;
                        report.rows += job.rows;
                        report.bytes_before += job.bytes_before;
                        report.bytes_after += job.bytes_after;
                        report.jobs.push(*job);
                    }
                    Attempt::Skipped(reason) => {
                        report.jobs_skipped += 1;
                        report.skipped.push(Skipped { partition_path: partition.to_string(), reason });
                    }
                }
            }
            Err(error) if error.disposition() == Disposition::Yield => report.jobs_skipped += 1,
            Err(error) => {
                report.jobs_failed += 1;
                self.problem(partition, &error);
            }
        }
    }

    pub(super) fn end(mut self) -> CycleReport {
        let report = &mut self.report;
        report.duration_seconds = duration_seconds(self.started.elapsed());
        info!(target: LOG, cycle_id = report.cycle_id, partitions_scanned = report.partitions_scanned,
            jobs_completed = report.jobs_completed, jobs_failed = report.jobs_failed, jobs_skipped = report.jobs_skipped,
            candidates_left = report.candidates_left, files_compacted = report.files_compacted,
            bytes_before = report.bytes_before, bytes_after = report.bytes_after,
            storage_requests = report.storage.total_requests(), storage_bytes_read = report.storage.bytes_read,
            storage_bytes_written = report.storage.bytes_written,
            "Compaction cycle completed in {:.1}s", report.duration_seconds);
        self.report
    }
}
