use std::collections::BTreeSet;

use super::*;
use crate::partition::FileKind;

/// T56: names that other schemes would escape, split or match.
const NAMES: [&str; 14] = [
    "cpu",
    "cpu_total",
    "cpu total",
    "it's",
    "\"q\"",
    "50%",
    "%2F",
    "%2e%2e",
    "a*b?[c]{d}",
    "größe",
    "k=v",
    "a&b",
    "#1",
    "C:",
];

async fn scan(storage: &Storage, database: &str, measurement: &str) -> Result<Vec<Scanned>, StorageError> {
    storage.scan_measurement(database, measurement, None).try_collect().await
}

/// Puts the parts of hours together, as far as a scan gave them in parts.
fn merged(scanned: Vec<Scanned>) -> (BTreeMap<PartitionId, BTreeSet<String>>, BTreeSet<String>) {
    let (mut hours, mut unrecognised) = (BTreeMap::<_, BTreeSet<String>>::new(), BTreeSet::new());
    for item in scanned {
        match item {
            Scanned::Partition(partition, listing) => {
                let objects = hours.entry(partition).or_default();
                objects.extend(listing.data.into_iter().map(|file| file.name));
                objects.extend(listing.records.into_iter().map(|record| format!("_compaction/{}", record.name)));
                objects.extend(listing.foreign);
            }
            Scanned::Unrecognised { path } => drop(unrecognised.insert(path)),
        }
    }
    (hours, unrecognised)
}

/// T8, T51, T56: thousands of objects under difficult names; every object is found, in its own partition, and only there.
#[tokio::test]
async fn a_scan_finds_every_object_in_its_own_partition() {
    for f in Fixture::both() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut expected: BTreeMap<(String, String), BTreeMap<PartitionId, BTreeSet<String>>> = BTreeMap::new();
        // Creating files is what takes the time on some machines.
        for _ in 0..if f.base.is_some() { 1_000 } else { 5_000 } {
            let database = NAMES[random.usize(..4)];
            let measurement = NAMES[random.usize(..NAMES.len())];
            let path = format!("{database}/{measurement}/2025/10/{:02}/{:02}", random.u8(1..=2), random.u8(0..=3));
            let name = NAMES[random.usize(..NAMES.len())];
            let number = random.u8(..);
            let object = match random.u8(0..10) {
                0 => format!("_compaction/{:08}.json", u32::from(number) + 1),
                1 => format!("{name}.tmp"),
                2 => format!("sub{number}/x.parquet"),
                _ => format!("{name}_{number}.parquet").replace('\\', "_"),
            };
            f.put(&format!("{path}/{object}"), "x").await;
            let hours = expected.entry((database.to_owned(), measurement.to_owned())).or_default();
            hours.entry(path.parse().unwrap()).or_default().insert(object);
        }
        f.put("_compaction_staging/job/x.parquet", "x").await;
        f.put("cpu/_compaction_x/2025/10/01/00/x.parquet", "x").await;
        f.put("at-the-root.parquet", "x").await;

        let mut found = BTreeMap::new();
        for database in f.storage.databases().await.unwrap() {
            for measurement in f.storage.measurements(&database).await.unwrap() {
                let (hours, unrecognised) = merged(scan(&f.storage, &database, &measurement).await.unwrap());
                assert_eq!(unrecognised, BTreeSet::new());
                for (partition, objects) in &hours {
                    let listing = f.storage.list_partition(partition).await.unwrap();
                    let fresh = merged(vec![Scanned::Partition(partition.clone(), listing.clone())]).0;
                    assert_eq!(&fresh[partition], objects, "{partition}");
                    assert_eq!(f.storage.list_records(partition).await.unwrap(), listing.records);
                }
                found.insert((database.clone(), measurement), hours);
            }
        }
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_listing_tells_data_records_and_foreign_objects_apart_and_sorts_them() {
    for f in Fixture::both() {
        let ours = "cpu_20251008_14_g2_9f3a51c2b7d0_compacted.parquet";
        for (name, content) in [
            ("b.parquet", "bb"),
            ("a.parquet", "a"),
            (ours, "ccc"),
            ("_compaction/00000010.json", "{}"),
            ("_compaction/00000002.json", "{}"),
            ("_compaction/2.json", ""),
            ("_compaction/deep/00000003.json", ""),
            ("sub/x.parquet", ""),
            ("notes.txt", ""),
        ] {
            f.put(&format!("{}/{name}", hour()), content).await;
        }
        f.put("db/cpu/2025/10/08/14x/other.parquet", "").await;
        let Listing { data, records, foreign } = f.storage.list_partition(&hour()).await.unwrap();
        let data: Vec<_> = data.iter().map(|d| (d.name.as_str(), d.size_bytes, d.kind.clone())).collect();
        assert_eq!(
            data,
            [
                ("a.parquet", 1, FileKind::Raw),
                ("b.parquet", 2, FileKind::Raw),
                (ours, 3, FileKind::Ours(Generation(2)))
            ]
        );
        assert_eq!(records.iter().map(|r| r.generation.0).collect::<Vec<_>>(), [2, 10]);
        assert_eq!(foreign, ["_compaction/2.json", "_compaction/deep/00000003.json", "notes.txt", "sub/x.parquet"]);
    }
}

#[tokio::test]
async fn folders_that_are_no_hours_are_shown_and_the_hours_beside_them_found() {
    for f in Fixture::both() {
        for path in ["2025/10/08/14/a.parquet", "2025/10/8/14/a.parquet", "2025/10/day.parquet", "x/a", "x/b", "direct"]
        {
            f.put(&format!("db/cpu/{path}"), "").await;
        }
        let (hours, unrecognised) = merged(scan(&f.storage, "db", "cpu").await.unwrap());
        assert_eq!(hours.into_keys().collect::<Vec<_>>(), [hour()]);
        let expected = ["db/cpu", "db/cpu/2025/10", "db/cpu/2025/10/8/14", "db/cpu/x"];
        assert_eq!(unrecognised.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn what_does_not_exist_is_empty() {
    for f in Fixture::both() {
        assert_eq!(f.storage.databases().await.unwrap(), Vec::<String>::new());
        assert_eq!(f.storage.measurements("db").await.unwrap(), Vec::<String>::new());
        assert_eq!(scan(&f.storage, "db", "cpu").await.unwrap(), []);
        assert_eq!(f.storage.list_partition(&hour()).await.unwrap(), Listing::default());
        assert_eq!(f.storage.list_records(&hour()).await.unwrap(), []);
    }
}

/// Consoles and file system adapters make "folders" of a bucket by an empty object with the folder's own name.
#[tokio::test]
async fn the_marker_of_a_folder_is_no_object_in_it() {
    for f in Fixture::both() {
        f.put("db/cpu/2025/10/08/14/a.parquet", "").await;
        f.put("db/cpu/2025/10/08/14/_compaction/00000001.json", "").await;
        f.faults.markers.store(true, Ordering::Relaxed);
        let listing = f.storage.list_partition(&hour()).await.unwrap();
        assert_eq!((listing.data.len(), listing.records.len(), listing.foreign.len()), (1, 1, 0));
        assert_eq!(f.storage.list_records(&hour()).await.unwrap().len(), 1);
    }
}

/// T6, T24: an error on a later page is an error, whatever was listed before.
#[tokio::test]
async fn a_listing_that_fails_midway_is_an_error() {
    for f in Fixture::both() {
        f.put("db/cpu/2025/10/08/14/a.parquet", "").await;
        f.put("db/cpu/2025/10/08/14/_compaction/00000001.json", "").await;
        f.faults.plan(Op::List, "a.parquet", Fault::Fails(io::ErrorKind::TimedOut));
        f.faults.plan(Op::List, "00000001.json", Fault::Fails(io::ErrorKind::NotFound));
        f.faults.plan(Op::List, "db", Fault::Fails(io::ErrorKind::PermissionDenied));
        assert!(matches!(f.storage.list_partition(&hour()).await, Err(StorageError::Unavailable { .. })));
        assert!(matches!(f.storage.list_records(&hour()).await, Err(StorageError::Unavailable { .. })));
        assert!(matches!(scan(&f.storage, "db", "cpu").await, Err(StorageError::Unavailable { .. })));
        assert!(matches!(f.storage.measurements("db").await, Err(StorageError::PermissionDenied { .. })));
    }
}

/// I12: a disk that was unmounted shows an empty folder, or none.
#[tokio::test]
async fn a_base_folder_that_went_away_is_an_error_and_not_empty() {
    let f = Fixture::local();
    let base = f.base.as_ref().unwrap().path();
    for replaced in [false, true] {
        if replaced {
            // The old folder is kept, so that the new one cannot get its inode.
            std::fs::create_dir(base).unwrap();
        } else {
            std::fs::rename(base, f.scratch.path().join("unmounted")).unwrap();
        }
        assert!(matches!(f.storage.databases().await, Err(StorageError::Unavailable { .. })));
        assert!(f.storage.measurements("db").await.is_err());
        assert!(scan(&f.storage, "db", "cpu").await.is_err());
        assert!(f.storage.list_partition(&hour()).await.is_err());
        assert!(f.storage.list_records(&hour()).await.is_err());
        assert!(f.storage.head(&hour(), "a.parquet").await.is_err());
        let record = f.storage.create_record(&hour(), Generation(1), Bytes::new(), "job").await;
        assert!(matches!(record, Err(WriteError::NotWritten(_))));
        assert!(f.storage.probe().await.is_err());
        assert_eq!(base.exists(), replaced, "nothing was created in its place");
        assert!(!replaced || std::fs::read_dir(base).unwrap().next().is_none());
    }
}

#[tokio::test]
async fn a_name_that_storage_cannot_say_ends_the_listing_with_an_error() {
    let f = Fixture::local();
    f.put("db/cpu/2025/10/08/14/a\nb.parquet", "").await;
    assert!(f.storage.list_partition(&hour()).await.is_err());
    for bad in ["", "..", "a/b", "a\nb"] {
        let error = scan(&f.storage, "db", bad).await.unwrap_err();
        assert!(matches!(error, StorageError::InvalidName { .. }), "{error:?}");
        assert!(matches!(f.storage.measurements(bad).await, Err(StorageError::InvalidName { .. })));
    }
}

/// A window sees whole hours, from its first one on, whatever the store lists by.
#[tokio::test]
async fn a_scan_of_recent_hours_sees_exactly_the_hours_from_the_first_one_on() {
    for f in Fixture::both() {
        let hours =
            ["2024/12/31/23", "2025/01/01/00", "2025/09/30/23", "2025/10/08/13", "2025/10/08/14", "2025/10/09/00"];
        for measurement in ["cpu", "cpu2", "cp"] {
            for hour in hours.iter().chain(&["2026/01/01/00"]) {
                for object in ["0.parquet", "~.parquet", "_compaction/00000001.json"] {
                    f.put(&format!("db/{measurement}/{hour}/{object}"), "x").await;
                }
            }
        }
        for first in 0..hours.len() {
            let since = format!("db/cpu/{}", hours[first]).parse::<PartitionId>().unwrap().hour();
            let scanned: Vec<Scanned> =
                f.storage.scan_measurement("db", "cpu", Some(since)).try_collect().await.unwrap();
            let (found, unrecognised) = merged(scanned);
            let names: Vec<String> = found.keys().map(|partition| partition.hour().to_string()).collect();
            let expected: Vec<&str> = hours[first..].iter().copied().chain(["2026/01/01/00"]).collect();
            assert_eq!(names, expected);
            assert!(found.keys().all(|partition| partition.measurement() == "cpu"));
            assert!(found.values().all(|objects| objects.len() == 3), "{found:?}");
            assert_eq!(unrecognised, BTreeSet::new());
        }
        let later = "db/cpu/2026/01/01/01".parse::<PartitionId>().unwrap().hour();
        assert_eq!(f.storage.scan_measurement("db", "cpu", Some(later)).count().await, 0);
        assert_eq!(f.storage.scan_measurement("db", "none", Some(later)).count().await, 0);
    }
}
