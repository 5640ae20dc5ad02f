//! What a job writes down for the next ones: that it begins, how it ended, and which of its inputs are damaged.

use std::sync::PoisonError;

use super::Job;
use crate::compaction::attempts::Ended;
use crate::compaction::backoff::Verdict;
use crate::compaction::error::JobError;
use crate::compaction::ledger::Known;
use crate::compaction::plan::Plan;
use crate::compaction::quarantine::{self, QuarantinedInput};
use crate::compaction::settings::PartitionSettings;
use crate::merge::SetAside;

/// What a failure means for the next attempt.
pub(super) fn ended(error: &JobError) -> Ended {
    let error_text = error.without_store_words();
    match Verdict::of(error) {
        Verdict::DoesNotCount => Ended::DoesNotCount,
        Verdict::Counts => Ended::Failed { error: error_text, until_changed: false },
        Verdict::UntilChanged => Ended::Failed { error: error_text, until_changed: true },
    }
}

impl Job<'_> {
    /// T31: from here on the attempt counts, whatever becomes of this process.
    pub(super) async fn begin_attempt(&self, plan: &Plan, settings: &PartitionSettings) {
        let inputs = self.env.fingerprint(plan, settings);
        let begun = self.env.ledger.begin(self.partition, &inputs, self.env.clock.now()).await;
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }

    pub(super) async fn end_attempt(&self, ended: Ended) {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.env.ledger.end(begun, ended, self.env.clock.now()).await;
    }

    /// Puts the damaged ones of what the merge left out into quarantine; gives them, and the others. Where that cannot be
    /// written down, nothing is in quarantine and everything is among the others.
    pub(super) async fn quarantine(
        &self,
        plan: &Plan,
        known: &Known,
        set_aside: Vec<SetAside>,
    ) -> (Vec<QuarantinedInput>, Vec<SetAside>) {
        let now = self.env.clock.now();
        let retry_at = now + self.env.settings.quarantine_retry;
        let (defective, sound) = quarantine::sort_out(&plan.inputs, set_aside.clone(), retry_at);
        if defective.is_empty() && known.quarantined.is_empty() {
            return (defective, sound);
        }
        if self.env.ledger.take_in(self.partition, &plan.inputs, &defective, now).await {
            (defective, sound)
        } else {
            (Vec::new(), set_aside)
        }
    }
}
