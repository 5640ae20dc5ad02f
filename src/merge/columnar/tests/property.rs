//! Random files, merged here and by DuckDB. `PROPTEST_CASES` says how many; without it, as many as take a few seconds.

use duckdb::arrow::array::new_null_array;
use duckdb::arrow::compute::cast;
use duckdb::arrow::datatypes::DataType;
use parquet::basic::{GzipLevel, ZstdLevel};
use proptest::prelude::*;

use super::*;

const CASES: u32 = 12;

#[derive(Debug, Clone)]
struct Column {
    kind: u8,
    /// How many distinct values there are, as a power of two.
    distinct: u8,
    nulls: Nulls,
}

#[derive(Debug, Clone, Copy)]
enum Nulls {
    Never,
    Always,
    Sometimes,
    AtTheStart,
    InRuns,
}

#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "choices that do not depend on each other")]
struct Writer {
    rows: usize,
    version_2: bool,
    dictionary: bool,
    dictionary_limit: usize,
    /// Which of the encodings that its type has, without a dictionary.
    encoding: usize,
    page_rows: usize,
    row_group_rows: usize,
    codec: usize,
    statistics: bool,
    /// Times begin there and advance by this much.
    start: i64,
    step: i64,
    shuffled: bool,
    /// Of the columns, those that the file has not.
    without: u8,
}

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    columns: Vec<Column>,
    writers: Vec<Writer>,
    /// Whether some rows have no time.
    timeless: bool,
    row_group_rows: usize,
    version_2: bool,
    cuts: Vec<i64>,
}

fn nulls() -> impl Strategy<Value = Nulls> {
    prop_oneof![
        3 => Just(Nulls::Never),
        1 => Just(Nulls::Always),
        2 => Just(Nulls::Sometimes),
        1 => Just(Nulls::AtTheStart),
        1 => Just(Nulls::InRuns)
    ]
}

fn writer() -> impl Strategy<Value = Writer> {
    let shape = (any::<bool>(), any::<bool>(), 8_usize..3000, 0_usize..4, 1_usize..200, 1_usize..300);
    let times = (0_i64..800, 0_i64..4, any::<bool>());
    (0_usize..300, shape, 0_usize..5, any::<bool>(), times, prop_oneof![3 => Just(0), 1 => any::<u8>()]).prop_map(
        |(rows, shape, codec, statistics, (start, step, shuffled), without)| {
            let (version_2, dictionary, dictionary_limit, encoding, page_rows, row_group_rows) = shape;
            Writer {
                rows,
                version_2,
                dictionary,
                dictionary_limit,
                encoding,
                page_rows,
                row_group_rows,
                codec,
                statistics,
                start,
                step,
                shuffled,
                without,
            }
        },
    )
}

prop_compose! {
    fn case()(
        seed in any::<u64>(),
        columns in prop::collection::vec(
            (0_u8..12, 0_u8..12, nulls()).prop_map(|(kind, distinct, nulls)| Column { kind, distinct, nulls }), 1..5),
        writers in prop::collection::vec(writer(), 1..6),
        timeless in prop::bool::weighted(0.2),
        row_group_rows in 1_usize..700,
        version_2 in any::<bool>(),
        cuts in prop::collection::vec(-10_i64..1200, 0..3),
    ) -> Case {
        Case { seed, columns, writers, timeless, row_group_rows, version_2, cuts }
    }
}

fn array(column: &Column, rows: usize, random: &mut fastrand::Rng) -> ArrayRef {
    let mut values: Vec<Option<u64>> = Vec::with_capacity(rows);
    for row in 0..rows {
        let missing = match column.nulls {
            Nulls::Never => false,
            Nulls::Always => true,
            Nulls::Sometimes => random.u8(..4) == 0,
            Nulls::AtTheStart => row < rows / 2,
            Nulls::InRuns => row / 40 % 2 == 0,
        };
        let value = random.u64(..1 << column.distinct).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        values.push((!missing).then_some(value));
    }
    let bytes = |v: u64| v.to_be_bytes()[..usize::try_from(v % 8).unwrap()].to_vec();
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "any bits will do")]
    match column.kind {
        0 => Arc::new(values.iter().map(|v| v.map(|v| v as i64)).collect::<Int64Array>()),
        1 => Arc::new(values.iter().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
        2 => Arc::new(values.iter().map(|v| v.map(|v| v as i16)).collect::<Int16Array>()),
        3 => Arc::new(values.iter().copied().collect::<UInt64Array>()),
        // Every bit pattern, so also every NaN.
        4 => Arc::new(values.iter().map(|v| v.map(f64::from_bits)).collect::<Float64Array>()),
        5 => Arc::new(values.iter().map(|v| v.map(|v| f32::from_bits(v as u32))).collect::<Float32Array>()),
        6 => Arc::new(values.iter().map(|v| v.map(|v| v % 2 == 0)).collect::<BooleanArray>()),
        7 => Arc::new(values.iter().map(|v| v.map(|v| format!("{v:x}é"))).collect::<StringArray>()),
        8 => Arc::new(values.iter().map(|v| v.map(bytes)).collect::<BinaryArray>()),
        9 => Arc::new(values.iter().map(|v| v.map(|v| v as i64)).collect::<TimestampMicrosecondArray>()),
        10 => {
            Arc::new(values.iter().map(|v| v.map(|v| f64::from((v % 8) as u32 * 25) / 4.0)).collect::<Float64Array>())
        }
        _ => Arc::new(values.iter().map(|v| v.map(|v| "x".repeat((v % 400) as usize))).collect::<StringArray>()),
    }
}

/// Encodings that the `parquet` crate writes for a type, besides dictionaries.
fn encodings(ty: &DataType) -> &'static [Encoding] {
    use Encoding::{BYTE_STREAM_SPLIT, DELTA_BINARY_PACKED, DELTA_BYTE_ARRAY, DELTA_LENGTH_BYTE_ARRAY, PLAIN, RLE};
    match ty {
        DataType::Boolean => &[PLAIN, RLE],
        DataType::Float32 | DataType::Float64 => &[PLAIN, BYTE_STREAM_SPLIT],
        DataType::Utf8 | DataType::Binary => &[PLAIN, DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY],
        // DuckDB reads split streams of bytes only where they are floating-point numbers.
        _ => &[PLAIN, DELTA_BINARY_PACKED],
    }
}

fn write(inputs: &mut Inputs, case: &Case, writer: &Writer, random: &mut fastrand::Rng) {
    let mut times: Vec<i64> =
        (0..i64::try_from(writer.rows).unwrap()).map(|i| writer.start + i * writer.step).collect();
    if writer.shuffled {
        random.shuffle(&mut times);
    }
    let time = times.into_iter().map(|t| (!case.timeless || random.u8(..9) > 0).then_some(t));
    let mut columns: Vec<(String, ArrayRef)> =
        vec![("time".to_owned(), Arc::new(time.collect::<TimestampMicrosecondArray>()))];
    for (i, column) in case.columns.iter().enumerate() {
        let array = array(column, writer.rows, random);
        if writer.without >> i & 1 == 0 {
            columns.push((format!("c{i}"), array));
        }
    }
    let codecs = [
        Codec::UNCOMPRESSED,
        Codec::SNAPPY,
        Codec::LZ4_RAW,
        Codec::ZSTD(ZstdLevel::default()),
        Codec::GZIP(GzipLevel::default()),
    ];
    let version = if writer.version_2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
    let statistics = if writer.statistics { EnabledStatistics::Page } else { EnabledStatistics::None };
    let mut properties = WriterProperties::builder()
        .set_writer_version(version)
        .set_compression(codecs[writer.codec])
        .set_dictionary_enabled(writer.dictionary)
        .set_dictionary_page_size_limit(writer.dictionary_limit)
        .set_write_batch_size(writer.page_rows)
        .set_data_page_row_count_limit(writer.page_rows)
        .set_max_row_group_row_count(Some(writer.row_group_rows))
        .set_statistics_enabled(statistics);
    for (name, array) in &columns {
        let choice = encodings(array.data_type());
        properties = properties.set_column_encoding(name.as_str().into(), choice[writer.encoding % choice.len()]);
    }
    let fields = columns.iter().map(|(name, array)| Field::new(name, array.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    inputs.batch(&RecordBatch::try_new(schema, arrays).unwrap(), properties.build());
}

/// All rows in the order of the time, rows of equal time in the order of classes, files and rows; those without a time last.
fn in_order(inputs: &Inputs, group: &SchemaGroup) -> Vec<ArrayRef> {
    let mut batches = Vec::new();
    for class in &group.classes {
        for file in &class.files {
            batches.push(read(&inputs.inputs[file.input].path));
        }
    }
    let of = |name: &str| -> ArrayRef {
        let ty = batches.iter().find_map(|b| b.column_by_name(name)).unwrap().data_type().clone();
        let parts: Vec<ArrayRef> = batches
            .iter()
            .map(|b| b.column_by_name(name).map_or_else(|| new_null_array(&ty, b.num_rows()), Arc::clone))
            .collect();
        duckdb::arrow::compute::concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap()
    };
    let time = cast(&of("time"), &DataType::Int64).unwrap();
    let time = time.as_any().downcast_ref::<Int64Array>().unwrap();
    let mut order: Vec<u32> = (0..u32::try_from(time.len()).unwrap()).collect();
    order.sort_by_key(|&row| {
        (time.is_null(row as usize), time.value(row as usize) * i64::from(time.is_valid(row as usize)), row)
    });
    let order = duckdb::arrow::array::UInt32Array::from(order);
    group.columns.iter().map(|column| take(&of(&column.name), &order, None).unwrap()).collect()
}

/// Counts the rows that one of two queries gives more often than the other.
fn differing(a: &str, b: &str) -> u64 {
    let connection = duckdb::Connection::open_in_memory().unwrap();
    let sql = format!("SELECT count(*) FROM (({a} EXCEPT ALL {b}) UNION ALL ({b} EXCEPT ALL {a}))");
    connection.query_row(&sql, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

fn check(case: &Case) {
    let mut random = fastrand::Rng::with_seed(case.seed);
    let mut inputs = Inputs::new();
    for writer in &case.writers {
        write(&mut inputs, case, writer, &mut random);
    }
    let (groups, set_aside) = inputs.groups();
    assert!(set_aside.len() <= 1, "{set_aside:?}");
    let [group] = &groups[..] else { return };
    let mut cuts: Vec<Option<i64>> = case.cuts.iter().copied().map(Some).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let bounds: Vec<Option<i64>> = [None].into_iter().chain(cuts).chain([None]).collect();
    let mut ranges: Vec<Range> =
        bounds.windows(2).map(|b| Range::Between { from: b[0], until: b[1] }).chain([Range::Nulls]).collect();
    if case.cuts.is_empty() && !case.timeless {
        ranges = vec![Range::Everything];
    }
    let mut options = options(case.row_group_rows);
    options.parquet_version = if case.version_2 { ParquetVersion::V2 } else { ParquetVersion::V1 };
    let (mut slices, mut paths, mut rows) = (Vec::new(), Vec::new(), 0);
    for range in ranges {
        let (count, out) = merge_all(&inputs, range, &options).unwrap_or_else(|e| panic!("{e:?}"));
        rows += count;
        if count > 0 {
            slices.push(read(&out));
            paths.push(format!("'{}'", out.display()));
        }
    }
    let wanted = in_order(&inputs, group);
    assert_eq!(rows, wanted[0].len() as u64);
    if slices.is_empty() {
        return;
    }
    let found = concat_batches(&slices[0].schema(), &slices).unwrap();
    for (i, wanted) in wanted.iter().enumerate() {
        let found = cast(found.column(i), wanted.data_type()).unwrap();
        assert_eq!(found.to_data(), wanted.to_data(), "column {}", group.columns[i].name);
    }
    let merged = format!("SELECT * FROM read_parquet([{}])", paths.join(", "));
    let before = format!("SELECT * FROM ({})", inputs.select(group));
    assert_eq!(differing(&merged, &before), 0, "by DuckDB's account");
}

#[test]
fn whatever_is_written_comes_out_bit_by_bit_and_as_duckdb_reads_it() {
    // The default is the number that the environment gives, or this.
    let untold = 256;
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let cases = if config.cases == untold { CASES } else { config.cases };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..config });
    runner
        .run(&case(), |case| {
            check(&case);
            Ok(())
        })
        .unwrap();
}
