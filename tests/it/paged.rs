//! Listings are no snapshots: between two pages of one everything may happen.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc as Shared, Mutex};

use arc::clock::SystemClock;
use arc::compaction::Scope;
use arc::compaction::observe::{ObserveError, observe_from};
use arc::compaction::record::{Author, Head, LiveFile, Record};
use arc::compaction::snapshot::live_files;
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
use crate::support::{Arc, PARTITION, telemetry};

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

/// Lists the records on a first page and the data on a second. What is to happen between them happens once.
struct TwoPages {
    inner: Shared<InMemory>,
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

fn is_record(object: &Result<ObjectMeta>) -> bool {
    object.as_ref().is_ok_and(|meta| meta.location.as_ref().contains("/_compaction/"))
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
        let pages = async move {
            let first: Vec<_> = inner.list(prefix.as_ref()).collect().await;
            if let Some(between) = between {
                between.await;
            }
            let second: Vec<_> = inner.list(prefix.as_ref()).collect().await;
            let first = first.into_iter().filter(is_record);
            stream::iter(first.chain(second.into_iter().filter(|object| !is_record(object))).collect::<Vec<_>>())
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

/// S3: the reader whose first page was listed before a compaction, and whose second page after it, has seen neither the inputs
/// nor the record that makes the output count. Only another look at the head tells.
#[tokio::test]
async fn a_compaction_between_two_pages_of_a_readers_listing_hides_no_row() {
    let arc = Arc::with("min_files = 2\nsettle_seconds = 0");
    let bucket = Shared::new(InMemory::new());
    for i in 0..4 {
        let local = arc.write("made/x/2000/01/01/00", "one.parquet", &telemetry(i * 10, i * 10 + 10));
        let key = Key::parse(format!("{PARTITION}/cpu_{i}.parquet")).unwrap();
        bucket.put(&key, std::fs::read(local).unwrap().into()).await.unwrap();
    }
    let config = Config::load(&Input { file: Some(arc.config_file()), ..Input::default() }).unwrap();
    let compacted: Shared<dyn ObjectStore> = bucket.clone();
    let compact = async move {
        let storage = Storage::over(compacted, "memory://bucket");
        let manager =
            manager_over(&config, storage, Shared::new(Nothing), Shared::new(DuckDbEngine), Shared::new(SystemClock));
        let report = manager.run_compaction_cycle(Scope::default(), CancellationToken::new()).await.unwrap();
        assert_eq!((report.jobs_completed, report.files_compacted), (1, 4), "{report:#?}");
    };
    let store = Shared::new(TwoPages { inner: bucket, between: Mutex::new(Some(Box::pin(compact))) });
    let reader = Storage::over(store.clone(), "memory://bucket");

    let seen = live_files(&reader, &PARTITION.parse().unwrap()).await.unwrap();

    assert!(store.between.lock().unwrap().is_none(), "it happened between the pages");
    assert_eq!(seen.generation.0, 1);
    let [output] = &seen.files[..] else { panic!("{seen:#?}") };
    assert!(output.name.ends_with("_compacted.parquet"), "{output:?}");
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
