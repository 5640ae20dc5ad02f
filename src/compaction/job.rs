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
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::commit;
use super::error::{Disposition, JobError};
use super::events::{Event, EventSink, Step};
use super::footer::{self, FooterError};
use super::lease_guard::LeaseGuard;
use super::observe::{View, read_head};
use super::plan::{Decision, Plan, SkipReason};
use super::policy;
use super::record::Author;
use super::report::{JobReport, JobStatus, compression_ratio, duration_seconds};
use super::settings::{CompactionSettings, PartitionSettings};
use super::settle::{Settled, settle};
use super::temp_space::{self, TempBudget};
use crate::clock::Clock;
use crate::lock::{Acquired, LockManager};
use crate::merge::{
    MergeEngine, MergeError, MergeInput, MergeLimits, MergeOutcome, MergeRequest, MergedFile, ProgressSink, SetAside,
};
use crate::partition::{CompactedName, DataFile, FileKind, Listing, PartitionId, RecordEntry};
use crate::storage::{OwnedDir, Storage};

/// The logger of everything that a job does.
pub(super) const LOG: &str = "storage.compaction";

/// Objects of one job that are fetched, or read back, at the same time.
const TRANSFERS_AT_ONCE: usize = 8;
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
    pub events: EventSink,
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

/// Works on one partition: takes the lease, brings the partition to rest, and runs a job if the policy wants one.
pub async fn attempt(
    env: &JobEnv,
    partition: &PartitionId,
    id: AttemptId,
    cancel: CancellationToken,
) -> Result<AttemptReport, JobError> {
    let ttl = env.settings.lock_ttl;
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
    let guard = LeaseGuard::hold(Arc::clone(&env.locks), lease, ttl, lost.clone());
    let stopper = stop.clone();
    let linked = tokio::task::JoinSet::from_iter([async move {
        lost.cancelled().await;
        stopper.cancel();
    }]);
    // A panic is a bug, and costs this attempt and nothing else (I10): caught here, it does not keep the lease.
    let job = Job { env, partition, id, guard: &guard, stop };
    let result = AssertUnwindSafe(job.run()).catch_unwind().await;
    let result = result.unwrap_or_else(|payload| Err(JobError::Panicked(panic_message(payload.as_ref()))));
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
    guard: &'a LeaseGuard,
    /// Cancelled when somebody asks for it, or when the lease is lost.
    stop: CancellationToken,
}

/// What is known of a job while it runs; becomes its report.
struct Facts {
    started: Instant,
    started_at: DateTime<Utc>,
    step: Step,
    set_aside: Vec<SetAside>,
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
        let (view, settled) = settle(self.env, self.partition, || self.author()).await?;
        let settings = self.env.settings.for_partition(self.partition);
        let skipped = |reason| Ok(AttemptReport { attempt: Attempt::Skipped(reason), settled, untidied: None });
        let plan = match policy::decide(self.partition, &view, &settings.policy, self.env.clock.now()) {
            Decision::Compact(plan) => plan,
            Decision::Skip(reason) => return skipped(reason),
        };
        if let Some(reason) = missing_sort_column(&self.env.storage, &plan, &settings).await? {
            return skipped(reason);
        }
        let need_bytes = self.temp_need(&plan);
        let dir = self.temp_dir()?;
        let free = temp_space::free_bytes(dir.path()).map_err(|e| self.temp_error("look for free space in", &e))?;
        let space = match self.env.temp_budget.reserve(need_bytes, free) {
            Ok(space) => space,
            Err(no) => {
                let path = self.env.settings.temp_dir.display().to_string();
                return skipped(SkipReason::NoTempSpace { need_bytes, free_bytes: no.free_bytes, path });
            }
        };

        let mut facts = Facts {
            started: Instant::now(),
            started_at: self.env.clock.now(),
            step: Step::Fetch,
            set_aside: Vec::new(),
            peak_memory_bytes: 0,
            committed: None,
        };
        self.say_started(&plan);
        let result = self.compact(&view, &plan, &settings, dir.path(), &mut facts).await;
        if let Err(error) = dir.remove() {
            warn!(target: LOG, job_id = self.id.job_id, %error, "The job's temp folder could not be removed; the next cycle will");
        }
        drop(space);
        if let Err(JobError::Merge(MergeError::NothingToMerge(set_aside))) = result {
            return skipped(SkipReason::NothingToMerge { set_aside });
        }
        // Won, lost or unknown: forget everything, and tidy from what storage says now.
        let untidied = if self.guard.is_lost() { None } else { self.tidy_after(&mut facts, result.is_ok()).await };
        let report = self.report(&plan, facts, result);
        Ok(AttemptReport { attempt: Attempt::Ran(Box::new(report)), settled, untidied })
    }

    /// Fetch to commit. An error means that the job's record does not exist, or that nobody knows.
    async fn compact(
        &self,
        view: &View,
        plan: &Plan,
        settings: &PartitionSettings,
        dir: &Path,
        facts: &mut Facts,
    ) -> Result<(), JobError> {
        let storage = &self.env.storage;

        facts.step = self.begin(Step::Fetch)?;
        let inputs = self.fetch(plan, dir).await?;

        facts.step = self.begin(Step::Merge)?;
        let outcome = match self.merge(plan, settings, inputs, dir).await {
            Err(JobError::Merge(MergeError::NothingToMerge(set_aside))) => {
                return Err(MergeError::NothingToMerge(self.still_there(set_aside).await?).into());
            }
            merged => merged?,
        };
        let consumed = consumed_inputs(plan, &outcome)?;
        if !worth_publishing(self.partition, &consumed) {
            return Err(MergeError::NothingToMerge(self.still_there(outcome.set_aside).await?).into());
        }
        facts.set_aside = self.still_there(outcome.set_aside.clone()).await?;
        facts.peak_memory_bytes = outcome.peak_memory_bytes;

        facts.step = self.begin(Step::Publish)?;
        // Checked again after publishing, which is the check that counts. But once the outputs are there, an input that
        // somebody deleted meanwhile (a retention process, say) makes the attempt one that only a person may close (V2).
        // A merge takes long, publishing does not.
        self.recheck(view, &consumed).await?;
        let files: Vec<(PathBuf, String)> = outcome.outputs.iter().map(|f| (f.path.clone(), f.name.clone())).collect();
        let write = |source| JobError::Write { step: "publish", source };
        let publication = storage.prepare(self.partition, &self.id.job_id, &files).await.map_err(write)?;
        if let Err(stopped) = self.check(Step::Publish) {
            publication.abort().await;
            return Err(stopped);
        }
        publication.complete().await.map_err(write)?;

        facts.step = self.begin(Step::ReadBack)?;
        self.read_back(&outcome.outputs).await?;
        self.recheck(view, &consumed).await?;

        facts.step = self.begin(Step::Commit)?;
        let record = view.head.commit(self.author(), &view.listing, &consumed, &outcome);
        commit::create(storage, self.partition, &record).await?;
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

    /// Local files to merge: the objects themselves on local disk, otherwise copies under names of our own.
    async fn fetch(&self, plan: &Plan, dir: &Path) -> Result<Vec<MergeInput>, JobError> {
        let fetched = dir.join("fetched");
        if !self.reads_in_place() {
            tokio::fs::create_dir(&fetched).await.map_err(|e| self.temp_error("create", &e))?;
        }
        let transfers: Vec<_> =
            plan.inputs.iter().enumerate().map(|(i, file)| self.fetch_one(i, file, &fetched).boxed()).collect();
        // In plan order, which the merge's tie-breaking rests on.
        let inputs: Vec<MergeInput> =
            futures::stream::iter(transfers).buffered(TRANSFERS_AT_ONCE).try_collect().await?;
        let megabytes = megabytes(plan.input_bytes());
        info!(target: LOG, job_id = self.id.job_id, files = inputs.len(), bytes = plan.input_bytes(),
            "Downloaded {} files ({megabytes:.1} MB)", inputs.len());
        Ok(inputs)
    }

    async fn fetch_one(&self, index: usize, file: &DataFile, fetched: &Path) -> Result<MergeInput, JobError> {
        let path = if let Some(in_place) = self.env.storage.local_path(self.partition, &file.name) {
            in_place
        } else {
            self.check(Step::Fetch)?;
            // T3: base names can be equal; index and key hash cannot.
            let hash = blake3::hash(format!("{}/{}", self.partition, file.name).as_bytes()).to_hex();
            let copy = fetched.join(format!("{index:06}_{}.parquet", &hash[..16]));
            let fetching = |source| JobError::Storage { step: "fetch", source };
            self.env.storage.fetch(self.partition, file, &copy).await.map_err(fetching)?;
            copy
        };
        Ok(MergeInput { name: file.name.clone(), path, size_bytes: file.size_bytes })
    }

    /// Whether inputs lie on local disk and need not be fetched.
    fn reads_in_place(&self) -> bool {
        self.env.storage.local_path(self.partition, "any").is_some()
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
            limits: self.env.limits,
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

    /// I2: every output is read back from storage, whole, and is what the merge wrote.
    async fn read_back(&self, outputs: &[MergedFile]) -> Result<(), JobError> {
        let reads: Vec<_> = outputs.iter().map(|output| self.read_back_one(output).boxed()).collect();
        futures::stream::iter(reads).buffer_unordered(TRANSFERS_AT_ONCE).try_collect::<()>().await
    }

    async fn read_back_one(&self, output: &MergedFile) -> Result<(), JobError> {
        let name = &output.name;
        let storage = &self.env.storage;
        let doubt = |what| Err(JobError::Doubt { what });
        let found = storage
            .read_back(self.partition, name)
            .await
            .map_err(|source| JobError::Storage { step: "read back", source })?;
        if found.size_bytes != output.size_bytes || found.checksum != output.checksum {
            return doubt(format!(
                "output {name} reads back as {} bytes, {}; written were {} bytes, {}",
                found.size_bytes, found.checksum, output.size_bytes, output.checksum
            ));
        }
        match footer::read(storage, self.partition, name, output.size_bytes).await {
            Ok(footer) if footer.rows == output.rows => Ok(()),
            Ok(footer) => {
                doubt(format!("output {name} has {} rows in storage, {} were written", footer.rows, output.rows))
            }
            Err(FooterError::Storage(source)) => Err(JobError::Storage { step: "read back footer", source }),
            Err(FooterError::Unreadable { name, detail }) => {
                doubt(format!("output {name} is unreadable in storage: {detail}"))
            }
        }
    }

    async fn list_again(&self) -> Result<Listing, JobError> {
        let listing = self.env.storage.list_partition(self.partition).await;
        listing.map_err(|source| JobError::Storage { step: "re-check inputs", source })
    }

    /// What was set aside, without the files that cannot be read because they were deleted: those are not damaged.
    async fn still_there(&self, mut set_aside: Vec<SetAside>) -> Result<Vec<SetAside>, JobError> {
        if set_aside.iter().any(|s| s.reason.is_damage()) {
            let listing = self.list_again().await?;
            set_aside
                .retain(|s| !s.reason.is_damage() || listing.data.binary_search_by(|f| f.name.cmp(&s.name)).is_ok());
        }
        Ok(set_aside)
    }

    /// The inputs are still what was merged: same size, same ETag. If not, a newer record may say why.
    async fn recheck(&self, view: &View, consumed: &[DataFile]) -> Result<(), JobError> {
        let listing = self.list_again().await?;
        for input in consumed {
            let now = listing.data.binary_search_by(|f| f.name.cmp(&input.name)).ok().map(|i| &listing.data[i]);
            let same = now.is_some_and(|now| now.size_bytes == input.size_bytes && now.etag == input.etag);
            if !same {
                let head = read_head(&self.env.storage, self.partition).await?;
                if let Some(newer) = head.record().filter(|r| r.generation > view.head.generation()) {
                    let record = RecordEntry::file_name(newer.generation);
                    return Err(JobError::Overtaken { record, by: newer.job_id.clone() });
                }
                let state = if now.is_some() { "changed" } else { "vanished" };
                return Err(JobError::Doubt {
                    what: format!("input {} {state} while it was being merged", input.name),
                });
            }
        }
        Ok(())
    }

    /// Clears away what the head says is over, or what this attempt leaves. Never changes how the job ended; gives the
    /// error that keeps a committed job's inputs.
    async fn tidy_after(&self, facts: &mut Facts, committed: bool) -> Option<JobError> {
        if committed {
            facts.step = Step::Tidy;
            self.env.events.send(Event::JobStep { job_id: self.id.job_id.clone(), step: Step::Tidy });
        }
        let error = settle(self.env, self.partition, || self.author()).await.err()?;
        warn!(target: LOG, job_id = self.id.job_id, partition = %self.partition, %error,
            "Tidying is left to the next cycle");
        committed.then_some(error)
    }

    fn say_started(&self, plan: &Plan) {
        let hour = self.partition.hour().to_string().replace('/', "_");
        info!(target: LOG, job_id = self.id.job_id, partition = %self.partition, files = plan.inputs.len(),
            bytes = plan.input_bytes(), generation = plan.generation.0,
            "Starting compaction job {}_{hour}: {} files in {}",
            self.partition.measurement(), plan.inputs.len(), self.partition.path_in_database());
        self.env.events.send(Event::JobStarted {
            job_id: self.id.job_id.clone(),
            partition: self.partition.clone(),
            files: plan.inputs.len(),
            bytes: plan.input_bytes(),
        });
    }

    fn report(&self, plan: &Plan, facts: Facts, result: Result<(), JobError>) -> JobReport {
        let seconds = duration_seconds(facts.started.elapsed());
        let (status, error) = match result {
            Ok(()) => (JobStatus::Completed, None),
            Err(error) => (status_of(&error), Some(error)),
        };
        let mut report = JobReport {
            job_id: self.id.job_id.clone(),
            database: self.partition.database().to_owned(),
            measurement: self.partition.measurement().to_owned(),
            partition_path: self.partition.path_in_database(),
            status,
            trigger: plan.trigger,
            step: facts.step.as_str(),
            files_compacted: 0,
            files_written: 0,
            rows: 0,
            bytes_before: 0,
            bytes_after: 0,
            compression_ratio: 0.0,
            duration_seconds: seconds,
            peak_memory_bytes: facts.peak_memory_bytes,
            started_at: facts.started_at,
            completed_at: self.env.clock.now(),
            error: error.as_ref().map(ToString::to_string),
            inputs_set_aside: facts.set_aside,
            outputs: Vec::new(),
            fingerprint: None,
            worker_id: self.guard.lease().worker_id.to_string(),
        };
        if let Some(Committed { outcome, bytes_before }) = facts.committed {
            report.files_compacted = outcome.consumed.len() as u64;
            report.files_written = outcome.outputs.len() as u64;
            report.rows = outcome.rows;
            report.bytes_before = bytes_before;
            report.bytes_after = outcome.outputs.iter().map(|f| f.size_bytes).sum();
            report.compression_ratio = compression_ratio(report.bytes_before, report.bytes_after);
            report.outputs = outcome.outputs.into_iter().map(|f| f.name).collect();
            report.fingerprint = outcome.fingerprint;
        }
        say_ended(&report);
        report
    }
}

fn status_of(error: &JobError) -> JobStatus {
    match error.disposition() {
        Disposition::Yield => JobStatus::Cancelled,
        Disposition::Retry | Disposition::UntilChanged | Disposition::Operator => JobStatus::Failed,
    }
}

/// The job's one line at its end, and one for each file that was left out.
fn say_ended(report: &JobReport) {
    let partition = report.partition();
    for left_out in &report.inputs_set_aside {
        warn!(target: LOG, job_id = report.job_id, partition, file = left_out.name, reason = %left_out.reason,
            "Left out {}: {}", left_out.name, left_out.reason);
    }
    match (report.status, &report.error) {
        (JobStatus::Completed, _) => {
            let (before, after) = (megabytes(report.bytes_before), megabytes(report.bytes_after));
            let files = if report.files_written == 1 { "file" } else { "files" };
            for output in &report.outputs {
                info!(target: LOG, job_id = report.job_id, partition, "Compacted to {output} ({after:.1} MB)");
            }
            info!(target: LOG, job_id = report.job_id, partition, files_compacted = report.files_compacted,
                files_written = report.files_written, rows = report.rows, bytes_before = report.bytes_before,
                bytes_after = report.bytes_after, duration_seconds = report.duration_seconds,
                peak_memory_bytes = report.peak_memory_bytes,
                "Compaction job completed: {} files → {} {files}, {before:.1} MB → {after:.1} MB ({:.1}% compression), duration: {:.1}s",
                report.files_compacted, report.files_written, report.compression_ratio * 100.0, report.duration_seconds);
        }
        (JobStatus::Cancelled, error) => {
            info!(target: LOG, job_id = report.job_id, partition, reason = error.as_deref(), "Compaction job cancelled");
        }
        (JobStatus::Failed, reason) => {
            error!(target: LOG, job_id = report.job_id, partition, error = reason.as_deref(), step = report.step,
                "Compaction job failed: {}", reason.as_deref().unwrap_or("unknown"));
        }
    }
}

/// T4: the files to retire are the ones that the merge consumed, found again among the plan's inputs.
fn consumed_inputs(plan: &Plan, outcome: &MergeOutcome) -> Result<Vec<DataFile>, JobError> {
    let consumed: Vec<DataFile> =
        plan.inputs.iter().filter(|f| outcome.consumed.binary_search(&f.name).is_ok()).cloned().collect();
    if consumed.len() == outcome.consumed.len() && consumed.len() + outcome.set_aside.len() == plan.inputs.len() {
        Ok(consumed)
    } else {
        let what = format!(
            "the merge says that it consumed {} files and left out {} of {} inputs",
            outcome.consumed.len(),
            outcome.set_aside.len(),
            plan.inputs.len()
        );
        Err(JobError::Doubt { what })
    }
}

/// I6: whether these inputs are worth a new file. When every raw input was set aside, a compacted file that was to be merged
/// with them would be written anew, by itself, in every cycle.
fn worth_publishing(partition: &PartitionId, consumed: &[DataFile]) -> bool {
    let attempts: BTreeSet<String> = consumed.iter().map(|f| policy::attempt_of(partition, f)).collect();
    attempts.len() > 1 || consumed.iter().any(|f| f.kind == FileKind::Raw)
}

/// T34: whether no readable input has the columns to sort by, found out from footers before any work is done. Usually
/// one small read: the first file that has them ends the search.
pub async fn missing_sort_column(
    storage: &Storage,
    plan: &Plan,
    settings: &PartitionSettings,
) -> Result<Option<SkipReason>, JobError> {
    let needed = || std::iter::once(&settings.merge.time_column).chain(&settings.merge.sort_by);
    let mut missing = None;
    for file in &plan.inputs {
        match footer::read(storage, &plan.partition, &file.name, file.size_bytes).await {
            Ok(footer) => match needed().find(|column| !footer.columns.contains(column)) {
                None => return Ok(None),
                Some(column) => missing = Some(column.clone()),
            },
            Err(FooterError::Unreadable { .. }) => {}
            Err(FooterError::Storage(source)) => return Err(JobError::Storage { step: "read footer", source }),
        }
    }
    Ok(missing.map(|column| SkipReason::NoSortColumn { column, files: plan.inputs.len() }))
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::testing::{file, ours, partition, raw};

    /// I6: several parts of one attempt are as good as one file; files of several attempts become fewer.
    #[test]
    fn only_a_merge_that_takes_in_raw_files_or_joins_attempts_is_published() {
        let part = |n| file(&ours(1, 'a').replace("_compacted", &format!("_{n}_compacted")));
        assert!(!worth_publishing(&partition(), &[part(1), part(2)]));
        assert!(!worth_publishing(&partition(), &[]));
        assert!(worth_publishing(&partition(), &[part(1), file(&ours(2, 'b'))]));
        assert!(worth_publishing(&partition(), &[part(1), raw(1).remove(0)]));
    }
}
