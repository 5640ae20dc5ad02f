//! What a cycle would do, and for what it would not do, why.
//!
//! Storage is looked through anew for every answer, unless so many clients ask that this would take the time of the jobs: then
//! an answer may be two seconds old, and `scanned_at` says so (see `scans`). A page is the first `limit` places after the
//! cursor, in the order of their paths, so memory is that of a page, whatever the size of storage, and a client that follows
//! the cursors sees every place that was there all along exactly once.

#![allow(clippy::struct_field_names, reason = "the names of the fields are part of the API")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::warn;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::error::{ApiError, shown};
use super::input::{Limit, Name, Query};
use super::job::name_of;
use crate::compaction::report::{Problem, Skipped};
use crate::compaction::{Candidate, CompactionManager, Finding, Scope};
use crate::partition::PartitionId;

/// Places with problems that one answer names.
const MAX_PROBLEMS: usize = 100;
/// A client is told to come again when looking takes longer. Shorter than the time that the server gives any request.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Partitions with work.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Candidates {
    /// Partitions with work, on all pages.
    pub count: u64,
    /// Those of this page, by path.
    pub candidates: Vec<CandidateInfo>,
    /// With `explain`: the places of this page that are left alone, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub skipped: Option<Vec<SkippedPlace>>,
    /// Places that could not be looked at, the first hundred.
    pub problems: Vec<PlaceProblem>,
    /// `cursor` of the next page. Null on the last one.
    pub next_cursor: Option<String>,
    /// When the look through storage began that found this.
    pub scanned_at: DateTime<Utc>,
}

/// A partition with work.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CandidateInfo {
    pub database: String,
    pub measurement: String,
    /// Relative to the database.
    #[schema(example = "cpu/2025/10/08/14")]
    pub partition_path: String,
    /// Files to merge.
    pub file_count: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Their names.
    pub files: Vec<String>,
    /// Why: first, `late_files`, `late_files_waited`, `side_files`. Null with `unfinished`.
    pub trigger: Option<String>,
    /// Leftovers of an earlier attempt are cleared away first; what else there is to do shows then.
    pub unfinished: bool,
}

impl From<&Candidate> for CandidateInfo {
    fn from(candidate: &Candidate) -> Self {
        let report = candidate.to_report();
        Self {
            database: report.database,
            measurement: report.measurement,
            partition_path: report.partition_path,
            file_count: report.file_count,
            bytes: report.bytes,
            files: report.files,
            trigger: report.trigger.and_then(|trigger| name_of(&trigger)),
            unfinished: report.unfinished,
        }
    }
}

/// A place that is left alone.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SkippedPlace {
    /// `database/measurement/YYYY/MM/DD/HH`, or a database.
    #[schema(example = "db/cpu/2025/10/08/14")]
    pub partition_path: String,
    /// A short name that does not change.
    #[schema(example = "too_few_files")]
    pub reason: String,
    /// The numbers that led to it.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// The same in words.
    #[schema(example = "too few files: have 3, need 10")]
    pub message: String,
}

impl From<&Skipped> for SkippedPlace {
    fn from(skipped: &Skipped) -> Self {
        let detail = serde_json::to_value(&skipped.reason).ok();
        let detail = detail.and_then(|mut reason| reason.get_mut("detail").map(serde_json::Value::take));
        Self {
            partition_path: skipped.partition_path.clone(),
            reason: skipped.reason.kind().to_owned(),
            detail: detail.unwrap_or_default(),
            message: skipped.reason.to_string(),
        }
    }
}

/// A place that could not be looked at. The others are not affected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlaceProblem {
    pub place: String,
    pub error: String,
}

impl From<Problem> for PlaceProblem {
    /// What storage said may hold a secret, so it goes to the log only.
    fn from(problem: Problem) -> Self {
        warn!(target: "api", place = problem.place, error = problem.error, "{}: {}", problem.place, problem.error);
        let error = "this place could not be looked at; the server's log says why".to_owned();
        Self { place: problem.place, error }
    }
}

/// Which candidates.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct CandidateParameters {
    /// Only this database.
    #[param(value_type = Option<String>, max_length = 1024)]
    database: Option<Name>,
    /// Also show what is left alone, and why.
    #[serde(default)]
    #[param(required = false, default = false)]
    explain: bool,
    /// Places in the answer.
    #[serde(default)]
    #[param(value_type = u32, required = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit<100, 1000>,
    /// Go on where a page ended: its `next_cursor`.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// The place after which a page begins: a partition or a database.
#[derive(Debug)]
pub struct Cursor(String);

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.parse::<PartitionId>().is_ok() || Name::new(text.clone()).is_ok() {
            return Ok(Self(text));
        }
        let message = format!("{} is not the next_cursor of an answer", shown(&text));
        Err(serde::de::Error::custom(message))
    }
}

/// Partitions with work, and with `explain` why the others have none
///
/// Looks through storage. When so many ask that this would take more than a tenth of the time, the answer may be two seconds
/// old, and is from after the end of the last cycle. A look that takes longer than 20 seconds is answered with 503 and
/// goes on: ask again.
#[utoipa::path(get, path = "/api/compaction/candidates", tag = "compaction", params(CandidateParameters),
    responses((status = 200, description = "A page of candidates", body = Candidates), (status = 404)))]
pub async fn list(
    State(app): State<AppState>,
    Query(wanted): Query<CandidateParameters>,
) -> Result<Response, ApiError> {
    let scope = Scope { database: wanted.database.map(String::from), ..Scope::default() };
    let after = wanted.cursor.map(|Cursor(path)| path);
    let wanted = Look { scope, after, limit: wanted.limit.0, explain: wanted.explain };
    let manager = &app.manager;
    let kept = app.scans.recent(&wanted, app.version(), || look(Arc::clone(manager), wanted.clone()));
    let page = if let Some(page) = kept {
        page
    } else {
        check_exists(&app, &wanted.scope).await?;
        find(&app, wanted).await?
    };
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], page.json.clone()).into_response())
}

/// One look at storage.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Look {
    pub scope: Scope,
    /// Only places after this one, by path.
    pub after: Option<String>,
    /// Places at most.
    pub limit: usize,
    pub explain: bool,
}

/// What a look found, and its JSON, which is the same for all who get it.
#[derive(Debug)]
pub(super) struct Page {
    pub candidates: Candidates,
    json: Bytes,
}

impl Page {
    fn new(candidates: Candidates) -> Self {
        let json = serde_json::to_vec(&candidates).expect("a page has text keys and finite numbers");
        Self { candidates, json: json.into() }
    }

    /// About what it takes in memory: the names stand in both.
    pub(super) fn bytes(&self) -> usize {
        2 * self.json.len()
    }
}

enum Place {
    Candidate(CandidateInfo),
    Skipped(SkippedPlace),
}

/// What a look that begins after this call finds; or one that takes so long that it may have begun for this client before.
pub(super) async fn find(app: &AppState, wanted: Look) -> Result<Arc<Page>, ApiError> {
    let scan = look(Arc::clone(&app.manager), wanted.clone());
    match timeout(PATIENCE, app.scans.run(wanted, app.version(), scan)).await {
        Ok(Some(page)) => Ok(page),
        Ok(None) => {
            Err(ApiError::Unavailable { what: "storage", cause: "the look through storage was given up".into() })
        }
        Err(_) => Err(ApiError::StillLooking { waited: PATIENCE }),
    }
}

async fn look(manager: Arc<CompactionManager>, look: Look) -> Page {
    let scanned_at = manager.clock().now();
    let mut page: BTreeMap<String, Place> = BTreeMap::new();
    let mut more = false;
    let (mut count, mut problems) = (0, Vec::new());
    let after = look.after.as_deref();
    let mut keep = |path: String, place: Place| {
        if after.is_some_and(|after| path.as_str() <= after) {
            return;
        }
        page.insert(path, place);
        if page.len() > look.limit {
            more = page.pop_last().is_some();
        }
    };
    let mut findings = manager.examine(look.scope);
    while let Some(finding) = findings.next().await {
        match finding {
            Finding::Candidate(candidate) => {
                count += 1;
                keep(candidate.partition.to_string(), Place::Candidate((&candidate).into()));
            }
            Finding::Skipped(skipped) if look.explain => {
                keep(skipped.partition_path.clone(), Place::Skipped((&skipped).into()));
            }
            Finding::Problem(problem) if problems.len() < MAX_PROBLEMS => problems.push(problem.into()),
            Finding::Skipped(_) | Finding::Problem(_) | Finding::Unrecognised(_) => {}
        }
    }
    let next_cursor = if more { page.keys().next_back().cloned() } else { None };
    let (mut candidates, mut skipped) = (Vec::new(), Vec::new());
    for place in page.into_values() {
        match place {
            Place::Candidate(candidate) => candidates.push(candidate),
            Place::Skipped(place) => skipped.push(place),
        }
    }
    let skipped = look.explain.then_some(skipped);
    Page::new(Candidates { count, candidates, skipped, problems, next_cursor, scanned_at })
}

/// Whether what a request names is there: "nothing to do" must not be the answer to a typing error.
pub(super) async fn check_exists(app: &AppState, scope: &Scope) -> Result<(), ApiError> {
    let storage = app.manager.storage();
    if let Some(partition) = &scope.partition {
        return check_partition(app, partition).await;
    }
    let missing = |what: &str, name: &str| Err(ApiError::NotFound(format!("there is no {what} {}", shown(name))));
    let databases = storage.databases().await?;
    if let Some(database) = &scope.database
        && !databases.contains(database)
    {
        return missing("database", database);
    }
    let Some(measurement) = &scope.measurement else { return Ok(()) };
    for database in databases.iter().filter(|name| scope.database.as_ref().is_none_or(|only| only == *name)) {
        if storage.measurements(database).await?.contains(measurement) {
            return Ok(());
        }
    }
    missing("measurement", measurement)
}

/// Whether there is any object in a partition.
pub(super) async fn check_partition(app: &AppState, partition: &PartitionId) -> Result<(), ApiError> {
    let listing = app.manager.storage().list_partition(partition).await?;
    if listing.data.is_empty() && listing.records.is_empty() && listing.foreign.is_empty() {
        let path = shown(&partition.to_string());
        return Err(ApiError::NotFound(format!("there is nothing in partition {path}; check the path")));
    }
    Ok(())
}
