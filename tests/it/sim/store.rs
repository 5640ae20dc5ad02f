//! Storage as one caller sees it: `object_store`'s store in memory behind the wire, where answers are lost, requests
//! refused, listings come in pages, and batches break in the middle.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::wire::{Caller, Fault, Kind};
use super::world::{Planted, World};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct SimStore {
    world: Arc<World>,
    caller: Caller,
}

/// What the second page of a LIST, and every later one, is called.
pub const LIST_ON: &str = "list on";

/// Below it are the leases of [`arc::lock::StorageLocks`].
pub const LEASES: &str = "_compaction_locks/";
const CLOCK: &str = "_compaction_locks/clock";

fn refused() -> Error {
    Error::Generic { store: "sim", source: "503 slow down".into() }
}

fn lost() -> Error {
    Error::Generic { store: "sim", source: "the connection was reset".into() }
}

/// A result in a word.
fn word<T>(result: &Result<T>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::NotFound { .. }) => "not found",
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => "exists",
        Err(_) => "error",
    }
}

/// Carries out what memory does at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a store in memory answers at once")
}

/// An effect with what goes wrong around it. `exists` is what a repetition of a successful one would be answered.
fn with<T>(fault: Option<Fault>, exists: Option<Error>, effect: impl FnOnce() -> Result<T>) -> (Result<T>, String) {
    match fault {
        None | Some(Fault::Stale) => {
            let done = effect();
            let outcome = word(&done).to_owned();
            (done, outcome)
        }
        Some(Fault::Refused) => (Err(refused()), "REFUSED".to_owned()),
        Some(Fault::AnswerLost) => {
            let done = effect();
            (Err(lost()), format!("ANSWER LOST ({})", word(&done)))
        }
        Some(Fault::AnsweredTwice) => {
            let done = effect();
            let outcome = format!("ANSWERED TWICE (first {})", word(&done));
            (done.and_then(|_| Err(exists.unwrap_or_else(lost))), outcome)
        }
    }
}

impl SimStore {
    pub fn new(world: &Arc<World>, caller: &Caller) -> Self {
        Self { world: Arc::clone(world), caller: Arc::clone(caller) }
    }

    async fn call<T: Send + 'static>(
        &self,
        kind: Kind,
        what: &'static str,
        object: &str,
        effect: impl FnOnce(&Arc<World>, Option<Fault>) -> (Result<T>, String) + Send + 'static,
    ) -> Result<T> {
        let world = Arc::clone(&self.world);
        let made_up = match world.planted {
            Planted::LooksFail(who) if kind == Kind::Get && self.caller.starts_with(who) => Some(Fault::Refused),
            _ => None,
        };
        let carry_out = move |fault: Option<Fault>| effect(&world, fault.or(made_up));
        self.world.wire.call(&self.caller, (kind, what, object.to_owned()), carry_out).await
    }

    /// A LIST, page by page; each page is what is there when it is asked for.
    async fn pages(self, prefix: Option<Path>) -> Vec<Result<ObjectMeta>> {
        let is_reader = self.caller.starts_with('r');
        assert!(self.world.planted != Planted::ReaderPanics || !is_reader, "a planted panic of a reader");
        let mut listed = Vec::new();
        let mut last: Option<Path> = None;
        let shown = prefix.as_ref().map(ToString::to_string).unwrap_or_default();
        loop {
            let (prefix, after) = (prefix.clone(), last.clone());
            let what = if after.is_none() { "list" } else { LIST_ON };
            let caller = Arc::clone(&self.caller);
            let page = self.call(Kind::List, what, &shown, move |world, fault| {
                if let Some(prefix) = prefix.as_ref().filter(|_| after.is_none()) {
                    world.truth().looked(&caller, prefix.as_ref());
                }
                let hidden = world.planted == Planted::ListHidesPages && after.is_some();
                with(fault, None, || {
                    let mut rest = world.list(prefix.as_ref());
                    rest.retain(|meta| !hidden && after.as_ref().is_none_or(|last| meta.location > *last));
                    let more = rest.len() > world.page;
                    rest.truncate(world.page);
                    Ok((rest, more))
                })
            });
            match page.await {
                Ok((page, more)) => {
                    last = page.last().map(|meta| meta.location.clone());
                    listed.extend(page.into_iter().map(Ok));
                    if !more {
                        return listed;
                    }
                }
                Err(_) if self.world.planted == Planted::ErrorsAreAbsence => return listed,
                Err(error) => {
                    listed.push(Err(error));
                    return listed;
                }
            }
        }
    }

    /// Writes a lease, or what tells the time.
    async fn swap(&self, key: Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let is_clock = key.as_ref() == CLOCK;
        assert!(is_clock || opts.mode != PutMode::Overwrite, "no lease is ever overwritten unseen");
        let shown = key.to_string();
        self.call(Kind::Swap, if is_clock { "tell time" } else { "swap" }, &shown, move |world, fault| {
            let exists = Error::Precondition { path: key.to_string(), source: "412".into() };
            with(fault, Some(exists), || {
                let overwrites = world.planted == Planted::SwapOverwrites;
                let opts = if overwrites { PutMode::Overwrite.into() } else { opts };
                world.write_lease(&key, || now(world.bucket.put_opts(&key, payload, opts)))
            })
        })
        .await
    }

    async fn delete_one(self, key: Path) -> Result<Path> {
        let target = key.clone();
        self.call(Kind::Delete, "delete", key.as_ref(), move |world, fault| {
            with(fault, None, || {
                world.delete(&target);
                if world.planted == Planted::DeleteTakesNeighbour
                    && let Some(next) = world.list(None).into_iter().map(|m| m.location).find(|key| *key > target)
                {
                    world.delete(&next);
                }
                Ok(target)
            })
        })
        .await
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated storage of {}", self.caller)
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (key, caller) = (location.clone(), Arc::clone(&self.caller));
        if location.as_ref().starts_with(LEASES) {
            return self.swap(key, payload, opts).await;
        }
        assert_eq!(opts.mode, PutMode::Create, "nothing is ever overwritten");
        self.call(Kind::Create, "create", location.as_ref(), move |world, fault| {
            let exists = Error::AlreadyExists { path: key.to_string(), source: "412".into() };
            with(fault, Some(exists), || {
                let mode = match world.planted {
                    Planted::CreateOverwrites if key.as_ref().contains("/_compaction/") => PutMode::Overwrite,
                    _ => opts.mode.clone(),
                };
                let done = now(world.bucket.put_opts(&key, payload, mode.into()));
                if done.is_ok() {
                    world.truth().published(&caller, key.as_ref());
                    world.changed(&key);
                } else if world.planted == Planted::CreateLies && key.as_ref().contains("/_compaction/") {
                    return now(world.bucket.head(&key)).map(|meta| PutResult {
                        e_tag: meta.e_tag,
                        version: None,
                        extensions: Extensions::default(),
                    });
                }
                done
            })
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let key = location.clone();
        let begun = self.call(Kind::Prepare, "begin upload", location.as_ref(), move |world, fault| {
            with(fault, None, || now(world.bucket.put_multipart_opts(&key, opts)))
        });
        let upload = Arc::new(Mutex::new(begun.await?));
        Ok(Box::new(SimUpload { store: self.clone(), key: location.clone(), upload }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.clone();
        let what = if options.head { "head" } else { "get" };
        self.call(Kind::Get, what, location.as_ref(), move |world, fault| {
            let (got, outcome) = with(fault, None, || now(world.bucket.get_opts(&key, options)));
            match got {
                Err(_) if world.planted == Planted::ErrorsAreAbsence => {
                    (Err(Error::NotFound { path: key.to_string(), source: "503".into() }), outcome)
                }
                Err(error) => (Err(error), outcome),
                Ok(mut got) => {
                    got.meta = world.dated(got.meta);
                    if fault == Some(Fault::Stale) {
                        got.meta.e_tag = Some("\"of an older version\"".to_owned());
                        (Ok(got), "STALE".to_owned())
                    } else {
                        (Ok(got), outcome)
                    }
                }
            }
        })
        .await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (key, ranges) = (location.clone(), ranges.to_vec());
        self.call(Kind::Get, "get ranges", location.as_ref(), move |world, fault| {
            with(fault, None, || now(world.bucket.get_ranges(&key, &ranges)))
        })
        .await
    }

    /// One by one, so that a batch can be cut in the middle.
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |key| {
                let store = store.clone();
                async move { store.delete_one(key?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let pages = self.clone().pages(prefix.cloned());
        stream::once(pages).flat_map(stream::iter).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        assert_ne!(self.world.planted, Planted::CyclePanics, "a planted panic of a cycle");
        let (prefix, shown) = (prefix.cloned(), prefix.map(ToString::to_string).unwrap_or_default());
        self.call(Kind::List, "list folders", &shown, move |world, fault| {
            with(fault, None, || now(world.bucket.list_with_delimiter(prefix.as_ref())))
        })
        .await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("storage that is not local disk is never asked to copy")
    }
}

/// An upload under way. The request to complete it may be carried out when its caller is gone.
#[derive(Debug)]
struct SimUpload {
    store: SimStore,
    key: Path,
    upload: Arc<Mutex<Box<dyn MultipartUpload>>>,
}

#[async_trait]
impl MultipartUpload for SimUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, key, upload) = (self.store.clone(), self.key.clone(), Arc::clone(&self.upload));
        // The order of parts is that of the calls.
        let part = upload.lock().unwrap().put_part(data);
        async move {
            let call =
                store.call(Kind::Prepare, "upload part", key.as_ref(), move |_, fault| with(fault, None, || now(part)));
            call.await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (key, upload) = (self.key.clone(), Arc::clone(&self.upload));
        let caller = Arc::clone(&self.store.caller);
        self.store
            .call(Kind::Complete, "complete", self.key.as_ref(), move |world, fault| {
                with(fault, None, || {
                    let done = now(upload.lock().unwrap().complete())?;
                    world.truth().published(&caller, key.as_ref());
                    world.changed(&key);
                    Ok(done)
                })
            })
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        let upload = Arc::clone(&self.upload);
        self.store
            .call(Kind::Prepare, "abort upload", self.key.as_ref(), move |_, fault| {
                with(fault, None, || now(upload.lock().unwrap().abort()))
            })
            .await
    }
}
