//! Values that do not fit the type that their column declares.
//!
//! A Parquet column of 8-bit integers is stored in 32 bits, a decimal of four digits as well, and nothing but good manners
//! keeps a writer from storing more there. DuckDB reads such a column into the declared width and drops the upper bits
//! without a word, so the proof, which sees values through DuckDB, would compare two equally wrong sides. A file with such
//! a value is left alone.
//!
//! What must hold: a file whose values are not known to fit is not rewritten. Statistics say so where there are any;
//! otherwise the values themselves are read, in small pieces.

use std::fs::File;
use std::io;

use duckdb::arrow::datatypes::DataType;
use parquet::basic::{LogicalType, TimeUnit};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{DataType as ParquetType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;
use rustix::io::Errno;

use super::checked_pages::column_reader;
use super::column_type::{ColumnType, annotation};
use super::stats::{FileColumnStats, StatValue};

/// Values read at a time where statistics are missing.
const BATCH: usize = 8192;

/// Microseconds of a day: the latest time there is, 24:00.
const DAY_MICROS: i128 = 86_400_000_000;

/// What a leaf may hold, in the unit of its [`ColumnType`].
struct Limits {
    min: i128,
    max: i128,
    /// One stored unit is so many of the type's.
    scale: i128,
    signed: bool,
}

impl Limits {
    /// `None`: every stored value is a value of the type.
    fn of(leaf: &ColumnDescriptor) -> Option<Self> {
        let ty = ColumnType::of(leaf.self_type(), &DataType::Null).ok()?;
        let unit = annotation(leaf.self_type().get_basic_info());
        let millis = matches!(
            unit,
            Some(
                LogicalType::Timestamp { unit: TimeUnit::MILLIS, .. }
                    | LogicalType::Time { unit: TimeUnit::MILLIS, .. }
            )
        );
        let scale = if millis { 1000 } else { 1 };
        let limits = |min, max, signed| Some(Self { min, max, scale, signed });
        match ty {
            ColumnType::Integer { bits: bits @ (8 | 16), signed: true } => {
                limits(-(1 << (bits - 1)), (1 << (bits - 1)) - 1, true)
            }
            ColumnType::Integer { bits: bits @ (8 | 16), signed: false } => limits(0, (1 << bits) - 1, false),
            ColumnType::Decimal { precision, .. } => {
                let max = 10_i128.pow(u32::from(precision)) - 1;
                limits(-max, max, true)
            }
            // DuckDB packs such a time with its zone into 64 bits.
            ColumnType::TimeMicros { utc: true } => limits(0, DAY_MICROS, true),
            // The largest and the smallest number mean infinity to DuckDB, in whatever unit.
            ColumnType::TimestampMicros { .. } if millis => limits((i64::MIN + 2).into(), (i64::MAX - 1).into(), true),
            _ => None,
        }
    }

    fn admit(&self, value: i128) -> bool {
        (self.min..=self.max).contains(&value)
    }

    fn admit_stored(&self, value: i64) -> bool {
        self.admit(i128::from(value) * self.scale)
    }
}

/// Why a file does not pass.
#[derive(Debug)]
pub(super) enum Problem {
    /// Which column has a value that a rewrite would change, or may have.
    Value(String),
    /// The machine has run out of something, descriptors for example. It says nothing about the file.
    System(io::Error),
}

/// Checks every leaf of a file, of which `metadata` is the footer.
///
/// # Errors
/// When a rewrite would change a value or may do so, or when that could not be found out.
pub(super) fn check(file: &File, metadata: &ParquetMetaData) -> Result<(), Problem> {
    let mut reader = None;
    for (index, leaf) in metadata.file_metadata().schema_descr().columns().iter().enumerate() {
        let (Some(limits), Ok(ty)) = (Limits::of(leaf), ColumnType::of(leaf.self_type(), &DataType::Null)) else {
            continue;
        };
        for (number, row_group) in metadata.row_groups().iter().enumerate() {
            let stats = FileColumnStats::of(std::slice::from_ref(row_group), index, &ty);
            let nothing = stats.nulls.is_some_and(|n| i64::try_from(n) == Ok(row_group.column(index).num_values()));
            let fits = match (stats.min, stats.max) {
                (Some(StatValue::Integer(min)), Some(StatValue::Integer(max))) => {
                    limits.admit(min) && limits.admit(max)
                }
                _ if nothing => true,
                _ => {
                    if reader.is_none() {
                        let file = file.try_clone().map_err(Problem::System)?;
                        reader = Some(SerializedFileReader::new(file).map_err(|e| problem("the footer", &e))?);
                    }
                    let reader = reader.as_ref().expect("opened above");
                    let column = reader.get_row_group(number).and_then(|rg| column_reader(&*rg, index));
                    column
                        .and_then(|column| values_fit(column, &limits))
                        .map_err(|e| problem(&format!("column {}", leaf.path()), &e))?
                }
            };
            if !fits {
                let (column, ty) = (leaf.path(), ty.sql());
                return Err(Problem::Value(format!("column {column}: a value does not fit its type, {ty}")));
            }
        }
    }
    Ok(())
}

fn problem(place: &str, error: &ParquetError) -> Problem {
    let io = match error {
        ParquetError::External(source) => source.downcast_ref::<io::Error>(),
        _ => None,
    };
    match io.and_then(Errno::from_io_error) {
        // A disk that cannot read this file, on the other hand, may read all others.
        Some(code @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Problem::System(code.into()),
        _ => Problem::Value(format!("{place}: its values cannot be checked: {error}")),
    }
}

fn values_fit(column: ColumnReader, limits: &Limits) -> Result<bool, ParquetError> {
    match column {
        ColumnReader::Int32ColumnReader(column) => all::<Int32Type>(column, |v| {
            limits.admit_stored(if limits.signed { i64::from(*v) } else { i64::from(v.cast_unsigned()) })
        }),
        ColumnReader::Int64ColumnReader(column) => all::<Int64Type>(column, |v| limits.admit_stored(*v)),
        // Decimals in bytes: DuckDB refuses by itself what does not fit its number.
        _ => Ok(true),
    }
}

fn all<T: ParquetType>(mut column: ColumnReaderImpl<T>, fits: impl Fn(&T::T) -> bool) -> Result<bool, ParquetError> {
    let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        definitions.clear();
        repetitions.clear();
        values.clear();
        let (records, _, levels) =
            column.read_records(BATCH, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
        if !values.iter().all(&fits) {
            return Ok(false);
        }
        if records == 0 && levels == 0 {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::column::writer::ColumnWriter;
    use parquet::data_type::ByteArray;
    use parquet::file::properties::{EnabledStatistics, WriterProperties};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::super::resources::ProcessMemory;
    use super::super::testing::{alone, is_measuring};
    use super::*;

    /// A file with one optional column `ty`, holding `values` and a null, checked.
    fn checked(ty: &str, values: &[i64], statistics: EnabledStatistics) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let schema = Arc::new(parse_message_type(&format!("message m {{ optional {ty}; }}")).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_statistics_enabled(statistics).build());
        let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, properties).unwrap();
        let mut row_group = writer.next_row_group().unwrap();
        let mut column = row_group.next_column().unwrap().unwrap();
        let levels: Vec<i16> = values.iter().map(|_| 1).chain([0]).collect();
        match column.untyped() {
            ColumnWriter::Int32ColumnWriter(column) => {
                #[allow(clippy::cast_possible_truncation, reason = "an unsigned value is stored by its bits")]
                let values: Vec<i32> = values.iter().map(|v| *v as i32).collect();
                column.write_batch(&values, Some(&levels), None).unwrap();
            }
            ColumnWriter::Int64ColumnWriter(column) => {
                column.write_batch(values, Some(&levels), None).unwrap();
            }
            _ => panic!("{ty} is no integer"),
        }
        column.close().unwrap();
        row_group.close().unwrap();
        let metadata = writer.close().unwrap();
        check(&File::open(&path).unwrap(), &metadata).map_err(|problem| match problem {
            Problem::Value(text) => text,
            Problem::System(error) => panic!("{error}"),
        })
    }

    /// I12: a file is not to blame for what the machine has run out of.
    #[test]
    fn a_machine_without_descriptors_says_nothing_about_a_file() {
        let of = |code: Errno| problem("column v", &ParquetError::from(io::Error::from(code)));
        for code in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(matches!(of(code), Problem::System(_)), "{code}");
        }
        assert!(matches!(of(Errno::IO), Problem::Value(_)));
        let error = ParquetError::EOF("no more bytes".to_owned());
        assert!(matches!(problem("column v", &error), Problem::Value(_)));
    }

    #[test]
    fn a_value_outside_its_type_is_found_with_and_without_statistics() {
        let max = i64::MAX;
        let cases: [(&str, &[i64], &[i64]); 9] = [
            ("int32 v (INTEGER(8, true))", &[-128, 127], &[128]),
            ("int32 v (INTEGER(16, true))", &[-32768, 32767], &[-32769]),
            ("int32 v (INTEGER(8, false))", &[0, 255], &[256]),
            ("int32 v (INTEGER(16, false))", &[0, 65535], &[-1]),
            ("int32 v (DECIMAL(4, 2))", &[-9999, 9999], &[1_000_000]),
            ("int64 v (DECIMAL(9, 2))", &[-999_999_999, 999_999_999], &[1_000_000_000]),
            ("int64 v (TIME(MICROS, true))", &[0, 86_399_999_999], &[-1]),
            ("int32 v (TIME(MILLIS, true))", &[0, 86_399_999], &[86_400_001]),
            ("int64 v (TIMESTAMP(MILLIS, false))", &[-1, max / 1000], &[max]),
        ];
        for (ty, good, bad) in cases {
            for statistics in [EnabledStatistics::Chunk, EnabledStatistics::None] {
                assert_eq!(checked(ty, good, statistics), Ok(()), "{ty}");
                assert_eq!(checked(ty, &[], statistics), Ok(()), "{ty}");
                let error = checked(ty, bad, statistics).expect_err(ty);
                assert!(error.contains("a value does not fit its type"), "{error}");
            }
        }
    }

    /// A file of a few hundred bytes may hold as many values as one likes.
    #[test]
    fn values_are_looked_at_in_small_pieces() {
        // Made by the process that asks, so that the making does not count.
        let asks = if is_measuring() { std::os::unix::process::parent_id() } else { std::process::id() };
        let path = std::env::temp_dir().join(format!("arc-many-values-{asks}.parquet"));
        if !is_measuring() {
            let values = vec![7; 10_000_000];
            let schema = Arc::new(parse_message_type("message m { required int32 v (INTEGER(8, true)); }").unwrap());
            let none = WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None).build();
            let file = File::create(&path).unwrap();
            let mut writer = SerializedFileWriter::new(file, schema, Arc::new(none)).unwrap();
            let mut row_group = writer.next_row_group().unwrap();
            let mut column = row_group.next_column().unwrap().unwrap();
            column.typed::<Int32Type>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
            row_group.close().unwrap();
            writer.close().unwrap();
        }
        let measure = || {
            let metadata = SerializedFileReader::new(File::open(&path).unwrap()).unwrap().metadata().clone();
            let before = ProcessMemory::of_this_process().unwrap();
            check(&File::open(&path).unwrap(), &metadata).unwrap();
            let after = ProcessMemory::of_this_process().unwrap();
            after.peak_bytes.saturating_sub(before.resident_bytes).to_string()
        };
        let Some(text) = alone(module_path!(), "values_are_looked_at_in_small_pieces", measure) else { return };
        std::fs::remove_file(path).unwrap();
        assert!(text.parse::<u64>().unwrap() < 16 << 20, "{text}");
    }

    #[test]
    fn types_as_wide_as_their_storage_hold_everything() {
        for ty in ["int32 v", "int64 v", "int32 v (INTEGER(32, false))", "int64 v (TIMESTAMP(MICROS, true))"] {
            assert_eq!(checked(ty, &[i64::MAX, i64::MIN, 0, -1], EnabledStatistics::None), Ok(()), "{ty}");
        }
    }

    /// What [`values_fit`] relies on.
    #[test]
    fn duckdb_refuses_a_decimal_in_bytes_that_does_not_fit_its_number() {
        for ty in ["fixed_len_byte_array(16) v (DECIMAL(4, 2))", "binary v (DECIMAL(9, 2))"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.parquet");
            let schema = Arc::new(parse_message_type(&format!("message m {{ required {ty}; }}")).unwrap());
            let none = WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None).build();
            let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, Arc::new(none)).unwrap();
            let mut row_group = writer.next_row_group().unwrap();
            let mut column = row_group.next_column().unwrap().unwrap();
            let bytes = ByteArray::from(vec![1; 16]);
            match column.untyped() {
                ColumnWriter::FixedLenByteArrayColumnWriter(c) => c.write_batch(&[bytes.into()], None, None),
                ColumnWriter::ByteArrayColumnWriter(c) => c.write_batch(&[bytes], None, None),
                _ => panic!("{ty} is not stored in bytes"),
            }
            .unwrap();
            column.close().unwrap();
            row_group.close().unwrap();
            writer.close().unwrap();
            let engine = ::duckdb::Connection::open_in_memory().unwrap();
            let query = format!("SELECT sum(v)::VARCHAR FROM read_parquet('{}')", path.display());
            let read = engine.query_row(&query, [], |row| row.get::<_, Option<String>>(0));
            assert!(read.is_err(), "{ty}: {read:?}");
        }
    }
}
