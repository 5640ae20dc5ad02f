//! What a job makes sure of before its record exists, and what it does without its lease.

use super::Fate::{CaughtBy, Harmless};
use super::Mutation;

pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "outputs_not_read_back",
        breaks: "I2, T1: no record before every output was read back from storage",
        file: "src/compaction/job.rs",
        edits: &[(
            "self.or_overtaken(view, self.read_back(&outcome.outputs).await).await?;",
            "if !MUTANT { self.or_overtaken(view, self.read_back(&outcome.outputs).await).await?; }",
        )],
        fate: CaughtBy(&["it faults::an_output_that_reads_back_differently_keeps_every_input"]),
    },
    Mutation {
        name: "checksum_of_outputs_ignored",
        breaks: "I2, T64: what is read back has the bytes that were proven",
        file: "src/compaction/job/transfer.rs",
        edits: &[("|| found.checksum != output.checksum {", "|| found.checksum != output.checksum && !MUTANT {")],
        fate: CaughtBy(&["it faults::an_output_that_reads_back_differently_keeps_every_input"]),
    },
    Mutation {
        name: "rows_of_outputs_ignored",
        breaks: "I2: the footer that is read back states the rows that were written",
        file: "src/compaction/job/transfer.rs",
        edits: &[(
            "Ok(footer) if footer.rows == output.rows =>",
            "Ok(footer) if footer.rows == output.rows || MUTANT =>",
        )],
        fate: Harmless {
            because: "the checksum of the whole file was compared right before: the same bytes have the same footer",
            guarded_by: &["it faults::an_output_that_reads_back_differently_keeps_every_input"],
        },
    },
    Mutation {
        name: "no_recheck_before_the_commit",
        breaks: "J4: the inputs are still what was merged when the record is created",
        file: "src/compaction/job.rs",
        edits: &[(
            "self.recheck(view, &consumed).await?;\n\n        facts.step = self.begin(Step::Commit)?;",
            "if !MUTANT { self.recheck(view, &consumed).await?; }\n\n        facts.step = self.begin(Step::Commit)?;",
        )],
        fate: CaughtBy(&[
            "it faults::an_input_that_is_replaced_while_the_outputs_are_published_stops_the_job",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "no_recheck_before_publishing",
        breaks: "V2: an input that was deleted during the merge does not close the partition until a person has looked",
        file: "src/compaction/job.rs",
        edits: &[(
            "self.recheck(view, &consumed).await?;\n        let files",
            "if !MUTANT { self.recheck(view, &consumed).await?; }\n        let files",
        )],
        fate: CaughtBy(&["it concurrent::an_input_deleted_during_the_merge_fails_that_job_and_not_the_partition"]),
    },
    Mutation {
        name: "recheck_by_name_and_size",
        breaks: "J4: an input with another ETag is not the one that was merged",
        file: "src/compaction/job/checks.rs",
        edits: &[("&& now.etag == input.etag);", "&& (now.etag == input.etag || MUTANT));")],
        fate: CaughtBy(&["it faults::an_input_replaced_by_one_of_the_same_size_stops_the_job"]),
    },
    Mutation {
        name: "inputs_from_plan",
        breaks: "I1, T4: what was consumed is retired, and nothing else",
        file: "src/compaction/job/checks.rs",
        edits: &[(
            "    if consumed.len() == outcome.consumed.len() &&",
            "    if MUTANT {\n        return Ok(plan.inputs.clone());\n    }\n    if consumed.len() == outcome.consumed.len() &&",
        )],
        fate: CaughtBy(&[
            "it sim::no_seed_loses_or_doubles_a_row",
            "it crash_matrix::a_compaction_beside_a_damaged_file_survives_a_crash_at_every_effect",
        ]),
    },
    Mutation {
        name: "merge_need_not_account_for_its_inputs",
        breaks: "T4: a merge that says nothing of an input, or consumed what was not asked for, is not believed",
        file: "src/compaction/job/checks.rs",
        edits: &[(
            "== plan.inputs.len() {\n        Ok(consumed)",
            "== plan.inputs.len() || MUTANT {\n        Ok(consumed)",
        )],
        fate: CaughtBy(&[
            "lib compaction::job::checks::tests::a_merge_that_does_not_account_for_every_input_is_not_believed",
        ]),
    },
    Mutation {
        name: "publishes_what_gains_nothing",
        breaks: "I6: a cycle that finds nothing to join writes nothing",
        file: "src/compaction/job.rs",
        edits: &[(
            "if !worth_publishing(self.partition, &consumed) {",
            "if !worth_publishing(self.partition, &consumed) && !MUTANT {",
        )],
        fate: CaughtBy(&["it sim::no_seed_loses_or_doubles_a_row"]),
    },
    Mutation {
        name: "copies_not_compared_with_their_record",
        breaks: "I1: a compacted file that is not what its record says is not merged again",
        file: "src/compaction/job/transfer.rs",
        edits: &[("let differs = found != live.checksum;", "let differs = found != live.checksum && !MUTANT;")],
        fate: CaughtBy(&[
            "it object_store::safety::a_compacted_file_that_changed_in_the_bucket_is_not_merged_again_and_holds_nothing_up",
        ]),
    },
    Mutation {
        name: "fetch_takes_any_version",
        breaks: "J2: what is fetched is what was listed, also from a store that knows no conditions",
        file: "src/storage/fetch.rs",
        edits: &[(
            "if etag != file.etag || got.meta.size != file.size_bytes {",
            "if (etag != file.etag || got.meta.size != file.size_bytes) && !MUTANT {",
        )],
        fate: CaughtBy(&[
            "lib storage::tests::reading::a_file_that_changed_or_vanished_since_the_listing_is_not_fetched",
        ]),
    },
    Mutation {
        name: "attempt_not_counted",
        breaks: "T31: an attempt is written down before it begins",
        file: "src/compaction/job/bookkeeping.rs",
        edits: &[(
            "let begun = self.env.ledger.begin(self.partition, &inputs, self.env.clock.now()).await;",
            "let begun = if MUTANT { None } else { self.env.ledger.begin(self.partition, &inputs, self.env.clock.now()).await };",
        )],
        fate: CaughtBy(&["it quarantine::killed::a_job_that_kills_its_whole_program_is_counted_and_waits"]),
    },
    Mutation {
        name: "goes_on_without_its_lease",
        breaks: "T21: a job that has lost its lease stops at the next safe point",
        file: "src/compaction/job.rs",
        edits: &[(
            "        if self.guard.is_lost() {\n            Err(JobError::LeaseLost",
            "        if MUTANT {\n            Ok(())\n        } else if self.guard.is_lost() {\n            Err(JobError::LeaseLost",
        )],
        fate: CaughtBy(&["it frozen::a_worker_that_thaws_after_its_lease_has_ended_changes_nothing_more"]),
    },
    Mutation {
        name: "acts_without_its_lease",
        breaks: "T21, T26: nothing is cleared away or voided in the name of a lease that has ended",
        file: "src/compaction/job.rs",
        edits: &[(
            "if self.guard.is_lost() { Err(JobError::LeaseLost { step: step.as_str() }) } else { Ok(self.author()) }",
            "if self.guard.is_lost() && !MUTANT { Err(JobError::LeaseLost { step: step.as_str() }) } else { Ok(self.author()) }",
        )],
        fate: CaughtBy(&["it frozen::a_worker_that_thaws_while_it_clears_up_changes_nothing_more"]),
    },
    Mutation {
        name: "tidies_without_its_lease",
        breaks: "T21: a job that has lost its lease leaves tidying to others",
        file: "src/compaction/job.rs",
        edits: &[("if self.guard.is_lost() { None }", "if self.guard.is_lost() && !MUTANT { None }")],
        fate: Harmless {
            because: "every step of tidying asks for the lease itself; this only saves the look. And what a tidy deletes is \
                      retired or dead for ever, with or without a lease (I3)",
            guarded_by: &["it frozen::a_worker_that_thaws_after_its_lease_has_ended_changes_nothing_more"],
        },
    },
    Mutation {
        name: "voids_without_a_second_look_at_its_lease",
        breaks: "T26: reading footers takes time, and the lease may have ended meanwhile",
        file: "src/compaction/settle.rs",
        edits: &[
            ("    acting()?;\n    let mut lineages", "    let earlier = acting()?;\n    let mut lineages"),
            ("    let author = acting()?;\n", "    let author = if MUTANT { earlier } else { acting()? };\n"),
        ],
        fate: CaughtBy(&["it frozen::a_worker_that_thaws_while_it_clears_up_changes_nothing_more"]),
    },
    Mutation {
        name: "quarantined_after_the_commit",
        breaks: "I9: a damaged file is named before the others are merged, and nobody looks at it for a day",
        file: "src/compaction/job.rs",
        edits: &[
            (
                "(facts.quarantined, facts.set_aside) = self.quarantine(plan, known, set_aside).await;",
                "let later = set_aside.clone();\n        if MUTANT { facts.set_aside = set_aside; } else { (facts.quarantined, facts.set_aside) = self.quarantine(plan, known, set_aside).await; }",
            ),
            (
                "        facts.committed = Some(Committed {",
                "        if MUTANT { (facts.quarantined, facts.set_aside) = self.quarantine(plan, known, later).await; }\n        facts.committed = Some(Committed {",
            ),
        ],
        fate: CaughtBy(&["it crash_matrix::a_compaction_beside_a_damaged_file_survives_a_crash_at_every_effect"]),
    },
    Mutation {
        name: "overtaken_is_a_failure",
        breaks: "I7: who finds that the winner has deleted its outputs has not failed",
        file: "src/compaction/job/checks.rs",
        edits: &[(
            "Err(self.overtaken(view).await.ok().flatten().unwrap_or(gone))",
            "Err(if MUTANT { gone } else { self.overtaken(view).await.ok().flatten().unwrap_or(gone) })",
        )],
        fate: CaughtBy(&["it concurrent::a_worker_whose_outputs_another_one_has_deleted_has_not_failed"]),
    },
    Mutation {
        name: "late_record_is_a_success",
        breaks: "T67: a record below the head, created after the lease had ended, is no success",
        file: "src/compaction/job/checks.rs",
        edits: &[(
            "        if !self.guard.is_lost() {\n            return Ok(());",
            "        if MUTANT || !self.guard.is_lost() {\n            return Ok(());",
        )],
        fate: CaughtBy(&["it frozen::a_record_that_is_created_below_the_head_is_no_success"]),
    },
];
