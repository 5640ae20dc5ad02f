//! Damaged files that compaction leaves out: looking at them, and giving them another chance.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::error::{ApiError, shown};
use super::input::{Limit, Name, NoParameters, Path, Query};
use crate::compaction::quarantine::{QuarantineFilter, QuarantinedFile};

/// Damaged files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Quarantined {
    /// All that match, also those beyond `limit`.
    pub count: usize,
    pub files: Vec<QuarantinedEntry>,
}

/// A damaged file. It stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct QuarantinedEntry {
    pub id: u64,
    pub database: String,
    pub measurement: String,
    /// Relative to the database.
    #[schema(example = "cpu/2025/10/08/14")]
    pub partition_path: String,
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
    /// What is wrong with it.
    pub reason: String,
    /// The version of the service that found it.
    pub version: String,
    pub first_seen_at: DateTime<Utc>,
    /// When it is tried again, unless the file or the service changes before.
    pub retry_at: DateTime<Utc>,
}

impl From<QuarantinedFile> for QuarantinedEntry {
    fn from(file: QuarantinedFile) -> Self {
        Self {
            id: file.id,
            database: file.partition.database().to_owned(),
            measurement: file.partition.measurement().to_owned(),
            partition_path: file.partition.path_in_database(),
            name: file.name,
            size_bytes: file.size_bytes,
            etag: file.etag,
            reason: file.reason.to_string(),
            version: file.version,
            first_seen_at: file.first_seen_at,
            retry_at: file.retry_at,
        }
    }
}

/// Which damaged files.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct QuarantineParameters {
    /// Only files of this database.
    #[param(value_type = Option<String>, max_length = 1024)]
    database: Option<Name>,
    /// Files in the answer.
    #[serde(default)]
    #[param(value_type = u32, required = false, minimum = 1, maximum = 10000, default = 1000)]
    limit: Limit<1000, 10_000>,
}

/// Which damaged files are to be tried again.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ClearParameters {
    /// Only files of this database.
    #[param(value_type = Option<String>, max_length = 1024)]
    database: Option<Name>,
}

/// Files that the next cycle tries again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Cleared {
    #[schema(example = "The next cycle tries them again")]
    pub message: &'static str,
    pub cleared: u64,
}

/// Damaged files that compaction leaves out
#[utoipa::path(get, path = "/api/compaction/quarantine", tag = "compaction", params(QuarantineParameters),
    responses((status = 200, description = "The files", body = Quarantined)))]
pub async fn list(
    State(app): State<AppState>,
    Query(wanted): Query<QuarantineParameters>,
) -> Result<Json<Quarantined>, ApiError> {
    let found = app.quarantine.list(&filter(wanted.database)).await?;
    let count = found.len();
    let files = found.into_iter().take(wanted.limit.0).map(QuarantinedEntry::from).collect();
    Ok(Json(Quarantined { count, files }))
}

/// One damaged file
#[utoipa::path(get, path = "/api/compaction/quarantine/{id}", tag = "compaction", params(("id" = u64, Path, description = "The entry's id")),
    responses((status = 200, description = "The file", body = QuarantinedEntry), (status = 404)))]
pub async fn one(
    State(app): State<AppState>,
    Path(id): Path<String>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<QuarantinedEntry>, ApiError> {
    let wanted = number(&id)?;
    let found = app.quarantine.list(&QuarantineFilter::default()).await?;
    match found.into_iter().find(|file| file.id == wanted) {
        Some(file) => Ok(Json(file.into())),
        None => Err(unknown(wanted)),
    }
}

/// Try all damaged files again, or those of a database
#[utoipa::path(delete, path = "/api/compaction/quarantine", tag = "compaction", params(ClearParameters),
    responses((status = 200, description = "Cleared", body = Cleared)))]
pub async fn clear_all(
    State(app): State<AppState>,
    Query(wanted): Query<ClearParameters>,
) -> Result<Json<Cleared>, ApiError> {
    let count = app.quarantine.clear_all(&filter(wanted.database)).await?;
    app.chances.fetch_add(1, Ordering::AcqRel);
    Ok(Json(cleared(count)))
}

/// Try one damaged file again
#[utoipa::path(delete, path = "/api/compaction/quarantine/{id}", tag = "compaction", params(("id" = u64, Path, description = "The entry's id")),
    responses((status = 200, description = "Cleared", body = Cleared), (status = 404)))]
pub async fn clear(
    State(app): State<AppState>,
    Path(id): Path<String>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Cleared>, ApiError> {
    let id = number(&id)?;
    if !app.quarantine.clear(id).await? {
        return Err(unknown(id));
    }
    app.chances.fetch_add(1, Ordering::AcqRel);
    Ok(Json(cleared(1)))
}

fn filter(database: Option<Name>) -> QuarantineFilter {
    QuarantineFilter { database: database.map(String::from) }
}

/// SQLite's numbers end at 2^63, so no entry has a greater one.
fn number(id: &str) -> Result<u64, ApiError> {
    let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { id.parse::<i64>().ok().and_then(|id| u64::try_from(id).ok()) } else { None };
    number.ok_or_else(|| ApiError::BadRequest(format!("path: id: must be a number, not {}", shown(id))))
}

fn cleared(cleared: u64) -> Cleared {
    Cleared { message: "The next cycle tries them again", cleared }
}

fn unknown(id: u64) -> ApiError {
    ApiError::NotFound(format!("no quarantined file has the id {id}; /api/compaction/quarantine lists them"))
}
