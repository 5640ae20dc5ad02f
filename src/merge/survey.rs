//! The first look at the inputs: their footers, read once, by several threads.
//!
//! An input that is not a readable Parquet file, or not the file that the caller meant, is set aside with the reason;
//! the others go on. Nothing of a footer is believed that the file's own length refutes; one at which the decoder would end
//! the process is not shown to it (`footer_guard.rs`), and a panic of the decoder costs that file only.
//!
//! What is kept of a footer is small: equal schemas are shared, and of a column only range and null count remain, so a
//! survey of thousands of wide files fits into memory. Of the pages only the headers are read: they say whether there are
//! rows that the footer hides, which every reader would overlook, and every proof. Their data is not read here, unless values
//! may be too large for their type and no statistics say that they are not: a sound footer is no proof of sound data, and
//! whoever reads the data has to be ready for that.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parquet::file::metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use tokio_util::sync::CancellationToken;

use super::column_type::ColumnType;
use super::file_schema::{FileSchema, SchemaKey, Span};
use super::footer_guard;
use super::page_headers::{Pages, first_page};
use super::stats::{FileColumnStats, StatValue};
use super::survey_room::{KEPT_PER_COLUMN, SurveyRoom};
use super::value_range::{self, Problem};
use super::{Means, MergeError, MergeInput, MergeLimits, SetAside, SetAsideReason};

/// One readable input.
#[derive(Debug)]
pub(super) struct Surveyed {
    /// Index into the request's inputs.
    pub(super) input: usize,
    pub(super) rows: u64,
    pub(super) size_bytes: u64,
    /// Size of all row groups before compression.
    pub(super) uncompressed_bytes: u64,
    pub(super) schema: Arc<FileSchema>,
    pub(super) row_groups: RowGroups,
    /// One per column of `schema`.
    pub(super) columns: Vec<FileColumnStats>,
    /// One per column of `schema`: rows of the row groups in which one of its values may be, on average over its range.
    pub(super) touched: Vec<u64>,
    /// One per column of `schema`: where the 32-bit integers in it lie.
    pub(super) spans: Vec<Span>,
}

/// How a file is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RowGroups {
    pub(super) count: u64,
    pub(super) largest_rows: u64,
}

/// Reads the footers of `inputs`, as many at a time as there are threads and as fit into the memory, and calls `done` with the
/// index of each when it has been read.
///
/// Both lists are in the order of the inputs.
///
/// # Errors
/// When cancelled, or when the system runs out of something that has nothing to do with a file, such as descriptors.
pub(super) fn survey(
    inputs: &[MergeInput],
    limits: &MergeLimits,
    cancel: &CancellationToken,
    done: &(dyn Fn(usize) + Sync),
) -> Result<(Vec<Surveyed>, Vec<SetAside>), MergeError> {
    let next = AtomicUsize::new(0);
    let room = SurveyRoom::new(limits);
    let read_some = || {
        let mut read = Vec::new();
        while !cancel.is_cancelled() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(input) = inputs.get(index) else { break };
            let result = read_one(index, input, &room);
            let fatal = matches!(result, Err(Failure::System(_)));
            read.push((index, result));
            if fatal {
                // The other threads find nothing left to do.
                next.store(inputs.len(), Ordering::Relaxed);
                break;
            }
            done(index);
        }
        read
    };
    let mut read: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..limits.threads.get().min(inputs.len())).map(|_| scope.spawn(read_some)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a decoder's panic is caught in read_one")).collect()
    });
    if cancel.is_cancelled() {
        return Err(MergeError::Cancelled);
    }
    read.sort_unstable_by_key(|(index, _)| *index);

    let (mut surveyed, mut set_aside) = (Vec::with_capacity(inputs.len()), Vec::new());
    for (index, result) in read {
        match result {
            Ok(file) => surveyed.push(file),
            Err(Failure::SetAside(reason)) => {
                set_aside.push(SetAside { name: inputs[index].name.clone(), reason });
            }
            Err(Failure::System(source)) => {
                return Err(MergeError::Io { action: "open", path: inputs[index].path.clone(), source });
            }
        }
    }
    Ok((surveyed, set_aside))
}

/// What a survey makes of one file: its rows, or why it is set aside. For fuzzing; a merge surveys its inputs together.
///
/// # Errors
/// Why the file would be left out.
#[doc(hidden)]
pub fn survey_one(path: &Path) -> Result<u64, SetAsideReason> {
    let size_bytes = path.metadata().map_or(0, |file| file.len());
    let input = MergeInput { name: "one".to_owned(), path: path.to_owned(), size_bytes };
    let limits =
        MergeLimits { memory_bytes: u64::MAX, threads: NonZeroUsize::MIN, temp_bytes: None, means: Means::All };
    match read_one(0, &input, &SurveyRoom::new(&limits)) {
        Ok(surveyed) => Ok(surveyed.rows),
        Err(Failure::SetAside(reason)) => Err(reason),
        Err(Failure::System(error)) => Err(SetAsideReason::Unreadable(error.to_string())),
    }
}

pub(super) enum Failure {
    /// It is about this file.
    SetAside(SetAsideReason),
    /// It is about the machine.
    System(std::io::Error),
}

fn unreadable(detail: impl std::fmt::Display) -> Failure {
    Failure::SetAside(SetAsideReason::Unreadable(format!("{detail}")))
}

fn read_one(index: usize, input: &MergeInput, room: &SurveyRoom) -> Result<Surveyed, Failure> {
    let place = room.place(index);
    let file = open(&input.path)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length != input.size_bytes {
        return Err(unreadable(format!("{length} bytes long instead of {}", input.size_bytes)));
    }
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let footer_length = footer_length(&file, length)?;
        let mut turn = room.turn(footer_length);
        let mut admit = |elements| turn.admit(elements).map_err(Failure::SetAside);
        admit(0)?;
        let metadata = decode(&file, length, footer_length, admit)?;
        check_pages(&file, &metadata).map_err(unreadable)?;
        let surveyed = extract(index, length, &metadata, room)?;
        value_range::check(&file, &metadata).map_err(|problem| match problem {
            Problem::Value(detail) => Failure::SetAside(SetAsideReason::Unsupported(detail)),
            Problem::System(error) => Failure::System(error),
        })?;
        Ok(surveyed)
    }));
    let mut surveyed = decoded.unwrap_or_else(|_| Err(unreadable("the decoder panicked on the footer")))?;
    surveyed.schema = place.keep(surveyed.kept_bytes(), &surveyed.schema).map_err(Failure::SetAside)?;
    Ok(surveyed)
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::InvalidInput => unreadable(e),
        _ => Failure::System(e),
    })
}

/// Reads the footer of a file of this length, if that can be done without danger.
pub(super) fn footer(file: &File, length: u64) -> Result<ParquetMetaData, Failure> {
    decode(file, length, footer_length(file, length)?, |_| Ok(()))
}

/// How long the footer of a file of this length is.
fn footer_length(mut file: &File, length: u64) -> Result<u64, Failure> {
    if length < 12 {
        return Err(unreadable(format!("{length} bytes are too few for a Parquet file")));
    }
    let mut magic = [0; 4];
    file.seek(SeekFrom::End(-4)).and_then(|_| file.read_exact(&mut magic)).map_err(unreadable)?;
    if &magic == b"PARE" {
        return Err(Failure::SetAside(SetAsideReason::Unsupported("the file is encrypted".to_owned())));
    }
    let mut last = [0; 8];
    file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut last)).map_err(unreadable)?;
    let claimed = FooterTail::try_from(last).map_err(unreadable)?.metadata_length() as u64;
    if claimed > length - 8 {
        return Err(unreadable(format!("it claims a footer of {claimed} bytes, and is {length} bytes long")));
    }
    Ok(claimed)
}

/// `admit` is told how many elements the schema has, before anything is made of them.
fn decode(
    mut file: &File,
    length: u64,
    footer_length: u64,
    admit: impl FnOnce(u64) -> Result<(), Failure>,
) -> Result<ParquetMetaData, Failure> {
    let start = length - 8 - footer_length;
    let mut footer = Vec::new();
    let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.take(footer_length).read_to_end(&mut footer));
    read.map_err(unreadable)?;
    let walked = footer_guard::check(&footer).map_err(unreadable)?;
    if walked.has_encrypted_columns {
        return Err(Failure::SetAside(SetAsideReason::Unsupported("columns of the file are encrypted".to_owned())));
    }
    admit(walked.schema_elements)?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer).map_err(unreadable)?;
    check(&metadata, length).map_err(unreadable)?;
    Ok(metadata)
}

/// Refuses what the file's own length, or the footer itself, proves wrong.
fn check(metadata: &ParquetMetaData, length: u64) -> Result<(), String> {
    let leaves = metadata.file_metadata().schema_descr().num_columns();
    let mut rows = 0i64;
    let mut stored = 0u64;
    for (number, row_group) in metadata.row_groups().iter().enumerate() {
        let bad = |what: &str| Err(format!("row group {number}: {what}"));
        if row_group.num_rows() < 0 || row_group.total_byte_size() < 0 {
            return bad("negative size");
        }
        rows = rows.checked_add(row_group.num_rows()).ok_or("more rows than can be counted")?;
        if row_group.num_columns() != leaves {
            return bad("not all columns present");
        }
        for chunk in row_group.columns() {
            let start = first_page(chunk);
            let end = start.checked_add(chunk.compressed_size());
            let inside = start >= 0
                && chunk.compressed_size() >= 0
                && end.and_then(|end| u64::try_from(end).ok()).is_some_and(|end| end <= length);
            if !inside {
                return bad("a column chunk lies outside the file");
            }
            // Of stretches that are shared, pages would be looked at as often as there are chunks.
            stored = stored.saturating_add(u64::try_from(chunk.compressed_size()).unwrap_or_default());
            if stored > length {
                return bad("column chunks that are longer than the file together");
            }
            let flat = chunk.column_descr().max_rep_level() == 0;
            if chunk.num_values() < 0 || flat && chunk.num_values() != row_group.num_rows() {
                return bad("a column chunk has another number of values than rows");
            }
        }
    }
    if rows != metadata.file_metadata().num_rows() {
        return Err(format!("{rows} rows in the row groups, {} in the footer", metadata.file_metadata().num_rows()));
    }
    Ok(())
}

/// Refuses a file whose pages hold another number of values than the footer states. Of more, nobody would read the rest; of
/// fewer, somebody might make up the rest. Where pages cannot be understood, that is left to the decoders.
fn check_pages(file: &File, metadata: &ParquetMetaData) -> Result<(), String> {
    for (number, row_group) in metadata.row_groups().iter().enumerate() {
        for chunk in row_group.columns() {
            let stated = u64::try_from(chunk.num_values()).unwrap_or_default();
            let mut pages = Pages::of(file, chunk);
            let mut values = 0_u64;
            while values <= stated
                && let Some(page) = pages.next()
            {
                if page.has_too_many_entries() {
                    let (column, entries, bytes) = (chunk.column_path().string(), page.entries, page.claimed_bytes);
                    return Err(format!(
                        "row group {number}: the dictionary of column {column:?} claims {entries} values in {bytes} bytes"
                    ));
                }
                values = values.saturating_add(page.values);
            }
            if values > stated || values < stated && pages.were_all_seen() {
                let column = chunk.column_path().string();
                let more = if values > stated { " or more" } else { "" };
                return Err(format!(
                    "row group {number}: the pages of column {column:?} hold {values} values{more}, the footer states {stated}"
                ));
            }
        }
    }
    Ok(())
}

fn extract(input: usize, size_bytes: u64, metadata: &ParquetMetaData, room: &SurveyRoom) -> Result<Surveyed, Failure> {
    let key = SchemaKey::of(metadata.file_metadata());
    let schema = room.known(key).unwrap_or_else(|| Arc::new(FileSchema::of(metadata.file_metadata(), key)));
    let size = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
    let row_groups = metadata.row_groups();
    let columns: Vec<FileColumnStats> = schema
        .columns
        .iter()
        .map(|column| match column.leaf {
            Some(leaf) => FileColumnStats::of(row_groups, leaf, &column.ty),
            None => FileColumnStats::default(),
        })
        .collect();
    let rows = size(metadata.file_metadata().num_rows());
    let touched = schema.columns.iter().zip(&columns).map(|(column, of_file)| match column.leaf {
        Some(leaf) if row_groups.len() > 1 => touched(row_groups, leaf, &column.ty, of_file).unwrap_or(rows),
        _ => rows,
    });
    let touched = touched.collect();
    let spans = schema.columns.iter().map(|column| Span::of(row_groups, column)).collect();
    if let Some(detail) = &schema.refused {
        return Err(Failure::SetAside(SetAsideReason::Unsupported(detail.clone())));
    }
    Ok(Surveyed {
        input,
        rows,
        size_bytes,
        uncompressed_bytes: row_groups.iter().map(|rg| size(rg.total_byte_size())).fold(0, u64::saturating_add),
        row_groups: RowGroups {
            count: row_groups.len() as u64,
            largest_rows: row_groups.iter().map(|rg| size(rg.num_rows())).max().unwrap_or_default(),
        },
        schema,
        columns,
        touched,
        spans,
    })
}

impl Surveyed {
    /// Memory that it takes, without its schema.
    fn kept_bytes(&self) -> u64 {
        let text = |bound: &Option<StatValue>| match bound {
            Some(StatValue::Bytes(bytes)) => bytes.len(),
            _ => 0,
        };
        let texts: usize = self.columns.iter().map(|column| text(&column.min) + text(&column.max)).sum();
        (size_of::<Self>() + texts) as u64 + self.columns.len() as u64 * KEPT_PER_COLUMN
    }
}

/// Rows of the row groups that one value of the file's range lies in, on average. `None`: not known, or not a number.
fn touched(row_groups: &[RowGroupMetaData], leaf: usize, ty: &ColumnType, of_file: &FileColumnStats) -> Option<u64> {
    let width = |stats: &FileColumnStats| {
        let stats = stats.as_i64();
        Some(u128::from(stats.max?.abs_diff(stats.min?)) + 1)
    };
    let whole = width(of_file)?;
    let touched = row_groups.iter().map(|row_group| {
        let rows = u128::try_from(row_group.num_rows()).unwrap_or_default();
        match width(&FileColumnStats::of(std::slice::from_ref(row_group), leaf, ty)) {
            Some(part) => rows * part.min(whole) / whole,
            None => rows,
        }
    });
    u64::try_from(touched.sum::<u128>()).ok()
}

#[cfg(test)]
mod tests;
