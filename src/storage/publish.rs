//! Publishing: files become durable first, then visible, together and last.
//!
//! ```text
//!                            prepare                        complete
//! local disk                 link or copy into staging,     link to the final name (fails if it exists),
//!                            sync the file                  sync the folder
//! other stores, small files  nothing                        create-if-absent, in one request
//! other stores, other files  upload all parts               check that the name is free, complete the upload
//! ```
//!
//! What was completed is never taken back here, also when a later file of the same publication fails: whether a file is
//! dead is decided by records alone. Names are unique per attempt. That, not the check before completing an upload, keeps
//! other stores from overwriting: `object_store` completes uploads unconditionally.
//!
//! Memory is bounded by [`PARTS_IN_FLIGHT`] parts and the one that is being read, whatever the size of a file. An upload
//! that is not completed is given up, also when somebody cancels the job; one whose process dies stays in the bucket,
//! invisible, until a lifecycle rule removes it.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::record::discard;
use super::{LocalRoot, OwnedDir, Storage, StorageError, WriteError, blocking};
use crate::partition::PartitionId;

/// Parts of an upload have at least this size, and files up to it are not uploaded in parts. Stores want 5 MiB or more.
pub const MIN_PART_BYTES: u64 = 8 * 1024 * 1024;
/// Stores allow 10,000 parts; larger files get larger parts.
const MAX_PARTS: u64 = 9_000;
/// Parts of one file that are in memory and under way at a time.
pub const PARTS_IN_FLIGHT: usize = 4;

/// Files that are durable in storage but not yet visible. Dropping it gives them up: on local disk they are removed, in
/// other stores an unfinished upload may stay until [`Publication::abort`] or the bucket's lifecycle rules remove it.
#[derive(Debug)]
#[must_use = "prepared files are invisible until they are completed"]
pub struct Publication {
    storage: Storage,
    files: Vec<Prepared>,
    staging: Option<OwnedDir>,
}

#[derive(Debug)]
struct Prepared {
    target: Path,
    how: How,
}

#[derive(Debug)]
enum How {
    Staged(Path),
    /// A small file that still lies where the caller has it.
    Ready(PathBuf),
    Uploaded(Box<dyn MultipartUpload>),
}

impl Storage {
    /// Prepares local files, each for a name in the partition. `attempt` names the staging folder on local disk.
    ///
    /// On local disk the files are hard-linked where possible, so they must not be written to afterwards; elsewhere they must
    /// stay until they are completed. Stops between the parts of an upload once `stop` is cancelled.
    ///
    /// # Errors
    /// Always [`WriteError::NotWritten`]: nothing is visible yet. What was prepared is given up.
    pub async fn prepare(
        &self,
        partition: &PartitionId,
        attempt: &str,
        files: &[(PathBuf, String)],
        stop: &CancellationToken,
    ) -> Result<Publication, WriteError> {
        let targets = files.iter().map(|(_, name)| self.data_key(partition, name)).collect::<Result<Vec<_>, _>>();
        let targets = targets.map_err(WriteError::NotWritten)?;
        let mut publication = Publication { storage: self.clone(), files: Vec::new(), staging: None };
        for (target, (source, name)) in targets.into_iter().zip(files) {
            match publication.add(attempt, source, name, target, stop).await {
                Ok(()) => {}
                Err(error) => {
                    publication.abort().await;
                    return Err(WriteError::NotWritten(error));
                }
            }
        }
        Ok(publication)
    }

    /// Makes one prepared file visible.
    async fn complete_one(&self, file: &mut Prepared) -> Result<(), WriteError> {
        let target = &file.target;
        let exists = || WriteError::NotWritten(StorageError::AlreadyExists { path: self.shown(target.as_ref()) });
        match &mut file.how {
            How::Staged(staged) => match self.link_new(staged, target).await {
                Ok(()) => Ok(()),
                Err(object_store::Error::AlreadyExists { .. }) => Err(exists()),
                Err(error) => match self.error(target, error) {
                    // There are no links between disks.
                    error @ StorageError::Unsuitable { .. } => Err(WriteError::NotWritten(error)),
                    // The link may be there and only the sync of its folder have failed.
                    error => Err(WriteError::Unknown(error)),
                },
            },
            How::Ready(source) => self.create_small(source, target).await,
            How::Uploaded(upload) => {
                let taken = match self.stat(target).await {
                    Ok(None) => None,
                    Ok(Some(_)) => Some(exists()),
                    Err(error) => Some(WriteError::NotWritten(error)),
                };
                if let Some(error) = taken {
                    give_up(upload, target).await;
                    return Err(error);
                }
                match upload.complete().await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(WriteError::Unknown(self.error(target, error))),
                }
            }
        }
    }

    /// Creates the object of a small file, if there is none of its name.
    async fn create_small(&self, source: &FsPath, target: &Path) -> Result<(), WriteError> {
        use object_store::Error;
        let on_disk = |e| WriteError::NotWritten(StorageError::from_io(source.display().to_string(), e));
        let content: Bytes = tokio::fs::read(source).await.map_err(on_disk)?.into();
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(target, content.clone().into(), options).await {
            Ok(_) => Ok(()),
            // A client that repeats a create after a lost answer is told that the object exists: it may be this very one.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => match self.read_whole(target).await {
                Ok(found) if found.hasher.finalize() == blake3::hash(&content) => Ok(()),
                Ok(_) => Err(WriteError::NotWritten(StorageError::AlreadyExists { path: self.shown(target.as_ref()) })),
                Err(error) => Err(WriteError::Unknown(error)),
            },
            Err(error @ (Error::InvalidPath { .. } | Error::NotImplemented { .. })) => {
                Err(WriteError::NotWritten(self.error(target, error)))
            }
            Err(error) => Err(WriteError::Unknown(self.error(target, error))),
        }
    }

    /// Uploads all parts of a file without completing the upload.
    async fn upload(
        &self,
        source: &FsPath,
        target: &Path,
        stop: &CancellationToken,
    ) -> Result<Box<dyn MultipartUpload>, StorageError> {
        let mut upload = self.store.put_multipart(target).await.map_err(|e| self.error(target, e))?;
        let uploaded = stop.run_until_cancelled(self.upload_parts(source, target, upload.as_mut())).await;
        match uploaded
            .unwrap_or_else(|| Err(StorageError::unavailable(self.shown(target.as_ref()), "the upload was stopped")))
        {
            Ok(()) => Ok(upload),
            Err(error) => {
                give_up(&mut upload, target).await;
                Err(error)
            }
        }
    }

    async fn upload_parts(
        &self,
        source: &FsPath,
        target: &Path,
        upload: &mut dyn MultipartUpload,
    ) -> Result<(), StorageError> {
        let on_disk = |e| StorageError::from_io(source.display().to_string(), e);
        let mut file = tokio::fs::File::open(source).await.map_err(on_disk)?;
        let size_bytes = file.metadata().await.map_err(on_disk)?.len();
        let part_bytes = MIN_PART_BYTES.max(size_bytes.div_ceil(MAX_PARTS));
        let mut under_way = FuturesUnordered::new();
        let mut sent = 0;
        loop {
            let part = read_part(&mut file, part_bytes).await.map_err(on_disk)?;
            if part.is_empty() {
                break;
            }
            sent += part.len() as u64;
            if under_way.len() == PARTS_IN_FLIGHT
                && let Some(done) = under_way.next().await
            {
                let done: object_store::Result<()> = done;
                done.map_err(|e| self.error(target, e))?;
            }
            under_way.push(upload.put_part(PutPayload::from_bytes(part)));
        }
        while let Some(done) = under_way.next().await {
            done.map_err(|e| self.error(target, e))?;
        }
        if sent == size_bytes {
            return Ok(());
        }
        Err(StorageError::Changed {
            path: source.display().to_string(),
            detail: format!("it had {size_bytes} bytes, {sent} were read"),
        })
    }
}

impl Publication {
    async fn add(
        &mut self,
        attempt: &str,
        source: &FsPath,
        name: &str,
        target: Path,
        stop: &CancellationToken,
    ) -> Result<(), StorageError> {
        let how = if let Some(root) = self.storage.local.clone() {
            How::Staged(self.stage(&root, attempt, source, name).await?)
        } else {
            let on_disk = |e| StorageError::from_io(source.display().to_string(), e);
            if tokio::fs::metadata(source).await.map_err(on_disk)?.len() <= MIN_PART_BYTES {
                How::Ready(source.to_owned())
            } else {
                How::Uploaded(self.storage.upload(source, &target, stop).await?)
            }
        };
        self.files.push(Prepared { target, how });
        Ok(())
    }

    async fn stage(
        &mut self,
        root: &Arc<LocalRoot>,
        attempt: &str,
        source: &FsPath,
        name: &str,
    ) -> Result<Path, StorageError> {
        if self.staging.is_none() {
            self.staging = Some(root.stage(attempt).await?.0);
        }
        let staging = self.staging.as_ref().expect("set above");
        let staged = staging.path().join(name);
        let key = staged.strip_prefix(&root.path).ok().and_then(FsPath::to_str).map(|key| self.storage.key(key));
        let key = key.expect("the staging folder is below the base folder, and both are UTF-8")?;
        let source = source.to_owned();
        blocking(move || place(&source, &staged)).await?;
        Ok(key)
    }

    /// Makes all files visible under their names, durably, and never over an existing one.
    ///
    /// # Errors
    /// [`WriteError::NotWritten`] when it is certain that no file became visible, [`WriteError::Unknown`] otherwise.
    pub async fn complete(mut self) -> Result<(), WriteError> {
        let mut result = Ok(());
        let mut files = std::mem::take(&mut self.files).into_iter();
        let mut visible = 0_usize;
        for mut file in files.by_ref() {
            result = self.storage.complete_one(&mut file).await;
            if result.is_err() {
                break;
            }
            visible += 1;
        }
        // What was not reached is given up; what failed halfway stays, because nobody knows whether it is there.
        self.files = files.collect();
        self.abort().await;
        match result {
            Err(WriteError::NotWritten(error)) if visible > 0 => Err(WriteError::Unknown(error)),
            result => result,
        }
    }

    /// Gives the prepared files up. Nothing was visible and nothing will be. Failures leave only what a sweep or the
    /// bucket's lifecycle rules remove.
    pub async fn abort(mut self) {
        for file in &mut self.files {
            if let How::Uploaded(upload) = &mut file.how {
                give_up(upload, &file.target).await;
            }
        }
        if let Some(staging) = self.staging.take() {
            discard(staging).await;
        }
    }
}

async fn give_up(upload: &mut Box<dyn MultipartUpload>, target: &Path) {
    if let Err(error) = upload.abort().await {
        tracing::warn!(target: "storage.compaction", %target, %error, "unfinished upload left in storage");
    }
}

/// Gives `source` the second name `staged`, or copies it where the file system has no such links (another disk), and
/// syncs the content. Its final folder is synced when it appears there.
fn place(source: &FsPath, staged: &FsPath) -> Result<(), StorageError> {
    let at = |path: &FsPath| {
        let path = path.display().to_string();
        move |e| StorageError::from_io(path, e)
    };
    if std::fs::hard_link(source, staged).is_err() {
        let mut from = std::fs::File::open(source).map_err(at(source))?;
        let mut to = std::fs::File::create_new(staged).map_err(at(staged))?;
        std::io::copy(&mut from, &mut to).map_err(at(staged))?;
    }
    std::fs::File::open(staged).and_then(|file| file.sync_all()).map_err(at(staged))
}

/// The next part of a file: `part_bytes`, or what is left.
async fn read_part(file: &mut tokio::fs::File, part_bytes: u64) -> std::io::Result<Bytes> {
    let mut part = BytesMut::with_capacity(usize::try_from(part_bytes).map_err(std::io::Error::other)?);
    loop {
        let missing = part_bytes - part.len() as u64;
        if missing == 0 || file.take(missing).read_buf(&mut part).await? == 0 {
            return Ok(part.freeze());
        }
    }
}
