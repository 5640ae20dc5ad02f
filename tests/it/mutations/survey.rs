//! Looking at files before they are merged, or long after: what is left out, for which reason, and in how much memory.

use super::Fate::CaughtBy;
use super::Mutation;

pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "footers_decoded_whatever_they_take",
        breaks: "a footer is decoded only if that fits into its share of the memory",
        file: "src/merge/survey_room.rs",
        edits: &[("if need > limit / DECODING_SHARE {", "if !MUTANT && need > limit / DECODING_SHARE {")],
        fate: CaughtBy(&[
            "lib merge::survey::tests::a_footer_of_many_chunks_takes_no_more_memory_than_is_counted_for_it_and_no_more_than_there_is",
        ]),
    },
    Mutation {
        name: "schemas_decoded_uncounted",
        breaks: "what is made of a schema's elements counts before they are decoded",
        file: "src/merge/survey.rs",
        edits: &[("admit(walked.schema_elements)?;", "admit(if MUTANT { 0 } else { walked.schema_elements })?;")],
        fate: CaughtBy(&[
            "lib merge::survey::tests::a_footer_of_many_columns_takes_no_more_memory_than_is_counted_for_it_and_no_more_than_there_is",
        ]),
    },
    Mutation {
        name: "fields_hold_what_they_say",
        breaks: "nothing of a footer that is not what its definition says comes to the Parquet library",
        file: "src/merge/definition.rs",
        edits: &[(
            "        match (shape, kind) {\n",
            "        match (shape, kind) {\n            _ if MUTANT => self.value(kind, depth),\n",
        )],
        fate: CaughtBy(&["lib merge::footer_guard::tests::a_value_of_another_type_than_its_field_has_is_refused"]),
    },
    Mutation {
        name: "packed_lengths_uncounted",
        breaks: "no page has more packed lengths than values",
        file: "src/merge/checked_pages.rs",
        edits: &[("if count as u64 > most {", "if !MUTANT && count as u64 > most {")],
        fate: CaughtBy(&[
            "lib merge::checked_pages::tests::a_page_may_have_as_many_lengths_as_values_and_fewer_but_not_more",
        ]),
    },
    Mutation {
        name: "pages_have_what_values_they_say",
        breaks: "the pages of a chunk have no more values than it",
        file: "src/merge/checked_pages.rs",
        edits: &[(
            "let left = self.values_left.checked_sub(values);",
            "let left = self.values_left.checked_sub(if MUTANT { 0 } else { values });",
        )],
        fate: CaughtBy(&[
            "lib merge::checked_pages::tests::a_chunk_has_no_more_values_than_it_says",
            "lib merge::columnar::chunk::tests::a_page_is_not_believed_to_have_more_rows_than_its_row_group",
        ]),
    },
    Mutation {
        name: "dictionaries_have_what_entries_they_say",
        breaks: "a dictionary has no more entries than its bytes can hold",
        file: "src/merge/checked_pages.rs",
        edits: &[("if entries > most {", "if !MUTANT && entries > most {")],
        fate: CaughtBy(&["lib merge::checked_pages::tests::a_dictionary_has_no_more_entries_than_its_bytes_can_hold"]),
    },
    Mutation {
        name: "prefixes_written_out_uncounted",
        breaks: "what a few bytes of a page become has room before it is decoded",
        file: "src/merge/checked_pages.rs",
        edits: &[(".saturating_add(shared)", ".saturating_add(if MUTANT { 0 } else { shared })")],
        fate: CaughtBy(&[
            "lib merge::checked_pages::tests::values_that_begin_alike_are_written_out_only_where_there_is_room",
        ]),
    },
    Mutation {
        name: "texts_of_a_dictionary_written_out_uncounted",
        breaks: "what stands in a dictionary once has room before it is written out for each row",
        file: "src/merge/columnar/chunk.rs",
        edits: &[("all.bytes().saturating_add(more)", "all.bytes().saturating_add(if MUTANT { 0 } else { more })")],
        fate: CaughtBy(&[
            "lib merge::columnar::chunk::tests::texts_that_are_written_out_larger_than_there_is_room_for_are_left_to_duckdb",
        ]),
    },
    Mutation {
        name: "unread_headers_are_believed",
        breaks: "no page is decoded of whose header nobody knows what it claims",
        file: "src/merge/columnar/claims.rs",
        edits: &[("Ok(pages.were_all_seen())", "Ok(MUTANT || pages.were_all_seen())")],
        fate: CaughtBy(&[
            "lib merge::columnar::claims::tests::a_header_too_long_to_be_walked_says_nothing_about_its_file",
            "lib merge::columnar::tests::odd_files::a_file_with_a_page_header_too_long_to_be_walked_is_merged_by_duckdb",
        ]),
    },
    Mutation {
        name: "any_header_of_a_page_counts",
        breaks: "the values of a page are those of the header of its type",
        file: "src/merge/page_headers.rs",
        edits: &[(
            "TYPE_DATA_PAGE => (data, Some(0)),",
            "TYPE_DATA_PAGE => (if MUTANT { data_v2.or(data) } else { data }, Some(0)),",
        )],
        fate: CaughtBy(&["lib merge::page_headers::tests::the_header_of_the_pages_own_type_counts"]),
    },
    Mutation {
        name: "refused_schemas_take_room",
        breaks: "what is not kept takes no room",
        file: "src/merge/survey_room.rs",
        edits: &[(
            "            return Err(SetAsideReason::Unexamined(format!(\n",
            "            if MUTANT {\n                kept.bytes += of_schema.min(limit - kept.bytes);\n            }\n            return Err(SetAsideReason::Unexamined(format!(\n",
        )],
        fate: CaughtBy(&["lib merge::survey::tests::the_first_files_are_kept_and_schemas_of_others_are_not"]),
    },
    Mutation {
        name: "columns_kept_whatever_they_take",
        breaks: "what is kept of all files fits into its share of the memory",
        file: "src/merge/survey_room.rs",
        edits: &[("if need > limit - kept.bytes {", "if !MUTANT && need > limit.saturating_sub(kept.bytes) {")],
        fate: CaughtBy(&[
            "lib merge::survey::tests::files_of_whose_columns_no_more_can_be_kept_wait_for_the_next_merge",
            "lib merge::survey::tests::the_first_files_are_kept_and_schemas_of_others_are_not",
        ]),
    },
    Mutation {
        name: "schemas_kept_uncounted",
        breaks: "the schemas that are kept count",
        file: "src/merge/survey_room.rs",
        edits: &[("if known.is_some() { 0 }", "if MUTANT || known.is_some() { 0 }")],
        fate: CaughtBy(&["lib merge::survey::tests::the_first_files_are_kept_and_schemas_of_others_are_not"]),
    },
    Mutation {
        name: "first_come_first_kept",
        breaks: "which files are kept depends on their order, and not on which thread was faster",
        file: "src/merge/survey_room.rs",
        edits: &[("kept.next < self.index;", "!MUTANT && kept.next < self.index;")],
        fate: CaughtBy(&["lib merge::survey::tests::the_first_files_are_kept_and_schemas_of_others_are_not"]),
    },
    Mutation {
        name: "two_accounts_of_one_file",
        breaks: "a file is left out once, with the reason that was found with effort",
        file: "src/merge/duckdb.rs",
        edits: &[("filter(|(index, _)| !left_out", "filter(|(index, _)| MUTANT || !left_out")],
        fate: CaughtBy(&[
            "lib merge::duckdb::tests::what_was_found_out_about_a_file_says_more_than_another_look_at_its_footer",
        ]),
    },
    Mutation {
        name: "all_values_at_once",
        breaks: "values without statistics are looked at in small pieces",
        file: "src/merge/value_range.rs",
        edits: &[("column.read_records(BATCH, ", "column.read_records(if MUTANT { usize::MAX } else { BATCH }, ")],
        fate: CaughtBy(&["lib merge::value_range::tests::values_are_looked_at_in_small_pieces"]),
    },
    Mutation {
        name: "deep_check_leaves_files_out",
        breaks: "a deep check looks at every file, whatever that takes",
        file: "src/merge/recheck.rs",
        edits: &[(
            "memory_bytes: u64::MAX, ..self.limits",
            "memory_bytes: if MUTANT { self.limits.memory_bytes } else { u64::MAX }, ..self.limits",
        )],
        fate: CaughtBy(&["lib merge::recheck::tests::every_file_is_looked_at_however_much_is_kept_of_their_columns"]),
    },
    Mutation {
        name: "deep_check_passes_over_what_it_did_not_read",
        breaks: "a file that a deep check did not read is named",
        file: "src/compaction/verify/deep.rs",
        edits: &[(
            "            Look::NotExamined(why) => {\n",
            "            Look::NotExamined(_) if MUTANT => {}\n            Look::NotExamined(why) => {\n",
        )],
        fate: CaughtBy(&["lib compaction::verify::deep::tests::a_file_whose_rows_were_not_read_is_named"]),
    },
    Mutation {
        name: "fingerprint_of_what_was_read",
        breaks: "there is a fingerprint only if every file was read",
        file: "src/merge/recheck.rs",
        edits: &[("fingerprint: all_read.then(", "fingerprint: (MUTANT || all_read).then(")],
        fate: CaughtBy(&[
            "lib merge::recheck::tests::a_file_that_nobody_can_read_here_is_said_to_be_unexamined_and_the_fingerprint_to_be_unknown",
        ]),
    },
];
