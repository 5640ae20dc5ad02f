//! The policy: which partitions are worth compacting, and which of their files. Pure.
//!
//! ```text
//! raw files only                 >= min_files of them                     merge them all
//! raw beside compacted (late)    >= min_files, or waited long enough      merge them among themselves; small compacted
//!                                                                         files join when the late bytes are worth it
//! many small compacted files     written by > max_side_files attempts     merge those
//! ```
//!
//! A row is rewritten a bounded number of times, because a compacted file joins only when the late data is a fair part of
//! it or when several side files have piled up; and a partition's file count stays bounded, because side files do pile up
//! to a merge. Two rules keep a finished partition finished (I6): the outputs of one attempt count as one side file
//! however many parts they have, and files of half the target size or more are never rewritten.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::observe::View;
use super::plan::{Decision, Plan, SkipReason, Trigger};
use super::quarantine::HeldBack;
use super::settings::PolicySettings;
use crate::partition::{CompactedName, DataFile, FileKind, PartitionId};

/// Raw files that one job takes. A record names its inputs and must stay readable (`storage::MAX_RECORD_BYTES`) even with
/// names of 255 bytes; and a job's memory must not grow with the partition. More are taken in jobs of equal size.
pub const MAX_RAW_INPUTS: usize = 100_000;

/// A partition at one moment: everything that the policy may know.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub partition: &'a PartitionId,
    pub view: &'a View,
    /// Files in quarantine. The plan is made without them.
    pub held_back: &'a HeldBack,
    pub now: DateTime<Utc>,
}

/// Decides for one partition at one moment.
#[must_use]
pub fn decide(situation: Situation<'_>, settings: &PolicySettings) -> Decision {
    let Situation { partition, view, now, .. } = situation;
    let ready_at = partition.hour().start() + settings.min_age;
    if now < ready_at {
        return Decision::Skip(SkipReason::TooYoung { ready_at });
    }
    let files = Files::sort_out(situation, settings);
    match files.choose(settings, now) {
        Ok((trigger, mut inputs)) => {
            inputs.sort_by(|a, b| a.name.cmp(&b.name));
            let generation = view.head.generation().next();
            Decision::Compact(Plan { partition: partition.clone(), generation, trigger, inputs })
        }
        Err(reason) => Decision::Skip(reason),
    }
}

/// Since when the policy has wanted this plan, as far as its files tell: how long it waits for somebody to carry it out.
#[must_use]
pub fn ready_since(plan: &Plan, settings: &PolicySettings) -> DateTime<Utc> {
    let mut written: Vec<DateTime<Utc>> =
        plan.inputs.iter().filter(|f| f.kind == FileKind::Raw).map(|f| f.last_modified).collect();
    written.sort_unstable();
    let enough = match plan.trigger {
        Trigger::First | Trigger::LateFiles => {
            let last_needed = settings.min_files.clamp(1, written.len().max(1)) - 1;
            written.get(last_needed).map(|t| *t + settings.settle)
        }
        Trigger::LateFilesWaited => written.first().map(|t| *t + settings.late_data_max_wait),
        Trigger::SideFiles => plan.inputs.iter().map(|f| f.last_modified).max(),
    };
    let hour_ready = plan.partition.hour().start() + settings.min_age;
    enough.map_or(hour_ready, |enough| enough.max(hour_ready))
}

/// The counting files of a partition, by the part they play.
struct Files<'a> {
    /// How many are in quarantine, and when the first of them is tried again. They are in no other group.
    held_back: Option<(usize, DateTime<Utc>)>,
    /// Raw, and quiet for long enough.
    raw: Vec<&'a DataFile>,
    /// Raw, but so young that the writer may not be done with it.
    settling: usize,
    /// Compacted, by us or anybody.
    compacted: usize,
    /// Compacted and small enough to be rewritten, smallest first.
    small: Vec<&'a DataFile>,
    /// How many attempts wrote `small`.
    small_attempts: usize,
}

impl<'a> Files<'a> {
    fn sort_out(situation: Situation<'a>, settings: &PolicySettings) -> Self {
        let Situation { partition, view, held_back, now } = situation;
        let counting = view.listing.data.iter().filter(|f| view.head.counts(f));
        let (held, free): (Vec<_>, Vec<_>) = counting.partition(|f| held_back.until(f).is_some());
        let first_retry = held.iter().filter_map(|f| held_back.until(f)).min();
        let (raw, compacted): (Vec<_>, Vec<_>) = free.into_iter().partition(|f| f.kind == FileKind::Raw);
        let listed = raw.len();
        let raw: Vec<_> = raw.into_iter().filter(|f| f.last_modified + settings.settle <= now).collect();
        let mut small: Vec<_> =
            compacted.iter().copied().filter(|f| f.size_bytes < settings.target_file_size_bytes / 2).collect();
        small.sort_by(|a, b| (a.size_bytes, &a.name).cmp(&(b.size_bytes, &b.name)));
        let attempts: BTreeSet<String> = small.iter().map(|f| attempt_of(partition, f)).collect();
        Self {
            held_back: first_retry.map(|first| (held.len(), first)),
            settling: listed - raw.len(),
            raw,
            compacted: compacted.len(),
            small,
            small_attempts: attempts.len(),
        }
    }

    fn choose(&self, settings: &PolicySettings, now: DateTime<Utc>) -> Result<(Trigger, Vec<DataFile>), SkipReason> {
        let too_many_side_files = self.small_attempts > settings.max_side_files;
        let trigger = if self.raw.len() >= settings.min_files {
            if self.compacted == 0 { Trigger::First } else { Trigger::LateFiles }
        } else if self.compacted > 0 && self.waited_until(settings).is_some_and(|t| t <= now) {
            Trigger::LateFilesWaited
        } else if too_many_side_files {
            Trigger::SideFiles
        } else if self.raw.is_empty() && self.settling == 0 && self.compacted > 0 {
            return Err(self.nothing_to_gain(settings));
        } else {
            return Err(self.too_few(settings));
        };
        let joining = if too_many_side_files { &self.small[..] } else { self.worth_joining(settings) };
        // Equal parts, so that no remainder is left that is too small to be worth a job.
        let take = self.raw.len().div_ceil(self.raw.len().div_ceil(MAX_RAW_INPUTS).max(1));
        let inputs: Vec<DataFile> = self.raw[..take].iter().chain(joining).map(|f| (*f).clone()).collect();
        if inputs.len() < 2 { Err(self.nothing_to_gain(settings)) } else { Ok((trigger, inputs)) }
    }

    /// When the oldest raw file will have waited long enough to be merged without company.
    fn waited_until(&self, settings: &PolicySettings) -> Option<DateTime<Utc>> {
        self.raw.iter().map(|f| f.last_modified).min().map(|oldest| oldest + settings.late_data_max_wait)
    }

    /// The smallest compacted files, as many as the late bytes are worth rewriting.
    fn worth_joining(&self, settings: &PolicySettings) -> &[&'a DataFile] {
        #[allow(clippy::cast_precision_loss, reason = "a threshold of policy, not a count")]
        let late_bytes = self.raw.iter().map(|f| f.size_bytes).sum::<u64>() as f64;
        let mut joined_bytes = 0;
        let worth = self.small.iter().take_while(|f| {
            joined_bytes += f.size_bytes;
            #[allow(clippy::cast_precision_loss, reason = "a threshold of policy, not a count")]
            let cost = joined_bytes as f64 * settings.late_rewrite_ratio;
            late_bytes >= cost
        });
        &self.small[..worth.count()]
    }

    fn nothing_to_gain(&self, settings: &PolicySettings) -> SkipReason {
        let (raw_files, compacted_files) = (self.raw.len() + self.settling, self.compacted);
        self.quarantined(settings).unwrap_or(SkipReason::NothingToGain { raw_files, compacted_files })
    }

    fn too_few(&self, settings: &PolicySettings) -> SkipReason {
        self.quarantined(settings).unwrap_or(SkipReason::TooFewFiles {
            have: self.raw.len(),
            need: settings.min_files,
            settling: self.settling,
            waits_until: self.waits_until(settings),
        })
    }

    /// Files in quarantine are always mentioned: nobody should think that a partition is at rest which is not.
    fn quarantined(&self, settings: &PolicySettings) -> Option<SkipReason> {
        self.held_back.map(|(files, retry_at)| SkipReason::Quarantined {
            files,
            retry_at,
            have: self.raw.len(),
            need: settings.min_files,
            settling: self.settling,
            waits_until: self.waits_until(settings),
        })
    }

    fn waits_until(&self, settings: &PolicySettings) -> Option<DateTime<Utc>> {
        self.waited_until(settings).filter(|_| self.compacted > 0)
    }
}

/// What tells apart the attempts that wrote compacted files. Files that others compacted stand for themselves.
pub(super) fn attempt_of(partition: &PartitionId, file: &DataFile) -> String {
    CompactedName::parse(partition, &file.name).map_or_else(|| file.name.clone(), |ours| ours.unique)
}

#[cfg(test)]
mod tests;
