//! The HTTP API: all routes on this page, a file for each resource.
//!
//! ```text
//! request ── finish (request id) ── query, path, body (input) ── handler ── ServiceStatus, Job, … ──> JSON
//!                 ^                        │ 4xx                    │ 4xx, 503
//!                 └────────────────────────┴── ApiError (error) ────┘
//! ```
//!
//! What must hold: shapes, once published, only grow; what is not known is null, never a made-up value; whatever a client
//! sends, the answer is not a 5xx unless something of ours does not work; every list, body, page and number of clients is
//! bounded. The document at `/openapi.json` comes from the same types and names exactly the routes below.
//!
//! Deliberately not here: sockets, authentication and limits per connection, which the server puts around this router,
//! and anything that decides about compaction.

mod candidates;
mod connections;
mod cycle;
pub mod dashboard;
pub mod error;
mod events;
pub mod input;
mod job;
mod jobs;
mod locks;
pub mod openapi;
mod partitions;
mod quarantine;
mod scans;
mod service;
mod status;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::routing::{self, MethodRouter};
use axum::{Router, middleware};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

pub use candidates::PATIENCE as SCAN_PATIENCE;
pub use connections::StorageInfo;
pub use events::{HEARTBEAT, MAX_SUBSCRIBERS, MAX_WAITING_EVENTS};

use self::candidates::{Look, Page};
use self::error::{ApiError, shown};
use self::scans::Scans;
use crate::compaction::CompactionManager;
use crate::compaction::events::Event;
use crate::compaction::quarantine::Quarantine;
use crate::monitoring::{Readiness, Scrape};
use crate::scheduler::CompactionScheduler;

/// The parts of the service that the handlers need.
pub struct AppParts {
    pub manager: Arc<CompactionManager>,
    pub scheduler: Arc<CompactionScheduler>,
    pub quarantine: Quarantine,
    /// What happens, for those who follow it. The manager's event sink sends here; a queue of [`MAX_WAITING_EVENTS`].
    pub events: broadcast::Sender<Event>,
    pub storage_info: StorageInfo,
    pub readiness: Readiness,
    pub scrape: Scrape,
    /// Cancelled when the server stops: ends the streams, which would go on for ever.
    pub stopping: CancellationToken,
}

impl fmt::Debug for AppParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppParts").finish_non_exhaustive()
    }
}

/// What the handlers work with.
#[derive(Clone)]
pub struct AppState {
    manager: Arc<CompactionManager>,
    scheduler: Arc<CompactionScheduler>,
    quarantine: Quarantine,
    events: broadcast::Sender<Event>,
    storage_info: StorageInfo,
    readiness: Readiness,
    scrape: Scrape,
    stopping: CancellationToken,
    /// Places for followers of the events.
    subscribers: Arc<Semaphore>,
    scans: Scans<Look, Page>,
    /// How often damaged files were given another chance: candidates change by it.
    chances: Arc<AtomicU64>,
}

impl AppState {
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        let AppParts { manager, scheduler, quarantine, events, storage_info, readiness, scrape, stopping } = parts;
        Self {
            manager,
            scheduler,
            quarantine,
            events,
            storage_info,
            readiness,
            scrape,
            stopping,
            subscribers: Arc::new(Semaphore::new(MAX_SUBSCRIBERS)),
            scans: Scans::new(Page::bytes),
            chances: Arc::default(),
        }
    }

    /// Grows with every change after which nobody may be told how things were before.
    fn version(&self) -> u64 {
        self.manager.cycles_ended() + self.chances.load(Ordering::Acquire)
    }
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState").finish_non_exhaustive()
    }
}

/// Every route.
fn routes() -> Routes {
    Routes::default()
        .get("/api/compaction/status", status::status)
        .get("/api/compaction/stats", status::stats)
        .get("/api/compaction/candidates", candidates::list)
        .post("/api/compaction/trigger", cycle::trigger)
        .get("/api/compaction/jobs", jobs::list)
        .get("/api/compaction/jobs/{id}", jobs::one)
        .delete("/api/compaction/jobs/{id}", jobs::cancel)
        .get("/api/compaction/history", jobs::history)
        .post("/api/compaction/pause", cycle::pause)
        .post("/api/compaction/resume", cycle::resume)
        .get("/api/compaction/locks", locks::list)
        .get("/api/compaction/quarantine", quarantine::list)
        .delete("/api/compaction/quarantine", quarantine::clear_all)
        .get("/api/compaction/quarantine/{id}", quarantine::one)
        .delete("/api/compaction/quarantine/{id}", quarantine::clear)
        .get("/api/compaction/events", events::follow)
        .get("/api/partitions/{db}/{measurement}/{y}/{m}/{d}/{h}/files", partitions::files)
        .get("/api/connections/storage", connections::storage)
        .get("/health", service::health)
        .get("/ready", service::ready)
        .get("/metrics", service::metrics)
        .get("/openapi.json", service::openapi)
        .get("/", service::dashboard)
}

/// The router: every route, and the answers to everything else.
pub fn router(state: AppState) -> Router {
    routes()
        .router
        .fallback(async |method: Method, uri: Uri| {
            let path = shown(uri.path());
            ApiError::NotFound(format!("there is no {method} {path}; /openapi.json lists what there is"))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let path = shown(uri.path());
            ApiError::MethodNotAllowed(format!("{path} does not take {method}; the allow header says what it takes"))
        })
        .layer(DefaultBodyLimit::max(input::MAX_BODY_BYTES))
        .layer(middleware::from_fn(error::finish))
        .with_state(state)
}

/// Methods and paths of every route.
#[must_use]
pub fn served() -> Vec<(Method, &'static str)> {
    routes().served
}

/// Builds the router and remembers what it serves.
#[derive(Default)]
struct Routes {
    router: Router<AppState>,
    served: Vec<(Method, &'static str)>,
}

impl Routes {
    fn get<T: 'static>(self, path: &'static str, handler: impl Handler<T, AppState>) -> Self {
        self.add(Method::GET, path, routing::get(handler))
    }

    fn post<T: 'static>(self, path: &'static str, handler: impl Handler<T, AppState>) -> Self {
        self.add(Method::POST, path, routing::post(handler))
    }

    fn delete<T: 'static>(self, path: &'static str, handler: impl Handler<T, AppState>) -> Self {
        self.add(Method::DELETE, path, routing::delete(handler))
    }

    fn add(mut self, method: Method, path: &'static str, answers: MethodRouter<AppState>) -> Self {
        self.router = self.router.route(path, answers);
        self.served.push((method, path));
        self
    }
}
