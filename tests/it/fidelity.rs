//! I1 for every Parquet type: a compaction changes neither values nor types, except as documented, and what it would have
//! to change it leaves alone.
//!
//! Inputs are written, and outputs read back, by the crates `parquet` and `arrow`, which know nothing of DuckDB.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc as Shared;

use duckdb::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    DurationMillisecondArray, FixedSizeListArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array,
    Int64Array, LargeStringArray, ListArray, MapArray, NullArray, RecordBatch, StringArray, StructArray,
    Time32MillisecondArray, Time64MicrosecondArray, Time64NanosecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array,
    UInt64Array,
};
use duckdb::arrow::buffer::{NullBuffer, OffsetBuffer};
use duckdb::arrow::compute::{concat_batches, sort_to_indices, take};
use duckdb::arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{ConvertedType, LogicalType};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::support::{Arc, PARTITION, Run, age, copy, rows_of, strings, table, telemetry, value};

/// 2025-10-08 14:00:00 in microseconds.
const HOUR: i64 = 1_759_932_000_000_000;

/// Rows of every file of [`written`]: two values, a null, and a last one that tells the files apart.
const ROWS: i64 = 4;

type Columns = Vec<(&'static str, ArrayRef)>;

/// Writes a file of nullable columns, with a `time` and an `id` that no other row has.
fn write(arc: &Arc, number: i64, columns: &Columns) {
    // Interleaved with the other files, so that rows have to move.
    let ids: Vec<i64> = (0..ROWS).map(|row| row * 100 + number).collect();
    let times: Vec<i64> = ids.iter().map(|id| HOUR + id).collect();
    let mut all: Columns =
        vec![("time", Shared::new(TimestampMicrosecondArray::from(times))), ("id", Shared::new(Int64Array::from(ids)))];
    all.extend(columns.iter().cloned());
    let fields = all.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
    let schema = Shared::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema, all.into_iter().map(|(_, array)| array).collect()).unwrap();
    let path = arc.folder(PARTITION).join(format!("{number}.parquet"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    age(&path);
}

/// All rows of the files, in the order of `id`.
fn read(files: &[PathBuf]) -> RecordBatch {
    let batches: Vec<RecordBatch> = files
        .iter()
        .flat_map(|file| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
            reader.build().unwrap().map(Result::unwrap)
        })
        .collect();
    // Key-value metadata may differ; columns may not.
    let schema = Shared::new(Schema::new(batches[0].schema().fields().clone()));
    let batches: Vec<RecordBatch> =
        batches.iter().map(|b| RecordBatch::try_new(Shared::clone(&schema), b.columns().to_vec()).unwrap()).collect();
    let all = concat_batches(&schema, &batches).unwrap();
    let order = sort_to_indices(all.column_by_name("id").unwrap(), None, None).unwrap();
    let columns = all.columns().iter().map(|column| take(column, &order, None).unwrap()).collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

/// Path, physical type, annotation and digits of every leaf.
fn parquet_types(file: &Path) -> Vec<String> {
    let reader = SerializedFileReader::new(File::open(file).unwrap()).unwrap();
    let leaves = reader.metadata().file_metadata().schema_descr().columns().to_vec();
    leaves
        .iter()
        .map(|leaf| {
            // Older annotations say the same in other words.
            let annotation = match (leaf.logical_type_ref(), leaf.converted_type()) {
                (None, ConvertedType::UTF8) => Some(LogicalType::String),
                (logical, _) => logical.cloned(),
            };
            let digits = (leaf.type_precision().max(0), leaf.type_scale().max(0));
            format!("{} {} {annotation:?} {digits:?}", leaf.path().string(), leaf.physical_type())
        })
        .collect()
}

/// Compacts; the one output.
fn compacted(arc: &Arc, files: usize) -> PathBuf {
    let report = arc.compact_well();
    assert_eq!(report["jobs"][0]["files_compacted"], files, "{report:#}");
    let live = arc.live_paths(PARTITION);
    assert_eq!(live.len(), 1, "{report:#}");
    live[0].clone()
}

/// Writes the files, compacts them, and returns types and rows before and after.
fn before_and_after(arc: &Arc, files: &[Columns]) -> [(Vec<String>, RecordBatch); 2] {
    for (number, columns) in (0..).zip(files) {
        write(arc, number, columns);
    }
    let inputs = arc.live_paths(PARTITION);
    let before = (parquet_types(&inputs[0]), read(&inputs));
    let output = compacted(arc, files.len());
    [before, (parquet_types(&output), read(&[output]))]
}

/// The files' columns stay what they are: values, Arrow types and Parquet types.
fn assert_unchanged(files: &[Columns]) {
    let arc = Arc::new();
    let [(types_before, before), (types_after, after)] = before_and_after(&arc, files);
    assert_eq!(types_after, types_before);
    for (i, field) in before.schema().fields().iter().enumerate() {
        let name = field.name();
        assert_eq!(after.schema().field(i).data_type(), field.data_type(), "Arrow type of {name}");
        assert_eq!(after.column(i), before.column(i), "values of {name}");
    }
}

/// Columns of numbers at their extremes, a null among them.
fn numbers(file: i8) -> Columns {
    macro_rules! column {
        ($array:ident, $ty:ty) => {
            Shared::new($array::from(vec![
                Some(<$ty>::MIN),
                Some(<$ty>::MAX),
                None,
                Some(<$ty>::try_from(file).unwrap()),
            ])) as ArrayRef
        };
    }
    let decimal = |precision: u8, scale: i8| -> ArrayRef {
        let most = 10_i128.pow(precision.into()) - 1;
        let values = vec![Some(-most), Some(most), None, Some(file.into())];
        Shared::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
    };
    let f = f64::from(file);
    vec![
        ("i8", column!(Int8Array, i8)),
        ("i16", column!(Int16Array, i16)),
        ("i32", column!(Int32Array, i32)),
        ("i64", column!(Int64Array, i64)),
        ("u8", column!(UInt8Array, u8)),
        ("u16", column!(UInt16Array, u16)),
        ("u32", column!(UInt32Array, u32)),
        ("u64", column!(UInt64Array, u64)),
        ("f32", Shared::new(Float32Array::from(vec![Some(f32::MIN), Some(f32::NAN), None, Some(f32::INFINITY)]))),
        ("f64", Shared::new(Float64Array::from(vec![Some(f64::NAN), Some(f64::NEG_INFINITY), None, Some(f + 5e-324)]))),
        ("f64_small", Shared::new(Float64Array::from(vec![Some(5e-324), Some(f64::MAX), None, Some(f + 0.1)]))),
        ("decimal_4", decimal(4, 2)),
        ("decimal_9", decimal(9, 0)),
        ("decimal_10", decimal(10, 10)),
        ("decimal_18", decimal(18, 4)),
        ("decimal_19", decimal(19, 1)),
        ("decimal_38", decimal(38, 37)),
        ("bool", Shared::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(file % 2 == 0)]))),
        ("null", Shared::new(NullArray::new(4))),
        ("all_null", Shared::new(Int16Array::from(vec![None; 4]))),
    ]
}

#[test]
fn numbers_of_every_kind_keep_values_and_types_at_their_extremes() {
    assert_unchanged(&[numbers(1), numbers(2), numbers(3)]);
}

/// Where DuckDB writes a dictionary it has one zero, so the sign of a zero may change; its value does not.
#[test]
fn a_negative_zero_stays_a_zero() {
    let zeros = || -> Columns { vec![("v", Shared::new(Float64Array::from(vec![-0.0, 0.0, -0.0, 1.0])))] };
    let [_, (_, after)] = before_and_after(&Arc::new(), &[zeros(), zeros()]);
    let values = after.column_by_name("v").unwrap().as_any().downcast_ref::<Float64Array>().unwrap();
    assert_eq!(values.values().to_vec(), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
}

fn texts(file: &'static str) -> Columns {
    vec![
        ("text", Shared::new(StringArray::from(vec![Some(""), Some("größe \u{1f4a5}\0 NULL"), None, Some(file)]))),
        ("large", Shared::new(LargeStringArray::from(vec![Some("'\"\\"), Some("\n"), None, Some(file)]))),
        ("binary", Shared::new(BinaryArray::from(vec![Some(&b""[..]), Some(b"\xff\0\xfe"), None, Some(b"x")]))),
        (
            "dictionary",
            Shared::new([Some("a"), Some("b"), None, Some(file)].into_iter().collect::<DictionaryArray<Int32Type>>()),
        ),
    ]
}

#[test]
fn texts_binaries_and_dictionaries_keep_values_and_types() {
    assert_unchanged(&[texts("first"), texts("second")]);
}

fn moments() -> Columns {
    let (some, none) = (HOUR + 123_456, None);
    vec![
        ("date", Shared::new(Date32Array::from(vec![Some(i32::MIN), Some(i32::MAX), none, Some(-1)]))),
        ("time_us", Shared::new(Time64MicrosecondArray::from(vec![Some(0), Some(86_399_999_999), None, Some(1)]))),
        ("time_ns", Shared::new(Time64NanosecondArray::from(vec![Some(0), Some(86_399_999_999_999), None, Some(1)]))),
        ("us", Shared::new(TimestampMicrosecondArray::from(vec![Some(i64::MIN), Some(i64::MAX), None, Some(some)]))),
        ("ns", Shared::new(TimestampNanosecondArray::from(vec![Some(i64::MIN), Some(i64::MAX), None, Some(some)]))),
        (
            "us_utc",
            Shared::new(
                TimestampMicrosecondArray::from(vec![Some(i64::MIN), Some(i64::MAX), None, Some(some)])
                    .with_timezone("UTC"),
            ),
        ),
        (
            "us_berlin",
            Shared::new(
                TimestampMicrosecondArray::from(vec![Some(0), Some(-1), None, Some(some)])
                    .with_timezone("Europe/Berlin"),
            ),
        ),
        ("duration", Shared::new(DurationMillisecondArray::from(vec![Some(i64::MIN), Some(0), None, Some(1)]))),
        // Parquet has no seconds: an annotated integer to Arrow, a plain one to others.
        ("seconds", Shared::new(TimestampSecondArray::from(vec![Some(i64::MIN), Some(0), None, Some(1)]))),
    ]
}

/// Zone names and durations live in Arrow's schema alone.
#[test]
fn dates_times_timestamps_zones_and_durations_keep_values_and_types() {
    assert_unchanged(&[moments(), moments()]);
}

/// DuckDB has no milliseconds: documented.
#[test]
fn milliseconds_become_the_same_instants_in_microseconds() {
    let values = || vec![Some(0), Some(86_399_999), None, Some(1)];
    let stamps = || vec![Some(-(1 << 52)), Some(1 << 52), None, Some(HOUR / 1000)];
    let columns = || -> Columns {
        vec![
            ("time_ms", Shared::new(Time32MillisecondArray::from(values()))),
            ("ms", Shared::new(TimestampMillisecondArray::from(stamps()))),
            ("ms_utc", Shared::new(TimestampMillisecondArray::from(stamps()).with_timezone("+00:00"))),
        ]
    };
    let arc = Arc::new();
    let [(_, before), (types, after)] = before_and_after(&arc, &[columns(), columns()]);
    let expected = [
        "time_ms INT64 Some(Time { is_adjusted_to_u_t_c: false, unit: MICROS }) (0, 0)",
        "ms INT64 Some(Timestamp { is_adjusted_to_u_t_c: false, unit: MICROS }) (0, 0)",
        "ms_utc INT64 Some(Timestamp { is_adjusted_to_u_t_c: true, unit: MICROS }) (0, 0)",
    ];
    assert_eq!(types[2..], expected);
    for name in ["time_ms", "ms", "ms_utc"] {
        let (old, new) = (before.column_by_name(name).unwrap(), after.column_by_name(name).unwrap());
        let to_integers = |array: &ArrayRef| -> Vec<Option<i64>> {
            let narrow = duckdb::arrow::compute::cast(array, &DataType::Int64);
            let integers = narrow.or_else(|_| {
                let ints = duckdb::arrow::compute::cast(array, &DataType::Int32).unwrap();
                duckdb::arrow::compute::cast(&ints, &DataType::Int64)
            });
            integers.unwrap().as_any().downcast_ref::<Int64Array>().unwrap().iter().collect()
        };
        let old: Vec<Option<i64>> = to_integers(old).into_iter().map(|v| v.map(|v| v * 1000)).collect();
        assert_eq!(to_integers(new), old, "{name}");
    }
}

/// Null, empty, with a null inside, and full, at every level.
fn nested() -> Columns {
    let element = |ty: DataType| Shared::new(Field::new("element", ty, true));
    let numbers = || Shared::new(Int32Array::from(vec![None, Some(1), Some(2)])) as ArrayRef;
    // null, [], [null], [1, 2]
    let list = || {
        ListArray::new(
            element(DataType::Int32),
            OffsetBuffer::from_lengths([0, 0, 1, 2]),
            numbers(),
            Some(NullBuffer::from(vec![false, true, true, true])),
        )
    };
    let fields: Fields =
        vec![Field::new("a", DataType::Utf8, true), Field::new("l", list().data_type().clone(), true)].into();
    let text: ArrayRef = Shared::new(StringArray::from(vec![None, Some("x"), None, Some("")]));
    let structure = StructArray::new(
        fields,
        vec![text, Shared::new(list())],
        Some(NullBuffer::from(vec![false, true, true, true])),
    );
    let of_structures = ListArray::new(
        element(structure.data_type().clone()),
        OffsetBuffer::from_lengths([1, 0, 2, 1]),
        Shared::new(structure.clone()),
        Some(NullBuffer::from(vec![true, false, true, true])),
    );
    let of_lists = ListArray::new(
        element(list().data_type().clone()),
        OffsetBuffer::from_lengths([2, 0, 1, 1]),
        Shared::new(list()),
        None,
    );
    let entries = |values: ArrayRef| {
        let fields: Fields =
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", values.data_type().clone(), true)]
                .into();
        let keys: ArrayRef = Shared::new(StringArray::from(["k", "a", "b", "k"][..values.len()].to_vec()));
        StructArray::new(fields, vec![keys, values], None)
    };
    let map = |values: ArrayRef, lengths: [usize; 4]| {
        let entries = entries(values);
        let field = Shared::new(Field::new("key_value", entries.data_type().clone(), false));
        let nulls = NullBuffer::from(vec![true, false, true, true]);
        MapArray::new(field, OffsetBuffer::from_lengths(lengths), entries, Some(nulls), false)
    };
    let fixed = FixedSizeListArray::new(
        element(DataType::Int64),
        2,
        Shared::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4), Some(5), Some(6), Some(7), Some(8)])),
        None,
    );
    vec![
        ("list", Shared::new(list())),
        ("struct", Shared::new(structure)),
        ("list_of_structs", Shared::new(of_structures)),
        ("list_of_lists", Shared::new(of_lists)),
        ("map", Shared::new(map(numbers(), [1, 0, 0, 2]))),
        ("map_of_lists", Shared::new(map(Shared::new(list()), [2, 0, 0, 2]))),
        ("fixed_size_list", Shared::new(fixed)),
    ]
}

#[test]
fn nested_values_keep_every_null_and_every_empty_list_at_every_level() {
    assert_unchanged(&[nested(), nested()]);
}

/// Names and types of all leaves of the files.
fn leaf_types(files: &[PathBuf]) -> BTreeMap<String, String> {
    let leaves = files.iter().flat_map(|f| parquet_types(f));
    leaves.map(|leaf| leaf.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap()).collect()
}

#[test]
fn uuids_and_enums_keep_values_and_annotations() {
    let arc = Arc::new();
    for number in 0..3 {
        arc.write(
            PARTITION,
            &format!("{number}.parquet"),
            &format!(
                "SELECT make_timestamp({HOUR} + i) AS time, uuid_column AS uuid, \
                 CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END::ENUM('odd', 'even') AS enum \
                 FROM (SELECT i, ('ffffffff-ffff-4fff-8fff-' || printf('%012d', i))::UUID AS uuid_column FROM range(9) r(i))"
            ),
        );
    }
    let (before, rows) = (leaf_types(&arc.live_paths(PARTITION)), arc.rows(PARTITION));
    assert!(before["uuid"].contains("Uuid"), "{before:#?}");
    let output = compacted(&arc, 3);
    assert_eq!(leaf_types(&[output]), before);
    assert_eq!(arc.rows(PARTITION), rows);
}

/// JSON, also beside files that have no such column, and without the extension that gives DuckDB a type for it.
#[test]
fn json_keeps_its_text_and_its_annotation() {
    let arc = Arc::new();
    for (name, text) in [("0.parquet", &b"{\"a\": [1,  2]}"[..]), ("1.parquet", b"null")] {
        message(&arc, name, "optional binary v (JSON)", text);
    }
    arc.write(PARTITION, "2.parquet", &format!("SELECT make_timestamp({HOUR}) AS time"));
    let (before, rows) = (leaf_types(&arc.live_paths(PARTITION)), arc.rows(PARTITION));
    assert!(before["v"].contains("Json"), "{before:#?}");
    let output = compacted(&arc, 3);
    assert_eq!(leaf_types(&[output])["v"], before["v"]);
    assert_eq!(arc.rows(PARTITION), rows);
}

/// A DuckDB with its json extension refuses such a file, the bundled one reads text; neither changes it.
#[test]
fn text_that_is_not_the_json_that_it_claims_to_be_stays_as_it_is() {
    let arc = Arc::new();
    for number in 0..2 {
        message(&arc, &format!("{number}.parquet"), "optional binary v (JSON)", b"{no json\0");
    }
    arc.compact();
    let mut rows = 0;
    for file in arc.live_paths(PARTITION) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap().build().unwrap();
        for batch in reader.map(Result::unwrap) {
            let values = batch.column(1).as_any().downcast_ref::<StringArray>().unwrap();
            assert!(values.iter().all(|v| v == Some("{no json\0")));
            rows += batch.num_rows();
        }
    }
    assert_eq!(rows, 4);
}

/// Writes a file of two rows with a time and the column `v` of any Parquet type.
fn message(arc: &Arc, name: &str, column: &str, bytes: &[u8]) -> PathBuf {
    let message = format!("message m {{ required int64 time (TIMESTAMP(MICROS, false)); {column}; }}");
    let schema = Shared::new(parse_message_type(&message).unwrap());
    let path = arc.folder(PARTITION).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = Shared::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, properties).unwrap();
    let mut row_group = writer.next_row_group().unwrap();
    let integer = |size: usize| {
        let mut wide = [0; 8];
        wide[..size.min(bytes.len())].copy_from_slice(&bytes[..size.min(bytes.len())]);
        i64::from_le_bytes(wide)
    };
    while let Some(mut column) = row_group.next_column().unwrap() {
        let levels = Some(&[1_i16, 1][..]);
        match column.untyped() {
            ColumnWriter::Int64ColumnWriter(c) if c.get_descriptor().name() == "time" => {
                c.write_batch(&[HOUR + 1, HOUR + 2], None, None)
            }
            ColumnWriter::Int64ColumnWriter(c) => c.write_batch(&[integer(8); 2], levels, None),
            ColumnWriter::Int32ColumnWriter(c) => c.write_batch(&[i32::try_from(integer(4)).unwrap(); 2], levels, None),
            ColumnWriter::Int96ColumnWriter(c) => {
                let mut value = Int96::new();
                value.set_data(1, 2, 2_460_000);
                c.write_batch(&[value; 2], levels, None)
            }
            ColumnWriter::ByteArrayColumnWriter(c) => {
                c.write_batch(&[ByteArray::from(bytes.to_vec()), ByteArray::from(bytes.to_vec())], levels, None)
            }
            ColumnWriter::FixedLenByteArrayColumnWriter(c) => {
                let value = || FixedLenByteArray::from(bytes.to_vec());
                c.write_batch(&[value(), value()], levels, None)
            }
            _ => panic!("{message}"),
        }
        .unwrap();
        column.close().unwrap();
    }
    row_group.close().unwrap();
    writer.close().unwrap();
    age(&path);
    path
}

/// Types that a rewrite by DuckDB would change, and values that do not fit their type: two files of each, beside good ones.
#[test]
fn what_a_rewrite_would_change_is_left_byte_for_byte_and_named_and_the_others_are_compacted() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 100);
    let good = arc.rows(PARTITION);
    let refused: [(&str, &str, &[u8]); 17] = [
        ("float16", "optional fixed_len_byte_array(2) v (FLOAT16)", &[0, 0x3c]),
        ("fixed", "optional fixed_len_byte_array(5) v", b"12345"),
        ("int96", "optional int96 v", &[]),
        ("interval", "optional fixed_len_byte_array(12) v (INTERVAL)", &[1; 12]),
        ("decimal_50", "optional fixed_len_byte_array(21) v (DECIMAL(50, 2))", &[1; 21]),
        ("bson", "optional binary v (BSON)", b"\x05\0\0\0\0"),
        ("ns_utc", "optional int64 v (TIMESTAMP(NANOS, true))", &[1]),
        ("time_ns_utc", "optional int64 v (TIME(NANOS, true))", &[1]),
        ("repeated", "repeated int32 v", &[1]),
        // 300 is not a number of 8 bits, and DuckDB would read 44.
        ("wide_int8", "optional int32 v (INTEGER(8, true))", &[44, 1]),
        ("wide_uint8", "optional int32 v (INTEGER(8, false))", &[44, 1]),
        ("wide_int16", "optional int32 v (INTEGER(16, true))", &[0, 0, 1]),
        // 1,000,000 is not a number of 4 digits, and DuckDB would read 16,960.
        ("wide_decimal_4", "optional int32 v (DECIMAL(4, 2))", &[0x40, 0x42, 0x0f]),
        ("wide_decimal_9", "optional int64 v (DECIMAL(9, 2))", &[0, 0, 0, 0, 1]),
        ("wide_time", "optional int64 v (TIME(MICROS, true))", &[0xff; 8]),
        ("wide_ms", "optional int64 v (TIMESTAMP(MILLIS, false))", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("nested_wide", "optional group v { optional int32 x (INTEGER(8, true)); } optional int64 w", &[44, 1]),
    ];
    let mut left: Vec<(String, Vec<u8>)> = Vec::new();
    for (kind, column, bytes) in refused {
        for copy in 0..2 {
            let name = format!("x_{kind}_{copy}.parquet");
            let path = if kind == "repeated" || kind == "nested_wide" {
                message_with_levels(&arc, &name, column, kind == "nested_wide")
            } else {
                message(&arc, &name, column, bytes)
            };
            left.push((name, fs::read(path).unwrap()));
        }
    }
    for (kind, query) in [
        ("variant", format!("SELECT make_timestamp({HOUR}) AS time, 42::VARIANT AS v")),
        ("geometry", format!("SELECT make_timestamp({HOUR}) AS time, 'POINT (1 2)'::GEOMETRY AS v")),
        ("duckdb_interval", format!("SELECT make_timestamp({HOUR}) AS time, INTERVAL 1 DAY AS v")),
    ] {
        for copy in 0..2 {
            let name = format!("x_{kind}_{copy}.parquet");
            let path = arc.write(PARTITION, &name, &query);
            left.push((name, fs::read(path).unwrap()));
        }
    }

    let report = arc.compact_well();

    assert_eq!(report["jobs"][0]["files_compacted"], 3, "{report:#}");
    let set_aside = report["jobs"][0]["inputs_quarantined"].as_array().unwrap();
    for (name, bytes) in &left {
        assert_eq!(&fs::read(arc.folder(PARTITION).join(name)).unwrap(), bytes, "{name} is untouched");
        let named = set_aside.iter().find(|l| l["name"] == name.as_str());
        let named = named.unwrap_or_else(|| panic!("{name} is not named in {report:#}"));
        assert_eq!(named["reason"]["kind"], "unsupported", "{named}");
    }
    assert_eq!(set_aside.len(), left.len());
    let compacted: Vec<PathBuf> =
        arc.live_paths(PARTITION).into_iter().filter(|p| p.to_string_lossy().contains("_compacted")).collect();
    assert_eq!(rows_of(&compacted), good);
}

/// [`message`] for a column of integers that is repeated, or inside of a group.
fn message_with_levels(arc: &Arc, name: &str, column: &str, in_group: bool) -> PathBuf {
    let message = format!("message m {{ required int64 time (TIMESTAMP(MICROS, false)); {column}; }}");
    let schema = Shared::new(parse_message_type(&message).unwrap());
    let path = arc.folder(PARTITION).join(name);
    let properties = Shared::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, properties).unwrap();
    let mut row_group = writer.next_row_group().unwrap();
    while let Some(mut column) = row_group.next_column().unwrap() {
        match column.untyped() {
            ColumnWriter::Int64ColumnWriter(c) if c.get_descriptor().max_def_level() == 0 => {
                c.write_batch(&[HOUR + 1, HOUR + 2], None, None)
            }
            ColumnWriter::Int64ColumnWriter(c) => c.write_batch(&[1, 2], Some(&[1, 1]), None),
            ColumnWriter::Int32ColumnWriter(c) if in_group => c.write_batch(&[300, 1], Some(&[2, 2]), None),
            ColumnWriter::Int32ColumnWriter(c) => c.write_batch(&[1, 2], Some(&[1, 1]), Some(&[0, 0])),
            _ => panic!("{message}"),
        }
        .unwrap();
        column.close().unwrap();
    }
    row_group.close().unwrap();
    writer.close().unwrap();
    age(&path);
    path
}

/// Older writers store decimals in other physical types than DuckDB does.
#[test]
fn decimals_of_every_physical_kind_keep_their_values() {
    for (column, bytes, expected) in [
        ("optional int32 v (DECIMAL(4, 2))", &[0x0f, 0x27][..], "99.99"),
        ("optional int64 v (DECIMAL(9, 2))", &[0x0f, 0x27], "99.99"),
        ("optional int64 v (DECIMAL(18, 2))", &[0x0f, 0x27], "99.99"),
        ("optional fixed_len_byte_array(2) v (DECIMAL(4, 2))", &[0xd8, 0xf1], "-99.99"),
        ("optional fixed_len_byte_array(16) v (DECIMAL(5, 2))", &[0xff; 16], "-0.01"),
        (
            "optional fixed_len_byte_array(16) v (DECIMAL(38, 38))",
            &[0xff; 16],
            "-.00000000000000000000000000000000000001",
        ),
        ("optional binary v (DECIMAL(20, 3))", &[0x01, 0x00], "0.256"),
    ] {
        let arc = Arc::new();
        for number in 0..2 {
            message(&arc, &format!("{number}.parquet"), column, bytes);
        }
        let output = compacted(&arc, 2);
        let table = table(&[output]);
        let found = value(&format!("SELECT string_agg(DISTINCT v::VARCHAR) || count(*) FROM {table}"));
        assert_eq!(found, format!("{expected}4"), "{column}");
        let ty = value(&format!("SELECT any_value(typeof(v)) FROM {table}"));
        assert!(column.replace(", ", ",").contains(&ty), "{ty} instead of {column}");
    }
}

/// I8 and I1 whatever the type of the time column. The third is what the type becomes.
#[test]
fn the_time_column_may_have_any_type_that_can_be_sorted() {
    let micros = "make_timestamp(1759932000000000 + i * 1000000)";
    for (name, expression, becomes) in [
        ("s", format!("{micros}::TIMESTAMP_S"), "TIMESTAMP"),
        ("ms", format!("{micros}::TIMESTAMP_MS"), "TIMESTAMP"),
        ("us", micros.to_owned(), "TIMESTAMP"),
        ("ns", "make_timestamp_ns(1759932000000000000 + i)".to_owned(), "TIMESTAMP_NS"),
        ("zone", format!("{micros}::TIMESTAMPTZ"), "TIMESTAMP WITH TIME ZONE"),
        ("int64", "i::BIGINT - 5".to_owned(), "BIGINT"),
        ("int8", "(i % 100)::TINYINT".to_owned(), "TINYINT"),
        ("uint64", "18446744073709551615::UBIGINT - i::UBIGINT".to_owned(), "UBIGINT"),
        ("date", "DATE '2025-10-08' + (i % 50)::INTEGER".to_owned(), "DATE"),
        ("text", format!("{micros}::VARCHAR"), "VARCHAR"),
        (
            "double",
            "CASE WHEN i = 7 THEN 'nan'::DOUBLE WHEN i = 8 THEN '-inf'::DOUBLE ELSE i / 3 END".to_owned(),
            "DOUBLE",
        ),
        ("decimal", "(i / 8)::DECIMAL(12, 3)".to_owned(), "DECIMAL(12,3)"),
        ("time", "TIME '14:00:00' + to_seconds(i)".to_owned(), "TIME"),
        ("uuid", "md5(i::VARCHAR)::UUID".to_owned(), "UUID"),
        ("blob", "i::VARCHAR::BLOB".to_owned(), "BLOB"),
    ] {
        let arc = Arc::new();
        for file in 0..3 {
            let query = format!(
                "SELECT CASE WHEN i % 50 = 49 THEN NULL ELSE {expression} END AS time, i AS id, {file} AS file \
                 FROM range({file}, 500, 2) r(i) ORDER BY hash(i)"
            );
            arc.write(PARTITION, &format!("{file}.parquet"), &query);
        }
        let rows = |arc: &Arc| {
            let table = table(&arc.live_paths(PARTITION));
            value(&format!(
                "SELECT printf('%d %x', count(*), bit_xor(hash(time::{becomes}, id, file))) || \
                 sum(hash(time::{becomes}, id, file)::HUGEINT)::VARCHAR FROM {table}"
            ))
        };
        let before = rows(&arc);
        let output = compacted(&arc, 3);
        assert_eq!(rows(&arc), before, "{name}");
        let table = format!("read_parquet('{}', file_row_number = true)", output.display());
        let disorder = value(&format!(
            "SELECT count(*)::VARCHAR FROM (SELECT time, file_row_number AS n, lag(time) OVER (ORDER BY file_row_number) AS last \
             FROM {table}) WHERE time < last OR (last IS NULL AND time IS NOT NULL AND n > 0)"
        ));
        assert_eq!(disorder, "0", "{name} is not sorted");
        assert_eq!(value(&format!("SELECT any_value(typeof(time)) FROM {table}")), becomes, "{name}");
        let state = arc.storage_state();
        arc.compact_well();
        assert_eq!(arc.storage_state(), state, "I6: {name}");
    }
}

/// T39: one file whose time is text keeps nobody from being compacted, and is not turned into anything.
#[test]
fn a_single_file_with_a_textual_time_is_left_alone_and_the_others_are_compacted() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 100);
    let query = format!("SELECT * REPLACE (time::VARCHAR AS time) FROM ({})", telemetry(0, 10));
    let path = arc.write(PARTITION, "a_text.parquet", &query);
    let bytes = fs::read(&path).unwrap();
    let report = arc.compact_well();
    assert_eq!(report["jobs"][0]["files_compacted"], 4, "{report:#}");
    assert_eq!(report["jobs"][0]["inputs_set_aside"][0]["reason"]["kind"], "alone");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// Text whose bytes are no UTF-8 cannot be read as text, so it is not.
#[test]
fn text_that_is_not_utf_8_is_left_alone_and_named() {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 3, 100);
    let path = message(&arc, "x.parquet", "optional binary host (UTF8)", b"\xff\xfe");
    let bytes = fs::read(&path).unwrap();
    let run: Run = arc.compact();
    let report = run.json();
    assert_eq!((run.code, &report["jobs"][0]["files_compacted"]), (1, &3.into()), "{report:#}");
    assert_eq!(report["jobs"][0]["inputs_quarantined"][0]["name"], "x.parquet");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// Many long values in few rows: the footer of a dictionary does not tell how much memory they take.
#[test]
fn long_repeated_texts_fit_into_little_memory() {
    let arc = Arc::with("min_files = 2\nmemory_limit_mb = 150\nmax_concurrent_jobs = 1");
    for file in 0..3 {
        let query = format!(
            "SELECT make_timestamp({HOUR} + i * 3 + {file}) AS time, repeat('x', 1000000) || (i % 2)::VARCHAR AS v \
             FROM range(150) r(i)"
        );
        let path = arc.folder(PARTITION).join(format!("{file}.parquet"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        copy(&query, &path, "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048");
        age(&path);
    }
    let print = |arc: &Arc| {
        let table = table(&arc.live_paths(PARTITION));
        let db = duckdb::Connection::open_in_memory().unwrap();
        strings(&db, &format!("SELECT printf('%d %x', count(*), bit_xor(hash(time, v))) FROM {table}")).unwrap()
    };
    let before = print(&arc);
    compacted(&arc, 3);
    assert_eq!(print(&arc), before);
}
