//! The state of the service, and what it has done so far.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::input::{NoParameters, Query};
use super::job::Job;
use crate::compaction::history::{Counters, HistoryFilter};

/// Jobs that the statistics show.
const RECENT_JOBS: usize = 10;

/// The state of the service.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ServiceStatus {
    pub scheduler: SchedulerStatus,
    pub manager: ManagerStatus,
}

/// The scheduler.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SchedulerStatus {
    /// Whether the configuration wants compaction.
    pub enabled: bool,
    /// Whether the scheduler is alive.
    pub running: bool,
    pub paused: bool,
    /// Five-field cron.
    #[schema(example = "5 * * * *")]
    pub schedule: String,
    #[schema(example = "UTC")]
    pub timezone: String,
    /// Null when nothing is scheduled.
    pub next_run: Option<DateTime<Utc>>,
    /// Null before the first run.
    pub last_run: Option<DateTime<Utc>>,
}

/// The manager.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ManagerStatus {
    pub active_jobs: usize,
    /// Jobs that were ever completed.
    pub total_completed: u64,
    /// Jobs that ever failed.
    pub total_failed: u64,
    /// Partitions with work, as of the last complete scan. Null before the first.
    pub backlog_partitions: Option<u64>,
    /// Bytes of the files to merge.
    pub backlog_bytes: Option<u64>,
    pub cycle_running: bool,
    /// The cycle that is running.
    pub cycle_id: Option<String>,
    /// When a job was last completed. Null when none ever was.
    pub last_success_at: Option<DateTime<Utc>>,
}

/// What the service has done so far. Counts everything, also what the history no longer shows.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Statistics {
    #[serde(flatten)]
    pub all: Sums,
    /// The newest ten, newest first.
    pub recent_jobs: Vec<Job>,
    /// By name.
    pub databases: BTreeMap<String, Sums>,
}

/// Sums over jobs that ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Sums {
    pub total_jobs_completed: u64,
    pub total_jobs_failed: u64,
    pub total_jobs_cancelled: u64,
    pub total_files_compacted: u64,
    pub total_files_written: u64,
    pub total_rows: u64,
    /// Negative when the new files are larger than the old ones were.
    pub total_bytes_saved: i64,
    /// In units of 1024 x 1024 bytes.
    pub total_bytes_saved_mb: f64,
    /// Jobs that are running now.
    pub active_jobs: usize,
}

impl Sums {
    fn new(counters: &Counters, active_jobs: usize) -> Self {
        let saved = i128::from(counters.bytes_before) - i128::from(counters.bytes_after);
        let saved = i64::try_from(saved).unwrap_or(if saved < 0 { i64::MIN } else { i64::MAX });
        #[allow(clippy::cast_precision_loss, reason = "megabytes with two digits, for people")]
        let megabytes = (saved as f64 / (1024.0 * 1024.0) * 100.0).round() / 100.0;
        Self {
            total_jobs_completed: counters.jobs_completed,
            total_jobs_failed: counters.jobs_failed,
            total_jobs_cancelled: counters.jobs_cancelled,
            total_files_compacted: counters.files_compacted,
            total_files_written: counters.files_written,
            total_rows: counters.rows,
            total_bytes_saved: saved,
            total_bytes_saved_mb: megabytes,
            active_jobs,
        }
    }
}

/// The state of scheduler and manager
#[utoipa::path(get, path = "/api/compaction/status", tag = "compaction",
    responses((status = 200, description = "The state", body = ServiceStatus)))]
pub async fn status(
    State(app): State<AppState>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<ServiceStatus>, ApiError> {
    let totals = app.manager.stats().await?;
    // A pause by another server on the same state.
    app.scheduler.refresh().await;
    let backlog = app.manager.backlog();
    let cycle_id = app.manager.running_cycle();
    Ok(Json(ServiceStatus {
        scheduler: SchedulerStatus {
            enabled: app.scheduler.is_enabled(),
            running: app.scheduler.is_running(),
            paused: app.scheduler.is_paused(),
            schedule: app.scheduler.schedule().to_owned(),
            timezone: app.scheduler.timezone().name().to_owned(),
            next_run: app.scheduler.next_run(),
            last_run: app.scheduler.last_run(),
        },
        manager: ManagerStatus {
            active_jobs: app.manager.active_jobs().len(),
            total_completed: totals.all.jobs_completed,
            total_failed: totals.all.jobs_failed,
            backlog_partitions: backlog.map(|backlog| backlog.partitions),
            backlog_bytes: backlog.map(|backlog| backlog.bytes),
            cycle_running: cycle_id.is_some(),
            cycle_id,
            last_success_at: totals.last_success_at,
        },
    }))
}

/// Totals since the first start, and the newest jobs
#[utoipa::path(get, path = "/api/compaction/stats", tag = "compaction",
    responses((status = 200, description = "The totals", body = Statistics)))]
pub async fn stats(
    State(app): State<AppState>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Statistics>, ApiError> {
    let totals = app.manager.stats().await?;
    let recent = app.manager.past().recent(HistoryFilter::default(), RECENT_JOBS).await?;
    let active = app.manager.active_jobs();
    let mut active_by_database: BTreeMap<&str, usize> = BTreeMap::new();
    for job in &active {
        *active_by_database.entry(job.partition.database()).or_default() += 1;
    }
    let sums = |(name, counters): (&String, &Counters)| {
        (name.clone(), Sums::new(counters, active_by_database.get(name.as_str()).copied().unwrap_or_default()))
    };
    let mut databases: BTreeMap<String, Sums> = totals.databases.iter().map(sums).collect();
    for (name, jobs) in &active_by_database {
        databases.entry((*name).to_owned()).or_insert_with(|| Sums::new(&Counters::default(), *jobs));
    }
    Ok(Json(Statistics {
        all: Sums::new(&totals.all, active.len()),
        recent_jobs: recent.iter().map(Job::past).collect(),
        databases,
    }))
}
