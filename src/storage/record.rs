//! Creating a record: the moment at which a job has happened.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{CopyMode, CopyOptions, ObjectStore, PutMode, PutOptions};

use super::{LocalRoot, Storage, StorageError, WriteError, blocking};
use crate::partition::{Generation, PartitionId, RECORD_DIR, RecordEntry};

/// Answer to a create-if-absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// This call created the object, and it is durable.
    Created,
    /// The object was there already. After an unknown outcome it may be this caller's own: read it and compare.
    AlreadyExists,
}

impl Storage {
    /// Creates the record of `generation` if there is none. `attempt` names the staging folder on local disk.
    ///
    /// On local disk the partition's folder is synced first: deletions that an earlier tidy made there are durable before
    /// a record can stop mentioning them.
    ///
    /// # Errors
    /// [`WriteError::Unknown`] unless the error came before the one call that creates the record.
    pub async fn create_record(
        &self,
        partition: &PartitionId,
        generation: Generation,
        bytes: Bytes,
        attempt: &str,
    ) -> Result<Created, WriteError> {
        let key = self.record_key(partition, &RecordEntry::file_name(generation)).map_err(WriteError::NotWritten)?;
        if let Some(root) = &self.local {
            return self.create_local(root, partition, &key, bytes, attempt).await;
        }
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.created(&key, self.store.put_opts(&key, bytes.into(), options).await.map(drop))
    }

    /// Stage, then link: the record appears with all its bytes or not at all, and nothing is left beside it by a crash.
    async fn create_local(
        &self,
        root: &Arc<LocalRoot>,
        partition: &PartitionId,
        key: &object_store::path::Path,
        bytes: Bytes,
        attempt: &str,
    ) -> Result<Created, WriteError> {
        self.sync_folder(root, partition).await.map_err(WriteError::NotWritten)?;
        let (staging, prefix) = root.stage(attempt).await.map_err(WriteError::NotWritten)?;
        let staged = self.key(&format!("{prefix}/record.json")).map_err(WriteError::NotWritten)?;
        self.store
            .put_opts(&staged, bytes.into(), PutOptions::default())
            .await
            .map_err(|e| WriteError::NotWritten(self.error(&staged, e)))?;
        let created = self.created(key, self.link_new(&staged, key).await);
        discard(staging).await;
        created
    }

    /// Gives the object at `from` the new name `to`, which must not exist.
    pub(super) async fn link_new(
        &self,
        from: &object_store::path::Path,
        to: &object_store::path::Path,
    ) -> object_store::Result<()> {
        self.store.copy_opts(from, to, CopyOptions { mode: CopyMode::Create, ..CopyOptions::default() }).await
    }

    fn created(&self, key: &object_store::path::Path, result: object_store::Result<()>) -> Result<Created, WriteError> {
        use object_store::Error;
        match result {
            Ok(()) => Ok(Created::Created),
            // Azure and some S3 look-alikes answer a failed create with "precondition failed".
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::AlreadyExists),
            // The request was never sent.
            Err(error @ (Error::InvalidPath { .. } | Error::NotImplemented { .. })) => {
                Err(WriteError::NotWritten(self.error(key, error)))
            }
            Err(error) => Err(WriteError::Unknown(self.error(key, error))),
        }
    }

    /// I2: makes the records of a partition durable, whoever wrote them. Their writer may have been killed, or have had an
    /// error, after the link that made one visible and before the sync that makes it last; a deletion that rests on it
    /// must not outlive it in a power cut.
    pub(super) async fn sync_records(&self, root: &LocalRoot, partition: &PartitionId) -> Result<(), StorageError> {
        self.sync_path(root, format!("{partition}/{RECORD_DIR}")).await?;
        self.sync_folder(root, partition).await
    }

    /// Makes earlier changes to the partition's folder durable. A folder that does not exist has none.
    pub(super) async fn sync_folder(&self, root: &LocalRoot, partition: &PartitionId) -> Result<(), StorageError> {
        self.sync_path(root, partition.to_string()).await
    }

    async fn sync_path(&self, root: &LocalRoot, path: String) -> Result<(), StorageError> {
        let folder = root.path.join(&path);
        let shown = self.shown(&path);
        blocking(move || match std::fs::File::open(&folder).and_then(|folder| folder.sync_all()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|e| StorageError::from_io(shown, e)),
        })
        .await
    }
}

/// Removes a staging folder. What cannot be removed now is abandoned and found by the next sweep; the write that it was
/// made for is not affected.
pub(super) async fn discard(staging: super::OwnedDir) {
    if let Err(error) = blocking(move || staging.remove()).await {
        tracing::warn!(target: "storage.compaction", %error, "staging folder left for the next sweep");
    }
}
