//! Server-sent events: jobs and cycles while they happen.
//!
//! ```text
//! event: jobs             the running jobs, first of all, so that a client need not ask twice
//! event: cycle_started    {"cycle_id"}
//! event: candidates_found {"count"}
//! event: job_started, job_step, job_progress, job_finished        JOB
//! event: partition_done, lease_lost   {"partition_path"}
//! event: recovered        {"partition_path","outcome"}
//! event: cycle_finished   {"cycle_id", …}
//! event: lagged           {"missed"}     the client was too slow: what it missed is gone, and the running jobs follow
//! : heartbeat             every 15 seconds without an event
//! ```
//!
//! Nothing depends on a client: it has a place in a queue of fixed length, and the number of clients is bounded. The stream
//! ends when the server stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::input::{NoParameters, Query};
use super::job::Job;
use super::jobs::Jobs;
use crate::compaction::CycleReport;
use crate::compaction::events::Event;

/// Clients that follow the events at the same time.
pub const MAX_SUBSCRIBERS: usize = 64;
/// Events that wait for the slowest client.
pub const MAX_WAITING_EVENTS: usize = 1024;
/// A comment is sent when there was nothing else for this long, so that neither side takes the connection for dead.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// The end of a cycle.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CycleSummary {
    pub cycle_id: String,
    pub duration_seconds: f64,
    pub partitions_scanned: u64,
    pub jobs_completed: u64,
    pub jobs_failed: u64,
    pub jobs_skipped: u64,
    pub files_compacted: u64,
    pub files_written: u64,
    pub rows: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub candidates_left: u64,
}

impl From<&CycleReport> for CycleSummary {
    fn from(report: &CycleReport) -> Self {
        Self {
            cycle_id: report.cycle_id.clone(),
            duration_seconds: report.duration_seconds,
            partitions_scanned: report.partitions_scanned,
            jobs_completed: report.jobs_completed,
            jobs_failed: report.jobs_failed,
            jobs_skipped: report.jobs_skipped,
            files_compacted: report.files_compacted,
            files_written: report.files_written,
            rows: report.rows,
            bytes_before: report.bytes_before,
            bytes_after: report.bytes_after,
            candidates_left: report.candidates_left,
        }
    }
}

/// Jobs and cycles while they happen, as server-sent events
///
/// The first event is `jobs`, the running jobs. Then `cycle_started`, `candidates_found`, `job_started`, `job_step`,
/// `job_progress`, `job_finished` (each with the job), `partition_done`, `recovered`, `lease_lost` and `cycle_finished`.
/// A client that is too slow gets `lagged` with the number of events that it missed, and the running jobs again.
#[utoipa::path(get, path = "/api/compaction/events", tag = "compaction",
    responses((status = 200, description = "The stream", body = String, content_type = "text/event-stream")))]
pub async fn follow(
    State(app): State<AppState>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Sse<impl Stream<Item = Result<Message, Infallible>>>, ApiError> {
    let Ok(place) = Arc::clone(&app.subscribers).try_acquire_owned() else {
        return Err(ApiError::Busy(format!(
            "{MAX_SUBSCRIBERS} clients follow the events already; poll /api/compaction/jobs, or come back later"
        )));
    };
    // Subscribed before the running jobs are looked up: what happens in between is said twice rather than not at all.
    let events = BroadcastStream::new(app.events.subscribe());
    let first = stream::iter([message("jobs", &Jobs::now(&app))]);
    let stopping = app.stopping.clone();
    let later = events.flat_map(move |event| {
        let _held_for_the_life_of_the_stream = &place;
        stream::iter(match event {
            Ok(event) => tell(&app, &event).into_iter().collect(),
            Err(BroadcastStreamRecvError::Lagged(missed)) => {
                vec![message("lagged", &serde_json::json!({ "missed": missed })), message("jobs", &Jobs::now(&app))]
            }
        })
    });
    let messages = first.chain(later).take_until(stopping.cancelled_owned()).map(Ok);
    Ok(Sse::new(messages).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat")))
}

/// What a client gets to see of an event. `None`: the job that it is about has ended meanwhile, which is told next.
fn tell(app: &AppState, event: &Event) -> Option<Message> {
    let job = |name: &str, job_id: &str| {
        let jobs = app.manager.active_jobs();
        let job = jobs.iter().find(|job| job.job_id == job_id)?;
        Some(message(name, &Job::live(job, app.manager.clock().now())))
    };
    match event {
        Event::CycleStarted { cycle_id } => {
            Some(message("cycle_started", &serde_json::json!({ "cycle_id": cycle_id })))
        }
        Event::CandidatesFound { count } => Some(message("candidates_found", &serde_json::json!({ "count": count }))),
        Event::JobStarted { job_id, .. } => job("job_started", job_id),
        Event::JobStep { job_id, .. } => job("job_step", job_id),
        Event::JobProgress { job_id, .. } => job("job_progress", job_id),
        Event::JobFinished(report) => Some(message("job_finished", &Job::past(report))),
        Event::PartitionDone { partition } => {
            Some(message("partition_done", &serde_json::json!({ "partition_path": partition })))
        }
        Event::Recovered { partition, outcome } => {
            let data = serde_json::json!({ "partition_path": partition, "outcome": outcome.as_str() });
            Some(message("recovered", &data))
        }
        Event::LeaseLost { partition } => {
            Some(message("lease_lost", &serde_json::json!({ "partition_path": partition })))
        }
        Event::CycleFinished(report) => Some(message("cycle_finished", &CycleSummary::from(&**report))),
    }
}

fn message(name: &str, data: &impl Serialize) -> Message {
    // JSON has no raw line breaks, which alone could break the framing.
    let data = serde_json::to_string(data).expect("our shapes have text keys and finite numbers");
    Message::default().event(name).data(data)
}
