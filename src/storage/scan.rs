//! Listing: databases, measurements, partitions.
//!
//! A measurement is scanned with one flat listing, and its objects are grouped while they stream past:
//!
//! ```text
//! .../2025/10/08/14/_compaction/00000001.json ─┐
//! .../2025/10/08/14/a.parquet                  ├─ one Listing, given out when the folder changes
//! .../2025/10/08/14/b.parquet                 ─┘
//! .../2025/10/08/15/a.parquet                  ── the next
//! ```
//!
//! Buckets list in order of the key and a disk lists folder by folder, so the objects of an hour come together. Nothing
//! promises that, and a store that interleaves folders would give an hour out twice, in parts: a scan finds candidates,
//! and whoever acts on one lists its partition again first. Memory is that of one hour, whatever the number of objects.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, ObjectStore};

use super::{Storage, StorageError};
use crate::partition::{DataFile, FileKind, Hour, Listing, PartitionId, RECORD_DIR, RESERVED_PREFIX, RecordEntry};

const DATA_SUFFIX: &str = ".parquet";

/// Parts of a key: database, measurement, year, month, day, hour.
const PARTITION_DEPTH: usize = 6;

/// What a scan came across.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scanned {
    /// An hour and what is in it.
    Partition(PartitionId, Listing),
    /// A folder below the measurement that is not an hour: counted and shown, never touched.
    Unrecognised {
        /// Its path from the root of the storage.
        path: String,
    },
}

impl Storage {
    /// The databases, sorted. Names with the reserved prefix are not databases.
    ///
    /// # Errors
    /// When the listing fails.
    pub async fn databases(&self) -> Result<Vec<String>, StorageError> {
        self.folders(None).await
    }

    /// The measurements of a database, sorted. A database that does not exist has none.
    ///
    /// # Errors
    /// When the listing fails.
    pub async fn measurements(&self, database: &str) -> Result<Vec<String>, StorageError> {
        let prefix = self.segment(database)?;
        self.folders(Some(&prefix)).await
    }

    async fn folders(&self, prefix: Option<&Path>) -> Result<Vec<String>, StorageError> {
        let shown = prefix.map_or("", Path::as_ref);
        let ListResult { common_prefixes, .. } =
            self.store.list_with_delimiter(prefix).await.map_err(|e| self.error(shown, e))?;
        self.check_root().await?;
        let mut names: Vec<String> = common_prefixes
            .iter()
            .filter_map(Path::filename)
            .filter(|name| !name.starts_with(RESERVED_PREFIX))
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Everything below a measurement, or only the hours from `since` on, in the store's order, each hour with its objects. An
    /// hour may come more than once (see the module's documentation). The stream ends at the first error; what came before
    /// it is valid.
    #[must_use]
    pub fn scan_measurement(
        &self,
        database: &str,
        measurement: &str,
        since: Option<Hour>,
    ) -> BoxStream<'static, Result<Scanned, StorageError>> {
        let prefix = match self.segment(database).and_then(|database| {
            self.segment(measurement)?;
            self.key(&format!("{database}/{measurement}"))
        }) {
            Ok(prefix) => prefix,
            Err(error) => return stream::once(async { Err(error) }).boxed(),
        };
        let scan = Scan {
            objects: self.objects_since(&prefix, since),
            storage: self.clone(),
            prefix,
            folder: None,
            finished: false,
        };
        stream::try_unfold(scan, |mut scan| async move { Ok(scan.next().await?.map(|item| (item, scan))) }).boxed()
    }

    /// The objects below a measurement, from an hour on: names of folders sort like time.
    ///
    /// A bucket begins to list at a key. A disk cannot: it would walk through everything and leave out what is older, so the
    /// folders are gone down level by level, into those that are young enough.
    fn objects_since(
        &self,
        prefix: &Path,
        since: Option<Hour>,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let Some(since) = since else { return self.store.list(Some(prefix)) };
        if self.local.is_none() {
            let Ok(first) = Path::parse(format!("{prefix}/{since}")) else { return self.store.list(Some(prefix)) };
            return self.store.list_with_offset(Some(prefix), &first);
        }
        let (store, prefix) = (Arc::clone(&self.store), prefix.clone());
        stream::once(async move {
            let hours = folders_since(store.as_ref(), prefix, &since.to_string()).await?;
            Ok::<_, object_store::Error>(stream::iter(hours).flat_map(move |hour| store.list(Some(&hour))))
        })
        .try_flatten()
        .boxed()
    }

    /// A fresh listing of one partition, records included. A partition without a folder is empty.
    ///
    /// # Errors
    /// When the listing fails, at any point of it.
    pub async fn list_partition(&self, partition: &PartitionId) -> Result<Listing, StorageError> {
        let folder = partition.to_string();
        let mut listing = Listing::default();
        self.list_into(&folder, |meta, rest| self.classify(partition, meta, rest, &mut listing)).await?;
        sort(&mut listing);
        Ok(listing)
    }

    /// A fresh listing of a partition's records only, lowest generation first.
    ///
    /// # Errors
    /// When the listing fails, at any point of it.
    pub async fn list_records(&self, partition: &PartitionId) -> Result<Vec<RecordEntry>, StorageError> {
        let folder = format!("{partition}/{RECORD_DIR}");
        let mut listing = Listing::default();
        self.list_into(&folder, |meta, rest| {
            self.classify(partition, meta, &format!("{RECORD_DIR}/{rest}"), &mut listing)
        })
        .await?;
        sort(&mut listing);
        Ok(listing.records)
    }

    /// Calls `each` with every object below `folder` and its key relative to it.
    async fn list_into(
        &self,
        folder: &str,
        mut each: impl FnMut(&ObjectMeta, &str) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let prefix = self.key(folder)?;
        let mut objects = self.store.list(Some(&prefix));
        while let Some(meta) = objects.try_next().await.map_err(|e| self.error(folder, e))? {
            // The marker of a folder that was made in a console: an empty object with the folder's own name.
            if meta.location.as_ref() == folder {
                continue;
            }
            let below = meta.location.as_ref().strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            let Some(rest) = below else {
                return Err(self.misplaced(&meta, folder));
            };
            each(&meta, rest)?;
        }
        self.check_root().await
    }

    /// Sorts one object of a partition into its listing. `rest` is its key below the partition.
    fn classify(
        &self,
        partition: &PartitionId,
        meta: &ObjectMeta,
        rest: &str,
        listing: &mut Listing,
    ) -> Result<(), StorageError> {
        match rest.split_once('/') {
            None if rest.ends_with(DATA_SUFFIX) => listing.data.push(DataFile {
                name: rest.to_owned(),
                size_bytes: meta.size,
                etag: self.etag(meta)?,
                last_modified: meta.last_modified,
                kind: FileKind::of(partition, rest),
            }),
            Some((RECORD_DIR, name)) => match RecordEntry::parse_file_name(name) {
                Some(generation) => listing.records.push(RecordEntry {
                    generation,
                    name: name.to_owned(),
                    size_bytes: meta.size,
                    etag: self.etag(meta)?,
                    last_modified: meta.last_modified,
                }),
                None => listing.foreign.push(rest.to_owned()),
            },
            _ => listing.foreign.push(rest.to_owned()),
        }
        Ok(())
    }

    async fn check_root(&self) -> Result<(), StorageError> {
        match &self.local {
            Some(root) => root.check().await,
            None => Ok(()),
        }
    }

    /// A single path segment.
    fn segment(&self, name: &str) -> Result<Path, StorageError> {
        if name.is_empty() || name.contains('/') {
            return Err(StorageError::InvalidName { name: name.to_owned(), detail: "not a single folder".to_owned() });
        }
        self.key(name)
    }

    fn misplaced(&self, meta: &ObjectMeta, prefix: &str) -> StorageError {
        StorageError::unavailable(
            self.shown(prefix),
            format!("the listing contains {}, which is not below", meta.location),
        )
    }
}

/// A scan under way.
struct Scan {
    storage: Storage,
    prefix: Path,
    objects: BoxStream<'static, object_store::Result<ObjectMeta>>,
    /// The folder that the objects now come from.
    folder: Option<Folder>,
    finished: bool,
}

/// A folder and what was seen of it.
struct Folder {
    /// How keys in it begin: its path and a slash. Kept, because a million objects are compared with it.
    prefix: String,
    scanned: Scanned,
}

impl Scan {
    /// The next folder that is complete, as far as contiguity goes.
    async fn next(&mut self) -> Result<Option<Scanned>, StorageError> {
        while !self.finished {
            let Some(meta) = self.objects.try_next().await.map_err(|e| self.storage.error(&self.prefix, e))? else {
                // Only now is it known that the end of the listing was not the end of the disk.
                self.storage.check_root().await?;
                self.finished = true;
                break;
            };
            if let Some(complete) = self.add(&meta)? {
                return Ok(Some(complete));
            }
        }
        Ok(self.folder.take().map(|folder| sorted(folder.scanned)))
    }

    /// Adds an object; returns the folder before it, when the object begins another one.
    fn add(&mut self, meta: &ObjectMeta) -> Result<Option<Scanned>, StorageError> {
        let key = meta.location.as_ref();
        if let Some(Folder { prefix, scanned: Scanned::Partition(partition, listing) }) = &mut self.folder
            && let Some(rest) = key.strip_prefix(prefix.as_str())
        {
            self.storage.classify(partition, meta, rest, listing)?;
            return Ok(None);
        }
        let begun = if let Some((partition, rest)) = partition_of(key) {
            let mut listing = Listing::default();
            self.storage.classify(&partition, meta, rest, &mut listing)?;
            let prefix = key[..key.len() - rest.len()].to_owned();
            Folder { prefix, scanned: Scanned::Partition(partition, listing) }
        } else {
            let path = key.rsplit_once('/').map_or(key, |(folder, _)| folder).to_owned();
            Folder { prefix: String::new(), scanned: Scanned::Unrecognised { path } }
        };
        if self.folder.as_ref().is_some_and(|folder| folder.scanned == begun.scanned) {
            return Ok(None);
        }
        Ok(self.folder.replace(begun).map(|folder| sorted(folder.scanned)))
    }
}

/// The folders of the hours from `since` (`YYYY/MM/DD/HH`) on.
async fn folders_since(store: &dyn ObjectStore, prefix: Path, since: &str) -> object_store::Result<Vec<Path>> {
    let mut folders = vec![prefix];
    for (level, _) in since.match_indices('/').chain([(since.len(), "")]) {
        let bound = &since[..level];
        let mut below = Vec::new();
        for folder in folders {
            let found = store.list_with_delimiter(Some(&folder)).await?.common_prefixes;
            let segments = bound.matches('/').count() + 1;
            below.extend(found.into_iter().filter(|path| last_segments(path.as_ref(), segments) >= bound));
        }
        folders = below;
    }
    Ok(folders)
}

/// The last `count` segments of a key.
fn last_segments(key: &str, count: usize) -> &str {
    key.rmatch_indices('/').nth(count - 1).map_or(key, |(at, _)| &key[at + 1..])
}

/// Splits a key into its partition and the rest, when its first six segments are a partition's path.
fn partition_of(key: &str) -> Option<(PartitionId, &str)> {
    let (end, _) = key.match_indices('/').nth(PARTITION_DEPTH - 1)?;
    Some((key[..end].parse().ok()?, &key[end + 1..]))
}

fn sorted(mut scanned: Scanned) -> Scanned {
    if let Scanned::Partition(_, listing) = &mut scanned {
        sort(listing);
    }
    scanned
}

fn sort(listing: &mut Listing) {
    listing.data.sort_by(|a, b| a.name.cmp(&b.name));
    listing.records.sort_by_key(|record| record.generation);
    listing.foreign.sort();
}
