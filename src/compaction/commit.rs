//! The commit: one create decides.
//!
//! The record of generation head + 1 is created if it does not exist. The answer can be lost, or lie: a create that
//! succeeded may be answered by an error and, when it is repeated, by "already exists" (T20). So the question afterwards
//! is never "what was answered" but "whose record is there", and the record's job id says it.

use std::time::Duration;

use tracing::warn;

use super::error::JobError;
use super::job::LOG;
use super::record::Record;
use crate::partition::{PartitionId, RecordEntry};
use crate::storage::{Created, MAX_RECORD_BYTES, Storage, StorageError, WriteError};

/// A create without an answer is repeated this often, with doubling pauses from [`FIRST_PAUSE`]: about a second and a
/// half. Stores repeat requests themselves before that.
const MAX_TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Creates `record`, or finds out that another job's record has its place. It is tried again only while `is_held` says that
/// the lease is: by the time of a late try another worker may have begun.
///
/// # Errors
/// [`JobError::Overtaken`] when another record has the generation; [`JobError::Write`] when the record certainly does not
/// exist; [`JobError::CommitUnknown`] when that could not be found out. Nothing may be deleted in any of these cases other
/// than by a tidy from a freshly read head.
pub async fn create(
    storage: &Storage,
    partition: &PartitionId,
    record: &Record,
    is_held: impl Fn() -> bool,
) -> Result<(), JobError> {
    let bytes: bytes::Bytes = record.to_bytes().into();
    // A record that nobody can read would close the partition for ever, and its rows with it.
    if bytes.len() as u64 > MAX_RECORD_BYTES {
        let what = format!("the record would have {} bytes, and {MAX_RECORD_BYTES} can be read", bytes.len());
        return Err(JobError::Doubt { what });
    }
    let mut pause = FIRST_PAUSE;
    let mut tries = 0;
    loop {
        tries += 1;
        let answer = storage.create_record(partition, record.generation, bytes.clone(), &record.job_id).await;
        let error = match answer {
            Ok(Created::Created) => return Ok(()),
            Ok(Created::AlreadyExists) => match owner(storage, partition, record).await {
                Ok(Some(by)) => return won_by(by, record),
                // It exists, and now it does not: only an answer that came late explains that. Ask again.
                Ok(None) => None,
                Err(error) => Some(WriteError::Unknown(error)),
            },
            Err(WriteError::NotWritten(source)) if tries == 1 => {
                return Err(JobError::Write { step: "create record", source: WriteError::NotWritten(source) });
            }
            // After an unknown answer a later "not written" says nothing about the earlier try.
            Err(error) => match owner(storage, partition, record).await {
                Ok(Some(by)) => return won_by(by, record),
                Ok(None) | Err(_) => Some(error),
            },
        };
        if tries == MAX_TRIES || !is_held() {
            let source = error.unwrap_or_else(|| {
                WriteError::Unknown(StorageError::unavailable(
                    RecordEntry::file_name(record.generation),
                    "the record exists and cannot be read by turns",
                ))
            });
            return Err(JobError::CommitUnknown { source });
        }
        warn!(target: LOG, partition = %partition, generation = record.generation.0, tries,
            "It is unknown whether the record was created, trying again");
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// The job id in the stored record of this generation, if there is one.
async fn owner(storage: &Storage, partition: &PartitionId, record: &Record) -> Result<Option<String>, StorageError> {
    match storage.get_record(partition, &RecordEntry::file_name(record.generation)).await {
        // A record that cannot be parsed is not ours: ours can.
        Ok(found) => {
            Ok(Some(Record::parse(&found.bytes, record.generation).map_or_else(|e| e.to_string(), |r| r.job_id)))
        }
        Err(StorageError::NotFound { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

fn won_by(job_id: String, record: &Record) -> Result<(), JobError> {
    if job_id == record.job_id {
        Ok(())
    } else {
        Err(JobError::Overtaken { record: RecordEntry::file_name(record.generation), by: job_id })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::compaction::testing::{author, head, listing, partition, raw};

    #[tokio::test]
    async fn a_record_that_nobody_could_read_is_not_written() {
        let storage = Storage::over(Arc::new(InMemory::new()), "memory://test");
        let mut retired = raw(1);
        let bytes = usize::try_from(MAX_RECORD_BYTES).unwrap();
        retired[0].etag = "x".repeat(bytes);
        let record = head(1, &[], &retired).void(author(), &listing(retired, [1]));
        assert!(record.to_bytes().len() > bytes);

        let answer = create(&storage, &partition(), &record, || true).await;

        assert!(matches!(answer, Err(JobError::Doubt { .. })), "{answer:?}");
        assert!(storage.list_records(&partition()).await.unwrap().is_empty());
    }
}
