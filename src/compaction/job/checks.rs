//! What a job makes sure of before it goes on: that there is something to gain, and that the inputs are still what they were.

use std::collections::BTreeSet;

use super::Job;
use crate::compaction::error::JobError;
use crate::compaction::footer::{self, FooterError};
use crate::compaction::observe::{View, read_head};
use crate::compaction::plan::{Plan, SkipReason};
use crate::compaction::policy;
use crate::compaction::record::Record;
use crate::compaction::settings::PartitionSettings;
use crate::merge::{MergeOutcome, SetAside};
use crate::partition::{DataFile, FileKind, Listing, PartitionId, RecordEntry};
use crate::storage::{Storage, StorageError, WriteError};

impl Job<'_> {
    pub(super) async fn list_again(&self) -> Result<Listing, JobError> {
        let listing = self.env.storage.list_partition(self.partition).await;
        listing.map_err(|source| JobError::Storage { step: "re-check inputs", source })
    }

    /// What was set aside, without the files that cannot be read because they were deleted: those are not damaged.
    pub(super) async fn still_there(&self, mut set_aside: Vec<SetAside>) -> Result<Vec<SetAside>, JobError> {
        if set_aside.iter().any(|s| s.reason.is_damage()) {
            let listing = self.list_again().await?;
            set_aside.retain(|s| !s.reason.is_damage() || listing.data_file(&s.name).is_some());
        }
        Ok(set_aside)
    }

    /// T67: a create that took longer than the lease may have come when others had closed the attempt, gone on, and deleted the
    /// record that stood in its way. Then it has made one below the head, which decides nothing, and no success may be claimed.
    pub(super) async fn confirm(&self, record: &Record, outcome: &MergeOutcome) -> Result<(), JobError> {
        if !self.guard.is_lost() {
            return Ok(());
        }
        let name = RecordEntry::file_name(record.generation);
        let why = match read_head(&self.env.storage, self.partition).await {
            Ok(head) if outcome.outputs.iter().all(|output| head.live_file(&output.name).is_some()) => return Ok(()),
            Ok(head) => format!("the lease has ended meanwhile, and the newest record is {}", head.generation()),
            Err(error) => format!("the lease has ended meanwhile, and the newest record cannot be read: {error}"),
        };
        Err(JobError::CommitUnknown { source: WriteError::Unknown(StorageError::unavailable(name, why)) })
    }

    /// Whether somebody has committed since this job looked.
    async fn overtaken(&self, view: &View) -> Result<Option<JobError>, JobError> {
        let head = read_head(&self.env.storage, self.partition).await?;
        let newer = head.record().filter(|record| record.generation > view.head.generation());
        Ok(newer.map(|newer| JobError::Overtaken {
            record: RecordEntry::file_name(newer.generation),
            by: newer.job_id.clone(),
        }))
    }

    /// What was looked for and not found may be what a faster worker has deleted, inputs as well as outputs: that is no failure.
    pub(super) async fn or_overtaken<T>(&self, view: &View, result: Result<T, JobError>) -> Result<T, JobError> {
        match result {
            Err(gone @ JobError::Storage { source: StorageError::NotFound { .. }, .. }) => {
                // Where the head cannot be read, what is gone is the better news.
                Err(self.overtaken(view).await.ok().flatten().unwrap_or(gone))
            }
            other => other,
        }
    }

    /// The inputs are still what was merged: same size, same ETag. If not, a newer record may say why.
    pub(super) async fn recheck(&self, view: &View, consumed: &[DataFile]) -> Result<(), JobError> {
        let listing = self.list_again().await?;
        for input in consumed {
            let now = listing.data_file(&input.name);
            let same = now.is_some_and(|now| now.size_bytes == input.size_bytes && now.etag == input.etag);
            if !same {
                if let Some(overtaken) = self.overtaken(view).await? {
                    return Err(overtaken);
                }
                let state = if now.is_some() { "changed" } else { "vanished" };
                return Err(JobError::Doubt {
                    what: format!("input {} {state} while it was being merged", input.name),
                });
            }
        }
        Ok(())
    }
}

/// T4: the files to retire are the ones that the merge consumed, found again among the plan's inputs.
pub(super) fn consumed_inputs(plan: &Plan, outcome: &MergeOutcome) -> Result<Vec<DataFile>, JobError> {
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
pub(super) fn worth_publishing(partition: &PartitionId, consumed: &[DataFile]) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::plan::Trigger;
    use crate::compaction::testing::{file, ours, partition, raw};
    use crate::merge::SetAsideReason;
    use crate::partition::Generation;

    /// T4: neither one that is silent about an input, nor one that consumed what nobody asked for.
    #[test]
    fn a_merge_that_does_not_account_for_every_input_is_not_believed() {
        let inputs = raw(3);
        let plan =
            Plan { partition: partition(), generation: Generation(1), trigger: Trigger::First, inputs: inputs.clone() };
        let claims = |consumed: &[&str], set_aside: &[&str]| {
            let left_out =
                |name: &&str| SetAside { name: (*name).into(), reason: SetAsideReason::Unreadable("x".into()) };
            let outcome = MergeOutcome {
                outputs: Vec::new(),
                consumed: consumed.iter().map(ToString::to_string).collect(),
                set_aside: set_aside.iter().map(left_out).collect(),
                rows: 0,
                fingerprint: None,
                slices: 0,
                peak_memory_bytes: 0,
                engine: String::new(),
            };
            consumed_inputs(&plan, &outcome)
        };
        let [a, b, c] = ["r000.parquet", "r001.parquet", "r002.parquet"];
        assert_eq!(claims(&[a, b, c], &[]).unwrap(), inputs);
        assert_eq!(claims(&[a, c], &[b]).unwrap(), [inputs[0].clone(), inputs[2].clone()]);
        for (consumed, set_aside) in
            [(&[a, c][..], &[][..]), (&[a, b, c, "r003.parquet"], &[]), (&[a, "r003.parquet"], &[b])]
        {
            let answer = claims(consumed, set_aside);
            assert!(matches!(answer, Err(JobError::Doubt { .. })), "{consumed:?} {set_aside:?}: {answer:?}");
        }
    }

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
