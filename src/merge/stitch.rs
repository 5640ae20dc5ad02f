//! Joins slice files into one output, by copying column chunks as bytes.
//!
//! Nothing is decoded, so the cost is that of copying a file. What changes is the footer: columns get their real names
//! and annotations back, row groups say how they are sorted, and the key-value metadata carries the lineage. Statistics,
//! page encodings and bloom filters are kept.
//!
//! Bytes may only be moved below a schema that means the same bytes. So each slice's schema must be exactly the declared
//! one in structure, physical types and nesting of nulls; annotations may differ only where they say the same about the
//! bytes. A difference is a failed proof: it is the net under all rules of [`super::column_type`].

mod piped;

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::arrow::ARROW_SCHEMA_META_KEY;
use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, KeyValue, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData, SortingColumn,
};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, Type};

use self::piped::{Pieces, write_hashed};
use super::MergeError;
use super::column_type::annotation;
use super::schema::SchemaGroup;
use super::stats::{ColumnStats, FileColumnStats};

/// Bytes of a slice that are read at once.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// A finished output.
#[derive(Debug)]
pub(super) struct Stitched {
    pub(super) rows: u64,
    pub(super) size_bytes: u64,
    /// `blake3:` and 64 hexadecimal digits, over the whole file.
    pub(super) checksum: String,
    /// One per group column.
    pub(super) columns: Vec<FileColumnStats>,
    /// Of the time column.
    pub(super) time: ColumnStats<i64>,
}

/// Joins `slices`, files that were written for `group`, in ascending order, into the new file `out`. It is not synced yet.
///
/// Slices without rows are skipped; with no rows at all the output is a valid file without rows.
///
/// # Errors
/// When a slice is not what `group` declares, or a file cannot be read or written. `out` is then to be thrown away.
pub(super) fn stitch(
    group: &SchemaGroup,
    slices: &[PathBuf],
    out: &Path,
    key_values: Vec<(String, String)>,
) -> Result<Stitched, MergeError> {
    let slices = slices.iter().map(|path| Slice::open(path, group)).collect::<Result<Vec<_>, _>>()?;
    let descriptor = SchemaDescriptor::new(Arc::clone(&group.parquet_schema));
    let leaves: Vec<usize> = (0..group.columns.len()).map(|column| first_leaf(&descriptor, column)).collect();

    let file = File::create_new(out).map_err(io_error("create", out))?;
    let properties = Arc::new(properties(group, &slices, &leaves, key_values));
    let ((rows, columns), written) = write_hashed(
        file,
        |out_bytes| join(group, &slices, &leaves, properties, out_bytes, out),
        io_error("write", out),
    )?;
    let time = columns[group.time].as_i64();
    Ok(Stitched { rows, size_bytes: written.size_bytes, checksum: written.checksum, columns, time })
}

/// Copies all row groups; the rows, and what is known of each group column.
fn join(
    group: &SchemaGroup,
    slices: &[Slice],
    leaves: &[usize],
    properties: Arc<WriterProperties>,
    bytes: &mut Pieces,
    out: &Path,
) -> Result<(u64, Vec<FileColumnStats>), MergeError> {
    let descriptor = SchemaDescriptor::new(Arc::clone(&group.parquet_schema));
    let write_error = |e| parquet_error("write", out, e);
    let mut writer =
        SerializedFileWriter::new(bytes, Arc::clone(&group.parquet_schema), properties).map_err(write_error)?;
    for slice in slices {
        for row_group in slice.metadata.row_groups().iter().filter(|row_group| row_group.num_rows() > 0) {
            let mut target = writer.next_row_group().map_err(write_error)?;
            copy_row_group(slice, row_group, &descriptor, &mut target)
                .and_then(|()| target.close())
                .map_err(write_error)?;
        }
    }

    let row_groups = writer.flushed_row_groups();
    check_order(group, row_groups, leaves[group.time], out)?;
    let rows = row_groups.iter().map(|row_group| u64::try_from(row_group.num_rows()).unwrap_or_default()).sum();
    let columns: Vec<FileColumnStats> = group
        .columns
        .iter()
        .zip(leaves)
        .map(|(column, leaf)| {
            if column.ty.is_nested() {
                FileColumnStats::default()
            } else {
                FileColumnStats::of(row_groups, *leaf, &column.ty)
            }
        })
        .collect();
    writer.close().map_err(write_error)?;
    Ok((rows, columns))
}

/// I8: where the sort key begins with the time, every row group begins where the one before it ended, or later. What is in
/// a row group was sorted by the engine, or was read back and found sorted.
fn check_order(
    group: &SchemaGroup,
    row_groups: &[RowGroupMetaData],
    leaf: usize,
    out: &Path,
) -> Result<(), MergeError> {
    if group.sort.first() != Some(&group.time) {
        return Ok(());
    }
    let ty = &group.columns[group.time].ty;
    let mut last: Option<i64> = None;
    for row_group in row_groups {
        let time = FileColumnStats::of(std::slice::from_ref(row_group), leaf, ty).as_i64();
        if let (Some(last), Some(min)) = (last, time.min)
            && min < last
        {
            return Err(MergeError::ProofFailed(format!(
                "{}: a row group that begins at time {min} follows one that ends at {last}",
                out.display()
            )));
        }
        last = time.max.or(last);
    }
    Ok(())
}

/// A slice file that is known to have the declared schema.
struct Slice {
    file: File,
    metadata: ParquetMetaData,
}

impl Slice {
    fn open(path: &Path, group: &SchemaGroup) -> Result<Self, MergeError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let metadata =
            ParquetMetaDataReader::new().parse_and_finish(&file).map_err(|e| parquet_error("read", path, e))?;
        let found = metadata.file_metadata().schema().get_fields();
        if found.len() != group.columns.len() {
            let detail = format!("a slice has {} columns instead of {}", found.len(), group.columns.len());
            return Err(MergeError::ProofFailed(detail));
        }
        for (found, column) in found.iter().zip(&group.columns) {
            check_same_bytes(found, &column.parquet_type, Nulls::AsDeclared).map_err(|difference| {
                let detail = format!("column {:?} was written as another type: {difference}", column.name);
                MergeError::ProofFailed(detail)
            })?;
        }
        Ok(Self { file, metadata })
    }
}

/// Whether the nesting of nulls has to be the declared one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nulls {
    /// Levels are copied with the values.
    AsDeclared,
    /// Levels are written anew.
    Rewritten,
}

/// Checks that values below `found` are the same bytes below `declared`. The names of the two do not matter, those of
/// their parts do.
pub(super) fn check_same_bytes(found: &Type, declared: &Type, nulls: Nulls) -> Result<(), String> {
    let (found_info, declared_info) = (found.get_basic_info(), declared.get_basic_info());
    let levels_differ = nulls == Nulls::AsDeclared || found_info.repetition() == Repetition::REPEATED;
    if levels_differ && found_info.repetition() != declared_info.repetition() {
        return Err(format!("{} instead of {}", found_info.repetition(), declared_info.repetition()));
    }
    match (found, declared) {
        (
            Type::PrimitiveType { physical_type: a, type_length: a_length, .. },
            Type::PrimitiveType { physical_type: b, type_length: b_length, .. },
        ) => {
            let fixed = *a == Physical::FIXED_LEN_BYTE_ARRAY;
            if a != b || fixed && a_length != b_length {
                return Err(format!("{a} ({a_length}) instead of {b} ({b_length})"));
            }
        }
        (Type::GroupType { fields: a, .. }, Type::GroupType { fields: b, .. }) => {
            if a.len() != b.len() {
                return Err(format!("{} parts instead of {}", a.len(), b.len()));
            }
            for (a, b) in a.iter().zip(b) {
                if a.name() != b.name() {
                    return Err(format!("part {:?} instead of {:?}", a.name(), b.name()));
                }
                check_same_bytes(a, b, nulls).map_err(|difference| format!("{difference} in part {:?}", a.name()))?;
            }
        }
        _ => return Err("a group and a primitive type".to_owned()),
    }
    let (a, b) = (plain_annotation(found), plain_annotation(declared));
    if a == b { Ok(()) } else { Err(format!("annotated {a:?} instead of {b:?}")) }
}

/// The annotation, reduced to what it says about bytes and their order.
fn plain_annotation(ty: &Type) -> Option<LogicalType> {
    let digits = |ty: &Type| LogicalType::Decimal { scale: ty.get_scale(), precision: ty.get_precision() };
    match annotation(ty.get_basic_info()) {
        Some(LogicalType::Enum | LogicalType::Json) => Some(LogicalType::String),
        // All null: the bytes are those of an integer column without values.
        Some(LogicalType::Unknown | LogicalType::Integer { bit_width: 32 | 64, is_signed: true }) => None,
        Some(LogicalType::Decimal { .. }) => Some(digits(ty)),
        other => other,
    }
}

fn first_leaf(descriptor: &SchemaDescriptor, column: usize) -> usize {
    (0..descriptor.num_columns())
        .find(|leaf| descriptor.get_column_root_idx(*leaf) == column)
        .expect("every column has a leaf: structs without fields are refused")
}

fn properties(
    group: &SchemaGroup,
    slices: &[Slice],
    leaves: &[usize],
    key_values: Vec<(String, String)>,
) -> WriterProperties {
    let arrow = group.arrow_schema.clone().map(|schema| (ARROW_SCHEMA_META_KEY.to_owned(), schema));
    let key_values: Vec<KeyValue> =
        arrow.into_iter().chain(key_values).map(|(key, value)| KeyValue::new(key, value)).collect();
    let sorting: Vec<SortingColumn> = group
        .sort
        .iter()
        .filter_map(|column| i32::try_from(leaves[*column]).ok())
        .map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: false })
        .collect();
    let file = slices.first().map(|slice| slice.metadata.file_metadata());
    let version = match file.map(parquet::file::metadata::FileMetaData::version) {
        Some(2..) => WriterVersion::PARQUET_2_0,
        _ => WriterVersion::PARQUET_1_0,
    };
    // "DuckDB version v1.5.6 (build ...)". Readers parse the form "name version x (build y)" and distrust others.
    let engine = file.and_then(|file| file.created_by()).and_then(|name| name.split(' ').nth(2)).unwrap_or("unknown");
    WriterProperties::builder()
        .set_created_by(format!("arc version {} (build duckdb {engine})", env!("CARGO_PKG_VERSION")))
        .set_writer_version(version)
        .set_key_value_metadata((!key_values.is_empty()).then_some(key_values))
        .set_sorting_columns((!sorting.is_empty()).then_some(sorting))
        .build()
}

fn copy_row_group<W: Write + Send>(
    slice: &Slice,
    row_group: &RowGroupMetaData,
    descriptor: &SchemaDescriptor,
    target: &mut SerializedRowGroupWriter<'_, W>,
) -> Result<(), ParquetError> {
    let rows_written = u64::try_from(row_group.num_rows()).unwrap_or_default();
    for (leaf, chunk) in row_group.columns().iter().enumerate() {
        let close = ColumnCloseResult {
            bytes_written: u64::try_from(chunk.compressed_size()).unwrap_or_default(),
            rows_written,
            metadata: redeclare(chunk, descriptor.column(leaf))?,
            bloom_filter: Sbbf::read_from_column_chunk(chunk, &slice.file)?,
            column_index: None,
            offset_index: None,
        };
        target.append_column(&Chunks(&slice.file), close)?;
    }
    Ok(())
}

/// The same chunk below another descriptor.
fn redeclare(chunk: &ColumnChunkMetaData, descriptor: ColumnDescPtr) -> Result<ColumnChunkMetaData, ParquetError> {
    let mut builder = ColumnChunkMetaData::builder(descriptor)
        .set_encodings_mask(*chunk.encodings_mask())
        .set_num_values(chunk.num_values())
        .set_compression(chunk.compression())
        .set_total_compressed_size(chunk.compressed_size())
        .set_total_uncompressed_size(chunk.uncompressed_size())
        .set_data_page_offset(chunk.data_page_offset())
        .set_dictionary_page_offset(chunk.dictionary_page_offset())
        .set_unencoded_byte_array_data_bytes(chunk.unencoded_byte_array_data_bytes())
        .set_repetition_level_histogram(chunk.repetition_level_histogram().cloned())
        .set_definition_level_histogram(chunk.definition_level_histogram().cloned());
    if let Some(statistics) = chunk.statistics() {
        builder = builder.set_statistics(statistics.clone());
    }
    if let Some(encodings) = chunk.page_encoding_stats() {
        builder = builder.set_page_encoding_stats(encodings.clone());
    }
    builder.build()
}

/// A file from which column chunks are copied: the library reads what is copied in far smaller pieces.
struct Chunks<'a>(&'a File);

impl Length for Chunks<'_> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Chunks<'_> {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let mut file = self.0.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::with_capacity(READ_BUFFER_BYTES, file))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.0.get_bytes(start, length)
    }
}

/// Makes a finished output last.
pub(super) fn sync(out: &Path) -> Result<(), MergeError> {
    File::open(out).and_then(|file| file.sync_all()).map_err(io_error("sync", out))
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> MergeError {
    move |source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            let folder = path.parent().unwrap_or(path).to_owned();
            MergeError::DiskFull { path: folder, detail: source.to_string() }
        }
        _ => MergeError::Io { action, path: path.to_owned(), source },
    }
}

pub(super) fn parquet_error(action: &'static str, path: &Path, error: ParquetError) -> MergeError {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => io_error(action, path)(*source),
            Err(source) => MergeError::Engine(format!("{action} {}: {source}", path.display())),
        },
        other => MergeError::Engine(format!("{action} {}: {other}", path.display())),
    }
}

#[cfg(test)]
mod tests;
