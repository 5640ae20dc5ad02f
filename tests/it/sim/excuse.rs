//! What may excuse somebody who could not do their work: something went wrong with a call of theirs, or others changed what
//! they were at. Nothing else does.

use std::sync::Arc;

use arc::compaction::{CycleReport, JobStatus};
use arc::partition::PartitionId;

use super::wire::Caller;
use super::world::World;

/// A piece of work of one caller, since it began.
pub struct Work {
    world: Arc<World>,
    caller: Caller,
    faults: u64,
    changes: u64,
    moment: u64,
}

impl Work {
    pub fn begins(world: &Arc<World>, caller: &Caller) -> Self {
        Self {
            faults: world.faults_of(caller),
            changes: world.changes(),
            moment: world.truth().now(),
            world: Arc::clone(world),
            caller: Arc::clone(caller),
        }
    }

    /// Whether it may have failed, as far as it is about this partition; `None` is all of storage.
    pub fn is_excused(&self, partition: Option<&PartitionId>) -> bool {
        self.world.faults_of(&self.caller) > self.faults || self.world.last_change(partition) > self.changes
    }

    /// Whether a person has to look at this partition: files that an open attempt was made from were removed.
    pub fn is_for_a_person(&self, partition: &PartitionId) -> bool {
        self.world.truth().inputs_missing_since(partition, self.moment)
    }
    /// Problems of a cycle have a reason outside of it.
    pub fn check(&self, report: &CycleReport) {
        let caller = &self.caller;
        let failed = report.jobs.iter().filter(|job| job.status == JobStatus::Failed);
        for job in failed {
            let (partition, error) = (job.partition().parse().unwrap(), job.error.as_deref().unwrap_or_default());
            if !self.is_for_a_person(&partition) && !self.is_excused(Some(&partition)) {
                self.world.truth().breaks("no excuse", &format!("{caller}, {}: {error}", job.job_id));
            }
        }
        for problem in &report.problems {
            let what = format!("a cycle of {caller}, {}: {}", problem.place, problem.error);
            if problem.error.contains("internal error") {
                self.world.truth().breaks("panic", &what);
            }
            let partition: Option<PartitionId> = problem.place.parse().ok();
            let is_for_a_person = partition.as_ref().is_some_and(|partition| self.is_for_a_person(partition));
            if !is_for_a_person && !self.is_excused(partition.as_ref()) {
                self.world.truth().breaks("no excuse", &what);
            }
        }
    }
}
