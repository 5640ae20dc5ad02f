//! Sound files, by two writers, in the shapes that matter to damage: compressed and not, dictionaries and none, one page and
//! many, one row group and several, old pages and new ones.

use std::sync::Arc as Shared;

use duckdb::arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use duckdb::arrow::datatypes::Int32Type;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use super::lies;
use super::pages::Anatomy;
use crate::support::{copy, telemetry};

/// Rows of each.
const ROWS: usize = 60;

pub fn all() -> Vec<Anatomy> {
    let dir = tempfile::tempdir().unwrap();
    let duckdb =
        ["COMPRESSION snappy", "COMPRESSION zstd", "COMPRESSION uncompressed", "COMPRESSION gzip, PARQUET_VERSION V2"];
    let mut all = Vec::new();
    for (number, options) in duckdb.into_iter().enumerate() {
        let path = dir.path().join(format!("{number}.parquet"));
        copy(&telemetry(1000 * number, 1000 * number + ROWS), &path, &format!("FORMAT parquet, {options}"));
        all.push(Anatomy::of(std::fs::read(path).unwrap()));
    }
    let many_pages = WriterProperties::builder()
        .set_max_row_group_row_count(Some(20))
        .set_data_page_row_count_limit(7)
        .set_write_batch_size(7)
        .set_compression(Compression::SNAPPY)
        .build();
    let new_pages = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_max_row_group_row_count(Some(30))
        .set_data_page_row_count_limit(10)
        .set_write_batch_size(10)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_bloom_filter_enabled(true)
        .build();
    let plain = WriterProperties::builder().set_dictionary_enabled(false).build();
    for (number, properties) in [many_pages, new_pages, plain].into_iter().enumerate() {
        all.push(Anatomy::of(by_arrow(10_000 + 1000 * i64::try_from(number).unwrap(), properties)));
    }
    all
}

/// The columns of the other files, with nulls.
fn by_arrow(first: i64, properties: WriterProperties) -> Vec<u8> {
    let rows = first..first + i64::try_from(ROWS).unwrap();
    let hosts = rows.clone().map(|i| (i % 11 > 0).then(|| format!("server-{:03}", i % 5)));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (
            "time",
            Shared::new(TimestampMicrosecondArray::from_iter_values(
                rows.clone().map(|i| 1_759_932_000_000_000 + i * 1000),
            )),
            false,
        ),
        ("host", Shared::new(hosts.collect::<StringArray>()), true),
        (
            "usage_idle",
            Shared::new(
                rows.clone()
                    .map(|i| (i % 7 > 0).then_some(f64::from(i32::try_from(i).unwrap()) / 8.0))
                    .collect::<Float64Array>(),
            ),
            true,
        ),
        ("counter", Shared::new(rows.map(|i| Some(i * 7)).collect::<Int64Array>()), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// A file whose last page says what it should become, and goes on for `bytes` when it is decompressed.
pub fn endless_gzip(bytes: usize) -> Vec<u8> {
    use std::io::Write;
    const MEMBER: usize = 64 << 20;
    let all = all();
    let gzip = |file: &&Anatomy| {
        let columns = file.metadata.row_group(0).columns();
        columns.iter().all(|chunk| matches!(chunk.compression(), Compression::GZIP(_)))
    };
    let file = all.iter().find(gzip).unwrap();
    let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    member.write_all(&vec![0; MEMBER]).unwrap();
    let data = member.finish().unwrap().repeat(bytes.div_ceil(MEMBER));
    lies::with_last_page(file, &data)
}

/// A hundred rows of the same enormous string: a dictionary of one, and next to nothing when compressed.
pub fn bomb(value_bytes: usize) -> Vec<u8> {
    let first = 1_759_932_000_000_000;
    let times = TimestampMicrosecondArray::from_iter_values(first..first + 100);
    // Written once, and pointed to a hundred times.
    let value = StringArray::from_iter_values([" ".repeat(value_bytes)]);
    let hosts = DictionaryArray::<Int32Type>::new(Int32Array::from(vec![0; 100]), Shared::new(value));
    let columns: [(&str, ArrayRef); 2] = [("time", Shared::new(times)), ("host", Shared::new(hosts))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_page_size_limit(usize::MAX)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}
