//! Stores, and state databases with the locks in them, that count effects and die, fail or stop at a chosen one.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc::clock::{Clock, SystemClock};
use arc::compaction::events::EventSink;
use arc::compaction::settings::{Isolation, LockBackend};
use arc::compaction::{CompactionManager, CompactionSettings, Components};
use arc::config::{Config, Input};
use arc::lock::{CompactionLock, LockManager, StorageLocks};
use arc::merge::resources::{detect, job_limits};
use arc::merge::{DuckDbEngine, MergeEngine};
use arc::state::{Access, StateDb, StateError, Watch};
use arc::storage::Storage;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What happens around an effect.
pub trait Hook: Send + Sync + fmt::Debug + 'static {
    /// Called before effect `number` (from 0) is carried out. An error replaces it.
    fn before(&self, number: usize, effect: &str, path: &Path) -> Result<()>;
    /// Called before a GET or HEAD. An error replaces it.
    fn reading(&self, _path: &Path) -> Result<()> {
        Ok(())
    }
    /// Called before a LIST. An error replaces it.
    fn listing(&self, _prefix: Option<&Path>) -> Result<()> {
        Ok(())
    }
    /// Called before somebody is shown what the store says of an object that is read.
    fn shows(&self, _object: &mut ObjectMeta) {}
    /// Called after it was carried out, well or badly. An error replaces its answer.
    fn after(&self, number: usize, effect: &str, path: &Path) -> Result<()>;
}

/// The real manager of a configuration, merging in this process, over a store with a hook.
pub fn manager(config: &std::path::Path, hook: Arc<dyn Hook>) -> CompactionManager {
    manager_with(config, hook, Arc::new(DuckDbEngine))
}

/// The same with another engine.
pub fn manager_with(config: &std::path::Path, hook: Arc<dyn Hook>, engine: Arc<dyn MergeEngine>) -> CompactionManager {
    manager_at(config, hook, engine, Arc::new(SystemClock))
}

/// The same with another clock. Files keep the machine's time.
pub fn manager_at(
    config: &std::path::Path,
    hook: Arc<dyn Hook>,
    engine: Arc<dyn MergeEngine>,
    clock: Arc<dyn Clock>,
) -> CompactionManager {
    let config = Config::load(&Input { file: Some(config.to_owned()), ..Input::default() }).unwrap();
    let storage = arc::server::open_storage(&config).unwrap();
    manager_over(&config, storage, hook, engine, clock)
}

/// The same over any storage.
pub fn manager_over(
    config: &Config,
    storage: Storage,
    hook: Arc<dyn Hook>,
    engine: Arc<dyn MergeEngine>,
    clock: Arc<dyn Clock>,
) -> CompactionManager {
    manager_telling(config, storage, hook, engine, clock, EventSink::ignore())
}

/// The same, telling somebody what it does.
pub fn manager_telling(
    config: &Config,
    storage: Storage,
    hook: Arc<dyn Hook>,
    engine: Arc<dyn MergeEngine>,
    clock: Arc<dyn Clock>,
    events: EventSink,
) -> CompactionManager {
    let config = config.clone();
    let settings = CompactionSettings { isolation: Isolation::InProcess, ..config.compaction };
    let effects = Arc::new(AtomicUsize::new(0));
    let watch = HookedState { hook: Arc::clone(&hook), effects: Arc::clone(&effects) };
    let state = StateDb::open(&config.state.db_path).unwrap().watched(Arc::new(watch));
    let (storage, _) = storage.map_store(|inner| Arc::new(Hooked { inner, hook, effects })).tallied();
    let locks: Arc<dyn LockManager> = match settings.lock_backend {
        LockBackend::Sqlite => Arc::new(CompactionLock::new(state.clone(), clock.clone())),
        LockBackend::Storage => Arc::new(StorageLocks::new(&storage, clock.clone())),
    };
    let components = Components {
        storage,
        locks,
        state,
        engine,
        clock,
        limits: job_limits(detect(), None, None, settings.max_concurrent_jobs),
        events,
        seed: 7,
    };
    CompactionManager::new(components, settings)
}

/// A store whose writes and deletions go through a hook, one by one, numbered.
#[derive(Debug)]
pub struct Hooked {
    inner: Arc<dyn ObjectStore>,
    hook: Arc<dyn Hook>,
    effects: Arc<AtomicUsize>,
}

impl Hooked {
    pub fn over(inner: Arc<dyn ObjectStore>, hook: Arc<dyn Hook>) -> Arc<dyn ObjectStore> {
        Arc::new(Self { inner, hook, effects: Arc::default() })
    }

    async fn effect<T>(&self, name: &str, path: &Path, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let number = self.effects.fetch_add(1, Ordering::SeqCst);
        self.hook.before(number, name, path)?;
        let done = work.await;
        self.hook.after(number, name, path)?;
        done
    }
}

/// A state database, and the locks in it, whose changes go through the same hook, numbered together with those of storage.
#[derive(Debug)]
struct HookedState {
    hook: Arc<dyn Hook>,
    effects: Arc<AtomicUsize>,
}

const STATE_EFFECT: &str = "change state";

fn as_state_error(error: &object_store::Error) -> StateError {
    StateError::Unavailable { path: "hooked".to_owned(), detail: error.to_string() }
}

#[async_trait]
impl Watch for HookedState {
    async fn before(&self, access: Access) -> std::result::Result<(), StateError> {
        match access {
            Access::Read => Ok(()),
            Access::Write => {
                let number = self.effects.fetch_add(1, Ordering::SeqCst);
                self.hook.before(number, STATE_EFFECT, &Path::default()).map_err(|e| as_state_error(&e))
            }
        }
    }

    /// One job at a time changes the state, so the number is that of its beginning.
    async fn after(&self, access: Access) -> std::result::Result<(), StateError> {
        match access {
            Access::Read => Ok(()),
            Access::Write => {
                let number = self.effects.load(Ordering::SeqCst) - 1;
                self.hook.after(number, STATE_EFFECT, &Path::default()).map_err(|e| as_state_error(&e))
            }
        }
    }
}

impl fmt::Display for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hooked {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Hooked {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.effect("put", location, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.effect("put_multipart", location, self.inner.put_multipart_opts(location, opts)).await?;
        let hooked =
            Self { inner: Arc::clone(&self.inner), hook: Arc::clone(&self.hook), effects: Arc::clone(&self.effects) };
        Ok(Box::new(HookedUpload { upload, path: location.clone(), hooked }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.hook.reading(location)?;
        let mut got = self.inner.get_opts(location, options).await?;
        self.hook.shows(&mut got.meta);
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.hook.reading(location)?;
        self.inner.get_ranges(location, ranges).await
    }

    /// One by one, so that a batch can be cut in the middle.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, hook, effects) = (Arc::clone(&self.inner), Arc::clone(&self.hook), Arc::clone(&self.effects));
        locations
            .then(move |location| {
                let one = Self { inner: Arc::clone(&inner), hook: Arc::clone(&hook), effects: Arc::clone(&effects) };
                async move {
                    let location = location?;
                    let single = futures::stream::iter([Ok(location.clone())]).boxed();
                    let mut answers = one.inner.delete_stream(single);
                    one.effect("delete", &location, async move { answers.next().await.expect("one answer") }).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.hook.listing(prefix) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.effect("copy", to, self.inner.copy_opts(from, to, options)).await
    }
}

/// An upload whose parts and end are effects, too.
#[derive(Debug)]
struct HookedUpload {
    upload: Box<dyn MultipartUpload>,
    path: Path,
    hooked: Hooked,
}

#[async_trait]
impl MultipartUpload for HookedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.upload.put_part(data);
        let (hook, path) = (Arc::clone(&self.hooked.hook), self.path.clone());
        let number = self.hooked.effects.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            hook.before(number, "put_part", &path)?;
            let done = part.await;
            hook.after(number, "put_part", &path)?;
            done
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let path = self.path.clone();
        self.hooked.effect("complete_multipart", &path, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let path = self.path.clone();
        self.hooked.effect("abort_multipart", &path, self.upload.abort()).await
    }
}
