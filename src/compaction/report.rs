//! What happened: reports of jobs and cycles, in the shape that the API and `--json` show.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::events::Step;
use super::plan::{SkipReason, Trigger};
use super::quarantine::QuarantinedInput;
use crate::merge::{SetAside, SetAsideReason};
use crate::storage::Traffic;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    Completed,
    Failed,
    Cancelled,
}

impl JobStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The past of one job. Kept as JSON in the state database: fields may be added with a default, never renamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    pub job_id: String,
    pub database: String,
    pub measurement: String,
    /// Relative to the database.
    pub partition_path: String,
    pub status: JobStatus,
    pub trigger: Trigger,
    /// The step that the job ended in.
    pub step: Step,
    /// Inputs whose rows are in the outputs.
    pub files_compacted: u64,
    pub files_written: u64,
    pub rows: u64,
    /// Bytes of the inputs that were compacted.
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// `1 - bytes_after / bytes_before`; 0 when nothing was compacted.
    pub compression_ratio: f64,
    pub duration_seconds: f64,
    /// Peak resident memory of the process that merged.
    pub peak_memory_bytes: u64,
    pub started_at: DateTime<Utc>,
    pub completed_at: DateTime<Utc>,
    /// What went wrong and what to do; `null` for a completed job.
    pub error: Option<String>,
    /// Inputs with a defect of their own, which later jobs leave out until they change or `retry_at`. They stay where they
    /// are.
    #[serde(default)]
    pub inputs_quarantined: Vec<QuarantinedInput>,
    /// Other inputs that were left out, each with its reason. They stay where they are, and are inputs of the next job.
    pub inputs_set_aside: Vec<SetAside>,
    /// The new files.
    pub outputs: Vec<String>,
    /// The fingerprint over all rows that inputs and outputs share, when it was computed.
    pub fingerprint: Option<String>,
    pub worker_id: String,
}

impl JobReport {
    /// `database/measurement/YYYY/MM/DD/HH`.
    #[must_use]
    pub fn partition(&self) -> String {
        format!("{}/{}", self.database, self.partition_path)
    }

    /// Whether a person should look: the job failed, or an input is damaged.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        self.status == JobStatus::Failed || self.left_out().any(|(_, reason)| reason.is_damage())
    }

    /// Every input that was left out, by name.
    pub fn left_out(&self) -> impl Iterator<Item = (&str, &SetAsideReason)> {
        let quarantined = self.inputs_quarantined.iter().map(|input| (input.name.as_str(), &input.reason));
        quarantined.chain(self.inputs_set_aside.iter().map(|input| (input.name.as_str(), &input.reason)))
    }
}

/// A partition, or a whole database, that was looked at and left alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Skipped {
    /// `database/measurement/YYYY/MM/DD/HH`, or the database.
    pub partition_path: String,
    #[serde(flatten)]
    pub reason: SkipReason,
}

/// A part of storage that a cycle could not look at or tidy, and why. The other parts are not affected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A database, measurement or partition path.
    pub place: String,
    pub error: String,
}

/// The past of one cycle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CycleReport {
    pub cycle_id: String,
    pub started_at: DateTime<Utc>,
    pub duration_seconds: f64,
    pub partitions_scanned: u64,
    pub jobs_completed: u64,
    pub jobs_failed: u64,
    /// Candidates that turned out not to be workable: locked, no space, nothing to merge.
    pub jobs_skipped: u64,
    /// Partitions where leftovers of earlier attempts were removed.
    pub partitions_tidied: u64,
    pub files_compacted: u64,
    pub files_written: u64,
    pub rows: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Whether the cycle was cancelled or ran into its time limit with candidates left.
    pub candidates_left: u64,
    /// What the service asked of storage while the cycle ran. On local disk, what was read in place is not in it.
    pub storage: Traffic,
    pub jobs: Vec<JobReport>,
    /// Candidates that were skipped when their turn came, and partitions that wait because of damaged files or failed jobs.
    pub skipped: Vec<Skipped>,
    pub problems: Vec<Problem>,
}

impl CycleReport {
    /// Whether something failed that a person should look at.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        !self.problems.is_empty()
            || self.jobs.iter().any(JobReport::needs_attention)
            || self.skipped.iter().any(|s| match &s.reason {
                SkipReason::NothingToMerge { set_aside } => set_aside.iter().any(|s| s.reason.is_damage()),
                _ => false,
            })
    }
}

/// `1 - after / before`; 0 when nothing was compacted.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
pub fn compression_ratio(bytes_before: u64, bytes_after: u64) -> f64 {
    if bytes_before == 0 { 0.0 } else { 1.0 - bytes_after as f64 / bytes_before as f64 }
}

/// Seconds with whole milliseconds.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "milliseconds of a duration fit")]
pub fn duration_seconds(duration: std::time::Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}
