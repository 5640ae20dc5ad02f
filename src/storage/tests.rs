//! The storage verbs on local disk and on a store that is not local disk, with faults.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use tempfile::TempDir;

use super::*;
use crate::partition::{DataFile, Generation, Listing};

mod deleting;
mod listing;
mod reading;
mod streaming;
mod writing;

/// Storage with something below it that the test can look at.
struct Fixture {
    storage: Storage,
    faults: Arc<Faults>,
    /// The store below the faults.
    sound: Arc<dyn ObjectStore>,
    /// Local files of the test itself: sources and targets of transfers.
    scratch: TempDir,
    base: Option<TempDir>,
}

impl Fixture {
    fn local() -> Self {
        let base = tempfile::tempdir().unwrap();
        Self::new(Storage::local(base.path()).unwrap(), Some(base))
    }

    fn memory() -> Self {
        Self::new(Storage::over(Arc::new(InMemory::new()), "memory://test"), None)
    }

    fn both() -> [Self; 2] {
        [Self::local(), Self::memory()]
    }

    fn new(storage: Storage, base: Option<TempDir>) -> Self {
        let faults = Arc::new(Faults::default());
        let sound = Arc::clone(&storage.store);
        let shared = Arc::clone(&faults);
        let storage = storage.map_store(|inner| Arc::new(Faulty { inner, faults: shared }));
        Self { storage, faults, sound, scratch: tempfile::tempdir().unwrap(), base }
    }

    /// Writes an object as ingestion would: not through our verbs.
    async fn put(&self, path: &str, content: &str) {
        if let Some(base) = &self.base {
            let path = base.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        } else {
            let key = Path::parse(path).unwrap();
            self.sound.put(&key, content.to_owned().into()).await.unwrap();
        }
    }

    /// Every object and its content, also what listings do not show; on local disk without the lock files of staging.
    async fn objects(&self) -> BTreeMap<String, String> {
        let Some(base) = &self.base else { return self.remote_objects().await };
        let mut found = BTreeMap::new();
        let mut folders = vec![base.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().unwrap() != ".arc-lock" {
                    let content = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
                    found.insert(path.strip_prefix(base.path()).unwrap().to_str().unwrap().to_owned(), content);
                }
            }
        }
        found
    }

    async fn remote_objects(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let metas: Vec<ObjectMeta> = self.sound.list(None).try_collect().await.unwrap();
        for meta in metas {
            let bytes = self.sound.get(&meta.location).await.unwrap().bytes().await.unwrap();
            found.insert(meta.location.to_string(), String::from_utf8_lossy(&bytes).into_owned());
        }
        found
    }

    async fn names(&self) -> Vec<String> {
        self.objects().await.into_keys().collect()
    }

    /// A file outside storage, such as a merge leaves it.
    fn source(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    async fn data(&self, name: &str) -> DataFile {
        let listing = self.storage.list_partition(&hour()).await.unwrap();
        listing.data.into_iter().find(|file| file.name == name).unwrap()
    }
}

fn hour() -> PartitionId {
    "db/cpu/2025/10/08/14".parse().unwrap()
}

/// What the next operations of a kind answer instead of doing their work, by the end of their key.
#[derive(Debug, Default)]
struct Faults {
    planned: Mutex<Vec<(Op, &'static str, Fault)>>,
    /// Whether a listing shows the folder itself, as that of a bucket does whose folders were made in a console.
    markers: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Put,
    Get,
    Copy,
    List,
    Delete,
    UploadComplete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing happens.
    Fails(io::ErrorKind),
    /// The work is done, and the answer is an error.
    LosesTheAnswer,
}

impl Faults {
    /// From now on `op` on keys that end in `suffix` goes wrong.
    fn plan(&self, op: Op, suffix: &'static str, fault: Fault) {
        self.planned.lock().unwrap().push((op, suffix, fault));
    }

    fn of(&self, op: Op, key: &str) -> Option<Fault> {
        let planned = self.planned.lock().unwrap();
        planned.iter().find(|(o, suffix, _)| *o == op && key.ends_with(suffix)).map(|(_, _, fault)| *fault)
    }

    /// Fails before the work, or says whether its answer gets lost.
    fn before(&self, op: Op, key: &str) -> StoreResult<bool> {
        match self.of(op, key) {
            Some(Fault::Fails(kind)) => Err(failure(kind)),
            Some(Fault::LosesTheAnswer) => Ok(true),
            None => Ok(false),
        }
    }
}

fn failure(kind: io::ErrorKind) -> Error {
    Error::Generic { store: "faulty", source: Box::new(io::Error::from(kind)) }
}

fn answer<T>(lost: bool, value: T) -> StoreResult<T> {
    if lost { Err(failure(io::ErrorKind::TimedOut)) } else { Ok(value) }
}

/// A store that goes wrong as planned.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Arc<Faults>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        let lost = self.faults.before(Op::Put, key.as_ref())?;
        answer(lost, self.inner.put_opts(key, payload, options).await?)
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(key, options).await?;
        Ok(Box::new(FaultyUpload { inner, key: key.to_string(), faults: Arc::clone(&self.faults) }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> StoreResult<GetResult> {
        let lost = self.faults.before(Op::Get, key.as_ref())?;
        answer(lost, self.inner.get_opts(key, options).await?)
    }

    fn delete_stream(&self, keys: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        let (inner, faults) = (Arc::clone(&self.inner), Arc::clone(&self.faults));
        keys.then(move |key| {
            let (inner, faults) = (Arc::clone(&inner), Arc::clone(&faults));
            async move {
                let key = key?;
                let lost = faults.before(Op::Delete, key.as_ref())?;
                inner.delete(&key).await?;
                answer(lost, key)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let faults = Arc::clone(&self.faults);
        let marker = prefix.filter(|_| faults.markers.load(Ordering::Relaxed)).map(|prefix| {
            let last_modified = chrono::DateTime::UNIX_EPOCH;
            Ok(ObjectMeta { location: prefix.clone(), last_modified, size: 0, e_tag: Some("0".into()), version: None })
        });
        // A listing fails where it comes to the planned key: on a later page, so to speak.
        stream::iter(marker)
            .chain(self.inner.list(prefix))
            .map(move |meta| {
                let meta = meta?;
                faults.before(Op::List, meta.location.as_ref())?;
                Ok(meta)
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.faults.before(Op::List, prefix.map_or("", Path::as_ref))?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        let lost = self.faults.before(Op::Copy, to.as_ref())?;
        self.inner.copy_opts(from, to, options).await?;
        answer(lost, ())
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    key: String,
    faults: Arc<Faults>,
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> object_store::UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let lost = self.faults.before(Op::UploadComplete, &self.key)?;
        answer(lost, self.inner.complete().await?)
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.inner.abort().await
    }
}

#[test]
fn a_missing_base_folder_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for bad in [folder.path().join("missing"), file] {
        let message = Storage::local(&bad).unwrap_err().to_string();
        assert!(message.contains(bad.to_str().unwrap()) && message.contains("create the folder"), "{message}");
    }
}

#[test]
fn the_location_of_local_storage_is_absolute_and_real() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().canonicalize().unwrap().join("real");
    std::fs::create_dir(&real).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let storage = Storage::local(&link).unwrap();
    assert_eq!(storage.location(), real.to_str().unwrap());
    assert_eq!(storage.local_path(&hour(), "a.parquet"), Some(real.join("db/cpu/2025/10/08/14/a.parquet")));
    assert_eq!(storage.local_path(&hour(), "../a.parquet"), None);
}
