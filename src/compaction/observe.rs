//! Seeing a partition: its head, and a LIST made after the head was read.
//!
//! The order matters. A listing older than the head could miss files that the head names; a listing newer than the head
//! can only show more than the head knows, and then the newer record is in the listing, too, and we look again.
//!
//! To read the head is to know its generation and then to GET it. Whoever has just seen the partition need not LIST for the
//! generation: [`observe_from`] GETs the record that was the head then, and the LIST afterwards, which is made anyway, says
//! whether it still is. That is as good as a LIST before it, because heads only grow and are never deleted: when the newest
//! record of the later LIST is the one that was read, with the same ETag, then it was the head when it was read; and when
//! the later LIST shows no record at all, there was none before it. Each LIST saved is a page that a bucket bills.

use std::fmt;

use super::record::{Head, Record, RecordError};
use crate::partition::{Generation, Listing, PartitionId, RecordEntry};
use crate::storage::{Storage, StorageError};

/// How often a partition that keeps changing is looked at again before giving up. Each change is somebody's progress.
const MAX_LOOKS: usize = 8;

/// A consistent view: every live file of the head is in the listing with its size, and no newer record is. (Live files
/// may be missing from a view of [`observe_as_it_is`].)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub head: Head,
    pub listing: Listing,
}

/// Why a partition could not be seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Fail closed: nothing is decided or deleted here until a person has looked.
    #[error("record {name} of {partition} cannot be used: {source}")]
    BadRecord { partition: PartitionId, name: String, source: RecordError },
    /// Fail closed.
    #[error("{partition}: the newest record (generation {generation}) says that {file} counts, and it is {state}")]
    LiveFileMissing { partition: PartitionId, generation: Generation, file: String, state: MissingState },
    /// Others keep changing the partition; the next cycle looks again.
    #[error("{partition} changed {MAX_LOOKS} times while it was being read")]
    Unsettled { partition: PartitionId },
}

/// How a live file is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingState {
    Absent,
    OtherSize { expected: u64, found: u64 },
}

impl fmt::Display for MissingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("not there"),
            Self::OtherSize { expected, found } => write!(f, "{found} bytes long instead of {expected}"),
        }
    }
}

/// R0: the newest record. Reads again when the record changes or vanishes between LIST and GET.
pub async fn read_head(storage: &Storage, partition: &PartitionId) -> Result<Head, ObserveError> {
    for _ in 0..MAX_LOOKS {
        let records = storage.list_records(partition).await?;
        let Some(newest) = records.iter().max_by_key(|r| r.generation) else { return Ok(Head::none()) };
        match storage.get_record(partition, &newest.name).await {
            Ok(fetched) if fetched.etag == newest.etag => {
                let record = Record::parse(&fetched.bytes, newest.generation).map_err(|source| {
                    ObserveError::BadRecord { partition: partition.clone(), name: newest.name.clone(), source }
                })?;
                return Ok(Head::of(record, fetched.etag));
            }
            Ok(_) | Err(StorageError::NotFound { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(ObserveError::Unsettled { partition: partition.clone() })
}

/// J1, C1: head, then LIST. A live file that is missing from the listing is an error only if the head is still the same
/// afterwards.
pub async fn observe(storage: &Storage, partition: &PartitionId) -> Result<View, ObserveError> {
    observe_from(storage, partition, Generation::default()).await
}

/// The same for whoever knows of which generation the head was a moment ago: one LIST fewer, if it still is.
pub async fn observe_from(
    storage: &Storage,
    partition: &PartitionId,
    expected: Generation,
) -> Result<View, ObserveError> {
    let View { head, listing } = look(storage, partition, expected).await?;
    match first_missing(&head, &listing) {
        None => Ok(View { head, listing }),
        Some((file, state)) => {
            let (partition, generation) = (partition.clone(), head.generation());
            Err(ObserveError::LiveFileMissing { partition, generation, file, state })
        }
    }
}

/// The same as [`observe`] for whoever looks for what is wrong: live files may be missing from the listing, and then they
/// are missing from storage. Nothing may be planned or deleted from such a view.
pub async fn observe_as_it_is(storage: &Storage, partition: &PartitionId) -> Result<View, ObserveError> {
    look(storage, partition, Generation::default()).await
}

async fn look(storage: &Storage, partition: &PartitionId, expected: Generation) -> Result<View, ObserveError> {
    let mut head = head_if(storage, partition, expected).await?;
    for _ in 0..MAX_LOOKS {
        let listing = storage.list_partition(partition).await?;
        match compare(&head, &listing) {
            Sight::Consistent if is_same_record(&head, &listing) => return Ok(View { head, listing }),
            Sight::OtherHead if listing.newest_generation() > head.generation() => {
                head = head_if(storage, partition, listing.newest_generation()).await?;
            }
            Sight::Consistent | Sight::OtherHead => head = read_head(storage, partition).await?,
            Sight::LiveFileMissing { .. } => {
                let again = read_head(storage, partition).await?;
                if again == head {
                    return Ok(View { head, listing });
                }
                head = again;
            }
        }
    }
    Err(ObserveError::Unsettled { partition: partition.clone() })
}

/// The record of the expected generation, of which a LIST must still show that it is the head. When it cannot be had, the
/// head is read in the ordinary way, which gives the reason, too.
async fn head_if(storage: &Storage, partition: &PartitionId, expected: Generation) -> Result<Head, ObserveError> {
    if expected == Generation::default() {
        return Ok(Head::none());
    }
    match storage.get_record(partition, &RecordEntry::file_name(expected)).await {
        Ok(fetched) => match Record::parse(&fetched.bytes, expected) {
            Ok(record) => Ok(Head::of(record, fetched.etag)),
            Err(_) => read_head(storage, partition).await,
        },
        Err(StorageError::NotFound { .. }) => read_head(storage, partition).await,
        Err(other) => Err(other.into()),
    }
}

/// Whether the head is, by its ETag, the record that the listing shows as the newest. Records are never overwritten; a
/// bucket that somebody restores meanwhile is.
fn is_same_record(head: &Head, listing: &Listing) -> bool {
    listing.records.iter().max_by_key(|r| r.generation).map(|r| r.etag.as_str()) == head.etag()
}

/// What a head and a LIST that was made after it was read are worth together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// They make a [`View`].
    Consistent,
    /// The newest record listed is another one: read the head again.
    OtherHead,
    /// An error, if the head is still the same when it is read again.
    LiveFileMissing { file: String, state: MissingState },
}

/// J1, C1: the pure part of [`observe`].
#[must_use]
pub fn compare(head: &Head, listing: &Listing) -> Sight {
    if listing.newest_generation() != head.generation() {
        return Sight::OtherHead;
    }
    match first_missing(head, listing) {
        None => Sight::Consistent,
        Some((file, state)) => Sight::LiveFileMissing { file, state },
    }
}

/// The first live file of the head that the listing does not show with its size.
fn first_missing(head: &Head, listing: &Listing) -> Option<(String, MissingState)> {
    head.live().iter().find_map(|live| {
        let state = match listing.data.iter().find(|f| f.name == live.name) {
            None => MissingState::Absent,
            Some(f) if f.size_bytes != live.size_bytes => {
                MissingState::OtherSize { expected: live.size_bytes, found: f.size_bytes }
            }
            Some(_) => return None,
        };
        Some((live.name.clone(), state))
    })
}
