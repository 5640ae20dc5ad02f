use super::*;
use crate::compaction::testing::{at, partition, raw};

const VERSION: &str = "arc 1";

fn table() -> Quarantine {
    Quarantine::new(StateDb::in_memory().unwrap())
}

fn unreadable(file: &DataFile) -> SetAside {
    SetAside { name: file.name.clone(), reason: SetAsideReason::Unreadable("no footer".into()) }
}

/// Quarantines these files at 15:00 until 16:00.
async fn quarantine(table: &Quarantine, partition: &PartitionId, files: &[DataFile]) {
    let (defective, sound) = sort_out(files, files.iter().map(unreadable).collect(), at(16, 0));
    assert!(sound.is_empty());
    table.take_in(partition, files, &defective, VERSION, at(15, 0)).await.unwrap();
}

async fn names(table: &Quarantine) -> Vec<String> {
    let mut names: Vec<String> =
        table.list(&QuarantineFilter::default()).await.unwrap().into_iter().map(|e| e.name).collect();
    names.sort();
    names
}

#[test]
fn only_a_defect_of_the_file_itself_leads_to_quarantine() {
    let files = raw(5);
    let reasons = [
        SetAsideReason::Unreadable("x".into()),
        SetAsideReason::Unsupported("x".into()),
        SetAsideReason::NoSortColumn("x".into()),
        SetAsideReason::Alone("x".into()),
        SetAsideReason::TooLarge("x".into()),
        SetAsideReason::Unexamined("x".into()),
    ];
    let set_aside =
        files.iter().zip(reasons).map(|(f, reason)| SetAside { name: f.name.clone(), reason }).collect::<Vec<_>>();
    let (defective, sound) = sort_out(&files, set_aside.clone(), at(16, 0));
    assert_eq!(defective.iter().map(|d| &d.name).collect::<Vec<_>>(), [&files[0].name, &files[1].name]);
    assert_eq!((&defective[0].etag, defective[0].retry_at), (&files[0].etag, at(16, 0)));
    assert_eq!(sound, set_aside[2..]);
}

#[tokio::test]
async fn a_file_is_held_back_until_its_time_another_version_or_a_change() {
    let table = table();
    let files = raw(2);
    quarantine(&table, &partition(), &files[..1]).await;
    let entries = table.of(&partition()).await.unwrap();
    let until = |version, now, file: &DataFile| HeldBack::of(&entries, version, now).until(file);
    assert_eq!(until(VERSION, at(15, 59), &files[0]), Some(at(16, 0)));
    assert_eq!(until(VERSION, at(16, 0), &files[0]), None, "its time is over");
    assert_eq!(until("arc 2", at(15, 59), &files[0]), None, "another version may read it");
    assert_eq!(until(VERSION, at(15, 59), &files[1]), None, "another file");
    let other_size = DataFile { size_bytes: 101, ..files[0].clone() };
    let other_etag = DataFile { etag: "other".into(), ..files[0].clone() };
    assert_eq!((until(VERSION, at(15, 59), &other_size), until(VERSION, at(15, 59), &other_etag)), (None, None));
}

#[tokio::test]
async fn a_file_that_is_found_damaged_again_keeps_when_it_was_first_seen_and_a_replaced_one_does_not() {
    let table = table();
    let mut files = raw(1);
    quarantine(&table, &partition(), &files).await;
    let first = table.of(&partition()).await.unwrap().remove(0);
    let again = async |files: Vec<DataFile>| {
        let (defective, _) = sort_out(&files, files.iter().map(unreadable).collect(), at(18, 0));
        table.take_in(&partition(), &files, &defective, VERSION, at(17, 0)).await.unwrap();
        table.of(&partition()).await.unwrap().remove(0)
    };
    let second = again(files.clone()).await;
    assert_eq!((second.id, second.first_seen_at, second.retry_at), (first.id, at(15, 0), at(18, 0)));
    files[0].etag.push('2');
    assert_eq!(again(files).await.first_seen_at, at(17, 0));
}

#[tokio::test]
async fn inputs_that_turn_out_to_be_sound_are_forgotten() {
    let table = table();
    let files = raw(3);
    quarantine(&table, &partition(), &files).await;
    table.take_in(&partition(), &files[..2], &[], VERSION, at(17, 0)).await.unwrap();
    assert_eq!(names(&table).await, ["r002.parquet"]);
}

#[tokio::test]
async fn entries_are_listed_and_cleared_one_by_one_by_database_or_all() {
    let table = table();
    let other: PartitionId = "other/cpu/2025/10/08/14".parse().unwrap();
    quarantine(&table, &partition(), &raw(3)).await;
    quarantine(&table, &other, &raw(1)).await;
    let of = |database: &str| QuarantineFilter { database: Some(database.into()) };
    let ids: Vec<u64> = table.list(&of("db")).await.unwrap().iter().map(|e| e.id).collect();
    assert_eq!((ids.len(), table.list(&QuarantineFilter::default()).await.unwrap().len()), (3, 4));
    assert!(table.clear(ids[0]).await.unwrap());
    assert!(!table.clear(ids[0]).await.unwrap());
    assert!(!table.clear(u64::MAX).await.unwrap());
    assert_eq!(table.clear_all(&of("db")).await.unwrap(), 2);
    assert_eq!(table.clear_all(&QuarantineFilter::default()).await.unwrap(), 1);
    assert!(names(&table).await.is_empty());
}

#[tokio::test]
async fn what_expired_long_ago_is_forgotten() {
    let table = table();
    quarantine(&table, &partition(), &raw(1)).await;
    table.forget_expired(at(16, 0) + EXPIRED_KEPT).await.unwrap();
    assert_eq!(names(&table).await.len(), 1);
    table.forget_expired(at(16, 1) + EXPIRED_KEPT).await.unwrap();
    assert!(names(&table).await.is_empty());
}

/// I11.
#[tokio::test]
async fn the_table_is_bounded_and_so_is_a_reason() {
    let table = table();
    let mut files = raw(MAX_QUARANTINED_FILES + 5);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let long = SetAsideReason::Unreadable("é".repeat(1_000_000));
    let set_aside = files.iter().map(|f| SetAside { name: f.name.clone(), reason: unreadable(f).reason });
    let mut set_aside: Vec<SetAside> = set_aside.collect();
    set_aside.last_mut().unwrap().reason = long;
    let (defective, _) = sort_out(&files, set_aside, at(16, 0));
    table.take_in(&partition(), &files, &defective, VERSION, at(15, 0)).await.unwrap();
    let kept = table.list(&QuarantineFilter::default()).await.unwrap();
    assert_eq!(kept.len(), MAX_QUARANTINED_FILES);
    let longest = kept.iter().map(|e| e.reason.to_string().len()).max().unwrap();
    assert!((100..10_000).contains(&longest), "{longest}");
}
