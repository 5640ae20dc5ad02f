//! The manager: runs cycles. A cycle is one scan of storage and the jobs it started.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::sync::OnceCell;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backlog::{Backlog, BacklogKeeper, Seen};
use super::cycle::{Cycle, is_done};
use super::error::JobError;
use super::events::{Event, EventSink, RecoveryOutcome, Step};
use super::history::{History, HistoryQuery, Totals};
use super::job::{self, Assignment, Attempt, AttemptId, AttemptReport, JobEnv, LOG};
use super::ledger::{Ledger, Waits};
use super::live::{CancelOutcome, LiveJob, LiveJobs};
use super::permits::Permits;
use super::policy;
use super::queue::{Queue, Queued};
use super::report::{CycleReport, JobReport, JobStatus};
use super::scan::{self, Candidate, Finding, Scope, Work};
use super::settings::{CompactionSettings, LockBackend};
use super::sweep::{Extent, Sweeps};
use super::temp_space::TempBudget;
use super::turn::{Turn, TurnGuard};
use crate::clock::Clock;
use crate::lock::LockManager;
use crate::merge::{MergeEngine, MergeLimits};
use crate::partition::{Generation, PartitionId};
use crate::state::{StateDb, StateError};
use crate::storage::{OwnedDir, Storage, StorageError, Tally};

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

    async fn run_cycle(&self, turn: TurnGuard, scope: Scope, cancel: CancellationToken) -> CycleReport {
        let now = self.env.clock.now();
        let mut cycle = Cycle::begin(turn.cycle_id.clone(), now, self.sweeps.extent(scope.reach, now).await);
        drop(self.traffic.take());
        self.env.events.send(Event::CycleStarted { cycle_id: turn.cycle_id.clone() });
        self.clear_leftovers(&mut cycle).await;
        let waits = scope.waits();
        let queue = self.scan(scope, &mut cycle, &cancel).await;
        info!(target: LOG, candidates = queue.len(), "Found {} compaction candidates", queue.len());
        self.env.events.send(Event::CandidatesFound { count: queue.len() });
        cycle.report.candidates_left = queue.overflow();
        cycle.overflowed |= queue.overflow() > 0;
        if !queue.is_empty() {
            match self.probe().await {
                Ok(()) => self.work_through(self.own_order(queue), waits, &mut cycle, &cancel).await,
                Err(error) => {
                    cycle.leave(&self.env.settings, queue.into_fair_order());
                    cycle.problem(&self.env.storage.location(), &error);
                }
            }
        }
        if self.env.settings.recent_window.is_some() {
            self.sweeps.note(cycle.swept(), now).await;
        }
        cycle.report.storage = self.traffic.take();
        let report = cycle.end();
        self.cycles_ended.fetch_add(1, Ordering::AcqRel);
        // Whoever hears of the end may start the next one.
        drop(turn);
        self.env.events.send(Event::CycleFinished(Box::new(report.clone())));
        report
    }

    /// Removes what dead processes left: temp folders, staging folders, expired locks.
    async fn clear_leftovers(&self, cycle: &mut Cycle) {
        let temp_dir = self.env.settings.temp_dir.clone();
        let swept = tokio::task::spawn_blocking(move || OwnedDir::sweep(&temp_dir)).await;
        match swept {
            Ok(Ok(removed)) if removed.is_empty() => {}
            Ok(Ok(removed)) => info!(target: LOG, folders = removed.len(), "Removed temp folders of dead jobs"),
            Ok(Err(error)) => cycle.problem(&self.env.settings.temp_dir.display(), &error),
            Err(panic) => cycle.problem(&self.env.settings.temp_dir.display(), &panic),
        }
        match self.env.storage.sweep_staging().await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => info!(target: LOG, folders = removed.len(), "Removed staging folders of dead jobs"),
            Err(error) => cycle.problem(&self.env.storage.location(), &error),
        }
        if let Err(error) = self.env.locks.cleanup_expired_locks().await {
            cycle.problem(&"locks", &error);
        }
    }

    async fn scan(&self, scope: Scope, cycle: &mut Cycle, cancel: &CancellationToken) -> Queue {
        let mut queue = Queue::default();
        let standing = Arc::new(self.env.ledger.load().await);
        let waits = scope.waits();
        let mut seen = Seen::default();
        let extent = Arc::clone(&cycle.extent);
        let known = Arc::clone(&standing);
        let mut findings = scan::scan(Arc::clone(&self.env), scope.clone(), Arc::clone(&extent), known, waits);
        while let Some(finding) = findings.next().await {
            if cancel.is_cancelled() {
                // What was found and is forgotten now counts as left.
                cycle.overflowed = true;
                return queue;
            }
            match finding {
                Finding::Candidate(candidate) => {
                    cycle.report.partitions_scanned += 1;
                    seen.add(&candidate, self.ready_since(&candidate));
                    queue.push(&candidate);
                }
                Finding::Skipped(skipped) => {
                    cycle.report.partitions_scanned += 1;
                    if skipped.reason.is_settling() {
                        cycle.unfinished_at(&self.env.settings, &skipped.partition_path);
                    }
                    if skipped.reason.is_trouble() {
                        cycle.report.skipped.push(skipped);
                    }
                }
                Finding::Problem(problem) => {
                    warn!(target: LOG, place = problem.place, error = problem.error, "{}: {}", problem.place, problem.error);
                    cycle.unfinished_at(&self.env.settings, &problem.place);
                    cycle.report.problems.push(problem);
                }
                Finding::Unrecognised(path) => {
                    tracing::debug!(target: LOG, path, "Not an hour of a measurement, left alone");
                }
            }
        }
        self.env.ledger.forget_obsolete(&standing, self.env.clock.now()).await;
        let settings = &self.env.settings;
        let covered =
            |partition: &PartitionId| scope.covers(settings, partition) && extent.reaches(settings, partition);
        self.backlog.scanned(seen, self.env.clock.now(), covered);
        queue
    }

    /// The fair order. Workers that share a bucket begin at different points of it, so that they rarely collide.
    fn own_order(&self, queue: Queue) -> VecDeque<Queued> {
        let mut order = queue.into_fair_order();
        match self.env.settings.lock_backend {
            LockBackend::Sqlite => {}
            LockBackend::Storage => {
                let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
                order.rotate_left(random.usize(..order.len().max(1)));
            }
        }
        order
    }

    fn ready_since(&self, candidate: &Candidate) -> Option<DateTime<Utc>> {
        match &candidate.work {
            Work::Compact(plan) => {
                let settings = self.env.settings.for_partition(&candidate.partition);
                Some(policy::ready_since(plan, &settings.policy))
            }
            Work::Recover => None,
        }
    }

    async fn work_through(
        &self,
        mut queue: VecDeque<Queued>,
        waits: Waits,
        cycle: &mut Cycle,
        cancel: &CancellationToken,
    ) {
        let at_once = self.env.permits.jobs_at_once();
        let mut running: JoinSet<Result<AttemptReport, JobError>> = JoinSet::new();
        let mut partitions: HashMap<Id, PartitionId> = HashMap::new();
        loop {
            let may_start = || !cancel.is_cancelled() && !self.is_paused() && !cycle.out_of_time(&self.env.settings);
            while running.len() < at_once && may_start() {
                let Some(Queued { partition, head_seen }) = queue.pop_front() else { break };
                let assignment = Assignment { partition: partition.clone(), head_seen, waits };
                let task = running.spawn(self.task(assignment, cancel));
                partitions.insert(task.id(), partition);
            }
            let Some(ended) = running.join_next_with_id().await else { break };
            let (id, result) = match ended {
                Ok(ended) => ended,
                // Panics of jobs are caught before; this is one of the code around them.
                Err(error) => (error.id(), Err(JobError::Panicked(error.to_string()))),
            };
            let partition = partitions.remove(&id).expect("every task's partition was noted when it was spawned");
            if !is_done(&result) {
                cycle.unfinished_at(&self.env.settings, &partition.to_string());
            }
            cycle.add(&partition, result);
            self.env.events.send(Event::PartitionDone { partition });
        }
        cycle.leave(&self.env.settings, queue);
    }

    /// The work on one partition, with its entry among the active jobs.
    fn task(
        &self,
        assignment: Assignment,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<AttemptReport, JobError>> + Send + 'static {
        let partition = assignment.partition.clone();
        let id = self.new_attempt(&partition);
        let (env, history, backlog) = (Arc::clone(&self.env), self.history.clone(), Arc::clone(&self.backlog));
        let cancel = cancel.child_token();
        let job = LiveJob {
            job_id: id.job_id.clone(),
            partition: partition.clone(),
            step: Step::Settle,
            files: 0,
            bytes: 0,
            progress: 0.0,
            started_at: env.clock.now(),
            worker_id: env.locks.worker_id().to_string(),
            cancelling: false,
        };
        let entry = self.live.add(job, cancel.clone());
        async move {
            let result = job::attempt(&env, &assignment, id, cancel).await;
            for outcome in recoveries(&result) {
                env.events.send(Event::Recovered { partition: partition.clone(), outcome });
            }
            if let Err(JobError::LeaseLost { .. }) = &result {
                env.events.send(Event::LeaseLost { partition: partition.clone() });
            }
            if let Ok(AttemptReport { attempt, .. }) = &result {
                if !matches!(attempt, Attempt::Ran(report) if report.status != JobStatus::Completed) {
                    backlog.done(&partition);
                }
                if let Attempt::Ran(report) = attempt {
                    if let Err(error) = history.record(report).await {
                        warn!(target: LOG, job_id = report.job_id, %error, "The job's report could not be kept in the history");
                    }
                    env.events.send(Event::JobFinished(report.clone()));
                }
            }
            drop(entry);
            result
        }
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

/// What the attempt cleared away of earlier ones.
fn recoveries(result: &Result<AttemptReport, JobError>) -> Vec<RecoveryOutcome> {
    match result {
        Ok(report) => {
            let tidied = report.settled.retired_deleted + report.settled.dead_deleted > 0;
            let voided = report.settled.voided > 0;
            let outcomes = [(tidied, RecoveryOutcome::Tidied), (voided, RecoveryOutcome::Voided)];
            outcomes.into_iter().filter_map(|(happened, outcome)| happened.then_some(outcome)).collect()
        }
        Err(JobError::FailClosed { .. }) => vec![RecoveryOutcome::FailedClosed],
        Err(_) => Vec::new(),
    }
}
