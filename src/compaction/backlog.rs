//! The backlog: what scans found to do and no job has done yet. For people, metrics and readiness; nothing decides by it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::scan::Candidate;
use crate::partition::PartitionId;

/// What was left to do when somebody last looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    pub partitions: u64,
    /// Bytes of the files to merge.
    pub bytes: u64,
    /// Since when the longest waiting partition could have been compacted. `None`: nothing waits.
    pub oldest_ready_at: Option<DateTime<Utc>>,
    /// When storage was last scanned.
    pub seen_at: DateTime<Utc>,
}

/// Keeps the backlog between scans. Bounded by what a cycle's queue holds, plus sums for the rest.
#[derive(Debug, Default)]
pub(super) struct BacklogKeeper(Mutex<Option<Kept>>);

#[derive(Debug)]
struct Kept {
    waiting: BTreeMap<String, Waiting>,
    seen_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    bytes: u64,
    ready_at: Option<DateTime<Utc>>,
}

/// The findings of one scan, before they become the backlog.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<String, Waiting>);

/// Partitions that are kept. More are left out: the backlog then says "at least".
const MAX_WAITING: usize = super::queue::MAX_CANDIDATES;

impl Seen {
    /// Notes a candidate.
    pub(super) fn add(&mut self, candidate: &Candidate, ready_at: Option<DateTime<Utc>>) {
        if self.0.len() < MAX_WAITING {
            self.0.insert(candidate.partition.to_string(), Waiting { bytes: candidate.bytes(), ready_at });
        }
    }
}

impl BacklogKeeper {
    /// Takes over a scan that ran to its end. What it covered and did not find does not wait any more.
    pub(super) fn scanned(&self, seen: Seen, now: DateTime<Utc>, covered: impl Fn(&PartitionId) -> bool) {
        let mut kept = self.lock();
        let mut waiting = kept.take().map(|kept| kept.waiting).unwrap_or_default();
        waiting.retain(|path, _| path.parse().is_ok_and(|partition| !covered(&partition)));
        waiting.extend(seen.0);
        *kept = Some(Kept { waiting, seen_at: now });
    }

    /// The partition is done.
    pub(super) fn done(&self, partition: &PartitionId) {
        if let Some(kept) = &mut *self.lock() {
            kept.waiting.remove(&partition.to_string());
        }
    }

    /// `None` before the first scan.
    pub(super) fn get(&self) -> Option<Backlog> {
        let kept = self.lock();
        let Kept { waiting, seen_at } = kept.as_ref()?;
        Some(Backlog {
            partitions: waiting.len() as u64,
            bytes: waiting.values().map(|w| w.bytes).sum(),
            oldest_ready_at: waiting.values().filter_map(|w| w.ready_at).min(),
            seen_at: *seen_at,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::plan::{Plan, Trigger};
    use crate::compaction::scan::Work;
    use crate::compaction::testing::{at, raw};
    use crate::partition::Generation;

    fn candidate(path: &str, files: usize) -> Candidate {
        let partition: PartitionId = path.parse().unwrap();
        let plan = Plan {
            partition: partition.clone(),
            generation: Generation(1),
            trigger: Trigger::First,
            inputs: raw(files),
        };
        Candidate { partition, head_seen: Generation(0), work: Work::Compact(plan) }
    }

    fn seen(candidates: &[(&str, usize, u32)]) -> Seen {
        let mut seen = Seen::default();
        for (path, files, ready_hour) in candidates {
            seen.add(&candidate(path, *files), Some(at(*ready_hour, 0)));
        }
        seen
    }

    #[test]
    fn a_scan_replaces_what_it_covered_and_a_done_partition_goes() {
        let keeper = BacklogKeeper::default();
        assert_eq!(keeper.get(), None);
        let (a, b) = ("a/cpu/2025/10/08/14", "b/cpu/2025/10/08/14");
        keeper.scanned(seen(&[(a, 2, 15), (b, 3, 16)]), at(17, 0), |_| true);
        let expected = Backlog { partitions: 2, bytes: 500, oldest_ready_at: Some(at(15, 0)), seen_at: at(17, 0) };
        assert_eq!(keeper.get(), Some(expected));
        keeper.done(&a.parse().unwrap());
        assert_eq!(keeper.get().map(|b| (b.partitions, b.oldest_ready_at)), Some((1, Some(at(16, 0)))));
        keeper.scanned(Seen::default(), at(18, 0), |p| p.database() == "a");
        assert_eq!(keeper.get().map(|b| b.partitions), Some(1), "b was not looked at");
        keeper.scanned(Seen::default(), at(19, 0), |_| true);
        assert_eq!(keeper.get().map(|b| (b.partitions, b.oldest_ready_at)), Some((0, None)));
    }
}
