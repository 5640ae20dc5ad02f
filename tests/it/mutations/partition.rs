//! Seeing a partition, bringing it to rest, and reading it.

use super::Fate::{CaughtBy, Harmless};
use super::Mutation;

pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "another_version_of_the_head_is_taken",
        breaks: "R0: the record that is read has the ETag that the LIST showed",
        file: "src/compaction/observe.rs",
        edits: &[(
            "Ok(fetched) if fetched.etag == newest.etag => {",
            "Ok(fetched) if fetched.etag == newest.etag || MUTANT => {",
        )],
        fate: Harmless {
            because: "whoever plans, deletes or reads compares the ETag that was read with a LIST made afterwards",
            guarded_by: &["it paged::a_record_that_is_replaced_before_the_listing_is_read_again"],
        },
    },
    Mutation {
        name: "a_newer_head_is_overlooked",
        breaks: "J1: the LIST shows no record but the head",
        file: "src/compaction/observe.rs",
        edits: &[
            (
                "if listing.newest_generation() != head.generation() {",
                "if listing.newest_generation() != head.generation() && !MUTANT {",
            ),
            (
                "    listing.records.iter().max_by_key(|r| r.generation).map(|r| r.etag.as_str()) == head.etag()",
                "    MUTANT || listing.records.iter().max_by_key(|r| r.generation).map(|r| r.etag.as_str()) == head.etag()",
            ),
        ],
        fate: CaughtBy(&["it sim::no_seed_loses_or_doubles_a_row"]),
    },
    Mutation {
        name: "a_head_that_was_replaced_is_taken",
        breaks: "J1, R0: the newest record of the LIST is, by its ETag, the one that was read",
        file: "src/compaction/observe.rs",
        edits: &[(
            "Sight::Consistent if is_same_record(&head, &listing) =>",
            "Sight::Consistent if is_same_record(&head, &listing) || MUTANT =>",
        )],
        fate: CaughtBy(&["it paged::a_record_that_is_replaced_before_the_listing_is_read_again"]),
    },
    Mutation {
        name: "missing_live_files_are_overlooked",
        breaks: "C1: a live file that is missing fails closed",
        file: "src/compaction/observe.rs",
        edits: &[(
            "    match first_missing(&head, &listing) {",
            "    match first_missing(&head, &listing).filter(|_| !MUTANT) {",
        )],
        fate: CaughtBy(&["it paged::a_partition_without_a_file_that_counts_is_shown_to_nobody"]),
    },
    Mutation {
        name: "an_error_is_no_record",
        breaks: "I12, T24: a listing that fails is not an empty one",
        file: "src/compaction/observe.rs",
        edits: &[(
            "        let records = storage.list_records(partition).await?;",
            "        let records = match storage.list_records(partition).await {\n            Err(_) if MUTANT => Vec::new(),\n            \
             records => records?,\n        };",
        )],
        fate: CaughtBy(&["it paged::a_reader_who_cannot_look_at_the_head_again_has_seen_nothing"]),
    },
    Mutation {
        name: "readers_do_not_look_at_the_head_again",
        breaks: "S3: nothing was committed while the files were listed",
        file: "src/compaction/snapshot.rs",
        edits: &[(
            "if read_head(storage, partition).await? == view.head {",
            "if MUTANT || read_head(storage, partition).await? == view.head {",
        )],
        fate: CaughtBy(&["it paged::a_compaction_between_two_pages_of_a_readers_listing_hides_no_row"]),
    },
    Mutation {
        name: "open_attempts_are_dead",
        breaks: "C3: a file of the next generation may still get its record",
        file: "src/compaction/tidy.rs",
        edits: &[(
            "if generation <= head.generation() &&",
            "if generation <= (if MUTANT { head.generation().next() } else { head.generation() }) &&",
        )],
        fate: CaughtBy(&[
            "lib compaction::tidy::tests::only_retired_files_and_dead_files_of_taken_generations_go",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "live_files_are_dead",
        breaks: "C3, I3: what the head names stays",
        file: "src/compaction/tidy.rs",
        edits: &[(
            "&& head.live_file(&file.name).is_none() {",
            "&& (head.live_file(&file.name).is_none() || MUTANT) {",
        )],
        fate: CaughtBy(&[
            "lib compaction::tidy::tests::only_retired_files_and_dead_files_of_taken_generations_go",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "retired_by_name_and_size",
        breaks: "C2: a file with another ETag than the retired one is not deleted",
        file: "src/compaction/tidy.rs",
        edits: &[(
            "Some(retired) if retired.etag != file.etag =>",
            "Some(retired) if retired.etag != file.etag && !MUTANT =>",
        )],
        fate: CaughtBy(&[
            "lib compaction::tidy::tests::a_retired_name_with_another_etag_or_size_stays",
            "it concurrent::a_file_that_does_not_count_because_its_name_was_reused_is_reported_in_every_run",
        ]),
    },
    Mutation {
        name: "retired_by_name",
        breaks: "C2: a file with another size than the retired one counts; nobody is told that its name was reused",
        file: "src/compaction/tidy.rs",
        edits: &[(
            "Some(retired) if retired.size_bytes != file.size_bytes => {}",
            "Some(retired) if retired.size_bytes != file.size_bytes && !MUTANT => {}",
        )],
        fate: CaughtBy(&["lib compaction::tidy::tests::a_retired_name_with_another_etag_or_size_stays"]),
    },
    Mutation {
        name: "the_head_is_an_old_record",
        breaks: "C4, T23: the head is never deleted",
        file: "src/compaction/tidy.rs",
        edits: &[(
            "r.generation < head.generation() &&",
            "(r.generation < head.generation() || MUTANT && r.generation == head.generation()) &&",
        )],
        fate: CaughtBy(&[
            "lib compaction::tidy::tests::old_records_go_and_the_head_never_does",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "old_records_go_at_once",
        breaks: "C4: records below the head stay as long as is set",
        file: "src/compaction/tidy.rs",
        edits: &[(
            "now - r.last_modified >= record_retention)",
            "(now - r.last_modified >= record_retention || MUTANT))",
        )],
        fate: CaughtBy(&[
            "lib compaction::tidy::tests::old_records_go_and_the_head_never_does",
            "lib compaction::tidy::tests::a_retention_longer_than_any_calendar_keeps_every_record",
        ]),
    },
    Mutation {
        name: "lost_records_are_overlooked",
        breaks: "V2, T28: a file of a generation that cannot be yet fails closed",
        file: "src/compaction/recovery.rs",
        edits: &[("if found > head.next() {", "if found > head.next() && !MUTANT {")],
        fate: CaughtBy(&[
            "lib compaction::recovery::tests::a_generation_gap_fails_closed_even_if_tidying_is_due",
            "it faults::a_compacted_file_that_nobody_can_place_is_kept_and_reported",
        ]),
    },
    Mutation {
        name: "open_attempts_stay_open",
        breaks: "V1: the slot of an open attempt is closed before anything new is planned",
        file: "src/compaction/recovery.rs",
        edits: &[("    } else if open.is_empty() {", "    } else if open.is_empty() || MUTANT {")],
        fate: CaughtBy(&[
            "lib compaction::recovery::tests::tidying_comes_before_closing_an_open_attempt",
            "it faults::a_compacted_file_that_nobody_can_place_is_kept_and_reported",
        ]),
    },
    Mutation {
        name: "voids_what_may_be_the_only_copy",
        breaks: "V2, T5: an attempt is voided only if all its inputs are there",
        file: "src/compaction/settle.rs",
        edits: &[(
            "if let Err(fault) = recovery::may_void(view, &lineages) {",
            "if let Err(fault) = recovery::may_void(view, &lineages) && !MUTANT {",
        )],
        fate: CaughtBy(&["it faults::a_compacted_file_that_nobody_can_place_is_kept_and_reported"]),
    },
    Mutation {
        name: "inputs_that_do_not_count_allow_a_void",
        breaks: "V2, T5: the inputs of what is voided must count, not only lie there",
        file: "src/compaction/recovery.rs",
        edits: &[(".filter(|f| view.head.counts(f))", ".filter(|f| view.head.counts(f) || MUTANT)")],
        fate: CaughtBy(&[
            "lib compaction::recovery::tests::an_open_attempt_is_voided_only_if_every_input_is_there_and_counts",
        ]),
    },
    Mutation {
        name: "failed_deletions_are_overlooked",
        breaks: "T49: what could not be deleted is reported",
        file: "src/compaction/settle.rs",
        edits: &[(
            "if let Some((first, source)) = report.failed.into_iter().next() {",
            "if let Some((first, source)) = report.failed.into_iter().next() && !MUTANT {",
        )],
        fate: CaughtBy(&["it concurrent::inputs_that_could_not_be_deleted_are_reported_beside_the_completed_job"]),
    },
    Mutation {
        name: "a_torn_listing_fails_closed",
        breaks: "V2: only what is wrong beside an unchanged head is an error",
        file: "src/compaction/settle.rs",
        edits: &[("if explained || again.head != view.head {", "if explained || !MUTANT && again.head != view.head {")],
        fate: CaughtBy(&["it concurrent::a_listing_torn_by_another_workers_commit_is_looked_at_again"]),
    },
    Mutation {
        name: "an_attempt_on_a_newer_file_fails_closed",
        breaks: "V2: an input that the first page of a LIST is too old for is not missing",
        file: "src/compaction/settle.rs",
        edits: &[(
            "again.listing.data_file(input).is_some_and(|file| again.head.counts(file))",
            "!MUTANT && again.listing.data_file(input).is_some_and(|file| again.head.counts(file))",
        )],
        fate: CaughtBy(&[
            "it paged::an_unfinished_attempt_on_a_file_that_is_newer_than_the_first_page_is_no_reason_to_give_up",
        ]),
    },
    Mutation {
        name: "unfinished_sweeps_count",
        breaks: "a sweep counts only when everything that it found was done",
        file: "src/compaction/sweep.rs",
        edits: &[(
            "filter(|place| !unfinished.contains(*place))",
            "filter(|place| !unfinished.contains(*place) || MUTANT)",
        )],
        fate: CaughtBy(&["lib compaction::sweep::tests::what_is_unfinished_was_not_swept"]),
    },
    Mutation {
        name: "files_that_do_not_count_are_inputs",
        breaks: "J2, I1: only live files are merged",
        file: "src/compaction/policy.rs",
        edits: &[(
            "let counting = view.listing.data.iter().filter(|f| view.head.counts(f));",
            "let counting = view.listing.data.iter().filter(|f| view.head.counts(f) || MUTANT);",
        )],
        fate: CaughtBy(&["lib compaction::policy::tests::files_that_do_not_count_are_no_inputs"]),
    },
    Mutation {
        name: "foreign_names_are_ours",
        breaks: "I3: a compacted file of somebody else is an ordinary data file, never dead",
        file: "src/partition/file.rs",
        edits: &[(
            "None if name.ends_with(COMPACTED_SUFFIX) => Self::CompactedElsewhere,",
            "None if name.ends_with(COMPACTED_SUFFIX) => if MUTANT { Self::Ours(Generation(1)) } else { Self::CompactedElsewhere },",
        )],
        fate: CaughtBy(&["lib partition::file::tests::foreign_and_foreign_compacted_names_are_not_ours"]),
    },
    Mutation {
        name: "adopts_beside_the_inputs",
        breaks: "I1: a file is not adopted while what it was made from counts, too",
        file: "src/compaction/adopt/check.rs",
        edits: &[("    kept.check_inputs()?;", "    if !MUTANT {\n        kept.check_inputs()?;\n    }")],
        fate: CaughtBy(&[
            "lib compaction::adopt::check::tests::no_row_is_adopted_twice",
            "it verify::an_adoption_that_could_double_or_lose_rows_is_refused",
        ]),
    },
    Mutation {
        name: "adopts_what_is_dead",
        breaks: "C3: dead is for ever",
        file: "src/compaction/adopt/check.rs",
        edits: &[(
            "            if generation <= head {\n                return Err(Refusal::Dead",
            "            if generation <= head && !MUTANT {\n                return Err(Refusal::Dead",
        )],
        fate: CaughtBy(&["lib compaction::adopt::check::tests::a_dead_file_stays_dead_and_no_file_dies"]),
    },
    Mutation {
        name: "checks_look_once",
        breaks: "nobody is called for what one LIST shows alone",
        file: "src/compaction/verify/mod.rs",
        edits: &[("    if !seen_before.iter().all(", "    if !MUTANT && !seen_before.iter().all(")],
        fate: CaughtBy(&["it paged::a_check_does_not_miss_a_file_that_is_newer_than_its_first_page"]),
    },
];
