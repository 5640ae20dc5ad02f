//! What a column chunk says about its values: their range, how many are missing, and which may be among them.
//!
//! What must hold: readers skip what these say cannot be there, so a doubtful range is not stated.

use parquet::basic::{SortOrder, Type as Physical};
use parquet::bloom_filter::Sbbf;
use parquet::data_type::ByteArray;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescriptor;

use super::Refusal;
use super::values::Plain;

/// Bounds longer than this are left out of the statistics.
const MAX_BOUND_BYTES: usize = 256;

/// Wrong answers of a bloom filter, as a fraction of those that should be "no".
const BLOOM_FALSE_POSITIVES: f64 = 0.01;

/// Range and nulls of a chunk whose values are exactly `entries`. `None` where the order of the type is not plain.
pub(super) fn statistics(descriptor: &ColumnDescriptor, entries: &Plain, nulls: u64) -> Option<Statistics> {
    let nulls = Some(nulls);
    #[allow(clippy::cast_possible_wrap, reason = "the same bits")]
    match (descriptor.physical_type(), descriptor.sort_order(), entries) {
        (Physical::INT32, SortOrder::SIGNED, Plain::Word4(v)) => {
            let (min, max) = bounds(v.iter().map(|&v| v as i32));
            Some(Statistics::Int32(ValueStatistics::new(min, max, None, nulls, false)))
        }
        (Physical::INT32, SortOrder::UNSIGNED, Plain::Word4(v)) => {
            let (min, max) = bounds(v.iter().copied());
            Some(Statistics::Int32(ValueStatistics::new(
                min.map(|v| v as i32),
                max.map(|v| v as i32),
                None,
                nulls,
                false,
            )))
        }
        (Physical::INT64, SortOrder::SIGNED, Plain::Word8(v)) => {
            let (min, max) = bounds(v.iter().map(|&v| v as i64));
            Some(Statistics::Int64(ValueStatistics::new(min, max, None, nulls, false)))
        }
        (Physical::INT64, SortOrder::UNSIGNED, Plain::Word8(v)) => {
            let (min, max) = bounds(v.iter().copied());
            Some(Statistics::Int64(ValueStatistics::new(
                min.map(|v| v as i64),
                max.map(|v| v as i64),
                None,
                nulls,
                false,
            )))
        }
        (Physical::FLOAT, _, Plain::Word4(v)) => {
            let (min, max) = float_bounds(v.iter().map(|&v| f64::from(f32::from_bits(v))));
            #[allow(clippy::cast_possible_truncation, reason = "it was a float")]
            let narrow = |v: f64| v as f32;
            Some(Statistics::Float(ValueStatistics::new(min.map(narrow), max.map(narrow), None, nulls, false)))
        }
        (Physical::DOUBLE, _, Plain::Word8(v)) => {
            let (min, max) = float_bounds(v.iter().map(|&v| f64::from_bits(v)));
            Some(Statistics::Double(ValueStatistics::new(min, max, None, nulls, false)))
        }
        (Physical::BYTE_ARRAY, SortOrder::UNSIGNED, Plain::Bytes(v)) => {
            let (min, max) = bounds((0..v.len()).map(|at| v.get(at)));
            let short = |bound: Option<&[u8]>| bound.filter(|b| b.len() <= MAX_BOUND_BYTES).map(|b| b.to_vec().into());
            Some(Statistics::ByteArray(ValueStatistics::new(short(min), short(max), None, nulls, false)))
        }
        _ => None,
    }
}

fn bounds<T: Ord + Copy>(values: impl Iterator<Item = T> + Clone) -> (Option<T>, Option<T>) {
    (values.clone().min(), values.max())
}

/// Unknown where there is a NaN: readers must not take a range for true that leaves it out. A bound of zero covers both zeros.
fn float_bounds(values: impl Iterator<Item = f64> + Clone) -> (Option<f64>, Option<f64>) {
    if values.clone().any(f64::is_nan) {
        return (None, None);
    }
    let min = values.clone().reduce(f64::min).map(|min| if min == 0.0 { -0.0 } else { min });
    let max = values.reduce(f64::max).map(|max| if max == 0.0 { 0.0 } else { max });
    (min, max)
}

/// The writer of the `parquet` crate leaves NaN out of a range, by which readers would skip rows that they should find; and it
/// repeats values of any length.
pub(super) fn with_honest_bounds(metadata: ColumnChunkMetaData, has_nan: bool) -> Result<ColumnChunkMetaData, Refusal> {
    let Some(statistics) = metadata.statistics() else { return Ok(metadata) };
    let nulls = statistics.null_count_opt();
    let honest = match statistics {
        Statistics::Float(_) if has_nan => Statistics::Float(ValueStatistics::new(None, None, None, nulls, false)),
        Statistics::Double(_) if has_nan => Statistics::Double(ValueStatistics::new(None, None, None, nulls, false)),
        Statistics::ByteArray(stats) => {
            let short = |bound: Option<&ByteArray>| bound.filter(|b| b.len() <= MAX_BOUND_BYTES).cloned();
            let (min, max) = (short(stats.min_opt()), short(stats.max_opt()));
            Statistics::ByteArray(ValueStatistics::new(min, max, None, nulls, false))
        }
        _ => return Ok(metadata),
    };
    Ok(metadata.into_builder().set_statistics(honest).build()?)
}

/// For columns that are asked for single values; nobody looks for one measured number.
pub(super) fn bloom_filter(descriptor: &ColumnDescriptor, entries: &Plain) -> Result<Option<Sbbf>, Refusal> {
    if matches!(descriptor.physical_type(), Physical::FLOAT | Physical::DOUBLE) {
        return Ok(None);
    }
    let mut filter = Sbbf::new_with_ndv_fpp(entries.len() as u64, BLOOM_FALSE_POSITIVES)?;
    match entries {
        Plain::Word4(values) => values.iter().for_each(|value| filter.insert(&value.to_le_bytes()[..])),
        Plain::Word8(values) => values.iter().for_each(|value| filter.insert(&value.to_le_bytes()[..])),
        Plain::Bytes(values) => (0..values.len()).for_each(|at| filter.insert(values.get(at))),
        Plain::Bool(_) | Plain::Fixed { .. } => return Ok(None),
    }
    Ok(Some(filter))
}
