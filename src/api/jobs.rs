//! Jobs: the running ones, the past ones, and cancelling.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::error::{ApiError, shown};
use super::input::{Limit, Name, NoParameters, Path, Query};
use super::job::Job;
use crate::compaction::history::HistoryFilter;
use crate::compaction::{CancelOutcome, JobStatus};

/// The running jobs.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Jobs {
    pub active_jobs: usize,
    /// Oldest first.
    pub jobs: Vec<Job>,
}

impl Jobs {
    pub(super) fn now(app: &AppState) -> Self {
        let now = app.manager.clock().now();
        let jobs: Vec<Job> = app.manager.active_jobs().iter().map(|job| Job::live(job, now)).collect();
        Self { active_jobs: jobs.len(), jobs }
    }
}

/// Past jobs.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct JobHistory {
    /// Jobs in the history that match.
    pub total_jobs: u64,
    /// Newest first.
    pub recent_jobs: Vec<Job>,
}

/// Which past jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HistoryParameters {
    /// Jobs in the answer.
    #[serde(default)]
    #[param(value_type = u32, required = false, minimum = 1, maximum = 1000, default = 10)]
    limit: Limit<10, 1000>,
    /// Only jobs that ended like this.
    #[param(inline)]
    status: Option<PastStatus>,
    /// Only jobs of this database.
    #[param(value_type = Option<String>, max_length = 1024)]
    database: Option<Name>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PastStatus {
    Completed,
    Failed,
    Cancelled,
}

impl From<PastStatus> for JobStatus {
    fn from(status: PastStatus) -> Self {
        match status {
            PastStatus::Completed => Self::Completed,
            PastStatus::Failed => Self::Failed,
            PastStatus::Cancelled => Self::Cancelled,
        }
    }
}

/// Answer to a cancellation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Cancelling {
    #[schema(example = "The job stops at its next safe point")]
    pub message: &'static str,
    #[schema(example = "cancelling")]
    pub status: &'static str,
    pub job_id: String,
}

/// The running jobs, with step and progress
#[utoipa::path(get, path = "/api/compaction/jobs", tag = "compaction",
    responses((status = 200, description = "The running jobs", body = Jobs)))]
pub async fn list(State(app): State<AppState>, Query(NoParameters {}): Query<NoParameters>) -> Json<Jobs> {
    Json(Jobs::now(&app))
}

/// One job, live or past
#[utoipa::path(get, path = "/api/compaction/jobs/{id}", tag = "compaction", params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "The job", body = Job), (status = 404)))]
pub async fn one(
    State(app): State<AppState>,
    Path(job_id): Path<String>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Job>, ApiError> {
    let live = || {
        let jobs = app.manager.active_jobs();
        jobs.iter().find(|job| job.job_id == job_id).map(|job| Job::live(job, app.manager.clock().now()))
    };
    if let Some(job) = live() {
        return Ok(Json(job));
    }
    match app.manager.past().job(&job_id).await? {
        Some(report) => Ok(Json(Job::past(&report))),
        None => Err(unknown(&job_id)),
    }
}

/// Cancel a running job at its next safe point
#[utoipa::path(delete, path = "/api/compaction/jobs/{id}", tag = "compaction", params(("id" = String, Path, description = "The job's id")),
    responses((status = 202, description = "The job stops soon", body = Cancelling), (status = 404), (status = 409)))]
pub async fn cancel(
    State(app): State<AppState>,
    Path(job_id): Path<String>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<(StatusCode, Json<Cancelling>), ApiError> {
    match app.manager.cancel(&job_id) {
        CancelOutcome::Cancelling => {
            let message = "The job stops at its next safe point";
            Ok((StatusCode::ACCEPTED, Json(Cancelling { message, status: "cancelling", job_id })))
        }
        CancelOutcome::Committed => Err(ApiError::Committed { job_id }),
        CancelOutcome::Unknown => match app.manager.past().job(&job_id).await? {
            Some(report) => Err(ApiError::Ended { job_id, status: report.status.as_str() }),
            None => Err(unknown(&job_id)),
        },
    }
}

/// Past jobs, newest first
#[utoipa::path(get, path = "/api/compaction/history", tag = "compaction", params(HistoryParameters),
    responses((status = 200, description = "The past jobs", body = JobHistory)))]
pub async fn history(
    State(app): State<AppState>,
    Query(wanted): Query<HistoryParameters>,
) -> Result<Json<JobHistory>, ApiError> {
    let filter =
        HistoryFilter { status: wanted.status.map(JobStatus::from), database: wanted.database.map(String::from) };
    let history = app.manager.past();
    let total_jobs = history.count(filter.clone()).await?;
    let recent = history.recent(filter, wanted.limit.0).await?;
    Ok(Json(JobHistory { total_jobs, recent_jobs: recent.iter().map(Job::past).collect() }))
}

fn unknown(job_id: &str) -> ApiError {
    ApiError::NotFound(format!(
        "no job {} is running or in the history; /api/compaction/jobs and /api/compaction/history list them",
        shown(job_id)
    ))
}
