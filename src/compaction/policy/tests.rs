use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::compaction::quarantine::QuarantinedFile;
use crate::compaction::record::Head;
use crate::compaction::testing::{at, file, head, listing, ours, partition, raw, view};
use crate::merge::SetAsideReason;

fn settings() -> PolicySettings {
    PolicySettings {
        min_age: Duration::from_hours(1),
        min_files: 3,
        settle: Duration::from_secs(30),
        late_data_max_wait: Duration::from_hours(24),
        late_rewrite_ratio: 0.1,
        max_side_files: 4,
        target_file_size_bytes: 100_000,
    }
}

/// What is decided for live compacted files of these sizes and these raw files, in a few words.
fn check(compacted: &[u64], raw: Vec<DataFile>, now: DateTime<Utc>) -> String {
    let live: Vec<DataFile> = compacted
        .iter()
        .zip("abcdef".chars())
        .map(|(size, unique)| DataFile { size_bytes: *size, ..file(&ours(1, unique)) })
        .collect();
    let (head, generations) = if live.is_empty() { (Head::none(), None) } else { (head(1, &live, &[]), Some(1)) };
    let seen = view(head, listing([live, raw].concat(), generations));
    describe(decided(&seen, now))
}

fn decided(view: &View, now: DateTime<Utc>) -> Decision {
    decide(Situation { partition: &partition(), view, held_back: &HeldBack::default(), now }, &settings())
}

/// What is decided when the first of these raw files are in quarantine until 18:00.
fn check_with_quarantine(quarantined: usize, compacted: &[DataFile], raw: Vec<DataFile>, now: DateTime<Utc>) -> String {
    let entry = |file: &DataFile| QuarantinedFile {
        id: 1,
        partition: partition(),
        name: file.name.clone(),
        size_bytes: file.size_bytes,
        etag: file.etag.clone(),
        reason: SetAsideReason::Unreadable("no footer".into()),
        version: "v".into(),
        first_seen_at: at(15, 0),
        retry_at: at(18, 0),
    };
    let entries: Vec<_> = raw.iter().take(quarantined).map(entry).collect();
    let (head, generations) =
        if compacted.is_empty() { (Head::none(), None) } else { (head(1, compacted, &[]), Some(1)) };
    let seen = view(head, listing([compacted.to_vec(), raw].concat(), generations));
    let held_back = &HeldBack::of(&entries, "v", now);
    describe(decide(Situation { partition: &partition(), view: &seen, held_back, now }, &settings()))
}

fn describe(decision: Decision) -> String {
    match decision {
        Decision::Skip(reason) => format!("skip: {reason}"),
        Decision::Compact(plan) => {
            let compacted = plan.inputs.iter().filter(|f| f.kind != FileKind::Raw).count();
            format!(
                "{:?}: {} raw, {compacted} compacted, g{}",
                plan.trigger,
                plan.inputs.len() - compacted,
                plan.generation
            )
        }
    }
}

fn sized(count: usize, size_bytes: u64) -> Vec<DataFile> {
    raw(count).into_iter().map(|f| DataFile { size_bytes, ..f }).collect()
}

/// T41.
#[test]
fn an_hour_is_compacted_when_it_is_over_long_enough_and_has_enough_files() {
    assert_eq!(check(&[], raw(3), at(14, 59)), "skip: hour too young, ready at 2025-10-08T15:00:00Z");
    assert_eq!(check(&[], raw(3), at(15, 0)), "First: 3 raw, 0 compacted, g1");
    assert_eq!(check(&[], raw(2), at(15, 0)), "skip: too few files: have 2, need 3");
    assert_eq!(check(&[], vec![], at(15, 0)), "skip: too few files: have 0, need 3");
}

/// T42: age is the hour's; of the files only the freshest are left out, so a backfill of old data is compacted at once.
#[test]
fn only_files_that_were_just_written_are_left_out() {
    let now = at(20, 0);
    let mut files = raw(5);
    files[4].last_modified = now - chrono::TimeDelta::seconds(29);
    assert_eq!(check(&[], files.clone(), now), "First: 4 raw, 0 compacted, g1");
    files[4].last_modified = now - chrono::TimeDelta::seconds(30);
    assert_eq!(check(&[], files.clone(), now), "First: 5 raw, 0 compacted, g1");
    for f in &mut files {
        f.last_modified = now;
    }
    assert_eq!(check(&[], files, now), "skip: too few files: have 0, need 3, 5 more just written");
}

/// T32: late files beside a compacted one are compacted, and alone when the compacted one is much larger.
#[test]
fn late_files_are_merged_among_themselves_and_join_compacted_ones_that_they_are_worth() {
    let now = at(20, 0);
    assert_eq!(check(&[40_000], sized(3, 100), now), "LateFiles: 3 raw, 0 compacted, g2");
    assert_eq!(check(&[40_000], sized(3, 2000), now), "LateFiles: 3 raw, 1 compacted, g2");
    assert_eq!(check(&[1000, 40_000], sized(3, 100), now), "LateFiles: 3 raw, 1 compacted, g2");
    assert_eq!(check(&[50_000], sized(3, 99_999), now), "LateFiles: 3 raw, 0 compacted, g2", "large files stay");
}

#[test]
fn a_few_late_files_are_compacted_once_they_have_waited() {
    let waited = at(14, 30) + chrono::TimeDelta::hours(24);
    let before = waited - chrono::TimeDelta::seconds(1);
    assert_eq!(
        check(&[40_000], sized(2, 100), before),
        "skip: too few files: have 2, need 3; compacted anyway from 2025-10-09T14:30:00Z"
    );
    assert_eq!(check(&[40_000], sized(2, 100), waited), "LateFilesWaited: 2 raw, 0 compacted, g2");
    assert_eq!(check(&[1000], sized(1, 100), waited), "LateFilesWaited: 1 raw, 1 compacted, g2");
    assert_eq!(check(&[40_000], sized(1, 100), waited), "skip: nothing to gain: 1 raw and 1 compacted files");
}

#[test]
fn many_small_side_files_are_merged_and_parts_of_one_attempt_count_once() {
    let now = at(20, 0);
    assert_eq!(check(&[10; 4], vec![], now), "skip: nothing to gain: 0 raw and 4 compacted files");
    assert_eq!(check(&[10; 5], vec![], now), "SideFiles: 0 raw, 5 compacted, g2");
    let parts: Vec<DataFile> =
        (1..=9).map(|part| file(&ours(1, 'a').replace("_compacted", &format!("_{part}_compacted")))).collect();
    let seen = view(head(1, &parts, &[]), listing(parts, [1]));
    let decision = describe(decided(&seen, now));
    assert_eq!(decision, "skip: nothing to gain: 0 raw and 9 compacted files");
}

/// A file that another program named `_compacted` is data, and counts as compacted for the policy.
#[test]
fn foreign_compacted_files_are_treated_as_compacted_ones() {
    let foreign = file("cpu_20251008_14_compacted.parquet");
    let seen = view(Head::none(), listing([raw(3), vec![foreign]].concat(), []));
    assert_eq!(describe(decided(&seen, at(20, 0))), "LateFiles: 3 raw, 1 compacted, g1");
}

/// Retired and dead files are never inputs.
#[test]
fn files_that_do_not_count_are_no_inputs() {
    let retired = raw(3);
    let seen = view(head(1, &[], &retired), listing([retired.clone(), vec![file(&ours(1, 'd'))]].concat(), [1]));
    assert_eq!(describe(decided(&seen, at(20, 0))), "skip: too few files: have 0, need 3");
}

proptest! {
    /// T33: no number of raw files leaves a remainder: all that are quiet go into one plan. I6: what a job leaves behind
    /// is not compacted again.
    #[test]
    fn all_quiet_files_go_at_once_and_the_result_is_at_rest(raws in 0_usize..60, outputs in 1_usize..8, size in 1_u64..200_000) {
        let now = at(20, 0);
        let seen = view(Head::none(), listing(raw(raws), []));
        match decided(&seen, now) {
            Decision::Compact(plan) => prop_assert_eq!(plan.inputs.len(), raws),
            Decision::Skip(_) => prop_assert!(raws < 3),
        }
        let parts: Vec<DataFile> = (1..=outputs)
            .map(|part| DataFile { size_bytes: size, ..file(&ours(1, 'a').replace("_compacted", &format!("_{part}_compacted"))) })
            .collect();
        let after = view(head(1, &parts, &[]), listing(parts, [1]));
        let decision = decided(&after, at(23, 59));
        prop_assert!(matches!(decision, Decision::Skip(SkipReason::NothingToGain { .. })), "{:?}", decision);
    }
}

/// I11: a record that names every input of a partition of any size could not be read any more.
#[test]
fn a_partition_of_very_many_files_is_taken_in_jobs_of_equal_size() {
    assert_eq!(check(&[], raw(MAX_RAW_INPUTS), at(15, 0)), "First: 100000 raw, 0 compacted, g1");
    assert_eq!(check(&[], raw(MAX_RAW_INPUTS + 1), at(15, 0)), "First: 50001 raw, 0 compacted, g1");
}

/// T30: the plan is made without the damaged file, and when too little is left the skip reason says so.
#[test]
fn files_in_quarantine_are_no_inputs_and_are_mentioned_when_too_little_is_left() {
    let now = at(17, 0);
    assert_eq!(check_with_quarantine(1, &[], raw(31), now), "First: 30 raw, 0 compacted, g1");
    assert_eq!(check_with_quarantine(1, &[], raw(4), now), "First: 3 raw, 0 compacted, g1");
    assert_eq!(
        check_with_quarantine(2, &[], raw(4), now),
        "skip: 2 files in quarantine until 2025-10-08T18:00:00Z; of the others: have 2, need 3"
    );
    assert_eq!(check_with_quarantine(2, &[], raw(4), at(18, 0)), "First: 4 raw, 0 compacted, g1");
    let compacted = DataFile { size_bytes: 40_000, ..file(&ours(1, 'a')) };
    assert_eq!(
        check_with_quarantine(1, std::slice::from_ref(&compacted), raw(1), now),
        "skip: 1 file in quarantine until 2025-10-08T18:00:00Z; of the others: have 0, need 3"
    );
    assert_eq!(
        check_with_quarantine(1, &[compacted], raw(3), now),
        "skip: 1 file in quarantine until 2025-10-08T18:00:00Z; of the others: have 2, need 3; \
         compacted anyway from 2025-10-09T14:30:00Z"
    );
}
