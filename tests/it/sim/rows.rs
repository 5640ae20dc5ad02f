//! Rows that are told apart: each has a number of its own, so that a lost or doubled one has a name. In tiny real Parquet
//! files, because the job reads footers.

use std::sync::Arc;

use bytes::Bytes;
use parquet::column::reader::ColumnReader;
use parquet::data_type::Int64Type;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

const SCHEMA: &str = "message row { required int64 time (TIMESTAMP(MICROS,true)); required int64 number; }";

/// A row. Sorted by time, then by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Microseconds since 1970.
    pub time: i64,
    /// Unique among all rows that were ever written.
    pub number: i64,
}

/// A Parquet file with these rows, in this order.
pub fn encode(rows: &[Row], metadata: &[(&str, String)]) -> Bytes {
    let key_values = metadata.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone())).collect();
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_key_value_metadata(Some(key_values))
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let mut group = file.next_row_group().unwrap();
    for column in [rows.iter().map(|r| r.time).collect::<Vec<_>>(), rows.iter().map(|r| r.number).collect()] {
        let mut writer = group.next_column().unwrap().unwrap();
        writer.typed::<Int64Type>().write_batch(&column, None, None).unwrap();
        writer.close().unwrap();
    }
    group.close().unwrap();
    file.into_inner().unwrap().into()
}

/// The same file with so many bytes between its rows and its footer that nobody reads: large files take another way into
/// storage than small ones.
pub fn padded(file: &Bytes, padding_bytes: usize) -> Bytes {
    let length_at = file.len() - 8;
    let footer_bytes = u32::from_le_bytes(file[length_at..length_at + 4].try_into().unwrap()) as usize;
    let (rows, footer) = file.split_at(length_at - footer_bytes);
    [rows, &vec![0; padding_bytes], footer].concat().into()
}

/// The rows of a file, in its order.
pub fn decode(bytes: Bytes) -> Result<Vec<Row>> {
    let file = SerializedFileReader::new(bytes)?;
    let mut rows = Vec::new();
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        let count = usize::try_from(group.metadata().num_rows()).map_err(|e| ParquetError::External(e.into()))?;
        let column = |number| -> Result<Vec<i64>> {
            let ColumnReader::Int64ColumnReader(mut reader) = group.get_column_reader(number)? else {
                return Err(ParquetError::General("not one of ours".into()));
            };
            let mut values = Vec::new();
            reader.read_records(count, None, None, &mut values)?;
            Ok(values)
        };
        rows.extend(column(0)?.into_iter().zip(column(1)?).map(|(time, number)| Row { time, number }));
    }
    Ok(rows)
}

#[test]
fn rows_come_back_in_order() {
    let rows = [Row { time: 7, number: 1 }, Row { time: -3, number: 2 }];
    let file = encode(&rows, &[("key", "value".into())]);
    assert_eq!(decode(padded(&file, 1000)).unwrap(), rows);
    assert_eq!(decode(file).unwrap(), rows);
    assert!(decode(Bytes::from_static(b"PAR1 is not enough")).is_err());
}
