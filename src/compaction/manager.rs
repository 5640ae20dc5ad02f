//! The manager: what a server, a schedule or a command asks for. A cycle is one scan of storage and the jobs it started.
//!
//! Not here: how a cycle runs (`manager/running.rs`).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::backlog::{Backlog, BacklogKeeper};
use super::error::JobError;
use super::events::EventSink;
use super::history::{History, HistoryQuery, Totals};
use super::job::{Assignment, AttemptId, AttemptReport, JobEnv};
use super::ledger::{Ledger, Waits};
use super::live::{CancelOutcome, LiveJob, LiveJobs};
use super::permits::Permits;
use super::report::{CycleReport, JobReport};
use super::scan::{self, Candidate, Finding, Scope};
use super::settings::{CompactionSettings, LockBackend};
use super::sweep::{Extent, Sweeps};
use super::temp_space::TempBudget;
use super::turn::{Turn, TurnGuard};
use crate::clock::Clock;
use crate::lock::LockManager;
use crate::merge::{MergeEngine, MergeLimits};
use crate::partition::{Generation, PartitionId};
use crate::state::{StateDb, StateError};
use crate::storage::{Storage, StorageError, Tally};

mod running;

/// The parts that a manager works with.
#[derive(Debug)]
pub struct Components {
    pub storage: Storage,
    /// Leases that are kept in storage belong over the very same, [tallied](Storage::tallied), or reports miss their requests.
    pub locks: Arc<dyn LockManager>,
    /// Where history goes, and what is known of damaged files and failed jobs.
    pub state: StateDb,
    pub engine: Arc<dyn MergeEngine>,
    pub clock: Arc<dyn Clock>,
    /// What one merge may use.
    pub limits: MergeLimits,
    pub events: EventSink,
    /// Seed of the attempts' unique names. Two managers must not share one.
    pub seed: u64,
}

/// Why a cycle did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CycleError {
    /// A cycle of this manager is running.
    #[error("a compaction cycle is already running ({cycle_id})")]
    AlreadyRunning { cycle_id: String },
    /// Compaction is paused.
    #[error("compaction is paused")]
    Paused,
}

/// A cycle that has its id and its turn. It runs when its future does; dropping that gives the turn back.
pub struct RunningCycle {
    pub cycle_id: String,
    pub run: BoxFuture<'static, CycleReport>,
}

impl fmt::Debug for RunningCycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningCycle").field("cycle_id", &self.cycle_id).finish_non_exhaustive()
    }
}

/// Runs compaction over one storage.
pub struct CompactionManager {
    env: Arc<JobEnv>,
    random: Mutex<fastrand::Rng>,
    live: LiveJobs,
    history: History,
    sweeps: Sweeps,
    backlog: Arc<BacklogKeeper>,
    /// The id of the running cycle.
    turn: Turn,
    paused: AtomicBool,
    /// Storage's duties are checked once, before the first write.
    probed: OnceCell<()>,
    /// What was asked of storage since the running cycle began.
    traffic: Tally,
    cycles_ended: AtomicU64,
}

impl fmt::Debug for CompactionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactionManager").field("env", &self.env).finish_non_exhaustive()
    }
}

impl CompactionManager {
    #[must_use]
    pub fn new(components: Components, settings: CompactionSettings) -> Self {
        let Components { storage, locks, state, engine, clock, limits, events, seed } = components;
        let live = LiveJobs::default();
        let observer = live.clone();
        let events = EventSink::new(move |event| {
            observer.observe(&event);
            events.send(event);
        });
        let history_limit = settings.history_limit;
        let temp_budget = TempBudget::new(settings.max_temp_bytes);
        let permits = Permits::new(settings.max_concurrent_jobs, !storage.is_local());
        let settings = Arc::new(settings);
        let ledger = Ledger::new(state.clone());
        let (storage, traffic) = storage.tallied();
        Self {
            env: Arc::new(JobEnv {
                storage,
                locks,
                engine,
                clock,
                settings,
                limits,
                temp_budget,
                permits,
                ledger,
                events,
            }),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            live,
            sweeps: Sweeps::new(state.clone()),
            history: History::new(state, history_limit),
            backlog: Arc::default(),
            turn: Turn::default(),
            paused: AtomicBool::new(false),
            probed: OnceCell::new(),
            traffic,
            cycles_ended: AtomicU64::new(0),
        }
    }

    /// Everything in scope, with what there is to do or why there is nothing. Read-only, streamed.
    #[must_use]
    pub fn examine(&self, scope: Scope) -> BoxStream<'static, Finding> {
        self.examine_with(scope, Waits::Kept)
    }

    /// The same, for somebody who may want to override the waits after failures.
    #[must_use]
    pub fn examine_with(&self, scope: Scope, waits: Waits) -> BoxStream<'static, Finding> {
        let env = Arc::clone(&self.env);
        stream::once(async move {
            let standing = Arc::new(env.ledger.load().await);
            scan::scan(env, scope, Arc::new(Extent::everything()), standing, waits)
        })
        .flatten()
        .boxed()
    }

    /// The partitions with work. Read-only, streamed, in no particular order.
    #[must_use]
    pub fn find_candidates(&self, scope: Scope) -> BoxStream<'static, Candidate> {
        let candidates = |finding| async move {
            match finding {
                Finding::Candidate(candidate) => Some(candidate),
                Finding::Skipped(_) | Finding::Problem(_) | Finding::Unrecognised(_) => None,
            }
        };
        self.examine(scope).filter_map(candidates).boxed()
    }

    /// For what is done beside cycles: checking and repairing.
    pub(super) fn env(&self) -> &Arc<JobEnv> {
        &self.env
    }

    /// The identity of a new attempt at a partition.
    pub(super) fn new_attempt(&self, partition: &PartitionId) -> AttemptId {
        let random = self.random.lock().unwrap_or_else(PoisonError::into_inner).u64(..);
        AttemptId::new(partition, self.env.clock.now(), random)
    }

    /// The identity of a look at storage, for its temp folders.
    pub(super) fn new_check_id(&self) -> String {
        let random = self.random.lock().unwrap_or_else(PoisonError::into_inner).u64(..);
        format!("verify_{}_{random:016x}", self.env.clock.now().timestamp())
    }

    /// The jobs that are running now.
    #[must_use]
    pub fn active_jobs(&self) -> Vec<LiveJob> {
        self.live.list()
    }

    /// Asks a running job to stop at its next safe point.
    #[must_use]
    pub fn cancel(&self, job_id: &str) -> CancelOutcome {
        self.live.cancel(job_id)
    }

    /// From now on no job starts; running ones finish. Not durable.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Release);
    }

    /// Jobs may start again.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::Release);
    }

    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// The id of the running cycle.
    #[must_use]
    pub fn running_cycle(&self) -> Option<String> {
        self.turn.holder()
    }

    /// How many cycles of this manager have ended: what was found before the last end may be done by now.
    #[must_use]
    pub fn cycles_ended(&self) -> u64 {
        self.cycles_ended.load(Ordering::Acquire)
    }

    /// What scans found to do and no job has done yet. `None` before the first scan.
    #[must_use]
    pub fn backlog(&self) -> Option<Backlog> {
        self.backlog.get()
    }

    /// Totals over all jobs that ever ended, of all databases and of each.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn stats(&self) -> Result<Totals, StateError> {
        self.history.totals().await
    }

    /// The newest jobs that ended and match, newest first.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn history(&self, query: HistoryQuery) -> Result<Vec<JobReport>, StateError> {
        self.history.recent(query.filter, query.limit).await
    }

    /// The durable past, for what else there is to know of it.
    #[must_use]
    pub fn past(&self) -> &History {
        &self.history
    }

    /// Where history, quarantine and the switches of the service are kept.
    #[must_use]
    pub fn state(&self) -> &StateDb {
        self.history.state()
    }

    #[must_use]
    pub fn settings(&self) -> &CompactionSettings {
        &self.env.settings
    }

    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.env.storage
    }

    #[must_use]
    pub fn locks(&self) -> &Arc<dyn LockManager> {
        &self.env.locks
    }

    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.env.clock
    }

    /// Works on one partition now: settles it, and compacts it if the policy wants that, also if it would have to wait after
    /// failures.
    pub async fn compact_partition(
        &self,
        partition: &PartitionId,
        cancel: &CancellationToken,
    ) -> Result<AttemptReport, JobError> {
        self.probe().await.map_err(|source| JobError::Storage { step: "check storage", source })?;
        let assignment =
            Assignment { partition: partition.clone(), head_seen: Generation::default(), waits: Waits::Overridden };
        self.task(assignment, cancel).await
    }

    /// One cycle: clear what dead processes left, scan, and work through the candidates, several at a time.
    ///
    /// Failures of single partitions stand in the report and stop nobody (I9, I10). On cancellation running jobs stop at
    /// their next safe point, and the report says how many candidates were left. A scope of one partition is a wish to have
    /// it tried now: it does not wait after failures.
    pub async fn run_compaction_cycle(
        &self,
        scope: Scope,
        cancel: CancellationToken,
    ) -> Result<CycleReport, CycleError> {
        let turn = self.take_turn()?;
        Ok(self.run_cycle(turn, scope, cancel).await)
    }

    /// The same for a caller that wants the cycle's id before it runs.
    ///
    /// # Errors
    /// While another cycle of this manager runs, or compaction is paused.
    pub fn start_cycle(self: &Arc<Self>, scope: Scope, cancel: CancellationToken) -> Result<RunningCycle, CycleError> {
        let turn = self.take_turn()?;
        let (cycle_id, manager) = (turn.cycle_id.clone(), Arc::clone(self));
        let run = async move { manager.run_cycle(turn, scope, cancel).await }.boxed();
        Ok(RunningCycle { cycle_id, run })
    }

    fn take_turn(&self) -> Result<TurnGuard, CycleError> {
        if self.is_paused() {
            return Err(CycleError::Paused);
        }
        let random = self.random.lock().unwrap_or_else(PoisonError::into_inner).u32(..);
        let cycle_id = format!("cycle_{}_{random:08x}", self.env.clock.now().timestamp());
        self.turn.take(cycle_id).map_err(|cycle_id| CycleError::AlreadyRunning { cycle_id })
    }

    /// Whether storage is what safety rests on, and the leases if they are there. Asked until it is, then never again. Cycles
    /// ask by themselves before their first job; a server asks when it starts, so that a mistake shows at once.
    ///
    /// # Errors
    /// See [`crate::storage::Storage::probe`].
    pub async fn probe(&self) -> Result<(), StorageError> {
        let probe = || async {
            self.env.storage.probe().await?;
            match self.env.settings.lock_backend {
                LockBackend::Sqlite => Ok(()),
                LockBackend::Storage => self.env.storage.probe_update().await,
            }
        };
        self.probed.get_or_try_init(probe).await.copied()
    }
}
