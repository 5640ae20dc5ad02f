//! A store that counts what goes through it: requests by operation and outcome, and bytes.
//!
//! What must hold: everything is counted after the fact, when its outcome is known, and nothing else is changed. What
//! comes as a stream is counted as it flows: bytes as they arrive, the request when the stream ends or fails. A stream
//! that the caller gives up counts as `abandoned`.
//!
//! What is counted, and what cannot be seen from here:
//!
//! - A call is one request, with two exceptions in stores that are not local disk: a listing is one for each page of
//!   [`PAGE_ENTRIES`] entries, and a deletion one for each batch of [`BATCH_KEYS`] keys. That is what S3 does. Azure has
//!   larger pages and smaller batches, Google Cloud Storage deletes one by one, and what a client repeats by itself is its
//!   own business: the bill may differ.
//! - On local disk the answer to a read is an open file, whose bytes count as read when it is handed out. Inputs of a
//!   merge are read in place there, past this; writes are counted when they are staged, and their publication is a `copy`
//!   (a link) without bytes.
//! - "Not found", "already exists" and "precondition failed" are answers that the service asks for, so they have outcomes
//!   of their own beside `error`.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use super::Storage;
use super::traffic::Tally;
use crate::metrics::Metrics;

/// Entries of a page of a listing.
pub const PAGE_ENTRIES: usize = 1000;
/// Keys of a request that deletes.
pub const BATCH_KEYS: usize = 1000;

impl Storage {
    /// The same storage, with its requests counted in the metrics.
    #[must_use]
    pub fn metered(self, metrics: Metrics) -> Self {
        self.counted_by(Arc::new(metrics))
    }

    /// The same storage, with its requests counted, and what they are counted in. Storage that is counted already stays as it
    /// is: whoever shares it (leases, for one) is counted together with it.
    #[must_use]
    pub fn tallied(self) -> (Self, Tally) {
        if let Some(tally) = self.tally.clone() {
            return (self, tally);
        }
        let tally = Tally::default();
        let counted = self.counted_by(Arc::new(tally.clone()));
        (Self { tally: Some(tally.clone()), ..counted }, tally)
    }

    fn counted_by(self, counter: Arc<dyn Counter>) -> Self {
        let paged = self.local.is_none();
        self.map_store(|inner| Arc::new(Metered { inner, counter, paged }))
    }
}

/// Where things are counted.
pub(super) trait Counter: Send + Sync + fmt::Debug {
    fn request(&self, operation: &'static str, outcome: &'static str);
    fn read(&self, bytes: u64);
    fn written(&self, bytes: u64);
}

impl Counter for Metrics {
    fn request(&self, operation: &'static str, outcome: &'static str) {
        self.storage_request(operation, outcome);
    }

    fn read(&self, bytes: u64) {
        self.storage_bytes_read(bytes);
    }

    fn written(&self, bytes: u64) {
        self.storage_bytes_written(bytes);
    }
}

#[derive(Debug)]
struct Metered {
    inner: Arc<dyn ObjectStore>,
    counter: Arc<dyn Counter>,
    /// Whether listings come in pages, and deletions go in batches.
    paged: bool,
}

fn outcome<T>(result: &Result<T>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::NotFound { .. }) => "not_found",
        Err(Error::AlreadyExists { .. }) => "already_exists",
        Err(Error::Precondition { .. } | Error::NotModified { .. }) => "precondition_failed",
        Err(_) => "error",
    }
}

impl Metered {
    fn count<T>(&self, operation: &'static str, result: Result<T>) -> Result<T> {
        self.counter.request(operation, outcome(&result));
        result
    }

    fn counting<T>(
        &self,
        operation: &'static str,
        stream: BoxStream<'static, Result<T>>,
        bytes: fn(&T) -> u64,
    ) -> Counting<T> {
        let counter = Arc::clone(&self.counter);
        Counting { stream, operation, counter, outcome: "abandoned", bytes, page: None, items: 0 }
    }

    fn listing(&self, stream: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut counting = self.counting("list", stream, |_| 0);
        counting.page = self.paged.then_some(PAGE_ENTRIES);
        counting.boxed()
    }
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        let result = self.count("put", self.inner.put_opts(location, payload, opts).await);
        if result.is_ok() {
            self.counter.written(bytes);
        }
        result
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.count("put_multipart", self.inner.put_multipart_opts(location, opts).await)?;
        Ok(Box::new(MeteredUpload { upload, counter: Arc::clone(&self.counter) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { "head" } else { "get" };
        let result = self.inner.get_opts(location, options).await;
        if operation == "head" || result.is_err() {
            return self.count(operation, result);
        }
        let got = result?;
        let payload = match got.payload {
            file @ GetResultPayload::File(..) => {
                self.counter.request(operation, "ok");
                self.counter.read(got.range.end.saturating_sub(got.range.start));
                file
            }
            GetResultPayload::Stream(stream) => {
                GetResultPayload::Stream(self.counting(operation, stream, |chunk| chunk.len() as u64).boxed())
            }
        };
        Ok(GetResult { payload, ..got })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let result = self.count("get", self.inner.get_ranges(location, ranges).await)?;
        self.counter.read(result.iter().map(|bytes| bytes.len() as u64).sum());
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let batch = if self.paged { BATCH_KEYS } else { 1 };
        let mut deletions = Deletions { counter: Arc::clone(&self.counter), batch, answers: 0, outcome: "ok" };
        self.inner.delete_stream(locations).inspect(move |answer| deletions.answered(answer)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let result = self.inner.list_with_delimiter(prefix).await;
        if self.paged
            && let Ok(listed) = &result
        {
            let entries = listed.objects.len() + listed.common_prefixes.len();
            for _ in 1..entries.div_ceil(PAGE_ENTRIES) {
                self.counter.request("list", "ok");
            }
        }
        self.count("list", result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.count("copy", self.inner.copy_opts(from, to, options).await)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.count("rename", self.inner.rename_opts(from, to, options).await)
    }
}

/// An upload whose parts are counted one by one.
#[derive(Debug)]
struct MeteredUpload {
    upload: Box<dyn MultipartUpload>,
    counter: Arc<dyn Counter>,
}

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (bytes, counter) = (data.content_length() as u64, Arc::clone(&self.counter));
        let part = self.upload.put_part(data);
        Box::pin(async move {
            let result = part.await;
            counter.request("put_part", outcome(&result));
            if result.is_ok() {
                counter.written(bytes);
            }
            result
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await;
        self.counter.request("complete_multipart", outcome(&result));
        result
    }

    async fn abort(&mut self) -> Result<()> {
        let result = self.upload.abort().await;
        self.counter.request("abort_multipart", outcome(&result));
        result
    }
}

/// Deletions under way: counted in batches, a batch as failed when one of its keys failed.
struct Deletions {
    counter: Arc<dyn Counter>,
    batch: usize,
    answers: usize,
    outcome: &'static str,
}

impl Deletions {
    fn answered(&mut self, answer: &Result<Path>) {
        self.answers += 1;
        if answer.is_err() {
            self.outcome = outcome(answer);
        }
        if self.answers == self.batch {
            self.count();
        }
    }

    fn count(&mut self) {
        self.counter.request("delete", self.outcome);
        (self.answers, self.outcome) = (0, "ok");
    }
}

impl Drop for Deletions {
    fn drop(&mut self) {
        if self.answers > 0 {
            self.count();
        }
    }
}

/// A stream that is one request, or one for each page: counted when it is over, with the bytes of its items as they come.
struct Counting<T> {
    stream: BoxStream<'static, Result<T>>,
    operation: &'static str,
    counter: Arc<dyn Counter>,
    /// How it would be counted if it were dropped now.
    outcome: &'static str,
    bytes: fn(&T) -> u64,
    /// Items that come with one request. `None`: all of them.
    page: Option<usize>,
    /// Items of the page so far.
    items: usize,
}

impl<T> Stream for Counting<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.stream.poll_next_unpin(context);
        match &polled {
            Poll::Ready(Some(Ok(item))) => {
                let bytes = (self.bytes)(item);
                if bytes > 0 {
                    self.counter.read(bytes);
                }
                if self.page == Some(self.items) {
                    self.counter.request(self.operation, "ok");
                    self.items = 0;
                }
                self.items += 1;
            }
            Poll::Ready(Some(failed @ Err(_))) => self.outcome = outcome(failed),
            // After an error the end says nothing new.
            Poll::Ready(None) if self.outcome == "abandoned" => self.outcome = "ok",
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.stream.size_hint()
    }
}

impl<T> Drop for Counting<T> {
    fn drop(&mut self) {
        self.counter.request(self.operation, self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::TryStreamExt;
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutMode};

    use super::*;

    fn store() -> (Arc<Metered>, Metrics) {
        let metrics = Metrics::new();
        (
            Arc::new(Metered { inner: Arc::new(InMemory::new()), counter: Arc::new(metrics.clone()), paged: true }),
            metrics,
        )
    }

    /// The storage counters that are not 0, as `operation outcome` or `direction`.
    fn counted(metrics: &Metrics) -> BTreeMap<String, u64> {
        let text = metrics.render();
        let lines = text.lines().filter(|line| line.starts_with("arc_storage_"));
        let counted = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let quoted: Vec<&str> = name.split('"').skip(1).step_by(2).collect();
            (quoted.join(" "), value.parse().unwrap())
        });
        counted.filter(|(_, value)| *value > 0).collect()
    }

    fn table<const N: usize>(rows: [(&str, u64); N]) -> BTreeMap<String, u64> {
        rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn path() -> Path {
        Path::from("a/b")
    }

    #[tokio::test]
    async fn every_operation_is_counted_by_its_outcome_and_bytes_by_their_direction() {
        let (store, metrics) = store();
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&path(), "12345".into(), create()).await.unwrap();
        store.put_opts(&path(), "refused".into(), create()).await.unwrap_err();
        store.head(&path()).await.unwrap();
        store.get(&path()).await.unwrap().bytes().await.unwrap();
        store.get_range(&path(), 0..2).await.unwrap();
        store.get(&Path::from("none")).await.unwrap_err();
        store.copy(&path(), &Path::from("c")).await.unwrap();
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 2);
        store.list_with_delimiter(None).await.unwrap();
        store.delete(&path()).await.unwrap();
        let expected = table([
            ("put ok", 1),
            ("put already_exists", 1),
            ("head ok", 1),
            ("get ok", 2),
            ("get not_found", 1),
            ("copy ok", 1),
            ("list ok", 2),
            ("delete ok", 1),
            ("read", 7),
            ("written", 5),
        ]);
        assert_eq!(counted(&metrics), expected);
    }

    #[tokio::test]
    async fn parts_of_an_upload_are_counted_one_by_one() {
        let (store, metrics) = store();
        let mut upload = store.put_multipart(&path()).await.unwrap();
        upload.put_part("123".into()).await.unwrap();
        upload.put_part("45".into()).await.unwrap();
        upload.complete().await.unwrap();
        let mut given_up = store.put_multipart(&path()).await.unwrap();
        given_up.abort().await.unwrap();
        let expected = table([
            ("put_multipart ok", 2),
            ("put_part ok", 2),
            ("complete_multipart ok", 1),
            ("abort_multipart ok", 1),
            ("written", 5),
        ]);
        assert_eq!(counted(&metrics), expected);
    }

    #[tokio::test]
    async fn a_stream_is_counted_when_it_ends_fails_or_is_given_up() {
        let (store, metrics) = store();
        let chunks = |last: Result<Bytes>| futures::stream::iter([Ok(Bytes::from_static(b"123")), last]).boxed();
        let failing = chunks(Err(Error::NotImplemented { operation: "x".into(), implementer: "y".into() }));
        let stream = |inner| store.counting("get", inner, |chunk: &Bytes| chunk.len() as u64);
        stream(chunks(Ok(Bytes::from_static(b"45")))).try_collect::<Vec<_>>().await.unwrap();
        stream(failing).try_collect::<Vec<_>>().await.unwrap_err();
        let mut given_up = stream(chunks(Ok(Bytes::new())));
        given_up.next().await.unwrap().unwrap();
        drop(given_up);
        let expected = table([("get ok", 1), ("get error", 1), ("get abandoned", 1), ("read", 11)]);
        assert_eq!(counted(&metrics), expected);
    }

    /// A bucket bills pages and batches, whatever one call of a client makes of them.
    #[tokio::test]
    async fn pages_of_a_listing_and_batches_of_a_deletion_are_requests_of_their_own() {
        let (store, metrics) = store();
        let keys: Vec<Path> = (0..=2 * PAGE_ENTRIES).map(|n| Path::from(format!("k{n:06}"))).collect();
        for key in &keys {
            store.inner.put(key, "".into()).await.unwrap();
        }
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), keys.len());
        assert_eq!(store.list_with_offset(None, &keys[1000]).try_collect::<Vec<_>>().await.unwrap().len(), 1000);
        let keys = futures::stream::iter(keys.into_iter().map(Ok)).boxed();
        store.delete_stream(keys).try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(counted(&metrics), table([("list ok", 4), ("delete ok", 3)]));
    }

    #[tokio::test]
    async fn reading_a_local_file_counts_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::new();
        let storage = Storage::local(dir.path()).unwrap().metered(metrics.clone());
        let partition = "db/cpu/2025/10/08/14".parse().unwrap();
        std::fs::create_dir_all(dir.path().join("db/cpu/2025/10/08/14")).unwrap();
        std::fs::write(dir.path().join("db/cpu/2025/10/08/14/a.parquet"), "12345").unwrap();
        storage.read_back(&partition, "a.parquet").await.unwrap();
        assert_eq!(counted(&metrics), table([("get ok", 1), ("read", 5)]));
    }
}
