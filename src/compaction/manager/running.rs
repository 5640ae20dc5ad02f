//! One cycle, from the first look to the last job's end.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::CompactionManager;
use crate::compaction::backlog::Seen;
use crate::compaction::cycle::{Cycle, is_done};
use crate::compaction::error::JobError;
use crate::compaction::events::{Event, RecoveryOutcome, Step};
use crate::compaction::job::{self, Assignment, Attempt, AttemptReport, LOG};
use crate::compaction::ledger::Waits;
use crate::compaction::live::LiveJob;
use crate::compaction::policy;
use crate::compaction::queue::{Queue, Queued};
use crate::compaction::report::{CycleReport, JobStatus};
use crate::compaction::scan::{self, Candidate, Finding, Scope, Work};
use crate::compaction::settings::LockBackend;
use crate::compaction::turn::TurnGuard;
use crate::partition::PartitionId;
use crate::storage::OwnedDir;

impl CompactionManager {
    pub(super) async fn run_cycle(&self, turn: TurnGuard, scope: Scope, cancel: CancellationToken) -> CycleReport {
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
    pub(super) fn task(
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
