//! Active leases: who works on what.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::input::{NoParameters, Query};
use crate::lock::Lease;

/// The active leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Locks {
    pub active_locks: usize,
    /// Oldest first.
    pub locks: Vec<Lock>,
}

/// The exclusive right of one worker to work on a partition for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Lock {
    pub database: String,
    pub measurement: String,
    /// Relative to the database.
    #[schema(example = "cpu/2025/10/08/14")]
    pub partition_path: String,
    pub worker_id: String,
    pub locked_at: DateTime<Utc>,
    /// When it ends, unless its holder renews it.
    pub expires_at: DateTime<Utc>,
}

impl From<Lease> for Lock {
    fn from(lease: Lease) -> Self {
        Self {
            database: lease.partition.database().to_owned(),
            measurement: lease.partition.measurement().to_owned(),
            partition_path: lease.partition.path_in_database(),
            worker_id: lease.worker_id.to_string(),
            locked_at: lease.locked_at,
            expires_at: lease.expires_at,
        }
    }
}

/// Active leases
#[utoipa::path(get, path = "/api/compaction/locks", tag = "compaction",
    responses((status = 200, description = "The leases", body = Locks)))]
pub async fn list(
    State(app): State<AppState>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Locks>, ApiError> {
    let locks: Vec<Lock> = app.manager.locks().active_locks().await?.into_iter().map(Lock::from).collect();
    Ok(Json(Locks { active_locks: locks.len(), locks }))
}
