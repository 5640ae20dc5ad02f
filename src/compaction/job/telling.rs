//! What a job says of itself: log lines, events and its report. Everything is counted after the fact (T62, T67).

use tracing::{error, info, warn};

use super::{Committed, Facts, Job, LOG};
use crate::compaction::error::{Disposition, JobError};
use crate::compaction::events::Event;
use crate::compaction::plan::Plan;
use crate::compaction::report::{JobReport, JobStatus, compression_ratio, duration_seconds};
use crate::merge::MergedFile;

impl Job<'_> {
    pub(super) fn say_started(&self, plan: &Plan) {
        let hour = self.partition.hour().to_string().replace('/', "_");
        info!(target: LOG, job_id = self.id.job_id, partition = %self.partition, files = plan.inputs.len(),
            bytes = plan.input_bytes(), generation = plan.generation.0,
            "Starting compaction job {}_{hour}: {} files in {}",
            self.partition.measurement(), plan.inputs.len(), self.partition.path_in_database());
        self.env.events.send(Event::JobStarted {
            job_id: self.id.job_id.clone(),
            partition: self.partition.clone(),
            files: plan.inputs.len(),
            bytes: plan.input_bytes(),
        });
    }

    pub(super) fn report(&self, plan: &Plan, facts: Facts, result: Result<(), JobError>) -> JobReport {
        let seconds = duration_seconds(facts.started.elapsed());
        let (status, error) = match result {
            Ok(()) => (JobStatus::Completed, None),
            Err(error) => (status_of(&error), Some(error)),
        };
        let mut report = JobReport {
            job_id: self.id.job_id.clone(),
            database: self.partition.database().to_owned(),
            measurement: self.partition.measurement().to_owned(),
            partition_path: self.partition.path_in_database(),
            status,
            trigger: plan.trigger,
            step: facts.step,
            files_compacted: 0,
            files_written: 0,
            rows: 0,
            bytes_before: 0,
            bytes_after: 0,
            compression_ratio: 0.0,
            duration_seconds: seconds,
            peak_memory_bytes: facts.peak_memory_bytes,
            started_at: facts.started_at,
            completed_at: self.env.clock.now(),
            error: error.as_ref().map(JobError::without_store_words),
            inputs_quarantined: facts.quarantined,
            inputs_set_aside: facts.set_aside,
            outputs: Vec::new(),
            fingerprint: None,
            worker_id: self.guard.lease().worker_id.to_string(),
        };
        if let Some(Committed { outcome, bytes_before }) = facts.committed {
            report.files_compacted = outcome.consumed.len() as u64;
            report.files_written = outcome.outputs.len() as u64;
            report.rows = outcome.rows;
            report.bytes_before = bytes_before;
            report.bytes_after = outcome.outputs.iter().map(|f| f.size_bytes).sum();
            report.compression_ratio = compression_ratio(report.bytes_before, report.bytes_after);
            for MergedFile { name, size_bytes, .. } in &outcome.outputs {
                info!(target: LOG, job_id = report.job_id, partition = %self.partition, file = name, bytes = size_bytes,
                    "Compacted to {name} ({:.1} MB)", megabytes(*size_bytes));
            }
            report.outputs = outcome.outputs.into_iter().map(|f| f.name).collect();
            report.fingerprint = outcome.fingerprint;
        }
        say_ended(&report, error.as_ref());
        report
    }
}

pub(super) fn status_of(error: &JobError) -> JobStatus {
    match error.disposition() {
        Disposition::Yield => JobStatus::Cancelled,
        Disposition::Retry | Disposition::UntilChanged | Disposition::Operator => JobStatus::Failed,
    }
}

/// The job's one line at its end, and one for each file that was left out.
/// The log, unlike the report, has the error with the words of the store.
pub(super) fn say_ended(report: &JobReport, error: Option<&JobError>) {
    let partition = report.partition();
    for (file, reason) in report.left_out() {
        warn!(target: LOG, job_id = report.job_id, partition, file, %reason, "Left out {file}: {reason}");
    }
    let reason = error.map(ToString::to_string);
    match (report.status, reason) {
        (JobStatus::Completed, _) => {
            let (before, after) = (megabytes(report.bytes_before), megabytes(report.bytes_after));
            let files = if report.files_written == 1 { "file" } else { "files" };
            info!(target: LOG, job_id = report.job_id, partition, files_compacted = report.files_compacted,
                files_written = report.files_written, rows = report.rows, bytes_before = report.bytes_before,
                bytes_after = report.bytes_after, duration_seconds = report.duration_seconds,
                peak_memory_bytes = report.peak_memory_bytes,
                "Compaction job completed: {} files → {} {files}, {before:.1} MB → {after:.1} MB ({:.1}% compression), duration: {:.1}s",
                report.files_compacted, report.files_written, report.compression_ratio * 100.0, report.duration_seconds);
        }
        (JobStatus::Cancelled, reason) => {
            info!(target: LOG, job_id = report.job_id, partition, reason, "Compaction job cancelled");
        }
        (JobStatus::Failed, reason) => {
            error!(target: LOG, job_id = report.job_id, partition, error = reason.as_deref(), step = report.step.as_str(),
                "Compaction job failed: {}", reason.as_deref().unwrap_or("unknown"));
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
