use std::fs::File;
use std::sync::Arc;

use duckdb::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    DurationMicrosecondArray, FixedSizeListArray, Float32Array, Float64Array, Int8Array, Int32Array, Int32Builder,
    Int64Array, LargeStringArray, ListArray, MapBuilder, StringArray, StringBuilder, StructArray,
    Time32MillisecondArray, Time64MicrosecondArray, Time64NanosecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, UInt8Array, UInt32Array, UInt64Array, new_null_array,
};
use duckdb::arrow::compute::{cast, concat};
use duckdb::arrow::datatypes::{DataType, Int32Type, TimeUnit};
use parquet::basic::LogicalType;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::super::MergeError;
use super::super::fixtures::{Inputs, copy, read, times};
use super::super::schema::SchemaGroup;
use super::super::stats::StatValue;
use super::{Stitched, stitch};

fn metadata(path: &std::path::Path) -> ParquetMetaData {
    ParquetMetaDataReader::new().parse_and_finish(&File::open(path).unwrap()).unwrap()
}

/// Merges all inputs, which must form one group, into one slice and that into `out`.
fn merge(files: &Inputs) -> (SchemaGroup, Stitched, std::path::PathBuf) {
    merge_sorted_by(files, &["time"])
}

fn merge_sorted_by(files: &Inputs, sort_by: &[&str]) -> (SchemaGroup, Stitched, std::path::PathBuf) {
    let (mut groups, set_aside) = files.groups_sorted_by(sort_by);
    assert_eq!(set_aside, []);
    let group = groups.remove(0);
    assert!(groups.is_empty());
    let slice = files.slice(&group, "slice");
    let out = files.path("out");
    let stitched = stitch(&group, &[slice], &out, vec![("arc:job".to_owned(), "7".to_owned())]).unwrap();
    (group, stitched, out)
}

/// Writes `column` beside a time, once as it is and once more, merges, and gives back what the output holds.
fn rewritten(column: &ArrayRef) -> ArrayRef {
    let mut files = Inputs::new();
    let rows = column.len();
    files.columns(&[("time", times(0, rows)), ("it's \"x\" 5%", Arc::clone(column))]);
    files.columns(&[("time", times(1000, rows)), ("it's \"x\" 5%", Arc::clone(column))]);
    let (_, _, out) = merge(&files);
    let batch = read(&out);
    assert_eq!(batch.schema().field(1).name(), "it's \"x\" 5%");
    Arc::clone(batch.column(1))
}

fn twice(column: &ArrayRef) -> ArrayRef {
    concat(&[column.as_ref(), column.as_ref()]).unwrap()
}

#[test]
fn every_supported_type_survives_with_values_and_type() {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)])),
        Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)])),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
        Arc::new(UInt8Array::from(vec![Some(0), None, Some(u8::MAX)])),
        Arc::new(UInt32Array::from(vec![Some(0), None, Some(u32::MAX)])),
        Arc::new(UInt64Array::from(vec![Some(0), None, Some(u64::MAX)])),
        Arc::new(Float32Array::from(vec![Some(f32::MIN), None, Some(f32::NAN), Some(f32::INFINITY)])),
        Arc::new(Float64Array::from(vec![Some(f64::MAX), None, Some(f64::NAN), Some(-1e-300)])),
        Arc::new(Decimal128Array::from(vec![Some(-123), None]).with_precision_and_scale(4, 2).unwrap()),
        Arc::new(Decimal128Array::from(vec![Some(-123), None]).with_precision_and_scale(18, 9).unwrap()),
        Arc::new(Decimal128Array::from(vec![Some(10i128.pow(37)), None]).with_precision_and_scale(38, 9).unwrap()),
        Arc::new(Date32Array::from(vec![Some(-1), None, Some(20_000)])),
        Arc::new(Time64MicrosecondArray::from(vec![Some(1), None])),
        Arc::new(Time64NanosecondArray::from(vec![Some(86_399_999_999_999), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None]).with_timezone("Europe/Berlin")),
        Arc::new(TimestampNanosecondArray::from(vec![Some(-1), None, Some(i64::MAX - 1)])),
        Arc::new(DurationMicrosecondArray::from(vec![Some(-1), None])),
        Arc::new(StringArray::from(vec![Some("a'b"), None, Some("ü"), Some("")])),
        Arc::new(LargeStringArray::from(vec![Some("a"), None])),
        Arc::new(vec!["a", "b", "a"].into_iter().collect::<DictionaryArray<Int32Type>>()),
        Arc::new(BinaryArray::from(vec![Some(b"\0\xff".as_slice()), None])),
        new_null_array(&DataType::Null, 3),
        new_null_array(&DataType::Utf8, 3),
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
        ])),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
            vec![Some(vec![Some(1), None]), Some(vec![Some(3), Some(4)])],
            2,
        )),
    ];
    for column in &columns {
        let found = rewritten(column);
        assert_eq!(found.data_type(), &nullable_elements(column.data_type()), "type");
        assert_eq!(&cast(&found, column.data_type()).unwrap(), &twice(column), "{}", column.data_type());
    }
}

/// The element of a list is called `element` after a rewrite, as the Parquet standard says.
fn nullable_elements(ty: &DataType) -> DataType {
    let rename = |field: &Arc<duckdb::arrow::datatypes::Field>| Arc::new(field.as_ref().clone().with_name("element"));
    match ty {
        DataType::List(field) => DataType::List(rename(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(rename(field), *size),
        other => other.clone(),
    }
}

#[test]
fn maps_and_structs_survive() {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for value in [Some(1), None] {
        map.keys().append_value("k");
        map.values().append_option(value);
        map.append(true).unwrap();
    }
    map.append(false).unwrap();
    let map: ArrayRef = Arc::new(map.finish());
    let text = |array: &ArrayRef| format!("{array:?}").replace("entries", "key_value").replace("\"keys\"", "\"key\"");
    let found = rewritten(&map);
    assert_eq!(found.len(), 6);
    for (i, expected) in [(0, 1), (1, 1), (2, 0), (3, 1), (4, 1), (5, 0)] {
        assert_eq!(usize::from(found.is_valid(i)), expected, "{}", text(&found));
    }

    let leaf =
        |name: &str, ty, array: ArrayRef| (Arc::new(duckdb::arrow::datatypes::Field::new(name, ty, true)), array);
    let fields = StructArray::from(vec![
        leaf("a.b\"c", DataType::Int8, Arc::new(Int8Array::from(vec![Some(1), None]))),
        leaf("Ü", DataType::Utf8, Arc::new(StringArray::from(vec![None, Some("x")]))),
    ]);
    let column: ArrayRef = Arc::new(fields);
    assert_eq!(&rewritten(&column), &twice(&column));
}

#[test]
fn milliseconds_and_seconds_become_microseconds_of_the_same_instant() {
    let columns: Vec<(ArrayRef, DataType)> = vec![
        (
            Arc::new(TimestampMillisecondArray::from(vec![Some(-1), None, Some(1_759_932_000_123)])),
            DataType::Timestamp(TimeUnit::Microsecond, None),
        ),
        (
            Arc::new(TimestampMillisecondArray::from(vec![Some(-1), None]).with_timezone("Asia/Kolkata")),
            DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("Asia/Kolkata"))),
        ),
        (Arc::new(Time32MillisecondArray::from(vec![Some(1), None])), DataType::Time64(TimeUnit::Microsecond)),
    ];
    for (column, expected) in columns {
        let found = rewritten(&column);
        assert_eq!(found.data_type(), &expected);
        assert_eq!(&cast(&found, column.data_type()).unwrap(), &twice(&column));
    }
}

#[test]
fn zone_names_that_differ_become_utc() {
    let at = |zone: &str| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![5]).with_timezone(zone)) };
    let mut files = Inputs::new();
    files.columns(&[("time", at("Europe/Berlin"))]);
    files.columns(&[("time", at("America/New_York"))]);
    let (_, _, out) = merge(&files);
    let expected = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")));
    assert_eq!(read(&out).column(0).data_type(), &expected);
}

#[test]
fn annotations_that_duckdb_drops_or_keeps_are_those_of_the_inputs() {
    let fields = "optional int64 time; optional binary e (ENUM); optional binary j (JSON); \
                  optional fixed_len_byte_array(16) u (UUID); optional int64 t (TIMESTAMP_MICROS); \
                  optional int32 m (TIME_MILLIS);";
    let mut files = Inputs::new();
    files.schema(fields);
    files.schema(fields);
    let (_, stitched, out) = merge(&files);
    assert_eq!(stitched.rows, 0);
    let metadata = metadata(&out);
    let logical: Vec<_> = metadata
        .file_metadata()
        .schema()
        .get_fields()
        .iter()
        .map(|f| f.get_basic_info().logical_type_ref().cloned())
        .collect();
    assert_eq!(logical[1..4], [Some(LogicalType::Enum), Some(LogicalType::Json), Some(LogicalType::Uuid)]);
    // By the Parquet specification, the older form of these types is in UTC.
    assert!(matches!(logical[4], Some(LogicalType::Timestamp { is_adjusted_to_u_t_c: true, .. })));
    assert!(matches!(logical[5], Some(LogicalType::Time { is_adjusted_to_u_t_c: true, .. })));
}

#[test]
fn slices_are_joined_in_order_with_names_sorting_columns_lineage_and_statistics() {
    let mut files = Inputs::new();
    for sql in ["SELECT i AS time, i % 7 AS \"höst %\" FROM range(0, 300000) t(i)", "SELECT 5 AS time, NULL::BIGINT"] {
        files.query(&sql.replace("NULL::BIGINT", "NULL::BIGINT AS \"höst %\"").replace("5 AS", "5::BIGINT AS"));
    }
    let (mut groups, _) = files.groups_sorted_by(&["time", "höst %"]);
    let group = groups.remove(0);
    let select = files.select(&group);
    let slices: Vec<_> = ["c0 < 100000", "c0 > 400000", "c0 >= 100000"]
        .iter()
        .enumerate()
        .map(|(i, condition)| {
            let slice = files.path(&format!("slice{i}"));
            copy(&format!("(SELECT * FROM ({select}) WHERE {condition} ORDER BY c0, c1)"), &slice);
            slice
        })
        .collect();
    let out = files.path("out");

    let stitched = stitch(&group, &slices, &out, vec![("arc:job".to_owned(), "7".to_owned())]).unwrap();

    let bytes = std::fs::read(&out).unwrap();
    assert_eq!(stitched.size_bytes, bytes.len() as u64);
    assert_eq!(stitched.checksum, format!("blake3:{}", blake3::hash(&bytes).to_hex()));
    assert_eq!(stitched.rows, 300_001);
    assert_eq!((stitched.time.min, stitched.time.max, stitched.time.nulls), (Some(0), Some(299_999), Some(0)));
    assert_eq!(stitched.columns[1].nulls, Some(1));
    assert_eq!(stitched.columns[1].max, Some(StatValue::Integer(6)));

    let batch = read(&out);
    let times = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
    assert!(times.values().is_sorted());
    assert_eq!(batch.schema().field(1).name(), "höst %");

    let metadata = metadata(&out);
    let file = metadata.file_metadata();
    assert!(file.created_by().unwrap().starts_with("arc version "));
    assert!(file.created_by().unwrap().contains("duckdb v"));
    assert!(file.key_value_metadata().unwrap().iter().any(|kv| kv.key == "arc:job"));
    for row_group in metadata.row_groups() {
        assert!(row_group.num_rows() > 0);
        let sorting = row_group.sorting_columns().unwrap();
        let sorting: Vec<_> = sorting.iter().map(|s| (s.column_idx, s.descending, s.nulls_first)).collect();
        assert_eq!(sorting, [(0, false, false), (1, false, false)]);
        assert!(row_group.columns().iter().all(|c| c.statistics().is_some()));
    }
}

#[test]
fn bloom_filters_still_answer_after_stitching() {
    let mut files = Inputs::new();
    for start in [0, 1000] {
        files.query(&format!("SELECT i AS time, 'host' || (i % 50) AS host FROM range({start}, {start} + 1000) t(i)"));
    }
    let (_, _, out) = merge(&files);
    let properties = parquet::file::properties::ReaderProperties::builder().set_read_bloom_filter(true).build();
    let options =
        parquet::file::serialized_reader::ReadOptionsBuilder::new().with_reader_properties(properties).build();
    let reader = SerializedFileReader::new_with_options(File::open(&out).unwrap(), options).unwrap();
    let row_group = reader.get_row_group(0).unwrap();
    let filter = row_group.get_column_bloom_filter(1).expect("DuckDB writes filters for dictionaries");
    for i in 0..50 {
        assert!(filter.check(&format!("host{i}").as_str()));
    }
    assert!((0..1000).filter(|i| filter.check(&format!("other{i}").as_str())).count() < 100);
}

#[test]
fn a_group_of_empty_files_gives_one_valid_empty_file() {
    let mut files = Inputs::new();
    for _ in 0..2 {
        files.columns(&[("time", times(0, 0)), ("x", new_null_array(&DataType::Utf8, 0))]);
    }
    let (group, stitched, out) = merge(&files);
    assert_eq!((stitched.rows, stitched.columns[1].nulls), (0, Some(0)));
    assert_eq!(read(&out).num_rows(), 0);
    assert_eq!(read(&out).num_columns(), 2);

    let nothing = stitch(&group, &[], &files.path("nothing"), Vec::new()).unwrap();
    assert_eq!((nothing.rows, read(&files.path("nothing")).num_rows()), (0, 0));
}

/// The net below all rules about types.
#[test]
fn a_slice_of_another_schema_than_declared_is_a_failed_proof_that_names_the_column() {
    let mut files = Inputs::new();
    for _ in 0..2 {
        files.columns(&[("time", times(0, 3)), ("ü", times(0, 3))]);
    }
    let (groups, _) = files.groups();
    for (number, select) in [
        "1::BIGINT, 2::INTEGER",
        "1::BIGINT, 2::DOUBLE",
        "1::BIGINT, 2::UBIGINT",
        "1::BIGINT, [2::BIGINT]",
        "1::BIGINT",
    ]
    .iter()
    .enumerate()
    {
        let slice = files.path(&format!("slice{number}"));
        copy(&format!("(SELECT {select})"), &slice);
        let error = stitch(&groups[0], &[slice], &files.path("out"), Vec::new()).unwrap_err();
        let MergeError::ProofFailed(detail) = &error else { panic!("{error}") };
        assert!(detail.contains("\"ü\"") || detail.contains("1 columns instead of 2"), "{detail}");
        assert!(!files.path("out").exists());
    }
}

/// I8: whatever cut the slices, rows that went back in time are no output.
#[test]
fn slices_in_the_wrong_order_are_a_failed_proof() {
    let mut files = Inputs::new();
    files.columns(&[("time", times(0, 1000))]);
    files.columns(&[("time", times(1000, 1000))]);
    let (mut groups, _) = files.groups();
    let group = groups.remove(0);
    let select = files.select(&group);
    let [early, late] = [("early", "<="), ("late", ">")].map(|(name, than)| {
        let slice = files.path(name);
        let median = format!("(SELECT median(c0) FROM ({select}))");
        copy(&format!("(SELECT * FROM ({select}) WHERE c0 {than} {median} ORDER BY c0)"), &slice);
        slice
    });
    let stitched =
        |slices: [&std::path::PathBuf; 2], out| stitch(&group, &slices.map(Clone::clone), &files.path(out), Vec::new());
    assert!(stitched([&early, &late], "right").is_ok());
    let wrong = stitched([&late, &early], "wrong");
    assert!(matches!(&wrong, Err(MergeError::ProofFailed(what)) if what.contains("begins at time")), "{wrong:?}");
}

#[test]
fn an_existing_output_is_never_overwritten() {
    let mut files = Inputs::new();
    files.columns(&[("time", times(0, 1))]);
    files.columns(&[("time", times(0, 1))]);
    let (groups, _) = files.groups();
    std::fs::write(files.path("out"), b"precious").unwrap();
    assert!(matches!(stitch(&groups[0], &[], &files.path("out"), Vec::new()), Err(MergeError::Io { .. })));
    assert_eq!(std::fs::read(files.path("out")).unwrap(), b"precious");
}

#[test]
fn widened_columns_hold_every_value_exactly() {
    let mut files = Inputs::new();
    let uint: ArrayRef = Arc::new(UInt32Array::from(vec![u32::MAX]));
    let int: ArrayRef = Arc::new(Int32Array::from(vec![i32::MIN]));
    files.columns(&[("time", times(0, 1)), ("i", uint), ("d", int.clone()), ("n", new_null_array(&DataType::Utf8, 1))]);
    let double: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
    files.columns(&[("time", times(1, 1)), ("i", int), ("d", double.clone()), ("n", double)]);
    let (group, stitched, out) = merge(&files);

    let batch = read(&out);
    let expected: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![i64::from(u32::MAX), i64::from(i32::MIN)])),
        Arc::new(Float64Array::from(vec![f64::from(i32::MIN), 0.5])),
        Arc::new(Float64Array::from(vec![None, Some(0.5)])),
    ];
    assert_eq!(&batch.columns()[1..], expected);
    // The ranges of the inputs, after widening, are those of the output.
    for i in 0..group.columns.len() {
        let ranges: Vec<_> = group.files().map(|f| &f.columns[i]).collect();
        let min = ranges.iter().filter_map(|s| s.min.clone()).reduce(|a, b| if b < a { b } else { a });
        assert_eq!(min, stitched.columns[i].min);
        assert_eq!(ranges.iter().map(|s| s.nulls.unwrap()).sum::<u64>(), stitched.columns[i].nulls.unwrap());
    }
}

/// Older writers know only the converted type; DuckDB reads it without zone.
#[test]
fn times_with_a_converted_type_only_are_the_same_instants_in_utc() {
    let mut files = Inputs::new();
    for value in [5, -7] {
        files.numbers("optional int64 time (TIMESTAMP_MICROS);", &[value]);
    }
    let (_, stitched, out) = merge(&files);
    let expected: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![-7, 5]).with_timezone("UTC"));
    assert_eq!(read(&out).column(0), &expected);
    assert_eq!((stitched.time.min, stitched.time.max), (Some(-7), Some(5)));
}
