//! Merges a slice column by column, without ever building a row.
//!
//! ```text
//! time column of every file ──> which rows, in which order     16 bytes a row
//! then for each column:  pages ──> values or dictionary codes ──> in order ──> row groups, encoded
//! ```
//!
//! A general engine hashes each value twice to find a dictionary that the input already had, and sorts whole rows to put
//! them into an order that one column decides. Here a value that comes as a dictionary code stays one: the dictionaries of
//! the files are joined, and codes are translated by a table. Memory is that of one column, the order, and the encoded
//! output; the number of columns does not matter.
//!
//! What must hold: values are moved bit by bit, never converted; so this takes only columns whose stored form is the declared
//! one in every file. Anything else is [`Refusal::Unsuited`], and DuckDB merges the slice. Rows equal in time keep the
//! order of files and rows, so the same inputs give the same bytes.
//!
//! Deliberately not here: nested columns, casts, sort keys other than the time. The proof does not trust this module: DuckDB
//! reads its output back and compares it with what DuckDB reads from the inputs.

mod chunk;
mod claims;
mod column;
mod encode;
mod files;
mod footers;
mod hybrid;
mod plan;
mod room;
mod rows;
mod statements;
mod values;

use std::collections::HashSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Type as Physical;
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use tokio_util::sync::CancellationToken;

use self::column::read_column;
use self::encode::{EncodedChunk, Encoder};
use self::files::{OpenFile, SliceFiles};
pub(super) use self::plan::plan;
use self::room::Room;
use self::rows::Rows;
use super::schema::{Projection, SchemaGroup, TimeKind};
use super::slices::Range;
use super::sql::slice_column;
use super::stitch::check_same_bytes;
use super::work_dir::io_error;
use super::{MergeError, MergeOptions};

/// Files of a slice are read into memory whole when all of them together are no larger than this; otherwise column by column.
const WHOLE_FILES_BYTES: u64 = 64 << 20;

/// Whether files of so many bytes together are read whole.
fn read_whole(bytes: u64) -> bool {
    bytes <= WHOLE_FILES_BYTES
}

/// One file of a slice.
pub(super) struct SourceFile<'a> {
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    /// One per group column.
    pub(super) projection: &'a [Projection],
}

/// What a merge may use, and whether it is still wanted.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    /// A slice that would need more is left to DuckDB, which can spill, or says that it must be cut.
    pub(super) memory_bytes: u64,
    pub(super) cancel: &'a CancellationToken,
}

/// Why a slice was not merged here.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Not for this module, for this reason. Nothing is said about the files.
    Unsuited(String),
    /// A page of a file contradicts itself or its footer. Whatever another reader makes of it may be made up: DuckDB fills a
    /// page that decompresses to less than it says with whatever was in memory. See [`damage`] for the file.
    Damaged(String),
    /// The same of the file at this position.
    DamagedFile(usize, String),
    Failed(MergeError),
}

impl From<MergeError> for Refusal {
    fn from(error: MergeError) -> Self {
        Self::Failed(error)
    }
}

/// What the `parquet` crate objects to while it writes. About reading, see [`chunk::judge`].
impl From<ParquetError> for Refusal {
    fn from(error: ParquetError) -> Self {
        Self::Unsuited(error.to_string())
    }
}

/// Whether a group can be merged here, as far as its schema tells. What the files hold may still say otherwise.
pub(super) fn suits(group: &SchemaGroup) -> bool {
    let time = &group.columns[group.time];
    let signed_time = match group.time_kind {
        TimeKind::TimestampMicros { .. } | TimeKind::TimestampNanos | TimeKind::Date => true,
        // Unsigned numbers are stored as signed ones, which are in another order.
        TimeKind::Integer(_) => !time.sql_type.starts_with('U'),
        TimeKind::Other => false,
    };
    signed_time
        && group.sort == [group.time]
        && group.columns.iter().all(|column| !column.ty.is_nested())
        && group.classes.iter().all(|class| {
            matches!(class.projection[group.time], Projection::Column(_))
                && class.projection.iter().all(|p| matches!(p, Projection::Column(_) | Projection::Null))
        })
}

/// Merges the rows of `range` in `files` into the new file `out`, whose columns are named by [`slice_column`]; the number of
/// rows. Blocks the thread.
pub(super) fn merge_slice(
    group: &SchemaGroup,
    files: &[SourceFile<'_>],
    range: Range,
    options: &MergeOptions,
    out: &Path,
    limits: &Limits<'_>,
) -> Result<u64, Refusal> {
    catch_unwind(AssertUnwindSafe(|| merge(group, files, range, options, out, limits)))
        .unwrap_or_else(|_| Err(Refusal::Unsuited("it panicked".to_owned())))
}

/// Times that a chunk's values may be held while a file is looked at: in the pages, and decoded.
const DECODE_COPIES: u64 = 3;

/// What is damaged in a file, as far as decoding every value of its columns tells. `None` also when it cannot be decoded here.
/// A chunk that would take more than `memory_bytes` is left out: DuckDB, which keeps to its limit, will say what is so.
///
/// This is for files that may have brought a process down, so nothing here may take a page's word for its size.
///
/// # Errors
/// When cancelled.
pub(super) fn damage(
    file: SourceFile<'_>,
    memory_bytes: u64,
    cancel: &CancellationToken,
) -> Result<Option<String>, MergeError> {
    let columns = file.projection.len();
    let limits = Limits { memory_bytes: u64::MAX, cancel };
    let room = Room::new(&limits);
    let look = || -> Result<(), Refusal> {
        let files = SliceFiles::open(&[file], 0, &room)?;
        for file in &files.open {
            for row_group in 0..file.footer.row_groups() {
                for column in 0..columns {
                    file.check_expansion(row_group, column)?;
                    let chunk = Limits { memory_bytes: memory_bytes / DECODE_COPIES, cancel };
                    match file.decode(row_group, column, &Room::new(&chunk)) {
                        Ok(_) | Err(Refusal::Unsuited(_)) => {}
                        Err(other) => return Err(other),
                    }
                }
            }
        }
        Ok(())
    };
    match catch_unwind(AssertUnwindSafe(look)) {
        Ok(Err(Refusal::Damaged(why) | Refusal::DamagedFile(_, why))) => Ok(Some(why)),
        Ok(Err(Refusal::Failed(error))) => Err(error),
        _ => Ok(None),
    }
}

fn merge(
    group: &SchemaGroup,
    files: &[SourceFile<'_>],
    range: Range,
    options: &MergeOptions,
    out: &Path,
    limits: &Limits<'_>,
) -> Result<u64, Refusal> {
    let schema = slice_schema(group)?;
    let descriptor = SchemaDescriptor::new(Arc::clone(&schema));
    let room = Room::new(limits);
    let files = SliceFiles::open(files, group.time, &room)?;
    for file in &files.open {
        check_stored_forms(group, file)?;
    }
    let rows = Rows::find(&files, group.time, range, &room)?;
    let row_groups = rows.split(options.row_group_size.get());
    let mut written: Vec<Vec<EncodedChunk>> = row_groups.iter().map(|_| Vec::new()).collect();
    for index in 0..group.columns.len() {
        let column = descriptor.column(index);
        let values = read_column(&files, &rows, index, &column, &room)?;
        let mut encoder = Encoder::new(column, group.version_2_suits, options, &room)?;
        for (row_group, chunks) in row_groups.iter().zip(&mut written) {
            room.check_wanted()?;
            let chunk = encoder.encode(&values, &rows.order(row_group.clone()))?;
            room.take(chunk.bytes.len() as u64, "of encoded columns")?;
            chunks.push(chunk);
        }
    }
    if rows.count() > 0 {
        write(&schema, written, out)?;
    } else {
        File::create_new(out).map_err(io_error("create", out))?;
    }
    Ok(rows.count() as u64)
}

/// The group's columns under the names that slices have.
fn slice_schema(group: &SchemaGroup) -> Result<TypePtr, Refusal> {
    let fields = group.columns.iter().enumerate().map(|(i, column)| {
        let info = column.parquet_type.get_basic_info();
        let Type::PrimitiveType { physical_type, type_length, scale, precision, .. } = &*column.parquet_type else {
            return Err(Refusal::Unsuited(format!("column {:?} is nested", column.name)));
        };
        Type::primitive_type_builder(&slice_column(i), *physical_type)
            .with_repetition(info.repetition())
            .with_logical_type(info.logical_type_ref().cloned())
            .with_length(*type_length)
            .with_scale(*scale)
            .with_precision(*precision)
            .build()
            .map(Arc::new)
            .map_err(Refusal::from)
    });
    let fields = fields.collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?))
}

/// Bytes may only be moved below a schema that means the same bytes.
fn check_stored_forms(group: &SchemaGroup, file: &OpenFile<'_>) -> Result<(), Refusal> {
    let fields = file.footer.schema().root_schema().get_fields();
    let mut seen = HashSet::new();
    for (column, projection) in group.columns.iter().zip(file.projection) {
        let Projection::Column(at) = *projection else { continue };
        let unsuited = |why: String| Refusal::Unsuited(format!("column {:?}: {why}", column.name));
        let found = fields.get(at).ok_or_else(|| unsuited("not in the file".to_owned()))?;
        if !found.is_primitive() || !seen.insert(at) {
            return Err(unsuited("not a column of its own".to_owned()));
        }
        if found.get_physical_type() == Physical::INT96 {
            return Err(unsuited("stored as INT96".to_owned()));
        }
        check_same_bytes(found, &column.parquet_type, super::stitch::Nulls::Rewritten).map_err(unsuited)?;
    }
    Ok(())
}

fn write(schema: &TypePtr, row_groups: Vec<Vec<EncodedChunk>>, out: &Path) -> Result<(), Refusal> {
    let file = File::create_new(out).map_err(io_error("create", out))?;
    let failed = |error| Refusal::Failed(super::stitch::parquet_error("write", out, error));
    let properties = WriterProperties::builder().set_writer_version(WriterVersion::PARQUET_1_0).build();
    let mut writer = SerializedFileWriter::new(file, Arc::clone(schema), Arc::new(properties)).map_err(failed)?;
    for chunks in row_groups {
        let mut row_group = writer.next_row_group().map_err(failed)?;
        for chunk in chunks {
            row_group.append_column(&chunk.bytes, chunk.close).map_err(failed)?;
        }
        row_group.close().map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests;
