//! Input files for the tests of this module.

use std::collections::VecDeque;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duckdb::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use duckdb::arrow::compute::concat_batches;
use duckdb::arrow::datatypes::{Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::data_type::Int64Type;
use parquet::file::metadata::{
    ColumnChunkMetaDataBuilder, ParquetMetaDataBuilder, ParquetMetaDataReader, ParquetMetaDataWriter,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::compact_protocol::{STRUCT, Walk};
use super::page_headers::Pages;
use super::schema::{Projection, SchemaGroup, group};
use super::survey::{Surveyed, survey};
use super::{Compression, MergeInput, MergeLimits, MergeOptions, ParquetVersion, SetAside, Verify, testing};

/// A folder of inputs, in the order in which they were written.
#[derive(Debug)]
pub(super) struct Inputs {
    dir: TempDir,
    pub(super) inputs: Vec<MergeInput>,
}

impl Inputs {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), inputs: Vec::new() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn added(&mut self) -> PathBuf {
        self.path(&format!("{}.parquet", self.inputs.len()))
    }

    /// A file that is there.
    pub(super) fn register(&mut self, path: PathBuf) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let size_bytes = path.metadata().unwrap().len();
        self.inputs.push(MergeInput { name, path, size_bytes });
    }

    /// Any bytes at all.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let path = self.added();
        std::fs::write(&path, bytes).unwrap();
        self.register(path);
    }

    /// Nullable columns, with Arrow's schema in the footer.
    pub(super) fn columns(&mut self, columns: &[(&str, ArrayRef)]) {
        let fields = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let arrays = columns.iter().map(|(_, array)| Arc::clone(array)).collect();
        self.batch(&RecordBatch::try_new(Arc::new(schema), arrays).unwrap(), WriterProperties::builder().build());
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch, properties: WriterProperties) {
        let path = self.added();
        let file = File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        self.register(path);
    }

    /// What a DuckDB query returns, written by DuckDB.
    pub(super) fn query(&mut self, sql: &str) {
        let path = self.added();
        copy(&format!("({sql})"), &path);
        self.register(path);
    }

    /// A file without rows whose schema is the message type `fields`.
    pub(super) fn schema(&mut self, fields: &str) {
        let path = self.added();
        message_writer(&path, fields).close().unwrap();
        self.register(path);
    }

    /// A file with one optional INT64 column, whose schema is the message type `field`.
    pub(super) fn numbers(&mut self, field: &str, values: &[i64]) {
        let path = self.added();
        let mut writer = message_writer(&path, field);
        let mut row_group = writer.next_row_group().unwrap();
        let mut column = row_group.next_column().unwrap().unwrap();
        let defined = vec![1; values.len()];
        column.typed::<Int64Type>().write_batch(values, Some(&defined), None).unwrap();
        column.close().unwrap();
        row_group.close().unwrap();
        writer.close().unwrap();
        self.register(path);
    }

    pub(super) fn survey(&self) -> (Vec<Surveyed>, Vec<SetAside>) {
        self.survey_within(1 << 30)
    }

    pub(super) fn survey_within(&self, memory_bytes: u64) -> (Vec<Surveyed>, Vec<SetAside>) {
        self.survey_on(2, memory_bytes)
    }

    pub(super) fn survey_on(&self, threads: usize, memory_bytes: u64) -> (Vec<Surveyed>, Vec<SetAside>) {
        let threads = NonZeroUsize::new(threads).unwrap();
        let limits = MergeLimits { memory_bytes, threads, ..testing::request(&[]).limits };
        survey(&self.inputs, &limits, &CancellationToken::new(), &|_| ()).unwrap()
    }

    pub(super) fn groups(&self) -> (Vec<SchemaGroup>, Vec<SetAside>) {
        self.groups_sorted_by(&["time"])
    }

    pub(super) fn groups_sorted_by(&self, sort_by: &[&str]) -> (Vec<SchemaGroup>, Vec<SetAside>) {
        let (surveyed, mut set_aside) = self.survey();
        let options = MergeOptions {
            compression: Compression::Zstd(3),
            parquet_version: ParquetVersion::V2,
            row_group_size: NonZeroUsize::new(122_880).unwrap(),
            target_file_size_bytes: 1 << 30,
            sort_by: sort_by.iter().map(ToString::to_string).collect(),
            time_column: sort_by[0].to_owned(),
            verify: Verify::Content,
        };
        let (groups, more) = group(surveyed, &self.inputs, &options);
        set_aside.extend(more);
        (groups, set_aside)
    }

    /// Merges `group` with DuckDB into one file, in the plainest way.
    pub(super) fn slice(&self, group: &SchemaGroup, name: &str) -> PathBuf {
        let out = self.path(name);
        let version = if group.version_2_suits { "V2" } else { "V1" };
        copy_as(&format!("({} ORDER BY {})", self.select(group), order(group)), &out, version);
        out
    }

    pub(super) fn select(&self, group: &SchemaGroup) -> String {
        let selects: Vec<String> = group
            .classes
            .iter()
            .map(|class| {
                let paths: Vec<String> =
                    class.files.iter().map(|f| format!("'{}'", self.inputs[f.input].path.display())).collect();
                let names: Vec<String> = (0..class.column_count).map(|i| format!("f{i}")).collect();
                let columns: Vec<String> = class
                    .projection
                    .iter()
                    .zip(&group.columns)
                    .enumerate()
                    .map(|(i, (projection, column))| {
                        let ty = &column.sql_type;
                        match projection {
                            Projection::Column(at) => format!("f{at} AS c{i}"),
                            Projection::Cast(at) => format!("CAST(f{at} AS {ty}) AS c{i}"),
                            Projection::Null => format!("CAST(NULL AS {ty}) AS c{i}"),
                            Projection::NullChecked(at) => format!(
                                "CASE WHEN f{at} IS NULL THEN CAST(NULL AS {ty}) \
                                 ELSE CAST(error('a value in an all-null column') AS {ty}) END AS c{i}"
                            ),
                        }
                    })
                    .collect();
                let (columns, paths, names) = (columns.join(", "), paths.join(", "), names.join(", "));
                format!("SELECT {columns} FROM read_parquet([{paths}], hive_partitioning = false) AS f({names})")
            })
            .collect();
        selects.join(" UNION ALL ")
    }
}

fn message_writer(path: &Path, fields: &str) -> SerializedFileWriter<File> {
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {fields} }}")).unwrap());
    SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap()
}

fn order(group: &SchemaGroup) -> String {
    group.sort.iter().map(|i| format!("c{i}")).collect::<Vec<_>>().join(", ")
}

/// Runs a `COPY` of `source` to `out`.
pub(super) fn copy(source: &str, out: &Path) {
    copy_as(source, out, "V2");
}

fn copy_as(source: &str, out: &Path, version: &str) {
    let connection = duckdb::Connection::open_in_memory().unwrap();
    // The setting comes with an extension that a library may have and the bundled build has not; there it is always UTC.
    let zones: u64 = connection
        .query_row("SELECT count(*) FROM duckdb_settings() WHERE name = 'TimeZone'", [], |row| row.get(0))
        .unwrap();
    if zones > 0 {
        connection.execute_batch("SET TimeZone = 'UTC'").unwrap();
    }
    let to = out.display();
    let sql = format!("COPY {source} TO '{to}' (FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION {version})");
    connection.execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The whole file, as the Arrow reader of the `parquet` crate sees it.
pub(super) fn read(path: &Path) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = Arc::clone(builder.schema());
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// `count` ascending numbers from `start`, for columns to sort by.
pub(super) fn times(start: i64, count: usize) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values((start..).take(count)))
}

/// The same file with another footer: `change` is given every column chunk, by row group and column.
pub(super) fn with_chunks(
    file: &[u8],
    change: impl Fn((usize, usize), ColumnChunkMetaDataBuilder) -> ColumnChunkMetaDataBuilder,
) -> Vec<u8> {
    let end = file.len() - 8;
    let length = u32::from_le_bytes(file[end..end + 4].try_into().unwrap()) as usize;
    let metadata = ParquetMetaDataReader::decode_metadata(&file[end - length..end]).unwrap();
    let groups = metadata.row_groups().iter().enumerate().map(|(row_group, group)| {
        let chunks = group.columns().iter().enumerate();
        let chunks = chunks.map(|(i, chunk)| change((row_group, i), chunk.clone().into_builder()).build().unwrap());
        group.clone().into_builder().set_column_metadata(chunks.collect()).build().unwrap()
    });
    let groups = groups.collect();
    let metadata = ParquetMetaDataBuilder::new(metadata.file_metadata().clone()).set_row_groups(groups).build();
    let mut footer = Vec::new();
    ParquetMetaDataWriter::new(&mut footer, &metadata).finish().unwrap();
    [&file[..end - length], &footer].concat()
}

/// The same file of one chunk; the header of its last page has one more field, of so many bytes, which nobody knows.
pub(super) fn with_unknown_page_field(file: &[u8], length: usize) -> Vec<u8> {
    let footer = u32::from_le_bytes(*file[file.len() - 8..].first_chunk().unwrap()) as usize;
    let metadata = ParquetMetaDataReader::decode_metadata(&file[file.len() - 8 - footer..file.len() - 8]).unwrap();
    let chunk = metadata.row_group(0).column(0);
    let end_of_fields = usize::try_from(Pages::of(&file, chunk).last().unwrap().start).unwrap() - 1;
    // The field's number is so much larger than the last one's; then its length, in four groups of seven bits.
    let groups = [0, 7, 14].map(|shift| u8::try_from(length >> shift & 0x7f).unwrap() | 0x80);
    let field = [&[0xf8], &groups[..], &[u8::try_from(length >> 21).unwrap()], &vec![0; length]].concat();
    let size = chunk.compressed_size() + i64::try_from(field.len()).unwrap();
    let longer = [&file[..end_of_fields], &field, &file[end_of_fields..]].concat();
    with_chunks(&longer, |_, chunk| chunk.set_total_compressed_size(size))
}

/// Puts another number into the page header at `at`: into field `field` of the structure in field `of`. It takes as many bytes
/// as the one before.
pub(super) fn set_in_page_header(file: &mut [u8], at: usize, (of, field): (i64, i64), number: i64) {
    let header = file[at..].to_vec();
    let mut place = None;
    let walked = Walk { rest: &header }.fields(&mut |walk, id, kind| match kind {
        STRUCT if id == of => walk.fields(&mut |walk, id, kind| {
            let from = header.len() - walk.rest.len();
            walk.value(kind, 2)?;
            if id == field {
                place = Some(from..header.len() - walk.rest.len());
            }
            Ok(())
        }),
        _ => walk.value(kind, 1),
    });
    walked.unwrap();
    let place = place.expect("a header with this field");
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    for i in place.clone() {
        let more = if i + 1 < place.end { 0x80 } else { 0 };
        file[at + i] = u8::try_from(rest & 0x7f).unwrap() | more;
        rest >>= 7;
    }
    assert_eq!(rest, 0, "{number} does not fit into {} bytes", place.len());
}

/// Pages of a chunk as no sound writer would make them.
pub(super) struct ForgedPages(VecDeque<Page>);

impl ForgedPages {
    pub(super) fn new(pages: &[Page]) -> Self {
        Self(pages.iter().cloned().collect())
    }
}

impl Iterator for ForgedPages {
    type Item = parquet::errors::Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for ForgedPages {
    fn get_next_page(&mut self) -> parquet::errors::Result<Option<Page>> {
        Ok(self.0.pop_front())
    }

    fn peek_next_page(&mut self) -> parquet::errors::Result<Option<PageMetadata>> {
        Ok(self.0.front().map(|page| PageMetadata {
            num_rows: None,
            num_levels: Some(page.num_values() as usize),
            is_dict: page.is_dictionary_page(),
        }))
    }

    fn skip_next_page(&mut self) -> parquet::errors::Result<()> {
        self.0.pop_front();
        Ok(())
    }

    fn at_record_boundary(&mut self) -> parquet::errors::Result<bool> {
        Ok(true)
    }
}
