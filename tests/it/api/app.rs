//! A service to ask: a folder with data, and the router over everything that belongs to it.

use std::fmt;
use std::sync::Arc as Shared;

use arc::api::{AppParts, AppState, MAX_WAITING_EVENTS, StorageInfo, router};
use arc::clock::SystemClock;
use arc::compaction::events::{Event, EventSink};
use arc::compaction::quarantine::Quarantine;
use arc::compaction::settings::Isolation;
use arc::compaction::{CompactionManager, CompactionSettings, Components, CycleReport};
use arc::config::{Config, Input};
use arc::lock::CompactionLock;
use arc::merge::resources::{detect, job_limits};
use arc::merge::{DuckDbEngine, MergeEngine, MergeError, MergeOutcome, MergeRequest, ProgressSink};
use arc::metrics::Metrics;
use arc::monitoring::{Readiness, ReadinessParts, Scrape};
use arc::scheduler::CompactionScheduler;
use arc::server::look_at;
use arc::state::StateDb;
use arc::storage::Storage;
use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::Arc;

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Describes the service to build.
pub struct Builder {
    arc: Shared<Arc>,
    gate: Option<Gate>,
    wrap: Box<dyn FnOnce(Storage) -> Storage>,
    started: bool,
}

/// A running service.
pub struct App {
    pub arc: Shared<Arc>,
    pub router: Router,
    pub stopping: CancellationToken,
    pub events: broadcast::Sender<Event>,
    told: tokio::sync::Mutex<broadcast::Receiver<Event>>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("App")
    }
}

/// A service over an empty folder.
pub fn app() -> Builder {
    over(Shared::new(Arc::new()))
}

/// A service over a folder that is there already.
pub fn over(arc: Shared<Arc>) -> Builder {
    Builder { arc, gate: None, wrap: Box::new(|storage| storage), started: true }
}

impl Builder {
    /// With other lines in the `[compaction]` section.
    pub fn with(self, settings: &str) -> Self {
        self.arc.configure(settings);
        self
    }

    /// Merges wait at the gate.
    pub fn gated(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Over another store.
    pub fn storage(mut self, wrap: impl FnOnce(Storage) -> Storage + 'static) -> Self {
        self.wrap = Box::new(wrap);
        self
    }

    pub async fn build(self) -> App {
        let config = Config::load(&Input { file: Some(self.arc.config_file()), ..Input::default() }).unwrap();
        let state = StateDb::open(&config.state.db_path).unwrap();
        let clock = Shared::new(SystemClock);
        let (events, told) = broadcast::channel(MAX_WAITING_EVENTS);
        let sender = events.clone();
        let settings = CompactionSettings { isolation: Isolation::InProcess, ..config.compaction.clone() };
        let engine: Shared<dyn MergeEngine> = match self.gate {
            Some(gate) => Shared::new(gate),
            None => Shared::new(DuckDbEngine),
        };
        let components = Components {
            storage: (self.wrap)(Storage::local(&config.storage.local.base_path).unwrap()),
            locks: Shared::new(CompactionLock::new(state.clone(), clock.clone())),
            state: state.clone(),
            engine,
            clock: clock.clone(),
            limits: job_limits(detect(), None, None, settings.max_concurrent_jobs),
            events: EventSink::new(move |event| drop(sender.send(event))),
            seed: 7,
        };
        let manager = Shared::new(CompactionManager::new(components, settings));
        let scheduler = Shared::new(CompactionScheduler::with_settings(Shared::clone(&manager), config.scheduler()));
        if self.started {
            scheduler.start().await.unwrap();
        }
        let work = look_at(&manager, &scheduler);
        let quarantine = Quarantine::new(state.clone());
        let stopping = CancellationToken::new();
        let state_of_app = AppState::new(AppParts {
            manager: Shared::clone(&manager),
            scheduler,
            quarantine: quarantine.clone(),
            events: events.clone(),
            storage_info: StorageInfo::new("local"),
            readiness: Readiness::new(ReadinessParts {
                storage: manager.storage().clone(),
                state: state.clone(),
                clock: clock.clone(),
                schedules: config.scheduler().schedules,
                timezone: config.timezone,
                work: Shared::clone(&work),
            }),
            scrape: Scrape::new(Metrics::new(), clock, quarantine, work),
            stopping: stopping.clone(),
        });
        let router = router(state_of_app);
        App { arc: self.arc, router, stopping, events, told: tokio::sync::Mutex::new(told) }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// The body, if the status is this one.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:#?}");
        self.json()
    }

    /// The kind of an error with this status, and its detail.
    pub fn refused(&self, status: u16) -> (String, String) {
        let body = self.expect(status);
        let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name}: {self:#?}")).to_owned();
        let (error, detail) = (text("error"), text("detail"));
        assert!(!error.is_empty() && !detail.is_empty(), "{self:#?}");
        (error, detail)
    }
}

impl App {
    pub async fn get(&self, uri: &str) -> Answer {
        self.send("GET", uri, None, Body::empty()).await
    }

    pub async fn delete(&self, uri: &str) -> Answer {
        self.send("DELETE", uri, None, Body::empty()).await
    }

    pub async fn post(&self, uri: &str, body: &str) -> Answer {
        self.send("POST", uri, Some("application/json"), Body::from(body.to_owned())).await
    }

    pub async fn send(&self, method: &str, uri: &str, content_type: Option<&str>, body: Body) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        self.answer(request.body(body).unwrap()).await
    }

    pub async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), MAX_ANSWER).await.unwrap();
        Answer { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    /// Starts a cycle over everything and waits for its end.
    pub async fn cycle(&self) -> CycleReport {
        self.post("/api/compaction/trigger", "").await.expect(202);
        self.cycle_ended().await
    }

    /// Waits for the end of the next cycle.
    pub async fn cycle_ended(&self) -> CycleReport {
        loop {
            if let Event::CycleFinished(report) = self.told.lock().await.recv().await.unwrap() {
                return *report;
            }
        }
    }
}

/// DuckDB behind a gate.
#[derive(Debug, Clone)]
pub struct Gate {
    arrived: Shared<Semaphore>,
    open: CancellationToken,
}

impl Gate {
    pub fn closed() -> Self {
        Self { arrived: Shared::new(Semaphore::new(0)), open: CancellationToken::new() }
    }

    /// Waits until a merge stands at the gate.
    pub async fn arrived(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    pub fn open(&self) {
        self.open.cancel();
    }
}

#[async_trait]
impl MergeEngine for Gate {
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        self.arrived.add_permits(1);
        tokio::select! {
            () = self.open.cancelled() => {}
            () = cancel.cancelled() => return Err(MergeError::Cancelled),
        }
        DuckDbEngine.merge(request, progress, cancel).await
    }
}
