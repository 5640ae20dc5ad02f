//! Bringing a partition to rest: tidy what the head says is over, close what an earlier attempt left open.
//!
//! The decisions are [`recovery::next_step`], [`recovery::may_void`] and [`tidy::plan`]; this file carries them out, one
//! step at a time, each from a fresh view. Called under the lease, at the start of every job and after its commit;
//! before each step, and right before a void record, `acting` says in whose name it is made, or that the lease is no
//! longer held, which ends it there. Deletions of a holder that has lost it meanwhile are those of the head all the same (I7).

use chrono::TimeDelta;
use tracing::{info, warn};

use super::error::JobError;
use super::footer::{self, FooterError};
use super::job::{JobEnv, LOG};
use super::observe::{ObserveError, View, observe_from};
use super::record::Author;
use super::recovery::{self, Fault, Lineage, NextStep};
use super::tidy::{self, TidyPlan};
use crate::partition::{DataFile, Generation, PartitionId};
use crate::storage::{Created, DeleteTarget, Place, StorageError};

/// Each step makes the partition smaller or its head newer, so few suffice; more means that others are at it, too.
const MAX_STEPS: usize = 8;

/// What was done on the way to rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settled {
    /// Data files deleted because the head retires them.
    pub retired_deleted: usize,
    /// Files of attempts that lost or were voided, deleted.
    pub dead_deleted: usize,
    /// Old records deleted.
    pub records_deleted: usize,
    /// Open attempts closed.
    pub voided: usize,
}

impl Settled {
    /// Whether anything was left over.
    #[must_use]
    pub fn anything(&self) -> bool {
        *self != Self::default()
    }
}

/// Tidies and recovers until nothing is left to do; gives the view in which that is so. `expected` is the generation that
/// the head had when somebody last looked.
pub async fn settle(
    env: &JobEnv,
    partition: &PartitionId,
    expected: Generation,
    acting: impl Fn() -> Result<Author, JobError>,
) -> Result<(View, Settled), JobError> {
    let mut expected = expected;
    let mut done = Settled::default();
    for _ in 0..MAX_STEPS {
        let view = observe_from(&env.storage, partition, expected).await?;
        expected = view.head.generation();
        match step(env, partition, &view, &acting, &mut done).await? {
            Progress::AtRest => return Ok((view, done)),
            Progress::Cleared | Progress::LookAgain => {}
        }
    }
    Err(ObserveError::Unsettled { partition: partition.clone() }.into())
}

/// The same for whoever plans nothing from it: a tidy that left nothing to do, as far as its own view shows, is the end. What
/// others do meanwhile is theirs to settle.
pub async fn settle_after(
    env: &JobEnv,
    partition: &PartitionId,
    expected: Generation,
    acting: impl Fn() -> Result<Author, JobError>,
) -> Result<Settled, JobError> {
    let mut expected = expected;
    let mut done = Settled::default();
    for _ in 0..MAX_STEPS {
        let view = observe_from(&env.storage, partition, expected).await?;
        expected = view.head.generation();
        match step(env, partition, &view, &acting, &mut done).await? {
            Progress::AtRest | Progress::Cleared => return Ok(done),
            Progress::LookAgain => {}
        }
    }
    Err(ObserveError::Unsettled { partition: partition.clone() }.into())
}

/// How far one step came.
enum Progress {
    /// The view has nothing left over.
    AtRest,
    /// It had, and everything of it was cleared away.
    Cleared,
    LookAgain,
}

/// Does the one thing that the view asks for.
async fn step(
    env: &JobEnv,
    partition: &PartitionId,
    view: &View,
    acting: &impl Fn() -> Result<Author, JobError>,
    done: &mut Settled,
) -> Result<Progress, JobError> {
    let due = tidy_plan(env, view);
    for file in &due.reused {
        warn!(target: LOG, partition = %partition, file = %file.name,
            "a file with the name and size of a consumed one, but another ETag, does not count: \
             a writer must not reuse names");
    }
    match recovery::next_step(view, !due.is_empty()) {
        NextStep::Settled => return Ok(Progress::AtRest),
        NextStep::Tidy => {
            acting()?;
            let everything = carry_out(env, partition, view, &due, done).await?;
            if everything && recovery::next_step(view, false) == NextStep::Settled {
                return Ok(Progress::Cleared);
            }
        }
        NextStep::CloseOpenAttempt { files } => {
            done.voided += usize::from(close(env, partition, view, &files, acting).await?);
        }
        NextStep::FailClosed(fault) => fail_closed(env, partition, view, fault).await?,
    }
    Ok(Progress::LookAgain)
}

/// What a view asks to be tidied now.
pub(super) fn tidy_plan(env: &JobEnv, view: &View) -> TidyPlan {
    let retention = TimeDelta::from_std(env.settings.record_retention).unwrap_or(TimeDelta::MAX);
    tidy::plan(&view.head, &view.listing, env.clock.now(), retention)
}

/// C2-C4. Records go last, lowest first, and only when every file went. `false` when something was no longer what the view
/// shows, and stays.
async fn carry_out(
    env: &JobEnv,
    partition: &PartitionId,
    view: &View,
    plan: &TidyPlan,
    done: &mut Settled,
) -> Result<bool, JobError> {
    let files: Vec<DataFile> = plan.retired.iter().chain(&plan.dead).cloned().collect();
    let mut everything = true;
    if !files.is_empty() {
        let targets: Vec<DeleteTarget> = files.iter().map(DeleteTarget::from).collect();
        everything &= delete(env, partition, Place::Data, view, &targets).await?;
    }
    done.retired_deleted += plan.retired.len();
    done.dead_deleted += plan.dead.len();
    for record in &plan.old_records {
        everything &= delete(env, partition, Place::Records, view, &[record.into()]).await?;
        done.records_deleted += 1;
    }
    if files.is_empty() {
        info!(target: LOG, partition = %partition, records = plan.old_records.len(), "Deleted old records");
    } else {
        info!(target: LOG, partition = %partition, retired = plan.retired.len(), dead = plan.dead.len(),
            records = plan.old_records.len(), "Deleted {} files that are no longer needed", files.len());
    }
    Ok(everything)
}

/// Deletes exactly these. Files that changed meanwhile stay, and the next view shows them as they are.
async fn delete(
    env: &JobEnv,
    partition: &PartitionId,
    place: Place,
    view: &View,
    targets: &[DeleteTarget],
) -> Result<bool, JobError> {
    let report = env.storage.delete_exact(partition, place, targets, &view.listing).await;
    let count = report.failed.len();
    if let Some((first, source)) = report.failed.into_iter().next() {
        return Err(JobError::Undeleted { count, first, source });
    }
    match report.not_durable {
        Some(source) => Err(JobError::Storage { step: "sync the partition's folder", source }),
        None => Ok(report.changed.is_empty()),
    }
}

/// An error, unless another look explains it. A LIST takes time and is no snapshot. One that was under way while another
/// worker committed and tidied can show the new files without the record that explains them: then the head has changed. And
/// one that was under way while a late file arrived and another worker merged it can show that attempt's output without the
/// late file: then a LIST that begins now shows both.
async fn fail_closed(env: &JobEnv, partition: &PartitionId, view: &View, fault: Fault) -> Result<(), JobError> {
    let again = observe_from(&env.storage, partition, view.head.generation()).await?;
    let explained = match &fault {
        Fault::InputOfOpenAttemptMissing { input, .. } => {
            again.listing.data_file(input).is_some_and(|file| again.head.counts(file))
        }
        Fault::GenerationGap { .. } | Fault::NoLineage { .. } => false,
    };
    if explained || again.head != view.head {
        Ok(())
    } else {
        Err(JobError::FailClosed { partition: partition.clone(), fault })
    }
}

/// V1, V2: closes the slot of the next generation by a void record, if that loses nothing. `false` if somebody else was
/// faster.
async fn close(
    env: &JobEnv,
    partition: &PartitionId,
    view: &View,
    files: &[DataFile],
    acting: &impl Fn() -> Result<Author, JobError>,
) -> Result<bool, JobError> {
    acting()?;
    let mut lineages = Vec::with_capacity(files.len());
    for file in files {
        let inputs = match footer::read(&env.storage, partition, &file.name, file.size_bytes).await {
            Ok(footer) => footer.lineage.ok_or_else(|| "its footer names no inputs".to_owned()),
            Err(FooterError::Unreadable { detail, .. }) => Err(detail),
            // It was there a moment ago: somebody else has closed the slot and tidied.
            Err(FooterError::Storage(StorageError::NotFound { .. })) => return Ok(false),
            Err(FooterError::Storage(source)) => return Err(JobError::Storage { step: "read lineage", source }),
        };
        lineages.push(Lineage { file: file.name.clone(), inputs });
    }
    if let Err(fault) = recovery::may_void(view, &lineages) {
        return fail_closed(env, partition, view, fault).await.map(|()| false);
    }
    // Reading footers takes time.
    let author = acting()?;
    let attempt = author.job_id.clone();
    let record = view.head.void(author, &view.listing);
    let created = env
        .storage
        .create_record(partition, record.generation, record.to_bytes().into(), &attempt)
        .await
        .map_err(|source| JobError::Write { step: "create void record", source })?;
    match created {
        Created::Created => {
            info!(target: LOG, partition = %partition, generation = record.generation.0, files = files.len(),
                "Closed an unfinished attempt: its outputs do not count");
        }
        // The other side has won; the next view shows what it did.
        Created::AlreadyExists => {}
    }
    Ok(created == Created::Created)
}
