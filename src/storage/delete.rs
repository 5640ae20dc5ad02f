//! Deleting exactly what was named, and only while it is what was named.

use std::collections::HashSet;

use futures::{StreamExt, stream};
use object_store::ObjectStore;
use object_store::path::Path;

use super::{Storage, StorageError};
use crate::partition::{DataFile, PartitionId, RecordEntry};

/// Objects looked at and deleted together. Stores with a bulk request take 1,000 keys (Azure: 256); a smaller number
/// keeps the time between the look and the deletion short.
const BATCH: usize = 256;
/// Looks under way at a time.
const LOOKS_IN_FLIGHT: usize = 16;

/// Which of a partition's two folders a deletion is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The partition's folder: data files.
    Data,
    /// Its record folder.
    Records,
}

/// One object, as it was listed or recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteTarget {
    /// A plain file name. Anything else is refused.
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
}

impl From<&DataFile> for DeleteTarget {
    fn from(file: &DataFile) -> Self {
        Self { name: file.name.clone(), size_bytes: file.size_bytes, etag: file.etag.clone() }
    }
}

impl From<&RecordEntry> for DeleteTarget {
    fn from(record: &RecordEntry) -> Self {
        Self { name: record.name.clone(), size_bytes: record.size_bytes, etag: record.etag.clone() }
    }
}

/// What became of each target. Every target is in exactly one list.
#[derive(Debug, Default)]
pub struct DeleteReport {
    /// Deleted by this call.
    pub deleted: Vec<String>,
    /// Not there: somebody else was faster, or an earlier attempt got this far.
    pub already_gone: Vec<String>,
    /// Size or `ETag` differ from the target's: another object, left alone.
    pub changed: Vec<String>,
    /// Still there, or not known.
    pub failed: Vec<(String, StorageError)>,
    /// On local disk, when the folder could not be synced: the deletions happened, but a power cut may undo them.
    pub not_durable: Option<StorageError>,
}

impl DeleteReport {
    /// Whether every target is gone for good.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.changed.is_empty() && self.failed.is_empty() && self.not_durable.is_none()
    }
}

/// What a look at a target found.
enum Look {
    Same(Path),
    Gone,
    Changed,
    Failed(StorageError),
}

impl Storage {
    /// Deletes objects by their names, each only if size and `ETag` are still the target's right before. "Not found" is
    /// success. A failure of one object does not keep the others.
    ///
    /// Object stores cannot delete conditionally, so an object that is replaced between the look and the deletion would
    /// go; that is why writers must not reuse file names.
    pub async fn delete_exact(&self, partition: &PartitionId, place: Place, targets: &[DeleteTarget]) -> DeleteReport {
        let mut report = DeleteReport::default();
        if let (Some(root), Place::Data, false) = (&self.local, place, targets.is_empty())
            && let Err(error) = self.sync_records(root, partition).await
        {
            report.failed.extend(targets.iter().map(|target| {
                let reason = format!("the records that retire it could not be made durable: {error}");
                (target.name.clone(), StorageError::unavailable(target.name.clone(), reason))
            }));
            return report;
        }
        for batch in targets.chunks(BATCH) {
            self.delete_batch(partition, place, batch, &mut report).await;
        }
        if let Some(root) = &self.local
            && !report.deleted.is_empty()
        {
            report.not_durable = match place {
                Place::Data => self.sync_folder(root, partition).await.err(),
                // A record that comes back after a power cut is below the head, and is deleted again.
                Place::Records => None,
            };
        }
        report
    }

    async fn delete_batch(
        &self,
        partition: &PartitionId,
        place: Place,
        targets: &[DeleteTarget],
        report: &mut DeleteReport,
    ) {
        // Each future owns its target: one that borrowed it could not move between threads.
        let mut looks = stream::iter(targets.to_vec())
            .map(|target| async move { (self.look(partition, place, &target).await, target.name) })
            .buffered(LOOKS_IN_FLIGHT);
        let mut same = Vec::new();
        while let Some((look, name)) = looks.next().await {
            match look {
                Look::Same(key) => same.push((name, key)),
                Look::Gone => report.already_gone.push(name),
                Look::Changed => report.changed.push(name),
                Look::Failed(error) => report.failed.push((name, error)),
            }
        }
        if same.is_empty() {
            return;
        }
        let keys: Vec<_> = same.iter().map(|(_, key)| Ok(key.clone())).collect();
        let mut answers = self.store.delete_stream(stream::iter(keys).boxed());
        let mut acknowledged = HashSet::new();
        let mut errors = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(key) => drop(acknowledged.insert(key)),
                Err(error) => errors.push(error),
            }
        }
        let mut errors = errors.into_iter();
        for (name, key) in same {
            if acknowledged.contains(&key) {
                report.deleted.push(name);
            } else {
                // Errors do not reliably say which key they are about. Whether an object is there can be asked.
                match self.stat(&key).await {
                    Ok(None) => report.already_gone.push(name),
                    Ok(Some(_)) => report.failed.push((name, self.unacknowledged(&key, errors.next()))),
                    Err(error) => report.failed.push((name, error)),
                }
            }
        }
    }

    async fn look(&self, partition: &PartitionId, place: Place, target: &DeleteTarget) -> Look {
        let key = match place {
            Place::Data => self.data_key(partition, &target.name),
            Place::Records => self.record_key(partition, &target.name),
        };
        let key = match key {
            Ok(key) => key,
            Err(error) => return Look::Failed(error),
        };
        match self.stat(&key).await {
            Ok(Some(now)) if now.size_bytes == target.size_bytes && now.etag == target.etag => Look::Same(key),
            Ok(Some(_)) => Look::Changed,
            Ok(None) => Look::Gone,
            Err(error) => Look::Failed(error),
        }
    }

    fn unacknowledged(&self, key: &Path, error: Option<object_store::Error>) -> StorageError {
        match error {
            Some(error) => self.error(key, error),
            None => StorageError::unavailable(self.shown(key.as_ref()), "the deletion was not acknowledged"),
        }
    }
}
