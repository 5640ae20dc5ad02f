//! A job: one attempt to compact one partition. The steps stand in [`Job::run`], top to bottom.
//!
//! ```text
//! lease ── settle ── decide ── fetch ── merge, prove ── publish ── read back, re-check ── create record ── tidy
//!                    pure      |------ local, invisible ------|   invisible to readers    THE COMMIT      by anyone
//! ```
//!
//! Up to the commit nothing has happened that counts: stopping anywhere leaves at most invisible files, which the next
//! settle removes. After the commit nothing can fail any more that matters: tidying is anybody's, any time. That is why a
//! job that has committed reports success even if its tidy fails, and a job that has not never deletes an input.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::attempts::{Begun, Ended};
use super::backoff;
use super::commit;
use super::error::JobError;
use super::events::{Event, EventSink, Step};
use super::lease_guard::{Asked, LeaseGuard};
use super::ledger::{Known, Ledger, VERSION, Waits};
use super::observe::View;
use super::permits::Permits;
use super::plan::{Decision, Plan, SkipReason};
use super::policy::{self, Situation};
use super::quarantine::QuarantinedInput;
use super::record::Author;
use super::report::JobReport;
use super::settings::{CompactionSettings, PartitionSettings};
use super::settle::{Settled, settle, settle_after};
use super::temp_space::{self, NoSpace, TempBudget};
use crate::clock::Clock;
use crate::lock::{Acquired, LockManager};
use crate::merge::{
    MergeEngine, MergeError, MergeInput, MergeLimits, MergeOutcome, MergeRequest, ProgressSink, SetAside,
};
use crate::partition::{CompactedName, Generation, PartitionId};
use crate::storage::{OwnedDir, Storage};

mod bookkeeping;
mod checks;
mod telling;
mod transfer;

use self::bookkeeping::ended;
pub use self::checks::missing_sort_column;
use self::checks::{consumed_inputs, worth_publishing};

/// The logger of everything that a job does.
pub(super) const LOG: &str = "storage.compaction";

/// Temp space of a local job, in multiples of its input: slices and the outputs stitched from them, with room to spare.
const TEMP_FACTOR_IN_PLACE: u64 = 2;
/// The same when the inputs are fetched to the temp folder first.
const TEMP_FACTOR_FETCHED: u64 = 3;

/// What every job needs.
#[derive(Debug)]
pub struct JobEnv {
    pub storage: Storage,
    pub locks: Arc<dyn LockManager>,
    pub engine: Arc<dyn MergeEngine>,
    pub clock: Arc<dyn Clock>,
    pub settings: Arc<CompactionSettings>,
    pub limits: MergeLimits,
    pub temp_budget: TempBudget,
    pub(super) permits: Permits,
    pub ledger: Ledger,
    pub events: EventSink,
}

impl JobEnv {
    /// Why a plan is not tried now, although the policy wants it.
    #[must_use]
    pub fn reason_to_wait(
        &self,
        known: &Known,
        plan: &Plan,
        settings: &PartitionSettings,
        waits: Waits,
    ) -> Option<SkipReason> {
        let failures = known.failures.as_ref().filter(|_| waits == Waits::Kept)?;
        let inputs = self.fingerprint(plan, settings);
        backoff::reason_to_wait(failures, &inputs, self.settings.max_attempts, self.clock.now())
    }

    fn fingerprint(&self, plan: &Plan, settings: &PartitionSettings) -> String {
        backoff::fingerprint(plan, &settings.merge, &self.limits, VERSION)
    }
}

/// How an attempt at a partition ended.
#[derive(Debug)]
pub enum Attempt {
    /// A job ran, well or badly.
    Ran(Box<JobReport>),
    /// There was nothing to do after all, or it cannot be done now.
    Skipped(SkipReason),
}

/// An attempt, and what it cleared away besides.
#[derive(Debug)]
pub struct AttemptReport {
    pub attempt: Attempt,
    pub settled: Settled,
    /// Why the inputs of a job that has committed are not deleted yet. They do not count any more, and the next cycle
    /// tries again, but somebody may wait for the space or read the folder with a glob.
    pub untidied: Option<JobError>,
}

/// The identity of an attempt.
#[derive(Debug, Clone)]
pub struct AttemptId {
    /// `{measurement}_{YYYY}_{MM}_{DD}_{HH}_{unix seconds}_{unique}`.
    pub job_id: String,
    /// 12 hexadecimal digits, also in the names of the attempt's outputs.
    pub unique: String,
}

impl AttemptId {
    #[must_use]
    pub fn new(partition: &PartitionId, now: DateTime<Utc>, random: u64) -> Self {
        let unique = format!("{:012x}", random & 0xffff_ffff_ffff);
        let hour = partition.hour().to_string().replace('/', "_");
        let measurement = crate::partition::short(partition.measurement());
        Self { job_id: format!("{measurement}_{hour}_{}_{unique}", now.timestamp()), unique }
    }
}

/// What is to be tried.
#[derive(Debug, Clone)]
pub struct Assignment {
    pub partition: PartitionId,
    /// The generation of the partition's head when somebody last looked. Saves a request while it is still true.
    pub head_seen: Generation,
    pub waits: Waits,
}

/// Works on one partition: takes the lease, brings the partition to rest, and runs a job if the policy wants one.
pub async fn attempt(
    env: &JobEnv,
    assignment: &Assignment,
    id: AttemptId,
    cancel: CancellationToken,
) -> Result<AttemptReport, JobError> {
    let partition = &assignment.partition;
    let ttl = env.settings.lock_ttl;
    let asked = Asked::now(Arc::clone(&env.clock), ttl);
    let lease = match env.locks.acquire_lock(partition, ttl).await? {
        Acquired::Yes(lease) => lease,
        Acquired::HeldBy(holder) => {
            info!(target: LOG, partition = %partition, holder = %holder.worker_id, until = %holder.expires_at,
                "partition already locked");
            let reason = SkipReason::Locked { worker_id: holder.worker_id.to_string(), until: holder.expires_at };
            return Ok(AttemptReport {
                attempt: Attempt::Skipped(reason),
                settled: Settled::default(),
                untidied: None,
            });
        }
    };
    // A lost lease stops the job like a cancellation, and is told apart by the guard.
    let stop = cancel.child_token();
    let lost = CancellationToken::new();
    let guard = LeaseGuard::hold(Arc::clone(&env.locks), lease, asked, lost.clone());
    let stopper = stop.clone();
    let linked = tokio::task::JoinSet::from_iter([async move {
        lost.cancelled().await;
        stopper.cancel();
    }]);
    // A panic is a bug, and costs this attempt and nothing else (I10): caught here, it does not keep the lease.
    let job = Job { env, partition, id, assignment, guard: &guard, stop, begun: Mutex::default() };
    let result = AssertUnwindSafe(job.run()).catch_unwind().await;
    let result = match result {
        Ok(result) => result,
        Err(payload) => {
            let error = JobError::Panicked(panic_message(payload.as_ref()));
            job.end_attempt(ended(&error)).await;
            Err(error)
        }
    };
    drop(linked);
    guard.release().await;
    result
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("the job panicked").to_owned()
}

/// A running attempt, under its lease.
struct Job<'a> {
    env: &'a JobEnv,
    partition: &'a PartitionId,
    id: AttemptId,
    assignment: &'a Assignment,
    guard: &'a LeaseGuard,
    /// Cancelled when somebody asks for it, or when the lease is lost.
    stop: CancellationToken,
    /// The attempt as it was written down before it began, until its end is.
    begun: Mutex<Option<Begun>>,
}

/// What is known of a job while it runs; becomes its report.
struct Facts {
    started: Instant,
    started_at: DateTime<Utc>,
    step: Step,
    set_aside: Vec<SetAside>,
    quarantined: Vec<QuarantinedInput>,
    peak_memory_bytes: u64,
    /// Set when the record exists, and never before (T62, T67).
    committed: Option<Committed>,
}

struct Committed {
    outcome: MergeOutcome,
    bytes_before: u64,
}

impl Job<'_> {
    async fn run(&self) -> Result<AttemptReport, JobError> {
        let (view, settled) =
            settle(self.env, self.partition, self.assignment.head_seen, || self.acting(Step::Settle)).await?;
        let settings = self.env.settings.for_partition(self.partition);
        let skipped = |reason| Ok(AttemptReport { attempt: Attempt::Skipped(reason), settled, untidied: None });
        let known = self.env.ledger.of(self.partition).await;
        let now = self.env.clock.now();
        let situation = Situation { partition: self.partition, view: &view, held_back: &known.held_back(now), now };
        let plan = match policy::decide(situation, &settings.policy) {
            Decision::Compact(plan) => plan,
            Decision::Skip(reason) => return skipped(reason),
        };
        if let Some(reason) = self.env.reason_to_wait(&known, &plan, &settings, self.assignment.waits) {
            return skipped(reason);
        }
        let missing = missing_sort_column(&self.env.storage, &plan, &settings).await;
        if let Some(reason) = self.or_overtaken(&view, missing).await? {
            return skipped(reason);
        }
        let need_bytes = self.temp_need(&plan);
        let dir = self.temp_dir()?;
        let free = || temp_space::free_bytes(dir.path());
        let Some(reserved) = self.stop.run_until_cancelled(self.env.temp_budget.reserve(need_bytes, free)).await else {
            return self.stopped(Step::Fetch);
        };
        let space = match reserved {
            Ok(space) => space,
            Err(NoSpace::Unknown(e)) => return Err(self.temp_error("look for free space in", &e)),
            Err(NoSpace::DoesNotFit(no)) => {
                let path = self.env.settings.temp_dir.display().to_string();
                return skipped(SkipReason::NoTempSpace { need_bytes, free_bytes: no.free_bytes, path });
            }
        };

        let mut facts = Facts {
            started: Instant::now(),
            started_at: self.env.clock.now(),
            step: Step::Fetch,
            set_aside: Vec::new(),
            quarantined: Vec::new(),
            peak_memory_bytes: 0,
            committed: None,
        };
        self.begin_attempt(&plan, &settings).await;
        self.say_started(&plan);
        let result = self.compact(&view, (&plan, &known), &settings, dir.path(), &mut facts).await;
        if let Err(error) = dir.remove() {
            warn!(target: LOG, job_id = self.id.job_id, %error, "The job's temp folder could not be removed; the next cycle will");
        }
        drop(space);
        if let Err(JobError::Merge(MergeError::NothingToMerge(set_aside))) = result {
            let (quarantined, _) = self.quarantine(&plan, &known, set_aside.clone()).await;
            // Without the files now in quarantine the next plan is another one. When they come back, it is this one again.
            let taken_in = !quarantined.is_empty();
            let error = MergeError::NothingToMerge(set_aside.clone()).into();
            self.end_attempt(if taken_in { Ended::Succeeded } else { ended(&error) }).await;
            return skipped(SkipReason::NothingToMerge { set_aside });
        }
        self.end_attempt(result.as_ref().map_or_else(ended, |()| Ended::Succeeded)).await;
        // Won, lost or unknown: forget everything, and tidy from what storage says now.
        let head = if result.is_ok() { plan.generation } else { view.head.generation() };
        let untidied =
            if self.guard.is_lost() { None } else { self.tidy_after(&mut facts, head, result.is_ok()).await };
        let report = self.report(&plan, facts, result);
        Ok(AttemptReport { attempt: Attempt::Ran(Box::new(report)), settled, untidied })
    }

    /// Fetch to commit. An error means that the job's record does not exist, or that nobody knows.
    async fn compact(
        &self,
        view: &View,
        (plan, known): (&Plan, &Known),
        settings: &PartitionSettings,
        dir: &Path,
        facts: &mut Facts,
    ) -> Result<(), JobError> {
        let storage = &self.env.storage;

        facts.step = self.begin(Step::Fetch)?;
        let (inputs, spoiled) = self.or_overtaken(view, self.fetch(view, plan, dir).await).await?;

        // Others may be merging; the files of this job wait on disk.
        let Some(permit) = self.stop.run_until_cancelled(self.env.permits.to_merge()).await else {
            return self.stopped(Step::Merge);
        };
        facts.step = self.begin(Step::Merge)?;
        let outcome = match self.merge(plan, settings, inputs, dir).await {
            Err(JobError::Merge(MergeError::NothingToMerge(mut set_aside))) => {
                set_aside.extend(spoiled);
                return Err(MergeError::NothingToMerge(self.still_there(set_aside).await?).into());
            }
            merged => {
                let mut merged = merged?;
                merged.set_aside.extend(spoiled);
                merged
            }
        };
        drop(permit);
        let consumed = consumed_inputs(plan, &outcome)?;
        if !worth_publishing(self.partition, &consumed) {
            return Err(MergeError::NothingToMerge(self.still_there(outcome.set_aside).await?).into());
        }
        let set_aside = self.still_there(outcome.set_aside.clone()).await?;
        // Before the commit: once the others are merged, nobody may look at a file that is left alone for a day.
        (facts.quarantined, facts.set_aside) = self.quarantine(plan, known, set_aside).await;
        facts.peak_memory_bytes = outcome.peak_memory_bytes;

        facts.step = self.begin(Step::Publish)?;
        // Checked again after publishing, which is the check that counts. But once the outputs are there, an input that
        // somebody deleted meanwhile (a retention process, say) makes the attempt one that only a person may close (V2).
        // A merge takes long, publishing does not.
        self.recheck(view, &consumed).await?;
        let files: Vec<(PathBuf, String)> = outcome.outputs.iter().map(|f| (f.path.clone(), f.name.clone())).collect();
        let write = |source| JobError::Write { step: "publish", source };
        let prepared = storage.prepare(self.partition, &self.id.job_id, &files, &self.stop).await;
        let publication = match prepared {
            Ok(publication) => publication,
            Err(error) => {
                self.check(Step::Publish)?;
                return Err(write(error));
            }
        };
        if let Err(stopped) = self.check(Step::Publish) {
            publication.abort().await;
            return Err(stopped);
        }
        publication.complete().await.map_err(write)?;

        facts.step = self.begin(Step::ReadBack)?;
        self.or_overtaken(view, self.read_back(&outcome.outputs).await).await?;
        self.recheck(view, &consumed).await?;

        facts.step = self.begin(Step::Commit)?;
        let record = view.head.commit(self.author(), &view.listing, &consumed, &outcome);
        commit::create(storage, self.partition, &record, || !self.guard.is_lost()).await?;
        self.confirm(&record, &outcome).await?;
        facts.committed = Some(Committed { outcome, bytes_before: record.inputs.size_bytes });
        Ok(())
    }

    /// A safe point: stops here if somebody wants it, else says that the step begins.
    fn begin(&self, step: Step) -> Result<Step, JobError> {
        self.check(step)?;
        self.env.events.send(Event::JobStep { job_id: self.id.job_id.clone(), step });
        Ok(step)
    }

    fn check(&self, step: Step) -> Result<(), JobError> {
        if self.guard.is_lost() {
            Err(JobError::LeaseLost { step: step.as_str() })
        } else if self.stop.is_cancelled() {
            Err(JobError::Cancelled { step: step.as_str() })
        } else {
            Ok(())
        }
    }

    /// For what was given up because somebody wants the job to stop.
    fn stopped<T>(&self, step: Step) -> Result<T, JobError> {
        self.check(step)?;
        Err(JobError::Cancelled { step: step.as_str() })
    }

    /// In whose name the next change is made, while the lease is held.
    fn acting(&self, step: Step) -> Result<Author, JobError> {
        if self.guard.is_lost() { Err(JobError::LeaseLost { step: step.as_str() }) } else { Ok(self.author()) }
    }

    fn author(&self) -> Author {
        let lease = self.guard.lease();
        Author {
            job_id: self.id.job_id.clone(),
            worker_id: lease.worker_id.to_string(),
            lease_token: lease.token,
            created_at: self.env.clock.now(),
        }
    }

    fn temp_dir(&self) -> Result<OwnedDir, JobError> {
        OwnedDir::create(&self.env.settings.temp_dir, &self.id.job_id)
            .map_err(|source| JobError::Storage { step: "make the job's temp folder", source })
    }

    fn temp_error(&self, action: &'static str, error: &dyn std::error::Error) -> JobError {
        let path = self.env.settings.temp_dir.display().to_string();
        JobError::TempFolder { action, path, detail: error.to_string() }
    }

    /// Bytes that the job may need in its temp folder at once.
    fn temp_need(&self, plan: &Plan) -> u64 {
        plan.input_bytes() * if self.reads_in_place() { TEMP_FACTOR_IN_PLACE } else { TEMP_FACTOR_FETCHED }
    }

    async fn merge(
        &self,
        plan: &Plan,
        settings: &PartitionSettings,
        inputs: Vec<MergeInput>,
        dir: &Path,
    ) -> Result<MergeOutcome, JobError> {
        let work_dir = std::path::absolute(dir.join("merge")).map_err(|e| self.temp_error("resolve", &e))?;
        tokio::fs::create_dir(&work_dir).await.map_err(|e| self.temp_error("create", &e))?;
        let request = MergeRequest {
            job_id: self.id.job_id.clone(),
            work_dir,
            inputs,
            output_stem: CompactedName::stem(self.partition, plan.generation, &self.id.unique),
            generation: plan.generation.0,
            options: settings.merge.clone(),
            // Only a bound that somebody set is passed on; otherwise the disk is the bound.
            limits: MergeLimits {
                temp_bytes: self.env.settings.max_temp_bytes.map(|_| self.temp_need(plan)),
                ..self.env.limits
            },
        };
        let (events, job_id) = (self.env.events.clone(), self.id.job_id.clone());
        let progress = ProgressSink::new(move |progress| {
            events.send(Event::JobProgress { job_id: job_id.clone(), progress });
        });
        match self.env.engine.merge(request, progress, self.stop.clone()).await {
            Ok(outcome) => Ok(outcome),
            Err(MergeError::Cancelled) => {
                self.check(Step::Merge)?;
                Err(MergeError::Cancelled.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Clears away what the head says is over, or what this attempt leaves. Never changes how the job ended; gives the
    /// error that keeps a committed job's inputs.
    async fn tidy_after(&self, facts: &mut Facts, head: Generation, committed: bool) -> Option<JobError> {
        if committed {
            facts.step = Step::Tidy;
            self.env.events.send(Event::JobStep { job_id: self.id.job_id.clone(), step: Step::Tidy });
        }
        let error = settle_after(self.env, self.partition, head, || self.acting(Step::Tidy)).await.err()?;
        warn!(target: LOG, job_id = self.id.job_id, partition = %self.partition, %error,
            "Tidying is left to the next cycle");
        committed.then_some(error)
    }
}
