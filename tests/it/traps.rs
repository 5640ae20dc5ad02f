//! The traps: incidents that other systems of this kind paid for, and where this project's test of each stands. The table
//! is checked: it fails when a number is missing, or when a test that is named here is gone or does not name the trap. Tests are
//! found by their text; that those of this binary are compiled is asked of itself.
//!
//! Numbers are stable. More tests than these name them; these are the ones that fail if the trap is sprung.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Number, what must hold, and the functions in `src` or `tests` that test it.
const TRAPS: [(u32, &str, &[&str]); 70] = [
    (
        1,
        "a failed or doubtful output keeps every input",
        &[
            "an_output_that_could_not_be_published_keeps_every_input",
            "an_output_that_reads_back_differently_keeps_every_input",
        ],
    ),
    (
        2,
        "names are unique per attempt and created exclusively",
        &[
            "attempts_at_the_same_work_at_the_same_time_have_different_names",
            "publishing_never_overwrites",
            "a_publication_is_invisible_until_it_is_complete_and_overwrites_nothing",
        ],
    ),
    (
        3,
        "equal base names do not collide",
        &[
            "inputs_of_the_same_base_name_are_fetched_to_files_of_their_own",
            "partitions_of_the_same_name_in_different_databases_stay_apart",
        ],
    ),
    (
        4,
        "what was consumed is retired, and nothing else",
        &["an_outcome_that_does_not_fit_its_request_is_refused", "deletion_is_exact", "every_planted_error_is_found"],
    ),
    (
        5,
        "outputs are given up only while all their inputs are there",
        &[
            "an_open_attempt_is_voided_only_if_every_input_is_there_and_counts",
            "a_publication_that_fails_midway_is_unknown_and_takes_nothing_back",
        ],
    ),
    (
        6,
        "a check that cannot be made has not been passed",
        &["an_output_that_cannot_be_looked_at_keeps_every_input", "a_listing_that_fails_midway_is_an_error"],
    ),
    (
        7,
        "file, then folder, then delete",
        &[
            "a_power_cut_at_any_system_call_of_a_first_compaction_loses_and_doubles_nothing",
            "a_power_cut_at_any_system_call_of_a_late_compaction_loses_and_doubles_nothing",
        ],
    ),
    (
        8,
        "no two partitions share a string",
        &["names_that_concatenate_alike_stay_apart", "partitions_of_the_same_name_in_different_databases_stay_apart"],
    ),
    (
        9,
        "clean by exact id",
        &[
            "a_sweep_removes_abandoned_folders_and_nothing_else",
            "a_dead_jobs_folders_are_removed_and_folders_of_others_are_not",
        ],
    ),
    (10, "conflicting types stay apart", &["conflicting_columns_stay_apart_without_any_loss"]),
    (
        11,
        "a bad file is left where it is",
        &[
            "good_files_are_compacted_and_every_kind_of_bad_file_stays_untouched_and_is_named",
            "a_damaged_file_stops_nobody_and_stays",
        ],
    ),
    (12, "all-null columns stay", &["added_missing_reordered_and_all_null_columns"]),
    (
        13,
        "no credential reaches a child",
        &["a_child_gets_its_request_on_stdin_and_next_to_no_environment", "the_prefix_is_kept_by_every_verb"],
    ),
    (14, "a folder named key=value adds no column", &["a_hive_style_folder_adds_no_column"]),
    (15, "rows outside the hour are kept", &["rows_outside_the_hour_are_kept"]),
    (
        16,
        "a record can name plain files only",
        &[
            "a_record_that_names_anything_but_plain_files_is_refused",
            "names_that_leave_the_partition_are_refused_by_every_verb",
            "a_record_that_cannot_be_used_stops_its_partition_and_no_other",
        ],
    ),
    (
        17,
        "a crash between publishing and deleting doubles nothing",
        &[
            "a_first_compaction_survives_a_kill_around_every_effect",
            "the_program_survives_a_kill_at_every_system_call_of_a_first_compaction",
        ],
    ),
    (
        18,
        "the head goes never, old records last",
        &["old_records_go_and_the_head_never_does", "deletions_that_fail_are_made_up_for_by_the_next_cycle"],
    ),
    (
        19,
        "unknown is may-have-happened",
        &[
            "a_create_whose_answer_got_lost_is_unknown",
            "an_answer_that_gets_lost_on_any_request_loses_and_doubles_nothing",
        ],
    ),
    (
        20,
        "a create that answers an error may have won",
        &["a_lost_answer_to_the_commit_is_found_out_and_the_job_has_won"],
    ),
    (
        21,
        "a lease is renewed, and the record fences",
        &[
            "a_job_that_takes_longer_than_a_lease_renews_it_and_nobody_else_gets_the_partition",
            "two_programs_that_do_not_share_locks_still_compact_every_partition_once",
            "two_workers_without_a_common_lock_lose_and_double_nothing",
        ],
    ),
    (
        22,
        "only the holder renews and releases",
        &["sqlite_leases_conform", "a_worker_that_thaws_after_its_lease_has_ended_changes_nothing_more"],
    ),
    (
        23,
        "the head is never removed",
        &[
            "a_record_that_is_created_below_the_head_is_no_success",
            "old_records_go_and_the_head_never_does",
            "writes_may_take_effect_twice_and_below_the_head_and_tidying_may_be_skipped",
        ],
    ),
    (
        24,
        "a listing error is an error",
        &["a_listing_error_stops_the_partition_and_is_reported", "only_a_missing_object_is_missing"],
    ),
    (25, "children die with the parent", &["no_worker_survives_a_parent_that_is_killed_even_if_it_is_stopped"]),
    (26, "a live worker's attempt is not recovered", &["a_live_jobs_attempt_is_left_alone"]),
    (
        27,
        "two programs, one compaction each",
        &[
            "two_programs_at_once_compact_every_partition_once_without_error_or_loss",
            "two_servers_on_one_state_compact_every_partition_once_without_a_complaint",
        ],
    ),
    (
        28,
        "a partial copy fails closed",
        &[
            "a_generation_gap_fails_closed_even_if_tidying_is_due",
            "a_folder_restored_without_its_newest_record_keeps_every_row",
            "each_defect_is_the_one_finding_and_its_remedy_brings_every_row_back_once",
        ],
    ),
    (29, "there are leases of hours only, so none can overlap another", &["paths_of_another_shape_are_refused"]),
    (
        30,
        "a corrupt file stops nobody",
        &[
            "a_damaged_file_is_named_once_and_then_costs_nothing_while_it_stays_where_it_is",
            "files_that_crash_the_worker_are_found_and_the_others_are_merged",
        ],
    ),
    (
        31,
        "attempts are counted first",
        &[
            "a_job_that_kills_its_whole_program_is_counted_and_waits",
            "a_partition_that_runs_out_of_memory_backs_off_while_others_go_on",
        ],
    ),
    (32, "late files are compacted", &["late_files_are_compacted_beside_what_is_there_and_nothing_is_doubled"]),
    (33, "no remainder", &["all_quiet_files_go_at_once_and_the_result_is_at_rest"]),
    (
        34,
        "no time column: skipped before any work",
        &["a_partition_without_the_time_column_is_skipped_with_the_reason_before_any_work"],
    ),
    (35, "fair order", &["databases_take_turns_and_the_most_files_go_first"]),
    (
        36,
        "a tick is queued, not dropped",
        &[
            "ticks_during_a_cycle_become_exactly_one_further_cycle_right_after_it",
            "a_tick_during_a_cycle_started_by_hand_is_queued_whoever_started_it",
        ],
    ),
    (
        37,
        "the oldest candidate's age is known",
        &[
            "a_candidate_far_behind_schedule_is_named",
            "a_dead_task_is_known_to_be_dead_and_starts_again_after_a_minute",
        ],
    ),
    (
        38,
        "space is checked first",
        &[
            "a_full_temp_disk_is_noticed_before_any_work_and_nothing_is_lost",
            "a_dead_jobs_folders_are_removed_and_folders_of_others_are_not",
            "a_reservation_waits_for_others_and_never_for_nobody",
        ],
    ),
    (
        39,
        "text and timestamp times stay apart",
        &[
            "conflicting_columns_stay_apart_without_any_loss",
            "a_single_file_with_a_textual_time_is_left_alone_and_the_others_are_compacted",
        ],
    ),
    (40, "no ladder of retries", &["a_deterministic_failure_is_not_repeated_until_a_file_is_added"]),
    (41, "the current hour is left alone", &["an_hour_is_compacted_when_it_is_over_long_enough_and_has_enough_files"]),
    (42, "age is the hour's", &["only_files_that_were_just_written_are_left_out"]),
    (43, "readers follow the snapshot rule", &["a_first_compaction_survives_a_kill_around_every_effect"]),
    (44, "dead is judged by the head, not by age", &["only_retired_files_and_dead_files_of_taken_generations_go"]),
    (45, "partition folders are never removed", &["hundreds_of_objects_go_in_batches_and_the_folder_stays"]),
    (
        46,
        "files are streamed",
        &[
            "a_gibibyte_is_fetched_published_and_read_back_in_little_memory",
            "memory_stays_flat_while_a_large_partition_is_compacted",
        ],
    ),
    (
        47,
        "merges run apart, with a limit",
        &[
            "a_child_beyond_its_memory_ceiling_is_killed",
            "memory_and_threads_decide_how_many_slices_are_merged_at_once",
        ],
    ),
    (
        48,
        "limits come from the cgroup",
        &[
            "the_smallest_version_2_limit_on_the_way_up_counts",
            "version_1_limits_count_also_when_the_path_is_the_hosts",
        ],
    ),
    (
        49,
        "per-key errors count",
        &[
            "a_failing_deletion_is_reported_and_the_others_happen",
            "a_batch_of_deletions_that_is_answered_with_nonsense_has_failed",
        ],
    ),
    (50, "nothing in argv", &["a_child_gets_its_request_on_stdin_and_next_to_no_environment"]),
    (
        51,
        "memory is bounded in the number of candidates",
        &["the_smallest_candidates_wait_when_there_are_too_many", "a_listing_has_every_page"],
    ),
    (52, "spill files lie in the work folder", &["only_the_inputs_and_the_work_folder_can_be_read"]),
    (53, "history is bounded", &["the_newest_reports_are_kept_and_totals_are_for_ever"]),
    (54, "UTC, comparable by the documented SQL", &["the_documented_sql_removes_expired_leases_only"]),
    (
        55,
        "cron fires on the right days",
        &["schedules_fire_on_the_known_dates", "daylight_saving_neither_drops_nor_doubles_a_fixed_time"],
    ),
    (
        56,
        "names that mean something elsewhere",
        &["odd_names_of_databases_measurements_files_and_columns", "names_are_what_they_are_on_every_storage"],
    ),
    (57, "reserved names are refused", &["names_that_are_no_folder_or_are_reserved_are_refused"]),
    (58, "hours before 1970 round down", &["hours_before_1970_round_down"]),
    (
        59,
        "every setting has an effect",
        &["changing_any_key_by_its_variable_changes_the_settings", "every_merge_setting_has_a_visible_effect"],
    ),
    (60, "no override replaces a section", &["flags_win_over_the_environment_over_the_file_over_defaults_key_by_key"]),
    (61, "the example equals the defaults", &["the_example_file_has_every_key_with_its_default_unit_and_reason"]),
    (
        62,
        "counted after the fact",
        &[
            "of_a_failed_job_only_its_status_is_counted_and_its_partition_stays_in_the_backlog",
            "of_a_cancelled_job_only_its_status_is_counted",
        ],
    ),
    (63, "absent is null", &["a_trigger_answers_while_the_cycle_runs_and_jobs_show_it"]),
    (64, "verification blocks the commit", &["an_output_that_reads_back_differently_keeps_every_input"]),
    (
        65,
        "the API answers at once, and asks for a token",
        &[
            "every_route_asks_for_a_token_and_every_change_for_an_admin",
            "a_trigger_needs_a_token_answers_before_the_cycle_ends_and_its_job_is_shown",
            "secrets_are_shown_by_nothing",
        ],
    ),
    (66, "documentation is tested", &["the_readme_says_what_is_so"]),
    (
        67,
        "nothing is said to be done before it is",
        &[
            "the_merge_workers_lines_keep_their_own_levels",
            "every_planted_error_is_found",
            "a_record_that_is_created_below_the_head_is_no_success",
        ],
    ),
    (
        68,
        "the check is the write",
        &[
            "two_programs_that_do_not_share_locks_still_compact_every_partition_once",
            "every_rule_that_is_switched_off_gives_a_counterexample",
        ],
    ),
    (
        69,
        "deletions come from the head alone",
        &[
            "only_retired_files_and_dead_files_of_taken_generations_go",
            "every_rule_that_is_switched_off_gives_a_counterexample",
        ],
    ),
    (70, "allow lists, not deny lists", &["ours_counts_only_if_named_and_others_unless_retired"]),
];

/// The test functions below a folder (those whose attributes, or whose `proptest!` block, make them tests), with their
/// documentation.
fn tests_below(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else {
            tests_in(&path, found);
        }
    }
}

/// Those of one file.
fn tests_in(path: &Path, found: &mut BTreeMap<String, String>) {
    if path.extension().is_none_or(|e| e != "rs") {
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    let (mut is_test, mut docs) = (false, String::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            assert!(!line.starts_with("#[ignore"), "{}: a test is ignored", path.display());
        } else if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) {
            let docs = std::mem::take(&mut docs);
            if std::mem::take(&mut is_test) {
                let name = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.entry(name).or_default().push_str(&docs);
            }
        } else if let Some(doc) = line.strip_prefix("///") {
            docs.push_str(doc);
        } else if line.is_empty() || line.ends_with(['{', '}', ';']) {
            is_test = false;
            docs.clear();
        }
    }
}

/// Whether a text names a trap: `T4`, but not in `T41`.
fn names(text: &str, number: u32) -> bool {
    text.split(|c: char| !c.is_alphanumeric()).any(|word| word == format!("T{number}"))
}

/// The test functions that this binary really has, with their modules, as it lists them itself.
#[cfg(target_os = "linux")]
fn compiled() -> BTreeSet<String> {
    let listed = Command::new(std::env::current_exe().unwrap()).args(["--list", "--format", "terse"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// A file that no module names, or a test that is left out here, tests nothing, and would count above. Tests that only some
/// systems can run are compiled on this one at least.
#[cfg(target_os = "linux")]
#[test]
fn every_test_function_in_the_folder_of_this_binary_is_compiled_into_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let compiled = compiled();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut here = BTreeMap::new();
            tests_in(&path, &mut here);
            let module = path.strip_prefix(&root).unwrap().with_extension("").display().to_string();
            let module = module.strip_suffix("/mod").unwrap_or(&module).replace('/', "::");
            let in_module = |test: &&String| test.strip_prefix(&module).is_some_and(|rest| rest.starts_with("::"));
            for name in here.keys() {
                let is_there = compiled.iter().filter(in_module).any(|test| test.ends_with(&format!("::{name}")));
                assert!(is_there, "{module}::{name} is in {} and not compiled", path.display());
            }
        }
    }
}

#[test]
fn every_trap_has_its_tests_and_they_name_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeMap::new();
    tests_below(&root.join("src"), &mut found);
    tests_below(&root.join("tests"), &mut found);
    for (index, (number, sentence, tests)) in TRAPS.iter().enumerate() {
        assert_eq!(*number as usize, index + 1, "the table is complete and in order");
        assert!(!tests.is_empty(), "T{number} ({sentence}) has no test");
        for test in *tests {
            let docs = found.get(*test).unwrap_or_else(|| panic!("T{number} ({sentence}): there is no test {test}"));
            assert!(names(docs, *number), "the documentation of {test} does not say that it is for T{number}");
        }
    }
}
