use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::Arc;

use duckdb::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use duckdb::arrow::compute::{concat_batches, sort_to_indices, take};
use duckdb::arrow::datatypes::{Field, Schema};
use parquet::basic::{Compression as Codec, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::*;
use crate::merge::fixtures::{Inputs, read, times};
use crate::merge::stats::FileColumnStats;
use crate::merge::{Compression, ParquetVersion, Verify};

fn options(row_group_size: usize) -> MergeOptions {
    MergeOptions {
        compression: Compression::Zstd(3),
        parquet_version: ParquetVersion::V2,
        row_group_size: NonZeroUsize::new(row_group_size).unwrap(),
        target_file_size_bytes: 1 << 30,
        sort_by: vec!["time".to_owned()],
        time_column: "time".to_owned(),
        verify: Verify::Content,
    }
}

/// Merges the rows of `range` of all inputs; the path of the slice.
fn merge_all(inputs: &Inputs, range: Range, options: &MergeOptions) -> Result<(u64, PathBuf), Refusal> {
    let (groups, set_aside) = inputs.groups();
    assert!(set_aside.is_empty(), "{set_aside:?}");
    let [group] = &groups[..] else { panic!("{} groups", groups.len()) };
    assert!(suits(group));
    let mut files = Vec::new();
    for class in &group.classes {
        for file in &class.files {
            let input = &inputs.inputs[file.input];
            files.push((
                file.input,
                SourceFile { path: input.path.clone(), size_bytes: input.size_bytes, projection: &class.projection },
            ));
        }
    }
    let files: Vec<SourceFile<'_>> = files.into_iter().map(|(_, file)| file).collect();
    let out = inputs.path(&format!("slice-{}.parquet", fastrand::u64(..)));
    let limits = Limits { memory_bytes: 1 << 30, cancel: &CancellationToken::new() };
    let rows = merge_slice(group, &files, range, options, &out, &limits)?;
    Ok((rows, out))
}

/// All rows of all inputs, in the order of the time; equal times in the order of files and rows.
fn expected(inputs: &Inputs) -> RecordBatch {
    let batches: Vec<RecordBatch> = inputs.inputs.iter().map(|input| read(&input.path)).collect();
    let all = concat_batches(&batches[0].schema(), &batches).unwrap();
    let time = all.column_by_name("time").unwrap();
    let rows: ArrayRef = Arc::new(Int64Array::from_iter_values(0..i64::try_from(all.num_rows()).unwrap()));
    let mut order: Vec<u32> = sort_to_indices(time, None, None).unwrap().values().to_vec();
    let _ = rows;
    let key = |row: u32| {
        let one = time.slice(row as usize, 1);
        let number = duckdb::arrow::compute::cast(&one, &duckdb::arrow::datatypes::DataType::Int64).unwrap();
        number.as_any().downcast_ref::<Int64Array>().unwrap().value(0)
    };
    order.sort_by_key(|&row| (key(row), row));
    let order = duckdb::arrow::array::UInt32Array::from(order);
    let columns = all.columns().iter().map(|column| take(column, &order, None).unwrap()).collect();
    RecordBatch::try_new(all.schema(), columns).unwrap()
}

/// The values of two batches, whatever their columns are called.
fn assert_same(found: &RecordBatch, wanted: &RecordBatch) {
    assert_eq!(found.num_rows(), wanted.num_rows());
    for (i, field) in wanted.schema().fields().iter().enumerate() {
        let cast = duckdb::arrow::compute::cast(found.column(i), field.data_type()).unwrap();
        // As text, so that NaN equals NaN.
        assert_eq!(format!("{cast:?}"), format!("{:?}", wanted.column(i)), "column {}", field.name());
        assert_eq!(cast.null_count(), wanted.column(i).null_count());
    }
}

/// A column of each type, with and without missing values, with few and with many distinct values.
fn batch(seed: u64, rows: usize, overlap: i64) -> RecordBatch {
    let mut random = fastrand::Rng::with_seed(seed);
    let start = i64::try_from(seed).unwrap() * overlap;
    let time: Vec<i64> = (0..rows).map(|_| start + random.i64(0..1000)).collect();
    let mut maybe = |chance: f64| random.f64() >= chance;
    let some = |seed: u64| fastrand::Rng::with_seed(seed);
    let gaps: Vec<bool> = (0..rows).map(|_| maybe(0.3)).collect();
    let mut r = some(seed + 1);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("time", Arc::new(TimestampMicrosecondArray::from(time))),
        ("host", Arc::new(StringArray::from_iter_values((0..rows).map(|_| format!("server-{}", r.u8(..7)))))),
        ("few", Arc::new(Float64Array::from_iter_values((0..rows).map(|_| f64::from(r.u8(..20)) / 10.0)))),
        ("many", Arc::new(Float64Array::from_iter_values((0..rows).map(|_| r.f64())))),
        (
            "odd",
            Arc::new(Float64Array::from_iter_values((0..rows).map(|i| match i % 5 {
                0 => f64::NAN,
                1 => -0.0,
                2 => 0.0,
                3 => f64::NEG_INFINITY,
                _ => 1.5,
            }))),
        ),
        ("gaps", Arc::new(gaps.iter().map(|&some| some.then(|| i64::from(r.i8(..)))).collect::<Int64Array>())),
        (
            "text_gaps",
            Arc::new(gaps.iter().map(|&some| (!some).then(|| format!("{:x}", r.u64(..)))).collect::<StringArray>()),
        ),
        ("nothing", Arc::new(Int32Array::from(vec![None; rows]))),
        ("flag", Arc::new(gaps.iter().map(|&some| some.then(|| r.bool())).collect::<BooleanArray>())),
        ("small", Arc::new(Int16Array::from_iter_values((0..rows).map(|_| r.i16(..))))),
        ("unsigned", Arc::new(UInt64Array::from_iter_values((0..rows).map(|_| u64::MAX - u64::from(r.u8(..9)))))),
        ("float", Arc::new(Float32Array::from_iter_values((0..rows).map(|_| r.f32())))),
        ("binary", Arc::new(BinaryArray::from_iter_values((0..rows).map(|_| r.u16(..).to_be_bytes())))),
    ];
    let fields = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, array)| array).collect()).unwrap()
}

fn writers() -> Vec<(&'static str, WriterProperties)> {
    let builder = || WriterProperties::builder().set_compression(Codec::SNAPPY);
    vec![
        ("dictionaries", builder().build()),
        ("dictionaries, small pages", builder().set_data_page_row_count_limit(50).set_write_batch_size(50).build()),
        ("dictionaries given up", builder().set_dictionary_page_size_limit(200).set_write_batch_size(30).build()),
        ("plain", builder().set_dictionary_enabled(false).build()),
        ("version 2", builder().set_writer_version(WriterVersion::PARQUET_2_0).build()),
        (
            "version 2, plain",
            builder().set_writer_version(WriterVersion::PARQUET_2_0).set_dictionary_enabled(false).build(),
        ),
        (
            "small row groups, no statistics",
            builder().set_max_row_group_row_count(Some(70)).set_statistics_enabled(EnabledStatistics::None).build(),
        ),
        ("not compressed", WriterProperties::builder().set_compression(Codec::UNCOMPRESSED).build()),
    ]
}

#[test]
fn every_value_of_every_writer_comes_out_bit_by_bit_in_the_order_of_time() {
    for (name, properties) in writers() {
        for overlap in [0, 300, 2000] {
            let mut inputs = Inputs::new();
            for seed in 0..5 {
                inputs.batch(&batch(seed, 211, overlap), properties.clone());
            }
            let (rows, out) =
                merge_all(&inputs, Range::Everything, &options(100)).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert_eq!(rows, 5 * 211);
            assert_same(&read(&out), &expected(&inputs));
        }
    }
}

#[test]
fn what_was_merged_here_can_be_merged_here_again() {
    let mut inputs = Inputs::new();
    for seed in 0..3 {
        inputs.batch(&batch(seed, 400, 100), WriterProperties::builder().build());
    }
    let (_, out) = merge_all(&inputs, Range::Everything, &options(512)).unwrap();
    let wanted = expected(&inputs);
    let mut again = Inputs::new();
    let renamed = RecordBatch::try_new(wanted.schema(), wanted.columns().to_vec()).unwrap();
    drop(out);
    // Through every encoding that the encoder may choose.
    again.batch(
        &renamed,
        WriterProperties::builder().set_dictionary_enabled(false).set_encoding(Encoding::PLAIN).build(),
    );
    again.batch(&batch(9, 10, 0), WriterProperties::builder().build());
    let (rows, out) = merge_all(&again, Range::Everything, &options(300)).unwrap();
    assert_eq!(rows, 1210);
    assert_same(&read(&out), &expected(&again));
}

#[test]
fn a_range_admits_its_rows_and_no_other() {
    let mut inputs = Inputs::new();
    for seed in 0..4 {
        inputs.batch(&batch(seed, 300, 250), WriterProperties::builder().set_max_row_group_row_count(Some(64)).build());
    }
    let whole = expected(&inputs);
    let mut parts = Vec::new();
    for (from, until) in [(None, Some(200)), (Some(200), Some(777)), (Some(777), Some(778)), (Some(778), None)] {
        let (rows, out) = merge_all(&inputs, Range::Between { from, until }, &options(128)).unwrap();
        if rows > 0 {
            parts.push(read(&out));
        }
    }
    assert_same(&concat_batches(&parts[0].schema(), &parts).unwrap(), &whole);
}

#[test]
fn rows_without_a_time_are_merged_only_among_themselves() {
    let mut inputs = Inputs::new();
    for part in 0..2_i64 {
        let time: Int64Array = [Some(part), None, Some(5), None].into_iter().collect();
        inputs.columns(&[("time", Arc::new(time)), ("v", times(10 * part, 4))]);
    }
    let (rows, out) = merge_all(&inputs, Range::Nulls, &options(100)).unwrap();
    assert_eq!(rows, 4);
    assert_eq!(format!("{:?}", read(&out).column(1)), format!("{:?}", Int64Array::from(vec![1, 3, 11, 13])));
    let (rows, _) = merge_all(&inputs, Range::Between { from: None, until: None }, &options(100)).unwrap();
    assert_eq!(rows, 4);
    assert!(matches!(merge_all(&inputs, Range::Everything, &options(100)), Err(Refusal::Unsuited(_))));
}

#[test]
fn a_column_that_some_files_do_not_have_is_missing_in_their_rows() {
    let mut inputs = Inputs::new();
    inputs.columns(&[("time", times(0, 3))]);
    inputs.columns(&[("time", times(3, 2)), ("late", times(70, 2))]);
    inputs.columns(&[("time", times(5, 1))]);
    let (_, out) = merge_all(&inputs, Range::Everything, &options(4)).unwrap();
    let late: Int64Array = [None, None, None, Some(70), Some(71), None].into_iter().collect();
    let found = read(&out);
    // Files of one schema follow each other; the time puts them in order.
    assert_eq!(format!("{:?}", found.column(1)), format!("{late:?}"));
}

#[test]
fn statistics_are_those_of_the_values_in_each_row_group() {
    let mut inputs = Inputs::new();
    for seed in 0..4 {
        inputs.batch(&batch(seed, 211, 300), WriterProperties::builder().build());
    }
    let (_, out) = merge_all(&inputs, Range::Everything, &options(100)).unwrap();
    let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
    let (groups, _) = inputs.groups();
    for (leaf, column) in groups[0].columns.iter().enumerate() {
        for row_group in reader.metadata().row_groups() {
            let stats = FileColumnStats::of(std::slice::from_ref(row_group), leaf, &column.ty);
            assert!(stats.nulls.is_some(), "{}", column.name);
            let known = stats.min.is_some() && stats.max.is_some();
            assert_eq!(known, !["odd", "nothing"].contains(&column.name.as_str()), "{}", column.name);
        }
        let before = groups[0].files().map(|f| &f.columns[leaf]).filter_map(|s| s.min.clone());
        let before = before.reduce(|a, b| if b < a { b } else { a });
        let after = FileColumnStats::of(reader.metadata().row_groups(), leaf, &column.ty);
        if let (Some(before), Some(after)) = (before, after.min) {
            assert_eq!(before, after, "{}", column.name);
        }
    }
}

#[test]
fn a_file_that_contradicts_itself_is_damaged() {
    let mut inputs = Inputs::new();
    for seed in 0..2 {
        inputs.batch(&batch(seed, 500, 0), WriterProperties::builder().set_compression(Codec::SNAPPY).build());
    }
    let sound = std::fs::read(&inputs.inputs[1].path).unwrap();
    let mut refused = 0;
    for at in (4..sound.len() - 3000).step_by(97) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x5a;
        std::fs::write(&inputs.inputs[1].path, bytes).unwrap();
        if !inputs.groups().1.is_empty() {
            continue; // The headers of the pages say enough.
        }
        // A flipped byte may leave a file that can be read. It must not take the process down, nor be a failure of ours.
        match merge_all(&inputs, Range::Everything, &options(100)) {
            Err(Refusal::Damaged(_) | Refusal::DamagedFile(..)) => refused += 1,
            Err(Refusal::Unsuited(why)) => panic!("{why}"),
            Ok((rows, _)) => assert_eq!(rows, 1000),
            Err(Refusal::Failed(error)) => panic!("{error}"),
        }
    }
    assert!(refused > 10, "{refused}");
}

/// Readers skip row groups by their range; a range that leaves NaN out would hide it from `x > 5`, where DuckDB counts NaN.
#[test]
fn a_range_is_not_stated_where_there_is_a_nan() {
    let mut inputs = Inputs::new();
    for part in 0..2_u8 {
        let values = (0..40_000).map(|i| if i == 7 { f64::NAN } else { f64::from(i) + f64::from(part) / 3.0 });
        let values: ArrayRef = Arc::new(Float64Array::from_iter_values(values));
        inputs.columns(&[("time", times(i64::from(part) * 40_000, 40_000)), ("x", values)]);
    }
    let (_, out) = merge_all(&inputs, Range::Everything, &options(122_880)).unwrap();
    let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
    let statistics = reader.metadata().row_group(0).column(1).statistics().unwrap();
    assert_eq!((statistics.min_bytes_opt(), statistics.max_bytes_opt()), (None, None));
    assert_eq!(statistics.null_count_opt(), Some(0));
}

#[test]
fn text_that_is_not_utf_8_is_damage_and_long_text_has_no_bounds() {
    let mut inputs = Inputs::new();
    let long = "x".repeat(10_000);
    for part in 0..2_i64 {
        let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..50).map(|i| format!("{part}{i}{long}"))));
        inputs.columns(&[("time", times(part * 50, 50)), ("text", text)]);
    }
    let (_, out) = merge_all(&inputs, Range::Everything, &options(100)).unwrap();
    let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
    let statistics = reader.metadata().row_group(0).column(1).statistics().unwrap();
    assert_eq!((statistics.min_bytes_opt(), statistics.max_bytes_opt()), (None, None));

    let bytes = std::fs::read(&inputs.inputs[1].path).unwrap();
    let at = bytes.windows(8).position(|w| w == b"xxxxxxxx").unwrap();
    let mut bytes = bytes;
    bytes[at] = 0xff;
    std::fs::write(&inputs.inputs[1].path, bytes).unwrap();
    let refusal = merge_all(&inputs, Range::Everything, &options(100)).unwrap_err();
    assert!(matches!(&refusal, Refusal::DamagedFile(_, why) if why.contains("UTF-8")), "{refusal:?}");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let mut inputs = Inputs::new();
    for seed in 0..3 {
        inputs.batch(&batch(seed, 300, 10), WriterProperties::builder().build());
    }
    let bytes = |_| std::fs::read(merge_all(&inputs, Range::Everything, &options(100)).unwrap().1).unwrap();
    assert_eq!(bytes(1), bytes(2));
}

mod bounds;
mod odd_files;
mod property;
