//! Deleting exactly what was named, and only while it is what was named.
//!
//! ```text
//!               the look                                             the deletion
//! local disk    each file, right before its deletion                 one by one
//! other stores  the caller's listing, made right before the call     in batches of what the store takes (S3: 1,000 keys)
//! ```
//!
//! A look at each object of a bucket would cost a request each, hundreds for one job, to find out what a page of a listing
//! says of a thousand. No store here can delete a batch on conditions, so an object that is replaced between the look and
//! the deletion goes with its new content: that is why writers must not reuse file names.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;
use object_store::path::Path;

use super::{Storage, StorageError};
use crate::partition::{DataFile, Listing, PartitionId, RecordEntry};

/// Files on local disk that are looked at and deleted together. A small number keeps the time between the look and the
/// deletion short.
const LOCAL_BATCH: usize = 256;
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
    /// `listing` is a listing of the partition that was made right before, and what targets are compared with where looking
    /// at each of them costs a request.
    pub async fn delete_exact(
        &self,
        partition: &PartitionId,
        place: Place,
        targets: &[DeleteTarget],
        listing: &Listing,
    ) -> DeleteReport {
        let mut report = DeleteReport::default();
        let Some(root) = &self.local else {
            let looks = targets.iter().map(|target| (self.look_in(listing, partition, place, target), target));
            let same = sort_out(looks.map(|(look, target)| (look, target.name.clone())), &mut report);
            self.delete_keys(partition, place, same, &mut report).await;
            return report;
        };
        if place == Place::Data
            && !targets.is_empty()
            && let Err(error) = self.sync_records(root, partition).await
        {
            report.failed.extend(targets.iter().map(|target| {
                let reason = format!("the records that retire it could not be made durable: {error}");
                (target.name.clone(), StorageError::unavailable(target.name.clone(), reason))
            }));
            return report;
        }
        for batch in targets.chunks(LOCAL_BATCH) {
            // Each future owns its target: one that borrowed it could not move between threads.
            let looks = stream::iter(batch.to_vec())
                .map(|target| async move { (self.look(partition, place, &target).await, target.name) })
                .buffered(LOOKS_IN_FLIGHT);
            let looks: Vec<_> = looks.collect().await;
            let same = sort_out(looks, &mut report);
            self.delete_keys(partition, place, same, &mut report).await;
        }
        if !report.deleted.is_empty() {
            report.not_durable = match place {
                Place::Data => self.sync_folder(root, partition).await.err(),
                // A record that comes back after a power cut is below the head, and is deleted again.
                Place::Records => None,
            };
        }
        report
    }

    /// T49: every key has its own answer, also within a batch.
    async fn delete_keys(
        &self,
        partition: &PartitionId,
        place: Place,
        targets: Vec<(String, Path)>,
        report: &mut DeleteReport,
    ) {
        if targets.is_empty() {
            return;
        }
        let keys: Vec<_> = targets.iter().map(|(_, key)| Ok(key.clone())).collect();
        let mut answers = self.store.delete_stream(stream::iter(keys).boxed());
        let mut acknowledged = HashSet::new();
        let mut errors = Vec::new();
        loop {
            // The client panics over an answer that names a key which it did not ask to delete.
            match AssertUnwindSafe(answers.next()).catch_unwind().await {
                Ok(Some(Ok(key))) => drop(acknowledged.insert(key)),
                Ok(Some(Err(error))) => errors.push(error),
                Ok(None) => break,
                Err(_) => {
                    errors.push(unintelligible());
                    break;
                }
            }
        }
        drop(answers);
        let (deleted, open): (Vec<_>, Vec<_>) = targets.into_iter().partition(|(_, key)| acknowledged.contains(key));
        report.deleted.extend(deleted.into_iter().map(|(name, _)| name));
        if open.is_empty() {
            return;
        }
        // Errors do not reliably say which key they are about. Whether an object is there can be asked.
        let mut errors = errors.into_iter();
        match self.still_there(partition, place, &open).await {
            Ok(there) => {
                for (name, key) in open {
                    if there.contains(&name) {
                        report.failed.push((name, self.unacknowledged(&key, errors.next())));
                    } else {
                        report.already_gone.push(name);
                    }
                }
            }
            Err(error) => {
                let reason = error.to_string();
                let unknown = |(name, key): (String, Path)| {
                    let error = errors.next().map_or_else(
                        || StorageError::unavailable(self.shown(key.as_ref()), reason.clone()),
                        |e| self.error(&key, e),
                    );
                    (name, error)
                };
                report.failed.extend(open.into_iter().map(unknown));
            }
        }
    }

    /// The names of those of the objects that exist.
    async fn still_there(
        &self,
        partition: &PartitionId,
        place: Place,
        objects: &[(String, Path)],
    ) -> Result<HashSet<String>, StorageError> {
        if self.local.is_some() {
            let stats = stream::iter(objects.to_vec())
                .map(|(name, key)| async move { Ok(self.stat(&key).await?.map(|_| name)) })
                .buffered(LOOKS_IN_FLIGHT);
            let found: Vec<Option<String>> = stats.try_collect().await?;
            return Ok(found.into_iter().flatten().collect());
        }
        Ok(match place {
            Place::Data => self.list_partition(partition).await?.data.into_iter().map(|file| file.name).collect(),
            Place::Records => self.list_records(partition).await?.into_iter().map(|record| record.name).collect(),
        })
    }

    /// What the listing says of a target.
    fn look_in(&self, listing: &Listing, partition: &PartitionId, place: Place, target: &DeleteTarget) -> Look {
        let key = match self.key_of(partition, place, &target.name) {
            Ok(key) => key,
            Err(error) => return Look::Failed(error),
        };
        let now = match place {
            Place::Data => listing.data_file(&target.name).map(DeleteTarget::from),
            Place::Records => listing.records.iter().find(|r| r.name == target.name).map(DeleteTarget::from),
        };
        match now {
            Some(now) if now == *target => Look::Same(key),
            Some(_) => Look::Changed,
            None => Look::Gone,
        }
    }

    async fn look(&self, partition: &PartitionId, place: Place, target: &DeleteTarget) -> Look {
        let key = match self.key_of(partition, place, &target.name) {
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

    fn key_of(&self, partition: &PartitionId, place: Place, name: &str) -> Result<Path, StorageError> {
        match place {
            Place::Data => self.data_key(partition, name),
            Place::Records => self.record_key(partition, name),
        }
    }

    fn unacknowledged(&self, key: &Path, error: Option<object_store::Error>) -> StorageError {
        match error {
            Some(error) => self.error(key, error),
            None => StorageError::unavailable(self.shown(key.as_ref()), "the deletion was not acknowledged"),
        }
    }
}

fn unintelligible() -> object_store::Error {
    let source = "the store's answer to a batch of deletions is about other keys".into();
    object_store::Error::Generic { store: "storage", source }
}

/// The targets that may be deleted; the others are entered into the report.
fn sort_out(looks: impl IntoIterator<Item = (Look, String)>, report: &mut DeleteReport) -> Vec<(String, Path)> {
    let mut same = Vec::new();
    for (look, name) in looks {
        match look {
            Look::Same(key) => same.push((name, key)),
            Look::Gone => report.already_gone.push(name),
            Look::Changed => report.changed.push(name),
            Look::Failed(error) => report.failed.push((name, error)),
        }
    }
    same
}
