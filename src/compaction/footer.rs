//! Footers of Parquet objects in storage: their columns, rows and lineage, read with one or two small ranged GETs.

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::merge::{LINEAGE_INPUTS_KEY, LINEAGE_PART_KEY, footer_guard};
use crate::partition::PartitionId;
use crate::storage::{Storage, StorageError, TAIL_BYTES};

/// Read first: enough for the footers of most files.
const FIRST_READ_BYTES: u64 = TAIL_BYTES as u64;
/// Two magic numbers and the length of a footer.
const SMALLEST_FILE_BYTES: u64 = 12;
/// A larger footer is not read: it would be held in memory.
const MAX_FOOTER_BYTES: u64 = 256 * 1024 * 1024;

/// Why a footer is not known.
#[derive(Debug, thiserror::Error)]
pub enum FooterError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The object is not a readable Parquet file.
    #[error("footer of {name}: {detail}")]
    Unreadable { name: String, detail: String },
}

/// What a footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub rows: u64,
    /// Names of the top-level columns.
    pub columns: Vec<String>,
    /// The names of the files that the rows come from, if we wrote the file.
    pub lineage: Option<Vec<String>>,
    /// How many files its attempt wrote, if we wrote the file.
    pub parts: Option<u32>,
}

/// Reads the footer of an object of known size.
pub async fn read(
    storage: &Storage,
    partition: &PartitionId,
    name: &str,
    size_bytes: u64,
) -> Result<Footer, FooterError> {
    // An object too small for a footer is said to be so below, without a request.
    if size_bytes < SMALLEST_FILE_BYTES {
        return read_from(storage, partition, name, size_bytes, Bytes::new()).await;
    }
    let want = FIRST_READ_BYTES.min(size_bytes);
    let tail = storage.read_range(partition, name, size_bytes - want..size_bytes).await?;
    read_from(storage, partition, name, size_bytes, tail).await
}

/// The same for whoever has the end of the object already; more is read only if it is not enough.
pub async fn read_from(
    storage: &Storage,
    partition: &PartitionId,
    name: &str,
    size_bytes: u64,
    mut tail: Bytes,
) -> Result<Footer, FooterError> {
    let unreadable = |detail: String| FooterError::Unreadable { name: name.to_owned(), detail };
    if size_bytes < SMALLEST_FILE_BYTES {
        return Err(unreadable(format!("{size_bytes} bytes are too few for a Parquet file")));
    }
    loop {
        let have = tail.len() as u64;
        match parse(tail, size_bytes).await.map_err(unreadable)? {
            Parsed::Footer(footer) => return Ok(footer),
            Parsed::NeedsMore(bytes) if bytes > have && bytes <= MAX_FOOTER_BYTES.min(size_bytes) => {
                tail = storage.read_range(partition, name, size_bytes - bytes..size_bytes).await?;
            }
            Parsed::NeedsMore(bytes) => return Err(unreadable(format!("it claims to be {bytes} bytes long"))),
        }
    }
}

enum Parsed {
    Footer(Footer),
    NeedsMore(u64),
}

/// Parses on a thread of its own: a hostile footer can make the parser panic, which then costs this file only. What would
/// end the process is refused before.
async fn parse(tail: Bytes, size_bytes: u64) -> Result<Parsed, String> {
    let parsed = tokio::task::spawn_blocking(move || {
        if let Some(footer) = footer_guard::within(&tail) {
            footer_guard::check(footer).map_err(|hostile| ParquetError::General(hostile.to_string()))?;
        }
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&tail, size_bytes) {
            Ok(()) => reader.finish().map(|metadata| Parsed::Footer(summarise(&metadata))),
            Err(ParquetError::NeedMoreData(bytes)) => Ok(Parsed::NeedsMore(bytes as u64)),
            Err(error) => Err(error),
        }
    });
    match parsed.await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_panicked) => Err("the Parquet reader gave up on it".to_owned()),
    }
}

fn summarise(metadata: &ParquetMetaData) -> Footer {
    let file = metadata.file_metadata();
    let value = |key: &str| file.key_value_metadata()?.iter().find(|kv| kv.key == key)?.value.as_deref();
    let lineage = value(LINEAGE_INPUTS_KEY).and_then(|names| serde_json::from_str(names).ok());
    let parts = value(LINEAGE_PART_KEY).and_then(|part| part.split_once('/')?.1.parse().ok());
    Footer {
        rows: u64::try_from(file.num_rows()).unwrap_or(0),
        columns: file.schema().get_fields().iter().map(|f| f.name().to_owned()).collect(),
        lineage,
        parts,
    }
}
