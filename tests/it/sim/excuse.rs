//! What may excuse somebody who could not do their work: something went wrong with a call of theirs, or others changed what
//! they were at. Nothing else does.

use std::sync::Arc;

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
}
