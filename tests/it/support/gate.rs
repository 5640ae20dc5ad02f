//! A store in which a cycle can be held where it begins to look, and that remembers what was looked at.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

use super::again;

/// What a test does to the store.
#[derive(Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
    /// How many scans have come to the gate.
    scans: watch::Sender<usize>,
    panics: AtomicBool,
    listed: Mutex<BTreeSet<String>>,
}

impl Default for Gate {
    fn default() -> Self {
        let (open, scans) = (watch::Sender::new(true), watch::Sender::new(0));
        Self { open, scans, panics: AtomicBool::default(), listed: Mutex::default() }
    }
}

impl Gate {
    /// From now on scans wait.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// The next scan panics.
    pub fn panic_once(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// Waits until so many scans have come.
    pub async fn came(&self, scans: usize) {
        self.scans.subscribe().wait_for(|come| *come >= scans).await.unwrap();
    }

    /// Which folders were listed since the last call; the root is the empty one.
    pub fn listed(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.listed.lock().unwrap())
    }

    fn note(&self, prefix: Option<&Path>) {
        self.listed.lock().unwrap().insert(prefix.map(ToString::to_string).unwrap_or_default());
    }

    async fn pass(&self) {
        self.scans.send_modify(|scans| *scans += 1);
        if self.panics.swap(false, Ordering::SeqCst) {
            again::silently(|| panic!("a scan that panics"));
        }
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// A store behind a gate.
#[derive(Debug)]
pub struct Gated {
    inner: Arc<dyn ObjectStore>,
    gate: Arc<Gate>,
}

impl Gated {
    pub fn over(inner: Arc<dyn ObjectStore>, gate: &Arc<Gate>) -> Arc<dyn ObjectStore> {
        Arc::new(Self { inner, gate: Arc::clone(gate) })
    }
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gated {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Gated {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.gate.note(prefix);
        self.inner.list(prefix).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.gate.note(prefix);
        if prefix.is_none() {
            self.gate.pass().await;
        }
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
