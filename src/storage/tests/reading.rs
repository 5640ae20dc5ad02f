use tokio_util::sync::CancellationToken;

use super::*;

#[tokio::test]
async fn a_fetched_file_is_the_listed_one_byte_for_byte() {
    for f in Fixture::both() {
        let content = "0123456789".repeat(300_000);
        f.put(&format!("{}/a.parquet", hour()), &content).await;
        let file = f.data("a.parquet").await;
        let to = f.scratch.path().join("fetched");
        f.storage.fetch(&hour(), &file, &to).await.unwrap();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), content);

        let again = f.storage.fetch(&hour(), &file, &to).await.unwrap_err();
        assert!(matches!(again, StorageError::AlreadyExists { .. }), "T3: no local file is overwritten: {again:?}");
        let no_folder = f.storage.fetch(&hour(), &file, &f.scratch.path().join("missing/x")).await.unwrap_err();
        assert!(no_folder.to_string().contains("missing/x"), "{no_folder}");
    }
}

#[tokio::test]
async fn a_file_that_changed_or_vanished_since_the_listing_is_not_fetched() {
    for f in Fixture::both() {
        f.put(&format!("{}/a.parquet", hour()), "old").await;
        let file = f.data("a.parquet").await;
        let to = f.scratch.path().join("fetched");
        let lying = DataFile { size_bytes: 4, ..file.clone() };
        assert!(matches!(f.storage.fetch(&hour(), &lying, &to).await, Err(StorageError::Changed { .. })));
        f.put(&format!("{}/a.parquet", hour()), "newer").await;
        assert!(matches!(f.storage.fetch(&hour(), &file, &to).await, Err(StorageError::Changed { .. })));
        let gone = DataFile { name: "b.parquet".into(), ..file };
        assert!(matches!(f.storage.fetch(&hour(), &gone, &to).await, Err(StorageError::NotFound { .. })));
        assert!(!to.exists());
    }
}

#[tokio::test]
async fn a_file_read_back_has_the_listed_size_and_etag_and_the_checksum_of_its_bytes() {
    for f in Fixture::both() {
        let content = "0123456789".repeat(300_000);
        f.put(&format!("{}/a.parquet", hour()), &content).await;
        let listed = f.data("a.parquet").await;
        let expected = ReadBack {
            size_bytes: 3_000_000,
            etag: listed.etag.clone(),
            checksum: format!("blake3:{}", blake3::hash(content.as_bytes()).to_hex()),
            tail: Bytes::copy_from_slice(&content.as_bytes()[content.len() - TAIL_BYTES..]),
        };
        assert_eq!(f.storage.read_back(&hour(), "a.parquet").await.unwrap(), expected);
        let stat = f.storage.head(&hour(), "a.parquet").await.unwrap().unwrap();
        assert_eq!((stat.size_bytes, stat.etag, stat.last_modified), (3_000_000, listed.etag, listed.last_modified));
        assert_eq!(f.storage.read_range(&hour(), "a.parquet", 2_999_998..3_000_000).await.unwrap(), "89");
        assert!(f.storage.read_range(&hour(), "a.parquet", 2_999_998..3_000_001).await.is_err());
    }
}

/// T24.
#[tokio::test]
async fn only_not_found_is_missing() {
    for f in Fixture::both() {
        assert_eq!(f.storage.head(&hour(), "a.parquet").await.unwrap(), None);
        assert!(matches!(f.storage.get_record(&hour(), "00000001.json").await, Err(StorageError::NotFound { .. })));
        f.faults.plan(Op::Get, "a.parquet", Fault::Fails(io::ErrorKind::ConnectionReset));
        f.faults.plan(Op::Get, ".json", Fault::Fails(io::ErrorKind::PermissionDenied));
        assert!(matches!(f.storage.head(&hour(), "a.parquet").await, Err(StorageError::Unavailable { .. })));
        let denied = f.storage.get_record(&hour(), "00000001.json").await.unwrap_err();
        assert!(matches!(denied, StorageError::PermissionDenied { .. }), "{denied:?}");
        let shown = format!("{}/{}/_compaction/00000001.json", f.storage.location(), hour());
        assert!(denied.to_string().contains(&shown), "{denied}");
    }
}

/// T16.
#[tokio::test]
async fn names_that_leave_the_partition_are_refused_by_every_verb() {
    for f in Fixture::both() {
        f.put("db/cpu/2025/10/08/secret.parquet", "x").await;
        f.put(&format!("{}/a.parquet", hour()), "x").await;
        let file = f.data("a.parquet").await;
        for name in ["../secret.parquet", "..", "", "a/b", "/etc/passwd", "a\\b"] {
            let invalid = |error: StorageError| assert!(matches!(error, StorageError::InvalidName { .. }), "{error:?}");
            invalid(f.storage.head(&hour(), name).await.unwrap_err());
            invalid(f.storage.get_record(&hour(), name).await.unwrap_err());
            invalid(f.storage.read_back(&hour(), name).await.unwrap_err());
            invalid(f.storage.read_range(&hour(), name, 0..1).await.unwrap_err());
            let bad = DataFile { name: name.to_owned(), ..file.clone() };
            invalid(f.storage.fetch(&hour(), &bad, &f.scratch.path().join("x")).await.unwrap_err());
            let files = [(f.source("out", b"x"), name.to_owned())];
            match f.storage.prepare(&hour(), "job", &files, &CancellationToken::new()).await.unwrap_err() {
                WriteError::NotWritten(error) => invalid(error),
                WriteError::Unknown(error) => panic!("{error}"),
            }
        }
    }
}
