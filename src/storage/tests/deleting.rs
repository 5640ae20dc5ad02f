use super::*;

fn names(report: &DeleteReport) -> (Vec<&str>, Vec<&str>, Vec<&str>, Vec<&str>) {
    fn strs(list: &[String]) -> Vec<&str> {
        list.iter().map(String::as_str).collect()
    }
    let failed = report.failed.iter().map(|(name, _)| name.as_str()).collect();
    (strs(&report.deleted), strs(&report.already_gone), strs(&report.changed), failed)
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

        let report = f.storage.delete_exact(&hour(), Place::Data, &targets).await;
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
        let report = f.storage.delete_exact(&hour(), Place::Data, &targets).await;
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
        let records = f.storage.list_records(&hour()).await.unwrap();
        let report = f.storage.delete_exact(&hour(), Place::Records, &[(&records[0]).into()]).await;
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
        for name in ["a.parquet", "b.parquet", "c.parquet", "d.parquet"] {
            f.put(&format!("{}/{name}", hour()), "x").await;
        }
        let targets = targets(&f).await;
        f.faults.plan(Op::Delete, "b.parquet", Fault::Fails(io::ErrorKind::PermissionDenied));
        f.faults.plan(Op::Delete, "c.parquet", Fault::LosesTheAnswer);
        f.faults.plan(Op::Get, "d.parquet", Fault::Fails(io::ErrorKind::TimedOut));
        let report = f.storage.delete_exact(&hour(), Place::Data, &targets).await;
        assert_eq!(names(&report), (vec!["a.parquet"], vec!["c.parquet"], vec![], vec!["d.parquet", "b.parquet"]));
        assert!(matches!(report.failed[1].1, StorageError::PermissionDenied { .. }));
        assert_eq!(f.names().await, ["b.parquet", "d.parquet"].map(|name| format!("{}/{name}", hour())));
    }
}

#[tokio::test]
async fn hundreds_of_objects_go_in_batches_and_the_folder_stays() {
    for f in Fixture::both() {
        for number in 0..600 {
            f.put(&format!("{}/{number}.parquet", hour()), "x").await;
        }
        let targets = targets(&f).await;
        let report = f.storage.delete_exact(&hour(), Place::Data, &targets).await;
        assert!(report.is_complete());
        assert_eq!(report.deleted, targets.iter().map(|target| target.name.clone()).collect::<Vec<_>>());
        let again = f.storage.delete_exact(&hour(), Place::Data, &targets).await;
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

    let report = f.storage.delete_exact(&hour(), Place::Data, &targets).await;

    assert_eq!(names(&report), (vec![], vec![], vec![], vec!["a.parquet"]));
    assert!(f.storage.local_path(&hour(), "a.parquet").unwrap().exists());
}
