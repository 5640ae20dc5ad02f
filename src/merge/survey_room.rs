//! How much memory a survey takes: for the footers that are being decoded, and for what is kept of all of them.
//!
//! A footer of a few megabytes is decoded into a tenth of a gigabyte, and of each column of each file a range is kept, so that
//! wide files by the thousand take gigabytes that no other part of the merge counts.
//!
//! What must hold: a large footer is decoded only if that fits into its share, one after the other; what is kept of all files
//! and of their schemas fits into its share; and which files that is depends on the order of the inputs alone, not on which
//! thread was faster. Files for which nothing is left wait for the next merge.
//!
//! Not counted: of each thread one file that takes up to ten megabytes to decode, and what is kept of one that waits for those
//! before it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::file_schema::{FileSchema, SchemaKey, Span};
use super::stats::FileColumnStats;
use super::{Means, MergeLimits, SetAsideReason};

/// Bytes of memory for each byte of a footer while it is decoded, which may happen twice at a time. Measured with the crate
/// `parquet` 58: 4.7 for 150,000 chunks of numbers, each 126 bytes long. A chunk can be as short as 30 bytes and becomes as
/// large: a footer of nothing else takes up to twice what is counted, which is all of the memory, while DuckDB has none.
pub(super) const DECODED_PER_BYTE: u64 = 10;

/// Bytes of memory for each element of a schema while a footer is decoded: it may be as short as 17 bytes, and becomes a node of a
/// tree, a path, a type of Arrow and a column here. Measured with 100,000 columns: 950, those of the footer included.
pub(super) const DECODED_PER_ELEMENT: u64 = 1500;

/// Footers that take up to this are decoded by all threads at the same time.
const SMALL_BYTES: u64 = 10 << 20;

/// Shares of the memory: that of a footer, which is given back before DuckDB begins, and that of what is kept until the end.
const DECODING_SHARE: u64 = 2;
const KEPT_SHARE: u64 = 4;

/// A column of a schema, with its names and types, about.
const SCHEMA_COLUMN_BYTES: u64 = 600;

/// What is kept of a file for each of its columns, beside the texts of its statistics, which are part of its footer.
pub(super) const KEPT_PER_COLUMN: u64 = (size_of::<FileColumnStats>() + size_of::<u64>() + size_of::<Span>()) as u64;

// So the first file always fits, and nobody waits for ever for want of room.
const _: () = assert!((KEPT_PER_COLUMN + SCHEMA_COLUMN_BYTES) * KEPT_SHARE <= DECODED_PER_ELEMENT * DECODING_SHARE);

/// What one survey may take.
#[derive(Debug)]
pub(super) struct SurveyRoom {
    limits: MergeLimits,
    large: Mutex<()>,
    kept: Mutex<Kept>,
    next_decided: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: u64,
    /// Nearly all files of a partition share one.
    schemas: HashMap<SchemaKey, Arc<FileSchema>>,
    /// The first input about which nothing is decided, and those behind it about which something is.
    next: usize,
    decided: BTreeSet<usize>,
}

/// The place of one input in their order. When it goes, the next one's turn has come.
#[derive(Debug)]
pub(super) struct Place<'a> {
    room: &'a SurveyRoom,
    index: usize,
}

impl SurveyRoom {
    pub(super) fn new(limits: &MergeLimits) -> Self {
        Self { limits: *limits, large: Mutex::default(), kept: Mutex::default(), next_decided: Condvar::new() }
    }

    /// To be asked for by each input, from the first one on.
    pub(super) fn place(&self, index: usize) -> Place<'_> {
        Place { room: self, index }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A schema that another file has, too.
    pub(super) fn known(&self, key: SchemaKey) -> Option<Arc<FileSchema>> {
        self.kept().schemas.get(&key).cloned()
    }

    /// For the footer of one file. What is decoded goes before this does, and this before [`Place::keep`].
    pub(super) fn turn(&self, footer_bytes: u64) -> Turn<'_> {
        Turn { room: self, footer_bytes, alone: None }
    }

    /// Of an attempt with less than the job's memory: the next job begins with more.
    fn too_large(&self, why: String) -> SetAsideReason {
        match self.limits.means {
            Means::All => SetAsideReason::TooLarge(why),
            Means::DuckDb => SetAsideReason::Unexamined(why),
        }
    }
}

/// The decoding of one footer.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    room: &'a SurveyRoom,
    footer_bytes: u64,
    /// Held while it takes much.
    alone: Option<MutexGuard<'a, ()>>,
}

impl Turn<'_> {
    /// Waits until so long a footer with so many elements in its schema may be decoded. To be asked before its bytes are read, when
    /// nothing is known of its elements, and again before they are decoded.
    pub(super) fn admit(&mut self, elements: u64) -> Result<(), SetAsideReason> {
        let Self { room, footer_bytes, .. } = *self;
        let of_schema = elements.saturating_mul(DECODED_PER_ELEMENT);
        let need = footer_bytes.saturating_mul(DECODED_PER_BYTE).saturating_add(of_schema);
        let limit = room.limits.memory_bytes;
        if need > limit / DECODING_SHARE {
            let why = format!(
                "its footer of {footer_bytes} bytes would take about {need}, more than a survey may use of {limit} bytes"
            );
            return Err(room.too_large(why));
        }
        if need > SMALL_BYTES && self.alone.is_none() {
            self.alone = Some(room.large.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }
}

impl Place<'_> {
    /// Takes up so much, and as much as its schema if no file before has it, until the merge is done. Waits for the inputs before
    /// this one. The schema comes back as the one that all files share.
    ///
    /// The first one always fits: what is kept of a file takes less than half of what was counted for decoding it.
    pub(super) fn keep(&self, bytes: u64, schema: &Arc<FileSchema>) -> Result<Arc<FileSchema>, SetAsideReason> {
        let limit = self.room.limits.memory_bytes / KEPT_SHARE;
        let waiting = |kept: &mut Kept| kept.next < self.index;
        let turn = self.room.next_decided.wait_while(self.room.kept(), waiting);
        let mut kept = turn.unwrap_or_else(PoisonError::into_inner);
        let known = kept.schemas.get(&schema.key).cloned();
        let of_schema = if known.is_some() { 0 } else { SCHEMA_COLUMN_BYTES * schema.columns.len() as u64 };
        let need = bytes.saturating_add(of_schema);
        if need > limit - kept.bytes {
            return Err(SetAsideReason::Unexamined(format!(
                "what is kept of its columns takes {need} bytes, and {} of {limit} are taken by other files: if that is said \
                 of it every time, raise compaction.memory_limit_mb",
                kept.bytes
            )));
        }
        kept.bytes += need;
        Ok(known.unwrap_or_else(|| Arc::clone(kept.schemas.entry(schema.key).or_insert_with(|| Arc::clone(schema)))))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut kept = self.room.kept();
        kept.decided.insert(self.index);
        loop {
            let next = kept.next;
            if !kept.decided.remove(&next) {
                break;
            }
            kept.next += 1;
        }
        self.room.next_decided.notify_all();
    }
}
