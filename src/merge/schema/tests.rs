use std::fmt::Write as _;
use std::sync::Arc;

use duckdb::arrow::array::{ArrayRef, Int64Array, StringArray, new_null_array};
use duckdb::arrow::compute::cast;
use duckdb::arrow::datatypes::{DataType, Field, TimeUnit};

use super::super::fixtures::{Inputs, times};
use super::super::{SetAsideReason, TimeBound};
use super::{Projection, TimeKind, time_bound};

/// `[1, null]` of this type.
fn values(ty: &DataType) -> ArrayRef {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
    match ty {
        DataType::Date32 | DataType::Time32(_) => cast(&cast(&numbers, &DataType::Int32).unwrap(), ty).unwrap(),
        DataType::Binary => cast(&cast(&numbers, &DataType::Utf8).unwrap(), ty).unwrap(),
        _ => cast(&numbers, ty).unwrap_or_else(|_| new_null_array(ty, 2)),
    }
}

fn add(files: &mut Inputs, columns: &[(&str, ArrayRef)]) {
    let rows = columns.first().map_or(2, |(_, array)| array.len());
    let mut all = vec![("time", times(0, rows))];
    all.extend(columns.iter().cloned());
    files.columns(&all);
}

/// Groups and set-aside files, one per line.
fn drawn(files: &Inputs) -> String {
    let (groups, set_aside) = files.groups();
    let mut text = String::new();
    for group in &groups {
        let columns: Vec<String> = group.columns.iter().map(|c| format!("{} {}", c.name, c.sql_type)).collect();
        writeln!(text, "group ({})", columns.join(", ")).unwrap();
        for class in &group.classes {
            let inputs: Vec<usize> = class.files.iter().map(|f| f.input).collect();
            let projection: Vec<String> = class
                .projection
                .iter()
                .map(|p| match p {
                    Projection::Column(i) => format!("f{i}"),
                    Projection::Cast(i) => format!("cast(f{i})"),
                    Projection::Null => "null".to_owned(),
                    Projection::NullChecked(i) => format!("null({i})"),
                })
                .collect();
            writeln!(text, "  files {inputs:?}: {}", projection.join(", ")).unwrap();
        }
    }
    for file in &set_aside {
        writeln!(text, "{}: {}", file.name, file.reason).unwrap();
    }
    text
}

#[test]
fn the_table_of_lossless_unions() {
    let ts = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Arc::from));
    let types: Vec<(&str, DataType)> = vec![
        ("int8", DataType::Int8),
        ("int16", DataType::Int16),
        ("int32", DataType::Int32),
        ("int64", DataType::Int64),
        ("uint8", DataType::UInt8),
        ("uint16", DataType::UInt16),
        ("uint32", DataType::UInt32),
        ("uint64", DataType::UInt64),
        ("float", DataType::Float32),
        ("double", DataType::Float64),
        ("decimal(5,2)", DataType::Decimal128(5, 2)),
        ("decimal(20,10)", DataType::Decimal128(20, 10)),
        ("decimal(38,0)", DataType::Decimal128(38, 0)),
        ("bool", DataType::Boolean),
        ("text", DataType::Utf8),
        ("large text", DataType::LargeUtf8),
        ("binary", DataType::Binary),
        ("date", DataType::Date32),
        ("time ms", DataType::Time32(TimeUnit::Millisecond)),
        ("time us", DataType::Time64(TimeUnit::Microsecond)),
        ("time ns", DataType::Time64(TimeUnit::Nanosecond)),
        ("ts s", ts(TimeUnit::Second, None)),
        ("ts ms", ts(TimeUnit::Millisecond, None)),
        ("ts us", ts(TimeUnit::Microsecond, None)),
        ("ts ns", ts(TimeUnit::Nanosecond, None)),
        ("ts ms UTC", ts(TimeUnit::Millisecond, Some("UTC"))),
        ("ts us Berlin", ts(TimeUnit::Microsecond, Some("Europe/Berlin"))),
        ("duration s", DataType::Duration(TimeUnit::Second)),
        ("duration us", DataType::Duration(TimeUnit::Microsecond)),
    ];
    let mut table = String::new();
    for (i, (a, a_type)) in types.iter().enumerate() {
        for (b, b_type) in &types[i..] {
            let mut files = Inputs::new();
            add(&mut files, &[("x", values(a_type))]);
            add(&mut files, &[("x", values(b_type))]);
            let (groups, set_aside) = files.groups();
            match groups.as_slice() {
                [group] => {
                    assert_eq!(set_aside, []);
                    writeln!(table, "{a} + {b} = {}", group.columns[1].sql_type).unwrap();
                }
                _ => assert!(set_aside.iter().all(|f| matches!(f.reason, SetAsideReason::Alone(_))), "{set_aside:?}"),
            }
        }
    }
    // Pairs that are not listed stay apart.
    insta::assert_snapshot!(table);
}

#[test]
fn columns_are_added_missing_and_reordered_without_loss() {
    let (number, text) = (values(&DataType::Int64), values(&DataType::Utf8));
    let mut files = Inputs::new();
    add(&mut files, &[("a", number.clone()), ("b", text.clone())]);
    add(&mut files, &[("b", text.clone()), ("a", number.clone())]);
    add(&mut files, &[("c", number.clone())]);
    add(&mut files, &[("a", number), ("b", text)]);
    insta::assert_snapshot!(drawn(&files), @r"
    group (time BIGINT, a BIGINT, b VARCHAR, c BIGINT)
      files [0, 3]: f0, f1, f2, null
      files [1]: f0, f2, f1, null
      files [2]: f0, null, null, f1
    ");
}

/// T10: a conflict gives groups of their own, never text.
#[test]
fn conflicting_types_form_groups_and_the_largest_class_comes_first() {
    let (number, text, double) = (values(&DataType::Int64), values(&DataType::Utf8), values(&DataType::Float64));
    let mut files = Inputs::new();
    for column in [&text, &number, &number, &text, &number, &double] {
        add(&mut files, &[("x", Arc::clone(column))]);
    }
    insta::assert_snapshot!(drawn(&files), @r#"
    group (time BIGINT, x BIGINT)
      files [1, 2, 4]: f0, f1
    group (time BIGINT, x VARCHAR)
      files [0, 3]: f0, f1
    5.parquet: no other file has a compatible schema: column "x" is DOUBLE here and BIGINT elsewhere
    "#);
}

#[test]
fn names_that_differ_only_in_case_are_different_columns() {
    let mut files = Inputs::new();
    add(&mut files, &[("Host", values(&DataType::Utf8)), ("host", values(&DataType::Int64))]);
    add(&mut files, &[("HOST", values(&DataType::Int64))]);
    insta::assert_snapshot!(drawn(&files), @r"
    group (time BIGINT, Host VARCHAR, host BIGINT, HOST BIGINT)
      files [0]: f0, f1, f2, null
      files [1]: f0, null, null, f1
    ");
}

#[test]
fn two_columns_of_one_name_are_unsupported() {
    let mut files = Inputs::new();
    files.schema("optional int64 time; optional int64 x; optional binary x;");
    insta::assert_snapshot!(drawn(&files), @r#"0.parquet: cannot be rewritten without loss: two columns are named "x""#);
}

/// T12: a column without values stays, and stands beside any type.
#[test]
fn a_column_of_nulls_takes_the_type_of_the_values_elsewhere() {
    let mut files = Inputs::new();
    let nulls = |ty: &DataType| new_null_array(ty, 2);
    add(&mut files, &[("x", nulls(&DataType::Int32)), ("y", nulls(&DataType::Null)), ("z", nulls(&DataType::Null))]);
    add(&mut files, &[("x", values(&DataType::Utf8)), ("y", values(&DataType::Int64))]);
    add(&mut files, &[("x", nulls(&DataType::Boolean)), ("y", values(&DataType::Int8)), ("z", nulls(&DataType::Null))]);
    insta::assert_snapshot!(drawn(&files), @r"
    group (time BIGINT, x VARCHAR, y BIGINT, z INTEGER)
      files [0]: f0, null(1), null(2), f3
      files [1]: f0, f1, f2, null
      files [2]: f0, null(1), cast(f2), f3
    ");
}

#[test]
fn a_file_without_rows_joins_any_group_that_its_columns_allow() {
    let mut files = Inputs::new();
    files.columns(&[("time", times(0, 0)), ("x", new_null_array(&DataType::Utf8, 0))]);
    add(&mut files, &[("x", values(&DataType::Int64))]);
    insta::assert_snapshot!(drawn(&files), @r"
    group (time BIGINT, x BIGINT)
      files [0]: f0, null(1)
      files [1]: f0, f1
    ");
}

#[test]
fn microseconds_become_nanoseconds_only_when_every_value_fits() {
    let nanos: ArrayRef = values(&DataType::Timestamp(TimeUnit::Nanosecond, None));
    let micros = |value: i64| {
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(value), None]));
        cast(&number, &DataType::Timestamp(TimeUnit::Microsecond, None)).unwrap()
    };
    for (value, fits) in [(i64::MAX / 1000, true), (i64::MIN / 1000, true), (i64::MAX / 1000 + 1, false)] {
        let mut files = Inputs::new();
        add(&mut files, &[("x", nanos.clone())]);
        add(&mut files, &[("x", micros(value))]);
        assert_eq!(files.groups().0.len(), usize::from(fits), "{value}");
    }
}

/// T34, T39: decided from footers, before any work.
#[test]
fn files_without_a_sortable_time_column_are_set_aside() {
    let mut files = Inputs::new();
    files.columns(&[("Time", times(0, 2))]);
    files.columns(&[("x", times(0, 2))]);
    files.schema("optional group time { optional int64 a; }");
    add(&mut files, &[]);
    insta::assert_snapshot!(drawn(&files), @r#"
    0.parquet: no column "time" to sort by
    1.parquet: no column "time" to sort by
    2.parquet: cannot be rewritten without loss: sort column "time" has type STRUCT("a" BIGINT)
    3.parquet: no other file has a compatible schema: it is the only file left
    "#);
}

#[test]
fn text_times_go_to_a_group_of_their_own() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["2025-10-08T14:00:00Z", "x"]));
    let mut files = Inputs::new();
    for _ in 0..2 {
        files.columns(&[("time", times(0, 2))]);
        files.columns(&[("time", text.clone())]);
    }
    let (groups, set_aside) = files.groups();
    let kinds: Vec<&TimeKind> = groups.iter().map(|g| &g.time_kind).collect();
    assert_eq!(kinds, [&TimeKind::Integer("BIGINT".to_owned()), &TimeKind::Other]);
    assert_eq!(set_aside, []);
}

#[test]
fn the_range_of_times_is_in_the_unit_of_the_group() {
    let at = |unit, value: i64| {
        let number: ArrayRef = Arc::new(Int64Array::from(vec![value, value + 1]));
        cast(&number, &DataType::Timestamp(unit, None)).unwrap()
    };
    let mut files = Inputs::new();
    files.columns(&[("time", at(TimeUnit::Millisecond, 7))]);
    files.columns(&[("time", at(TimeUnit::Microsecond, 7))]);
    let (groups, _) = files.groups();
    let ranges: Vec<_> = groups[0].files().map(|f| (f.time.min, f.time.max, f.time.nulls)).collect();
    assert_eq!(groups[0].time_kind, TimeKind::TimestampMicros { utc: false });
    assert_eq!(ranges, [(Some(7000), Some(8000), Some(0)), (Some(7), Some(8), Some(0))]);
}

#[test]
fn different_meaning_of_equal_bytes_keeps_columns_apart_and_zone_names_do_not() {
    let zone = |name: &str| values(&DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from(name))));
    let mut files = Inputs::new();
    add(&mut files, &[("x", values(&DataType::Duration(TimeUnit::Second)))]);
    add(&mut files, &[("x", values(&DataType::Int64))]);
    assert!(files.groups().0.is_empty());

    let mut files = Inputs::new();
    add(&mut files, &[("x", zone("Europe/Berlin"))]);
    add(&mut files, &[("x", zone("America/New_York"))]);
    assert_eq!(files.groups().0.len(), 1);
}

#[test]
fn nested_columns_share_a_group_only_when_their_structure_is_equal() {
    let list = |ty| new_null_array(&DataType::List(Arc::new(Field::new("item", ty, true))), 2);
    let mut files = Inputs::new();
    for ty in [DataType::Int32, DataType::Int64, DataType::Int32] {
        add(&mut files, &[("x", list(ty))]);
    }
    insta::assert_snapshot!(drawn(&files), @r#"
    group (time BIGINT, x INTEGER[])
      files [0, 2]: f0, f1
    1.parquet: no other file has a compatible schema: column "x" is BIGINT[] here and INTEGER[] elsewhere
    "#);
}

#[test]
fn what_duckdb_would_change_is_unsupported_with_column_and_type() {
    let mut refused = String::new();
    for field in [
        "optional fixed_len_byte_array(2) x (FLOAT16)",
        "optional fixed_len_byte_array(3) x",
        "optional fixed_len_byte_array(12) x (INTERVAL)",
        "optional int96 x",
        "optional binary x (BSON)",
        "optional int64 x (TIMESTAMP(NANOS,true))",
        "optional int64 x (TIME(NANOS,true))",
        "optional fixed_len_byte_array(21) x (DECIMAL(50,3))",
        "repeated int32 x",
        "optional group x (LIST) { repeated int32 element; }",
        "optional group x (LIST) { repeated group array { optional int32 a; } }",
        "optional group x { optional int32 a; optional int32 A; }",
        "optional group x { optional int96 a; }",
        "optional group x (MAP) { repeated group key_value { required binary key (UTF8); } }",
    ] {
        let mut files = Inputs::new();
        let end = if field.ends_with('}') { "" } else { ";" };
        files.schema(&format!("optional int64 time; {field}{end}"));
        let (_, set_aside) = files.groups();
        assert!(matches!(set_aside[0].reason, SetAsideReason::Unsupported(_)), "{field}: {set_aside:?}");
        writeln!(refused, "{}", set_aside[0].reason).unwrap();
    }
    insta::assert_snapshot!(refused);
}

/// DuckDB's delta encoding of 32-bit integers that lie far apart cannot be read by other readers.
#[test]
fn parquet_version_2_is_ruled_out_when_32_bit_integers_lie_too_far_apart() {
    let ints = |a: i64, b: i64, ty: &DataType| {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![a, b]));
        cast(&numbers, ty).unwrap()
    };
    let max = i64::from(i32::MAX);
    for (ty, first, second, safe) in [
        (DataType::Int32, (0, max), (5, 6), true),
        (DataType::Int32, (0, max), (-1, 6), false),
        (DataType::Int32, (1_700_000_000, 1_700_000_001), (0, 1), true),
        (DataType::UInt32, (0, max), (5, 6), true),
        (DataType::UInt32, (0, max + 1), (5, 6), false),
        (DataType::Int16, (-32_768, 32_767), (0, 0), true),
        (DataType::Int64, (0, i64::MAX), (i64::MIN, 0), true),
    ] {
        let mut files = Inputs::new();
        add(&mut files, &[("x", ints(first.0, first.1, &ty))]);
        add(&mut files, &[("x", ints(second.0, second.1, &ty))]);
        assert_eq!(files.groups().0[0].version_2_suits, safe, "{ty} {first:?} {second:?}");
    }
}

/// Arrow C++ cannot decode DuckDB's delta-encoded texts into a dictionary.
#[test]
fn parquet_version_2_is_ruled_out_when_arrow_asks_for_dictionaries() {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    for (ty, readable) in [(dictionary, false), (DataType::Utf8, true)] {
        let mut files = Inputs::new();
        add(&mut files, &[("x", values(&ty))]);
        add(&mut files, &[("x", values(&ty))]);
        assert_eq!(files.groups().0[0].version_2_suits, readable, "{ty}");
    }
}

#[test]
fn columns_that_differ_in_representation_only_share_a_group() {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Int64));
    let mut files = Inputs::new();
    add(&mut files, &[("x", values(&DataType::Int64)), ("y", values(&DataType::LargeUtf8))]);
    add(&mut files, &[("x", values(&dictionary)), ("y", values(&DataType::Utf8))]);
    insta::assert_snapshot!(drawn(&files), @r"
    group (time BIGINT, x BIGINT, y VARCHAR)
      files [0]: f0, f1, f2
      files [1]: f0, f1, f2
    ");
}

#[test]
fn bounds_of_the_time_column_read_as_people_expect() {
    let micros = TimeKind::TimestampMicros { utc: true };
    for (kind, value, expected) in [
        (&micros, 0, "1970-01-01T00:00:00Z"),
        (&micros, 1_759_932_000_000_000, "2025-10-08T14:00:00Z"),
        (&micros, 1_759_932_000_000_001, "2025-10-08T14:00:00.000001Z"),
        (&micros, -1, "1969-12-31T23:59:59.999999Z"),
        (&TimeKind::TimestampNanos, 1, "1970-01-01T00:00:00.000000001Z"),
        (&TimeKind::Date, -1, "1969-12-31"),
    ] {
        assert_eq!(time_bound(kind, value), TimeBound::Text(expected.to_owned()));
    }
    assert_eq!(time_bound(&TimeKind::Integer("BIGINT".to_owned()), 7), TimeBound::Integer(7));
    assert_eq!(time_bound(&micros, i64::MAX), TimeBound::Integer(i64::MAX));
}

/// A nested struct is named in SQL as DuckDB can parse it.
#[test]
fn quotes_in_field_names_are_doubled_in_sql() {
    let mut files = Inputs::new();
    files.schema("optional int64 time; optional group x { optional int32 it's\"5%; }");
    files.schema("optional int64 time; optional group x { optional int32 it's\"5%; }");
    assert_eq!(files.groups().0[0].columns[1].sql_type, "STRUCT(\"it's\"\"5%\" INTEGER)");
}
