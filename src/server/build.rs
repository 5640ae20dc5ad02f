//! The composition root: configuration in, wired parts out. The only file, besides the command line, that names concrete
//! adapters.

use std::sync::Arc;

use crate::clock::SystemClock;
use crate::compaction::events::EventSink;
use crate::compaction::settings::Isolation;
use crate::compaction::{CompactionManager, Components};
use crate::config::{Backend, Config};
use crate::lock::CompactionLock;
use crate::merge::resources::{detect, job_limits};
use crate::merge::{DuckDbEngine, MergeEngine, SubprocessEngine, SubprocessSettings};
use crate::state::{StateDb, StateError};
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

/// Opens the storage that the configuration names.
pub fn open_storage(config: &Config) -> Result<Storage, BuildError> {
    match config.storage.backend {
        Backend::Local => Ok(Storage::local(&config.storage.local.base_path)?),
    }
}

/// Opens the state database that the configuration names.
pub fn open_state(config: &Config) -> Result<StateDb, BuildError> {
    Ok(StateDb::open(&config.state.db_path)?)
}

/// Wires a manager, with a handle to the state database of its own.
pub fn build_manager(config: &Config, events: EventSink) -> Result<CompactionManager, BuildError> {
    manager_over(config, open_storage(config)?, open_state(config)?, events)
}

/// Wires a manager over these.
pub(super) fn manager_over(
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
    let components = Components {
        storage,
        locks: Arc::new(CompactionLock::new(state.clone(), clock.clone())),
        state,
        engine,
        clock,
        limits,
        events,
        seed: fastrand::u64(..),
    };
    Ok(CompactionManager::new(components, settings))
}
