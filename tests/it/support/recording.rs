//! A store that writes down every request as a bucket would bill it, and that can be far away or slow.
//!
//! What a client library does in one call can be several requests: a listing is one for each page of 1,000 entries, a
//! deletion one for each batch of 1,000 keys. They are counted as such here, so that a budget in requests is a budget in
//! money.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// Entries of a page, and keys of a batch, in S3.
pub const PAGE: usize = 1000;

/// What was asked of a store so far.
#[derive(Debug, Default)]
pub struct Log {
    state: Mutex<State>,
    /// How long the way to the store and back takes.
    latency: Duration,
    /// One line that all answers share, and how long a byte takes on it.
    line: tokio::sync::Mutex<()>,
    per_byte: Duration,
}

#[derive(Debug, Default)]
struct State {
    phase: &'static str,
    requests: Vec<Request>,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub phase: &'static str,
    pub operation: &'static str,
    /// The key, or the prefix.
    pub path: String,
}

impl Log {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Of a store that answers each request after this long, over a line on which a byte takes so long, in tokio's time, which
    /// is to be paused.
    pub fn of_distant_store(latency: Duration, per_byte: Duration) -> Arc<Self> {
        Arc::new(Self { latency, per_byte, ..Self::default() })
    }

    /// How many requests of this kind were about keys that begin like this.
    pub fn count(&self, operation: &str, prefix: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.requests.iter().filter(|r| r.operation == operation && r.path.starts_with(prefix)).count()
    }

    /// Requests from now on belong to this phase.
    pub fn enter(&self, phase: &'static str) {
        self.state.lock().unwrap().phase = phase;
    }

    fn note(&self, operation: &'static str, path: &impl ToString) {
        let mut state = self.state.lock().unwrap();
        let phase = state.phase;
        state.requests.push(Request { phase, operation, path: path.to_string() });
    }

    async fn wait(&self) {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
    }

    async fn transfer(&self, bytes: u64) {
        if !self.per_byte.is_zero() {
            let _line = self.line.lock().await;
            tokio::time::sleep(self.per_byte * u32::try_from(bytes).unwrap()).await;
        }
    }

    /// Everything since the last call.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

/// How many requests of each kind.
pub fn by_operation(requests: &[Request]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(request.operation).or_default() += 1;
    }
    counts
}

/// A line for each phase, in order: `fetch: 720 get`.
pub fn by_phase(requests: &[Request]) -> Vec<String> {
    let phases = requests.chunk_by(|a, b| a.phase == b.phase);
    let line = |phase: &[Request]| {
        let counts = by_operation(phase);
        let counts: Vec<String> = counts.iter().map(|(operation, count)| format!("{count} {operation}")).collect();
        format!("{}: {}", phase[0].phase, counts.join(", "))
    };
    phases.map(line).collect()
}

/// A store whose requests are written down.
#[derive(Debug)]
pub struct Recording {
    inner: Arc<dyn ObjectStore>,
    log: Arc<Log>,
}

impl Recording {
    pub fn over(inner: Arc<dyn ObjectStore>, log: &Arc<Log>) -> Arc<dyn ObjectStore> {
        Arc::new(Self { inner, log: Arc::clone(log) })
    }

    fn paged(
        &self,
        stream: BoxStream<'static, Result<ObjectMeta>>,
        prefix: String,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let log = Arc::clone(&self.log);
        log.note("list", &prefix);
        stream
            .enumerate()
            .then(move |(number, item)| {
                let (log, prefix) = (Arc::clone(&log), prefix.clone());
                async move {
                    if number % PAGE == 0 {
                        if number > 0 {
                            log.note("list", &prefix);
                        }
                        log.wait().await;
                    }
                    item
                }
            })
            .boxed()
    }
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recording {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Recording {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.log.note("put", location);
        self.log.wait().await;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.log.note("create_multipart", location);
        self.log.wait().await;
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(RecordedUpload { upload, path: location.clone(), log: Arc::clone(&self.log) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = match (&options.range, options.head) {
            (_, true) => "head",
            (Some(_), false) => "get_part",
            (None, false) => "get",
        };
        self.log.note(operation, location);
        self.log.wait().await;
        let got = self.inner.get_opts(location, options).await?;
        if operation != "head" {
            self.log.transfer(got.range.end - got.range.start).await;
        }
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        for _ in ranges {
            self.log.note("get_part", location);
        }
        self.log.wait().await;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, log) = (Arc::clone(&self.inner), Arc::clone(&self.log));
        locations
            .try_chunks(PAGE)
            .map_err(|chunk| chunk.1)
            .and_then(move |batch| {
                let (inner, log) = (Arc::clone(&inner), Arc::clone(&log));
                async move {
                    log.note("delete", &batch[0]);
                    log.wait().await;
                    Ok(inner.delete_stream(futures::stream::iter(batch.into_iter().map(Ok)).boxed()))
                }
            })
            .try_flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(self.inner.list(prefix), prefix.map(ToString::to_string).unwrap_or_default())
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.paged(self.inner.list_with_offset(prefix, offset), prefix.map(ToString::to_string).unwrap_or_default())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.log.note("list", &prefix.map(ToString::to_string).unwrap_or_default());
        self.log.wait().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.log.note("copy", to);
        self.log.wait().await;
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct RecordedUpload {
    upload: Box<dyn MultipartUpload>,
    path: Path,
    log: Arc<Log>,
}

#[async_trait]
impl MultipartUpload for RecordedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.log.note("put_part", &self.path);
        let (log, part) = (Arc::clone(&self.log), self.upload.put_part(data));
        Box::pin(async move {
            log.wait().await;
            part.await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.log.note("complete_multipart", &self.path);
        self.log.wait().await;
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.log.note("abort_multipart", &self.path);
        self.log.wait().await;
        self.upload.abort().await
    }
}
