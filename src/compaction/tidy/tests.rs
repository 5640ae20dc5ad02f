use super::*;
use crate::compaction::testing::{at, file, head, listing, ours, raw, record_entry};

fn names(files: &[DataFile]) -> Vec<&str> {
    files.iter().map(|f| f.name.as_str()).collect()
}

const DAY: TimeDelta = TimeDelta::hours(24);

/// I3, T69: what is deleted follows from the head alone: its retired files, and ours that it does not name.
/// T44.
#[test]
fn only_retired_files_and_dead_files_of_taken_generations_go() {
    let (live, dead, open) = (file(&ours(2, 'a')), file(&ours(1, 'b')), file(&ours(3, 'c')));
    let (consumed, late) = (file("consumed.parquet"), file("late.parquet"));
    let foreign = file("cpu_20251008_14_compacted.parquet");
    let head = head(2, std::slice::from_ref(&live), std::slice::from_ref(&consumed));
    let shown = listing(vec![live, dead.clone(), open, consumed.clone(), late, foreign], [2]);
    let plan = plan(&head, &shown, at(16, 0), DAY);
    assert_eq!(names(&plan.retired), [consumed.name.as_str()]);
    assert_eq!(names(&plan.dead), [dead.name.as_str()]);
    assert!(plan.old_records.is_empty() && plan.reused.is_empty());
}

#[test]
fn without_a_record_nothing_goes() {
    let shown = listing([raw(5), vec![file(&ours(1, 'a'))]].concat(), []);
    assert!(plan(&Head::none(), &shown, at(16, 0), DAY).is_empty());
}

/// A file that took the name of a consumed one is somebody's data.
#[test]
fn a_retired_name_with_another_etag_or_size_stays() {
    let consumed = file("r.parquet");
    let head = head(1, &[], std::slice::from_ref(&consumed));
    let other_etag = DataFile { etag: "other".into(), ..consumed.clone() };
    let other_size = DataFile { size_bytes: 101, ..consumed };
    let with_etag = plan(&head, &listing(vec![other_etag.clone()], [1]), at(16, 0), DAY);
    assert_eq!(with_etag, TidyPlan { reused: vec![other_etag], ..TidyPlan::default() });
    assert!(plan(&head, &listing(vec![other_size], [1]), at(16, 0), DAY).is_empty());
}

/// T18, T23: records below the head go after their time, lowest first; the head stays at any age.
#[test]
fn old_records_go_and_the_head_never_does() {
    let mut shown = listing(vec![], []);
    shown.records = vec![
        record_entry(1, at(0, 0)),
        record_entry(2, at(1, 0)),
        record_entry(3, at(20, 0)),
        record_entry(4, at(0, 0)),
    ];
    let plan = plan(&head(4, &[], &[]), &shown, at(24, 30), DAY);
    assert_eq!(plan.old_records.iter().map(|r| r.generation.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_retention_longer_than_any_calendar_keeps_every_record() {
    let shown = listing(vec![], [1, 2, 3]);
    assert!(plan(&head(3, &[], &[]), &shown, at(24, 30), TimeDelta::MAX).is_empty());
}
