//! Events in, metrics out.
//!
//! What must hold (T62): a job is counted when it has ended, by how it ended. Of a job that failed or was cancelled only
//! its status is counted, so the sums over completed jobs are exactly what the reports say. Steps are timed here, when
//! their events arrive, and counted with the job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::compaction::events::{Event, Step};
use crate::compaction::{JobReport, JobStatus};
use crate::metrics::{CompletedJob, Metrics};
use crate::partition::PartitionId;

/// Jobs whose steps are timed at once. There are never that many; it bounds what a lost end of a job could leave.
const MAX_TIMED_JOBS: usize = 1024;

/// Counts what events tell. Clones count together.
#[derive(Debug, Clone)]
pub struct JobMetrics {
    metrics: Metrics,
    timed: Arc<Mutex<BTreeMap<String, Timed>>>,
}

/// The steps of a running job.
#[derive(Debug)]
struct Timed {
    partition: PartitionId,
    /// The step that it is in, and since when.
    current: Option<(Step, Instant)>,
    done: Vec<(Step, Duration)>,
}

impl Timed {
    fn end_step(&mut self) {
        if let Some((step, since)) = self.current.take() {
            self.done.push((step, since.elapsed()));
        }
    }
}

impl JobMetrics {
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, timed: Arc::default() }
    }

    /// Takes notice of an event. Quick, never blocks.
    pub fn notice(&self, event: &Event) {
        match event {
            Event::JobStarted { job_id, partition, .. } => {
                let mut timed = self.lock();
                if timed.len() < MAX_TIMED_JOBS {
                    let entry = Timed { partition: partition.clone(), current: None, done: Vec::new() };
                    timed.insert(job_id.clone(), entry);
                }
            }
            Event::JobStep { job_id, step } => {
                if let Some(timed) = self.lock().get_mut(job_id) {
                    timed.end_step();
                    timed.current = Some((*step, Instant::now()));
                }
            }
            Event::JobFinished(report) => self.finished(report),
            // A job that turned out to have nothing to do has no report.
            Event::PartitionDone { partition } => self.lock().retain(|_, timed| timed.partition != *partition),
            Event::Recovered { outcome, .. } => self.metrics.recovery(outcome.as_str()),
            Event::LeaseLost { .. } => self.metrics.lease_lost(),
            Event::CycleStarted { .. }
            | Event::CandidatesFound { .. }
            | Event::JobProgress { .. }
            | Event::CycleFinished(_) => {}
        }
    }

    fn finished(&self, report: &JobReport) {
        let timed = self.lock().remove(&report.job_id);
        let status = match report.status {
            JobStatus::Completed => "completed",
            JobStatus::Failed => "failed",
            JobStatus::Cancelled => "cancelled",
        };
        self.metrics.job_ended(status, &report.database);
        if report.status != JobStatus::Completed {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact for 285,000 years")]
        let completed_at = report.completed_at.timestamp_millis() as f64 / 1000.0;
        self.metrics.job_completed(&CompletedJob {
            duration_seconds: report.duration_seconds,
            files_in: report.files_compacted,
            files_out: report.files_written,
            rows: report.rows,
            bytes_in: report.bytes_before,
            bytes_out: report.bytes_after,
            peak_memory_bytes: report.peak_memory_bytes,
            completed_at,
        });
        if let Some(mut timed) = timed {
            timed.end_step();
            for (step, duration) in timed.done {
                self.metrics.step_duration(step.as_str(), duration);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Timed>> {
        self.timed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
