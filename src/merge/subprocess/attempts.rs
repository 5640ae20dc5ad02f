//! The attempts of one merge: again with smaller slices, then without the files that crash it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SubprocessSettings;
use super::child::{self, Answer, Order};
use super::failure::{Disposition, Failure};
use super::halving::{Findings, Halving};
use super::outcome;
use crate::merge::protocol::Task;
use crate::merge::{
    Means, MergeError, MergeInput, MergeLimits, MergeOutcome, MergeRequest, ProgressSink, SetAside, SetAsideReason,
};

/// A second attempt gets the limit divided by this, and so makes its slices as much smaller.
const RETRY_MEMORY_DIVISOR: u64 = 4;

/// Less than this does not help a second attempt: below about 85 MB DuckDB fails instead of spilling. A limit that is
/// smaller from the start stays as it is.
const RETRY_MEMORY_MIN_BYTES: u64 = 128 << 20;

/// One merge, over all its children.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    settings: &'a SubprocessSettings,
    request: &'a MergeRequest,
    progress: &'a ProgressSink,
    cancel: &'a CancellationToken,
    deadline: Option<Instant>,
    children: u32,
    peak_memory_bytes: u64,
}

/// What to start a child for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Merge,
    Scan,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(
        settings: &'a SubprocessSettings,
        request: &'a MergeRequest,
        progress: &'a ProgressSink,
        cancel: &'a CancellationToken,
    ) -> Self {
        let deadline = settings.deadline.map(|deadline| Instant::now() + deadline);
        Self { settings, request, progress, cancel, deadline, children: 0, peak_memory_bytes: 0 }
    }

    pub(super) async fn merge(mut self) -> Result<MergeOutcome, MergeError> {
        let request = self.request;
        let failure = match self.merge_twice(request.inputs.clone()).await {
            Ok(outcome) => return Ok(self.completed(outcome, Vec::new())),
            Err(failure) if failure.is_crash() => failure,
            Err(failure) => return Err(failure.into()),
        };
        let findings = self.search(&failure).await?;
        let left_out = self.left_out(findings);
        if left_out.is_empty() {
            return Err(failure.into());
        }
        let is_left_out = |input: &MergeInput| left_out.iter().any(|aside| aside.name == input.name);
        let rest: Vec<MergeInput> = request.inputs.iter().filter(|input| !is_left_out(input)).cloned().collect();
        if rest.is_empty() {
            return Err(MergeError::NothingToMerge(left_out));
        }
        match self.merge_twice(rest).await {
            Ok(outcome) => Ok(self.completed(outcome, left_out)),
            Err(Failure::Reported(MergeError::NothingToMerge(more))) => {
                Err(MergeError::NothingToMerge(outcome::with_set_aside(left_out, more, request)))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Merges these inputs; if need be a second time, with smaller slices.
    async fn merge_twice(&mut self, inputs: Vec<MergeInput>) -> Result<MergeOutcome, Failure> {
        let first = match self.merge_once(inputs.clone(), self.request.limits).await {
            Ok(outcome) => return Ok(outcome),
            Err(failure) => failure,
        };
        match first.disposition() {
            Disposition::GiveUp => Err(first),
            Disposition::Retry | Disposition::RetryThenSearch => {
                tracing::warn!(
                    target: "storage.compaction",
                    job_id = self.request.job_id,
                    reason = first.describe(),
                    "merge worker failed, trying once more with smaller slices"
                );
                self.merge_once(inputs, smaller(self.request.limits)).await
            }
        }
    }

    async fn merge_once(&mut self, inputs: Vec<MergeInput>, limits: MergeLimits) -> Result<MergeOutcome, Failure> {
        match self.one_child(Work::Merge, inputs, limits).await? {
            Answer::Merged(outcome) => Ok(*outcome),
            Answer::Scanned => Err(Failure::Nonsense("it scanned instead of merging".into())),
        }
    }

    /// Reads parts of the inputs, each in a child of its own, until it is known which files crash it.
    async fn search(&mut self, failure: &Failure) -> Result<Findings, MergeError> {
        tracing::warn!(
            target: "storage.compaction",
            job_id = self.request.job_id,
            reason = failure.describe(),
            "merge worker failed again, searching the input files for the cause"
        );
        let inputs = &self.request.inputs;
        if let Some(how) = self.crash_of_scan(&[]).await? {
            // A missing library, a broken installation, a machine without memory: no file may be blamed for that.
            return Err(MergeError::Worker(format!("it fails even when it has nothing to read: {how}")));
        }
        let mut halving = Halving::of(inputs.len());
        while let Some(range) = halving.next_trial() {
            match self.crash_of_scan(&inputs[range]).await? {
                Some(how) => halving.crashed(how),
                None => halving.clean(),
            }
        }
        Ok(halving.findings())
    }

    /// How a child crashes that reads these inputs, if it does.
    async fn crash_of_scan(&mut self, inputs: &[MergeInput]) -> Result<Option<String>, MergeError> {
        match self.one_child(Work::Scan, inputs.to_vec(), smaller(self.request.limits)).await {
            Err(failure) if failure.is_crash() => Ok(Some(failure.describe())),
            Err(Failure::Reported(MergeError::Cancelled)) => Err(MergeError::Cancelled),
            // An error is no crash: the merge will meet it again, and sets the file aside itself if it has to.
            Ok(_) | Err(Failure::Reported(_)) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    fn left_out(&self, findings: Findings) -> Vec<SetAside> {
        let name = |index: usize| self.request.inputs[index].name.clone();
        let guilty = findings.guilty.into_iter().map(|(index, how)| {
            let reason = SetAsideReason::Unreadable(format!("crashed the merge worker: {how}"));
            SetAside { name: name(index), reason }
        });
        let unexamined = findings.unexamined.into_iter().map(|index| {
            let reason = "the search for files that crash the merge worker ended before it got here".to_owned();
            SetAside { name: name(index), reason: SetAsideReason::Unexamined(reason) }
        });
        outcome::with_set_aside(guilty.collect(), unexamined.collect(), self.request)
    }

    /// Runs one child in a folder of its own. Only a good outcome leaves that folder behind.
    async fn one_child(&mut self, work: Work, inputs: Vec<MergeInput>, limits: MergeLimits) -> Result<Answer, Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        self.children += 1;
        let kind = if work == Work::Merge { "merge" } else { "scan" };
        let folder = new_folder(&self.request.work_dir.join(format!("{kind}-{}", self.children)))
            .await
            .map_err(Failure::NotStarted)?;
        let request = MergeRequest { work_dir: folder.clone(), inputs, limits, ..self.request.clone() };
        let answer = self.run(work, request, &folder).await;
        if !matches!(answer, Ok(Answer::Merged(_))) {
            self.remove(&folder).await;
        }
        answer
    }

    async fn run(&mut self, work: Work, request: MergeRequest, folder: &Path) -> Result<Answer, Failure> {
        let task = match work {
            Work::Merge => Task::Merge(request.clone()),
            Work::Scan => Task::Scan(request.clone()),
        };
        let order = Order {
            settings: self.settings,
            task,
            folder,
            // What the job may use, also where smaller slices are asked for: those should need less, and may fail to.
            memory_ceiling_bytes: self.settings.memory_ceiling_bytes(self.request.limits.memory_bytes),
            deadline: self.deadline,
        };
        let ended = child::run(order, self.progress, self.cancel).await;
        self.peak_memory_bytes = self.peak_memory_bytes.max(ended.peak_memory_bytes);
        if let Ok(Answer::Merged(outcome)) = &ended.result {
            outcome::check(outcome, &request).map_err(Failure::Nonsense)?;
        }
        ended.result
    }

    /// What cannot be removed only takes space until the caller removes the whole work folder.
    async fn remove(&self, folder: &Path) {
        if let Err(error) = tokio::fs::remove_dir_all(folder).await {
            let (job_id, folder) = (&self.request.job_id, folder.display());
            tracing::warn!(target: "storage.compaction", job_id, %error, "cannot remove {folder} of a failed attempt");
        }
    }

    fn completed(&self, mut outcome: MergeOutcome, left_out: Vec<SetAside>) -> MergeOutcome {
        outcome.set_aside = outcome::with_set_aside(outcome.set_aside, left_out, self.request);
        outcome.peak_memory_bytes = outcome.peak_memory_bytes.max(self.peak_memory_bytes);
        outcome
    }
}

/// Creates a folder; its absolute path without links, which is what the child will see and name.
async fn new_folder(path: &Path) -> Result<PathBuf, MergeError> {
    let error = |source| MergeError::of_io("create", path.to_path_buf(), source);
    tokio::fs::create_dir(path).await.map_err(error)?;
    tokio::fs::canonicalize(path).await.map_err(error)
}

/// The limits of a second attempt: the engine cuts slices to fit its memory, and one thread holds less than several. DuckDB
/// does it alone, because the search for what crashes it could not find what crashes another means.
fn smaller(limits: MergeLimits) -> MergeLimits {
    let quarter = (limits.memory_bytes / RETRY_MEMORY_DIVISOR).max(RETRY_MEMORY_MIN_BYTES);
    let (memory_bytes, threads) = (quarter.min(limits.memory_bytes), NonZeroUsize::MIN);
    MergeLimits { memory_bytes, threads, means: Means::DuckDb, ..limits }
}
