//! The order of work: fair between databases, the most files first. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::scan::Candidate;
use crate::partition::{Generation, PartitionId};

/// Candidates that a cycle keeps in memory. Beyond that the ones with the fewest files wait for a later cycle.
pub const MAX_CANDIDATES: usize = 10_000;

/// A candidate that waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub partition: PartitionId,
    /// The generation of its head when it was found.
    pub head_seen: Generation,
}

/// The candidates of one cycle, without their plans: a job plans anew under its lease, and the files of ten thousand
/// plans would take gigabytes.
#[derive(Debug, Default)]
pub struct Queue {
    kept: BTreeMap<(Reverse<usize>, String), Queued>,
    /// Partitions in `kept`: a listing in no particular order may show an hour twice.
    seen: BTreeSet<String>,
    overflow: u64,
}

impl Queue {
    /// Adds a candidate, and drops the one with the fewest files when there are too many.
    pub fn push(&mut self, candidate: &Candidate) {
        let path = candidate.partition.to_string();
        if !self.seen.insert(path.clone()) {
            return;
        }
        let queued = Queued { partition: candidate.partition.clone(), head_seen: candidate.head_seen };
        self.kept.insert((Reverse(candidate.file_count()), path), queued);
        if self.kept.len() > MAX_CANDIDATES
            && let Some(((_, path), _)) = self.kept.pop_last()
        {
            self.seen.remove(&path);
            self.overflow += 1;
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many candidates were dropped.
    #[must_use]
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// T35: one candidate of each database in turn, within a database the most files first.
    #[must_use]
    pub fn into_fair_order(self) -> VecDeque<Queued> {
        let mut by_database: BTreeMap<String, VecDeque<Queued>> = BTreeMap::new();
        for queued in self.kept.into_values() {
            by_database.entry(queued.partition.database().to_owned()).or_default().push_back(queued);
        }
        let mut order = VecDeque::new();
        while !by_database.is_empty() {
            by_database.retain(|_, queue| {
                order.extend(queue.pop_front());
                !queue.is_empty()
            });
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::plan::{Plan, Trigger};
    use crate::compaction::scan::Work;
    use crate::partition::{DataFile, FileKind};

    fn candidate(path: &str, files: usize) -> Candidate {
        let file = DataFile {
            name: "a.parquet".into(),
            size_bytes: 1,
            etag: "e".into(),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            kind: FileKind::Raw,
        };
        let partition: PartitionId = path.parse().unwrap();
        let plan = Plan {
            partition: partition.clone(),
            generation: Generation(1),
            trigger: Trigger::First,
            inputs: vec![file; files],
        };
        Candidate { partition, head_seen: Generation(0), work: Work::Compact(plan) }
    }

    /// T35: a database with much work does not keep the others waiting.
    #[test]
    fn databases_take_turns_and_the_most_files_go_first() {
        let mut queue = Queue::default();
        for (path, files) in [
            ("big/cpu/2025/10/08/01", 10),
            ("big/cpu/2025/10/08/02", 30),
            ("big/cpu/2025/10/08/03", 20),
            ("small/cpu/2025/10/08/01", 2),
            ("tiny/cpu/2025/10/08/01", 1),
        ] {
            queue.push(&candidate(path, files));
            queue.push(&candidate(path, files));
        }
        let order: Vec<String> = queue.into_fair_order().iter().map(|q| q.partition.to_string()).collect();
        let expected = [
            "big/cpu/2025/10/08/02",
            "small/cpu/2025/10/08/01",
            "tiny/cpu/2025/10/08/01",
            "big/cpu/2025/10/08/03",
            "big/cpu/2025/10/08/01",
        ];
        assert_eq!(order, expected);
    }

    /// T51: memory is bounded, and what is dropped is counted. Of a plan nothing is kept that grows with its files.
    #[test]
    fn the_smallest_candidates_wait_when_there_are_too_many() {
        let mut queue = Queue::default();
        for i in 0..=MAX_CANDIDATES {
            queue.push(&candidate(&format!("db/m{i}/2025/10/08/01"), if i == 7 { 1 } else { 2 }));
        }
        assert_eq!((queue.len(), queue.overflow()), (MAX_CANDIDATES, 1));
        assert!(queue.into_fair_order().iter().all(|q| q.partition.measurement() != "m7"));
    }
}
