//! Footers that say what is not so: written anew around data that stays as it is.

use std::sync::Arc as Shared;

use fastrand::Rng;
use parquet::basic::{Compression, ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnChunkMetaDataBuilder, FileMetaData, ParquetMetaData, ParquetMetaDataBuilder,
    ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::statistics::Statistics;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, Type, TypePtr};

use super::pages::Anatomy;

/// The file with another footer.
fn with_footer(file: &Anatomy, metadata: &ParquetMetaData) -> Vec<u8> {
    let mut bytes = file.bytes[..file.footer.start].to_vec();
    let mut footer = Vec::new();
    ParquetMetaDataWriter::new(&mut footer, metadata).finish().unwrap();
    bytes.extend(footer);
    bytes
}

fn rebuilt(
    file: &FileMetaData,
    rows: i64,
    schema: Shared<SchemaDescriptor>,
    groups: Vec<RowGroupMetaData>,
) -> ParquetMetaData {
    let file = FileMetaData::new(
        file.version(),
        rows,
        file.created_by().map(str::to_owned),
        file.key_value_metadata().cloned(),
        schema,
        file.column_orders().cloned(),
    );
    ParquetMetaDataBuilder::new(file).set_row_groups(groups).build()
}

/// Changes one column chunk of one row group.
pub fn about_a_chunk(
    file: &Anatomy,
    rng: &mut Rng,
    change: impl FnOnce(&ColumnChunkMetaData, ColumnChunkMetaDataBuilder, &mut Rng) -> ColumnChunkMetaDataBuilder,
) -> Vec<u8> {
    let meta = &file.metadata;
    let mut groups = meta.row_groups().to_vec();
    let number = rng.usize(..groups.len());
    let mut columns = groups[number].columns().to_vec();
    let column = rng.usize(..columns.len());
    let chunk = columns[column].clone();
    columns[column] = change(&chunk, chunk.clone().into_builder(), rng).build().unwrap();
    groups[number] = groups[number].clone().into_builder().set_column_metadata(columns).build().unwrap();
    let info = meta.file_metadata();
    with_footer(file, &rebuilt(info, info.num_rows(), info.schema_descr_ptr(), groups))
}

/// The same file with other data in its last page, whose header and chunk say how long that is, and nothing else of it.
pub fn with_last_page(file: &Anatomy, data: &[u8]) -> Vec<u8> {
    let page = file.pages.iter().max_by_key(|page| page.data.end).unwrap();
    // Type, size before compression, size after: each behind a byte that says so.
    let mut at = page.header.start;
    let mut size = at..at;
    for _ in 0..3 {
        at += 1;
        size.start = at;
        super::pages::varint(&file.bytes, &mut at);
    }
    size.end = at;
    let stored = super::thrift::zigzag(i64::try_from(data.len()).unwrap());
    let bytes = [&file.bytes[..size.start], &stored, &file.bytes[size.end..page.header.end], data].concat();
    let longer = bytes.len() - page.data.end;
    let mut groups = file.metadata.row_groups().to_vec();
    let last = groups.pop().unwrap();
    let mut columns = last.columns().to_vec();
    let ends = |chunk: &ColumnChunkMetaData| {
        let (start, length) = chunk.byte_range();
        usize::try_from(start + length).unwrap() == page.data.end
    };
    let chunk = columns.iter_mut().find(|chunk| ends(chunk)).expect("the chunk that ends with the page");
    let size = chunk.compressed_size() + i64::try_from(longer).unwrap();
    *chunk = chunk.clone().into_builder().set_total_compressed_size(size).build().unwrap();
    groups.push(last.into_builder().set_column_metadata(columns).build().unwrap());
    let info = file.metadata.file_metadata();
    let metadata = rebuilt(info, info.num_rows(), info.schema_descr_ptr(), groups);
    let footer_start = bytes.len();
    let file = Anatomy { bytes, metadata, pages: Vec::new(), footer: footer_start..footer_start };
    with_footer(&file, &file.metadata)
}

/// The number of rows: of the file, of a row group, of both, or of everything that has one, all alike.
pub fn about_rows(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    let meta = &file.metadata;
    let by = [-3, -1, 1, 7, 1_000_000, i64::from(i32::MAX) * 4][rng.usize(..6)];
    let how = rng.u8(..4);
    let mut groups = meta.row_groups().to_vec();
    let number = rng.usize(..groups.len());
    let group = groups[number].clone();
    if how > 0 {
        let mut columns = group.columns().to_vec();
        if how == 3 {
            for column in &mut columns {
                let values = column.num_values() + by;
                *column = column.clone().into_builder().set_num_values(values).build().unwrap();
            }
        }
        let rows = group.num_rows() + by;
        groups[number] = group.into_builder().set_num_rows(rows).set_column_metadata(columns).build().unwrap();
    }
    let info = meta.file_metadata();
    let rows = if how == 1 { info.num_rows() } else { info.num_rows() + by };
    with_footer(file, &rebuilt(info, rows, info.schema_descr_ptr(), groups))
}

/// Fewer rows than the pages hold, alike wherever a footer states a number of them: of one row group, or of all.
pub fn about_fewer_rows(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    rows_everywhere(file, rng, |there, how| [there - 1, there / 2, 1, 0][how])
}

/// The same by a writer that states 0 where there is no dictionary, and counts a dictionary that there is among the data
/// pages: whoever takes 0 for the place of the first page sees none of them.
pub fn about_fewer_rows_at_no_offset(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    let file = Anatomy::of(about_fewer_rows(file, rng));
    let mut groups = file.metadata.row_groups().to_vec();
    for group in &mut groups {
        let old = |chunk: &ColumnChunkMetaData| {
            let (start, _) = chunk.byte_range();
            let builder = chunk.clone().into_builder().set_dictionary_page_offset(Some(0));
            builder.set_data_page_offset(i64::try_from(start).unwrap()).build().unwrap()
        };
        let columns = group.columns().iter().map(old).collect();
        *group = group.clone().into_builder().set_column_metadata(columns).build().unwrap();
    }
    let info = file.metadata.file_metadata();
    with_footer(&file, &rebuilt(info, info.num_rows(), info.schema_descr_ptr(), groups))
}

/// More rows than the pages hold, in the same way.
pub fn about_more_rows(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    rows_everywhere(file, rng, |there, how| [there + 1, there + 7, there * 2, 122_880][how])
}

fn rows_everywhere(file: &Anatomy, rng: &mut Rng, wrong: fn(i64, usize) -> i64) -> Vec<u8> {
    let meta = &file.metadata;
    let mut groups = meta.row_groups().to_vec();
    let (all, only, how) = (rng.bool(), rng.usize(..groups.len()), rng.usize(..4));
    for (_, group) in groups.iter_mut().enumerate().filter(|(number, _)| all || *number == only) {
        let rows = wrong(group.num_rows(), how);
        let lie = |column: &ColumnChunkMetaData| column.clone().into_builder().set_num_values(rows).build().unwrap();
        let columns = group.columns().iter().map(lie).collect();
        *group = group.clone().into_builder().set_num_rows(rows).set_column_metadata(columns).build().unwrap();
    }
    let info = meta.file_metadata();
    let rows = groups.iter().map(RowGroupMetaData::num_rows).sum();
    with_footer(file, &rebuilt(info, rows, info.schema_descr_ptr(), groups))
}

pub fn about_values(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    about_a_chunk(file, rng, |chunk, builder, rng| {
        let values = [0, chunk.num_values() - 1, chunk.num_values() + 1, i64::MAX, -1][rng.usize(..5)];
        builder.set_num_values(values)
    })
}

pub fn about_offsets(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    let length = i64::try_from(file.bytes.len()).unwrap();
    about_a_chunk(file, rng, |chunk, builder, rng| {
        let offset = chunk.data_page_offset();
        let wrong = [0, 1, offset - 1, offset + 1, offset + rng.i64(2..60), length, -4, i64::MAX][rng.usize(..8)];
        if rng.bool() { builder.set_data_page_offset(wrong) } else { builder.set_dictionary_page_offset(Some(wrong)) }
    })
}

pub fn about_sizes(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    let length = i64::try_from(file.bytes.len()).unwrap();
    about_a_chunk(file, rng, |chunk, builder, rng| {
        let size = chunk.compressed_size();
        let wrong = [0, 1, size - 1, size / 2, size + 5, length, -1, i64::MAX, i64::from(i32::MAX)][rng.usize(..9)];
        if rng.bool() { builder.set_total_compressed_size(wrong) } else { builder.set_total_uncompressed_size(wrong) }
    })
}

pub fn about_codecs(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    about_a_chunk(file, rng, |chunk, builder, rng| {
        let codecs = [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::LZ4_RAW,
            Compression::ZSTD(parquet::basic::ZstdLevel::default()),
            Compression::GZIP(parquet::basic::GzipLevel::default()),
            Compression::LZO,
        ];
        let others: Vec<_> = codecs.into_iter().filter(|codec| *codec != chunk.compression()).collect();
        builder.set_compression(others[rng.usize(..others.len())])
    })
}

/// Minimum, maximum and number of nulls that the data does not have.
pub fn about_statistics(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    about_a_chunk(file, rng, |chunk, builder, rng| {
        let nulls = [Some(0), Some(3), Some(u64::MAX), None][rng.usize(..4)];
        let far = [i64::MIN, -1, 0, 1_759_932_000_000_000, 1_759_932_005_000_000, i64::MAX];
        let (min, max) = (far[rng.usize(..6)], far[rng.usize(..6)]);
        builder.set_statistics(match chunk.column_type() {
            Physical::INT32 => Statistics::int32(Some(7), Some(-7), None, nulls, false),
            Physical::INT64 => Statistics::int64(Some(min), Some(max), None, nulls, false),
            Physical::DOUBLE => Statistics::double(Some(f64::NAN), Some(-1e300), None, nulls, false),
            Physical::BOOLEAN => Statistics::boolean(Some(true), Some(false), None, nulls, false),
            _ => Statistics::byte_array(Some(vec![0xff; 9].into()), Some(Vec::new().into()), None, nulls, false),
        })
    })
}

/// The same chunks under another schema, which has as many columns.
fn with_schema(file: &Anatomy, fields: Vec<TypePtr>) -> Vec<u8> {
    let root = Type::group_type_builder("duckdb_schema").with_fields(fields).build().unwrap();
    let schema = Shared::new(SchemaDescriptor::new(Shared::new(root)));
    let info = file.metadata.file_metadata();
    let group = |group: &RowGroupMetaData| {
        let columns =
            group.columns().iter().zip(schema.columns()).map(|(chunk, column)| moved(chunk, column)).collect();
        RowGroupMetaData::builder(Shared::clone(&schema))
            .set_num_rows(group.num_rows())
            .set_total_byte_size(group.total_byte_size())
            .set_column_metadata(columns)
            .build()
            .unwrap()
    };
    let groups = file.metadata.row_groups().iter().map(group).collect();
    with_footer(file, &rebuilt(info, info.num_rows(), Shared::clone(&schema), groups))
}

/// A chunk without what depends on its type.
fn moved(chunk: &ColumnChunkMetaData, column: &ColumnDescPtr) -> ColumnChunkMetaData {
    ColumnChunkMetaData::builder(Shared::clone(column))
        .set_encodings(chunk.encodings().collect())
        .set_num_values(chunk.num_values())
        .set_compression(chunk.compression())
        .set_total_compressed_size(chunk.compressed_size())
        .set_total_uncompressed_size(chunk.uncompressed_size())
        .set_data_page_offset(chunk.data_page_offset())
        .set_dictionary_page_offset(chunk.dictionary_page_offset())
        .build()
        .unwrap()
}

fn fields(file: &Anatomy) -> Vec<TypePtr> {
    file.metadata.file_metadata().schema().get_fields().to_vec()
}

/// A column of another type than its data.
pub fn about_types(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    let mut fields = fields(file);
    let column = rng.usize(..fields.len());
    let old = Shared::clone(&fields[column]);
    let builder = |physical| {
        Type::primitive_type_builder(old.name(), physical).with_repetition(old.get_basic_info().repetition())
    };
    let millis = LogicalType::Timestamp { is_adjusted_to_u_t_c: true, unit: TimeUnit::MILLIS };
    let new = match rng.u8(..9) {
        0 => builder(Physical::INT32),
        1 => builder(Physical::INT64),
        2 => builder(Physical::DOUBLE),
        3 => builder(Physical::BOOLEAN),
        4 => builder(Physical::BYTE_ARRAY),
        5 => builder(Physical::INT96),
        6 => builder(Physical::FIXED_LEN_BYTE_ARRAY).with_length(8),
        7 => builder(Physical::INT64).with_logical_type(Some(millis)),
        _ => builder(Physical::BYTE_ARRAY).with_converted_type(ConvertedType::UTF8),
    };
    fields[column] = Shared::new(new.build().unwrap());
    with_schema(file, fields)
}

/// Required columns become optional and the other way round: then levels are read where none are, or the reverse.
pub fn about_nulls(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    use parquet::basic::Repetition;
    let mut fields = fields(file);
    let column = rng.usize(..fields.len());
    let old = &fields[column];
    let info = old.get_basic_info();
    let other = match (info.repetition(), rng.u8(..3)) {
        (_, 0) => Repetition::REPEATED,
        (Repetition::OPTIONAL, _) => Repetition::REQUIRED,
        _ => Repetition::OPTIONAL,
    };
    let new = Type::primitive_type_builder(old.name(), old.get_physical_type())
        .with_repetition(other)
        .with_logical_type(info.logical_type_ref().cloned())
        .with_converted_type(info.converted_type());
    fields[column] = Shared::new(new.build().unwrap());
    with_schema(file, fields)
}

/// Two columns of one name; or of names that differ in case, which is allowed.
pub fn about_names(file: &Anatomy, rng: &mut Rng) -> Vec<u8> {
    let mut fields = fields(file);
    let from = rng.usize(..fields.len());
    let to = (from + 1 + rng.usize(..fields.len() - 1)) % fields.len();
    let info = fields[to].get_basic_info();
    let new = Type::primitive_type_builder(fields[from].name(), fields[to].get_physical_type())
        .with_repetition(info.repetition())
        .with_logical_type(info.logical_type_ref().cloned())
        .with_converted_type(info.converted_type());
    fields[to] = Shared::new(new.build().unwrap());
    with_schema(file, fields)
}
