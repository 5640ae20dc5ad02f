//! Storage: our verbs over [`object_store`].
//!
//! ```text
//! {location}/
//!     {database}/{measurement}/{YYYY}/{MM}/{DD}/{HH}/*.parquet      data files
//!                                            .../_compaction/*.json  records
//!     _compaction_staging/{attempt}/...                              local disk only: written, not yet visible
//! ```
//!
//! What must hold:
//!
//! - **Nothing is overwritten.** Every write that a reader can see is a create-if-absent ([`Storage::probe`] checks that
//!   the store really has it). On local disk a file is written and synced in a staging folder of the attempt, then
//!   hard-linked to its name, which is atomic and fails when the name exists; then the folder is synced. Nothing is
//!   ever written beside data, so a crash leaves no fragments there.
//! - **Nothing is deleted by pattern.** [`Storage::delete_exact`] takes plain file names with size and `ETag`, and a look
//!   right before says that they are still that.
//! - **An error stays an error.** Only the store's own "not found" about the object asked for means "missing". A base
//!   folder that went away (unmounted, replaced) is an error, not an empty database.
//! - **Names are what storage has**, byte for byte: nothing is escaped or folded.
//! - **Memory is bounded**: listings are streamed, files are streamed.
//!
//! Deliberately not here: what records mean, which files are live, when to retry. Partition folders are never removed,
//! not even empty ones: a writer may be about to create a file there, and the head record keeps them from being empty
//! anyway. The only folders ever removed are the staging folders that this module made ([`OwnedDir`]).
//!
//! Two kinds of local files are invisible to `object_store`, and therefore to all of this: names that end in `#` and
//! digits, and broken symbolic links. A name with a control character, or one that is not UTF-8, makes a listing fail.
//! In a bucket, keys that are no path are left out of listings ([`Storage::take_pathless`]).

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use crate::partition::{PartitionId, RECORD_DIR, is_plain_file_name};

use connect::Pathless;

mod answer;
mod connect;
mod delete;
mod error;
mod fetch;
mod metered;
mod owned_dir;
mod probe;
mod publish;
mod record;
mod scan;
pub mod settings;
#[cfg(test)]
mod tests;
mod traffic;

pub use delete::{DeleteReport, DeleteTarget, Place};
pub use error::{Source, StorageError, WriteError};
pub use fetch::{Fetched, MAX_RECORD_BYTES, ReadBack, Stat, TAIL_BYTES};
pub use owned_dir::OwnedDir;
pub use publish::{MIN_PART_BYTES, PARTS_IN_FLIGHT, Publication};
pub use record::Created;
pub use scan::Scanned;
pub use traffic::{Tally, Traffic};

/// Where attempts write before they publish. It starts with the reserved prefix, so no database can have this name.
const STAGING_DIR: &str = "_compaction_staging";

/// One place that holds databases: a folder or a bucket. Clones share it.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    local: Option<Arc<LocalRoot>>,
    location: Arc<str>,
    /// What the listings left out, and the prefix that this storage lies below.
    left_out: Option<(Arc<Pathless>, Arc<str>)>,
    /// What the traffic of this storage is counted in.
    tally: Option<Tally>,
}

/// Only where it is: the clients of object stores show account keys and tokens.
impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({})", self.location)
    }
}

/// The base folder of local storage.
#[derive(Debug)]
struct LocalRoot {
    path: PathBuf,
    /// Device and inode at the start. Another pair means that the disk was unmounted or the folder replaced.
    identity: (u64, u64),
    /// Makes names of staging folders unique within the process; the attempt's id makes them unique beyond it.
    staged: AtomicU64,
}

impl Storage {
    /// Storage on local disk, below `base`. Every write is synced to disk before it is reported as done.
    ///
    /// # Errors
    /// When `base` is not an existing folder.
    pub fn local(base: &FsPath) -> Result<Self, StorageError> {
        let unusable = |detail: String| StorageError::Unsuitable {
            location: base.display().to_string(),
            detail: format!("{detail}; create the folder, mount the disk, or correct storage.local.base_path"),
        };
        let path = base.canonicalize().map_err(|e| unusable(e.to_string()))?;
        let metadata = path.metadata().map_err(|e| unusable(e.to_string()))?;
        if !metadata.is_dir() {
            return Err(unusable("not a folder".to_owned()));
        }
        let Some(location) = path.to_str().map(Arc::from) else {
            return Err(unusable("the path is not UTF-8".to_owned()));
        };
        let store = LocalFileSystem::new_with_prefix(&path).map_err(|e| unusable(e.to_string()))?.with_fsync(true);
        let local = LocalRoot { path, identity: (metadata.dev(), metadata.ino()), staged: AtomicU64::new(0) };
        Ok(Self { store: Arc::new(store), local: Some(Arc::new(local)), location, left_out: None, tally: None })
    }

    /// Storage that is not local disk. `location` is for people and must not contain secrets.
    pub fn over(store: Arc<dyn ObjectStore>, location: impl Into<String>) -> Self {
        Self { store, local: None, location: location.into().into(), left_out: None, tally: None }
    }

    /// The same storage with another store around its store: one that counts, records, limits or injects faults.
    #[must_use]
    pub fn map_store(self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { store: wrap(self.store), ..self }
    }

    /// The same storage, whose listings leave out what is noted there.
    fn leaving_out(self, pathless: Arc<Pathless>, prefix: &str) -> Self {
        Self { left_out: Some((pathless, prefix.into())), ..self }
    }

    /// The keys that are no path (`db//cpu/a.parquet`) and that listings came across since the last call, from the root of the
    /// storage. Nothing else is ever done with them.
    #[must_use]
    pub fn take_pathless(&self) -> Vec<String> {
        let Some((pathless, prefix)) = &self.left_out else { return Vec::new() };
        let below = |key: String| match key.strip_prefix(prefix.as_ref()).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) if !prefix.is_empty() => rest.to_owned(),
            _ => key,
        };
        pathless.take().into_iter().map(below).collect()
    }

    /// The store below the verbs, for what is no data: leases. Whoever writes to it keeps to the reserved prefix.
    #[must_use]
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// An error of that store about `key`, in our own words.
    pub(crate) fn understood(&self, key: &Path, error: object_store::Error) -> StorageError {
        self.error(key, error)
    }

    /// Where this is, for people: an absolute path or a URL. Never a secret.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Whether objects are files of this machine, which can be read in place.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// The path of a file on local disk, for reading it in place. `None` when storage is not local, or when `name` is
    /// not a plain file name.
    #[must_use]
    pub fn local_path(&self, partition: &PartitionId, name: &str) -> Option<PathBuf> {
        let root = self.local.as_ref()?;
        is_plain_file_name(name).then(|| root.path.join(partition.to_string()).join(name))
    }

    /// The name of `path` in messages.
    fn shown(&self, path: &str) -> String {
        format!("{}/{path}", self.location)
    }

    fn error(&self, path: impl AsRef<str>, error: object_store::Error) -> StorageError {
        let shown = self.shown(path.as_ref());
        match self.local {
            Some(_) => StorageError::from_store(shown, error),
            None => answer::understood(&self.location, shown, error),
        }
    }

    /// The key of a data file.
    fn data_key(&self, partition: &PartitionId, name: &str) -> Result<Path, StorageError> {
        self.file_key(&partition.to_string(), name)
    }

    /// The key of a record.
    fn record_key(&self, partition: &PartitionId, name: &str) -> Result<Path, StorageError> {
        self.file_key(&format!("{partition}/{RECORD_DIR}"), name)
    }

    /// The key of a file directly in `folder`, which is made of checked parts.
    fn file_key(&self, folder: &str, name: &str) -> Result<Path, StorageError> {
        if !is_plain_file_name(name) {
            return Err(StorageError::InvalidName {
                name: name.to_owned(),
                detail: format!("not a plain file name, below {}", self.shown(folder)),
            });
        }
        self.key(&format!("{folder}/{name}"))
    }

    /// `Path::parse` keeps names as they are; `Path::from` would escape them.
    fn key(&self, path: &str) -> Result<Path, StorageError> {
        Path::parse(path).map_err(|e| StorageError::InvalidName { name: self.shown(path), detail: e.to_string() })
    }
}

impl LocalRoot {
    /// Fails when the base folder is no longer the one that was opened. A listing of a vanished folder is empty without
    /// an error, so every listing asks this afterwards.
    async fn check(&self) -> Result<(), StorageError> {
        let metadata = tokio::fs::metadata(&self.path)
            .await
            .map_err(|e| StorageError::unavailable(self.path.display().to_string(), e))?;
        if (metadata.dev(), metadata.ino()) == self.identity {
            return Ok(());
        }
        Err(StorageError::unavailable(
            self.path.display().to_string(),
            "the folder was replaced or its disk unmounted while the service ran; restart the service when it is back",
        ))
    }

    fn staging(&self) -> PathBuf {
        self.path.join(STAGING_DIR)
    }

    /// Creates a staging folder for `attempt`; returns it with its key prefix.
    async fn stage(self: &Arc<Self>, attempt: &str) -> Result<(OwnedDir, String), StorageError> {
        // Creating the staging folder creates what is missing above it: never on the disk below a lost mount.
        self.check().await?;
        let id = staging_id(attempt, self.staged.fetch_add(1, Ordering::Relaxed))?;
        let key = format!("{STAGING_DIR}/{id}");
        let root = Arc::clone(self);
        let dir = blocking(move || OwnedDir::create(&root.staging(), &id)).await?;
        Ok((dir, key))
    }
}

impl Storage {
    /// Removes the staging folders of attempts whose process is gone, and returns their names. Folders of live attempts,
    /// in this or another process, are left alone. Does nothing when storage is not local: unfinished multipart uploads
    /// are the business of the bucket's lifecycle rules.
    ///
    /// # Errors
    /// When the staging area cannot be read or something in it cannot be removed.
    pub async fn sweep_staging(&self) -> Result<Vec<String>, StorageError> {
        let Some(root) = self.local.clone() else { return Ok(Vec::new()) };
        blocking(move || OwnedDir::sweep(&root.staging())).await
    }

    /// The staging folders that [`Self::sweep_staging`] would remove. Changes nothing.
    ///
    /// # Errors
    /// When the staging area cannot be read.
    pub async fn staging_leftovers(&self) -> Result<Vec<String>, StorageError> {
        let Some(root) = self.local.clone() else { return Ok(Vec::new()) };
        blocking(move || OwnedDir::leftovers(&root.staging())).await
    }
}

/// The name of a staging folder. Attempt ids contain the measurement and may be as long as a file name can be, so a long
/// one is replaced by its hash.
fn staging_id(attempt: &str, number: u64) -> Result<String, StorageError> {
    const MAX_READABLE_BYTES: usize = 160;
    if !is_plain_file_name(attempt) {
        return Err(StorageError::InvalidName {
            name: attempt.to_owned(),
            detail: "the id of an attempt must be a plain file name".to_owned(),
        });
    }
    let readable = if attempt.len() <= MAX_READABLE_BYTES {
        attempt.to_owned()
    } else {
        blake3::hash(attempt.as_bytes()).to_hex().to_string()
    };
    Ok(format!("{readable}.{number}"))
}

/// Runs file operations where they do not block an async thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The runtime is shutting down, or `work` panicked; the caller must not take either for success.
        Err(stopped) => Err(StorageError::unavailable("a file operation", stopped)),
    }
}
