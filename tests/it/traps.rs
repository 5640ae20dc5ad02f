//! The traps: incidents that other systems of this kind paid for, and where this project's test of each stands. The table
//! is checked: a test that is named here and gone, or a number that is missing, fails.
//!
//! Numbers are stable; tests name them in their doc comments.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Number, what must hold, the test's function (in `src` or `tests`).
const TRAPS: [(u32, &str, &str); 70] = [
    (1, "any doubt about an output keeps every input", "an_output_that_reads_back_differently_keeps_every_input"),
    (2, "names are unique per attempt and created exclusively", "publishing_never_overwrites"),
    (3, "equal base names do not collide", "inputs_of_the_same_base_name_are_fetched_to_files_of_their_own"),
    (
        4,
        "what was consumed is retired, and nothing else",
        "a_thousand_damaged_files_are_named_or_read_and_no_row_of_a_good_one_is_lost",
    ),
    (
        5,
        "outputs are given up only while all their inputs are there",
        "an_open_attempt_is_voided_only_if_every_input_is_there_and_counts",
    ),
    (6, "no proof, no deletion", "an_output_that_reads_back_differently_keeps_every_input"),
    (
        7,
        "file, then folder, then delete",
        "a_power_cut_at_any_system_call_of_a_first_compaction_loses_and_doubles_nothing",
    ),
    (8, "no two partitions share a string", "names_that_concatenate_alike_stay_apart"),
    (9, "clean by exact id", "a_dead_jobs_folders_are_removed_and_folders_of_others_are_not"),
    (10, "conflicting types stay apart", "conflicting_columns_stay_apart_without_any_loss"),
    (
        11,
        "a bad file is left where it is",
        "good_files_are_compacted_and_every_kind_of_bad_file_stays_untouched_and_is_named",
    ),
    (12, "all-null columns stay", "added_missing_reordered_and_all_null_columns"),
    (13, "no credential reaches a child", "a_child_gets_its_request_on_stdin_and_next_to_no_environment"),
    (14, "a folder named key=value adds no column", "a_hive_style_folder_adds_no_column"),
    (15, "rows outside the hour are kept", "rows_outside_the_hour_are_kept"),
    (16, "a record can name plain files only", "a_record_that_names_anything_but_plain_files_is_refused"),
    (
        17,
        "a crash between publishing and deleting doubles nothing",
        "a_first_compaction_survives_a_kill_around_every_effect",
    ),
    (18, "the head goes never, old records last", "old_records_go_and_the_head_never_does"),
    (19, "unknown is may-have-happened", "a_lost_answer_to_the_commit_is_found_out_and_the_job_has_won"),
    (20, "a create that answers an error may have won", "a_lost_answer_to_the_commit_is_found_out_and_the_job_has_won"),
    (
        21,
        "a lease is renewed, and the record fences",
        "two_programs_that_do_not_share_locks_still_compact_every_partition_once",
    ),
    (22, "only the holder renews and releases", "sqlite_leases_conform"),
    (23, "the head is never removed", "old_records_go_and_the_head_never_does"),
    (24, "a listing error is an error", "a_listing_error_stops_the_partition_and_is_reported"),
    (25, "children die with the parent", "no_worker_survives_a_parent_that_is_killed_even_if_it_is_stopped"),
    (26, "a live worker's attempt is not recovered", "a_live_jobs_attempt_is_left_alone"),
    (
        27,
        "two programs, one compaction each",
        "two_programs_at_once_compact_every_partition_once_without_error_or_loss",
    ),
    (28, "a partial copy fails closed", "a_generation_gap_fails_closed_even_if_tidying_is_due"),
    (29, "locks of one partition exclude each other", "sqlite_leases_conform"),
    (
        30,
        "a corrupt file stops nobody",
        "a_damaged_file_is_named_once_and_then_costs_nothing_while_it_stays_where_it_is",
    ),
    (31, "attempts are counted first", "a_job_that_kills_its_whole_program_is_counted_and_waits"),
    (32, "late files are compacted", "late_files_are_compacted_beside_what_is_there_and_nothing_is_doubled"),
    (33, "no remainder", "all_quiet_files_go_at_once_and_the_result_is_at_rest"),
    (
        34,
        "no time column: skipped before any work",
        "a_partition_without_the_time_column_is_skipped_with_the_reason_before_any_work",
    ),
    (35, "fair order", "databases_take_turns_and_the_most_files_go_first"),
    (36, "a tick is queued, not dropped", "ticks_during_a_cycle_become_exactly_one_further_cycle_right_after_it"),
    (37, "the oldest candidate's age is known", "a_candidate_far_behind_schedule_is_named"),
    (38, "space is checked first", "a_full_temp_disk_is_noticed_before_any_work_and_nothing_is_lost"),
    (39, "text and timestamp times stay apart", "conflicting_columns_stay_apart_without_any_loss"),
    (40, "no ladder of retries", "a_deterministic_failure_is_not_repeated_until_a_file_is_added"),
    (41, "the current hour is left alone", "an_hour_is_compacted_when_it_is_over_long_enough_and_has_enough_files"),
    (42, "age is the hour's", "only_files_that_were_just_written_are_left_out"),
    (43, "readers follow the snapshot rule", "a_first_compaction_survives_a_kill_around_every_effect"),
    (44, "dead is judged by the head, not by age", "only_retired_files_and_dead_files_of_taken_generations_go"),
    (45, "partition folders are never removed", "hundreds_of_objects_go_in_batches_and_the_folder_stays"),
    (46, "files are streamed", "a_gibibyte_is_fetched_published_and_read_back_in_little_memory"),
    (47, "merges run apart, with a limit", "a_child_beyond_its_memory_ceiling_is_killed"),
    (48, "limits come from the cgroup", "the_smallest_version_2_limit_on_the_way_up_counts"),
    (49, "per-key errors count", "a_failing_deletion_is_reported_and_the_others_happen"),
    (50, "nothing in argv", "a_child_gets_its_request_on_stdin_and_next_to_no_environment"),
    (51, "memory is bounded in the number of candidates", "the_smallest_candidates_wait_when_there_are_too_many"),
    (52, "spill files lie in the work folder", "only_the_inputs_and_the_work_folder_can_be_read"),
    (53, "history is bounded", "the_newest_reports_are_kept_and_totals_are_for_ever"),
    (54, "UTC, comparable by the documented SQL", "the_documented_sql_removes_expired_leases_only"),
    (55, "cron fires on the right days", "schedules_fire_on_the_known_dates"),
    (56, "names that mean something elsewhere", "odd_names_of_databases_measurements_files_and_columns"),
    (57, "reserved names are refused", "names_that_are_no_folder_or_are_reserved_are_refused"),
    (58, "hours before 1970 round down", "hours_before_1970_round_down"),
    (59, "every setting has an effect", "every_merge_setting_has_a_visible_effect"),
    (60, "no override replaces a section", "flags_win_over_the_environment_over_the_file_over_defaults_key_by_key"),
    (61, "the example equals the defaults", "the_example_file_has_every_key_with_its_default_unit_and_reason"),
    (62, "counted after the fact", "an_output_that_reads_back_differently_keeps_every_input"),
    (63, "absent is null", "a_trigger_answers_while_the_cycle_runs_and_jobs_show_it"),
    (64, "verification blocks the commit", "an_output_that_reads_back_differently_keeps_every_input"),
    (65, "the API answers at once, and asks for a token", "every_route_asks_for_a_token_and_every_change_for_an_admin"),
    (66, "documentation is tested", "the_readme_says_what_is_so"),
    (67, "nothing is said to be done before it is", "an_output_that_reads_back_differently_keeps_every_input"),
    (68, "the check is the write", "two_programs_that_do_not_share_locks_still_compact_every_partition_once"),
    (69, "deletions come from the head alone", "only_retired_files_and_dead_files_of_taken_generations_go"),
    (70, "allow lists, not deny lists", "ours_counts_only_if_named_and_others_unless_retired"),
];

/// Names of the test functions below a folder: functions whose attributes, or whose `proptest!` block, make them tests.
fn tests_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[") {
                    is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                    assert!(!line.starts_with("#[ignore"), "{}: a test is ignored", path.display());
                } else if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) {
                    if std::mem::take(&mut is_test) {
                        found.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
                    }
                } else if !line.starts_with("//") {
                    is_test = false;
                }
            }
        }
    }
}

#[test]
fn every_trap_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    tests_below(&root.join("src"), &mut found);
    tests_below(&root.join("tests"), &mut found);
    for (index, (number, sentence, test)) in TRAPS.iter().enumerate() {
        assert_eq!(*number as usize, index + 1, "the table is complete and in order");
        assert!(found.contains(*test), "T{number} ({sentence}): there is no test {test}");
    }
}
