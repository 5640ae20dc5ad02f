//! Starting a cycle, and letting jobs start or not.

#![allow(clippy::struct_field_names, reason = "the names of the fields are part of the API")]

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::candidates::{self, CandidateInfo, Candidates, Look, PlaceProblem};
use super::error::{ApiError, shown};
use super::input::{Body, Name, NoParameters, Query};
use crate::compaction::Scope;
use crate::partition::PartitionId;
use crate::scheduler::TriggerError;

/// Candidates that a dry run shows. `count` counts them all.
const DRY_RUN_CANDIDATES: usize = 100;

/// What to compact. Everything, if nothing is named.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TriggerRequest {
    #[schema(value_type = Option<String>, max_length = 1024)]
    database: Option<Name>,
    /// With `database`, or in every database.
    #[schema(value_type = Option<String>, max_length = 1024)]
    measurement: Option<Name>,
    /// One partition: with `database` relative to it, as jobs and candidates show it, otherwise from the database on.
    #[schema(example = "cpu/2025/10/08/14")]
    partition_path: Option<String>,
    /// Only say what would be done.
    dry_run: bool,
}

/// A cycle was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Triggered {
    #[schema(example = "Compaction triggered")]
    pub message: &'static str,
    #[schema(example = "running")]
    pub status: &'static str,
    pub cycle_id: String,
}

/// What a cycle would do. Nothing was started.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DryRun {
    #[schema(example = "Nothing was started")]
    pub message: &'static str,
    #[schema(example = "dry_run")]
    pub status: &'static str,
    /// Partitions that would be worked on.
    pub count: u64,
    /// The first hundred of them, by path.
    pub candidates: Vec<CandidateInfo>,
    /// Places that could not be looked at.
    pub problems: Vec<PlaceProblem>,
    /// When the look through storage began that found this.
    pub scanned_at: DateTime<Utc>,
}

/// Whether jobs may start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Paused {
    #[schema(example = "No new job starts; running ones finish")]
    pub message: &'static str,
    #[schema(example = "paused")]
    pub status: &'static str,
    pub paused: bool,
}

/// Start a cycle now; the answer does not wait for its end
#[utoipa::path(post, path = "/api/compaction/trigger", tag = "compaction", request_body(content = Option<TriggerRequest>),
    responses((status = 202, description = "The cycle runs", body = Triggered),
        (status = 200, description = "Dry run: what a cycle would do", body = DryRun),
        (status = 404), (status = 409), (status = 413), (status = 422)))]
pub async fn trigger(
    State(app): State<AppState>,
    Query(NoParameters {}): Query<NoParameters>,
    Body(wanted): Body<TriggerRequest>,
) -> Result<Response, ApiError> {
    let dry_run = wanted.dry_run;
    let scope = scope(wanted)?;
    // Before anything else, so that a typing error is not answered with "already running".
    candidates::check_exists(&app, &scope).await?;
    if dry_run {
        let look = Look { scope, after: None, limit: DRY_RUN_CANDIDATES, explain: false };
        let page = candidates::find(&app, look).await?;
        let Candidates { count, candidates, problems, scanned_at, .. } = page.candidates.clone();
        let (message, status) = ("Nothing was started", "dry_run");
        return Ok(Json(DryRun { message, status, count, candidates, problems, scanned_at }).into_response());
    }
    let cycle_id = app.scheduler.trigger_now(scope).await.map_err(ApiError::from)?;
    let (message, status) = ("Compaction triggered", "running");
    Ok((StatusCode::ACCEPTED, Json(Triggered { message, status, cycle_id })).into_response())
}

impl From<TriggerError> for ApiError {
    fn from(error: TriggerError) -> Self {
        match error {
            TriggerError::Disabled => Self::Disabled,
            TriggerError::Paused => Self::Paused,
            TriggerError::AlreadyRunning { cycle_id } => Self::CycleRunning { cycle_id },
            TriggerError::Stopped => Self::Stopping,
        }
    }
}

/// The part of storage that a request names.
fn scope(wanted: TriggerRequest) -> Result<Scope, ApiError> {
    let TriggerRequest { database, measurement, partition_path, dry_run: _ } = wanted;
    let partition = match partition_path {
        None => None,
        Some(path) => Some(partition(database.as_ref(), measurement.as_ref(), &path)?),
    };
    let (database, measurement) = (database.map(String::from), measurement.map(String::from));
    Ok(Scope { database, measurement, partition, ..Scope::default() })
}

fn partition(database: Option<&Name>, measurement: Option<&Name>, path: &str) -> Result<PartitionId, ApiError> {
    let invalid = |detail: String| ApiError::InvalidBody(format!("body: partition_path: {detail}"));
    let full = match database {
        Some(database) => format!("{}/{path}", database.as_str()),
        None => path.to_owned(),
    };
    let Ok(partition) = full.parse::<PartitionId>() else {
        let form = if database.is_some() { "measurement" } else { "database/measurement" };
        return Err(invalid(format!("{} is not a partition: expected {form}/YYYY/MM/DD/HH", shown(path))));
    };
    match measurement {
        Some(name) if name.as_str() != partition.measurement() => {
            Err(invalid(format!("{} is not of measurement {}", shown(path), shown(name.as_str()))))
        }
        _ => Ok(partition),
    }
}

/// Let no new job start; running ones finish. Survives a restart
#[utoipa::path(post, path = "/api/compaction/pause", tag = "compaction",
    responses((status = 200, description = "Paused", body = Paused)))]
pub async fn pause(
    State(app): State<AppState>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Paused>, ApiError> {
    app.scheduler.pause().await?;
    Ok(Json(Paused { message: "No new job starts; running ones finish", status: "paused", paused: true }))
}

/// Let jobs start again
#[utoipa::path(post, path = "/api/compaction/resume", tag = "compaction",
    responses((status = 200, description = "Resumed", body = Paused)))]
pub async fn resume(
    State(app): State<AppState>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Paused>, ApiError> {
    app.scheduler.resume().await?;
    Ok(Json(Paused { message: "Jobs may start again", status: "resumed", paused: false }))
}
