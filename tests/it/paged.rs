//! Listings are no snapshots: between two pages of one everything may happen.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc as Shared, Mutex};

use arc::clock::SystemClock;
use arc::compaction::observe::{ObserveError, observe_from};
use arc::compaction::record::{Author, Head, LiveFile, Record};
use arc::compaction::snapshot::live_files;
use arc::compaction::verify::{Checked, Depth, Kind};
use arc::compaction::{CompactionManager, CycleReport, Scope};
use arc::config::{Config, Input};
use arc::merge::DuckDbEngine;
use arc::partition::{Generation, Listing};
use arc::storage::Storage;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio_util::sync::CancellationToken;

use crate::support::stores::{Hook, Hooked, manager_over};
use crate::support::{Arc, PARTITION, copy, rows_of, telemetry};

#[derive(Debug)]
struct Nothing;

impl Hook for Nothing {
    fn before(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }
}

/// Lists a partition in two pages. What is to happen between them happens once.
struct TwoPages {
    inner: Shared<InMemory>,
    on_first: fn(&str) -> bool,
    between: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl fmt::Debug for TwoPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwoPages")
    }
}

impl fmt::Display for TwoPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two pages")
    }
}

fn is_record(key: &str) -> bool {
    key.contains("/_compaction/")
}

fn is_raw(key: &str) -> bool {
    !is_record(key) && !key.ends_with("_compacted.parquet")
}

#[async_trait]
impl ObjectStore for TwoPages {
    async fn put_opts(&self, location: &Key, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Key, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        if prefix.is_none_or(|prefix| prefix.as_ref() != PARTITION) {
            return self.inner.list(prefix);
        }
        let (inner, prefix) = (Shared::clone(&self.inner), prefix.cloned());
        let between = self.between.lock().unwrap().take();
        let on_first = self.on_first;
        let pages = async move {
            let first: Vec<_> = inner.list(prefix.as_ref()).collect().await;
            if let Some(between) = between {
                between.await;
            }
            let second: Vec<_> = inner.list(prefix.as_ref()).collect().await;
            let on_first = |object: &Result<ObjectMeta>| object.as_ref().is_ok_and(|o| on_first(o.location.as_ref()));
            let first = first.into_iter().filter(on_first);
            stream::iter(first.chain(second.into_iter().filter(|object| !on_first(object))).collect::<Vec<_>>())
        };
        stream::once(pages).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

async fn put_raw(arc: &Arc, bucket: &InMemory, number: usize) {
    let local = arc.write("made/x/2000/01/01/00", "one.parquet", &telemetry(number * 10, number * 10 + 10));
    let key = Key::parse(format!("{PARTITION}/cpu_{number}.parquet")).unwrap();
    bucket.put(&key, std::fs::read(local).unwrap().into()).await.unwrap();
}

fn manager(arc: &Arc, store: Shared<dyn ObjectStore>) -> CompactionManager {
    let config = Config::load(&Input { file: Some(arc.config_file()), ..Input::default() }).unwrap();
    let storage = Storage::over(store, "memory://bucket");
    manager_over(&config, storage, Shared::new(Nothing), Shared::new(DuckDbEngine), Shared::new(SystemClock))
}

async fn compact(arc: &Arc, store: Shared<dyn ObjectStore>) -> CycleReport {
    manager(arc, store).run_compaction_cycle(Scope::default(), CancellationToken::new()).await.unwrap()
}

/// S3: the reader whose first page was listed before a compaction, and whose second page after it, has seen neither the inputs
/// nor the record that makes the output count. Only another look at the head tells.
#[tokio::test]
async fn a_compaction_between_two_pages_of_a_readers_listing_hides_no_row() {
    let arc = Arc::with("min_files = 2\nsettle_seconds = 0");
    let bucket = Shared::new(InMemory::new());
    for i in 0..4 {
        put_raw(&arc, &bucket, i).await;
    }
    let compacted: Shared<dyn ObjectStore> = bucket.clone();
    let compact = async move {
        let report = compact(&arc, compacted).await;
        assert_eq!((report.jobs_completed, report.files_compacted), (1, 4), "{report:#?}");
    };
    let store =
        Shared::new(TwoPages { inner: bucket, on_first: is_record, between: Mutex::new(Some(Box::pin(compact))) });
    let reader = Storage::over(store.clone(), "memory://bucket");

    let seen = live_files(&reader, &PARTITION.parse().unwrap()).await.unwrap();

    assert!(store.between.lock().unwrap().is_none(), "it happened between the pages");
    assert_eq!(seen.generation.0, 1);
    let [output] = &seen.files[..] else { panic!("{seen:#?}") };
    assert!(output.name.ends_with("_compacted.parquet"), "{output:?}");
}

/// Between the pages a late file arrives, and another worker that merges it gets as far as its output. The listing has the
/// output and not the file, and no record will ever explain that; a listing made after that one can.
async fn with_an_attempt_on_a_newer_file(arc: &Arc) -> (Shared<InMemory>, Shared<TwoPages>) {
    let (bucket, elsewhere) = (Shared::new(InMemory::new()), Shared::new(InMemory::new()));
    for number in 0..5 {
        put_raw(arc, &elsewhere, number).await;
        if number < 4 {
            put_raw(arc, &bucket, number).await;
        }
    }
    let report = compact(&Arc::with("min_files = 2\nsettle_seconds = 0"), elsewhere.clone()).await;
    assert_eq!((report.jobs_completed, report.files_compacted), (1, 5), "{report:#?}");
    let output = elsewhere.list(None).filter_map(async |o| o.ok().map(|o| o.location)).collect::<Vec<_>>().await;
    let output = output.into_iter().find(|key| key.as_ref().ends_with("_compacted.parquet")).unwrap();
    let bytes = elsewhere.get(&output).await.unwrap().bytes().await.unwrap();
    let late = arc.write("made/x/2000/01/01/00", "late.parquet", &telemetry(40, 50));
    let (inner, late) = (bucket.clone(), std::fs::read(late).unwrap());
    let between = async move {
        inner.put(&Key::parse(format!("{PARTITION}/cpu_4.parquet")).unwrap(), late.into()).await.unwrap();
        inner.put(&output, bytes.into()).await.unwrap();
    };
    let store = TwoPages { inner: bucket.clone(), on_first: is_raw, between: Mutex::new(Some(Box::pin(between))) };
    (bucket, Shared::new(store))
}

/// V2.
#[tokio::test]
async fn an_unfinished_attempt_on_a_file_that_is_newer_than_the_first_page_is_no_reason_to_give_up() {
    let arc = Arc::with("min_files = 2\nsettle_seconds = 0");
    let (bucket, store) = with_an_attempt_on_a_newer_file(&arc).await;

    let report = compact(&arc, store.clone()).await;

    assert!(store.between.lock().unwrap().is_none(), "it happened between the pages");
    // Whether the late file is old enough to be merged is decided by milliseconds, and does not matter here.
    assert_eq!((report.jobs_failed, report.jobs_completed, report.problems.len()), (0, 1, 0), "{report:#?}");
    let seen =
        live_files(&Storage::over(bucket.clone(), "memory://bucket"), &PARTITION.parse().unwrap()).await.unwrap();
    assert_eq!(seen.generation.0, 2, "the attempt was closed");
    // One file, or one and the late one; and in either case every row once.
    assert!(matches!(seen.files.len(), 1 | 2), "{seen:#?}");
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for file in &seen.files {
        let key = Key::parse(format!("{PARTITION}/{}", file.name)).unwrap();
        paths.push(folder.path().join(&file.name));
        std::fs::write(paths.last().unwrap(), bucket.get(&key).await.unwrap().bytes().await.unwrap()).unwrap();
    }
    let all = folder.path().join("all");
    copy(&telemetry(0, 50), &all, "FORMAT parquet");
    assert_eq!(rows_of(&paths), rows_of(&[all]));
}

/// Nobody is called at night for a file that came a moment ago.
#[tokio::test]
async fn a_check_does_not_miss_a_file_that_is_newer_than_its_first_page() {
    let arc = Arc::with("min_files = 2\nsettle_seconds = 0");
    let (_, store) = with_an_attempt_on_a_newer_file(&arc).await;
    let only = Scope { partition: Some(PARTITION.parse().unwrap()), ..Scope::default() };

    let checked: Vec<Checked> = manager(&arc, store.clone()).verify(only, Depth::Footers).collect().await;

    assert!(store.between.lock().unwrap().is_none(), "it happened between the pages");
    let found: Vec<_> = checked.iter().flat_map(|checked| &checked.findings).map(|f| f.kind).collect();
    assert_eq!(found, [Kind::UndecidedAttempt], "{checked:#?}");
}

/// Does something before every LIST below a prefix.
struct AtListing<F>(String, F);

impl<F> fmt::Debug for AtListing<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AtListing({})", self.0)
    }
}

impl<F: Fn() -> Result<()> + Send + Sync + 'static> Hook for AtListing<F> {
    fn before(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }

    fn listing(&self, prefix: Option<&Key>) -> Result<()> {
        if prefix.is_some_and(|prefix| prefix.as_ref() == self.0) { (self.1)() } else { Ok(()) }
    }
}

fn put(bucket: &InMemory, name: &str, bytes: Vec<u8>) {
    let key = Key::parse(format!("{PARTITION}/{name}")).unwrap();
    bucket.put(&key, bytes.into()).now_or_never().unwrap().unwrap();
}

/// The first record of a partition, by which one file of ours counts.
fn record(job_id: &str) -> Record {
    let author = Author {
        job_id: job_id.to_owned(),
        worker_id: "worker".to_owned(),
        lease_token: 1,
        created_at: "2025-10-08T18:00:00Z".parse().unwrap(),
    };
    let live = LiveFile {
        name: "cpu_20251008_14_g1_0123456789ab_compacted.parquet".to_owned(),
        size_bytes: 1,
        rows: 1,
        min_time: None,
        max_time: None,
        checksum: "blake3:0".to_owned(),
    };
    Head::none().adopt(author, &Listing::default(), &[live])
}

/// J1, R0: whoever knows the head's generation reads the record first. If somebody restores the bucket between that and the LIST,
/// it is another record, and only its ETag says so.
#[tokio::test]
async fn a_record_that_is_replaced_before_the_listing_is_read_again() {
    let bucket = Shared::new(InMemory::new());
    put(&bucket, "_compaction/00000001.json", record("replaced").to_bytes());
    put(&bucket, &record("").live[0].name, vec![0]);
    let to_restore = Mutex::new(Some(Shared::clone(&bucket)));
    let restores = move || {
        if let Some(bucket) = to_restore.lock().unwrap().take() {
            put(&bucket, "_compaction/00000001.json", record("restored").to_bytes());
        }
        Ok(())
    };
    let hook = Shared::new(AtListing(PARTITION.to_owned(), restores));
    let storage = Storage::over(Hooked::over(bucket, hook), "memory://bucket");

    let view = observe_from(&storage, &PARTITION.parse().unwrap(), Generation(1)).await.unwrap();

    assert_eq!(view.head.record().unwrap().job_id, "restored");
}

/// C1: nothing is planned, deleted or read beside a head whose files are not there.
#[tokio::test]
async fn a_partition_without_a_file_that_counts_is_shown_to_nobody() {
    let bucket = Shared::new(InMemory::new());
    put(&bucket, "_compaction/00000001.json", record("job").to_bytes());
    let storage = Storage::over(bucket.clone(), "memory://bucket");
    let partition = PARTITION.parse().unwrap();
    for (bytes, state) in [(None, "not there"), (Some(vec![0, 0]), "2 bytes long instead of 1")] {
        if let Some(bytes) = bytes {
            put(&bucket, &record("").live[0].name, bytes);
        }
        let view = observe_from(&storage, &partition, Generation(1)).await.map(drop);
        let read = live_files(&storage, &partition).await.map(drop);
        for answer in [view, read] {
            assert!(
                matches!(&answer, Err(ObserveError::LiveFileMissing { state: found, .. }) if found.to_string() == state),
                "{answer:?}"
            );
        }
    }
}

/// I12: that a look at the records fails does not say that there are none.
#[tokio::test]
async fn a_reader_who_cannot_look_at_the_head_again_has_seen_nothing() {
    let bucket = Shared::new(InMemory::new());
    put(&bucket, "raw.parquet", vec![0]);
    let fails = || Err(object_store::Error::Generic { store: "test", source: "503".into() });
    let hook = Shared::new(AtListing(format!("{PARTITION}/_compaction"), fails));
    let storage = Storage::over(Hooked::over(bucket, hook), "memory://bucket");

    let answer = live_files(&storage, &PARTITION.parse().unwrap()).await;

    assert!(matches!(answer, Err(ObserveError::Storage(_))), "{answer:?}");
}
