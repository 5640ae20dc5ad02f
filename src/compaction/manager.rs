//! The manager: runs cycles. A cycle is one scan of storage and the jobs it started.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::OnceCell;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::error::{Disposition, JobError};
use super::events::{Event, EventSink};
use super::job::{self, Attempt, AttemptId, AttemptReport, JobEnv, LOG};
use super::queue::Queue;
use super::report::{CycleReport, JobStatus, Problem, Skipped, duration_seconds};
use super::scan::{self, Candidate, Finding, Scope};
use super::settings::CompactionSettings;
use super::temp_space::TempBudget;
use crate::clock::Clock;
use crate::lock::LockManager;
use crate::merge::{MergeEngine, MergeLimits};
use crate::partition::PartitionId;
use crate::storage::{OwnedDir, Storage, StorageError};

/// The parts that a manager works with.
#[derive(Debug)]
pub struct Components {
    pub storage: Storage,
    pub locks: Arc<dyn LockManager>,
    pub engine: Arc<dyn MergeEngine>,
    pub clock: Arc<dyn Clock>,
    /// What one merge may use.
    pub limits: MergeLimits,
    pub events: EventSink,
    /// Seed of the attempts' unique names. Two managers must not share one.
    pub seed: u64,
}

/// A job that is running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveJob {
    pub job_id: String,
    pub partition: PartitionId,
}

/// Why a cycle did not start.
#[derive(Debug, thiserror::Error)]
pub enum CycleError {
    /// A cycle of this manager is running.
    #[error("a compaction cycle is already running")]
    AlreadyRunning,
}

/// Runs compaction over one storage.
pub struct CompactionManager {
    env: Arc<JobEnv>,
    random: Mutex<fastrand::Rng>,
    active: Arc<Mutex<BTreeMap<String, (PartitionId, CancellationToken)>>>,
    cycle: tokio::sync::Mutex<()>,
    /// Storage's duties are checked once, before the first write.
    probed: OnceCell<()>,
}

impl fmt::Debug for CompactionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactionManager").field("env", &self.env).finish_non_exhaustive()
    }
}

impl CompactionManager {
    #[must_use]
    pub fn new(components: Components, settings: CompactionSettings) -> Self {
        let Components { storage, locks, engine, clock, limits, events, seed } = components;
        let temp_budget = TempBudget::new(settings.max_temp_bytes);
        let settings = Arc::new(settings);
        Self {
            env: Arc::new(JobEnv { storage, locks, engine, clock, settings, limits, temp_budget, events }),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            active: Arc::default(),
            cycle: tokio::sync::Mutex::new(()),
            probed: OnceCell::new(),
        }
    }

    /// Everything in scope, with what there is to do or why there is nothing. Read-only, streamed.
    #[must_use]
    pub fn examine(&self, scope: Scope) -> BoxStream<'static, Finding> {
        scan::scan(Arc::clone(&self.env), scope)
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
    pub fn active_jobs(&self) -> Vec<ActiveJob> {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.iter().map(|(id, (p, _))| ActiveJob { job_id: id.clone(), partition: p.clone() }).collect()
    }

    /// Asks a running job to stop at its next safe point. `false`: no such job is running.
    #[must_use]
    pub fn cancel(&self, job_id: &str) -> bool {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.get(job_id).map(|(_, cancel)| cancel.cancel()).is_some()
    }

    /// Works on one partition now: settles it, and compacts it if the policy wants that.
    pub async fn compact_partition(
        &self,
        partition: &PartitionId,
        cancel: &CancellationToken,
    ) -> Result<AttemptReport, JobError> {
        self.probe().await.map_err(|source| JobError::Storage { step: "check storage", source })?;
        self.task(partition.clone(), cancel).await
    }

    /// One cycle: clear what dead processes left, scan, and work through the candidates, several at a time.
    ///
    /// Failures of single partitions stand in the report and stop nobody (I9, I10). On cancellation running jobs stop at
    /// their next safe point, and the report says how many candidates were left.
    pub async fn run_compaction_cycle(
        &self,
        scope: Scope,
        cancel: CancellationToken,
    ) -> Result<CycleReport, CycleError> {
        let Ok(_one_at_a_time) = self.cycle.try_lock() else { return Err(CycleError::AlreadyRunning) };
        let mut cycle = Cycle::begin(self);
        self.clear_leftovers(&mut cycle).await;
        let queue = self.scan(scope, &mut cycle, &cancel).await;
        info!(target: LOG, candidates = queue.len(), "Found {} compaction candidates", queue.len());
        self.env.events.send(Event::CandidatesFound { count: queue.len() });
        cycle.report.candidates_left = queue.overflow();
        if !queue.is_empty() {
            match self.probe().await {
                Ok(()) => self.work_through(queue.into_fair_order(), &mut cycle, &cancel).await,
                Err(error) => {
                    cycle.report.candidates_left += queue.len() as u64;
                    cycle.problem(&self.env.storage.location(), &error);
                }
            }
        }
        let report = cycle.end();
        self.env.events.send(Event::CycleFinished(Box::new(report.clone())));
        Ok(report)
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
        let mut findings = self.examine(scope);
        while let Some(finding) = findings.next().await {
            if cancel.is_cancelled() {
                break;
            }
            match finding {
                Finding::Candidate(candidate) => {
                    cycle.report.partitions_scanned += 1;
                    queue.push(&candidate);
                }
                Finding::Skipped(_) => cycle.report.partitions_scanned += 1,
                Finding::Problem(problem) => {
                    warn!(target: LOG, place = problem.place, error = problem.error, "{}: {}", problem.place, problem.error);
                    cycle.report.problems.push(problem);
                }
                Finding::Unrecognised(path) => {
                    tracing::debug!(target: LOG, path, "Not an hour of a measurement, left alone");
                }
            }
        }
        queue
    }

    async fn work_through(&self, mut queue: VecDeque<PartitionId>, cycle: &mut Cycle, cancel: &CancellationToken) {
        let at_once = self.env.settings.max_concurrent_jobs.get();
        let mut running: JoinSet<Result<AttemptReport, JobError>> = JoinSet::new();
        let mut partitions: HashMap<Id, PartitionId> = HashMap::new();
        loop {
            while running.len() < at_once && !cancel.is_cancelled() && !cycle.out_of_time(&self.env.settings) {
                let Some(partition) = queue.pop_front() else { break };
                let task = running.spawn(self.task(partition.clone(), cancel));
                partitions.insert(task.id(), partition);
            }
            let Some(ended) = running.join_next_with_id().await else { break };
            let (id, result) = match ended {
                Ok(ended) => ended,
                // Panics of jobs are caught before; this is one of the code around them.
                Err(error) => (error.id(), Err(JobError::Panicked(error.to_string()))),
            };
            let partition = partitions.remove(&id).expect("every task's partition was noted when it was spawned");
            cycle.add(&partition, result);
            self.env.events.send(Event::PartitionDone { partition });
        }
        cycle.report.candidates_left += queue.len() as u64;
    }

    /// The work on one partition, with its entry among the active jobs.
    fn task(
        &self,
        partition: PartitionId,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<AttemptReport, JobError>> + Send + 'static {
        let id = self.new_attempt(&partition);
        let env = Arc::clone(&self.env);
        let cancel = cancel.child_token();
        let entry = ActiveEntry::add(&self.active, &id.job_id, &partition, &cancel);
        async move {
            let result = job::attempt(&env, &partition, id, cancel).await;
            if let Ok(AttemptReport { attempt: Attempt::Ran(report), .. }) = &result {
                env.events.send(Event::JobFinished(report.clone()));
            }
            drop(entry);
            result
        }
    }

    pub(super) async fn probe(&self) -> Result<(), StorageError> {
        self.probed.get_or_try_init(|| self.env.storage.probe()).await.copied()
    }
}

/// A running job's entry, removed when dropped, also by a panic.
struct ActiveEntry {
    active: Arc<Mutex<BTreeMap<String, (PartitionId, CancellationToken)>>>,
    job_id: String,
}

impl ActiveEntry {
    fn add(
        active: &Arc<Mutex<BTreeMap<String, (PartitionId, CancellationToken)>>>,
        job_id: &str,
        partition: &PartitionId,
        cancel: &CancellationToken,
    ) -> Self {
        let entry = (partition.clone(), cancel.clone());
        active.lock().unwrap_or_else(PoisonError::into_inner).insert(job_id.to_owned(), entry);
        Self { active: Arc::clone(active), job_id: job_id.to_owned() }
    }
}

impl Drop for ActiveEntry {
    fn drop(&mut self) {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.job_id);
    }
}

/// A running cycle and what it has to report so far.
struct Cycle {
    started: Instant,
    report: CycleReport,
}

impl Cycle {
    fn begin(manager: &CompactionManager) -> Self {
        let now = manager.env.clock.now();
        let random = manager.random.lock().unwrap_or_else(PoisonError::into_inner).u32(..);
        let report = CycleReport {
            cycle_id: format!("cycle_{}_{random:08x}", now.timestamp()),
            started_at: now,
            duration_seconds: 0.0,
            partitions_scanned: 0,
            jobs_completed: 0,
            jobs_failed: 0,
            jobs_skipped: 0,
            partitions_tidied: 0,
            files_compacted: 0,
            files_written: 0,
            rows: 0,
            bytes_before: 0,
            bytes_after: 0,
            candidates_left: 0,
            jobs: Vec::new(),
            skipped: Vec::new(),
            problems: Vec::new(),
        };
        Self { started: Instant::now(), report }
    }

    fn out_of_time(&self, settings: &CompactionSettings) -> bool {
        settings.cycle_timeout.is_some_and(|limit| self.started.elapsed() >= limit)
    }

    fn problem(&mut self, place: &impl ToString, error: &dyn std::error::Error) {
        let problem = Problem { place: place.to_string(), error: error.to_string() };
        error!(target: LOG, place = problem.place, error = problem.error, "{}: {}", problem.place, problem.error);
        self.report.problems.push(problem);
    }

    /// Counts what happened, after the fact, by outcome (T62).
    fn add(&mut self, partition: &PartitionId, result: Result<AttemptReport, JobError>) {
        let report = &mut self.report;
        match result {
            Ok(AttemptReport { attempt, settled, untidied }) => {
                if let Some(error) = untidied.filter(|e| e.disposition() != Disposition::Yield) {
                    report.problems.push(Problem { place: partition.to_string(), error: error.to_string() });
                }
                if settled.anything() {
                    report.partitions_tidied += 1;
                }
                match attempt {
                    Attempt::Ran(job) => {
                        match job.status {
                            JobStatus::Completed => report.jobs_completed += 1,
                            JobStatus::Failed => report.jobs_failed += 1,
                            JobStatus::Cancelled => report.jobs_skipped += 1,
                        }
                        report.files_compacted += job.files_compacted;
                        report.files_written += job.files_written;
                        report.rows += job.rows;
                        report.bytes_before += job.bytes_before;
                        report.bytes_after += job.bytes_after;
                        report.jobs.push(*job);
                    }
                    Attempt::Skipped(reason) => {
                        report.jobs_skipped += 1;
                        report.skipped.push(Skipped { partition_path: partition.to_string(), reason });
                    }
                }
            }
            Err(error) if error.disposition() == Disposition::Yield => report.jobs_skipped += 1,
            Err(error) => {
                report.jobs_failed += 1;
                self.problem(partition, &error);
            }
        }
    }

    fn end(mut self) -> CycleReport {
        let report = &mut self.report;
        report.duration_seconds = duration_seconds(self.started.elapsed());
        info!(target: LOG, cycle_id = report.cycle_id, partitions_scanned = report.partitions_scanned,
            jobs_completed = report.jobs_completed, jobs_failed = report.jobs_failed, jobs_skipped = report.jobs_skipped,
            candidates_left = report.candidates_left, files_compacted = report.files_compacted,
            bytes_before = report.bytes_before, bytes_after = report.bytes_after,
            "Compaction cycle completed in {:.1}s", report.duration_seconds);
        self.report
    }
}
