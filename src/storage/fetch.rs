//! Reading: records whole, data files streamed to disk or through a checksum.

use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path as FsPath;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::io::AsyncWriteExt;

use super::{Storage, StorageError, blocking};
use crate::partition::{DataFile, PartitionId};

/// The largest record that is read. One names each file of an hour with some 200 bytes, so this is room for hundreds of
/// thousands of files.
pub const MAX_RECORD_BYTES: u64 = 64 * 1024 * 1024;

/// How much of a local file is in memory at a time.
const CHUNK_BYTES: usize = 1024 * 1024;

/// How much of the end of an object is kept when it is read back: enough for the footers of most files.
pub const TAIL_BYTES: usize = 64 * 1024;

/// An object read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub bytes: Bytes,
    pub etag: String,
}

/// What storage says about an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub size_bytes: u64,
    pub etag: String,
    pub last_modified: DateTime<Utc>,
}

/// What storage gave back when an object was read from beginning to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    pub size_bytes: u64,
    pub etag: String,
    /// `blake3:` and 64 hexadecimal digits.
    pub checksum: String,
    /// The last [`TAIL_BYTES`] bytes, or all of a smaller object: whoever wants its footer need not ask again.
    pub tail: Bytes,
}

impl Storage {
    /// Reads a record.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] above [`MAX_RECORD_BYTES`].
    pub async fn get_record(&self, partition: &PartitionId, name: &str) -> Result<Fetched, StorageError> {
        let key = self.record_key(partition, name)?;
        let got = self.store.get(&key).await.map_err(|e| self.error(&key, e))?;
        if got.meta.size > MAX_RECORD_BYTES {
            return Err(StorageError::TooLarge {
                path: self.shown(key.as_ref()),
                size_bytes: got.meta.size,
                limit_bytes: MAX_RECORD_BYTES,
            });
        }
        let etag = self.etag(&got.meta)?;
        let size_bytes = got.meta.size;
        let bytes = got.bytes().await.map_err(|e| self.error(&key, e))?;
        self.check_length(&key, size_bytes, bytes.len() as u64)?;
        Ok(Fetched { bytes, etag })
    }

    /// What storage says about a data file now; `None` when it does not exist.
    ///
    /// # Errors
    /// Anything but "not found" is an error, never `None`.
    pub async fn head(&self, partition: &PartitionId, name: &str) -> Result<Option<Stat>, StorageError> {
        let key = self.data_key(partition, name)?;
        self.stat(&key).await
    }

    pub(super) async fn stat(&self, key: &Path) -> Result<Option<Stat>, StorageError> {
        match self.store.head(key).await {
            Ok(meta) => {
                Ok(Some(Stat { size_bytes: meta.size, etag: self.etag(&meta)?, last_modified: meta.last_modified }))
            }
            Err(object_store::Error::NotFound { .. }) => {
                // On local disk everything is "not found" when the disk is gone.
                if let Some(root) = &self.local {
                    root.check().await?;
                }
                Ok(None)
            }
            Err(error) => Err(self.error(key, error)),
        }
    }

    /// Reads part of a data file, for instance its footer.
    ///
    /// # Errors
    /// Also when the file is shorter than the end of `range`.
    pub async fn read_range(
        &self,
        partition: &PartitionId,
        name: &str,
        range: Range<u64>,
    ) -> Result<Bytes, StorageError> {
        let key = self.data_key(partition, name)?;
        let wanted = range.end.saturating_sub(range.start);
        let bytes = self.store.get_range(&key, range).await.map_err(|e| self.error(&key, e))?;
        self.check_length(&key, wanted, bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Streams a data file to the new local file `to`. It is the file that was listed, completely, or an error: `ETag`
    /// and length are checked; the checksums that some stores keep are not handed on by `object_store`, and the proof of a
    /// merge is over the content anyway. After an error `to` may hold a part. Not synced: temporary files need not outlive power.
    ///
    /// # Errors
    /// [`StorageError::Changed`] when the object is no longer the one that was listed; errors about `to` name `to`.
    pub async fn fetch(&self, partition: &PartitionId, file: &DataFile, to: &FsPath) -> Result<(), StorageError> {
        let key = self.data_key(partition, &file.name)?;
        let options = GetOptions { if_match: Some(file.etag.clone()), ..GetOptions::default() };
        let got = self.store.get_opts(&key, options).await.map_err(|e| self.error(&key, e))?;
        // Not every store honours `if_match`; the answer's own words are compared as well.
        let etag = self.etag(&got.meta)?;
        if etag != file.etag || got.meta.size != file.size_bytes {
            return Err(StorageError::Changed {
                path: self.shown(key.as_ref()),
                detail: format!(
                    "listed with {} bytes and ETag {}, read with {} bytes and ETag {etag}",
                    file.size_bytes, file.etag, got.meta.size
                ),
            });
        }
        let written = self.copy_to(&key, got, to).await?;
        self.check_length(&key, file.size_bytes, written)
    }

    async fn copy_to(&self, key: &Path, got: GetResult, to: &FsPath) -> Result<u64, StorageError> {
        let shown = to.display().to_string();
        let on_disk = move |e| StorageError::from_io(shown.clone(), e);
        match got.payload {
            GetResultPayload::File(mut source, _) => {
                let to = to.to_owned();
                blocking(move || {
                    let mut target = std::fs::File::create_new(&to).map_err(&on_disk)?;
                    let written = std::io::copy(&mut source, &mut target).map_err(&on_disk)?;
                    target.flush().map_err(&on_disk)?;
                    Ok(written)
                })
                .await
            }
            GetResultPayload::Stream(mut chunks) => {
                let mut target = tokio::fs::File::create_new(to).await.map_err(&on_disk)?;
                let mut written = 0;
                while let Some(chunk) = chunks.next().await {
                    let chunk = chunk.map_err(|e| self.error(key, e))?;
                    target.write_all(&chunk).await.map_err(&on_disk)?;
                    written += chunk.len() as u64;
                }
                // Writes of a tokio file go on in the background; their errors show here.
                target.flush().await.map_err(&on_disk)?;
                Ok(written)
            }
        }
    }

    /// Reads a data file from beginning to end, as storage gives it, and keeps only size, `ETag`, checksum and its end.
    ///
    /// # Errors
    /// Also when fewer bytes come than storage announced.
    pub async fn read_back(&self, partition: &PartitionId, name: &str) -> Result<ReadBack, StorageError> {
        let key = self.data_key(partition, name)?;
        let got = self.store.get(&key).await.map_err(|e| self.error(&key, e))?;
        let etag = self.etag(&got.meta)?;
        let announced = got.meta.size;
        let read = self.read_through(&key, got).await?;
        let size_bytes = read.hasher.count();
        self.check_length(&key, announced, size_bytes)?;
        let checksum = format!("blake3:{}", read.hasher.finalize().to_hex());
        Ok(ReadBack { size_bytes, etag, checksum, tail: read.tail() })
    }

    /// The same of any key, without the check of what was announced.
    pub(super) async fn read_whole(&self, key: &Path) -> Result<ReadThrough, StorageError> {
        let got = self.store.get(key).await.map_err(|e| self.error(key, e))?;
        self.read_through(key, got).await
    }

    async fn read_through(&self, key: &Path, got: GetResult) -> Result<ReadThrough, StorageError> {
        match got.payload {
            GetResultPayload::File(mut file, path) => {
                blocking(move || {
                    let mut through = ReadThrough::default();
                    let mut buffer = vec![0; CHUNK_BYTES];
                    loop {
                        match file.read(&mut buffer) {
                            Ok(0) => return Ok(through),
                            Ok(read) => through.add(&buffer[..read]),
                            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                            Err(e) => return Err(StorageError::from_io(path.display().to_string(), e)),
                        }
                    }
                })
                .await
            }
            GetResultPayload::Stream(mut chunks) => {
                let mut through = ReadThrough::default();
                while let Some(chunk) = chunks.next().await {
                    through.add(&chunk.map_err(|e| self.error(key, e))?);
                }
                Ok(through)
            }
        }
    }

    /// The entity tag that everything is compared by.
    pub(super) fn etag(&self, meta: &ObjectMeta) -> Result<String, StorageError> {
        meta.e_tag.clone().ok_or_else(|| StorageError::Unsuitable {
            location: self.location().to_owned(),
            detail: format!("it gave no ETag for {}, so a changed object could not be noticed", meta.location),
        })
    }

    fn check_length(&self, key: &Path, expected: u64, got: u64) -> Result<(), StorageError> {
        if expected == got {
            return Ok(());
        }
        let path = self.shown(key.as_ref());
        Err(StorageError::unavailable(path, format!("{got} bytes came where {expected} were announced")))
    }
}

/// What is kept of an object while it streams past.
#[derive(Default)]
pub(super) struct ReadThrough {
    pub(super) hasher: blake3::Hasher,
    /// Ends with the last bytes so far; at most twice as long as what is kept in the end.
    end: Vec<u8>,
}

impl ReadThrough {
    fn add(&mut self, chunk: &[u8]) {
        self.hasher.update(chunk);
        self.end.extend_from_slice(&chunk[chunk.len().saturating_sub(TAIL_BYTES)..]);
        if self.end.len() > 2 * TAIL_BYTES {
            self.end.drain(..self.end.len() - TAIL_BYTES);
        }
    }

    fn tail(mut self) -> Bytes {
        self.end.drain(..self.end.len().saturating_sub(TAIL_BYTES));
        self.end.into()
    }
}
