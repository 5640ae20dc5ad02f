//! The composition root: configuration in, wired parts out. The only file, besides the command line, that names concrete
//! adapters.

use std::sync::Arc;

use axum::Router;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::api::{self, AppParts, AppState, MAX_WAITING_EVENTS, StorageInfo};
use crate::auth::Tokens;
use crate::clock::SystemClock;
use crate::compaction::events::{Event, EventSink};
use crate::compaction::quarantine::Quarantine;
use crate::compaction::settings::{Isolation, LockBackend};
use crate::compaction::{CompactionManager, Components};
use crate::config::{Backend, Config};
use crate::lock::{CompactionLock, LockManager, StorageLocks};
use crate::merge::resources::{detect, job_limits};
use crate::merge::{DuckDbEngine, MergeEngine, SubprocessEngine, SubprocessSettings};
use crate::metrics::Metrics;
use crate::monitoring::{JobMetrics, LookAtWork, Readiness, ReadinessParts, SchedulerState, Scrape, Work};
use crate::scheduler::CompactionScheduler;
use crate::state::{StateDb, StateError};
use crate::storage::settings::Patience;
use crate::storage::{Storage, StorageError};

/// Why the parts could not be put together. Every message names the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the path of this program is not known, so no merge worker can be started: {0}")]
    Executable(#[source] std::io::Error),
}

/// Opens the storage that the configuration names. Of an object store nothing is asked yet.
pub fn open_storage(config: &Config) -> Result<Storage, BuildError> {
    let (storage, patience) = (&config.storage, Patience::default());
    Ok(match storage.backend {
        Backend::Local => Storage::local(&storage.local.base_path)?,
        Backend::S3 => Storage::s3(&storage.s3, &patience)?,
        Backend::Minio => Storage::s3(&storage.minio, &patience)?,
        Backend::Ceph => Storage::s3(&storage.ceph, &patience)?,
        Backend::Gcs => Storage::gcs(&storage.gcs, &patience)?,
        Backend::Azure => Storage::azure(&storage.azure, &patience)?,
    })
}

/// Opens the state database that the configuration names.
pub fn open_state(config: &Config) -> Result<StateDb, BuildError> {
    Ok(StateDb::open(&config.state.db_path)?)
}

/// Opens what keeps the leases that the configuration names: the state database, or the bucket.
pub fn open_locks(config: &Config) -> Result<Arc<dyn LockManager>, BuildError> {
    Ok(match config.compaction.lock_backend {
        LockBackend::Sqlite => locks_in_state(open_state(config)?),
        LockBackend::Storage => locks_in_storage(&open_storage(config)?),
    })
}

fn locks_in_state(state: StateDb) -> Arc<dyn LockManager> {
    Arc::new(CompactionLock::new(state, Arc::new(SystemClock)))
}

fn locks_in_storage(storage: &Storage) -> Arc<dyn LockManager> {
    Arc::new(StorageLocks::new(storage, Arc::new(SystemClock)))
}

/// Wires a manager.
pub fn build_manager(config: &Config, events: EventSink) -> Result<CompactionManager, BuildError> {
    manager_over(config, open_storage(config)?, open_state(config)?, events)
}

fn manager_over(
    config: &Config,
    storage: Storage,
    state: StateDb,
    events: EventSink,
) -> Result<CompactionManager, BuildError> {
    let clock = Arc::new(SystemClock);
    let settings = config.compaction.clone();
    let jobs = settings.max_concurrent_jobs;
    let limits = job_limits(detect(), settings.memory_limit_bytes, settings.threads, jobs);
    let engine: Arc<dyn MergeEngine> = match settings.isolation {
        Isolation::InProcess => Arc::new(DuckDbEngine),
        Isolation::Process => {
            Arc::new(SubprocessEngine::new(SubprocessSettings::this_program().map_err(BuildError::Executable)?))
        }
    };
    // Before the leases, so that their requests are counted, too.
    let (storage, _) = storage.tallied();
    let locks = match settings.lock_backend {
        LockBackend::Sqlite => locks_in_state(state.clone()),
        LockBackend::Storage => locks_in_storage(&storage),
    };
    let components = Components { storage, locks, state, engine, clock, limits, events, seed: fastrand::u64(..) };
    Ok(CompactionManager::new(components, settings))
}

/// The parts of a server, wired, and nothing of them started.
pub(super) struct Parts {
    pub manager: Arc<CompactionManager>,
    pub scheduler: Arc<CompactionScheduler>,
    pub tokens: Tokens,
    pub metrics: Metrics,
    /// The routes of the API. They end their streams when `stopping` is cancelled.
    pub routes: Router,
}

/// Wires the parts of a server.
pub(super) fn build_server(config: &Config, stopping: CancellationToken) -> Result<Parts, BuildError> {
    let metrics = Metrics::new();
    let storage = open_storage(config)?.metered(metrics.clone());
    let state = open_state(config)?;
    let (sender, _) = broadcast::channel(MAX_WAITING_EVENTS);
    let manager = manager_over(config, storage.clone(), state.clone(), events(&metrics, sender.clone()))?;
    let manager = Arc::new(manager);
    let scheduler = Arc::new(CompactionScheduler::with_settings(Arc::clone(&manager), config.scheduler()));
    let quarantine = Quarantine::new(state.clone());
    let (clock, work) = (Arc::new(SystemClock), look_at(&manager, &scheduler));
    let readiness = Readiness::new(ReadinessParts {
        storage,
        state: state.clone(),
        clock: clock.clone(),
        schedules: config.scheduler().schedules,
        timezone: config.timezone,
        work: Arc::clone(&work),
    });
    let routes = api::router(AppState::new(AppParts {
        manager: Arc::clone(&manager),
        scheduler: Arc::clone(&scheduler),
        quarantine: quarantine.clone(),
        events: sender,
        storage_info: StorageInfo::new(config.storage.backend.as_str()),
        readiness,
        scrape: Scrape::new(metrics.clone(), clock, quarantine, work),
        stopping,
    }));
    let tokens = Tokens::new(state, config.auth.default_token.clone());
    Ok(Parts { manager, scheduler, tokens, metrics, routes })
}

/// Everyone who wants to know what happens: the metrics, and the followers of the event stream.
fn events(metrics: &Metrics, sender: broadcast::Sender<Event>) -> EventSink {
    let counted = JobMetrics::new(metrics.clone());
    EventSink::new(move |event| {
        counted.notice(&event);
        // Without followers there is nobody to tell.
        let _ = sender.send(event);
    })
}

/// Looks at the work of the moment, for metrics and readiness.
pub fn look_at(manager: &Arc<CompactionManager>, scheduler: &Arc<CompactionScheduler>) -> LookAtWork {
    let (manager, scheduler) = (Arc::clone(manager), Arc::clone(scheduler));
    Arc::new(move || Work {
        scheduler: if !scheduler.is_enabled() {
            SchedulerState::Disabled
        } else if scheduler.is_paused() {
            SchedulerState::Paused
        } else if scheduler.is_running() {
            SchedulerState::Running
        } else {
            SchedulerState::Dead
        },
        cycle_running: manager.running_cycle().is_some(),
        active_jobs: manager.active_jobs().len(),
        backlog: manager.backlog(),
    })
}
