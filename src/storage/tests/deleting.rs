use super::*;

fn names(report: &DeleteReport) -> (Vec<&str>, Vec<&str>, Vec<&str>, Vec<&str>) {
    fn strs(list: &[String]) -> Vec<&str> {
        list.iter().map(String::as_str).collect()
    }
    let failed = report.failed.iter().map(|(name, _)| name.as_str()).collect();
    (strs(&report.deleted), strs(&report.already_gone), strs(&report.changed), failed)
}

/// Deletes data files, after a look at the partition as whoever deletes makes it.
async fn delete(f: &Fixture, targets: &[DeleteTarget]) -> DeleteReport {
    let listing = f.storage.list_partition(&hour()).await.unwrap();
    f.storage.delete_exact(&hour(), Place::Data, targets, &listing).await
}

async fn targets(f: &Fixture) -> Vec<DeleteTarget> {
    f.storage.list_partition(&hour()).await.unwrap().data.iter().map(DeleteTarget::from).collect()
}

/// T4, T9: exactly the named objects, and each only while it is the one that was named.
#[tokio::test]
async fn deletion_is_exact() {
    for f in Fixture::both() {
        for name in ["a.parquet", "b.parquet", "c.parquet", "d.parquet"] {
            f.put(&format!("{}/{name}", hour()), "old").await;
        }
        let mut targets = targets(&f).await;
        f.put(&format!("{}/a.parquet.parquet", hour()), "longer name").await;
        f.put(&format!("{}/b.parquet", hour()), "another size").await;
        targets[2].etag.push('x');
        let gone = DeleteTarget { name: "e.parquet".into(), ..targets[3].clone() };
        targets.push(gone);

        let report = delete(&f, &targets).await;
        assert_eq!(
            names(&report),
            (vec!["a.parquet", "d.parquet"], vec!["e.parquet"], vec!["b.parquet", "c.parquet"], vec![])
        );
        assert!(!report.is_complete());
        let left = ["a.parquet.parquet", "b.parquet", "c.parquet"].map(|name| format!("{}/{name}", hour()));
        assert_eq!(f.names().await, left);
    }
}

/// T16, T57: nothing outside the two folders of the partition can be named.
#[tokio::test]
async fn deletion_takes_plain_file_names_only() {
    for f in Fixture::both() {
        f.put("db/cpu/2025/10/08/15/a.parquet", "x").await;
        f.put(&format!("{}/_compaction/00000001.json", hour()), "x").await;
        let bad = ["../15/a.parquet", "_compaction/00000001.json", "", ".", "..", "*", "/", "_compaction"];
        let targets = bad.map(|name| DeleteTarget { name: name.into(), size_bytes: 1, etag: String::new() });
        let report = delete(&f, &targets).await;
        assert_eq!(report.deleted, Vec::<String>::new());
        assert_eq!(f.names().await.len(), 2);
    }
}

#[tokio::test]
async fn records_are_deleted_from_their_own_folder() {
    for f in Fixture::both() {
        for path in ["00000001.json", "_compaction/00000001.json", "_compaction/00000002.json"] {
            f.put(&format!("{}/{path}", hour()), "x").await;
        }
        let listing = f.storage.list_partition(&hour()).await.unwrap();
        let targets = [(&listing.records[0]).into()];
        let report = f.storage.delete_exact(&hour(), Place::Records, &targets, &listing).await;
        assert!(report.is_complete());
        assert_eq!(report.deleted, ["00000001.json"]);
        let left = ["00000001.json", "_compaction/00000002.json"].map(|name| format!("{}/{name}", hour()));
        assert_eq!(f.names().await, left);
    }
}

/// T18, T49: each failure is reported for its key, and keeps no other object.
#[tokio::test]
async fn a_failing_deletion_is_reported_and_the_others_happen() {
    for f in Fixture::both() {
        for name in ["a.parquet", "b.parquet", "c.parquet"] {
            f.put(&format!("{}/{name}", hour()), "x").await;
        }
        let targets = targets(&f).await;
        f.faults.plan(Op::Delete, "b.parquet", Fault::Fails(io::ErrorKind::PermissionDenied));
        f.faults.plan(Op::Delete, "c.parquet", Fault::LosesTheAnswer);
        let report = delete(&f, &targets).await;
        assert_eq!(names(&report), (vec!["a.parquet"], vec!["c.parquet"], vec![], vec!["b.parquet"]));
        assert!(matches!(report.failed[0].1, StorageError::PermissionDenied { .. }));
        assert_eq!(f.names().await, [format!("{}/b.parquet", hour())]);
    }
}

/// I12: what could not be looked at is neither deleted nor taken for gone.
#[tokio::test]
async fn a_file_that_cannot_be_looked_at_is_left_alone() {
    let f = Fixture::local();
    for name in ["a.parquet", "b.parquet"] {
        f.put(&format!("{}/{name}", hour()), "x").await;
    }
    let targets = targets(&f).await;
    f.faults.plan(Op::Get, "a.parquet", Fault::Fails(io::ErrorKind::TimedOut));
    let report = delete(&f, &targets).await;
    assert_eq!(names(&report), (vec!["b.parquet"], vec![], vec![], vec!["a.parquet"]));
    assert_eq!(f.names().await, [format!("{}/a.parquet", hour())]);
}

/// I12: after an answer that says nothing, an object is gone only if storage says so.
#[tokio::test]
async fn a_deletion_without_an_answer_has_failed_when_nobody_can_look() {
    let f = Fixture::memory();
    for name in ["a.parquet", "b.parquet"] {
        f.put(&format!("{}/{name}", hour()), "x").await;
    }
    let targets = targets(&f).await;
    let listing = f.storage.list_partition(&hour()).await.unwrap();
    f.faults.plan(Op::Delete, "a.parquet", Fault::LosesTheAnswer);
    f.faults.plan(Op::List, "b.parquet", Fault::Fails(io::ErrorKind::TimedOut));
    f.put(&format!("{}/b.parquet", hour()), "x").await;
    let report = f.storage.delete_exact(&hour(), Place::Data, &targets[..1], &listing).await;
    assert_eq!(names(&report), (vec![], vec![], vec![], vec!["a.parquet"]));
}

/// T45.
#[tokio::test]
async fn hundreds_of_objects_go_in_batches_and_the_folder_stays() {
    for f in Fixture::both() {
        for number in 0..600 {
            f.put(&format!("{}/{number}.parquet", hour()), "x").await;
        }
        let targets = targets(&f).await;
        let report = delete(&f, &targets).await;
        assert!(report.is_complete());
        assert_eq!(report.deleted, targets.iter().map(|target| target.name.clone()).collect::<Vec<_>>());
        let again = delete(&f, &targets).await;
        assert!(again.is_complete(), "what is gone is success");
        assert_eq!((again.deleted.len(), again.already_gone.len()), (0, 600));
        if let Some(base) = &f.base {
            assert!(base.path().join(hour().to_string()).is_dir(), "T45: a writer may be about to create a file there");
        }
    }
}

/// I2: a deletion rests on a record. Where the record's folder cannot be synced, its writer's sync may have failed, too,
/// and a power cut would take the record back but not the deletion.
#[tokio::test]
async fn nothing_is_deleted_while_the_records_cannot_be_made_durable() {
    let f = Fixture::local();
    f.put(&format!("{}/a.parquet", hour()), "old").await;
    let targets = targets(&f).await;
    let records = f.storage.local_path(&hour(), "_compaction").unwrap();
    std::os::unix::fs::symlink(&records, &records).unwrap();

    // Nobody can list the partition now; local files are looked at one by one.
    let report = f.storage.delete_exact(&hour(), Place::Data, &targets, &Listing::default()).await;

    assert_eq!(names(&report), (vec![], vec![], vec![], vec!["a.parquet"]));
    assert!(f.storage.local_path(&hour(), "a.parquet").unwrap().exists());
}
