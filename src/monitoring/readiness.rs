//! Is the service ready: asking the parts, a few seconds at most, and judging what they say.
//!
//! | check       | red when |
//! |---|---|
//! | `storage`   | its databases cannot be listed, or not within [`LIMIT`] |
//! | `state`     | the state database takes no change, or its file was removed or replaced |
//! | `scheduler` | its task has ended |
//! | `backlog`   | the oldest candidate is far behind schedule, or scans have stopped (see `verdict`) |
//!
//! What must hold: however often the service is asked, storage and state are asked at most once every [`CACHE`], one
//! question at a time, and every answer comes within [`LIMIT`] and a bit.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::probing::Probing;
use super::verdict::{Check, Progress, Verdict, Work};
use crate::clock::Clock;
use crate::schedule::Schedule;
use crate::state::{Failure, StateDb};
use crate::storage::Storage;

/// Storage and state database must answer within this time. SQLite waits 5 s for a writer of another process.
const LIMIT: Duration = Duration::from_secs(7);
/// What storage and state database said holds for this time.
const CACHE: Duration = Duration::from_secs(3);

/// Looks at the work of the moment. Called from any task; must not block.
pub type LookAtWork = Arc<dyn Fn() -> Work + Send + Sync>;

/// What readiness is about.
pub struct ReadinessParts {
    pub storage: Storage,
    pub state: StateDb,
    pub clock: Arc<dyn Clock>,
    /// All schedules in force.
    pub schedules: Vec<Schedule>,
    pub timezone: Tz,
    pub work: LookAtWork,
}

impl fmt::Debug for ReadinessParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadinessParts").field("storage", &self.storage).finish_non_exhaustive()
    }
}

/// Tells whether the service is ready. Clones share what they found out.
#[derive(Clone)]
pub struct Readiness(Arc<Inner>);

struct Inner {
    parts: ReadinessParts,
    started_at: DateTime<Utc>,
    /// Device and inode of the state database at the start; `None` when it is not a file.
    state_file: Option<(u64, u64)>,
    probes: Mutex<Probes>,
    /// What storage said when it last failed, so that the log has it once. Empty while storage answers.
    storage_said: Said,
}

type Said = Arc<std::sync::Mutex<String>>;

#[derive(Default)]
struct Probes {
    storage: Probing,
    state: Probing,
    known: Option<Known>,
}

#[derive(Clone)]
struct Known {
    at: Instant,
    storage: Check,
    state: Check,
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readiness")
    }
}

impl Readiness {
    /// The service starts now.
    #[must_use]
    pub fn new(parts: ReadinessParts) -> Self {
        let started_at = parts.clock.now();
        let state_file = identity(parts.state.path());
        Self(Arc::new(Inner { parts, started_at, state_file, probes: Mutex::default(), storage_said: Said::default() }))
    }

    /// The verdict of this moment.
    pub async fn check(&self) -> Verdict {
        let Known { storage, state, .. } = self.probe().await;
        let parts = &self.0.parts;
        let progress = Progress {
            now: parts.clock.now(),
            started_at: self.0.started_at,
            schedules: &parts.schedules,
            zone: parts.timezone,
            work: (parts.work)(),
        };
        Verdict::of([
            ("storage", storage),
            ("state", state),
            ("scheduler", progress.scheduler_check()),
            ("backlog", progress.backlog_check()),
        ])
    }

    /// Whoever comes while somebody else is asking waits for the same answer.
    async fn probe(&self) -> Known {
        let mut probes = self.0.probes.lock().await;
        if let Some(known) = probes.known.clone().filter(|known| known.at.elapsed() < CACHE) {
            return known;
        }
        let Probes { storage, state, known } = &mut *probes;
        let parts = &self.0.parts;
        let (storage, state) = tokio::join!(
            storage.ask(LIMIT, ask_storage(parts.storage.clone(), Arc::clone(&self.0.storage_said))),
            state.ask(LIMIT, ask_state(parts.state.clone(), self.0.state_file)),
        );
        let check = |answer: Result<(), String>, place: &str| match answer {
            Ok(()) => Check::good(format!("{place} answers")),
            Err(reason) => Check::bad(format!("{place}: {reason}")),
        };
        let found = Known {
            at: Instant::now(),
            storage: check(storage, parts.storage.location()),
            state: check(state, parts.state.path()),
        };
        *known = Some(found.clone());
        found
    }
}

/// One LIST of the top level. The answer is public, so what the store itself said goes to the log only, once.
async fn ask_storage(storage: Storage, said: Said) -> Result<(), String> {
    let listed = storage.databases().await;
    let now_said = listed.as_ref().map_or_else(ToString::to_string, |_| String::new());
    let before = std::mem::replace(&mut *said.lock().unwrap_or_else(PoisonError::into_inner), now_said.clone());
    if !now_said.is_empty() && now_said != before {
        warn!(target: "api", error = now_said, "Storage does not answer as it should: {now_said}");
    }
    listed.map(drop).map_err(|error| error.without_store_words())
}

const CHANGE: &str =
    "INSERT INTO service_switches VALUES ('probe', '') ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// A small change: it needs what every change needs, the writing connection, the right to write, the lock and room on the
/// disk. An open file that was removed still answers, so the file is looked at, too.
async fn ask_state(state: StateDb, opened: Option<(u64, u64)>) -> Result<(), String> {
    let path = state.path().to_owned();
    let changed = state.write(|connection| connection.execute(CHANGE, []).map(drop).map_err(Failure::from));
    changed.await.map_err(|error| error.to_string())?;
    if opened.is_some() && identity(&path) != opened {
        return Err("the file was removed or replaced while the service ran; restart the service".to_owned());
    }
    Ok(())
}

fn identity(path: &str) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests;
