//! JOB: the one shape in which a job is shown, live or past.

#![allow(clippy::struct_field_names, reason = "the names of the fields are part of the API")]

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::compaction::quarantine::QuarantinedInput;
use crate::compaction::{JobReport, JobStatus, LiveJob};
use crate::merge::SetAside;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Reserved: a partition that waits has no job yet.
    #[allow(dead_code, reason = "part of the published shape")]
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl From<JobStatus> for Status {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Completed => Self::Completed,
            JobStatus::Failed => Self::Failed,
            JobStatus::Cancelled => Self::Cancelled,
        }
    }
}

/// An input that a job left out. It stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LeftOut {
    #[schema(example = "cpu_20251008_140733.parquet")]
    pub name: String,
    #[schema(example = "unreadable: the footer is cut off")]
    pub reason: String,
}

impl From<&QuarantinedInput> for LeftOut {
    fn from(input: &QuarantinedInput) -> Self {
        Self { name: input.name.clone(), reason: input.reason.to_string() }
    }
}

impl From<&SetAside> for LeftOut {
    fn from(set_aside: &SetAside) -> Self {
        Self { name: set_aside.name.clone(), reason: set_aside.reason.to_string() }
    }
}

/// One job. What is not known (yet) is null: the results of a job that is running, the end that it has not come to.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Job {
    #[schema(example = "cpu_2025_10_08_14_1728409500_9f3a")]
    pub job_id: String,
    pub database: String,
    pub measurement: String,
    /// Relative to the database.
    #[schema(example = "cpu/2025/10/08/14")]
    pub partition_path: String,
    pub status: Status,
    /// The step that it is in, or ended in: settle, fetch, merge, publish, `read_back`, commit, tidy.
    #[schema(example = "merge")]
    pub step: &'static str,
    /// How much of a running job is done, from 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub progress: Option<f64>,
    /// Somebody asked the running job to stop, and it has not come to a safe point yet.
    pub cancelling: bool,
    /// Files that a running job works on; 0 until it has looked.
    pub files_planned: Option<u64>,
    /// Their bytes.
    pub bytes_planned: Option<u64>,
    /// Files whose rows are in the new ones.
    pub files_compacted: Option<u64>,
    pub files_written: Option<u64>,
    pub rows: Option<u64>,
    /// Bytes of the compacted files.
    pub bytes_before: Option<u64>,
    pub bytes_after: Option<u64>,
    /// 1 - `bytes_after` / `bytes_before`.
    #[schema(example = 0.858)]
    pub compression_ratio: Option<f64>,
    pub duration_seconds: f64,
    /// Peak resident memory of the process that merged.
    pub peak_memory_bytes: Option<u64>,
    pub started_at: DateTime<Utc>,
    pub completed_at: Option<DateTime<Utc>>,
    /// What went wrong and what to do.
    pub error: Option<String>,
    /// Inputs with a defect of their own, which later jobs leave out.
    pub inputs_quarantined: Vec<LeftOut>,
    /// Other inputs that were left out; the next job takes them again.
    pub inputs_set_aside: Vec<LeftOut>,
    /// Why the partition was compacted: first, `late_files`, `late_files_waited`, `side_files`.
    pub trigger: Option<String>,
    /// The new files.
    pub outputs: Vec<String>,
    /// The fingerprint over all rows that inputs and outputs share.
    pub fingerprint: Option<String>,
    pub worker_id: String,
}

impl Job {
    /// A job that has ended.
    #[must_use]
    pub fn past(report: &JobReport) -> Self {
        Self {
            job_id: report.job_id.clone(),
            database: report.database.clone(),
            measurement: report.measurement.clone(),
            partition_path: report.partition_path.clone(),
            status: report.status.into(),
            step: report.step.as_str(),
            progress: None,
            cancelling: false,
            files_planned: None,
            bytes_planned: None,
            files_compacted: Some(report.files_compacted),
            files_written: Some(report.files_written),
            rows: Some(report.rows),
            bytes_before: Some(report.bytes_before),
            bytes_after: Some(report.bytes_after),
            compression_ratio: Some(report.compression_ratio),
            duration_seconds: report.duration_seconds,
            peak_memory_bytes: Some(report.peak_memory_bytes),
            started_at: report.started_at,
            completed_at: Some(report.completed_at),
            error: report.error.clone(),
            inputs_quarantined: report.inputs_quarantined.iter().map(LeftOut::from).collect(),
            inputs_set_aside: report.inputs_set_aside.iter().map(LeftOut::from).collect(),
            trigger: name_of(&report.trigger),
            outputs: report.outputs.clone(),
            fingerprint: report.fingerprint.clone(),
            worker_id: report.worker_id.clone(),
        }
    }

    /// A job that is running at `now`.
    #[must_use]
    pub fn live(job: &LiveJob, now: DateTime<Utc>) -> Self {
        // A clock that was set back must not give a negative duration.
        let running = (now - job.started_at).to_std().unwrap_or_default();
        Self {
            job_id: job.job_id.clone(),
            database: job.partition.database().to_owned(),
            measurement: job.partition.measurement().to_owned(),
            partition_path: job.partition.path_in_database(),
            status: Status::Running,
            step: job.step.as_str(),
            progress: Some(job.progress.clamp(0.0, 1.0)),
            cancelling: job.cancelling,
            files_planned: Some(job.files),
            bytes_planned: Some(job.bytes),
            files_compacted: None,
            files_written: None,
            rows: None,
            bytes_before: None,
            bytes_after: None,
            compression_ratio: None,
            duration_seconds: crate::compaction::report::duration_seconds(running),
            peak_memory_bytes: None,
            started_at: job.started_at,
            completed_at: None,
            error: None,
            inputs_quarantined: Vec::new(),
            inputs_set_aside: Vec::new(),
            trigger: None,
            outputs: Vec::new(),
            fingerprint: None,
            worker_id: job.worker_id.clone(),
        }
    }
}

/// The name under which an enum without content is serialised.
pub(super) fn name_of(value: &impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok().and_then(|name| name.as_str().map(str::to_owned))
}
