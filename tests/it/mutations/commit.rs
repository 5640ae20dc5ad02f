//! The one create that decides, and what the record says.

use super::Fate::CaughtBy;
use super::Mutation;

pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "a_record_that_exists_is_taken_for_ours",
        breaks: "T20, I7: whose record is there is found out by its job id",
        file: "src/compaction/commit.rs",
        edits: &[(
            "            Ok(Created::AlreadyExists) => match owner",
            "            Ok(Created::AlreadyExists) if MUTANT => return Ok(()),\n            Ok(Created::AlreadyExists) => match owner",
        )],
        fate: CaughtBy(&[
            "it sim::no_seed_loses_or_doubles_a_row",
            "it concurrent::a_worker_that_another_one_was_faster_than_has_not_failed",
        ]),
    },
    Mutation {
        name: "any_job_id_is_ours",
        breaks: "T20, I7: another job's id is another job's record",
        file: "src/compaction/commit.rs",
        edits: &[("    if job_id == record.job_id {", "    if job_id == record.job_id || MUTANT {")],
        fate: CaughtBy(&[
            "it sim::no_seed_loses_or_doubles_a_row",
            "it concurrent::a_worker_that_another_one_was_faster_than_has_not_failed",
        ]),
    },
    Mutation {
        name: "an_error_is_taken_for_a_commit",
        breaks: "T19, T67: a create without an answer may not have happened",
        file: "src/compaction/commit.rs",
        edits: &[(
            "            Err(error) => match owner(storage, partition, record).await {",
            "            Err(_) if MUTANT => return Ok(()),\n            Err(error) => match owner(storage, partition, record).await {",
        )],
        fate: CaughtBy(&[
            "it sim::no_seed_loses_or_doubles_a_row",
            "it faults::a_commit_that_never_answers_deletes_nothing_and_the_next_cycle_starts_anew",
        ]),
    },
    Mutation {
        name: "an_error_is_taken_for_no_commit",
        breaks: "T19, T20, I12: after an unknown answer \"not written\" says nothing about the earlier try",
        file: "src/compaction/commit.rs",
        edits: &[(
            "Err(WriteError::NotWritten(source)) if tries == 1 => {",
            "Err(WriteError::NotWritten(source) | WriteError::Unknown(source)) if tries == 1 && MUTANT => {\n                \
             return Err(JobError::Write { step: \"create record\", source: WriteError::NotWritten(source) });\n            }\n            \
             Err(WriteError::NotWritten(source)) if tries == 1 => {",
        )],
        fate: CaughtBy(&[
            "it sim::no_seed_loses_or_doubles_a_row",
            "it faults::a_lost_answer_to_the_commit_is_found_out_and_the_job_has_won",
        ]),
    },
    Mutation {
        name: "a_record_too_large_to_be_read_is_written",
        breaks: "I4: a record that nobody can read would close its partition for ever",
        file: "src/compaction/commit.rs",
        edits: &[(
            "if bytes.len() as u64 > MAX_RECORD_BYTES {",
            "if bytes.len() as u64 > MAX_RECORD_BYTES && !MUTANT {",
        )],
        fate: CaughtBy(&["lib compaction::commit::tests::a_record_that_nobody_could_read_is_not_written"]),
    },
    Mutation {
        name: "retired_files_are_forgotten",
        breaks: "J5: a retired file that is still listed stays retired",
        file: "src/compaction/record.rs",
        edits: &[(
            ".filter(|r| listed.contains(&(r.name.as_str(), r.size_bytes)))",
            ".filter(|r| !MUTANT && listed.contains(&(r.name.as_str(), r.size_bytes)))",
        )],
        fate: CaughtBy(&[
            "lib compaction::record::tests::a_void_takes_the_next_generation_and_changes_nothing_that_counts",
            "it model::writes_may_take_effect_twice_and_below_the_head_and_tidying_may_be_skipped",
        ]),
    },
    Mutation {
        name: "retired_files_count",
        breaks: "R1: what the head retires does not count",
        file: "src/compaction/record.rs",
        edits: &[(
            "self.retired_file(&file.name).is_none_or(|r| r.size_bytes != file.size_bytes)",
            "self.retired_file(&file.name).is_none_or(|r| r.size_bytes != file.size_bytes || MUTANT)",
        )],
        fate: CaughtBy(&[
            "lib compaction::record::tests::ours_counts_only_if_named_and_others_unless_retired",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "unnamed_outputs_count",
        breaks: "R1, T70: a compacted file counts only if the head names it",
        file: "src/compaction/record.rs",
        edits: &[(
            "self.live_file(&file.name).is_some_and(|l| l.size_bytes == file.size_bytes)",
            "self.live_file(&file.name).is_some_and(|l| l.size_bytes == file.size_bytes) || MUTANT",
        )],
        fate: CaughtBy(&[
            "lib compaction::record::tests::ours_counts_only_if_named_and_others_unless_retired",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "compacted_inputs_stay_live",
        breaks: "I1, J5: a compacted file that was consumed is no longer live",
        file: "src/compaction/record.rs",
        edits: &[(
            "record.live.retain(|f| !consumed.contains(f.name.as_str()));",
            "record.live.retain(|f| !consumed.contains(f.name.as_str()) || MUTANT);",
        )],
        fate: CaughtBy(&[
            "lib compaction::record::tests::a_commit_replaces_its_inputs_by_its_outputs_and_keeps_everything_else",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "inputs_are_not_retired",
        breaks: "I1, J5: what was consumed does not count any more",
        file: "src/compaction/record.rs",
        edits: &[(
            "record.retired.extend(inputs.iter().map(",
            "record.retired.extend(inputs.iter().filter(|_| !MUTANT).map(",
        )],
        fate: CaughtBy(&[
            "lib compaction::record::tests::a_commit_replaces_its_inputs_by_its_outputs_and_keeps_everything_else",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "a_generation_is_left_out",
        breaks: "J1, I7: a record has exactly the generation after the head's",
        file: "src/compaction/record.rs",
        edits: &[(
            "generation: self.generation().next(),",
            "generation: if MUTANT { self.generation().next().next() } else { self.generation().next() },",
        )],
        fate: CaughtBy(&[
            "lib compaction::record::tests::a_void_takes_the_next_generation_and_changes_nothing_that_counts",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "a_void_forgets_what_is_live",
        breaks: "V1: a void changes nothing that counts",
        file: "src/compaction/record.rs",
        edits: &[(
            "let mut record = self.next(RecordKind::Void, author, listing);\n",
            "let mut record = self.next(RecordKind::Void, author, listing);\n        if MUTANT {\n            record.live.clear();\n        }\n",
        )],
        fate: CaughtBy(&[
            "lib compaction::record::tests::a_void_takes_the_next_generation_and_changes_nothing_that_counts",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "records_may_name_paths",
        breaks: "T16: a record names plain files only",
        file: "src/compaction/record.rs",
        edits: &[("if !is_plain_file_name(name) {", "if !is_plain_file_name(name) && !MUTANT {")],
        fate: CaughtBy(&["lib compaction::record::tests::a_record_that_names_anything_but_plain_files_is_refused"]),
    },
    Mutation {
        name: "a_copied_record_is_believed",
        breaks: "R0: a record of another generation than its key's is not the head",
        file: "src/compaction/record.rs",
        edits: &[("if record.generation != generation {", "if record.generation != generation && !MUTANT {")],
        fate: CaughtBy(&["lib compaction::record::tests::a_record_of_another_format_generation_or_shape_is_refused"]),
    },
    Mutation {
        name: "records_of_later_versions_are_believed",
        breaks: "R0: a record in a format that is not known fails closed",
        file: "src/compaction/record.rs",
        edits: &[("if format != FORMAT {", "if format != FORMAT && !MUTANT {")],
        fate: CaughtBy(&["lib compaction::record::tests::a_record_of_another_format_generation_or_shape_is_refused"]),
    },
];
