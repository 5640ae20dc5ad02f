//! Records: the immutable objects that say which files of a partition count.
//!
//! A record is created exactly once, under the key of its generation, with create-if-absent: that create is the one
//! moment at which a compaction happens. The record with the highest generation is the [`Head`], the partition's truth.
//!
//! ```text
//! generation   1 commit             2 void                3 commit
//! live         [g1]                 [g1]                  [g1, g3]      all our files that count
//! retired      [raw x 720]          []                    [raw x 12]    consumed, perhaps not yet deleted
//! ```
//!
//! `live` is an allow list: a compacted file of ours that no head names never counts, however old it is and whatever
//! became of the attempt that wrote it. `retired` hides consumed files until they are deleted; an entry may be dropped
//! only once a later LIST no longer shows the file. Building the next record from the head is pure and lives here, so that
//! every record of a partition is made in one place.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::merge::{MergeOutcome, TimeBound};
use crate::partition::{DataFile, FileKind, Generation, Listing, is_plain_file_name};

/// The version of the record format that this code writes, and the only one it reads.
const FORMAT: u32 = 1;

/// What a record did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// A job replaced its inputs by its outputs.
    Commit,
    /// An attempt whose outcome was open has been closed as "did not happen".
    Void,
    /// An operator made compacted files live again.
    Adopt,
}

/// One of our compacted files that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveFile {
    pub name: String,
    pub size_bytes: u64,
    pub rows: u64,
    pub min_time: Option<TimeBound>,
    pub max_time: Option<TimeBound>,
    /// `blake3:` and 64 hexadecimal digits.
    pub checksum: String,
}

/// A file whose rows stand in a live file. It does not count any more and may be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredFile {
    pub name: String,
    pub size_bytes: u64,
    pub etag: String,
}

/// Totals, for people who read the record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub files: u64,
    pub size_bytes: u64,
    pub rows: u64,
}

/// A record, as stored in `_compaction/{generation:08}.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    pub generation: Generation,
    pub kind: RecordKind,
    /// Unique per attempt: tells after a lost answer whose record this is.
    pub job_id: String,
    pub worker_id: String,
    pub lease_token: u64,
    pub created_at: DateTime<Utc>,
    /// All our compacted files of the partition that count, sorted by name.
    pub live: Vec<LiveFile>,
    /// Sorted by name.
    pub retired: Vec<RetiredFile>,
    /// What the job consumed.
    pub inputs: Totals,
    /// What the job wrote.
    pub outputs: Totals,
    /// The fingerprint over all rows that inputs and outputs shared, if it was computed.
    pub fingerprint: Option<String>,
    /// The engine and version that merged and computed the fingerprint.
    pub engine: Option<String>,
}

/// Why an object is not a record that may be acted on. Nothing is deleted in a partition whose head says this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("not a record: {0}")]
    Syntax(String),
    #[error("record format {found} is not known to this version, which knows {FORMAT}")]
    Format { found: u32 },
    #[error("the record says generation {stated}, its key says {key}")]
    Generation { stated: Generation, key: Generation },
    #[error("{0:?} is not a plain file name")]
    Name(String),
    #[error("{0:?} is named twice")]
    Twice(String),
}

impl Record {
    /// Reads the record stored under the key of `generation`, and checks everything that is acted on (T16).
    pub fn parse(bytes: &[u8], generation: Generation) -> Result<Self, RecordError> {
        /// Read first, so that a record of another format is refused for its format and not for a missing field.
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let syntax = |e: serde_json::Error| RecordError::Syntax(e.to_string());
        let Versioned { format } = serde_json::from_slice(bytes).map_err(syntax)?;
        if format != FORMAT {
            return Err(RecordError::Format { found: format });
        }
        let record: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        if record.generation != generation {
            return Err(RecordError::Generation { stated: record.generation, key: generation });
        }
        let mut seen = HashSet::new();
        for name in record.live.iter().map(|f| &f.name).chain(record.retired.iter().map(|f| &f.name)) {
            if !is_plain_file_name(name) {
                return Err(RecordError::Name(name.clone()));
            }
            if !seen.insert(name) {
                return Err(RecordError::Twice(name.clone()));
            }
        }
        Ok(record)
    }

    /// The bytes to store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a record has only string keys and finite numbers");
        bytes.push(b'\n');
        bytes
    }
}

/// Who creates a record, and when.
#[derive(Debug, Clone)]
pub struct Author {
    pub job_id: String,
    pub worker_id: String,
    pub lease_token: u64,
    pub created_at: DateTime<Utc>,
}

/// The newest record of a partition, as read from storage; or the knowledge that there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    record: Option<Record>,
    etag: Option<String>,
}

impl Head {
    /// The head of a partition without records: generation 0, nothing of ours is live, nothing is retired.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn of(mut record: Record, etag: String) -> Self {
        record.sort();
        Self { record: Some(record), etag: Some(etag) }
    }

    #[must_use]
    pub fn generation(&self) -> Generation {
        self.record.as_ref().map_or(Generation(0), |r| r.generation)
    }

    /// The ETag of the record, as it was read.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    #[must_use]
    pub fn live(&self) -> &[LiveFile] {
        self.record.as_ref().map_or(&[], |r| &r.live)
    }

    #[must_use]
    pub fn retired(&self) -> &[RetiredFile] {
        self.record.as_ref().map_or(&[], |r| &r.retired)
    }

    /// The entry of the live file of this name.
    #[must_use]
    pub fn live_file(&self, name: &str) -> Option<&LiveFile> {
        let live = self.live();
        live.binary_search_by(|f| f.name.as_str().cmp(name)).ok().map(|i| &live[i])
    }

    /// The entry of the retired file of this name.
    #[must_use]
    pub fn retired_file(&self, name: &str) -> Option<&RetiredFile> {
        let retired = self.retired();
        retired.binary_search_by(|f| f.name.as_str().cmp(name)).ok().map(|i| &retired[i])
    }

    /// R1: whether this listed file counts. Ours counts if the head names it; anybody else's unless the head retired it.
    #[must_use]
    pub fn counts(&self, file: &DataFile) -> bool {
        match file.kind {
            FileKind::Ours(_) => self.live_file(&file.name).is_some_and(|l| l.size_bytes == file.size_bytes),
            FileKind::Raw | FileKind::CompactedElsewhere => {
                self.retired_file(&file.name).is_none_or(|r| r.size_bytes != file.size_bytes)
            }
        }
    }

    /// J5: the record that replaces `inputs` by the outputs of `outcome`.
    ///
    /// `listing` is the LIST that the job was planned from, made after this head was read: retired files that it still
    /// showed stay retired, the others are gone for good.
    #[must_use]
    pub fn commit(&self, author: Author, listing: &Listing, inputs: &[DataFile], outcome: &MergeOutcome) -> Record {
        let consumed: HashSet<&str> = inputs.iter().map(|f| f.name.as_str()).collect();
        let outputs: Vec<LiveFile> = outcome
            .outputs
            .iter()
            .map(|f| LiveFile {
                name: f.name.clone(),
                size_bytes: f.size_bytes,
                rows: f.rows,
                min_time: f.min_time.clone(),
                max_time: f.max_time.clone(),
                checksum: f.checksum.clone(),
            })
            .collect();
        let mut record = self.next(RecordKind::Commit, author, listing);
        record.live.retain(|f| !consumed.contains(f.name.as_str()));
        record.inputs = Totals {
            files: inputs.len() as u64,
            size_bytes: inputs.iter().map(|f| f.size_bytes).sum(),
            rows: outcome.rows,
        };
        record.outputs = Totals {
            files: outputs.len() as u64,
            size_bytes: outputs.iter().map(|f| f.size_bytes).sum(),
            rows: outcome.rows,
        };
        record.live.extend(outputs);
        record.retired.extend(inputs.iter().map(|f| RetiredFile {
            name: f.name.clone(),
            size_bytes: f.size_bytes,
            etag: f.etag.clone(),
        }));
        record.fingerprint.clone_from(&outcome.fingerprint);
        record.engine = Some(outcome.engine.clone());
        record.sort();
        record
    }

    /// V1: the record that closes the open attempt of the next generation. Nothing else changes.
    #[must_use]
    pub fn void(&self, author: Author, listing: &Listing) -> Record {
        let mut record = self.next(RecordKind::Void, author, listing);
        record.sort();
        record
    }

    /// An operator's decision: the same, with `files` live as well. Which files may be adopted is decided in
    /// [`super::adopt`].
    #[must_use]
    pub fn adopt(&self, author: Author, listing: &Listing, files: &[LiveFile]) -> Record {
        let mut record = self.next(RecordKind::Adopt, author, listing);
        record.live.extend(files.iter().filter(|f| self.live_file(&f.name).is_none()).cloned());
        record.outputs = Totals {
            files: files.len() as u64,
            size_bytes: files.iter().map(|f| f.size_bytes).sum(),
            rows: files.iter().map(|f| f.rows).sum(),
        };
        record.sort();
        record
    }

    /// A record of the next generation that changes nothing.
    fn next(&self, kind: RecordKind, author: Author, listing: &Listing) -> Record {
        // With another size it is another file, which counts: the retired one is gone for good, and an entry for it beside
        // one for its successor would name the file twice.
        let listed: HashSet<(&str, u64)> = listing.data.iter().map(|f| (f.name.as_str(), f.size_bytes)).collect();
        Record {
            format: FORMAT,
            generation: self.generation().next(),
            kind,
            job_id: author.job_id,
            worker_id: author.worker_id,
            lease_token: author.lease_token,
            created_at: author.created_at,
            live: self.live().to_vec(),
            retired: self
                .retired()
                .iter()
                .filter(|r| listed.contains(&(r.name.as_str(), r.size_bytes)))
                .cloned()
                .collect(),
            inputs: Totals::default(),
            outputs: Totals::default(),
            fingerprint: None,
            engine: None,
        }
    }
}

impl Record {
    fn sort(&mut self) {
        self.live.sort_by(|a, b| a.name.cmp(&b.name));
        self.retired.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

#[cfg(test)]
mod tests;
