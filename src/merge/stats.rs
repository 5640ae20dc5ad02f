//! What a footer says about the values of a column, in a form that can be compared across files.
//!
//! Values are put into the unit and scale of their [`ColumnType`] (milliseconds become microseconds), so that the ranges
//! of two files with one type can be joined, and after [`FileColumnStats::widen`] those of files with different types.
//!
//! A footer may lie, and some writers got statistics wrong. What is not known for certain is `None`: a truncated text, a
//! range that involves NaN, the old fields of unsigned and text columns, which were ordered by signed bytes.

use std::cmp::Ordering;

use parquet::basic::{LogicalType, TimeUnit};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;

use super::column_type::{ColumnType, annotation};

/// Range and number of nulls of one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnStats<T> {
    /// The smallest value that is not null. `None` when unknown, or when there is none.
    pub(super) min: Option<T>,
    pub(super) max: Option<T>,
    pub(super) nulls: Option<u64>,
}

/// Range and number of nulls of one column of one file. Nested columns have none.
pub(super) type FileColumnStats = ColumnStats<StatValue>;

/// A bound of a column's range.
#[derive(Debug, Clone)]
pub(super) enum StatValue {
    Bool(bool),
    /// Integers, dates, times and timestamps in their unit, decimals without their point.
    Integer(i128),
    /// Never NaN.
    Double(f64),
    Bytes(Box<[u8]>),
}

impl PartialEq for StatValue {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

/// The order of the values; values of different kinds have none. Negative and positive zero are equal.
impl PartialOrd for StatValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.partial_cmp(b),
            (Self::Integer(a), Self::Integer(b)) => a.partial_cmp(b),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.partial_cmp(b),
            _ => None,
        }
    }
}

impl StatValue {
    pub(super) fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The same value as a value of the wider type `to`. `None` when it does not fit there.
    fn widen(&self, from: &ColumnType, to: &ColumnType) -> Option<Self> {
        match (self, from, to) {
            #[allow(clippy::cast_precision_loss, reason = "only integers of up to 32 bits are joined with doubles")]
            (Self::Integer(v), ColumnType::Integer { .. }, ColumnType::Double) => Some(Self::Double(*v as f64)),
            (Self::Integer(v), ColumnType::Decimal { scale: a, .. }, ColumnType::Decimal { scale: b, .. }) => {
                let shift = 10i128.checked_pow(u32::from(b.checked_sub(*a)?))?;
                v.checked_mul(shift).map(Self::Integer)
            }
            (Self::Integer(v), ColumnType::TimestampMicros { .. }, ColumnType::TimestampNanos) => {
                v.checked_mul(1000).map(Self::Integer)
            }
            _ => Some(self.clone()),
        }
    }
}

/// Nothing is known.
impl<T> Default for ColumnStats<T> {
    fn default() -> Self {
        Self { min: None, max: None, nulls: None }
    }
}

impl<T: PartialOrd> ColumnStats<T> {
    /// The statistics of both parts together. `a_empty` and `b_empty` say that a part has no values, so that its missing
    /// range is no gap.
    fn join(a: Self, a_empty: bool, b: Self, b_empty: bool) -> Self {
        let pick = |a: Option<T>, b: Option<T>, keep: Ordering| match (a, b) {
            (Some(a), Some(b)) => match a.partial_cmp(&b) {
                None => None,
                Some(order) if order == keep || order == Ordering::Equal => Some(a),
                Some(_) => Some(b),
            },
            (a, None) if b_empty => a,
            (None, b) if a_empty => b,
            _ => None,
        };
        Self {
            min: pick(a.min, b.min, Ordering::Less),
            max: pick(a.max, b.max, Ordering::Greater),
            nulls: a.nulls.zip(b.nulls).and_then(|(a, b)| a.checked_add(b)),
        }
    }
}

impl FileColumnStats {
    /// A column of `rows` nulls.
    pub(super) fn all_null(rows: u64) -> Self {
        Self { min: None, max: None, nulls: Some(rows) }
    }

    /// The statistics of the top-level column of type `ty` whose values are in leaf `leaf` of every row group.
    pub(super) fn of(row_groups: &[RowGroupMetaData], leaf: usize, ty: &ColumnType) -> Self {
        let mut joined = Self { min: None, max: None, nulls: Some(0) };
        let mut empty = true;
        for row_group in row_groups {
            let Some(chunk) = row_group.columns().get(leaf) else { return Self::default() };
            let stats = Self::of_chunk(chunk, ty);
            let chunk_empty = stats.nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(chunk.num_values()));
            joined = Self::join(joined, empty, stats, chunk_empty);
            empty &= chunk_empty;
        }
        joined
    }

    fn of_chunk(chunk: &ColumnChunkMetaData, ty: &ColumnType) -> Self {
        let Some(stats) = chunk.statistics() else {
            // A chunk without values has nothing to say.
            return if chunk.num_values() == 0 { Self::all_null(0) } else { Self::default() };
        };
        let nulls = stats.null_count_opt();
        let (min, max) = range(stats, chunk, ty);
        // A range that is upside down proves that the writer is not to be trusted.
        if let (Some(min), Some(max)) = (&min, &max)
            && !matches!(min.partial_cmp(max), Some(Ordering::Less | Ordering::Equal))
        {
            return Self { min: None, max: None, nulls };
        }
        Self { min, max, nulls }
    }

    /// The statistics of a column of type `from` after it was cast to `to`.
    pub(super) fn widen(&self, from: &ColumnType, to: &ColumnType) -> Self {
        Self {
            min: self.min.as_ref().and_then(|v| v.widen(from, to)),
            max: self.max.as_ref().and_then(|v| v.widen(from, to)),
            nulls: self.nulls,
        }
    }

    /// The same for a column whose values are 64-bit integers.
    pub(super) fn as_i64(&self) -> ColumnStats<i64> {
        ColumnStats {
            min: self.min.as_ref().and_then(StatValue::as_i64),
            max: self.max.as_ref().and_then(StatValue::as_i64),
            nulls: self.nulls,
        }
    }
}

fn range(stats: &Statistics, chunk: &ColumnChunkMetaData, ty: &ColumnType) -> (Option<StatValue>, Option<StatValue>) {
    let signed = match ty {
        ColumnType::Text(_) | ColumnType::Binary | ColumnType::Uuid => false,
        ColumnType::Integer { signed, .. } => *signed,
        ColumnType::Decimal { .. } => matches!(stats, Statistics::Int32(_) | Statistics::Int64(_)),
        _ => true,
    };
    if stats.is_min_max_deprecated() && !signed {
        return (None, None);
    }
    let scale = match annotation(chunk.column_descr().self_type().get_basic_info()) {
        Some(
            LogicalType::Timestamp { unit: TimeUnit::MILLIS, .. } | LogicalType::Time { unit: TimeUnit::MILLIS, .. },
        ) => 1000,
        _ => 1,
    };
    let double = |v: f64| (!v.is_nan()).then_some(StatValue::Double(v));
    let bytes = |v: &[u8], exact: bool| match ty {
        ColumnType::Decimal { .. } => signed_big_endian(v).map(StatValue::Integer),
        _ => exact.then(|| StatValue::Bytes(v.into())),
    };
    match stats {
        Statistics::Boolean(s) => (s.min_opt().map(|v| StatValue::Bool(*v)), s.max_opt().map(|v| StatValue::Bool(*v))),
        Statistics::Int32(s) => {
            let value = |v: &i32| {
                let v = if signed { i128::from(*v) } else { i128::from(v.cast_unsigned()) };
                StatValue::Integer(v * scale)
            };
            (s.min_opt().map(value), s.max_opt().map(value))
        }
        Statistics::Int64(s) => {
            let value = |v: &i64| {
                let v = if signed { i128::from(*v) } else { i128::from(v.cast_unsigned()) };
                StatValue::Integer(v * scale)
            };
            (s.min_opt().map(value), s.max_opt().map(value))
        }
        Statistics::Float(s) => {
            let value = |v: &f32| double(f64::from(*v));
            (s.min_opt().and_then(value), s.max_opt().and_then(value))
        }
        Statistics::Double(s) => (s.min_opt().and_then(|v| double(*v)), s.max_opt().and_then(|v| double(*v))),
        Statistics::ByteArray(s) => (
            s.min_opt().and_then(|v| bytes(v.data(), s.min_is_exact())),
            s.max_opt().and_then(|v| bytes(v.data(), s.max_is_exact())),
        ),
        Statistics::FixedLenByteArray(s) => {
            (s.min_opt().and_then(|v| bytes(v.data(), true)), s.max_opt().and_then(|v| bytes(v.data(), true)))
        }
        Statistics::Int96(_) => (None, None),
    }
}

fn signed_big_endian(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    if bytes.len() > 16 {
        return None;
    }
    let fill = if first & 0x80 == 0 { 0 } else { 0xff };
    let mut wide = [fill; 16];
    wide[16 - bytes.len()..].copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}
