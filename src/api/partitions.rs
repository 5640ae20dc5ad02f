//! The live files of a partition, for whoever reads the data without this library.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::candidates::check_partition;
use super::error::{ApiError, shown};
use super::input::{Name, NoParameters, Path, Query};
use crate::compaction::snapshot;
use crate::partition::PartitionId;

/// The files that count at one instant: reading exactly these sees every row exactly once. A file that is gone when it is
/// opened was compacted meanwhile: ask again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LiveFiles {
    /// Grows with every change that the compaction makes; 0 before the first.
    pub generation: u64,
    /// By name.
    pub files: Vec<LiveFile>,
}

/// A file that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LiveFile {
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
}

/// The live files of a partition, by the snapshot rule
#[utoipa::path(get, path = "/api/partitions/{db}/{measurement}/{y}/{m}/{d}/{h}/files", tag = "partitions",
    params(
        ("db" = String, Path, description = "The database", max_length = 1024),
        ("measurement" = String, Path, description = "The measurement", max_length = 1024),
        ("y" = String, Path, description = "Year, four digits", pattern = "^[0-9]{4}$"),
        ("m" = String, Path, description = "Month, two digits", pattern = "^[0-9]{2}$"),
        ("d" = String, Path, description = "Day, two digits", pattern = "^[0-9]{2}$"),
        ("h" = String, Path, description = "Hour (UTC), two digits", pattern = "^[0-9]{2}$"),
    ),
    responses((status = 200, description = "The files", body = LiveFiles), (status = 404)))]
pub async fn files(
    State(app): State<AppState>,
    Path((db, measurement, y, m, d, h)): Path<(String, String, String, String, String, String)>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<LiveFiles>, ApiError> {
    for (what, name) in [("db", &db), ("measurement", &measurement)] {
        Name::new(name.clone()).map_err(|error| ApiError::BadRequest(format!("path: {what}: {error}")))?;
    }
    let hour = format!("{y}/{m}/{d}/{h}");
    let no_hour = |_| ApiError::BadRequest(format!("path: {} is not an hour: expected YYYY/MM/DD/HH", shown(&hour)));
    let partition: PartitionId = format!("{db}/{measurement}/{hour}").parse().map_err(no_hour)?;
    let live = snapshot::live_files(app.manager.storage(), &partition).await?;
    if live.files.is_empty() {
        check_partition(&app, &partition).await?;
    }
    let file =
        |file: snapshot::SnapshotFile| LiveFile { name: file.name, size_bytes: file.size_bytes, etag: file.etag };
    Ok(Json(LiveFiles { generation: live.generation.0, files: live.files.into_iter().map(file).collect() }))
}
